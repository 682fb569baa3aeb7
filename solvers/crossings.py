"""Finding events inside an accepted step, cutting the step there, and going on behind it.

The loop calls :func:`observe` once at the start, :func:`cut` after each attempt and :func:`follow` after each settlement;
nothing else in the loop knows about events. Everything is written for lanes: shape ``()`` in a joint solve, ``(B,)`` with
``per_sample``; tables of events have one more dimension at the end. Decisions see constants only; what the graph must
know of a time is :meth:`Events.live_time`.
"""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from .attempt import RUNNING, Carry, Plan, Trial
from .brackets import find_root
from .errors import InvalidProblemError
from .events import Events, EventState, Fired
from .method import Step
from .scalars import Scalar, any_true, both, choose, negate, real_dtype, select, spread
from .solution import Status

# Newton steps on the retaken step. Two are usual; each one cuts what is left by many digits or is the last.
_REFINEMENTS = 6
# Events closer than this many units of rounding are at the same time.
_TOGETHER = 64
# A function that has just fired and is zero again after so many units of rounding fires without end.
_ZENO = 16
# Where to take the difference quotient of an event's function, relative to the step.
_DELTA = 1e-3


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
    if events is None or not any_true(carry.status == RUNNING):
        return carry
    y, calls = carry.y.detach(), 0
    with torch.no_grad():
        slope = torch.zeros_like(y) if carry.slope is None else carry.slope
        signs, zero, quiet = events.sides(plan.t0, y, slope, plan.direction)
        if carry.slope is None and bool(quiet.any()):
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
    fired = _fired(plan, due, due.to(torch.int64).argmax(-1))
    return events.change(fired, plan.ends(plan.t0, plan.t1, True, False)[0], y0), fired


def cut(plan: Plan, carry: Carry, trial: Trial) -> Trial:
    """The trial, ended at the first event in it."""
    events, state = plan.events, carry.events
    assert events is not None
    assert state is not None
    if not any_true(trial.accept):
        return trial._replace(events=Seen(state.signs, state.zero))
    with torch.no_grad():
        path = _Path(plan, trial)
        accept = torch.as_tensor(trial.accept, device=path.t.device)
        search = _search(events, path, state, accept)
        found = search.found.reshape(-1, len(events)).any(dim=0).tolist()
        due = events.due(path.t_end) & (accept & (path.t_end != torch.as_tensor(plan.t1))).unsqueeze(-1)
        if not any(found) and not bool(due.any()):
            return trial._replace(events=Seen(search.signs[-1], torch.zeros_like(state.zero)))
        place = _locate(plan, carry, trial, path, search, found)
        jammed = place.cut & place.pick(state.zero) & ((place.t - path.t).abs() <= _ZENO * path.resolution)
        if bool(jammed.any()):
            return _stopped(plan, carry, trial, jammed)
        values = events.values(place.t, place.step.y.detach())
        hits, before = _hits(events, path, search, place, values)
        due = due & (place.t == path.t_end).unsqueeze(-1)
        fired = _fired(plan, hits | due, torch.where(place.cut, place.primary, due.to(torch.int64).argmax(-1)))
        crossed = torch.where(values != 0, -before, 0.0)
        signs = torch.where(hits, crossed, torch.where((values != 0) & ~values.isnan(), values.sign(), before))
        size = torch.maximum(path.values(0.0).abs(), path.values(1.0).abs())
        residual = values.abs() + 8 * torch.finfo(real_dtype(trial.step.y)).eps * size
    return _go_on(plan, carry, trial, place, fired, signs, residual)


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
    slope = carry.slope
    if seen.slope is not None:
        slope = seen.slope if plan.host else None if slope is None else choose(fired.changed, seen.slope, slope)
    return carry._replace(
        y=carry.y if seen.after is None else choose(fired.mask, seen.after, carry.y),
        slope=slope,
        status=select(fired.ends, int(Status.EVENT), carry.status),
        nfe=carry.nfe + seen.calls,
        events=EventState(signs, zero, standing | fired.mask, seen.live),
    )


