"""The contract of a method, proved by two implicit ones: a cache, a memory, steps that fail, counts."""

import math

import pytest
import torch

import neuralde as nde
from neuralde.solvers.core.counts import Counts, Stats
from neuralde.solvers.testing.implicit import BDF2, ImplicitEuler
from neuralde.solvers.testing.ordinary import LIMIT_CYCLE, Recorder, observed_order

METHODS = [ImplicitEuler(), BDF2()]
FIXED = nde.ConstantStep()


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("method", METHODS, ids=repr)
@pytest.mark.parametrize("backward", [False, True])
def test_the_order_of_the_solution_and_of_the_rows_between(method, backward):
    """On a nonlinear, non-autonomous problem; the rows are read from the dense output."""
    problem = LIMIT_CYCLE.problem(backward)
    end, between = (0.0, 1.13) if backward else (2.0, 0.87)
    steps, ends, rows = [h / (4 if backward else 1) for h in (0.05, 0.025, 0.0125)], [], []
    for h in steps:
        sol = nde.solve(problem, method, dt=h, controller=FIXED, rtol=1e-10, atol=1e-10, saveat=[between, end])
        ends.append((sol.y1 - LIMIT_CYCLE.at(end)).norm().item())
        rows.append((sol.ys[0] - LIMIT_CYCLE.at(between)).norm().item())
    assert observed_order(steps, ends) > method.order - 0.1
    assert observed_order(steps, rows) > method.order - 0.2


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_a_stiff_problem_costs_what_its_solution_does(method):
    """Prothero and Robinson's, a million times faster than its solution: one Jacobian, few factorizations."""
    problem = nde.ODEProblem(lambda t, y: -1e6 * (y - torch.cos(t)) - torch.sin(t), torch.ones(1), (0.0, 10.0))
    sol = nde.solve(problem, method, rtol=1e-4, atol=1e-4)
    assert (sol.y1 - math.cos(10.0)).abs() < 1e-5
    assert sol.stats.steps < 600
    assert sol.stats.jacobians == 1
    assert sol.stats.factorizations < sol.stats.steps / 2
    assert sol.stats.linear_solves == sol.stats.newton_iterations > sol.stats.steps
    explicit = nde.solve(problem, rtol=1e-4, atol=1e-4, max_steps=2000, throw=False)
    assert explicit.status is nde.Status.MAX_STEPS


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_van_der_pol_from_end_to_end_of_a_relaxation(method):
    """Through the jump at mu = 1000, against SciPy's Radau at 1e-10."""
    problem = nde.ODEProblem(
        lambda t, y: torch.stack([y[1], 1e3 * (1 - y[0] ** 2) * y[1] - y[0]]), torch.tensor([2.0, 0.0]), (0.0, 1000.0)
    )
    sol = nde.solve(problem, method, rtol=1e-4, atol=1e-7, max_steps=20_000)
    integrate = pytest.importorskip("scipy.integrate")
    want = integrate.solve_ivp(
        lambda t, y: [y[1], 1e3 * (1 - y[0] ** 2) * y[1] - y[0]], (0, 1000), [2.0, 0.0], "Radau", rtol=1e-10, atol=1e-12
    )
    assert (sol.y1[0] - want.y[0, -1]).abs() < 2e-2
    assert 0 < sol.stats.jacobians < sol.stats.steps / 5


def test_counts_are_those_of_the_calls():
    field = Recorder(lambda t, y: -(y**3))
    sol = nde.solve(nde.ODEProblem(field, torch.ones(2), (0.0, 1.0)), ImplicitEuler(), rtol=1e-3, atol=1e-3)
    assert field.calls == sol.stats.nfe + sol.stats.jacobians
    assert nde.solve(nde.ODEProblem(field, torch.ones(2), (0.0, 1.0))).stats.newton_iterations == 0


def test_every_counter_is_in_the_stats():
    assert set(Counts._fields) <= set(Stats.__dataclass_fields__)


def rough(t, y):
    """A field whose equations have no solution beyond a step of 1/4: y = y0 + h (1 + y^2) with y0 near 1."""
    return 1.0 + y * y


def test_a_step_that_fails_is_tried_again_shorter():
    problem = nde.ODEProblem(rough, torch.ones(1), (0.0, 0.5))
    sol = nde.solve(problem, ImplicitEuler(), rtol=1e-4, atol=1e-4, dt=0.5, trace=True)
    failed = sol.trace.error.isinf()
    assert int(failed.sum()) == sol.stats.newton_failures > 0
    assert sol.stats.rejected >= sol.stats.newton_failures
    assert not sol.trace.accepted[failed].any()
    assert (sol.y1 - math.tan(math.pi / 4 + 0.5)).abs() < 0.1


