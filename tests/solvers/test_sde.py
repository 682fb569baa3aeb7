"""Solving stochastic equations: noise shapes, paths and seeds, failures, adaptive steps, bad input."""

import math

import pytest
import torch

import neuralde as nde
from neuralde.solvers.core.status import Status
from neuralde.solvers.testing import stochastic as testing

FIXED = nde.ConstantStep()


def geometric(samples=8, calculus="ito", dtype=torch.float64, **others):
    y0 = torch.linspace(0.5, 1.5, 2 * samples, dtype=dtype).reshape(samples, 2)
    return nde.SDEProblem(lambda t, y: -0.3 * y, lambda t, y: 0.5 * y, y0, (0.0, 1.0), calculus=calculus, **others)


def exact(problem, sol):
    rate = -0.3 - (0.125 if problem.calculus == "ito" else 0.0)
    return problem.y0 * torch.exp(rate + 0.5 * sol.path(0.0, 1.0))


def test_a_seed_repeats_a_solve_and_manual_seed_repeats_an_unseeded_one():
    problem = geometric()
    first = nde.solve(problem, nde.EulerMaruyama(), dt=0.1, seed=7)
    again = nde.solve(problem, nde.EulerMaruyama(), dt=0.1, seed=torch.tensor(7))
    assert torch.equal(first.y1, again.y1)
    assert not torch.equal(first.y1, nde.solve(problem, nde.EulerMaruyama(), dt=0.1, seed=8).y1)
    torch.manual_seed(3)
    drawn = nde.solve(problem, nde.EulerMaruyama(), dt=0.1)
    other = nde.solve(problem, nde.EulerMaruyama(), dt=0.1)
    torch.manual_seed(3)
    repeated = nde.solve(problem, nde.EulerMaruyama(), dt=0.1)
    assert torch.equal(drawn.y1, repeated.y1)
    assert drawn.seed != other.seed
    assert torch.equal(nde.solve(problem, nde.EulerMaruyama(), dt=0.1, seed=drawn.seed).y1, drawn.y1)


def test_fixed_steps_are_euler_maruyama_written_by_hand():
    problem = geometric()
    sol = nde.solve(problem, nde.EulerMaruyama(), dt=0.03, seed=1)
    y, t = problem.y0, 0.0
    while t < 1.0 - 1e-9:
        end = min(t + 0.03, 1.0)
        y = y + (end - t) * -0.3 * y + 0.5 * y * sol.path(t, end)
        t = end
    assert torch.allclose(sol.y1, y, rtol=1e-13)
    assert sol.stats.steps == 34
    assert sol.stats.diffusion_evaluations == sol.stats.nfe + 1


@pytest.mark.parametrize("dt", [0.1, 3.0])
def test_a_grid_of_increments_gives_the_bits_of_single_queries(dt):
    problem = geometric()

    class Single:
        shape = (8, 2)

        def __init__(self, path):
            self.path = path

        def increment(self, s, t):
            return self.path.increment(s, t)

    whole = nde.solve(problem, nde.EulerMaruyama(), dt=dt, seed=1)
    single = nde.solve(problem, nde.EulerMaruyama(), dt=dt, path=Single(whole.path))
    assert torch.allclose(whole.y1, single.y1, rtol=1e-14)


def test_one_sample_alone_has_the_path_that_it_has_in_the_batch():
    problem = geometric()
    sol = nde.solve(problem, nde.EulerMaruyama(), dt=0.1, seed=5)
    alone = nde.SDEProblem(problem.drift, problem.diffusion, problem.y0[3], (0.0, 1.0))
    assert torch.equal(nde.solve(alone, nde.EulerMaruyama(), dt=0.1, path=sol.path.sample(3)).y1, sol.y1[3])


ADAPTIVE = [
    nde.EulerHeun(),
    nde.Heun(),
    nde.StratonovichMilstein(),
    nde.ReversibleHeun(),
    nde.SPaRK(),
    nde.SlowRK(),
    nde.SOSRI(),
    nde.SRIW1(),
]


