"""Every method and every exact adjoint against finite differences of the frozen steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import neuralde as nde


class Net(nn.Module):
    """A field with parameters, two of them nested, that depends on the time and on nested arguments."""

    def __init__(self) -> None:
        super().__init__()
        made = torch.Generator().manual_seed(3)
        self.mix = nn.Linear(3, 3)
        self.phase = nn.ParameterList([torch.tensor([0.3, -0.2, 0.5])])
        with torch.no_grad():
            self.mix.weight.copy_(torch.randn(3, 3, generator=made))
            self.mix.bias.copy_(torch.randn(3, generator=made))

    def forward(self, t: Tensor, y: Tensor, rate: Tensor, more: dict[str, list[Tensor]]) -> Tensor:
        bend = more["bend"][0] * y**2 * torch.cos(2.0 * t)
        return torch.tanh(self.mix(y)) + rate * y * torch.sin(3.0 * t + self.phase[0]) - bend


class Problem:
    """One problem whose every input is live."""

    def __init__(self, leaf: Callable[..., Tensor], method: nde.Method, backward: bool = False) -> None:
        self.net, self.method = Net(), method
        self.y0, self.rate, self.bend = leaf(0.4, -0.7, 1.1), leaf(-0.6), leaf(0.2, 0.1, 0.3)
        ends = (leaf(0.1), leaf(1.66))
        self.t0, self.t1 = reversed(ends) if backward else ends
        self.ts = leaf(0.1, 0.15, 0.64, 1.13, 1.6, 1.66)
        if backward:
            self.ts = self.ts.detach().flip(0).requires_grad_()
        self.problem = nde.ODEProblem(self.net, self.y0, (self.t0, self.t1), (self.rate, {"bend": [self.bend]}))

    def between(self, frozen: Any, leaf: Callable[..., Tensor]) -> Tensor:
        """Times inside the first, a middle and the last step, away from where the interpolant has corners."""
        mesh = [self.t0.item(), *frozen.mesh(self.run), self.t1.item()]
        middle = len(mesh) // 2
        pairs = [mesh[:2], mesh[middle - 1 : middle + 1], mesh[-2:]]
        return leaf([0.6 * a + 0.4 * b for a, b in dict.fromkeys(map(tuple, pairs))])

    @property
    def inputs(self) -> list[Tensor]:
        return [self.y0, self.rate, self.bend, *self.net.parameters()]

    def run(self, **options: Any) -> nde.Solution:
        tolerance = 1e-2 if self.method.order <= 2 else 1e-4
        settings: dict[str, Any] = {"rtol": tolerance, "atol": tolerance}
        if self.method.adaptive:
            # The low orders reject steps at first, the high ones would need one or two for all.
            settings |= {"dt": 0.4, "controller": nde.PIController(dtmax=0.45)}
        elif "controller" not in options:
            settings["dt"] = 0.15
        return nde.solve(self.problem, self.method, **(settings | options))


WEIGHTS = torch.tensor([0.3, -1.0, 0.7], dtype=torch.float64)


def weigh(y: Tensor) -> Tensor:
    """A number from states, different for every row."""
    rows = y.reshape(-1, 3)
    return (torch.sin(rows * WEIGHTS) * (1 + torch.arange(len(rows)).unsqueeze(-1))).sum() + (y[..., 0] ** 2).sum()


@pytest.mark.covering(1)
@pytest.mark.parametrize("backward", [False, True])
def test_end(frozen: Any, make: Any, solver: nde.Method, backward: bool) -> None:
    case = Problem(make, solver, backward)

    frozen(case.run, lambda sol: weigh(sol.y1), [*case.inputs, case.t0, case.t1])


@pytest.mark.covering(1)
@pytest.mark.parametrize("backward", [False, True])
def test_live_save_times(frozen: Any, make: Any, solver: nde.Method, backward: bool) -> None:
    case = Problem(make, solver, backward)
    ts = case.between(frozen, make)  # those at the ends cannot move both ways: see test_live_times.py

    def run(**options: Any) -> nde.Solution:
        return case.run(**({"saveat": ts} | options))

    frozen(run, lambda sol: weigh(sol.ys) + weigh(sol.y1), [*case.inputs, case.t0, case.t1, ts])


def test_every_step(frozen: Any, make: Any, solver: nde.Method) -> None:
    case = Problem(make, solver)

    def run(**options: Any) -> nde.Solution:
        return case.run(**({"saveat": "steps"} | options))

    frozen(run, lambda sol: weigh(sol.ys), [*case.inputs, case.t0, case.t1])


def test_dense(frozen: Any, make: Any, solver: nde.Method) -> None:
    """States and derivatives between the steps, with respect to the inputs, the ends and the times asked for."""
    case = Problem(make, solver)
    t = case.between(frozen, make)

    def run(**options: Any) -> nde.Solution:
        return case.run(dense=True, **options)

    def read(sol: nde.Solution) -> Tensor:
        return weigh(sol(t)) + weigh(sol.derivative(t))

    frozen(run, read, [*case.inputs, case.t0, case.t1, t], h=1e-2 if solver.order > 5 else 1e-3)


def test_everything_at_once(frozen: Any, make: Any, solver: nde.Method) -> None:
    """A trace, dense output and saved rows do not disturb each other's gradients."""
    case = Problem(make, solver)
    t = case.between(frozen, make)

    def run(**options: Any) -> nde.Solution:
        return case.run(**({"saveat": [0.15, 0.4, 1.6], "dense": True, "trace": True} | options))

    frozen(
        run,
        lambda sol: weigh(sol.ys) + weigh(sol(t)) + weigh(sol.y1),
        [*case.inputs, case.t0, case.t1, t],
    )


@pytest.mark.covering(2)
@pytest.mark.parametrize("trace", [False, True])
@pytest.mark.parametrize("controller", [nde.ConstantStep(), nde.StepTo(ts=[0.3, 0.8, 1.2])], ids=["constant", "to"])
def test_fixed_steps(frozen: Any, make: Any, solver: nde.Method, controller: nde.Controller, trace: bool) -> None:
    """Fixed steps with any method. A trace evaluates stages that the solve itself may not need."""
    case = Problem(make, solver)

    def run(**options: Any) -> nde.Solution:
        settings = {"controller": controller, "dt": 0.23 if isinstance(controller, nde.ConstantStep) else None}
        return case.run(**(settings | {"trace": trace} | options))

    frozen(run, lambda sol: weigh(sol.y1), [*case.inputs, case.t0, case.t1])


@pytest.mark.parametrize("saveat", [None, "steps", "times"])
def test_discrete_equals_direct(make: Any, solver: nde.Method, saveat: Any) -> None:
    """The two ways to the same gradient agree to rounding."""
    results = []
    for adjoint in (nde.DirectAdjoint(), nde.DiscreteAdjoint(), nde.DiscreteAdjoint(checkpoints=2)):
        case = Problem(make, solver)
        inputs = [*case.inputs, case.t0, case.t1] + ([case.ts] if saveat == "times" else [])
        sol = case.run(saveat=case.ts if saveat == "times" else saveat, dense=True, trace=True, adjoint=adjoint)
        loss = weigh(sol.ys) + weigh(sol(torch.tensor([0.3, 1.2]))) + weigh(sol.y1)
        results.append([loss.detach(), *torch.autograd.grad(loss, inputs)])
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=1e-12, atol=1e-13)
