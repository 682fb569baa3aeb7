"""The user's field as the methods call it: packed state, clock number in, packed derivative out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..core.packing import Packing
from ..core.scalars import Scalar
from ..errors import InvalidProblemError
from ..functions.calls import Caller
from ..functions.severed_gradients import Cuts
from .base import Term


class Field(Term):
    """``field(t, y)`` for packed states.

    Args:
        f: the user's ``f(t, y, *args)``.
        packing: how the state is laid out.
        args: what else ``f`` receives.
        caller: what calls it; of the same solve, where there is one.
        jac: the user's Jacobian ``jac(t, y, *args)``, if there is one.
    """

    captures = True

    def __init__(
        self,
        f: Callable[..., Any],
        packing: Packing,
        args: tuple[Any, ...] = (),
        caller: Caller | None = None,
        jac: Callable[..., Any] | None = None,
    ) -> None:
        self.f, self.packing, self.args, self.jac = f, packing, args, jac
        self.caller = Caller(Cuts()) if caller is None else caller

    def __call__(self, t: Scalar, y: Tensor) -> Tensor:
        """The derivative at ``(t, y)``, packed and checked."""
        packing = self.packing
        packed = self.caller(self.f, self.name, packing.pack, packing, t, y, self.args)
        return self._of_all(packed, y, self.name) if packing.per_sample else packed

    def value(self, f: Callable[..., Any], name: str, pack: Callable[..., Tensor], t: Scalar, y: Tensor) -> Tensor:
        """What one of the user's functions gives at ``(t, y)``, packed and checked."""
        packed = self.caller(f, name, pack, self.packing, t, y, self.args)
        return self._of_all(packed, y, name) if self.packing.per_sample else packed

    @staticmethod
    def _of_all(packed: Tensor, y: Tensor, name: str) -> Tensor:
        if packed.shape[:1] != y.shape[:1]:
            raise InvalidProblemError(
                f"{name}: got {packed.shape[0]} rows; expected {y.shape[0]}, like the state it was given"
            )
        return packed

    @property
    def functions(self) -> tuple[Callable[..., Any], ...]:
        """The user's functions."""
        return (self.f,) if self.jac is None else (self.f, self.jac)

    def probe(self, t: Scalar, y: Tensor) -> list[Tensor]:
        """The slope, and the Jacobian where it is given."""
        matrix = self.jacobian(t, y)
        return [self(t, y)] if matrix is None else [self(t, y), matrix]

    def jacobian(self, t: Scalar, y: Tensor) -> Tensor | None:
        """The user's Jacobian."""
        if self.jac is None:
            return None
        matrix: Tensor = self.caller(self.jac, "jac", _matrix, self.packing, t, y, self.args)
        return matrix


def _matrix(value: Any, name: str) -> Tensor:
    if not isinstance(value, Tensor):
        raise InvalidProblemError(
            f"{name}: got {type(value).__name__}; expected a tensor, the Jacobian of the flattened state"
        )
    return value
