"""The solution between the steps, as one piecewise polynomial."""

from __future__ import annotations

from bisect import bisect_left
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .errors import InvalidProblemError
from .scalars import choose, real_dtype
from .state import Packing
from .ties import resolution, tied
from .times import read_times


class DenseOutput:
    r"""A piecewise polynomial: on step j, :math:`\sum_i q_{ji} \theta^i` with :math:`\theta = (t - t_j) / h_j`.

    Args:
        starts: where the steps start, ``(N,)`` or ``(N, B)``, float64, in the order of integration.
        ends: where they end.
        coefficients: ``(N, degree + 1, *state)``, the constant term first.
        accepted: ``(N, B)`` flags of the steps that count, with ``per_sample``.
        packing: how the state is laid out.
        direction: 1 or -1, or one per sample.
        span: the ends of the interval asked for, per sample if each has its own. What was not reached is NaN.
        jumps: the times of events, ``(N,)`` or ``(N, B)``, where the state may jump: times that are one of them but for
            rounding are that one.
        right: whether the solution at such a time is the one behind the event.
    """

    def __init__(
        self,
        starts: Tensor,
        ends: Tensor,
        coefficients: Tensor,
        accepted: Tensor | None,
        packing: Packing,
        direction: float | Tensor,
        span: tuple[Tensor, Tensor],
        jumps: Tensor | None = None,
        right: bool = False,
    ) -> None:
        self.starts, self.ends, self.coefficients = starts, ends, coefficients
        self.accepted, self.packing, self.direction, self.span = accepted, packing, direction, span
        self.jumps, self.right = jumps, right

    def __call__(self, t: float | Tensor, derivative: bool = False) -> Any:
        """The state, or its time derivative, at ``t``; the shape of ``t`` leads. Per sample ``t`` may be ``(..., B)``."""
        times = read_times(t, "t", "a time or times").in_graph.to(self.starts.device)
        lead, eps = times.shape, resolution(t)
        if self.accepted is None:
            value = self._joint(self._at_jumps(times.reshape(-1), eps), derivative)
        else:
            samples = self.starts.shape[1]
            if not lead or lead[-1] != samples:
                times = times.unsqueeze(-1).expand(*lead, samples)
            else:
                lead = lead[:-1]
            value = self._per_sample(self._at_jumps(times.reshape(-1, samples), eps), derivative)
        return self.packing.unpack(value.reshape((*lead, *value.shape[1:])), lead=len(lead))

    def packed(self, t: Any) -> Tensor:
        """The packed state at one clock number, ``(B,)`` per sample; no graph leads to a Python number's."""
        if isinstance(t, float) and self.accepted is None:
            starts, ends, reached = self._on_host
            if reached[0] <= t * self.direction <= reached[-1]:
                index = bisect_left(reached, t * self.direction, lo=1) - 1
                return self._one(self.coefficients[index], starts[index], ends[index], t)
        times = torch.as_tensor(t, dtype=torch.float64, device=self.starts.device).unsqueeze(0)
        return (self._joint if self.accepted is None else self._per_sample)(times, False)[0]

    @cached_property
    def _on_host(self) -> tuple[list[float], list[float], list[float]]:
        """Where the steps of a joint solve start and end, and the times between them as bisection needs them."""
        starts, ends = self.starts.tolist(), self.ends.tolist()
        return starts, ends, [self.direction * t for t in (starts[0], *ends)]

    @staticmethod
    def _one(coefficients: Tensor, start: float, end: float, t: float) -> Tensor:
        """One step's polynomial at one time, in two operations: a backward solve asks for thousands."""
        theta = (t - start) / (end - start) if end != start else 0.0
        powers = [theta**power for power in range(len(coefficients))]
        return torch.tensordot(
            torch.tensor(powers, dtype=coefficients.dtype, device=coefficients.device), coefficients, 1
        )

    def _joint(self, times: Tensor, derivative: bool) -> Tensor:
        ends = (self.ends * self.direction).detach()
        ahead, missed = self._located(times, ends[-1])
        index = self._step(ends, ahead)
        coefficients = self.coefficients[index].movedim(1, 0)
        value = self._evaluate(coefficients, self.starts[index], self.ends[index], times, derivative)
        return choose(missed, torch.full_like(value, torch.nan), value)

    def _per_sample(self, times: Tensor, derivative: bool) -> Tensor:
        assert self.accepted is not None
        # How far each lane has come: the first step that comes as far as the time holds it.
        reached = torch.where(self.accepted, (self.ends * self.direction).detach(), -torch.inf).cummax(0).values
        ahead, missed = self._located(times, reached[-1])
        index = self._step(reached.T.contiguous(), ahead.T.contiguous()).T
        lane = torch.arange(times.shape[1], device=times.device).expand_as(index)
        coefficients = self.coefficients.movedim(2, 1)[index, lane].movedim(2, 0)
        value = self._evaluate(coefficients, self.starts[index, lane], self.ends[index, lane], times, derivative)
        missed = missed.reshape((*missed.shape, *[1] * (value.dim() - missed.dim())))
        return torch.where(missed, torch.nan, value)

    def _step(self, ends: Tensor, ahead: Tensor) -> Tensor:
        """The step in which each time lies: the one that ends there, or on the right side the next, where there is one."""
        index = torch.searchsorted(ends, ahead)
        if not self.right:
            return index
        return torch.where(ahead < ends[..., -1:], torch.searchsorted(ends, ahead, right=True), index)

    def _at_jumps(self, times: Tensor, eps: float) -> Tensor:
        """The times, those that are an event's but for rounding moved onto it."""
        if self.jumps is None:
            return times
        return times + (tied(times.detach(), self.jumps, eps) - times.detach())

    def _located(self, times: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        """The times as the solve met them, none behind its ``last``, and which of them it never reached."""
        first, end = (t.to(last.device) * self.direction for t in self.span)
        ahead = times.detach() * self.direction
        slack = 1e-6 * (end - first)  # times often come rounded to float32
        if not bool(((ahead >= first - slack) & (ahead <= end + slack)).all()):
            ends = [t.reshape(-1).tolist()[:4] for t in self.span]
            raise InvalidProblemError(f"t: got a time outside the interval; expected {ends[0]} to {ends[1]}")
        return torch.minimum(ahead, last), ahead > last + slack

    def _evaluate(self, coefficients: Tensor, start: Tensor, end: Tensor, t: Tensor, derivative: bool) -> Tensor:
        """Horner's rule; ``coefficients`` is ``(degree + 1, T, ...)``, the constant term first."""
        length, real = end - start, real_dtype(coefficients)
        shape = (*t.shape, *[1] * (coefficients.dim() - 1 - t.dim()))
        empty = length == 0
        theta = torch.where(empty, 0.0, (t - start) / torch.where(empty, 1.0, length)).to(real).reshape(shape)
        value = torch.zeros_like(coefficients[0])
        if derivative:
            for power in range(len(coefficients) - 1, 0, -1):
                value = value * theta + power * coefficients[power]
            return value / length.to(real).reshape(shape)
        for coefficient in coefficients.flip(0):
            value = value * theta + coefficient
        return value
