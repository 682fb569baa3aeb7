"""The docstring contract: what the docstring of each public name must say, by its kind, in the field's words."""

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from enum import Enum
from pathlib import Path

import pytest
import torch

import neuralde as nde
from neuralde.regularizers import Regularizer, Schedule
from neuralde.solvers import Controller, Method, SteadyStateMethod, Step

ROOT = Path(__file__).resolve().parents[2]
ROOMS = (
    "neuralde",
    "neuralde.solvers",
    "neuralde.adjoints",
    "neuralde.regularizers",
    "neuralde.models",
    "neuralde.koopman",
    "neuralde.koopman.scores",
    "neuralde.testing",
)
SECTIONS = (
    "Args",
    "Attributes",
    "Shapes",
    "Units",
    "Returns",
    "Raised by",
    "Raises",
    "When to take it",
    "References",
    "Example",
)

# What each kind must have beside a summary; "maths" is a formula. What a kind does not have would only repeat something:
# a method's shapes are those of any state, an error's source is the library.
CONTRACT: dict[str, tuple[str, ...]] = {
    "problem": ("maths", "Args", "Shapes", "Units", "Raises", "When to take it", "Example"),
    "event": ("maths", "Args", "Shapes", "Units", "Raises", "When to take it", "Example"),
    "method": ("maths", "Raises", "When to take it", "References", "Example"),
    "search": ("maths", "Args", "Units", "Raises", "When to take it", "References", "Example"),
    "controller": ("maths", "Units", "Raises", "When to take it", "Example"),
    "adjoint": ("maths", "Raises", "When to take it", "References", "Example"),
    "regularizer": ("maths", "Args", "Shapes", "Units", "Raises", "When to take it", "References", "Example"),
    "schedule": ("maths", "Args", "Units", "Raises", "When to take it", "Example"),
    "operator": ("maths", "Args", "Shapes", "Units", "Raises", "When to take it", "References", "Example"),
    "observables": ("maths", "Args", "Shapes", "Raises", "When to take it", "References", "Example"),
    "model": ("maths", "Args", "Shapes", "Raises", "When to take it", "References", "Example"),
    "coefficients": ("maths", "Raises", "When to take it", "References", "Example"),
    "path": ("maths", "Args", "Shapes", "Units", "Raises", "When to take it", "References", "Example"),
    "base": ("When to take it", "Example"),
    "tool": ("Args", "Raises", "When to take it", "Example"),
    "function": ("Returns", "Raises", "When to take it", "Example"),
    "statement": ("Returns", "When to take it", "Example"),
    "record": ("Attributes", "Example"),
    "record with times": ("Attributes", "Units", "Example"),
    "error": ("Raised by", "Example"),
}

# What the type alone does not tell.
KINDS = {
    "Blocks": "tool",
    "CDEStream": "tool",
    "Penalty": "tool",
    "CostLogger": "tool",
    "CostRecorder": "record",
    "SolverCost": "tool",
    "BrownianPath": "path",
    "FractionalNoise": "path",
    "FractionalBrownianPath": "path",
    "OrnsteinUhlenbeckPath": "path",
    "ControlPath": "base",
    "ButcherTableau": "coefficients",
    "Interpolant": "coefficients",
    "Solution": "record with times",
    "Trace": "record with times",
    "EventLog": "record with times",
    "EnsembleSolution": "record with times",
    "RungeKutta": "base",
    "StochasticRungeKutta": "base",
    "Controller": "base",
    "table": "statement",
    "composability": "statement",
}


def public() -> dict[str, object]:
    """Every public class and function by its name."""
    found = {}
    for room in ROOMS:
        module = importlib.import_module(room)
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value) or inspect.isroutine(value):
                found[name] = value
    return found


def kind(name: str, value: object) -> str:
    """Which part of the contract holds for a name."""
    if name in KINDS:
        return KINDS[name]
    if not inspect.isclass(value):
        return "function"
    bases: list[tuple[type, str]] = [
        (BaseException, "error"),
        (Step, "base"),
        (Method, "method"),
        (SteadyStateMethod, "search"),
        (Controller, "controller"),
        (nde.ControlPath, "path"),
        (nde.adjoints.Adjoint, "adjoint"),
        (Regularizer, "regularizer"),
        (Schedule, "schedule"),
        (nde.koopman.KoopmanModel, "operator"),
        (nde.koopman.Dictionary, "observables"),
        (torch.nn.Module, "model"),
        (Enum, "record"),
    ]
    for base, what in bases:
        if issubclass(value, base):
            return "base" if inspect.isabstract(value) else what
    if name.endswith("Problem"):
        return "problem"
    return "event" if name.endswith("Event") else "record"


