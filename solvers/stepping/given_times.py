"""Times that a controller is given: checked, sorted, as numbers or in the graph."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..core.scalars import in_order
from ..core.times import read_times
from ..errors import InvalidProblemError


def as_list(times: Sequence[float] | Tensor) -> list[float]:
    """Times as Python numbers."""
    if torch.compiler.is_compiling() and not isinstance(times, Tensor):
        return [float(time) for time in times]  # a graph cannot read a tensor back, nor need it
    if _plain(times):
        return list(times)
    numbers: list[float] = read_times(times, "ts").numbers.reshape(-1).tolist()
    return numbers


def checked_times(times: Any, name: str) -> tuple[float, ...] | Tensor:
    """Sorted times: a tuple, or where any of them is differentiated a tensor."""
    if torch.compiler.is_compiling():
        return tuple(in_order(as_list(times)))  # which may be symbols
    if _plain(times) and all(map(math.isfinite, times)):
        return tuple(sorted(times))
    read = read_times(times, name, many=True)
    values = read.numbers.reshape(-1).tolist()
    if not all(map(math.isfinite, values)):
        raise InvalidProblemError(f"{name}: got {values}; expected finite times")
    return tuple(sorted(values)) if read.live is None else ordered(read.live)


def _plain(times: Any) -> bool:
    """Whether they are Python floats already, as those of a controller that is made again from another."""
    return isinstance(times, (tuple, list)) and all(type(time) is float for time in times)


def ordered(live: Tensor) -> Tensor:
    """Times in the graph, sorted."""
    live = live.reshape(-1)
    order = sorted(range(len(live)), key=live.detach().tolist().__getitem__)
    return live[torch.tensor(order, dtype=torch.int64, device=live.device)]