@pytest.mark.parametrize("method", ADAPTIVE, ids=lambda method: method.name)
def test_adaptive_steps_converge_to_the_solution_along_the_path(method):
    problem = geometric(samples=20, calculus=getattr(method, "calculus", "stratonovich"))
    path = nde.BrownianPath((20, 2), 11, 0.0, 1.0, "space-time", dtype=torch.float64)
    errors, rejected = [], 0
    # The first four estimate their error with a solution of order 1/2, so they need ten times shorter steps.
    for tolerance in (1e-1, 1e-3) if method in ADAPTIVE[:4] else (1e-2, 1e-4):
        sol = nde.solve(problem, method, rtol=tolerance, atol=tolerance, path=path)
        errors.append((sol.y1 - exact(problem, sol)).abs().max().item())
        rejected += sol.stats.rejected
    assert errors[1] < 0.2 * errors[0]
    assert errors[1] < 1e-2
    assert rejected > 0


@pytest.mark.parametrize("method", [nde.SRA1(), nde.SRA3(), nde.ShARK()], ids=lambda method: method.name)
def test_adaptive_steps_with_additive_noise_agree_with_short_fixed_ones(method):
    y0 = torch.linspace(-1.0, 1.0, 10, dtype=torch.float64).unsqueeze(-1)
    problem = nde.SDEProblem(
        lambda t, y: torch.sin(3.0 * y) - t,
        lambda t, y: (0.4 + 0.2 * t).expand(10, 1, 2),
        y0,
        (0.0, 1.0),
        noise="additive",
    )
    errors = {1e-1: [], 1e-3: []}
    # The steps follow the path, so rounding moves them and the error of one path: the mean over some paths is what holds.
    for seed in range(4):
        path = nde.BrownianPath((10, 2), seed, 0.0, 1.0, "space-time", dtype=torch.float64)
        short = nde.solve(problem, nde.SRA1(), dt=1 / 64, path=path, controller=FIXED).y1
        for tolerance, squares in errors.items():
            sol = nde.solve(problem, method, rtol=tolerance, atol=tolerance, path=path)
            squares.append((sol.y1 - short).square().mean())
    coarse, fine = (torch.stack(squares).mean().sqrt().item() for squares in errors.values())
    assert fine < 1.5e-3
    assert fine < 0.2 * coarse


def test_stiffness_is_that_of_the_drift():
    y0 = torch.ones(1, dtype=torch.float64)
    problem = nde.SDEProblem(lambda t, y: -20.0 * y, lambda t, y: 0.1 * y, y0, (0.0, 0.1))
    sol = nde.solve(
        problem, nde.SOSRI(), rtol=1e-3, seed=1, trace=True, regularizers=[nde.regularizers.StiffnessEstimate()]
    )
    assert torch.allclose(sol.trace.stiffness, torch.full_like(sol.trace.stiffness, 20.0))
    assert sol.stats.diffusion_evaluations == 4 * sol.stats.steps + 3  # a look at its shape, two for the first step


def test_a_path_without_areas_is_refused_by_a_method_that_needs_them():
    path = nde.BrownianPath((8, 2), 1, 0.0, 1.0, dtype=torch.float64)
    with pytest.raises(nde.InvalidProblemError, match='path: got levy_area="none"'):
        nde.solve(geometric(), nde.SOSRI(), path=path)


def test_adaptive_ito_milstein_is_not_biased_by_its_rejections():
    problem = geometric(samples=500)
    means = []
    for tolerance in (1e-2, 1e-3):
        sol = nde.solve(problem, nde.ItoMilstein(), rtol=tolerance, atol=tolerance, seed=2, per_sample=True)
        assert sol.stats.rejected.sum() > 50
        means.append((sol.y1 - exact(problem, sol)).mean().abs().item())
    assert means[1] < 0.2 * means[0]


def test_per_sample_steps_follow_each_path_alone():
    problem = geometric(samples=6, calculus="stratonovich")
    path = nde.BrownianPath((6, 2), 4, 0.0, 1.0, dtype=torch.float64)
    together = nde.solve(problem, nde.EulerHeun(), rtol=1e-2, path=path, per_sample=True)
    assert len(set(together.stats.steps.tolist())) > 1
    for row in (0, 5):
        one = nde.SDEProblem(
            problem.drift, problem.diffusion, problem.y0[row : row + 1], (0.0, 1.0), calculus="stratonovich"
        )
        alone = nde.solve(one, nde.EulerHeun(), rtol=1e-2, path=path.take(torch.tensor([row])), per_sample=True)
        assert torch.equal(alone.y1[0], together.y1[row])
    compact = nde.solve(problem, nde.EulerHeun(), rtol=1e-2, path=path, per_sample=True, compact=True)
    assert torch.equal(compact.y1, together.y1)


