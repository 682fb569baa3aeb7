"""The page on steady states runs as printed, its deep-equilibrium model included."""

import contextlib
import io
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "steady_states.md"


def test_the_page_runs_as_printed() -> None:
    if not PAGE.exists():
        pytest.skip("needs the source tree")
    text = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```\n\n^```text\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == text.count("```python")
    space: dict = {"__name__": "page"}
    for code, printed in blocks:
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            exec(compile(code, PAGE.name, "exec"), space)
        assert output.getvalue() == printed
