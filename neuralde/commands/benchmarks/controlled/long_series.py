"""One series as long as EigenWorms': log-ODE windows, a step for each observation, and torchcde's, forward and backward."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from neuralde.adjoints import DirectAdjoint
from neuralde.solvers import RK4, CDEProblem, ConstantStep, LinearPath, LogSignaturePath, logsignature_channels

from ....models import MatrixField
from ....solving import solve
from ...reporting import Row, text_table
from ..measuring import Run, Settings, alternate
from ..peers import installed

CHANNELS, HIDDEN, SERIES, DEPTH = 7, 32, 8, 2
WINDOWS = (16, 64, 256)


def run(settings: Settings) -> Row:
    """Seconds per 1,000 observations of 8 series, RK4 with a step for each observation or window; the sum of squares of the end.

    EigenWorms has 17,984 observations of 6 channels, here with the time 7. What takes a step for each observation is timed
    on the first 1,000, since its cost is proportional to their number, and the windows on all of them.
    """
    length, short = (65, 33) if settings.quick else (17_985, 1_001)
    generator = torch.Generator().manual_seed(0)
    xs = torch.randn(length, SERIES, CHANNELS - 1, generator=generator).cumsum(0) / 134
    times = torch.linspace(0.0, 1.0, length)[:, None, None].expand(length, SERIES, 1)
    xs = torch.cat([times, xs], -1).to(settings.device)
    runs, steps, difference = _runs(xs[:short], xs)
    taken = alternate(runs, settings, time.perf_counter if settings.cuda else time.process_time)
    rows = []
    for name, (observations, count) in steps.items():
        seconds = taken[name]["low"] / observations
        base = taken["neuralde, each observation"]["low"] / (short - 1)
        rows.append(dict(solve=name, observations=observations, steps=count, seconds=seconds, ratio=base / seconds))
    return {"series": SERIES, "channels": CHANNELS, "depth": DEPTH, "difference": difference, "rows": rows}


def _runs(short: Tensor, whole: Tensor) -> tuple[dict[str, Run], dict[str, tuple[int, int]], float | None]:
    """What is timed; how many observations and steps each has; how far torchcde's end is from the library's."""
    torch.manual_seed(0)
    field = MatrixField(HIDDEN, CHANNELS, [HIDDEN]).to(whole)
    runs: dict[str, Run] = {"neuralde, each observation": lambda: _both(field, _ours(field, short, 1))}
    steps = {"neuralde, each observation": (len(short) - 1, len(short) - 1)}
    torchcde, difference = installed("torchcde"), None
    if torchcde is not None:
        runs["torchcde, each observation"] = lambda: _both(field, _theirs(torchcde, field, short))
        steps["torchcde, each observation"] = (len(short) - 1, len(short) - 1)
        with torch.no_grad():
            difference = float((_ours(field, short, 1) - _theirs(torchcde, field, short)).abs().max())
    rough = MatrixField(HIDDEN, logsignature_channels(CHANNELS, DEPTH), [HIDDEN]).to(whole)
    for window in WINDOWS:
        if window < len(whole) - 1:
            name = f"neuralde, log-ODE, windows of {window}"
            runs[name] = partial(_by_windows, rough, whole, window)
            steps[name] = len(whole) - 1, -(-(len(whole) - 1) // window)
    return runs, steps, difference


def _both(field: nn.Module, end: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(end.square().sum(), list(field.parameters()))


def _by_windows(field: nn.Module, xs: Tensor, window: int) -> tuple[Tensor, ...]:
    return _both(field, _ours(field, xs, window))


def _ours(field: nn.Module, xs: Tensor, window: int) -> Tensor:
    """The state at the end; one step between two knots, which are the observations where a window is one interval."""
    ts = torch.arange(len(xs), dtype=torch.float64, device=xs.device)
    path = LinearPath(ts, xs) if window == 1 else LogSignaturePath(ts, xs, DEPTH, window)
    problem = CDEProblem(field, path, xs.new_zeros(xs.shape[1], HIDDEN))
    options: dict[str, Any] = dict(
        dt=float(window), controller=ConstantStep(), adjoint=DirectAdjoint(), max_steps=len(xs)
    )
    end: Tensor = solve(problem, RK4(), **options).y1
    return end


def _theirs(torchcde: Any, field: nn.Module, xs: Tensor) -> Tensor:
    """The ``cdeint`` of torchcde along its linear path, differentiated directly."""
    path = torchcde.LinearInterpolation(torchcde.linear_interpolation_coeffs(xs.movedim(0, 1)))
    span, start = path.interval, xs.new_zeros(xs.shape[1], HIDDEN)
    found = torchcde.cdeint(
        X=path, func=field, z0=start, t=span, adjoint=False, method="rk4", options=dict(step_size=1.0, perturb=True)
    )
    end: Tensor = found[:, -1]
    return end


def show(result: Row) -> str:
    """The table: seconds per 1,000 observations, and the first row's divided by them."""
    columns = [("solve", "solve", ""), ("observations", "observations", "d"), ("steps", "steps", "d")]
    columns += [("s per 1,000", "seconds", ".4f"), ("faster by", "ratio", ".2f")]
    apart = result["difference"]
    return text_table(result["rows"], columns) + ("" if apart is None else f"\ntorchcde's end differs by {apart:.1e}")


def draw(result: Row, figure: Any) -> None:
    """Bars: the seconds of each."""
    figure.set_size_inches(8, 3)
    axis = figure.subplots()
    axis.barh([row["solve"] for row in result["rows"]], [row["seconds"] for row in result["rows"]])
    axis.set(xscale="log", xlabel="seconds per 1,000 observations, forward and backward")
