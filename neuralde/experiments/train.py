"""``neuralde train``: the experiments, their options, and what happens when they are interrupted."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from . import classify, mocap, spiral
from .arms import ARMS
from .classify import Config
from .data import DataError, digits, mnist
from .experiment import ACCURACY
from .report import table, write, write_numbers
from .training import CheckpointError

EXPERIMENTS = {
    "digits": "1,797 real 8x8 digits that scikit-learn bundles; about two minutes",
    "mnist": "MNIST's 28x28 digits from a folder with its idx files (--data)",
    "spiral-sde": "a neural SDE fitted to means and variances of noisy spirals; minutes",
    "latent-sde": "a latent SDE of walking from motion capture: --data mocap35.mat; minutes",
}
ARMS_OF = {"spiral-sde": [*spiral.ARMS], "latent-sde": [*mocap.ARMS]}
"""Of the experiments that have arms of their own."""
DEFAULTS: dict[str, Any] = {
    "spiral-sde": spiral.Config(per_sample=True),
    "latent-sde": mocap.Config(),
    "digits": Config(),
    "mnist": Config(experiment="mnist", epochs=10, hidden=100, learning_rate=1e-3, tolerance=1e-6),
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
    parser.add_argument("--out", type=Path, help="where results and checkpoints go (default runs/NAME)")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoints in --out")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def positive(text: str) -> int:
    """A positive whole number from the command line."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"got {text}; expected a positive number")
    return value


def main(arguments: argparse.Namespace) -> int:
    """Run an experiment; the exit status."""
    if arguments.list or arguments.name is None:
        print("\n".join(f"{name:<11} {text}" for name, text in EXPERIMENTS.items()))
        own = "".join(f"; of {name}: {', '.join(arms)}" for name, arms in ARMS_OF.items())
        print(f"arms: {', '.join(ARMS)}{own}")
        return 0 if arguments.list else 2
    arms = ARMS_OF.get(arguments.name, [*ARMS])
    if arguments.arms is None:
        arguments.arms = arms if arguments.name == "latent-sde" else ["vanilla", "error"]
    unknown = [arm for arm in arguments.arms if arm not in arms]
    if unknown:
        print(f"--arms: got {', '.join(unknown)}; expected some of {', '.join(arms)}", file=sys.stderr)
        return 2
    out = arguments.out or Path("runs") / arguments.name
    try:
        return _run(arguments, _config(arguments), out)
    except (DataError, CheckpointError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            f"\ninterrupted; finished epochs are kept in {out}: the same command with --resume goes on", file=sys.stderr
        )
        return 130


def _config(arguments: argparse.Namespace) -> Any:
    usual = DEFAULTS[arguments.name]
    given = {field.name: getattr(arguments, field.name, None) for field in fields(usual)}
    return replace(usual, **{name: value for name, value in given.items() if value is not None})


def _data(arguments: argparse.Namespace, config: Any) -> Any:
    if arguments.name == "spiral-sde":
        return spiral.truth(config)
    if arguments.name == "latent-sde":
        return mocap.read(arguments.data)
    # float64, because the tolerance is near float32's rounding, where steps and penalty would measure noise.
    if arguments.name == "digits":
        return digits(torch.float64)
    if arguments.data is None:
        raise DataError("--data: got none; expected the folder with MNIST's four idx files")
    return mnist(arguments.data, torch.float64, config.train_size, config.test_size)


def _run(arguments: argparse.Namespace, config: Any, out: Path) -> int:
    data = _data(arguments, config)
    kinds = {"spiral-sde": spiral.Run, "latent-sde": mocap.Run}
    kind, quality = kinds.get(arguments.name, classify.Run), spiral.LOSS if arguments.name == "spiral-sde" else ACCURACY
    runs = [
        kind(arm, seed, config, data, out / "checkpoints" / f"{arm}-{seed}.pt")
        for seed in range(arguments.seeds)
        for arm in arguments.arms
    ]
    results = []
    with Bar(len(runs) * config.epochs, arguments.quiet) as bar:
        for run in runs:
            results.append(run.train(arguments.resume, bar.tick))
    results.sort(key=lambda result: arguments.arms.index(result["arm"]))
    if arguments.name == "latent-sde":
        rules = mocap.baselines(data, config.seen)
        print(mocap.table(results, rules))
        print(write_numbers(results, config, out, {"baselines": rules}))
        return 0
    print(table(results, quality))
    for path in write(results, config, out, quality):
        print(path)
    return 0


class Bar:
    """A progress bar over epochs, silent where nobody watches."""

    def __init__(self, total: int, quiet: bool) -> None:
        self.bar: Any = None
        if not quiet and sys.stderr.isatty() and not os.environ.get("CI"):
            try:
                from tqdm import tqdm
            except ImportError:
                return
            self.bar = tqdm(total=total, unit="epoch", dynamic_ncols=True)

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def tick(self, line: str) -> None:
        """One epoch is done."""
        if self.bar is not None:
            self.bar.set_description(line)
            self.bar.update()
