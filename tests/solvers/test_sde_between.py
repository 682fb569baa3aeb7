"""Between the ends of a step the solution of an SDE follows its path: order, law, cost and gradients of saved rows."""

import functools
import math

import pytest
import torch
from scipy import stats

import neuralde as nde
from neuralde.solvers.testing.stochastic import SampledPath, logistic

D = torch.float64
FIXED = nde.ConstantStep()
# Whole cells of a grid of 2**-12, at all places between the ends of steps.
TIMES = [*(round((0.05 + 0.0531 * k) * 4096) / 4096 for k in range(17)), 1.0]
ITO = [nde.EulerMaruyama(), nde.ItoMilstein(), nde.SRIW1(), nde.SOSRI(), nde.PL1WM(), nde.SROCK()]
STRATONOVICH = [
    nde.EulerHeun(),
    nde.Heun(),
    nde.StratonovichMilstein(),
    nde.ReversibleHeun(),
    nde.SlowRK(),
    nde.SPaRK(),
]
ADDITIVE = [nde.EulerMaruyama(), nde.SRA1(), nde.SRA3(), nde.ShARK(), nde.SPaRK(), nde.SlowRK()]
PATH = nde.BrownianPath((300, 1), 3, 0.0, 1.0, "space-time", dtype=D)
NAMES = dict(ids=lambda x: getattr(x, "name", x))


def slope(errors, counts):
    x, y = (torch.tensor([math.log(value) for value in values], dtype=D) for values in (counts, errors))
    x = x - x.mean()
    return -(x * y).sum().item() / x.square().sum().item()


def geometric(calculus, noise="diagonal", samples=300):
    """Geometric Brownian motion, of two entries that one noise drives or each its own, and its solution."""
    load = torch.tensor([0.8, -0.5], dtype=D)

    def diffusion(t, y):
        return load * y if noise == "diagonal" else (load * y).unsqueeze(-1)

    problem = nde.SDEProblem(
        lambda t, y: -0.5 * y, diffusion, torch.ones(samples, 2, dtype=D), (0.0, 1.0), noise=noise, calculus=calculus
    )
    rate = -0.5 - (0.5 * load.square() if calculus == "ito" else 0.0)
    return problem, lambda path, t: torch.exp(rate * t + load * path(0.0, t)), 2 if noise == "diagonal" else 1


@functools.cache
def ornstein(samples=300, cells=512):
    """dy = (cos t - 2 y) dt + (0.5 + 0.4 sin 3t) dW, and its solution at multiples of a cell, from W and H of each."""
    problem = nde.SDEProblem(
        lambda t, y: torch.cos(t) - 2.0 * y,
        lambda t, y: (0.5 + 0.4 * torch.sin(3.0 * t)) * torch.ones_like(y),
        torch.ones(samples, 1, dtype=D),
        (0.0, 1.0),
        noise="additive",
    )

    @functools.cache
    def exact(path):
        middle = (torch.arange(cells, dtype=D).reshape(-1, 1, 1) + 0.5) / cells
        w, h = (
            torch.stack(x)
            for x in zip(*(path.increment(k / cells, (k + 1) / cells) for k in range(cells)), strict=True)
        )
        weight = torch.exp(2.0 * middle) * (0.5 + 0.4 * torch.sin(3.0 * middle))
        rise = 2.0 * weight + torch.exp(2.0 * middle) * 1.2 * torch.cos(3.0 * middle)
        noise = torch.cat([torch.zeros_like(w[:1]), (weight * w - rise * h / cells).cumsum(0)])

        def at(t):
            mean = 0.4 * math.cos(t) + 0.2 * math.sin(t) + 0.6 * math.exp(-2.0 * t)
            return mean + math.exp(-2.0 * t) * noise[round(t * cells)]

        return at

    return problem, exact


def rms(states, exact):
    return torch.stack([(y - x).square().mean() for y, x in zip(states, exact, strict=True)]).mean().sqrt().item()


