"""A layer imported the wrong way says what to do instead."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a folder with the standard library only (-S), so that no installed neuralde can help."""
    command = [sys.executable, "-S", "-c", code]
    return subprocess.run(command, cwd=folder, env={}, capture_output=True, text=True, check=False)


@pytest.fixture
def source() -> Path:
    if not (ROOT / "setup.py").exists():
        pytest.skip("needs the source tree")
    return ROOT


@pytest.mark.parametrize("layer", ["solvers", "adjoints"])
def test_folder_refuses_its_own_name(source: Path, layer: str) -> None:
    done = run(f"import {layer}", source)
    assert done.returncode == 1
    assert "ImportError" in done.stderr
    assert f"neuralde.{layer}" in done.stderr
    assert "make dev" in done.stderr


def test_source_tree_that_is_not_installed_says_what_to_run(source: Path, tmp_path: Path) -> None:
    shutil.copytree(source / "neuralde", tmp_path / "neuralde", ignore=shutil.ignore_patterns("solvers", "adjoints"))
    done = run("import neuralde", tmp_path)
    assert done.returncode == 1
    assert "ImportError" in done.stderr
    assert "make dev" in done.stderr
    assert "pip install -e ." in done.stderr
