"""Arrows point down only: the import statements of every module, read without running them."""

import ast
import configparser
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {"neuralde.solvers": "solvers", "neuralde.adjoints": "adjoints", "neuralde": "neuralde"}
BELOW = {
    "neuralde.solvers": (),
    "neuralde.adjoints": ("neuralde.solvers",),
    "neuralde": ("neuralde.solvers", "neuralde.adjoints"),
}
REQUIRED = {"torch", "numpy"}
IMPORT_NAME = {"scikit-learn": "sklearn"}

if not (ROOT / "solvers").is_dir():
    pytest.skip("needs the source tree", allow_module_level=True)


def modules(layer: str) -> Iterator[tuple[Path, str]]:
    """Each file of a layer with the name of the package it is in, leaving out the links for type checkers."""
    top = ROOT / FOLDERS[layer]
    for file in sorted(top.rglob("*.py")):
        inner = file.relative_to(top).parent.parts
        if layer == "neuralde" and inner[:1] in {("solvers",), ("adjoints",)}:
            continue
        yield file, ".".join((layer, *inner))


def layer_of(module: str) -> str | None:
    """The layer that owns a module name, or None for a module that is not ours."""
    return next((layer for layer in FOLDERS if module == layer or module.startswith(layer + ".")), None)


def imports(source: str, package: str) -> Iterator[tuple[int, bool, str, list[str]]]:
    """Each import as (line, is relative, absolute module name, imported names)."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, False, alias.name, []
        elif isinstance(node, ast.ImportFrom):
            names = [alias.name for alias in node.names]
            if not node.level:
                yield node.lineno, False, node.module or "", names
                continue
            parts = package.split(".")
            kept = parts[: len(parts) - node.level + 1]
            base = ".".join([*kept, *([node.module] if node.module else [])])
            # `from . import solvers` names a module as surely as `from .solvers import x` does
            for name in names:
                within = f"{base}.{name}"
                yield node.lineno, True, within if within in FOLDERS else base, [name]


def faults(source: str, package: str, layer: str, third_party: set[str]) -> list[str]:
    """What is wrong with the imports of one module."""
    found = []
    for line, relative, module, names in imports(source, package):
        target = layer_of(module)
        private = [name for name in [*module.split("."), *names] if name.startswith("_") and not name.startswith("__")]
        if target is None:
            if relative:
                found.append(f"line {line}: a relative import leaves neuralde")
            elif (top := module.split(".")[0]) not in sys.stdlib_module_names | third_party:
                found.append(f"line {line}: {top} is not a dependency of this layer")
        elif target == layer:
            if not relative:
                found.append(f"line {line}: {module} is in the same folder, so import it relatively")
        elif target not in BELOW[layer]:
            found.append(f"line {line}: {layer} must not know {module}")
        elif relative:
            found.append(f"line {line}: {module} is another folder, so import it by its full name")
        elif private:
            found.append(f"line {line}: {private[-1]} is private to {target}")
    return found


def declared() -> set[str]:
    """The import names of everything that setup.cfg declares, required or optional."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lists = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    names = [re.split(r"[<>=!~;\[ ]", line)[0] for text in lists for line in text.split("\n") if line.strip()]
    return {IMPORT_NAME.get(name, name.replace("-", "_")) for name in names}


@pytest.mark.parametrize("layer", FOLDERS)
def test_arrows_point_down(layer: str) -> None:
    third_party = declared() if layer == "neuralde" else REQUIRED
    found = [
        f"{file.relative_to(ROOT)}, {fault}"
        for file, package in modules(layer)
        for fault in faults(file.read_text(encoding="utf-8"), package, layer, third_party)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("layer", "package", "line"),
    [
        ("neuralde.solvers", "neuralde.solvers", "from neuralde.adjoints import direct"),
        ("neuralde.solvers", "neuralde.solvers", "from neuralde import solve"),
        ("neuralde.solvers", "neuralde.solvers", "import neuralde.models"),
        ("neuralde.solvers", "neuralde.solvers", "from .. import models"),
        ("neuralde.solvers", "neuralde.solvers", "from ..adjoints import direct"),
        ("neuralde.solvers", "neuralde.solvers", "from neuralde.solvers.drivers.eager import solve"),
        ("neuralde.solvers", "neuralde.solvers", "import torchdiffeq"),
        ("neuralde.solvers", "neuralde.solvers", "def f():\n    import matplotlib"),
        ("neuralde.solvers", "neuralde.solvers", "from ... import anything"),
        ("neuralde.adjoints", "neuralde.adjoints", "from neuralde.models import ode"),
        ("neuralde.adjoints", "neuralde.adjoints", "from ..solvers import solve"),
        ("neuralde.adjoints", "neuralde.adjoints", "from neuralde.solvers import _attempt"),
        ("neuralde.adjoints", "neuralde.adjoints", "from neuralde.solvers._loop import attempt"),
        ("neuralde.solvers", "neuralde.solvers.methods", "from scipy.linalg import lu"),
        ("neuralde", "neuralde", "from .solvers import solve"),
        ("neuralde", "neuralde", "from . import adjoints"),
        ("neuralde", "neuralde.models", "from neuralde.models import ode"),
        ("neuralde", "neuralde.models", "from ..solvers import solve"),
        ("neuralde", "neuralde", "import solvers"),
    ],
)
def test_a_wrong_import_is_found(layer: str, package: str, line: str) -> None:
    assert len(faults(line, package, layer, REQUIRED)) == 1


@pytest.mark.parametrize(
    ("layer", "package", "line"),
    [
        ("neuralde.solvers", "neuralde.solvers", "import math, torch\nfrom .tableau import ButcherTableau"),
        (
            "neuralde.solvers",
            "neuralde.solvers.methods.stochastic",
            "from ..problems import ODEProblem\nfrom . import euler",
        ),
        ("neuralde.adjoints", "neuralde.adjoints", "from neuralde.solvers import solve\nimport numpy.linalg"),
        ("neuralde", "neuralde.models", "from neuralde.adjoints import direct\nfrom ..solving import solve"),
        ("neuralde", "neuralde", "from ._version import __version__\nfrom . import models"),
    ],
)
def test_a_right_import_passes(layer: str, package: str, line: str) -> None:
    assert faults(line, package, layer, REQUIRED) == []
