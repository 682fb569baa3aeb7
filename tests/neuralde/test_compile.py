"""A compiled solve is one graph and gives the eager result and gradients, for every carry of the loop."""

import copy

import pytest
import torch
import torch._dynamo.testing

import neuralde as nde
from neuralde.regularizers import ErrorEstimate, StiffnessEstimate
from neuralde.solvers.testing.ordinary import methods

D = torch.float64
OPTIONS = dict(rtol=1e-6, atol=1e-6, regularizers=[ErrorEstimate(), StiffnessEstimate(reduction="mean")])


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def setup(requires_grad):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2)).double()
    y0 = torch.randn(4, 2, dtype=D, requires_grad=requires_grad)
    rate = torch.tensor(1.3, dtype=D, requires_grad=True)
    ts = torch.tensor([0.1, 0.5, 1.0, 2.0], dtype=D)

    def solve(y0, rate, ts, per_sample=False):
        problem = nde.ODEProblem(lambda t, y, k: net(y) * torch.cos(k * t) - 0.3 * y, y0, (0.1, 2.0), (rate,))
        sol = nde.solve(problem, saveat=ts, per_sample=per_sample, **OPTIONS)
        return sol.ys, sol.y1, *sol.regularization, sol.stats.nfe, sol.stats.accepted

    wrt = [rate, *net.parameters(), *([y0] if requires_grad else [])]
    return solve, (y0, rate, ts), wrt


# y0 without grad is the trap: carries that start without requires_grad lose their gradient between iterations.
# The carries are those of AOTAutograd's graphs; the compiler's own kernels, a minute each, once (and in test_inductor.py).
@pytest.mark.parametrize(
    ("requires_grad", "per_sample", "backend"),
    [
        (True, False, "aot_eager"),
        (False, False, "aot_eager"),
        (False, True, "inductor"),
        pytest.param(True, False, "inductor", marks=pytest.mark.slow),
        pytest.param(False, False, "inductor", marks=pytest.mark.slow),
    ],
)
def test_equals_eager_forward_and_backward_carry_by_carry(requires_grad, per_sample, backend):
    solve, inputs, wrt = setup(requires_grad)
    eager = solve(*inputs, per_sample)
    compiled = torch.compile(solve, fullgraph=True, backend=backend)(*inputs, per_sample)
    for name, a, b in zip(("ys", "y1", "error", "stiffness"), eager, compiled, strict=False):
        # Both estimates are made of differences of nearly equal numbers: their rounding is relative to those.
        tolerance = 1e-6 if name in ("error", "stiffness") else 1e-9
        assert torch.allclose(a, b, rtol=tolerance, atol=1e-12), name
        want = torch.autograd.grad(a.square().sum(), wrt, retain_graph=True)
        got = torch.autograd.grad(b.square().sum(), wrt, retain_graph=True)
        for x, y in zip(want, got, strict=True):
            assert (x - y).norm() <= tolerance * x.norm(), name
    for a, b in zip(eager[-2:], compiled[-2:], strict=True):
        assert torch.equal(torch.as_tensor(a), b)


def test_new_values_do_not_recompile():
    solve, (y0, rate, ts), _ = setup(True)
    counter = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(solve, fullgraph=True, backend=counter)
    with torch.no_grad():
        for shift in (0.0, 0.1, 0.2):
            compiled(y0 + shift, rate + shift, ts * (1 - 0.1 * shift) + 0.01 * shift)
    assert counter.frame_count == 1


def test_what_cannot_be_compiled_says_so():
    y0 = torch.ones(2, dtype=D)

    def dense(y0):
        return nde.solve(nde.ODEProblem(lambda t, y: -y, y0, (0.0, 1.0)), dense=True).y1

    with pytest.raises(Exception, match="cannot be compiled"):
        torch.compile(dense, fullgraph=True, backend="eager")(y0)


def test_new_tolerances_and_times_do_not_recompile():
    net = torch.nn.Linear(3, 3).double().requires_grad_(False)
    y0 = torch.ones(2, 3, dtype=D)

    def run(y0, rtol, t1):
        return nde.solve(nde.ODEProblem(lambda t, y: torch.tanh(net(y)), y0, (0.0, t1)), rtol=rtol, atol=1e-8).y1

    # A tensor never does; torch makes a Python number symbolic when it first changes, which is one more graph.
    for kind, frames in ((lambda x: torch.tensor(x, dtype=D), 1), (float, 3)):
        torch._dynamo.reset()
        counter = torch._dynamo.testing.CompileCounter()
        compiled = torch.compile(run, fullgraph=True, backend=counter)
        for rtol, t1 in ((1e-3, 1.0), (1e-4, 1.0), (1e-6, 1.0), (1e-6, 2.0), (1e-7, 3.0)):
            got = compiled(y0, kind(rtol), kind(t1))
            assert torch.allclose(got, run(y0, rtol, t1), rtol=1e-12, atol=1e-12)
        assert counter.frame_count == frames


CONTROLLERS = {
    "I": lambda: nde.IController(dtmax=0.4),
    "PI": lambda: nde.PIController(step_ts=[0.7], jump_ts=[1.1]),
    "PID": lambda: nde.PIDController(dtmin=1e-6),
    "StepTo": lambda: nde.StepTo(ts=[0.3, 0.9]),
    "Constant": lambda: nde.ConstantStep(),
}


@pytest.mark.covering(1)
@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("method", [method.name for method in methods()])
def test_every_method_is_one_graph(method, per_sample):
    solver = getattr(nde, method)()
    _same_in_a_graph(solver, None, per_sample, {"dt": None if solver.adaptive else 0.1})


