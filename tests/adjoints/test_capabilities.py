"""Capabilities are data: complete, printed in the documentation, and what is False is refused."""

from pathlib import Path

import pytest
import torch

import neuralde as nde
from neuralde.adjoints.capabilities import every_adjoint
from neuralde.regularizers import ErrorEstimate

ROOT = Path(__file__).resolve().parents[2]
ALL = [kind for kind in every_adjoint() if "ODE" in kind.capabilities.terms]  # test_implicit.py has the other


def test_every_public_adjoint_is_in_the_table():
    public = {value for value in vars(nde.adjoints).values() if isinstance(value, type) and value is not nde.Adjoint}
    assert {kind for kind in public if issubclass(kind, nde.Adjoint)} == set(every_adjoint())


def test_the_page_contains_the_table():
    page = ROOT / "docs" / "adjoints.md"
    if not page.exists():
        pytest.skip("needs the source tree")
    assert nde.adjoints.table() in page.read_text(encoding="utf-8"), "docs/adjoints.md: paste nde.adjoints.table()"


@pytest.mark.parametrize("kind", every_adjoint())
def test_the_first_line_says_whether_it_is_exact(kind):
    first = kind.__doc__.strip().splitlines()[0]
    assert first.startswith("Exact" if kind.capabilities.exact else "Not exact"), first


def problem():
    y0 = torch.tensor([[0.5], [1.0]], requires_grad=True)
    return nde.ODEProblem(lambda t, y: -y * y, y0, (0.0, 1.0))


def method(kind):
    return nde.Reversible(nde.Tsit5()) if kind.capabilities.solvers == "reversible" else nde.Tsit5()


OPTIONS = {
    "regularizers": ({"regularizers": [ErrorEstimate()]}, lambda sol: sol.regularization[0]),
    "dense": ({"dense": True}, lambda sol: sol(0.5).sum()),
    "per_sample": ({"per_sample": True}, lambda sol: sol.y1.sum()),
    "events": (
        {"events": nde.Event(lambda t, y: y[0, 0] - 0.4, terminal=False, apply=lambda t, y: 1.1 * y)},
        lambda sol: sol.y1.sum() + sol.events.ts.sum() + sol.events.ys.square().sum(),
    ),
    "steps": ({"saveat": "steps"}, lambda sol: sol.ys.sum()),
}


@pytest.mark.parametrize("what", OPTIONS)
@pytest.mark.parametrize("kind", ALL)
def test_what_is_false_is_refused_and_what_is_true_works(kind, what):
    can = "steps" in kind.capabilities.saves if what == "steps" else getattr(kind.capabilities, what)
    options, read = OPTIONS[what]
    options = {"rtol": 1e-6, "atol": 1e-6, **options}
    case = problem()
    if not can:
        # The methods of ReversibleAdjoint refuse events themselves.
        with pytest.raises(nde.InvalidProblemError, match=kind.__name__.removesuffix("Adjoint")):
            nde.solve(case, method(kind), adjoint=kind(), **options)
        return
    got = torch.autograd.grad(read(nde.solve(case, method(kind), adjoint=kind(), **options)), case.y0)[0]
    direct = read(nde.solve(case, method(kind), adjoint=nde.DirectAdjoint(), **options))
    want = torch.autograd.grad(direct, case.y0)[0]
    assert (got - want).norm() <= (1e-9 if kind.capabilities.exact else 1e-4) * want.norm()


@pytest.mark.parametrize("kind", ALL)
def test_second_derivatives_are_right_or_refused(kind):
    case = problem()
    sol = nde.solve(case, method(kind), adjoint=kind(), rtol=1e-9, atol=1e-9)
    (first,) = torch.autograd.grad(sol.y1.sum(), case.y0, create_graph=True)  # no cotangent requires grad
    penalty = sol.y1.sum() + first.square().sum()  # a part of it would be lost without a word
    if not kind.capabilities.double_backward:
        with pytest.raises(nde.InvalidProblemError, match=rf"{kind.__name__} gives first derivatives only"):
            torch.autograd.grad(penalty, case.y0)
        return
    (got,) = torch.autograd.grad(penalty, case.y0)
    y = case.y0.detach()  # y1 = y / (1 + y), y1' = (1 + y)**-2
    assert torch.allclose(got, (1 + y) ** -2 - 4 * (1 + y) ** -5, atol=1e-8)


@pytest.mark.parametrize("kind", ALL)
def test_forward_mode_is_right_or_refused(kind):
    def end(y0):
        return nde.solve(
            nde.ODEProblem(lambda t, y: -y * y, y0, (0.0, 1.0)), method(kind), adjoint=kind(), rtol=1e-9, atol=1e-9
        ).y1

    y0, tangent = torch.tensor([[0.5], [1.0]]), torch.tensor([[1.0], [-2.0]])
    if not kind.capabilities.forward_mode:
        with pytest.raises(nde.InvalidProblemError, match=rf"{kind.__name__} knows the backward pass only"):
            torch.func.jvp(end, (y0,), (tangent,))
        return
    _, got = torch.func.jvp(end, (y0,), (tangent,))
    assert torch.allclose(got, tangent * (1 + y0) ** -2, atol=1e-7)


@pytest.mark.parametrize("kind", ALL)
def test_compiles_as_declared(kind):
    solver = method(kind)  # Reversible(...) computes its stability when it is made, which no graph can hold

    def end(y0):
        return nde.solve(nde.ODEProblem(lambda t, y: -y, y0, (0.0, 1.0)), solver, adjoint=kind()).y1

    compiled, y0 = torch.compile(end, fullgraph=True, backend="eager"), torch.ones(2)
    torch._dynamo.reset()
    if kind.capabilities.compiles:
        with torch.no_grad():
            assert torch.allclose(compiled(y0), end(y0), rtol=1e-9)
    else:
        with pytest.raises(Exception, match="cannot be compiled"):
            compiled(y0)
    torch._dynamo.reset()
