"""The form of the dense output: its functions, the weights on them, and how little it loses between the steps."""

from fractions import Fraction

import numpy as np
import pytest
import torch

import neuralde as nde
from neuralde.solvers.core.legendre import basis, derivative, evaluate, from_powers, slopes
from neuralde.solvers.core.rooted_trees import elementary_weights, rooted_trees

F64 = torch.float64
NAMES = ["Euler", "Midpoint", "Heun", "Ralston", "RK4", "Bosh3", "Tsit5", "Dopri5", "Dopri8", "Vern7", "Vern9"]
THETA = np.linspace(0.0, 1.0, 41)


def table(theta, count, functions=basis):
    return np.array([functions(float(x), count) for x in theta]).T


def test_the_functions_are_legendre_polynomials_and_their_integrals():
    x = 2 * THETA - 1
    legendre = [np.polynomial.Legendre.basis(j)(x) for j in range(11)]
    expected = [np.ones_like(x), THETA, *(legendre[j + 1] - legendre[j - 1] for j in range(1, 9))]
    np.testing.assert_allclose(table(THETA, 10), expected, atol=1e-15)
    rates = [np.zeros_like(x), np.ones_like(x), *((4 * j + 2) * legendre[j] for j in range(1, 9))]
    np.testing.assert_allclose(table(THETA, 10, slopes), rates, atol=1e-14)
    assert (table([0.0, 1.0], 10)[2:] == 0.0).all()


