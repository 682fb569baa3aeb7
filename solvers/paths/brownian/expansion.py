"""White noise in a cell of unit length, expanded in wavelets down to a smallest interval: a path and its integral."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .random import GOLDEN, mix, normal, normal_table
from .wavelets import End, alpert, haar, total

_KEYS = 1 << 11
"""How many entries are computed at once: the cache of a processor holds their normals of all levels, and intermediates."""
_ROOT3 = math.sqrt(3.0)


class Expansion:
    """What Brownian paths are at times inside a cell, as a function of their keys.

    Args:
        depth: levels of the tree of intervals.
        areas: whether the integral is wanted too, which takes other wavelets.
        device: where to compute.
    """

    def __init__(self, depth: int, areas: bool, device: torch.device) -> None:
        self.areas, self.device = areas, device
        self._table = normal_table(device)
        self._count = torch.exp2(torch.arange(depth + 1, dtype=torch.float64, device=device))
        self._root = (1.0 / self._count).sqrt()

    def nodes(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """The node at each level whose interval holds a time in the cell, numbered from 1, and where in the interval."""
        count = self._count.reshape(-1, *[1] * theta.dim())
        x = theta * count
        position = torch.minimum(torch.floor(x), count - 1.0)
        return (position + count).to(torch.int64), x - position

    def __call__(
        self, nodes: tuple[Tensor, Tensor], cell: Tensor, keys: Tensor, near: End | None = None
    ) -> tuple[Tensor, Tensor | None, list[Tensor]]:
        """W and its integral from the start of the cell to times inside it, and the normals that they are made of.

        Both are computed in blocks of keys; the normals are left in blocks.

        Args:
            nodes: what :meth:`nodes` says of the times, ``(..., n)``.
            cell: ``(n,)``.
            keys: ``(n, m)``, or ``(1, m)`` for ``n = 1``.
            near: another time in the cell, with the normals of the nodes on its way down.
        """
        node, phi = nodes
        top = torch.zeros_like(node[:1])
        areas = self.areas
        shared = 0
        if (
            near is not None
            and near.node is not None
            and near.node.shape == node.shape
            and torch.equal(near.cell, cell)
        ):
            same = (near.node == node).reshape(len(node), -1).all(1).tolist()
            shared = 1 + (same.index(False) if False in same else len(same))
        fresh = torch.cat([top, node])[shared:]
        above = [z[:shared] for z in near.z] if shared and near is not None and near.z is not None else None
        root = self._root.reshape(-1, *[1] * (phi.dim() - 1))
        whole, z = self._weighted((alpert if areas else haar)(phi, root), fresh, cell, keys, above)
        return (whole[0], whole[1], z) if areas else (whole, None, z)

    def _weighted(
        self, weights: Tensor, fresh: Tensor, cell: Tensor, keys: Tensor, above: list[Tensor] | None
    ) -> tuple[Tensor, list[Tensor]]:
        """The sums over the levels of weights times normals, and the normals, those of the ``fresh`` nodes drawn."""
        areas = self.areas
        index: int | Tensor = 0
        shape = (*fresh.shape[1:-1], *keys.shape)
        if areas:
            index = torch.arange(2, device=self.device).reshape(2, *[1] * (fresh.dim() - 1))
            fresh, shape = fresh.unsqueeze(1), (2, *shape)
        blocks = self._blocks(keys)
        whole = None if len(blocks) == 1 else torch.empty(shape, dtype=torch.float64)
        normals = []
        for i, (rows, columns) in enumerate(blocks):
            z = self._normals(cell[rows], fresh[..., rows], index, keys[rows, columns])
            z = z if above is None else torch.cat([above[i], z])
            normals.append(z)
            weight = weights[..., rows].unsqueeze(-1)
            part = total((weight * z.unsqueeze(2)).flatten(0, 1) if areas else weight * z)
            if whole is None:
                return part, normals
            whole[..., rows, columns] = part
        assert whole is not None
        return whole, normals

    def _blocks(self, keys: Tensor) -> list[tuple[slice, slice]]:
        """The keys in parts whose normals of all levels the processor's cache holds; on other devices one part."""
        n, m = keys.shape
        if torch.compiler.is_compiling() or self.device.type != "cpu" or n * m <= _KEYS:
            return [(slice(None), slice(None))]
        high = max(1, _KEYS // max(m, 1))
        wide = m if high > 1 else _KEYS
        return [(slice(i, i + high), slice(k, k + wide)) for i in range(0, n, high) for k in range(0, m, wide)]

    def _normals(self, cell: Tensor, node: Tensor, index: int | Tensor, keys: Tensor) -> Tensor:
        """The normals of a node of the tree: one for each counter ``(..., n)`` and each key ``(n or 1, m)``."""
        code = mix(mix(cell * GOLDEN + 1) + (2 * node + index) * GOLDEN)
        return normal(mix(keys ^ code.unsqueeze(-1)), self._table)

    def whole(self, cells: Tensor, keys: Tensor) -> tuple[Tensor, Tensor | None]:
        """W and H of whole cells of length 1."""
        top = torch.zeros_like(cells)
        w = self._normals(cells, top, 0, keys)
        if not self.areas:
            return w, None
        return w, (0.5 * w + (_ROOT3 * (1.0 / 3.0 - 0.5)) * self._normals(cells, top, 1, keys)) - 0.5 * w
