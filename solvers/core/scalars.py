"""Arithmetic on the numbers that steer a solve: times, step sizes, error ratios, flags.

A joint eager solve keeps them as Python numbers, which cost nothing and allow branches; a per-sample or compiled
solve keeps them as tensors, one entry per lane. The stepping code is written once against these few functions:
``select(True, a, b)`` is just ``a``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .torch_private import forward_mode_active, transforms_active

_REAL = {torch.complex64: torch.float32, torch.complex128: torch.float64}
Scalar = Any  # float | int | bool in a joint eager solve, else a tensor of shape () or (B,)


def transformed() -> bool:
    """Whether a function transform (``torch.func``) or forward-mode differentiation watches tensors.

    Then ``requires_grad`` does not tell what is differentiated.
    """
    if torch.compiler.is_compiling():
        return False
    return transforms_active() or forward_mode_active()


def differentiated(x: Any) -> bool:
    """Whether a derivative may be asked for with respect to ``x``."""
    return isinstance(x, Tensor) and (x.requires_grad or transformed())


def real_dtype(x: Tensor) -> torch.dtype:
    """The dtype of the tensor's real part."""
    return _REAL.get(x.dtype, x.dtype)


def select(condition: Scalar, yes: Scalar, no: Scalar) -> Scalar:
    """``yes`` where ``condition`` holds, else ``no``."""
    if isinstance(condition, bool):
        return yes if condition else no
    if not isinstance(yes, Tensor) and not isinstance(no, Tensor):
        kind = torch.float64 if isinstance(yes, float) or isinstance(no, float) else torch.int64
        yes = torch.full_like(condition, yes, dtype=kind)
    return torch.where(condition, yes, no)


def minimum(a: Scalar, b: Scalar) -> Scalar:
    """The smaller of the two, entry by entry."""
    if not isinstance(a, Tensor):
        return min(a, b) if not isinstance(b, Tensor) else b.clamp(max=a)
    return torch.minimum(a, b) if isinstance(b, Tensor) else a.clamp(max=b)


def maximum(a: Scalar, b: Scalar) -> Scalar:
    """The larger of the two, entry by entry."""
    if not isinstance(a, Tensor):
        return max(a, b) if not isinstance(b, Tensor) else b.clamp(min=a)
    return torch.maximum(a, b) if isinstance(b, Tensor) else a.clamp(min=b)


def both(a: Scalar, b: Scalar) -> Scalar:
    """Logical and."""
    if isinstance(a, bool) and isinstance(b, bool):
        return a and b
    return a & b


def negate(a: Scalar) -> Scalar:
    """Logical not."""
    return (not a) if isinstance(a, bool) else ~a


def is_finite(a: Scalar) -> Scalar:
    """Whether the number is neither NaN nor infinite."""
    # Comparisons, because a graph cannot ask math.isfinite about a number that is a symbol of it.
    return torch.isfinite(a) if isinstance(a, Tensor) else -math.inf < a < math.inf


def any_true(a: Scalar) -> bool:
    """Whether the flag holds anywhere; one host sync where it is a tensor."""
    return a if isinstance(a, bool) else bool(a.any())


def spread(a: Scalar, like: Tensor) -> Scalar:
    """Shape a clock number so that it broadcasts against the state: ``(B,)`` becomes ``(B, 1, ...)`` in its precision."""
    if not isinstance(a, Tensor):
        return a
    if a.is_floating_point() and (a.dtype is not like.dtype or a.device != like.device):
        a = a.to(device=like.device, dtype=real_dtype(like))
    return shaped(a, like)


def shaped(a: Scalar, like: Tensor) -> Scalar:
    """The same in its own precision."""
    return a.reshape(-1, *[1] * (like.dim() - 1)) if isinstance(a, Tensor) and a.dim() else a


def leading(x: Scalar, dims: int, dtype: torch.dtype) -> Scalar:
    """Numbers of rows, lanes or both with dimensions of size 1 behind them, so that there are ``dims``."""
    if not isinstance(x, Tensor):
        return x
    return x.to(dtype).reshape((*x.shape, *[1] * (dims - x.dim() if x.dim() else 0)))


def as_time(t: Scalar, like: Tensor) -> Tensor:
    """The time as the field receives it: a tensor of the state's real dtype on its device."""
    if isinstance(t, Tensor):
        return spread(t, like) if t.dim() or t.dtype is not like.dtype else t.to(like.device)
    return torch.scalar_tensor(t, dtype=real_dtype(like), device=like.device)


def as_clock(t: Scalar, device: torch.device | str | None = None) -> Tensor:
    """A time, or a length of time, as a tensor of float64, whatever the state's precision and torch's default dtype are.

    Every time that becomes a tensor goes through here, or names its dtype: ``torch.as_tensor`` of a Python number alone
    would round it to float32.

    >>> as_clock(86400.3).item()
    86400.3
    """
    return torch.as_tensor(t, dtype=torch.float64, device=device)


def constants(like: Tensor, *numbers: float) -> tuple[Scalar, ...]:
    """Numbers as operations on a state take them: 0-d tensors of its real dtype that are made once for all.

    An operation with a Python number makes such a tensor each time, which takes longer than the operation itself. In a
    graph, inside a function transform, to which a tensor would belong, and on other devices, to which some operations
    would copy it from the host, they stay numbers.
    """
    if like.device.type != "cpu" or torch.compiler.is_compiling() or transforms_active():
        return numbers
    return _constants(numbers, real_dtype(like))


@lru_cache(maxsize=256)
def _constants(numbers: tuple[float, ...], dtype: torch.dtype) -> tuple[Tensor, ...]:
    # In no mode of the caller's, because they are kept.
    with torch.inference_mode(False):
        return tuple([torch.scalar_tensor(x, dtype=dtype, device="cpu") for x in numbers])


def graph_constant(x: float) -> Tensor:
    """A Python number as a tensor; under ``torch.compile`` the number may be a symbol, which loops cannot close over."""
    return torch.ones((), dtype=torch.float64) * x  # a product, which compilers can rewrite for a symbol


def graph_constants(xs: Iterable[float]) -> Tensor:
    """Python numbers as one tensor, each of them a number that may change without a new graph."""
    return torch.stack([graph_constant(x) for x in xs])


def in_order(times: Iterable[float]) -> list[float]:
    """The times sorted, each once."""
    if not torch.compiler.is_compiling():
        return sorted(set(times))
    placed: list[float] = []  # by comparisons: symbols cannot be sorted, nor put into a set
    for time in times:
        place = 0
        while place < len(placed) and placed[place] < time:
            place += 1
        if place == len(placed) or placed[place] != time:
            placed.insert(place, time)
    return placed


def choose(condition: Scalar, yes: Tensor, no: Tensor) -> Tensor:
    """``select`` for states: the flag of a lane decides for the whole lane."""
    if isinstance(condition, bool):
        return yes if condition else no
    return torch.where(spread(condition, yes), yes, no)
