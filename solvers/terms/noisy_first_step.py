"""The first step size of a stochastic equation, from drift and diffusion at the start and beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..core.scalars import Scalar, is_finite, maximum, minimum, select, spread
from .first_step import usable

if TYPE_CHECKING:
    from .stochastic import SDEField


def noisy_initial_step(
    field: SDEField,
    t0: Scalar,
    y0: Tensor,
    slope: Tensor,
    direction: Scalar,
    longest: Scalar,
    order: float,
    norm: Callable[[Tensor], Scalar],
) -> Scalar:
    r"""A first step size (positive) for an SDE, from ``slope`` :math:`= f_0`, one more call of the drift and two of the diffusion.

    The point beside the start is where drift and noise may have moved the state by one tolerance,

    .. math:: h_0 = \min(1 / \|f_0\|,\ 1 / \|g_0\|^2), \quad y_* = y_0 + h_0 f_0 + \sqrt{h_0}\, |g_0|

    with the norms in units of the tolerance and :math:`|g_0|` that of a row, where there are columns. With :math:`\Delta f`,
    :math:`\Delta g` the differences from there to the start and :math:`\|g\|` the larger of the two diffusions, the errors of
    a step h are of the sizes

    .. math:: C\, h\, \|\Delta f\| (h / h_0)^p, \qquad
              C\, \sqrt{h}\, \|g\| \Bigl(\tfrac{\|\Delta g\|}{\|g\|} \sqrt{h / h_0}\Bigr)^{2 k - 1}

    where k is the order of the local error, and p is 1 where the drift decides about :math:`h_0`, 1/2 where the noise does.
    The step aims at a twentieth of the tolerance with :math:`C = 1/10`, and is the shorter of the two. Derivatives at the
    start say little about a step that may be wrong by the state's size: where the tolerance is more than a third of that, a
    third of it (but no less than a third of the tolerance) stands for the tolerance in all of this. From Hairer's first
    step, :math:`(0.01 / \max(\|f_0\|, \|g_0\|))^{1/k}`, most steps of a short solve are spent growing. It remains where the
    point beside the start is outside the domain of drift or diffusion.
    """
    unit = minimum(maximum(3.0 / maximum(norm(y0), 1e-15), 1.0), 3.0)

    def size(x: Tensor) -> Scalar:
        return unit * norm(x)

    def rows(g: Tensor) -> Tensor:
        return g if field.elementwise else torch.linalg.vector_norm(g, dim=-1).to(y0.dtype)

    g0 = field.diffusion(t0, y0)
    d_f, d_g = maximum(size(slope), 1e-15), maximum(size(rows(g0)), 1e-15)
    h0 = usable(minimum(minimum(1.0 / d_f, 1.0 / d_g / d_g), longest), 1e-6 * longest)
    root = maximum(h0, 1e-300) ** 0.5
    moved = y0 + spread(direction * h0, y0) * slope + spread(root, y0) * rows(g0)
    time = t0 + direction * h0
    g1 = field.diffusion(time, moved)
    change_f, change_g = size(field(time, moved) - slope), size(rows(g1 - g0))
    p = select(d_f > d_g * d_g, 1.0, 0.5)
    h_f = (0.5 * h0**p / maximum(change_f, 1e-15)) ** (1.0 / (1.0 + p))
    largest = maximum(d_g, size(rows(g1)))
    rate = minimum(change_g / largest / root, 1e100)  # Python's floats raise where a power overflows
    h_g = (0.5 / maximum(largest * rate ** (2.0 * order - 1.0), 1e-15)) ** (1.0 / order)
    hairer = (0.01 / maximum(d_f, d_g)) ** (1.0 / order)
    h = select(is_finite(change_f + change_g), minimum(h_f, h_g), hairer)
    return usable(minimum(h, longest), 1e-6 * longest)
