"""The flow towards a steady state: steps of an integrator, and the judge that says where they have arrived."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..core.norms import rms
from ..core.scalars import Scalar, any_true, both, maximum, real_dtype, select, spread
from ..core.status import Status
from ..linear.jacobian import Linearized
from ..linear.krylov import gmres
from ..linear.spectrum import affordable, distance, grows
from ..stepping.attempt import RUNNING, Carry, Plan, attempt, settle

if TYPE_CHECKING:
    from .search import Stop

# Products that GMRES may take to tell how far the equilibrium of a large system is.
_PRODUCTS = 200
# Of a large system's value, the part that may be left; what is hidden in it is not seen.
_LEFT = 1e-6
# A move of so many units of rounding of the state is none, whatever its Jacobian says.
_ROUNDING = 64


class Judge:
    r"""Whether a state is steady: the linearization's move to the equilibrium, :math:`J^{-1} f`, against the tolerance.

    That has no unit of time in it, and sees a slow mode behind fast ones. It is asked only where two neighbouring states make
    it likely (the field's change between them tells a rate), and, once it has said no, not before the field has become as
    much smaller as the move has to. A state from which small differences grow is passed by.

    Args:
        f: the field on rows.
        stop: the rule.
        counts: what the calls and products are added to.
        check: ask the linearization; else the rate that was seen is believed.
        dense: form the matrix where it is small.
    """

    def __init__(
        self,
        f: Callable[[Tensor], Tensor],
        stop: Stop,
        counts: dict[str, Tensor],
        check: bool = True,
        dense: bool = True,
    ) -> None:
        self.f, self.stop, self.counts, self.check, self.dense = f, stop, counts, check, dense
        lanes = counts["nfe"]
        self.bar = torch.full_like(lanes, torch.inf, dtype=torch.float64)
        self.lowest = self.bar.clone()
        self.unstable, self.singular = (torch.zeros_like(lanes, dtype=torch.bool) for _ in range(2))
        self.moves = torch.zeros_like(lanes, dtype=torch.float64)
        """How far the equilibrium was when each row was last looked at."""
        self.values: Tensor | None = None
        """The singular values of the Jacobians then."""

    def holds(
        self, x: Tensor, value: Tensor, predicted: Tensor, rows: Tensor, allowed: Tensor, alone: Tensor | None = None
    ) -> Tensor:
        """The rows that have arrived, of those asked about.

        Args:
            x: where they are.
            value: the field there.
            predicted: how far it seems to be, at no cost.
            rows: who asks.
            allowed: how far it may be.
            alone: how far it seems to be where nothing else is known; ``predicted`` if None.
        """
        alone = predicted if alone is None else alone
        size = self.stop.size(value).to(torch.float64)
        again = size > 10 * self.lowest  # it has left what it came close to
        self.bar = torch.where(again, torch.inf, self.bar)
        self.lowest = torch.where(
            again, torch.inf, torch.minimum(self.lowest, torch.where(self.bar.isinf(), torch.inf, size))
        )
        nothing = rows & (size == 0)
        likely = rows & (predicted <= allowed) & size.isfinite() & (size <= self.bar) & ~nothing
        if not self.check or not bool(likely.any()):
            return nothing | (likely & (alone <= allowed))
        move, unstable = self._look(x, value, likely, allowed, alone)
        arrived = (move <= allowed) & (~unstable | (move <= _ROUNDING * torch.finfo(x.dtype).eps * self.stop.size(x)))
        fall = (allowed / move).nan_to_num(0.5, 0.5, 0.5).clamp(max=0.5)
        fall = torch.where(unstable, 0.1, fall)
        self.bar = torch.where(likely & ~arrived, size * fall, self.bar)
        self.lowest = torch.where(likely & ~arrived, size, self.lowest)
        self.unstable = torch.where(likely, unstable, self.unstable)
        self.moves = torch.where(likely, move.to(torch.float64), self.moves)
        return nothing | (likely & arrived)

    def _look(self, x: Tensor, value: Tensor, likely: Tensor, allowed: Tensor, alone: Tensor) -> tuple[Tensor, Tensor]:
        """The length of the move by the linearization, and whether differences grow where it leads."""
        at = Linearized(self.f, x)
        self.counts["nfe"] += likely
        stays = torch.zeros_like(likely)
        if not at.out.requires_grad:  # nothing can be known of the Jacobian
            return alone, stays
        self.counts["jacobians"] += likely
        self.counts["linear_solves"] += likely
        if not (self.dense and affordable(x)):
            found = gmres(
                at.product, torch.where(likely.unsqueeze(-1), -value, 0.0), rtol=_LEFT, max_products=_PRODUCTS
            )
            self.counts["products"] += torch.where(likely, found.products, 0)
            known = found.residual <= 0.1 * torch.linalg.vector_norm(value, dim=1)
            if not affordable(x) or bool(known[likely].all()):
                return torch.where(known, self.stop.size(found.x), alone), stays
        self.counts["products"] += torch.where(likely, x.shape[1], 0)
        matrix = at.dense()
        far = distance(matrix, x, value)
        move = self.stop.size(far.step)
        self.singular = torch.where(likely, far.singular, self.singular)
        before = far.values if self.values is None else self.values
        self.values = torch.where(likely.unsqueeze(-1), far.values, before)
        unstable = grows(matrix, torch.zeros_like(move))
        doubtful = likely & (move <= allowed) & (stays if unstable is None else unstable)
        if not bool(doubtful.any()):
            return move, stays
        there = self._matrix(torch.where(doubtful.unsqueeze(-1), x + far.step, x), doubtful)
        near = move / self.stop.size(x).clamp(min=torch.finfo(x.dtype).tiny)
        grown = grows(there, (10 * near.square()).clamp(max=0.1))
        return move, stays if grown is None else doubtful & grown

    def _matrix(self, x: Tensor, rows: Tensor) -> Tensor:
        """The Jacobians at ``x``, counted for these rows."""
        at = Linearized(self.f, x)
        self.counts["nfe"] += rows
        self.counts["jacobians"] += rows
        self.counts["products"] += torch.where(rows, x.shape[1], 0)
        return at.dense()

    def compare(self, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Whether small differences from equilibria at ``x`` grow; and whether these are points of a continuum.

        There a singular value is zero, or much smaller than it was where the flow was last looked at (as in an epidemic: the
        fewer are infected, the less it matters how many are susceptible). What a root finder finds is one of many, and the
        flow goes to another. Conserved totals have singular values zero at both.
        """
        none = torch.zeros_like(rows)
        if not affordable(x) or not bool(rows.any()):
            return none, none
        matrix = self._matrix(x, rows)
        grown = grows(matrix, torch.zeros_like(self.stop.size(x)))
        fallen = none
        if self.values is not None:
            values = torch.linalg.svdvals(torch.where(matrix.isfinite().all(dim=(1, 2), keepdim=True), matrix, 0.0))
            rounding = 100 * x.shape[1] * torch.finfo(x.dtype).eps * self.values[:, :1]
            fallen = rows & ((values < 0.5 * self.values) & (self.values > rounding)).any(dim=1)
        return (none if grown is None else rows & grown), fallen


class Flow:
    """An integration that can stop where it has arrived, and go on from there.

    Args:
        plan: of the integration, its field with its own clock; ``flat`` makes real rows of its states.
        carry: the start.
        slope: the field there.
        flat: packed states as real rows.
        judge: who says where it has arrived.
        path_rtol: the error of a step relative to its length.
        unit: of the plan's clock, in units of time: the plan's field is the field times this.
    """

    def __init__(
        self,
        plan: Plan,
        carry: Carry,
        slope: Tensor,
        flat: Callable[[Tensor], Tensor],
        judge: Judge,
        path_rtol: float,
        unit: Scalar,
    ) -> None:
        self.plan, self.carry, self.slope, self.flat, self.judge = plan, carry, slope, flat, judge
        self.path_rtol, self.unit = path_rtol, unit
        self.x = flat(carry.y)
        self.value = self._value()
        self.arrived = torch.zeros(len(self.x), dtype=torch.bool, device=self.x.device)

    def _value(self) -> Tensor:
        """The field at the state, in the user's unit of time."""
        return self.flat(self.slope / spread(self.unit, self.slope))

    def run(self, allowed: Callable[[Tensor], Tensor]) -> None:
        """Step until every row has arrived, within what is allowed, or has failed."""
        first = torch.full_like(self.judge.bar, torch.inf).to(self.x.dtype)  # before a step nothing but zero is steady
        self._stop(first, torch.ones_like(self.arrived), allowed)
        while any_true(self.carry.status == RUNNING):
            now = _relative(self.plan, self.carry.h, self.carry.y, self.slope, self.path_rtol)
            cache = self.carry.cache
            if cache is None:
                cache = now.method.known(self.slope, self.carry.y, now.per_sample)
            trial = attempt(now, self.carry._replace(cache=cache))
            self.carry = carry = settle(now, self.carry, trial)
            if isinstance(carry.cache, Tensor):
                self.slope = carry.cache
            elif any_true(trial.accept):
                self.slope = self.plan.field(0.0, carry.y)
                self.carry = carry._replace(nfe=carry.nfe + select(trial.accept, 1, 0))
            if not any_true(trial.accept):
                continue
            x, value = self.x, self.value
            self.x, self.value = self.flat(carry.y), self._value()
            moved, change = (self.judge.stop.size(a - b) for a, b in ((self.x, x), (self.value, value)))
            predicted = torch.where(moved > 0, self.judge.stop.size(self.value) * moved / change, 0.0)
            accepted = torch.as_tensor(trial.accept, dtype=torch.bool, device=self.x.device).reshape(-1)
            self._stop(predicted, accepted, allowed)

    def _stop(self, predicted: Tensor, rows: Tensor, allowed: Callable[[Tensor], Tensor]) -> None:
        """Stop the rows that have arrived."""
        status, running = self.carry.status, self.carry.status == RUNNING
        going = torch.as_tensor(running, dtype=torch.bool, device=self.x.device).reshape(-1)
        holds = self.judge.holds(self.x, self.value, predicted, rows & going, allowed(self.x))
        self.arrived = self.arrived | holds
        steady: Scalar = bool(holds) if isinstance(status, int) else holds
        self.carry = self.carry._replace(status=select(both(steady, running), int(Status.SUCCESS), status))

    def resume(self, rows: Tensor) -> None:
        """Let these rows go on."""
        self.arrived = self.arrived & ~rows
        self.judge.bar = torch.where(rows, torch.inf, self.judge.bar)
        status = self.carry.status
        chosen: Scalar = bool(rows) if isinstance(status, int) else rows
        self.carry = self.carry._replace(status=select(chosen, RUNNING, status))


def _relative(plan: Plan, h: Scalar, y: Tensor, slope: Tensor, path_rtol: float) -> Plan:
    r"""The plan with an absolute tolerance of a part of the length of the coming step, :math:`h \|f\|`, for each row.

    A fixed tolerance would let the state wander by so much around the equilibrium, and the residual by as much times the
    field's Lipschitz constant, which may never fall below the stopping rule.
    """
    if not plan.controller.adaptive:
        return plan
    smallest = 8 * torch.finfo(real_dtype(y)).eps  # of the state; below this the error estimate is rounding
    length, size = plan.read(rms(slope, plan.per_sample)), plan.read(rms(y, plan.per_sample))
    allowed = maximum(path_rtol * h * length, maximum(smallest * size, torch.finfo(real_dtype(y)).tiny))
    return replace(plan, rtol=0.0, atol=spread(allowed, y))
