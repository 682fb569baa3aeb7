"""Straight lines between observations, and the causal path that moves along one axis after the other."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...checks import number
from ...core.vmap import shared
from ...errors import InvalidProblemError
from .base import ControlPath, steps_of
from .observations import carried_forward, linearly_filled, observations


def straight(ts: Tensor, xs: Tensor) -> Tensor:
    """The pieces of a linear path."""
    return torch.stack([xs[:-1], xs.diff(dim=0) / steps_of(ts, xs)], 1)


class LinearPath(ControlPath):
    r"""Straight lines between observations.

    .. math:: X(t) = x_i + \frac{t - t_i}{t_{i+1} - t_i} (x_{i+1} - x_i)

    A value that was not observed lies on the line between its channel's neighbours, and is constant before the first
    observation and behind the last.

    Args:
        ts: increasing times, ``(T,)``, or ``(T, B)`` where each series has its own; NaN behind the end of a shorter one.
            A list of times, with a list of values, for series of different lengths; or a ``PackedSequence`` of them, of
            one-dimensional series, with packed values.
        xs: the values, ``(T, ..., c)``, NaN where nothing was observed.

    Shapes:
        ``path(t)`` is ``(..., c)``, ``(N, ..., c)`` for N times; each series' own times are ``(B, 1, ...)``. Behind its end
        a shorter series keeps its last value.

    Units:
        Those of ``ts`` and ``xs``.

    Raises:
        InvalidProblemError: times that do not increase, a channel without an observation, values that are infinite or no
            floating-point numbers, shapes that do not fit; a time outside the interval.

    When to take it:
        Where observations are dense, or the state must not react before a change; solves land on its knots, which costs
        a step each. :class:`HermitePath` is smoother and needs fewer; :class:`RectilinearPath` where data arrive.

    References:
        Kidger, Morrill, Foster, Lyons: Neural controlled differential equations for irregular time series. NeurIPS 2020.

    Example:
        >>> import torch, neuralde as nde
        >>> nan = float("nan")
        >>> path = nde.LinearPath([0.0, 1.0, 3.0], torch.tensor([[0.0, nan], [nan, 1.0], [6.0, 3.0]]))
        >>> path(2.0), path.derivative(2.0)
        (tensor([4., 2.]), tensor([2., 1.]))
    """

    smooth = False
    lookback = 0

    def __init__(self, ts: Any, xs: Any) -> None:
        knots, values, last = observations(ts, xs)
        super().__init__(knots, straight(knots, linearly_filled(knots, values)), last)


class RectilinearPath(ControlPath):
    r"""First the time moves and then the values: what is known at a knot depends on nothing later.

    .. math:: (t_i, x_i) \to (t_{i+1}, x_i) \to (t_{i+1}, x_{i+1}),

    each along a straight line, in the first and the second half of the interval. A value that was not observed keeps its
    last observation.

    Args:
        ts: increasing times, as for :class:`LinearPath`.
        xs: the values, ``(T, ..., c)``, NaN where nothing was observed.
        time: which channel moves in the first half: the one that holds the time, as ``t`` itself is no channel; None: no
            channel does.
        initial: the value before a channel's first observation.

    Shapes:
        As :class:`LinearPath`. There are ``2 T - 1`` knots; the observations are at every other one.

    Units:
        Those of ``ts`` and ``xs``.

    Raises:
        InvalidProblemError: as :class:`LinearPath`; or ``time`` is none of the channels, or not observed everywhere.

    When to take it:
        Where outputs are wanted while data arrive: the state at an observation's time depends on this and earlier ones
        only. It has twice as many knots as a linear path.

    References:
        Morrill, Kidger, Yang, Lyons: On the choice of interpolation scheme for neural CDEs. TMLR 2022.

    Example:
        >>> import torch, neuralde as nde
        >>> xs = torch.tensor([[0.0, 5.0], [2.0, 7.0]])  # the first channel is the time
        >>> path = nde.RectilinearPath([0.0, 2.0], xs, time=0)
        >>> path(1.0), path(2.0)
        (tensor([2., 5.]), tensor([2., 7.]))
    """

    smooth = False
    lookback = 0
    fills_ahead = False

    def __init__(self, ts: Any, xs: Any, *, time: int | None = None, initial: float = 0.0) -> None:
        times, values, last = observations(ts, xs)
        filled = carried_forward(values, number(initial, "initial"))
        moved = filled[:-1]
        if time is not None:
            moved = _with_time(values, filled, time, last)
        knots = torch.stack([times[:-1], (times[:-1] + times[1:]) / 2], 1).flatten(0, 1)
        points = torch.stack([filled[:-1], moved], 1).flatten(0, 1)
        knots, points = torch.cat([knots, times[-1:]]), torch.cat([points, filled[-1:]])
        last = None if last is None else 2 * last
        super().__init__(knots, straight(knots, points), last)


def _with_time(values: Tensor, filled: Tensor, time: int, last: Tensor | None) -> Tensor:
    """The values in the middle of each interval: the time is the next one's, the rest this one's."""
    channels = values.shape[-1]
    if isinstance(time, bool) or not isinstance(time, int) or not -channels <= time < channels:
        raise InvalidProblemError(f"time: got {time!r}; expected None or one of the {channels} channels of xs")
    if not torch.compiler.is_compiling():
        missing = values[..., time].isnan()
        if last is not None:
            steps = torch.arange(len(values), device=values.device).unsqueeze(-1)
            missing = missing & (steps <= last).reshape(len(values), -1, *[1] * (missing.dim() - 2))
        if bool(shared(missing.any())):
            raise InvalidProblemError(
                f"time: got channel {time}, which has NaN; expected a channel observed everywhere"
            )
    is_time = torch.arange(channels, device=values.device) == time % channels
    return torch.where(is_time, filled[1:], filled[:-1])
