"""The field is called in a backward pass as it was in the solve: its tensors, autocast, and nobody's hooks in between."""

import copy

import pytest
import torch
from torch import nn

import neuralde as nde
from neuralde.adjoints.composability import columns

ALL = [kind for kind in columns() if kind is not None]
PS = pytest.mark.parametrize("per_sample", [False, True], ids=["joint", "per_sample"])


def method(kind):
    return nde.Reversible(nde.Tsit5()) if kind.capabilities.solvers == "reversible" else nde.Tsit5()


def tolerance(kind):
    return 1e-9 if kind.capabilities.exact else 1e-5


class Field(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 2))
        self.register_buffer("scale", torch.tensor(0.7))
        self.noise = torch.zeros(2)

    def forward(self, t, y):
        return self.scale * self.net(y) + torch.cos(t) * self.noise


class Model(nn.Module):
    """A module that solves: what it calls is the field that it holds."""

    def __init__(self, field, kind, per_sample=False):
        super().__init__()
        self.field, self.kind, self.per_sample = field, kind, per_sample

    def forward(self, y0):
        problem = nde.ODEProblem(self.field, y0, (0.0, 1.0))
        return nde.solve(
            problem, method(self.kind), adjoint=self.kind(), per_sample=self.per_sample, rtol=1e-7, atol=1e-7
        ).y1


@pytest.fixture
def y0():
    return torch.tensor([[0.5, -0.3], [1.0, 0.2], [0.1, 0.4]])


@PS
@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_functional_call_of_a_whole_model(kind, per_sample, y0):
    """The lent parameters are gone when the backward pass comes; it uses them, and leaves the model as it is."""
    model = Model(Field(), kind, per_sample)
    own = {name: x.detach().clone() for name, x in model.state_dict().items()}
    lent = {name: (1.5 * x.detach()).requires_grad_(name != "field.scale") for name, x in model.state_dict().items()}
    out = torch.func.functional_call(model, lent, (y0,))
    leaves = [x for x in lent.values() if x.requires_grad]
    got = torch.autograd.grad(out.square().sum(), leaves)
    other = Model(copy.deepcopy(model.field), kind, per_sample)
    other.load_state_dict({name: x.detach() for name, x in lent.items()})
    want = torch.autograd.grad(other(y0).square().sum(), list(other.parameters()))
    assert len(want) == len(got) == 4
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    assert all(torch.equal(x, own[name]) for name, x in model.state_dict().items())


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_an_attribute_replaced_between_two_solves(kind, y0):
    """Noise drawn anew for each solve, as in a continuous normalizing flow: each backward pass has its own."""
    field = Field()
    total = 0.0
    for scale in (1.0, -2.0):
        field.noise = torch.tensor([scale, 0.5])
        total = total + Model(field, kind)(y0).square().sum()
    got = torch.autograd.grad(total, list(field.parameters()))
    last = field.noise
    want = [torch.zeros_like(x) for x in field.parameters()]
    for scale in (1.0, -2.0):
        field.noise = torch.tensor([scale, 0.5])
        one = torch.autograd.grad(Model(field, nde.DirectAdjoint)(y0).square().sum(), list(field.parameters()))
        want = [a + b for a, b in zip(want, one, strict=True)]
    assert torch.equal(last, torch.tensor([-2.0, 0.5]))
    loose = 1e-4 if kind.capabilities.solvers == "reversible" else tolerance(kind)  # another method
    for a, b in zip(got, want, strict=True):
        assert (a - b).abs().max() <= loose * b.abs().max()


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_hooks_run_once_and_see_the_whole_gradient(kind, y0):
    field = Field()
    weight, made = field.net[0].weight, (2.0 * torch.ones(2)).requires_grad_() * 1.5
    made.retain_grad()

    def loss():
        solver, scaled = method(kind), lambda t, y: field(t, y) * made
        sol = nde.solve(nde.ODEProblem(scaled, y0, (0.0, 1.0)), solver, adjoint=kind(), rtol=1e-7, atol=1e-7)
        return sol.y1.square().sum()

    want = torch.autograd.grad(loss(), (weight, made))
    made.grad, seen = None, []
    handles = [x.register_hook(lambda g: (seen.append(g.clone()), 3.0 * g)[1]) for x in (weight,)]
    loss().backward()
    assert len(seen) == 1
    torch.testing.assert_close(seen[0], want[0], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(weight.grad, 3.0 * want[0], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(made.grad, want[1], rtol=1e-10, atol=1e-12)
    handles[0].remove()


@pytest.mark.parametrize("inside", [True, False], ids=["inside", "outside"])
@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_autocast_of_the_solve_is_that_of_the_backward_pass(kind, inside):
    """bfloat16 products in both, whether or not backward() is called under autocast, and whatever autocast remembers."""
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2))
    y0, seen = torch.randn(8, 2), []

    def field(t, y):
        out = net(y)
        seen.append(out.dtype)
        return out.float()

    def gradient(adjoint, solver, cache):
        net.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=cache):
            net(y0)  # leaves the weights' casts in autocast's memory, with a graph of this call
            sol = nde.solve(nde.ODEProblem(field, y0, (0.0, 1.0)), solver, adjoint=adjoint, dt=0.25)
            if inside:
                sol.y1.square().sum().backward()
        if not inside:
            sol.y1.square().sum().backward()
        return torch.cat([x.grad.flatten() for x in net.parameters()])

    solver = nde.Reversible(nde.RK4()) if kind.capabilities.solvers == "reversible" else nde.RK4()
    got = gradient(kind(), solver, True)
    assert set(seen) == {torch.bfloat16}
    want = gradient(nde.DirectAdjoint(), solver, False)
    # The same roundings for those that take the same steps; others meet bfloat16's own, 2**-8.
    same = kind in (nde.DiscreteAdjoint,)
    assert (got - want).norm() <= (1e-5 if same else 0.05) * want.norm()
