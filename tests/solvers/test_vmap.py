"""``torch.func.vmap`` through a solve: every lane is right, on steps that all of them share."""

import pytest
import torch

import neuralde as nde

D = torch.float64
TIGHT = {"rtol": 1e-8, "atol": 1e-8}
vmap = torch.func.vmap


def field(t, y, k):
    return -k * y * y + torch.cos(t)


def solve(y0, k=1.0, tspan=(0.0, 1.0), **options):
    return nde.solve(nde.ODEProblem(field, y0, tspan, (k,)), **{**TIGHT, **options})


@pytest.fixture
def states(device):
    return torch.rand(4, 3, dtype=D, generator=torch.Generator().manual_seed(0)).to(device) + 0.2


OUTPUTS = {
    "end": ({}, lambda sol: sol.y1),
    "times": ({"saveat": [0.25, 0.5, 1.0]}, lambda sol: sol.ys),
    "dense": ({"dense": True}, lambda sol: sol(torch.tensor([0.3, 0.7], dtype=D))),
    "fixed": ({"solver": nde.RK4(), "dt": 0.02}, lambda sol: sol.y1),
    "reversible": ({"solver": nde.Reversible(nde.Tsit5())}, lambda sol: sol.y1),
    "doses": ({"events": nde.ScheduledEvent([0.5], lambda t, y, k: y + 1.0)}, lambda sol: sol.y1),
}


@pytest.mark.parametrize("what", OUTPUTS)
def test_over_states(what, states):
    options, read = OUTPUTS[what]
    got = vmap(lambda y0: read(solve(y0, **options)))(states)
    want = torch.stack([read(solve(y0, **options)) for y0 in states])
    torch.testing.assert_close(got, want, rtol=0, atol=1e-7)


def test_over_samples_with_clocks_of_their_own(states):
    got = vmap(lambda y0: solve(y0.unsqueeze(-1), per_sample=True, saveat=[0.5, 1.0], compact=True).ys)(states)
    want = torch.stack([solve(y0, saveat=[0.5, 1.0]).ys for y0 in states])
    torch.testing.assert_close(got.squeeze(-1), want, rtol=0, atol=1e-7)


def test_over_arguments_and_nested(states, device):
    rates = torch.tensor([0.5, 1.0, 2.0], dtype=D, device=device)
    got = vmap(lambda k: vmap(lambda y0: solve(y0, k).y1)(states))(rates)
    want = torch.stack([torch.stack([solve(y0, k).y1 for y0 in states]) for k in rates])
    torch.testing.assert_close(got, want, rtol=0, atol=1e-7)


def test_the_steps_are_those_of_the_hardest_lane():
    """A lane that needs short steps makes them short for all; a lane that fails fails all."""
    rates = torch.tensor([0.1, 100.0], dtype=D)
    alone = [nde.solve(nde.ODEProblem(lambda t, y, k: -k * y, torch.ones(1, dtype=D), (0.0, 1.0), (k,))) for k in rates]
    together = []

    def run(k):
        sol = nde.solve(nde.ODEProblem(lambda t, y, k: -k * y, torch.ones(1, dtype=D), (0.0, 1.0), (k,)))
        together.append(sol.stats)
        return sol.y1

    vmap(run)(rates)
    assert alone[0].stats.steps < alone[1].stats.steps <= together[0].steps < 2 * alone[1].stats.steps
    with pytest.raises(nde.NonFiniteError):
        vmap(run)(torch.tensor([1.0, torch.nan], dtype=D))


def test_under_other_transforms(states):
    """Per-lane Jacobians, directional and second derivatives."""
    y0 = states[0]

    def end(y):
        return solve(y).y1

    def reference(y):
        return torch.autograd.functional.jacobian(lambda x: solve(x, adjoint=nde.DirectAdjoint()).y1, y)

    got = vmap(torch.func.jacrev(end))(states)
    torch.testing.assert_close(got, torch.stack([reference(y) for y in states]), rtol=0, atol=1e-6)
    got = vmap(lambda y: torch.func.jvp(end, (y,), (y,))[1])(states)
    torch.testing.assert_close(got, torch.stack([reference(y) @ y for y in states]), rtol=0, atol=1e-6)
    got = torch.func.hessian(lambda y: end(y).sum())(y0)
    want = torch.autograd.functional.hessian(lambda y: solve(y, adjoint=nde.DirectAdjoint()).y1.sum(), y0)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def test_tight_tolerances_still_warn():
    with pytest.warns(nde.PrecisionWarning, match="below the rounding"):
        vmap(lambda y0: solve(y0, rtol=1e-17, atol=0.0, solver=nde.Tsit5(), max_steps=3, throw=False).y1)(
            torch.ones(2, 1, dtype=D)
        )


REFUSED = {
    "tspan": lambda y0: solve(y0, tspan=(0.0, y0[0])),
    "saveat": lambda y0: solve(y0, saveat=y0[:1]),
    "rtol": lambda y0: solve(y0, rtol=y0[0]),
    "dt": lambda y0: solve(y0, dt=y0[0]),
    "ts": lambda y0: solve(y0, events=nde.ScheduledEvent(y0[:1], lambda t, y, k: y)),
    "fn": lambda y0: solve(y0, events=nde.Event(lambda t, y, k: y[0] - 0.5)),
    "through_steps": lambda y0: solve(y0, adjoint=nde.DirectAdjoint(through_steps=True)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_only_a_lane_could_have_is_refused(name, states):
    with pytest.raises(nde.InvalidProblemError, match=rf"{name}.*each lane of torch.func.vmap.*per_sample=True"):
        vmap(lambda y0: REFUSED[name](y0).y1)(states)
