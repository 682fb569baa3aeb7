"""A compiled stochastic solve is one graph along the same path as the eager one, with the same gradients."""

import functools
import math

import pytest
import torch
import torch._dynamo.utils

import neuralde as nde
from neuralde.regularizers import ErrorEstimate

D = torch.float64
CASES = [("EulerMaruyama", "ito", "diagonal"), ("SOSRI", "ito", "diagonal"), ("ItoMilstein", "ito", "commutative")]
CASES += [
    ("ReversibleHeun", "stratonovich", "general"),
    ("SPaRK", "stratonovich", "diagonal"),
    ("ShARK", "ito", "additive"),
]
DIFFUSIONS = {
    "additive": lambda t, y: (0.3 + 0.1 * torch.sin(t)) * torch.ones_like(y),
    "diagonal": lambda t, y: 0.3 + 0.1 * torch.cos(y + t),
}


def columns(t, y):
    return torch.stack([0.2 * torch.cos(y), 0.1 + 0.1 * torch.sin(y), 0.1 * y], -1)


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def setup(name, calculus, noise, per_sample, tspan=(0.0, 1.0), counts=False, **options):
    """A solve as a function of its inputs, and what is differentiated."""
    torch.manual_seed(0)
    net, method = torch.nn.Linear(2, 2).double(), getattr(nde, name)()

    def run(y0, seed, ts):
        g = DIFFUSIONS.get(noise, columns)
        drift = lambda t, y: torch.tanh(net(y)) * torch.cos(t)  # noqa: E731
        problem = nde.SDEProblem(drift, g, y0, tspan, noise=noise, calculus=calculus)
        sol = nde.solve(problem, method, seed=seed, saveat=ts, per_sample=per_sample, **options)
        calls = (sol.stats.nfe, sol.stats.diffusion_evaluations) if counts else ()
        return sol.y1, sol.ys, sol.stats.accepted, sol.stats.rejected, *calls

    y0 = torch.linspace(-1, 1, 6, dtype=D).reshape(3, 2).requires_grad_()
    return run, (y0, torch.tensor(3), torch.tensor([0.2, 0.7, 1.0], dtype=D)), [y0, *net.parameters()]


def same(eager, graph):
    assert torch.allclose(eager[0], graph[0], rtol=1e-12, atol=1e-12)
    assert torch.allclose(eager[1], graph[1], rtol=1e-12, atol=1e-12)
    for a, b in zip(eager[2:], graph[2:], strict=True):
        assert torch.equal(torch.as_tensor(a), b)


# 0.15 does not divide the interval, so the last step is a part of a cell.
@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize(("name", "calculus", "noise"), CASES)
def test_fixed_steps_are_one_graph(name, calculus, noise, per_sample):
    run, inputs, _ = setup(name, calculus, noise, per_sample, dt=0.15, controller=nde.ConstantStep())
    same(run(*inputs), torch.compile(run, fullgraph=True, backend="eager")(*inputs))


# Joint steps differ in the last bits, as host and tensor arithmetic do, and a path's increments with them.
# Milstein's error estimate calls the drift alone. Eager solves look at additive noise once more.
@pytest.mark.parametrize(("name", "calculus", "noise"), [CASES[1], CASES[2], CASES[4], CASES[5]])
def test_adapted_steps_are_one_graph(name, calculus, noise):
    run, inputs, _ = setup(name, calculus, noise, True, counts=noise != "additive", rtol=1e-2, atol=1e-2)
    same(run(*inputs), torch.compile(run, fullgraph=True, backend="eager")(*inputs))


@pytest.mark.parametrize(("name", "per_sample"), [("EulerMaruyama", False), ("SOSRI", True)])
def test_gradients_equal_the_eager_ones(name, per_sample):
    options = dict(rtol=1e-2, atol=1e-2) if per_sample else dict(dt=0.15, controller=nde.ConstantStep())
    run, inputs, wrt = setup(name, "ito", "diagonal", per_sample, **options)
    eager, graph = run(*inputs), torch.compile(run, fullgraph=True, backend="aot_eager")(*inputs)
    for k in (0, 1):
        want = torch.autograd.grad(eager[k].square().sum(), wrt, retain_graph=True)
        got = torch.autograd.grad(graph[k].square().sum(), wrt, retain_graph=True)
        for a, b in zip(want, got, strict=True):
            assert (a - b).norm() <= 1e-10 * a.norm()


