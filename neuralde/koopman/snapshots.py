"""What the models of this room are fitted to: pairs of snapshots, from trajectories, solutions or pairs themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from neuralde.solvers import InvalidProblemError, Solution
from neuralde.solvers.checks import positive, shown

from .least_squares import points


@dataclass(frozen=True, eq=False)
class Snapshots:
    """Pairs of states, a step apart.

    Attributes:
        x: the earlier states, ``(n, d)``; ``(n, w, d)`` where w of them in a row count as one.
        y: the later ones, of the same shape.
        dt: the time between them; None where times differ.
        control: what drove each step, ``(n, m)``, or None.
        series: the trajectory ``(T, d)`` behind them, if it was one.
        ts: its times, ``(T,)``, float64.
    """

    x: Tensor
    y: Tensor
    dt: float | None
    control: Tensor | None
    series: Tensor | None
    ts: Tensor | None


def snapshots(x: Any, y: Any, dt: Any, ts: Any, control: Any, window: int = 1) -> Snapshots:
    """What a user gave to ``fit``, checked."""
    if isinstance(x, Solution):
        x, ts = _solved(x, y, dt, ts)
    x = points(x, "X", at_least=2).detach()
    if y is not None:
        if ts is not None:
            raise InvalidProblemError("ts: got times beside Y; expected dt, the time between the pairs")
        return _pairs(x, points(y, "Y", at_least=2).detach(), _step(dt, None), control, window)
    if x.dim() not in (2, 3):
        raise InvalidProblemError(f"X: got {shown(x)}; expected a trajectory (T, d), or several (T, B, d)")
    if len(x) <= window:
        more = "two snapshots" if window == 1 else f"more than {window}, as many as the delays are long,"
        raise InvalidProblemError(f"X: got {len(x)} snapshots; expected at least {more} without Y")
    times = _times(ts, len(x), dt)
    dt = _step(dt, times)
    held = _control(control, (len(x) - 1, *x.shape[1:-1]), x)
    series = x if x.dim() == 2 else None
    rows = x if window == 1 else x.unfold(0, window, 1).movedim(-1, 1 if x.dim() == 2 else 2)
    flat = (lambda z: z.flatten(0, 1)) if x.dim() == 3 else (lambda z: z)
    held = None if held is None else flat(held[window - 1 :])
    return Snapshots(flat(rows[:-1]), flat(rows[1:]), dt, held, series, times)


def _pairs(x: Tensor, y: Tensor, dt: float | None, control: Any, window: int) -> Snapshots:
    expected = "(n, d)" if window == 1 else f"(n, {window}, d), windows as long as the delays"
    if x.dim() != (2 if window == 1 else 3) or (window > 1 and x.shape[1] != window):
        raise InvalidProblemError(f"X: got {shown(x)}; expected {expected} beside Y")
    if y.shape != x.shape or y.dtype != x.dtype:
        raise InvalidProblemError(f"Y: got {shown(y)}; expected the shape and dtype of X, {shown(x)}")
    return Snapshots(x, y, dt, _control(control, (len(x),), x), None, None)


def _solved(solution: Solution, y: Any, dt: Any, ts: Any) -> tuple[Any, Any]:
    for name, value in (("Y", y), ("dt", dt), ("ts", ts)):
        if value is not None:
            raise InvalidProblemError(f"{name}: got one beside a solution; expected none, the solution has its times")
    ys = solution.ys
    if not isinstance(ys, Tensor) or solution.ts.dim() != 1 or len(solution.ts) != len(ys):
        raise InvalidProblemError("X: got a solution without states at common times; expected one solved with saveat=")
    return ys, solution.ts


def _times(ts: Any, count: int, dt: Any) -> Tensor | None:
    if ts is None:
        return None
    if dt is not None:
        raise InvalidProblemError("dt: got one beside ts; expected one of them")
    try:
        times = torch.as_tensor(ts, dtype=torch.float64).detach()
    except (TypeError, ValueError, RuntimeError):
        times = torch.empty(0)
    if times.shape != (count,) or not bool((times.diff() > 0).all()):
        raise InvalidProblemError(f"ts: got {shown(ts)}; expected {count} increasing times")
    return times


def _step(dt: Any, ts: Tensor | None) -> float | None:
    if ts is None:
        return positive(1.0 if dt is None else dt, "dt")
    mean = float(ts[-1] - ts[0]) / (len(ts) - 1)
    off = (ts - ts[0] - mean * torch.arange(len(ts), dtype=ts.dtype, device=ts.device)).abs().max()
    # also times that were made in float32 are even
    even = float(off) <= 1e-3 * mean and float(off) <= max(1e-6 * mean, 2.5e-7 * float(ts.abs().max()))
    return mean if even else None


def _control(control: Any, shape: tuple[int, ...], x: Tensor) -> Tensor | None:
    if control is None:
        return None
    points(control, "control", at_least=len(shape) + 1)
    if control.dim() != len(shape) + 1 or control.shape[:-1] != shape:
        raise InvalidProblemError(f"control: got {shown(control)}; expected {(*shape, 'm')}, an input for each step")
    held: Tensor = control.detach().to(x)
    return held
