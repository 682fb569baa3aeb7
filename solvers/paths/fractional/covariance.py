r"""Second moments of fractional Brownian motion of types I and II, in float64 and differentiable in the Hurst index.

Both types are written without the factor :math:`1/\Gamma(H + 1/2)` and scaled to variance 1 at time 1; :func:`amplitude`
is the factor that leads to the other normalisation.

References:
    Mandelbrot, Van Ness: Fractional Brownian motions, fractional noises and applications. SIAM Review 10 (1968).
    Marinucci, Robinson: Alternative forms of fractional Brownian motion. J. Stat. Plan. Inference 80 (1999).
    Abramowitz, Stegun: Handbook of Mathematical Functions, 15.3.6, for the hypergeometric function near 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_NEAR = 16
"""Lags from which on the autocovariance is a series in 1 / lag**2, whose terms have no cancellation."""
_TERMS = 60
"""Terms of power series in numbers of at most 1/2."""


def amplitude(hurst: Tensor, kind: str, unit_variance: bool) -> Tensor:
    r"""The standard deviation at time 1: 1, or that of the process with the factor :math:`1/\Gamma(H + 1/2)`."""
    if unit_variance:
        return torch.ones_like(hurst)
    if kind == "I":
        return torch.exp(-0.5 * torch.lgamma(2.0 * hurst + 1.0)) * torch.sin(math.pi * hurst).rsqrt()
    return torch.exp(-torch.lgamma(hurst + 0.5)) * (2.0 * hurst).rsqrt()


def covariance(s: Tensor, t: Tensor, hurst: Tensor, kind: str) -> Tensor:
    """The covariance at times that are not negative and broadcast, of the process with variance 1 at time 1."""
    if kind == "I":
        return 0.5 * (s ** (2.0 * hurst) + t ** (2.0 * hurst) - (t - s).abs() ** (2.0 * hurst))
    low, high = torch.minimum(s, t), torch.maximum(s, t)
    there = low > 0
    ratio = torch.where(there, low, 1.0) / torch.where(there, high, 1.0)
    # Of two times whose difference is small, it and not their ratio is known to full precision.
    rest = torch.where(there, high - low, 0.0) / torch.where(there, high, 1.0)
    alpha = hurst + 0.5
    value = (2.0 * hurst / alpha) * ratio**alpha * high ** (2.0 * hurst) * _volterra(ratio, rest, hurst)
    return torch.where(there, value, 0.0)


def increments_covariance(ts: Tensor, hurst: Tensor, kind: str) -> Tensor:
    """The covariance matrix ``(T, T)`` of the increments from 0 to ``ts[0]``, to ``ts[1]`` and so on."""
    all_times = torch.cat([ts.new_zeros(1), ts])
    if kind == "I":
        apart = (all_times.unsqueeze(1) - all_times).abs() ** (2.0 * hurst)
        return -0.5 * apart.diff(dim=0).diff(dim=1)
    return covariance(all_times.unsqueeze(1), all_times, hurst, kind).diff(dim=0).diff(dim=1)


def crossed_covariance(t: Tensor, s: Tensor, hurst: Tensor) -> Tensor:
    """The covariance of type II at ``t`` with the Brownian motion that drives it at ``s``."""
    alpha = hurst + 0.5
    return (2.0 * hurst).sqrt() / alpha * (t**alpha - (t - torch.minimum(s, t)) ** alpha)


def noise_autocovariance(count: int, hurst: Tensor) -> Tensor:
    r"""The autocovariance of fractional Gaussian noise, :math:`\rho(0), ..., \rho(count - 1)`, ``(count, *hurst.shape)``.

    .. math:: \rho(k) = \frac{1}{2} \bigl(|k+1|^{2H} - 2 |k|^{2H} + |k-1|^{2H}\bigr)
              = k^{2H} \sum_{j \ge 1} \binom{2H}{2j} k^{-2j}
    """
    lags = torch.arange(count, dtype=torch.float64, device=hurst.device).reshape(-1, *[1] * hurst.dim())
    power = 2.0 * hurst
    near = lags[: _NEAR + 1]
    first = 0.5 * ((near + 1.0) ** power - 2.0 * near**power + (near - 1.0).abs() ** power)
    far = lags[_NEAR + 1 :]
    if not len(far):
        return first
    small = far**-2.0
    total, choose = torch.zeros_like(far), torch.ones_like(hurst)
    coefficients = []
    for j in range(1, 8):  # (1 / 17)**14 is below the rounding of 1
        choose = choose * (power - (2 * j - 2)) * (power - (2 * j - 1)) / ((2 * j - 1) * (2 * j))
        coefficients.append(choose)
    for coefficient in reversed(coefficients):
        total = (total + coefficient) * small
    return torch.cat([first, far**power * total])


def _volterra(x: Tensor, rest: Tensor, hurst: Tensor) -> Tensor:
    """The hypergeometric function F(1/2 - H, 1; 3/2 + H; x) for ``x = 1 - rest`` between 0 and 1."""
    near = x > 0.5
    alpha = hurst + 0.5
    low = torch.where(near, 0.5, x)
    direct = term = torch.ones_like(x)
    for j in range(_TERMS):
        term = term * low * ((1.0 - alpha + j) / (1.0 + alpha + j))
        direct = direct + term
    z = torch.where(near, rest, 0.5)
    # Its first factor is (1/2 - H) / (1 - 2H) = 1/2 for every H.
    term = 0.5 * z
    other = 1.0 + term
    for j in range(1, _TERMS):
        term = term * z * ((0.5 - hurst + j) / (1.0 - 2.0 * hurst + j))
        other = other + term
    # Gamma(-2H) / Gamma(1/2 - H) by the duplication formula, which has no pole at H = 1/2.
    half = torch.exp(torch.lgamma(1.0 - hurst)) / hurst * 2.0 ** (-2.0 * hurst - 1.0) / math.sqrt(math.pi)
    singular = torch.exp(torch.lgamma(1.0 + alpha)) * half * z ** (2.0 * hurst) * (1.0 - z) ** -alpha
    return torch.where(near, alpha / (2.0 * hurst) * other - singular, direct)
