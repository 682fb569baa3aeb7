"""A compiled solve is one graph and gives the eager result and gradients, for every carry of the loop."""

import pytest
import torch

import neuralde as nde
from neuralde.regularizers import ErrorEstimate, StiffnessEstimate

D = torch.float64
OPTIONS = dict(rtol=1e-6, atol=1e-6, regularizers=[ErrorEstimate(), StiffnessEstimate(reduction="mean")])


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def setup(requires_grad):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2)).double()
    y0 = torch.randn(4, 2, dtype=D, requires_grad=requires_grad)
    rate = torch.tensor(1.3, dtype=D, requires_grad=True)
    ts = torch.tensor([0.1, 0.5, 1.0, 2.0], dtype=D)

    def solve(y0, rate, ts, per_sample=False):
        problem = nde.ODEProblem(lambda t, y, k: net(y) * torch.cos(k * t) - 0.3 * y, y0, (0.1, 2.0), (rate,))
        sol = nde.solve(problem, saveat=ts, per_sample=per_sample, **OPTIONS)
        return sol.ys, sol.y1, *sol.regularization, sol.stats.nfe, sol.stats.accepted

    wrt = [rate, *net.parameters(), *([y0] if requires_grad else [])]
    return solve, (y0, rate, ts), wrt


# y0 without grad is the trap: carries that start without requires_grad lose their gradient between iterations.
@pytest.mark.parametrize(("requires_grad", "per_sample"), [(True, False), (False, False), (False, True)])
def test_equals_eager_forward_and_backward_carry_by_carry(requires_grad, per_sample):
    solve, inputs, wrt = setup(requires_grad)
    eager = solve(*inputs, per_sample)
    compiled = torch.compile(solve, fullgraph=True)(*inputs, per_sample)
    for name, a, b in zip(("ys", "y1", "error", "stiffness"), eager, compiled, strict=False):
        # Both estimates are made of differences of nearly equal numbers: their rounding is relative to those.
        tolerance = 1e-6 if name in ("error", "stiffness") else 1e-9
        assert torch.allclose(a, b, rtol=tolerance, atol=1e-12), name
        want = torch.autograd.grad(a.square().sum(), wrt, retain_graph=True)
        got = torch.autograd.grad(b.square().sum(), wrt, retain_graph=True)
        for x, y in zip(want, got, strict=True):
            assert (x - y).norm() <= tolerance * x.norm(), name
    for a, b in zip(eager[-2:], compiled[-2:], strict=True):
        assert torch.equal(torch.as_tensor(a), b)


def test_new_values_do_not_recompile():
    solve, (y0, rate, ts), _ = setup(True)
    counter = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(solve, fullgraph=True, backend=counter)
    with torch.no_grad():
        for shift in (0.0, 0.1, 0.2):
            compiled(y0 + shift, rate + shift, ts * (1 - 0.1 * shift) + 0.01 * shift)
    assert counter.frame_count == 1


def test_what_cannot_be_compiled_says_so():
    y0 = torch.ones(2, dtype=D)

    def dense(y0):
        return nde.solve(nde.ODEProblem(lambda t, y: -y, y0, (0.0, 1.0)), dense=True).y1

    with pytest.raises(Exception, match="cannot be compiled"):
        torch.compile(dense, fullgraph=True, backend="eager")(y0)
