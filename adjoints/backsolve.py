"""The continuous adjoint, solved backwards beside the state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neuralde.solvers.attempt import Carry, Plan, Trial
from neuralde.solvers.controllers import Controller
from neuralde.solvers.errors import InvalidProblemError
from neuralde.solvers.integrate import Outcome, integrate
from neuralde.solvers.loop import run, start
from neuralde.solvers.method import Method
from neuralde.solvers.scalars import Scalar, choose, select, spread
from neuralde.solvers.solution import Status, failure

from .base import Adjoint, Job, Result, plain
from .capabilities import Capabilities
from .captured import Unchanged, captured_by
from .once import once


class BacksolveAdjoint(Adjoint):
    r"""Not exact: solves the adjoint equation backwards, reconstructing the state on the way; O(1) memory.

    .. math:: \dot a = -a^\top \frac{\partial f}{\partial y}, \qquad
              \frac{dL}{d\theta} = \int_{t_0}^{t_1} a^\top \frac{\partial f}{\partial \theta} \, dt

    The gradient is that of the continuous problem: it differs from the derivative of the numerical solution by an error
    that converges with the tolerance, and it is wrong where the state cannot be reconstructed backwards (stiff or
    chaotic fields). Prefer :class:`DiscreteAdjoint` unless memory forbids it. The state is reset to the saved one at
    each save time. Parameters are not part of the backward state: their integral is a Gauss quadrature over each
    accepted step, so they neither steer the step size (what others call the seminorm) nor cost memory beyond one
    gradient. No regularizers but ``Local(...)``, no dense output, no double backward.

    Args:
        solver: the method of the backward solve; the forward one if None.
        rtol: its relative tolerance; the forward one if None.
        atol: its absolute tolerance; the forward one if None.
        controller: its step-size control; the forward one if None.

    References:
        Chen, Rubanova, Bettencourt, Duvenaud: Neural Ordinary Differential Equations. NeurIPS 2018. Kidger, Chen,
        Lyons: "Hey, that's not an ODE": Faster ODE Adjoints via Seminorms. ICML 2021.

    Example:
        >>> import torch, neuralde as nde
        >>> y0 = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
        >>> problem = nde.ODEProblem(lambda t, y: -y, y0, (0.0, 1.0))
        >>> sol = nde.solve(problem, adjoint=nde.BacksolveAdjoint(), rtol=1e-8, atol=1e-8)
        >>> torch.autograd.grad(sol.y1, y0)[0]
        tensor(0.3679, dtype=torch.float64)
    """

    capabilities = Capabilities(
        exact=False,
        memory="the end, the saved states",
        cost="a backward solve of twice the size",
        saves=("end", "times"),
        dense=False,
        regularizers=False,
        running_costs=False,
    )

    def __init__(
        self,
        solver: Method | None = None,
        rtol: float | None = None,
        atol: float | None = None,
        controller: Controller | None = None,
    ) -> None:
        for value, kind, name in ((solver, Method, "solver"), (controller, Controller, "controller")):
            if value is not None and not isinstance(value, kind):
                raise InvalidProblemError(f"{name}: got {value!r}; expected a {kind.__name__} instance or None")
        for tolerance, name in ((rtol, "rtol"), (atol, "atol")):
            if tolerance is not None and not (isinstance(tolerance, (int, float)) and 0 <= tolerance < float("inf")):
                raise InvalidProblemError(f"{name}: got {tolerance!r}; expected a number, 0 or positive, or None")
        self.solver, self.rtol, self.atol, self.controller = solver, rtol, atol, controller

    def solve(self, job: Job) -> Result:
        """Run the job; its outputs are in the graph if anything that they depend on requires grad."""
        if not torch.is_grad_enabled():
            return plain(integrate(job.plan, job.y0, job.options), job.y0)
        detached, copies = job.detached()
        captured, slope = captured_by(detached, copies)
        inputs = [*job.live, *captured]
        if not job.y0.requires_grad and not inputs:
            with torch.no_grad():
                return plain(integrate(job.plan, job.y0, job.options, slope), job.y0)
        run_data = _Run(detached, copies, captured, slope, self._backward_plan(detached.plan))
        y1, ys = _Backsolve.apply(run_data, job.y0, *inputs)
        outcome, run_data.outcome = run_data.outcome, None
        assert outcome is not None
        return Result(y1, ys if outcome.rows is not None else None, outcome.carry.costs, None, outcome)

    def _backward_plan(self, plan: Plan) -> Plan:
        method = plan.method if self.solver is None else self.solver
        controller = plan.controller if self.controller is None else self.controller.bind(method)
        return replace(
            plan,
            method=method,
            controller=controller,
            rtol=plan.rtol if self.rtol is None else float(self.rtol),
            atol=plan.atol if self.atol is None else float(self.atol),
            costs=(),
            live_t0=None,
            live_t1=None,
        )


@dataclass(eq=False)
class _Run:
    """What the forward pass leaves for the backward pass."""

    job: Job
    copies: list[Tensor]
    captured: list[Tensor]
    slope: Tensor
    backward_plan: Plan
    outcome: Outcome | None = None

    def __post_init__(self) -> None:
        self.inputs, self.parameters = Unchanged(self.job.tensors), Unchanged(self.captured)


class _Backsolve(torch.autograd.Function):
    """A solve whose backward pass is another solve."""

    @staticmethod
    def forward(ctx: Any, run_data: _Run, y0: Tensor, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(y0, *inputs)
        job, y0 = run_data.job, y0.detach()
        outcome = run_data.outcome = integrate(job.plan, y0, job.options, run_data.slope)
        ys = y0.new_empty((0, *y0.shape)) if outcome.rows is None else outcome.rows.assemble(outcome.rows.flat(y0), y0)
        ctx.run_data, ctx.states, ctx.t1 = run_data, (outcome.carry.y, ys), outcome.carry.t
        ctx.set_materialize_grads(False)
        return outcome.carry.y.clone(), ys.clone()

    @staticmethod
    @once("BacksolveAdjoint")
    def backward(ctx: Any, g_y1: Tensor | None, g_ys: Tensor | None) -> Any:
        y1, ys = ctx.states
        ctx.run_data.inputs.check()
        grads = _Sweep(ctx.run_data).run(ctx.t1, y1, ys, g_y1, g_ys)
        ctx.run_data.parameters.check(grads[len(grads) - len(ctx.run_data.captured) :])
        return None, *grads


class _Sweep:
    """The backward solve, from one time at which a cotangent enters to the one before it."""

    def __init__(self, run_data: _Run) -> None:
        self.plan, self.data = run_data.backward_plan, run_data
        self.options = run_data.job.options
        plan, save = run_data.job.plan, self.options.save
        self.times = {"t0": plan.live_t0, "t1": plan.live_t1, "ts": save.live}
        count = sum(time is not None for time in self.times.values())
        self.quadrature = _Quadrature(self.plan, [*run_data.copies[count:], *run_data.captured])

    def run(
        self, t1: Scalar, y1: Tensor, ys: Tensor, g_y1: Tensor | None, g_ys: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        """The gradients of the initial state, the live times, the arguments and the captured tensors."""
        save = self.options.save
        t, y, a = t1, y1, torch.zeros_like(y1) if g_y1 is None else g_y1
        g_times: dict[str, Tensor | None] = {
            "t1": self._pull_on_time(t, y, a) if save.live is None or g_y1 is not None else None
        }
        g_rows = None if save.live is None else torch.zeros_like(save.live)
        for row in range(len(ys) - 1, -1, -1) if g_ys is not None else ():
            assert g_ys is not None
            assert save.times is not None
            reached = (save.times[row] - t1) * self.plan.direction <= 0
            y, a, t = self._solve(t, y, a, select(reached, save.times[row], t))
            y = choose(reached, ys[row], y)
            pull = choose(reached, g_ys[row], torch.zeros_like(a))
            if g_rows is not None:
                g_rows[row] = self._pull_on_time(t, y, pull)
            a = a + pull
        y, a, t = self._solve(t, y, a, self.plan.t0)
        start = self._pull_on_time(t, y, a) if self.times["t0"] is not None else None
        g_times |= {"t0": None if start is None else -start, "ts": g_rows}
        live = [g_times[name] for name, time in self.times.items() if time is not None]
        return a, *live, *self.quadrature.total

    def _pull_on_time(self, t: Scalar, y: Tensor, a: Tensor) -> Tensor:
        """How the loss changes when the time at which the cotangent enters moves: the field's component along it."""
        with torch.no_grad():
            product = (a.conj() * self.plan.field(t, y)).real.to(torch.float64)
        return product.reshape(len(y), -1).sum(1) if self.plan.per_sample else product.sum()

    def _solve(self, t: Scalar, y: Tensor, a: Tensor, t_end: Scalar) -> tuple[Tensor, Tensor, Scalar]:
        """State and cotangent at ``t_end``, earlier in the solve than ``t``; the parameters' share is added up on the way."""
        plan = replace(self.plan, field=self._augmented, t0=t, t1=t_end, direction=-self.plan.direction)
        with torch.no_grad():
            z = torch.stack([y, a], dim=self._pair_dim)
            carry = run(plan, start(plan, z, self.options.dt), [self.quadrature])
        status = Status(int(carry.status.max()) if isinstance(carry.status, Tensor) else carry.status)
        if status != Status.SUCCESS:
            raise failure(status, "the backward solve of BacksolveAdjoint: ")
        y, a = carry.y.unbind(self._pair_dim)
        return y, a, t_end

    @property
    def _pair_dim(self) -> int:
        return 1 if self.plan.per_sample else 0

    def _augmented(self, t: Scalar, z: Tensor) -> Tensor:
        """The field of state and cotangent together."""
        y, a = z.unbind(self._pair_dim)
        with torch.enable_grad():
            y = y.detach().requires_grad_()
            slope = self.plan.field(t, y)
            pulled = torch.autograd.grad(slope, y, a, allow_unused=True)[0] if slope.requires_grad else None
        pulled = torch.zeros_like(a) if pulled is None else pulled
        return torch.stack([slope.detach(), -pulled], dim=self._pair_dim)


