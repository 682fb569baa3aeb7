"""``neuralde reproduce``: a paper's table, from data to report, in one command that can be interrupted."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from ..data import DataError
from .experiments.comparison import markdown
from .experiments.experiment import Experiment, Table
from .experiments.papers import TABLES
from .experiments.report import Result, draw, write_numbers
from .experiments.studies import STUDIES, study
from .experiments.training import CheckpointError
from .options import Bar, add_running, positive
from .reporting import machine, read_json, versions, write_json

CHANGES: dict[str, Callable[[str], Any]] = {
    "epochs": positive,
    "batch_size": positive,
    "tolerance": float,
    "train_size": positive,
    "test_size": positive,
}
"""What of a scale's set-up an option can change, where the table's set-up has it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``neuralde reproduce``."""
    names = sorted({*TABLES, *STUDIES})
    parser.add_argument("table", nargs="?", choices=names, metavar="TABLE", help="which table or study (see --list)")
    parser.add_argument("--list", action="store_true", help="list the tables, and which data they need")
    parser.add_argument(
        "--scale", choices=("smoke", "cpu", "paper"), default="cpu", help="how much of it (default cpu)"
    )
    parser.add_argument("--data", type=Path, help="the folder with the data; --list says what it must hold")
    parser.add_argument("--arms", nargs="+", metavar="ARM", help="only these rows")
    parser.add_argument("--seeds", type=positive, help="how many seeds instead of the scale's")
    for name, kind in CHANGES.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, help="instead of the scale's; the report says so")
    add_running(parser, "where everything goes (default runs/reproduce/TABLE-SCALE)")
    parser.add_argument("--fresh", action="store_true", help="begin anew; otherwise finished epochs in --out are kept")


def main(arguments: argparse.Namespace) -> int:
    """Reproduce a table; the exit status."""
    if arguments.list or arguments.table is None:
        known = [(name, table.title, table.experiment.data_help) for name, table in TABLES.items()]
        for name, title, needs in known + [(name, one.title, one.data_help) for name, one in STUDIES.items()]:
            print(f"{name:<18} {title}; {f'--data: {needs}' if needs else 'needs no data'}")
        return 0 if arguments.list else 2
    if arguments.table in STUDIES:
        return _study(arguments)
    table = TABLES[arguments.table]
    wrong = [arm for arm in arguments.arms or () if arm not in table.arms]
    if wrong:
        print(f"--arms: got {', '.join(wrong)}; expected some of {', '.join(table.arms)}", file=sys.stderr)
        return 2
    threads = torch.get_num_threads()
    torch.set_num_threads(arguments.threads)
    out = arguments.out or Path("runs") / "reproduce" / f"{arguments.table}-{arguments.scale}"
    try:
        return _reproduce(arguments, table, out)
    except (DataError, CheckpointError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\ninterrupted; what is finished is kept in {out}: the same command goes on", file=sys.stderr)
        return 130
    finally:
        torch.set_num_threads(threads)


def _study(arguments: argparse.Namespace) -> int:
    """Compute a study, which has neither rows to choose nor seeds nor epochs; the exit status."""
    name, study_of = arguments.table, STUDIES[arguments.table]
    for option in ("arms", "seeds", *CHANGES):
        if getattr(arguments, option) is not None:
            print(
                f"--{option.replace('_', '-')}: {name} trains nothing; expected --scale, --data, --out", file=sys.stderr
            )
            return 2
    if study_of.data_help and arguments.data is None and arguments.scale != "smoke":
        print(f"--data: {name} needs a folder with {study_of.data_help}", file=sys.stderr)
        return 2
    out = arguments.out or Path("runs") / "reproduce" / f"{name}-{arguments.scale}"
    threads = torch.get_num_threads()
    torch.set_num_threads(arguments.threads)
    try:
        written = study.reproduce(name, study_of, arguments.scale, arguments.data, out)
    except DataError as error:
        print(error, file=sys.stderr)
        return 2
    finally:
        torch.set_num_threads(threads)
    print((out / "table.md").read_text(encoding="utf-8"))
    print("\n".join(map(str, written)))
    return 0


def _reproduce(arguments: argparse.Namespace, table: Table, out: Path) -> int:
    scale, experiment = table.scales[arguments.scale], table.experiment
    changes = {name: getattr(arguments, name) for name in CHANGES if getattr(arguments, name) is not None}
    config = replace(scale, device=arguments.device, **_checked(changes, scale))
    data, warnings = experiment.data(arguments.data, config, arguments.scale)
    warnings = warnings + [
        f"Changed: {name} {value} instead of {getattr(scale, name)}." for name, value in changes.items()
    ]
    seeds = _seeds(table.seeds[arguments.scale], arguments.seeds)
    names = arguments.arms or list(table.arms)
    started = datetime.now(timezone.utc).isoformat(timespec="seconds")
    results: list[Result] = []
    with Bar(len(seeds) * len(names) * config.epochs, arguments.quiet) as bar:
        # Seed by seed, so that an interrupted run can be compared row by row.
        for seed in seeds:
            for name in names:
                results.append(_one(table, experiment, name, seed, config, data, out, arguments.fresh, bar.tick))
                ordered = _report(arguments, table, results, config, out, seeds, started, warnings)
    draw(ordered, config, out, experiment.measures[0])
    print((out / "table.md").read_text(encoding="utf-8"))
    for name in ("table.md", "results.json", "results.png"):
        if (out / name).exists():
            print(out / name)
    return 0


def _checked(changes: dict[str, Any], scale: Any) -> dict[str, Any]:
    """The changes, if the set-up has what they change."""
    known = {field.name for field in fields(scale)}
    for name in changes:
        if name not in known:
            can = ", ".join(f"--{other.replace('_', '-')}" for other in CHANGES if other in known)
            raise DataError(
                f"--{name.replace('_', '-')}: got {changes[name]}, which {scale.experiment} has not; expected {can}"
            )
    return changes


def _seeds(usual: tuple[int, ...], count: int | None) -> list[int]:
    """The scale's seeds, or so many: first the scale's, then the smallest others."""
    if count is None:
        return list(usual)
    others = (seed for seed in range(count + len(usual)) if seed not in usual)
    return [*usual, *others][:count]


def _one(
    table: Table,
    experiment: Experiment,
    name: str,
    seed: int,
    config: Any,
    data: Any,
    out: Path,
    fresh: bool,
    tick: Callable[[str], None],
) -> Result:
    """One row with one seed: read if it is finished, gone on with if it has begun, else begun."""
    arm, finished = table.arms[name], out / "runs" / f"{name}-{seed}.json"
    run = experiment.run(name, arm, seed, config, data, out / "checkpoints" / f"{name}-{seed}.pt")
    # Also what the options do not say: which regularizers and weights, which adjoint, which data, and how many.
    key = {"config": run.setting(), **experiment.identity(data)}
    if finished.is_file() and not fresh:
        kept = read_json(finished)
        if kept["key"] != key:
            raise CheckpointError(f"{finished}: was made with {kept['key']}; expected {key}, --fresh, or another --out")
        for epoch in range(config.epochs):
            tick(f"{name}/{seed}: epoch {epoch + 1} was finished before")
        return dict(kept["result"])
    result = run.train(not fresh, tick)
    write_json(finished, {"key": key, "result": result})
    return result


def _report(
    arguments: argparse.Namespace,
    table: Table,
    results: list[Result],
    config: Any,
    out: Path,
    seeds: list[int],
    started: str,
    warnings: list[str],
) -> list[Result]:
    """Write the table after every run, so that an interrupted command leaves one of what there is; the rows in order."""
    training = sum(result["training_seconds"] for result in results)
    about: dict[str, Any] = {
        "table": arguments.table,
        "scale": arguments.scale,
        "seeds": seeds,
        "started": started,
        "training_seconds": training,
        "versions": versions(),
        "machine": machine(config.device),
        "warnings": warnings,
    }
    ordered = sorted(results, key=lambda result: list(table.arms).index(result["arm"]))
    paper = {name: dict(arm.reported) for name, arm in table.arms.items() if arm.reported}
    write_numbers(ordered, config, out, {**about, "paper": paper})
    (out / "table.md").write_text(markdown(table, ordered, config, about), encoding="utf-8")
    return ordered
