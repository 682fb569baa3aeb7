"""What a solve writes down on its way: rows at save times, every step, dense coefficients, a trace, a record.

Everything here listens to the eager loop: it is called with each judged attempt and keeps what it needs. What a step
contributes to the output is first *requested* (indices and relative times, no graph) and then *emitted* (tensors, in
the graph), so that an adjoint can emit the same request again from a step that it takes again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..core.legendre import evaluate
from ..core.packing import Packing
from ..core.scalars import Scalar, any_true, as_clock, both, differentiated, negate, shaped
from ..methods.base import Step
from ..stepping.attempt import Carry, Plan, Trial
from .dense import DenseOutput
from .solution import Trace


@dataclass(frozen=True, eq=False)
class SavePlan:
    """What to save: ``times`` None means the end only, ``every`` each accepted step.

    Args:
        times: the save times as clock numbers: a list in a joint solve, else ``(T, B)``.
        live: the same times in the graph, ``(T,)`` or ``(T, B)``, where they require grad.
        every: save every accepted step, and the start.
        dense: keep every step's polynomial.
        right: whether the row of a time at which an event changes the state is the state behind it.
    """

    times: list[float] | Tensor | None = None
    live: Tensor | None = None
    every: bool = False
    dense: bool = False
    right: bool = False


class Request(NamedTuple):
    """What one accepted step contributes: rows of the output, for which lanes, at which relative times."""

    rows: Sequence[int] | Tensor
    lanes: Tensor | None
    """The working rows of the state that are saved; None in a joint solve."""
    samples: Tensor | None
    """The samples that these are in the whole batch."""
    theta: Sequence[float] | Tensor | None
    """Relative times, or None for the end of the step."""


def emit(step: Step, request: Request, save: SavePlan) -> Tensor:
    """The states that a request asks of a step, ``(n, *lane)``."""
    if step.follows_path and request.theta is not None:
        along: Any = step
        rows: Tensor = along.emit(request, save)
        return rows
    if request.lanes is None:
        return torch.stack(_emit_joint(step, request, save))
    if request.theta is None:
        return step.y[request.lanes]
    theta = request.theta
    assert isinstance(theta, Tensor)
    at_end = theta == 1.0
    if _moves(step) or save.live is not None:
        times = save.times if save.live is None else save.live
        assert isinstance(times, Tensor)
        start, end = step.t0[request.lanes], step.t1[request.lanes]
        theta, at_end = (times[request.rows, request.samples] - start) / (end - start), torch.zeros_like(at_end)
    y0, y, *pieces = (x[request.lanes] for x in (step.y0, step.y, *step.polynomial()))
    return torch.where(shaped(at_end, y), y, evaluate(shaped(theta, y), y0, pieces))


def _emit_joint(step: Step, request: Request, save: SavePlan) -> list[Tensor]:
    if request.theta is None:
        return [step.y]
    if _moves(step) or save.live is not None:
        assert isinstance(save.times, list)
        times = [save.times[row] if save.live is None else save.live[row] for row in request.rows]
        relative = [(time - step.t0) / (step.t1 - step.t0) for time in times]
        return [step.at(theta) for theta in relative]
    return [step.y if theta == 1.0 else step.y0 if theta == 0.0 else step.at(theta) for theta in request.theta]


def _moves(step: Step) -> bool:
    """Whether an end of the step is an input of the graph; a fixed save time then moves relative to the step."""
    return differentiated(step.t0) or differentiated(step.t1)


def first_rows(y0: Tensor, request: Request) -> Tensor:
    """The rows that are the initial state."""
    return y0.unsqueeze(0) if request.lanes is None else y0[request.lanes]


class Rows:
    """The saved rows of an eager solve."""

    def __init__(self, plan: Plan, save: SavePlan, y0: Tensor) -> None:
        self.save, self.samples = save, y0.shape[0] if plan.per_sample else None
        self.first: list[Request] = []
        self.requests: list[Request] = []
        self.values: list[Tensor] = []
        self.pointer = 0
        self.shape = y0.shape
        self._host: tuple[np.ndarray, np.ndarray] | None = None
        times = save.times
        if save.every:
            self.first.append(self._first(plan, y0, None))
        elif isinstance(times, list):
            inside = self._starts_inside(plan) and bool(plan.t0 != plan.t1)
            while self.pointer < len(times) and times[self.pointer] == plan.t0 and not inside:
                self.first.append(Request([self.pointer], None, None, None))
                self.pointer += 1
        elif times is not None:
            self.first.append(self._first(plan, y0, times))

    def _starts_inside(self, plan: Plan) -> bool:
        """Whether a save time at the start is part of the first step, so that gradients reach the times there."""
        return plan.live_t0 is not None or self.save.live is not None

    def _first(self, plan: Plan, y0: Tensor, times: Tensor | None) -> Request:
        if not plan.per_sample:
            return Request([0], None, None, None)
        if times is None:
            lanes = torch.arange(y0.shape[0], device=y0.device)
            return Request(torch.zeros_like(lanes), lanes, lanes, None)
        at_start = times == plan.t0
        if self._starts_inside(plan):
            at_start = at_start & (plan.t0 == plan.t1)
        rows, lanes = at_start.nonzero(as_tuple=True)
        return Request(rows, lanes, lanes, None)

    def request(self, plan: Plan, carry: Carry, trial: Trial) -> Request | None:
        """What an accepted step contributes, or None."""
        if plan.per_sample:
            return self._lanes_request(plan, carry, trial)
        if self.save.every:
            return Request([carry.accepted + 1], None, None, None)
        times = self.save.times
        if times is None:
            return None
        rows, length = [], trial.t_end - trial.t
        behind = self.save.right and _goes_on_behind(plan, trial)  # rows at the end are those of the next step
        while self.pointer < len(times) and (times[self.pointer] - trial.t_end) * plan.direction <= 0:
            if behind and times[self.pointer] == trial.t_end:
                break
            rows.append(self.pointer)
            self.pointer += 1
        if not rows:
            return None
        theta = [1.0 if times[row] == trial.t_end else (times[row] - trial.t) / length for row in rows]
        return Request(rows, None, None, theta)

    def _lanes_request(self, plan: Plan, carry: Carry, trial: Trial) -> Request | None:
        """The same for lanes; with the numbers on the host where a block has read them, so that nothing waits here."""
        seen: Any = trial if trial.host is None else trial.host
        accepted = carry.accepted if seen is trial else seen.accepted
        rows: Any
        times: Any
        if self.save.every:
            lanes = _places(seen.accept)[0]
            rows, theta = accepted[lanes] + 1, None
        elif self.save.times is None:
            return None
        else:
            times, direction = (self.save.times, plan.direction) if seen is trial else self._times_on_host(plan)
            times = times if trial.rows is None else times[:, trial.rows]
            after = (times - seen.t) * direction > 0
            if self._starts_inside(plan):
                after = after | ((times == seen.t) & (accepted == 0))
            inside = after & ((times - seen.t_end) * direction <= 0) & seen.accept
            if self.save.right and carry.events is not None:
                inside = inside & ~((times == trial.t_end) & _goes_on_behind(plan, trial))
                inside = inside | ((times == trial.t) & carry.events.standing & trial.accept)
            rows, lanes = _places(inside)
            at, start, end = times[rows, lanes], seen.t[lanes], seen.t_end[lanes]
            where = torch.where if seen is trial else np.where
            theta = where(at == end, 1.0, (at - start) / where(end == start, 1.0, end - start))
        if not len(lanes):
            return None
        rows, lanes, theta = (_to_device(x, trial.step.y.device) for x in (rows, lanes, theta))
        return Request(rows, lanes, lanes if trial.rows is None else trial.rows[lanes], theta)

    def _times_on_host(self, plan: Plan) -> tuple[np.ndarray, np.ndarray]:
        """The save times and directions, copied there once."""
        if self._host is None:
            assert isinstance(self.save.times, Tensor)
            self._host = self.save.times.cpu().numpy(), plan.direction.cpu().numpy()
        return self._host

    def __call__(self, plan: Plan, carry: Carry, trial: Trial) -> None:
        """Keep what an accepted step contributes."""
        if not plan.per_sample and not trial.moved:
            return
        request = self.request(plan, carry, trial)
        if request is not None:
            self.requests.append(request)
            self.values.append(emit(trial.step, request, self.save))

    def detached(self) -> Rows:
        """The same with what was emitted as constants."""
        return self.holding([x.detach() for x in self.values])

    def holding(self, values: list[Tensor]) -> Rows:
        """The same with other rows emitted."""
        out = copy(self)
        out.values = values
        return out

    def assemble(self, y0: Tensor, emitted: Sequence[Tensor] | None = None) -> Tensor:
        """The output ``(T, *state)``: rows that are the initial state, emitted ones, NaN where nothing was emitted.

        ``emitted`` are the same rows as :attr:`values` in another graph, if they are given.
        """
        values = [*(first_rows(y0, request) for request in self.first), *(self.values if emitted is None else emitted)]
        flat = torch.cat(values) if values else y0.new_empty((0, *self.shape))
        if self.samples is None:
            count = len(self.save.times) if isinstance(self.save.times, list) else len(flat)
            missing = count - len(flat)
            return flat if not missing else torch.cat([flat, y0.new_full((missing, *self.shape), torch.nan)])
        requests = [*self.first, *self.requests]
        rows = torch.cat([torch.as_tensor(request.rows, device=y0.device) for request in requests])
        samples = torch.cat([request.samples for request in requests if request.samples is not None])
        count = self.save.times.shape[0] if isinstance(self.save.times, Tensor) else int(rows.max()) + 1
        return y0.new_full((count, *self.shape), torch.nan).index_put((rows, samples), flat)


def _goes_on_behind(plan: Plan, trial: Trial) -> Scalar:
    """Where the step ends at events behind which the solve goes on."""
    fired = None if trial.events is None else trial.events.fired
    if fired is None:
        return False
    return both(both(fired.mask, negate(fired.ends)), trial.t_end != plan.t1)


def _places(flags: Any) -> tuple[Any, ...]:
    """Where flags hold, in a tensor or a host array."""
    return flags.nonzero(as_tuple=True) if isinstance(flags, Tensor) else flags.nonzero()


def _to_device(x: Any, device: torch.device) -> Any:
    """A host array as a tensor, without waiting for the device."""
    if not isinstance(x, np.ndarray):
        return x
    tensor = torch.from_numpy(x)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


class Steps:
    """When every accepted step started and ended, and with ``polynomials`` the solution between."""

    def __init__(self, polynomials: bool, samples: int | None) -> None:
        self.polynomials, self.samples = polynomials, samples
        self.starts: list[Scalar] = []
        self.ends: list[Scalar] = []
        self.accepts: list[Tensor] = []
        self.coefficients: list[Tensor] = []

    def __call__(self, plan: Plan, carry: Carry, trial: Trial) -> None:
        """Keep an accepted step."""
        if not trial.moved:
            return
        self.starts.append(widen(trial.t, trial.rows, self.samples))
        self.ends.append(widen(trial.t_end, trial.rows, self.samples))
        if plan.per_sample:
            self.accepts.append(widen(trial.accept, trial.rows, self.samples))
        if self.polynomials:
            self.coefficients.append(widen_pieces(polynomial(trial.step), trial.rows, self.samples))

    def detached(self) -> Steps:
        """The same with the polynomials as constants."""
        return self.holding([x.detach() for x in self.coefficients])

    def holding(self, coefficients: list[Tensor]) -> Steps:
        """The same with other polynomials, or none."""
        out = copy(self)
        out.coefficients = coefficients
        return out

    def dense(
        self,
        plan: Plan,
        coefficients: Tensor | None,
        packing: Packing,
        y0: Tensor,
        moved: Callable[[Tensor, Tensor | None], Tensor] | None = None,
        jumps: Tensor | None = None,
        right: bool = False,
    ) -> DenseOutput:
        """The dense output; its outermost knots are the live ends of the interval, and ``moved`` knows of others.

        ``jumps`` are the times of events, and ``right`` tells on which side of them the solution is read.
        """
        device = y0.device
        t0, t1 = (torch.as_tensor(t, dtype=torch.float64, device=device) for t in (plan.t0, plan.t1))
        starts, ends = (
            torch.stack([torch.as_tensor(x, dtype=torch.float64, device=device) for x in xs])
            if xs
            else t0.new_empty((0, *t0.shape))
            for xs in (self.starts, self.ends)
        )
        accepted = None
        if plan.per_sample:
            accepted = torch.stack(self.accepts) if self.accepts else starts.to(torch.bool)
        unmoved = torch.tensor([len(starts) == 0]) if accepted is None else ~accepted.any(dim=0)
        if not len(starts):
            coefficients = None  # an adjoint's are then an empty tensor
        if any_true(unmoved):  # such a lane has its start, as a step without length
            starts, ends = (torch.cat([t0.unsqueeze(0), knots]) for knots in (starts, ends))
            accepted = None if accepted is None else torch.cat([unmoved.unsqueeze(0), accepted])
            degree = 1 if coefficients is None else coefficients.shape[1] - 1
            point = torch.stack([y0, *[torch.zeros_like(y0)] * degree]).unsqueeze(0)
            coefficients = point if coefficients is None else torch.cat([point, coefficients])
        assert coefficients is not None
        if plan.stops.live is not None:
            starts, ends = (
                torch.where((knots == plan.t0) | (knots == plan.t1), knots, plan.stops.at(knots))
                for knots in (starts, ends)
            )
        if plan.live_t0 is not None:
            first = starts == plan.t0 if accepted is None else accepted & (accepted.cumsum(0) == 1)
            starts = torch.where(first, plan.live_t0, starts)
        if plan.live_t1 is not None:
            ends = torch.where(ends == plan.t1, plan.live_t1, ends)
        if moved is not None:
            starts, ends = (moved(knots, accepted) for knots in (starts, ends))
        given = starts, ends, coefficients, accepted, packing, plan.direction, (t0, t1), jumps, right
        start = plan.t0 if plan.live_t0 is None else plan.live_t0
        return DenseOutput(*given, partial(plan.field, start, y0), plan.field.along())

    def times(self, t0: Scalar) -> Tensor:
        """The start and the end of every accepted step: ``(N + 1,)``, or ``(N + 1, B)`` with NaN behind a lane's last."""
        if self.samples is None:
            return torch.stack([torch.as_tensor(t, dtype=torch.float64).detach() for t in (t0, *self.ends)])
        ends, accepts = torch.stack([t0, *self.ends]), torch.stack([torch.isfinite(t0), *self.accepts])
        place = accepts.cumsum(0) - 1
        count = int(place[-1].max()) + 1 if self.samples else 1
        step, lane = accepts.nonzero(as_tuple=True)
        out = torch.full((count, self.samples), torch.nan, dtype=torch.float64, device=t0.device)
        return out.index_put((place[step, lane], lane), ends[step, lane])


