"""What the loop of a compiled solve takes from outside: numbers that change, tensors that share memory, and gradients."""

import functools
import math

import pytest
import torch
import torch._dynamo
import torch._dynamo.testing

import neuralde as nde
from neuralde.regularizers import RunningCost

D = torch.float64
Y0 = torch.tensor([1.0, 0.5], dtype=D)


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def solve(f, *args, y0=Y0, tspan=(0.0, 1.0), **options):
    return nde.solve(nde.ODEProblem(f, y0, tspan, args), rtol=1e-8, atol=1e-10, **options)


class Decay(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.k = 1.0

    def forward(self, t, y):
        return -self.k * y


MODULE = Decay()


def run_module(k):
    return solve(MODULE).y1


def in_closure(k):
    def inner(y):
        return 2.0 * k * y

    return solve(lambda t, y: -0.5 * inner(y)).y1


def augmented(t, y, k):
    dy = y.clone()
    dy *= k
    return -dy


NUMBERS = {  # each gives y0 * exp(-k), whatever k is; how many graphs three values need
    "args": (lambda k: solve(lambda t, y, k: -k * y, k).y1, 2),
    "args in a tree": (lambda k: solve(lambda t, y, d: -d["a"][0] * y, {"a": [k]}).y1, 2),
    "closure of a closure": (in_closure, 2),
    "partial": (lambda k: solve(functools.partial(lambda k, t, y: -k * y, k)).y1, 2),
    "module": (run_module, 2),
    "derived before": (lambda k: solve(lambda t, y, h: -(2.0 * h) * y, 0.5 * k).y1, 2),
    "in place": (lambda k: solve(augmented, k).y1, 2),
    "power": (lambda k: solve(lambda t, y, k: -k * y**k / y ** (k - 1.0), k).y1, 2),
    # What Python does with the value is done while the graph is made, so each value has its own.
    "branch": (lambda k: solve(lambda t, y, k: -k * y if k < 1.6 else -2.0 * y * (k / 2.0), k).y1, 3),
    "math": (lambda k: solve(lambda t, y, k: -math.exp(math.log(k)) * y, k).y1, 3),
    "full": (lambda k: solve(lambda t, y, k: -torch.full((2,), k, dtype=D) * y, k).y1, 3),
    "end": (lambda k: solve(lambda t, y: -y, tspan=(0.0, k)).y1, 2),
    "two solves": (lambda k: solve(lambda t, y: -0.5 * k * y, y0=solve(lambda t, y: -0.5 * k * y).y1).y1, 2),
}


@pytest.mark.parametrize("case", NUMBERS)
def test_a_new_python_number_works(case):
    run, graphs = NUMBERS[case]
    counter = torch._dynamo.testing.CompileCounter()
    graph = torch.compile(run, fullgraph=True, backend=counter)
    for k in (1.0, 2.0, 1.5):
        MODULE.k = k
        assert torch.allclose(graph(k), Y0 * math.exp(-k), rtol=1e-6, atol=0.0)
    assert counter.frame_count <= graphs


def _integer(n):
    return solve(lambda t, y, n: -n * y, n).y1


def test_a_new_python_int_works():
    graph = torch.compile(_integer, fullgraph=True, backend="eager")
    for n in (2, 3, 1):
        assert torch.allclose(graph(n), Y0 * math.exp(-n), rtol=1e-6, atol=0.0)


def _adapted(**options):
    sol = solve(lambda t, y: torch.cos(6.0 * t) * y, **options)
    return sol.y1, sol.stats.accepted, sol.stats.rejected


def _saved(saveat):
    return (solve(lambda t, y: torch.cos(6.0 * t) * y, saveat=saveat).ys,)


def _noisy(seed, dt):
    problem = nde.SDEProblem(lambda t, y: -y, lambda t, y: 0.1 * y, Y0, (0.0, 1.0))
    return (nde.solve(problem, nde.EulerMaruyama(), dt=dt, seed=seed, controller=nde.ConstantStep()).y1,)


SETTINGS = {
    "dtmin and dtmax": lambda k: _adapted(controller=nde.PIController(dtmax=0.1 * k, dtmin=1e-6 * k)),
    "factors": lambda k: _adapted(
        controller=nde.PIController(
            safety=0.9 - 0.1 * k, factor_min=0.1 * k, factor_max=5.0 * k, beta=(0.1 * k, -0.01 * k)
        )
    ),
    "step_ts and jump_ts": lambda k: _adapted(controller=nde.PIController(step_ts=[0.01, 0.1 * k], jump_ts=[0.3 * k])),
    "StepTo": lambda k: _adapted(solver=nde.RK4(), controller=nde.StepTo(ts=[0.2 * k, 0.1 * k, 0.1 * k])),
    "dt": lambda k: _adapted(solver=nde.RK4(), dt=0.1 * k),
    "saveat": lambda k: _saved([0.1 * k, 0.2 * k, 1]),
    "seed and dt": lambda k: _noisy(int(8 * k), 0.125 * k),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_new_python_numbers_of_the_solver_need_one_more_graph(case):
    run = SETTINGS[case]
    counter = torch._dynamo.testing.CompileCounter()
    graph = torch.compile(run, fullgraph=True, backend=counter)
    for k in (1.0, 2.0, 1.5):
        for a, b in zip(run(k), graph(k), strict=True):
            assert torch.allclose(torch.as_tensor(a), b, rtol=1e-9, atol=1e-12)
    assert counter.frame_count <= (3 if case == "saveat" else 2)  # a list of save times is a constant


def test_a_new_number_keeps_the_gradients():
    w = torch.tensor([0.7, -0.2], dtype=D, requires_grad=True)

    def run(k):
        return solve(lambda t, y, k: -k * w * y, k).y1

    graph = torch.compile(run, fullgraph=True, backend="aot_eager")
    for k in (1.0, 2.0, 1.5):
        got = torch.autograd.grad(graph(k).sum(), w)[0]
        assert torch.allclose(got, -k * Y0 * torch.exp(-k * w.detach()), rtol=1e-6)


WEIGHT = torch.nn.Parameter(torch.tensor([[0.3, -0.7], [0.5, 0.2]], dtype=D))
FLAT = torch.nn.Parameter(torch.tensor([0.4, -0.1, 0.8, 0.3], dtype=D))
TOLERANCE = torch.tensor(1e-8, dtype=D)


def outside(make, f):
    return lambda: solve(functools.partial(f, make()), adjoint=nde.DirectAdjoint()).y1


SHARED = {
    "transposed": lambda: solve(lambda t, y: -(y @ WEIGHT.T)).y1,
    "transposed and plain": lambda: solve(lambda t, y: torch.tanh(y @ WEIGHT.T) - y @ WEIGHT).y1,
    "mT and slices": lambda: solve(lambda t, y: y @ WEIGHT.mT * FLAT[:2] - FLAT[2:]).y1,
    "views made before": outside(lambda: (WEIGHT, WEIGHT.T), lambda ws, t, y: torch.tanh(y @ ws[0]) - y @ ws[1]),
    "overlapping slices": outside(lambda: (FLAT[:2], FLAT[1:3]), lambda ws, t, y: -y * ws[0] + ws[1]),
    "chunks": outside(lambda: FLAT.chunk(2), lambda ws, t, y: -y * ws[0] + ws[1]),
    "chunks inside": lambda: solve(lambda t, y: -y * FLAT.chunk(2)[0] + FLAT.view(2, 2)[1] * FLAT[0].expand(2)).y1,
    "unbound": outside(lambda: FLAT.unbind(), lambda ws, t, y: -y * ws[0] + ws[1] * ws[3]),
    "args and closure": lambda: solve(lambda t, y, w, v: y @ w - y @ WEIGHT @ v, WEIGHT, WEIGHT.T).y1,
    "per sample": lambda: solve(lambda t, y: -(y @ WEIGHT.T), y0=FLAT.view(2, 2), per_sample=True).y1,
}


@pytest.mark.parametrize("case", SHARED)
def test_tensors_that_share_memory_are_taken(case):
    run, wrt = SHARED[case], (WEIGHT, FLAT)
    wanted = run()
    found = torch.compile(run, fullgraph=True, backend="aot_eager")()
    assert torch.allclose(wanted, found, rtol=1e-9)
    for a, b in zip(
        *[torch.autograd.grad(x.square().sum(), wrt, allow_unused=True) for x in (wanted, found)], strict=True
    ):
        assert (a is None) == (b is None)
        assert a is None or torch.allclose(a, b, rtol=1e-7, atol=1e-10)


def test_one_tensor_for_both_tolerances():
    def run(tol):
        problem = nde.ODEProblem(lambda t, y: -y, Y0, (tol, 1.0 + tol))
        return nde.solve(problem, rtol=tol, atol=tol, dt=tol * 1e6).y1

    graph = torch.compile(run, fullgraph=True, backend="eager")
    assert torch.allclose(graph(TOLERANCE), Y0 * math.exp(-1.0), rtol=1e-6)


class Captured(torch.nn.Module):
    """Everything that a field closes over, each in its own way."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([[0.3, -0.7], [0.5, 0.2]], dtype=D))
        self.plain = [torch.tensor(0.4, dtype=D, requires_grad=True)]  # no parameter of the module

    def forward(self, t, y):
        return torch.tanh(y @ self.weight) * torch.cos(t) + self.plain[0]


def test_gradients_by_what_is_closed_over_have_the_share_of_every_step():
    """The loop operator alone keeps the last iteration's share where its carry needs no gradient (torch 2.13 and 2.14)."""
    module, bound = Captured(), torch.tensor(0.6, dtype=D, requires_grad=True)
    closed, given, price = (torch.tensor(x, dtype=D, requires_grad=True) for x in (0.2, 0.9, 1.3))
    wrt = [module.weight, module.plain[0], bound, closed, given, price]

    def field(bound, t, y, given):
        return module(t, y) - bound * y + closed * torch.sin(given * t)

    def run(given):
        problem = nde.ODEProblem(functools.partial(field, bound), Y0, (0.0, 1.0), (given,))
        cost = RunningCost(lambda t, y, *args: price * y.square().sum())
        sol = nde.solve(problem, nde.RK4(), dt=0.2, saveat=[0.5, 1.0], regularizers=[cost])
        return sol.y1.sum() + sol.ys[0].sum(), sol.regularization[0], sol.stats.accepted

    graph = torch.compile(run, fullgraph=True, backend="aot_eager")
    assert not Y0.requires_grad  # the trap
    for k in (0, 1):
        found = torch.autograd.grad(graph(given)[k], wrt, allow_unused=True)
        for x, gradient in zip(wrt, found, strict=True):
            if x is price and k == 0:
                assert gradient is None or not gradient.any()
                continue
            entry, step = x.detach().reshape(-1), 1e-5
            ends = []
            for shift in (step, -2.0 * step):
                with torch.no_grad():
                    entry[0] += shift
                    ends.append(run(given)[k].item())
            with torch.no_grad():
                entry[0] += step
            difference = (ends[0] - ends[1]) / (2.0 * step)
            assert abs(gradient.reshape(-1)[0].item() - difference) < 1e-7 * max(1.0, abs(difference))
    assert run(given)[2] == 5


@pytest.mark.parametrize("where", ["args", "tspan"])
def test_compilers_behind_dynamo_need_one_more_graph_too(where):
    """AOTAutograd guards the value of a number that it cannot rewrite, which the backend "eager" does not show."""
    y0 = torch.ones(2, dtype=torch.float64)

    def run(k):
        rate, end = (k, 1.0) if where == "args" else (1.0, k)
        problem = nde.ODEProblem(lambda t, y, k: -k * y, y0, (0.0, end), args=(rate,))
        return nde.solve(problem, rtol=1e-7, atol=1e-7).y1

    torch._dynamo.reset()
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    for k in (1.0, 2.0, 3.0, 0.5):
        torch.testing.assert_close(compiled(k), torch.exp(-k * y0), rtol=1e-6, atol=0)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] - before == 2
