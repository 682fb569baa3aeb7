"""The grids of times on which fractional paths are sampled: whether they are uniform, and what they lack if not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...core.times import read_times, refuse_live
from ...errors import InvalidProblemError

_UNITS = 8
"""By how many units of rounding a time of a uniform grid may be off."""
_AHEAD = 1000
"""How many steps, for each time that is asked for, a uniform grid is computed ahead of these."""


@dataclass(frozen=True)
class Grid:
    """Increasing times from ``t0`` on.

    Attributes:
        times: ``(T,)`` in float64.
        t0: where the path starts.
        step: the step of a uniform grid on which ``t0`` lies too; None where it is not uniform.
        before: how many steps after ``t0`` are not asked for.
        lacks: why it is not uniform.
        slack: how far the rounding of the times reaches.
    """

    times: Tensor
    t0: float
    step: float | None
    before: int
    lacks: str
    slack: float

    @property
    def starts(self) -> bool:
        """Whether the first time is ``t0``."""
        return bool(self.times[0] == self.t0)

    @property
    def count(self) -> int:
        """How many times there are after ``t0``."""
        return len(self.times) - self.starts

    @property
    def positive(self) -> Tensor:
        """The times after ``t0``, counted from it."""
        return (self.times - self.t0)[len(self.times) - self.count :]


def read(given: Any, t0: float, t1: float, device: torch.device) -> Grid:
    """A user's times, refused where they are no grid between ``t0`` and ``t1``."""
    refuse_live(given, "ts", "a path is not differentiable in time")
    read = read_times(given, "ts", "increasing times, shape (T,)", many=True)
    times = read.numbers.to(device)
    if times.dim() != 1 or not len(times):
        raise InvalidProblemError(f"ts: got shape {tuple(times.shape)}; expected increasing times, shape (T,)")
    if not bool(times.isfinite().all()):
        raise InvalidProblemError("ts: got a time that is not finite; expected finite, increasing times")
    if not bool((times.diff() > 0).all()):
        position = int((times.diff() <= 0).nonzero()[0])
        before, after = times[position : position + 2].tolist()
        raise InvalidProblemError(
            f"ts: got {before!r} and then {after!r} at position {position + 1}; expected strictly increasing times"
        )
    slack = _UNITS * torch.finfo(read.shown.dtype).eps * max(abs(t0), abs(t1))
    first, last = times[0].item(), times[-1].item()
    if first < t0 - slack or last > t1 + slack:
        wrong = first if first < t0 - slack else last
        raise InvalidProblemError(f"ts: got {wrong!r}; expected times between t0 = {t0!r} and t1 = {t1!r}")
    if abs(first - t0) <= slack:
        times = torch.cat([times.new_tensor([t0]), times[1:]])
    if last <= t0 + slack:
        raise InvalidProblemError(f"ts: got no time after t0 = {t0!r}; expected one at least")
    return inspect(times, t0, slack)


def inspect(times: Tensor, t0: float, slack: float) -> Grid:
    """Whether times lie on a uniform grid that begins at ``t0``, up to ``slack``."""
    count = len(times)
    first, last = times[0].item(), times[-1].item()
    step = (last - first) / (count - 1) if count > 1 else last - t0
    near = min(slack, 0.01 * step)
    even = first + step * torch.arange(count, dtype=torch.float64, device=times.device)
    off = (times - even).abs()
    worst = off.max().item()
    if worst > near:
        at = int(off.argmax())
        lacks = f"time {times[at].item()!r} at position {at} is {worst:.3g} off the uniform grid of step {step:.6g}"
        return Grid(times, t0, None, 0, lacks, slack)
    ahead = (first - t0) / step
    # An error of the step counts for each step between t0 and the first time.
    if ahead > _AHEAD * count or abs(ahead - round(ahead)) * step > min(
        slack * (1.0 + ahead / max(count - 1, 1)), 0.01 * step
    ):
        return Grid(times, t0, None, 0, f"t0 = {t0!r} lies {ahead:.6g} steps before the first time", slack)
    return Grid(times, t0, (last - t0) / (round(ahead) + count - 1), max(round(ahead) - 1, 0), "", slack)


def join(grid: Grid, known: Tensor, slack: float) -> tuple[Grid, Tensor, Tensor]:
    """A grid with further times, of which those that are its own up to ``slack`` are taken as such.

    Returns:
        The joined grid; the indices among its times after ``t0`` of the grid's own; and those of the further times.
    """
    slack = max(slack, grid.slack)
    nearest = (grid.times.unsqueeze(0) - known.unsqueeze(1)).abs().argmin(1)
    near = grid.times[nearest]
    known = torch.where((near - known).abs() <= slack, near, known)
    joined = inspect(torch.cat([grid.times, known]).unique(), grid.t0, slack)
    positive = joined.times[len(joined.times) - joined.count :]
    own = torch.searchsorted(positive, grid.times[len(grid.times) - grid.count :])
    return joined, own, torch.searchsorted(positive, known)