def test_fixed_steps_per_sample_are_those_of_the_joint_solve():
    problem = geometric()
    joint = nde.solve(problem, nde.EulerMaruyama(), dt=0.1, seed=3)
    lanes = nde.solve(problem, nde.EulerMaruyama(), dt=0.1, seed=3, per_sample=True)
    assert torch.allclose(joint.y1, lanes.y1, rtol=1e-14)


def test_save_times_trace_and_dense_output():
    problem = geometric()
    ts = [0.0, 0.25, 0.5, 1.0]
    sol = nde.solve(problem, nde.EulerMaruyama(), dt=0.1, seed=3, saveat=ts, trace=True, dense=True)
    steps = nde.solve(problem, nde.EulerMaruyama(), dt=0.1, seed=3, saveat="steps")
    assert torch.equal(sol.ys[0], problem.y0)
    assert torch.equal(sol.ys[-1], sol.y1)
    bridge = sol.path(0.2, 0.25) - 0.5 * sol.path(0.2, 0.3)
    assert torch.allclose(sol.ys[1], 0.5 * (steps.ys[2] + steps.ys[3]) + 0.5 * steps.ys[2] * bridge)
    assert torch.allclose(sol(0.25), sol.ys[1])
    assert sol.trace.dt.shape == (10,)


@pytest.mark.parametrize("calculus", ["ito", "stratonovich"])
def test_noise_of_another_dimension_and_correlated_noise(calculus):
    reference = testing.noncommutative(50, calculus)
    method = nde.EulerMaruyama() if calculus == "ito" else nde.EulerHeun()
    sol = nde.solve(reference.problem, method, dt=0.01, seed=1)
    w = sol.path(0.0, 1.0)
    assert w.shape == (50, 2)
    assert torch.allclose(sol.y1[:, 1], w[:, 1], atol=1e-12)


def test_a_pytree_state_has_the_solution_of_its_parts():
    y0 = {"a": torch.ones(3, dtype=torch.float64), "b": torch.full((2, 2), 0.5, dtype=torch.float64)}
    problem = nde.SDEProblem(
        lambda t, y: {"a": -y["a"], "b": 0.1 * y["b"]},
        lambda t, y: {"a": 0.2 * y["a"], "b": 0.0 * y["b"] + 0.3},
        y0,
        (0.0, 1.0),
    )
    sol = nde.solve(problem, nde.EulerMaruyama(), dt=0.1, seed=1)
    flat = torch.cat([y0["a"], y0["b"].reshape(-1)])
    rate = torch.tensor([-1.0] * 3 + [0.1] * 4, dtype=torch.float64)
    scale = torch.tensor([0.2] * 3 + [0.0] * 4, dtype=torch.float64)
    again = nde.solve(
        nde.SDEProblem(lambda t, y: rate * y, lambda t, y: scale * y + 0.3 * (scale == 0), flat, (0.0, 1.0)),
        nde.EulerMaruyama(),
        dt=0.1,
        seed=1,
    )
    assert torch.allclose(torch.cat([sol.y1["a"], sol.y1["b"].reshape(-1)]), again.y1)
    columns = nde.SDEProblem(
        problem.drift,
        lambda t, y: {"a": y["a"].unsqueeze(-1).expand(3, 2), "b": 0.1 * y["b"].unsqueeze(-1).expand(2, 2, 2)},
        y0,
        (0.0, 1.0),
        noise="general",
    )
    sol = nde.solve(columns, nde.EulerMaruyama(), dt=0.1, seed=1)
    assert tuple(sol.path.shape) == (2,)
    assert sol.y1["b"].shape == (2, 2)


