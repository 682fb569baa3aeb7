r"""The weights of Ornstein-Uhlenbeck processes that come nearest to fractional Brownian motion.

Everything is a function of the rates times the horizon, :math:`x_k = \gamma_k T`: with :math:`\alpha = H + 1/2` the
integrated squared error over ``[0, T]`` is

.. math:: T^{2H+1} \bigl(\tilde\omega^\top A \tilde\omega - 2 b^\top \tilde\omega + c\bigr), \qquad
          \omega = T^{H - 1/2} \tilde\omega

and the weights solve :math:`A \tilde\omega = b`. The formulas are those of Daems et al. (2024), written so that no term
cancels another for any rate from 0 to 1e300.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .incomplete_gamma import power_series, ramp, scaled_upper_gamma, sine_remainder

_SERIES_II, _SERIES_I = 30.0, 3.0
"""Up to which rate times horizon a series is used, above it the continued fraction."""


def gram(x: Tensor, kind: str) -> Tensor:
    """A: how the processes overlap, ``(K, K)``."""
    both = x.unsqueeze(-1) + x
    if kind == "II":
        return ramp(both)
    own = x * ramp(x)
    return (own.unsqueeze(-1) + own) / both


def projection(hurst: Tensor, x: Tensor, kind: str) -> Tensor:
    """b: how each process overlaps fractional Brownian motion, ``(*hurst, K)``."""
    a = hurst.unsqueeze(-1) + 0.5
    return _riemann_liouville(a, x) if kind == "II" else _mandelbrot_van_ness(a, x)


def energy(hurst: Tensor, kind: str) -> Tensor:
    """c: the integrated variance of fractional Brownian motion."""
    return unit_variance(hurst, kind) / (2.0 * hurst + 1.0)


def unit_variance(hurst: Tensor, kind: str) -> Tensor:
    """The variance of fractional Brownian motion at time 1, as both types are normalised: by the gamma function alone."""
    if kind == "II":
        return 1.0 / (2.0 * hurst * torch.exp(2.0 * torch.lgamma(hurst + 0.5)))
    return torch.exp(-torch.lgamma(2.0 * hurst + 1.0)) / torch.sin(math.pi * hurst)


def _riemann_liouville(a: Tensor, x: Tensor) -> Tensor:
    r""":math:`\frac1{\Gamma(\alpha)} \int_0^1 (1 - v) v^{\alpha - 1} e^{-x v} dv`."""
    small = x <= _SERIES_II
    near = power_series(a + 2.0, torch.where(small, x, 1.0), decay=1.0, slope=1.0)
    far = torch.where(small, _SERIES_II, x)
    fades = torch.exp(-far)
    lower = 1.0 - fades * scaled_upper_gamma(a, far)
    value = lower * far ** (-a) * (1.0 - a / far) + fades * torch.exp(-torch.lgamma(a)) / far
    return torch.where(small, near, value)


def _mandelbrot_van_ness(a: Tensor, x: Tensor) -> Tensor:
    r""":math:`2 x^{-\alpha} - \frac{1}{x \Gamma(\alpha + 1)} + (e^{-x} - e^x Q(\alpha, x)) x^{-\alpha - 1}`."""
    small = x <= _SERIES_I
    inner = torch.where(small, x, 1.0)
    near = power_series(a + 2.0, inner) - inner ** (2.0 - a) * sine_remainder(inner)
    far = torch.where(small, _SERIES_I, x)
    last = (torch.exp(-far) - scaled_upper_gamma(a, far)) * far ** (-a - 1.0)
    return torch.where(small, near, 2.0 * far ** (-a) - torch.exp(-torch.lgamma(a + 1.0)) / far + last)


def solved(matrix: Tensor, right: Tensor) -> Tensor:
    r"""The weights :math:`\tilde\omega`, by Cholesky's factors of the matrix at a unit diagonal, with :func:`ridge` added."""
    scale = matrix.diagonal().rsqrt()
    scaled = matrix * scale * scale.unsqueeze(-1)
    scaled = scaled + ridge(len(scale)) * torch.eye(len(scale), dtype=matrix.dtype, device=matrix.device)
    factor = torch.linalg.cholesky(scaled)
    return torch.cholesky_solve((right * scale).unsqueeze(-1), factor).squeeze(-1) * scale


def ridge(count: int) -> float:
    """What is added to the unit diagonal: 8 K units of rounding, so that rounding cannot make the matrix indefinite."""
    return 8.0 * count * torch.finfo(torch.float64).eps


def condition(matrix: Tensor) -> float:
    """The condition number of the matrix scaled to a unit diagonal; infinite where float64 cannot tell it from a singular one."""
    scale = matrix.diagonal().rsqrt()
    values = torch.linalg.eigvalsh(matrix * scale * scale.unsqueeze(-1))
    return (values[-1] / values[0]).item() if values[0] > ridge(len(values)) / 8.0 else math.inf
