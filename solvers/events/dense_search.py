"""Events that only log: found on the dense output of steps that have been taken, many steps and events at once.

Such an event changes nothing of the solve, so no step is cut for it, and it need not be looked for before the solve goes
on. :class:`DenseSearch` is given the accepted steps and looks into one, or into a block of them, with one evaluation of
the functions for all points and one search for all roots.

Shapes are those of lanes, ``()`` or ``(B,)``; tables of events have one more dimension. What is decided is decided on the
host: there are few numbers, and many questions about them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..core.legendre import evaluate
from ..core.scalars import as_clock, leading, real_dtype
from .bracketing import find_root, from_host, on_host
from .locate import TOGETHER, Path

if TYPE_CHECKING:
    from ..stepping.attempt import Plan, Trial

# How many steps, and how many numbers at their points, a search waits for.
_STEPS, _NUMBERS = 128, 1 << 20


class Found(NamedTuple):
    """Events of one or more steps, in the order of time: an entry for each time and lane."""

    hits: Tensor
    """Which events, ``(n, E)``."""
    primary: Tensor
    """The event whose time is that of them all."""
    lanes: Tensor | None
    """The working rows; None in a joint solve."""
    samples: Tensor | None
    times: Tensor
    states: Tensor
    """The solution there, by the dense output."""


class _Part(NamedTuple):
    """An accepted step, and what of it is known before the search."""

    path: Path
    accept: np.ndarray


class _Roots(NamedTuple):
    """Changes of sign and their roots: one row for each, and of a batch one for each of a lane."""

    part: np.ndarray
    lane: np.ndarray
    event: np.ndarray
    theta: np.ndarray
    time: Tensor
    state: Tensor


class DenseSearch:
    """Looks for the events that only log in the accepted steps of a solve.

    Args:
        plan: the problem.
        samples: how many samples there are; None in a joint solve.
        later: wait for a block of steps. The search then makes no difference to the solve but for its time.
    """

    def __init__(self, plan: Plan, samples: int | None, later: bool) -> None:
        assert plan.events is not None
        self.events, self.later = plan.events.logging(), later
        self.inner = self.events.inner
        self.thetas = (*self.inner, 1.0)
        self.known = not self.events.has_times
        """Whether the values at the start of the solve are known."""
        self.start: np.ndarray | None = None
        self.slope: Tensor | None = None
        """They, and the field there, as long as they are of use."""
        lanes = () if samples is None else (samples,)
        shape = (*lanes, len(self.events))
        self.parts: list[_Part] = []
        self.rows: Tensor | None = None
        self.plan = plan
        self.fresh = np.ones(lanes, dtype=bool)
        """The lanes that start anew: at the start of the solve, or where the state was changed."""
        self.signs = np.zeros(shape)
        """On which side of zero each function is where its lane stands; 0 where that is not known."""
        self.zero = np.zeros(shape, dtype=bool)
        self.last = np.full(shape, np.nan)
        """The values there."""
        self.left = np.zeros(shape)
        """How far from zero a function may be that has just fired."""

    def add(self, plan: Plan, trial: Trial) -> list[tuple[Found | None, np.ndarray]]:
        """Take an attempt into account; what has been found by then, and which events are at the time of the step's own.

        A solve that drops samples gives the others in fewer rows: what was collected before is looked into first.
        """
        results = []
        if self.parts and trial.rows is not self.rows:
            results.append(self.look())
        if not trial.moved:
            return results
        accept = on_host(trial.accept) if isinstance(trial.accept, Tensor) else np.array(trial.accept)
        fired, step = None if trial.events is None else trial.events.fired, trial.step
        step.complete()
        if self.known and trial.rows is None:
            self.start = on_host(self.events.first_values(step.y0.detach()))
            if self.later and (self.start == 0).any():
                self.slope = step.first_slope.detach()  # now, because a call of the field for it counts with this step
        self.known = False
        self.plan, self.rows = plan, trial.rows
        self.parts.append(_Part(Path(self.events, trial), accept))
        numbers = step.y.numel() * len(self.thetas) * len(self.parts)
        if not self.later or len(self.parts) >= _STEPS or numbers >= _NUMBERS or step.y.is_cuda:
            ends = None if fired is None else on_host(torch.as_tensor(fired.mask, dtype=torch.bool))
            results.append(self.look(ends))
            if ends is not None:
                self._restart(ends)
        return results

    def look(self, ends: np.ndarray | None = None) -> tuple[Found | None, np.ndarray]:
        """Look into the steps collected so far; ``ends`` flags the lanes whose step ends at events of another kind.

        Returns:
            What was found, and in the lanes of ``ends`` which events are at the time of those.
        """
        parts, self.parts = self.parts, []
        rows: Any = ... if self.rows is None else on_host(self.rows)
        fresh, signs, last = self.fresh[rows], self.signs[rows], self.last[rows]
        beyond = None if ends is None else self._beyond(parts[-1].path, ends)
        with torch.no_grad():
            values, start = self._values(parts, fresh, beyond)
        zero = self.zero[rows] & ~fresh[..., None]
        if start is not None:
            anew = fresh[..., None]
            signs = np.where(anew, np.nan_to_num(np.sign(start)), signs)
            last = np.where(anew, start, last)
            signs, zero = self._sides_at_start(parts[0].path, rows, values[0], start, signs, zero, anew)
        after, found, tied = signs, None, np.zeros(signs.shape, dtype=bool)
        if not (values * signs).min() > 0:
            before, after = self._sides(values, signs)
            directions = on_host(self.events.directions)
            crossed = (before != 0) & ((directions == 0) | (directions * before < 0)) & (before * values <= 0)
            if crossed.any():
                starts = self._starts(parts, values, last)
                with torch.no_grad():
                    roots = self._roots(parts, crossed, values, before, starts, zero, beyond)
                    found = self._entries(parts, roots, ends, tied)
        moved = np.asarray(np.stack([part.accept for part in parts]).any(0))[..., None]
        here = values[-1]
        self.last[rows] = np.where(moved, self._starts(parts, values, last, end=True), self.last[rows])
        self.signs[rows] = np.where(moved, after, self.signs[rows])
        self.zero[rows] = self.zero[rows] & ~moved
        self.fresh[rows] = fresh & ~moved[..., 0]
        if beyond is not None:
            # Linearly from the last points: what a function changes by between the end and the point beyond it.
            near = values[-2] if len(values) > 1 else self.last[rows]
            slope = abs(here - near) / (1.0 - (self.inner[-1] if self.inner else 0.0))
            self.left[rows] = np.where(tied, abs(here) + 2 * slope * (beyond - 1.0)[..., None], 0.0)
        return found, tied

    def _restart(self, ends: np.ndarray) -> None:
        rows: Any = ... if self.rows is None else on_host(self.rows)
        self.fresh[rows] = self.fresh[rows] | ends

    def _beyond(self, path: Path, ends: np.ndarray) -> np.ndarray:
        """The relative times up to which the last step is looked at: a little behind its end where that is an event's.

        There a function that is zero at the same time, which is known to rounding only, has changed its sign.
        """
        return np.where(ends, 1.0 + 2.0 * self._together(path), 1.0)

    @staticmethod
    def _together(path: Path) -> np.ndarray:
        t, t_end = path.ends
        return TOGETHER * path.resolution_at(t_end) / np.where(t_end == t, 1.0, abs(t_end - t))

    def _values(
        self, parts: list[_Part], fresh: np.ndarray, beyond: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """The functions at the points of all steps, and at the start of the first where a lane starts anew."""
        steps, clocks = [part.path.step for part in parts], []
        for part in parts:
            t, t_end = part.path.clock
            clocks += [*(t + theta * (t_end - t) for theta in self.inner), t_end]
        ends = [step.y.detach() for step in steps]
        if beyond is not None:
            clocks[-1], ends[-1] = parts[-1].path.at(as_clock(beyond, ends[-1].device))
        points = torch.stack(ends).unsqueeze(1)
        if self.inner:
            points = torch.cat([type(steps[0]).at_each_of(steps, self.inner).detach(), points], dim=1)
        states = [points.flatten(0, 1)]
        start = None
        if fresh.any():
            start, self.start = self.start, None
            if start is None:
                clocks.insert(0, parts[0].path.clock[0])
                states.insert(0, parts[0].path.step.y0.detach().unsqueeze(0))
        ys = torch.cat(states)
        values = on_host(self.events.functions.values_at(_times(clocks, ys), ys))
        if fresh.any() and start is None:
            start, values = values[0], values[1:]
        if not all(part.accept.all() for part in parts):
            flags = np.repeat(np.stack([part.accept for part in parts]), len(self.thetas), axis=0)
            values = np.where(flags[..., None], values, np.nan)
        return values, start

    def _sides_at_start(
        self,
        path: Path,
        rows: Any,
        ahead: np.ndarray,
        start: np.ndarray,
        signs: np.ndarray,
        zero: np.ndarray,
        anew: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The sides of zero where lanes start anew: by their rates of change where a function may be zero there.

        That is told from its next value: as long as the sign there is the same, nothing else matters.
        """
        asked = anew & ((start == 0) | (start * ahead <= 0))
        if not asked.any():
            return signs, zero
        device = path.step.y.device
        wanted = asked.reshape(-1, len(self.events)).any(0).nonzero()[0].tolist()
        values = torch.as_tensor(start, dtype=torch.float64, device=device)
        left, y0 = from_host(self.left[rows], device), path.step.y0.detach()
        slope, self.slope = self.slope, None

        def sides(slope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return self.events.sides(path.clock[0], y0, slope, self.plan.direction, left, wanted, values)

        new, leaves, quiet = sides(torch.zeros_like(y0) if slope is None else slope)
        if slope is None and (on_host(quiet) & asked).any():
            new, leaves, _ = sides(path.step.first_slope.detach())
        return np.where(asked, on_host(new), signs), np.where(asked, on_host(leaves), zero)

    def _sides(self, values: np.ndarray, signs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """On which side of zero every function comes to each point, and where it is behind the last."""
        sides = np.nan_to_num(np.sign(values))
        if sides.all():
            return np.concatenate([signs[None], sides[:-1]]), sides[-1]
        directions, before, side = on_host(self.events.directions), [], signs
        for now, at in zip(sides, values, strict=True):
            before.append(side)
            # On which side a function is that has reached zero, and so has fired, the next point tells.
            fires = (at == 0) & ((directions == 0) | (directions * side < 0))
            side = np.where(now != 0, now, np.where(fires, 0.0, side))
        return np.stack(before), side

    def _starts(self, parts: list[_Part], values: np.ndarray, last: np.ndarray, end: bool = False) -> Any:
        """The values at the start of every step, or at the ``end`` of the last."""
        starts, count = [last], len(self.thetas)
        for place, part in enumerate(parts):
            starts.append(np.where(part.accept[..., None], values[(place + 1) * count - 1], starts[-1]))
        return starts[-1] if end else np.stack(starts[:-1])

    def _roots(
        self,
        parts: list[_Part],
        crossed: np.ndarray,
        values: np.ndarray,
        before: np.ndarray,
        starts: np.ndarray,
        zero: np.ndarray,
        beyond: np.ndarray | None,
    ) -> _Roots:
        """The roots of all changes of sign, in one search."""
        place, *lanes, event = crossed.nonzero()
        part, point = np.divmod(place, len(self.thetas))
        lane = lanes[0] if lanes else np.zeros_like(place)
        edges = np.array([0.0, *self.thetas])
        left, right = edges[point], edges[point + 1]
        if beyond is not None:
            right = np.where(right == 1.0, beyond[lane] if lanes else beyond, right)
        at = (*lanes, event)
        here, front, begin = (place, *at), (place - 1, *at), (part, *at)
        f_right, start = values[here], starts[begin]
        f_left = np.where(point == 0, start, values[front])
        divided = zero[at] & (part == 0) & (point == 0)
        f_right = np.where(divided, (f_right - start) / right, f_right)
        f_left = abs(np.where(divided, f_right, f_left))
        f_left = before[here] * np.where(f_left > 0, f_left, 1.0)
        # Every root its row, and of a batch every lane's next one.
        turn = turns(lane) if lanes else np.arange(len(place))
        shape = (int(turn.max()) + 1, *starts.shape[1:-1])
        where = (turn, *lanes)

        def table(x: Any, fill: float) -> np.ndarray:
            out = np.full(shape, fill, dtype=np.asarray(x).dtype)
            out[where] = x
            return out

        of_part, which = table(part, 0), table(event, int(event[0]))
        curves = _Curves(parts, of_part)
        offset = None
        if divided.any():
            offset = table(divided, False), table(start, 0.0)

        def value(theta: Tensor) -> Tensor:
            g = self.events.functions.picked_at(*curves.at(theta), which)
            if offset is None:
                return g
            zeros, first = (from_host(x, g.device) for x in offset)
            return torch.where(zeros, (g - first) / torch.where(zeros, theta, 1.0), g)

        tables = table(left, 0.0), table(right, 1.0), table(f_left, 1.0), table(f_right, 0.0), curves.resolution
        a, b, f_a, f_b, tol = (torch.as_tensor(x, dtype=torch.float64, device=curves.device) for x in tables)
        root = find_root(value, a, b, f_a, f_b, tol)
        _, states = curves.at(root)
        index = tuple(from_host(x, curves.device) for x in where)
        return _Roots(part, lane, event, on_host(root)[where], curves.clock(root)[index], states[index])

    def _entries(self, parts: list[_Part], roots: _Roots, ends: np.ndarray | None, tied: np.ndarray) -> Found | None:
        """The roots in the order of time, those of one time together; those at the end of a step of ``ends`` go to ``tied``."""
        close = [self._together(part.path) for part in parts]
        single = tied.ndim == 1
        hits: list[np.ndarray] = []
        heads: list[int] = []
        latest: dict[int, int] = {}
        for one in np.lexsort((roots.event, roots.theta, roots.part)).tolist():
            part, lane, event = int(roots.part[one]), int(roots.lane[one]), int(roots.event[one])
            gap = float(close[part] if single else close[part][lane])
            if ends is not None and part == len(parts) - 1 and (ends if single else ends[lane]):
                if roots.theta[one] >= 1.0 - gap:
                    tied[event if single else (lane, event)] = True
                    continue
            head = heads[latest[lane]] if lane in latest else None
            if head is None or roots.part[head] != part or roots.theta[one] - roots.theta[head] > gap:
                latest[lane] = len(heads)
                heads.append(one)
                hits.append(np.zeros(tied.shape[-1], dtype=bool))
            hits[latest[lane]][event] = True
        if not heads:
            return None
        device = roots.state.device
        order = from_host(np.array(heads), device)
        lanes = None if single else from_host(roots.lane[heads], device)
        samples = lanes if lanes is None or self.rows is None else self.rows[lanes]
        primary = from_host(roots.event[heads], device)
        flags = from_host(np.stack(hits), device)
        return Found(flags, primary, lanes, samples, roots.time[order], roots.state[order])


class _Curves:
    """The dense output of several steps, each row of lanes on its own one."""

    def __init__(self, parts: list[_Part], of_part: np.ndarray) -> None:
        step = parts[0].path.step
        self.device, self.lanes, dims = step.y.device, of_part.ndim - 1, step.y.dim()
        kept, place = np.unique(of_part, return_inverse=True)
        place = place.reshape(of_part.shape)
        paths = [parts[index].path for index in kept.tolist()]
        which = from_host(place, self.device)
        key = (which, torch.arange(of_part.shape[1], device=self.device)) if self.lanes else (which,)
        self.pieces = [x.detach()[key] for x in type(step).polynomials([path.step for path in paths])]
        self.y0 = torch.stack([path.step.y0.detach() for path in paths])[key]
        self.start, self.end = (torch.stack(x)[key] for x in zip(*((p.t, p.t_end) for p in paths), strict=True))
        close = np.stack(
            [path.resolution_at(path.ends[1]) / np.maximum(abs(path.ends[1] - path.ends[0]), 1e-300) for path in paths]
        )
        self.resolution = close[place] if not self.lanes else close[place, np.arange(of_part.shape[1])]
        self.dims = 1 + dims

    def clock(self, theta: Tensor) -> Tensor:
        """The times."""
        return torch.where(theta == 1.0, self.end, self.start + theta * (self.end - self.start))

    def at(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Times as functions receive them, and states."""
        states = evaluate(theta.reshape((*theta.shape, *[1] * (self.dims - theta.dim()))), self.y0, self.pieces)
        return _times(list(self.clock(theta).unbind()), states), states


def _times(clocks: list[Any], ys: Tensor) -> Tensor:
    """Times as the functions receive them, each with its state."""
    if not isinstance(clocks[0], Tensor):
        return torch.tensor(clocks, dtype=real_dtype(ys), device=ys.device)
    times = torch.stack(clocks)
    return leading(times, ys.dim() if times.dim() > 1 else 1, real_dtype(ys))


def turns(lane: np.ndarray) -> np.ndarray:
    """Of each entry how many of the same lane stand before it."""
    order = np.argsort(lane, kind="stable")
    ranked = lane[order]
    first = np.searchsorted(ranked, ranked)
    out = np.empty_like(order)
    out[order] = np.arange(len(lane)) - first
    return out
