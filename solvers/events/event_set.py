"""The events of a solve, evaluated on packed states, and what is known of them on its way.

Finding an event inside a step is ``crossings.py`` for those that cut it, and ``dense_search.py`` for those that only log.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core.derivative_order import at_most, transform_levels
from ..core.packing import Packing
from ..core.scalars import Scalar, differentiated, real_dtype, select, spread
from ..core.ties import tied
from ..errors import InvalidProblemError
from .changes import changed
from .event import DIRECTIONS, Event, ScheduledEvent
from .functions import Functions, gradient

# The state at the end of a step: from where it starts, where it ends, and its state.
Arrive = Callable[[Scalar, Tensor, Tensor], Tensor]

# A gradient of order k needs k chord iterations, see Events.live_time: as many as there are function transforms inside
# each other, and for plain autograd, which does not tell what it will be asked for, so many.
_CHORDS = 2


class EventState(NamedTuple):
    """What a lane knows of its events where it stands; lanes first, then events."""

    signs: Tensor
    """On which side of zero each function is (float64); 0 where that is not known."""
    zero: Tensor
    """Where the function is zero in this very place, which is then no event."""
    standing: Scalar
    """Whether the lane stands at an event, so that the next step starts at a time that the graph knows."""
    live: Tensor | None = None
    """That time in the graph, in a solve that is recorded as it runs."""

    def start(self, t: Scalar) -> Scalar:
        """Where the next step starts, as the graph sees it."""
        return t if self.live is None else self.live


class Fired(NamedTuple):
    """The events at the end of one step."""

    hits: tuple[bool, ...] | Tensor
    """Which events happened: one flag each, or ``(B, E)``."""
    mask: Scalar
    """The lanes with any."""
    ends: Scalar
    """The lanes that one of them ends."""
    changed: Scalar
    """The lanes whose state one of them changes."""
    primary: Scalar
    """The event whose time is the time of them all."""
    which: tuple[int, ...]
    """Every event that is ``primary`` somewhere."""
    lanes: Tensor | None
    """The working rows with any; None in a joint solve."""


class Events:
    """The events of a solve, evaluated on packed states.

    Args:
        events: the user's.
        packing: how the state is laid out.
        args: what else ``fn`` and ``apply`` receive.
        device: where the state lives.
        counts: how many events each of them is; a vector-valued function is several.
        first: the values of each one's function at the start of the solve, where it has one.

    The tables of :meth:`values` are of those that end the solve or change the state, and cut the steps that they are in;
    those that only log have a view of their own, :meth:`logging`.
    """

    def __init__(
        self,
        events: tuple[Event | ScheduledEvent, ...],
        packing: Packing,
        args: tuple[Any, ...],
        device: torch.device,
        counts: Sequence[int],
        first: Sequence[Tensor | None] = (),
    ) -> None:
        self.events, self.packing, self.args, self.device = events, packing, args, device
        logs = [place for place, event in enumerate(events) if not event.terminal and event.apply is None]
        cuts = [place for place in range(len(events)) if place not in logs]
        self.functions = Functions(events, counts, packing, args, cuts)
        self.first = first
        self.logs, self.cuts = bool(logs), bool(cuts)
        """Whether there are events that only log, and others."""
        each = [events[place] for place in self.functions.owner]
        scheduled = [event.ts if isinstance(event, ScheduledEvent) else None for event in each]
        ts = [None if t is None else torch.as_tensor(t, dtype=torch.float64, device=device) for t in scheduled]
        self.times = [None if t is None else t.detach() for t in ts]
        self.live = [t if differentiated(t) else None for t in ts]
        """The times in the graph, where they require grad, as they were given."""
        self.shifts = [None if t is None else torch.zeros_like(t) for t in self.times]
        """How far :meth:`tie` has moved each time."""
        self.directions = torch.tensor(
            [DIRECTIONS[event.direction] for event in each], dtype=torch.float64, device=device
        )
        self.terminal = torch.tensor([event.terminal for event in each], dtype=torch.bool, device=device)
        self.applies = torch.tensor([event.apply is not None for event in each], dtype=torch.bool, device=device)
        self.has_times = any(t is not None for t in self.times)

    def __len__(self) -> int:
        return len(self.times)

    def bind(self, args: tuple[Any, ...], live: Sequence[Tensor | None]) -> Events:
        """The same events with other arguments and live times."""
        bound = copy.copy(self)
        bound.args, bound.live = args, list(live)
        bound.functions = Functions(self.events, self.functions.counts, self.packing, args, self.functions.tabled)
        return bound

    def logging(self) -> Events:
        """The same events, with those in the tables that only log."""
        view, old = copy.copy(self), self.functions
        rest = [place for place in range(len(self.events)) if place not in old.tabled]
        view.functions = Functions(self.events, old.counts, self.packing, self.args, rest)
        return view

    def first_values(self, y: Tensor) -> Tensor:
        """The table of values at the start of the solve, ``y``, which the functions have been called for already."""
        given = [g if place in self.functions.tabled else None for place, g in enumerate(self.first)]
        return self.functions.joined(given, y)

    @property
    def inner(self) -> tuple[float, ...]:
        """The relative times inside a step at which to look for a change of sign."""
        probes = max((self.events[place].probes for place in self.functions.tabled), default=0)
        return tuple((k + 1) / (probes + 1) for k in range(probes))

    def tie(self, ends: Sequence[Scalar], eps: Sequence[float]) -> None:
        """Move scheduled times that are an end of the interval, or an earlier event's time, but for rounding, onto it.

        Args:
            ends: the ends of the interval.
            eps: the relative rounding of each, as it was given.
        """
        known = [
            (torch.as_tensor(end, dtype=torch.float64, device=self.device).detach().unsqueeze(0), unit)
            for end, unit in zip(ends, eps, strict=True)
        ]
        for index, place in enumerate(self.functions.owner):
            event, given = self.events[place], self.times[index]
            if not isinstance(event, ScheduledEvent) or given is None:
                continue
            times = given
            for anchors, unit in known:
                times = tied(times, anchors, max(unit, event.resolution))
            if times.dim() > given.dim() and bool((times == times[:, :1]).all()):
                times = times[:, 0]  # the lanes' ends differ, and none of them is near
            self.times[index] = times
            self.shifts[index] = times - (given if given.dim() == times.dim() else given.unsqueeze(-1))
            known.append((times, event.resolution))

    def tie_to_scheduled(self, times: Tensor, eps: float) -> Tensor:
        """Times, those that are a scheduled one but for rounding moved onto it; ``eps`` is their relative rounding."""
        for index, place in enumerate(self.functions.owner):
            event, scheduled = self.events[place], self.times[index]
            if isinstance(event, ScheduledEvent) and scheduled is not None:
                times = tied(times, scheduled, max(eps, event.resolution))
        return times

    @property
    def callables(self) -> list[Callable[..., Any]]:
        """The user's functions, which may hold parameters."""
        found = [getattr(event, name, None) for event in self.events for name in ("fn", "apply")]
        return [function for function in found if function is not None]

    def scheduled(self) -> set[float]:
        """Every time that is given for all lanes."""
        return {t for times in self.times if times is not None and times.dim() == 1 for t in times.tolist()}

    def scheduled_each(self) -> Tensor | None:
        """The times that each lane has for itself, a column for each."""
        own = [times for times in self.times if times is not None and times.dim() == 2]
        return torch.cat(own) if own else None

    def take(self, rows: Tensor) -> Events:
        """The events of some of the samples."""
        if self.scheduled_each() is None:
            return self
        taken = copy.copy(self)
        for name in ("times", "live", "shifts"):
            each = [x[:, rows] if x is not None and x.dim() == 2 else x for x in getattr(self, name)]
            setattr(taken, name, each)
        return taken

    def due(self, t: Tensor) -> Tensor:
        """Which events are scheduled for just this time, lanes first."""
        flags = torch.zeros((*t.shape, len(self)), dtype=torch.bool, device=t.device)
        for index, times in enumerate(self.times):
            if times is not None:
                flags[..., index] = _matches(times, t).any(0)
        return flags

    def value(self, index: int, t: Scalar, y: Tensor) -> Tensor:
        """One event's function, a number per lane."""
        return self.functions.value(index, t, y)

    def values(self, t: Scalar, y: Tensor, wanted: Collection[int] | None = None) -> Tensor:
        """Every event's function, lanes first; 1 for scheduled events, and for all beside those that are ``wanted``."""
        return self.functions.values(t, y, wanted)

    def first_due(self, due: Tensor) -> Tensor:
        """The event whose time is that of all that are due: the first with a time in the graph, or else the first."""
        live = torch.tensor([live is not None for live in self.live], dtype=torch.bool, device=due.device)
        return (due.to(torch.int64) + (due & live)).argmax(-1)

    def picked(self, which: Tensor, t: Scalar, y: Tensor) -> Tensor:
        """Each lane's function of those that ``which`` names, a number per lane."""
        indices = which.unique().tolist() if which.dim() else [int(which)]
        if len(indices) == 1 and self.times[indices[0]] is None:
            return self.value(indices[0], t, y)
        return self.values(t, y, indices).gather(-1, which.unsqueeze(-1)).squeeze(-1)

    def allowed(self, signs: Tensor) -> Tensor:
        """Whether a function on this side of zero would cross it in a direction that counts."""
        return (signs != 0) & ((self.directions == 0) | (self.directions * signs < 0))

    def change(self, fired: Fired, t: Scalar, y: Tensor) -> Tensor:
        """The state after the events, where the solve goes on."""
        return changed(self, fired, t, y)

    def sides(
        self,
        t: Scalar,
        y: Tensor,
        slope: Tensor,
        direction: Scalar,
        residual: Tensor | None = None,
        wanted: Collection[int] | None = None,
        values: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """On which side of zero every function is just behind ``t``, and which are zero at ``t`` itself: crossing, or all.

        A function is zero where its value is no larger than the rounding of its own inputs, or than what the root finder
        left (``residual``). Then its rate of change tells the side, of those that are ``wanted`` (None: of all). ``values``
        are the functions' values there, where they are known.
        """
        values = self.values(t, y) if values is None else values
        rate, noise = torch.zeros_like(values), torch.zeros_like(values)
        wanted = range(len(self)) if wanted is None else wanted
        indices, g_t, g_y = self.functions.gradients(t, y, wanted)
        if indices:
            rate[..., indices], noise[..., indices] = self._rates(t, y, slope, g_t, g_y)
        rate = rate * (direction.unsqueeze(-1) if isinstance(direction, Tensor) else direction)
        small = noise + (0.0 if residual is None else 2.0 * residual)
        quiet = values.abs() <= small
        leaves = quiet & (rate != 0)
        return torch.where(leaves, rate.sign(), torch.where(values.isnan(), 0.0, values.sign())), leaves, quiet

    def _rates(self, t: Scalar, y: Tensor, slope: Tensor, g_t: Tensor, g_y: Tensor) -> tuple[Tensor, Tensor]:
        """How fast functions change along the solution, and how far rounding of ``t`` and ``y`` may move them."""
        time = torch.as_tensor(t, dtype=torch.float64, device=y.device)
        moved = (g_y.conj() * slope.detach()).real.reshape(*g_t.shape, -1).sum(-1)
        size = (g_y.abs() * y.detach().abs()).reshape(*g_t.shape, -1).sum(-1)
        noise = 4 * torch.finfo(real_dtype(y)).eps * (size + (g_t * time.detach()).abs())
        return (g_t + moved).movedim(0, -1), noise.movedim(0, -1).to(torch.float64)

    def live_time(self, fired: Fired, arrive: Arrive, t: Scalar, t_end: Scalar, y: Tensor) -> Scalar:
        r"""The end of a step as a differentiable number: the time of its event where it has one, else ``t_end``.

        Let :math:`G(s)` be the event's function at the end of the step from ``(t, y)`` to :math:`s`, where the state is
        ``arrive(t, s, y)``. Its root is known, and :math:`s \leftarrow s - G(s) / G'` with the number :math:`G'` as a
        constant leaves it in place. As a function of everything else that :math:`G` depends on, k such chord iterations
        have the root's derivatives up to order k; more are refused.
        """
        out = t_end
        for index in fired.which:
            mask = fired.primary == index
            if self.times[index] is not None:
                live = self._scheduled_time(index, t_end)
            else:
                start, end, state = t, torch.as_tensor(_constant(t_end), dtype=torch.float64, device=y.device), y
                if fired.lanes is not None:
                    donor = mask.to(torch.int64).argmax()
                    start, end = (select(mask, x, x[donor]) for x in (start, end))
                    state = torch.where(spread(mask, y), y, y[donor])
                live = self.root_time(index, arrive, start, end, state)
            out = select(mask, live, out)
        return out

    def _scheduled_time(self, index: int, t_end: Scalar) -> Scalar:
        times, live = self.times[index], self.live[index]
        if live is None:
            return t_end
        assert times is not None
        end = torch.as_tensor(_constant(t_end), dtype=torch.float64, device=times.device)
        which, shifts = _matches(times, end).to(torch.int64).argmax(0), self.shifts[index]
        assert shifts is not None
        given, shift = (
            x[which] if x.dim() == 1 else x.gather(0, which.unsqueeze(0)).squeeze(0) for x in (live, shifts)
        )
        return given + shift

    def root_time(self, index: int, arrive: Arrive, t: Scalar, end: Tensor, y: Tensor) -> Tensor:
        """The time of one event near ``end``, where it is."""

        def value(end: Tensor, t: Scalar, y: Tensor) -> Tensor:
            return self.value(index, end, arrive(t, end, y))

        live, rate = end, None
        order = max(_CHORDS, transform_levels())
        for _ in range(order):
            g = value(live, t, y)
            if not differentiated(g) and not differentiated(y) and not differentiated(t):
                return end
            if rate is None:
                rate = gradient(lambda end: value(end, _constant(t), y.detach()).sum(), end)[0]
                if bool((rate == 0).any()):
                    raise InvalidProblemError(
                        "fn: its value does not change with time at the event, as far as autograd sees, so the event's "
                        "time has no gradient; expected a differentiable function that crosses zero with a slope"
                    )
            move = g / rate
            live = live - (move - move.detach())
        return at_most(
            live,
            order,
            f"events: got a derivative of order {order + 1} through the time of an event, which is right up to order "
            f"{order}; expected torch.func transforms inside each other (such as grad(grad(grad(f)))), which tell how "
            "many there are",
        )


def _matches(times: Tensor, t: Tensor) -> Tensor:
    """Which of the times, those of each lane or of all, are the lanes' ``t``: times first."""
    return times == t if times.dim() == 2 else times.reshape(-1, *[1] * t.dim()) == t


def _constant(x: Scalar) -> Scalar:
    return x.detach() if isinstance(x, Tensor) else x
