"""What `make matrix` writes: a row for each pair of versions, the newest run of it."""

import importlib.machinery
import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / ".ci" / "matrix"


@pytest.fixture
def matrix():
    if not SCRIPT.exists():
        pytest.skip("needs the source tree")
    loader = importlib.machinery.SourceFileLoader("matrix", str(SCRIPT))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("matrix", loader))
    loader.exec_module(module)
    return module


def test_a_row_replaces_that_of_the_same_versions_and_no_other(matrix, tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text(
        "# Title\n\nText.\n\n" + matrix.PAGE.read_text("utf-8").partition("\n\n")[2].partition("| Python")[0]
    )
    monkeypatch.setattr(matrix, "PAGE", page)
    about = ("2.2.6", "tests")
    matrix.record(("3.10.13", "2.14.1", *about, "5", "1", "0", "abc", "2026-01-01"))
    matrix.record(("3.9.1", "2.14.1", *about, "4", "0", "0", "abc", "2026-01-01"))
    matrix.record(("3.10.13", "2.13.0", *about, "3", "0", "0", "abc", "2026-01-01"))
    matrix.record(("3.10.13", "2.14.1", *about, "6", "0", "0", "def", "2026-01-02"))
    rows = [line for line in page.read_text("utf-8").splitlines() if line.startswith("| 3")]
    assert [line.split(" | ")[:2] for line in rows] == [
        ["| 3.9.1", "2.14.1"],
        ["| 3.10.13", "2.13.0"],
        ["| 3.10.13", "2.14.1"],
    ]
    assert rows[-1] == "| 3.10.13 | 2.14.1 | 2.2.6 | tests | 6 | 0 | 0 | def | 2026-01-02 |"
    assert page.read_text("utf-8").startswith("# Title\n\nText.\n")


def test_a_python_that_is_not_here_is_not_found(matrix):
    assert matrix.interpreter("3.1") is None


def test_the_committed_page_says_that_nothing_failed(matrix):
    rows = [
        line.strip("|").split("|") for line in matrix.PAGE.read_text("utf-8").splitlines() if line.startswith("| 3")
    ]
    assert all(int(cells[5]) == 0 < int(cells[4]) for cells in rows)
