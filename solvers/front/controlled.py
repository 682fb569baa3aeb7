"""Controlled differential equations: methods for fields, and the field that the control drives as a term."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..core.packing import Packing
from ..core.scalars import Scalar
from ..methods.base import Method
from ..stepping.controllers import Controller
from ..terms.base import Term
from ..terms.controlled import ControlledField
from .options import SolveOptions
from .ordinary import Ordinary


class Controlled(Ordinary):
    """A field along a path."""

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
        """The field times the path's derivative."""
        del y0, controller, ends, options
        return ControlledField(problem.field, problem.path, packing, problem.args), method
