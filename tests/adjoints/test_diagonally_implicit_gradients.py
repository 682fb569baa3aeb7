"""Gradients of diagonally implicit methods, by the implicit function theorem, against differences and each other."""

import pytest
import torch

import neuralde as nde

METHODS = [nde.TRBDF2(), nde.Kvaerno5(), nde.ImplicitMidpoint()]
OPTIONS = {"controller": nde.StepTo([0.1, 0.35, 0.6]), "rtol": 1e-12, "atol": 1e-13}


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def stiff(t, y, k):
    clock = t.squeeze(-1) if t.dim() else t
    return torch.stack([-1e3 * k * (y[..., 0] - torch.cos(k * clock)), y[..., 0] ** 2 - k * y[..., 1] ** 2], -1)


def inputs():
    return [x.requires_grad_() for x in (torch.tensor([0.9, 0.5]), torch.tensor(1.3), torch.tensor(0.0))]


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_first_derivatives_in_state_parameter_and_time(method):
    def end(y0, k, t0):
        problem = nde.ODEProblem(stiff, y0, (t0, 0.8), (k,))
        return nde.solve(problem, method, adjoint=nde.DirectAdjoint(), **OPTIONS).y1

    assert torch.autograd.gradcheck(end, inputs(), atol=1e-6)


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("method", METHODS[:2], ids=repr)
def test_exact_adjoints_agree(method, per_sample):
    def gradient(adjoint):
        y0, k, t0 = inputs()
        start = y0 * torch.tensor([[1.0], [0.7]]) if per_sample else y0
        problem = nde.ODEProblem(stiff, start, (t0, 0.8), (k,))
        sol = nde.solve(problem, method, adjoint=adjoint, per_sample=per_sample, saveat=[0.2, 0.8], **OPTIONS)
        return torch.cat([x.reshape(-1) for x in torch.autograd.grad(sol.ys.square().sum(), [y0, k, t0])])

    want = gradient(nde.DirectAdjoint())
    for adjoint in (nde.DiscreteAdjoint(), nde.DiscreteAdjoint(checkpoints=2), nde.ForwardSensitivity()):
        assert torch.allclose(gradient(adjoint), want, rtol=1e-8, atol=1e-9)


def test_second_derivatives_are_right_or_refused():
    def end(method, k):
        problem = nde.ODEProblem(stiff, torch.tensor([0.9, 0.5]), (0.0, 0.8), (k,))
        return nde.solve(problem, method, **OPTIONS).y1.sum()

    k = torch.tensor(1.3, requires_grad=True)
    (first,) = torch.autograd.grad(end(nde.Kvaerno3(), k), k, create_graph=True)
    with pytest.raises(nde.InvalidProblemError, match="have first derivatives"):
        torch.autograd.grad(first, k)
    (first,) = torch.autograd.grad(end(nde.Kvaerno3(derivatives=2), k), k, create_graph=True)
    (second,) = torch.autograd.grad(first, k)
    h, ends = 1e-4, []
    for s in (1, -1):
        x = (k.detach() + s * h).requires_grad_()
        ends.append(torch.autograd.grad(end(nde.Kvaerno3(), x), x)[0])
    assert torch.allclose(second, (ends[0] - ends[1]) / (2 * h), rtol=1e-5)


def test_a_parameter_that_matters_late_has_its_gradient_and_no_gradient_costs_no_call():
    k, late = torch.tensor(1.3, requires_grad=True), torch.tensor(0.45)

    def field(t, y):
        return -y if t.detach() < late else -k * y

    options = OPTIONS | {"adjoint": nde.DirectAdjoint()}
    problem = nde.ODEProblem(field, torch.ones(1), (0.0, 0.8))
    sol = nde.solve(problem, nde.Kvaerno3(), **options)
    (got,) = torch.autograd.grad(sol.y1.sum(), k)
    ends = []
    for h in (1e-5, -1e-5):
        with torch.no_grad():
            k += h
            ends.append(nde.solve(problem, nde.Kvaerno3(), **options).y1.sum())
            k -= h
    assert torch.allclose(got, (ends[0] - ends[1]) / 2e-5, rtol=1e-6)
    plain = nde.ODEProblem(lambda t, y: -y, torch.ones(1), (0.0, 0.8))
    with torch.no_grad():
        want = nde.solve(plain, nde.Kvaerno3(), **options).stats
    assert nde.solve(plain, nde.Kvaerno3(), **options).stats.nfe == want.nfe
