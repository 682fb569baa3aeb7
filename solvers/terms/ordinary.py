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
    """

    captures = True

    def __init__(
        self, f: Callable[..., Any], packing: Packing, args: tuple[Any, ...] = (), caller: Caller | None = None
    ) -> None:
        self.f, self.packing, self.args = f, packing, args
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
        return (self.f,)
