"""Tensors that only a regularizer or an event holds: found by every adjoint, or refused by name."""

import pytest
import torch

import neuralde as nde

PLAIN, PAIR = nde.Tsit5(), nde.Reversible(nde.Tsit5())
EXACT = [
    pytest.param(nde.DirectAdjoint(), PLAIN, id="direct"),
    pytest.param(nde.DiscreteAdjoint(), PLAIN, id="discrete"),
    pytest.param(nde.DiscreteAdjoint(checkpoints=2), PLAIN, id="checkpointed"),
    pytest.param(nde.ForwardSensitivity(), PLAIN, id="forward"),
    pytest.param(nde.ReversibleAdjoint(), PAIR, id="reversible"),
]
CONTINUOUS = [nde.BacksolveAdjoint(), nde.GaussAdjoint(), nde.InterpolatingAdjoint()]


def measure(weight):
    """A regularizer whose only learnable tensor is ``weight()``."""

    class Weighted(nde.regularizers.StepReduction):
        def measure(self, view):
            return view.rms(weight() * view.y1 * view.y1) * view.dt

    return Weighted("sum")


def solved(adjoint, solver, y0, regularizer=None, events=None, per_sample=False, t1=2.0):
    problem = nde.ODEProblem(lambda t, y: -y * torch.cos(t), y0, (0.0, t1))
    regularizers = [] if regularizer is None else [regularizer]
    return nde.solve(
        problem, solver, adjoint=adjoint, regularizers=regularizers, events=events, per_sample=per_sample, rtol=1e-6
    )


@pytest.mark.parametrize("per_sample", [False, True], ids=["joint", "per_sample"])
@pytest.mark.parametrize(("adjoint", "solver"), EXACT)
@pytest.mark.parametrize("grad_of_state", [True, False], ids=["state too", "weight alone"])
def test_a_regularizers_own_tensor(adjoint, solver, per_sample, grad_of_state, make):
    w = make(1.5)
    y0 = torch.tensor([[1.0, 0.5], [0.3, -0.2]]).requires_grad_(grad_of_state)

    def value():
        return solved(adjoint, solver, y0, measure(lambda: w), per_sample=per_sample).regularization[0].sum()

    # Nothing else depends on w, so the steps stay, and the number is linear in it.
    (got,) = torch.autograd.grad(value(), w)
    with torch.no_grad():
        wanted = value() / w
    assert wanted > 0.1
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=0.0)


SEARCHING = [pytest.param(nde.DiscreteAdjoint(budget=0), PLAIN, id="no graphs"), *EXACT[2:]]


@pytest.mark.parametrize(("adjoint", "solver"), SEARCHING)
def test_one_that_nobody_can_find_is_refused(adjoint, solver, make):
    hidden = iter([make(1.5)] * 10_000)
    with pytest.raises(nde.InvalidProblemError, match="regularizers: uses a tensor of shape"):
        solved(adjoint, solver, make(1.0, 0.5), measure(lambda: next(hidden))).regularization[0].backward()


@pytest.mark.parametrize("adjoint", CONTINUOUS, ids=lambda adjoint: adjoint.name)
def test_a_continuous_adjoint_refuses_the_regularizer(adjoint, make):
    w = make(1.5)
    with pytest.raises(nde.InvalidProblemError, match="cannot give its gradient"):
        solved(adjoint, PLAIN, make(1.0), measure(lambda: w))


@pytest.mark.parametrize("adjoint", [nde.DiscreteAdjoint(), nde.DiscreteAdjoint(checkpoints=2)], ids=["all", "some"])
@pytest.mark.parametrize("part", ["fn", "apply", "schedule"])
def test_an_event_that_nobody_can_look_into_is_refused(adjoint, part, make):
    hidden = iter([make(0.7)] * 10_000)

    def shrink(t, y):
        return y * next(hidden)

    events = {
        "fn": nde.Event(lambda t, y: y[0] - next(hidden)),
        "apply": nde.Event(lambda t, y: y[0] - 0.7, terminal=False, apply=shrink),
        "schedule": nde.ScheduledEvent([0.5], shrink),
    }
    sol = solved(adjoint, PLAIN, make(1.0, 0.5), events=events[part])
    assert len(sol.events) >= 1
    with pytest.raises(nde.InvalidProblemError, match="f, fn or apply: uses a tensor of shape"):
        sol.y1.sum().backward()


@pytest.mark.parametrize("adjoint", [nde.DirectAdjoint(), nde.DiscreteAdjoint()], ids=["direct", "discrete"])
def test_an_events_own_tensors(adjoint, make):
    """The level of ``fn`` and the factor of ``apply``: y = s exp(-sin t) beyond the time at which exp(-sin t) = level."""
    level, factor = make(0.7), make(0.9)
    event = nde.Event(lambda t, y: y[0] - level, "down", terminal=False, apply=lambda t, y: y * factor)
    sol = solved(adjoint, PLAIN, torch.ones(2), events=event, t1=1.0)
    grads = torch.autograd.grad(sol.y1[1] + sol.events.ts[0], (level, factor))
    s = -torch.log(level.detach())
    torch.testing.assert_close(grads[0], -1 / (level.detach() * torch.sqrt(1 - s**2)), rtol=1e-4, atol=0.0)
    torch.testing.assert_close(grads[1], torch.exp(-torch.sin(torch.tensor(1.0))), rtol=1e-4, atol=0.0)
