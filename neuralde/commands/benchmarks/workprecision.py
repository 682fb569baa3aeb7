"""Error against field calls and against time over DETEST's nonstiff problems, in float64 on the CPU."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from neuralde.solvers import Bosh3, Dopri5, Dopri8, Tsit5, Vern7, Vern9
from neuralde.solvers.testing.ordinary import Recorder

from ..extras import needed
from ..reporting import Row, text_table
from . import peers
from .detest import PROBLEMS, Contender, Point, Problem, curve, field_calls_at_equal_error, geometric_mean, ours
from .measuring import Settings, verdict
from .targets import CALLS_AT_EQUAL_ERROR

LOW = ("Bosh3", "Tsit5", "Dopri5", "torchdiffeq bosh3", "torchdiffeq dopri5", "SciPy RK23", "SciPy RK45")
HIGH = ("Dopri8", "Vern7", "Vern9", "torchdiffeq dopri8", "SciPy DOP853")
THIRD_ORDER = ("Bosh3", "torchdiffeq bosh3", "SciPy RK23")
"""At tolerances below 1e-7 these would take most of the benchmark's time; they are left out there."""
PEERS = ("torchdiffeq", "SciPy")
QUICK = ("A3", "B4", "D1")


def _torchdiffeq(module: Any, method: str) -> Contender:
    def run(problem: Problem, tolerance: float) -> tuple[Any, int]:
        field = Recorder(problem.f)
        span = torch.tensor(problem.tspan, dtype=torch.float64)
        with torch.no_grad():
            ys = module.odeint(field, problem.y0(), span, rtol=tolerance, atol=tolerance, method=method)
        return ys[-1], field.calls

    return run


def _scipy(method: str) -> Contender:
    solve_ivp = needed("scipy.integrate", "bench").solve_ivp

    def run(problem: Problem, tolerance: float) -> tuple[Any, int]:
        start = np.array(problem.start)
        sol = solve_ivp(problem.numpy, problem.tspan, start, method=method, rtol=tolerance, atol=tolerance)
        return sol.y[:, -1] if sol.success else np.full_like(start, math.nan), sol.nfev

    return run


def contenders() -> dict[str, Contender]:
    """Every method by the name that the table uses."""
    found = {method.name: ours(method) for method in (Bosh3(), Tsit5(), Dopri5(), Dopri8(), Vern7(), Vern9())}
    module = peers.installed("torchdiffeq")
    if module is not None:
        found |= {f"torchdiffeq {name}": _torchdiffeq(module, name) for name in ("bosh3", "dopri5", "dopri8")}
    return found | {f"SciPy {name}": _scipy(name) for name in ("RK23", "RK45", "DOP853")}


def run(settings: Settings) -> Row:
    """Every curve, and the field calls at equal error of each of the library's methods against each peer of its kind."""
    tolerances = [10.0**-k for k in ((3, 5) if settings.quick else range(3, 11))]
    problems = [PROBLEMS[name] for name in (QUICK if settings.quick else PROBLEMS)]
    every = contenders()
    curves: dict[str, dict[str, list[Point]]] = {name: {} for name in every}
    for problem in problems:
        for name, contender in every.items():
            wanted = [x for x in tolerances if name not in THIRD_ORDER or x > 0.5e-7]
            curves[name][problem.name] = curve(problem, contender, wanted)
    rows = [
        dict(method=name, problem=problem) | asdict(point)
        for name, by_problem in curves.items()
        for problem, points in by_problem.items()
        for point in points
    ]
    for row in rows:  # JSON has no infinity
        row["error"] = row["error"] if math.isfinite(row["error"]) else None
    return {"rows": rows, "comparisons": comparisons(curves)}


def comparisons(curves: dict[str, dict[str, list[Point]]]) -> list[Row]:
    """A peer's field calls and time divided by the library's at equal error, geometric means over the problems.

    Against each peer the best of the library's is judged, as a user would choose it.
    """
    rows: list[Row] = []
    for kind, names in (("low order", LOW), ("high order", HIGH)):
        for mine in (name for name in names if not name.startswith(PEERS) and name in curves):
            for peer in (name for name in names if name.startswith(PEERS) and name in curves):
                ratios: dict[str, list[float]] = {}
                for work in ("calls", "seconds"):
                    every = [
                        field_calls_at_equal_error(curves[mine][problem], curves[peer][problem], work)
                        for problem in curves[mine]
                    ]
                    ratios[work] = [ratio for ratio in every if ratio is not None]
                calls = geometric_mean(ratios["calls"]) if ratios["calls"] else None
                seconds = geometric_mean(ratios["seconds"]) if ratios["seconds"] else None
                row = dict(kind=kind, method=mine, peer=peer, problems=len(ratios["calls"]), calls=calls, time=seconds)
                rows.append(row)
    for peer in dict.fromkeys(row["peer"] for row in rows):
        best = max((row for row in rows if row["peer"] == peer), key=lambda row: row["calls"] or 0.0)
        if best["calls"] is not None:
            best |= dict(target=CALLS_AT_EQUAL_ERROR, verdict=verdict(best["calls"], CALLS_AT_EQUAL_ERROR))
    return rows


def show(result: Row) -> str:
    """The peers' work divided by the library's."""
    columns = [("", "kind", ""), ("ours", "method", ""), ("against", "peer", ""), ("problems", "problems", "d")]
    columns += [("field calls at equal error", "calls", ".3f"), ("time at equal error", "time", ".2f")]
    columns += [("target", "target", ".2f"), ("verdict", "verdict", "")]
    return text_table(result["comparisons"], columns)


def draw(result: Row, figure: Any) -> None:
    """At each tolerance the geometric means over the problems: error against field calls and against time."""
    figure.set_size_inches(13, 9)
    axes = figure.subplots(2, 2)
    for line, (kind, names) in zip(axes, (("low order", LOW), ("high order", HIGH)), strict=True):
        for axis, work, label in zip(line, ("calls", "seconds"), ("field calls", "seconds"), strict=True):
            for index, name in enumerate(names):
                rows = [row for row in result["rows"] if row["method"] == name and row["error"]]
                tolerances = sorted({row["tolerance"] for row in rows})
                at = [[row for row in rows if row["tolerance"] == tolerance] for tolerance in tolerances]
                errors = [geometric_mean(row["error"] for row in group) for group in at]
                style = "--" if name.startswith(PEERS) else "-"
                values = [geometric_mean(row[work] for row in group) for group in at]
                axis.loglog(values, errors, style, marker="o", ms=3, color=f"C{index}", label=name)
            axis.set(title=kind, xlabel=f"{label} (geometric mean)", ylabel="error at the end (geometric mean)")
            axis.grid(alpha=0.3)
            axis.legend(fontsize=8)
