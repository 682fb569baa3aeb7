"""Steady states: found to the tolerance by every method, against closed forms and SciPy; failures that say so."""

from typing import NamedTuple

import numpy as np
import pytest
import scipy.optimize
import torch

import neuralde as nde

FLOAT = torch.float64
TIGHT = {"rtol": 1e-10, "atol": 1e-10}
METHODS = {
    "dynamic": nde.DynamicSS(),
    "dopri8": nde.DynamicSS(nde.Dopri8()),
    "fixed": nde.DynamicSS(nde.RK4(), dt=0.2),
    "polished": nde.DynamicSS(polish=nde.Newton()),
    "newton": nde.Newton(),
    "krylov": nde.Newton(linear="gmres"),
    "anderson": nde.Anderson(beta=0.2),
}


def brusselator(t, y, a=1.0, b=1.5):
    return torch.stack([a + y[0] ** 2 * y[1] - (b + 1.0) * y[0], b * y[0] - y[0] ** 2 * y[1]])


@pytest.fixture(params=list(METHODS))
def method(request):
    """Every way to find a steady state."""
    return METHODS[request.param]


def start(*values, device="cpu"):
    return torch.tensor(values, dtype=FLOAT, device=device)


def test_every_method_finds_the_equilibrium_in_closed_form(method, device):
    sol = nde.solve(nde.SteadyStateProblem(brusselator, start(1.1, 1.4, device=device)), method, **TIGHT)
    assert sol.status is nde.Status.SUCCESS
    assert torch.allclose(sol.y1, start(1.0, 1.5, device=device), rtol=0.0, atol=2e-9)
    assert sol.residual <= 1e-10 * (1.0 + 1.4)
    at = brusselator(0.0, sol.y1)
    assert sol.residual == pytest.approx(torch.linalg.vector_norm(at).item() / 2**0.5, rel=1e-6, abs=1e-14)
    assert torch.equal(sol.ys[0], sol.y1)


def test_every_method_agrees_with_scipy_root(method):
    rng = np.random.default_rng(0)
    weights, shift = rng.normal(size=(6, 6)) / 4, rng.normal(size=6)

    def layer(x):
        return np.tanh(weights @ x + shift) - x

    want = scipy.optimize.root(layer, np.zeros(6), tol=1e-13)
    assert want.success
    w, b = torch.from_numpy(weights), torch.from_numpy(shift)
    problem = nde.SteadyStateProblem(lambda t, y: torch.tanh(w @ y + b) - y, torch.zeros(6, dtype=FLOAT))
    sol = nde.solve(problem, method, **TIGHT)
    assert np.allclose(sol.y1.numpy(), want.x, rtol=0.0, atol=1e-9)


def test_newton_krylov_agrees_with_scipy_on_a_large_system():
    n = 400  # Bratu's problem, a diffusion with a source, below its fold

    def bratu(y, exp=np.exp):
        inner = y * -2.0
        inner[1:] += y[:-1]
        inner[:-1] += y[1:]
        return inner * (n + 1) ** 2 + 1.0 * exp(y)

    want = scipy.optimize.root(bratu, np.zeros(n), method="hybr", tol=1e-12)

    def field(t, y):
        padded = torch.nn.functional.pad(y, (1, 1))
        return (padded[:-2] - 2 * y + padded[2:]) * (n + 1) ** 2 + y.exp()

    sol = nde.solve(
        nde.SteadyStateProblem(field, torch.zeros(n, dtype=FLOAT)), nde.Newton(linear="dense"), rtol=0.0, atol=1e-6
    )
    assert np.allclose(sol.y1.numpy(), want.x, rtol=0.0, atol=1e-6)

    def reaction(t, y):  # the same source, with a neighbourhood that GMRES sees through without a preconditioner
        return 0.3 * (y.roll(1) - 2 * y + y.roll(-1)) + 0.5 * torch.sin(y) - y + x

    x = torch.linspace(-2.0, 2.0, n, dtype=FLOAT)
    problem = nde.SteadyStateProblem(reaction, torch.zeros(n, dtype=FLOAT))
    free, dense = (nde.solve(problem, nde.Newton(linear=kind), **TIGHT) for kind in ("auto", "dense"))
    assert torch.allclose(free.y1, dense.y1, rtol=0.0, atol=1e-9)
    assert free.stats.products < n < dense.stats.products  # no matrix was formed
    assert free.stats.linear_solves == free.stats.jacobians + 1  # the last one is how far the root still is


