"""Integrals along the solution, step by step, at Gauss points of the dense output."""

from __future__ import annotations

import math
from abc import abstractmethod

import numpy as np
import torch
from torch import Tensor

from ..core.scalars import Scalar
from ..terms.base import Term
from .reductions import Cost, StepView


def _gauss(count: int) -> list[tuple[float, float]]:
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return [((node + 1) / 2, weight / 2) for node, weight in zip(nodes.tolist(), weights.tolist(), strict=True)]


# Made once: a graph that is traced cannot call numpy, and every step asks again.
_GAUSS = [_gauss(count) for count in range(1, 13)]


def gauss_points(order: float) -> list[tuple[float, float]]:
    """Nodes and weights on [0, 1] that integrate polynomials of degree ``order - 1`` exactly.

    >>> gauss_points(2)
    [(0.5, 1.0)]
    """
    count = max(1, (math.ceil(order) + 1) // 2)
    return _GAUSS[count - 1] if count <= len(_GAUSS) else _gauss(count)


class PathIntegral(Cost):
    r"""The reduction :math:`\int \ell(t, y(t)) \, dt`; a continuous adjoint reads :meth:`density` itself.

    A step of a method of order p is integrated with so many Gauss points that polynomials of degree p - 1 are exact, on
    its dense output of order q: the integral has order p where q is at least p - 1.
    """

    @abstractmethod
    def density(self, field: Term, t: Scalar, y: Tensor) -> Tensor:
        """The integrand at a packed state of the problem: 0-d, or one number for each sample ``(B,)``."""

    def start(self, y0: Tensor, lanes: Tensor, span: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        """Zero."""
        del y0, span
        return (lanes,)

    def update(self, state: tuple[Tensor, ...], view: StepView) -> tuple[Tensor, ...]:
        """Add one step's share."""
        (total,) = state
        length = view.t1 - view.t0
        share = torch.zeros_like(total)
        for node, weight in gauss_points(view.method.order):
            y = view.step.at(node)
            share = share + weight * self.density(view.term, view.t0 + node * length, y)
        return (total + (share * length).to(total.dtype),)
