"""What every solver costs on the reference problems, pinned: a change that makes one dearer has to say so."""

import pytest
import torch

import neuralde as nde
from neuralde.solvers.methods import named
from neuralde.solvers.methods.stochastic.base import SDEMethod
from neuralde.solvers.testing.ordinary import LIMIT_CYCLE, SINE, methods
from neuralde.solvers.testing.stiff import POLLUTION

METHODS = {method.name: method for method in methods()}
CONTROLLERS = {"I": nde.IController(), "PI": nde.PIController(), "PID": nde.PIDController()}


@pytest.mark.parametrize("name", METHODS)
def test_every_method(solver_cost, name):
    method = METHODS[name]
    options = {"rtol": 1e-6, "atol": 1e-6} if method.adaptive else {"dt": 0.05}

    def solves():
        for problem in (SINE, LIMIT_CYCLE):
            nde.solve(problem.problem(), method, **options)

    solver_cost.check(name, solves)


@pytest.mark.parametrize("name", CONTROLLERS)
def test_every_controller(solver_cost, name):
    tolerances = (1e-3, 1e-6, 1e-9)
    solver_cost.check(
        f"{name} controller",
        lambda: [
            nde.solve(LIMIT_CYCLE.problem(), controller=CONTROLLERS[name], rtol=tol, atol=tol) for tol in tolerances
        ],
    )


IMPLICIT = {name: kind() for name in named.__all__ if (kind := getattr(named, name)).implicit}


@pytest.mark.parametrize("name", IMPLICIT)
def test_every_implicit_method(solver_cost, name):
    method = IMPLICIT[name]
    options = {"rtol": 1e-4, "atol": 1e-8} if method.adaptive else {"dt": 0.05}

    def solves():
        nde.solve(LIMIT_CYCLE.problem(), method, **options)
        if method.adaptive:
            nde.solve(POLLUTION.problem(), method, **options)

    cost = solver_cost.check(name, solves)
    assert cost.totals["factorizations"] > 0


def stiff(t, y):
    """Two rates that differ by a factor of two hundred."""
    return torch.stack([-200.0 * (y[..., 0] - torch.cos(t).reshape(-1)), y[..., 0] - y[..., 1]], dim=-1)


def test_a_stiff_field(solver_cost):
    problem = nde.ODEProblem(stiff, torch.zeros(1, 2, dtype=torch.float64), (0.0, 2.0))
    solver_cost.check("stiff", lambda: nde.solve(problem, rtol=1e-4, atol=1e-6))


@pytest.mark.parametrize("compact", [False, True])
def test_one_hard_sample_in_an_easy_batch(solver_cost, compact):
    rates = torch.tensor([1.0, 1.0, 1.0, 200.0], dtype=torch.float64).reshape(4, 1)
    problem = nde.ODEProblem(
        lambda t, y: torch.cat([-y[:, 1:] * (y[:, :1] - torch.cos(t)), 0.0 * y[:, 1:]], dim=1),
        torch.cat([torch.zeros(4, 1, dtype=torch.float64), rates], dim=1),
        (0.0, 1.0),
    )
    name = "hard sample, compact" if compact else "hard sample"
    solver_cost.check(name, lambda: nde.solve(problem, per_sample=True, compact=compact))


STOCHASTIC = {
    name: kind()
    for name, kind in sorted(vars(nde.solvers).items())
    if isinstance(kind, type) and issubclass(kind, SDEMethod) and kind not in (SDEMethod, nde.StochasticRungeKutta)
}


@pytest.mark.parametrize("name", STOCHASTIC)
def test_every_stochastic_method(solver_cost, name):
    method = STOCHASTIC[name]
    if method.takes == ("semilinear SDE",):
        filtered(solver_cost, method)
        return
    calculus = "stratonovich" if method.calculus == "any" else method.calculus
    y0 = torch.ones(2, dtype=torch.float64)
    noise = "diagonal" if "diagonal" in method.orders else "additive"

    def diffusion(t, y):
        return 0.3 * torch.cos(t) * (y if noise == "diagonal" else torch.ones_like(y))

    problem = nde.SDEProblem(lambda t, y: -y, diffusion, y0, (0.0, 1.0), noise=noise, calculus=calculus)
    cost = solver_cost.check(name, lambda: nde.solve(problem, method, dt=0.1, seed=0))
    if method.adaptive:
        solver_cost.check(
            f"{name}, from its own first step", lambda: nde.solve(problem, method, rtol=1e-2, atol=1e-2, seed=0)
        )
    assert cost.totals["diffusion_evaluations"] > 0


def filtered(solver_cost, method):
    """Of a method for noise that is filtered."""
    y0 = torch.ones(2, dtype=torch.float64), torch.zeros(2, 3, dtype=torch.float64)
    noise = "diagonal" if method.calculus == "stratonovich" else "additive"

    def diffusion(t, y):
        return 0.3 * torch.cos(t) * (y[0] if noise == "diagonal" else torch.ones_like(y[0]))

    rates, weights = [0.1, 1.0, 1e4], [1.0, 1.0, 10.0]
    problem = nde.SemilinearSDEProblem(lambda t, y: -y[0], diffusion, rates, weights, y0, (0.0, 1.0), noise=noise)
    solver_cost.check(method.name, lambda: nde.solve(problem, method, dt=0.1, controller=nde.ConstantStep(), seed=0))
    if method.adaptive:
        solver_cost.check(
            f"{method.name}, from its own first step", lambda: nde.solve(problem, method, rtol=1e-2, atol=1e-2, seed=0)
        )


STEADY = {"DynamicSS": nde.DynamicSS(), "Newton": nde.Newton(), "Anderson": nde.Anderson()}


@pytest.mark.parametrize("name", STEADY)
def test_every_search_for_a_steady_state(solver_cost, name):
    matrix = torch.tensor([[0.2, -0.5], [0.4, 0.1]], dtype=torch.float64)
    problem = nde.SteadyStateProblem(
        lambda t, y: torch.tanh(y @ matrix.T) + 0.3 - y, torch.zeros(2, dtype=torch.float64)
    )
    cost = solver_cost.check(name, lambda: nde.solve(problem, STEADY[name], rtol=1e-8, atol=1e-8))
    if name == "Newton":
        assert (
            cost.totals["jacobians"] == cost.totals["linear_solves"] - 1 > 1
        )  # the last one is how far the root still is


def test_events_and_save_times(solver_cost):
    problem = nde.ODEProblem(
        lambda t, y: torch.stack([y[1], -9.81 + 0.0 * y[1]]),
        torch.tensor([1.0, 0.0], dtype=torch.float64),
        (0.0, 2.0),
    )
    bounce = nde.Event(
        lambda t, y: y[0], direction="down", terminal=False, apply=lambda t, y: torch.stack([0.0 * y[0], -0.8 * y[1]])
    )
    solver_cost.check("bouncing ball", lambda: nde.solve(problem, events=bounce, saveat=[0.5, 1.0, 1.5]))
