"""What :func:`neuralde.solve` is asked for, as one record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from neuralde.adjoints import Adjoint
from neuralde.solvers.front.kinds import kind_of
from neuralde.solvers.front.options import SolveOptions, check_kind

from .regularizers.base import Regularizer


@dataclass(frozen=True, kw_only=True, eq=False)
class Options(SolveOptions):
    """The options of a solve, those of this layer included."""

    adjoint: Adjoint | None = None
    regularizers: Sequence[Regularizer] = ()
    progress: bool = False
    reduction: ClassVar[Any] = Regularizer

    def check_kinds(self) -> None:
        """Refuse classes in the place of instances, and what is neither."""
        super().check_kinds()
        check_kind(self.adjoint, (Adjoint, type(None)), "adjoint", "such as DiscreteAdjoint()")

    def for_problem(self, problem: Any) -> tuple[Any, Options]:
        """The problem to solve instead, and the options for it, as the regularizers have them."""
        kind_of(problem)
        saveat = self.saveat
        for regularizer in self.regularizers:
            given, problem = problem, regularizer.prepare(problem)
            saveat = regularizer.save_times(saveat, given, problem)
        return problem, self if saveat is self.saveat else replace(self, saveat=saveat)
