"""Random numbers that are a pure function of a seed and an index, so that a step taken again draws the same."""

from __future__ import annotations

import torch
from torch import Tensor

from .scalars import Scalar

# The constants of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014) as signed 64-bit integers.
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)


def draw_seed(like: Tensor) -> Tensor:
    """A seed per entry of ``like``, from torch's global generator."""
    return torch.randint(0, 2**62, like.shape, dtype=torch.int64, device=like.device)


def uniform(seed: Tensor, index: Scalar) -> Tensor:
    """A float64 in [0, 1) for each seed and index, on any device the same."""
    x = seed + (torch.zeros_like(seed) + (index + 1)) * _GOLDEN
    x = (x ^ _shift(x, 30)) * _MIX_1
    x = (x ^ _shift(x, 27)) * _MIX_2
    x = x ^ _shift(x, 31)
    return _shift(x, 11).to(torch.float64) * 2.0**-53


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical shift to the right; torch's own copies the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
