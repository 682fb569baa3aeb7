r"""What the continuous adjoints have in common: a backward solve between the times at which cotangents enter.

.. math:: \dot a = -a^\top \frac{\partial f}{\partial y}, \qquad
          \frac{dL}{d\theta} = \int_{t_0}^{t_1} a^\top \frac{\partial f}{\partial \theta} \, dt

They differ in where the state comes from (reconstructed, or the forward solve's dense output) and in how the parameters'
integral is taken (a quadrature over the backward steps, or as a part of the backward state).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from neuralde.solvers.checks import as_number, number
from neuralde.solvers.core.norms import rms
from neuralde.solvers.core.scalars import Scalar, any_true, choose, negate, select, spread
from neuralde.solvers.core.status import Status
from neuralde.solvers.core.tolerances import Tolerance, checked_tolerance, for_each_entry, geometric_mean
from neuralde.solvers.core.torch_private import sequence_number
from neuralde.solvers.drivers.integrate import Outcome, Result, drive, integrate
from neuralde.solvers.errors import InvalidProblemError
from neuralde.solvers.methods.base import Method, VectorField
from neuralde.solvers.output.dense import DenseOutput
from neuralde.solvers.output.solution import failure
from neuralde.solvers.stepping.attempt import Carry, Plan, Trial
from neuralde.solvers.stepping.controllers import Controller
from neuralde.solvers.stepping.stiffness import stiff_advice
from neuralde.solvers.terms.base import Term

from ..base import Adjoint, Job
from ..shared.captured_tensors import Unchanged, refuse_unknown
from ..shared.dependencies import Opening, opened
from ..shared.outputs import Cotangents, Outputs, outputs_of, result_of
from ..shared.single_backward import once, refuse_batches
from .integrands import Integrands
from .jumps import Jumps


class ContinuousAdjoint(Adjoint):
    """Not exact: solves the adjoint equation backwards. See the subclasses.

    Args:
        solver: the method of the backward solve; the forward one if None.
        rtol: its relative tolerance; the forward one if None.
        atol: its absolute tolerance; the forward one if None.
        controller: its step-size control; the forward one if None.
    """

    keeps_path: ClassVar[bool] = False
    """Whether the forward solve's dense output is kept for the backward solve."""

    def __init__(
        self,
        solver: Method | None = None,
        rtol: Any = None,
        atol: Any = None,
        controller: Controller | None = None,
    ) -> None:
        for value, kind, name in ((solver, Method, "solver"), (controller, Controller, "controller")):
            if value is not None and not isinstance(value, kind):
                raise InvalidProblemError(f"{name}: got {value!r}; expected a {kind.__name__} instance or None")
        for value, name in ((rtol, "rtol"), (atol, "atol")):
            if (value is not None and not pytree.tree_leaves(value)) or isinstance(value, str):
                raise InvalidProblemError(f"{name}: got {value!r}; expected a tolerance as for solve, or None")
            if as_number(value) is not None or isinstance(value, bool):
                number(value, name, "a number, 0 or positive, or None", least=0.0)
        self.solver, self.rtol, self.atol, self.controller = solver, rtol, atol, controller

    @abstractmethod
    def sweep(self, plan: Plan) -> type[Sweep]:
        """The backward solve of such a plan."""

    def solve(self, job: Job) -> Result:
        """Run the job; its outputs are in the graph if anything that they depend on requires grad."""
        opening = opened(job)
        if isinstance(opening, Result):
            return opening
        detached = replace(opening.job, y0=job.y0.detach())
        backward_plan = self._backward_plan(detached, self.backward_method(job))
        run_data = RunData(self, detached, opening, backward_plan)
        outputs = Outputs.arranged(_Continuous.apply(run_data, job.y0, *opening.inputs), opening.carried)
        outcome, run_data.outcome = run_data.outcome, None
        assert outcome is not None
        return result_of(job, outcome, outputs, assembled=True)

    def backward_method(self, job: Job) -> Method:
        """The method of the backward solve."""
        return job.plan.method if self.solver is None else self.solver

    def _backward_plan(self, job: Job, method: Method) -> Plan:
        plan = job.plan
        packing = plan.field.packing
        rtol = plan.rtol if self.rtol is None else checked_tolerance(self.rtol, "rtol", packing, job.y0)
        atol = plan.atol if self.atol is None else checked_tolerance(self.atol, "atol", packing, job.y0)
        controller = (plan.controller if self.controller is None else self.controller).bind(method)
        return plan.alone(method=method, controller=controller, rtol=rtol, atol=atol)


