"""The solver layer's own entry: problem, method and options to a solution, without an adjoint."""

from __future__ import annotations

from typing import Any

import torch

from ..drivers.integrate import Result, integrate, plain
from ..methods.base import Method
from ..output.solution import Solution
from .assemble import assemble, judged
from .options import SolveOptions
from .prepare import Prepared, prepare


def run(ready: Prepared) -> Result:
    """The steps of a solve; they are in the graph where gradients are enabled, as far as autograd can follow them."""
    return plain(integrate(ready.plan, ready.y0, ready.keep), ready.y0)


def solve(problem: Any, solver: Method | None = None, **options: Any) -> Solution:
    """Solve an initial value problem; no gradient flows through the solution.

    The same algorithm as :func:`neuralde.solve`, which adds the adjoints, the regularizers, the progress bar and steady
    states.

    Args:
        problem: an :class:`ODEProblem`, an :class:`SDEProblem`, or one of another class in
            :data:`neuralde.solvers.front.kinds.KINDS`.
        solver: the method; None: the default of the problem's kind.
        options: the fields of :class:`SolveOptions`.

    Returns:
        A :class:`Solution`.

    Raises:
        InvalidProblemError: an argument is wrong; the message names it, what was passed and what is accepted.
        SolveError: the solve failed; its ``.solution`` holds what was computed before.

    Example:
        >>> import torch
        >>> from neuralde.solvers import ODEProblem
        >>> from neuralde.solvers.front.solve import solve
        >>> solve(ODEProblem(lambda t, y: -y, torch.ones(2), (0.0, 1.0))).y1
        tensor([0.3679, 0.3679])
    """
    asked = SolveOptions(**options)
    with torch.no_grad():
        ready = prepare(problem, solver, asked)
        result = run(ready)
        return judged(assemble(ready, result), ready, result, asked.throw)
