"""Where events lie in an accepted step: brackets between probes, roots on the dense output, then on the step itself.

Nothing here is in a graph. Shapes are those of lanes, ``()`` or ``(B,)``; tables of events have one more dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..core.legendre import evaluate
from ..core.scalars import Scalar, as_clock, leading, real_dtype, shaped
from ..methods.base import Step
from ..stepping.attempt import Carry, Plan, Trial
from .bracketing import find_root, on_host
from .event_set import Events, EventState

# Newton steps on the retaken step. Two are usual; each one cuts what is left by many digits or is the last.
_REFINEMENTS = 6
# Newton steps that leave more than this part go on by the slope between the last two of them.
_CRAWL = 1e-3
# Events closer than this many units of rounding are at the same time.
TOGETHER = 64
# Where to take the difference quotient of an event's function, relative to the step.
_DELTA = 1e-3


class Path:
    """The dense output of a step, without a graph, as the functions of the events see it."""

    def __init__(self, events: Events, trial: Trial) -> None:
        self.events, self.step = events, trial.step
        self.clock = trial.t, trial.t_end
        self._end_values: Tensor | None = None
        self._start_values: dict[tuple[int, ...], Tensor] = {}

    @cached_property
    def t(self) -> Tensor:
        """Where the step starts."""
        return as_clock(self.clock[0], self.step.y.device)

    @cached_property
    def t_end(self) -> Tensor:
        """Where it ends."""
        return as_clock(self.clock[1], self.step.y.device)

    @cached_property
    def length(self) -> Tensor:
        """How long it is, with its sign."""
        return self.t_end - self.t

    @cached_property
    def coefficients(self) -> list[Tensor]:
        """The interpolant, computed when it is first needed."""
        return [coefficient.detach() for coefficient in self.step.polynomial()]

    def at(self, theta: Tensor) -> tuple[Scalar, Tensor]:
        """Time and state at a relative time of each lane."""
        y0 = self.step.y0.detach()
        if not isinstance(self.clock[0], Tensor):
            (t, t_end), part = self.clock, theta.item()
            return t_end if part == 1.0 else t + part * (t_end - t), evaluate(part, y0, self.coefficients)
        value = evaluate(shaped(theta, y0), y0, self.coefficients)
        return torch.where(theta == 1.0, self.t_end, self.t + theta * self.length), value

    @property
    def end_values(self) -> Tensor:
        """Every function at the end of the step."""
        if self._end_values is None:
            self._end_values = self.events.values(self.clock[1], self.step.y.detach())
        return self._end_values

    def start_values(self, wanted: Sequence[int]) -> Tensor:
        """Every function at its start; 1 for all beside those that are ``wanted``."""
        key = tuple(wanted)
        if key not in self._start_values:
            self._start_values[key] = self.events.values(self.clock[0], self.step.y0.detach(), wanted)
        return self._start_values[key]

    def probed(self, thetas: tuple[float, ...]) -> Tensor:
        """Every function at relative times between the ends, and behind them at the end; nothing is recorded."""
        y, (t, t_end) = self.step.y.detach(), self.clock
        points = [*(t + theta * (t_end - t) for theta in thetas), t_end]
        if isinstance(t, Tensor):
            times = leading(torch.stack(points), 1 + y.dim() if t.dim() else 1, real_dtype(y))
        else:
            times = torch.tensor(points, dtype=real_dtype(y), device=y.device)
        ys = y.unsqueeze(0)
        if thetas:
            ys = torch.cat([self.step.at_each(thetas).detach(), ys])
        values = self.events.functions.values_at(times, ys)
        self._end_values = values[-1]
        return values

    def value(self, index: int, theta: Tensor) -> Tensor:
        """One function there."""
        return self.events.value(index, *self.at(theta))

    @cached_property
    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        """Its start and its end on the host."""
        t, t_end = (on_host(t) if isinstance(t, Tensor) else np.float64(t) for t in self.clock)
        return t, t_end

    def inside(self, t: np.ndarray) -> np.ndarray:
        """The time, kept between the ends, and away from the start, because a step without length is none."""
        eps, (start, end) = torch.finfo(torch.float64).eps, self.ends
        length = end - start
        least = np.minimum(np.maximum(2 * eps * abs(start), eps**2 * abs(length)), abs(length))
        least = start + least * np.sign(length)
        return np.minimum(np.maximum(t, np.minimum(least, end)), np.maximum(least, end))

    @property
    def resolution(self) -> Tensor:
        """The smallest difference in time that rounding leaves a meaning."""
        return torch.as_tensor(self.resolution_at(self.ends[1]), dtype=torch.float64, device=self.step.y.device)

    def resolution_at(self, t: np.ndarray) -> np.ndarray:
        """The same for a step that ends at ``t``."""
        eps = torch.finfo(real_dtype(self.step.y)).eps
        return eps * abs(t - self.ends[0]) + torch.finfo(torch.float64).eps * abs(t)


class Search(NamedTuple):
    """Where between the probes every function first crosses zero."""

    thetas: list[float]
    signs: list[Tensor]
    """The side of zero at the start and at each of ``thetas``."""
    found: Tensor
    left: Tensor
    right: Tensor
    side: np.ndarray
    """The side of zero at ``left``, on the host as the values that are known of the brackets' ends are."""
    f_left: np.ndarray
    """The values at ``left``, NaN at the start of the step."""
    f_right: np.ndarray


