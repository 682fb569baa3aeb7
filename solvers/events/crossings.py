"""Finding events inside an accepted step, cutting the step there, and going on behind it.

The loop calls :func:`observe` once at the start, :func:`cut` after each attempt and :func:`follow` after each settlement;
nothing else in the loop knows about events. Everything is written for lanes: shape ``()`` in a joint solve, ``(B,)`` with
``per_sample``; tables of events have one more dimension at the end. Decisions see constants only; what the graph must
know of a time is :meth:`Events.live_time`.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ..core.scalars import Scalar, any_true, as_clock, both, choose, negate, real_dtype, select
from ..core.status import Status
from ..errors import InvalidProblemError
from ..methods.base import Memory, VectorField
from ..stepping.attempt import RUNNING, Carry, Plan, Trial
from ..stepping.hand_over import map_cache, restarted
from .event_set import EventState, Fired
from .locate import Path, Place, hits_at, locate, quiet, search_step

# A function that has just fired and is zero again after so many units of rounding fires without end.
_ZENO = 16


class Seen(NamedTuple):
    """What the events of one trial come to."""

    signs: Tensor
    zero: Tensor
    fired: Fired | None = None
    after: Tensor | None = None
    """The state with which the solve goes on."""
    slope: Tensor | None = None
    """The field there, where it was called."""
    live: Tensor | None = None
    """The events' time in the graph."""
    calls: Scalar = 0
    """Calls of the field behind the step."""


def observe(plan: Plan, carry: Carry) -> Carry:
    """The carry before the first attempt, which knows on which side of zero every function starts."""
    events = plan.events
    if events is None or not events.cuts or not any_true(carry.status == RUNNING):
        return carry
    y, calls = carry.y.detach(), 0
    with torch.no_grad():
        known = carry.cache if isinstance(carry.cache, Tensor) else None
        slope = torch.zeros_like(y) if known is None else known
        signs, zero, quiet = events.sides(plan.t0, y, slope, plan.direction)
        if known is None and bool(quiet.any()):
            slope, calls = _slope_behind(plan, plan.t0, y), 1
            signs, zero, _ = events.sides(plan.t0, y, slope, plan.direction)
    standing = torch.zeros_like(plan.t0, dtype=torch.bool) if isinstance(plan.t0, Tensor) else False
    return carry._replace(events=EventState(signs, zero, standing), nfe=carry.nfe + calls)


def start_changes(plan: Plan, y0: Tensor) -> tuple[Tensor, Fired | None]:
    """The initial state after what is scheduled for the start, and what that is."""
    events = plan.events
    if events is None:
        return y0, None
    t0, t1 = (torch.as_tensor(t, dtype=torch.float64, device=y0.device) for t in (plan.t0, plan.t1))
    due = events.due(t0) & (t0 != t1).unsqueeze(-1)
    if not bool(due.any()):
        return y0, None
    happening = due.reshape(-1, len(events)).any(0).tolist()
    if any(flag and live is not None for flag, live in zip(happening, events.live, strict=True)):
        raise InvalidProblemError(
            "ts: got the start of the interval among times that require grad, where the solution does not depend on it "
            "smoothly; expected times behind the start, and what happens at the start in y0"
        )
    fired = fired_at(plan, due, due.to(torch.int64).argmax(-1))
    return events.change(fired, plan.ends(plan.t0, plan.t1, True, False)[0], y0), fired


