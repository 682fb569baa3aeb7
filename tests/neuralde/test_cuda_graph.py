"""Captured blocks. Everything but the capture itself runs here on a graph of operators that needs no GPU.

The stand-in traces the function into a list of operators, as a CUDA graph does: Python runs once, at the capture, and a
replay reads the capture's input buffers and overwrites its outputs. So a value frozen by mistake, a buffer that nobody
filled and an output kept without a copy give wrong numbers here as they would there; a wait for the device is refused.
"""

import copy
import gc
import pickle
import weakref

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

import neuralde as nde
from neuralde.regularizers import ErrorEstimate, StiffnessEstimate
from neuralde.solvers.drivers import cuda_graph
from neuralde.testing import counting

D = torch.float64


class Operators:
    """Captures a function as a list of operators."""

    @staticmethod
    def check(device):
        pass

    def capture(self, function, inputs):
        traced = []
        syncs = counting.host_syncs(lambda: traced.append(make_fx(lambda *xs: function(*xs))(*inputs)))
        assert syncs == 0, "the captured function waits for the device"
        fresh = [node for node in traced[0].graph.nodes if "lift_fresh" in str(node.target)]
        assert not fresh, "the captured function copies a number from the host"
        self.run, self.inputs = traced[0], inputs
        self.outputs = self.run(*inputs)
        return self.outputs

    def replay(self):
        for static, new in zip(self.outputs, self.run(*self.inputs), strict=True):
            static.copy_(new)


class Again(Operators):
    """Calls the function again: quick to capture, for tests of what is captured."""

    def capture(self, function, inputs):
        self.run, self.inputs = function, inputs
        self.outputs = function(*inputs)
        return self.outputs


@pytest.fixture
def again(monkeypatch):
    monkeypatch.setattr(cuda_graph, "DeviceGraph", Again)


@pytest.fixture
def operators(monkeypatch):
    monkeypatch.setattr(cuda_graph, "DeviceGraph", Operators)


class Field(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)).double()

    def forward(self, t, y, k):
        return self.net(y) * torch.cos(k * t) - 0.3 * y


def inputs(seed, device="cpu"):
    generator = torch.Generator().manual_seed(seed)
    y0 = torch.randn(4, 3, dtype=D, generator=generator).to(device).requires_grad_()
    return y0, (0.8 + torch.rand((), dtype=D, generator=generator)).to(device).requires_grad_()


KINDS = {
    "end": {},
    "times": {"saveat": [0.0, 0.3, 0.30001, 1.2, 2.0], "regularizers": [ErrorEstimate(), StiffnessEstimate()]},
    "steps": {"saveat": "steps"},
    "dense": {"dense": True},
    "jumps": {"controller": nde.PIController(step_ts=[0.7], jump_ts=[1.1])},
    "vern7": {"solver": nde.Vern7(), "saveat": [0.5, 2.0]},
    "constant": {"solver": nde.RK4(), "dt": 0.13, "controller": nde.ConstantStep(), "saveat": [0.5, 2.0]},
    "reversible": {"solver": nde.Reversible(nde.Tsit5())},
}


def compare(driver, device, options, captures=None):
    """Several solves with new values, against the same in blocks without a graph, with gradients."""
    field = Field().to(device)
    plain = nde.Blocks(size=driver.size)
    for seed in range(2):
        found = []
        for how in (plain, driver):
            y0, k = inputs(seed, device)
            problem = nde.ODEProblem(field, y0, (0.0, 2.0 + 0.1 * seed if "saveat" not in options else 2.0), (k,))
            sol = nde.solve(problem, rtol=1e-6, atol=1e-6, driver=how, **options)
            loss = sol.ys.nan_to_num(0.0).square().sum() + sum(x.sum() for x in sol.regularization)
            if options.get("dense"):
                loss = loss + sol(torch.tensor([0.4, 1.7], dtype=D, device=device)).square().sum()
            grads = torch.autograd.grad(loss, [y0, k, *field.parameters()])
            found.append((sol, grads))
        (want, grads), (got, others) = found
        for a, b in zip([want.ts, want.ys, want.y1], [got.ts, got.ys, got.y1], strict=True):
            assert torch.allclose(
                a, b, rtol=1e-6 if options.get("saveat") == "steps" else 1e-9, atol=1e-12, equal_nan=True
            )
        assert torch.equal(torch.as_tensor(want.stats.steps), torch.as_tensor(got.stats.steps))
        assert torch.equal(torch.as_tensor(want.stats.accepted), torch.as_tensor(got.stats.accepted))
        for a, b in zip([*grads, *want.regularization], [*others, *got.regularization], strict=True):
            assert (a - b).norm() <= 1e-7 * a.norm()
        with torch.no_grad():
            for parameter in field.parameters():  # trained in place: the graph reads the new values
                parameter.mul_(1.1)
    assert captures is None or driver.graphs.captures == captures


