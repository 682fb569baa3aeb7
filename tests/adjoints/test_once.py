"""A field whose backward pass cannot be differentiated is refused where it would have to be, not passed over."""

import pytest
import torch

import neuralde as nde


class Sine(torch.autograd.Function):
    """A sine with first derivatives only."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        return g * ctx.saved_tensors[0].cos()


SHARES = {"alone": lambda x: Sine.apply(x), "beside another": lambda x: Sine.apply(x) + 0.5 * x}


def gradient(share, adjoint):
    y0 = torch.ones(3, dtype=torch.float64, requires_grad=True)
    k = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    problem = nde.ODEProblem(lambda t, y, k: share(k * y), y0, (0.0, 1.0), (k,))
    return torch.autograd.grad(nde.solve(problem, adjoint=adjoint, rtol=1e-8, atol=1e-8).y1.sum(), (y0, k))


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("in_error_norm", [False, True])
def test_forward_sensitivity_refuses_it(share, in_error_norm):
    with pytest.raises(nde.InvalidProblemError, match="f: has first derivatives only"):
        gradient(SHARES[share], nde.ForwardSensitivity(in_error_norm))


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("adjoint", [nde.DirectAdjoint, nde.DiscreteAdjoint, nde.GaussAdjoint])
def test_adjoints_that_need_first_derivatives_take_it(share, adjoint):
    plain = {"alone": torch.sin, "beside another": lambda x: torch.sin(x) + 0.5 * x}[share]
    for got, expected in zip(gradient(SHARES[share], adjoint()), gradient(plain, adjoint()), strict=True):
        assert torch.allclose(got, expected, rtol=1e-12)


@pytest.mark.parametrize("share", SHARES)
def test_the_ito_correction_refuses_it(share):
    y0 = torch.ones(3, dtype=torch.float64, requires_grad=True)
    problem = nde.SDEProblem(lambda t, y: -y, lambda t, y: SHARES[share](y), y0, (0.0, 1.0))
    with pytest.raises(nde.InvalidProblemError, match="diffusion: uses an autograd"):
        nde.solve(problem, nde.EulerMaruyama(), dt=0.1, seed=1, adjoint=nde.BacksolveAdjoint())


@pytest.mark.parametrize("share", SHARES)
def test_products_with_the_jacobian_refuse_it(share):
    problem = nde.SteadyStateProblem(lambda t, y: SHARES[share](y) - 3.0 * y + 1.0, torch.ones(3, dtype=torch.float64))
    for how in (nde.Newton(linear="gmres"), nde.Anderson()):
        with pytest.raises(nde.InvalidProblemError, match="f: uses an autograd"):
            nde.solve(problem, how)
    exact = nde.solve(problem, nde.Newton(linear="dense"), rtol=1e-10, atol=1e-10).y1
    assert torch.allclose(SHARES[share](exact), 3.0 * exact - 1.0, rtol=1e-9)
    assert torch.allclose(nde.solve(problem, nde.Anderson(check=False), rtol=1e-10, atol=1e-10).y1, exact, rtol=1e-6)
