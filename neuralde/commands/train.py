"""``neuralde train``: the experiments, their options, and what happens when they are interrupted."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from ..data import DataError
from .experiments.arms import ARMS
from .experiments.experiment import ACCURACY, Measure
from .experiments.report import table, write, write_numbers
from .experiments.tasks import classify, mocap, spiral
from .experiments.tasks.classify import Config
from .experiments.tasks.data import digits, mnist
from .experiments.training import CheckpointError
from .options import Bar, add_running, positive


@dataclass(frozen=True, kw_only=True)
class _Training:
    """An experiment of the command line.

    Attributes:
        about: what it trains, for ``--list``.
        config: its usual configuration, whose fields the options replace.
        data: reads or makes the data.
        arms: the ways to train that it knows.
        chosen: those that run where none is named.
        run: trains one arm with one seed.
        report: prints and writes the results.
    """

    about: str
    config: Any
    data: Callable[[argparse.Namespace, Any], Any]
    arms: Sequence[str] = tuple(ARMS)
    chosen: Sequence[str] = ("vanilla", "error")
    run: Callable[..., Any] = classify.Run
    report: Callable[[list[Any], Any, Any, Path], None]


def _report(results: list[Any], config: Any, out: Path, quality: Measure = ACCURACY) -> None:
    print(table(results, quality, config.device == "cpu"))
    for path in write(results, config, out, quality):
        print(path)


def _report_walks(results: list[Any], config: mocap.Config, data: Any, out: Path) -> None:
    rules = mocap.baselines(data, config.seen)
    print(mocap.table(results, rules))
    print(write_numbers(results, config, out, {"baselines": rules}))


def _mnist(arguments: argparse.Namespace, config: Config) -> Any:
    if arguments.data is None:
        raise DataError("--data: got none; expected the folder with MNIST's four idx files")
    images = mnist(arguments.data, torch.float64, config.train_size, config.test_size)
    return images.to(torch.device(config.device))


def _walks(arguments: argparse.Namespace, config: mocap.Config) -> Any:
    if config.device != "cpu":
        raise DataError(f"--device: got {config.device}; expected cpu, where the walks are")
    return mocap.read(arguments.data)


# Images are float64, because the tolerance is near float32's rounding, where steps and penalty would measure noise.
EXPERIMENTS = {
    "digits": _Training(
        about="1,797 real 8x8 digits that scikit-learn bundles; a minute of one processor",
        config=Config(epochs=20, learning_rate=5e-3),
        data=lambda arguments, config: digits(torch.float64).to(torch.device(config.device)),
        report=lambda results, config, data, out: _report(results, config, out),
    ),
    "mnist": _Training(
        about="MNIST's 28x28 digits from a folder with its idx files (--data)",
        config=Config(experiment="mnist", epochs=10, hidden=100, learning_rate=1e-3, tolerance=1e-6),
        data=_mnist,
        report=lambda results, config, data, out: _report(results, config, out),
    ),
    "spiral-sde": _Training(
        about="a neural SDE fitted to means and variances of noisy spirals; minutes",
        config=spiral.Config(per_sample=True),
        data=lambda arguments, config: spiral.truth(config),
        arms=tuple(spiral.ARMS),
        run=spiral.Run,
        report=lambda results, config, data, out: _report(results, config, out, spiral.LOSS),
    ),
    "latent-sde": _Training(
        about="a latent SDE of walking from motion capture: --data mocap35.mat; minutes",
        config=mocap.Config(),
        data=_walks,
        arms=tuple(mocap.ARMS),
        chosen=tuple(mocap.ARMS),
        run=mocap.Run,
        report=_report_walks,
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``neuralde train``."""
    parser.add_argument("name", nargs="?", choices=sorted(EXPERIMENTS), help="which experiment")
    parser.add_argument("--list", action="store_true", help="list the experiments and arms")
    parser.add_argument(
        "--arms",
        nargs="+",
        metavar="ARM",
        help=f"of: {', '.join(ARMS)}; of latent-sde: {', '.join(mocap.ARMS)} (default vanilla and error, or all of these)",
    )
    parser.add_argument("--seeds", type=positive, default=3, help="how many seeds (default 3)")
    parser.add_argument(
        "--epochs", type=positive, help="passes over the training images (spiral-sde, latent-sde: of 25 iterations)"
    )
    parser.add_argument("--batch-size", type=positive, help="images, trajectories, or windows of a walk")
    parser.add_argument("--tolerance", type=float, help="rtol and atol of the solves")
    parser.add_argument("--hidden", type=positive, help="hidden width of the field")
    parser.add_argument("--data", type=Path, help="the folder with MNIST's idx files, or mocap35.mat")
    parser.add_argument("--train-size", type=positive, help="use only so many training images (mnist)")
    parser.add_argument("--test-size", type=positive, help="use only so many test images (mnist)")
    add_running(parser, "where results and checkpoints go (default runs/NAME); what is there already is kept")
    parser.add_argument(
        "--resume", action="store_true", help="go on from what is in --out; without it such a run is refused"
    )


def main(arguments: argparse.Namespace) -> int:
    """Run an experiment; the exit status."""
    if arguments.list or arguments.name is None:
        print("\n".join(f"{name:<11} {training.about}" for name, training in EXPERIMENTS.items()))
        other = {name: training.arms for name, training in EXPERIMENTS.items() if tuple(training.arms) != tuple(ARMS)}
        print(f"arms: {', '.join(ARMS)}" + "".join(f"; of {name}: {', '.join(arms)}" for name, arms in other.items()))
        return 0 if arguments.list else 2
    training = EXPERIMENTS[arguments.name]
    arguments.arms = list(training.chosen) if arguments.arms is None else arguments.arms
    unknown = [arm for arm in arguments.arms if arm not in training.arms]
    if unknown:
        print(f"--arms: got {', '.join(unknown)}; expected some of {', '.join(training.arms)}", file=sys.stderr)
        return 2
    out = arguments.out or Path("runs") / arguments.name
    if not arguments.resume and _begun(out):
        print(
            f"--out: {out} holds an earlier run; expected --resume, to go on with it, or another --out", file=sys.stderr
        )
        return 2
    threads = torch.get_num_threads()
    torch.set_num_threads(arguments.threads)
    try:
        return _run(training, arguments, out)
    except (DataError, CheckpointError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            f"\ninterrupted; finished epochs are kept in {out}: the same command with --resume goes on", file=sys.stderr
        )
        return 130
    finally:
        torch.set_num_threads(threads)


def _begun(out: Path) -> bool:
    """Whether a run has left something in this folder."""
    names = ("results.json", "results.png", "checkpoints/*")
    return out.exists() and (not out.is_dir() or any(any(out.glob(name)) for name in names))


def _run(training: _Training, arguments: argparse.Namespace, out: Path) -> int:
    given = {field.name: getattr(arguments, field.name, None) for field in fields(training.config)}
    config = replace(training.config, **{name: value for name, value in given.items() if value is not None})
    data = training.data(arguments, config)
    runs = [
        training.run(arm, seed, config, data, out / "checkpoints" / f"{arm}-{seed}.pt")
        for seed in range(arguments.seeds)
        for arm in arguments.arms
    ]
    with Bar(len(runs) * config.epochs, arguments.quiet) as bar:
        results = [run.train(arguments.resume, bar.tick) for run in runs]
    results.sort(key=lambda result: arguments.arms.index(result["arm"]))
    training.report(results, config, data, out)
    return 0
