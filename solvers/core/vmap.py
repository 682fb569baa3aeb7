"""What ``torch.func.vmap`` means for a solve: its lanes take their steps together.

Inside vmap no lane can decide for itself. So the decisions of a solve, which are about step sizes only, are made once for
all lanes, from the largest of their error norms: every lane meets the tolerance, on steps that some of them need. What
only a lane of its own could have (ends of the interval, save times, events) is refused; ``per_sample=True`` has it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import InvalidProblemError
from .torch_private import batch_dimension, get_unwrapped, is_batchedtensor, is_wrapped


def shared(x: Tensor) -> Tensor:
    """A number that decides for all lanes, without its transforms: the largest of theirs, or NaN if one is."""
    while is_wrapped(x):
        lanes, x = batch_dimension(x), get_unwrapped(x)
        x = x if lanes < 0 else x.amax(lanes)
    return x


def batched(x: Any) -> bool:
    """Whether ``x`` is a tensor with a value for each lane, which the host cannot know."""
    if torch.compiler.is_compiling() or not isinstance(x, Tensor):
        return False
    while is_wrapped(x):
        if is_batchedtensor(x):
            return True
        x = get_unwrapped(x)
    return False


def refuse_lanes(value: Any, name: str, expected: str) -> None:
    """Refuse a value for each lane where there can be only one for all of them."""
    if batched(value):
        raise InvalidProblemError(
            f"{name}: got a value for each lane of torch.func.vmap, whose lanes take their steps together; expected "
            f"{expected} for all of them, or per_sample=True instead of vmap"
        )
