"""The solution between the steps, as one piecewise polynomial."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .errors import InvalidProblemError
from .scalars import real_dtype
from .state import Packing


class DenseOutput:
    r"""A piecewise polynomial: on step j, :math:`\sum_i q_{ji} \theta^i` with :math:`\theta = (t - t_j) / h_j`.

    Args:
        starts: where the steps start, ``(N,)`` or ``(N, B)``, float64, in the order of integration.
        ends: where they end.
        coefficients: ``(N, degree + 1, *state)``, the constant term first.
        accepted: ``(N, B)`` flags of the steps that count, with ``per_sample``.
        packing: how the state is laid out.
        direction: 1 or -1, or one per sample.
    """

    def __init__(
        self,
        starts: Tensor,
        ends: Tensor,
        coefficients: Tensor,
        accepted: Tensor | None,
        packing: Packing,
        direction: float | Tensor,
    ) -> None:
        self.starts, self.ends, self.coefficients = starts, ends, coefficients
        self.accepted, self.packing, self.direction = accepted, packing, direction

    def __call__(self, t: float | Tensor, derivative: bool = False) -> Any:
        """The state, or its time derivative, at ``t``; the shape of ``t`` leads. Per sample ``t`` may be ``(..., B)``."""
        times = torch.as_tensor(t, dtype=torch.float64, device=self.starts.device)
        lead = times.shape
        if self.accepted is None:
            value = self._joint(times.reshape(-1), derivative)
        else:
            samples = self.starts.shape[1]
            if not lead or lead[-1] != samples:
                times = times.unsqueeze(-1).expand(*lead, samples)
            else:
                lead = lead[:-1]
            value = self._per_sample(times.reshape(-1, samples), derivative)
        return self.packing.unpack(value.reshape((*lead, *value.shape[1:])), lead=len(lead))

    def _joint(self, times: Tensor, derivative: bool) -> Tensor:
        if not self.starts.numel():
            raise InvalidProblemError("dense: the solve made no step, so there is nothing to interpolate")
        ahead = times.detach() * self.direction
        self._check(ahead, self.starts[0] * self.direction, self.ends[-1] * self.direction)
        index = torch.searchsorted((self.ends * self.direction).detach(), ahead).clamp(max=len(self.ends) - 1)
        coefficients = self.coefficients[index].movedim(1, 0)
        return self._evaluate(coefficients, self.starts[index], self.ends[index], times, derivative)

    def _per_sample(self, times: Tensor, derivative: bool) -> Tensor:
        assert self.accepted is not None
        ahead = times.detach() * self.direction
        starts, ends = (self.starts * self.direction).detach(), (self.ends * self.direction).detach()
        first = torch.where(self.accepted, starts, torch.inf).amin(0)
        last = torch.where(self.accepted, ends, -torch.inf).amax(0)
        self._check(ahead, first, last)
        covers = self.accepted & (ends >= ahead.unsqueeze(1))  # (T, N, B); the first such step holds the time
        index = covers.to(torch.int64).argmax(dim=1)
        lane = torch.arange(times.shape[1], device=times.device).expand_as(index)
        coefficients = self.coefficients.movedim(2, 1)[index, lane].movedim(2, 0)
        return self._evaluate(coefficients, self.starts[index, lane], self.ends[index, lane], times, derivative)

    def _check(self, ahead: Tensor, first: Tensor, last: Tensor) -> None:
        slack = 1e-6 * (last - first).abs().detach()  # times often come rounded to float32
        if not bool(((ahead >= first - slack) & (ahead <= last + slack)).all()):
            ends = [(x * self.direction).detach().reshape(-1).tolist()[:4] for x in (first, last)]
            raise InvalidProblemError(f"t: got a time outside the solved interval; expected {ends[0]} to {ends[1]}")

    @staticmethod
    def _evaluate(coefficients: Tensor, start: Tensor, end: Tensor, t: Tensor, derivative: bool) -> Tensor:
        """Horner's rule; ``coefficients`` is ``(degree + 1, T, ...)``, the constant term first."""
        length, real = end - start, real_dtype(coefficients)
        shape = (*t.shape, *[1] * (coefficients.dim() - 1 - t.dim()))
        theta = ((t - start) / length).to(real).reshape(shape)
        value = torch.zeros_like(coefficients[0])
        if derivative:
            for power in range(len(coefficients) - 1, 0, -1):
                value = value * theta + power * coefficients[power]
            return value / length.to(real).reshape(shape)
        for coefficient in coefficients.flip(0):
            value = value * theta + coefficient
        return value
