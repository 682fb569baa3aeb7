"""What a continuous adjoint integrates beside the cotangent: the running costs, and the parameters' share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from neuralde.solvers.core.scalars import Scalar, select, spread
from neuralde.solvers.methods.base import VectorField
from neuralde.solvers.stepping.attempt import Carry, Plan, Trial
from neuralde.solvers.stepping.quadrature import PathIntegral, as_field, gauss_points


class Integrands:
    r"""The running costs in the loss, each with the cotangent of its integral.

    They add :math:`g \, \partial \ell / \partial y` to the backward equation, :math:`g \, \partial \ell / \partial \theta`
    to the parameters' integral, and :math:`g \, \ell` to what a moving end of the interval does.

    Args:
        plan: the forward plan, with the reductions.
        cotangents: of the integrals, in their order.
    """

    def __init__(self, plan: Plan, cotangents: Sequence[Tensor | None]) -> None:
        integrals = [cost for cost in plan.costs if isinstance(cost, PathIntegral)]
        self.field, self.per_sample = plan.field, plan.per_sample
        self.pairs = [(cost, g) for cost, g in zip(integrals, cotangents, strict=True) if g is not None]

    def size(self, like: Tensor) -> Tensor:
        """How large the cotangents are, for each lane."""
        out = like.real.new_zeros(like.shape[:1] if self.per_sample else ())
        for _, g in self.pairs:
            out = torch.maximum(out, g.abs() if self.per_sample else g.abs().max())
        return out

    def beside(
        self, t: Scalar, y: Tensor, slope: Tensor, a: Tensor, share: Scalar = 1.0
    ) -> tuple[list[Tensor], list[Tensor]]:
        """What is pulled back at one time, and the cotangents: of the field, and a share of each integrand's."""
        pairs = [(slope, a)]
        for cost, g in self.pairs:
            value = cost.density(as_field(self.field), t, y)
            pairs.append((value, (g * share).to(value.dtype).expand_as(value)))
        pairs = [(x, g) for x, g in pairs if x.requires_grad]
        return [x for x, _ in pairs], [g for _, g in pairs]

    def at_end(self, t: Scalar, y: Tensor, along: Tensor) -> Tensor:
        """How the loss changes when this end of the interval moves, from how it does by the state alone."""
        for cost, g in self.pairs:
            with torch.no_grad():
                rate = (g * cost.density(as_field(self.field), t, y)).to(torch.float64)
            along = along + (rate if self.per_sample else rate.sum())
        return along


class Quadrature:
    """The parameters' integral, added up over the accepted steps of the backward solve at Gauss points.

    Args:
        plan: the backward plan, with the field itself.
        parameters: what to differentiate with respect to.
        integrands: the running costs.
    """

    def __init__(self, plan: Plan, parameters: Sequence[Tensor], integrands: Integrands) -> None:
        self.plan, self.parameters, self.integrands = plan, list(parameters), integrands
        self.total: list[Tensor | None] = [None] * len(self.parameters)
        # n points integrate degree 2n - 1 exactly, so the quadrature is no less accurate than the steps.
        self.points = gauss_points(plan.method.order)

    def add(
        self,
        plan: Plan,
        carry: Carry,
        trial: Trial,
        read: Callable[[Plan, Carry, Trial, float], tuple[Tensor, Tensor]],
        field: VectorField | None = None,
    ) -> None:
        """Add an accepted step's share; ``field`` is that of this step, where it is not the plan's.

        ``read`` gives state and cotangent at a relative time of the step; of lanes that did not move, anything. It is
        passed, not kept: a sweep that refers to itself would keep its tensors until the garbage collector comes.
        """
        if not self.parameters or trial.accept is False:
            return
        length = (trial.t - trial.t_end) * -plan.direction * self.plan.direction
        for node, weight in self.points:
            y, a = read(plan, carry, trial, node)
            share = select(trial.accept, weight * length, 0.0)
            self._add(field or self.plan.field, trial.t + node * (trial.t_end - trial.t), y, a, share)

    def _add(self, field: VectorField, t: Scalar, y: Tensor, a: Tensor, share: Scalar) -> None:
        with torch.enable_grad():
            slope = field(t, y)
            outputs, cotangents = self.integrands.beside(t, y, slope, a * spread(share, a), share)
        if not outputs:
            return
        got = torch.autograd.grad(outputs, self.parameters, cotangents, allow_unused=True)
        for index, grad in enumerate(got):
            if grad is not None:
                total = self.total[index]
                self.total[index] = grad if total is None else total + grad
