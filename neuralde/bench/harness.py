"""What the benchmarks share: timing in turn, counting, the machine, tables, files."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

Run = Callable[[], Any]
Row = dict[str, Any]
PATIENCE = 20.0


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


def alternate(runs: Mapping[str, Run], settings: Settings) -> dict[str, Row]:
    """Milliseconds of every run, taken in turn after a warm-up: ``ms`` (the median), ``low`` and ``high``.

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
            start = time.perf_counter()
            run()
            settings.synchronize()
            taken[name].append(1e3 * (time.perf_counter() - start))
    return {name: dict(ms=statistics.median(ms), low=min(ms), high=max(ms)) for name, ms in taken.items()}


class _Reads(TorchDispatchMode):
    """Counts the operators that hand a tensor's value to Python, on which a GPU's queue would be waited for."""

    SYNCS = ("_local_scalar_dense", "nonzero", "equal")

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.overloadpacket.__name__ in self.SYNCS
        return func(*args, **(kwargs or {}))


class _Lists(TorchFunctionMode):
    """Counts ``Tensor.tolist`` and ``Tensor.numpy``, which read memory without an operator."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += getattr(func, "__name__", "") in ("tolist", "numpy")
        return func(*args, **(kwargs or {}))


def host_syncs(run: Run) -> int:
    """How often an eager run reads a tensor's value from Python.

    >>> host_syncs(lambda: bool(torch.ones(1) > 0))
    1
    """
    with _Reads() as reads, _Lists() as lists:
        run()
    return reads.count + lists.count


class _Allocations(TorchDispatchMode):
    """Follows every storage that an operator makes until it is freed."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {id(x.untyped_storage()) for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        for leaf in pytree.tree_leaves(out):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                if id(storage) not in self._known and id(storage) not in given:
                    self._known.add(id(storage))
                    self.live += storage.nbytes()
                    weakref.finalize(storage, self._freed, id(storage), storage.nbytes())
        self.peak = max(self.peak, self.live)
        return out

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def peak_bytes(run: Run, settings: Settings | None = None) -> int:
    """The most bytes of tensors that an eager run holds at one time, beside those that existed before.

    On a GPU the allocator says; on the CPU the results of all operators are followed, which does not see the scratch
    memory inside an operator.

    >>> peak_bytes(lambda: torch.ones(1000).add(1.0).sum())
    8000
    """
    if settings is not None and settings.cuda:
        settings.synchronize()
        torch.cuda.reset_peak_memory_stats(settings.device)
        before = torch.cuda.memory_allocated(settings.device)
        run()
        settings.synchronize()
        return torch.cuda.max_memory_allocated(settings.device) - before
    with _Allocations() as allocations:
        run()
    return allocations.peak


def machine(settings: Settings) -> Row:
    """Processor, cores, threads, device."""
    info = Path("/proc/cpuinfo")
    models = [line for line in info.read_text().split("\n") if line.startswith("model name")] if info.exists() else []
    return {
        "cpu": models[0].partition(":")[2].strip() if models else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(settings.device) if settings.cuda else "cpu",
        "system": platform.platform(),
    }


def versions() -> dict[str, str]:
    """Python and every library that takes part, where it is installed."""
    found = {"python": platform.python_version()}
    for name in (
        "neuralde",
        "torch",
        "numpy",
        "scipy",
        "torchdiffeq",
        "torchode",
        "torchsde",
        "diffrax",
        "jax",
        "jaxlib",
    ):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The git commit of the library's source, if it is a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def write(name: str, result: Row, settings: Settings, out: Path, draw: Callable[[Row, Any], None]) -> list[Path]:
    """Write ``NAME.json`` and, where matplotlib is installed, ``NAME.png``; returns what was written."""
    out.mkdir(parents=True, exist_ok=True)
    about = {
        "benchmark": name,
        "quick": settings.quick,
        "repeats": settings.repeats,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(settings),
        "versions": versions(),
        "commit": commit(),
    }
    path = out / f"{name}.json"
    path.write_text(json.dumps(about | result, indent=1) + "\n")
    try:
        import matplotlib
    except ImportError:
        print("no picture: pip install matplotlib")
        return [path]
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure = plt.figure(layout="constrained")
    draw(result, figure)
    figure.savefig(out / f"{name}.png", dpi=120)
    plt.close(figure)
    return [path, out / f"{name}.png"]


def table(rows: Iterable[Row], columns: Sequence[tuple[str, str, str]]) -> str:
    """Rows as text; a column is (title, key, format), and what a row lacks is a dash.

    >>> print(table([{"a": 1.5}, {}], [("A", "a", ".2f")]))
    A
    1.50
    -
    """

    def cell(row: Row, key: str, form: str) -> str:
        value = row.get(key)
        return "-" if value is None else format(value, "" if isinstance(value, (str, bool)) else form)

    texts = [[title for title, _, _ in columns]]
    texts += [[cell(row, key, form) for _, key, form in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    left = [not form for _, _, form in columns]
    lines = [
        "  ".join(
            text.ljust(width) if to_left else text.rjust(width)
            for text, width, to_left in zip(line, widths, left, strict=True)
        ).rstrip()
        for line in texts
    ]
    return "\n".join(lines)


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