def order_at_rows(problem, method, path, exact, counts, times=TIMES, **options):
    errors = []
    with torch.no_grad():
        for count in counts:
            sol = nde.solve(problem, method, dt=1.0 / count, path=path, controller=FIXED, saveat=times, **options)
            errors.append(rms(sol.ys[:-1], exact[:-1]))
    return slope(errors, counts), errors


@pytest.mark.parametrize("noise", ["diagonal", "scalar"])
@pytest.mark.parametrize(
    ("method", "calculus"), [(m, "ito") for m in ITO] + [(m, "stratonovich") for m in STRATONOVICH], **NAMES
)
def test_rows_have_the_strong_order_of_the_method(method, calculus, noise):
    problem, exact, noises = geometric(calculus, noise)
    path = nde.BrownianPath((300, noises), 3, 0.0, 1.0, "space-time", dtype=D)
    claim = getattr(method, "orders", nde.EulerHeun.orders)[noise]
    order, errors = order_at_rows(problem, method, path, [exact(path, t) for t in TIMES], (16, 32, 64))
    assert abs(order - claim) < 0.17, errors


@pytest.mark.parametrize("method", ADDITIVE, **NAMES)
def test_rows_have_the_strong_order_with_additive_noise(method):
    problem, exact = ornstein()
    at, times = exact(PATH), [round(t * 512) / 512 for t in TIMES]
    path = PATH
    order, errors = order_at_rows(problem, method, path, [at(t) for t in times], (32, 64, 128), times)
    assert abs(order - method.orders["additive"]) < 0.12, errors


def test_rows_have_the_order_where_several_noises_commute():
    """Two noises in all entries of a state that mixes them, along a path that is known on a fine grid."""
    reference = logistic(200, "commutative", "stratonovich", span=0.125)
    errors, counts, cells = [], (4, 8, 16), 256
    path = SampledPath.random((200, 3), cells, 0.0, 1.0, 0)
    place = cells * 27 // 64
    fine = nde.solve(
        reference.problem, nde.SlowRK(), dt=1.0 / cells, path=path, controller=FIXED, saveat=[place / cells]
    )
    for count in counts:
        sol = nde.solve(
            reference.problem, nde.SlowRK(), dt=1.0 / count, path=path, controller=FIXED, saveat=[place / cells]
        )
        errors.append((sol.ys - fine.ys).square().mean().sqrt().item())
    assert slope(errors, counts) > 1.35, errors


@pytest.mark.parametrize("method", [nde.SOSRI(), nde.ItoMilstein()], **NAMES)
def test_rows_of_each_sample_have_the_order_and_are_those_of_the_joint_solve(method):
    problem, exact, _ = geometric("ito")
    path = nde.BrownianPath((300, 2), 3, 0.0, 1.0, "space-time", dtype=D)
    wanted = [exact(path, t) for t in TIMES]
    order, errors = order_at_rows(problem, method, path, wanted, (16, 32, 64), per_sample=True, compact=True)
    assert abs(order - method.orders["diagonal"]) < 0.17, errors
    options = dict(dt=1 / 16, path=path, controller=FIXED, saveat=TIMES)
    joint, each = (nde.solve(problem, method, per_sample=lanes, **options).ys for lanes in (False, True))
    assert torch.allclose(joint, each, rtol=1e-12)


@pytest.mark.parametrize("per_sample", [False, True])
def test_brownian_motion_itself_is_exact_at_every_save_time(per_sample):
    ts = [0.1, 0.25, 0.5, 0.75, 1.0]
    problem = nde.SDEProblem(
        lambda t, y: 0 * y, lambda t, y: torch.ones_like(y), torch.zeros(4000, 1, dtype=D), (0.0, 1.0), noise="additive"
    )
    sol = nde.solve(problem, saveat=ts, seed=1, dense=True, per_sample=per_sample)
    for t, y in zip(ts, sol.ys, strict=True):
        assert torch.allclose(y, sol.path(0.0, t), atol=1e-12)
        assert torch.allclose(sol(t), y, atol=1e-12)
        assert stats.kstest((y[:, 0] / math.sqrt(t)).numpy(), "norm").pvalue > 1e-3


