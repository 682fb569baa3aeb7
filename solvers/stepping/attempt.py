"""One attempt at a step: the whole algorithm of an adaptive solve, as two pure functions.

:func:`attempt` takes a step and judges it; :func:`settle` makes the next carry from it. Both are shape-static and never
branch on a tensor's value, so that eager Python, a compiled loop or a captured block can drive the same code. A joint
solve is one lane, whose numbers are Python's; a per-sample solve has B lanes, whose numbers are ``(B,)`` tensors.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..core.counts import Counts
from ..core.norms import judged_error, largest, rms, scaled_error, tolerance
from ..core.scalars import (
    Scalar,
    any_true,
    both,
    choose,
    is_finite,
    maximum,
    minimum,
    negate,
    real_dtype,
    select,
    transformed,
)
from ..core.status import Status
from ..core.tolerances import Tolerance, for_each_entry
from ..core.vmap import refuse_lanes, shared
from ..methods.base import Cache, Memory, Method, Step
from ..terms.base import Term
from .controllers import Controller, constant_for_gradient
from .hand_over import first_memory, next_cache, next_memory
from .reductions import Cost, StepView
from .stops import Stops

if TYPE_CHECKING:
    import numpy as np

    from ..events.crossings import Seen
    from ..events.event_set import Events, EventState

RUNNING = -1
_SUCCESS, _MAX_STEPS = int(Status.SUCCESS), int(Status.MAX_STEPS)
_STEP_UNDERFLOW, _NON_FINITE = int(Status.STEP_UNDERFLOW), int(Status.NON_FINITE)
_NOT_CONVERGED = int(Status.NOT_CONVERGED)
# A remainder this much longer than the step is taken in one step, so that rounding never leaves a sliver before a stop.
SLACK = 1.0 + 1e-6
# Below this many units of rounding of the time, a step no longer moves the clock reliably.
TIME_RESOLUTION = 4 * torch.finfo(torch.float64).eps
# The same around t = 0, where time resolves everything: a fraction of the interval that no transient needs.
SMALLEST_FRACTION = 1e-30


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """Everything that stays the same during a solve."""

    field: Term
    method: Method
    controller: Controller
    stops: Stops
    t0: Scalar
    t1: Scalar
    direction: Scalar
    rtol: Tolerance
    atol: Tolerance
    max_steps: int
    costs: tuple[Cost, ...] = ()
    per_sample: bool = False
    through_steps: bool = False
    live_t0: Tensor | None = None
    live_t1: Tensor | None = None
    events: Events | None = None

    @property
    def host(self) -> bool:
        """Whether clock numbers are Python's."""
        return not isinstance(self.t0, Tensor)

    def read(self, x: Tensor) -> Scalar:
        """A lane's number, as the controller takes it; the one host sync of an attempt in a joint eager solve."""
        if transformed():
            if self.through_steps:
                refuse_lanes(x, "adjoint: through_steps=True", "steps")
            else:
                x = shared(x)
        if self.host:
            return x.item()
        return constant_for_gradient(x, self.through_steps).to(torch.float64)

    def rms(self, x: Tensor) -> Scalar:
        """The root mean square of a lane's entries, as the controller takes it."""
        if self.host and not transformed() and x.numel():
            return float(torch.linalg.vector_norm(x).item()) / math.sqrt(x.numel())
        return self.read(rms(x, self.per_sample))

    def norm_at(self, y: Tensor) -> Callable[[Tensor], Scalar]:
        """The root mean square in units of the tolerance at ``y``."""
        scale = tolerance(y.abs(), self.rtol, self.atol)
        return lambda x: self.rms(x / scale)

    def alone(self, **changes: Any) -> Plan:
        """The plan of another solve on this one's clock: with changes, and without reductions, events and times in the graph."""
        stops = self.stops.bind(None)
        plain: dict[str, Any] = {"costs": (), "events": None, "live_t0": None, "live_t1": None, "stops": stops}
        return replace(self, **plain | changes)

    def take(self, rows: Tensor) -> Plan:
        """The plan of some of the samples."""
        return replace(
            self,
            field=self.field.take(rows),
            t0=self.t0[rows],
            t1=self.t1[rows],
            direction=self.direction[rows],
            live_t0=None if self.live_t0 is None else self.live_t0[rows],
            live_t1=None if self.live_t1 is None else self.live_t1[rows],
            stops=self.stops.take(rows),
            events=None if self.events is None else self.events.take(rows),
            rtol=self.rtol[rows] if for_each_entry(self.rtol) else self.rtol,
            atol=self.atol[rows] if for_each_entry(self.atol) else self.atol,
        )

    def ends(self, t: Scalar, t_end: Scalar, first: Scalar, last: Scalar) -> tuple[Scalar, Scalar]:
        """The step's times as the graph sees them: the ends of the interval and given times may be inputs, others not."""
        if self.stops.live is not None:
            t, t_end = select(first, t, self.stops.at(t)), select(last, t_end, self.stops.at(t_end))
        if self.live_t0 is not None:
            t = select(first, self.live_t0, t)
        if self.live_t1 is not None:
            t_end = select(last, self.live_t1, t_end)
        return t, t_end


