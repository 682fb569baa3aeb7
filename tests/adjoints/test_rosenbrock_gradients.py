"""Gradients of Rosenbrock methods, which contain the field's Jacobian: of any order, in both modes, against differences."""

import pytest
import torch

import neuralde as nde
from neuralde.regularizers import StiffnessEstimate
from neuralde.solvers.linear.differentiable import solved
from neuralde.solvers.linear.factorization import Factorization

METHODS = [nde.Rosenbrock23(), nde.Rodas4(), nde.Rodas5P()]
MESH = nde.StepTo([0.1, 0.35, 0.6])


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_the_solution_of_a_system_is_differentiable_in_both_modes():
    torch.manual_seed(0)
    matrix, b = torch.randn(2, 3, 3, requires_grad=True), torch.randn(2, 3, requires_grad=True)

    def f(matrix, b):
        return solved(matrix, Factorization.of(matrix.detach()), b)

    assert torch.autograd.gradcheck(f, (matrix, b), check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(f, (matrix, b), check_fwd_over_rev=True)


def stiff(t, y, k):
    return torch.stack([-1e3 * k * (y[..., 0] - torch.cos(k * t)), y[..., 0] ** 2 - k * y[..., 1] ** 2], -1)


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_first_and_second_derivatives_in_state_parameter_and_times(method):
    def end(y0, k, t0):
        problem = nde.ODEProblem(stiff, y0, (t0, 0.8), (k,))
        return nde.solve(problem, method, controller=MESH, adjoint=nde.DirectAdjoint()).y1

    inputs = [torch.tensor([0.9, 0.5]), torch.tensor(1.3), torch.tensor(0.0)]
    inputs = [x.requires_grad_() for x in inputs]
    assert torch.autograd.gradcheck(end, inputs, atol=1e-6)
    assert torch.autograd.gradgradcheck(end, inputs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_function_transforms(method):
    def end(y0, k):
        problem = nde.ODEProblem(stiff, y0, (0.0, 0.8), (k,))
        return nde.solve(problem, method, controller=MESH, adjoint=nde.DirectAdjoint()).y1

    y0, k = torch.tensor([0.9, 0.5]), torch.tensor(1.3)
    h = 1e-5
    want = (end(y0, k + h) - end(y0, k - h)) / (2 * h)
    assert torch.allclose(torch.func.jvp(lambda k: end(y0, k), (k,), (torch.tensor(1.0),))[1], want, rtol=1e-6)
    assert torch.allclose(torch.func.jacrev(lambda k: end(y0, k))(k), want, rtol=1e-6)
    many = torch.func.vmap(lambda y: end(y, k))(torch.stack([y0, 2 * y0]))
    assert torch.allclose(many[1], end(2 * y0, k), rtol=1e-9)


def test_stiffness_as_a_regularizer():
    k = torch.tensor(1.3, requires_grad=True)

    def value(k):
        problem = nde.ODEProblem(stiff, torch.tensor([0.9, 0.5]), (0.0, 0.8), (k,))
        options = {"controller": MESH, "regularizers": [StiffnessEstimate(normalized=False)]}
        return nde.solve(problem, nde.Rodas5P(), **options).regularization[0]

    (got,) = torch.autograd.grad(value(k), k)
    assert 900 < value(k) < 1400
    with torch.no_grad():
        want = (value(k + 1e-4) - value(k - 1e-4)) / 2e-4
    assert torch.allclose(got, want, rtol=1e-5)
    with pytest.raises(nde.InvalidProblemError, match="no end to divide by"):
        nde.solve(
            nde.ODEProblem(stiff, torch.ones(2), (0.0, 1.0), (k,)), nde.Rodas5P(), regularizers=[StiffnessEstimate()]
        )


def test_what_only_a_jacobian_reads_has_its_gradient():
    """A Jacobian that is given with a parameter of its own."""
    rate = torch.tensor(2.0, requires_grad=True)
    problem = nde.ODEProblem(lambda t, y: -2.0 * y, torch.ones(1), (0.0, 1.0), jac=lambda t, y: -rate * torch.eye(1))

    def end():
        return nde.solve(problem, nde.Rosenbrock23(), controller=nde.StepTo([0.5])).y1.sum()

    (got,) = torch.autograd.grad(end(), rate)
    ends = []
    for h in (1e-5, -1e-5):
        with torch.no_grad():
            rate += h
            ends.append(end())
            rate -= h
    assert torch.allclose(got, (ends[0] - ends[1]) / 2e-5, rtol=1e-6)
    assert got.abs() > 1e-4


def test_a_function_that_cannot_be_differentiated_twice_is_refused():
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, y):
            ctx.save_for_backward(y)
            return -(y**2)

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, g):
            (y,) = ctx.saved_tensors
            return -2 * y * g

    y0 = torch.ones(2, requires_grad=True)
    problem = nde.ODEProblem(lambda t, y: Once.apply(y), y0, (0.0, 1.0))
    with pytest.raises(nde.InvalidProblemError, match="once_differentiable"):
        nde.solve(problem, nde.Rodas5P()).y1.sum().backward()
    with torch.no_grad():
        assert torch.allclose(nde.solve(problem, nde.Rodas5P(), rtol=1e-6).y1, torch.full((2,), 0.5), atol=1e-5)
