"""The user's field as the methods call it: packed state, clock number in, packed derivative out."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..core.packing import Packing
from ..core.scalars import Scalar, as_time
from ..errors import InvalidProblemError
from ..functions.calls import Caller
from ..functions.severed_gradients import Cuts


class Field:
    """``field(t, y)`` for packed states.

    Args:
        f: the user's ``f(t, y, *args)``.
        packing: how the state is laid out.
        args: what else ``f`` receives.
        caller: what calls it; of the same solve, where there is one.
    """

    name = "f"
    """What messages call the user's function."""

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

    def probe(self, t: Scalar, y: Tensor) -> list[Tensor]:
        """Everything that the user's functions return at one point, the slope first."""
        return [self(t, y)]

    def rebind(self, args: tuple[Any, ...]) -> Field:
        """The same field with other arguments."""
        return Field(self.f, self.packing, args, self.caller)

    def take(self, rows: Tensor) -> Field:
        """The field of some of the samples."""
        del rows
        return self

    def one_sided(self, low: Scalar, high: Scalar) -> Callable[[Scalar, Tensor], Tensor]:
        """The field seen from inside an interval."""
        return OneSided(self, low, high)


class OneSided:
    """A field seen from inside an interval: times are clamped between two bounds.

    At a discontinuity the step that ends there must see the field's left limit and the step that starts there its
    right limit, in the precision in which the field receives the time.
    """

    def __init__(self, field: Callable[[Scalar, Tensor], Tensor], low: Scalar, high: Scalar) -> None:
        self.field, self.low, self.high = field, low, high

    def __call__(self, t: Scalar, y: Tensor) -> Tensor:
        """The derivative at the nearest time inside the bounds."""
        return self.field(clamped(t, y, self.low, self.high), y)


def clamped(t: Scalar, y: Tensor, low: Scalar, high: Scalar) -> Tensor:
    """The nearest time inside the bounds, in the precision in which the field receives it."""
    time, low, high = (torch.as_tensor(as_time(x, y)) for x in (t, low, high))
    inside = torch.minimum(torch.maximum(time, low), high)
    # The bounds are often the time itself, where the gradient of a minimum would be split between the two.
    return time + (inside - time).detach()
