"""The first step size, from how fast the solution moves and bends (after Hairer, Norsett, Wanner, Solving ODEs I, II.4)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..core.scalars import Scalar, both, is_finite, maximum, minimum, negate, select, spread
from ..methods.base import VectorField
from ..terms.stochastic import SDEField


def initial_step(
    field: VectorField,
    t0: Scalar,
    y0: Tensor,
    slope: Tensor,
    direction: Scalar,
    longest: Scalar,
    order: float,
    norm: Callable[[Tensor], Scalar],
) -> Scalar:
    r"""A first step size (positive), from one evaluation of the field beside ``slope`` :math:`= f(t_0, y_0)`.

    .. math:: d_0 = \|y_0\|, \quad d_1 = \|f_0\|, \quad h_0 = d_0 / (100\, d_1), \quad
              d_2 = \|f(t_0 + h_0, y_0 + h_0 f_0) - f_0\| / h_0, \quad L = d_2 / d_1

    A solution that changes at the rate :math:`L` has a k-th derivative of size :math:`d_1 L^{k-1}`, and an embedded pair's
    error is of the size :math:`C\, h^k d_1 L^{k-1}`. The step aims at an error of a tenth of the tolerance with
    :math:`C = 1/100`, which is on the safe side for the pairs of this library:

    .. math:: h = \min\bigl(100 h_0,\ L^{-1} (10\, L / d_1)^{1/k}\bigr)

    Unlike Hairer's :math:`(0.01 / \max(d_1, d_2))^{1/k}` it does not depend on the unit of time, and it is longer: over the
    non-stiff DETEST problems Hairer's first step has an error of 1e-5 of the tolerance, this one of 4e-3, and a short
    solve, such as a neural ODE's, saves two or three steps of ten. Where nothing moves at the start (:math:`d_1 = 0`)
    there is no rate, and Hairer's formula is used.

    Args:
        field: the field.
        t0: where to start.
        y0: the state there.
        slope: the field there.
        direction: 1 or -1.
        longest: no longer step is proposed or tried.
        order: the order of the local error, :math:`k`.
        norm: the root mean square in units of the tolerance at ``y0``, as a clock number.

    Where the numbers overflow, the step is a small part of ``longest``, and where the field or the state is NaN at the
    start, a smaller one than any solve goes on with.
    """
    d0, d1 = norm(y0), norm(slope)
    small = minimum(d0, d1) < 1e-5
    hopeless = negate((d0 == d0) & (d1 == d1))
    fallback = longest * select(hopeless, 1e-30, 1e-6)
    h0 = _usable(minimum(select(small, 1e-6, 0.01 * d0 / maximum(d1, 1e-5)), longest), fallback)
    moved = y0 + spread(direction * h0, y0) * slope
    d2 = norm(field(t0 + direction * h0, moved) - slope) / maximum(h0, 1e-300)
    tried = is_finite(d2)  # else the trial step left the field's domain
    steepest = maximum(d1, select(tried, d2, 0.0))
    hairer = select(steepest <= 1e-15, maximum(1e-3 * h0, 1e-6), (0.01 / maximum(steepest, 1e-15)) ** (1.0 / order))
    moving = maximum(d1, 1e-5)
    rate = maximum(select(tried, d2, 0.0) / moving, 1e-30)
    h1 = select(both(tried, d1 > 1e-5), (10.0 * rate / moving) ** (1.0 / order) / rate, hairer)
    return _usable(minimum(minimum(select(tried, 100.0, 0.1) * h0, h1), longest), fallback)


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
    r"""The same for an SDE, from one more evaluation of the drift ``slope`` :math:`= f_0` and two of the diffusion.

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
    h0 = _usable(minimum(minimum(1.0 / d_f, 1.0 / d_g / d_g), longest), 1e-6 * longest)
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
    return _usable(minimum(h, longest), 1e-6 * longest)


def _usable(h: Scalar, fallback: Scalar) -> Scalar:
    return select(both(is_finite(h), h > 0), h, fallback)
