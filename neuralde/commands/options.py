"""Options and a progress bar that several commands have."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import torch


def add_running(parser: argparse.ArgumentParser, out: str) -> None:
    """Declare the options that say where and how a command runs."""
    parser.add_argument("--device", type=device, default="cpu", help="where to compute, cuda say (default cpu)")
    parser.add_argument(
        "--threads",
        type=positive,
        default=1,
        help="of torch, on a CPU (default 1: others' waiting would count as time)",
    )
    parser.add_argument("--out", type=Path, help=out)
    parser.add_argument(
        "--quiet", action="store_true", help="neither a progress bar nor, without a terminal, a line per epoch"
    )


def device(text: str) -> str:
    """A device on which this machine can compute."""
    try:
        if torch.device(text).type not in ("cpu", "cuda"):
            raise RuntimeError("not one of these")
        torch.empty(0, device=text)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        why = str(error).splitlines()[0]
        raise argparse.ArgumentTypeError(
            f"got {text!r}; expected cpu, or a CUDA device of this machine ({why})"
        ) from None
    return text


def positive(text: str) -> int:
    """A positive whole number from the command line."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"got {text}; expected a positive number")
    return value


class Bar:
    """A progress bar over epochs on a terminal (with tqdm), elsewhere a line for each of them."""

    def __init__(self, total: int, quiet: bool) -> None:
        self.bar: Any = None
        self.total, self.done, self.quiet = total, 0, quiet
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
        self.done += 1
        if self.bar is not None:
            self.bar.set_description(line)
            self.bar.update()
        elif not self.quiet:
            print(f"[{self.done}/{self.total}] {line}", file=sys.stderr, flush=True)