@pytest.mark.parametrize("gridded", [True, False])
def test_rows_of_a_graph_have_the_order_of_the_method(gridded):
    """Geometric Brownian motion at times inside the steps, with a path cut into cells and with one that is not."""
    path = nde.BrownianPath((200, 1), 3, 0.0, 1.0, "space-time", dtype=D)

    @functools.partial(torch.compile, fullgraph=True, backend="eager")
    def run(y0, seed, ts, dt):
        problem = nde.SDEProblem(lambda t, y: -0.5 * y, lambda t, y: 0.8 * y, y0, (0.0, 1.0))
        noise = {"seed": seed} if gridded else {"path": path}
        return nde.solve(problem, nde.SOSRI(), dt=dt, saveat=ts, controller=nde.ConstantStep(), **noise).ys

    ts = torch.arange(1, 18, dtype=D) * 0.0531
    problem = nde.SDEProblem(lambda t, y: -0.5 * y, lambda t, y: 0.8 * y, torch.ones(200, 1, dtype=D), (0.0, 1.0))
    errors, counts = [], (16, 64)
    for count in counts:
        rows = run(problem.y0, torch.tensor(5), ts, torch.tensor(1.0 / count, dtype=D))
        used = (
            nde.solve(problem, nde.SOSRI(), dt=1.0 / count, seed=5, controller=nde.ConstantStep()).path
            if gridded
            else path
        )
        exact = torch.stack([torch.exp(-0.82 * t + 0.8 * used(0.0, t)) for t in ts.tolist()])
        errors.append((rows - exact).square().mean().sqrt().item())
    assert 1.25 < math.log(errors[0] / errors[1]) / math.log(4.0) < 1.75, errors


def test_backwards_a_fixed_step_divides_the_interval():
    options = dict(controller=nde.ConstantStep())
    for dt, fits in ((0.125, True), (0.15, False)):
        torch._dynamo.reset()
        run, (y0, seed, ts), _ = setup("EulerMaruyama", "ito", "diagonal", False, (1.0, 0.0), dt=dt, **options)
        inputs = (y0, seed, ts.flip(0) - 0.1)
        graph = torch.compile(run, fullgraph=True, backend="eager")
        if fits:
            same(run(*inputs), graph(*inputs))
        else:
            with pytest.raises(RuntimeError, match="divide the interval"):
                graph(*inputs)


def test_paths_whose_cells_nobody_can_count_are_refused():
    path = nde.BrownianPath((3, 2), 7, 0.0, 1.0, "space-time", dt=0.25, dtype=D)

    def run(y0):
        problem = nde.SDEProblem(lambda t, y: -y, lambda t, y: 0.3 + 0.1 * y, y0, (0.0, 1.0))
        return nde.solve(problem, nde.EulerMaruyama(), dt=0.1, path=path).y1

    def query(t):
        return path(0.0, t)

    for f, x, message in (
        (run, torch.ones(3, 2, dtype=D), "path: got"),
        (query, torch.tensor(0.9), "dt: a path with dt"),
    ):
        with pytest.raises(Exception, match=message):
            torch.compile(f, fullgraph=True, backend="eager")(x)


def test_a_path_without_cells_drives_a_graph():
    path = nde.BrownianPath((3, 2), 7, 0.0, 1.0, dtype=D)

    def run(y0):
        problem = nde.SDEProblem(lambda t, y: -y, lambda t, y: 0.3 + 0.1 * y, y0, (0.0, 1.0))
        return nde.solve(problem, nde.EulerMaruyama(), dt=0.1, path=path).y1

    y0 = torch.ones(3, 2, dtype=D)
    graph = torch.compile(run, fullgraph=True, backend="eager")(y0)
    assert torch.allclose(run(y0), graph, rtol=0.0, atol=1e-6)  # clocks differ in the last bit, a path by its root


def test_steps_that_something_shortens_have_no_grid():
    def diffusion(t, y):
        return 0.3 + 0.1 * y

    y0 = torch.ones(3, 2, dtype=D)
    for controller, gridded in ((nde.ConstantStep(), True), (nde.ConstantStep(dtmax=0.1), False)):
        problem = nde.SDEProblem(lambda t, y: -y, diffusion, y0, (0.0, 1.0))
        sol = nde.solve(problem, nde.EulerMaruyama(), dt=0.2, seed=1, controller=controller)
        assert (sol.path.dt is not None) == gridded
    diffusion.knots = [0.33]
    assert nde.solve(problem, nde.EulerMaruyama(), dt=0.2, seed=1).path.dt is None


def test_a_step_that_is_not_positive_is_refused_when_the_graph_runs():
    run, inputs, _ = setup("EulerMaruyama", "ito", "diagonal", False, controller=nde.ConstantStep(), dt=-0.1)
    with pytest.raises(Exception, match="dt: expected a positive"):
        torch.compile(run, fullgraph=True, backend="eager")(*inputs)


def models(**options):
    """The same model eager and compiled."""
    torch.manual_seed(0)
    drift = nde.models.TimeConditionedMLP(2, hidden=[8]).double()
    return [nde.NeuralSDE(drift, DIFFUSIONS["diagonal"], compile=c, **options) for c in (False, True)]


@pytest.fixture
def graphs(graphs_only):
    """Counts the graphs when it is called. A trace that torch begins anew is one."""
    torch._dynamo.utils.counters.clear()
    return lambda: torch._dynamo.utils.counters["stats"]["unique_graphs"]


