"""The first step size, from how fast the solution moves and bends (after Hairer, Norsett, Wanner, Solving ODEs I, II.4)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..core.scalars import Scalar, both, is_finite, maximum, minimum, negate, select, spread


def initial_step(
    field: Callable[[Scalar, Tensor], Tensor],
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
    h0 = usable(minimum(select(small, 1e-6, 0.01 * d0 / maximum(d1, 1e-5)), longest), fallback)
    moved = y0 + spread(direction * h0, y0) * slope
    d2 = norm(field(t0 + direction * h0, moved) - slope) / maximum(h0, 1e-300)
    tried = is_finite(d2)  # else the trial step left the field's domain
    steepest = maximum(d1, select(tried, d2, 0.0))
    hairer = select(steepest <= 1e-15, maximum(1e-3 * h0, 1e-6), (0.01 / maximum(steepest, 1e-15)) ** (1.0 / order))
    moving = maximum(d1, 1e-5)
    rate = maximum(select(tried, d2, 0.0) / moving, 1e-30)
    h1 = select(both(tried, d1 > 1e-5), (10.0 * rate / moving) ** (1.0 / order) / rate, hairer)
    return usable(minimum(minimum(select(tried, 100.0, 0.1) * h0, h1), longest), fallback)


def usable(h: Scalar, fallback: Scalar) -> Scalar:
    """The step size, or the fallback where it is no positive, finite number."""
    return select(both(is_finite(h), h > 0), h, fallback)
