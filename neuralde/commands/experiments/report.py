"""The numbers of an experiment as a table, a picture and a file."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..reporting import machine, mean_and_deviation, picture, text_table, versions, write_json
from .experiment import ACCURACY, NFE, Measure

Result = dict[str, Any]
_SHADES = [
    f"#{code}"
    for code in (
        "1f77b4 aec7e8 ff7f0e ffbb78 2ca02c 98df8a d62728 ff9896 9467bd c5b0d5 8c564b c49c94 e377c2 f7b6d2 7f7f7f c7c7c7 bcbd22 "
        "dbdb8d 17becf 9edae5"
    ).split()
]
"""Ten pairs of a colour and its lighter shade (matplotlib's tab20)."""


def spread(results: list[Result], arm: str, name: str) -> tuple[float, float]:
    """Mean and standard deviation over an arm's seeds."""
    values = [result[name] for result in results if result["arm"] == arm]
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def arms_of(results: list[Result]) -> list[str]:
    """The arms, in the order in which they ran."""
    return list(dict.fromkeys(result["arm"] for result in results))


def table(results: list[Result], quality: Measure = ACCURACY, processor: bool = False) -> str:
    """A row per arm, mean ± standard deviation over seeds; below, each arm against vanilla.

    With ``processor``, times are those of the processor, in which other work on the machine does not count, where every
    result has them.
    """
    own = processor and all(result.get("training_cpu_seconds") is not None for result in results)
    kind, title = ("cpu_seconds", "CPU ") if own else ("seconds", "")
    columns = (
        (quality.title, quality.key, quality.scale, quality.digits),
        ("field evaluations", "nfe", 1.0, 1),
        ("accepted", "accepted", 1.0, 1),
        ("rejected", "rejected", 1.0, 1),
        (f"training {title}s", f"training_{kind}", 1.0, 1),
        (f"prediction {title}ms", f"prediction_{kind}", 1e3, 1),
    )
    lines = [arms_table(results, columns)]
    if "vanilla" in arms_of(results):
        for arm in arms_of(results):
            if arm != "vanilla":
                lines.append(_against_vanilla(results, arm, quality, kind))
    return "\n".join(lines)


def arms_table(results: list[Result], columns: Sequence[tuple[str, str, float, int]]) -> str:
    """A row per arm, mean ± standard deviation over seeds; a column is (title, key, scale, digits)."""
    rows = [
        {"arm": arm}
        | {key: mean_and_deviation(*spread(results, arm, key), digits, scale) for _, key, scale, digits in columns}
        for arm in arms_of(results)
    ]
    return text_table(rows, [("arm", "arm", ""), *((title, key, "s") for title, key, *_ in columns)])


def _against_vanilla(results: list[Result], arm: str, quality: Measure, kind: str) -> str:
    def ratio(name: str) -> float:
        return spread(results, arm, name)[0] / spread(results, "vanilla", name)[0]

    if quality.against == "difference":
        change = quality.scale * (spread(results, arm, quality.key)[0] - spread(results, "vanilla", quality.key)[0])
        last = f"{quality.key} {change:+.{quality.digits}f} {quality.unit}"
    else:
        last = f"{quality.title} x{ratio(quality.key):.2f}"
    return (
        f"{arm} against vanilla: field evaluations x{ratio('nfe'):.2f}, prediction time x{ratio(f'prediction_{kind}'):.2f}, "
        f"training time x{ratio(f'training_{kind}'):.2f}, {last}"
    )


def write(results: list[Result], config: Any, out: Path, quality: Measure = ACCURACY) -> list[Path]:
    """Write ``results.json`` and, where matplotlib is installed, ``results.png``; returns what was written."""
    return [write_numbers(results, config, out), *draw(results, config, out, quality)]


def write_numbers(results: list[Result], config: Any, out: Path, more: dict[str, Any] | None = None) -> Path:
    """Write ``results.json``; ``config`` is a dataclass."""
    about = {"config": asdict(config), "versions": versions(), "machine": machine(config.device), **(more or {})}
    return write_json(out / "results.json", {**about, "results": results})


def draw(results: list[Result], config: Any, out: Path, quality: Measure = ACCURACY) -> list[Path]:
    """Draw ``results.png`` where matplotlib is installed; ``quality`` is what cost is weighed against."""
    return picture(out / "results.png", lambda figure: _picture(figure, results, config, quality))


def _picture(figure: Any, results: list[Result], config: Any, quality: Measure) -> None:
    arms = arms_of(results)
    # A row and what it is held against have two shades of one colour where there are many.
    colors = {arm: f"C{index}" if len(arms) <= 10 else _SHADES[index % 20] for index, arm in enumerate(arms)}
    calls = replace(NFE, title="field evaluations per prediction")
    figure.set_size_inches(13, 7)
    axes = figure.subplots(2, 3)
    for axis, measure in zip(axes[0], (quality, calls, Measure("loss", "training loss", log=True)), strict=True):
        _curves(axis, results, measure, colors)
    axes[0][0].legend(fontsize=6 if len(arms) > 10 else None, ncols=2 if len(arms) > 10 else 1)
    seconds = Measure("prediction_seconds", "prediction time (ms)", 1e3)
    if config.device == "cpu" and all(result.get("prediction_cpu_seconds") is not None for result in results):
        seconds = replace(seconds, key="prediction_cpu_seconds", title="prediction time (processor ms)")
    for axis, measure in zip(axes[1], (quality, calls, seconds), strict=True):
        _bars(axis, results, measure, colors)
    seeds = len({result["seed"] for result in results})
    figure.suptitle(f"{config.experiment}: {seeds} seed{'s' if seeds > 1 else ''}, tolerance {config.tolerance:g}")


def _curves(axis: Any, results: list[Result], measure: Measure, colors: dict[str, str]) -> None:
    """A line over the epochs for every run."""
    labelled: set[str] = set()
    for result in results:
        arm, series = result["arm"], [measure.scale * value for value in result["history"][measure.key]]
        label = None if arm in labelled else arm
        labelled.add(arm)
        marker = "o" if len(series) < 3 else None
        axis.plot(range(1, len(series) + 1), series, color=colors[arm], label=label, marker=marker)
    axis.set(xlabel="epoch", ylabel=measure.title)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.grid(alpha=0.3)
    if measure.log and all(value > 0 for result in results for value in result["history"][measure.key]):
        axis.set_yscale("log")


def _bars(axis: Any, results: list[Result], measure: Measure, colors: dict[str, str]) -> None:
    """A bar for every arm, the seeds' deviation on it."""
    arms = list(colors)
    means, deviations = zip(*(spread(results, arm, measure.key) for arm in arms), strict=True)
    heights, errors = ([measure.scale * value for value in values] for values in (means, deviations))
    bars = axis.bar(arms, heights, yerr=errors, capsize=4, color=[colors[arm] for arm in arms])
    axis.bar_label(bars, fmt=f"%.{measure.digits}f", padding=4, fontsize=8 if len(arms) > 5 else None)
    axis.set(ylabel=measure.title)
    axis.margins(y=0.15)
    if len(arms) > 3:
        axis.set_xticks(range(len(arms)), arms, rotation=40, ha="right", rotation_mode="anchor")