def quiet(events: Events, state: EventState) -> Search:
    """The search of a step without a change of sign."""
    thetas = [*events.inner, 1.0]
    left, right = torch.zeros_like(state.signs), torch.ones_like(state.signs)
    none = on_host(left)
    found = torch.zeros_like(state.zero)
    return Search(thetas, [state.signs] * (len(thetas) + 1), found, left, right, none, none, none)


def search_step(events: Events, path: Path, state: EventState, accept: Scalar) -> Search | None:
    """The first change of sign of every function, between two neighbouring probes; None where there is no change.

    All values are read by the host at once: there are many of them, and most steps have no event.
    """
    inner = events.inner
    values, signs = (on_host(x) for x in (path.probed(inner), state.signs))
    if (values * signs).min() > 0:
        return None
    thetas, trail, flags = [*inner, 1.0], [signs], on_host(torch.as_tensor(accept, dtype=torch.bool))[..., None]
    directions = on_host(events.directions)
    found, left, right = np.zeros(signs.shape, dtype=bool), np.zeros(signs.shape), np.ones(signs.shape)
    last, side = np.full(signs.shape, np.nan), signs
    f_left, f_right = last, last
    for before, theta, now in zip([0.0, *inner], thetas, values, strict=True):
        signs = trail[-1]
        allowed = (signs != 0) & ((directions == 0) | (directions * signs < 0))
        crossed = allowed & (signs * now <= 0) & ~found & flags
        left, right = np.where(crossed, before, left), np.where(crossed, theta, right)
        f_left, f_right = np.where(crossed, last, f_left), np.where(crossed, now, f_right)
        side, last = np.where(crossed, signs, side), now
        found = found | crossed
        trail.append(np.where((now != 0) & ~np.isnan(now), np.sign(now), signs))
    device = path.t.device
    tables = [torch.from_numpy(x).to(device) for x in (found, left, right, *trail)]
    return Search(thetas, tables[3:], tables[0], tables[1], tables[2], side, f_left, f_right)


class Place(NamedTuple):
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


def locate(plan: Plan, carry: Carry, trial: Trial, path: Path, search: Search, found: list[bool]) -> Place:
    """The first root of any function: on the dense output, then on the step itself."""
    assert carry.events is not None
    roots = torch.full_like(search.left, torch.inf)
    left = sorted((i for i, one in enumerate(found) if one), key=lambda i: search.left[..., i].min().item())
    while left:
        index, zero = left.pop(0), carry.events.zero
        root = _root(path, index, search, zero[..., index])
        roots[..., index] = torch.where(search.found[..., index], root, torch.inf)
        if plan.host and left:  # only the first root counts
            left = _not_later(path, search, root, left, zero)
    theta, primary = roots.min(dim=-1)
    if not any(found):
        return Place(theta < 0, path.t_end, theta, roots, primary, trial.step, torch.zeros_like(primary))
    return _refine(plan, carry, trial, path, theta, roots, primary)


def _not_later(path: Path, search: Search, root: Tensor, others: list[int], zero: Tensor) -> list[int]:
    """Those of the other functions that may have a root up to ``root``, or at the same time."""
    limit = root + 2 * _together(path)
    if limit >= 1.0:
        return others
    values = path.events.values(*path.at(limit), others).tolist()
    begin, end, stop = search.left.tolist(), search.right.tolist(), limit.item()
    sides = [signs.tolist() for signs in search.signs]

    def early(index: int) -> bool:
        if begin[index] >= stop or end[index] <= stop or zero[index]:
            return begin[index] < stop
        place = 0 if begin[index] == 0.0 else search.thetas.index(begin[index]) + 1
        return not sides[place][index] * values[index] > 0

    return [index for index in others if early(index)]


def _together(path: Path) -> Tensor:
    """How close, relative to the step, two roots are at the same time."""
    # In units of the step, in which the state is rounded: the clock itself is float64, however late it is.
    return TOGETHER * path.resolution / torch.where(path.length == 0, 1.0, path.length).abs()


