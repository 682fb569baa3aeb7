"""Dynamic mode decomposition of a long series of large states, beside PyDMD's."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from ...koopman import DMD
from ..reporting import Row, text_table
from .measuring import Run, Settings, alternate, verdict
from .peers import installed
from .targets import KOOPMAN

RANK = 20


def series(snapshots: int, size: int) -> Tensor:
    """Ten decaying waves with noise, ``(snapshots, size)``, float64."""
    generator = torch.Generator().manual_seed(0)
    t = torch.linspace(0.0, 10.0, snapshots, dtype=torch.float64)[:, None]
    n = torch.arange(10, dtype=torch.float64)
    modes = torch.randn(10, size, dtype=torch.complex128, generator=generator)
    waves = (torch.complex(-0.02 * n, 0.7 * (n + 1)) * t).exp() @ modes
    return waves.real + 1e-3 * torch.randn(snapshots, size, dtype=torch.float64, generator=generator)


def run(settings: Settings) -> Row:
    """1,000 snapshots of 10,000 numbers, rank 20, processor time; and how far eigenvalues differ."""
    x = series(60, 400) if settings.quick else series(1000, 10_000)
    x = x.to(settings.device)
    ours = DMD(RANK).fit(x).eigenvalues
    runs: dict[str, Run] = {"neuralde": lambda: DMD(RANK).fit(x)}
    differences = {}
    pydmd = installed("pydmd")
    if pydmd is not None:
        columns = x.cpu().numpy().T
        runs["pydmd"] = lambda: pydmd.DMD(svd_rank=RANK).fit(columns)
        theirs = torch.from_numpy(runs["pydmd"]().eigs).to(ours)
        differences["pydmd"] = (ours[:, None] - theirs).abs().min(0).values.max().item()
    taken = alternate(runs, settings, time.process_time)
    rows = []
    for name in runs:
        ratio = taken[name]["low"] / taken["neuralde"]["low"]
        target = KOOPMAN.get(name)
        row = dict(library=name, ms=taken[name]["low"], ratio=ratio, difference=differences.get(name, 0.0))
        rows.append(row | dict(target=target, verdict=verdict(ratio, target)))
    return {"snapshots": len(x), "size": x.shape[1], "rank": RANK, "rows": rows}


def show(result: Row) -> str:
    """The table: the least time of each, and its ratio to the library's."""
    columns = [("library", "library", ""), ("ms", "ms", ".0f"), ("ratio", "ratio", ".2f")]
    columns += [("difference", "difference", ".1e"), ("at least", "target", ".1f"), ("verdict", "verdict", "")]
    return text_table(result["rows"], columns)


def draw(result: Row, figure: Any) -> None:
    """Bars: the time of each."""
    figure.set_size_inches(8, 2.5)
    axis = figure.subplots()
    axis.barh([row["library"] for row in result["rows"]], [row["ms"] for row in result["rows"]])
    axis.set(xlabel="ms", title=f"DMD of {result['snapshots']} x {result['size']}, rank {result['rank']}")