def sections(text: str) -> dict[str, str]:
    """The sections of a docstring, each with its text."""
    parts = re.split(rf"^({'|'.join(SECTIONS)}):[ \t]*$", inspect.cleandoc(text), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def missing(name: str, value: object) -> list[str]:
    """What the contract wants of a name's docstring and does not find there."""
    text = vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__
    found = sections(text or "")
    lacks = []
    for wanted in CONTRACT[kind(name, value)]:
        if wanted == "maths":
            there = ":math:`" in text or ".. math::" in text
        else:
            there = bool(found.get(wanted, "").strip())
            there = there and (wanted != "Example" or ">>>" in found["Example"])
        if not there:
            lacks.append(wanted)
    return lacks


@pytest.mark.parametrize("name", sorted(public()))
def test_the_docstring_says_what_its_kind_must(name: str) -> None:
    lacks = missing(name, public()[name])
    assert lacks == [], f"{name}, a {kind(name, public()[name])}: its docstring lacks {', '.join(lacks)}"


def test_the_contract_covers_every_name() -> None:
    names = public()
    assert sorted(set(KINDS) - set(names)) == []
    assert {kind(name, value) for name, value in names.items()} <= set(CONTRACT)


def test_sections_stand_in_one_order_and_each_once() -> None:
    for name, value in public().items():
        found = re.findall(
            rf"^({'|'.join(SECTIONS)}):[ \t]*$", inspect.cleandoc(value.__doc__ or ""), flags=re.MULTILINE
        )
        assert found == [section for section in SECTIONS if section in found], name


def with_arguments() -> list[str]:
    """The names that a reader calls with arguments."""
    without = ("base", "record", "record with times", "error", "statement")
    return sorted(name for name, value in public().items() if kind(name, value) not in without)


@pytest.mark.parametrize("name", with_arguments())
def test_every_argument_is_described(name: str) -> None:
    value = public()[name]
    what = kind(name, value)
    listed = set(
        re.findall(r"^    (\*{0,2}\w+(?:, \w+)*):", sections(value.__doc__).get("Args", ""), flags=re.MULTILINE)
    )
    described = {part.strip().lstrip("*") for line in listed for part in line.split(",")}
    inherited = set(inspect.signature(Controller).parameters) if what == "controller" else set()
    taken = {one for one in inspect.signature(value).parameters if one != "self"} - inherited
    assert taken <= described, f"{name} does not describe {sorted(taken - described)}"
    assert described <= taken | inherited, f"{name} describes {sorted(described - taken)}, which it does not take"


PERSONS = re.compile(
    r"\b(anybody|anyone|somebody|someone|nobody|no one|everybody|everyone|we|us|our|ours|you|your|yours|my|mine)\b",
    re.IGNORECASE,
)


def docstrings() -> Iterator[tuple[str, str]]:
    """Every docstring of the library's source, with its place; examples left out."""
    for top in ("neuralde", "solvers", "adjoints"):
        for file in sorted((ROOT / top).rglob("*.py")):
            if top == "neuralde" and file.relative_to(ROOT).parts[1] in ("solvers", "adjoints"):
                continue  # links to the other two
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                    text = ast.get_docstring(node) or ""
                    prose = "\n".join(line for line in text.splitlines() if not line.strip().startswith((">>>", "...")))
                    yield f"{file.relative_to(ROOT)}: {getattr(node, 'name', 'module')}", prose


def test_docstrings_speak_of_the_thing_and_not_of_persons() -> None:
    if not (ROOT / "setup.py").exists():
        pytest.skip("needs the source tree")
    found = []
    for place, text in docstrings():
        plain = re.sub(r"``[^`]*``|:math:`[^`]*`|\.\. math::(?:.|\n)*?(?:\n\n|\Z)", "", text)
        plain = re.sub(r"How to Train Your Neural ODE", "", plain)  # a title
        found += [f"{place}: {hit[0]}" for hit in PERSONS.finditer(plain)]
    assert found == []
