"""``neuralde bench``: this library against torchdiffeq in one process, alternating, as ratios."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from neuralde.adjoints import DirectAdjoint, DiscreteAdjoint
from neuralde.solvers import ODEProblem

from .._version import __version__
from ..solve import solve

SIZES = {"small": (20, 2, 50), "middle": (128, 64, 64), "large": (512, 64, 128)}
TOLERANCE = 1e-6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``neuralde bench``."""
    parser.add_argument("--repeats", type=int, default=7, help="timed repetitions of each side (default 7)")
    parser.add_argument("--out", type=Path, help="write the numbers to this JSON file")


def main(arguments: argparse.Namespace) -> int:
    """Run the benchmarks; the exit status."""
    try:
        import torchdiffeq
    except ImportError:
        print("neuralde bench compares with torchdiffeq: pip install torchdiffeq", file=sys.stderr)
        return 2
    rows = [row for size in SIZES for row in _size(size, torchdiffeq, arguments.repeats)]
    print(
        f"{'size':<8}{'what':<28}{'ms':>9}{'torchdiffeq ms':>16}{'ratio':>8}{'nfe':>6}{'theirs':>8}{'error':>10}{'theirs':>10}"
    )
    for row in rows:
        print(
            f"{row['size']:<8}{row['what']:<28}{row['ms']:>9.2f}{row['peer_ms']:>16.2f}{row['ratio']:>7.2f}x"
            f"{row['nfe']:>6}{row['peer_nfe']:>8}{row['error']:>10.1e}{row['peer_error']:>10.1e}"
        )
    about = {
        "versions": {"neuralde": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "machine": {"processor": platform.machine(), "threads": torch.get_num_threads()},
        "rows": rows,
    }
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(about, indent=1) + "\n")
    return 0


def _size(size: str, torchdiffeq: Any, repeats: int) -> list[dict[str, Any]]:
    """Every comparison at one size; ratios above 1 mean that this library is faster."""
    batch, dim, hidden = SIZES[size]
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(dim, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, dim))
    y0, span = torch.randn(batch, dim), torch.tensor([0.0, 10.0])
    calls = [0]

    def field(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        calls[0] += 1
        return net(y)

    problem = ODEProblem(field, y0, (0.0, 10.0))
    exact = solve(
        ODEProblem(lambda t, y: net.double()(y), y0.double(), (0.0, 10.0)), rtol=1e-11, atol=1e-12
    ).y1.detach()
    net.float()

    def ours(adjoint: Any = None) -> torch.Tensor:
        return solve(problem, rtol=TOLERANCE, atol=TOLERANCE, adjoint=adjoint).y1

    def theirs(function: Any = torchdiffeq.odeint, **options: Any) -> torch.Tensor:
        return function(field, y0, span, rtol=TOLERANCE, atol=TOLERANCE, method="dopri5", **options)[-1]

    def quiet(run: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        return torch.no_grad()(run)

    def trained(run: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        def step() -> torch.Tensor:
            net.zero_grad()
            y1 = run()
            y1.square().sum().backward()
            return y1.detach()

        return step

    adjoint = lambda: theirs(torchdiffeq.odeint_adjoint, adjoint_params=tuple(net.parameters()))  # noqa: E731
    pairs = [
        ("forward", quiet(ours), quiet(theirs)),
        ("forward+backward direct", trained(lambda: ours(DirectAdjoint())), trained(theirs)),
        ("forward+backward discrete", trained(lambda: ours(DiscreteAdjoint())), trained(adjoint)),
    ]
    rows = []
    for what, mine, peer in pairs:
        counts, errors = [], []
        for run in (mine, peer):
            calls[0] = 0
            errors.append((run() - exact).abs().max().item())
            counts.append(calls[0])
        ms, peer_ms = _alternate(mine, peer, repeats)
        rows.append(
            dict(size=size, what=what, ms=ms, peer_ms=peer_ms, ratio=peer_ms / ms, nfe=counts[0], peer_nfe=counts[1])
            | dict(error=errors[0], peer_error=errors[1])
        )
    return rows


def _alternate(mine: Callable[[], Any], peer: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Median milliseconds of both, taken in turn after a warm-up."""
    times: tuple[list[float], list[float]] = ([], [])
    for run in (mine, peer):
        run()
    for _ in range(repeats):
        for run, taken in zip((mine, peer), times, strict=True):
            start = time.perf_counter()
            run()
            taken.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[0]), statistics.median(times[1])
