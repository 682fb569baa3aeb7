"""The solution between the steps, as one piecewise polynomial, or along the path that drives it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..core.legendre import basis, derivative, evaluate
from ..core.packing import Packing
from ..core.scalars import Scalar, any_true, as_clock, choose, real_dtype
from ..core.ties import resolution, tied
from ..core.times import read_times
from ..errors import InvalidProblemError

# A step that ends so near to an interval's end, relative to its length, ends there but for rounding.
_EDGE = 1e-9


class DenseOutput:
    """A piecewise polynomial, on each step in the form that :mod:`neuralde.solvers.core.legendre` evaluates.

    Args:
        starts: where the steps start, ``(N,)`` or ``(N, B)``, float64, in the order of integration.
        ends: where they end.
        coefficients: ``(N, degree + 1, *state)``, the state at the start of each step first.
        accepted: ``(N, B)`` flags of the steps that count, with ``per_sample``.
        packing: how the state is laid out.
        direction: 1 or -1, or one per sample.
        span: the ends of the interval asked for, per sample if each has its own. What was not reached is NaN.
        jumps: the times of events, ``(N,)`` or ``(N, B)``, where the state may jump: times that are one of them but for
            rounding are that one.
        right: whether the solution at such a time is the one behind the event.
        start_slope: the field at the start, which is the derivative where an interval has no length; NaN without it.
        along: what evaluates the steps' pieces where they are no polynomials, but follow a path.
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
        start_slope: Callable[[], Tensor] | None = None,
        along: Any = None,
    ) -> None:
        self.starts, self.ends, self.coefficients = starts, ends, coefficients
        self.accepted, self.packing, self.direction, self.span = accepted, packing, direction, span
        self.jumps, self.right, self.start_slope, self.along = jumps, right, start_slope, along

    def __call__(self, t: float | Tensor, slope: bool = False) -> Any:
        """The state, or its time derivative, at ``t``; the shape of ``t`` leads.

        Per sample a number and times ``(T,)`` are those of all samples, as with ``saveat``, and times ``(..., T, B)`` are
        each sample's own.
        """
        if slope and self.along is not None:
            self.along.refuse_slope()
        times = read_times(t, "t", "a time or times").in_graph.to(self.starts.device)
        lead, eps = times.shape, resolution(t)
        if self.accepted is None:
            value = self._joint(self._at_jumps(times.reshape(-1), eps), slope)
        else:
            samples = self.starts.shape[1]
            if len(lead) < 2:
                times = times.unsqueeze(-1).expand(*lead, samples)
            elif lead[-1] != samples:
                raise InvalidProblemError(
                    f"t: got times of shape {tuple(lead)}; expected a number, (T,) for all samples, or (..., T, {samples}) "
                    "for each of them"
                )
            else:
                lead = lead[:-1]
            value = self._per_sample(self._at_jumps(times.reshape(-1, samples), eps), slope)
        return self.packing.unpack(value.reshape((*lead, *value.shape[1:])), lead=len(lead))

    def packed(self, t: Any) -> Tensor:
        """The packed state at one clock number, ``(B,)`` per sample; no graph leads to a Python number's."""
        if isinstance(t, float) and self.accepted is None and self.along is None:
            starts, ends, reached = self._on_host
            if reached[0] <= t * self.direction <= reached[-1]:
                index = bisect_left(reached, t * self.direction, lo=1) - 1
                return self._one(self.coefficients[index], starts[index], ends[index], t)
        times = torch.as_tensor(t, dtype=torch.float64, device=self.starts.device).unsqueeze(0)
        return (self._joint if self.accepted is None else self._per_sample)(times, False)[0]

    def ends_between(self, t: Scalar, t_end: Scalar) -> list[Scalar]:
        """Where steps end inside an interval, relative to it and in its order; per sample 1 where a lane has fewer."""
        if isinstance(t, float) and isinstance(t_end, float) and self.accepted is None:
            _, ends, reached = self._on_host
            low, high = sorted((t * self.direction, t_end * self.direction))
            inside = ends[max(bisect_left(reached, low) - 1, 0) : bisect_left(reached, high)]
            return sorted(x for end in inside if _EDGE < (x := (end - t) / (t_end - t)) < 1 - _EDGE)
        length = as_clock(t_end, self.ends.device) - t
        thetas = (self.ends.detach() - t) / torch.where(length == 0, torch.inf, length)
        counts = (thetas > _EDGE) & (thetas < 1 - _EDGE)
        if self.accepted is not None:
            counts = counts & self.accepted
        thetas = torch.where(counts, thetas, 1.0).sort(0).values
        return list(thetas[: int(counts.sum(0).max())])

    @cached_property
    def _on_host(self) -> tuple[list[float], list[float], list[float]]:
        """Where the steps of a joint solve start and end, and the times between them as bisection needs them."""
        starts, ends = self.starts.tolist(), self.ends.tolist()
        return starts, ends, [self.direction * t for t in (starts[0], *ends)]

    @staticmethod
    def _one(coefficients: Tensor, start: float, end: float, t: float) -> Tensor:
        """One step's polynomial at one time, in two operations: a backward solve asks for thousands."""
        theta = (t - start) / (end - start) if end != start else 0.0
        weights = basis(theta, len(coefficients))
        return torch.tensordot(
            torch.tensor(weights, dtype=coefficients.dtype, device=coefficients.device), coefficients, 1
        )

    def _joint(self, times: Tensor, slope: bool) -> Tensor:
        ends = (self.ends * self.direction).detach()
        ahead, missed = self._located(times, ends[-1])
        index = self._step(ends, ahead)
        coefficients = self.coefficients[index].movedim(1, 0)
        value = self._evaluate(coefficients, self.starts[index], self.ends[index], times, slope)
        return choose(missed, torch.full_like(value, torch.nan), value)

    def _per_sample(self, times: Tensor, slope: bool) -> Tensor:
        assert self.accepted is not None
        # How far each lane has come: the first step that comes as far as the time holds it.
        reached = torch.where(self.accepted, (self.ends * self.direction).detach(), -torch.inf).cummax(0).values
        ahead, missed = self._located(times, reached[-1])
        index = self._step(reached.T.contiguous(), ahead.T.contiguous()).T
        lane = torch.arange(times.shape[1], device=times.device).expand_as(index)
        coefficients = self.coefficients.movedim(2, 1)[index, lane].movedim(2, 0)
        starts, ends = self.starts[index, lane], self.ends[index, lane]
        value = self._evaluate(coefficients, starts, ends, times, slope)
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

    def _evaluate(self, coefficients: Tensor, start: Tensor, end: Tensor, t: Tensor, slope: bool) -> Tensor:
        """The state at ``t``, or its derivative; ``coefficients`` is ``(degree + 1, T, ...)``."""
        if self.along is not None:
            rows: Tensor = self.along.rows(coefficients, start, end, t)
            return rows
        shape = (*t.shape, *[1] * (coefficients.dim() - 1 - t.dim()))
        empty = end == start
        length = torch.where(empty, 1.0, end - start)
        theta = torch.where(empty, 0.0, (t - start) / length).reshape(shape)
        y0, *pieces = coefficients.unbind(0)
        if not slope:
            return evaluate(theta, y0, pieces)
        value = derivative(theta, pieces) / length.to(real_dtype(coefficients)).reshape(shape)
        if not any_true(empty):
            return value
        return torch.where(empty.reshape(shape), torch.nan if self.start_slope is None else self.start_slope(), value)
