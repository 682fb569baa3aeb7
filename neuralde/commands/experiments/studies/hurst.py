"""The Hurst index of realized volatility: of each index of the Oxford-Man library, by several estimators with their errors."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neuralde.solvers import FractionalBrownianPath, HurstEstimate, estimate_hurst

from ....data import DataError
from ...reporting import Row, markdown_table
from .study import Study

FILE = "oxford_man_rk_20220628.npz"
ESTIMATORS: dict[str, dict[str, Any]] = {
    "regression": dict(method="structure", lags=range(1, 101), moments=[2.0]),
    "structure": dict(method="structure"),
    "whittle": dict(),
    "whittle, noise": dict(noise=True),
}
"""The first is the regression of the paper's notebook: second moments over 100 lags."""
PUBLISHED = {".SPX": 0.16605, ".FTSE": 0.13898212, ".AEX": 0.15116126}
"""What the paper's authors print for these data with the first estimator."""
LITERATURE = (0.1, 0.15)
SIMULATED = 0.14
"""The index of the simulated series on which the estimators are tried."""


def run(folder: Path | None, series: int | None, simulated: int, resamples: int) -> Row:
    """Estimates for each index, and of simulated series of known index and the same length.

    Args:
        folder: where the data file is; None makes simulated series in its place.
        series: how many indices; None: all.
        simulated: how many simulated series.
        resamples: of the bootstrap.
    """
    data = _simulated(3, 600) if folder is None else _read(folder)
    names = list(data)[:series]
    rows = []
    for name in names:
        x = data[name]
        row: Row = {"index": name, "days": len(x), "published": PUBLISHED.get(name)}
        rows.append(row | {kind: _numbers(_estimated(x, kind, resamples)) for kind in ESTIMATORS})
    length = max(len(x) for x in data.values())
    return {"rows": rows, "known": _known(length, simulated, resamples), "length": length, "hurst": SIMULATED}


def _estimated(x: Tensor, kind: str, resamples: int) -> HurstEstimate:
    more: dict[str, Any] = {"resamples": resamples} if ESTIMATORS[kind].get("method") == "structure" else {}
    return estimate_hurst(x, **ESTIMATORS[kind], **more)


def _numbers(found: HurstEstimate) -> Row:
    low, high = found.interval()
    numbers = {"hurst": found.hurst, "error": found.standard_error, "low": low, "high": high, "scale": found.scale}
    return {name: float(value) for name, value in (numbers | {"noise": found.noise}).items()}


def _read(folder: Path) -> dict[str, Tensor]:
    """The logarithm of the realized volatility of each index on the days that have one."""
    path = folder / FILE
    if not path.is_file():
        raise DataError(f"--data: {folder} has no {FILE}; expected the folder that --list names")
    with np.load(path, allow_pickle=False) as file:
        symbols, variances = [str(name) for name in file["symbols"]], file["rv"]
    found = {}
    for name, column in zip(symbols, variances.T, strict=True):
        kept = column[np.isfinite(column) & (column > 0)]
        found[name] = torch.from_numpy(0.5 * np.log(kept))
    return found


def _simulated(count: int, length: int, seed: int = 0) -> dict[str, Tensor]:
    """Exact series of the known index, scaled as log volatilities are."""
    path = FractionalBrownianPath((count,), seed, 0.0, float(length), SIMULATED, dtype=torch.float64)
    x = 0.3 * path.sample(torch.arange(length, dtype=torch.float64))
    return {f"simulated {i}": x[:, i] for i in range(count)}


def _known(length: int, count: int, resamples: int) -> list[Row]:
    """How each estimator does where the truth is known: bias, spread, its standard error, and how often it covers."""
    rows = []
    series = list(_simulated(count, length, seed=1).values())
    for kind in ESTIMATORS:
        found = [_numbers(_estimated(x, kind, resamples)) for x in series]
        hursts = [one["hurst"] for one in found]
        covered = sum(one["low"] < SIMULATED < one["high"] for one in found) / count
        row: Row = {"estimator": kind, "bias": statistics.fmean(hursts) - SIMULATED, "spread": statistics.stdev(hursts)}
        rows.append(row | {"error": statistics.fmean(one["error"] for one in found), "covered": covered})
    return rows


def report(numbers: Row) -> list[str]:
    """A row for each index, the summary, and the simulated series."""
    low, high = LITERATURE
    titles = ["index", "days", "published", *ESTIMATORS]
    rows = []
    for row in numbers["rows"]:
        published = "–" if row["published"] is None else f"{row['published']:.4f}"
        cells = [f"{row[kind]['hurst']:.4f} ± {row[kind]['error']:.4f}" for kind in ESTIMATORS]
        rows.append([row["index"], str(row["days"]), published, *cells])
    for title, of in (("median", statistics.median), ("least", min), ("most", max)):
        rows.append(
            [title, "", "", *(f"{of([row[kind]['hurst'] for row in numbers['rows']]):.4f}" for kind in ESTIMATORS)]
        )
    lines = markdown_table(titles, rows)
    lines += [
        "",
        f"Estimates ± standard errors of log realized volatility; the literature says {low} to {high}. `regression`: half the",
        "slope of log second moments over lags of 1 to 100 days, the authors' own; `structure`: five moments, lags 1 to 30; both",
        "with a block bootstrap. `whittle`: the likelihood of fractional Gaussian noise; `noise`: with independent errors of the",
        "observations. Days without a value are left out, so that time is that of trading.",
        "",
        f"On {numbers['length']} exact points of H = {numbers['hurst']}:",
        "",
    ]
    known = [
        [row["estimator"], *(f"{row[key]:.4f}" for key in ("bias", "spread", "error")), f"{100 * row['covered']:.0f} %"]
        for row in numbers["known"]
    ]
    return lines + markdown_table(["estimator", "bias", "spread", "its standard error", "inside 95 %"], known)


def draw(numbers: Row, figure: Any) -> None:
    """Every index with its interval by three estimators, and the literature's range."""
    figure.set_size_inches(9, 7)
    axis = figure.subplots()
    axis.axvspan(*LITERATURE, color="0.9", label="literature")
    rows = numbers["rows"]
    for shift, kind in enumerate(("regression", "whittle", "whittle, noise")):
        places = [place + 0.25 * (shift - 1) for place in range(len(rows))]
        errors = [1.96 * row[kind]["error"] for row in rows]
        axis.errorbar([row[kind]["hurst"] for row in rows], places, xerr=errors, fmt="o", ms=3, label=kind)
    axis.set(xlabel="Hurst index of log realized volatility", yticks=range(len(rows)))
    axis.set_yticklabels([row["index"] for row in rows])
    axis.legend()


STUDY = Study(
    "The Hurst index of realized volatility",
    "Gatheral, Jaisson, Rosenbaum: Volatility is rough. Quantitative Finance 18 (2018), whose data end earlier; the "
    "regression and its printed numbers are those of the authors' workshop on the same data",
    {
        "smoke": dict(series=2, simulated=3, resamples=20),
        "cpu": dict(series=None, simulated=100, resamples=200),
        "paper": dict(series=None, simulated=1000, resamples=1000),
    },
    run,
    report,
    draw,
    f"{FILE}: the Oxford-Man realized library as arrays `symbols` and `rv` (days, symbols), NaN where there is no value",
)