@dataclass(eq=False)
class RunData:
    """What the forward pass leaves for the backward pass."""

    adjoint: ContinuousAdjoint
    job: Job
    opening: Opening
    backward_plan: Plan
    outcome: Outcome | None = None
    path: DenseOutput | None = None
    jumps: Jumps | None = None
    last_step: Scalar | None = None
    """The size with which the forward solve would have gone on."""

    def __post_init__(self) -> None:
        self.copies, self.captured = self.opening.copies, self.opening.captured
        self.inputs, self.parameters = Unchanged(self.job.tensors), Unchanged(self.captured)

    def integrate(self) -> Outcome:
        """The forward solve; keeps its dense output where the backward one needs it."""
        job, keep = self.job, self.adjoint.keeps_path
        options = replace(job.options, save=replace(job.options.save, dense=True)) if keep else job.options
        outcome = integrate(job.plan, job.y0, options, self.opening.slope, costs=self.opening.started)
        if outcome.log is not None:
            self.jumps = Jumps(job.plan, outcome.log, job.y0)
            stops = self.backward_plan.stops.breaking(self.jumps.times)
            self.backward_plan = replace(self.backward_plan, stops=stops)
        if keep and outcome.steps is not None:
            pieces = outcome.steps.coefficients
            coefficients = torch.stack(pieces) if pieces else None
            self.path = outcome.steps.dense(job.plan.alone(), coefficients, job.plan.field.packing, job.y0)
            outcome = replace(outcome, steps=outcome.steps.holding([]))
        return outcome


class _Continuous(torch.autograd.Function):
    """A solve whose backward pass is another solve."""

    @staticmethod
    def forward(ctx: Any, run_data: RunData, y0: Tensor, *inputs: Tensor) -> tuple[Any, ...]:
        ctx.save_for_backward(y0, *inputs)
        outcome = run_data.outcome = run_data.integrate()
        run_data.last_step = outcome.carry.h
        y0 = run_data.job.y0
        ys = None if outcome.rows is None else outcome.rows.assemble(y0)
        ctx.run_data, ctx.states, ctx.t1 = run_data, (outcome.carry.y, ys), outcome.carry.t
        ctx.set_materialize_grads(False)
        ctx.ended = outcome.carry.status == int(Status.EVENT)
        outputs = outputs_of(run_data.job.plan, outcome, y0)
        return outputs._replace(rows=None if ys is None else ys.clone()).flat

    @staticmethod
    @once(lambda ctx: ctx.run_data.adjoint.name)
    def backward(ctx: Any, *flat: Tensor | None) -> Any:
        refuse_batches(ctx.run_data.adjoint.name, flat)
        ctx.run_data.inputs.check()
        like = ctx.run_data.opening.carried
        given = Cotangents.arranged(flat, like)
        integrands = Integrands(ctx.run_data.job.plan, [g for (g,) in like.filled(given.carried).costs])
        with ctx.run_data.opening.setting.restored(ctx.run_data.captured):
            sweep = ctx.run_data.adjoint.sweep(ctx.run_data.job.plan)(ctx.run_data, integrands, given.logged)
            grads = sweep.run(ctx.t1, ctx.ended, *ctx.states, given.y1, given.rows)
        ctx.run_data.parameters.check(grads[len(grads) - len(ctx.run_data.captured) :])
        return None, *grads


