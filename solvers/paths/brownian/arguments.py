"""What a Brownian path is given: checked, and turned into the keys that its random numbers are hashed from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...checks import integer
from ...errors import InvalidProblemError
from .random import GOLDEN, mix


def keys_of(shape: Sequence[int], seed: Tensor, samples: Tensor | Sequence[int] | None) -> Tensor:
    """A well-mixed 64-bit key for each entry, from its seed, its sample's number and its place in the sample."""
    device = seed.device
    if samples is None:
        numbers = torch.arange(shape[0] if len(shape) > 1 else 1, device=device)
    else:
        numbers = torch.as_tensor(samples, dtype=torch.int64, device=device)
        if not len(shape) or tuple(numbers.shape) != (shape[0],):
            raise InvalidProblemError(
                f"samples: got shape {tuple(numbers.shape)} for a path of shape {tuple(shape)}; expected one number for "
                "each entry of the first dimension"
            )
    counted = len(shape) > 1 or samples is not None
    places = math.prod(shape[1:]) if counted else math.prod(shape)
    if torch.compiler.is_compiling():
        from .opaque_keys import opaque_mixed

        return opaque_mixed(seed, numbers, places).reshape(tuple(shape))
    return mixed(seed, numbers, places).reshape(tuple(shape))


def mixed(seed: Tensor, numbers: Tensor, places: int) -> Tensor:
    """The keys of ``(len(numbers), places)`` entries."""
    place = torch.arange(places, device=seed.device)
    return mix(mix(mix(seed + GOLDEN) + numbers * GOLDEN).unsqueeze(-1) + place * GOLDEN)


def checked_shape(shape: Any) -> tuple[int, ...]:
    """The shape of an increment."""
    try:
        sizes = tuple(int(size) for size in shape)
    except TypeError:
        raise InvalidProblemError(f"shape: got {shape!r}; expected a sequence of ints, such as (B, m)") from None
    if any(size < 0 for size in sizes):
        raise InvalidProblemError(f"shape: got {sizes}; expected sizes that are not negative")
    return sizes


def checked_seed(seed: Any, device: torch.device) -> Tensor:
    """The seed as a 0-d int64 tensor."""
    if isinstance(seed, Tensor) and not seed.dim() and seed.dtype == torch.int64:
        return seed.to(device)
    signed = (integer_seed(seed) + (1 << 63)) % (1 << 64) - (1 << 63)
    return torch.tensor(signed, dtype=torch.int64, device=device)


def integer_seed(seed: Any) -> int:
    """A seed as Python's int, of either sign and any size."""
    return int(integer(seed, "seed", -math.inf, "an int or a 0-d int64 tensor"))


def check_span(t0: Tensor, t1: Tensor) -> None:
    """Refuse ends that are no interval; in a graph there are no values to look at."""
    if torch.compiler.is_compiling():
        return
    for time, name in ((t0, "t0"), (t1, "t1")):
        if not bool(time.isfinite().all()):
            raise InvalidProblemError(f"{name}: got {time.tolist()}; expected a finite time")
    if not t0.dim() and not t1.dim() and bool(t0 == t1):
        raise InvalidProblemError(f"t0, t1: got {t0.item()} for both; expected an interval")
