"""Gradients that are differentiated again: up to third order, against autograd through every step."""

import pytest
import torch

import neuralde as nde

EXACT = {
    "discrete": nde.DiscreteAdjoint(),
    "checkpointed": nde.DiscreteAdjoint(checkpoints=2),
    "reversible": nde.ReversibleAdjoint(),
}
OPTIONS = {
    "end": {},
    "times": {"saveat": torch.tensor([0.2, 0.9], dtype=torch.float64)},
    "dense": {"dense": True},
    "regularizer": {"regularizers": [nde.regularizers.ErrorEstimate()]},
    "event": {},
}


def event(per_sample):
    pick = (lambda y: y[:, 0]) if per_sample else (lambda y: y[0, 0])
    return nde.Event(lambda t, y, k, a: pick(y) - 0.35 * k, terminal=False, apply=lambda t, y, k, a: y + 0.1 * k)


def loss(sol):
    value = sol.y1.square().sum() + sol.ys.sin().sum() + 1e3 * sum(cost.sum() for cost in sol.regularization)
    value = value if sol.dense is None else value + sol(0.5).cos().sum()
    return value if sol.events is None else value + torch.nansum(sol.events.ts**2)


def derivatives(adjoint, what, per_sample, reversible):
    """The first derivatives of a loss in which arguments depend on the state, on each other and on a weight."""
    weight = torch.tensor([[0.3, -0.5, 0.2], [0.1, 0.4, -0.2], [-0.3, 0.2, 0.5]], requires_grad=True)
    y0 = torch.tensor([[0.5, 0.2, 0.1], [1.0, 0.3, -0.2]], requires_grad=True)
    k = torch.tensor(1.3, requires_grad=True)
    computed = 2 * weight.sum() + y0.sum() + k

    def field(t, y, k, a):
        return -k * y * y + 0.1 * torch.tanh(y @ weight) * a * torch.cos(t)

    options = dict(OPTIONS[what], **({"events": event(per_sample)} if what == "event" else {}))
    solver = nde.Reversible(nde.Tsit5()) if reversible else nde.Tsit5()
    problem = nde.ODEProblem(field, y0, (0.0, 0.8 * k), (k, computed))
    sol = nde.solve(problem, solver, adjoint=adjoint, per_sample=per_sample, rtol=1e-3, atol=1e-3, **options)
    assert what != "event" or len(sol.events)
    inputs, value, found = (y0, k, weight), loss(sol), []
    for _ in range(2 if what == "event" else 3):  # the time of an event has two
        grads = torch.autograd.grad(value, inputs, create_graph=True)
        found.append(grads)
        value = sum(grad.square().sum() for grad in grads)
    return found


CASES = [("discrete", what, per_sample) for what in OPTIONS for per_sample in (False, True)]
CASES += [("checkpointed", "end", False), ("reversible", "dense", False), ("reversible", "regularizer", True)]


@pytest.mark.parametrize(("name", "what", "per_sample"), CASES)
def test_higher_derivatives_are_those_of_every_step(name, what, per_sample):
    reversible = name == "reversible"
    got = derivatives(EXACT[name], what, per_sample, reversible)
    want = derivatives(nde.DirectAdjoint(), what, per_sample, reversible)
    for order, (ours, theirs) in enumerate(zip(got, want, strict=True), start=1):
        for a, b in zip(ours, theirs, strict=True):
            assert (a - b).abs().max() <= 1e-10 * b.abs().max(), f"derivative {order}"


def test_a_gradient_penalty_against_differences(frozen, make):
    """The whole loss, a gradient's norm in it, with the steps frozen."""
    y0, k = make(0.5, 0.8), make(1.4)

    def penalty(adjoint, controller):
        problem = nde.ODEProblem(lambda t, y, k: -k * y * y + torch.cos(t), y0, (0.0, 1.0), (k,))
        sol = nde.solve(problem, adjoint=adjoint, controller=controller, rtol=1e-5, atol=1e-5)
        return torch.autograd.grad(sol.y1.sum(), (y0, k), create_graph=True)

    mesh = frozen.mesh(
        lambda **o: nde.solve(
            nde.ODEProblem(lambda t, y, k: -k * y * y + torch.cos(t), y0, (0.0, 1.0), (k,)), rtol=1e-5, atol=1e-5, **o
        )
    )
    steps = nde.StepTo(ts=mesh)

    def number(adjoint, controller):
        return sum(grad.square().sum() for grad in penalty(adjoint, controller))

    def value():
        with torch.enable_grad():
            return number(nde.DirectAdjoint(), steps).detach()

    wanted = frozen.differences(value, (y0, k))
    got = torch.autograd.grad(number(nde.DiscreteAdjoint(), None), (y0, k))
    frozen.assert_derivative(got, (y0, k), wanted, 1e-7)


def test_nothing_is_kept_once_the_gradient_is_gone():
    """Plain backward passes after one with create_graph see no hooks of it."""
    y0 = torch.tensor([1.0, 0.5], requires_grad=True)
    sol = nde.solve(nde.ODEProblem(lambda t, y: -y * y, y0, (0.0, 1.0)), rtol=1e-6, atol=1e-6)
    first = torch.autograd.grad(sol.y1.sum(), y0, create_graph=True)[0]
    second = torch.autograd.grad(sol.y1.sum(), y0, retain_graph=True)[0]
    assert torch.equal(first.detach(), second)


def test_a_random_field_is_refused():
    torch.manual_seed(0)
    y0 = torch.ones(3, requires_grad=True)
    problem = nde.ODEProblem(lambda t, y: -y * (1 + 0.5 * torch.rand(())), y0, (0.0, 1.0))
    sol = nde.solve(problem, nde.RK4(), dt=0.1, adjoint=nde.DiscreteAdjoint(budget=0))
    with pytest.raises(RuntimeError, match="gave other values in the backward pass"):
        torch.autograd.grad(sol.y1.sum(), y0, create_graph=True)
    sol = nde.solve(problem, nde.RK4(), dt=0.1, adjoint=nde.DiscreteAdjoint(budget=0))
    with pytest.raises(RuntimeError, match="gave other values in the backward pass"):
        torch.autograd.grad(sol.y1.sum(), y0)
