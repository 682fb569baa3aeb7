r"""How an interval's Ornstein-Uhlenbeck integrals are made of those of its halves, level by level of a dyadic tree.

On an interval of length h the vector :math:`\xi_k = \int_0^h e^{-\gamma_k (h - u)} dW_u` is :math:`F z` with as many
independent standard normals z as the vector has dimensions that matter. With E the decay over half of it, the halves' normals
a and b give :math:`\xi = E F' a + F' b`. The singular value decomposition of :math:`[E F', F'] = P \Sigma Q^\top`
shows which r combinations :math:`z = Q^\top (a, b)` the whole interval sees, so that :math:`F = P \Sigma`, and

.. math:: (a, b) = Q z + (1 - Q Q^\top)\, e, \qquad e \sim N(0, 1)

is the halves' exact law given the whole. Nothing is inverted: the covariance of :math:`\xi`, singular to rounding where
the interval is short compared with all :math:`1 / \gamma_k`, does not occur. This is the wavelet transform of white noise
for the functions :math:`e^{\gamma_k u}`, as Haar's is for the constant one.
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np

_SEEN = 1e-11
"""Combinations whose standard deviation is smaller than this share of the largest are not seen by an interval."""
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)


class Transforms(NamedTuple):
    """Of the levels 0 (the whole) to ``depth``; float64 arrays on the host."""

    factors: tuple[np.ndarray, ...]
    """F of each level, ``(K, r)``."""
    down: tuple[np.ndarray, ...]
    """Of each level but the last, what its normals are of its halves': ``(r, 2 r')``."""
    fresh: tuple[np.ndarray, ...]
    """Of each level but the last, what new normals are of its halves': ``(2 r', 2 r')``, symmetric."""


@lru_cache(maxsize=64)
def transforms(rates: tuple[float, ...], width: float, depth: int) -> Transforms:
    """The factors of all levels, from the shortest intervals up.

    Args:
        rates: the decay rates, 0 or positive.
        width: the length of the whole interval.
        depth: how often it is halved.
    """
    gamma = np.array(rates, dtype=np.float64)
    factor = factor_of(gamma, width * 2.0**-depth)
    factors, down, fresh = [factor], [], []
    for level in range(depth - 1, -1, -1):
        half = width * 2.0 ** -(level + 1)
        both = np.concatenate([np.exp(-gamma * half)[:, None] * factor, factor], axis=1)
        factor, rows = _seen(both, deviations(gamma, 2.0 * half))
        factors.append(factor)
        down.append(rows)
        fresh.append(np.eye(rows.shape[1]) - rows.T @ rows)
    return Transforms(tuple(factors[::-1]), tuple(down[::-1]), tuple(fresh[::-1]))


def deviations(gamma: np.ndarray, length: float) -> np.ndarray:
    r"""The standard deviations :math:`((1 - e^{-2 \gamma h}) / 2 \gamma)^{1/2}`, of W itself where the rate is 0."""
    twice = 2.0 * gamma
    safe = np.where(twice > 0.0, twice, 1.0)
    return np.sqrt(np.where(twice > 0.0, -np.expm1(-twice * length) / safe, length))


def _seen(columns: np.ndarray, deviation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The factor with the fewest columns, and what its normals are of the given ones; signs as a rule has them."""
    left, values, rows = np.linalg.svd(columns / deviation[:, None], full_matrices=False)
    count = int((values > _SEEN * values[0]).sum())
    left, values, rows = left[:, :count], values[:count], rows[:count]
    largest = np.abs(left).argmax(axis=0)
    signs = np.where(left[largest, np.arange(count)] < 0.0, -1.0, 1.0)
    return deviation[:, None] * left * (values * signs), rows * signs[:, None]


def factor_of(gamma: np.ndarray, length: float) -> np.ndarray:
    """The factor of intervals of a length, by quadrature over pieces that become shorter towards the end."""
    pieces = max(0, math.ceil(math.log2(max(float(gamma.max()) * length, 1.0)))) + 1
    edges = [length * 2.0**-k for k in range(pieces + 1)] + [0.0]
    columns = []
    for high, low in pairwise(edges):
        before_end = 0.5 * (high + low) + 0.5 * (high - low) * _NODES
        root = np.sqrt(0.5 * (high - low) * _WEIGHTS)
        columns.append(np.exp(-gamma[:, None] * before_end) * root)
    return _seen(np.concatenate(columns, axis=1), deviations(gamma, length))[0]


class Expansion(NamedTuple):
    """The integrals from the start of a cell to one time in it, as sums of the normals on the way down to that time."""

    nodes: list[int]
    """The nodes whose fresh normals occur, the first one for the whole cell's."""
    counts: list[int]
    """How many normals each has."""
    weights: np.ndarray
    """``(normals, K)``."""


def expansion(made: Transforms, gamma: np.ndarray, width: float, depth: int, position: int) -> Expansion:
    """The weights for the start of the shortest interval number ``position``, from 1 to ``2**depth - 1``."""
    used = depth
    while position % 2 == 0:  # the levels below the time add nothing
        position, used = position // 2, used - 1
    weights: list[np.ndarray] = []
    nodes: list[int] = []
    rest: np.ndarray | None = None  # what the normals of the interval that holds the time contribute
    for level in range(used - 1, -1, -1):
        place = position >> (used - level - 1)  # of the half at level + 1
        factor = made.factors[level + 1]
        zero = np.zeros_like(factor)
        inner = zero if rest is None else rest
        if place % 2:
            inside = (position - (place << (used - level - 1))) * width * 2.0**-used
            pair = np.concatenate([np.exp(-gamma * inside)[:, None] * factor, inner], axis=1)
        else:
            pair = np.concatenate([inner, zero], axis=1)
        weights.append((pair @ made.fresh[level]).T)
        nodes.append((1 << level) + (place >> 1))
        rest = pair @ made.down[level].T
    assert rest is not None
    weights.append(rest.T)
    nodes.append(0)
    return Expansion(nodes[::-1], [len(rows) for rows in weights[::-1]], np.concatenate(weights[::-1]))
