"""Normal numbers hashed from a counter, for a whole grid of times at once; and how many entries are computed together."""

from __future__ import annotations

import torch
from torch import Tensor

from ..brownian.random import GOLDEN, mix, normal, normal_table

# Each purpose has its own numbers: a path is independent of the BrownianPath with the same seed, and a bridge of the path
# whose values it is given.
_PATH, _BRIDGE, _COUNTER = 0x6A09E667F3BCC909, 0x3C6EF372FE94F82B, 0x1F83D9ABFB41BD6B
_IN_CACHE, _ON_CPU, _ON_GPU = 1 << 15, 1 << 20, 1 << 26
"""How many numbers are computed at once: where operations are elementwise; where an FFT is planned for each block; on a GPU."""


def path_keys(keys: Tensor) -> Tensor:
    """The keys of a fractional path, from those of its entries."""
    return mix(keys ^ _PATH)


def bridge_keys(keys: Tensor) -> Tensor:
    """The keys of a bridge, independent of those of the path that was conditioned."""
    return mix(keys ^ _BRIDGE)


def normals(keys: Tensor, count: int, stream: int = 0) -> Tensor:
    """Independent standard normals in float64, ``(len(keys), count)``: number n of a key is the same for every count."""
    table = normal_table(keys.device)
    counter = torch.arange(count, device=keys.device)
    code = mix(counter * GOLDEN + mix(torch.full_like(counter[:1], stream) * GOLDEN + _COUNTER))
    found = torch.empty((len(keys), count), dtype=torch.float64, device=keys.device)
    for rows in blocks(torch.arange(len(keys), device=keys.device), count, _IN_CACHE):
        found[rows] = normal(mix(keys[rows].unsqueeze(-1) ^ code), table)
    return found


def blocks(keys: Tensor, each: int, budget: int = _ON_CPU) -> tuple[Tensor, ...]:
    """The keys, as many at a time as need no more than a ``budget`` of numbers, ``each`` for one."""
    if not len(keys):
        return ()
    budget = budget if keys.device.type == "cpu" else _ON_GPU
    return keys.split(max(1, budget // max(each, 1)))