def test_lanes_fail_alone():
    y0 = torch.tensor([[1.0], [-1.0]])
    sol = nde.solve(
        nde.ODEProblem(rough, y0, (0.0, 0.5)), ImplicitEuler(), rtol=1e-1, atol=1e-1, dt=0.5, per_sample=True
    )
    assert sol.stats.newton_failures[0] > 0
    assert sol.stats.newton_failures[1] == 0
    alone = nde.solve(
        nde.ODEProblem(rough, y0[1:], (0.0, 0.5)), ImplicitEuler(), rtol=1e-1, atol=1e-1, dt=0.5, per_sample=True
    )
    assert torch.allclose(sol.y1[1], alone.y1[0], atol=1e-12)


def test_what_cannot_be_solved_says_so_and_is_not_called_a_number_that_is_none():
    problem = nde.ODEProblem(rough, torch.ones(1), (0.0, 0.5))
    with pytest.raises(nde.ConvergenceError, match="equations of an implicit step were not solved"):
        nde.solve(problem, ImplicitEuler(), dt=0.5, controller=FIXED)
    sol = nde.solve(problem, ImplicitEuler(), dt=0.5, controller=FIXED, throw=False)
    assert sol.status is nde.Status.NOT_CONVERGED
    nowhere = nde.ODEProblem(lambda t, y: y * torch.nan, torch.ones(1), (0.0, 0.5))
    assert nde.solve(nowhere, ImplicitEuler(), throw=False).status is nde.Status.NON_FINITE


def test_a_history_starts_again_behind_events_and_jumps():
    """The first step behind one is of order 1, and so is its error, as the trace has it."""
    seen = []

    class Watched(BDF2):
        def restart(self, field, t, before, y, memory):
            seen.append((float(t), before.clone(), y.clone()))
            return super().restart(field, t, before, y, memory)

    drop = nde.ScheduledEvent([0.5], lambda t, y: y + 1.0)
    controller = nde.ConstantStep(jump_ts=[0.25])
    problem = nde.ODEProblem(lambda t, y: -y, torch.ones(1), (0.0, 1.0))
    nde.solve(problem, Watched(), dt=0.1, controller=controller, events=drop)
    assert [t for t, *_ in seen] == [0.25, 0.5]
    assert torch.equal(seen[0][1], seen[0][2])
    assert torch.allclose(seen[1][2], seen[1][1] + 1.0)


@pytest.mark.parametrize("method", METHODS, ids=repr)
@pytest.mark.parametrize("per_sample", [False, True])
def test_blocks_and_lanes_give_the_eager_solution(method, per_sample):
    y0 = torch.tensor([[1.0, 0.5], [0.2, -0.4]])
    problem = nde.ODEProblem(lambda t, y: torch.sin(3 * y) - y, y0, (0.0, 2.0))
    options = {"rtol": 1e-4, "atol": 1e-6, "saveat": [0.3, 2.0], "per_sample": per_sample}
    want = nde.solve(problem, method, **options)
    got = nde.solve(problem, method, driver=nde.Blocks(size=4), **options)
    assert torch.allclose(got.ys, want.ys, atol=1e-9)
    for name in ("steps", "jacobians", "factorizations", "newton_iterations"):
        pair = getattr(got.stats, name), getattr(want.stats, name)
        assert torch.equal(*pair) if per_sample else pair[0] == pair[1], name
    if per_sample:
        few = nde.solve(problem, method, compact=True, **options)
        assert torch.allclose(few.ys, want.ys, atol=1e-9)


def test_refusals_come_before_the_first_step():
    field = Recorder(lambda t, y: -y)
    live = torch.ones(2, requires_grad=True)
    problem = nde.ODEProblem(field, live, (0.0, 1.0))
    energy, stiffness = nde.regularizers.KineticEnergy(), nde.regularizers.StiffnessEstimate()
    cases = [
        ({"regularizers": [energy]}, "no weighted sum of slopes"),
        ({"regularizers": [stiffness]}, "no stiffness estimate"),
        ({"adjoint": nde.ReversibleAdjoint()}, "expected Reversible"),
        ({"adjoint": nde.BacksolveAdjoint()}, "for the backward solve of BacksolveAdjoint"),
        ({"adjoint": nde.ForwardSensitivity(in_error_norm=True)}, "in_error_norm=True"),
    ]
    for options, message in cases:
        with pytest.raises(nde.InvalidProblemError, match=message):
            nde.solve(problem, BDF2(), **options)
    with pytest.raises(nde.InvalidProblemError, match="base: got"):
        nde.Reversible(BDF2())
    assert field.calls <= 2  # what the last two ask of the field to see what it holds
