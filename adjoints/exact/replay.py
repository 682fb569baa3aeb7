"""Taking a recorded step again, in the graph: what the exact adjoints have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from neuralde.solvers.core.scalars import Scalar, any_true, both, choose, select, spread
from neuralde.solvers.events.crossings import arrived
from neuralde.solvers.events.dense_search import Found
from neuralde.solvers.events.event_set import Fired
from neuralde.solvers.events.log import Log, Logged, logged, logged_inside
from neuralde.solvers.methods.base import Step, VectorField
from neuralde.solvers.output.saving import Request, Rows, SavePlan, emit, polynomial, widen_pieces
from neuralde.solvers.stepping.attempt import Carry, Plan, Trial, advance_costs
from neuralde.solvers.stepping.hand_over import first_memory, landed, restarted

from ..base import Job
from ..shared.captured_tensors import refuse_unknown
from ..shared.carried import Carried, carried_at, replayable
from ..shared.outputs import Outputs

State = tuple[Tensor, ...]
"""What a step starts from, and gives: the problem's state, and behind it the tensors of the method's memory."""


def first_state(plan: Plan, y0: Tensor) -> State:
    """The state from which the first step starts."""
    return (y0, *first_memory(plan, y0))


@dataclass(frozen=True, eq=False)
class Record:
    """What is needed to take an accepted step again, its state aside."""

    t: Scalar
    t_end: Scalar
    accept: Scalar
    index: Scalar
    rows: Tensor | None
    carried: Carried
    request: Request | None
    standing: Scalar = False
    """The lanes that start at an event, whose time is the clock's."""
    fired: Fired | None = None
    """The events at its end."""
    inside: Found | None = None
    """The events in it that only log."""


class Recorder:
    """Keeps the accepted steps of a solve, and of their initial states as many as ``limit`` allows.

    With a limit, every second kept state is dropped whenever there are too many, so that those left are evenly spread
    over a number of steps that was not known before.

    Args:
        limit: how many states to keep at most; None keeps all.
        waits: whether it keeps nothing before :meth:`begin`.
    """

    def __init__(self, limit: int | None = None, waits: bool = False) -> None:
        self.limit, self.waits, self.stride = limit, waits, 1
        self.records: list[Record] = []
        self.states: dict[int, State] = {}
        self._rows: Rows | None = None
        self._log: Log | None = None
        self._seen = 0

    def attach(self, rows: Rows | None, log: Log | None = None) -> Recorder:
        """Learn where the requests and the events are found."""
        self._rows, self._log = rows, log
        self._seen = len(rows.requests) if rows is not None else 0
        return self

    def begin(self, seen: int) -> None:
        """Keep steps from here on, in front of which so many requests were made."""
        self.waits, self._seen = False, seen

    def __call__(self, plan: Plan, carry: Carry, trial: Trial) -> None:
        """Keep an accepted step."""
        if self.waits or not trial.moved:
            return
        request = None
        if self._rows is not None and len(self._rows.requests) > self._seen:
            request = self._rows.requests[-1]
            self._seen = len(self._rows.requests)
        index = len(self.records)
        if index % self.stride == 0:
            y, memory = carry.y.detach(), carry.memory
            self.states[index] = (y, *(x.detach() for x in memory)) if memory else (y,)
            if self.limit is not None and len(self.states) > self.limit:
                self.stride *= 2
                self.states = {i: y for i, y in self.states.items() if i % self.stride == 0}
        self.records.append(
            Record(
                trial.t,
                trial.t_end,
                trial.accept,
                carry.accepted,
                trial.rows,
                carried_at(plan, carry.costs, carry.t).map(torch.detach),
                request,
                False if carry.events is None else carry.events.standing,
                None if trial.events is None else trial.events.fired,
                None if self._log is None else self._log.latest,
            )
        )


def following(state: State, rows: Tensor | None, next_rows: Tensor | None) -> State:
    """The state as the next record has it: a compact solve may have dropped samples between the two."""
    if next_rows is rows or next_rows is None:
        return state
    places = next_rows if rows is None else torch.searchsorted(rows, next_rows)
    return tuple(x[places] for x in state)


class Replayed(NamedTuple):
    """One step taken again."""

    state: State
    carried: Carried
    emitted: Tensor | None
    coefficients: Tensor | None
    logged: Logged | None


def replay(plan: Plan, save: SavePlan, record: Record, state: State, carried: Carried) -> Replayed:
    """Take a recorded step again from ``state``, with the live times of ``plan`` where it touches the ends."""
    plan = plan if record.rows is None else plan.take(record.rows)
    clock = carried.clock
    step = _retake(plan, record, state, clock)
    trial = Trial(step, record.t, record.t_end, 0.0, record.accept, 0.0, (), record.rows)
    after = _behind(plan, record, step)
    costs = advance_costs(plan, carried.costs, trial, record.index)
    if clock is not None:
        end = torch.as_tensor(step.t1, dtype=clock.dtype, device=clock.device)
        clock = select(record.accept, end, clock)
    return Replayed(
        state=_chosen(record.accept, after, state),
        carried=Carried(costs, clock),
        emitted=emit(step, record.request, save) if record.request is not None else None,
        coefficients=polynomial(step) if save.dense else None,
        logged=_logged(plan, record, step, after[0]),
    )


def refuse_lost(
    again: Replayed, own: Sequence[Tensor], captured: list[Tensor], since: int, walked: set[Any] | None = None
) -> None:
    """Refuse a step that depends on a tensor that was not found: through the field, an event or a reduction."""
    states, costs = [*again.state, *(again.logged or ())], again.carried.tensors
    refuse_unknown(states, own, captured, since, "f" if again.logged is None else "f, fn or apply", walked)
    refuse_unknown([x for x in costs if x.requires_grad], own, captured, since, "regularizers", walked)


