"""The signatures of all prefixes of a path: every level exists at every time, because all are asked for."""

from __future__ import annotations

import torch
from torch import Tensor

from .tensor_algebra import Levels, add_product


def prefixes(x: Tensor, depth: int) -> Levels:
    r"""The signature after each step, levels ``(..., time, channels ** k)``, of increments ``(..., time, channels)``.

    With the signature S after a step of increment x, level k grows in this step by

    .. math:: \bigl(S_{k-1} - (S_{k-2} - (\cdots) \otimes x / 3) \otimes x / 2\bigr) \otimes x,

    the Horner form of :math:`S - S \otimes \exp(-x)`, so that each level is a running sum over the lower ones.
    """
    states: Levels = []
    scaled = [x / j for j in range(1, depth + 1)]
    for k in range(1, depth + 1):
        if k == 1:
            step = x
        else:
            inner = torch.sub(states[0], scaled[k - 1])
            for i in range(2, k):
                inner = add_product(states[i - 1], inner, scaled[k - i], -1.0)
            step = (inner.unsqueeze(-1) * x.unsqueeze(-2)).flatten(-2)
        states.append(step.cumsum(-2))
    return states