class Carry(NamedTuple):
    """What changes from attempt to attempt."""

    t: Scalar
    h: Scalar
    y: Tensor
    memory: Memory
    cache: Cache
    control: tuple[Scalar, ...]
    costs: tuple[tuple[Tensor, ...], ...]
    status: Scalar
    steps: Scalar
    accepted: Scalar
    nfe: Scalar
    events: EventState | None = None
    asked: Scalar = 0
    """How many of ``nfe`` the readers of steps made, regularizers and error estimates; kept in graphs of random terms only."""
    looked: Scalar = 0
    """How often they have called an SDE's diffusion alone."""
    counts: Counts | None = None
    """What the steps of an implicit method have counted."""


def without_graph(carry: Carry) -> Carry:
    """The same carry as constants."""
    return _constant(carry)


def _constant(x: Any) -> Any:
    if isinstance(x, Tensor):
        return x.detach()
    if x is None or isinstance(x, (bool, int, float)):
        return x
    if not isinstance(x, tuple):  # what a method remembers is a pytree of its own
        return pytree.tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, x)
    parts = [_constant(part) for part in x]
    return type(x)(*parts) if hasattr(x, "_fields") else tuple(parts)


class OnHost(NamedTuple):
    """An attempt's numbers on the host, where a block of attempts has read them all at once."""

    moved: bool
    """Whether any lane accepted the step."""
    t: np.ndarray | None = None
    t_end: np.ndarray | None = None
    accept: np.ndarray | None = None
    accepted: np.ndarray | None = None
    """How many steps each lane had accepted before."""


class Trial(NamedTuple):
    """One attempt, judged. ``accept`` is the verdict for running lanes; ``rows`` are the samples a compact solve kept."""

    step: Step
    t: Scalar
    t_end: Scalar
    ratio: Scalar
    accept: Scalar
    h: Scalar
    control: tuple[Scalar, ...]
    rows: Tensor | None
    events: Seen | None = None
    restarts: bool = False
    """Whether the field's value at the end of the step is of no use to the next one (joint solves with events)."""
    host: OnHost | None = None

    @property
    def moved(self) -> bool:
        """Whether any lane accepted the step; a host sync where it has not been read yet."""
        return any_true(self.accept) if self.host is None else self.host.moved


