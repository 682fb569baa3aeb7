"""The glossary tells the truth: what it says is in the library is there, and docs and docstrings use its terms."""

import inspect
import re
from pathlib import Path

import pytest

import neuralde as nde

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "glossary.md"

pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="needs the source tree")


def entries() -> dict[str, str]:
    """Each term and its text."""
    text = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    parts = re.split(r"^\*\*([^*]+)\.\*\*", text, flags=re.MULTILINE)
    return {term: " ".join(body.split("\n## ")[0].split()) for term, body in zip(parts[1::2], parts[2::2], strict=True)}


def here(body: str) -> list[str]:
    """The code names between *Here:* and *Elsewhere:*, a member written as ``Owner`` 's ``member`` joined to its owner."""
    part = re.search(r"\*Here:\*(.*?)(?:\*Elsewhere:\*|$)", body)
    assert part is not None
    found: list[str] = []
    owner = ""
    for before, name in re.findall(r"([^`]*)`([^`]+)`", part[1]):
        if before.strip() in ("'s", ", ", ",", "and") and owner and name.islower() and not name.startswith("solve"):
            found.append(f"{owner}.{name}")
        else:
            owner = name
            found.append(name)
    return found


def exists(name: str) -> bool:
    """Whether the library has it: a dotted name below ``neuralde``, a field or argument of one, or ``call(argument=)``."""
    call = re.fullmatch(r"([\w.]+)\((\w+)=\)", name)
    path = (call[1] if call else name).split(".")
    value: object = nde
    for place, part in enumerate(path):
        if hasattr(value, part):
            value = getattr(value, part)
            continue
        if not callable(value):
            return False
        fields = set(inspect.signature(value).parameters)
        fields |= {field for base in getattr(value, "__mro__", ()) for field in vars(base).get("__annotations__", {})}
        return place == len(path) - 1 and part in fields
    return call is None or call[2] in inspect.signature(value).parameters  # type: ignore[arg-type]


@pytest.mark.parametrize("term", list(entries()))
def test_what_is_said_to_be_here_is_here(term: str) -> None:
    names = here(entries()[term])
    assert names or term == "Captured tensor"
    assert [name for name in names if not exists(name)] == []


@pytest.mark.parametrize("term", list(entries()))
def test_an_entry_is_short(term: str) -> None:
    said = re.split(r"\*Here:\*", entries()[term])[0]
    sentences = [part for part in re.split(r"(?<=[.:])\s", said) if part.strip()]
    assert 1 <= len(sentences) <= 4, said


def test_the_terms_are_used_by_the_docstrings() -> None:
    text = "\n".join(
        inspect.getdoc(value) or ""
        for room in (nde, nde.solvers, nde.adjoints, nde.regularizers, nde.models)
        for value in (getattr(room, name) for name in room.__all__)
    ).lower()
    text = " ".join(text.split())
    terms = (
        "vector field",
        "discretise-then-optimise",
        "optimise-then-discretise",
        "recursive checkpointing",
        "embedded error estimate",
        "dense output",
        "strong order",
        "weak order",
    )
    assert [term for term in terms if term not in text] == []


def test_the_glossary_is_linked() -> None:
    assert "docs/glossary.md" in (ROOT / "README.md").read_text(encoding="utf-8")