def cut(plan: Plan, carry: Carry, trial: Trial) -> Trial:
    """The trial, ended at the first event in it."""
    events, state = plan.events, carry.events
    assert events is not None
    assert state is not None
    if not any_true(trial.accept):
        return trial._replace(events=Seen(state.signs, state.zero))
    with torch.no_grad():
        path = Path(events, trial)
        search = search_step(events, path, state, trial.accept)
        if search is None and not events.has_times:
            return trial._replace(events=Seen(state.signs, torch.zeros_like(state.zero)))
        accept = torch.as_tensor(trial.accept, device=path.t.device)
        due = torch.zeros_like(state.zero)
        if events.has_times:
            inside = path.t_end != as_clock(plan.t1)
            due = events.due(path.t_end) & (accept & inside).unsqueeze(-1)
        if search is None or not bool(search.found.any()):
            if not events.has_times or not bool(due.any()):
                signs = state.signs if search is None else search.signs[-1]
                return trial._replace(events=Seen(signs, torch.zeros_like(state.zero)))
            search = quiet(events, state) if search is None else search
        found = search.found.reshape(-1, len(events)).any(dim=0).tolist()
        place = locate(plan, carry, trial, path, search, found)
        jammed = place.cut & place.pick(state.zero) & ((place.t - path.t).abs() <= _ZENO * path.resolution)
        if bool(jammed.any()):
            return _stopped(plan, carry, trial, jammed)
        values = events.values(place.t, place.step.y.detach())
        hits, before = hits_at(events, path, search, place, values)
        due = due & (place.t == path.t_end).unsqueeze(-1)
        fired = fired_at(plan, hits | due, torch.where(place.cut, place.primary, events.first_due(due)))
        crossed = torch.where(values != 0, -before, 0.0)
        signs = torch.where(hits, crossed, torch.where((values != 0) & ~values.isnan(), values.sign(), before))
        which = [index for index, hit in enumerate(hits.reshape(-1, len(events)).any(0).tolist()) if hit]
        size = torch.maximum(path.start_values(which).abs(), path.end_values.abs())
        residual = values.abs() + 8 * torch.finfo(real_dtype(trial.step.y)).eps * size
    return _go_on(plan, carry, trial, place, fired, signs, residual, values)


def arrived(plan: Plan, field: VectorField, memory: Memory, t: Scalar, t_end: Scalar, y: Tensor) -> Tensor:
    """The state at the end of a step."""
    return plan.method.step(field, t, t_end, y, memory, None, plan).y


def _stopped(plan: Plan, carry: Carry, trial: Trial, lanes: Tensor) -> Trial:
    """The trial without lanes in which event follows event in no time; a step that ends where it starts is a failure.

    The other lanes try again.
    """
    assert carry.events is not None
    running = carry.status == RUNNING
    t_end = carry.t if plan.host else torch.where(lanes & running, carry.t, trial.t_end)
    accept = False if plan.host else torch.zeros_like(lanes)
    h = trial.h if plan.host else torch.where(lanes, trial.h, carry.h)
    seen = Seen(carry.events.signs, carry.events.zero)
    return trial._replace(t_end=t_end, accept=accept, h=h, events=seen)


def follow(plan: Plan, trial: Trial, carry: Carry) -> Carry:
    """The settled carry, moved behind the events of its last step."""
    seen, state = trial.events, carry.events
    assert seen is not None
    assert state is not None
    accept = trial.accept
    signs, zero = (choose(accept, new, old) for new, old in zip(seen[:2], state[:2], strict=True))
    standing = both(state.standing, negate(accept))
    fired = seen.fired
    if fired is None:
        live = state.live if trial.accept is False else None
        return carry._replace(events=EventState(signs, zero, standing, live))
    cache, memory, y = carry.cache, carry.memory, carry.y
    if seen.slope is not None:
        at = seen.slope if seen.after is None else seen.after
        known = plan.method.known(seen.slope, at, plan.per_sample)
        if plan.host:
            cache = known
        elif cache is not None:
            cache = map_cache(partial(choose, fired.changed), known, cache)
    if seen.after is not None:
        t = trial.t_end if seen.live is None else seen.live
        memory = restarted(plan, fired.changed, t, trial.t_end, y, seen.after, memory)
        y = choose(fired.mask, seen.after, y)
    return carry._replace(
        y=y,
        memory=memory,
        cache=cache,
        status=select(fired.ends, int(Status.EVENT), carry.status),
        nfe=carry.nfe + seen.calls,
        events=EventState(signs, zero, standing | fired.mask, seen.live),
    )


def fired_at(plan: Plan, hits: Tensor, primary: Tensor) -> Fired:
    """The events that ``hits`` flags, lanes first; the time of ``primary`` is that of them all."""
    events = plan.events
    assert events is not None
    ends = (hits & events.terminal).any(-1)
    changed = (hits & events.applies).any(-1) & ~ends
    mask = hits.any(-1)
    if plan.host:
        index = int(primary)
        return Fired(tuple(hits.tolist()), bool(mask), bool(ends), bool(changed), index, (index,), None)
    primary = torch.where(mask, primary, -1)
    which = tuple(index for index in primary.unique().tolist() if index >= 0)
    return Fired(hits, mask, ends, changed, primary, which, mask.nonzero().reshape(-1))