def attempt(plan: Plan, carry: Carry, rows: Tensor | None = None) -> Trial:
    """Try one step from where the carry stands, and let the controller judge it."""
    stop = plan.stops.after(carry.t, plan.t1, plan.direction)
    ahead = (stop - carry.t) * plan.direction
    running = carry.status == RUNNING
    near = ahead <= carry.h * SLACK
    lands, length = near, select(near, ahead, carry.h)
    if plan.controller.dtmax < math.inf:  # what is left may be longer by the slack: then it takes two steps
        lands = both(near, ahead <= plan.controller.dtmax + TIME_RESOLUTION * abs(stop))
        length = select(lands, ahead, select(near, 0.5 * ahead, carry.h))
    t_end = select(lands, stop, carry.t + plan.direction * length)
    t_end = select(running, t_end, carry.t)

    t, t_live = plan.ends(carry.t, t_end, carry.accepted == 0, t_end == plan.t1)
    if carry.events is not None:
        t = carry.events.start(t)
    field = plan.stops.one_sided(plan.field, carry.t, t_end, carry.y)
    step = plan.method.step(field, t, t_live, carry.y, carry.memory, carry.cache, plan)
    ratio = _error_ratio(plan, step)
    if step.failed is not False:
        ratio = select(
            step.failed, math.inf, ratio
        )  # nothing is known of its error: as short a step as one may try next
    judged = ratio if step.order is None else _of_order(plan, step, ratio)

    accept, h, control = plan.controller.decide(length, judged, carry.control)
    # A step shortened only to land on a given time says nothing against the step size proposed before it.
    kept = both(both(accept, near), h < carry.h)
    h = select(kept, carry.h, h)
    h = minimum(h, plan.controller.dtmax)
    if plan.controller.dtmin:
        h = select(accept, maximum(h, plan.controller.dtmin), h)
    return Trial(step, carry.t, t_end, ratio, both(accept, running), h, control, rows)


def _of_order(plan: Plan, step: Step, ratio: Scalar) -> Scalar:
    """The scaled error of a step of its own order, as one of its method's, whose root the controller takes."""
    if not plan.controller.adaptive:
        return ratio
    return ratio ** (plan.method.error_order / (step.order + 1.0))  # type: ignore[operator]


def _error_ratio(plan: Plan, step: Step) -> Scalar:
    """The scaled error norm; without error control 0, or infinity where the step is not finite."""
    if not plan.controller.adaptive:
        y = step.y.detach() if step.y.requires_grad else step.y
        if plan.host and not transformed() and cmath.isfinite(y.sum().item()):
            return 0.0  # a finite sum has finite terms; one that is not may have overflowed
        finite = torch.isfinite(y)
        if plan.per_sample:
            finite = finite.reshape(len(finite), math.prod(finite.shape[1:])).all(dim=1)
        return plan.read(torch.where(finite if plan.per_sample else finite.all(), 0.0, torch.inf))
    _ = step.cache  # in the graph, before the graph is switched off: the next step starts with it
    inside = plan.through_steps or not torch.is_grad_enabled() or torch.compiler.is_compiling()
    with nullcontext() if inside else torch.no_grad():
        ends = step.error, step.y0, step.y, plan.rtol, plan.atol
        # Noise may take a path anywhere in one step.
        scaled = judged_error(*ends, plan.per_sample) if plan.field.smooth else scaled_error(*ends)
        return plan.rms(scaled)


def settle(plan: Plan, carry: Carry, trial: Trial) -> Carry:
    """The carry after an attempt: moved where it was accepted, with a new step size either way."""
    accept, step = trial.accept, trial.step
    running = carry.status == RUNNING
    costs = advance_costs(plan, carry.costs, trial, carry.accepted)  # may call the field
    t = select(accept, trial.t_end, carry.t)
    steps = carry.steps + select(running, 1, 0)
    return Carry(
        t=t,
        h=trial.h,
        y=choose(accept, step.y, carry.y),
        memory=next_memory(plan, carry, trial) if carry.memory else (),
        cache=next_cache(plan, carry, trial),
        control=trial.control,
        costs=costs,
        status=_status(plan, carry, trial, t, steps),
        steps=steps,
        accepted=carry.accepted + select(accept, 1, 0),
        nfe=carry.nfe + select(running, step.calls + step.asked, 0),
        events=carry.events,
        asked=carry.asked + select(running, step.asked, 0),
        looked=carry.looked + select(running, step.looked, 0),
        counts=carry.counts if step.counts is None or carry.counts is None else carry.counts.plus(step.counts, running),
    )


