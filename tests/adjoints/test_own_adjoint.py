"""An adjoint that a user writes is known like the library's: in tables, messages, checks and refusals."""

import gc

import pytest
import torch

import neuralde as nde
from neuralde.adjoints.base import Job, Result
from neuralde.adjoints.capabilities import every_adjoint, who_has
from neuralde.adjoints.shared.dependencies import opened
from neuralde.adjoints.shared.outputs import Cotangents, Outputs, outputs_of, result_of
from neuralde.adjoints.shared.single_backward import once
from neuralde.regularizers import ErrorEstimate
from neuralde.solvers.drivers.integrate import integrate


class _Twice(torch.autograd.Function):
    """A solve whose backward pass is the whole solve again, with a graph."""

    @staticmethod
    def forward(ctx, opening, outcomes, y0, *inputs):
        ctx.opening = opening
        ctx.save_for_backward(y0, *inputs)
        outcomes.append(integrate(opening.job.plan, y0.detach(), opening.job.options, costs=opening.started))
        return outputs_of(opening.job.plan, outcomes[0], y0).flat

    @staticmethod
    @once("Recompute")
    def backward(ctx, *cotangents):
        opening = ctx.opening
        job, given = opening.job, Cotangents.arranged(cotangents, opening.carried)
        with torch.enable_grad():
            y0 = ctx.saved_tensors[0].detach().requires_grad_()
            outputs = outputs_of(job.plan, integrate(job.plan, y0, job.options, costs=opening.started), y0)
        pairs = [(x, g) for x, g in zip(outputs.flat, given.flat, strict=True) if g is not None and x.requires_grad]
        wanted = [y0, *opening.copies, *opening.captured]
        grads = torch.autograd.grad([x for x, _ in pairs], wanted, [g for _, g in pairs], allow_unused=True)
        return None, None, *grads, *(None for _ in opening.carried.tensors)


def defined():
    """The class that a user would write."""

    class Recompute(nde.Adjoint):
        """Exact: keeps nothing, and solves a second time in the backward pass."""

        capabilities = nde.Capabilities(
            exact=True,
            memory="nothing",
            cost="the solve once more, and its gradient",
            saves=("end", "times"),
            dense=False,
            regularizers=False,
            per_sample=False,
        )

        def solve(self, job: Job) -> Result:
            opening = opened(job)
            if isinstance(opening, Result):
                return opening
            outcomes = []
            flat = _Twice.apply(opening, outcomes, job.y0, *opening.inputs, *opening.carried.tensors)
            return result_of(job, outcomes[0], Outputs.arranged(flat, opening.carried))

    return Recompute


@pytest.fixture
def kind():
    """The class, as long as the test runs: one that is gone is listed no more."""
    yield defined()
    gc.collect()


def problem():
    weight = torch.tensor([[0.3, -1.2], [0.7, 0.1]], requires_grad=True)
    y0 = torch.tensor([0.5, 1.0], requires_grad=True)
    k = torch.tensor(1.5, requires_grad=True)
    field = nde.ODEProblem(lambda t, y, k: torch.tanh(weight @ y) - k * torch.cos(t) * y, y0, (0.0, 2.0), (k,))
    return field, (y0, k, weight)


def test_it_differentiates_like_the_others(kind):
    grads = []
    for adjoint in (kind(), nde.DirectAdjoint()):
        case, inputs = problem()
        sol = nde.solve(case, adjoint=adjoint, saveat=[0.0, 0.5, 2.0], rtol=1e-6, atol=1e-6)
        grads.append(torch.autograd.grad(sol.ys.square().sum() + sol.y1.sum(), inputs))
    for got, want in zip(*grads, strict=True):
        assert torch.allclose(got, want, rtol=1e-12)


def test_it_passes_the_library_s_own_check(kind):
    case, _ = problem()
    report = nde.testing.check_gradients(case, adjoint=kind(), rtol=1e-6, atol=1e-6, show=False)
    assert report.adjoint == "Recompute"
    assert report.ok, report


def test_it_stands_in_the_tables_and_messages_recommend_it(kind):
    assert every_adjoint()[-1] is kind
    for table in (nde.adjoints.table(), nde.adjoints.composability()):
        assert "`Recompute`" in table.splitlines()[0]
    assert who_has(exact=True).endswith("or Recompute()")
    assert "Recompute" not in who_has(double_backward=True)
    case, (y0, *_) = problem()
    sol = nde.solve(case, adjoint=nde.GaussAdjoint())
    with pytest.raises(nde.InvalidProblemError, match=r"or Recompute\(\)"):
        torch.autograd.grad(sol.y1, y0, torch.eye(2), is_grads_batched=True)


@pytest.mark.parametrize(
    "options",
    [
        {"regularizers": (ErrorEstimate(),)},
        {"dense": True},
        {"saveat": "steps"},
        {"events": nde.Event(lambda t, y, k: y[0], terminal=False)},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_it_cannot_do_is_refused_by_its_name(kind, options):
    with pytest.raises(nde.InvalidProblemError, match=r"Recompute.*expected .*DiscreteAdjoint\(\)"):
        nde.solve(problem()[0], adjoint=kind(), **options)


def test_second_derivatives_are_refused_by_its_name(kind):
    case, (y0, *_) = problem()
    (first,) = torch.autograd.grad(nde.solve(case, adjoint=kind()).y1.sum(), y0, create_graph=True)
    with pytest.raises(nde.InvalidProblemError, match="Recompute gives first derivatives only"):
        torch.autograd.grad(first.sum(), y0)


def test_one_that_is_defined_again_takes_the_place_of_the_first(kind):
    second = defined()
    assert [one for one in every_adjoint() if one.__name__ == "Recompute"] == [second]
    assert second is not kind


def test_a_class_that_is_gone_is_in_no_table():
    defined()
    gc.collect()
    assert "Recompute" not in nde.adjoints.table()


def test_the_rank_decides_where_it_stands():
    class Before(nde.DiscreteAdjoint, rank=-1):
        capabilities = nde.DiscreteAdjoint.capabilities

    class Variant(nde.DiscreteAdjoint):
        """Inherits what it can do, and is no row of its own."""

    assert every_adjoint()[0] is Before
    assert Variant not in every_adjoint()
    del Before
    gc.collect()
    assert every_adjoint()[0] is nde.DiscreteAdjoint


def test_capabilities_that_are_none():
    with pytest.raises(
        nde.InvalidProblemError, match=r"capabilities: Wrong has {'exact': True}; expected Capabilities"
    ):
        type("Wrong", (nde.DiscreteAdjoint,), {"capabilities": {"exact": True}})
    silent = type("Silent", (nde.Adjoint,), {"solve": lambda self, job: None})
    with pytest.raises(nde.InvalidProblemError, match="adjoint: Silent does not say what it can do"):
        nde.solve(problem()[0], adjoint=silent())
