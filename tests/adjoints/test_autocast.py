"""Mixed precision: the backward pass, which torch runs outside autocast, calls the field as the solve did."""

import pytest
import torch

import neuralde as nde

STEPS = {"solver": nde.Midpoint(), "dt": 0.25, "controller": nde.ConstantStep()}


def gradient(adjoint, per_sample, inside, count=1):
    torch.manual_seed(0)
    net, y0 = torch.nn.Linear(3, 3).float(), torch.randn(4, 3, dtype=torch.float32)
    problem = nde.ODEProblem(lambda t, y: torch.tanh(net(y)).float(), y0, (0.0, 1.0))
    with torch.autocast("cpu", torch.bfloat16):
        for _ in range(count):
            sol = nde.solve(problem, adjoint=adjoint, per_sample=per_sample, **STEPS)
        if inside:
            return torch.autograd.grad(sol.y1.square().sum(), net.weight)[0]
    return torch.autograd.grad(sol.y1.square().sum(), net.weight)[0]


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("adjoint", [nde.DiscreteAdjoint(), nde.DiscreteAdjoint(checkpoints=2)], ids=["all", "some"])
def test_exact_under_autocast(adjoint, per_sample):
    want = gradient(nde.DirectAdjoint(), per_sample, False)
    for inside in (False, True):
        for count in (1, 2):  # the second solve meets the weights as the first has cast them
            got = gradient(adjoint, per_sample, inside, count)
            # Weights' gradients are rounded to bfloat16 at each step.
            assert (got - want).norm() <= 1e-2 * want.norm()


@pytest.mark.parametrize("adjoint", [nde.BacksolveAdjoint(), nde.GaussAdjoint(), nde.ForwardSensitivity()], ids=repr)
def test_others_under_autocast(adjoint):
    want = gradient(nde.DirectAdjoint(), False, False)
    for inside in (False, True):
        assert (gradient(adjoint, False, inside, 2) - want).norm() <= 3e-2 * want.norm()
