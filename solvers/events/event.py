"""Events: what a solve looks out for on its way, and what happens then.

The descriptions that users write (:class:`Event`, :class:`ScheduledEvent`), and :class:`Events`, which evaluates them on
packed states. Finding an event inside a step, and going on behind it, is ``crossings.py``.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..checks import integer
from ..core.derivative_order import at_most, transform_levels
from ..core.packing import Packing
from ..core.scalars import Scalar, differentiated, real_dtype, select, spread
from ..core.ties import resolution, tied
from ..core.times import read_times
from ..errors import InvalidProblemError
from .changes import changed
from .functions import Functions, gradient

# The state at the end of a step: from where it starts, where it ends, and its state.
Arrive = Callable[[Scalar, Tensor, Tensor], Tensor]

_DIRECTIONS = {"any": 0.0, "up": 1.0, "down": -1.0}
_SEES = ("latest", "before")
# A gradient of order k needs k chord iterations, see Events.live_time: as many as there are function transforms inside
# each other, and for plain autograd, which does not tell what it will be asked for, so many.
_CHORDS = 2


@dataclass(frozen=True, eq=False)
class Event:
    r"""Something that happens when a function of the solution crosses zero.

    The root of :math:`g(t, y(t))` is bracketed on the dense output of the step in which it changes sign. Where the event ends
    the solve or changes the state, the step is cut there: it is taken again so that it ends at the root, and a few Newton
    steps remove what is left of :math:`g`. An event that only logs (``terminal=False`` without ``apply``) is the root on the
    dense output, as in SciPy: the solve is the one without it, to the last bit, and its time has the order of the
    method. The time of an event is an implicit function of everything before it, so it, and all that follows, is
    differentiable with respect to ``y0``, ``args`` and the parameters of the field, of ``fn`` and of ``apply``:

    .. math:: dt^* = -\frac{\partial_\theta\, g(t^*, y(t^*; \theta))}{\frac{d}{dt} g(t^*, y(t^*))} \, d\theta

    Args:
        fn: ``fn(t, y, *args)``, a real number: one for each sample with ``per_sample``. A vector ``(k,)`` (``(B, k)`` with
            ``per_sample``) makes k events of one call, which is faster than k functions. It depends on nothing but its
            arguments and constants, because it may be called for many points at once, under ``torch.func.vmap``; one
            that ``vmap`` cannot follow, because it decides by a value, say, is called for each of them.
        direction: which sign changes count as time goes on in the direction of integration: ``"up"`` (from negative to
            positive), ``"down"``, or ``"any"``.
        terminal: end the solve (with ``per_sample``, of that sample) there, with status ``EVENT``. Otherwise the event
            is written down in ``sol.events`` and the solve goes on.
        apply: ``apply(t, y, *args) -> y``, the state with which the solve goes on (``terminal=False``).
        probes: at how many points inside each step, beside its end, to look for a change of sign on the dense output.
            Two changes between neighbouring points are missed; more probes or a ``dtmax`` of the controller help.
        sees: which state ``apply`` receives where several events happen at one time: the ``"latest"``, which those before
            it in the list leave, or the one ``"before"`` all of them. In the second case it assigns the components that
            it changes; all others stay as the events before it in the list left them.
        indexed: give ``apply`` the keyword ``index``: which of the k functions it is, an int, or ``(B,)`` int64 with
            ``per_sample``.

    An event that is zero at ``t0`` (to rounding) does not fire there, and one that has just fired does not fire again at
    the same time. Reaching zero exactly at the end of a step or at a probe counts as crossing it. A jump of the state by
    ``apply`` is no crossing. Events of one time happen together, in the order of the list; if one of them is terminal,
    nothing is applied. Events are numbered through: a vector-valued function takes k numbers in ``sol.event_index`` and
    ``sol.events.index``, every other event one. A save time before an event gives the solution before it, a later one the
    solution after it, one at the very time what ``solve(..., saveat_side=)`` says. An infinite number of events before
    some time (Zeno) ends the solve with ``STEP_UNDERFLOW`` or ``MAX_STEPS``. Where ``fn`` is NaN nothing fires.

    Shapes:
        ``fn`` gives 0-d, or ``(k,)`` for k events; with ``per_sample`` ``(B,)`` or ``(B, k)``. ``apply`` gives the
        state's shapes.

    Units:
        Any for ``fn``, since only its sign and its zero count; times in those of ``tspan``.

    Raises:
        InvalidProblemError: an argument is wrong; the message names it.

    When to take it:
        Where the time is a consequence of the solution: a threshold, an impact, a stopping time.
        :class:`ScheduledEvent` where it is known before; ``jump_ts`` of the controller where the field jumps and the
        state does not.

    References:
        Chen, Amos, Nickel: Learning Neural Event Functions for Ordinary Differential Equations. ICLR 2021.

    Example:
        >>> import torch, neuralde as nde
        >>> height = torch.tensor([10.0, 0.0], dtype=torch.float64, requires_grad=True)
        >>> fall = nde.ODEProblem(lambda t, y: torch.stack([y[1], -9.81 + 0 * y[1]]), height, (0.0, 10.0))
        >>> sol = nde.solve(fall, events=nde.Event(lambda t, y: y[0], direction="down"))
        >>> sol.status.name, round(sol.event_time.item(), 9), round((2 * 10.0 / 9.81) ** 0.5, 9)
        ('EVENT', 1.427843123, 1.427843123)
        >>> torch.autograd.grad(sol.event_time, height)[0]  # 1 / (g t*), and 1 / g
        tensor([0.0714, 0.1019], dtype=torch.float64)
    """

    fn: Callable[..., Any]
    direction: str = "any"
    terminal: bool = True
    apply: Callable[..., Any] | None = None
    probes: int = 3
    sees: str = "latest"
    indexed: bool = False

    def __post_init__(self) -> None:
        if not callable(self.fn):
            raise InvalidProblemError(f"fn: got {type(self.fn).__name__}; expected a callable fn(t, y, *args)")
        if self.direction not in _DIRECTIONS:
            raise InvalidProblemError(f'direction: got {self.direction!r}; expected "any", "up" or "down"')
        if not isinstance(self.terminal, bool):
            raise InvalidProblemError(f"terminal: got {self.terminal!r}; expected True or False")
        _check_apply(self.apply, optional=True)
        if self.apply is not None and self.terminal:
            raise InvalidProblemError(
                "apply: got one with terminal=True; expected terminal=False, so that the solve goes on"
            )
        object.__setattr__(self, "probes", integer(self.probes, "probes", 0))
        _check_manner(self.sees, self.indexed, self.apply)


@dataclass(frozen=True, eq=False)
class ScheduledEvent:
    r"""A change of the state at given times: a dose, a pulse, a reset.

    The solve lands on each of the times, applies the change there and goes on. Gradients flow to the times that require
    grad, in a tensor or in a list.

    .. math:: y(t_k^+) = a\bigl(t_k, y(t_k^-), \text{args}\bigr)

    Args:
        ts: when, a sequence or a 1-D tensor in any order; with ``per_sample`` also ``(T, B)``, each sample's own times, with
            NaN where a sample has fewer. A time ``t0`` changes the initial state before anything is saved; one at ``t1``
            belongs to the solve that goes on from there; those outside the interval are passed over. Times within a few
            units of rounding of ``t0``, ``t1`` or another event's time, in the coarser dtype of the two, are that time. A
            time given twice happens twice.
        apply: ``apply(t, y, *args) -> y``, the state with which the solve goes on.
        sees: which state ``apply`` receives where several events happen at one time: the ``"latest"``, which those before
            it in the list leave, or the one ``"before"`` all of them. In the second case it assigns the components that
            it changes; all others stay as the events before it in the list left them (as SBML has it, with
            ``useValuesFromTriggerTime``).
        indexed: give ``apply`` the keyword ``index``: which of ``ts`` it is, an int, or ``(B,)`` int64 with
            ``per_sample``.

    Shapes:
        ``ts`` ``(T,)``, with ``per_sample`` also ``(T, B)``; ``apply`` gives the state's shapes.

    Units:
        ``ts`` in those of ``tspan``.

    Raises:
        InvalidProblemError: an argument is wrong; the message names it.

    When to take it:
        For doses, resets and switches whose times are known; cheaper and more exact than an :class:`Event`, whose time
        has to be found. Where only the field changes at known times ``jump_ts`` of the controller is enough.

    Example:
        >>> import torch, neuralde as nde
        >>> problem = nde.ODEProblem(lambda t, y: -y, torch.zeros(1, dtype=torch.float64), (0.0, 2.0))
        >>> dose = nde.ScheduledEvent([0.0, 1.0], lambda t, y: y + 1.0)
        >>> sol = nde.solve(problem, events=dose, rtol=1e-8, atol=1e-8)
        >>> sol.y1, sol.events.ts  # exp(-2) + exp(-1)
        (tensor([0.5032], dtype=torch.float64), tensor([0., 1.], dtype=torch.float64))

        Doses of different sizes, by which the result can be differentiated:

        >>> sizes = torch.tensor([1.0, 0.5], dtype=torch.float64, requires_grad=True)
        >>> dose = nde.ScheduledEvent([0.0, 1.0], lambda t, y, index: y + sizes[index], indexed=True)
        >>> y1 = nde.solve(problem, events=dose, rtol=1e-8, atol=1e-8).y1
        >>> torch.autograd.grad(y1.sum(), sizes)[0]  # exp(-2), exp(-1)
        tensor([0.1353, 0.3679], dtype=torch.float64)
    """

    ts: Sequence[float] | Tensor
    apply: Callable[..., Any]
    sees: str = "latest"
    indexed: bool = False

    terminal = False
    direction = "any"
    probes = 0
    resolution = 0.0

    def __post_init__(self) -> None:
        _check_apply(self.apply, optional=False)
        _check_manner(self.sees, self.indexed, self.apply)
        object.__setattr__(self, "resolution", resolution(self.ts))
        times = read_times(self.ts, "ts").in_graph
        if times.dim() not in (1, 2):
            raise InvalidProblemError(
                f"ts: got {times.dtype} of shape {tuple(times.shape)}; expected 1-D real times, or (T, B) with per_sample"
            )
        given = times[~times.isnan()] if times.dim() == 2 else times
        if not bool(given.isfinite().all()):
            raise InvalidProblemError(f"ts: got {times.tolist()}; expected finite times")
        object.__setattr__(self, "ts", times)


def _check_apply(apply: Any, optional: bool) -> None:
    if not callable(apply) and not (optional and apply is None):
        raise InvalidProblemError(f"apply: got {type(apply).__name__}; expected a callable apply(t, y, *args) -> y")


def _check_manner(sees: Any, indexed: Any, apply: Any) -> None:
    if sees not in _SEES:
        raise InvalidProblemError(f'sees: got {sees!r}; expected "latest" or "before"')
    if not isinstance(indexed, bool):
        raise InvalidProblemError(f"indexed: got {indexed!r}; expected True or False")
    if indexed and apply is not None and not _takes_index(apply):
        raise InvalidProblemError(
            "apply: got a function without a parameter index, with indexed=True; expected apply(t, y, *args, index) -> y, or "
            "indexed=False"
        )


def _takes_index(apply: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(apply).parameters
    except (TypeError, ValueError):  # some callables do not tell
        return True
    named = parameters.get("index")
    if named is not None:
        return named.kind in (named.POSITIONAL_OR_KEYWORD, named.KEYWORD_ONLY)
    return any(one.kind is one.VAR_KEYWORD for one in parameters.values())


def as_events(events: Any) -> tuple[Event | ScheduledEvent, ...]:
    """The argument ``events=`` as a tuple."""
    many = tuple(events) if isinstance(events, (list, tuple)) else (events,)
    for event in many:
        if not isinstance(event, (Event, ScheduledEvent)):
            raise InvalidProblemError(
                f"events: got {type(event).__name__} {event!r}; expected an Event, a ScheduledEvent, or a list of them"
            )
    return many


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
            [_DIRECTIONS[event.direction] for event in each], dtype=torch.float64, device=device
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