class Retaken(NamedTuple):
    """A whole solve taken again; what its steps gave, one after another."""

    state: State
    carried: Carried
    emitted: list[Tensor]
    pieces: list[Tensor]
    logged: list[Logged]

    def outputs(self, y0: Tensor, per_sample: bool) -> Outputs:
        """The solve's outputs."""
        logged = None
        if self.carried.clock is not None:
            logged = Log(len(y0) if per_sample else None).flat(y0, self.logged)
        return Outputs(
            y1=self.state[0],
            rows=torch.cat(self.emitted) if self.emitted else None,
            pieces=torch.stack(self.pieces) if self.pieces else None,
            logged=logged,
            carried=self.carried,
        )


def retake(
    job: Job,
    records: Sequence[Record],
    carried: Carried,
    seen: Callable[[int, State], None] | None = None,
    memory: State | None = None,
) -> Retaken:
    """Take every recorded step again, from ``y0`` and what is carried beside it at the start, as one graph.

    ``seen`` hears of the state after each of them. ``memory`` is the method's in front of the first one; None: as the
    method starts it at ``y0``.
    """
    rows, plan, save = None, replayable(job.plan), job.options.save
    full = state = first_state(plan, job.y0) if memory is None else (job.y0, *memory)
    whole, out = carried, Retaken(state, carried, [], [], [])
    for index, record in enumerate(records):
        if record.rows is not rows:
            state = following(state, rows, record.rows)
            carried = whole.map(itemgetter(record.rows))
            rows = record.rows
        again = replay(plan, save, record, state, carried)
        state, carried = again.state, again.carried
        if rows is None:
            full, whole = state, carried
        else:
            full = tuple(before.index_copy(0, rows, after) for before, after in zip(full, state, strict=True))
            pairs = zip(whole.tensors, carried.tensors, strict=True)
            whole = whole.filled([before.index_copy(0, rows, after) for before, after in pairs])
        if again.emitted is not None:
            out.emitted.append(again.emitted)
        if again.coefficients is not None:
            out.pieces.append(widen_pieces(again.coefficients, rows, job.y0.shape[0]))
        if again.logged is not None:
            out.logged.append(again.logged)
        if seen is not None:
            seen(index, state)
    return out._replace(state=full, carried=whole)


def advance(plan: Plan, record: Record, state: State) -> State:
    """The state after a recorded step, and nothing else."""
    plan = plan if record.rows is None else plan.take(record.rows)
    return _chosen(record.accept, _behind(plan, record, _retake(plan, record, state)), state)


def retreat(plan: Plan, record: Record, state: State) -> State:
    """The state before a recorded step of a reversible method, from the one after it."""
    plan = plan if record.rows is None else plan.take(record.rows)
    field, ends, (y, *memory) = _setting(plan, record, state)
    before, earlier = plan.method.back(field, *ends, y, tuple(memory))
    return _chosen(record.accept, (before, *earlier), state)


def _logged(plan: Plan, record: Record, step: Step, after: Tensor) -> Logged | None:
    """What happened in a step and at its end."""
    parts = []
    if record.inside is not None:
        assert plan.events is not None
        parts.append(logged_inside(plan.events, step, record.inside))
    if record.fired is not None:
        parts.append(logged(record.fired, step.t1, step.y, after))
    return Logged(*(torch.cat(x) for x in zip(*parts, strict=True))) if parts else None


def _chosen(accept: Scalar, after: State, before: State) -> State:
    return tuple(choose(accept, new, old) for new, old in zip(after, before, strict=True))


def _behind(plan: Plan, record: Record, step: Step) -> State:
    """The state with which the solve went on behind a step."""
    memory = landed(plan, step, record.t_end)
    if record.fired is None or not any_true(record.fired.changed):
        return (step.y, *memory)
    assert plan.events is not None
    after = plan.events.change(record.fired, step.t1, step.y)
    return (after, *restarted(plan, record.fired.changed, step.t1, record.t_end, step.y, after, memory))


def _retake(plan: Plan, record: Record, state: State, clock: Tensor | None = None) -> Step:
    field, (t, t_end), (y, *rest) = _setting(plan, record, state)
    memory = tuple(rest)
    if clock is not None:
        t = select(both(record.standing, record.accept), clock, t)
        if record.fired is not None:
            assert plan.events is not None
            t_end = plan.events.live_time(record.fired, partial(arrived, plan, field, memory), t, t_end, y)
    return plan.method.step(field, t, t_end, y, memory, None, plan)


def _setting(plan: Plan, record: Record, state: State) -> tuple[VectorField, tuple[Scalar, Scalar], State]:
    """A recorded step's field, ends and state."""
    t, t_end, accept = record.t, record.t_end, record.accept
    first, last = record.index == 0, t_end == plan.t1
    if plan.per_sample:
        # Lanes that did not move take the step of a lane that did, and its result is thrown away: their own state may
        # be one from which the field is not finite, and 0 * NaN would reach the parameters.
        donor = accept.to(torch.int64).argmax().reshape(1)  # as an index of one row: a 0-d one is read by the host
        t, t_end = (select(accept, x, x.index_select(0, donor)) for x in (t, t_end))
        state = tuple(torch.where(spread(accept, x), x, x.index_select(0, donor)) for x in state)
        first, last = first & accept, last & accept
    field = plan.stops.one_sided(plan.field, t, t_end, state[0])
    return field, plan.ends(t, t_end, first, last), state
