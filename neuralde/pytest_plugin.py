"""The pytest plugin: the fixture ``solver_cost`` and the option ``--solver-cost-update``.

pytest imports this module at every start, so it imports nothing that is heavy.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .testing import SolverCost

_IMPROVED, _WRITTEN = "solver_cost_improved", "solver_cost_written"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the option."""
    group = parser.getgroup("neuralde", "solver cost (neuralde)")
    group.addoption(
        "--solver-cost-update",
        action="store_true",
        help="write the counts of solver_cost.check(...) into the files beside the tests instead of comparing",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Begin to collect what the tests report."""
    config.pluginmanager.register(_Collected(config), "neuralde-solver-cost")


@pytest.fixture
def solver_cost(request: pytest.FixtureRequest) -> Iterator[SolverCost]:
    """Pins what solves cost: ``solver_cost.check("name", lambda: model(x))``, in ``TEST_MODULE.cost.json``."""
    from .testing.check import SolverCost
    from .testing.pins import Entry, changed

    class Fixture(SolverCost):
        """Leaves writing to the process that sees every report, so that parallel workers do not write one file."""

        def _write(self, name: str, now: Entry) -> None:
            if changed(self.pins.read().get(name), now):
                self.written[name] = now

        def check(self, name: str, *rest: Any, **options: Any) -> Any:
            """Refuse a name that another test of the file has taken."""
            __tracebackhide__ = True
            owner = taken.setdefault((str(self.pins.path), name), request.node.nodeid)
            if owner != request.node.nodeid:
                pytest.fail(
                    f"solver cost {name!r} is checked by {owner} too; expected a name of its own", pytrace=False
                )
            return super().check(name, *rest, **options)

    config, path = request.config, Path(request.path)
    taken: dict[tuple[str, str], str] = config.stash.setdefault(_TAKEN, {})
    hint = f"pytest --solver-cost-update {request.node.nodeid!r}"
    costs = Fixture(path.with_name(f"{path.stem}.cost.json"), update=config.getoption("solver_cost_update"), hint=hint)
    yield costs
    for line in costs.improved:
        request.node.user_properties.append((_IMPROVED, f"{request.node.nodeid}: {line}"))
    if costs.written:
        message = json.dumps({"path": str(costs.pins.path), "entries": costs.written})
        request.node.user_properties.append((_WRITTEN, message))


_TAKEN: pytest.StashKey[dict[tuple[str, str], str]] = pytest.StashKey()


class _Collected:
    """What the tests of all workers report, written once by the process that leads them."""

    def __init__(self, config: pytest.Config) -> None:
        self.leads = not hasattr(config, "workerinput")
        self.improved: list[str] = []
        self.files: dict[str, dict[str, Any]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Read a test's lines; they come with the report of its teardown."""
        if report.when != "teardown":
            return
        for name, value in report.user_properties:
            if name == _IMPROVED:
                self.improved.append(str(value))
            elif name == _WRITTEN:
                message = json.loads(str(value))
                self.files.setdefault(message["path"], {}).update(message["entries"])

    def pytest_sessionfinish(self) -> None:
        """Write the files."""
        if not self.leads or not self.files:
            return
        from .testing.pins import Pins

        for path, entries in self.files.items():
            Pins(Path(path)).write(entries)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say what was written and what has become cheaper."""
        if self.files or self.improved:
            terminalreporter.section("solver cost")
        for path, entries in self.files.items():
            terminalreporter.write_line(f"{path}: wrote {', '.join(sorted(entries))}; review the change and commit it")
        for line in self.improved:
            terminalreporter.write_line(line)
        if self.improved:
            terminalreporter.write_line("cheaper than pinned; --solver-cost-update keeps it so")
