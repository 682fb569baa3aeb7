"""Diagonally implicit Runge-Kutta methods: tableaus that prove themselves, orders, Newton's iteration and what it keeps."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import neuralde as nde
from neuralde.solvers.methods.stability import amplification
from neuralde.solvers.testing.ordinary import COMPLEX, LIMIT_CYCLE, SINE, Recorder, observed_order
from neuralde.solvers.testing.stiff import STIFF, prothero_robinson

FIXED_STEPS = [nde.ImplicitMidpoint(), nde.Trapezoid()]
ADAPTIVE = [
    nde.ImplicitEuler(),
    nde.TRBDF2(),
    nde.Kvaerno3(),
    nde.KenCarp3(),
    nde.KenCarp4(),
    nde.Kvaerno5(),
    nde.KenCarp5(),
]
METHODS = [*FIXED_STEPS, *ADAPTIVE]
FIXED = nde.ConstantStep()
EXACT = {"rtol": 1e-12, "atol": 1e-13}


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_tableaus_say_what_is_true_and_refuse_to_be_wrong(method):
    tableau = method.tableau
    assert tableau.a_stable
    assert tableau.stability_radius == math.inf
    assert tableau.at_infinity == (1.0 if method in FIXED_STEPS else 0.0)
    assert tableau.stiffly_accurate or method in FIXED_STEPS
    with pytest.raises(nde.TableauError, match="claimed order"):
        replace(tableau, order=tableau.order + 1)
    with pytest.raises(nde.TableauError, match="b: claimed order"):
        replace(tableau, b=(tableau.b[0] + 1e-6, *tableau.b[1:]))
    with pytest.raises(nde.TableauError, match="rows of lengths"):
        replace(tableau, a=tableau.a[:-1])
    with pytest.raises(nde.TableauError, match="got the diagonal"):
        replace(tableau, a=(*tableau.a[:-1], (*tableau.a[-1][:-1], -0.1)))


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_the_stability_function_is_that_of_a_step(method):
    stages = method.tableau.stages
    a = np.zeros((stages, stages))
    for i, row in enumerate(method.tableau.a):
        a[i, : i + 1] = row
    for z in (-0.7, -30.0, -1e4):
        step = method.step(lambda t, y, z=z: z * y, 0.0, 1.0, torch.ones(1))
        want = amplification(a, np.array(method.tableau.b), np.array([z]))
        assert math.isclose(step.y.item(), want[0], rel_tol=1e-8, abs_tol=1e-11)


@pytest.mark.parametrize("reference", [SINE, LIMIT_CYCLE, COMPLEX], ids=repr)
@pytest.mark.parametrize("method", METHODS, ids=repr)
@pytest.mark.parametrize("backward", [False, True])
def test_the_order_of_the_solution(method, reference, backward):
    problem, (t0, t1) = reference.problem(backward), reference.tspan
    errors, steps = [], [2.0**-k for k in ((6, 7, 8, 9) if method.order == 1 else (3, 4, 5, 6))]
    for part in steps:
        y1 = nde.solve(problem, method, dt=abs(t1 - t0) * part, controller=FIXED, **EXACT).y1
        errors.append((y1 - reference.at(t0 if backward else t1)).norm().item())
    assert observed_order(steps, errors, floor=1e-12, finest=3) > method.order - 0.25


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_the_order_of_the_error_estimate_and_of_the_dense_output(method):
    """Of one step from the exact solution, at a relative time that does not change."""

    class Accuracy:
        rtol, atol = 1e-13, 1e-14

    sizes, errors, between, start = [], [], [], 0.5
    steps = [0.1 * 2.0**-k for k in range(4)]
    for h in steps:
        f, exact = (lambda t, y: SINE.f(torch.as_tensor(t), y)), SINE.at
        step = method.step(f, start, start + h, exact(start), accuracy=Accuracy())
        assert step.failed is False
        if method.adaptive:
            sizes.append(step.error.norm().item())
        errors.append((step.y - exact(start + h)).norm().item())
        between.append((step.at(1 / 3) - exact(start + h / 3)).norm().item())
    assert observed_order(steps, errors, floor=1e-14) > method.order + 0.6
    assert observed_order(steps, between, floor=1e-14) > method.dense_order + 0.6
    if method.adaptive:
        assert abs(observed_order(steps, sizes, floor=1e-14) - method.error_order) < 0.5


@pytest.mark.parametrize("problem", STIFF, ids=repr)
@pytest.mark.parametrize("method", [nde.TRBDF2(), nde.Kvaerno3(), nde.KenCarp4(), nde.Kvaerno5()], ids=repr)
def test_stiff_problems_to_their_tolerance(method, problem):
    """Within 200 tolerances; of TR-BDF2, whose estimate is not damped, 400 on the relaxation of the Oregonator."""
    tolerance = 1e-4 if method.order < 4 else 1e-5
    with torch.no_grad():
        sol = nde.solve(problem.problem(), method, rtol=tolerance, atol=tolerance * problem.small)
    assert problem.error(sol.y1) < (400 if method.name == "TRBDF2" else 200) * tolerance
    stats = sol.stats
    assert stats.jacobians <= stats.factorizations <= 2 * stats.steps
    assert stats.linear_solves == stats.newton_iterations
    assert stats.jacobians < stats.steps


# Slopes of the global error at steps that are long beside the rate, and the largest error at steps of 0.2.
REDUCED = {
    "ImplicitEuler": (0.9, 1e-6),
    "ImplicitMidpoint": (1.9, 1e-1),
    "Trapezoid": (1.5, 1e-2),
    "TRBDF2": (0.9, 1e-6),
    "Kvaerno3": (0.9, 1e-7),
    "KenCarp3": (0.9, 1e-6),
    "KenCarp4": (0.9, 1e-6),
    "Kvaerno5": (0.9, 1e-7),
    "KenCarp5": (0.9, 1e-6),
}


@pytest.mark.parametrize("method", ADAPTIVE, ids=repr)
def test_the_order_that_is_left_where_the_field_is_stiff(method):
    """Prothero and Robinson's problem: what docs/solvers.md says of order reduction."""
    f, exact = prothero_robinson(1e6)
    steps, errors = [0.2, 0.1, 0.05, 0.025], []
    for h in steps:
        sol = nde.solve(nde.ODEProblem(f, torch.zeros(1), (0.0, 2.0)), method, dt=h, controller=FIXED, **EXACT)
        errors.append((sol.y1 - exact(torch.tensor(2.0))).abs().item())
    least, largest = REDUCED[method.name]
    print(method, errors, observed_order(steps, errors, floor=1e-15))
    assert observed_order(steps, errors, floor=1e-15) > least
    assert errors[0] < largest


