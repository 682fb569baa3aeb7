"""The solution of a stochastic equation at any time, along the path of its solve."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..core.scalars import leading
from ..errors import InvalidProblemError
from ..methods.stochastic.between import combined
from ..paths.increments import Noise
from .dense import DenseOutput


class NoisyDense(DenseOutput):
    """The solution of a stochastic equation at any time, by :func:`~neuralde.solvers.methods.stochastic.between.combined`.

    Args:
        noise: where the path's increments come from.
        elementwise: whether the noise multiplies the diffusion entry by entry.
        given: what a :class:`DenseOutput` is given; the coefficients are the steps' pieces.
    """

    def __init__(self, noise: Noise, elementwise: bool, *given: Any) -> None:
        super().__init__(*given)
        self.noise, self.elementwise = noise, elementwise

    def __call__(self, t: float | Tensor, slope: bool = False) -> Any:
        """The state at ``t``; the shape of ``t`` leads. Per sample ``t`` may be ``(..., B)``."""
        if slope:
            raise InvalidProblemError(
                "derivative: the solution of an SDE has none, because a path driven by noise has no slope; expected sol(t)"
            )
        return super().__call__(t)

    def packed(self, t: Any) -> Tensor:
        """The packed state at one clock number, ``(B,)`` per sample."""
        times = torch.as_tensor(t, dtype=torch.float64, device=self.starts.device).unsqueeze(0)
        return (self._joint if self.accepted is None else self._per_sample)(times, False)[0]

    def _evaluate(self, coefficients: Tensor, start: Tensor, end: Tensor, t: Tensor, slope: bool) -> Tensor:
        """The states at each of the times; ``coefficients`` is ``(pieces, T, ...)``, the start first."""
        del slope
        if t.requires_grad:
            raise InvalidProblemError(
                "t: requires grad; expected constant times, since the solution of an SDE has no slope"
            )
        start, end = start.detach(), end.detach()
        rows = [self._at(coefficients[:, row], start[row], end[row], t[row]) for row in range(len(t))]
        return torch.stack(rows) if rows else coefficients[0]

    def _at(self, pieces: Tensor, start: Tensor, end: Tensor, t: Tensor) -> Tensor:
        y0, *moves = pieces.unbind(0)
        empty = end == start
        theta = torch.where(empty, 0.0, (t - start) / torch.where(empty, 1.0, end - start)).clamp(0.0, 1.0)
        inside = torch.minimum(torch.maximum(t, torch.minimum(start, end)), torch.maximum(start, end))
        # As numbers the times of a joint solve are found on the path's grid.
        ends = (start, end, inside) if t.dim() else (start.item(), end.item(), inside.item())
        w = self.noise(ends[0], ends[1]).w
        bridge = self.noise.inside(ends[0], ends[2]) - leading(theta, w.dim(), w.dtype) * w
        return combined(y0, moves, theta, bridge, w, self.elementwise)
