"""States that filtered noise drives: the filters are exact at any step, and x converges along them."""

import math
from itertools import pairwise

import pytest
import torch
from scipy import stats

import neuralde as nde

D = torch.float64
NOISE = nde.FractionalNoise(0.3, "II", terms=5)
FIXED = {"controller": nde.ConstantStep()}
SAMPLES = 16


def start(count=5, samples=SAMPLES, energy=False):
    x, filters = torch.ones(samples, 2, dtype=D), torch.zeros(samples, 2, count, dtype=D)
    return (x, filters, torch.zeros(samples, dtype=D)) if energy else (x, filters)


def geometric(y0=None, weights=None, control=None, args=(), rates=NOISE.rates, **options):
    """dx = -x dt + x/2 dZ, whose solution is exp(Z / 2 - t)."""
    weights = NOISE.weights if weights is None else weights
    y0 = start() if y0 is None else y0
    drift, diffusion = (lambda t, y, *args: -y[0]), (lambda t, y, *args: 0.5 * y[0])
    return nde.SemilinearSDEProblem(drift, diffusion, rates, weights, y0, (0.0, 1.0), args, control, **options)


def path(seed=5, samples=SAMPLES, **options):
    return nde.OrnsteinUhlenbeckPath((samples, 2), NOISE.rates, seed, 0.0, 1.0, dtype=D, **options)


WAYS = {
    "fixed": {"dt": 0.125, **FIXED},
    "not dividing": {"dt": 0.13, **FIXED},
    "adaptive": {"rtol": 3e-2, "atol": 3e-2},
    "per sample": {"rtol": 3e-2, "atol": 3e-2, "per_sample": True},
    "compact": {"rtol": 3e-2, "atol": 3e-2, "per_sample": True, "compact": True},
}
ways = pytest.mark.parametrize("options", WAYS.values(), ids=WAYS)


@ways
def test_filters_are_those_of_the_path_at_every_save_time(options):
    """Whatever steps, rejections and clocks a solve has."""
    made, ts = path(), torch.linspace(0.0, 1.0, 8, dtype=D)
    sol = nde.solve(geometric(), saveat=ts, path=made, dense="compact" not in options, **options)
    want = torch.stack([made(0.0, t) for t in ts.tolist()])
    assert torch.allclose(sol.ys[1], want, rtol=0.0, atol=2e-8)
    if "compact" not in options:
        assert torch.allclose(sol(ts)[1], want, rtol=0.0, atol=2e-8)
        assert torch.allclose(sol(ts)[0], sol.ys[0], rtol=0.0, atol=1e-12)
    if "rtol" in options:
        assert torch.as_tensor(sol.stats.rejected).sum() > 0 or "per_sample" not in options


def test_rejected_steps_leave_the_path_as_it_is():
    made = path()
    sol = nde.solve(geometric(), nde.ExponentialHeun(), path=made, rtol=1e-3, atol=1e-3, dt=0.5)
    assert sol.stats.rejected > 0
    assert torch.allclose(sol.y1[1], made(0.0, 1.0), rtol=0.0, atol=2e-8)


@pytest.mark.parametrize(("noise", "method"), [("diagonal", "ExponentialHeun"), ("additive", "ExponentialEuler")])
def test_rates_far_above_the_steps_have_their_law(noise, method):
    """At a rate of 1e4 and steps of 0.01 the filter is stationary after one, and its values are independent."""
    y0 = torch.zeros(4000, 1, dtype=D), torch.zeros(4000, 1, 2, dtype=D)
    problem = nde.SemilinearSDEProblem(
        lambda t, y: 0.0 * y[0],
        lambda t, y: torch.ones_like(y[0]),
        [1.0, 1e4],
        [1.0, 100.0],
        y0,
        (0.0, 0.1),
        noise=noise,
    )
    ts = torch.tensor([0.01, 0.02, 0.1], dtype=D)
    sol = nde.solve(problem, getattr(nde, method)(), dt=0.01, seed=2, saveat=ts, **FIXED)
    fast = sol.ys[1][..., 1].squeeze(-1) * math.sqrt(2e4)
    slow = sol.ys[1][..., 0].squeeze(-1) / torch.sqrt(-torch.expm1(-2.0 * ts) / 2.0).unsqueeze(-1)
    rows = [*fast, (fast[0] + fast[1]) / math.sqrt(2), *slow]
    assert min(stats.kstest(row.numpy(), "norm").pvalue for row in rows) * len(rows) > 1e-3
    # x is what the weights make of the filters: the sum of their moves, exactly.
    assert torch.allclose(sol.ys[0], sol.ys[1] @ torch.tensor([1.0, 100.0], dtype=D), rtol=0.0, atol=1e-12)


