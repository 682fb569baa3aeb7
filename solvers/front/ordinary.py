"""Ordinary differential equations: the default method, and the field as a term."""

from __future__ import annotations

from torch import Tensor

from ..core.packing import Packing
from ..core.scalars import Scalar
from ..errors import InvalidProblemError
from ..methods.base import Method
from ..methods.explicit.tsit5 import Tsit5
from ..problems import ODEProblem
from ..stepping.controllers import Controller
from ..terms.base import Term
from ..terms.ordinary import Field
from .kind import Kind
from .options import SolveOptions


class Ordinary(Kind):
    """A field along time."""

    def method(self, problem: ODEProblem, solver: Method | None) -> Method:
        """The solver, if it steps fields; :class:`Tsit5` if there is none."""
        if solver is not None and "ODE" not in solver.takes:
            raise InvalidProblemError(
                f"solver: got {solver!r} with {problem.title}; expected a method for it, such as Tsit5()"
            )
        return Tsit5() if solver is None else solver

    def term(
        self,
        problem: ODEProblem,
        packing: Packing,
        y0: Tensor,
        method: Method,
        controller: Controller | None,
        ends: tuple[Scalar, Scalar],
        options: SolveOptions,
    ) -> tuple[Term, Method]:
        """The field."""
        del y0, controller, ends, options
        return Field(problem.f, packing, problem.args, jac=problem.jac), method
