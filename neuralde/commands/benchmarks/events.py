"""What 128 event functions on one state cost, beside SciPy's ``solve_ivp`` with the same ones."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neuralde.solvers import Event, ODEProblem

from ...solving import solve
from ..extras import needed
from ..reporting import Row, text_table
from .measuring import Run, Settings, alternate, verdict
from .targets import EVENTS_AGAINST_SCIPY_AT_MOST

_CALLS = "calls at each point"


def run(settings: Settings) -> Row:
    """A harmonic oscillator and ``y[0] - level`` for many levels: none that is crossed, and four that are."""
    count, t1 = (8, 2.0) if settings.quick else (128, 20.0)
    crossed = [-0.5, -0.1, 0.3, 0.7]
    kinds = {
        "none fires": np.linspace(1.5, 9.0, count),
        "four fire": np.concatenate([crossed, np.linspace(1.5, 9.0, count - len(crossed))]),
    }
    rows: list[Row] = []
    runs: dict[tuple[str, str], Run] = {}
    for kind, levels in kinds.items():
        peer, found = _scipy(levels, t1)
        runs[kind, "SciPy"] = peer
        y0 = torch.tensor([0.0, 1.0], dtype=torch.float64, device=settings.device)
        for name, events in _events(torch.from_numpy(levels).to(y0)).items():
            runs[kind, name] = ours = _ours(y0, t1, events)
            sol = ours()
            fired = 0 if sol.events is None else len(sol.events)
            rows.append(dict(kind=kind, solve=name, events=fired, steps=sol.stats.steps, scipy_events=found))
        runs[kind, _CALLS] = _calls(y0, levels, 4 * rows[-1]["steps"])
        rows.append(dict(kind=kind, solve=_CALLS, events=0, steps=rows[-1]["steps"], scipy_events=found))
    clock = time.perf_counter if torch.device(settings.device).type == "cuda" else time.process_time
    taken = alternate({" / ".join(key): timed for key, timed in runs.items()}, settings, clock)
    for row in rows:
        mine, peers = (taken[f"{row['kind']} / {name}"]["low"] for name in (row["solve"], "SciPy"))
        row |= dict(ms=mine, scipy_ms=peers, ratio=mine / peers)
        if row["solve"] not in ("without events", _CALLS):
            row["target"] = EVENTS_AGAINST_SCIPY_AT_MOST
            row["verdict"] = verdict(row["ratio"], EVENTS_AGAINST_SCIPY_AT_MOST, at_most=True)
    return {"rows": rows}


def _events(levels: Tensor) -> dict[str, Any]:
    return {
        "without events": None,
        "one function": Event(lambda t, y: y[0] - levels, terminal=False),
        "many functions": [Event(lambda t, y, level=level: y[0] - level, terminal=False) for level in levels.tolist()],
    }


def _ours(y0: Tensor, t1: float, events: Any) -> Run:
    problem = ODEProblem(lambda t, y: torch.stack([y[1], -y[0]]), y0, (0.0, t1))
    return torch.no_grad()(lambda: solve(problem, events=events, rtol=1e-6, atol=1e-6))


def _calls(y0: Tensor, levels: np.ndarray, times: int) -> Run:
    """The functions' subtractions at every point of so many steps, in a bare loop: what one call for all points saves."""
    numbers = levels.tolist()

    def alone() -> None:
        for _ in range(times):
            for level in numbers:
                _ = y0[0] - level

    return alone


def _scipy(levels: np.ndarray, t1: float) -> tuple[Run, int]:
    """SciPy's solve, and how many events it finds."""
    solve_ivp: Any = needed("scipy.integrate", "bench").solve_ivp
    events = [lambda t, y, level=level: y[0] - level for level in levels.tolist()]

    def peer() -> Any:
        return solve_ivp(lambda t, y: [y[1], -y[0]], (0.0, t1), [0.0, 1.0], rtol=1e-6, atol=1e-6, events=events)

    return peer, sum(len(ts) for ts in peer().t_events)


def show(result: Row) -> str:
    """The table: the least time of each, in milliseconds."""
    columns = [
        ("levels", "kind", ""),
        ("solve", "solve", ""),
        ("events", "events", "d"),
        ("SciPy's", "scipy_events", "d"),
    ]
    columns += [
        ("steps", "steps", "d"),
        ("ms", "ms", ".2f"),
        ("SciPy ms", "scipy_ms", ".2f"),
        ("ratio", "ratio", ".2f"),
    ]
    columns += [("at most", "target", ".1f"), ("verdict", "verdict", "")]
    return text_table(result["rows"], columns)


def draw(result: Row, figure: Any) -> None:
    """Bars: every solve's time in units of SciPy's."""
    figure.set_size_inches(9, 3)
    axis = figure.subplots()
    axis.barh([f"{row['kind']}: {row['solve']}" for row in result["rows"]], [row["ratio"] for row in result["rows"]])
    axis.axvline(1.0, color="0.5", label="SciPy")
    axis.set(xlabel="time, in units of SciPy's", xscale="log")
    axis.legend()
