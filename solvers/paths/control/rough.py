"""A path of log-signatures, the control of the log-ODE method."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...checks import shown
from ...errors import InvalidProblemError
from ..signatures.logsignature import logsignature
from ..signatures.signature import check_depth
from .base import ControlPath
from .linear import straight
from .observations import linearly_filled, observations


class LogSignaturePath(ControlPath):
    r"""The log-signatures of windows of a series, as a control that is constant on each window.

    .. math:: X'(t) = \frac{\log S_{[r_i, r_{i+1}]}}{r_{i+1} - r_i}, \qquad r_i \le t < r_{i+1}

    A solve takes at least one step for each window and not one for each observation; the log-signature keeps what happened
    inside.

    Args:
        ts: increasing times, as for :class:`LinearPath`.
        xs: the values, ``(T, ..., c)``; those not observed are filled linearly.
        depth: of the log-signatures.
        window: how many intervals between observations one window has; the last one may have fewer.
        basis: the coordinates, as for :func:`logsignature`.

    Shapes:
        As :class:`LinearPath`, with ``logsignature_channels(c, depth)`` channels.

    Units:
        Coordinates of brackets of k letters have the unit of ``xs`` to the power k.

    Raises:
        InvalidProblemError: as :class:`LinearPath` and :func:`logsignature`; or ``window`` is no positive int, or larger
            than the series.

    When to take it:
        For long series, hundreds of observations and more: steps as long as a window cost a tenth or less of those between
        observations. With ``depth=1`` it is the linear path through every ``window``-th point.

    References:
        Morrill, Salvi, Kidger, Foster, Lyons: Neural rough differential equations for long time series. ICML 2021.

    Example:
        >>> import torch, neuralde as nde
        >>> ts = torch.linspace(0, 1, 101)
        >>> xs = torch.stack([ts, torch.sin(9 * ts)], -1)
        >>> path = nde.LogSignaturePath(ts, xs, depth=2, window=25)
        >>> len(path.knots), path.derivative(0.1).shape
        (5, torch.Size([3]))
    """

    smooth = False
    lookback = 0

    def __init__(self, ts: Any, xs: Any, depth: int, window: int, *, basis: str = "lyndon") -> None:
        times, values, last = observations(ts, xs)
        check_depth(depth)
        if isinstance(window, bool) or not isinstance(window, int) or not 1 <= window < len(values):
            raise InvalidProblemError(
                f"window: got {shown(window)}; expected an int of at least 1 and at most the {len(values) - 1} intervals of xs"
            )
        filled = linearly_filled(times, values)
        logs = logsignature(_windows(_held(filled, last), window), depth, basis)
        ends = torch.arange(window, len(values) + window - 1, window, device=times.device).clamp(max=len(values) - 1)
        knots = torch.cat([times[:1], times[ends]])
        if last is not None:
            # The last window of a shorter series ends where the series does.
            point, last = last.unsqueeze(0), torch.div(last + window - 1, window, rounding_mode="floor")
            rows = torch.arange(len(knots), device=knots.device).unsqueeze(-1)
            knots = torch.where(rows == last, times.gather(0, point), knots)
        points = torch.cat([torch.zeros_like(logs[:1]), logs.cumsum(0)])
        self.letters, self.depth, self.basis, self.first = values.shape[-1], depth, basis, filled[0]
        super().__init__(knots, straight(knots, points), last)


def _held(xs: Tensor, last: Tensor | None) -> Tensor:
    """Values that stay where they are behind each series' end."""
    if last is None:
        return xs
    steps = torch.arange(len(xs), device=xs.device).unsqueeze(-1)
    at = torch.minimum(steps, last).reshape(len(xs), -1, *[1] * (xs.dim() - 2)).expand_as(xs)
    return xs.gather(0, at)


def _windows(xs: Tensor, window: int) -> Tensor:
    """The points of each window, ``(window + 1, windows, ..., c)``; the last is filled up with its last point."""
    missing = -(len(xs) - 1) % window
    padded = torch.cat([xs, xs[-1:].expand(missing, *xs.shape[1:])])
    return padded.unfold(0, window + 1, window).movedim(-1, 0)
