"""What a study is, and how its numbers become a file, a table and a picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ...reporting import Row, machine, picture, versions, write_json


@dataclass(frozen=True)
class Study:
    """A result that is computed, without training.

    Attributes:
        title: what it shows.
        source: where it is from.
        scales: what it computes at each scale, as options of ``run``.
        run: from the folder with the data, or None, and the scale's options, its numbers.
        report: lines of Markdown from the numbers.
        draw: a picture from the numbers.
        data_help: what ``--data`` must hold; empty where it needs nothing.
    """

    title: str
    source: str
    scales: Mapping[str, Mapping[str, Any]]
    run: Callable[..., Row]
    report: Callable[[Row], list[str]]
    draw: Callable[[Row, Any], None]
    data_help: str = ""


def reproduce(name: str, study: Study, scale: str, folder: Path | None, out: Path) -> list[Path]:
    """Compute a study, and write ``results.json``, ``table.md`` and, where matplotlib is installed, ``results.png``."""
    started = datetime.now(timezone.utc).isoformat(timespec="seconds")
    options = study.scales[scale]
    numbers = study.run(folder, **options)
    about: Row = {"study": name, "scale": scale, "started": started, "options": dict(options)}
    about |= {"versions": versions("numpy"), "machine": machine()}
    lines = [f"# {study.title}", "", f"`neuralde reproduce {name} --scale {scale}`. Source: {study.source}.", ""]
    if scale == "smoke":
        lines += ["**A run of the machinery, not a reproduction. No number means anything.**", ""]
    lines += [*study.report(numbers), "", "## Where and when", ""]
    lines += [f"- {key}: {value}" for part in ("versions", "machine") for key, value in about[part].items()]
    lines += [f"- options: {dict(options)}", f"- started: {started}"]
    written = [write_json(out / "results.json", about | numbers)]
    table = out / "table.md"
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return [*written, table, *picture(out / "results.png", lambda figure: study.draw(numbers, figure))]
