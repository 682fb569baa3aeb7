"""The table of docs/what_compiles.md, row by row: what compiles gives the eager numbers, what does not is refused by name."""

import functools
import re
from pathlib import Path

import pytest
import torch
import torch._dynamo
import torch._dynamo.testing

import neuralde as nde
from neuralde.regularizers import ErrorEstimate, RunningCost, StiffnessEstimate

D = torch.float64
PAGE = Path(__file__).parents[2] / "docs" / "what_compiles.md"
Y0 = torch.linspace(-1.0, 1.0, 6, dtype=D).reshape(3, 2)
WEIGHT = torch.tensor([[0.3, -0.7], [0.5, 0.2]], dtype=D, requires_grad=True)


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def field(t, y):
    return torch.tanh(y @ WEIGHT) - 0.3 * torch.cos(t) * y


def ode(f=field, y0=Y0, tspan=(0.0, 1.0), args=(), **options):
    """A row: a function of the state, so that nothing is a constant of the graph, and its state."""

    def run(y0):
        return nde.solve(nde.ODEProblem(f, y0, tspan, args), rtol=1e-5, atol=1e-7, **options)

    return run, y0


def sde(solver=None, noise="diagonal", **options):
    diffusion = {
        "diagonal": lambda t, y: 0.1 * torch.cos(y),
        "additive": lambda t, y: 0.1 * torch.ones_like(y),
        "general": lambda t, y: torch.stack([0.1 * y, 0.2 + 0.0 * y, 0.1 * torch.sin(y)], -1),
    }[noise]
    options = {"controller": nde.ConstantStep(), "dt": 0.25, "seed": torch.tensor(3), **options}

    def run(y0):
        problem = nde.SDEProblem(field, diffusion, y0, (0.0, 1.0), noise=noise)
        return nde.solve(problem, solver or nde.EulerMaruyama(), **options)

    return run, Y0


TIMES = torch.linspace(0.0, 1.0, 3, dtype=D)
DATA = torch.sin(torch.arange(6, dtype=D)).reshape(3, 2)


def cde():
    def run(y0):
        problem = nde.CDEProblem(
            lambda t, y: torch.tanh(y @ WEIGHT).unsqueeze(-1) * WEIGHT, nde.LinearPath(TIMES, DATA), y0
        )
        return nde.solve(problem, nde.RK4(), dt=0.25)

    return run, Y0


def jvp_field(t, y):
    return torch.func.jvp(torch.sin, (y,), (torch.ones_like(y),))[1] * -0.5


def score_field(t, y):
    with torch.enable_grad():
        z = y.detach().requires_grad_()
        return -0.5 * torch.autograd.grad(z.square().sum(), z)[0]


def tree_field(t, y):
    return {"q": y["p"], "p": (-torch.sin(y["q"][0]),) if isinstance(y["q"], tuple) else -torch.sin(y["q"])}


def numbers_field(t, y, tree):
    return -tree["rate"] * y + tree["rest"][0]


def halves_field(t, y):
    upper, lower = WEIGHT.chunk(2)
    return y @ WEIGHT.T + upper * lower * WEIGHT.view(4)[:2]


def vmapped(y0):
    return nde.solve(nde.ODEProblem(lambda t, y: -y, y0, (0.0, 1.0))).y1


PATH = functools.partial(nde.BrownianPath, (3, 2), 7, 0.0, 1.0, dtype=D)


def plain(t, y):
    return torch.sin(y) - 50.0 * (y - torch.cos(t))