QUICK = [("times", False), ("times", True), ("dense", False)]
OTHERS = [(kind, per_sample) for kind in KINDS for per_sample in (False, True) if (kind, per_sample) not in QUICK]


@pytest.mark.parametrize(
    ("kind", "per_sample"), [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in OTHERS)]
)
def test_a_captured_block_is_the_block(kind, per_sample, operators):
    # The block, the gradient of a step, and that of a step with saved rows.
    captures = {"times": 3, "vern7": None, "constant": None}.get(kind, 2)  # None: too few steps to say
    compare(nde.Blocks(size=2, cuda_graph=True), "cpu", KINDS[kind] | {"per_sample": per_sample}, captures)


@pytest.mark.parametrize("per_sample", [False, True])
def test_gradients_of_the_ends_and_of_reversible_steps(per_sample, operators):
    found = []
    for driver in (None, nde.Blocks(size=2, cuda_graph=True)):
        for solver, adjoint in ((nde.Bosh3(), None), (nde.Reversible(nde.Heun()), nde.ReversibleAdjoint())):
            y0, k = inputs(0)
            t0, t1 = (torch.tensor(t, dtype=D, requires_grad=True) for t in (0.1, 1.0))
            problem = nde.ODEProblem(lambda t, y, k: torch.sin(3 * t) * torch.cos(k * y), y0, (t0, t1), (k,))
            options = dict(solver=solver, adjoint=adjoint, driver=driver, per_sample=per_sample)
            sol = nde.solve(problem, rtol=1e-4, atol=1e-4, **options)
            found.append(torch.autograd.grad(sol.y1.square().sum(), [y0, k, t0, t1]))
    for want, got in zip(found[:2], found[2:], strict=True):
        for a, b in zip(want, got, strict=True):
            assert (a - b).norm() <= 1e-8 * a.norm()


def test_weights_cast_by_autocast_are_cast_in_the_graph(operators):
    torch.manual_seed(0)
    net, driver, y0 = torch.nn.Linear(3, 3), nde.Blocks(size=2, cuda_graph=True), torch.randn(4, 3)
    problem = nde.ODEProblem(lambda t, y: torch.tanh(net(y)).float(), y0, (0.0, 1.0))
    for _ in range(2):
        ends, grads = [], []
        for how in (driver, nde.Blocks(size=2)):
            with torch.autocast("cpu", torch.bfloat16):
                sol = nde.solve(problem, nde.Midpoint(), dt=0.25, controller=nde.ConstantStep(), driver=how)
                grads.append(torch.autograd.grad(sol.y1.square().sum(), net.weight)[0])
            ends.append(sol.y1)
        assert torch.allclose(*ends, rtol=1e-5)
        assert torch.allclose(*grads, rtol=1e-2, atol=1e-3)
        with torch.no_grad():
            net.weight.mul_(-2.0)
    assert driver.graphs.captures == 2