def _root(path: Path, index: int, search: Search, zero: Tensor) -> Tensor:
    """One function's root on the dense output, in relative time.

    A function that is zero at the start of the step, where it has just fired, say, is divided by the relative time:
    what is left has only the roots behind it.
    """
    left, right, device = search.left[..., index], search.right[..., index], path.step.y.device
    divided = on_host(zero)
    some, start = bool(divided.any()), path.start_values([index])[..., index]

    def value(theta: Tensor) -> Tensor:
        g = path.value(index, theta)
        return torch.where(zero, (g - start) / torch.where(zero, theta, 1.0), g) if some else g

    first, begin, high = on_host(start), on_host(left), search.f_right[..., index]
    if some:
        high = np.where(divided, (high - first) / np.where(divided, on_host(right), 1.0), high)
    low = abs(np.where(begin == 0.0, np.where(divided, high, first), search.f_left[..., index]))
    low = search.side[..., index] * np.where(low > 0, low, 1.0)
    t, t_end = path.ends
    together = path.resolution_at(t_end) / np.where(t_end == t, 1.0, abs(t_end - t))
    f_left, f_right, tol = (torch.as_tensor(x, dtype=torch.float64, device=device) for x in (low, high, together))
    return find_root(value, left, right, f_left, f_right, tol)


def _refine(plan: Plan, carry: Carry, trial: Trial, path: Path, theta: Tensor, roots: Tensor, primary: Tensor) -> Place:
    """Take the step again up to the root, and move the root until the function is zero at the end of that step."""
    events, device = plan.events, path.step.y.device
    assert events is not None
    is_cut = theta.isfinite()
    theta = torch.where(is_cut, theta, 1.0)
    t0, t1 = path.ends
    rise = events.picked(primary, *path.at(theta + _DELTA)) - events.picked(primary, *path.at(theta - _DELTA))
    rate = on_host(rise) / (2 * _DELTA * np.where(t1 == t0, 1.0, t1 - t0))
    # On the host, as the brackets are.
    active, part = on_host(is_cut), on_host(theta)
    t = path.inside(np.where(active & (part < 1.0), t0 + part * (t1 - t0), t1))
    step, t_step, calls = trial.step, t1, torch.zeros_like(theta, dtype=torch.int64)

    def retake(t: np.ndarray, active: np.ndarray) -> Step:
        nonlocal calls
        again = _retake(plan, carry, trial, t)
        calls = calls + torch.where(torch.as_tensor(active, dtype=torch.bool, device=device), again.calls, 0)
        return again

    def value(t: np.ndarray, step: Step) -> np.ndarray:
        return on_host(events.picked(primary, _clock(plan, t, device), step.y.detach()))

    if (t != t_step).any():
        step, t_step = retake(t, active & (t != t1)), t
    g = value(t, step)
    for _ in range(_REFINEMENTS):
        with np.errstate(all="ignore"):
            move = -g / rate
        active = active & np.isfinite(move) & (abs(move) > path.resolution_at(t))
        if not active.any():
            break
        moved = np.where(active, path.inside(t + move), t)
        again = retake(moved, active)
        residual = value(moved, again)
        active = active & (abs(residual) < abs(g))
        # A dense output of low order has another slope than the step's own end, by which the iteration would crawl.
        crawls = active & (abs(residual) > _CRAWL * abs(g)) & (abs(moved - t) > path.resolution_at(t) / _CRAWL)
        rate = np.where(crawls, (residual - g) / np.where(crawls, moved - t, 1.0), rate)
        t, g = np.where(active, moved, t), np.where(active, residual, g)
        if (t == moved).all():
            step, t_step = again, moved
    if (t != t_step).any():  # lanes that stopped earlier than others
        step = _retake(plan, carry, trial, t)
    return Place(is_cut, torch.as_tensor(t, dtype=torch.float64, device=device), theta, roots, primary, step, calls)


def _clock(plan: Plan, t: np.ndarray, device: torch.device) -> Scalar:
    """Times on the host as the clock of the solve has them."""
    return float(t) if plan.host else torch.as_tensor(t, dtype=torch.float64, device=device)


def _retake(plan: Plan, carry: Carry, trial: Trial, t_end: np.ndarray) -> Step:
    """The attempt's step again, to another end."""
    end = _clock(plan, t_end, carry.y.device)
    field = plan.stops.one_sided(plan.field, trial.t, end, carry.y)
    return plan.method.step(field, trial.step.t0, end, carry.y, carry.memory, trial.step.retry, plan)


def hits_at(events: Events, path: Path, search: Search, place: Place, values: Tensor) -> tuple[Tensor, Tensor]:
    """Which functions have their roots where the step is cut, and on which side of zero each one was just before."""
    before = search.signs[0]
    for theta, signs in zip(search.thetas, search.signs[1:], strict=True):
        before = torch.where((place.theta > theta).unsqueeze(-1), signs, before)
    near = place.theta + _together(path)
    # Another root may lie before this one on the step itself, though it lay behind on the dense output.
    crossed = events.allowed(before) & (before * values < 0)
    return place.cut.unsqueeze(-1) & ((place.roots <= near.unsqueeze(-1)) | crossed), before
