"""Where Ornstein-Uhlenbeck filters start that have run for ever."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ..brownian.arguments import checked_seed, keys_of
from ..brownian.random import GOLDEN, mix, normal, normal_table
from .transforms import factor_of


def stationary(
    rates: tuple[float, ...],
    shape: Sequence[int],
    seed: int | Tensor,
    dtype: torch.dtype,
    device: torch.device,
    samples: Tensor | Sequence[int] | None = None,
) -> Tensor:
    r"""A draw of the stationary law, ``(*shape, K)``, with covariance :math:`1 / (\gamma_i + \gamma_j)`, by the seed.

    It is independent of the paths of the same seed.

    >>> import torch
    >>> x = stationary((0.5, 2.0), (4000, 1), 0, torch.float64, torch.device("cpu"))
    >>> x.shape, [f"{v:.2f}" for v in x.square().mean((0, 1)).tolist()]
    (torch.Size([4000, 1, 2]), ['0.99', '0.25'])
    """
    with torch.no_grad():
        factor = torch.from_numpy(_factor(rates)).to(device)
        keys = keys_of(tuple(shape), checked_seed(seed, device), samples)
        number = torch.arange(factor.shape[1], device=device)
        # Cells are counted from 0, so that no path has these numbers.
        code = mix(mix(torch.full_like(number, -1) * GOLDEN + 1) + number * GOLDEN)
        z = normal(mix(keys.unsqueeze(-1) ^ code), normal_table(device))
        return (z @ factor.T).to(dtype)


@lru_cache(maxsize=64)
def _factor(rates: tuple[float, ...]) -> np.ndarray:
    """Over a time of which nothing is left at the end, of the slowest filter either."""
    return factor_of(np.array(rates, dtype=np.float64), 20.0 / min(rates))
