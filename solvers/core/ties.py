"""Times that are the same but for rounding.

One moment often comes twice, in two precisions: a dose at 0.3, and a save time 0.3 of a float32 grid, which is 1.2e-8
later. Which of two such times is first would be decided by the last bit, so one is moved onto the other.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

# Arithmetic on times (``linspace``, ``arange``, a sum of a few steps) is off by a few units of rounding.
_ULPS = 4


def resolution(times: Any) -> float:
    """The rounding of times as they were given, relative to them: that of the coarsest floating dtype among them.

    >>> resolution(0.1) == resolution([0.1, 1]) == torch.finfo(torch.float64).eps
    True
    >>> resolution([0.1, torch.tensor(0.2)]) == torch.finfo(torch.float32).eps
    True
    """
    coarsest = float(torch.finfo(torch.float64).eps)
    for leaf in pytree.tree_leaves(times):
        if not isinstance(leaf, Tensor) and hasattr(leaf, "dtype"):
            leaf = torch.as_tensor(leaf)
        if isinstance(leaf, Tensor) and leaf.is_floating_point():
            coarsest = max(coarsest, float(torch.finfo(leaf.dtype).eps))
    return coarsest


def tied(times: Tensor, anchors: Tensor, eps: float) -> Tensor:
    """The times, those within a few units of rounding of an anchor moved onto the nearest one.

    Args:
        times: ``(T,)``, or ``(T, B)`` where each lane has its own; NaN stays.
        anchors: ``(A,)`` or ``(A, B)``; NaN is none.
        eps: the relative rounding of the coarser of the two.

    >>> tied(torch.linspace(0.0, 1.0, 11)[3:5].double(), torch.tensor([0.3], dtype=torch.float64), 1.2e-7)
    tensor([0.3000, 0.4000], dtype=torch.float64)
    """
    if not anchors.numel() or not times.numel():
        return times
    if anchors.dim() > times.dim():
        times = times.unsqueeze(-1).expand(-1, anchors.shape[1])
    elif times.dim() > anchors.dim():
        anchors = anchors.unsqueeze(-1).expand(-1, times.shape[1])
    rows = times.movedim(0, -1).contiguous()
    known = anchors.movedim(0, -1).nan_to_num(torch.inf).sort(dim=-1).values.contiguous()
    place = torch.searchsorted(known, rows)
    below, above = (known.gather(-1, x.clamp(0, known.shape[-1] - 1)) for x in (place - 1, place))
    nearest = torch.where((rows - below).abs() <= (above - rows).abs(), below, above)
    near = (rows - nearest).abs() <= _ULPS * eps * torch.maximum(rows.abs(), nearest.abs())
    return torch.where(near & nearest.isfinite(), nearest, rows).movedim(-1, 0)
