"""Whoever wants to hear of every finished solve: a registry that costs nothing while it is empty."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from neuralde.adjoints.base import Job
from neuralde.solvers import Method, Solution, SteadyStateMethod
from neuralde.solvers.drivers.graph import compiling
from neuralde.solvers.stepping.attempt import Carry, Plan, Trial


class Peaks:
    """The largest error ratio and stiffness over the accepted steps of a solve; a listener of the loop.

    Reading them costs no call of the field, only arithmetic on stages that the step has already.
    """

    reads_stiffness = True

    def __init__(self) -> None:
        self.errors: list[Any] = []
        self.stiffnesses: list[Tensor] = []

    def __call__(self, plan: Plan, carry: Carry, trial: Trial) -> None:
        """Keep an accepted step's numbers, on the device where they are."""
        if trial.accept is False:
            return
        if plan.controller.adaptive:
            self.errors.append(_accepted(trial.ratio, trial.accept))
        if plan.method.has_stiffness:
            with torch.no_grad():
                self.stiffnesses.append(_accepted(trial.step.stiffness, trial.accept))

    @property
    def error(self) -> float | None:
        """The largest error in units of the tolerance; None for a method without estimate."""
        return _largest(self.errors)

    @property
    def stiffness(self) -> float | None:
        """The largest stiffness estimate, 1/time; None for a method without estimate."""
        return _largest(self.stiffnesses)


def _accepted(value: Any, accept: Any) -> Any:
    value = value.detach() if isinstance(value, Tensor) else value
    return torch.where(accept, value, 0.0) if isinstance(accept, Tensor) else value


def _largest(values: list[Any]) -> float | None:
    return max(float(torch.as_tensor(value).max()) for value in values) if values else None


@dataclass(frozen=True, eq=False)
class Solved:
    """One finished solve, as a listener hears of it.

    Attributes:
        problem: what was solved.
        method: by which method.
        solution: the result, failed or not.
        rtol: relative tolerance.
        atol: absolute tolerance.
        peaks: the largest error and stiffness; None for a compiled solve and for a steady state, which keep neither.
    """

    problem: Any
    method: Method | SteadyStateMethod
    solution: Solution
    rtol: Any
    atol: Any
    peaks: Peaks | None = None


Listener = Callable[[Solved], None]
_LISTENERS: list[Listener] = []


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Inside the block ``listener`` is called with a :class:`Solved` after every solve.

    Eager solves and those of models with ``compile=True`` are heard. A solve inside a function under
    ``torch.compile`` is part of its graph, where Python code does not run: it is not heard.

    Example:
        >>> import torch, neuralde as nde
        >>> from neuralde.listeners import listening
        >>> calls = []
        >>> with listening(lambda solved: calls.append(solved.solution.stats.nfe)):
        ...     sol = nde.solve(nde.ODEProblem(lambda t, y: -y, torch.ones(1), (0.0, 1.0)))
        >>> calls == [sol.stats.nfe]
        True
    """
    _LISTENERS.append(listener)
    try:
        yield
    finally:
        # The last one that is this very object: two equal listeners may be at work.
        index = max(i for i, other in enumerate(_LISTENERS) if other is listener)
        del _LISTENERS[index]


def watched(job: Job) -> tuple[Job, Peaks | None]:
    """The job with a recorder of its peaks, where a listener will read them."""
    if compiling() or not _LISTENERS:
        return job, None
    peaks = Peaks()
    options = job.options
    return replace(job, options=replace(options, listeners=(*options.listeners, peaks))), peaks


def announce(
    problem: Any,
    method: Method | SteadyStateMethod,
    solution: Solution,
    rtol: Any,
    atol: Any,
    peaks: Peaks | None = None,
) -> None:
    """Tell every listener of a finished solve."""
    if compiling() or not _LISTENERS:
        return
    solved = Solved(problem, method, solution, rtol, atol, peaks)
    for listener in tuple(_LISTENERS):
        listener(solved)
