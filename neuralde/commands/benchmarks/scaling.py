"""How the cost of a step grows with batch, dimension, number of steps and parameters, beside that of the field."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from neuralde.solvers import ConstantStep, ODEProblem

from ...solving import solve
from ..reporting import Row, text_table
from .measuring import Run, Settings, alternate, mlp

BASE = dict(batch=64, dim=16, hidden=64, steps=8)
AXES: dict[str, tuple[str, tuple[int, ...]]] = {
    "batch": ("batch", (1, 16, 256, 4096, 65_536)),
    "dimension": ("dim", (1, 16, 128, 1024)),
    "steps": ("steps", (8, 64, 256, 1024)),
    "parameters": ("hidden", (16, 128, 1024, 3150)),
}
STAGES = 6
GROWS = 1.5


def run(settings: Settings) -> Row:
    """Every axis, forward and forward+backward."""
    rows = []
    for axis, (key, values) in AXES.items():
        for value in values[:2] if settings.quick else values:
            sizes = BASE | {key: value}
            net = mlp(sizes["dim"], sizes["hidden"], settings.device)
            y0 = torch.randn(sizes["batch"], sizes["dim"]).to(settings.device)
            parameters = sum(p.numel() for p in net.parameters())
            runs: dict[str, Run] = {}
            for what in ("forward", "forward+backward"):
                train = what != "forward"
                runs |= {what: _solve(net, y0, sizes["steps"], train), f"{what} field": _alone(net, y0, train)}
            taken = alternate(runs, settings)
            for what in ("forward", "forward+backward"):
                us = 1e3 * taken[what]["ms"] / sizes["steps"]
                # The default adjoint calls the field forwards a second time to differentiate a step.
                extra = 0.0 if what == "forward" else taken["forward field"]["ms"]
                field = 1e3 * (taken[f"{what} field"]["ms"] + extra)
                row = dict(axis=axis, value=parameters if axis == "parameters" else value, what=what, us=us)
                rows.append(row | dict(field_us=field, ratio=us / field))
    return {"base": BASE, "rows": rows, "growth": growth(rows)}


def _solve(net: nn.Module, y0: Tensor, steps: int, train: bool) -> Run:
    problem = ODEProblem(lambda t, y: net(y), y0, (0.0, 1.0))

    def whole() -> None:
        with torch.set_grad_enabled(train):
            sol = solve(problem, dt=1.0 / steps, controller=ConstantStep(), max_steps=2 * steps + 10)
        if train:
            net.zero_grad()
            sol.y1.sum().backward()

    return whole


def _alone(net: nn.Module, y0: Tensor, train: bool) -> Run:
    def step() -> None:
        for _ in range(STAGES):
            y = y0.requires_grad_(train) if train else y0.detach()
            with torch.set_grad_enabled(train):
                slope = net(y)
            if train:
                torch.autograd.grad(slope.sum(), [y, *net.parameters()])

    return step


def growth(rows: list[Row]) -> list[Row]:
    """For each axis: how a step's cost over the field's own changes from the smallest to the largest value."""
    found = []
    for axis, what in dict.fromkeys((row["axis"], row["what"]) for row in rows):
        mine = [row["ratio"] for row in rows if (row["axis"], row["what"]) == (axis, what)]
        text = "faster than the field" if mine[-1] > GROWS * mine[0] else "no faster than the field"
        found.append(dict(axis=axis, what=what, first=mine[0], last=mine[-1], grows=text))
    return found


def show(result: Row) -> str:
    """Both tables."""
    columns = [("grows", "axis", ""), ("value", "value", ",d"), ("what", "what", ""), ("µs/step", "us", ".1f")]
    columns += [("field µs/step", "field_us", ".1f"), ("ratio", "ratio", ".2f")]
    grown = [("grows", "axis", ""), ("what", "what", ""), ("ratio at the smallest", "first", ".2f")]
    grown += [("at the largest", "last", ".2f"), ("the cost grows", "grows", "")]
    return f"{text_table(result['rows'], columns)}\n\n{text_table(result['growth'], grown)}"


def draw(result: Row, figure: Any) -> None:
    """A panel for each axis."""
    figure.set_size_inches(12, 9)
    for axis, name in zip(figure.subplots(2, 2).flat, AXES, strict=True):
        for index, what in enumerate(("forward", "forward+backward")):
            rows = [row for row in result["rows"] if (row["axis"], row["what"]) == (name, what)]
            values = [row["value"] for row in rows]
            axis.loglog(values, [row["us"] for row in rows], "o-", color=f"C{index}", label=what)
            axis.loglog(
                values, [row["field_us"] for row in rows], "--", color=f"C{index}", label=f"{what}, field alone"
            )
        axis.set(xlabel=name, ylabel="µs per step")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