def test_the_residual_falls_below_any_tolerance_on_a_stiff_field():
    rates = start(-1.0, -20.0, -200.0)
    problem = nde.SteadyStateProblem(lambda t, y: rates * (y - 1.0), torch.zeros(3, dtype=FLOAT))
    for tol in (1e-3, 1e-7, 1e-11):
        sol = nde.solve(problem, nde.DynamicSS(), rtol=tol, atol=tol)
        assert sol.residual <= 2 * tol
        assert torch.allclose(sol.y1, torch.ones(3, dtype=FLOAT), rtol=0.0, atol=4 * tol)


def test_dynamic_goes_where_the_equation_goes_and_newton_also_to_unstable_states():
    problem = nde.SteadyStateProblem(lambda t, y: y - y**3, start(0.3))
    assert nde.solve(problem, nde.DynamicSS(), **TIGHT).y1.item() == pytest.approx(1.0, abs=1e-9)
    assert nde.solve(problem, nde.Newton(), **TIGHT).y1.item() == pytest.approx(0.0, abs=1e-9)


def test_the_time_of_the_field_stands_still(method):
    def field(t, y):
        return torch.cos(t) - y

    for t in (0.0, 1.3):
        sol = nde.solve(nde.SteadyStateProblem(field, torch.zeros((), dtype=FLOAT), t=t), method, **TIGHT)
        assert sol.y1.item() == pytest.approx(np.cos(t), abs=1e-9)


def test_each_sample_stops_on_its_own(method, device):
    k = start(0.8, 1.0, 3.0, device=device).unsqueeze(-1)
    y0 = start(0.9, 1.0, 2.0, device=device).unsqueeze(-1)
    problem = nde.SteadyStateProblem(lambda t, y, k: y * (k - y), y0, args=(k,))
    sol = nde.solve(problem, method, per_sample=True, **TIGHT)
    assert torch.allclose(sol.y1, k, rtol=0.0, atol=1e-9)
    assert sol.status.tolist() == [0, 0, 0]
    assert sol.stats.nfe[1] <= 3  # there already: the start, the first-step heuristic, the polish
    assert sol.stats.steps[1] == 0
    for sample in range(3):
        one = nde.SteadyStateProblem(lambda t, y, k: y * (k - y), y0[sample], args=(k[sample],))
        alone = nde.solve(one, method, **TIGHT)
        assert abs(alone.stats.steps - sol.stats.steps[sample].item()) <= 1
        assert torch.allclose(alone.y1, sol.y1[sample], rtol=0.0, atol=1e-11)
        assert alone.residual == pytest.approx(sol.residual[sample].item(), rel=0.3, abs=1e-13)


def test_a_sample_that_fails_changes_nothing_for_the_others(method):
    k, y0 = start(1.0, 1.0).unsqueeze(-1), start(0.9, 0.9).unsqueeze(-1)

    def field(t, y, floor):
        return y * (k - y) + floor

    hopeless = start(0.0, 0.0).unsqueeze(-1), start(0.0, -10.0).unsqueeze(-1)  # no equilibrium in the second
    fine, mixed = (
        nde.solve(
            nde.SteadyStateProblem(field, y0, args=(floor,)),
            method,
            per_sample=True,
            throw=False,
            max_steps=500,
            **TIGHT,
        )
        for floor in hopeless
    )
    assert mixed.status[0] == nde.Status.SUCCESS
    assert mixed.status[1] > nde.Status.EVENT
    assert torch.equal(mixed.y1[0], fine.y1[0])
    assert bool(mixed.ys[0, 1].isnan().all())
    assert bool(mixed.y1[1].isfinite().all()) or isinstance(method, nde.DynamicSS)


