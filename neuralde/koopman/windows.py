"""Windows of a series, each channel scaled to [0, 1]."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from neuralde.solvers import InvalidProblemError
from neuralde.solvers.checks import integer, shown


class Windows(NamedTuple):
    """Windows of a series, and what undoes their scaling.

    Attributes:
        x: the windows, ``(N, length, c)``, in [0, 1]; NaN where the series was.
        low: the least value of each channel, ``(c,)``.
        width: the largest less the least, ``(c,)``; 1 for a constant channel.

    Units:
        ``low`` and ``width`` in those of the series.

    Example:
        >>> import torch, neuralde as nde
        >>> cut = nde.koopman.windows(torch.arange(10.0)[:, None], length=4, stride=2)
        >>> cut.x.shape, cut.original(cut.x[0, :, 0:1])[:, 0]
        (torch.Size([4, 4, 1]), tensor([0., 1., 2., 3.]))
    """

    x: Tensor
    low: Tensor
    width: Tensor

    def original(self, x: Tensor) -> Tensor:
        """Windows ``(..., c)`` in the units of the series."""
        return self.low + self.width * x


def windows(series: Tensor, length: int, stride: int = 1) -> Windows:
    """Overlapping windows of a series, each channel scaled by its least and largest value of all.

    Args:
        series: ``(T, c)``; NaN where nothing was observed.
        length: of the windows, at least 2.
        stride: how far each begins behind the one before.

    Returns:
        :class:`Windows`. A constant channel is 0 throughout.

    Raises:
        InvalidProblemError: the series is not ``(T, c)``, has infinite values, or is shorter than a window; ``length`` is
            below 2.

    When to take it:
        For the windows of :class:`neuralde.KoopmanVAE`, and of the scores.

    Example:
        >>> import torch, neuralde as nde
        >>> series = torch.stack([torch.arange(6.0), torch.ones(6)], 1)
        >>> nde.koopman.windows(series, 3).x[-1]
        tensor([[0.6000, 0.0000],
                [0.8000, 0.0000],
                [1.0000, 0.0000]])
    """
    length, stride = integer(length, "length", 2), integer(stride, "stride")
    if not isinstance(series, Tensor) or series.dim() != 2 or not series.is_floating_point() or not series.numel():
        raise InvalidProblemError(f"series: got {shown(series)}; expected a float tensor (T, c)")
    if bool(series.isinf().any()):
        raise InvalidProblemError(
            "series: has infinite values; expected finite ones, or NaN where nothing was observed"
        )
    if len(series) < length:
        raise InvalidProblemError(f"series: got {len(series)} rows; expected at least length, {length}")
    seen = ~series.isnan()
    low = torch.where(seen, series, torch.inf).amin(0)
    high = torch.where(seen, series, -torch.inf).amax(0)
    nowhere = low > high  # a channel of which nothing was observed
    low, high = torch.where(nowhere, 0.0, low), torch.where(nowhere, 0.0, high)
    width = high - low
    width = torch.where(width > 0, width, 1.0)
    scaled: Any = (series - low) / width
    return Windows(scaled.unfold(0, length, stride).mT.contiguous(), low, width)
