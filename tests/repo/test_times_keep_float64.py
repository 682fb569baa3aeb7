"""No time passes through float32: a Python number becomes a tensor with a dtype that is named, or is no time."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAKERS = {"as_tensor", "tensor", "full", "scalar_tensor", "asarray", "linspace"}
# What is made without a dtype, and is no time: flags, counts, indices, seeds, shapes, numbers of the caller's own dtype.
NO_TIMES = {
    "solvers/paths/brownian/path.py": {"index"},
    "solvers/events/crossings.py": {"trial.accept", "fired.hits", "fired.changed"},
    "solvers/events/changes.py": {"lanes"},
    "solvers/events/event_set.py": {
        "[event.terminal for event in each]",
        "[event.apply is not None for event in each]",
        "[live is not None for live in self.live]",
    },
    "solvers/events/log.py": {"[fired.hits]", "[fired.primary]"},
    "solvers/terms/base.py": {"as_time(x, y)"},  # a tensor already, in the precision in which a field receives the time
    "solvers/front/precision.py": {"plan.norm_at(y0)(rounded - exact)"},
    "solvers/stepping/stiffness.py": {"trial.accept", "failed"},
    "solvers/stepping/stops.py": {
        "as_time(t, like)",
        "as_time(t_end, like)",
        "as_time(direction * torch.inf, like)",
        "value",
    },
    "solvers/core/ties.py": {"leaf"},  # an array, for its dtype
    "solvers/core/times.py": {"given"},  # its kind; numbers are read again in float64
    "solvers/core/tolerances.py": {"rtol == 0", "atol == 0", "leaf"},
    "solvers/front/plan.py": {"saveat", "event.ts"},  # their kind and shape; numbers are read again in float64
    "solvers/output/saving.py": {"[len(starts) == 0]", "request.rows"},
    "solvers/testing/stochastic.py": {"[0.9, 0.7]", "[-0.4, 0.5]"},
    "solvers/output/solution.py": {"[int(self.status)]"},
    "neuralde/ensemble.py": {"sol.status"},
    "neuralde/listeners.py": {"value"},
    "neuralde/progress.py": {"carry.steps"},
    "neuralde/regularizers/schedules.py": {"getattr(solution.stats, self.count)"},
    "neuralde/testing/record.py": {"value", "solution.status"},
}


def bare(tree: ast.AST) -> list[str]:
    """The first argument of each call that makes a tensor of torch's default dtype, or of whatever it is given."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        owner = node.func.value
        if not isinstance(owner, ast.Name) or owner.id != "torch" or node.func.attr not in MAKERS:
            continue
        if "dtype" not in {keyword.arg for keyword in node.keywords}:
            found.append(ast.unparse(node.args[0]))
    return found


def test_the_search_sees_what_it_should():
    seen = bare(
        ast.parse("torch.as_tensor(t1 - t0)\ntorch.full((), t)\ntorch.tensor(t, dtype=torch.float64)\nas_clock(t)")
    )
    assert seen == ["t1 - t0", "()"]


@pytest.mark.parametrize("layer", ["solvers", "adjoints", "neuralde"])
def test_every_number_that_becomes_a_tensor_names_its_dtype(layer):
    if not (ROOT / "setup.py").exists():
        pytest.skip("needs the source tree")
    wrong = []
    for file in sorted((ROOT / layer).rglob("*.py")):
        name = file.relative_to(ROOT).as_posix()
        if file.is_relative_to(ROOT / "neuralde" / "commands"):
            continue
        if name.startswith(("neuralde/solvers/", "neuralde/adjoints/")):
            continue  # links to the layers themselves
        wrong += [f"{name}: {x}" for x in bare(ast.parse(file.read_text("utf-8"))) if x not in NO_TIMES.get(name, ())]
    assert not wrong, "times: take solvers.core.scalars.as_clock; what is no time: name a dtype, or list it above"
