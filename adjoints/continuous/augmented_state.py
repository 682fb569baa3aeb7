"""The backward solve of state and cotangent together, of ordinary and of stochastic equations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from neuralde.solvers.core.scalars import Scalar, choose
from neuralde.solvers.errors import InvalidProblemError
from neuralde.solvers.methods.base import Method, VectorField
from neuralde.solvers.methods.explicit.heun import Heun
from neuralde.solvers.methods.runge_kutta import RungeKutta
from neuralde.solvers.methods.stochastic.driven import DrivenRungeKutta
from neuralde.solvers.stepping.attempt import Carry, Plan, Trial
from neuralde.solvers.terms.base import Term
from neuralde.solvers.terms.stochastic import DrivenField, SDEField
from neuralde.solvers.terms.stratonovich import StratonovichField, check_correctable

from ..base import Job
from .base import Sweep
from .integrands import Quadrature


class Pair(Sweep):
    """The state is reconstructed beside the cotangent, the two stacked in one tensor."""

    def prepare(self) -> None:
        """The parameters' share is a quadrature."""
        self.quadrature = Quadrature(self.plan, self.parameters, self.integrands, None, self.data.adjoint.name)

    def pack(self, y: Tensor, a: Tensor) -> Tensor:
        """One tensor."""
        return torch.stack([y, a], dim=self._pair_dim)

    def unpack(self, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The two again."""
        del y
        state, a = z.unbind(self._pair_dim)
        return state, a

    def __call__(self, t: Scalar, z: Tensor) -> Tensor:
        """The slope of both."""
        y, a = z.unbind(self._pair_dim)
        slope, (pulled,) = self.pull(t, y, a, [])
        return torch.stack([slope, -pulled], dim=self._pair_dim)

    def hear(self, plan: Plan, carry: Carry, trial: Trial) -> None:
        """Add a step's share."""
        self.quadrature.add(plan, carry, trial, self._read, self.allowed)

    def gradients(self) -> list[Tensor | None]:
        """The quadrature's sums."""
        return self.quadrature.total

    @property
    def _pair_dim(self) -> int:
        return 1 if self.plan.per_sample else 0

    def _read(self, plan: Plan, carry: Carry, trial: Trial, node: Scalar) -> tuple[Tensor, Tensor]:
        del plan
        y, a = choose(trial.accept, trial.step.at(node), carry.y).unbind(self._pair_dim)
        return y, a


class NoisyPair(Pair):
    r"""The same along the path run backwards: on each backward step state and cotangent follow the driven field.

    With :math:`F = f + g W / h` on a step, :math:`\dot y = F` and :math:`\dot a = -a^\top \partial F / \partial y` are
    again a Stratonovich equation, driven by the same path.
    """

    plan: Plan

    @property
    def field(self) -> Term:
        """State and cotangent, without noise until a step asks for its interval."""
        return _PairField(cast(SDEField, self.plan.field), self._slope_along, self.plan.direction)

    def hear(self, plan: Plan, carry: Carry, trial: Trial) -> None:
        """Add a step's share, with the field of the step."""
        along = trial.step.field
        self.quadrature.add(plan, carry, trial, self._read, self.allowed, along.field)

    def prepare(self) -> None:
        """Steps begin with the last size of the forward solve, where they are adapted."""
        super().prepare()
        if self.plan.controller.adaptive:
            self.options = replace(self.options, dt=self.data.last_step)

    def _slope_along(self, field: VectorField, t: Scalar, z: Tensor) -> Tensor:
        y, a = z.unbind(self._pair_dim)
        slope, (pulled,) = self.pull(t, y, a, [], field=field)
        return torch.stack([slope, -pulled], dim=self._pair_dim)


SlopeAlong = Callable[[VectorField, Scalar, Tensor], Tensor]


class _PairField(Term):
    """State and cotangent as a term that noise drives."""

    family = "SDE"
    random = True
    smooth = False
    chains = False

    def __init__(self, field: SDEField, slope: SlopeAlong, direction: Scalar) -> None:
        self.of_state, self.slope, self.direction = field, slope, direction

    def __call__(self, t: Scalar, z: Tensor) -> Tensor:
        """The drift's share."""
        return self.slope(self.of_state, t, z)

    def on(self, t0: Scalar, t1: Scalar) -> _DrivenPair:
        """Both along the straight line between the path's ends."""
        if corrected(self.of_state):
            return _DrivenPair(StratonovichField(self.of_state, t0, t1, self.direction), self.slope)
        return _DrivenPair(DrivenField(self.of_state, t0, t1), self.slope)

    def one_sided(self, low: Scalar, high: Scalar) -> _PairField:
        """Both seen from inside an interval."""
        return _PairField(self.of_state.one_sided(low, high), self.slope, self.direction)


class _DrivenPair:
    """State and cotangent on one interval; ``field`` is the state's."""

    def __init__(self, field: DrivenField, slope: SlopeAlong) -> None:
        self.field, self.slope = field, slope

    def __call__(self, t: Scalar, z: Tensor) -> Tensor:
        """The slope of both."""
        return self.slope(self.field, t, z)


def corrected(field: SDEField) -> bool:
    """Whether the equation means another one in Stratonovich's sense."""
    return field.calculus == "ito" and field.kind != "additive"


def noisy_method(job: Job, solver: Method | None) -> Method:
    """The method of a stochastic backward solve, if the equation can be understood as a Stratonovich one."""
    field = cast(SDEField, job.plan.field)
    if corrected(field):
        check_correctable(field, job.plan.t0, job.y0)
        field.looks += 2
    if solver is None:
        solver = Heun()
    if not isinstance(solver, RungeKutta):
        raise InvalidProblemError(
            f"solver: got {solver!r} for the backward solve of an SDEProblem; expected a Runge-Kutta method of order 2 or "
            "more, such as Heun() or Midpoint(), or None"
        )
    return DrivenRungeKutta(solver).bound(field.kind, field.columns)
