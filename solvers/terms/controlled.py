"""A field that a control drives: its matrix times the derivative of the path."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..core.packing import Packing
from ..errors import InvalidProblemError
from ..functions.calls import Caller
from .ordinary import Field


class Contraction:
    """``F(t, y) X'(t)`` as a function of time and state: what is solved, and where it is not smooth.

    Args:
        field: the user's field, a matrix for each state.
        path: the control.
    """

    def __init__(self, field: Callable[..., Any], path: Any) -> None:
        self.field, self.path = field, path
        # Landed on unless the path says that it is smooth; torchcde's paths only say ``grid_points``.
        self.knots = (
            None if getattr(path, "smooth", False) else getattr(path, "knots", getattr(path, "grid_points", None))
        )

    @property
    def jumps(self) -> Any:
        """The times on which to land; the paths of torchcde call theirs ``grid_points``, whether smooth or not."""
        return getattr(self.path, "jumps", getattr(self.path, "grid_points", None))

    def __call__(self, t: Tensor, y: Any, *args: Any) -> Any:
        """The slope."""
        speed = self.path.derivative(t)
        return pytree.tree_map(lambda matrix: contracted(matrix, speed), self.field(t, y, *args))


def contracted(matrix: Any, speed: Tensor) -> Tensor:
    """A matrix for each state times the speed of the control, refused by name where they do not fit."""
    if not isinstance(matrix, Tensor):
        raise InvalidProblemError(
            f"field: got {type(matrix).__name__}; expected a tensor (..., d, c) for each state (..., d)"
        )
    channels = speed.shape[-1]
    if matrix.dim() < 1 or matrix.shape[-1] != channels:
        raise InvalidProblemError(
            f"field: got shape {tuple(matrix.shape)}; expected the {channels} channels of the path in its last dimension"
        )
    if not matrix.is_floating_point() and not matrix.is_complex():
        raise InvalidProblemError(f"field: got dtype {matrix.dtype}; expected real or complex floating point")
    if matrix.dim() < 2:
        return (matrix * speed.to(matrix.dtype)).sum(-1)
    try:
        return (matrix @ speed.to(matrix.dtype).unsqueeze(-1)).squeeze(-1)
    except RuntimeError:
        if _fit(matrix.shape[:-2], speed.shape[:-1]):
            raise
    raise InvalidProblemError(
        f"field: got shape {tuple(matrix.shape)}; expected one that fits the series of the path, {tuple(speed.shape[:-1])}"
    )


def _fit(*shapes: torch.Size) -> bool:
    try:
        torch.broadcast_shapes(*shapes)
    except RuntimeError:
        return False
    return True


class ControlledField(Field):
    """The field of a controlled equation.

    Args:
        field: the user's ``field(t, y, *args)``.
        path: the control.
        packing: how the state is laid out.
        args: what else ``field`` receives.
    """

    title = "a CDEProblem"
    name = "field"

    def __init__(
        self,
        field: Callable[..., Any],
        path: Any,
        packing: Packing,
        args: tuple[Any, ...] = (),
        caller: Caller | None = None,
    ) -> None:
        super().__init__(Contraction(field, path), packing, args, caller)
