"""What the benchmarks share: settings, timing in turn, verdicts, files."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..reporting import Row, commit, machine, picture, versions, write_json

Run = Callable[[], Any]
PATIENCE = 20.0
LIBRARIES = (
    "numpy",
    "scipy",
    "torchdiffeq",
    "torchode",
    "torchsde",
    "torchcde",
    "diffrax",
    "jax",
    "jaxlib",
    "signax",
    "pysiglib",
    "pydmd",
    "fbm",
    "stochastic",
    "torchfbm",
)
"""Those that take part, whose versions a result names."""


@dataclass(frozen=True)
class Settings:
    """What the command line asked for.

    Args:
        quick: tiny sizes, to see that everything runs.
        repeats: timed repetitions.
        device: where to compute.
    """

    quick: bool = False
    repeats: int = 7
    device: str = "cpu"

    def __post_init__(self) -> None:
        torch.empty(0, device=self.device)  # refuses a device that does not exist

    @property
    def cuda(self) -> bool:
        """Whether the device is a GPU."""
        return torch.device(self.device).type == "cuda"

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.cuda:
            torch.cuda.synchronize(self.device)


def mlp(dim: int, hidden: int, device: str = "cpu") -> nn.Sequential:
    """The tanh field of the benchmarks, two hidden layers, always the same weights."""
    torch.manual_seed(0)
    layers = (nn.Linear(dim, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, dim))
    return nn.Sequential(*layers).to(device)


def alternate(
    runs: Mapping[str, Run], settings: Settings, clock: Callable[[], float] = time.perf_counter
) -> dict[str, Row]:
    """Milliseconds of every run, taken in turn after a warm-up: ``ms`` (the median), ``low`` and ``high``.

    The ``clock`` is the wall's; of work that one processor does, ``time.process_time`` is disturbed less by other work.
    Where a round is long, no further one starts after :data:`PATIENCE` seconds, once there have been three.
    """
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    begin = time.perf_counter()
    for done in range(1 if settings.quick else settings.repeats):
        if done >= 3 and time.perf_counter() - begin > PATIENCE:
            break
        for name, run in runs.items():
            settings.synchronize()
            start = clock()
            run()
            settings.synchronize()
            taken[name].append(1e3 * (clock() - start))
    return {name: dict(ms=statistics.median(ms), low=min(ms), high=max(ms)) for name, ms in taken.items()}


def write(name: str, result: Row, settings: Settings, out: Path, draw: Callable[[Row, Any], None]) -> list[Path]:
    """Write ``NAME.json`` and, where matplotlib is installed, ``NAME.png``; returns what was written."""
    about = {
        "benchmark": name,
        "quick": settings.quick,
        "repeats": settings.repeats,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(settings.device),
        "versions": versions(*LIBRARIES),
        "commit": commit(),
    }
    pictures = picture(out / f"{name}.png", lambda figure: draw(result, figure))
    if not pictures:
        print("no picture: pip install 'neuralde[bench]'")
    return [write_json(out / f"{name}.json", about | result), *pictures]


def verdict(ratio: float, target: float | None, at_most: bool = False) -> str | None:
    """Whether a ratio reaches its target."""
    if target is None:
        return None
    return "met" if (ratio <= target if at_most else ratio >= target) else "NOT MET"


def unjudged(result: Any) -> Any:
    """A result without targets and verdicts, for runs too small to be judged.

    >>> unjudged({"rows": [{"ratio": 0.1, "target": 2.0, "verdict": "NOT MET"}]})
    {'rows': [{'ratio': 0.1}]}
    """
    if isinstance(result, dict):
        return {key: unjudged(value) for key, value in result.items() if key not in ("target", "verdict")}
    return [unjudged(row) for row in result] if isinstance(result, list) else result
