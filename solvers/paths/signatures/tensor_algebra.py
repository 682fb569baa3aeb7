r"""The truncated tensor algebra: products, inverses, exponentials and logarithms of signatures.

An element is a list of its levels 1 to depth, each ``(..., channels ** k)``; the level 0 is 1 for a signature and 0 for a
logarithm, and is not stored. Flat, the levels follow each other, words of one level in lexicographic order.
"""

from __future__ import annotations

import torch
from torch import Tensor

Levels = list[Tensor]


def channels_of(channels: int, depth: int) -> int:
    """How many words of 1 to ``depth`` letters there are."""
    return sum(channels**k for k in range(1, depth + 1))


def split(flat: Tensor, channels: int, depth: int) -> Levels:
    """The levels of a flat element, as views."""
    return list(flat.split([channels**k for k in range(1, depth + 1)], -1))


def join(levels: Levels) -> Tensor:
    """The flat element of some levels."""
    return torch.cat(levels, -1)


def add_product(total: Tensor, a: Tensor, b: Tensor, alpha: float = 1.0) -> Tensor:
    r"""``total`` + alpha * :math:`a \otimes b`, one level each."""
    square = total.unflatten(-1, (a.shape[-1], b.shape[-1]))
    return torch.addcmul(square, a.unsqueeze(-1), b.unsqueeze(-2), value=alpha).flatten(-2)


def multiply(a: Levels, b: Levels) -> Levels:
    """Chen's product of two signatures: the signature of one path after the other."""
    levels = []
    for k in range(len(a)):
        level = a[k] + b[k]
        for i in range(k):
            level = add_product(level, a[i], b[k - 1 - i])
        levels.append(level)
    return levels


def invert(levels: Levels, channels: int) -> Levels:
    """The inverse of a signature, that of the reversed path: words read backwards, with the sign of their length."""
    inverse = []
    for k, level in enumerate(levels, 1):
        letters = level.unflatten(-1, (channels,) * k)
        first = letters.dim() - k
        turned = letters.permute(*range(first), *reversed(range(first, letters.dim()))).flatten(first)
        inverse.append(-turned if k % 2 else turned)
    return inverse


def _products(a: Levels, b: Levels, constant: float) -> Levels:
    """``a * (constant + b)`` where ``a`` has no level 0."""
    levels = []
    for k in range(len(a)):
        level = a[k] * constant
        for i in range(k):
            level = add_product(level, a[i], b[k - 1 - i])
        levels.append(level)
    return levels


def log(levels: Levels) -> Levels:
    r"""The logarithm :math:`\sum_n (-1)^{n+1} s^n / n` of 1 + s, by Horner's rule; level k needs k terms."""
    depth = len(levels)
    if depth == 1:
        return list(levels)
    inner = [-level / depth for level in levels]
    for n in range(depth - 1, 1, -1):
        inner = [-term for term in _products(levels, inner, 1.0 / n)]
    return _products(levels, inner, 1.0)


def exp(levels: Levels) -> Levels:
    r"""The exponential :math:`\sum_n s^n / n!` of an element without level 0, less 1."""
    inner = [level / len(levels) for level in levels]
    for n in range(len(levels) - 1, 0, -1):
        inner = [term / n for term in _products(levels, inner, 1.0)]
    return inner if len(levels) > 1 else list(levels)