def test_evaluation_is_the_same_for_numbers_and_tensors():
    generator = torch.Generator().manual_seed(0)
    y0, *pieces = torch.randn(7, 5, 2, generator=generator, dtype=F64)
    theta = torch.rand(5, 1, generator=generator, dtype=F64)
    for lane, x in enumerate(theta.flatten().tolist()):
        one = [piece[lane] for piece in pieces]
        torch.testing.assert_close(
            evaluate(theta, y0, pieces)[lane], evaluate(x, y0[lane], one), rtol=1e-14, atol=1e-14
        )
        torch.testing.assert_close(derivative(theta, pieces)[lane], derivative(x, one), rtol=1e-14, atol=1e-13)
    theta.requires_grad_()
    (rate,) = torch.autograd.grad(evaluate(theta, y0, pieces).sum(), theta)
    torch.testing.assert_close(rate.squeeze(1), derivative(theta, pieces).detach().sum(1), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("degree", range(1, 11))
def test_powers_are_converted_exactly(degree):
    weights = [(-3) ** j + j for j in range(degree)]  # the values cancel, at 1/3 nearly all
    got = from_powers(weights)
    for x in (0.0, 1 / 3, 0.7, 1.0):
        exact = sum(w * Fraction(x) ** (j + 1) for j, w in enumerate(weights))
        terms = [a * b for a, b in zip(got, basis(x, degree + 1)[1:], strict=True)]
        assert abs(sum(terms) - exact) <= 4e-16 * (degree + 1) * sum(map(abs, terms))


@pytest.mark.parametrize("name", NAMES)
def test_weights_do_not_cancel_and_hold_the_order_conditions_to_rounding(name):
    tableau = getattr(nde, name)().tableau
    dense, order = np.array(tableau.dense), tableau.interpolant.order
    theta = THETA[1:]
    values = table(theta, dense.shape[1] + 1)[1:]
    terms = (np.abs(dense).sum(0) @ np.abs(values)).max()
    assert terms < {"Tsit5": 11.0}.get(name, 4.5)
    stages = len(dense)
    a = np.array([[*row, *[0.0] * (stages - len(row))] for row in tableau.a + tableau.interpolant.a])
    trees = rooted_trees(order)
    phi = elementary_weights(a, order)
    expected = theta ** trees.order[:, None] / trees.density[:, None]
    # The stages of Tsit5 and Vern7 are themselves known to this rounding only.
    assert np.abs(phi @ dense @ values - expected).max() < {"Tsit5": 2e-14, "Vern7": 1e-14}.get(name, 4e-15)
    # and they are the weights on powers, as far as those are known
    powers = np.array(tableau.interpolant.weights)
    printed = powers @ theta ** np.arange(1, powers.shape[1] + 1)[:, None]
    np.testing.assert_allclose(dense @ values, printed, atol=1e-16 * np.abs(powers).sum())


@pytest.mark.parametrize("name", ["Bosh3", "Tsit5", "Dopri5", "Dopri8", "Vern7", "Vern9"])
def test_the_slope_is_the_fields_at_both_ends(name):
    tableau = getattr(nde, name)().tableau
    dense = np.array(tableau.dense)
    rates = dense @ table([0.0, 1.0], dense.shape[1] + 1, slopes)[1:]
    expected = np.eye(len(dense))[[0, tableau.end_slope]].T
    np.testing.assert_allclose(rates, expected, atol=1e-15 * np.abs(np.array(tableau.interpolant.weights)).sum())


def rotation(t, y):
    return torch.stack([y[..., 1], -y[..., 0]], dim=-1)


def exact(t):
    return torch.stack([torch.cos(t), -torch.sin(t)], dim=-1)


# Steps with which the methods' own errors are below rounding on the interval; the lower orders would need too many.
STEPS = [(nde.Tsit5(), 2e-3), (nde.Dopri5(), 1e-3), (nde.Dopri8(), 0.02), (nde.Vern7(), 0.02), (nde.Vern9(), 0.05)]


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize(("method", "dt"), [*STEPS, (nde.Reversible(nde.Vern9()), 0.05)], ids=str)
@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_between_the_steps_only_rounding_is_left(method, dt, per_sample, dtype):
    """Against the exact solution; 4e-15 and 1e-6 leave room for the rounding of two hundred steps."""
    problem = nde.ODEProblem(rotation, torch.tensor([[1.0, 0.0]], dtype=dtype), (0.0, 0.4))
    times = torch.linspace(0.0, 0.4, 501, dtype=F64)
    options = {"dt": dt, "controller": nde.ConstantStep(), "per_sample": per_sample}
    sol = nde.solve(problem, method, saveat=times, dense=True, **options)
    unit = torch.finfo(dtype).eps
    steps = 0.4 / dt
    for values in (sol(times), sol.ys):
        assert (values[:, 0].double() - exact(times)).abs().max() < (4 + 0.05 * steps) * unit
    rates = (sol.derivative(times)[:, 0].double() - rotation(None, exact(times))).abs().max()
    assert rates < 80 * unit


def test_vern9_between_its_steps_is_as_good_as_at_them():
    problem = nde.ODEProblem(rotation, torch.tensor([1.0, 0.0], dtype=F64), (0.0, 0.4))
    sol = nde.solve(problem, nde.Vern9(), dt=0.05, controller=nde.ConstantStep(), dense=True)
    times = torch.linspace(0.0, 0.4, 1001, dtype=F64)
    assert (sol(times) - exact(times)).abs().max() < 1e-15


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("adjoint", [nde.DirectAdjoint(), nde.DiscreteAdjoint()], ids=str)
def test_gradients_through_the_dense_output_are_finite_differences(adjoint, per_sample):
    def value(start, t):
        y0 = torch.stack([torch.cos(start), torch.sin(start)]).unsqueeze(0)
        problem = nde.ODEProblem(lambda t, y: rotation(t, y) * (1 + y**2), y0, (0.0, 1.0))
        options = {"dt": 0.25, "controller": nde.ConstantStep(), "dense": True, "per_sample": per_sample}
        sol = nde.solve(problem, nde.Vern7(), adjoint=adjoint, **options)
        return sol(t).square()[..., 0].sum() + sol.derivative(t)[..., 1].sum()

    start = torch.tensor(0.3, dtype=F64, requires_grad=True)
    t = torch.tensor([0.2, 0.61], dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(value, (start, t), eps=1e-6, atol=1e-7, rtol=1e-6)


def test_a_tableau_of_ones_own_keeps_its_weights_on_powers():
    line = nde.Interpolant(order=1, weights=((1.0, -0.5), (0.0, 0.5)))
    heun = nde.ButcherTableau(a=((), (1.0,)), b=(0.5, 0.5), c=(0.0, 1.0), order=2, interpolant=line)
    step = nde.RungeKutta(heun).step(lambda t, y: t * y + 1.0, 0.0, 0.5, torch.ones(1, dtype=F64))
    first, second = step.stages
    for theta in (0.0, 0.3, 1.0):
        by_hand = step.y0 + 0.5 * ((theta - theta**2 / 2) * first + theta**2 / 2 * second)
        lanes = step.at(torch.tensor(theta, dtype=F64))
        torch.testing.assert_close(step.at(theta), by_hand, rtol=1e-15, atol=1e-15)
        torch.testing.assert_close(lanes, by_hand, rtol=1e-15, atol=1e-15)


# ---------------------------------------------------------------- times, and intervals without length


def test_per_sample_times_are_read_as_save_times_are():
    y0 = torch.tensor([[1.0, 2.0], [2.0, 3.0], [3.0, 4.0]], dtype=F64)
    shared, own = torch.tensor([0.0, 0.5, 1.0], dtype=F64), torch.rand(4, 3, dtype=F64).sort(dim=0).values
    problem = nde.ODEProblem(lambda t, y: -y, y0, (0.0, 1.0))
    for times, shape in ((shared, (3, 3, 2)), (own, (4, 3, 2))):
        sol = nde.solve(problem, nde.Vern7(), per_sample=True, dense=True, saveat=times)
        assert sol.ys.shape == sol(times).shape == sol.derivative(times).shape == shape
        torch.testing.assert_close(sol(times), sol.ys, rtol=1e-13, atol=1e-13)
    assert torch.equal(sol(shared)[1], sol(0.5))
    assert torch.equal(sol(shared)[1], sol(torch.tensor(0.5, dtype=F64)))
    assert torch.equal(sol([0.0, 0.5, 1.0]), sol(shared))
    assert torch.equal(sol(own[None]), sol(own)[None])
    for wrong in (own.T, own[:, :1]):
        with pytest.raises(nde.InvalidProblemError, match=r"t: got times of shape .*expected a number, \(T,\)"):
            sol(wrong)


@pytest.mark.parametrize("method", [nde.Euler(), nde.Tsit5(), nde.Vern9()], ids=str)
def test_the_derivative_where_an_interval_has_no_length_is_the_field(method):
    k = torch.tensor(3.0, dtype=F64, requires_grad=True)
    problem = nde.ODEProblem(lambda t, y, k: -k * t * y, torch.ones(2, dtype=F64), (2.0, 2.0), (k,))
    sol = nde.solve(problem, method, dt=0.1, dense=True)
    assert torch.equal(sol(2.0), problem.y0)
    assert sol.derivative(2.0).tolist() == [-6.0, -6.0]
    assert sol.derivative(torch.tensor([2.0, 2.0])).shape == (2, 2)
    assert torch.autograd.grad(sol.derivative(2.0).sum(), k)[0] == -4.0


def test_the_derivative_of_the_samples_that_stand_still():
    y0 = torch.tensor([[1.0], [2.0]], dtype=F64)
    ends = torch.tensor([1.0, 0.0], dtype=F64)
    sol = nde.solve(nde.ODEProblem(lambda t, y: -y, y0, (0.0, ends)), rtol=1e-9, per_sample=True, dense=True)
    assert torch.equal(sol(0.0), y0)
    torch.testing.assert_close(sol.derivative(0.0), -y0, rtol=1e-14, atol=0.0)
