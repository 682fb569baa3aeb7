"""What users write: :class:`Event`, which looks out for a change of sign, and :class:`ScheduledEvent`, at given times."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..checks import integer
from ..core.ties import resolution
from ..core.times import read_times
from ..errors import InvalidProblemError

DIRECTIONS = {"any": 0.0, "up": 1.0, "down": -1.0}
_SEES = ("latest", "before")


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
        if self.direction not in DIRECTIONS:
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
