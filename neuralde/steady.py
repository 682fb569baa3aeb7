"""The solve of a steady-state problem: the search below, its gradient, and the user's view of both."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from neuralde.adjoints import ImplicitAdjoint
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
from .options import Options

# Of the options those that a steady state takes; the others belong to a path.
_TAKEN = ("rtol", "atol", "dt", "controller", "adjoint", "per_sample", "max_steps", "throw")


def solve_steady(problem: SteadyStateProblem, solver: Method | SteadyStateMethod | None, asked: Options) -> Solution:
    """Find a steady state; what belongs to a path is refused."""
    how = _method(solver, asked.dt, asked.controller)
    adjoint = ImplicitAdjoint() if asked.adjoint is None else asked.adjoint
    if not isinstance(adjoint, ImplicitAdjoint):
        raise InvalidProblemError(
            f"adjoint: got {adjoint!r} for a SteadyStateProblem; expected ImplicitAdjoint(), the gradient of a steady state"
        )
    for option in fields(asked):
        value = getattr(asked, option.name)
        empty = value is None or value is False or (isinstance(value, (tuple, list)) and not value)
        if option.name not in _TAKEN and not empty and not (isinstance(value, str) and value == option.default):
            raise InvalidProblemError(
                f"{option.name}: got {value!r} for a SteadyStateProblem; expected none, because its solution has no path "
                "(an ODEProblem has)"
            )
    if torch.compiler.is_compiling() or transformed():
        raise InvalidProblemError(
            "problem: a SteadyStateProblem cannot be compiled or transformed by torch.func; expected an eager solve"
        )
    max_steps = integer(asked.max_steps, "max_steps")
    if asked.per_sample:
        check_samples(problem.y0)
    packing = Packing(problem.y0, asked.per_sample)
    y0 = packing.pack(problem.y0, "y0")
    stop = Stop(rtol=_tolerance(asked.rtol, "rtol"), atol=_tolerance(asked.atol, "atol"), norm=how.norm)
    residual = Residual(problem, packing)
    with torch.no_grad():
        found = how.find(problem, residual, residual.flat(y0.detach()), stop, max_steps)
    y1 = adjoint.attach(problem, packing, y0, found, stop)
    solution = _solution(packing, found, y1)
    announce(problem, how, solution, asked.rtol, asked.atol)
    if asked.throw:
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