class Sweep(Term):
    """The backward solve, from one time at which a cotangent enters to the one before it, and the term that it solves."""

    def __init__(self, run_data: RunData, integrands: Integrands, logged: Sequence[Tensor | None] = ()) -> None:
        self.plan, self.data, self.integrands = run_data.backward_plan, run_data, integrands
        self.options, self.path = run_data.job.options, run_data.path
        plan, save = run_data.job.plan, self.options.save
        self.times = {"t0": plan.live_t0, "t1": plan.live_t1, "ts": save.live, "stops": plan.stops.live}
        self.moved = None if plan.stops.live is None else torch.zeros_like(plan.stops.live)
        count = sum(time is not None for time in self.times.values())
        scheduled = 0 if plan.events is None else sum(time is not None for time in plan.events.live)
        self.schedules = run_data.copies[count : count + scheduled]
        self.parameters = [*run_data.copies[count + scheduled :], *run_data.captured]
        self.jumps = None if run_data.jumps is None else run_data.jumps.again()
        self.logged = logged
        self.jumped: list[Tensor | None] = [None] * (scheduled + len(self.parameters))
        self.size = integrands.size(run_data.job.y0)
        self.since = sequence_number()
        self.prepare()

    @abstractmethod
    def prepare(self) -> None:
        """Set up what sums the parameters' share."""

    @abstractmethod
    def pack(self, y: Tensor, a: Tensor) -> Tensor:
        """The backward state from state and cotangent."""

    def join(self, of_state: Tensor, of_cotangent: Tensor, of_integrals: Tensor) -> Tensor:
        """One number for each entry of the backward state, from those of its parts; the last are one for each lane."""
        del of_integrals
        return self.pack(of_state, of_cotangent)

    @abstractmethod
    def unpack(self, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """State and cotangent from the backward state where it arrived; ``y`` is the state where it started."""

    @property
    def field(self) -> Term:
        """The term of the backward state: calling a sweep gives that state's slope."""
        return self

    @abstractmethod
    def hear(self, plan: Plan, carry: Carry, trial: Trial) -> None:
        """Hear of every attempt of the backward solve."""

    @abstractmethod
    def gradients(self) -> list[Tensor | None]:
        """The parameters' gradients after all segments."""

    def run(
        self, t1: Scalar, ended: Scalar, y1: Tensor, ys: Tensor | None, g_y1: Tensor | None, g_ys: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        """The gradients of the initial state, the live times, the arguments and the captured tensors.

        ``ended`` flags what an event has ended at ``t1``, where the interval's own end does not count.
        """
        save = self.options.save
        t, y, a = t1, y1, torch.zeros_like(y1) if g_y1 is None else g_y1
        self.reached = t1
        g_t1 = self._pull_on_end("t1", t, y, a)
        if g_t1 is not None:
            g_t1 = choose(ended, torch.zeros_like(g_t1), g_t1)
        g_rows = None if save.live is None else torch.zeros_like(save.live)
        for row in range(len(ys) - 1, -1, -1) if ys is not None and g_ys is not None else ():
            assert ys is not None
            assert g_ys is not None
            assert save.times is not None
            reached = (save.times[row] - t1) * self.plan.direction <= 0
            y, a, t = self._back(t, y, a, select(reached, save.times[row], t), save.right)
            y = choose(reached, ys[row], y)
            pull = choose(reached, g_ys[row], torch.zeros_like(a))
            if g_rows is not None:
                g_rows[row] = self._pull_on_time(t, y, pull)
            a = a + pull
        y, a, t = self._back(t, y, a, self.plan.t0)
        g_t0 = self._pull_on_end("t0", t, self.data.job.y0, a)
        g_times = {"t0": None if g_t0 is None else -g_t0, "t1": g_t1, "ts": g_rows, "stops": self.moved}
        live = [g_times[name] for name, time in self.times.items() if time is not None]
        shares = self.gradients()
        shares = [
            _plus(new, old) for new, old in zip(self.jumped, [*([None] * len(self.schedules)), *shares], strict=True)
        ]
        return a, *live, *shares

    def _pull_on_end(self, name: str, t: Scalar, y: Tensor, a: Tensor) -> Tensor | None:
        """How the loss changes when an end of the interval moves, where that can be asked."""
        if self.times[name] is None:
            return None
        return self.integrands.at_end(t, y, self._pull_on_time(t, y, a))

    def _pull_on_time(self, t: Scalar, y: Tensor, a: Tensor) -> Tensor:
        """How the loss changes when the time at which the cotangent enters moves: the field's component along it."""
        with torch.no_grad():
            product = (a.conj() * self.plan.field(t, y)).real.to(torch.float64)
        return product.reshape(len(y), -1).sum(1) if self.plan.per_sample else product.sum()

    def _back(
        self, t: Scalar, y: Tensor, a: Tensor, t_end: Scalar, behind: bool = False
    ) -> tuple[Tensor, Tensor, Scalar]:
        """State and cotangent at ``t_end``, through all that happens on the way.

        That is in front of what happens there, or ``behind`` its events.
        """
        while (stop := self._latest_stop(t, t_end)) is not None:
            place, mask, time = stop
            y, a, t = self._through_events(t, y, a, time)
            self._pull_on_stop(place, mask, t, y, a)
        return self._through_events(t, y, a, t_end, behind)

    def _latest_stop(self, t: Scalar, t_end: Scalar) -> tuple[Tensor, Tensor, Scalar] | None:
        """The last live time to land on in front of ``t`` and no earlier than ``t_end``: which, in which lanes, and when."""
        if self.moved is None:
            return None
        plan, moving = self.plan, self.plan.stops.moving
        assert moving is not None
        lanes = moving.unsqueeze(-1) if plan.per_sample else moving
        ahead = lanes * plan.direction
        inside = (ahead > plan.t0 * plan.direction) & (ahead < self.reached * plan.direction)
        passed = inside & (ahead < t * plan.direction) & (ahead >= t_end * plan.direction)
        if not bool(passed.any()):
            return None
        place, mask = torch.where(passed, ahead, -torch.inf).argmax(0), passed.any(0)
        time = torch.where(mask, moving[place], t) if plan.per_sample else moving[place].item()
        return place, mask, time

    def _pull_on_stop(self, place: Tensor, mask: Tensor, t: Scalar, y: Tensor, a: Tensor) -> None:
        """Add how the loss changes when a time to land on moves: what the field does in front of it, not behind it."""
        assert self.moved is not None
        sides = self.plan.stops.sides(t, y, self.plan.direction)
        front, behind = (self.integrands.at_end(time, y, self._pull_on_time(time, y, a)) for time in sides)
        share = torch.where(mask, front - behind, 0.0)
        self.moved = self.moved.index_add(0, place.reshape(-1), share.reshape(-1))

    def _through_events(
        self, t: Scalar, y: Tensor, a: Tensor, t_end: Scalar, behind: bool = False
    ) -> tuple[Tensor, Tensor, Scalar]:
        """State and cotangent at ``t_end``, in front of the events there or ``behind`` them, through those on the way."""
        while self.jumps is not None and (moment := self.jumps.latest(t, y, t_end, behind)) is not None:
            _, a, t = self._solve(t, y, a, moment.t)
            inputs, captured = [*self.schedules, *self.parameters], self.data.captured
            a, got = self.jumps.pull(moment, a, self.logged, self.integrands, inputs, captured)
            self.jumped = [_plus(old, new) for old, new in zip(self.jumped, got, strict=True)]
            y = moment.before
        return self._solve(t, y, a, t_end)

    def _solve(self, t: Scalar, y: Tensor, a: Tensor, t_end: Scalar) -> tuple[Tensor, Tensor, Scalar]:
        """State and cotangent at ``t_end``, earlier in the solve than ``t``; the parameters' share is added up on the way."""
        rtol, atol = self._tolerances(y, a)
        backwards = -self.plan.direction
        plan = replace(self.plan, field=self.field, t0=t, t1=t_end, direction=backwards, rtol=rtol, atol=atol)
        with torch.no_grad():
            carry, _ = drive(plan, self.pack(y, a), replace(self.options, compact=False), [self.hear])
        if plan.controller.adaptive:
            self._go_on_with(carry.h, t != t_end)
        status = Status(int(carry.status.max()) if isinstance(carry.status, Tensor) else carry.status)
        if status != Status.SUCCESS:
            advice = stiff_advice(plan, carry)
            raise failure(status, f"the backward solve of {self.data.adjoint.name}: ", advice=advice)
        return *self.unpack(carry.y, y), t_end

    def _tolerances(self, y: Tensor, a: Tensor) -> tuple[Tolerance, Tensor]:
        r"""The tolerances of the backward state.

        A cotangent has the units of the loss, about which the absolute tolerance knows nothing: it counts in units of the
        largest cotangent so far, so that the gradient of a loss times 1e-6 is the gradient times 1e-6. Where entries have
        tolerances of their own, :math:`\alpha_i`, they differ in their units, and a cotangent has the inverse ones. With
        :math:`\alpha` their geometric mean and :math:`w_i = \alpha_i / \alpha`, the tolerance of the cotangent's entry is
        :math:`\alpha \|w a\| / w_i`.
        """
        rtol, level = self.plan.rtol, self.plan.atol
        weights = like = torch.ones_like(y.real)
        each = level * like
        if for_each_entry(level):
            level = geometric_mean(each, self.plan.per_sample)
            weights = each / spread(level, each)
        self.size = torch.maximum(self.size, rms(weights * a, self.plan.per_sample))
        unit = level * torch.where(self.size > 0, self.size, 1.0)
        self.allowed = (rtol.min() if isinstance(rtol, Tensor) else rtol, unit.max())
        of_cotangent = torch.where(weights > 0, spread(unit, like) / weights, 0.0)
        if for_each_entry(rtol):
            smallest = rtol.reshape(len(rtol), -1).amin(1) if self.plan.per_sample else rtol.amin()
            rtol = self.join(rtol, rtol, smallest)
        return rtol, self.join(each, of_cotangent, unit)

    def _go_on_with(self, h: Scalar, moved: Scalar) -> None:
        """The next solve begins with the step size that this one ended with, and need not look for one."""
        dt = self.options.dt
        if dt is not None or not any_true(negate(moved)):  # a lane that stood still has none
            self.options = replace(self.options, dt=h if dt is None else select(moved, h, dt))

    def pull(
        self,
        t: Scalar,
        y: Tensor,
        a: Tensor,
        wanted: Sequence[Tensor],
        touched: set[int] | None = None,
        field: VectorField | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """The field, and its pull of the cotangent on the state and on other tensors; ``touched`` collects those it uses."""
        with torch.enable_grad():
            y = y.detach().requires_grad_()
            slope = (self.plan.field if field is None else field)(t, y)
            outputs, cotangents = self.integrands.beside(t, y, slope, a)
        refuse_unknown(outputs, [y, *self.data.copies], self.data.captured, self.since)
        inputs = [y, *wanted]
        got: Sequence[Tensor | None] = [None] * len(inputs)
        if outputs:
            got = torch.autograd.grad(outputs, inputs, cotangents, allow_unused=True)
        if touched is not None:
            touched.update(place for place, g in enumerate(got[1:]) if g is not None)
        return slope.detach(), [torch.zeros_like(x) if g is None else g for g, x in zip(got, inputs, strict=True)]


def _plus(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    return one if other is None else other if one is None else one + other
