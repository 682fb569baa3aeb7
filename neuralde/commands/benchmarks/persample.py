"""One hard sample in an easy batch: how many rows the field must evaluate."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from neuralde.solvers import ODEProblem

from ...solving import solve
from ..reporting import Row, text_table
from . import peers
from .measuring import Run, Settings, alternate, verdict
from .targets import ROWS_AT_MOST

TOLERANCE = 1e-6


class _Field:
    """Van der Pol oscillators whose damping is part of the state; counts the rows it is asked for."""

    def __init__(self) -> None:
        self.rows = self.calls = 0

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        self.rows, self.calls = self.rows + y.shape[0], self.calls + 1
        x, v, damping = y.unbind(-1)
        return torch.stack([v, damping * (1.0 - x * x) * v - x, torch.zeros_like(x)], dim=-1)


def run(settings: Settings) -> Row:
    """Every way to solve the batch, and what the samples need alone."""
    batch, hard = (4, 3.0) if settings.quick else (128, 20.0)
    torch.manual_seed(0)
    easy = torch.cat([2.0 + 0.2 * torch.randn(batch, 1), torch.zeros(batch, 1), torch.full((batch, 1), 0.2)], dim=1)
    y0 = easy.double().to(settings.device)
    y0[-1, 2] = hard
    field, t1 = _Field(), 2.0 if settings.quick else 10.0

    def ours(y0: Tensor, **options: Any) -> Run:
        problem = ODEProblem(field, y0, (0.0, t1))
        return torch.no_grad()(lambda: solve(problem, rtol=TOLERANCE, atol=TOLERANCE, **options))

    runs = {"neuralde joint": ours(y0), "neuralde per_sample": ours(y0, per_sample=True)}
    runs["neuralde per_sample, compact"] = ours(y0, per_sample=True, compact=True)
    torchdiffeq, torchode = (peers.installed(name) for name in ("torchdiffeq", "torchode"))
    if torchdiffeq is not None:
        runs["torchdiffeq"] = torch.no_grad()(peers.torchdiffeq_solver(torchdiffeq, field, y0, t1, TOLERANCE))
    if torchode is not None:
        runs["torchode"] = torch.no_grad()(peers.torchode_solver(torchode, field, y0, t1, TOLERANCE))
    alone = 0
    for sample in y0.split(1):
        field.rows = 0
        ours(sample)()
        alone += field.rows
    rows: list[Row] = []
    for name, contender in runs.items():
        field.rows = field.calls = 0
        contender()
        rows.append(dict(solve=name, calls=field.calls, field_rows=field.rows, ratio=field.rows / alone))
        if name.endswith("compact"):
            rows[-1] |= dict(target=ROWS_AT_MOST, verdict=verdict(rows[-1]["ratio"], ROWS_AT_MOST, at_most=True))
    for row, taken in zip(rows, alternate(runs, settings).values(), strict=True):
        row |= taken
    return {"batch": batch, "hard": hard, "tolerance": TOLERANCE, "rows_alone": alone, "rows": rows}


def show(result: Row) -> str:
    """The table, below it what the samples need alone."""
    columns = [("solve", "solve", ""), ("field calls", "calls", "d"), ("field rows", "field_rows", "d")]
    columns += [("of the sum alone", "ratio", ".2f"), ("at most", "target", ".2f"), ("verdict", "verdict", "")]
    columns += [("ms", "ms", ".1f"), ("min", "low", ".1f"), ("max", "high", ".1f")]
    return f"{text_table(result['rows'], columns)}\nthe samples alone need {result['rows_alone']} field rows together"


def draw(result: Row, figure: Any) -> None:
    """Bars of rows, with a line at the sum of what the samples need alone, and of time."""
    figure.set_size_inches(12, 4)
    left, right = figure.subplots(1, 2, sharey=True)
    names = [row["solve"] for row in result["rows"]]
    colors = ["C0" if name.startswith("neuralde") else "0.65" for name in names]
    left.barh(names, [row["field_rows"] for row in result["rows"]], color=colors)
    left.axvline(result["rows_alone"], color="k", ls="--", label="sum of what each sample needs alone")
    left.set(xlabel="field rows evaluated")
    left.invert_yaxis()
    figure.legend(loc="outside upper left", fontsize=8)
    right.barh(names, [row["ms"] for row in result["rows"]], color=colors)
    right.set(xlabel="ms (median)")