class Pair(NamedTuple):
    a: torch.Tensor
    b: torch.Tensor


def test_pytrees_keep_their_structure_and_dtypes(method):
    def field(t, y):
        return Pair(1.0 - y.a, 2.0 - y.b + 0.1 * y.a.sum().to(y.b.dtype))

    y0 = Pair(torch.zeros(2, 2, dtype=FLOAT), torch.zeros(3, dtype=torch.float32))
    sol = nde.solve(nde.SteadyStateProblem(field, y0), method, rtol=1e-5, atol=1e-5)
    assert isinstance(sol.y1, Pair)
    assert sol.y1.b.dtype == torch.float32
    assert torch.allclose(sol.y1.a, torch.ones(2, 2, dtype=FLOAT), atol=1e-4)
    assert torch.allclose(sol.y1.b, torch.full((3,), 2.4), atol=1e-4)


def test_complex_states_that_are_not_holomorphic(method):
    root = torch.tensor([1.0 + 2.0j, -0.5j], dtype=torch.complex128)

    def field(t, y):
        return (root - y) + 0.3 * (root - y).conj()

    sol = nde.solve(nde.SteadyStateProblem(field, torch.zeros_like(root)), method, **TIGHT)
    assert torch.allclose(sol.y1, root, rtol=0.0, atol=1e-9)


@pytest.mark.parametrize("norm", ["rms", "max", "l2"])
@pytest.mark.parametrize("kind", [nde.DynamicSS, nde.Newton, nde.Anderson])
def test_the_norm_of_the_stopping_rule(norm, kind):
    y0 = torch.zeros(16, dtype=FLOAT)
    sol = nde.solve(nde.SteadyStateProblem(lambda t, y: 0.5 * (1.0 - y), y0), kind(norm=norm), rtol=0.0, atol=1e-3)
    value = 0.5 * (1.0 - sol.y1)
    want = {"rms": value.square().mean().sqrt(), "max": value.abs().max(), "l2": value.norm()}[norm]
    assert sol.residual == pytest.approx(want.item(), rel=1e-9, abs=1e-15)
    assert sol.residual <= 1e-3


def test_nothing_at_all_is_needed_where_the_field_is_zero(method):
    sol = nde.solve(nde.SteadyStateProblem(lambda t, y: 0.0 * y, start(1.0, 2.0)), method)
    assert sol.stats.steps == 0
    assert sol.residual == 0.0


def test_counts_add_up(method):
    calls = 0

    def field(t, y):
        nonlocal calls
        calls += 1
        return brusselator(t, y)

    with torch.no_grad():
        sol = nde.solve(nde.SteadyStateProblem(field, start(1.1, 1.4)), method, **TIGHT)
    assert sol.stats.nfe == calls
    assert sol.stats.steps == sol.stats.accepted + sol.stats.rejected


def test_the_cost_of_a_search_is_recorded(method):
    problem = nde.SteadyStateProblem(lambda t, y: 1.0 - y, torch.zeros(2, 1, dtype=FLOAT))
    with nde.testing.CostRecorder() as cost:
        joint, lanes = (nde.solve(problem, method, per_sample=each, **TIGHT) for each in (False, True))
    assert [solve.solver for solve in cost.solves] == [method.name] * 2
    assert cost.nfe == joint.stats.nfe + int(lanes.stats.nfe.sum())
    assert cost.totals.get("products", 0) == joint.stats.products + int(lanes.stats.products.sum())


