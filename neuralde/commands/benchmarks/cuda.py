"""On a GPU: host syncs and times of the eager loop, blocks, captured blocks and a compiled solve, against torchdiffeq."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from neuralde.solvers import Blocks, ODEProblem

from ...solving import solve
from ...testing.counting import host_syncs
from ..reporting import Row, text_table
from . import peers
from .measuring import Run, Settings, alternate, verdict
from .speed import BACKWARD, QUICK, SIZES, TOLERANCE, Workload
from .targets import CUDA_SPEED, SYNCS_PER_BLOCK_AT_MOST

SIZE = 8
OURS = ("eager loop", "blocks", "captured blocks", "compiled")


def run(settings: Settings) -> Row:
    """Every size on the GPU; without one, why there is no result."""
    if not torch.cuda.is_available():
        return {"skipped": "torch finds no CUDA device"}
    return measured(settings if settings.cuda else replace(settings, device="cuda"))


def measured(settings: Settings) -> Row:
    """Every contender at every size on the device of the settings (captured blocks on a GPU only)."""
    torchdiffeq = peers.installed("torchdiffeq")
    rows: list[Row] = []
    for size, shape in (QUICK if settings.quick else SIZES).items():
        torch.compiler.reset()
        rows += _size(Workload(size, shape, settings), torchdiffeq)
    return {"tolerance": TOLERANCE, "block": SIZE, "rows": rows, "comparisons": comparisons(rows, settings.quick)}


def _size(work: Workload, torchdiffeq: Any) -> list[Row]:
    rows: list[Row] = []
    for what in ("forward", BACKWARD):
        ends = _ours(work, compiled=what == "forward" or not work.settings.quick)
        ends |= {} if torchdiffeq is None else {"torchdiffeq": _theirs(work, torchdiffeq)}
        runs: dict[str, Run] = {
            name: work.trained(end) if what == BACKWARD else torch.no_grad()(end) for name, end in ends.items()
        }
        found = {
            name: dict(size=work.size, solve=name, what=what, error=work.error(run())) for name, run in runs.items()
        }
        for name, row in found.items():
            row |= {} if name == "compiled" else dict(syncs=host_syncs(runs[name]))
            if work.settings.cuda:
                row["waits"] = _waits(runs[name])
            if name in OURS:
                row["steps"] = int(solve(ODEProblem(work.field, work.y0, (0.0, work.t1)), **_TOLERANCES).stats.steps)
        taken = alternate(runs, work.settings)
        rows += [row | taken[name] for name, row in found.items()]
    return rows


_TOLERANCES: dict[str, Any] = dict(rtol=TOLERANCE, atol=TOLERANCE)


def _ours(work: Workload, compiled: bool) -> dict[str, Callable[[], Tensor]]:
    """The ends of this library's solves, by what drives them."""

    def end(driver: Blocks | None) -> Callable[[], Tensor]:
        return lambda: solve(ODEProblem(work.field, work.y0, (0.0, work.t1)), driver=driver, **_TOLERANCES).y1

    def whole(y0: Tensor) -> Tensor:
        return solve(ODEProblem(work.field, y0, (0.0, work.t1)), **_TOLERANCES).y1

    graph = torch.compile(whole, fullgraph=True, backend="eager" if work.settings.quick else "inductor")
    found = {"eager loop": end(None), "blocks": end(Blocks(size=SIZE))}
    if compiled:
        found["compiled"] = lambda: graph(work.y0)
    if work.settings.cuda:
        found["captured blocks"] = end(Blocks(size=SIZE, cuda_graph=True))
    return found


def _theirs(work: Workload, torchdiffeq: Any) -> Callable[[], Tensor]:
    return peers.torchdiffeq_solver(torchdiffeq, work.field, work.y0, work.t1, TOLERANCE)


def _waits(run: Run) -> int:
    """How often torch itself reports that the host waited for the GPU."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            run()
        finally:
            torch.cuda.set_sync_debug_mode(before)
    return sum("synchroniz" in str(warning.message) for warning in caught)


def comparisons(rows: list[Row], quick: bool) -> list[Row]:
    """Torchdiffeq's time divided by the library's, and syncs for each block; no verdict on a run too small to be judged."""
    found: list[Row] = []
    for row in rows:
        if row["solve"] not in OURS:
            continue
        peer = [x for x in rows if (x["size"], x["what"], x["solve"]) == (row["size"], row["what"], "torchdiffeq")]
        ratio = peer[0]["ms"] / row["ms"] if peer else None
        target = CUDA_SPEED.get((row["what"], row["solve"]), {}).get(row["size"])
        entry = {name: row[name] for name in ("size", "what", "solve")} | dict(ratio=ratio, target=target)
        if ratio is not None and not quick:
            entry["verdict"] = verdict(ratio, target)
        if "blocks" in row["solve"]:
            entry["per_block"] = row["syncs"] / -(-row["steps"] // SIZE)
            entry["at_most"] = SYNCS_PER_BLOCK_AT_MOST
        found.append(entry)
    return found


def show(result: Row) -> str:
    """Both tables."""
    columns = [("size", "size", ""), ("what", "what", ""), ("solve", "solve", ""), ("ms", "ms", ".2f")]
    columns += [("min", "low", ".2f"), ("max", "high", ".2f"), ("error", "error", ".1e"), ("steps", "steps", "d")]
    columns += [("syncs", "syncs", "d"), ("GPU waits", "waits", "d")]
    ratios = [
        ("size", "size", ""),
        ("what", "what", ""),
        ("solve", "solve", ""),
        ("torchdiffeq / ours", "ratio", ".2f"),
    ]
    ratios += [("target", "target", ".1f"), ("verdict", "verdict", "")]
    ratios += [("syncs/block, with those at the start", "per_block", ".2f"), ("at most, without", "at_most", ".1f")]
    return f"{text_table(result['rows'], columns)}\n\n{text_table(result['comparisons'], ratios)}"


def draw(result: Row, figure: Any) -> None:
    """Bars of milliseconds, a panel for each size and each thing computed."""
    sizes = list(dict.fromkeys(row["size"] for row in result["rows"]))
    figure.set_size_inches(5 * len(sizes), 6)
    for index, what in enumerate(("forward", BACKWARD)):
        for column, size in enumerate(sizes):
            rows = [row for row in result["rows"] if (row["size"], row["what"]) == (size, what)]
            axis = figure.add_subplot(2, len(sizes), index * len(sizes) + column + 1)
            colors = ["C0" if row["solve"] in OURS else "0.65" for row in rows]
            axis.barh([row["solve"] for row in rows], [row["ms"] for row in rows], color=colors)
            axis.set(title=f"{what}, {size}", xlabel="ms, median", xlim=(0, None))