def test_float32_and_complex_states():
    single = nde.solve(geometric(dtype=torch.float32), nde.EulerMaruyama(), dt=0.01, seed=1)
    double = nde.solve(geometric(), nde.EulerMaruyama(), dt=0.01, seed=1)
    assert single.y1.dtype == torch.float32
    assert torch.allclose(single.y1.double(), double.y1, rtol=1e-4)
    y0 = torch.tensor([1.0 + 0.5j], dtype=torch.complex128)
    problem = nde.SDEProblem(lambda t, y: 1j * y, lambda t, y: 0.3j * y, y0, (0.0, 1.0), calculus="stratonovich")
    sol = nde.solve(problem, nde.RK4(), dt=0.01, seed=1, controller=FIXED)
    assert torch.allclose(sol.y1, y0 * torch.exp(1j * (1.0 + 0.3 * sol.path(0.0, 1.0))), atol=1e-6)


def test_stratonovich_run_backwards_returns_to_its_start():
    problem = geometric(calculus="stratonovich")
    there = nde.solve(problem, nde.Heun(), dt=0.002, seed=1, controller=FIXED)
    back = nde.SDEProblem(problem.drift, problem.diffusion, there.y1, (1.0, 0.0), calculus="stratonovich")
    again = nde.solve(back, nde.Heun(), dt=0.002, path=there.path, controller=FIXED)
    assert torch.allclose(again.y1, problem.y0, rtol=1e-3)


def test_jumps_of_drift_and_diffusion_are_seen_from_the_right_side():
    y0 = torch.zeros(3, 1, dtype=torch.float64)
    problem = nde.SDEProblem(
        lambda t, y: (t >= 0.5) + 0.0 * y, lambda t, y: (t >= 0.5) + 0.0 * y, y0, (0.0, 1.0), calculus="stratonovich"
    )
    sol = nde.solve(problem, nde.Heun(), dt=0.5, seed=1, controller=nde.ConstantStep(jump_ts=[0.5]))
    assert torch.allclose(sol.y1, 0.5 + sol.path(0.5, 1.0), atol=1e-12)


def test_a_noise_that_is_nan_for_one_path_fails_that_path_alone():
    class Broken:
        shape = (4, 2)

        def __init__(self):
            self.path = nde.BrownianPath((4, 2), 1, 0.0, 1.0, dtype=torch.float64)

        def increment(self, s, t):
            w, h = self.path.increment(s, t)
            w[2] = torch.nan
            return w, h

        def take(self, rows):
            return self

    problem = geometric(samples=4)
    sol = nde.solve(problem, nde.EulerMaruyama(), dt=0.1, path=Broken(), per_sample=True, throw=False)
    assert sol.status.tolist() == [Status.SUCCESS, Status.SUCCESS, Status.NON_FINITE, Status.SUCCESS]
    assert torch.isfinite(sol.y1[[0, 1, 3]]).all()
    with pytest.raises(nde.NonFiniteError):
        nde.solve(problem, nde.EulerMaruyama(), dt=0.1, path=Broken())


def test_a_million_steps_are_only_counted_not_refused():
    sol = nde.solve(geometric(samples=1), nde.EulerMaruyama(), dt=1e-6, seed=1, max_steps=50, throw=False)
    assert sol.status == Status.MAX_STEPS
    assert sol.stats.steps == 50


@pytest.mark.slow
def test_a_million_steps_reach_the_end_of_the_path():
    """About two minutes. The state is the path; torchsde's RecursionError comes at some thousands."""
    steps = 1_000_000
    y0 = torch.zeros(2, dtype=torch.float64)
    problem = nde.SDEProblem(lambda t, y: torch.zeros_like(y), lambda t, y: torch.ones_like(y), y0, (0.0, 1.0))
    options = dict(dt=1.0 / steps, controller=nde.ConstantStep(), max_steps=2 * steps, seed=5)
    with torch.no_grad():
        sol = nde.solve(problem, nde.EulerMaruyama(), **options)
    assert sol.stats.steps == steps
    assert torch.allclose(sol.y1, sol.path(0.0, 1.0), rtol=1e-9, atol=1e-9)


