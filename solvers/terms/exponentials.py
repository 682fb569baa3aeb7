r"""Exponential integrators' :math:`\varphi_1(z) = (e^z - 1) / z` and :math:`\varphi_2(z) = (e^z - 1 - z) / z^2`, for decays."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..paths.fractional.incomplete_gamma import ramp


class Decays(NamedTuple):
    r"""What a time h does to :math:`y' = -\gamma y + a + b t / h`: y becomes ``decay * y + first * a + second * b``."""

    decay: Tensor
    r""":math:`e^{-\gamma h}`."""
    first: Tensor
    r""":math:`h \varphi_1(-\gamma h)`."""
    second: Tensor
    r""":math:`h \varphi_2(-\gamma h)`."""


def decays(rates: Tensor, length: Tensor, dtype: torch.dtype) -> Decays:
    """For rates ``(K,)`` and lengths of time ``(...)``; computed in float64.

    >>> import torch
    >>> made = decays(torch.tensor([0.0, 1e4], dtype=torch.float64), torch.tensor(0.01, dtype=torch.float64), torch.float64)
    >>> made.decay.tolist()[0], made.first.tolist()
    (1.0, [0.01, 0.0001])
    """
    length = length.to(torch.float64).unsqueeze(-1)
    z = rates * length
    first = torch.where(z > 0.0, -torch.expm1(-z) / torch.where(z > 0.0, z, 1.0), 1.0)
    second = ramp(z)
    return Decays(*(x.to(dtype) for x in (torch.exp(-z), length * first, length * second)))
