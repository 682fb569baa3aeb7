"""The norms that decide about steps: root mean squares over a lane, with a finite gradient at zero."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .scalars import constants, shaped
from .tolerances import Tolerance

# So many units of rounding of the new state an error estimate may be made of rounding alone.
_ROUNDING = 16.0


def rms(x: Tensor, per_sample: bool = False) -> Tensor:
    r"""Root mean square over the whole tensor, or over each sample.

    :math:`\sqrt{\frac1n \sum_i |x_i|^2}`, with gradient 0 where it is 0 (the plain formula's gradient there is NaN).
    A lane without entries has norm 0.
    """
    rows = x.shape[0] if per_sample else 1
    entries = x.numel() // rows if rows else 0
    if not entries:
        return x.real.new_zeros((rows,) if per_sample else ())
    (root,) = constants(x, math.sqrt(entries))
    if per_sample:
        return torch.linalg.vector_norm(x.reshape(rows, entries), dim=1) / root
    return torch.linalg.vector_norm(x) / root


def scaled_error(error: Tensor, y0: Tensor, y1: Tensor, rtol: Tolerance, atol: Tolerance) -> Tensor:
    r"""The error in units of the tolerance, :math:`e_i / (\text{atol} + \text{rtol} \max(|y_{0,i}|, |y_{1,i}|))`.

    NaN where a state is infinite: no error is small against a number that has overflowed.
    """
    scale = tolerance(torch.maximum(y0.abs(), y1.abs()), rtol, atol)
    return torch.add(error, scale, alpha=0.0) / scale  # 0 * inf is NaN, and the sum is the error everywhere else


def judged_error(
    error: Tensor, y0: Tensor, y1: Tensor, rtol: Tolerance, atol: Tolerance, per_sample: bool = False
) -> Tensor:
    r"""The same as a step is judged by it: how far it grew beyond all that its lane had does not loosen its tolerance.

    .. math:: e_i / \bigl(\text{atol} + \text{rtol} \max(|y_{0,i}|, \min(|y_{1,i}|, \max_j |y_{0,j}|))\bigr)

    A step far too long ends far away with an error in proportion, which :math:`|y_{1,i}|` would excuse. A lane that starts
    at 0 has no size yet, and its first step is judged as :func:`scaled_error` has it; and what is rounding beside
    :math:`|y_{1,i}|` is never too much. Sizes are compared in units of
    ``atol`` where each entry has its own, so that the units of entries do not matter.
    """
    unit = atol.clamp(min=torch.finfo(atol.dtype).tiny) if isinstance(atol, Tensor) and atol.dim() else None
    before, after = y0.abs(), y1.abs()
    if unit is None and not per_sample and before.numel():
        limit = torch.threshold(before.amax(), 0.0, math.inf)
    else:
        limit = _greatest(before if unit is None else before / unit, per_sample)
        limit = shaped(torch.threshold(limit, 0.0, math.inf), y0)
        limit = limit if unit is None else limit * unit
    size = torch.clamp(after, before, limit)
    # So many units of rounding, exactly; NaN where the state is infinite.
    rounding = torch.sub(after, after, alpha=1.0 - _ROUNDING * torch.finfo(y1.dtype).eps)
    return error / torch.maximum(tolerance(size, rtol, atol), rounding)


def tolerance(size: Tensor, rtol: Tolerance, atol: Tolerance) -> Tensor:
    """What an entry of this size may be wrong by; never 0, so that an entry that stays 0 has error 0 with ``atol=0``."""
    if isinstance(atol, Tensor) or isinstance(rtol, Tensor):
        scale = atol + rtol * size
    else:
        relative, absolute = constants(size, rtol, atol)
        scale = (relative * size).add_(absolute)
    return scale if not isinstance(atol, Tensor) and atol > 0.0 else scale.clamp(min=torch.finfo(scale.dtype).tiny)


def largest(x: Tensor, per_sample: bool = False) -> Tensor:
    """The largest modulus over the whole tensor, or over each sample; 0 for a lane without entries."""
    return _greatest(x.abs(), per_sample)


def _greatest(sizes: Tensor, per_sample: bool) -> Tensor:
    rows = sizes.shape[0] if per_sample else 1
    entries = sizes.numel() // rows if rows else 0
    if not entries:
        return sizes.new_zeros((rows,) if per_sample else ())
    return sizes.reshape(rows, entries).amax(dim=1) if per_sample else sizes.amax()
