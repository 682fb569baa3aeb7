"""The one command, ``neuralde``. Each subcommand imports what it needs when it runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from .._version import __version__
from .extras import MissingExtraError


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status. An interrupted command gives 130, and what it has written stays."""
    try:
        arguments = _parsed(argv)
        return int(arguments.run(arguments))
    except MissingExtraError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; what was written is kept", file=sys.stderr)
        return 130


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    from . import bench, reproduce, train

    parser = _Parser(prog="neuralde", description="Differential equations in PyTorch that know their cost.")
    parser.add_argument("--version", action="version", version=f"neuralde {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("train", help="train a neural ODE, plainly and with the solver's cost in the loss")
    train.add_arguments(training)
    training.set_defaults(run=train.main)
    reproducing = commands.add_parser("reproduce", help="a paper's table: measured numbers beside the paper's")
    reproduce.add_arguments(reproducing)
    reproducing.set_defaults(run=reproduce.main)
    benching = commands.add_parser("bench", help="measure this library beside its peers")
    bench.add_arguments(benching)
    benching.set_defaults(run=bench.main)
    return parser.parse_args(argv)