class _Path:
    """The dense output of a step, without a graph, as the functions of the events see it."""

    def __init__(self, plan: Plan, trial: Trial) -> None:
        assert plan.events is not None
        self.events, self.step = plan.events, trial.step
        device = trial.step.y.device
        self.t, self.t_end = (torch.as_tensor(t, dtype=torch.float64, device=device) for t in (trial.t, trial.t_end))
        self.length = self.t_end - self.t

    @cached_property
    def coefficients(self) -> list[Tensor]:
        """The interpolant, computed when it is first needed."""
        return [coefficient.detach() for coefficient in self.step.polynomial()]

    def at(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Time and state at a relative time of each lane."""
        y0 = self.step.y0.detach()
        value, factor = torch.zeros_like(y0), spread(theta, y0)
        for coefficient in reversed(self.coefficients):
            value = (value + coefficient) * factor
        return torch.where(theta == 1.0, self.t_end, self.t + theta * self.length), y0 + value

    def values(self, theta: float | Tensor) -> Tensor:
        """Every function there."""
        if isinstance(theta, float) and theta == 1.0:
            return self.events.values(self.t_end, self.step.y.detach())
        return self.events.values(
            *self.at(torch.as_tensor(theta, dtype=torch.float64, device=self.t.device).expand_as(self.t))
        )

    def value(self, index: int, theta: Tensor) -> Tensor:
        """One function there."""
        return self.events.value(index, *self.at(theta))

    def inside(self, t: Tensor) -> Tensor:
        """The time, kept between the ends, and away from the start, because a step without length is none."""
        eps = torch.finfo(torch.float64).eps
        least = torch.minimum(torch.maximum(2 * eps * self.t.abs(), eps**2 * self.length.abs()), self.length.abs())
        least = self.t + least * self.length.sign()
        low, high = torch.minimum(least, self.t_end), torch.maximum(least, self.t_end)
        return torch.minimum(torch.maximum(t, low), high)

    @property
    def resolution(self) -> Tensor:
        """The smallest difference in time that rounding leaves a meaning."""
        return self.resolution_at(self.t_end)

    def resolution_at(self, t: Tensor) -> Tensor:
        """The same for a step that ends at ``t``."""
        eps = torch.finfo(real_dtype(self.step.y)).eps
        return eps * (t - self.t).abs() + torch.finfo(torch.float64).eps * t.abs()


class _Search(NamedTuple):
    """Where between the probes every function first crosses zero."""

    thetas: list[float]
    signs: list[Tensor]
    """The side of zero at the start and at each of ``thetas``."""
    found: Tensor
    left: Tensor
    right: Tensor


def _search(events: Events, path: _Path, state: EventState, accept: Tensor) -> _Search:
    thetas = [*((k + 1) / (events.probes + 1) for k in range(events.probes)), 1.0]
    trail = [state.signs]
    found = torch.zeros_like(state.zero)
    left, right = torch.zeros_like(state.signs), torch.ones_like(state.signs)
    for before, theta in zip([0.0, *thetas[:-1]], thetas, strict=True):
        signs, values = trail[-1], path.values(theta)
        crossed = events.allowed(signs) & (signs * values <= 0) & ~found & accept.unsqueeze(-1)
        left, right = torch.where(crossed, before, left), torch.where(crossed, theta, right)
        found = found | crossed
        trail.append(torch.where((values != 0) & ~values.isnan(), values.sign(), signs))
    return _Search(thetas, trail, found, left, right)


class _Place(NamedTuple):
    """Where the step is cut."""

    cut: Tensor
    """The lanes that are."""
    t: Tensor
    """Where the step ends now: at its first root, or where it ended before."""
    theta: Tensor
    roots: Tensor
    """The relative time of every function's root, infinite where there is none."""
    primary: Tensor
    step: Step
    """The step up to there, without a graph."""
    calls: Scalar
    """How often the field was called for it, beside the first attempt."""

    def pick(self, table: Tensor) -> Tensor:
        """The entry of every lane's first function."""
        return table.gather(-1, self.primary.unsqueeze(-1)).squeeze(-1)


def _locate(plan: Plan, carry: Carry, trial: Trial, path: _Path, search: _Search, found: list[bool]) -> _Place:
    """The first root of any function: on the dense output, then on the step itself."""
    assert carry.events is not None
    roots = torch.full_like(search.left, torch.inf)
    for index in (i for i, one in enumerate(found) if one):
        start = path.value(index, torch.zeros_like(path.t))
        root = _root(path, index, search, carry.events.zero[..., index], start)
        roots[..., index] = torch.where(search.found[..., index], root, torch.inf)
    theta, primary = roots.min(dim=-1)
    if not any(found):
        return _Place(theta < 0, path.t_end, theta, roots, primary, trial.step, torch.zeros_like(primary))
    return _refine(plan, carry, trial, path, theta, roots, primary)


def _root(path: _Path, index: int, search: _Search, zero: Tensor, start: Tensor) -> Tensor:
    """One function's root on the dense output, in relative time.

    A function that is zero at the start of the step, where it has just fired, say, is divided by the relative time:
    what is left has only the roots behind it.
    """
    left, right = search.left[..., index], search.right[..., index]
    signs = search.signs[0][..., index]
    for theta, trail in zip(search.thetas, search.signs[1:], strict=True):
        signs = torch.where(left >= theta, trail[..., index], signs)

    def value(theta: Tensor) -> Tensor:
        g = path.value(index, theta)
        return torch.where(zero, (g - start) / torch.where(zero, theta, 1.0), g)

    high = value(right)
    low = torch.where(zero & (left == 0), high.abs(), path.value(index, left).abs())
    low = signs * torch.where(low > 0, low, 1.0)
    together = path.resolution / torch.where(path.length == 0, 1.0, path.length).abs()
    return find_root(value, left, right, low, high, together)


def _refine(
    plan: Plan, carry: Carry, trial: Trial, path: _Path, theta: Tensor, roots: Tensor, primary: Tensor
) -> _Place:
    """Take the step again up to the root, and move the root until the function is zero at the end of that step."""
    events = plan.events
    assert events is not None

    def pick(values: Tensor) -> Tensor:
        return values.gather(-1, primary.unsqueeze(-1)).squeeze(-1)

    is_cut = theta.isfinite()
    theta = torch.where(is_cut, theta, 1.0)
    rise = pick(path.values(theta + _DELTA)) - pick(path.values(theta - _DELTA))
    rate = rise / (2 * _DELTA * torch.where(path.length == 0, 1.0, path.length))
    t = torch.where(is_cut & (theta < 1.0), path.t + theta * path.length, path.t_end)
    t = path.inside(t)
    step, t_step, calls = trial.step, path.t_end, torch.zeros_like(path.t, dtype=torch.int64)

    def retake(t: Tensor, active: Tensor) -> Step:
        nonlocal calls
        again = _retake(plan, carry, trial, t)
        calls = calls + torch.where(active, again.calls, 0)
        return again

    if bool((t != t_step).any()):
        step, t_step = retake(t, is_cut & (t != path.t_end)), t
    g = pick(events.values(t, step.y.detach()))
    active = is_cut
    for _ in range(_REFINEMENTS):
        move = -g / rate
        active = active & move.isfinite() & (move.abs() > path.resolution_at(t))
        if not bool(active.any()):
            break
        moved = torch.where(active, path.inside(t + move), t)
        again = retake(moved, active)
        residual = pick(events.values(moved, again.y.detach()))
        active = active & (residual.abs() < g.abs())
        t, g = torch.where(active, moved, t), torch.where(active, residual, g)
        if bool((t == moved).all()):
            step, t_step = again, moved
    if bool((t != t_step).any()):  # lanes that stopped earlier than others
        step = _retake(plan, carry, trial, t)
    return _Place(is_cut, t, theta, roots, primary, step, calls)


def _retake(plan: Plan, carry: Carry, trial: Trial, t_end: Tensor) -> Step:
    """The attempt's step again, to another end."""
    end: Scalar = t_end.item() if plan.host else t_end
    field = plan.stops.one_sided(plan.field, trial.t, end, carry.y)
    return plan.method.step(field, trial.step.t0, end, carry.y, trial.step.first_slope)


def _hits(events: Events, path: _Path, search: _Search, place: _Place, values: Tensor) -> tuple[Tensor, Tensor]:
    """Which functions have their roots where the step is cut, and on which side of zero each one was just before."""
    before = search.signs[0]
    for theta, signs in zip(search.thetas, search.signs[1:], strict=True):
        before = torch.where((place.theta > theta).unsqueeze(-1), signs, before)
    eps = torch.finfo(real_dtype(path.step.y)).eps
    near = _TOGETHER * eps * torch.maximum(path.t_end.abs(), path.length.abs())
    near = place.theta + near / torch.where(path.length == 0, 1.0, path.length).abs()
    # Another root may lie before this one on the step itself, though it lay behind on the dense output.
    crossed = events.allowed(before) & (before * values < 0)
    return place.cut.unsqueeze(-1) & ((place.roots <= near.unsqueeze(-1)) | crossed), before


def _fired(plan: Plan, hits: Tensor, primary: Tensor) -> Fired:
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
    plan: Plan, carry: Carry, trial: Trial, place: _Place, fired: Fired, signs: Tensor, residual: Tensor
) -> Trial:
    """The trial that ends at the events, and the state, slope and sides of zero behind them, in the graph if there is one."""
    events, step = plan.events, place.step
    assert events is not None
    t: Scalar = float(place.t) if plan.host else place.t
    if not plan.host:
        _ = trial.step.end_slope  # other lanes go on with it, and pay for it themselves
    calls = trial.step.calls + (int(place.calls) if plan.host else place.calls)
    live = None
    if plan.host and torch.is_grad_enabled():
        field = plan.stops.one_sided(plan.field, trial.t, t, carry.y)
        live = events.live_time(plan, fired, field, trial.step.t0, t, carry.y)
        live = live if isinstance(live, Tensor) else None
        if live is not None or step is not trial.step:
            end = t if live is None else live
            step = plan.method.step(field, trial.step.t0, end, carry.y, trial.step.first_slope)
    if step is not trial.step:
        if plan.host:
            step.calls = calls
        else:
            before, _ = step.calls, step.end_slope
            step.calls = calls + torch.where(place.cut, step.calls - before, 0)
    after = events.change(fired, t if live is None else live, step.y) if any_true(fired.changed) else None
    here = step.y if after is None else after
    goes_on = both(both(fired.mask, negate(fired.ends)), negate(t == plan.t1))
    slope: Tensor | None = None
    zero, behind = torch.zeros_like(signs, dtype=torch.bool), 0
    if any_true(goes_on):
        kept = None if plan.host and fired.changed else step.end_slope
        if kept is None or any_true(fired.changed):
            slope = _slope_behind(plan, t, here, live)
            behind = select(goes_on if kept is None else both(goes_on, fired.changed), 1, 0)
        with torch.no_grad():
            known = slope if kept is None else kept if slope is None else choose(fired.changed, slope, kept)
            assert known is not None
            if step is not place.step:  # the same step in the graph may round otherwise
                residual = torch.maximum(residual, events.values(t, step.y.detach()).abs())
            signs, zero = _sides_behind(plan, fired, t, here, known, signs, residual)
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
) -> tuple[Tensor, Tensor]:
    """The sides of zero behind the events: new for functions that have fired, and for all where the state was changed."""
    events = plan.events
    assert events is not None
    hits = torch.tensor(fired.hits, device=signs.device) if isinstance(fired.hits, tuple) else fired.hits
    new, zero, _ = events.sides(t, here.detach(), slope.detach(), plan.direction, torch.where(hits, residual, 0.0))
    anew = (hits & zero) | torch.as_tensor(fired.changed, device=signs.device).unsqueeze(-1)
    return torch.where(anew, new, signs), zero & anew


def _slope_behind(plan: Plan, t: Scalar, y: Tensor, live: Tensor | None = None) -> Tensor:
    """The field at a time from which the solve goes on."""
    stop = plan.stops.after(t, plan.t1, plan.direction)
    return plan.stops.one_sided(plan.field, t, stop, y)(t if live is None else live, y)
