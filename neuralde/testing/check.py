"""Counts pinned in a file beside the test: compared, explained, rewritten."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from neuralde.solvers import InvalidProblemError
from neuralde.solvers.checks import number

from .._version import __version__
from .pins import Entry, Pins, changed, entry_of
from .record import CostRecorder

TOLERANCE = 0.1


class SolverCostError(AssertionError):
    """A solve costs more than the file allows, or the file has no entry for it.

    Raised by:
        :meth:`SolverCost.check`.

    Example:
        >>> import tempfile, pathlib, neuralde as nde
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "costs.json"
        >>> try:
        ...     nde.testing.SolverCost(path, update=True).check("nothing", lambda: None)
        ... except nde.testing.SolverCostError as error:
        ...     print(str(error).split(",")[0])
        solver cost of 'nothing': nothing was solved inside
    """


class SolverCost:
    """Checks what solves cost against a file of pinned counts; in pytest the fixture ``solver_cost`` is one.

    Args:
        path: the file, made by the first update.
        update: write instead of compare.
        tolerance: by which fraction a count may rise. A change of rounding (another processor or release of torch) can
            turn an accepted step into a rejected one, so 0 is for fields that no rounding touches.
        hint: how to update, for messages.

    Attributes:
        improved: a line for every check that found fewer calls than are pinned.
        written: the entries that updating has measured, by name.

    Raises:
        InvalidProblemError: ``tolerance`` is no number from 0 on; in :meth:`check`, a name or a function that is none,
            or a file that is not one of pinned counts.
        SolverCostError: in :meth:`check`, a count rose, or there is no entry, or nothing was solved.

    When to take it:
        In the tests of a model, so that a change that makes it dearer is seen. :class:`CostRecorder` where the counts
        are read by other code; :class:`CostLogger` during a training.

    Example:
        >>> import tempfile, pathlib, torch, neuralde as nde
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "costs.json"
        >>> problem = nde.ODEProblem(lambda t, y: -y, torch.ones(1, dtype=torch.float64), (0.0, 1.0))
        >>> _ = nde.testing.SolverCost(path, update=True).check("decay", lambda: nde.solve(problem))
        >>> nde.testing.SolverCost(path).check("decay", lambda: nde.solve(problem)).nfe > 0
        True
        >>> nde.testing.SolverCost(path).check("decay", lambda: nde.solve(problem, rtol=1e-9))
        Traceback (most recent call last):
            ...
        neuralde.testing.check.SolverCostError: solver cost of 'decay' rose by more than 10 %
        ...
    """

    def __init__(
        self,
        path: str | Path,
        *,
        update: bool = False,
        tolerance: float = TOLERANCE,
        hint: str = "SolverCost(path, update=True)",
    ) -> None:
        self.pins = Pins(Path(path))
        self.update, self.tolerance, self.hint = update, _fraction(tolerance), hint
        self.improved: list[str] = []
        self.written: dict[str, Entry] = {}

    def check(
        self, name: str, run: Callable[[], Any], *, tolerance: float | None = None, seed: int | None = 0
    ) -> CostRecorder:
        """Run, and compare the counts of every solve inside with those pinned under a name.

        Args:
            name: the entry, unique in its file.
            run: a function without arguments; what it returns is thrown away.
            tolerance: by which fraction counts may rise; None: as for the whole object.
            seed: torch's generators start from it inside, and go on outside as if nothing had happened, so that the
                count does not depend on what ran before; None leaves them alone.

        Returns:
            What was recorded.

        Raises:
            SolverCostError: a count rose by more than the tolerance, or there is no entry, or nothing was solved.
        """
        __tracebackhide__ = True
        if not isinstance(name, str) or not name:
            raise InvalidProblemError(f"name: got {name!r}; expected a text that names the entry")
        if not callable(run):
            raise InvalidProblemError(
                f"run: got {type(run).__name__}; expected a function without arguments, such as lambda: model(x)"
            )
        tolerance = self.tolerance if tolerance is None else _fraction(tolerance)
        recorder = CostRecorder()
        with torch.random.fork_rng(enabled=seed is not None), recorder:
            if seed is not None:
                torch.manual_seed(seed)
            run()
        if not recorder.solves:
            raise SolverCostError(
                f"solver cost of {name!r}: nothing was solved inside, or only in a function under torch.compile, which "
                "cannot be seen; expected calls of solve() or of a model"
            )
        now = entry_of(recorder, tolerance, {"neuralde": __version__, "torch": torch.__version__.split("+")[0]})
        if self.update:
            self._write(name, now)
        else:
            self._compare(name, now, tolerance)
        return recorder

    def _write(self, name: str, now: Entry) -> None:
        if changed(self.pins.read().get(name), now):
            self.written[name] = now
            self.pins.write({name: now})

    def _compare(self, name: str, now: Entry, tolerance: float) -> None:
        __tracebackhide__ = True
        pinned = self.pins.read().get(name)
        if pinned is None:
            raise SolverCostError(
                f"solver cost of {name!r}: {self.pins.path} has no entry; make it with {self.hint}, read it, and commit it"
            )
        risen = [row for row in _rows(pinned, now, tolerance) if row[4]]
        if risen:
            raise SolverCostError(_explained(name, pinned, now, tolerance, self.pins.path, self.hint))
        before, after = pinned["total"]["nfe"], now["total"]["nfe"]
        if after < before:
            self.improved.append(f"{name}: {before} -> {after} field calls ({_percent(before, after)})")


def _fraction(value: Any) -> float:
    return number(value, "tolerance", "a fraction, 0 or positive, such as 0.1", least=0.0)


def allowed(name: str, pinned: dict[str, int], tolerance: float) -> int:
    """The largest count that passes. Rejections are rare, so their allowance is a fraction of all steps.

    >>> allowed("nfe", {"nfe": 62}, 0.1), allowed("rejected", {"rejected": 0, "steps": 20}, 0.1)
    (68, 2)
    """
    base = pinned.get("steps", 0) if name == "rejected" else pinned.get(name, 0)
    # A product such as 0.1 * 30 lies a rounding above or below the whole number that is meant.
    return pinned.get(name, 0) + math.floor(tolerance * base + 1e-9)


def _rows(pinned: Entry, now: Entry, tolerance: float) -> list[tuple[str, Any, Any, Any, bool]]:
    """Name, pinned, now, allowed, and whether that is too much."""
    before, after = pinned["total"], now["total"]
    rows: list[tuple[str, Any, Any, Any, bool]] = []
    for name in dict.fromkeys([*before, *after]):
        most = allowed(name, before, tolerance)
        judged = name != "solves"
        rows.append((name, before.get(name), after.get(name), most if judged else None, False))
        if judged and after.get(name, 0) > most:
            rows[-1] = (*rows[-1][:4], True)
    for name in ("max_error", "max_stiffness", "steps_per_time"):
        old, new = ([s[name] for s in e["solves"] if s.get(name) is not None] for e in (pinned, now))
        if old or new:
            rows.append((name, max(old, default=None), max(new, default=None), None, False))
    return rows


def _explained(name: str, pinned: Entry, now: Entry, tolerance: float, path: Path, hint: str) -> str:
    """The message of a failed check."""
    lines = [f"solver cost of {name!r} rose by more than {100 * tolerance:g} %", ""]
    lines.append(f"  {'':<16}{'pinned':>12}{'now':>12}{'allowed':>12}")
    for what, old, new, most, bad in _rows(pinned, now, tolerance):
        cells = "".join(
            f"{'-' if x is None else format(x, 'g') if isinstance(x, float) else x:>12}" for x in (old, new, most)
        )
        lines.append(f"  {what.replace('_', ' '):<16}{cells}{'   ' + _percent(old, new) + '  <--' if bad else ''}")
    for what in ("solver", "dtype", "rtol", "atol", "samples", "status"):
        old, new = (list(dict.fromkeys(str(s.get(what)) for s in e["solves"])) for e in (pinned, now))
        if old != new:
            lines.append(f"  {what}: pinned {', '.join(old)}; now {', '.join(new)}")
    for what, version in now["versions"].items():
        if pinned["versions"].get(what) != version:
            lines.append(f"  pinned with {what} {pinned['versions'].get(what)}, now {version}")
    return "\n".join([*lines, "", f"  pinned in {path}; if the rise is meant: {hint}"])


def _percent(before: int, after: int) -> str:
    return f"{100 * (after / before - 1):+.0f} %" if before else "from 0"
