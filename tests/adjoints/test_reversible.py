"""Reversible methods: order, the way back, stability; and the gradient from states that are taken back."""

import math

import pytest
import torch

import neuralde as nde
from neuralde.regularizers import ErrorEstimate, Local, StiffnessEstimate
from neuralde.solvers.testing.ordinary import LIMIT_CYCLE, observed_order

BASES = [nde.Euler(), nde.Midpoint(), nde.Bosh3(), nde.RK4(), nde.Tsit5(), nde.Vern7()]
REVERSIBLE = {
    "reversible": nde.ReversibleAdjoint(),
    "direct": nde.DirectAdjoint(),
    "checkpointed": nde.DiscreteAdjoint(checkpoints=3),
    "forward": nde.ForwardSensitivity(),
}


@pytest.mark.parametrize("base", BASES, ids=lambda base: base.name)
def test_order(base):
    steps = [1 / n for n in ((4, 6, 8, 12, 16) if base.order > 4 else (20, 30, 40, 60, 80))]
    want = LIMIT_CYCLE.at(LIMIT_CYCLE.tspan[1])
    errors = []
    for h in steps:
        sol = nde.solve(LIMIT_CYCLE.problem(), nde.Reversible(base), dt=h, controller=nde.ConstantStep())
        errors.append((sol.y1 - want).norm().item())
    assert observed_order(steps, errors, finest=5) > base.order - 0.3


@pytest.mark.parametrize("base", BASES, ids=lambda base: base.name)
def test_dense_output_has_the_base_method_order_and_meets_the_steps(base):
    y0 = torch.tensor([0.3, 1.1])
    method = nde.Reversible(base, 0.9)
    step = method.step(lambda t, y: torch.sin(y) * math.cos(t), 0.2, 0.5, y0, (y0 + 1e-3,))
    assert torch.allclose(step.at(0.0), y0, atol=1e-15)
    assert torch.allclose(step.at(1.0), step.y, atol=1e-13)
    assert torch.allclose(step.at(torch.tensor(0.3)), step.at(0.3), atol=1e-14)


@pytest.mark.parametrize("coupling", [0.999, 0.9])
def test_the_way_back_loses_rounding_only_and_no_faster_than_said(coupling):
    method = nde.Reversible(nde.Tsit5(), coupling)
    h, count = 0.05, 200

    def field(t, y):
        return torch.stack([y[1], -torch.sin(y[0]) + 0.1 * math.cos(t)])

    def missed(pair):
        return max((x - start).abs().max().item() for x in pair)

    start = y = torch.tensor([1.0, 0.2])
    memory = method.start(field, 0.0, y)
    for n in range(count):
        step = method.step(field, n * h, (n + 1) * h, y, memory)
        y, memory = step.y, step.memory
        if n == 0:
            once, (copy,) = method.back(field, 0.0, h, y, memory)
            assert missed((once, copy)) < 1e-15
    for n in reversed(range(count)):
        y, memory = method.back(field, n * h, (n + 1) * h, y, memory)
    error = missed((y, *memory))
    assert error < 100 * 2.2e-16 * coupling**-count, error  # measured: 4e-15 and 5e-7 for these


@pytest.mark.parametrize("coupling", [0.9, 0.5])
def test_the_stable_stretch_is_where_it_says(coupling):
    method = nde.Reversible(nde.RK4(), coupling)
    assert method.stability_radius == pytest.approx(-math.log(coupling), rel=0.02)

    def largest(x):
        y, memory = torch.tensor([1.0]), (torch.tensor([1.1]),)
        sizes = []
        for _ in range(4000):
            step = method.step(lambda t, y: -x * y, 0.0, 1.0, y, memory)
            y, memory = step.y, step.memory
            sizes.append(max(y.abs().item(), memory[0].abs().item()))
        return sizes[-1]

    assert largest(0.98 * method.stability_radius) < 1.0
    assert largest(1.05 * method.stability_radius) > 1e3


def inputs(dtype=torch.float64, per_sample=False):
    made = torch.Generator().manual_seed(1)
    y0 = torch.randn(3, 2, generator=made, dtype=dtype).requires_grad_()
    w = torch.randn(2, 2, generator=made, dtype=dtype).requires_grad_()
    rate, t0 = torch.tensor(0.7, requires_grad=True), torch.tensor(0.1, requires_grad=True)
    t1 = (torch.tensor([0.9, 1.1, 2.0]) if per_sample else torch.tensor(1.3)).requires_grad_()
    return [y0, w, rate, t0, t1]


def solve(live, solver=None, **options):
    y0, w, rate, t0, t1 = live

    def field(t, y, rate):
        return torch.tanh(y @ w) * torch.cos(rate * t) - 0.3 * y

    problem = nde.ODEProblem(field, y0, (t0, t1), (rate,))
    return nde.solve(problem, solver or nde.Reversible(nde.Tsit5()), **({"rtol": 1e-5, "atol": 1e-5} | options))


def read(sol):
    loss = (torch.where(sol.ys.isnan(), 0.0, sol.ys).abs() ** 2).sum() + sol.y1.real.sum()
    if sol.dense is not None:
        loss = loss + sol(0.5).real.sum() + sol.derivative(0.6).real.square().sum()
    return loss + sum(x.sum() for x in sol.regularization)


