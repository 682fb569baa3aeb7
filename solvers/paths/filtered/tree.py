"""The dyadic tree that Ornstein-Uhlenbeck integrals are computed from: normals on the way down to a time, and what they weigh.

Positions count the shortest intervals of the tree from the start of the path on. A cell, the whole tree, is ``2**depth`` of
them. Keys are ``(n, m)``: one row for each time, or one row for all entries at one time.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..brownian.random import GOLDEN, mix, normal, normal_table
from .transforms import expansion, transforms

NUMBERS = 1 << 7
"""How many normals a node may have, at least twice as many as rates."""
_BLOCK = 1 << 15
"""How many normals are computed at once."""


class Tree:
    """The integrals of given rates on cells of one length.

    Args:
        rates: the decay rates.
        width: the length of a cell.
        depth: how often it is halved.
        device: where.
    """

    def __init__(self, rates: tuple[float, ...], width: float, depth: int, device: torch.device) -> None:
        self.made, self.width, self.depth, self.device = transforms(rates, width, depth), width, depth, device
        self.gamma = np.array(rates)
        self.rates = torch.tensor(rates, dtype=torch.float64, device=device)
        self.factors, self.down, self.fresh = ([torch.from_numpy(x).to(device) for x in part] for part in self.made)
        self.index = torch.arange(NUMBERS, device=device).unsqueeze(-1)
        self.table = normal_table(device)

    def decay(self, pieces: Tensor) -> Tensor:
        """Over numbers of shortest intervals, ``(n,)``, as ``(n, 1, K)``."""
        length = pieces.to(torch.float64) * (self.width * 2.0**-self.depth)
        return torch.exp(-self.rates * length.reshape(-1, 1, 1))

    def passed(self, s: Tensor, t: Tensor, keys: Tensor, known: dict[Any, Tensor]) -> Tensor:
        """The integrals from position ``s`` to ``t``, ``(n, m, K)``; ``known`` remembers the latest times."""
        first, last = s >> self.depth, t >> self.depth
        one = 1 << self.depth
        before, end = (self.since_start(x & (one - 1), x >> self.depth, keys, known) for x in (s, t))
        apart = (last > first).reshape(-1, 1, 1)
        if not bool(apart.any()):
            return end - self.decay(t - s) * before
        whole = self.whole(first, keys) - self.decay(one - (s & (one - 1))) * before
        step = self.decay(torch.full_like(s[:1], one))
        for place in range(1, int((last - first).max())):
            inside = (first + place < last).reshape(-1, 1, 1)
            whole = torch.where(inside, step * whole + self.whole(first + place, keys), whole)
        crossed = self.decay(t & (one - 1)) * whole
        return end + torch.where(apart, crossed, -self.decay((t - s).clamp(max=one)) * before)

    def whole(self, cells: Tensor, keys: Tensor) -> Tensor:
        """The integrals over whole cells ``(n,)``, one for each row of keys."""
        top = self.factors[0]
        return self._draw(cells, self.index[: top.shape[1]], keys) @ top.T

    def each(self, cells: Tensor, keys: Tensor) -> Tensor:
        """The integrals over each of several cells for the same keys ``(1, m)``, ``(count, m, K)``."""
        top = self.factors[0]
        count = top.shape[1]
        index, parts = self.index[:count].unsqueeze(-1), []
        for part in cells.unsqueeze(-1).split(max(1, _BLOCK // max(1, keys.numel() * count))):
            normals = self._drawn(part, index, keys).reshape(count, -1)
            # This way around the product is several times faster than with the long matrix in front.
            parts.append((top @ normals).reshape(len(top), len(part), -1).permute(1, 2, 0))
        return torch.cat(parts).contiguous()

    def since_start(self, position: Tensor, cell: Tensor, keys: Tensor, known: dict[Any, Tensor]) -> Tensor:
        """The integrals from the start of a cell to a position in it, ``(n, m, K)``."""
        if self.device.type != "cpu":
            return self._level_by_level(position, cell, keys)
        place = (tuple(cell.tolist()), tuple(position.tolist()))
        found = known.pop(place, None)
        if found is None:
            several = len(position) > 1
            found = self._level_by_level(position, cell, keys) if several else self._at_once(place[1][0], cell, keys)
        for old in list(known)[:-1]:
            del known[old]
        known[place] = found
        return found

    def _at_once(self, position: int, cell: Tensor, keys: Tensor) -> Tensor:
        """At one position for all entries: one product of the normals on the way down with their weights."""
        if position == 0:
            return torch.zeros((1, keys.shape[1], len(self.rates)), dtype=torch.float64)
        found = expansion(self.made, self.gamma, self.width, self.depth, position)
        counted = zip(found.nodes, found.counts, strict=True)
        numbers = np.concatenate([node * NUMBERS + np.arange(count) for node, count in counted])
        number, weights = torch.from_numpy(numbers).unsqueeze(-1), torch.from_numpy(found.weights)
        parts = [
            self._drawn(cell, number, part).reshape(len(numbers), -1).T @ weights
            for part in keys.split(max(1, _BLOCK // len(numbers)), dim=1)
        ]
        return torch.cat(parts).unsqueeze(0)

    def _level_by_level(self, position: Tensor, cell: Tensor, keys: Tensor) -> Tensor:
        """At a position for each row: both halves of each level, of which each row takes its own."""
        inner = self._draw(cell, self.index[: self.factors[0].shape[1]], keys)
        value = torch.zeros((*keys.shape, len(self.rates)), dtype=torch.float64, device=self.device)
        for level in range(self.depth):
            shift = self.depth - level
            node = (1 << level) + (position >> shift)
            new = self._draw(cell, node * NUMBERS + self.index[: len(self.fresh[level])], keys)
            left, right = (inner @ self.down[level] + new @ self.fresh[level]).chunk(2, dim=-1)
            half = torch.full((1,), 1 << (shift - 1), dtype=torch.int64, device=self.device)
            later = ((position >> (shift - 1)) & 1 == 1).reshape(-1, 1, 1)
            value = torch.where(later, self.decay(half) * value + left @ self.factors[level + 1].T, value)
            inner = torch.where(later, right, left)
        return value

    def _draw(self, cell: Tensor, number: Tensor, keys: Tensor) -> Tensor:
        """The normals with these numbers, ``(N, n)``, for cells ``(n,)`` and keys ``(n or 1, m)``: numbers last."""
        return self._drawn(cell, number, keys).movedim(0, -1)

    def _drawn(self, cell: Tensor, number: Tensor, keys: Tensor) -> Tensor:
        """The same, numbers first."""
        code = mix(mix(cell * GOLDEN + 1) + number * GOLDEN)
        return normal(mix(keys ^ code.unsqueeze(-1)), self.table)


@lru_cache(maxsize=64)
def tree(rates: tuple[float, ...], width: float, depth: int, device: torch.device) -> Tree:
    """The tree with these numbers, made once."""
    with torch.inference_mode(False):
        return Tree(rates, width, depth, device)
