"""The parameters' integral where the cotangent's equation is far easier than the field: against SciPy and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.integrate import quad

import neuralde as nde
from neuralde.adjoints.continuous import integrands

DOUBLE = {"dtype": torch.float64}
KINDS = [nde.GaussAdjoint, nde.BacksolveAdjoint]


def forced(adjoint, weight=1.0, span=(0.0, 5.0), samples=None, rate=20.0):
    """The gradient of y1 by the weight of a fast forcing of a slow state, which does not depend on the weight itself."""
    w = torch.tensor(weight, requires_grad=True, **DOUBLE)
    y0 = torch.zeros((), **DOUBLE) if samples is None else torch.zeros(len(samples), 1, **DOUBLE)
    t1 = span[1] if samples is None else torch.tensor(samples, **DOUBLE)
    problem = nde.ODEProblem(lambda t, y, w: -0.5 * y + w * torch.sin(rate * t), y0, (span[0], t1), (w,))
    sol = nde.solve(problem, adjoint=adjoint, rtol=1e-6, atol=1e-6, per_sample=samples is not None)
    return torch.autograd.grad(sol.y1.sum(), w)[0].item()


def exact(t0, t1):
    return quad(lambda t: math.exp(-0.5 * (t1 - t)) * math.sin(20 * t), t0, t1, limit=400, epsabs=1e-12)[0]


@pytest.mark.parametrize("weight", [1.0, 0.0])
@pytest.mark.parametrize("kind", KINDS)
def test_a_forcing_faster_than_the_state(kind, weight):
    assert abs(forced(kind(), weight) - exact(0.0, 5.0)) < 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_backwards_in_time(kind):
    assert abs(forced(kind(), span=(5.0, 0.0)) - exact(5.0, 0.0)) < 1e-5 * abs(exact(5.0, 0.0))


@pytest.mark.parametrize("weight", [1.0, 0.0])
@pytest.mark.parametrize("kind", KINDS)
def test_samples_with_clocks_of_their_own(kind, weight):
    ends = [5.0, 0.3, 2.7]
    assert abs(forced(kind(), weight, samples=ends) - sum(exact(0.0, end) for end in ends)) < 3e-6


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("solver", [nde.Tsit5(), nde.Bosh3(), nde.Vern7()])
def test_a_rate(solver, kind, per_sample):
    """The solution is sin(5 a t) / 5, and its derivative by a is t cos(5 a t)."""
    tol = 1e-5 if isinstance(solver, nde.Bosh3) else 1e-8
    a = torch.tensor(2.0, requires_grad=True, **DOUBLE)
    y0 = torch.zeros((2, 1) if per_sample else (), **DOUBLE)
    problem = nde.ODEProblem(lambda t, y, a: a * torch.cos(5 * a * t) + 0 * y, y0, (0.0, 3.0), (a,))
    sol = nde.solve(problem, solver, adjoint=kind(), rtol=tol, atol=tol, per_sample=per_sample)
    got = torch.autograd.grad(sol.y1.mean(), a)[0].item()
    assert abs(got - 3 * math.cos(30.0)) < 10 * tol


def test_a_pulse_that_only_the_forward_steps_see():
    """Landing on its edges, they resolve it; the cotangent's own steps pass over it."""
    w = torch.tensor(1.0, requires_grad=True, **DOUBLE)

    def field(t, y, w):
        return -0.1 * y + w * torch.exp(-(((t - 7.31) / 0.02) ** 2))

    problem = nde.ODEProblem(field, torch.ones((), **DOUBLE), (0.0, 10.0), (w,))
    controller = nde.PIController(dtmax=0.02)
    backward = nde.PIController()
    sol = nde.solve(problem, controller=controller, adjoint=nde.GaussAdjoint(controller=backward), rtol=1e-6, atol=1e-6)
    want = quad(lambda t: math.exp(-0.1 * (10 - t) - ((t - 7.31) / 0.02) ** 2), 7.1, 7.5, epsabs=1e-12)[0]
    assert abs(torch.autograd.grad(sol.y1, w)[0].item() - want) < 1e-6


def test_a_running_cost_whose_parameter_oscillates():
    w = torch.tensor(0.0, requires_grad=True, **DOUBLE)
    cost = nde.RunningCost(lambda t, y: torch.sin(30 * t) * w + 0 * y)
    problem = nde.ODEProblem(lambda t, y: -0.5 * y, torch.ones((), **DOUBLE), (0.0, 4.0))
    sol = nde.solve(problem, adjoint=nde.GaussAdjoint(), regularizers=[cost], rtol=1e-6, atol=1e-6)
    got = torch.autograd.grad(sol.regularization[0], w)[0].item()
    assert abs(got - (1 - math.cos(120.0)) / 30) < 1e-6


@pytest.mark.parametrize(("kind", "calls"), [(nde.GaussAdjoint, 6), (nde.BacksolveAdjoint, 6)])
def test_a_smooth_share_costs_one_look(kind, calls, monkeypatch):
    """Six calls, the halves of the first step; all else is read off the points that the quadrature has anyway."""

    def backward_calls():
        count = 0

        def field(t, y, w):
            nonlocal count
            count += 1
            return -w * y

        w = torch.tensor(0.7, requires_grad=True, **DOUBLE)
        problem = nde.ODEProblem(field, torch.ones((), **DOUBLE), (0.0, 5.0), (w,))
        sol = nde.solve(problem, adjoint=kind(), rtol=1e-6, atol=1e-6)
        forward = count
        assert abs(torch.autograd.grad(sol.y1, w)[0].item() + 5 * math.exp(-3.5)) < 1e-5
        return count - forward

    checked = backward_calls()
    monkeypatch.setattr(integrands, "_exceeds", lambda errors, limits: False)
    first = integrands.Quadrature.__init__

    def unwary(self, *args):
        first(self, *args)
        self.wary = False

    monkeypatch.setattr(integrands.Quadrature, "__init__", unwary)
    assert checked - backward_calls() == calls


def test_what_does_not_converge_is_refused(monkeypatch):
    monkeypatch.setattr(integrands, "_MOST_HALVINGS", 50)
    with pytest.raises(nde.ConvergenceError, match=r"GaussAdjoint.*parameters' integral.*DiscreteAdjoint"):
        forced(nde.GaussAdjoint(), 0.0, rate=1e5)


@pytest.mark.parametrize("atol", [1e-6, 0.0])
def test_a_parameter_that_the_field_uses_for_a_while(atol):
    """A branch on the time: outside of it there is no graph to the parameter at all."""
    w = torch.tensor(0.5, requires_grad=True, **DOUBLE)

    def field(t, y, w):
        return -y + w if 1.0 < t < 1.7 else -y

    problem = nde.ODEProblem(field, torch.ones((), **DOUBLE), (0.0, 4.0), (w,))
    sol = nde.solve(problem, adjoint=nde.GaussAdjoint(atol=atol), rtol=1e-6, atol=1e-6)
    want = math.exp(1.7 - 4) - math.exp(1.0 - 4)
    assert abs(torch.autograd.grad(sol.y1, w)[0].item() - want) < 1e-5