@pytest.mark.parametrize("noise", ["additive", "diagonal"])
def test_rows_have_the_law_of_the_process(noise):
    """Ornstein and Uhlenbeck's process and geometric Brownian motion, at times inside steps of a quarter and an eighth."""
    ts, y0 = [0.06, 0.2, 0.33, 0.5, 0.9, 1.0], torch.zeros(4000, 1, dtype=D)
    if noise == "additive":
        problem = nde.SDEProblem(lambda t, y: -y, lambda t, y: torch.ones_like(y), y0, (0.0, 1.0), noise=noise)
        sol = nde.solve(problem, dt=0.25, saveat=ts, seed=4)
        scaled = [y[:, 0] / math.sqrt((1 - math.exp(-2 * t)) / 2) for t, y in zip(ts, sol.ys, strict=True)]
    else:
        problem = nde.SDEProblem(lambda t, y: -0.5 * y, lambda t, y: 0.8 * y, y0 + 1.0, (0.0, 1.0))
        sol = nde.solve(problem, dt=0.125, saveat=ts, seed=4)
        scaled = [(y[:, 0].log() + 0.82 * t) / (0.8 * math.sqrt(t)) for t, y in zip(ts, sol.ys, strict=True)]
    for x in scaled:
        assert stats.kstest(x.numpy(), "norm").pvalue > 1e-3


def test_increments_between_rows_of_one_step_are_independent():
    problem = nde.SDEProblem(
        lambda t, y: 0 * y, lambda t, y: torch.ones_like(y), torch.zeros(4000, 1, dtype=D), (0.0, 1.0), noise="additive"
    )
    ys = nde.solve(problem, nde.EulerMaruyama(), dt=0.5, saveat=[0.1, 0.2, 0.3, 0.45], seed=2).ys[..., 0]
    steps = torch.cat([ys[:1], ys.diff(dim=0)])
    assert torch.corrcoef(steps).fill_diagonal_(0.0).abs().max() < 4 / math.sqrt(4000)


@pytest.mark.parametrize(
    ("method", "calculus"), [(m, "ito") for m in ITO] + [(m, "stratonovich") for m in STRATONOVICH], **NAMES
)
def test_save_times_cost_no_drift_and_change_no_step(method, calculus):
    """SlowRK alone calls the diffusion once more, in each step that saves a row, however many rows."""
    problem, _, _ = geometric(calculus, samples=3)
    options = dict(dt=0.25, seed=1, controller=FIXED)
    plain, busy = (nde.solve(problem, method, saveat=ts, **options) for ts in ([1.0], [0.05, 0.1, 0.3, 0.35, 1.0]))
    assert torch.equal(plain.y1, busy.y1)
    assert plain.stats.nfe == busy.stats.nfe
    extra = busy.stats.diffusion_evaluations - plain.stats.diffusion_evaluations
    assert extra == (2 if method.name == "SlowRK" else 0)


def test_the_count_of_the_diffusion_is_the_truth():
    calls = 0

    def diffusion(t, y):
        nonlocal calls
        calls += 1
        return 0.5 * y

    problem = nde.SDEProblem(lambda t, y: -y, diffusion, torch.ones(3, 2, dtype=D), (0.0, 1.0), calculus="stratonovich")
    sol = nde.solve(problem, nde.SlowRK(), dt=0.25, seed=1, controller=FIXED, saveat=[0.1, 0.2, 0.6], dense=True)
    assert sol.stats.diffusion_evaluations == calls


@pytest.mark.parametrize(
    ("method", "noise"), [(nde.SOSRI(), "diagonal"), (nde.SlowRK(), "commutative"), (nde.ShARK(), "additive")], **NAMES
)
@pytest.mark.parametrize("per_sample", [False, True])
def test_dense_output_meets_rows_and_ends(method, noise, per_sample):
    def diffusion(t, y):
        if noise == "diagonal":
            return 0.5 * y
        return torch.stack([0.4 * y, -0.3 * y], -1) if noise == "commutative" else 0.5 + 0.1 * t + 0.0 * y

    problem = nde.SDEProblem(
        lambda t, y: -y,
        diffusion,
        torch.ones(3, 2, dtype=D),
        (1.0, 0.0),
        noise=noise,
        calculus="stratonovich" if method.calculus == "stratonovich" else "ito",
    )
    ts = [0.93, 0.7, 0.65, 0.2, 0.0]
    sol = nde.solve(problem, method, rtol=1e-2, seed=1, saveat=ts, dense=True, per_sample=per_sample)
    assert torch.allclose(sol(torch.tensor(ts, dtype=D)), sol.ys, rtol=1e-12)
    assert torch.allclose(sol(1.0), problem.y0)
    assert torch.equal(sol(0.0), sol.y1)


