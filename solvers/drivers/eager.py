"""The eager loop: attempt, listen, settle, until every lane has arrived or failed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..core.scalars import Scalar, any_true, maximum, minimum
from ..events.crossings import cut, follow, observe
from ..stepping.attempt import RUNNING, TIME_RESOLUTION, Carry, Plan, Trial, attempt, begin, settle
from ..terms.base import Term


class Listener(Protocol):
    """Something that hears of every attempt, before the carry moves."""

    def __call__(self, plan: Plan, carry: Carry, trial: Trial) -> None:
        """Hear of one judged attempt."""


def start(
    plan: Plan,
    y0: Tensor,
    dt: Scalar | None,
    slope: Tensor | None = None,
    costs: tuple[tuple[Tensor, ...], ...] | None = None,
) -> Carry:
    """The first carry: the field at the start, unless it was called there already, and a first step size if none is given."""
    if plan.host and plan.t0 == plan.t1:
        return begin(plan, y0, None, 0.0, 0 if slope is None else 1, costs)
    estimate = dt is None and plan.controller.adaptive
    carried = plan.field.chains and (plan.host or (plan.method.fsal and not plan.stops.breaks))
    calls = 0 if slope is None else 1
    if not plan.field.chains:
        slope = None
    if slope is None and (estimate or carried):
        slope, calls = _first_slope(plan, y0), calls + 1
    if estimate:
        assert slope is not None
        stop = plan.stops.after(plan.t0, plan.t1, plan.direction)
        field = plan.stops.one_sided(plan.field, plan.t0, stop, y0)
        longest = minimum(abs(stop - plan.t0), plan.controller.dtmax)
        with nullcontext() if plan.through_steps else torch.no_grad():
            t0 = plan.ends(plan.t0, plan.t1, True, False)[0] if plan.through_steps else plan.t0
            h = first_step(plan, field, t0, y0, slope, longest)
        h = maximum(h, abs(plan.t0) * TIME_RESOLUTION)
        calls += 1
    else:
        span = abs(plan.t1 - plan.t0)
        h = span if dt is None else 0.0 * span + dt
    h = minimum(maximum(h, plan.controller.dtmin), plan.controller.dtmax)
    # A lane may carry the end slope of one step into the next only where no discontinuity can lie between them.
    return begin(plan, y0, plan.method.known(slope if carried else None, y0, plan.per_sample), h, calls, costs)


def first_step(plan: Plan, field: Term, t: Scalar, state: Tensor, slope: Tensor, longest: Scalar) -> Scalar:
    """A step size to begin with at ``(t, state)``, for one more call of the field."""
    return field.first_step(t, state, slope, plan.direction, longest, plan.method.error_order, plan.norm_at(state))


def _first_slope(plan: Plan, y0: Tensor) -> Tensor:
    first, _ = plan.ends(plan.t0, plan.t1, True, False)
    stop = plan.stops.after(plan.t0, plan.t1, plan.direction)
    return plan.stops.one_sided(plan.field, plan.t0, stop, y0)(first, y0)


class Recording(Protocol):
    """Something that has steps recorded by autograd as they are taken."""

    def before(self, plan: Plan, carry: Carry, rows: Tensor | None) -> Carry:
        """The carry from which the next attempt starts."""

    def after(self, trial: Trial, carry: Carry) -> None:
        """Hear of the carry behind it, of which no event is in the graph."""


def run(
    plan: Plan,
    carry: Carry,
    listeners: Sequence[Listener] = (),
    compact: bool = False,
    recording: Recording | None = None,
) -> Carry:
    """Attempt steps until no lane is running; with ``compact``, finished samples leave the working rows."""
    whole, rows = plan, None
    finished: list[tuple[Tensor, Carry]] = []
    if plan.events is not None:
        carry = observe(plan, carry)
    while any_true(carry.status == RUNNING):
        if compact:
            carry, rows, fewer = _drop_finished(carry, rows, finished)
            plan = whole.take(rows) if fewer and rows is not None else plan
        if recording is None:
            carry, _ = _advance(plan, carry, rows, listeners)
            continue
        carry = recording.before(plan, carry, rows)
        carry, trial = _advance(plan, carry, rows, listeners, torch.no_grad())
        recording.after(trial, carry)
    return _reunite(carry, rows, finished) if finished else carry


def _advance(
    plan: Plan,
    carry: Carry,
    rows: Tensor | None,
    listeners: Sequence[Listener],
    at_events: AbstractContextManager[Any] | None = None,
) -> tuple[Carry, Trial]:
    """One attempt, and the carry behind it; ``at_events`` surrounds the search for events."""
    trial = attempt(plan, carry, rows)
    cuts = plan.events is not None and plan.events.cuts
    if cuts:
        with nullcontext() if at_events is None else at_events:
            trial = cut(plan, carry, trial)
    for listener in listeners:
        listener(plan, carry, trial)
    carry = settle(plan, carry, trial)
    if cuts:
        carry = follow(plan, trial, carry)
    return carry, trial


def _take(tree: Any, index: Tensor) -> Any:
    """The given lanes of everything that has lanes."""
    return pytree.tree_map(lambda x: x[index] if isinstance(x, Tensor) and x.dim() else x, tree)


def _drop_finished(
    carry: Carry, rows: Tensor | None, finished: list[tuple[Tensor, Carry]]
) -> tuple[Carry, Tensor | None, bool]:
    """Put the lanes that have stopped aside and go on with the others; the last says whether there were any."""
    stopped = carry.status != RUNNING
    if not any_true(stopped):
        return carry, rows, False
    done, going = stopped.nonzero().reshape(-1), (~stopped).nonzero().reshape(-1)
    rows = torch.arange(len(stopped), device=stopped.device) if rows is None else rows
    finished.append((rows[done], _take(carry, done)))
    return _take(carry, going), rows[going], True


def _reunite(carry: Carry, rows: Tensor | None, finished: list[tuple[Tensor, Carry]]) -> Carry:
    """All lanes in their places again."""
    assert rows is not None
    parts = [*finished, (rows, carry)]
    place = torch.argsort(torch.cat([where for where, _ in parts]))

    def join(*pieces: Any) -> Any:
        return torch.cat(pieces)[place] if isinstance(pieces[0], Tensor) and pieces[0].dim() else pieces[0]

    return pytree.tree_map(join, *[part for _, part in parts])
