"""``neuralde bench``: what a solve costs, measured beside its peers in one process and printed beside the targets."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from .options import device, positive

BENCHMARKS = {
    "speed": "whole solves against torchdiffeq, torchode and Diffrax: forward, forward+backward, eager, compiled",
    "workprecision": "error against field calls and time over DETEST's 25 nonstiff problems, against torchdiffeq, SciPy",
    "persample": "one hard sample in an easy batch: field rows evaluated, against torchdiffeq and torchode",
    "memory": "peak bytes against steps and parameters for each adjoint; live tensors over many solves",
    "adjoints": "field calls, peak bytes, time and gradient error against the tolerance, for each adjoint",
    "scaling": "cost per step against batch, dimension, steps and parameters, beside that of the field",
    "cuda": "on a GPU: host syncs and time of the eager loop, blocks, captured blocks and a compiled solve",
    "sde": "stochastic solves with fixed steps, against torchsde and a loop by hand",
    "events": "128 event functions on one state, as one function and as many, against SciPy",
    "signatures": "signatures of a batch of paths and their gradients, against signax under jit and pySigLib",
    "koopman": "dynamic mode decomposition of 1,000 snapshots of 10,000 numbers, against PyDMD",
    "fractional": "exact paths of fractional Brownian motion, against fbm, stochastic and torchfbm",
    "long_series": "seconds per 1,000 observations of a long series: log-ODE windows, each observation, torchcde",
    "overhead": "microseconds per step beyond the field; the time to import the library",
}
ROOMS = {
    "sde": "noise.sde",
    "fractional": "noise.fractional",
    "signatures": "controlled.signatures",
    "long_series": "controlled.long_series",
}
"""Where the module of a benchmark is, if not beside the others."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``neuralde bench``."""
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which (default all): {', '.join(BENCHMARKS)}")
    parser.add_argument("--list", action="store_true", help="list the benchmarks")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that everything runs; no result")
    parser.add_argument("--repeats", type=positive, default=7, help="timed repetitions of each contender (default 7)")
    parser.add_argument("--device", type=device, default="cpu", help="where to compute, cuda say (default cpu)")
    parser.add_argument(
        "--out", type=Path, help="where JSON and pictures go (default tests/benchmarks/results, else runs/bench)"
    )


def main(arguments: argparse.Namespace) -> int:
    """Run the benchmarks; the exit status."""
    if arguments.list:
        print("\n".join(f"{name:<14} {about}" for name, about in BENCHMARKS.items()))
        return 0
    unknown = [name for name in arguments.names if name not in BENCHMARKS]
    if unknown:
        print(f"NAME: got {', '.join(unknown)}; expected some of {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    from .benchmarks import measuring

    settings = measuring.Settings(arguments.quick, arguments.repeats, arguments.device)
    out = arguments.out or default_out(arguments.quick)
    for name in arguments.names or BENCHMARKS:
        print(f"== {name}: {BENCHMARKS[name]}", flush=True)
        benchmark = importlib.import_module(f".benchmarks.{ROOMS.get(name, name)}", __package__)
        result = benchmark.run(settings)
        if "skipped" in result:
            print(f"skipped: {result['skipped']}")
            continue
        if arguments.quick:
            result = measuring.unjudged(result)
        print(benchmark.show(result))
        for path in measuring.write(name, result, settings, out, benchmark.draw):
            print(path)
    return 0


def default_out(quick: bool = False) -> Path:
    """The results folder of a checkout that is the working directory; elsewhere, and for smoke runs, ``runs/bench``."""
    checkout = Path("tests/benchmarks/results")
    return checkout if checkout.is_dir() and Path("setup.cfg").exists() and not quick else Path("runs/bench")