def _go_on(
    plan: Plan,
    carry: Carry,
    trial: Trial,
    place: Place,
    fired: Fired,
    signs: Tensor,
    residual: Tensor,
    values: Tensor,
) -> Trial:
    """The trial that ends at the events, and the state, slope and sides of zero behind them, in the graph if there is one."""
    events, step = plan.events, place.step
    assert events is not None
    t: Scalar = float(place.t) if plan.host else place.t
    if not plan.host:
        _ = trial.step.cache  # other lanes go on with it, and pay for it themselves
    calls = trial.step.calls + (int(place.calls) if plan.host else place.calls)
    live = None
    if plan.host and torch.is_grad_enabled():
        field = plan.stops.one_sided(plan.field, trial.t, t, carry.y)
        arrive = partial(arrived, plan, field, carry.memory)
        live = events.live_time(fired, arrive, trial.step.t0, t, carry.y)
        live = live if isinstance(live, Tensor) else None
        if live is not None or step is not trial.step:
            end = t if live is None else live
            step = plan.method.step(field, trial.step.t0, end, carry.y, carry.memory, trial.step.retry, plan)
    if step is not trial.step:
        if plan.host:
            step.calls = calls
        else:
            before, _ = step.calls, step.cache
            step.calls = calls + torch.where(place.cut, step.calls - before, 0)
    after = events.change(fired, t if live is None else live, step.y) if any_true(fired.changed) else None
    here = step.y if after is None else after
    goes_on = both(both(fired.mask, negate(fired.ends)), negate(t == plan.t1))
    slope: Tensor | None = None
    behind: Scalar = 0
    zero = torch.zeros_like(signs, dtype=torch.bool)
    if any_true(goes_on):
        kept = None if plan.host and fired.changed else step.end_slope
        if kept is None or any_true(fired.changed):
            slope = _slope_behind(plan, t, here, live)
            behind = select(goes_on if kept is None else both(goes_on, fired.changed), 1, 0)
        with torch.no_grad():
            known = slope if kept is None else kept if slope is None else choose(fired.changed, slope, kept)
            assert known is not None
            if step is not place.step:  # the same step in the graph may round otherwise
                values = events.values(t, step.y.detach())
                residual = torch.maximum(residual, values.abs())
            signs, zero = _sides_behind(
                plan, fired, t, here, known, signs, residual, None if after is not None else values
            )
    seen = Seen(signs, zero, fired, after, slope, live, behind)
    restarts = plan.host and bool(fired.changed or slope is not None or not goes_on)
    return trial._replace(step=step, t_end=t, events=seen, restarts=restarts)


def _sides_behind(
    plan: Plan,
    fired: Fired,
    t: Scalar,
    here: Tensor,
    slope: Tensor,
    signs: Tensor,
    residual: Tensor,
    values: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The sides of zero behind the events: new for functions that have fired, and for all where the state was changed."""
    events = plan.events
    assert events is not None
    hits = torch.tensor(fired.hits, device=signs.device) if isinstance(fired.hits, tuple) else fired.hits
    fresh = hits | torch.as_tensor(fired.changed, device=signs.device).unsqueeze(-1)
    wanted = fresh.reshape(-1, len(events)).any(0).nonzero().reshape(-1).tolist()
    left = torch.where(hits, residual, 0.0)
    new, zero, _ = events.sides(t, here.detach(), slope.detach(), plan.direction, left, wanted, values)
    anew = (hits & zero) | torch.as_tensor(fired.changed, device=signs.device).unsqueeze(-1)
    return torch.where(anew, new, signs), zero & anew


def _slope_behind(plan: Plan, t: Scalar, y: Tensor, live: Tensor | None = None) -> Tensor:
    """The field at a time from which the solve goes on."""
    stop = plan.stops.after(t, plan.t1, plan.direction)
    return plan.stops.one_sided(plan.field, t, stop, y)(t if live is None else live, y)