FAILURES = {
    "t_max": (nde.DynamicSS(t_max=0.5), lambda t, y: 1.0 - y, nde.ConvergenceError),
    "steps": (nde.DynamicSS(nde.RK4(), dt=0.01), lambda t, y: 1.0 - y, nde.MaxStepsError),
    "runaway": (nde.DynamicSS(t_max=1e4), lambda t, y: torch.ones_like(y), nde.ConvergenceError),
    "oscillation": (nde.DynamicSS(t_max=50.0), lambda t, y: torch.stack([y[1], -y[0]]), nde.ConvergenceError),
    "no root": (nde.Newton(), lambda t, y: 1.0 + y**2, nde.ConvergenceError),
    "too few": (nde.Newton(max_iter=1), lambda t, y: torch.cos(y) - y, nde.ConvergenceError),
    "no contraction": (nde.Anderson(max_iter=30), lambda t, y: 1.0 + y**2, nde.SolveError),
    "nan": (nde.Newton(), lambda t, y: y / 0.0 * 0.0, nde.NonFiniteError),
    "nan in time": (nde.DynamicSS(), lambda t, y: y / 0.0 * 0.0, nde.SolveError),
    "nan at once": (nde.Anderson(), lambda t, y: y / 0.0 * 0.0, nde.NonFiniteError),
}


@pytest.mark.parametrize("name", FAILURES)
def test_failures_raise_and_keep_what_was_computed(name):
    how, field, error = FAILURES[name]
    problem = nde.SteadyStateProblem(field, start(0.7, 0.1))
    with pytest.raises(error, match="residual") as caught:
        nde.solve(problem, how, max_steps=200, rtol=1e-8, atol=1e-8)
    sol = nde.solve(problem, how, max_steps=200, rtol=1e-8, atol=1e-8, throw=False)
    assert sol.status > nde.Status.EVENT
    kept = caught.value.solution
    assert torch.equal(kept.y1.nan_to_num(), sol.y1.nan_to_num())
    assert bool(kept.ys.isnan().all())


def test_newton_gets_past_a_singular_jacobian_where_it_can():
    # On this line of equilibria the Jacobian is singular everywhere; the shortest step still leads to it.
    def field(t, y):
        return (1.0 - y.sum()) * torch.ones_like(y)

    sol = nde.solve(nde.SteadyStateProblem(field, start(3.0, 0.0, 0.0)), nde.Newton(), **TIGHT)
    assert torch.allclose(sol.y1, start(3.0, 0.0, 0.0) - 2.0 / 3.0, atol=1e-9)


def test_the_line_search_saves_newton_from_running_away():
    # Newton's full steps diverge from here: |y| > 1.39 for the arctangent.
    sol = nde.solve(nde.SteadyStateProblem(lambda t, y: torch.atan(y), start(3.0)), nde.Newton(), rtol=0.0, atol=1e-12)
    assert abs(sol.y1.item()) < 1e-12
    assert sol.stats.rejected > 0


def test_inference_mode_and_no_grad(method):
    with torch.inference_mode():
        sol = nde.solve(nde.SteadyStateProblem(brusselator, start(1.1, 1.4)), method, **TIGHT)
    assert torch.allclose(sol.y1, start(1.0, 1.5), atol=2e-9)


