"""What each adjoint can do, as data: the code checks it, messages quote it, and the documentation prints it."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .base import Adjoint


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """The facts about one adjoint. What is False here is refused with a reason, never differentiated wrongly.

    Attributes:
        exact: the gradient is that of the numerical solution, to rounding; otherwise it converges with the tolerance.
        memory: what is kept between the solve and its backward pass.
        cost: what the backward pass computes.
        terms: the kinds of equation.
        solvers: the methods of the forward solve: ``"any"`` or ``"reversible"``.
        saves: what ``saveat`` may ask for: the end, given times, every step.
        dense: gradients flow through ``sol(t)``.
        events: gradients flow through events.
        regularizers: gradients reach reductions over the steps, such as ``ErrorEstimate``.
        running_costs: gradients reach integrals along the solution, ``RunningCost``.
        per_sample: every sample may have its own clock.
        compiles: the solve may run under ``torch.compile``.
        compiled_field: the field may be compiled by itself, in an eager solve.
        double_backward: gradients can be differentiated again.
        forward_mode: ``torch.func`` and forward-mode differentiation reach through the solve.
        many_cotangents: a backward pass may run for many cotangents at once.
        through_steps: step sizes can be differentiated as well.

    Example:
        >>> import neuralde as nde
        >>> nde.DiscreteAdjoint.capabilities.exact, nde.DiscreteAdjoint.capabilities.forward_mode
        (True, False)
    """

    exact: bool
    memory: str
    cost: str
    terms: tuple[str, ...] = ("ODE",)
    solvers: str = "any"
    saves: tuple[str, ...] = ("end", "times", "steps")
    dense: bool = True
    events: bool = False
    regularizers: bool = True
    running_costs: bool = True
    per_sample: bool = True
    compiles: bool = False
    compiled_field: bool = True
    double_backward: bool = False
    forward_mode: bool = False
    many_cotangents: bool = True
    through_steps: bool = False


class _Known(NamedTuple):
    rank: int
    kind: weakref.ref[type[Adjoint]]


_KNOWN: dict[tuple[str, str], _Known] = {}


def register(kind: type[Adjoint], rank: int) -> None:
    """Put an adjoint into the tables and messages; one that is defined again, in a notebook's cell, takes its own place."""
    _KNOWN[kind.__module__, kind.__qualname__] = _Known(rank, weakref.ref(kind))


def every_adjoint() -> list[type[Adjoint]]:
    """Every adjoint that there is, in the order of their ranks, and of their definitions where these are the same.

    >>> [kind.__name__ for kind in every_adjoint()][:2]
    ['DiscreteAdjoint', 'DirectAdjoint']
    """
    kinds = (known.kind() for known in sorted(_KNOWN.values(), key=lambda known: known.rank))
    return [kind for kind in kinds if kind is not None]


def who_has(terms: str = "ODE", **wanted: object) -> str:
    """The adjoints with these capabilities, as a message names them, of those for this kind of equation.

    >>> who_has(double_backward=True)
    'DiscreteAdjoint(), DirectAdjoint() or ReversibleAdjoint()'
    """
    names = [
        f"{kind.__name__}()"
        for kind in every_adjoint()
        if all(_has(getattr(kind.capabilities, name), value) for name, value in {"terms": terms, **wanted}.items())
    ]
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _has(have: object, value: object) -> bool:
    return value in have if isinstance(have, tuple) else have == value


def table() -> str:
    """The capabilities of every adjoint as a Markdown table, one row for each fact.

    Returns:
        A Markdown table, a column for each adjoint.

    When to take it:
        To choose an adjoint by what it can do; the page *Choosing an adjoint* says what it costs.

    Example:
        >>> import neuralde as nde
        >>> print(nde.adjoints.table().splitlines()[2])  # doctest: +ELLIPSIS
        | exact | yes | yes | ...
    """
    kinds = every_adjoint()
    lines = ["| | " + " | ".join(f"`{kind.__name__}`" for kind in kinds) + " |", "|---" * (len(kinds) + 1) + "|"]
    for fact in fields(Capabilities):
        cells = [_cell(getattr(kind.capabilities, fact.name)) for kind in kinds]
        lines.append(f"| {fact.name.replace('_', ' ')} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(value) if isinstance(value, tuple) else str(value)