def rough(t, y):
    """A field whose equations have no solution beyond a step of about 1/4: y = y0 + h (1 + y^2) with y0 near 1."""
    return 1.0 + y * y


def test_a_step_that_fails_is_tried_again_shorter():
    problem = nde.ODEProblem(rough, torch.ones(1), (0.0, 0.5))
    for method in (nde.ImplicitEuler(), nde.Kvaerno3()):
        sol = nde.solve(problem, method, rtol=1e-4, atol=1e-4, dt=2.0, trace=True, controller=nde.PIController())
        failed = sol.trace.error.isinf()
        assert int(failed.sum()) == sol.stats.newton_failures > 0
        assert not sol.trace.accepted[failed].any()
        assert (sol.y1 - math.tan(math.pi / 4 + 0.5)).abs() < 0.2
    with pytest.raises(nde.ConvergenceError, match="equations of an implicit step were not solved"):
        nde.solve(problem, nde.ImplicitEuler(), dt=0.5, controller=FIXED)
    nowhere = nde.ODEProblem(lambda t, y: y * torch.nan, torch.ones(1), (0.0, 0.5))
    assert nde.solve(nowhere, nde.Kvaerno5(), throw=False).status is nde.Status.NON_FINITE


def test_lanes_fail_and_step_alone():
    y0 = torch.tensor([[1.0], [-1.0]])
    options = {"rtol": 1e-3, "atol": 1e-3, "dt": 0.5, "per_sample": True}
    sol = nde.solve(nde.ODEProblem(rough, y0, (0.0, 0.5)), nde.ImplicitEuler(), **options)
    assert sol.stats.newton_failures[0] > 0
    assert sol.stats.newton_failures[1] == 0
    y0 = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.0, 0.5]])
    f, options = STIFF[0].f, {"rtol": 1e-6, "atol": 1e-10}
    for method in (nde.TRBDF2(), nde.Kvaerno5()):
        both = nde.solve(nde.ODEProblem(f, y0, (0.0, 100.0)), method, per_sample=True, **options)
        few = nde.solve(nde.ODEProblem(f, y0, (0.0, 100.0)), method, per_sample=True, compact=True, **options)
        assert torch.allclose(few.y1, both.y1, rtol=1e-9, atol=1e-14)
        for row in range(2):
            alone = nde.solve(nde.ODEProblem(f, y0[row], (0.0, 100.0)), method, **options)
            assert torch.allclose(both.y1[row], alone.y1, rtol=1e-7, atol=1e-12)
            for name in ("steps", "accepted", "jacobians", "factorizations", "newton_iterations", "nfe"):
                assert int(getattr(both.stats, name)[row]) == getattr(alone.stats, name), name


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("method", [nde.TRBDF2(), nde.Kvaerno3(), nde.ImplicitEuler()], ids=repr)
def test_blocks_give_the_eager_solution(method, per_sample):
    y0 = torch.tensor([[1.0, 0.5], [0.2, -0.4]])
    problem = nde.ODEProblem(lambda t, y: torch.sin(3 * y) - t * y, y0, (0.0, 2.0))
    options = {"rtol": 1e-4, "atol": 1e-6, "saveat": [0.3, 2.0], "per_sample": per_sample}
    want = nde.solve(problem, method, **options)
    got = nde.solve(problem, method, driver=nde.Blocks(size=4), **options)
    assert torch.allclose(got.ys, want.ys, atol=1e-9)
    for name in ("steps", "jacobians", "newton_iterations"):
        assert torch.equal(torch.as_tensor(getattr(got.stats, name)), torch.as_tensor(getattr(want.stats, name))), name