@pytest.mark.parametrize("kind", [nde.Bosh3, nde.SRA1])
def test_a_method_that_is_first_made_in_a_graph_brings_its_tableau(kind):
    def stretch(y):
        return y * kind().tableau.order if kind is nde.Bosh3 else y * kind().embedded_order

    y = torch.ones(3, dtype=D)
    if "_tableau" in vars(kind):
        del kind._tableau
    assert torch.equal(torch.compile(stretch, fullgraph=True, backend="eager")(y), stretch(y))
    assert kind().tableau is kind().tableau


@pytest.mark.covering(1)
@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("controller", CONTROLLERS)
def test_every_controller_is_one_graph(controller, per_sample):
    _same_in_a_graph(nde.Dopri5(), CONTROLLERS[controller](), per_sample, {"dt": 0.1})


def _same_in_a_graph(solver, controller, per_sample, options):
    """The captured graph, run by torch without code generation, does what the eager solve does."""
    torch.manual_seed(0)
    y0 = torch.randn(3, 2, dtype=D)
    ts = torch.tensor([0.1, 0.5, 2.0], dtype=D)

    def run(y0, ts):
        problem = nde.ODEProblem(lambda t, y: torch.sin(3.0 * t) * torch.cos(y) - 0.5 * y, y0, (0.0, 2.0))
        sol = nde.solve(
            problem, solver, rtol=1e-5, atol=1e-5, saveat=ts, controller=controller, per_sample=per_sample, **options
        )
        return sol.ys, sol.y1, sol.stats.accepted, sol.stats.rejected

    eager = run(y0, ts)
    graph = torch.compile(run, fullgraph=True, backend="eager")(y0, ts)
    for a, b in zip(eager[:2], graph[:2], strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)
    for a, b in zip(eager[2:], graph[2:], strict=True):
        assert torch.equal(torch.as_tensor(a), b)


def test_a_model_compiles_its_solve():
    torch.manual_seed(0)
    field = nde.models.TimeConditionedMLP(3, hidden=[8]).double()
    options = dict(regularizers=[ErrorEstimate()], rtol=1e-6, atol=1e-6)
    plain, compiled = nde.NeuralODE(field, **options), nde.NeuralODE(field, compile=True, **options)
    x = torch.randn(4, 3, dtype=D)
    grads = []
    for model in (plain, compiled):
        states, sol = model(x)
        (states.square().sum() + sol.regularization[0]).backward()
        grads.append([parameter.grad.clone() for parameter in field.parameters()])
        field.zero_grad()
        assert sol.status == nde.Status.SUCCESS
    for a, b in zip(*grads, strict=True):
        assert (a - b).norm() <= 1e-6 * a.norm()
    assert int(compiled.stats.nfe) == plain.stats.nfe
    copied = copy.deepcopy(compiled).eval()
    assert torch.equal(copied.state_dict()["field.layers.0.weight"], field.layers[0].weight)
    with pytest.raises(nde.InvalidProblemError, match=r"dense: got True with compile=True"):
        nde.NeuralODE(field, compile=True, dense=True)


def test_a_compiled_model_says_why_it_failed(graphs_only):
    model = nde.NeuralODE(lambda t, y: y * y, (0.0, 2.0), compile=True).eval()
    with torch.no_grad(), pytest.raises(nde.SolveError) as caught:
        model(torch.ones(2, dtype=D))
    assert caught.value.solution.status in (nde.Status.STEP_UNDERFLOW, nde.Status.NON_FINITE, nde.Status.MAX_STEPS)


def _root(y0, k, per_sample, dt):
    problem = nde.ODEProblem(lambda t, y, k: -k * torch.sqrt(y), y0, (0.0, 1.5), (k,))
    sol = nde.solve(problem, per_sample=per_sample, dt=dt, rtol=1e-4, atol=1e-4, throw=False)
    return sol.y1, sol.status


@pytest.mark.parametrize(("start", "per_sample", "dt"), [([[1.0], [-1.0]], True, None), ([[1.0]], False, 1.5)])
def test_nan_in_a_compiled_attempt_is_loud(start, per_sample, dt):
    """What docs/making_it_fast.md says: states are right, gradients are NaN and never wrong numbers; eager ones are right."""
    grads = []
    for run in (_root, torch.compile(_root, fullgraph=True, backend="aot_eager")):
        y0, k = torch.tensor(start, dtype=D, requires_grad=True), torch.tensor(1.0, dtype=D, requires_grad=True)
        y1, status = run(y0, k, per_sample, dt)
        assert abs(y1[0].item() - (1.0 - 1.5 / 2) ** 2) < 1e-3
        assert torch.as_tensor(status).reshape(-1)[0] == nde.Status.SUCCESS
        assert per_sample is (torch.as_tensor(status).reshape(-1)[-1] == nde.Status.NON_FINITE).item()
        grads.append(torch.autograd.grad(y1[0].sum(), k)[0])
    assert abs(grads[0].item() + (1.0 - 1.5 / 2) * 1.5) < 1e-2
    assert grads[1].isnan()


@pytest.mark.slow
def test_fields_of_other_widths_in_one_static_function():
    def run(y0, net):
        return nde.solve(nde.ODEProblem(lambda t, y: net(y), y0, (0.0, 1.0))).y1

    compiled = torch.compile(run, fullgraph=True, dynamic=False)
    for width in (2, 64, 32):
        net = torch.nn.Sequential(torch.nn.Linear(width, 8), torch.nn.Tanh(), torch.nn.Linear(8, width)).double()
        y0 = torch.randn(4, width, dtype=D)
        with torch.no_grad():
            assert torch.allclose(compiled(y0, net), run(y0, net), rtol=1e-9)
