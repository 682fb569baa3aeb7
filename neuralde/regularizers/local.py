"""One step, taken again at a random time (Pal et al., Locally Regularized Neural Differential Equations, ICML 2023)."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from neuralde.solvers import InvalidProblemError, Method
from neuralde.solvers.core.scalars import Scalar, as_clock, choose, minimum, real_dtype
from neuralde.solvers.drivers.eager import first_step
from neuralde.solvers.paths.brownian.random import draw_seed, uniform
from neuralde.solvers.stepping.attempt import Plan
from neuralde.solvers.stepping.reductions import StepView

from .base import Regularizer, StepReduction
from .estimates import ErrorEstimate


class Local(Regularizer):
    r"""A regularizer of one step, taken again in the graph from a random point of the trajectory.

    The trajectory itself may be differentiated by any adjoint, continuous ones included, because the extra step is
    ordinary autograd. It costs one step (and its initial-step heuristic) whatever the length of the solve.

    .. math:: R = r\bigl(\Phi_h(t^*, y(t^*))\bigr), \qquad t^* \text{ random in } [t_0, t_1]

    with :math:`\Phi_h` one step of the method and :math:`r` the measured regularizer.

    Args:
        regularizer: what to measure on the step; :class:`ErrorEstimate` if None.
        sampling: ``"unbiased"`` draws the time uniformly from the interval; ``"biased"`` draws one of the accepted
            steps' starts, so that times where the dynamics are hard come more often.
        h: the size of the step: ``"initial"``, the automatic first step from there (the paper's code; much smaller than
            the solver's steps, so weights are large), or ``"solver"``, the step that the solver took there.
        flow_through_state: let gradients flow into the state at the chosen time, and from there into everything
            before. It is a constant in the paper's code; True needs an exact adjoint.
        constant_first_stage: treat the first stage as a constant too, as the paper's code does (its integrator hands it
            over). The default lets gradients flow through every stage.

    Shapes:
        0-d; ``(B,)`` with ``per_sample``: each sample has a time of its own; NaN for one that failed before it.

    Units:
        Those of the measured regularizer.

    Raises:
        InvalidProblemError: an argument is none of those accepted, or ``regularizer`` does not measure steps; in the
            solve, a method that does not estimate what is measured.

    When to take it:
        With a continuous adjoint, which gives no gradient through the steps of a solve; or where the gradient of a
        regularizer of every step costs too much. Its value is noisy, one step instead of all: otherwise take the
        regularizer itself.

    References:
        Pal, Edelman, Rackauckas: Locally Regularized Neural Differential Equations: Some Black Boxes Were Meant to
        Remain Closed! ICML 2023.

    Example:
        >>> import torch, neuralde as nde
        >>> _ = torch.manual_seed(0)
        >>> rate = torch.tensor(-2.0, dtype=torch.float64, requires_grad=True)
        >>> problem = nde.ODEProblem(lambda t, y, k: k * y, torch.ones(2, dtype=torch.float64), (0.0, 1.0), (rate,))
        >>> local = nde.regularizers.Local(nde.regularizers.ErrorEstimate(), sampling="biased")
        >>> sol = nde.solve(problem, adjoint=nde.BacksolveAdjoint(), regularizers=[local])
        >>> torch.autograd.grad(sol.regularization[0], rate)[0].isfinite().item()
        True
    """

    def __init__(
        self,
        regularizer: StepReduction | None = None,
        *,
        sampling: str = "unbiased",
        h: str = "initial",
        flow_through_state: bool = False,
        constant_first_stage: bool = False,
    ) -> None:
        if sampling not in ("unbiased", "biased"):
            raise InvalidProblemError(f'sampling: got {sampling!r}; expected "unbiased" or "biased"')
        if h not in ("initial", "solver"):
            raise InvalidProblemError(f'h: got {h!r}; expected "initial" or "solver"')
        if regularizer is not None and not isinstance(regularizer, StepReduction):
            raise InvalidProblemError(
                f"regularizer: got {type(regularizer).__name__}; expected one that measures steps, such as ErrorEstimate()"
            )
        self.regularizer = ErrorEstimate() if regularizer is None else regularizer
        self.sampling, self.h = sampling, h
        self.flow_through_state, self.constant_first_stage = flow_through_state, constant_first_stage
        self.differentiable = flow_through_state

    def check(self, method: Method) -> None:
        """Refuse a method that does not estimate what is measured."""
        self.regularizer.check(method)

    def start(self, y0: Tensor, lanes: Tensor, span: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        """The chosen state and time, the length of the solver's step there, and the seed of the draws."""
        seed = draw_seed(lanes)
        t0, t1 = span
        t = t0 + uniform(seed, -1) * (t1 - t0) if self.sampling == "unbiased" else t0
        return y0 if self.flow_through_state else y0.detach(), t, torch.zeros_like(t), seed

    def update(self, state: tuple[Tensor, ...], view: StepView) -> tuple[Tensor, ...]:
        """Choose this step, or keep the one chosen before."""
        with nullcontext() if self.flow_through_state else torch.no_grad():
            return self._unbiased(state, view) if self.sampling == "unbiased" else self._biased(state, view)

    @staticmethod
    def _biased(state: tuple[Tensor, ...], view: StepView) -> tuple[Tensor, ...]:
        """Reservoir sampling: the j-th step replaces the one chosen before with probability 1/j."""
        y, t, h, seed = state
        chosen = uniform(seed, view.index) * (view.index + 1) < 1.0
        length = as_clock(view.t1 - view.t0, h.device).abs().detach()
        start = as_clock(view.t0, t.device).detach()
        return choose(chosen, view.y0, y), torch.where(chosen, start, t), torch.where(chosen, length, h), seed

    @staticmethod
    def _unbiased(state: tuple[Tensor, ...], view: StepView) -> tuple[Tensor, ...]:
        """The step that contains the time, and the solution there."""
        y, t, h, seed = state
        start, end = (as_clock(x, t.device).detach() for x in (view.t0, view.t1))
        inside = ((t - start) * (t - end) <= 0) & (start != end)
        if not view.per_sample and not torch.compiler.is_compiling() and not inside:
            return state  # most steps need no dense output
        theta = torch.where(inside, (t - start) / torch.where(inside, end - start, 1.0), 0.0)
        return choose(inside, view.step.at(theta), y), t, torch.where(inside, (end - start).abs(), h), seed

    def value(self, state: tuple[Tensor, ...], accepted: Any, plan: Plan) -> tuple[Tensor, int]:
        """The regularizer of one step from the chosen point."""
        y, t, solver_h, _ = state
        if not plan.per_sample:
            return self._measure(y, t, solver_h, plan)
        # A sample that failed before its time was reached has nothing to measure, and the field may not even be finite
        # there, which would reach the parameters through 0 * NaN: it takes the place of one that has.
        reached = (solver_h > 0) | (plan.t0 == plan.t1)
        donor = reached.to(torch.int64).argmax()

        def healthy(x: Tensor) -> Tensor:
            return choose(reached, x, x[donor].detach())

        plan = replace(plan, t1=healthy(plan.t1), direction=healthy(plan.direction))
        value, calls = self._measure(healthy(y), healthy(t), healthy(solver_h), plan)
        return torch.where(reached, value, torch.nan), calls

    def _measure(self, y: Tensor, t: Tensor, solver_h: Tensor, plan: Plan) -> tuple[Tensor, int]:
        """The regularizer of one step from ``y`` at ``t``."""
        time: Scalar = t.item() if plan.host else t
        slope = plan.field(time, y)
        calls = 1
        start = slope.detach() if self.constant_first_stage else slope
        longest = (plan.t1 - time) * plan.direction
        if self.h == "initial":
            with torch.no_grad():
                h = first_step(plan, plan.field, time, y, slope, longest)
            calls += 1
        else:
            h = minimum(solver_h.item() if plan.host else solver_h, longest)
        memory, cache = (
            plan.method.start(plan.field, time, y),
            plan.method.known(start if plan.field.chains else None, y, plan.per_sample),
        )
        step = plan.method.step(plan.field, time, time + plan.direction * h, y, memory, cache, plan)
        view = StepView(step, plan.method, plan.rtol, plan.atol, 0, plan.field)
        lanes = torch.zeros_like(t, dtype=real_dtype(y))
        measured = self.regularizer.update(self.regularizer.start(y, lanes, (t, t)), view)
        value, _ = self.regularizer.value(measured, 1, plan)
        return value, calls + step.calls + step.asked
