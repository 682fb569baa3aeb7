"""What commands leave behind: files of numbers, tables as text and as Markdown, pictures, and where they were made."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

Row = dict[str, Any]


def versions(*others: str) -> dict[str, str]:
    """Of Python, neuralde, torch and other packages, those that are installed."""
    found = {"python": platform.python_version()}
    for name in ("neuralde", "torch", *others):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found | {"torch": torch.__version__}


def machine(device: str = "cpu") -> Row:
    """Processor, cores, threads, system and device."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass  # not Linux, or a processor without a name
    found = {"cpu": name, "cores": os.cpu_count(), "threads": torch.get_num_threads(), "system": platform.platform()}
    return found | {"device": torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else "cpu"}


def commit() -> str | None:
    """The git commit of the library's source, if it is a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def write_json(path: Path, content: Mapping[str, Any]) -> Path:
    """A file of numbers, whole or not at all: what an interrupted command leaves can be read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return part.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """What :func:`write_json` has written."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def picture(path: Path, draw: Callable[[Any], object]) -> list[Path]:
    """A picture by ``draw(figure)``, where matplotlib is installed; what was written."""
    try:
        import matplotlib
    except ImportError:
        return []
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure = plt.figure(layout="constrained")
    try:
        draw(figure)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120)
    finally:
        plt.close(figure)
    return [path]


def text_table(rows: Iterable[Row], columns: Sequence[tuple[str, str, str]]) -> str:
    """Rows as text; a column is (title, key, format), text is on the left, and what a row lacks is a dash.

    >>> print(text_table([{"a": 1.5}, {}], [("A", "a", ".2f")]))
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


def markdown_table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table whose first column names the rows and whose others are numbers.

    >>> markdown_table(["", "calls"], [["Tsit5", "62"]])
    ['| | calls |', '|---|---:|', '| Tsit5 | 62 |']
    """
    return [
        f"| {' | '.join(titles)} |".replace("|  |", "| |"),
        "|---|" + "---:|" * (len(titles) - 1),
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def mean_and_deviation(mean: float, deviation: float, digits: int, scale: float = 1.0) -> str:
    """As reports show it.

    >>> mean_and_deviation(0.96, 0.007, 2, scale=100)
    '96.00 ± 0.70'
    """
    return f"{scale * mean:.{digits}f} ± {scale * deviation:.{digits}f}"
