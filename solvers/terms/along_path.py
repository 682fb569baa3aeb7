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

import torch
from torch import Tensor

from ..core.scalars import Scalar, leading, real_dtype
from ..errors import InvalidProblemError
from ..paths.increments import Noise


class AlongPath:
    """A kept step of a stochastic equation at any time inside it, by :func:`combined`.

    Args:
        noise: where the path's increments come from.
        elementwise: whether the noise multiplies the diffusion entry by entry.
    """

    def __init__(self, noise: Noise, elementwise: bool) -> None:
        self.noise, self.elementwise = noise, elementwise

    def refuse_slope(self) -> None:
        """Refuse to be asked for a derivative."""
        raise InvalidProblemError(
            "derivative: the solution of an SDE has none, because a path driven by noise has no slope; expected sol(t)"
        )

    def rows(self, pieces: Tensor, start: Tensor, end: Tensor, t: Tensor) -> Tensor:
        """The states at each of the times; ``pieces`` is ``(pieces, T, ...)``, the state at the start first."""
        if t.requires_grad:
            raise InvalidProblemError(
                "t: requires grad; expected constant times, since the solution of an SDE has no slope"
            )
        start, end = start.detach(), end.detach()
        rows = [self._at(pieces[:, row], start[row], end[row], t[row]) for row in range(len(t))]
        return torch.stack(rows) if rows else pieces[0]

    def _at(self, pieces: Tensor, start: Tensor, end: Tensor, t: Tensor) -> Tensor:
        y0, *moves = pieces.unbind(0)
        empty = end == start
        theta = torch.where(empty, 0.0, (t - start) / torch.where(empty, 1.0, end - start)).clamp(0.0, 1.0)
        inside = torch.minimum(torch.maximum(t, torch.minimum(start, end)), torch.maximum(start, end))
        # As numbers the times of a joint solve are found on the path's grid.
        ends = (start, end, inside) if t.dim() else (start.item(), end.item(), inside.item())
        w = self.noise(ends[0], ends[1]).w
        bridge = self.noise.inside(ends[0], ends[2]) - leading(theta, w.dim(), w.dtype) * w
        return combined(y0, moves, theta, bridge, w, self.elementwise)


def combined(
    y0: Tensor, pieces: Sequence[Tensor], theta: Scalar, bridge: Tensor, w: Tensor, elementwise: bool
) -> Tensor:
    r"""The formula above.

    Args:
        y0: the state at the start.
        pieces: the move to the end, what each noise moves, and how that bends.
        theta: a number, or a tensor whose dimensions lead those of the bridge.
        bridge: :math:`W(s) - \theta W`, like the noise, with dimensions of ``theta`` in front.
        w: W.
        elementwise: whether the noise multiplies the diffusion entry by entry.
    """
    real = real_dtype(y0)
    value = y0 + leading(theta, bridge.dim(), real) * pieces[0]

    def each(x: Tensor) -> list[Tensor]:
        return [x] if elementwise else [x[..., j : j + 1] for j in range(x.shape[-1])]

    noises = each(bridge)
    for piece, noise in zip(pieces[1:], noises, strict=False):
        value = value + piece * noise
    bends = pieces[1 + len(noises) :]
    if bends:
        part = leading(theta, bridge.dim(), w.dtype)
        here, whole = each(bridge + part * w), each(w)
        share = leading(theta, bridge.dim(), real)
        pairs = [(j, k) for j in range(len(noises)) for k in range(len(noises))]
        for piece, (j, k) in zip(bends, pairs, strict=True):
            value = value + piece * (0.5 * (here[j] * here[k] - share * (whole[j] * whole[k])))
    return value