def test_an_empty_interval_is_over_at_once():
    problem = nde.SDEProblem(lambda t, y: -y, lambda t, y: y, torch.ones(2), (1.0, 1.0))
    assert torch.equal(nde.solve(problem, nde.EulerMaruyama(), dt=0.1).y1, torch.ones(2))


def test_the_default_solver_suits_noise_and_calculus():
    for calculus in ("ito", "stratonovich"):
        for reference in (
            testing.logistic(10, "diagonal", calculus),
            testing.logistic(10, "scalar", calculus),
            testing.logistic(10, "commutative", calculus),
            testing.logistic(10, "additive", calculus),
            testing.noncommutative(10, calculus),
        ):
            path = testing.SampledPath.random((10, reference.noises), 1024, 0.0, 1.0, 0)
            y1 = nde.solve(reference.problem, dt=1 / 64, path=path, controller=FIXED).y1
            assert (y1 - reference.exact(path)).abs().mean() < 0.05


@pytest.mark.parametrize("dt", [0, 0.0, -0.1, math.nan, math.inf, "0.1", None])
def test_bad_steps_are_refused(dt):
    with pytest.raises(nde.InvalidProblemError, match="dt: got"):
        nde.solve(geometric(), nde.EulerMaruyama(), dt=dt)


def column(m):
    return lambda t, y: y.unsqueeze(-1).expand(*y.shape, m)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"noise": "pink"}, {}, "noise: got 'pink'"),
        ({"calculus": "malliavin"}, {}, "calculus: got 'malliavin'"),
        ({"drift": None}, {}, "drift: got NoneType"),
        ({"diffusion": 0.5}, {}, "diffusion: got float"),
        ({"diffusion": lambda t, y: y[..., :1]}, {}, r"diffusion: got shape \(8, 1\); expected \(8, 2\)"),
        ({"diffusion": lambda t, y: 0.1}, {}, "diffusion: got"),
        ({"diffusion": column(3)}, {}, r"diffusion: got shape \(8, 2, 3\); expected \(8, 2\)"),
        ({"noise": "general"}, {}, r"got shape \(8, 2\) for general noise; expected \(8, 2, m\)"),
        (
            {"noise": "scalar", "diffusion": column(2)},
            {},
            r"got shape \(8, 2, 2\) for scalar noise; expected \(8, 2, 1\)",
        ),
        ({"noise": "additive"}, {}, 'noise: got "additive", but the diffusion changed'),
        ({"noise": "additive", "diffusion": column(2)}, {}, 'noise: got "additive", but the diffusion changed'),
        ({}, {"solver": nde.Tsit5()}, "solves stratonovich problems and this one is ito"),
        ({}, {"solver": nde.Euler()}, "whose order 1"),
        ({}, {"solver": nde.EulerHeun()}, "solver: EulerHeun solves stratonovich"),
        ({}, {"solver": nde.Reversible(nde.Heun())}, "with an SDEProblem"),
        ({"noise": "general", "diffusion": column(2)}, {"solver": nde.ItoMilstein()}, "does not take general noise"),
        ({}, {"controller": nde.PIController()}, "controller: got PIController with EulerMaruyama"),
        ({}, {"seed": 1.5}, "seed: got 1.5"),
        ({}, {"seed": 1, "path": object()}, "seed, path: got 1 and a path"),
        ({}, {"path": 3}, "path: got int"),
        (
            {},
            {"path": nde.BrownianPath((8, 3), 1, 0.0, 1.0)},
            r"path: got increments of shape \(8, 3\); expected \(8, 2\)",
        ),
        ({}, {"path": nde.BrownianPath((8, 2), 1, 0.0, 0.5)}, "path: got a path from 0 to 0.5"),
        ({}, {"events": nde.Event(lambda t, y: y.sum())}, "events: got some with an SDEProblem"),
        ({}, {"adjoint": nde.DirectAdjoint(through_steps=True)}, "through_steps=True with an SDEProblem"),
        ({}, {"adjoint": nde.GaussAdjoint()}, "GaussAdjoint does not differentiate an SDEProblem"),
        ({}, {"saveat": torch.tensor([0.5], requires_grad=True)}, "saveat: requires grad"),
        ({"tspan": (0.0, torch.tensor(1.0, requires_grad=True))}, {}, "tspan: requires grad"),
    ],
)
def test_bad_input_is_refused_by_name(change, options, message):
    before = geometric()
    fields = {"drift": before.drift, "diffusion": before.diffusion, "y0": before.y0, "tspan": (0.0, 1.0)}
    with pytest.raises(nde.InvalidProblemError, match=message):
        nde.solve(nde.SDEProblem(**{**fields, **change}), **{"solver": nde.EulerMaruyama(), "dt": 0.1, **options})


