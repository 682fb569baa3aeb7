"""Peak bytes of forward and backward pass for each adjoint; tensors left behind by many solves."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from neuralde.adjoints import (
    Adjoint,
    BacksolveAdjoint,
    DirectAdjoint,
    DiscreteAdjoint,
    GaussAdjoint,
    InterpolatingAdjoint,
    ReversibleAdjoint,
)
from neuralde.solvers import ConstantStep, ODEProblem, Reversible, Tsit5

from ...solving import solve
from ...testing.counting import peak_bytes
from ..reporting import Row, text_table
from .measuring import Settings, mlp

BUDGET = 8
ADJOINTS: dict[str, Callable[[int], Adjoint]] = {
    "DirectAdjoint": lambda steps: DirectAdjoint(),
    "DiscreteAdjoint": lambda steps: DiscreteAdjoint(),
    "DiscreteAdjoint, budget=0": lambda steps: DiscreteAdjoint(budget=0),
    "DiscreteAdjoint, checkpoints=√steps": lambda steps: DiscreteAdjoint(checkpoints=math.isqrt(steps)),
    f"DiscreteAdjoint, checkpoints={BUDGET}": lambda steps: DiscreteAdjoint(checkpoints=BUDGET),
    "InterpolatingAdjoint": lambda steps: InterpolatingAdjoint(),
    "GaussAdjoint": lambda steps: GaussAdjoint(),
    "ReversibleAdjoint": lambda steps: ReversibleAdjoint(),
    "BacksolveAdjoint": lambda steps: BacksolveAdjoint(),
}


def run(settings: Settings) -> Row:
    """Peaks over steps and over parameters, and live tensors over solves."""
    batch, dim = (4, 2) if settings.quick else (64, 32)
    grid = [(steps, 64) for steps in (16, 64, 256, 1024)] + [(32, hidden) for hidden in (16, 64, 256, 1024)]
    axes = ["steps"] * 4 + ["parameters"] * 4
    if settings.quick:
        grid, axes = [(4, 8), (16, 8), (4, 8), (4, 16)], ["steps"] * 2 + ["parameters"] * 2
    rows, leaks = [], []
    for name, make in ADJOINTS.items():
        for axis, (steps, hidden) in zip(axes, grid, strict=True):
            net = mlp(dim, hidden, settings.device)
            training = _training(net, torch.randn(batch, dim).to(settings.device), make(steps), steps)
            parameters = sum(p.numel() for p in net.parameters())
            peak = peak_bytes(training, settings.device)
            rows.append(dict(adjoint=name, axis=axis, steps=steps, parameters=parameters, bytes=peak))
        leaks.append(dict(adjoint=name) | live_tensors(make(4), 5 if settings.quick else 100, settings))
    return {"batch": batch, "dim": dim, "rows": rows, "leaks": leaks}


def _training(net: torch.nn.Module, y0: Tensor, adjoint: Adjoint, steps: int) -> Callable[[], None]:
    def training() -> None:
        net.zero_grad()
        problem = ODEProblem(lambda t, y: net(y), y0, (0.0, 1.0))
        solver = Reversible(Tsit5()) if isinstance(adjoint, ReversibleAdjoint) else Tsit5()
        fixed: dict[str, Any] = dict(dt=1.0 / steps, controller=ConstantStep(), max_steps=2 * steps + 10)
        sol = solve(problem, solver, adjoint=adjoint, **fixed)
        sol.y1.square().sum().backward()

    return training


def live_tensors(adjoint: Adjoint, solves: int, settings: Settings) -> Row:
    """Tensors alive after the third and after the last solve, the garbage collector off."""
    training = _training(mlp(2, 8, settings.device), torch.ones(4, 2, device=settings.device), adjoint, 4)

    def alive() -> int:
        return sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            training()
        before = alive()
        for _ in range(solves):
            training()
        return dict(solves=solves, before=before, after=alive())
    finally:
        gc.enable()


def show(result: Row) -> str:
    """Both tables."""
    rows = [row | dict(mb=row["bytes"] / 1e6) for row in result["rows"]]
    columns = [("adjoint", "adjoint", ""), ("grows", "axis", ""), ("steps", "steps", "d")]
    columns += [("parameters", "parameters", ",d"), ("peak MB", "mb", ".3f")]
    leaks = [("adjoint", "adjoint", ""), ("solves", "solves", "d"), ("live tensors before", "before", "d")]
    return f"{text_table(rows, columns)}\n\n{text_table(result['leaks'], [*leaks, ('after', 'after', 'd')])}"


def draw(result: Row, figure: Any) -> None:
    """Peak against steps and against parameters."""
    figure.set_size_inches(13, 5)
    for axis, name in zip(figure.subplots(1, 2), ("steps", "parameters"), strict=True):
        for adjoint in ADJOINTS:
            rows = [row for row in result["rows"] if (row["axis"], row["adjoint"]) == (name, adjoint)]
            axis.loglog([row[name] for row in rows], [row["bytes"] / 1e6 for row in rows], "o-", label=adjoint)
        axis.set(xlabel=name, ylabel="peak of forward and backward (MB)")
        axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