def test_what_is_captured_anew(again):
    field, driver = Field(), nde.Blocks(size=3, cuda_graph=True)
    y0, k = inputs(0)

    def solve(y0=y0, k=k, f=field, t1=1.0, **options):
        with torch.no_grad():
            got, want = (
                nde.solve(nde.ODEProblem(f, y0, (0.0, t1), (k,)), driver=how, **options) for how in (driver, None)
            )
        assert torch.allclose(got.y1, want.y1, rtol=1e-6)
        return driver.graphs.captures

    assert solve() == 1
    # New values, new memory of the inputs, an equal method and a new end are the same graph.
    assert solve(y0=y0 + 0.1, k=k * 1.1, t1=2.0, solver=nde.Tsit5(), controller=nde.PIController()) == 1
    assert solve(rtol=1e-4) == 2
    assert solve(solver=nde.Bosh3()) == 3
    assert solve(y0=y0[:2]) == 4
    assert solve(saveat=[0.5, 1.0]) == 5
    assert solve() == solve(rtol=1e-4) == 5
    field.eval()
    assert solve() == 6
    with torch.no_grad():  # parameters that have moved
        for parameter in field.parameters():
            parameter.data = 1.5 * parameter.data
    assert solve() == 7
    scale = [torch.tensor(0.5, dtype=D)]
    closed = lambda t, y, k: scale[0] * torch.cos(k * y)  # noqa: E731
    assert solve(f=closed) == solve(f=closed) == 8
    scale[0] = torch.tensor(0.7, dtype=D)
    assert solve(f=closed) == 9


def test_graphs_live_as_long_as_the_model(operators):
    field = nde.models.TimeConditionedMLP(3, hidden=[4]).double()
    model = nde.NeuralODE(field, solver=nde.Euler(), dt=0.5, driver=nde.Blocks(size=1, cuda_graph=True))
    y0 = inputs(0)[0].detach()
    with torch.no_grad():
        model(y0)
        model(y0 + 1.0)
    driver = model.options["driver"]
    assert driver.graphs.captures == 1
    assert copy.deepcopy(model).options["driver"].graphs.captures == 0
    assert pickle.loads(pickle.dumps(driver)) == driver
    graph = weakref.ref(driver.graphs.entries[0][1].captured.graph)
    gc.disable()
    try:
        del model, driver
        assert graph() is None
    finally:
        gc.enable()


def test_the_oldest_graphs_go(again):
    driver, y0 = nde.Blocks(size=1, cuda_graph=True), torch.ones(2)
    for _ in range(cuda_graph.Cache.LIMIT + 2):
        nde.solve(nde.ODEProblem(lambda t, y: -y, y0, (0.0, 0.1)), nde.Euler(), dt=0.1, driver=driver)
    assert len(driver.graphs.entries) == cuda_graph.Cache.LIMIT


def test_failures_and_masked_lanes(again):
    y0 = torch.tensor([[1.0], [0.1]], dtype=D)
    for per_sample in (False, True):
        found = []
        for driver in (nde.Blocks(size=4), nde.Blocks(size=4, cuda_graph=True)):
            problem = nde.ODEProblem(lambda t, y: y * y, y0, (0.0, 2.0))
            with pytest.raises(nde.StepSizeError) as caught:
                nde.solve(problem, saveat=[0.2, 0.9, 1.5], driver=driver, per_sample=per_sample)
            found.append(caught.value.solution)
        a, b = found
        assert torch.equal(torch.as_tensor(a.status), torch.as_tensor(b.status))
        assert torch.allclose(a.ys, b.ys, equal_nan=True)


def test_without_cuda_it_is_refused():
    with pytest.raises(
        nde.InvalidProblemError, match=r"driver: got cuda_graph=True with a state on cpu.*expected a state on"
    ):
        nde.solve(nde.ODEProblem(lambda t, y: -y, torch.ones(2), (0.0, 1.0)), driver=nde.Blocks(cuda_graph=True))
    with pytest.raises(nde.InvalidProblemError, match="cuda_graph: got 1"):
        nde.Blocks(cuda_graph=1)


def test_a_field_that_waits_is_not_captured(operators):
    problem = nde.ODEProblem(lambda t, y: -y * (1.0 if y.sum().item() > 0 else 2.0), torch.ones(2), (0.0, 1.0))
    with pytest.raises(Exception, match=r"waits for the device|item|data-dependent"):
        nde.solve(problem, driver=nde.Blocks(cuda_graph=True))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_on_the_device(kind, per_sample):
    compare(nde.Blocks(size=4, cuda_graph=True), "cuda", KINDS[kind] | {"per_sample": per_sample})