def test_dense_output_of_pytrees_and_pairs():
    y0 = {"a": torch.ones(3, 2, dtype=D), "b": torch.ones(3, 1, dtype=D)}
    problem = nde.SDEProblem(
        lambda t, y: {k: -v for k, v in y.items()},
        lambda t, y: {k: torch.stack([0.3 * v, 0.2 + 0 * v], -1) for k, v in y.items()},
        y0,
        (0.0, 1.0),
        noise="general",
        calculus="stratonovich",
    )
    for lanes in (False, True):
        sol = nde.solve(
            problem, nde.ReversibleHeun(), dt=0.3, controller=FIXED, seed=1, saveat=[0.5], dense=True, per_sample=lanes
        )
        for k in y0:
            assert torch.allclose(sol(0.5)[k], sol.ys[k][0], rtol=1e-12)


def test_what_has_no_slope_is_refused():
    problem, _, _ = geometric("ito", samples=2)
    sol = nde.solve(problem, dt=0.1, seed=1, dense=True)
    with pytest.raises(nde.InvalidProblemError, match=r"derivative: the solution of an SDE has none"):
        sol.derivative(0.3)
    live = torch.tensor(0.3, dtype=D, requires_grad=True)
    for times in (live, [live, 0.5]):
        with pytest.raises(nde.InvalidProblemError, match="t: requires grad"):
            sol(times)


@pytest.mark.parametrize("area", ["none", "space-time"])
def test_rows_along_a_path_of_torchsde(area):
    torchsde = pytest.importorskip("torchsde")
    made = torchsde.BrownianInterval(0.0, 1.0, size=(5, 2), dtype=D, entropy=5, levy_area_approximation=area)
    problem, exact, _ = geometric("ito", samples=5)
    for lanes in (False, True):
        sol = nde.solve(
            problem, nde.ItoMilstein(), dt=1 / 64, controller=FIXED, path=made, saveat=[0.31, 0.777], per_sample=lanes
        )
        for t, y in zip((0.31, 0.777), sol.ys, strict=True):
            assert (y - exact(made, t)).abs().max() < 0.03


def test_dt_alone_means_fixed_steps():
    problem, _, _ = geometric("ito", samples=3)
    assert nde.solve(problem, dt=0.01, seed=1).stats.steps == 100
    assert nde.solve(problem, dt=0.01, seed=1, controller=nde.PIController()).stats.steps < 100
    assert nde.solve(problem, nde.SOSRI(), dt=0.01, seed=1).stats.steps < 100
    one = nde.SDEProblem(problem.drift, problem.diffusion, problem.y0[0], (0.0, 1.0))
    ensemble = nde.solve_ensemble(one, paths=8, dt=0.25, seed=1, saveat=[0.1, 1.0])
    sol = nde.solve(
        nde.SDEProblem(problem.drift, problem.diffusion, problem.y0[0].expand(8, 2), (0.0, 1.0)),
        dt=0.25,
        seed=1,
        saveat=[0.1, 1.0],
    )
    assert torch.allclose(ensemble.mean, sol.ys.mean(1), rtol=1e-12)


def test_additive_noise_that_sees_the_state_later_is_refused():
    def diffusion(t, y):
        return 1.0 + y * (t > 0.5)

    problem = nde.SDEProblem(lambda t, y: -y, diffusion, torch.ones(2, dtype=D), (0.0, 1.0), noise="additive")
    with pytest.raises(nde.InvalidProblemError, match="the diffusion changed with the state at t = 1"):
        nde.solve(problem, seed=1)
