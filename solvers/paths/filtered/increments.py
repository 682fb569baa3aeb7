"""Ornstein-Uhlenbeck integrals as the steps of a solve ask for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...core.scalars import Scalar
from ..grid import GridNoise
from ..increments import Noise


class FilteredNoise(Noise):
    """The integrals of a path on steps, and from the start of a step to times inside it."""

    def bridges(self, times: Tensor) -> Callable[[Scalar, Tensor, Tensor], Tensor]:
        """For a graph: the integrals from a step's start to all the times, as a function of the start."""
        values, path = self.path.values(times), self.path

        def bridge(t0: Scalar, theta: Tensor, w: Tensor) -> Tensor:
            del theta
            start = path.values(t0.detach().unsqueeze(0))
            passed = (times - t0.detach()).clamp(min=0.0)
            shape = (*passed.shape, *[1] * (values.dim() - 1 - passed.dim()), 1)
            return (values - torch.exp(-path.rates * passed.reshape(shape)) * start).to(w.dtype)

        return bridge

    def take(self, rows: Tensor) -> FilteredNoise:
        """The noise of some of the samples."""
        return FilteredNoise(self.path.take(rows), self.seed)


class FilteredGridNoise(GridNoise):
    """The same on the grid of a solve with fixed steps, in a graph."""

    def bridges(self, times: Tensor) -> Callable[[Scalar, Tensor, Tensor], Tensor]:
        """As every noise's; a step starts where its cell does."""
        with torch.no_grad():
            low = torch.minimum(self.path.t0, self.path.t1)
            reach = self._placed(torch.maximum(self.path.t0, self.path.t1))
            x = torch.minimum(self._placed(torch.maximum(times, low)), reach)
            cell = torch.minimum(torch.floor(x), torch.ceil(reach) - 1.0)
            values = self.path.values(x - cell, cell)  # at a step's end it is not asked for
        return lambda t0, theta, w: values.to(w.dtype)


def filtered(path: Any, seed: int | Tensor | None, ends: tuple[Scalar, Scalar]) -> Noise:
    """The noise of a path, as eager code or a graph asks for it."""
    if path.dt is not None and torch.compiler.is_compiling():
        return FilteredGridNoise(path, *ends, seed)
    return FilteredNoise(path, seed)
