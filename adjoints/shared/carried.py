"""What is carried from step to step beside the state, and which parts of it are differentiated."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from neuralde.solvers.core.scalars import Scalar
from neuralde.solvers.stepping.attempt import Plan

Costs = tuple[tuple[Tensor, ...], ...]


def replayed(plan: Plan, costs: Costs, t: Scalar) -> Costs:
    """What is carried from step to step beside the state, and differentiated.

    That is the states of those reductions that gradients flow through (the others are not taken again), and in a solve
    with events, before them, the clock: the time of an event is where the next step starts.
    """
    states = tuple(state for cost, state in zip(plan.costs, costs, strict=True) if cost.differentiable)
    if plan.events is None:
        return states
    return ((torch.as_tensor(t, dtype=torch.float64, device=plan.events.device),), *states)


def replayable(plan: Plan) -> Plan:
    """The plan with only those reductions."""
    return replace(plan, costs=tuple(cost for cost in plan.costs if cost.differentiable))


def merged(plan: Plan, differentiable: Costs, all_costs: Costs) -> Costs:
    """Every reduction's state: from the graph where gradients flow through it, else as the solve left it."""
    live = iter(differentiable if plan.events is None else differentiable[1:])
    return tuple(
        next(live) if cost.differentiable else state for cost, state in zip(plan.costs, all_costs, strict=True)
    )
