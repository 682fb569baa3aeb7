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
from neuralde.bench import harness
from neuralde.regularizers import ErrorEstimate, StiffnessEstimate
from neuralde.solvers import cuda_graph

D = torch.float64
CAPTURES = {"device": cuda_graph.DeviceGraph}


class Operators:
    """Captures a function as a list of operators."""

    @staticmethod
    def check(device):
        pass

    def capture(self, function, inputs):
        traced = []
        syncs = harness.host_syncs(lambda: traced.append(make_fx(lambda *xs: function(*xs))(*inputs)))
        assert syncs == 0, "the captured function waits for the device"
        fresh = [node for node in traced[0].graph.nodes if "lift_fresh" in str(node.target)]
        assert not fresh, "the captured function copies a number from the host"
        self.run, self.inputs = traced[0], inputs
        self.outputs = self.run(*inputs)
        return self.outputs

    def replay(self):
        for static, new in zip(self.outputs, self.run(*self.inputs), strict=True):
            static.copy_(new)


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
    for seed in range(3):
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


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_captured_block_is_the_block(kind, per_sample, operators):
    compare(nde.Blocks(size=3, cuda_graph=True), "cpu", KINDS[kind] | {"per_sample": per_sample})
