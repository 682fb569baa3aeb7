"""Cubic paths: backward differences, which look one observation ahead, and natural splines, which see them all."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...core.vmap import shared
from .base import ControlPath, steps_of
from .observations import linearly_filled, observations, trailing
from .tridiagonal import solve_tridiagonal


class HermitePath(ControlPath):
    r"""Cubic pieces whose slope at a knot is that of the line before it.

    .. math:: X(t) = x_i + m_{i-1} s + \frac{2 (m_i - m_{i-1})}{h_i} s^2 - \frac{m_i - m_{i-1}}{h_i^2} s^3,
              \qquad m_i = \frac{x_{i+1} - x_i}{h_i}, \quad m_{-1} = m_0

    Its derivative is continuous, and a piece depends on no observation behind its end.

    Args:
        ts: increasing times, as for :class:`LinearPath`.
        xs: the values, ``(T, ..., c)``; those not observed are filled linearly.

    Shapes:
        As :class:`LinearPath`.

    Units:
        Those of ``ts`` and ``xs``.

    Raises:
        InvalidProblemError: as :class:`LinearPath`.

    When to take it:
        As the first choice: smooth, so that solves step over its knots, and local. With missing values it looks ahead
        to the next observation of a channel; :class:`RectilinearPath` does not.

    References:
        Morrill, Kidger, Yang, Lyons: On the choice of interpolation scheme for neural CDEs. TMLR 2022.

    Example:
        >>> import torch, neuralde as nde
        >>> path = nde.HermitePath([0.0, 1.0, 2.0], torch.tensor([[0.0], [1.0], [0.0]]))
        >>> path(1.5), path.derivative(1.0)
        (tensor([0.7500]), tensor([1.]))
    """

    smooth = True
    lookback = 1

    def __init__(self, ts: Any, xs: Any) -> None:
        knots, values, last = observations(ts, xs)
        values = linearly_filled(knots, values)
        h = steps_of(knots, values)
        slope = values.diff(dim=0) / h
        before = torch.cat([slope[:1], slope[:-1]])
        turn = slope - before
        pieces = torch.stack([values[:-1], before, 2 * turn / h, -turn / h**2], 1)
        super().__init__(knots, pieces, last)


class NaturalCubicPath(ControlPath):
    r"""The natural cubic spline through the observations of each channel: twice differentiable, straight at its ends.

    .. math:: h_{i-1} M_{i-1} + 2 (h_{i-1} + h_i) M_i + h_i M_{i+1} = 6 (m_i - m_{i-1}), \qquad M_0 = M_n = 0,

    for the second derivatives M at the channel's own observations. Before a channel's first observation and behind its
    last, its value there counts as observed at every time, as in torchcde 0.2.5.

    Args:
        ts: increasing times, as for :class:`LinearPath`.
        xs: the values, ``(T, ..., c)``; those not observed are left out.

    Shapes:
        As :class:`LinearPath`.

    Units:
        Those of ``ts`` and ``xs``.

    Raises:
        InvalidProblemError: as :class:`LinearPath`.

    When to take it:
        Where a whole series is known and its curve is smooth. Every observation moves all of it: not while data arrive.

    References:
        Kidger, Morrill, Foster, Lyons: Neural controlled differential equations for irregular time series. NeurIPS 2020.

    Example:
        >>> import torch, neuralde as nde
        >>> path = nde.NaturalCubicPath([0.0, 1.0, 2.0], torch.tensor([[0.0], [1.0], [0.0]]))
        >>> path(0.5), path.derivative(1.0)
        (tensor([0.6875]), tensor([0.]))
    """

    smooth = True

    def __init__(self, ts: Any, xs: Any) -> None:
        knots, values, last = observations(ts, xs)
        if last is None and not torch.compiler.is_compiling() and not bool(shared(values.isnan().any())):
            pieces = torch.stack(_spline(steps_of(knots, values), values, None), 1)
        else:
            pieces = _through_observed(knots, values, last)
        super().__init__(knots, pieces, last)


def _spline(h: Tensor, xs: Tensor, inner: Tensor | None) -> list[Tensor]:
    """The coefficients of each interval; ``inner`` says which points are no ends, if these differ among channels."""
    slope = xs.diff(dim=0) / h
    one, none = torch.ones_like(h[:1]), torch.zeros_like(h[:1])
    diagonal, side = torch.cat([one, 2 * (h[:-1] + h[1:]), one]), torch.cat([none, h])
    lower, upper = torch.cat([side[:-1], none]), torch.cat([none, h[1:], none])
    right = torch.cat([torch.zeros_like(slope[:1]), 6 * slope.diff(dim=0), torch.zeros_like(slope[:1])])
    if inner is not None:
        lower, upper, right = (torch.where(inner, x, 0.0) for x in (lower, upper, right))
        diagonal = torch.where(inner, diagonal, 1.0)
    bend = solve_tridiagonal(lower, diagonal, upper, right)
    return [xs[:-1], slope - h * (2 * bend[:-1] + bend[1:]) / 6, bend[:-1] / 2, bend.diff(dim=0) / (6 * h)]


def _ends_known(xs: Tensor, last: Tensor | None) -> Tensor:
    """Values with each channel's nearest observation at all points before its first and behind its last."""
    steps = torch.arange(len(xs), device=xs.device).reshape(-1, *[1] * (xs.dim() - 1))
    end = len(xs) - 1 if last is None else last.reshape(1, -1, *[1] * (xs.dim() - 2))
    seen = ~xs.isnan() & (steps <= end)
    known = torch.where(seen, xs, 0.0)
    everywhere = steps.expand_as(xs)
    begin = torch.where(seen, everywhere, len(xs) - 1).amin(0, keepdim=True)
    final = torch.where(seen, everywhere, 0).amax(0, keepdim=True)
    filled = torch.where(steps < begin, known.gather(0, begin), xs)
    return torch.where((steps > final) & (steps <= end), known.gather(0, final), filled)


def _through_observed(ts: Tensor, xs: Tensor, last: Tensor | None) -> Tensor:
    """Natural splines through different points in each channel, as pieces between the common knots.

    The observations of a channel are moved to its front, so that all splines are one batch of tridiagonal systems; what is
    behind them are rows of the identity. Each common interval then takes the cubic of the observed one that contains it.
    """
    xs = _ends_known(xs, last)
    steps = torch.arange(len(xs), device=xs.device).reshape(-1, *[1] * (xs.dim() - 1))
    end = len(xs) - 1 if last is None else last.reshape(1, -1, *[1] * (xs.dim() - 2))
    seen = ~xs.isnan() & (steps <= end)
    count = seen.sum(0)
    order = torch.argsort((~seen).to(torch.uint8), dim=0, stable=True)
    times = trailing(ts, xs).expand_as(xs)
    own = torch.where(seen, xs, 0.0).gather(0, order)
    mine = steps < count
    h = torch.where(mine[1:], times.gather(0, order).diff(dim=0), 1.0)
    own = torch.where(mine, own, 0.0)
    inner = (steps > 0) & (steps < count - 1)
    coefficients = _spline(h, own, inner)
    at = torch.minimum(seen.cumsum(0)[:-1] - 1, count - 2)
    a, b, c, d = (x.gather(0, at) for x in coefficients)
    s = times[:-1] - times.gather(0, order).gather(0, at)
    return torch.stack([a + s * (b + s * (c + s * d)), b + s * (2 * c + 3 * s * d), c + 3 * s * d, d], 1)
