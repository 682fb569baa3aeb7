"""Steps that are short enough for the sensitivities too, not only for the state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from neuralde.solvers import StepTo
from neuralde.solvers.core.scalars import Scalar
from neuralde.solvers.core.status import Status
from neuralde.solvers.drivers.integrate import Options, integrate
from neuralde.solvers.errors import InvalidProblemError
from neuralde.solvers.output.saving import SavePlan
from neuralde.solvers.stepping.attempt import Carry, Plan, Trial
from neuralde.solvers.stepping.stops import Stops
from neuralde.solvers.terms.base import Term

from ..base import Job

Push = Callable[[Sequence[Tensor | None], Sequence[Tensor], Sequence[Tensor]], tuple[list[Tensor | None], set[int]]]


class Variational(Term):
    r"""The term of state and sensitivities together, stacked in a new first dimension.

    .. math:: y' = f(t, y), \qquad S' = \frac{\partial f}{\partial y} S + \frac{\partial f}{\partial p}

    Args:
        field: the state's field.
        inputs: what it depends on beside the state.
        fixed: their tangents.
        push: gives the outputs' tangents from outputs, inputs and the inputs' tangents.
    """

    def __init__(self, field: Term, inputs: Sequence[Tensor], fixed: Sequence[Tensor], push: Push) -> None:
        self.field, self.inputs, self.fixed, self.push = field, list(inputs), list(fixed), push

    def __call__(self, t: Scalar, z: Tensor) -> Tensor:
        """The derivative of both."""
        y = z[0].detach().requires_grad_()
        with torch.enable_grad():
            slope = self.field(t, y)
        (moved,), _ = self.push([slope], [y, *self.inputs], [z[1:], *self.fixed])
        assert moved is not None
        return torch.cat([slope.detach().unsqueeze(0), moved])


def with_sensitivities(job: Job, state: Tensor, variational: Variational) -> tuple[Job, int]:
    """The job on the steps of another solve, whose error norm is that of state and sensitivities together; its calls.

    Args:
        job: a joint solve.
        state: the sensitivities of the initial state.
        variational: the field of both.
    """
    plan = job.plan
    if plan.per_sample:
        raise InvalidProblemError(
            "adjoint: got ForwardSensitivity(in_error_norm=True) with per_sample=True; expected a joint solve, or the "
            "sensitivities outside the error norm"
        )
    if plan.method.implicit:
        raise InvalidProblemError(
            f"adjoint: got ForwardSensitivity(in_error_norm=True) with {plan.method!r}, whose steps need the derivative of the "
            "sensitivities' equation; expected an explicit method, or the sensitivities outside the error norm"
        )
    if not plan.controller.adaptive or plan.t0 == plan.t1:
        return job, 0
    ends: list[float] = []

    def hear(plan: Plan, carry: Carry, trial: Trial) -> None:
        if trial.accept:
            ends.append(trial.t_end)

    both = plan.alone(field=variational)
    start = torch.cat([job.y0.detach().unsqueeze(0), state])
    options = Options(dt=job.options.dt, save=SavePlan(), listeners=(hear,))
    with torch.no_grad():
        outcome = integrate(both, start, options)
    if outcome.carry.status != Status.SUCCESS:
        return job, outcome.carry.nfe  # it fails again, and says so with what was computed
    stops = Stops(tuple(ends), tuple(sorted(plan.stops.jumps)), live=plan.stops.live)
    plan = replace(plan, controller=StepTo(ts=ends).bind(plan.method), stops=stops)
    return replace(job, plan=plan, options=replace(job.options, dt=None)), outcome.carry.nfe
