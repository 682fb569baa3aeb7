"""The numbers of an experiment as a table, a picture and a file."""

from __future__ import annotations

import json
import platform
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from .._version import __version__
from .classify import Config

Result = dict[str, Any]


def spread(results: list[Result], arm: str, name: str) -> tuple[float, float]:
    """Mean and standard deviation over an arm's seeds."""
    values = [result[name] for result in results if result["arm"] == arm]
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def arms_of(results: list[Result]) -> list[str]:
    """The arms, in the order in which they ran."""
    return list(dict.fromkeys(result["arm"] for result in results))


def table(results: list[Result]) -> str:
    """A row per arm, mean ± standard deviation over seeds; below, each arm's ratio to vanilla."""
    columns = (
        ("test accuracy %", "accuracy", 100.0, 2),
        ("field evaluations", "nfe", 1.0, 1),
        ("accepted", "accepted", 1.0, 1),
        ("rejected", "rejected", 1.0, 1),
        ("training s", "training_seconds", 1.0, 1),
        ("prediction ms", "prediction_seconds", 1e3, 1),
    )
    lines = ["".join([f"{'arm':<16}", *(f"{title:>20}" for title, *_ in columns)])]
    for arm in arms_of(results):
        cells = [spread(results, arm, name) for _, name, *_ in columns]
        texts = [
            f"{scale * mean:.{digits}f} ± {scale * deviation:.{digits}f}"
            for (mean, deviation), (*_, scale, digits) in zip(cells, columns, strict=True)
        ]
        lines.append("".join([f"{arm:<16}", *(f"{text:>20}" for text in texts)]))
    if "vanilla" in arms_of(results):
        for arm in arms_of(results):
            if arm != "vanilla":
                lines.append(_against_vanilla(results, arm))
    return "\n".join(lines)


def _against_vanilla(results: list[Result], arm: str) -> str:
    def ratio(name: str) -> float:
        return spread(results, arm, name)[0] / spread(results, "vanilla", name)[0]

    points = 100 * (spread(results, arm, "accuracy")[0] - spread(results, "vanilla", "accuracy")[0])
    return (
        f"{arm} against vanilla: field evaluations x{ratio('nfe'):.2f}, prediction time x{ratio('prediction_seconds'):.2f}, "
        f"training time x{ratio('training_seconds'):.2f}, accuracy {points:+.2f} points"
    )


def write(results: list[Result], config: Config, out: Path) -> list[Path]:
    """Write ``results.json`` and, where matplotlib is installed, ``results.png``; returns what was written."""
    return [write_numbers(results, config, out), *draw(results, config, out)]


def write_numbers(results: list[Result], config: Any, out: Path, more: dict[str, Any] | None = None) -> Path:
    """Write ``results.json``; ``config`` is a dataclass."""
    out.mkdir(parents=True, exist_ok=True)
    about = {
        "config": asdict(config),
        "versions": {"neuralde": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "machine": {"processor": platform.machine(), "system": platform.system(), "threads": torch.get_num_threads()},
        **(more or {}),
        "results": results,
    }
    (out / "results.json").write_text(json.dumps(about, indent=1))
    return out / "results.json"


def draw(results: list[Result], config: Config, out: Path) -> list[Path]:
    """Draw ``results.png`` where matplotlib is installed."""
    try:
        import matplotlib
    except ImportError:
        return []
    matplotlib.use("Agg")
    _picture(results, config, out / "results.png")
    return [out / "results.png"]


def _picture(results: list[Result], config: Config, path: Path) -> None:
    import matplotlib.pyplot as plt

    arms = arms_of(results)
    colors = {arm: f"C{index}" for index, arm in enumerate(arms)}
    figure, axes = plt.subplots(2, 3, figsize=(13, 7), layout="constrained")
    over_time = (
        ("accuracy", "test accuracy (%)", 100.0),
        ("nfe", "field evaluations per prediction", 1.0),
        ("loss", "training loss", 1.0),
    )
    for axis, (name, label, scale) in zip(axes[0], over_time, strict=True):
        for result in results:
            series = [scale * value for value in result["history"][name]]
            first = result["seed"] == min(r["seed"] for r in results if r["arm"] == result["arm"])
            axis.plot(
                range(1, len(series) + 1),
                series,
                color=colors[result["arm"]],
                label=result["arm"] if first else None,
                marker="o" if len(series) < 3 else None,
            )
        axis.set(xlabel="epoch", ylabel=label)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
    axes[0][0].legend()
    axes[0][2].set_yscale("log")
    final = (
        ("accuracy", "test accuracy (%)", 100.0),
        ("nfe", "field evaluations per prediction", 1.0),
        ("prediction_seconds", "prediction time (ms)", 1e3),
    )
    for axis, (name, label, scale) in zip(axes[1], final, strict=True):
        means, deviations = zip(*(spread(results, arm, name) for arm in arms), strict=True)
        bars = axis.bar(
            arms,
            [scale * m for m in means],
            yerr=[scale * d for d in deviations],
            capsize=4,
            color=[colors[a] for a in arms],
        )
        axis.bar_label(bars, fmt="%.1f", padding=4, fontsize=8 if len(arms) > 5 else None)
        axis.set(ylabel=label)
        axis.margins(y=0.15)
        if len(arms) > 3:
            axis.set_xticks(range(len(arms)), arms, rotation=40, ha="right", rotation_mode="anchor")
    seeds = len({result["seed"] for result in results})
    figure.suptitle(f"{config.experiment}: {seeds} seed{'s' if seeds > 1 else ''}, tolerance {config.tolerance:g}")
    figure.savefig(path, dpi=120)
    plt.close(figure)
