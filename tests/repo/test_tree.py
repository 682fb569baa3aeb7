"""The repository's outside: its top level, its text files, its version and its changelog."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from packaging.version import Version

import neuralde

ROOT = Path(__file__).resolve().parents[2]
REQUIRED = {
    *("setup.py", "setup.cfg", "neuralde", "solvers", "adjoints", "tests"),
    *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "CITATION.cff", "Makefile"),
}
OPTIONAL = {"tutorials", "docs", "findings"}
BINARY = {".png", ".pdf", ".gif", ".npz", ".npy", ".pt", ".safetensors"}
LARGEST = 1_000_000


@pytest.fixture(scope="module")
def tracked() -> list[str]:
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("needs a git checkout")
    command = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in done.stdout.split("\0") if name and (ROOT / name).exists()]


def test_top_level_is_fixed(tracked: list[str]) -> None:
    top = {name.split("/")[0] for name in tracked}
    assert {name for name in top if not name.startswith(".")} - OPTIONAL == REQUIRED


def test_development_links_are_not_committed(tracked: list[str]) -> None:
    assert [name for name in tracked if (ROOT / name).is_symlink()] == []


def test_tests_are_not_a_package(tracked: list[str]) -> None:
    assert [name for name in tracked if name.startswith("tests/") and name.endswith("__init__.py")] == []


def test_files_are_small(tracked: list[str]) -> None:
    assert [name for name in tracked if (ROOT / name).stat().st_size > LARGEST] == []


def test_text_files_are_clean(tracked: list[str]) -> None:
    faults = []
    for name in tracked:
        if Path(name).suffix in BINARY:
            continue
        text = (ROOT / name).read_bytes().decode("utf-8")
        if text and not text.endswith("\n"):
            faults.append(f"{name}: no newline at the end")
        if "\r" in text:
            faults.append(f"{name}: carriage return")
        if any(line != line.rstrip() for line in text.split("\n")):
            faults.append(f"{name}: trailing whitespace")
    assert faults == []


def test_version_is_valid_and_agrees_with_the_citation() -> None:
    assert str(Version(neuralde.__version__)) == neuralde.__version__
    cited = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    assert cited is not None
    assert cited[1] == neuralde.__version__


def test_changelog_has_an_unreleased_section() -> None:
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == "[Unreleased]"


def test_documents_name_only_targets_that_exist() -> None:
    if not (ROOT / "Makefile").exists():
        pytest.skip("needs the source tree")
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for document in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        text = (ROOT / document).read_text(encoding="utf-8")
        named = set(re.findall(r"(?:`|^ {4}|^\$? ?)make ([a-z]+)", text, re.MULTILINE))
        assert named <= targets, document
