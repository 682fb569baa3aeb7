"""The solve of a steady-state problem: the search below, its gradient, and the user's view of both."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from neuralde.adjoints import Adjoint, ImplicitAdjoint
from neuralde.solvers import (
    DynamicSS,
    InvalidProblemError,
    Method,
    Solution,
    Status,
    SteadyStateMethod,
    SteadyStateProblem,
    SteadyStats,
)
from neuralde.solvers.checks import integer, number
from neuralde.solvers.core.packing import Packing
from neuralde.solvers.core.scalars import transformed
from neuralde.solvers.front.plan import check_samples
from neuralde.solvers.steady.search import COUNTS, Found, Residual, Stop

from .listeners import announce


def solve_steady(
    problem: SteadyStateProblem,
    solver: Method | SteadyStateMethod | None,
    *,
    rtol: float | Tensor,
    atol: float | Tensor,
    adjoint: Adjoint | None,
    per_sample: bool,
    max_steps: int,
    throw: bool,
    **others: Any,
) -> Solution:
    """Find a steady state; the rest of what ``solve`` takes belongs to a path, and is refused."""
    how = _method(solver, others.pop("dt"), others.pop("controller"))
    adjoint = ImplicitAdjoint() if adjoint is None else adjoint
    if not isinstance(adjoint, ImplicitAdjoint):
        raise InvalidProblemError(
            f"adjoint: got {adjoint!r} for a SteadyStateProblem; expected ImplicitAdjoint(), the gradient of a steady state"
        )
    for name, value in others.items():
        if not (value is None or value is False or (isinstance(value, (tuple, list)) and not value)):
            raise InvalidProblemError(
                f"{name}: got {value!r} for a SteadyStateProblem; expected none, because its solution has no path (an "
                "ODEProblem has)"
            )
    if torch.compiler.is_compiling() or transformed():
        raise InvalidProblemError(
            "problem: a SteadyStateProblem cannot be compiled or transformed by torch.func; expected an eager solve"
        )
    max_steps = integer(max_steps, "max_steps")
    if per_sample:
        check_samples(problem.y0)
    packing = Packing(problem.y0, per_sample)
    y0 = packing.pack(problem.y0, "y0")
    stop = Stop(rtol=_tolerance(rtol, "rtol"), atol=_tolerance(atol, "atol"), norm=how.norm)
    residual = Residual(problem, packing)
    with torch.no_grad():
        found = how.find(problem, residual, residual.flat(y0.detach()), stop, max_steps)
    y1 = adjoint.attach(problem, packing, y0, found, stop)
    solution = _solution(packing, found, y1)
    announce(problem, how, solution, rtol, atol)
    if throw:
        solution.raise_on_failure()
    return solution


def _method(solver: Method | SteadyStateMethod | None, dt: Any, controller: Any) -> SteadyStateMethod:
    if solver is None or isinstance(solver, Method):
        return DynamicSS(solver, dt=dt, controller=controller)
    if not isinstance(solver, SteadyStateMethod):
        raise InvalidProblemError(
            f"solver: got {solver!r} for a SteadyStateProblem; expected DynamicSS(), Newton(), Anderson() or a method "
            "such as Tsit5()"
        )
    for name, value in (("dt", dt), ("controller", controller)):
        if value is not None:
            raise InvalidProblemError(f"{name}: got {value!r} with {solver!r}; expected DynamicSS(..., {name}=)")
    return solver


def _tolerance(value: Any, name: str) -> float:
    expected = "a number or 0-d tensor, 0 or positive: the rule for a steady state is about norms"
    return number(value, name, expected, least=0.0)


def _solution(packing: Packing, found: Found, y1: Tensor) -> Solution:
    """The user's view of what was found."""
    lanes = packing.per_sample

    def each(x: Tensor) -> Any:
        return x if lanes else x.item()

    counts = {name: found.counts[name] for name in COUNTS}
    counts["rejected"] = counts["steps"] - counts["accepted"]
    reached = torch.where(found.status == int(Status.SUCCESS), 0.0, torch.nan).to(found.x.dtype)
    reached = reached.reshape(-1, *[1] * (y1.dim() - 1)) if lanes else reached.reshape(())
    return Solution(
        ts=(found.t if lanes else found.t.reshape(())).unsqueeze(0),
        ys=packing.unpack((y1 + reached).unsqueeze(0), lead=1),
        y1=packing.unpack(y1),
        stats=SteadyStats(**{name: each(count) for name, count in counts.items()}),
        status=found.status if lanes else Status(int(found.status)),
        residual=each(found.residual),
        unstable=each(found.unstable),
        singular=each(found.singular),
        _end=each(found.t),
    )
