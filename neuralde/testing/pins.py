"""The file of pinned counts: JSON that a reviewer can read, in an order that does not change."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from neuralde.solvers import InvalidProblemError

from .record import CostRecorder, SolveCost

Entry = dict[str, Any]
FORMAT = 1
ABOUT = "Solver cost, pinned. Not written by hand: pytest --solver-cost-update. Review every change of a count."
LONGEST = 12
"""How many different solves an entry lists; the totals count all."""


class Pins:
    """The entries of one file.

    Args:
        path: the file; one that does not exist has no entries.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, Entry]:
        """Every entry by name."""
        if not self.path.is_file():
            return {}
        try:
            whole = json.loads(self.path.read_text(encoding="utf-8"))
            known, entries = whole["format"] == FORMAT, whole["entries"]
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidProblemError(
                f"path: {self.path} cannot be read as solver costs ({error}); expected the JSON file that an update writes"
            ) from None
        if not known:
            raise InvalidProblemError(
                f"path: {self.path} has format {whole['format']!r}; expected {FORMAT}, which this release writes"
            )
        return dict(entries)

    def write(self, new: dict[str, Entry]) -> None:
        """Put entries in, beside those that are there already; a reader never sees half a file."""
        entries = {**self.read(), **new}
        whole = {"about": ABOUT, "format": FORMAT, "entries": dict(sorted(entries.items()))}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=self.path.name, suffix=".part")
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
                file.write(_text(whole))
            os.chmod(name, 0o644)
            os.replace(name, self.path)
        except BaseException:
            os.unlink(name)
            raise


def _text(whole: dict[str, Any]) -> str:
    """JSON with a line for every solve, so that a diff shows whole solves."""
    lines = ["{", f' "about": {json.dumps(whole["about"])},', f' "format": {whole["format"]},', ' "entries": {']
    entries = whole["entries"].items()
    for place, (name, entry) in enumerate(entries):
        lines.append(f"  {json.dumps(name)}: {{")
        lines += [f'   "{key}": {json.dumps(entry[key])},' for key in ("tolerance", "versions", "total")]
        solves = [f"    {json.dumps(solve)}" for solve in entry["solves"]]
        lines += ['   "solves": [', ",\n".join(solves), "   ]", "  }" + ("," if place < len(entries) - 1 else "")]
    return "\n".join([*lines, " }", "}"]) + "\n"


def entry_of(recorder: CostRecorder, tolerance: float, versions: dict[str, str]) -> Entry:
    """What a file keeps of a recording: the totals, and the solves, equal neighbours taken together."""
    solves: list[dict[str, Any]] = []
    for solve in recorder.solves:
        row = _row(solve)
        if solves and {**solves[-1], "times": 1} == {**row, "times": 1}:
            solves[-1]["times"] = solves[-1].get("times", 1) + 1
        else:
            solves.append(row)
    return {
        "tolerance": tolerance,
        "versions": versions,
        "total": recorder.totals,
        "solves": solves[:LONGEST],
    }


def _row(solve: SolveCost) -> dict[str, Any]:
    """One solve; maxima to three digits, because the others are rounding, which differs between machines."""
    row = asdict(solve)
    row = {"solver": row.pop("solver"), "dtype": row.pop("dtype"), **row.pop("counts"), **row}
    for name in ("steps_per_time", "max_error", "max_stiffness"):
        row[name] = None if row[name] is None else float(f"{row[name]:.3g}")
    plain = {
        "samples": None,
        "steps_per_time": None,
        "slowest": None,
        "max_error": None,
        "max_stiffness": None,
        "status": "SUCCESS",
    }
    return {name: value for name, value in row.items() if not (name in plain and value == plain[name])}


def changed(old: Entry | None, new: Entry) -> bool:
    """Whether an update has something to say: other counts, solvers or tolerances, not only other versions or maxima."""
    if old is None or old["tolerance"] != new["tolerance"] or old["total"] != new["total"]:
        return True

    def told(entry: Entry) -> list[dict[str, Any]]:
        return [{k: v for k, v in s.items() if not k.startswith("max_")} for s in entry["solves"]]

    return told(old) != told(new)
