"""Our numbers beside a paper's, as Markdown."""

from __future__ import annotations

import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from .._version import __version__
from .classify import Config
from .papers import Arm, Table
from .report import Result, arms_of, spread


def versions() -> dict[str, str]:
    """Of what the numbers depend on."""
    return {"neuralde": __version__, "torch": torch.__version__, "python": platform.python_version()}


def hardware(device: str) -> dict[str, Any]:
    """On what the times were taken."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass  # not Linux, or a processor without a name
    found = {"processor": name, "system": platform.system(), "threads": torch.get_num_threads(), "device": device}
    if device.startswith("cuda"):
        found["gpu"] = torch.cuda.get_device_name(device)
    return found


def markdown(table: Table, results: list[Result], config: Config, about: dict[str, Any]) -> str:
    """The whole report."""
    lines = [
        f"# {table.title}",
        "",
        f"`neuralde reproduce {config.experiment} --scale {about['scale']}`. Paper: {table.source}.",
    ]
    lines += [f"**{warning}**" for warning in about["warnings"]]
    lines += ["", *_main(table, results), "", *_ratios(table, results), "", "Mean ± standard deviation over the seeds."]
    lines += [
        "",
        "## Set-up",
        "",
        *(f"- {name}: {value}" for name, value in asdict(config).items() if value is not None),
    ]
    lines += ["", "## Where and when", ""]
    lines += [f"- {name}: {value}" for part in ("versions", "hardware") for name, value in about[part].items()]
    lines += [f"- seeds: {', '.join(map(str, about['seeds']))}", f"- started: {about['started']}"]
    lines += [f"- wall time of the training, all rows and seeds together: {about['training_seconds']:.0f} s"]
    lines += ["", "## How it differs from the paper", "", *(f"- {note}" for note in table.notes)]
    return "\n".join(lines) + "\n"


def _main(table: Table, results: list[Result]) -> list[str]:
    """Accuracy, NFE and times."""
    rows = ["| | test % | paper | train % | NFE | paper | training s | prediction ms |", "|---|" + "---:|" * 7]
    for name in arms_of(results):
        arm = table.arms[name]
        paper = arm.reported
        cells = [
            _cell(results, name, "accuracy", 100.0, 2),
            "–" if paper is None else f"{paper.accuracy[0]:.2f} ± {paper.accuracy[1]:.2f}",
            _cell(results, name, "train_accuracy", 100.0, 2),
            _cell(results, name, "nfe", 1.0, 1),
            "–" if paper is None else f"{paper.nfe[0]:.1f} ± {paper.nfe[1]:.1f}",
            _cell(results, name, "training_seconds", 1.0, 1),
            _cell(results, name, "prediction_seconds", 1e3, 1),
        ]
        rows.append(f"| {arm.label} | {' | '.join(cells)} |")
    return rows


def _cell(results: list[Result], arm: str, name: str, scale: float, digits: int) -> str:
    mean, deviation = spread(results, arm, name)
    return f"{scale * mean:.{digits}f} ± {scale * deviation:.{digits}f}"


def _ratios(table: Table, results: list[Result]) -> list[str]:
    """What matters: each arm against vanilla, here and in the paper."""
    if "vanilla" not in arms_of(results):
        return []
    titles = ("accuracy, points", "NFE", "prediction time", "training time")
    rows = ["Against vanilla, and what the paper has:", "", "| | " + " | ".join(f"{t} | paper" for t in titles) + " |"]
    rows.append("|---|" + "---:|" * 2 * len(titles))
    for name in arms_of(results):
        if name != "vanilla":
            rows.append(f"| {table.arms[name].label} | {' | '.join(_against(table, results, name))} |")
    return rows


def _against(table: Table, results: list[Result], name: str) -> list[str]:
    def ours(what: str) -> tuple[float, float]:
        return spread(results, name, what)[0], spread(results, "vanilla", what)[0]

    cells = [f"{100 * (ours('accuracy')[0] - ours('accuracy')[1]):+.2f}", _paper_points(table, table.arms[name])]
    for what, theirs in (
        ("nfe", "nfe"),
        ("prediction_seconds", "prediction_seconds"),
        ("training_seconds", "training_hours"),
    ):
        mine, base = ours(what)
        cells += [f"x{mine / base:.2f}", _paper_ratio(table, table.arms[name], theirs)]
    return cells


def _paper_points(table: Table, arm: Arm) -> str:
    base = table.arms["vanilla"].reported
    return "–" if arm.reported is None or base is None else f"{arm.reported.accuracy[0] - base.accuracy[0]:+.2f}"


def _paper_ratio(table: Table, arm: Arm, what: str) -> str:
    base = table.arms["vanilla"].reported
    if arm.reported is None or base is None:
        return "–"
    return f"x{getattr(arm.reported, what)[0] / getattr(base, what)[0]:.2f}"
