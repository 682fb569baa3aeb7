"""What kind of equation is solved is asked of its term and its problem, by facts: no class is asked for, no room knows noise."""

import ast
from pathlib import Path

import pytest

import neuralde.solvers.methods.stochastic.base
import neuralde.solvers.problems
import neuralde.solvers.terms.base

ROOT = Path(__file__).resolve().parents[2]
LAYERS = ("solvers", "adjoints", "neuralde")
# What builds terms from problems may ask what it was given: whether a method is one for noise.
ALLOWED = {"solvers/front/stochastic.py": {"SDEMethod"}}
WITHOUT_NOISE = ("core", "stepping", "drivers", "output", "events", "linear", "functions")


def family(kind: type) -> set[str]:
    """The names of a class and of all that is made from it."""
    return {kind.__name__}.union(*(family(child) for child in kind.__subclasses__()))


def classes() -> set[str]:
    """Terms, problems (what all problems are aside), and methods for noise."""
    roots = (
        neuralde.solvers.terms.base.Term,
        neuralde.solvers.problems.Problem,
        neuralde.solvers.methods.stochastic.base.SDEMethod,
    )
    return {kind for root in roots for kind in family(root)} - {"Problem"} | {"DrivenField", "StratonovichField"}


def asked(text: str) -> list[str]:
    """The names in the second argument of each ``isinstance`` or ``issubclass``, and those that a ``type(x)`` is compared with."""
    found: list[str] = []
    for node in ast.walk(ast.parse(text)):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("isinstance", "issubclass")
        ):
            found += names(node.args[1])
        if isinstance(node, ast.Compare) and any(
            isinstance(x, ast.Call) and isinstance(x.func, ast.Name) and x.func.id == "type"
            for x in (node.left, *node.comparators)
        ):
            found += [name for x in (node.left, *node.comparators) for name in names(x)]
    return found


def names(tree: ast.AST) -> list[str]:
    """The names and the last parts of attributes in an expression."""
    return [
        node.id if isinstance(node, ast.Name) else node.attr
        for node in ast.walk(tree)
        if isinstance(node, (ast.Name, ast.Attribute))
    ]


def sources() -> list[Path]:
    """The files of the three layers."""
    if not (ROOT / "setup.py").exists():
        pytest.skip("needs the source tree")
    found = [file for layer in LAYERS for file in sorted((ROOT / layer).rglob("*.py"))]
    return [
        x for x in found if x.relative_to(ROOT).parts[:2] not in (("neuralde", "solvers"), ("neuralde", "adjoints"))
    ]


@pytest.mark.parametrize(
    ("line", "seen"),
    [
        ("isinstance(plan.field, SDEField)", {"SDEField"}),
        ("isinstance(x, (Tensor, problems.ODEProblem))", {"Tensor", "ODEProblem"}),
        ("type(problem) is SDEProblem", {"SDEProblem"}),
        ("issubclass(kind, SDEMethod)", {"SDEMethod"}),
    ],
)
def test_the_search_sees_what_it_should(line, seen):
    assert seen <= set(asked(line))
    assert seen & classes()


def test_the_search_passes_what_it_should():
    assert not set(asked("isinstance(y, Tensor) and problem.smooth and term.family in method.takes")) & classes()


def test_nobody_asks_what_class_a_term_or_a_problem_has():
    known = classes()
    assert {"Field", "SDEField", "ODEProblem", "SteadyStateProblem", "Sweep", "EulerHeun"} <= known
    files = sources()
    assert len(files) > 150
    wrong = []
    for file in files:
        name = file.relative_to(ROOT).as_posix()
        found = set(asked(file.read_text("utf-8"))) & known - ALLOWED.get(name, set())
        wrong += [f"{name}: {x}" for x in sorted(found)]
    assert not wrong, "ask for a fact: of a term (solvers/terms/base.py), a problem, or a method (takes)"


def test_the_rooms_of_the_loop_import_nothing_stochastic():
    wrong = []
    for file in sources():
        parts = file.relative_to(ROOT).parts
        if parts[0] != "solvers" or parts[1] not in WITHOUT_NOISE:
            continue
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                where = getattr(node, "module", None) or ""
                paths = [where, *(f"{where}.{alias.name}" for alias in node.names)]
                words = {word for path in paths for word in path.split(".")}
                noisy = {"stochastic", "stratonovich", "along_path", "noisy_first_step", "brownian", "SDEProblem"}
                wrong += [f"{'/'.join(parts)}: {ast.unparse(node)}"] if words & noisy else []
    assert not wrong
