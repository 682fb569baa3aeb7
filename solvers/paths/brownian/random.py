"""Random numbers that are a pure function of a seed and an index, so that a step taken again draws the same.

Everything is a handful of elementwise operations on 64-bit integers and floats. The integers are the same on any device.
The normals are too wherever each operation is rounded by itself, which eager torch does: only sums, products and looked-up
constants occur, no elementary function. Compiled code may fuse a product and a sum, which moves the last bit.
"""

from __future__ import annotations

from math import exp, pi, sqrt
from statistics import NormalDist

import torch
from torch import Tensor

from ...core.scalars import Scalar

# The constants of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014) as signed 64-bit integers.
GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)

# The quantile function of the normal law on (0, 1/2), one cubic for each segment: a segment is one binade of the
# uniform number, cut into 32 equal parts, so that it is found in the bits of the number and the tail is as fine as
# the middle. The cubics match value and slope at both ends and are wrong by less than 1e-8.
_PARTS = 5
_BINADES = 53
_SEGMENTS = _BINADES << _PARTS
_REST = 52 - _PARTS
_FIRST = 1022 << _PARTS  # the bits of 0.5 above the rest


def draw_seed(like: Tensor) -> Tensor:
    """A seed per entry of ``like``, from torch's global generator."""
    return torch.randint(0, 2**62, like.shape, dtype=torch.int64, device=like.device)


def uniform(seed: Tensor, index: Scalar) -> Tensor:
    """A float64 in [0, 1) for each seed and index, on any device the same."""
    x = mix(seed + (torch.zeros_like(seed) + (index + 1)) * GOLDEN)
    return _shift(x, 11).to(torch.float64) * 2.0**-53


def mix(x: Tensor) -> Tensor:
    """A bijection of 64-bit integers each of whose output bits depends on every input bit (SplitMix64's finalizer)."""
    x = (x ^ _shift(x, 30)).mul_(_MIX_1)  # a new tensor, from here on in place
    x = x.bitwise_xor_(_shift(x, 27)).mul_(_MIX_2)
    return x.bitwise_xor_(_shift(x, 31))


def normal(bits: Tensor, table: Tensor) -> Tensor:
    """A standard normal float64 for each 64-bit integer, between -8.3 and 8.3, from :func:`normal_table`."""
    number = _shift(bits, 12).to(torch.float64).add_(0.5).view(torch.int64)  # uniform on (0, 2**52), its bits
    segment = (number >> _REST).add_((bits & 1).mul_(_SEGMENTS)).sub_(_FIRST)
    place = (number & ((1 << _REST) - 1)).to(torch.float64).mul_(2.0**-_REST)
    where = segment.reshape(-1)
    first, second, third, fourth = (column.index_select(0, where).view(segment.shape) for column in table.unbind())
    return fourth.mul_(place).add_(third).mul_(place).add_(second).mul_(place).add_(first)


def _normal_table() -> Tensor:
    law = NormalDist()

    def knot(binade: int, part: int) -> tuple[float, float]:
        """Value, and slope over one part of this binade."""
        u = (1.0 + part * 2.0**-_PARTS) * 2.0 ** (binade - _BINADES - 1)
        z = law.inv_cdf(u)
        width = 2.0 ** (binade - _BINADES - 1 - _PARTS)
        return z, width * sqrt(2.0 * pi) * exp(0.5 * z * z)

    rows = []
    for binade in range(_BINADES):
        right = knot(binade, 0)
        for part in range(1 << _PARTS):
            (a, da), (b, db) = right, knot(binade, part + 1)
            right = (b, db)
            rows.append((a, da, 3.0 * (b - a) - 2.0 * da - db, 2.0 * (a - b) + da + db))
    lower = torch.tensor(rows, dtype=torch.float64).T
    # Rounded, so that a C library whose last bits differ gives the same table.
    lower = torch.round(lower * 2.0**40) * 2.0**-40
    return torch.cat([lower, -lower], dim=1)


_TABLE = _normal_table()


def normal_table(device: torch.device) -> Tensor:
    """The coefficients that :func:`normal` looks up, ``(4, 3392)``."""
    return _TABLE.to(device)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical shift to the right; torch's own copies the sign."""
    return (x >> bits).bitwise_and_((1 << (64 - bits)) - 1)