def polynomial(step: Step) -> Tensor:
    """The step's dense output as coefficients ``(degree + 1, *state)``, the state at the start first."""
    return torch.stack([step.y0, *step.pieces()])


def widen(x: Scalar, rows: Tensor | None, samples: int | None) -> Scalar:
    """A working row for every sample again: zeros (False) for those a compact solve has dropped."""
    if rows is None or not isinstance(x, Tensor) or not x.dim():
        return x
    assert samples is not None
    return x.new_zeros((samples, *x.shape[1:])).index_copy(0, rows, x)


def widen_pieces(pieces: Tensor, rows: Tensor | None, samples: int | None) -> Tensor:
    """The same for a step's coefficients, whose samples are their second dimension."""
    return pieces if rows is None else widen(pieces.movedim(1, 0), rows, samples).movedim(0, 1)


class Tracer:
    """The trace of every attempt."""

    reads_stiffness = True

    def __init__(self, stiffness: bool, samples: int | None) -> None:
        self.stiffness, self.samples = stiffness, samples
        self.entries: list[tuple[object, ...]] = []

    def __call__(self, plan: Plan, carry: Carry, trial: Trial) -> None:
        """Write an attempt down."""
        with torch.no_grad():
            stiffness = trial.step.stiffness if self.stiffness else torch.full_like(as_clock(trial.t), torch.nan)
        error = trial.ratio if plan.controller.adaptive else torch.nan * trial.ratio
        entry = (trial.t, trial.t_end - trial.t, error, stiffness, trial.accept)
        self.entries.append(tuple(widen(x, trial.rows, self.samples) for x in entry))

    def trace(self, device: torch.device) -> Trace:
        """The trace as tensors on the state's device."""
        shape = (0,) if self.samples is None else (0, self.samples)
        kinds = (torch.float64, torch.float64, torch.float64, torch.float64, torch.bool)
        columns = list(zip(*self.entries, strict=True)) if self.entries else [()] * len(kinds)
        tensors = []
        for column, kind in zip(columns, kinds, strict=True):
            if not column:
                tensors.append(torch.empty(shape, dtype=kind, device=device))
            else:
                tensors.append(torch.stack([torch.as_tensor(x, dtype=kind, device=device).detach() for x in column]))
        return Trace(*tensors)
