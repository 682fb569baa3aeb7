"""The one command, ``neuralde``. Each subcommand imports what it needs when it runs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ._version import __version__


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status."""
    from . import bench
    from .experiments import reproduce, train

    parser = argparse.ArgumentParser(
        prog="neuralde", description="Differential equations in PyTorch that know their cost."
    )
    parser.add_argument("--version", action="version", version=f"neuralde {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("train", help="train a neural ODE, plainly and with the solver's cost in the loss")
    train.add_arguments(training)
    training.set_defaults(run=train.main)
    reproducing = commands.add_parser("reproduce", help="a paper's table: our numbers beside theirs")
    reproduce.add_arguments(reproducing)
    reproducing.set_defaults(run=reproduce.main)
    benching = commands.add_parser("bench", help="measure this library beside its peers")
    bench.add_arguments(benching)
    benching.set_defaults(run=bench.main)
    arguments = parser.parse_args(argv)
    return int(arguments.run(arguments))