def start_costs(plan: Plan, y0: Tensor) -> tuple[tuple[Tensor, ...], ...]:
    """Every reduction before the first step."""
    if not plan.costs:
        return ()
    lanes = torch.zeros(y0.shape[:1] if plan.per_sample else (), dtype=real_dtype(y0), device=y0.device)
    t0, t1 = (torch.as_tensor(t, dtype=torch.float64, device=y0.device) for t in (plan.t0, plan.t1))
    return tuple(cost.start(y0, lanes, (t0, t1)) for cost in plan.costs)


def advance_costs(
    plan: Plan, costs: tuple[tuple[Tensor, ...], ...], trial: Trial, index: Scalar
) -> tuple[tuple[Tensor, ...], ...]:
    """Every reduction after this step, where it was accepted."""
    if not costs or trial.accept is False:
        return costs
    view = StepView(trial.step, plan.method, plan.rtol, plan.atol, index, plan.field)
    moved = tuple(cost.update(state, view) for cost, state in zip(plan.costs, costs, strict=True))
    return tuple(
        tuple(choose(trial.accept, new, old) for new, old in zip(after, before, strict=True))
        for after, before in zip(moved, costs, strict=True)
    )


def _status(plan: Plan, carry: Carry, trial: Trial, t: Scalar, steps: Scalar) -> Scalar:
    """Whether the lane goes on, has arrived, or has failed, and how."""
    if plan.host and trial.accept and trial.t_end != trial.t:
        return _SUCCESS if t == plan.t1 else _MAX_STEPS if steps >= plan.max_steps else RUNNING
    smallest = maximum(abs(t) * TIME_RESOLUTION, abs(plan.t1 - plan.t0) * SMALLEST_FRACTION)
    movable = both(trial.h > smallest, trial.h >= plan.controller.dtmin)
    stuck = both(negate(trial.accept), negate(movable)) | (trial.t_end == trial.t)
    overflows, failed = negate(is_finite(trial.ratio)), trial.step.failed
    if failed is not False:
        overflows = both(overflows, negate(failed))
    if overflows is not False and plan.controller.adaptive:
        stuck = stuck | both(overflows, _is_full(plan, carry.y))
    failure = select(overflows, _NON_FINITE, _STEP_UNDERFLOW)
    if failed is not False:
        failure = select(failed, _NOT_CONVERGED, failure)
    status = select(steps >= plan.max_steps, _MAX_STEPS, RUNNING)
    status = select(stuck, failure, status)
    status = select(both(trial.accept, t == plan.t1), _SUCCESS, status)
    return select(carry.status == RUNNING, status, carry.status)


def _is_full(plan: Plan, y: Tensor) -> Scalar:
    """Whether a lane's state is within rounding of the largest number of its dtype.

    Steps too short to move it would be accepted there, and steps that move it overflow: the solve would creep on.
    """
    kind = torch.finfo(real_dtype(y))
    size = largest(y.detach(), plan.per_sample)
    return plan.read(size) >= (1.0 - 16 * kind.eps) * kind.max


def begin(
    plan: Plan,
    y0: Tensor,
    cache: Cache,
    h: Scalar,
    nfe: int,
    costs: tuple[tuple[Tensor, ...], ...] | None = None,
) -> Carry:
    """The carry before the first attempt. Lanes whose interval is empty have already arrived."""
    zero = torch.zeros_like(plan.t0, dtype=torch.int64) if isinstance(plan.t0, Tensor) else 0
    return Carry(
        t=plan.live_t0 if plan.through_steps and plan.live_t0 is not None else plan.t0,
        h=h,
        y=y0,
        memory=first_memory(plan, y0),
        cache=cache,
        control=plan.controller.start(h),
        costs=start_costs(plan, y0) if costs is None else costs,
        status=select(plan.t0 == plan.t1, _SUCCESS, RUNNING),
        steps=zero,
        accepted=zero,
        nfe=zero + nfe,
        asked=zero,
        looked=zero,
        counts=Counts(*[zero] * len(Counts._fields)) if plan.method.implicit else None,
    )