PROBLEM = nde.SteadyStateProblem(lambda t, y: 1.0 - y, torch.zeros(2, dtype=FLOAT))
WRONG = {
    "solver": lambda: nde.solve(PROBLEM, "Newton"),
    "adjoint": lambda: nde.solve(PROBLEM, adjoint=nde.DirectAdjoint()),
    "saveat": lambda: nde.solve(PROBLEM, saveat=[1.0]),
    "dense": lambda: nde.solve(PROBLEM, dense=True),
    "events": lambda: nde.solve(PROBLEM, events=nde.Event(lambda t, y: y[0])),
    "regularizers": lambda: nde.solve(PROBLEM, regularizers=[nde.regularizers.ErrorEstimate()]),
    "trace": lambda: nde.solve(PROBLEM, trace=True),
    "compact": lambda: nde.solve(PROBLEM, compact=True),
    "progress": lambda: nde.solve(PROBLEM, progress=True),
    "rtol": lambda: nde.solve(PROBLEM, rtol=-1.0),
    "atol": lambda: nde.solve(PROBLEM, atol=float("nan")),
    "max_steps": lambda: nde.solve(PROBLEM, max_steps=0),
    "dt": lambda: nde.solve(PROBLEM, nde.Newton(), dt=0.1),
    "controller": lambda: nde.solve(PROBLEM, nde.Newton(), controller=nde.PIController()),
    "y0": lambda: nde.solve(nde.SteadyStateProblem(lambda t, y: -y, torch.zeros(())), per_sample=True),
    "f": lambda: nde.solve(nde.SteadyStateProblem(lambda t, y: y[:1], torch.zeros(2)), nde.Newton()),
    "args": lambda: nde.SteadyStateProblem(lambda t, y: y, torch.zeros(2), args=[1.0]),
    "t": lambda: nde.SteadyStateProblem(lambda t, y: y, torch.zeros(2), t=float("inf")),
    "norm": lambda: nde.Newton(norm="L2"),
    "linear": lambda: nde.Newton(linear="lu"),
    "max_iter": lambda: nde.Newton(max_iter=0),
    "m": lambda: nde.Anderson(0),
    "beta": lambda: nde.Anderson(beta=-1.0),
    "t_max": lambda: nde.DynamicSS(t_max=float("inf")),
    "path_rtol": lambda: nde.DynamicSS(path_rtol=0.0),
    "polish": lambda: nde.DynamicSS(polish=nde.DynamicSS()),
    "dt ": lambda: nde.solve(PROBLEM, nde.Euler()),
    "solver  ": lambda: nde.solve(PROBLEM, nde.EulerMaruyama(), dt=0.1),
    "solver ": lambda: nde.DynamicSS(nde.Reversible(nde.Tsit5())),
    "controller ": lambda: nde.DynamicSS(controller=1.0),
    "linear ": lambda: nde.ImplicitAdjoint("lu"),
    "rtol ": lambda: nde.ImplicitAdjoint(rtol=2.0),
    "max_products": lambda: nde.ImplicitAdjoint(max_products=0),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_are_named(name):
    with pytest.raises(nde.InvalidProblemError, match=rf"^{name.strip()}: "):
        WRONG[name]()


def test_an_ode_refuses_what_belongs_to_steady_states():
    problem = nde.ODEProblem(lambda t, y: -y, torch.ones(2, requires_grad=True), (0.0, 1.0))
    with pytest.raises(nde.InvalidProblemError, match=r"^solver: "):
        nde.solve(problem, nde.Newton())
    with pytest.raises(nde.InvalidProblemError, match="ImplicitAdjoint is for a SteadyStateProblem"):
        nde.solve(problem, adjoint=nde.ImplicitAdjoint())
    with torch.no_grad(), pytest.raises(nde.InvalidProblemError, match="ImplicitAdjoint is for a SteadyStateProblem"):
        nde.solve(problem, adjoint=nde.ImplicitAdjoint())


@pytest.mark.parametrize("linear", ["dense", "gmres"])
def test_newton_converges_quadratically(linear):
    def field(t, y):
        return torch.stack([y[0].exp() + y[1] - 2.0, torch.sin(y[0]) - y[1] ** 3 + 0.3 * y[1] - 0.5])

    problem = nde.SteadyStateProblem(field, start(1.0, -1.0))
    residuals = []
    for count in (5, 6, 7):
        how = nde.Newton(linear=linear, max_iter=count)
        residuals.append(np.log(nde.solve(problem, how, rtol=0.0, atol=1e-15, throw=False).residual))
    slope = (residuals[2] - residuals[1]) / (residuals[1] - residuals[0])
    assert slope == pytest.approx(2.0, abs=0.1)


def test_anderson_takes_fewer_calls_than_the_iteration_that_it_accelerates():
    # Contractions with factors up to 0.9: the plain iteration is an Euler step of size 1.
    rates = torch.linspace(0.1, 1.0, 10, dtype=FLOAT)
    problem = nde.SteadyStateProblem(lambda t, y: rates * (1.0 - y), torch.zeros(10, dtype=FLOAT))
    plain = nde.solve(problem, nde.DynamicSS(nde.Euler(), dt=1.0), **TIGHT)
    mixed = nde.solve(problem, nde.Anderson(m=10), **TIGHT)
    assert plain.stats.nfe > 150
    assert mixed.stats.nfe < 20  # as many as GMRES for a linear field (Walker and Ni), and a few
