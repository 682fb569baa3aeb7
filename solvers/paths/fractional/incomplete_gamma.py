r"""Incomplete gamma functions that are differentiable in the shape, as far as the weights of fractional noise need them.

torch has no derivative of ``gammainc`` in its shape parameter, which is where the Hurst index stands. The series below
have positive terms only, the continued fraction is evaluated backwards; autograd differentiates both.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_LEVELS = 40
"""Of the continued fraction: more than enough for float64 where ``x >= 3``."""
_TERMS = 130
"""Of the series: more than enough for float64 where ``x <= 30``."""


def scaled_upper_gamma(a: Tensor, x: Tensor) -> Tensor:
    r""":math:`e^x Q(a, x)`, with Q the regularised upper incomplete gamma function, for ``x >= 3``.

    .. math:: e^x Q(a, x) = \frac{x^a}{\Gamma(a)} \cdot
              \cfrac{1}{x + 1 - a - \cfrac{1 (1 - a)}{x + 3 - a - \cfrac{2 (2 - a)}{x + 5 - a - \dots}}}

    It neither overflows nor underflows, as the product of its factors does from x = 700 on.

    >>> import torch
    >>> f"{scaled_upper_gamma(torch.tensor(1.0), torch.tensor(800.0)):.3f}"
    '1.000'
    """
    fraction = torch.zeros_like(x + a)
    for level in range(_LEVELS, 0, -1):
        fraction = level * (level - a) / (x + (2 * level + 1) - a - fraction)
    return torch.exp(a * x.log() - torch.lgamma(a)) / (x + 1.0 - a - fraction)


def power_series(a: Tensor, x: Tensor, decay: float = 0.0, slope: float = 0.0) -> Tensor:
    r""":math:`\sum_{n \ge 0} (1 + \text{slope} \cdot n)\, x^n e^{-\text{decay} \cdot x} / \Gamma(a + n)` for ``0 <= x <= 30``.

    >>> import torch
    >>> a, x = torch.tensor(1.0, dtype=torch.float64), torch.tensor(2.0, dtype=torch.float64)
    >>> float(power_series(a, x) - torch.exp(x)) < 1e-14
    True
    """
    n = torch.arange(_TERMS, dtype=x.dtype, device=x.device)
    a, x = a.unsqueeze(-1), x.unsqueeze(-1)
    exponent = torch.special.xlogy(n, x) - decay * x - torch.lgamma(a + n)
    return ((1.0 + slope * n) * exponent.exp()).sum(-1)


def sine_remainder(x: Tensor) -> Tensor:
    r""":math:`2 (\sinh x - x) / x^3` for ``0 <= x <= 3``, which the difference itself would lose near 0."""
    terms = [(x * x) ** n * (2.0 / math.factorial(2 * n + 3)) for n in range(18)]
    return torch.stack(terms).sum(0)


def ramp(x: Tensor) -> Tensor:
    r""":math:`\varphi_2(-x) = (e^{-x} - 1 + x) / x^2` for ``x >= 0``, 1/2 at 0."""
    small = x < 0.5
    near = torch.where(small, x, 0.0)
    series = torch.stack([(-near) ** n * (1.0 / math.factorial(n + 2)) for n in range(16)]).sum(0)
    far = torch.where(small, 1.0, x)
    return torch.where(small, series, (torch.expm1(-far) / far + 1.0) / far)
