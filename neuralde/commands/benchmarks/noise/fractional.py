"""Exact paths of fractional Brownian motion, beside fbm, stochastic and torchfbm, in processor seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from neuralde.solvers import FractionalBrownianPath

from ...reporting import Row, text_table
from ..measuring import Run, Settings, alternate, verdict
from ..peers import installed
from ..targets import FRACTIONAL_PATHS

HURSTS = (0.3, 0.8)


def run(settings: Settings) -> Row:
    """64 paths with 65,536 increments on [0, 1], of type I; each library as its documentation shows, one object reused.

    The increments' variance is measured too, in units of the true one, because not every library gets it right in
    float32. SciPy and NumPy have one thread only where the environment says so.
    """
    paths, count = (3, 64) if settings.quick else (64, 65_536)
    rows = []
    for hurst in HURSTS:
        runs = {f"neuralde {str(dtype)[6:]}": _ours(paths, count, hurst, dtype, settings) for dtype in _DTYPES}
        for name, make in (("torchfbm", _torchfbm), ("stochastic.processes.continuous", _stochastic), ("fbm", _fbm)):
            peer = installed(name)
            if peer is not None:
                runs |= make(peer, paths, count, hurst, settings)
        variances = {name: _variance(sample(), hurst) for name, sample in runs.items()}
        taken = alternate(runs, settings, time.process_time)
        for name in runs:
            library, _, dtype = name.partition(" ")
            # What makes float64 only is compared with float64.
            mine = taken[f"neuralde {dtype or 'float64'}"]["low"]
            row = dict(hurst=hurst, library=name, ms=taken[name]["low"], ratio=taken[name]["low"] / mine)
            target = FRACTIONAL_PATHS.get(library)
            row |= dict(variance=variances[name], target=target, verdict=verdict(row["ratio"], target))
            rows.append(row)
    return {"paths": paths, "increments": count, "clock": "processor", "rows": rows}


_DTYPES = (torch.float32, torch.float64)


def _variance(sample: Any, hurst: float) -> float:
    """The mean square of the increments of paths ``(paths, points)`` over their true variance."""
    values = np.asarray(sample, dtype=np.float64)
    increments = np.diff(values, axis=-1)
    return float((increments**2).mean() * increments.shape[-1] ** (2.0 * hurst))


def _ours(paths: int, count: int, hurst: float, dtype: torch.dtype, settings: Settings) -> Run:
    times = torch.linspace(0.0, 1.0, count + 1, dtype=torch.float64)
    options: dict[str, Any] = dict(dtype=dtype, device=settings.device)
    return lambda: FractionalBrownianPath((paths,), 0, 0.0, 1.0, hurst, **options).sample(times).T.cpu()


def _torchfbm(torchfbm: Any, paths: int, count: int, hurst: float, settings: Settings) -> dict[str, Run]:
    def of(dtype: torch.dtype) -> Run:
        options = dict(size=(paths,), dtype=dtype, device=settings.device, seed=0)
        return lambda: torchfbm.fbm(count, hurst, **options).cpu() * count**-hurst

    return {f"torchfbm {str(dtype)[6:]}": of(dtype) for dtype in _DTYPES}


def _stochastic(stochastic: Any, paths: int, count: int, hurst: float, settings: Settings) -> dict[str, Run]:
    return {"stochastic": _one_by_one(stochastic.FractionalBrownianMotion(hurst, 1.0), "sample", paths, count)}


def _fbm(fbm: Any, paths: int, count: int, hurst: float, settings: Settings) -> dict[str, Run]:
    return {"fbm": _one_by_one(fbm.FBM(count, hurst), "fbm", paths)}


def _one_by_one(process: Any, method: str, paths: int, *given: int) -> Run:
    draw: Callable[..., Any] = getattr(process, method)
    return lambda: np.stack([draw(*given) for _ in range(paths)])


def show(result: Row) -> str:
    """The table: the least time of each, and its ratio to the library's in the same precision."""
    columns = [("H", "hurst", ".1f"), ("library", "library", ""), ("ms", "ms", ".1f"), ("ratio", "ratio", ".2f")]
    columns += [("variance", "variance", ".3f"), ("at least", "target", ".1f"), ("verdict", "verdict", "")]
    return text_table(result["rows"], columns)


def draw(result: Row, figure: Any) -> None:
    """Bars: the time of each."""
    figure.set_size_inches(8, 4)
    axis = figure.subplots()
    axis.barh(
        [f"{row['library']}, H = {row['hurst']}" for row in result["rows"]], [row["ms"] for row in result["rows"]]
    )
    axis.set(
        xlabel="ms of the processor",
        xscale="log",
        title=f"{result['paths']} paths of {result['increments']:,} increments",
    )
