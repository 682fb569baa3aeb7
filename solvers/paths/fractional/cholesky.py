"""Gaussian values at any increasing times, by the Cholesky factor of the covariance of their increments.

Increments are nearly uncorrelated where values are nearly equal, so their correlation matrix has a factor where the matrix of
values, to rounding, has none. A row of the factor depends on earlier times only: more times behind the last change no value.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ...core.times import refuse_live
from ...errors import InvalidProblemError
from .covariance import covariance, crossed_covariance, increments_covariance
from .normals import blocks, normals

LIMIT = 8192
"""How many times there may be where the method was not asked for by name: above, half a gigabyte for each matrix."""


def cholesky_path(keys: Tensor, ts: Tensor, hurst: Tensor, kind: str, scale: Tensor) -> Iterator[Tensor]:
    """Blocks of values at increasing positive times, one row for each key, times ``scale``.

    Takes O(T**3) time once and O(T**2) for each key, and memory for four ``(T, T)`` matrices in float64.
    """
    factor, deviation = _factor(increments_covariance(ts, hurst, kind), ts)
    for some in blocks(keys, 4 * len(ts)):
        yield ((normals(some, len(ts)) @ factor.T) * (scale * deviation)).cumsum(-1)


def cholesky_with_brownian(keys: Tensor, ts: Tensor, hurst: Tensor, scale: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Blocks of type II, times ``scale``, and of the motion that drives it; the former's values are :func:`cholesky_path`'s.

    The motion is its mean given the values, and what is left. Of that the covariance is singular where H is 1/2, and its
    square root has no derivative there.
    """
    refuse_live(hurst, "hurst", "the square root of the covariance of both has no derivative in it")
    count = len(ts)
    all_times = torch.cat([ts.new_zeros(1), ts])
    crossed = crossed_covariance(all_times.unsqueeze(1), all_times, hurst).diff(dim=0).diff(dim=1)
    factor, deviation = _factor(increments_covariance(ts, hurst, "II"), ts)
    # With L L' the correlations of the increments: the mean of the motion's is (inv(L) crossed)' z.
    mean = torch.linalg.solve_triangular(factor, crossed / deviation.unsqueeze(-1), upper=False)
    values, vectors = torch.linalg.eigh(torch.diag(all_times.diff()) - mean.T @ mean)
    rest = vectors * values.clamp(min=0.0).sqrt()
    for some in blocks(keys, 8 * count):
        z = normals(some, count)
        motion = z @ mean + normals(some, count, 1) @ rest.T
        yield ((z @ factor.T) * (scale * deviation)).cumsum(-1), motion.cumsum(-1)


def conditioned(values: Tensor, ts: Tensor, at: Tensor, given: Tensor, hurst: Tensor, kind: str) -> Tensor:
    """Values that are free, at ``ts``, moved to the law given values at some of these times (Matheron's rule).

    Args:
        values: ``(n, T)``.
        ts: their times, ``(T,)``.
        at: the indices of the times of the given values, increasing, ``(m,)``.
        given: ``(n, m)``.
        hurst: the Hurst index.
        kind: the type.
    """
    times = ts[at]
    factor, deviation = _factor(increments_covariance(times, hurst, kind), times)
    missing = torch.diff(given - values[:, at], dim=-1, prepend=values.new_zeros(len(values), 1)) / deviation
    solved = torch.cholesky_solve(missing.T, factor) / deviation.unsqueeze(-1)
    before = torch.cat([times.new_zeros(1), times])
    crossed = covariance(ts.unsqueeze(1), before, hurst, kind).diff(dim=1)
    moved = values + (crossed @ solved).T
    return moved.index_copy(-1, at, given.expand(len(values), -1))


def _factor(matrix: Tensor, ts: Tensor) -> tuple[Tensor, Tensor]:
    """The Cholesky factor of the correlations, and the standard deviations."""
    variance = matrix.diagonal()
    scale = torch.where(variance > 0, variance, torch.nan).rsqrt()
    factor, info = torch.linalg.cholesky_ex(scale.unsqueeze(1) * matrix * scale)
    if int(info) or not bool(factor.detach().isfinite().all()):
        gap = ts.diff(prepend=ts.new_zeros(1)).min().item()
        raise InvalidProblemError(
            f"ts: got {len(ts)} times, the closest {gap:.3g} apart, whose covariance has no Cholesky factor in float64; "
            "expected times that are further apart"
        )
    return factor, 1.0 / scale
