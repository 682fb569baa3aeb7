"""The compiler that users get: states and gradients of its code are those of an eager solve.

The other tests of compiled solves stop at the graph, which takes a second; here C++ is written and built.
"""

import shutil

import pytest
import torch

import neuralde as nde
from neuralde.regularizers import ErrorEstimate

pytestmark = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None, reason="needs a C++ compiler"
)
D = torch.float64


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def deep():
    """Three layers: a body of the backward loop with as many inputs as inductor once mistook for its own to overwrite."""
    torch.manual_seed(0)
    layers = (torch.nn.Linear(4, 32), torch.nn.Tanh(), torch.nn.Linear(32, 32), torch.nn.Tanh(), torch.nn.Linear(32, 4))
    return torch.nn.Sequential(*layers).double()


def ode(net, y0, ts, **options):
    problem = nde.ODEProblem(lambda t, y: net(y) * torch.cos(t), y0, (0.0, 1.0))
    sol = nde.solve(problem, nde.Tsit5(), rtol=1e-5, atol=1e-5, saveat=ts, regularizers=[ErrorEstimate()], **options)
    return sol.ys, sol.regularization[0].sum()


def sde(net, y0, ts, noise="diagonal", method="EulerMaruyama", calculus="ito", **options):
    g = (lambda t, y: 0.2 + 0.1 * torch.sin(y)) if noise == "diagonal" else (lambda t, y: 0.2 + 0.0 * y)
    problem = nde.SDEProblem(lambda t, y: net(y), g, y0, (0.0, 1.0), noise=noise, calculus=calculus)
    sol = nde.solve(problem, getattr(nde, method)(), saveat=ts, seed=3, **options)
    return (sol.ys,)


def check(run, tolerance=1e-9, **options):
    net = deep()
    y0 = torch.linspace(-1, 1, 32, dtype=D).reshape(8, 4).requires_grad_()
    ts = torch.tensor([0.3, 1.0], dtype=D)
    wanted = [y0, *net.parameters()]

    def value(y0, ts):
        return run(net, y0, ts, **options)

    def gradients(out):
        return torch.autograd.grad(sum((x**2).sum() for x in out), wanted)

    eager, graph = value(y0, ts), torch.compile(value, fullgraph=True)(y0, ts)
    for a, b in zip([*eager, *gradients(eager)], [*graph, *gradients(graph)], strict=True):
        assert torch.allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.slow
def test_ode():
    check(ode)


def test_sde():
    check(sde, dt=0.25, controller=nde.ConstantStep())


@pytest.mark.slow
def test_ode_per_sample():
    check(ode, per_sample=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "noise", "calculus"),
    [("SRIW1", "diagonal", "ito"), ("ShARK", "additive", "ito"), ("ReversibleHeun", "diagonal", "stratonovich")],
)
def test_sde_methods(method, noise, calculus):
    check(sde, method=method, noise=noise, calculus=calculus, dt=0.15, controller=nde.ConstantStep())


@pytest.mark.slow
def test_adaptive_sde_per_sample():
    # A step that differs in its last bit reads the path there, which moves by the square root of it.
    check(sde, 1e-5, method="SOSRI", rtol=1e-2, atol=1e-2, per_sample=True)


def test_the_compiler_s_setting_holds_for_our_graphs_only():
    """What a backward graph may overwrite is decided for each function: with a solve in it nothing, else as the user has it."""
    from torch._functorch import config

    seen = {}

    def noting(name):
        def backend(module, _):
            seen[name] = config.donated_buffer
            return module

        return backend

    def end(y0):
        return nde.solve(nde.ODEProblem(lambda t, y: -y * y, y0, (0.0, 1.0)), rtol=1e-6, atol=1e-6).y1

    assert config.donated_buffer is True
    y0 = torch.tensor([0.5, 1.0], dtype=D, requires_grad=True)
    torch.compile(end, backend=noting("ours"))(y0)
    assert config.donated_buffer is True
    torch.compile(lambda x: (x.sin() * x).cos(), backend=noting("another's"))(y0)
    assert seen == {"ours": False, "another's": True}