REFUSED = {  # what the message names
    '`saveat="steps"`': (ode(saveat="steps"), "steps.*cannot be compiled"),
    "`dense=True`": (ode(dense=True), "dense=True cannot be compiled"),
    "`trace=True`": (ode(trace=True), "trace=True cannot be compiled"),
    "`compact=True`": (ode(per_sample=True, compact=True), "compact=True cannot be compiled"),
    "`events`, scheduled ones too": (
        ode(events=nde.ScheduledEvent([0.5], apply=lambda t, y, *args: y)),
        "events cannot be compiled",
    ),
    "`driver=Blocks()`": (ode(driver=nde.Blocks()), r"driver: got Blocks\(\) with torch.compile"),
    "`BacksolveAdjoint` and the other continuous adjoints": (ode(adjoint=nde.BacksolveAdjoint()), "adjoint"),
    "`BrownianPath` with `dt`": (sde(seed=None, path=PATH(dt=0.25)), "path: got"),
    "gradients of Rosenbrock and diagonally implicit methods": (
        ode(solver=nde.Rosenbrock23()),
        "torch's loops cannot differentiate",
    ),
}
COMPILES = {
    "explicit Runge-Kutta methods, with adapted steps": ode(solver=nde.Dopri5()),
    "Rosenbrock methods": ode(plain, solver=nde.Rosenbrock23()),
    "fixed steps": ode(solver=nde.RK4(), dt=0.1),
    "`per_sample=True`": ode(per_sample=True),
    "`saveat` with times, as a list or a tensor": ode(saveat=[0.25, 0.5, 1.0]),
    "times for each sample": ode(per_sample=True, tspan=(0.0, torch.tensor([0.5, 1.0, 2.0], dtype=D))),
    "backwards in time": ode(tspan=(1.0, 0.0)),
    "controllers, with `dtmin`, `dtmax`, `step_ts`, `jump_ts`": ode(
        controller=nde.PIController(dtmin=1e-9, dtmax=0.3, step_ts=[0.4], jump_ts=[0.7])
    ),
    "`StepTo`": ode(solver=nde.RK4(), controller=nde.StepTo(ts=[0.2, 0.6])),
    "regularizers of the solver's estimates": ode(regularizers=[ErrorEstimate(), StiffnessEstimate()]),
    "`RunningCost`": ode(regularizers=[RunningCost(lambda t, y: y.square().sum())]),
    "`DiscreteAdjoint`, `DirectAdjoint`": ode(adjoint=nde.DirectAdjoint()),
    "SDEs from a seed": sde(),
    "SDEs with adapted steps": sde(nde.SOSRI(), controller=None, per_sample=True, rtol=1e-2, atol=1e-2, dt=None),
    "SDEs with general noise": sde(noise="general"),
    "`BrownianPath` without `dt`": sde(seed=None, path=PATH()),
    "a `CDEProblem`": cde(),
    "`solve_linear_cde`": (lambda y0: nde.solve_linear_cde(WEIGHT, nde.LinearPath(TIMES, DATA), y0), Y0),
    "a state that is a pytree": ode(tree_field, {"q": Y0, "p": Y0 + 0.5}),
    "a complex state": ode(lambda t, y: 1j * y, Y0.to(torch.complex128)),
    "a float32 state": ode(lambda t, y: -y * torch.cos(t), Y0.float()),
    "views of captured tensors": ode(halves_field),
    "one tensor given twice": ode(lambda t, y, v, w: y @ v - y @ w @ WEIGHT, args=(WEIGHT, WEIGHT)),
    "Python numbers in `args`": ode(numbers_field, args=({"rate": 0.7, "rest": [2]},)),
    "a field that calls `torch.func`": ode(jvp_field),
}


def leaves(sol):
    values = (sol.ys, sol.y1, sol.regularization, sol.stats.accepted, sol.status)
    return [torch.as_tensor(x) for x in torch.utils._pytree.tree_leaves(values)]


@pytest.mark.parametrize("row", COMPILES)
def test_what_compiles_gives_the_eager_numbers(row):
    run, y0 = COMPILES[row]
    wanted = leaves(run(y0))
    found = torch.compile(lambda y0: leaves(run(y0)), fullgraph=True, backend="eager")(y0)
    close = 2e-6 if any(x.dtype is torch.float32 for x in wanted) else 1e-8
    for a, b in zip(wanted, found, strict=True):
        assert a.shape == b.shape
        assert torch.allclose(a, b.to(a.dtype), rtol=close, atol=close)


@pytest.mark.parametrize("row", REFUSED)
def test_what_does_not_compile_is_refused_by_name(row):
    (run, y0), message = REFUSED[row]
    with pytest.raises(Exception, match=message):
        torch.compile(lambda y0: run(y0).y1, fullgraph=True, backend="eager")(y0)


def test_diagonally_implicit_methods_agree_to_the_tolerance_of_their_equations():
    run, y0 = ode(plain, solver=nde.TRBDF2())
    wanted = run(y0)
    found = torch.compile(lambda y0: leaves(run(y0)), fullgraph=True, backend="eager")(y0)
    assert torch.allclose(found[1], wanted.y1, rtol=1e-5, atol=1e-7)


def test_a_new_batch_size_is_one_more_graph():
    """The row on batch sizes: torch makes the dimension a symbol at its first change."""
    counter = torch._dynamo.testing.CompileCounter()
    run, _ = ode()
    graph = torch.compile(lambda y0: run(y0).y1, fullgraph=True, backend=counter)
    for size in (3, 5, 8):
        y0 = torch.linspace(-1.0, 1.0, 2 * size, dtype=D).reshape(size, 2)
        assert torch.allclose(graph(y0), run(y0).y1, rtol=1e-9)
    assert counter.frame_count == 2


ELSEWHERE = {
    "new batch sizes": "yes",
    "diagonally implicit methods": "yes",
}  # rows with a test of their own in this file


def test_the_table_and_the_tests_agree():
    rows = dict(re.findall(r"^\| (.+?) \| (yes|refused) \|", PAGE.read_text(), re.MULTILINE))
    tested = {**dict.fromkeys(COMPILES, "yes"), **dict.fromkeys(REFUSED, "refused"), **ELSEWHERE}
    assert rows == tested
