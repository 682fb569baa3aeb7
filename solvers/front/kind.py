"""What a solve asks about the class of a problem."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor

from ..core.packing import Packing
from ..core.scalars import Scalar
from ..errors import InvalidProblemError
from ..methods.base import Method
from ..stepping.controllers import Controller
from ..terms.base import Term
from .options import SolveOptions


class Kind(ABC):
    """How problems of one class are solved: the method and controller that they take, and their term.

    A new class of problems is entered in :data:`neuralde.solvers.front.kinds.KINDS`; nothing else asks what a problem is.
    """

    @abstractmethod
    def method(self, problem: Any, solver: Method | None) -> Method:
        """The method that steps the problem, from the one that was asked for; None: its default."""

    def check(self, problem: Any, options: SolveOptions) -> None:
        """Refuse options of which such a problem has no use: unless it says otherwise, noise."""
        for name, value in (("seed", options.seed), ("path", options.path)):
            if value is not None:
                raise InvalidProblemError(
                    f"{name}: got {value!r} with {problem.title}, which has no noise; expected None"
                )

    def controller(self, solver: Method | None, options: SolveOptions) -> Controller | None:
        """The step-size control, from what was asked for; None: the method's."""
        del solver
        return options.controller

    @abstractmethod
    def term(
        self,
        problem: Any,
        packing: Packing,
        y0: Tensor,
        method: Method,
        controller: Controller | None,
        ends: tuple[Scalar, Scalar],
        options: SolveOptions,
    ) -> tuple[Term, Method]:
        """The problem's right-hand side, and the method as it steps that.

        Args:
            problem: the problem.
            packing: how its state is laid out.
            y0: its packed initial state.
            method: what :meth:`method` gave.
            controller: what :meth:`controller` gave, without a graph.
            ends: the interval as clock numbers.
            options: what else was asked for.
        """