@pytest.mark.parametrize("options", [dict(dt=0.15), dict(rtol=1e-2, atol=1e-2, per_sample=True)])
def test_a_model_compiles_its_solve(graphs, options):
    x = torch.linspace(-1, 1, 6, dtype=D).reshape(3, 2)
    pair = models(regularizers=[ErrorEstimate()] if "rtol" in options else [], **options)
    parameters = list(pair[0].drift.parameters())
    for seed in (3, torch.tensor(4), -(2**40), None):
        grads, sols = [], []
        for model in pair:
            torch.manual_seed(1)
            states, sol = model(x, seed=seed)
            grads.append(
                torch.autograd.grad(states.square().sum() + sum(x.sum() for x in sol.regularization), parameters)
            )
            sols.append(sol)
        eager, graph = sols
        assert torch.allclose(eager.y1, graph.y1, rtol=1e-12, atol=1e-12)
        for a, b in zip(*grads, strict=True):
            assert torch.allclose(a, b, rtol=1e-10, atol=1e-10)
        assert eager.seed == graph.seed
        assert isinstance(graph.seed, int)
        assert eager.path.dt == graph.path.dt
        assert torch.equal(eager.path(0.25, 0.7), graph.path(0.25, 0.7))
        assert torch.equal(torch.as_tensor(eager.status), torch.as_tensor(graph.status))
        for name in ("steps", "rejected"):
            assert torch.equal(*(torch.as_tensor(getattr(sol.stats, name)) for sol in sols))
        # To know what the field depends on takes a call, where autograd itself does not record the solve.
        asked = 0 if options.get("per_sample") else 1
        assert torch.equal(torch.as_tensor(eager.stats.nfe) + asked, torch.as_tensor(graph.stats.nfe))
    assert graphs() == 1


def test_a_compiled_model_follows_a_path(graphs):
    x = torch.linspace(-1, 1, 6, dtype=D).reshape(3, 2)
    path = nde.BrownianPath((3, 2), 5, 0.0, 1.0, "space-time", dtype=D)
    sols = [model.eval()(x, path=path)[1] for model in models(rtol=1e-2, atol=1e-2, per_sample=True)]
    assert torch.allclose(sols[0].y1, sols[1].y1, rtol=1e-6, atol=1e-6)
    assert sols[1].path is path
    assert sols[1].seed is None


def test_new_steps_and_times_of_a_compiled_model_need_no_new_graph(graphs):
    x = torch.linspace(-1, 1, 6, dtype=D).reshape(3, 2)
    pair = models(dt=0.15)
    for dt, t1 in ((0.15, 1.0), (0.1, 1.5), (0.07, 0.8)):
        ends = []
        for model in pair:
            model.options["dt"], model.tspan = dt, (0.0, t1)
            ends.append(model.eval()(x, seed=2)[0])
        assert torch.allclose(*ends, rtol=1e-12, atol=1e-12)
    assert graphs() == 1


def test_a_compiled_model_refuses_what_a_graph_cannot_see(graphs):
    x = torch.ones(3, 2, dtype=D)
    drift = lambda t, y: -y  # noqa: E731
    with pytest.raises(nde.InvalidProblemError, match="the diffusion changed with the state"):
        nde.NeuralSDE(drift, lambda t, y: 0.1 * y, noise="additive", dt=0.1, compile=True)(x)
    with pytest.raises(nde.InvalidProblemError, match=r"diffusion: got shape"):
        nde.NeuralSDE(drift, lambda t, y: 0.1 * y, noise="general", dt=0.1, compile=True)(x)
    model = nde.NeuralSDE(drift, lambda t, y: 0.1 * y, dt=0.1, compile=True)
    with pytest.raises(nde.InvalidProblemError, match="expected one of them"):
        model(x, seed=1, path=nde.BrownianPath((3, 2), 5, 0.0, 1.0))
    with pytest.raises(nde.InvalidProblemError, match=r"seed: got 1.5"):
        model(x, seed=1.5)
    area = dict(levy_area="space-time", dtype=D)
    for path, message in (
        (nde.BrownianPath((3, 2), 5, 0.0, 0.5, **area), "expected one that covers tspan"),
        (nde.BrownianPath((3, 2), 5, 0.0, 1.0, dt=0.1, **area), "a BrownianPath without dt"),
        (nde.BrownianPath((3, 1), 5, 0.0, 1.0, **area), r"path: got increments of shape"),
    ):
        with pytest.raises(nde.InvalidProblemError, match=message):
            model(x, path=path)
    with pytest.raises(nde.InvalidProblemError, match=r"dt: got -0.1"):
        nde.NeuralSDE(drift, lambda t, y: 0.1 * y, dt=-0.1, compile=True)(x)
    with pytest.raises(nde.InvalidProblemError, match=r"trace: got True with compile=True"):
        nde.NeuralSDE(drift, lambda t, y: 0.1 * y, trace=True, compile=True)
    assert graphs() == 0
