"""Examples are real: docstrings, the README, and one for every public name."""

import contextlib
import doctest
import importlib
import importlib.util
import inspect
import io
import re
from pathlib import Path
from types import ModuleType

import pytest

import neuralde

ROOT = Path(__file__).resolve().parents[2]
LAYERS = ("neuralde", "neuralde.solvers", "neuralde.adjoints")
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\s*^```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)


def public_modules() -> list[str]:
    """Every public module by its real name, found in the folders and not imported yet."""
    found = []
    for layer in LAYERS:
        spec = importlib.util.find_spec(layer)
        assert spec is not None
        assert spec.submodule_search_locations is not None
        top = Path(spec.submodule_search_locations[0])
        for file in top.rglob("*.py"):
            parts = file.relative_to(top).with_suffix("").parts
            if layer == "neuralde" and parts[0] in {"solvers", "adjoints"}:
                continue
            if parts[-1] == "__init__":
                parts = parts[:-1]
            if not any(part.startswith("_") for part in parts):
                found.append(".".join((layer, *parts)))
    return sorted(found)


@pytest.mark.parametrize("name", public_modules())
def test_doctests(name: str) -> None:
    module = importlib.import_module(name)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        result = doctest.testmod(module, optionflags=flags)
    assert result.failed == 0, output.getvalue()


def documented(value: object) -> str:
    """A value's own docstring; for a plain object that of its class, and for a built-in value any text at all."""
    if inspect.isclass(value) or inspect.isroutine(value) or isinstance(value, ModuleType):
        text = value.__doc__ or ""
        # dataclasses and named tuples invent a docstring that only repeats the signature
        return "" if inspect.isclass(value) and text.startswith(value.__name__ + "(") else text
    return type(value).__doc__ or ""


def has_example(value: object) -> bool:
    """Whether a function's docstring, or that of a class or of one of its methods, has a runnable example."""
    texts = [value.__doc__]
    if inspect.isclass(value):
        texts += [getattr(member, "__doc__", None) for member in vars(value).values()]
    return any(">>>" in text for text in texts if isinstance(text, str))


@pytest.mark.parametrize("layer", LAYERS)
def test_public_names_exist_once_and_are_documented(layer: str) -> None:
    module = importlib.import_module(layer)
    names = list(getattr(module, "__all__", []))
    assert len(names) == len(set(names))
    assert [name for name in names if not hasattr(module, name)] == []
    assert [name for name in names if not documented(getattr(module, name)).strip()] == []


def test_public_classes_and_functions_have_an_example() -> None:
    values = {name: getattr(neuralde, name) for name in neuralde.__all__}
    callables = {name: value for name, value in values.items() if inspect.isclass(value) or inspect.isroutine(value)}
    assert [name for name, value in callables.items() if not has_example(value)] == []


def test_the_readme_runs_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = list(BLOCK.finditer(text))
    assert len(blocks) == text.count("```python"), "a python block of the README is not closed"
    monkeypatch.chdir(tmp_path)
    space: dict = {"__name__": "readme"}
    for block in blocks:
        line = text[: block.start(1)].count("\n")
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            exec(compile("\n" * line + block[1], "README.md", "exec"), space)
        if block[2] is not None:
            assert output.getvalue().strip() == block[2].strip(), f"README.md, line {line + 1}"
