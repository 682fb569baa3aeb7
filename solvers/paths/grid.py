"""Increments on the grid of a solve with fixed steps, where the host cannot look at the times: in a graph."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..core.scalars import Scalar, as_clock, leading, spread
from .brownian.path import BrownianPath, Increment
from .increments import Noise


class GridNoise(Noise):
    """The path's increments for steps that are its cells, with one normal each, and one shorter step that ends the solve.

    The values are those of the path. A step is found to be a cell by its times, as the path itself finds it; the last
    step's increment is computed before the first, so that no step asks for the path's tree.

    Args:
        path: a path with ``dt``.
        t0: where the solve starts; a 0-d tensor or one entry per sample.
        t1: where it ends.
        seed: the seed that the path was made from, if it was.
    """

    def __init__(self, path: BrownianPath, t0: Tensor, t1: Tensor, seed: int | Tensor | None = None) -> None:
        super().__init__(path, seed)
        torch._assert_async((as_clock(path.dt) > 0).all(), "dt: expected a positive number")
        cells = path.cell(t1)
        whole = torch.floor(cells + path.slack(cells))
        self.tail = path.within(torch.minimum(path.time(whole), t1), t1)
        # Backwards the grid still begins at the earlier end: only whole cells lead there from the later one.
        begin = path.cell(t0)
        aligned = (t1 >= t0) | ((begin - torch.round(begin)).abs() <= path.slack(begin))
        torch._assert_async(
            aligned.all(),
            "dt: a compiled solve of an SDE backwards in time takes steps that divide the interval; expected such a dt, "
            "or an eager solve",
        )

    def __call__(self, t0: Scalar, t1: Scalar) -> Increment:
        """W and H from ``t0`` to ``t1``."""
        with torch.no_grad():
            x0, x1 = self.path.cell(t0.detach()), self.path.cell(t1.detach())
            low, high = torch.minimum(x0, x1), torch.maximum(x0, x1)
            cell, slack = torch.round(low), self.path.slack(high)
            whole = ((low - cell).abs() <= slack) & ((high - cell - 1.0).abs() <= slack)
            w, h = self.path.in_cells(cell.to(torch.int64))
            sign = torch.where(x1 < x0, -1.0, 1.0)
            w = self._chosen(whole, x0 == x1, sign, w, self.tail.w)
            if h is None or self.tail.h is None:
                return Increment(w, None)
            return Increment(w, self._chosen(whole, x0 == x1, torch.ones_like(sign), h, self.tail.h))

    def bridges(self, times: Tensor) -> Callable[[Scalar, Tensor, Tensor], Tensor]:
        """As every noise's; on a grid each time's is known before the first step."""
        with torch.no_grad():
            path = self.path
            low = torch.minimum(path.t0, path.t1)
            reach = self._placed(torch.maximum(path.t0, path.t1))
            x = torch.minimum(self._placed(torch.maximum(times, low)), reach)
            cell = torch.minimum(torch.floor(x), torch.ceil(reach) - 1.0)
            stop = torch.minimum(cell + 1.0, reach)
            part = (x - cell) / (stop - cell)
            whole = path.values(stop - cell, cell)
            value = path.values(x - cell, cell) - leading(part, whole.dim(), whole.dtype) * whole
        return lambda t0, theta, w: value.to(w.dtype)

    def _placed(self, times: Tensor) -> Tensor:
        """Times in cells, on the grid where only rounding can be between."""
        x = self.path.cell(times)
        near = torch.round(x)
        return torch.where((x - near).abs() <= self.path.slack(x), near, x)

    def _chosen(self, whole: Tensor, empty: Tensor, sign: Tensor, cell: Tensor, tail: Tensor) -> Tensor:
        """The cell's number or the last step's; nothing for lanes that stand still."""
        whole, empty, sign = (spread(x, cell) for x in (whole, empty, sign))
        return torch.where(empty, 0.0, torch.where(whole, sign * cell, tail))