def test_fractional_covariances_come_out():
    """Of x itself over 4000 paths, within 5 standard errors of the covariance of the approximation, of both types."""
    ts = torch.tensor([0.2, 0.5, 1.0], dtype=D)
    for hurst, kind in ((0.2, "I"), (0.7, "I"), (0.3, "II")):
        noise = nde.FractionalNoise(hurst, kind)
        factor = torch.linalg.cholesky(noise.initial_covariance) if kind == "I" else torch.zeros(8, 8, dtype=D)
        filters = torch.randn(4000, 1, 8, dtype=D) @ factor.T
        problem = nde.SemilinearSDEProblem(
            lambda t, y: 0.0 * y[0],
            lambda t, y: torch.ones_like(y[0]),
            noise.rates,
            noise.weights,
            (torch.zeros(4000, 1, dtype=D), filters),
            (0.0, 1.0),
            noise="additive",
        )
        x = nde.solve(problem, dt=0.25, seed=1, saveat=ts, **FIXED).ys[0].squeeze(-1)
        want = noise.covariance(ts.unsqueeze(-1), ts)
        error = torch.sqrt((want.diagonal().unsqueeze(-1) * want.diagonal() + want.square()) / 4000)
        assert ((x @ x.T / 4000 - want).abs() / error).max() < 5.0


@pytest.mark.parametrize(("rates", "power"), [([0.0], 0.9), ([0.5, 4.0], 0.9)])
def test_heun_has_its_order_along_the_path(rates, power):
    """With filters that the steps resolve the noise is Brownian on a small scale, and the strong order is 1."""
    rates = torch.tensor(rates, dtype=D)
    weights = torch.ones_like(rates)
    made = nde.OrnsteinUhlenbeckPath((400, 2), rates, 3, 0.0, 1.0, dt=1 / 256, dtype=D)
    errors = []
    for steps in (16, 64, 256):
        y0 = start(len(rates), 400)
        sol = nde.solve(geometric(y0, weights, rates=rates), dt=1 / steps, path=made, **FIXED)
        exact = torch.exp(0.5 * sol.y1[1].sum(-1) - 1.0)
        errors.append((sol.y1[0] - exact).square().mean().sqrt().item())
    slopes = [math.log(a / b) / math.log(4) for a, b in pairwise(errors)]
    assert min(slopes) > power


def test_euler_solves_ito_problems_and_refuses_others():
    """dx = x/2 dW in the sense of Ito has the mean 1 and the solution exp(W/2 - t/8)."""
    problem = nde.SemilinearSDEProblem(
        lambda t, y: 0.0 * y[0], lambda t, y: 0.5 * y[0], [0.0], [1.0], start(1, 400), (0.0, 1.0), calculus="ito"
    )
    sol = nde.solve(problem, dt=1e-3, seed=0, **FIXED)
    exact = torch.exp(0.5 * sol.y1[1].squeeze(-1) - 0.125)
    assert (sol.y1[0] - exact).abs().mean() < 1e-2
    with pytest.raises(
        nde.InvalidProblemError, match=r"ExponentialHeun solves stratonovich .* expected ExponentialEuler"
    ):
        nde.solve(problem, nde.ExponentialHeun(), dt=0.1)
    with pytest.raises(nde.InvalidProblemError, match=r"ExponentialEuler solves ito .* expected ExponentialHeun"):
        nde.solve(geometric(), nde.ExponentialEuler(), dt=0.1)


def test_smaller_tolerances_give_smaller_errors():
    made, errors, steps = path(), [], []
    for tol in (1e-1, 1e-2, 1e-3):
        sol = nde.solve(geometric(), path=made, rtol=tol, atol=tol)
        exact = torch.exp(0.5 * (made(0.0, 1.0) @ NOISE.weights) - 1.0)
        errors.append((sol.y1[0] - exact).abs().mean().item())
        steps.append(sol.stats.steps)
    assert errors[0] > errors[1] > errors[2]
    assert steps[0] < steps[1] < steps[2]


@pytest.mark.parametrize("rate", [0.0, 2.0, 1e4])
def test_a_constant_control_is_exact_and_its_energy_is_collected(rate):
    """Y moves by u (1 - exp(-rate t)) / rate beside its noise, and the divergence is u^2 t / 2 for each entry."""
    made = nde.OrnsteinUhlenbeckPath((SAMPLES, 2), [rate], 5, 0.0, 1.0, dtype=D)
    control = lambda t, y: torch.full_like(y[0], 0.7)  # noqa: E731
    problem = nde.SemilinearSDEProblem(
        lambda t, y: -y[0], lambda t, y: 0.5 * y[0], [rate], [1.0], start(1, energy=True), (0.0, 1.0), (), control
    )
    ts = torch.tensor([0.3, 1.0], dtype=D)
    _, filters, energy = nde.solve(problem, dt=0.25, path=made, saveat=ts, **FIXED).ys
    for row, t in enumerate(ts.tolist()):
        moved = 0.7 * (t if rate == 0.0 else -math.expm1(-rate * t) / rate)
        assert torch.allclose(filters[row] - made(0.0, t), torch.full((), moved, dtype=D), rtol=1e-7, atol=1e-9)
        assert torch.allclose(energy[row], torch.full((), 2 * 0.5 * 0.49 * t, dtype=D), rtol=1e-12)


