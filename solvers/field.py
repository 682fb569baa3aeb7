"""The user's field as the methods call it: packed state, clock number in, packed derivative out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .errors import InvalidProblemError
from .scalars import Scalar, as_time
from .state import Packing


class Field:
    """``field(t, y)`` for packed states.

    Args:
        f: the user's ``f(t, y, *args)``.
        packing: how the state is laid out.
        args: what else ``f`` receives.
    """

    def __init__(self, f: Callable[..., Any], packing: Packing, args: tuple[Any, ...] = ()) -> None:
        self.f, self.packing, self.args = f, packing, args

    def __call__(self, t: Scalar, y: Tensor) -> Tensor:
        """The derivative at ``(t, y)``, packed and checked."""
        tracked = not torch.compiler.is_compiling() and not y.is_inference()
        version = y._version if tracked else 0
        slope = self.packing.pack(self.f(as_time(t, y), self.packing.unpack(y), *self.args))
        if tracked and y._version != version:
            raise InvalidProblemError("f: changed its state in-place; expected a new tensor, -y rather than y.neg_()")
        if self.packing.per_sample and slope.shape != y.shape:
            raise InvalidProblemError(
                f"f: got {slope.shape[0]} rows; expected {y.shape[0]}, like the state it was given"
            )
        return slope


class OneSided:
    """A field seen from inside an interval: times are clamped between two bounds.

    At a discontinuity the step that ends there must see the field's left limit and the step that starts there its
    right limit, in the precision in which the field receives the time.
    """

    def __init__(self, field: Callable[[Scalar, Tensor], Tensor], low: Scalar, high: Scalar) -> None:
        self.field, self.low, self.high = field, low, high

    def __call__(self, t: Scalar, y: Tensor) -> Tensor:
        """The derivative at the nearest time inside the bounds."""
        time, low, high = (torch.as_tensor(as_time(x, y)) for x in (t, self.low, self.high))
        inside = torch.minimum(torch.maximum(time, low), high)
        # The bounds are often the time itself, where the gradient of a minimum would be split between the two.
        return self.field(time + (inside - time).detach(), y)
