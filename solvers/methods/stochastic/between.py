r"""The solution of a stochastic equation between the ends of a step, where the path is known.

At the relative time :math:`\theta` of a step the path has done W(s), of W at the step's end, and

.. math:: Y(s) = (1 - \theta) y_0 + \theta y_1 + g \, (W(s) - \theta W)
                 + \tfrac12 \sum_{jk} (D g_k)\, g_j \, \bigl(W_j(s) W_k(s) - \theta W_j W_k\bigr)

with g at the start. It meets both ends, and is the same for Ito and Stratonovich, whose difference is linear in
:math:`\theta`. What it leaves out is of size :math:`h^{3/2}`, of size h without the last sum. Nothing is built on a saved
row, so its own error does not add up: these suffice for a method of order 3/2 and 1. Its mean is right to
:math:`h^2` with and without the sum, which a curve through the ends that bends with the noise would not be.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...core.scalars import Scalar, differentiated, leading, real_dtype, spread
from ...terms.stochastic import SDEField
from ..base import Step

if TYPE_CHECKING:
    from ...output.saving import Request, SavePlan


class Between(Step):
    """A step along a path, which knows what noise does between its ends."""

    w: Tensor
    """What the path does on the step."""
    _pieces: list[Tensor] | None = None

    @property
    def driven_by(self) -> SDEField:
        """Drift, diffusion and the noise."""
        field: SDEField = self.field
        return field

    def moved_by_noise(self) -> Tensor:
        """The diffusion near the start, from where the path moves the state: at hand, or called."""
        self.looked += 1
        return self.driven_by.diffusion(self.t0, self.y0)

    def bent_by_noise(self) -> list[Tensor]:
        """How that changes along each noise, :math:`(D g_k) g_j` with j outside and k inside; empty where not needed."""
        return []

    def lifted(self, x: Tensor) -> Tensor:
        """Something shaped like the problem's state, as the state that the method steps has it."""
        return x

    def pieces(self) -> list[Tensor]:
        """The move to the end, what each noise moves, and how that bends."""
        if self._pieces is None:
            g = self.moved_by_noise()
            columns = [g] if self.driven_by.elementwise else list(g.unbind(-1))
            self._pieces = [self.y - self.y0, *map(self.lifted, [*columns, *self.bent_by_noise()])]
        return self._pieces

    def between(self, theta: Scalar, bridge: Tensor, lanes: Tensor | None = None) -> Tensor:
        """The solution at relative times, from what the path does there beside its share of the whole."""
        own = (self.y0, *self.pieces()), self.w
        (y0, *pieces), w = own if lanes is None else ([x[lanes] for x in own[0]], self.w[lanes])
        return combined(y0, pieces, theta, bridge, w, self.driven_by.elementwise)


def combined(
    y0: Tensor, pieces: Sequence[Tensor], theta: Scalar, bridge: Tensor, w: Tensor, elementwise: bool
) -> Tensor:
    r"""The formula above.

    Args:
        y0: the state at the start.
        pieces: those of :meth:`Between.pieces`.
        theta: a number, or a tensor whose dimensions lead those of the bridge.
        bridge: :math:`W(s) - \theta W`, like the noise, with dimensions of ``theta`` in front.
        w: W.
        elementwise: whether the noise multiplies the diffusion entry by entry.
    """
    behind = y0.dim() - w.dim()  # a pair of copies has one more
    real = real_dtype(y0)
    value = y0 + leading(theta, bridge.dim() + behind, real) * pieces[0]

    def each(x: Tensor) -> list[Tensor]:
        parts = [x] if elementwise else [x[..., j : j + 1] for j in range(x.shape[-1])]
        return [part.reshape(*part.shape, *[1] * behind) for part in parts]

    noises = each(bridge)
    for piece, noise in zip(pieces[1:], noises, strict=False):
        value = value + piece * noise
    bends = pieces[1 + len(noises) :]
    if bends:
        part = leading(theta, bridge.dim(), w.dtype)
        here, whole = each(bridge + part * w), each(w)
        share = leading(theta, bridge.dim() + behind, real)
        pairs = [(j, k) for j in range(len(noises)) for k in range(len(noises))]
        for piece, (j, k) in zip(bends, pairs, strict=True):
            value = value + piece * (0.5 * (here[j] * here[k] - share * (whole[j] * whole[k])))
    return value


def emit_between(step: Between, request: Request, save: SavePlan) -> Tensor:
    """The states that a request asks of a step, ``(n, *lane)``."""
    moves = differentiated(step.t0) or differentiated(step.t1)
    noise, times = step.driven_by.noise, save.times
    assert request.theta is not None
    if request.lanes is None:
        assert isinstance(times, list)
        rows = []
        for row, place in zip(request.rows, request.theta, strict=True):
            if place == 1.0 and not moves:
                rows.append(step.y)
                continue
            theta = (times[row] - step.t0) / (step.t1 - step.t0) if moves else place
            rows.append(
                step.between(theta, noise.inside(step.t0, times[row]) - leading(theta, 0, step.w.dtype) * step.w)
            )
        return torch.stack(rows)
    assert isinstance(times, Tensor)
    assert isinstance(request.theta, Tensor)
    lanes, theta = request.lanes, request.theta
    at_end = theta == 1.0
    at = times[request.rows, request.samples]
    if moves:
        start, end = step.t0[lanes], step.t1[lanes]
        theta, at_end = (at - start) / (end - start), torch.zeros_like(at_end)
    w = step.w[lanes]
    bridge = noise.inside(step.t0, at, lanes) - leading(theta, w.dim(), w.dtype) * w
    value = step.between(theta, bridge, lanes)
    return torch.where(spread(at_end, value), step.y[lanes], value)