def test_heun_is_of_second_order_in_a_control_that_varies():
    control = lambda t, y: torch.sin(5.0 * t) * torch.ones_like(y[0])  # noqa: E731
    made, errors = path(), []
    for steps in (8, 16, 32):
        sol = nde.solve(geometric(control=control), path=made, dt=1 / steps, **FIXED)
        g = NOISE.rates
        exact = (g * math.sin(5.0) - 5 * math.cos(5.0) + 5 * torch.exp(-g)) / (g * g + 25)
        errors.append((sol.y1[1] - made(0.0, 1.0) - exact).abs().max().item())
    assert math.log2(errors[0] / errors[1]) > 1.9
    assert math.log2(errors[1] / errors[2]) > 1.9


def test_weights_may_vary_along_time():
    """x with a unit diffusion is then Z, whose weights are those of the time."""
    weights = lambda t: (1.0 + t) * NOISE.weights  # noqa: E731
    y0 = torch.zeros(SAMPLES, 2, dtype=D), torch.zeros(SAMPLES, 2, 5, dtype=D)
    problem = nde.SemilinearSDEProblem(
        lambda t, y: 0.0 * y[0],
        lambda t, y: torch.ones_like(y[0]),
        NOISE.rates,
        weights,
        y0,
        (0.0, 1.0),
        noise="additive",
    )
    ts = torch.tensor([0.35, 1.0], dtype=D)
    for options in ({"dt": 0.2, **FIXED}, {"dt": 0.2, "per_sample": True, **FIXED}):
        x, filters = nde.solve(problem, path=path(), saveat=ts, **options).ys
        assert torch.allclose(x[0], 1.35 * filters[0] @ NOISE.weights, rtol=1e-9, atol=1e-10)
        assert torch.allclose(x[1], 2.0 * filters[1] @ NOISE.weights, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize(
    "adjoint", [nde.DirectAdjoint(), nde.DiscreteAdjoint(), nde.DiscreteAdjoint(budget=0)], ids=repr
)
def test_gradients(adjoint, per_sample):
    """Of weights, arguments and the start, by differences along one path, through rows, their ends and the energy."""
    control = lambda t, y, k: k * torch.sin(y[0] + y[1].sum(-1))  # noqa: E731
    made, ts = path(), torch.tensor([0.33, 1.0], dtype=D)

    def loss(weights, k, x):
        y0 = (x, *start(energy=True)[1:])
        options = {"dt": 0.15, "per_sample": per_sample, "adjoint": adjoint, **FIXED}
        sol = nde.solve(geometric(y0, weights, control, (k,)), path=made, saveat=ts, **options)
        return sol.ys[0].square().mean() + (sol.ys[1] * 0.1).sum(-1).sin().mean() + sol.ys[2].mean()

    values = NOISE.weights.clone(), torch.tensor(0.3, dtype=D), start()[0]
    inputs = [x.requires_grad_() for x in values]
    grads = torch.autograd.grad(loss(*inputs), inputs)
    for place, grad in enumerate(grads):
        direction = torch.linspace(0.5, 1.0, values[place].numel(), dtype=D).reshape(values[place].shape)
        with torch.no_grad():
            moved = [
                [x + (sign * 1e-6 * direction if i == place else 0.0) for i, x in enumerate(values)] for sign in (1, -1)
            ]
            difference = (loss(*moved[0]) - loss(*moved[1])).item() / 2e-6
        assert (grad * direction).sum().item() == pytest.approx(difference, rel=1e-6, abs=1e-9)


def test_regularizers_and_traces_see_the_steps():
    estimates = [nde.regularizers.ErrorEstimate(), nde.regularizers.StiffnessEstimate(normalized=False)]
    weights = NOISE.weights.clone().requires_grad_()
    sol = nde.solve(geometric(weights=weights), path=path(), regularizers=estimates, rtol=3e-2, atol=3e-2, trace=True)
    assert sol.regularization[0] > 0
    assert sol.regularization[1].item() == pytest.approx(1.0)
    assert torch.autograd.grad(sol.regularization[0], weights)[0].abs().sum() > 0
    assert sol.trace.stiffness.isfinite().all()
    assert sol.stats.diffusion_evaluations == sol.stats.nfe  # each step calls both twice


@pytest.mark.parametrize("options", [{"dt": 0.3}, {"rtol": 0.3, "atol": 0.3, "per_sample": True}], ids=["grid", "tree"])
def test_a_compiled_solve_is_one_graph_along_the_same_path(options):
    torch._dynamo.reset()
    ts = torch.tensor([0.0, 0.4, 1.0], dtype=D)
    control = lambda t, y: 0.3 * y[0]  # noqa: E731

    def run(x, seed):
        problem = geometric((x, *start(energy=True)[1:]), control=control)
        return nde.solve(problem, saveat=ts, seed=seed, **options).ys

    eager = run(start()[0], torch.tensor(3))
    graph = torch.compile(run, fullgraph=True, backend="aot_eager")(start()[0], torch.tensor(3))
    for a, b in zip(eager, graph, strict=True):
        assert torch.allclose(a, b, rtol=1e-7, atol=2e-8)
    torch._dynamo.reset()


def refused(**changes):
    given = {
        "drift": lambda t, y: -y[0],
        "diffusion": lambda t, y: y[0],
        "rates": NOISE.rates,
        "weights": NOISE.weights,
        "y0": start(),
        "tspan": (0.0, 1.0),
    }
    return nde.SemilinearSDEProblem(**{**given, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y0": start()[0]}, r"y0: got Tensor; expected \(x, Y\) with shapes"),
        (
            {"y0": start(4)},
            r"y0: got \[\(16, 2\), \(16, 2, 4\)\]; expected \(x, Y\) with shapes \(...\) and \(..., 5\)",
        ),
        ({"y0": (*start(), torch.zeros(3, dtype=D))}, r"y0: got .*; expected .* with E of leading dimensions of x"),
        ({"y0": (start()[0].float(), start()[1])}, "y0: got .*; expected one real dtype"),
        ({"rates": [1.0, 1.0]}, r"rates: got \[1.0, 1.0\]; expected .* increasing"),
        ({"weights": torch.ones(3)}, r"weights: got shape \(3,\); expected \(5,\), one for each rate"),
        ({"tspan": (1.0, 0.0)}, r"tspan: got \(1.0, 0.0\); expected t0 <= t1, since a decay cannot be run backwards"),
        ({"tspan": (0.0, torch.tensor(1.0, requires_grad=True))}, "tspan: requires grad; expected constant times"),
        ({"noise": "general"}, "noise: got 'general'; expected one of"),
        ({"calculus": "malliavin"}, "calculus: got 'malliavin'; expected one of"),
        ({"control": 3}, "control: got int; expected a callable"),
    ],
)
def test_a_wrong_problem_is_refused_by_name(changes, message):
    with pytest.raises(nde.InvalidProblemError, match=message):
        refused(**changes)


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({}, {"solver": nde.EulerHeun(), "dt": 0.1}, r"solver: got EulerHeun\(\) with a SemilinearSDEProblem"),
        ({}, {"solver": nde.Tsit5()}, r"solver: got Tsit5\(\) with a SemilinearSDEProblem"),
        (
            {},
            {"adjoint": nde.BacksolveAdjoint()},
            "adjoint: BacksolveAdjoint does not differentiate a SemilinearSDEProblem",
        ),
        (
            {},
            {"path": nde.BrownianPath((16, 2), 0, 0.0, 1.0, dtype=D)},
            "path: got BrownianPath.*expected an OrnsteinUhlenbeck",
        ),
        ({}, {"path": path(), "seed": 1}, "seed, path: got 1 and a path"),
        ({}, {"path": path(samples=3)}, r"path: got increments of shape \(3, 2\); expected \(16, 2\)"),
        ({"drift": lambda t, y: y}, {}, r"drift: got tuple; expected a tensor like x"),
        ({"drift": lambda t, y: y[1]}, {}, r"drift: got shape \(16, 2, 5\); expected \(16, 2\), that of x"),
        ({"weights": lambda t: torch.ones(2)}, {}, r"weights: got \(2,\); expected a tensor \(5,\)"),
        ({"noise": "additive"}, {}, 'noise: got "additive", but the diffusion changed with the state'),
    ],
)
def test_wrong_solves_are_refused_by_name(changes, options, message):
    with pytest.raises(nde.InvalidProblemError, match=message):
        nde.solve(refused(**changes), **options)


def test_other_problems_are_refused():
    problem = nde.SDEProblem(lambda t, y: y, lambda t, y: y, torch.ones(2), (0.0, 1.0), calculus="stratonovich")
    with pytest.raises(nde.InvalidProblemError, match="solver: ExponentialHeun does not step an SDEProblem"):
        nde.solve(problem, nde.ExponentialHeun(), dt=0.1)
