"""What a step costs beyond the field, and what importing the library costs."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from dataclasses import replace
from typing import Any

import torch

from neuralde.solvers import ConstantStep, ODEProblem

from ...solving import solve
from ...testing.counting import host_syncs
from ..reporting import Row, text_table
from .measuring import Run, Settings, alternate, verdict
from .targets import IMPORT_AT_MOST, SYNCS_PER_STEP_AT_MOST

TIMED_IMPORT = "import time; start = time.perf_counter(); from {} import *; print(time.perf_counter() - start)"


def run(settings: Settings) -> Row:
    """Steps of a field that costs one small operation, with its calls alone beside it; imports."""
    y0 = torch.ones(20, 2, device=settings.device)
    t1 = 1.0 if settings.quick else 20.0
    problem = ODEProblem(lambda t, y: torch.cos(y), y0, (0.0, t1))
    kinds: dict[str, Row] = {
        "joint, adaptive": dict(rtol=1e-6, atol=1e-6),
        "joint, constant steps": dict(dt=t1 / 32, controller=ConstantStep()),
        "per_sample, adaptive": dict(rtol=1e-6, atol=1e-6, per_sample=True),
    }
    rows: list[Row] = []
    runs: dict[str, Run] = {}
    for name, options in kinds.items():
        runs[name] = _solving(problem, options)
        steps, calls, syncs = _counts(problem, options)
        runs[f"{name}: the field alone"] = _field(y0, calls)
        # What a solve reads once, before its first step, is told from what it reads in every step by a longer solve.
        more, _, more_syncs = _counts(replace(problem, tspan=(0.0, 2 * t1)), options)
        further = (more_syncs - syncs) / (more - steps)
        rows.append(dict(solve=name, steps=steps, calls=calls, syncs=further, start_syncs=syncs - steps * further))
    taken = alternate(runs, settings)
    for row in rows:
        whole, alone = taken[row["solve"]]["ms"], taken[f"{row['solve']}: the field alone"]["ms"]
        row |= dict(us=1e3 * whole / row["steps"], beyond_us=1e3 * (whole - alone) / row["steps"])
        if row["solve"].startswith("joint"):
            row["target"] = SYNCS_PER_STEP_AT_MOST
            row["verdict"] = verdict(row["syncs"], SYNCS_PER_STEP_AT_MOST, at_most=True)
    return {"rows": rows, "imports": imports(1 if settings.quick else settings.repeats)}


def _counts(problem: ODEProblem, options: Row) -> tuple[int, int, int]:
    """Steps, field calls and host syncs of a solve."""
    stats = solve(problem, **options).stats
    steps, calls = (int(torch.as_tensor(count).max()) for count in (stats.steps, stats.nfe))
    return steps, calls, host_syncs(_solving(problem, options))


def _solving(problem: ODEProblem, options: Row) -> Run:
    return torch.no_grad()(lambda: solve(problem, **options))


def _field(y0: torch.Tensor, calls: int) -> Run:
    def alone() -> None:
        for _ in range(calls):
            torch.cos(y0)

    return alone


def imports(repeats: int) -> Row:
    """Median seconds to import torch and the library, each in fresh processes, in turn.

    Both are compiled to bytecode before, as ``pip`` does when it installs them: in an editable checkout under
    ``PYTHONDONTWRITEBYTECODE`` every import would compile the library's files again, which takes as long as running them.
    """
    seconds: dict[str, list[float]] = {"torch": [], "neuralde": []}
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    for turn in range(1 + repeats):
        for name, taken in seconds.items():
            command = [sys.executable, "-c", TIMED_IMPORT.format(name)]
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
            if turn:  # the first one compiles
                taken.append(float(done.stdout))
    median = {name: statistics.median(taken) for name, taken in seconds.items()}
    ratio = median["neuralde"] / median["torch"]
    result = dict(torch_s=median["torch"], neuralde_s=median["neuralde"], ratio=ratio, target=IMPORT_AT_MOST)
    return result | dict(verdict=verdict(ratio, IMPORT_AT_MOST, at_most=True))


def show(result: Row) -> str:
    """Both tables."""
    columns = [("solve", "solve", ""), ("steps", "steps", "d"), ("calls", "calls", "d"), ("µs/step", "us", ".1f")]
    columns += [("beyond the field", "beyond_us", ".1f"), ("syncs/step", "syncs", ".2f"), ("at most", "target", ".1f")]
    columns += [("syncs at the start", "start_syncs", ".1f")]
    columns += [("verdict", "verdict", "")]
    imported = [("import torch s", "torch_s", ".2f"), ("import neuralde s", "neuralde_s", ".2f")]
    imported += [("ratio", "ratio", ".2f"), ("at most", "target", ".2f"), ("verdict", "verdict", "")]
    return f"{text_table(result['rows'], columns)}\n\n{text_table([result['imports']], imported)}"


def draw(result: Row, figure: Any) -> None:
    """Bars: the field, and the rest of a step."""
    figure.set_size_inches(9, 3)
    axis = figure.subplots()
    names = [row["solve"] for row in result["rows"]]
    field = [row["us"] - row["beyond_us"] for row in result["rows"]]
    axis.barh(names, field, label="the field", color="0.65")
    axis.barh(names, [row["beyond_us"] for row in result["rows"]], left=field, label="the rest", color="C0")
    axis.set(xlabel="µs per step")
    axis.legend()