def test_general_noise_is_not_adapted():
    problem = testing.noncommutative(5, "stratonovich").problem
    with pytest.raises(nde.InvalidProblemError, match="without the Levy area"):
        nde.solve(problem, nde.Heun(), controller=nde.PIController())
    with pytest.raises(nde.InvalidProblemError, match="dt: got None"):
        nde.solve(problem, nde.Heun())


def test_noise_and_ordinary_problems_do_not_mix():
    problem = nde.ODEProblem(lambda t, y: -y, torch.ones(1), (0.0, 1.0))
    for options, message in (
        ({"seed": 1}, "seed: got 1 with an ODEProblem"),
        ({"path": 1}, "path: got 1 with an ODEProblem"),
        ({"solver": nde.EulerMaruyama(), "dt": 0.1}, "with an ODEProblem"),
    ):
        with pytest.raises(nde.InvalidProblemError, match=message):
            nde.solve(problem, **options)


@pytest.mark.parametrize(
    "method", [nde.EulerHeun(), nde.ItoMilstein(), nde.StratonovichMilstein(), nde.SOSRI()], ids=str
)
def test_constant_noise_does_not_hide_the_drifts_error(method):
    """Ornstein-Uhlenbeck: the corrections for the noise vanish, and the drift's error has to hold the steps back."""
    y0, rates = torch.full((2000, 1), 1.2, dtype=torch.float64), []
    problem = nde.SDEProblem(
        lambda t, y: -0.5 * y, lambda t, y: 0.7 + 0.0 * y, y0, (0.0, 1.0), calculus=method.calculus
    )
    for tolerance in (1e-2, 1e-3):
        sol = nde.solve(problem, method, rtol=tolerance, atol=tolerance, seed=2)
        rates.append(sol.stats.steps)
    assert rates[1] > 2 * rates[0]
    torch.testing.assert_close(
        sol.y1.mean(), torch.tensor(1.2 * math.exp(-0.5)), atol=0.04, rtol=0.0, check_dtype=False
    )
    torch.testing.assert_close(
        sol.y1.var(), torch.tensor(0.49 * (1 - math.exp(-1))), atol=0.03, rtol=0.0, check_dtype=False
    )


COUNTED = [
    (nde.ItoMilstein(), "ito"),
    (nde.SOSRI(), "ito"),
    (nde.EulerHeun(), "stratonovich"),
    (nde.ReversibleHeun(), "stratonovich"),
    (nde.Heun(), "stratonovich"),
]


@pytest.mark.parametrize(
    ("how", "method", "calculus"),
    [
        ("fixed", nde.EulerMaruyama(), "ito"),
        *((how, *case) for how in ("fixed", "adaptive", "judged") for case in COUNTED),
    ],
    ids=str,
)
def test_what_is_counted_is_what_was_called(how, method, calculus):
    """A step of EulerHeun or Milstein calls the drift once more where its error is read: to adapt it, or by a regularizer."""
    called = {"drift": 0, "diffusion": 0}

    def drift(t, y):
        called["drift"] += 1
        return -0.5 * y

    def diffusion(t, y):
        called["diffusion"] += 1
        return 0.7 + 0.1 * torch.sin(y)

    problem = nde.SDEProblem(drift, diffusion, torch.ones(4, 1), (0.0, 1.0), calculus=calculus)
    options = {"rtol": 1e-2, "atol": 1e-2} if how == "adaptive" else {"controller": nde.ConstantStep(), "dt": 0.1}
    regularizers = [nde.regularizers.ErrorEstimate()] if how == "judged" else []
    stats = nde.solve(problem, method, seed=1, regularizers=regularizers, **options).stats
    assert (stats.nfe, stats.diffusion_evaluations) == (called["drift"], called["diffusion"])
