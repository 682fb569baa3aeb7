"""Measured numbers beside a paper's, as Markdown."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from ..reporting import markdown_table, mean_and_deviation
from .experiment import Arm, Experiment, Measure, Table
from .report import Result, arms_of, spread

CPU_SECONDS = (
    "Times are processor seconds of the process, not wall seconds, because the machine may have done other work; "
    "`results.json` has both."
)


def markdown(table: Table, results: list[Result], config: Any, about: dict[str, Any]) -> str:
    """The whole report."""
    columns, by_processor = _columns(table.experiment, results, config)
    lines = [
        f"# {table.title}",
        "",
        f"`neuralde reproduce {config.experiment} --scale {about['scale']}`. Paper: {table.source}.",
    ]
    lines += [f"**{warning}**" for warning in about["warnings"]]
    lines += ["", *_main(table, columns, results), "", *_ratios(table, columns, results), ""]
    lines += ["Mean ± standard deviation over the seeds.", *([CPU_SECONDS] if by_processor else [])]
    lines += [
        "",
        "## Set-up",
        "",
        *(f"- {name}: {value}" for name, value in asdict(config).items() if value is not None),
    ]
    lines += ["", "## Where and when", ""]
    lines += [f"- {name}: {value}" for part in ("versions", "machine") for name, value in about[part].items()]
    lines += [f"- seeds: {', '.join(map(str, about['seeds']))}", f"- started: {about['started']}"]
    lines += [f"- wall time of the training, all rows and seeds together: {about['training_seconds']:.0f} s"]
    lines += ["", "## How it differs from the paper", "", *(f"- {note}" for note in table.notes)]
    return "\n".join(lines) + "\n"


Column = tuple[Measure, Measure]
"""A measure as we read it from our results, and as the paper's numbers are called."""


def _columns(experiment: Experiment, results: list[Result], config: Any) -> tuple[list[Column], bool]:
    """The columns; on a CPU the times are the processor's, where every run has them."""
    timed = [measure for measure in experiment.measures if measure.key.endswith("_seconds")]
    own = {measure.key: measure.key.replace("_seconds", "_cpu_seconds") for measure in timed}
    by_processor = config.device == "cpu" and all(
        result.get(key) is not None for result in results for key in own.values()
    )
    ours = [replace(m, key=own.get(m.key, m.key)) if by_processor else m for m in experiment.measures]
    return list(zip(ours, experiment.measures, strict=True)), by_processor


def _main(table: Table, columns: list[Column], results: list[Result]) -> list[str]:
    """Every measure, and where it helps the paper's."""
    titles = [title for ours, _ in columns for title in ((ours.title, "paper") if ours.beside else (ours.title,))]
    rows = []
    for name in arms_of(results):
        cells = [table.arms[name].label]
        for ours, theirs in columns:
            cells.append(_shown(ours, spread(results, name, ours.key)))
            if ours.beside:
                reported = table.arms[name].reported.get(theirs.key)
                cells.append("–" if reported is None else _shown(ours, reported))
        rows.append(cells)
    return markdown_table(["", *titles], rows)


def _shown(measure: Measure, numbers: tuple[float, float]) -> str:
    return mean_and_deviation(*numbers, measure.digits, measure.scale)


def _ratios(table: Table, columns: list[Column], results: list[Result]) -> list[str]:
    """What matters: each arm against its base, usually vanilla, here and in the paper."""
    compared = [(ours, theirs) for ours, theirs in columns if ours.against]
    present = arms_of(results)
    held = [name for name in present if table.arms[name].base in {*present} - {name}]
    if not held:
        return []
    bases = {table.arms[name].base for name in held}
    against = bases.pop() if len(bases) == 1 else "the row above each"
    titles = [title for ours, _ in compared for title in (_title(ours), "paper")]
    rows = [
        [table.arms[name].label, *(cell for pair in compared for cell in _against(table, results, name, *pair))]
        for name in held
    ]
    return [f"Against {against}, and what the paper has:", "", *markdown_table(["", *titles], rows)]


def _title(measure: Measure) -> str:
    words = (
        measure.title.replace(" %", "")
        .replace("prediction ms", "prediction time")
        .replace("training s", "training time")
    )
    return f"{words}, {measure.unit}" if measure.unit else words


def _against(table: Table, results: list[Result], name: str, ours: Measure, theirs: Measure) -> tuple[str, str]:
    base = table.arms[name].base
    mine, its = spread(results, name, ours.key)[0], spread(results, base, ours.key)[0]
    return _compared(ours, mine, its), _paper(table.arms[name], table.arms[base], theirs)


def _paper(arm: Arm, base: Arm, measure: Measure) -> str:
    if measure.key not in arm.reported or measure.key not in base.reported:
        return "–"
    return _compared(measure, arm.reported[measure.key][0], base.reported[measure.key][0])


def _compared(measure: Measure, mine: float, base: float) -> str:
    if measure.against == "difference":
        return f"{measure.scale * (mine - base):+.{measure.digits}f}"
    return f"x{mine / base:.2f}" if base else "–"
