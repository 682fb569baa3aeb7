"""The user's field as the methods call it: packed state, clock number in, packed derivative out."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
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
        return self.value(self.f, self.name, self.packing.pack, t, y)

    def value(self, f: Callable[..., Any], name: str, pack: Callable[..., Tensor], t: Scalar, y: Tensor) -> Tensor:
        """What one of the user's functions gives at ``(t, y)``, packed and checked."""
        packed = self.caller(f, name, partial(pack, what=name), self.packing, t, y, self.args)
        if self.packing.per_sample and packed.shape[:1] != y.shape[:1]:
            raise InvalidProblemError(
                f"{name}: got {packed.shape[0]} rows; expected {y.shape[0]}, like the state it was given"
            )
        return packed

    @property
    def functions(self) -> tuple[Callable[..., Any], ...]:
        """The user's functions."""
        return (self.f,)

    def rebind(self, args: tuple[Any, ...]) -> Field:
        """The same field with other arguments."""
        return Field(self.f, self.packing, args, self.caller)
