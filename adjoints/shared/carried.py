"""What is carried from step to step beside the state, and which parts of it are differentiated."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from neuralde.solvers.core.scalars import Scalar
from neuralde.solvers.stepping.attempt import Plan

Costs = tuple[tuple[Tensor, ...], ...]


class Carried(NamedTuple):
    """What steps carry beside the state, as far as gradients flow through it."""

    costs: Costs = ()
    """The states of the reductions that gradients flow through; the others are not taken again."""
    clock: Tensor | None = None
    """Where the solve stands, in a solve with events: the time of an event is where the next step starts."""

    @property
    def tensors(self) -> list[Tensor]:
        """All of it in a row."""
        clock = [] if self.clock is None else [self.clock]
        return [*clock, *(x for state in self.costs for x in state)]

    def filled(self, values: Iterable[Any]) -> Carried:
        """The same arrangement of other values, given in the order of :attr:`tensors`."""
        rest = iter(values)
        clock = None if self.clock is None else next(rest)
        return Carried(tuple(tuple(next(rest) for _ in state) for state in self.costs), clock)

    def map(self, f: Callable[[Tensor], Any]) -> Carried:
        """The same arrangement of what a function makes of each part."""
        tensors = self.tensors
        return self.filled(map(f, tensors)) if tensors else self


def carried_at(plan: Plan, costs: Costs, t: Scalar) -> Carried:
    """What gradients flow through, of all reductions' states and a time at which the solve stands."""
    states = tuple(state for cost, state in zip(plan.costs, costs, strict=True) if cost.differentiable)
    if plan.events is None:
        return Carried(states)
    return Carried(states, torch.as_tensor(t, dtype=torch.float64, device=plan.events.device))


def replayable(plan: Plan) -> Plan:
    """The plan with the reductions that gradients flow through, and no others."""
    return replace(plan, costs=tuple(cost for cost in plan.costs if cost.differentiable))


def merged(plan: Plan, differentiable: Costs, all_costs: Costs) -> Costs:
    """Every reduction's state: from the graph where gradients flow through it, else as the solve left it."""
    live = iter(differentiable)
    return tuple(
        next(live) if cost.differentiable else state for cost, state in zip(plan.costs, all_costs, strict=True)
    )
