"""One import name, and every folder with code in it."""

import ast
import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest
from setuptools import find_packages

ROOT = Path(__file__).resolve().parents[2]
LAYERS = {"neuralde": "neuralde", "neuralde.solvers": "solvers", "neuralde.adjoints": "adjoints"}


@pytest.fixture
def source() -> Path:
    if not (ROOT / "setup.py").exists():
        pytest.skip("needs the source tree")
    return ROOT


def python(code: str, folder: Path) -> str:
    """The output of a program run outside the source tree, by the environment that runs the tests."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True).stdout


def code_folders(root: Path) -> dict[str, Path]:
    """The packages that the folders hold, by import name: every folder with a Python file, links left out."""
    found = {}
    for name, folder in LAYERS.items():
        for file in (root / folder).rglob("*.py"):
            inner = file.parent.relative_to(root / folder).parts
            if not (name == "neuralde" and inner[:1] in {("solvers",), ("adjoints",)}):
                found[".".join((name, *inner))] = file.parent
    return found


def listed(root: Path) -> list[str]:
    """What setup.py lists, by running its function and not its call of setup."""
    tree = ast.parse((root / "setup.py").read_text(encoding="utf-8"))
    kept = [node for node in tree.body if not isinstance(node, ast.Expr) or isinstance(node.value, ast.Constant)]
    space: dict = {"find_packages": find_packages}
    exec(compile(ast.Module(kept, type_ignores=[]), "setup.py", "exec"), space)
    return space["packages"]()


def test_every_folder_with_code_is_a_package_that_setup_lists(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(source)
    folders = code_folders(source)
    assert [name for name, folder in folders.items() if not (folder / "__init__.py").exists()] == []
    assert sorted(listed(source)) == sorted(folders)


def test_nothing_but_neuralde_lands_at_the_top_level(tmp_path: Path) -> None:
    code = """
import importlib.util, pkgutil
print([m.name for m in pkgutil.iter_modules() if m.name.startswith(("solvers", "adjoints"))])
print([name for name in ("solvers", "adjoints") if importlib.util.find_spec(name)])
"""
    assert python(code, tmp_path).split("\n")[:2] == ["[]", "[]"]
    assert (distribution("neuralde").read_text("top_level.txt") or "").split() == ["neuralde"]


def test_the_three_names_import_in_any_order(tmp_path: Path) -> None:
    for name in LAYERS:
        assert python(f"import {name}; print({name}.__name__)", tmp_path).strip() == name


def test_beside_a_clone_the_installed_package_is_imported(tmp_path: Path) -> None:
    (tmp_path / "neuralde" / "neuralde").mkdir(parents=True)
    (tmp_path / "neuralde" / "neuralde" / "__init__.py").write_text("raise RuntimeError('not this one')\n")
    code = "import neuralde, neuralde.solvers as s; print(neuralde.__file__, neuralde.__version__, s.__name__)"
    file, version, name = python(code, tmp_path).split()
    assert tmp_path not in Path(file).parents
    assert version == distribution("neuralde").version
    assert name == "neuralde.solvers"


# What costs as much as torch itself or is optional: import it where it is used, not with the package.
HEAVY = {
    *("scipy", "torch._dynamo", "torch._inductor"),
    *("matplotlib", "sklearn", "tqdm", "torchdiffeq", "torchsde", "pytest", "hypothesis"),
}


def test_import_stays_light(tmp_path: Path) -> None:
    code = """
import sys, torch
before = set(sys.modules)
import neuralde
neuralde.solve
print(*set(sys.modules) - before)
"""
    assert HEAVY & set(python(code, tmp_path).split()) == set()


def test_the_pytest_plugin_costs_other_peoples_tests_nothing(tmp_path: Path) -> None:
    assert python("import sys, neuralde.pytest_plugin; print('torch' in sys.modules)", tmp_path).strip() == "False"


def test_a_name_is_the_same_whatever_was_imported_first(tmp_path: Path) -> None:
    code = """
import neuralde.models
from neuralde.solving import solve
import neuralde
print(neuralde.solve is solve, *[hasattr(neuralde, x) for x in ("nothing", "__wrapped__", "regularizers")])
"""
    assert python(code, tmp_path).split() == ["True", "False", "False", "True"]
    star = "from neuralde import *; import neuralde; print(solve is neuralde.solve, 'Tsit5' in dir(neuralde))"
    assert python(star, tmp_path).split() == ["True", "True"]


def test_threads_that_use_the_package_first_at_once_all_get_it(tmp_path: Path) -> None:
    code = """
import neuralde, threading
got = []
threads = [threading.Thread(target=lambda: got.append(neuralde.Tsit5)) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(len(got), len(set(got)))
"""
    assert python(code, tmp_path).strip() == "4 1"


@pytest.fixture(scope="module")
def linked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source tree that has the links for type checkers, and a subpackage in every layer to be found."""
    if not (ROOT / "setup.py").exists():
        pytest.skip("needs the source tree")
    tree = tmp_path_factory.mktemp("linked")
    links = shutil.ignore_patterns("__pycache__", "solvers", "adjoints")
    for folder in LAYERS.values():
        shutil.copytree(ROOT / folder, tree / folder, ignore=links if folder == "neuralde" else None)
        (tree / folder / "room" / "corner").mkdir(parents=True)
        for package in ("room", "room/corner"):
            (tree / folder / package / "__init__.py").write_text('"""A subpackage."""\n')
    for name in ("setup.py", "setup.cfg", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    for layer in ("solvers", "adjoints"):
        (tree / "neuralde" / layer).symlink_to(f"../{layer}")
    return tree


@pytest.fixture(scope="module")
def wheel(linked: Path) -> list[str]:
    """The files of a wheel built in a tree that has the links."""
    command = [sys.executable, "setup.py", "-q", "bdist_wheel"]
    subprocess.run(command, cwd=linked, capture_output=True, check=True)
    (built,) = (linked / "dist").glob("*.whl")
    return zipfile.ZipFile(built).namelist()


def test_links_are_not_listed_as_packages(linked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(linked)
    assert sorted(listed(linked)) == sorted(code_folders(linked))


def test_links_are_not_folded_into_the_wheel(linked: Path, wheel: list[str]) -> None:
    modules = [name for name in wheel if name.endswith(".py")]
    folders = code_folders(linked).items()
    expected = ["/".join((*name.split("."), file.name)) for name, folder in folders for file in folder.glob("*.py")]
    assert sorted(modules) == sorted(expected)


def test_wheel_ships_the_type_marker_and_the_licence(wheel: list[str]) -> None:
    assert "neuralde/py.typed" in wheel
    assert any(name.endswith("licenses/LICENSE") for name in wheel)
