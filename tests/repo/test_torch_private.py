"""Private names of torch stand in one guarded file, or are imported when they are used; a release without them imports."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HOME = "solvers/core/torch_private.py"
COUNTING = "neuralde/testing/counting.py"  # counts operators, for tests and benchmarks
# Imported inside a function that traces a graph.
TRACING = {"solvers/drivers/graph.py", "solvers/drivers/inductor.py", "solvers/drivers/loop_inputs.py"}


def private(node):
    """The dotted name of torch that a node reads or imports, where a part of it is private."""
    if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("torch"):
        return node.module if any(part.startswith("_") for part in node.module.split(".")) else None
    parts = []
    while isinstance(node, ast.Attribute):
        parts.insert(0, node.attr)
        node = node.value
    if (
        isinstance(node, ast.Name)
        and node.id == "torch"
        and any(x.startswith("_") and not x.startswith("__") for x in parts)
    ):
        return ".".join(["torch", *parts])
    return None


def test_private_names_stand_in_one_file():
    if not (ROOT / "setup.py").exists():
        pytest.skip("needs the source tree")
    found = {}
    for layer in ("solvers", "adjoints", "neuralde"):
        for file in sorted((ROOT / layer).rglob("*.py")):
            name = file.relative_to(ROOT).as_posix()
            if name.startswith(("neuralde/solvers/", "neuralde/adjoints/")) or name in (HOME, COUNTING):
                continue
            tree = ast.parse(file.read_text("utf-8"))
            top = set(tree.body)
            for node in ast.walk(tree):
                what = private(node)
                allowed = what in ("torch.utils._pytree", "torch._assert_async") or (
                    name in TRACING and node not in top
                )
                if what and not allowed and not (name in TRACING and what == "torch._functorch"):
                    found.setdefault(name, set()).add(what)
    assert not found


def test_a_torch_without_them_still_imports_and_solves():
    program = """
import torch
class Without:
    def __init__(self, real, hidden): self.__dict__.update(real=real, hidden=hidden)
    def __getattr__(self, name):
        if name in self.hidden: raise AttributeError(name)
        return getattr(self.real, name)
real = torch._C
torch._C = Without(real, {"_are_functorch_transforms_active", "_functorch", "_autograd"})
import neuralde.solvers.core.torch_private as names
torch._C = real
assert names.transforms_active() is False and names.transform_levels() == 0 and names.keeps_graph() is False
import neuralde as nde
y0 = torch.ones(2, requires_grad=True)
nde.solve(nde.ODEProblem(lambda t, y: -y, y0, (0.0, 1.0))).y1.sum().backward()
print(y0.grad.tolist())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("[0.36")


@pytest.mark.parametrize(
    "mode", ["no_grad()", "inference_mode()", "set_default_dtype(torch.float64) or torch.no_grad()"]
)
def test_the_first_use_may_be_in_any_mode(mode):
    """The package imports its parts when a name is first asked for."""
    program = f"""
import torch, neuralde as nde
with torch.{mode}:
    y1 = nde.solve(nde.ODEProblem(lambda t, y: -y, torch.ones(2), (0.0, 1.0))).y1
y0 = torch.ones(2, requires_grad=True)
nde.solve(nde.ODEProblem(lambda t, y: -y, y0, (0.0, 1.0))).y1.sum().backward()
print(y0.grad.tolist())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("[0.36")
