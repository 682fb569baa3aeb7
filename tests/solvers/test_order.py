"""Measured orders: the solution, the error estimate, the dense output and its derivative, against exact solutions."""

import pytest
import torch

import neuralde.solvers as nde
from neuralde.solvers.testing.ordinary import LIMIT_CYCLE, REFERENCES, methods, observed_order

BELOW = 0.15
# Step counts: many for low orders, few for high ones, whose error reaches rounding within a few halvings.
COUNTS = {1: (96, 128, 192, 256), 2: (64, 96, 128, 192), 3: (32, 48, 64, 96), 4: (24, 32, 48, 64, 96)}
COUNTS |= {
    5: (24, 32, 48, 64, 96),
    7: (8, 9, 10, 12, 14, 16, 20),
    8: (7, 8, 9, 10, 12, 14, 16),
    9: (2, 3, 4, 5, 6, 7, 8, 9),
}

on_references = pytest.mark.parametrize("reference", REFERENCES, ids=str)
on_methods = pytest.mark.parametrize("method", methods(), ids=str)


def solved(reference, method, count, backward=False, **options):
    """A solve in ``count`` equal steps, and the step size."""
    dt = (reference.tspan[1] - reference.tspan[0]) / count
    problem = reference.problem(backward)
    return nde.solve(problem, method, dt=dt, controller=nde.ConstantStep(), **options), dt


def slope(reference, method, order, error, floor=1e-13, **options):
    runs = [solved(reference, method, count, **options) for count in COUNTS[order]]
    assert [sol.stats.accepted for sol, _ in runs] == list(COUNTS[order])
    return observed_order([dt for _, dt in runs], [float(error(sol)) for sol, _ in runs], floor)


def size(difference):
    """Root mean square over times and components: less at the mercy of zero crossings than one end error."""
    return difference.abs().square().mean().sqrt()


def rounding(method):
    """What evaluating the method's dense output may lose in float64: its weights are large and cancel."""
    largest = max(abs(weight) for row in method.tableau.interpolant.weights for weight in row)
    return 4 * torch.finfo(torch.float64).eps * largest


def field_at(reference, times, states):
    return torch.stack([reference.f(t, y) for t, y in zip(times, states, strict=True)])


@on_methods
@on_references
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
def test_order_of_the_solution(reference, method, backward):
    def error(sol):
        return size(sol.ys - reference.at(sol.ts))

    measured = slope(reference, method, method.order, error, backward=backward, saveat="steps")
    assert measured >= method.order - BELOW


@pytest.mark.parametrize("method", methods(adaptive=True), ids=str)
def test_order_of_the_error_estimate(method):
    """On one step the estimate falls with the embedded order plus one; the largest of several starts."""
    steps, errors = [0.4 * 0.8**k for k in range(20)], []
    for h in steps:
        worst = 0.0
        for start in (0.1, 0.4, 0.7, 1.0, 1.3):
            t0 = LIMIT_CYCLE.tspan[0] + start
            problem = nde.ODEProblem(LIMIT_CYCLE.f, LIMIT_CYCLE.at(t0), (t0, t0 + h))
            sol = nde.solve(problem, method, dt=h, rtol=0.0, atol=1.0, trace=True)
            assert sol.stats.accepted == 1
            worst = max(worst, sol.trace.error.item())
        errors.append(worst)
    assert observed_order(steps, errors, floor=1e-15) >= method.embedded_order + 1 - BELOW


@on_methods
@on_references
def test_order_of_dense_output(reference, method):
    times = torch.linspace(*reference.tspan, 137, dtype=torch.float64)
    exact = reference.at(times)
    order = min(method.order, method.dense_order)
    measured = slope(reference, method, order, lambda sol: size(sol(times) - exact), rounding(method), dense=True)
    assert measured >= order - BELOW


@on_methods
@on_references
def test_order_at_save_times(reference, method):
    times = torch.linspace(*reference.tspan, 37, dtype=torch.float64)
    exact = reference.at(times)
    order = min(method.order, method.dense_order)
    measured = slope(reference, method, order, lambda sol: size(sol.ys - exact), rounding(method), saveat=times)
    assert measured >= order - BELOW


@on_methods
@on_references
def test_save_times_are_the_dense_output(reference, method):
    times = torch.linspace(*reference.tspan, 23, dtype=torch.float64)
    sol, _ = solved(reference, method, 9, saveat=times, dense=True)
    torch.testing.assert_close(sol.ys, sol(times), rtol=0.0, atol=rounding(method))


@on_methods
@on_references
def test_order_of_the_derivative(reference, method):
    """Differentiating the dense output loses one power of the step."""
    times = torch.linspace(*reference.tspan, 61, dtype=torch.float64)
    exact = field_at(reference, times, reference.at(times))
    order = min(method.order, method.dense_order)
    if order == 1:
        # piecewise constant slopes: one power of the step less than order 1 would be none, but they do converge
        errors = [size(solved(reference, method, n, dense=True)[0].derivative(times) - exact) for n in (64, 256)]
        assert errors[1] < 0.5 * errors[0]
        return
    measured = slope(
        reference, method, order, lambda sol: size(sol.derivative(times) - exact), 10 * rounding(method), dense=True
    )
    assert measured >= order - 1 - BELOW


@on_methods
def test_dense_output_meets_the_steps(method):
    """Continuous, and equal to the states at the ends of the steps."""
    sol, _ = solved(LIMIT_CYCLE, method, 7, saveat="steps", dense=True)
    close = {"rtol": 0.0, "atol": rounding(method)}
    torch.testing.assert_close(sol(sol.ts), sol.ys, **close)
    torch.testing.assert_close(sol(torch.nextafter(sol.ts[:-1], sol.ts[1:])), sol.ys[:-1], **close)


@pytest.mark.parametrize("method", [m for m in methods() if m.fsal], ids=str)
def test_dense_output_of_fsal_methods_has_a_continuous_slope(method):
    sol, _ = solved(LIMIT_CYCLE, method, 7, saveat="steps", dense=True)
    inner = sol.ts[1:-1]
    before, after = sol.derivative(inner), sol.derivative(torch.nextafter(inner, sol.ts[2:]))
    torch.testing.assert_close(before, after, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(before, field_at(LIMIT_CYCLE, inner, sol.ys[1:-1]), rtol=1e-9, atol=1e-9)


@on_methods
def test_derivative_is_the_derivative_of_the_dense_output(method):
    sol, _ = solved(LIMIT_CYCLE, method, 5, dense=True)
    times, step = torch.linspace(0.03, 1.93, 40, dtype=torch.float64), 1e-5
    difference = (sol(times + step) - sol(times - step)) / (2 * step)
    torch.testing.assert_close(sol.derivative(times), difference, rtol=1e-6, atol=1e-6)


def test_dense_output_takes_times_of_any_shape():
    sol, _ = solved(LIMIT_CYCLE, nde.Tsit5(), 5, dense=True)
    times = torch.tensor([[0.1, 0.5], [1.0, 2.0], [0.0, 1.9]])
    assert sol(times).shape == (3, 2, 2)
    assert sol(0.5).shape == (2,)
    assert torch.equal(sol(times)[2, 1], sol(times[2, 1]))
    assert sol.derivative(times).shape == (3, 2, 2)


def test_observed_order_wants_points_above_rounding():
    with pytest.raises(ValueError, match="observed_order"):
        observed_order([0.1, 0.05, 0.025], [1e-3, 1e-15, 1e-16])
