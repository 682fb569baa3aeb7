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

from ..attempt import Carry, Plan, Trial
from ..legendre import evaluate
from ..method import Step
from ..scalars import Scalar, real_dtype, shaped, transformed
from .brackets import find_root
from .event import Events, EventState

# Newton steps on the retaken step. Two are usual; each one cuts what is left by many digits or is the last.
_REFINEMENTS = 6
# Events closer than this many units of rounding are at the same time.
_TOGETHER = 64
# Where to take the difference quotient of an event's function, relative to the step.
_DELTA = 1e-3


class Path:
    """The dense output of a step, without a graph, as the functions of the events see it."""

    def __init__(self, plan: Plan, trial: Trial) -> None:
        assert plan.events is not None
        self.events, self.step = plan.events, trial.step
        device = trial.step.y.device
        self.t, self.t_end = (torch.as_tensor(t, dtype=torch.float64, device=device) for t in (trial.t, trial.t_end))
        self.length = self.t_end - self.t
        self._values: dict[float, Tensor] = {}

    @cached_property
    def coefficients(self) -> list[Tensor]:
        """The interpolant, computed when it is first needed."""
        return [coefficient.detach() for coefficient in self.step.polynomial()]

    def at(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Time and state at a relative time of each lane."""
        y0 = self.step.y0.detach()
        value = evaluate(shaped(theta, y0), y0, self.coefficients)
        return torch.where(theta == 1.0, self.t_end, self.t + theta * self.length), value

    def values(self, theta: float) -> Tensor:
        """Every function at an end of the step."""
        if theta not in self._values:
            end = (self.t, self.step.y0) if theta == 0.0 else (self.t_end, self.step.y)
            self._values[theta] = self.events.values(end[0], end[1].detach())
        return self._values[theta]

    def inner_values(self, thetas: Sequence[float]) -> list[Tensor]:
        """Every function between the ends, at all of these relative times."""
        if not thetas:
            return []
        y0 = self.step.y0.detach()
        factor = torch.tensor(thetas, dtype=torch.float64, device=y0.device).reshape(-1, *[1] * y0.dim())
        states = evaluate(factor, y0, self.coefficients)
        return [
            self.events.values(self.t + theta * self.length, y)
            for theta, y in zip(thetas, states.unbind(), strict=True)
        ]

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


class Search(NamedTuple):
    """Where between the probes every function first crosses zero."""

    thetas: list[float]
    signs: list[Tensor]
    """The side of zero at the start and at each of ``thetas``."""
    found: Tensor
    left: Tensor
    right: Tensor


def quiet(events: Events, state: EventState) -> Search:
    """The search of a step without a change of sign."""
    thetas = [*((k + 1) / (events.probes + 1) for k in range(events.probes)), 1.0]
    left, right = torch.zeros_like(state.signs), torch.ones_like(state.signs)
    return Search(thetas, [state.signs] * (len(thetas) + 1), torch.zeros_like(state.zero), left, right)


def search_step(events: Events, path: Path, state: EventState, accept: Tensor) -> Search | None:
    """The first change of sign of every function, between two neighbouring probes; None where there is no change.

    All values are read by the host at once: there are many of them, and most steps have no event.
    """
    inner = [(k + 1) / (events.probes + 1) for k in range(events.probes)]
    table = torch.stack([*path.inner_values(inner), path.values(1.0)])
    values, signs = (_on_host(x) for x in (table, state.signs))
    if ((values * signs > 0) | (signs == 0)).all() and not (signs == 0).any():
        return None
    thetas, trail, flags = [*inner, 1.0], [signs], _on_host(accept)[..., None]
    directions = _on_host(events.directions)
    found, left, right = np.zeros(signs.shape, dtype=bool), np.zeros(signs.shape), np.ones(signs.shape)
    for before, theta, now in zip([0.0, *inner], thetas, values, strict=True):
        signs = trail[-1]
        allowed = (signs != 0) & ((directions == 0) | (directions * signs < 0))
        crossed = allowed & (signs * now <= 0) & ~found & flags
        left, right = np.where(crossed, before, left), np.where(crossed, theta, right)
        found = found | crossed
        trail.append(np.where((now != 0) & ~np.isnan(now), np.sign(now), signs))
    device = path.t.device
    tables = [torch.as_tensor(x, device=device) for x in (found, left, right, *trail)]
    return Search(thetas, tables[3:], *tables[:3])


def _on_host(x: Tensor) -> np.ndarray:
    return np.array(x.tolist()) if transformed() else x.cpu().numpy()


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
        start = path.value(index, torch.zeros_like(path.t))
        root = _root(path, index, search, zero[..., index], start)
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
    return _TOGETHER * path.resolution / torch.where(path.length == 0, 1.0, path.length).abs()


def _root(path: Path, index: int, search: Search, zero: Tensor, start: Tensor) -> Tensor:
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


def _refine(plan: Plan, carry: Carry, trial: Trial, path: Path, theta: Tensor, roots: Tensor, primary: Tensor) -> Place:
    """Take the step again up to the root, and move the root until the function is zero at the end of that step."""
    events = plan.events
    assert events is not None

    is_cut = theta.isfinite()
    theta = torch.where(is_cut, theta, 1.0)
    rise = events.picked(primary, *path.at(theta + _DELTA)) - events.picked(primary, *path.at(theta - _DELTA))
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
    g = events.picked(primary, t, step.y.detach())
    active = is_cut
    for _ in range(_REFINEMENTS):
        move = -g / rate
        active = active & move.isfinite() & (move.abs() > path.resolution_at(t))
        if not bool(active.any()):
            break
        moved = torch.where(active, path.inside(t + move), t)
        again = retake(moved, active)
        residual = events.picked(primary, moved, again.y.detach())
        active = active & (residual.abs() < g.abs())
        t, g = torch.where(active, moved, t), torch.where(active, residual, g)
        if bool((t == moved).all()):
            step, t_step = again, moved
    if bool((t != t_step).any()):  # lanes that stopped earlier than others
        step = _retake(plan, carry, trial, t)
    return Place(is_cut, t, theta, roots, primary, step, calls)


def _retake(plan: Plan, carry: Carry, trial: Trial, t_end: Tensor) -> Step:
    """The attempt's step again, to another end."""
    end: Scalar = t_end.item() if plan.host else t_end
    field = plan.stops.one_sided(plan.field, trial.t, end, carry.y)
    return plan.method.step(field, trial.step.t0, end, carry.y, trial.step.first_slope)


def hits_at(events: Events, path: Path, search: Search, place: Place, values: Tensor) -> tuple[Tensor, Tensor]:
    """Which functions have their roots where the step is cut, and on which side of zero each one was just before."""
    before = search.signs[0]
    for theta, signs in zip(search.thetas, search.signs[1:], strict=True):
        before = torch.where((place.theta > theta).unsqueeze(-1), signs, before)
    near = place.theta + _together(path)
    # Another root may lie before this one on the step itself, though it lay behind on the dense output.
    crossed = events.allowed(before) & (before * values < 0)
    return place.cut.unsqueeze(-1) & ((place.roots <= near.unsqueeze(-1)) | crossed), before
