"""The lists of methods follow from the classes: a method's name is typed where its class is, and nowhere else.

Run as a script (``make tables``) this writes them: ``solvers/methods/named.py``, the table in ``docs/solvers.md``, and the
list in the README.
"""

import importlib
import inspect
import pkgutil
import re
import sys
from pathlib import Path

import pytest

import neuralde
from neuralde.solvers import methods

ROOT = Path(__file__).resolve().parents[2]
NOISES = ("additive", "scalar", "diagonal", "commutative", "general")


def named_methods() -> dict[str, type]:
    """Every class in the rooms of methods that is one method: public, and made without arguments."""
    found = {}
    for module in pkgutil.walk_packages(methods.__path__, methods.__name__ + "."):
        if module.name == f"{methods.__name__}.named":
            continue  # what is written here may be broken
        for name, kind in vars(importlib.import_module(module.name)).items():
            own = inspect.isclass(kind) and issubclass(kind, neuralde.Method) and kind.__module__ == module.name
            if own and not name.startswith("_") and not inspect.isabstract(kind):
                needs = [x for x in inspect.signature(kind).parameters.values() if x.default is x.empty]
                if not needs:
                    found[name] = kind
    return found


def sorted_as_ruff_does(names):
    return sorted(names, key=lambda name: (not name.isupper(), name))


def module_text(kinds: dict[str, type]) -> str:
    """The module that imports them all."""
    by_file: dict[str, list[str]] = {}
    for name, kind in kinds.items():
        by_file.setdefault(kind.__module__.removeprefix(methods.__name__), []).append(name)
    lines = ['"""Every method that comes with the library. Written by ``make tables`` from the classes."""', ""]
    for file, names in sorted(by_file.items()):
        lines.append(f"from {file} import {', '.join(sorted_as_ruff_does(names))}")
    listed = [f'    "{name}",' for name in sorted_as_ruff_does(kinds)]
    return "\n".join([*lines, "", "__all__ = [", *listed, "]", ""])


def is_stochastic(kind: type) -> bool:
    return issubclass(kind, neuralde.SDEMethod)


def ordinary(kinds: dict[str, type]) -> list[neuralde.Method]:
    made = [kind() for kind in kinds.values() if not is_stochastic(kind)]
    return sorted(made, key=lambda method: (method.order, method.name))


def stochastic(kinds: dict[str, type]) -> list[neuralde.SDEMethod]:
    made = [kind() for kind in kinds.values() if is_stochastic(kind) and "SDE" in kind.takes]
    return sorted(made, key=lambda method: (method.calculus, method.order, method.name))


def filtered(kinds: dict[str, type]) -> list[neuralde.SDEMethod]:
    """Those for states that filtered noise drives."""
    made = [kind() for kind in kinds.values() if is_stochastic(kind) and "SDE" not in kind.takes]
    return sorted(made, key=lambda method: method.name)


def row(*cells: object) -> str:
    return f"| {' | '.join('–' if cell is None else str(cell) for cell in cells)} |"


def yes(fact: bool) -> str:
    return "yes" if fact else "–"


def table(kinds: dict[str, type]) -> str:
    """The facts of every method."""
    head = (
        "method",
        "order",
        "embedded order",
        "stages",
        "FSAL",
        "stability radius",
        "dense order",
        "stiffness estimate",
    )
    lines = [row(*head), row(*["---"] * len(head))]
    for method in ordinary(kinds):
        tableau = getattr(method, "tableau", None)
        stages = None if tableau is None else tableau.stages
        facts = (method.order, method.embedded_order, stages, yes(method.fsal), f"{method.stability_radius:.2f}")
        lines.append(row(f"`{method.name}`", *facts, method.dense_order, yes(method.has_stiffness)))
    head = ("method", "calculus", *NOISES, "adapts steps", "Lévy area", "drifts", "diffusions")
    lines += ["", row(*head), row(*["---"] * len(head))]
    for method in [*stochastic(kinds), *filtered(kinds)]:
        orders = [f"{method.orders[noise]:g}" if noise in method.orders else None for noise in NOISES]
        area = None if method.levy_area == "none" else method.levy_area
        calls = method.drift_calls, method.diffusion_calls
        lines.append(row(f"`{method.name}`", method.calculus, *orders, yes(method.adaptive), area, *calls))
    return "\n".join(lines)


def summary(kinds: dict[str, type]) -> str:
    """The list of names."""
    groups = (ordinary(kinds), stochastic(kinds), filtered(kinds))
    names = [", ".join(f"`{method.name}`" for method in group) for group in groups]
    return f"{names[0]}; for SDEs {names[1]}; for filtered (fractional) noise {names[2]}"


def between_markers(text: str, new: str, gap: str) -> str:
    """A page with what stands between its two markers replaced."""
    out, count = re.subn(
        r"(<!-- methods -->).*(<!-- /methods -->)", lambda m: m[1] + gap + new + gap + m[2], text, flags=re.S
    )
    assert count == 1
    return out


def texts() -> dict[Path, str]:
    """Every file that is written, as the classes have it; in an installed wheel's tests only the pages that are there."""
    kinds, out = named_methods(), {}
    for path, made, gap in (("README.md", summary, ""), ("docs/solvers.md", table, "\n\n")):
        if (ROOT / path).exists():
            out[ROOT / path] = between_markers((ROOT / path).read_text("utf-8"), made(kinds), gap)
    out[Path(methods.__path__[0]) / "named.py"] = module_text(kinds)
    return out


@pytest.mark.parametrize("name", ["README.md", "solvers.md", "named.py"])
def test_what_is_written_follows_from_the_classes(name):
    found = {path: text for path, text in texts().items() if path.name == name}
    if not found and not (ROOT / "setup.py").exists():
        pytest.skip("needs the source tree")
    ((path, text),) = found.items()
    assert path.read_text("utf-8") == text, f"{name} is not what the classes say: run `make tables`"


def test_every_method_is_offered_at_the_top():
    kinds = named_methods()
    assert len(kinds) > 20
    assert [name for name, kind in kinds.items() if getattr(neuralde, name, None) is not kind] == []


def test_a_tableau_is_proved_when_its_first_method_is_made_and_once(tmp_path):
    kinds = [kind for kind in named_methods().values() if hasattr(kind, "coefficients")]
    assert len(kinds) > 15
    for kind in kinds:
        assert kind().tableau is kind().tableau


if __name__ == "__main__":
    for path, text in texts().items():
        if path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")
            sys.stdout.write(f"wrote {path}\n")
