"""The kinds of problems that have an interval of time, by their class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from ..errors import InvalidProblemError
from ..problems import CDEProblem, ODEProblem, Problem, SDEProblem, SemilinearSDEProblem
from .controlled import Controlled
from .kind import Kind
from .ordinary import Ordinary
from .semilinear import Semilinear
from .stochastic import Stochastic

Entry = TypeVar("Entry")

KINDS: dict[type, Kind] = {
    ODEProblem: Ordinary(),
    CDEProblem: Controlled(),
    SDEProblem: Stochastic(),
    SemilinearSDEProblem: Semilinear(),
}
"""The kind of each class of problems, to which others may be added; a subclass is of the kind of its parent."""


def kind_of(problem: Any) -> Kind:
    """The kind of a problem; refuses what is none that has an interval of time."""
    kind = entry_for(problem, KINDS)
    if kind is None:
        # What is a problem, such as a steady state, has no interval of time; what is none may be meant for any.
        rest = (
            "CDEProblem or SDEProblem"
            if isinstance(problem, Problem)
            else "CDEProblem, SDEProblem or SteadyStateProblem"
        )
        raise InvalidProblemError(f"problem: got {type(problem).__name__}; expected an ODEProblem, {rest}")
    return kind


def entry_for(problem: Any, entries: Mapping[type, Entry]) -> Entry | None:
    """The entry for a problem's class, or for the nearest of its parents that has one."""
    for parent in type(problem).__mro__:
        if parent in entries:
            return entries[parent]
    return None