CASES = {
    "end": {},
    "rows": {"saveat": torch.tensor([0.1, 0.4, 0.9])},
    "dense": {"dense": True, "saveat": "steps"},
    "per-sample": {"per_sample": True, "dense": True},
    "compact": {"per_sample": True, "compact": True, "saveat": torch.tensor([0.1, 0.4, 0.9])},
    "costs": {"regularizers": [ErrorEstimate(), StiffnessEstimate("mean"), Local(flow_through_state=True)]},
    "compact costs": {"per_sample": True, "compact": True, "regularizers": [ErrorEstimate("max"), Local()]},
    "jumps": {"controller": nde.PIController(jump_ts=[0.5])},
    "complex": {},
}


@pytest.mark.parametrize("case", CASES)
def test_every_exact_adjoint_gives_the_same(case):
    results = []
    for adjoint in REVERSIBLE.values():
        torch.manual_seed(3)
        live = inputs(torch.complex128 if case == "complex" else torch.float64, "per_sample" in CASES[case])
        results.append(torch.autograd.grad(read(solve(live, adjoint=adjoint, **CASES[case])), live))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("base", BASES, ids=lambda base: base.name)
def test_against_finite_differences_of_the_frozen_steps(frozen, base):
    live = inputs()
    solver = nde.Reversible(base, 0.99)

    def run(**options):
        settings = {"controller": nde.PIController(dtmax=0.3)} if base.adaptive else {"dt": 0.1}
        return solve(live, solver, **({"rtol": 1e-3, "atol": 1e-3, "saveat": [0.4, 1.0]} | settings | options))

    frozen(run, lambda sol: sol.ys.square().sum() + sol.y1.sum(), live, adjoints=REVERSIBLE)


def test_it_keeps_no_states():
    live = inputs()
    sol = solve(live, adjoint=nde.ReversibleAdjoint(), rtol=1e-9, atol=1e-9)
    recorder = sol.y1.grad_fn.run.recorder
    assert len(recorder.records) == sol.stats.accepted > 15
    assert len(recorder.states) == 1  # the initial one


def test_a_start_that_was_missed_is_refused():
    y0 = torch.tensor([1.0, 0.5], requires_grad=True)
    problem = nde.ODEProblem(lambda t, y: torch.sin(3 * y), y0, (0.0, 1.0))
    solver = nde.Reversible(nde.RK4(), coupling=0.5)
    sol = nde.solve(problem, solver, dt=0.01, adjoint=nde.ReversibleAdjoint())
    with pytest.raises(nde.InvalidProblemError, match="missed y0 by"):
        sol.y1.sum().backward()


def test_an_ordinary_method_is_refused():
    with pytest.raises(nde.InvalidProblemError, match=r"Tsit5\(\) with ReversibleAdjoint; expected Reversible"):
        solve(inputs(), nde.Tsit5(), adjoint=nde.ReversibleAdjoint())
    for wrong in (nde.Reversible(nde.Tsit5()), "Tsit5"):
        with pytest.raises(nde.InvalidProblemError, match="base: got"):
            nde.Reversible(wrong)
    for wrong in (0.0, 1.0, True, "x"):
        with pytest.raises(nde.InvalidProblemError, match="coupling: got"):
            nde.Reversible(nde.Tsit5(), wrong)


def test_events_move_both_copies():
    """A reversible method takes events; the pair stays together, so the solution is that of the plain method."""
    bounce = nde.Event(
        lambda t, y: y[0], direction="down", terminal=False, apply=lambda t, y: torch.stack([y[0], -0.8 * y[1]])
    )
    live = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    problem = nde.ODEProblem(lambda t, y: torch.stack([y[1], -9.81 - 0.1 * y[1]]), live, (0.0, 1.5))
    options = {"events": bounce, "rtol": 1e-9, "atol": 1e-9}
    plain = nde.solve(problem, nde.Tsit5(), **options)
    want = torch.autograd.grad(plain.y1.sum(), live)[0]
    for adjoint in (
        nde.DirectAdjoint(),
        nde.DiscreteAdjoint(),
        nde.DiscreteAdjoint(budget=0),
        nde.ForwardSensitivity(),
    ):
        sol = nde.solve(problem, nde.Reversible(nde.Tsit5()), adjoint=adjoint, **options)
        assert len(sol.events) == len(plain.events) == 2
        assert torch.allclose(sol.y1, plain.y1, atol=1e-7)
        assert torch.allclose(torch.autograd.grad(sol.y1.sum(), live)[0], want, atol=1e-6), adjoint


EVENT = nde.Event(lambda t, y: y[0] - 0.5)


@pytest.mark.parametrize("adjoint", [None, nde.DirectAdjoint(), nde.ForwardSensitivity(), nde.GaussAdjoint()], ids=repr)
def test_events_of_a_reversible_method(adjoint):
    """y0 exp(-t) = 1/2 at t = log(2 y0)."""
    y0 = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
    problem = nde.ODEProblem(lambda t, y: -y, y0, (0.0, 5.0))
    sol = nde.solve(problem, nde.Reversible(nde.Tsit5()), rtol=1e-10, atol=1e-10, events=EVENT, adjoint=adjoint)
    torch.testing.assert_close(sol.event_time, torch.tensor(2.0, dtype=torch.float64).log(), rtol=0, atol=1e-9)
    (gradient,) = torch.autograd.grad(sol.event_time, y0)
    torch.testing.assert_close(gradient, torch.ones_like(y0), rtol=0, atol=1e-8)


def test_its_own_adjoint_refuses_events():
    problem = nde.ODEProblem(lambda t, y: -y, torch.ones(1, dtype=torch.float64, requires_grad=True), (0.0, 1.0))
    with pytest.raises(nde.InvalidProblemError, match="ReversibleAdjoint gives no gradient through events"):
        nde.solve(problem, nde.Reversible(nde.Tsit5()), events=EVENT, adjoint=nde.ReversibleAdjoint())
