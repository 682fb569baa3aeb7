"""The tree's answers as operators, for graphs. Imported while a graph is traced: eager solves need none of it.

Graphs call them and do not see into them: unrolled, the levels of the tree would take minutes to compile.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .tree import tree


def _passed(keys: Tensor, rates: Tensor, width: Tensor, depth: int, s: Tensor, t: Tensor) -> Tensor:
    made = tree(tuple(rates.tolist()), width.item(), depth, keys.device)
    return made.passed(s, t, keys, {}).contiguous()


def _since_start(keys: Tensor, rates: Tensor, width: Tensor, depth: int, position: Tensor, cell: Tensor) -> Tensor:
    made = tree(tuple(rates.tolist()), width.item(), depth, keys.device)
    return torch.stack([made.since_start(*each, keys, {}) for each in zip(position, cell, strict=True)])


def _whole(keys: Tensor, rates: Tensor, width: Tensor, depth: int, cells: Tensor) -> Tensor:
    return tree(tuple(rates.tolist()), width.item(), depth, keys.device).whole(cells, keys).contiguous()


opaque_passed = torch.library.custom_op("neuralde::filtered_passed", mutates_args=())(_passed)
opaque_since_start = torch.library.custom_op("neuralde::filtered_since_start", mutates_args=())(_since_start)
opaque_whole = torch.library.custom_op("neuralde::filtered_whole", mutates_args=())(_whole)


@opaque_passed.register_fake
def _(keys: Tensor, rates: Tensor, width: Tensor, depth: int, s: Tensor, t: Tensor) -> Tensor:
    return rates.new_empty((*keys.shape, rates.shape[0]))


@opaque_since_start.register_fake
def _(keys: Tensor, rates: Tensor, width: Tensor, depth: int, position: Tensor, cell: Tensor) -> Tensor:
    return rates.new_empty((position.shape[0], *keys.shape, rates.shape[0]))


@opaque_whole.register_fake
def _(keys: Tensor, rates: Tensor, width: Tensor, depth: int, cells: Tensor) -> Tensor:
    return rates.new_empty((*keys.shape, rates.shape[0]))