class _Quadrature:
    """The parameters' integral, added up over the accepted steps of the backward solve at Gauss points."""

    def __init__(self, plan: Plan, parameters: Sequence[Tensor]) -> None:
        self.plan, self.parameters = plan, list(parameters)
        self.total: list[Tensor | None] = [None] * len(self.parameters)
        # n points integrate degree 2n - 1 exactly, so the quadrature is no less accurate than the steps.
        nodes, weights = np.polynomial.legendre.leggauss(max(1, (plan.method.order + 1) // 2))
        self.points = [
            ((node + 1) / 2, weight / 2) for node, weight in zip(nodes.tolist(), weights.tolist(), strict=True)
        ]

    def __call__(self, plan: Plan, carry: Carry, trial: Trial) -> None:
        """Add an accepted step's share."""
        if not self.parameters or trial.accept is False:
            return
        length = (trial.t - trial.t_end) * -plan.direction * self.plan.direction
        for node, weight in self.points:
            z = choose(trial.accept, trial.step.at(node), carry.y)
            y, a = z.unbind(1 if plan.per_sample else 0)
            share = spread(select(trial.accept, weight * length, 0.0), a)
            self._add(trial.t + node * (trial.t_end - trial.t), y, a * share)

    def _add(self, t: Scalar, y: Tensor, pull: Tensor) -> None:
        with torch.enable_grad():
            slope = self.plan.field(t, y)
        if not slope.requires_grad:
            return
        got = torch.autograd.grad(slope, self.parameters, pull, allow_unused=True)
        for index, grad in enumerate(got):
            if grad is not None:
                total = self.total[index]
                self.total[index] = grad if total is None else total + grad