def test_counts_are_those_of_the_calls():
    field = Recorder(lambda t, y: -(y**3) * t)
    for method in ADAPTIVE:
        field.times.clear()
        sol = nde.solve(nde.ODEProblem(field, torch.ones(2), (0.0, 3.0)), method, rtol=1e-3, atol=1e-3, dt=3.0)
        assert len(field.times) == sol.stats.nfe + sol.stats.jacobians


def test_quadratic_invariants_are_kept_by_the_midpoint_rule():
    """A pendulum's linear part over a hundred periods, and the energy of the pendulum itself within a band."""

    def pendulum(t, y):
        return torch.stack([y[1], -torch.sin(y[0])])

    y0 = torch.tensor([1.0, 0.0])
    options = {"dt": 0.2, "rtol": 1e-11, "atol": 1e-12, "saveat": torch.linspace(0.0, 200.0, 101)}
    ys = nde.solve(nde.ODEProblem(pendulum, y0, (0.0, 200.0)), nde.ImplicitMidpoint(), **options).ys
    energy = 0.5 * ys[:, 1] ** 2 - torch.cos(ys[:, 0])
    ends = energy[1:].reshape(2, -1).amax(1) - energy[1:].reshape(2, -1).amin(1)
    assert (energy - energy[0]).abs().max() < 2e-3
    assert ends[1] < 1.1 * ends[0]  # it does not drift


def test_wrong_arguments_are_named():
    with pytest.raises(nde.InvalidProblemError, match="linear_solver: got str"):
        nde.Kvaerno5(linear_solver="dense")
    with pytest.raises(nde.InvalidProblemError, match="derivatives: got 3; expected 1 or 2"):
        nde.Kvaerno5(derivatives=3)
    with pytest.raises(nde.InvalidProblemError, match="tableau: got Tsit5"):
        nde.DiagonallyImplicit(nde.Tsit5())
    problem = nde.ODEProblem(lambda t, y: -y, torch.ones(1), (0.0, 1.0))
    with pytest.raises(nde.InvalidProblemError, match="dt: got None with Trapezoid"):
        nde.solve(problem, nde.Trapezoid())
    with pytest.raises(nde.InvalidProblemError, match="base: got"):
        nde.Reversible(nde.Kvaerno3())


def test_events_dense_output_trace_and_regularizers():
    f, _ = prothero_robinson(1e3)
    problem = nde.ODEProblem(f, torch.zeros(1), (0.0, 3.0))
    event = nde.Event(lambda t, y: y[0] - 0.5, direction="down")
    for method in (nde.Kvaerno3(), nde.Kvaerno5()):
        estimates = [nde.regularizers.ErrorEstimate(), nde.regularizers.StiffnessEstimate(normalized=False)]
        options = {"events": event, "dense": True, "trace": True, "regularizers": estimates}
        sol = nde.solve(problem, method, rtol=1e-7, atol=1e-9, **options)
        assert sol.status is nde.Status.EVENT
        assert abs(float(sol.event_time) - 5 * math.pi / 6) < 1e-4
        assert abs(float(sol(torch.tensor(1.0))[0]) - math.sin(1.0)) < 1e-4
        assert all(value.isfinite() for value in sol.regularization)
