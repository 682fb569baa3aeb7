"""The wavelets that a Brownian path is expanded in: their integrals up to a time, and sums over them.

Alpert: A class of bases in L2 for the sparse representation of integral operators. SIAM J. Math. Anal. 24 (1993).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

_ROOT3, _ROOT12 = math.sqrt(3.0), math.sqrt(12.0)
Place = tuple[list[int] | None, list[float]]
"""Cells, where there are several, and times in them, one for each sample."""


class End(NamedTuple):
    """A path at a time in a cell: W and its integral from the cell's start; normals, in blocks, and nodes that they come from."""

    place: Place
    cell: Tensor
    theta: Tensor
    w: Tensor
    area: Tensor | None
    z: list[Tensor] | None = None
    node: Tensor | None = None


def recalled(ends: tuple[End, End], place: Place, cell: Tensor, theta: Tensor) -> End | None:
    """What is remembered of a time, if it is for each sample: one of the two ends, or for some the one, for some the other."""
    for end in ends[::-1]:
        if end.place == place:
            return end
    first, second = ends
    if len(theta) == 1 or first.w.shape != second.w.shape:
        return None
    late = (second.theta == theta) & (second.cell == cell)
    if not bool((late | ((first.theta == theta) & (first.cell == cell))).all()):
        return None
    late = late.unsqueeze(-1)
    area = None if first.area is None or second.area is None else torch.where(late, second.area, first.area)
    return End(place, cell, theta, torch.where(late, second.w, first.w), area)


def haar(phi: Tensor, root: Tensor) -> Tensor:
    """What the normals on the way down to a time weigh in W: of the cell, of Haar's wavelets, of the smallest interval.

    Args:
        phi: where the time is in the interval of each level, ``(levels, ..., n)``.
        root: the square root of the intervals' lengths.
    """
    rest = 1.0 - phi
    weights = torch.cat([phi[:1], torch.minimum(phi, rest).mul_(root)])
    weights[-1] = (phi[-1] * rest[-1]).sqrt_().mul_(root[-1])
    return weights


def alpert(phi: Tensor, root: Tensor) -> Tensor:
    """What the two normals of each level weigh in W and in its integral, ``(levels, 2, 2, ..., n)``."""
    size = root * root
    parts = [_cell(phi[:1]), _wavelets(phi[:-1], root[:-1], size[:-1]), _leaf(phi[-1:], root[-1:], size[-1:])]
    value, other, area, crossed = (torch.cat(rows) for rows in zip(*parts, strict=True))
    return torch.stack([value, other, area, crossed], 1).unflatten(1, (2, 2)).transpose(1, 2)


def _cell(theta: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Integrals and iterated integrals of the two Legendre polynomials of a cell."""
    square, half = theta * theta, 0.5 * theta
    bent = _ROOT3 * (square - theta)
    area, crossed = half * theta, _ROOT3 * (square * (theta / 3.0 - 0.5))
    return theta, bent, area, crossed


def _wavelets(phi: Tensor, root: Tensor, size: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Integrals and iterated integrals of Alpert's two wavelets, the even one and the odd one."""
    right = phi > 0.5
    x = torch.where(right, 1.0 - phi, phi)
    square = x * x
    sign = torch.where(right, -1.0, 1.0).to(torch.float64)
    even, odd = _ROOT12 * (0.5 * x - square), 3.0 * square - x
    area, crossed = _ROOT12 * square * (0.25 - x / 3.0), square * (x - 0.5)
    scale = root * size
    return root * sign * even, root * odd, scale * area, scale * sign * crossed


def _leaf(phi: Tensor, root: Tensor, size: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The exact conditional law inside the smallest interval: of W given both ends' W and H, and of its integral given W."""
    q = phi * (1.0 - phi)
    rest = 1.0 - 3.0 * q
    value = (q * rest).sqrt()
    area = q * (0.5 - phi) * (q / rest).sqrt()
    crossed = q * (q / (12.0 * rest)).sqrt()
    # The mean of the integral moves with W: q**2 (1/2 - phi) is their covariance.
    return root * value, torch.zeros_like(value), root * size * area, root * size * crossed


def total(terms: Tensor) -> Tensor:
    """The sum over the first dimension, in an order that does not depend on the other dimensions; overwrites."""
    count = len(terms)
    while count > 1:
        half = (count + 1) // 2
        terms[: count - half] += terms[half:count]
        count = half
    return terms[0]
