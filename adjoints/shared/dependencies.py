"""How every solve begins whose backward pass is not autograd's: what it depends on, and whether a gradient may be asked for."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from neuralde.solvers.core.scalars import transformed
from neuralde.solvers.drivers.integrate import Result, integrate, plain
from neuralde.solvers.errors import InvalidProblemError
from neuralde.solvers.stepping.attempt import Carry, start_costs, without_graph

from ..base import Job
from .call_context import Setting
from .captured_tensors import Captured, First, captured_by
from .carried import Carried, Costs, carried_at


@dataclass(frozen=True, eq=False)
class Opening:
    """A job on copies of its tensors, and everything on which its outputs depend."""

    job: Job
    """The job on the copies."""
    copies: list[Tensor]
    captured: Captured
    slope: Tensor
    """The field at the start."""
    inputs: list[Tensor]
    """The originals of the copies, and the captured tensors."""
    started: Costs
    """The reductions before the first step, without a graph."""
    carried: Carried
    """What is carried beside the state at the start, in the caller's graph."""
    setting: Setting
    """What surrounds the field's calls."""
    first: First | None = None
    """The first call of the field, where the caller goes on with its graph."""


def unrecorded(job: Job) -> Result | None:
    """The result of a job that needs no gradient, or that autograd itself must follow."""
    if not torch.is_grad_enabled() or transformed():
        return plain(integrate(job.plan, job.y0, job.options), job.y0)
    if job.y0.is_inference():
        raise InvalidProblemError(
            "y0: got a tensor that was made under torch.inference_mode(), which no gradient can pass; expected its clone, "
            "y0.clone(), or a solve under torch.no_grad()"
        )
    return None


def opened(job: Job, goes_on: bool = False) -> Opening | Result:
    """The opening of a job; of one that needs no gradient, or that autograd itself must follow, the result.

    Args:
        job: the job.
        goes_on: whether the caller takes steps in the graph that the first call of the field has begun.
    """
    done = unrecorded(job)
    if done is not None:
        return done
    detached, copies = job.detached()
    captured, first, setting = captured_by(detached, copies, [job.y0, *job.live])
    slope = first.slope.detach()
    inputs = [*job.live, *captured]
    if not job.y0.requires_grad and not inputs:
        with torch.no_grad():
            return plain(integrate(job.plan, job.y0, job.options, slope), job.y0)
    started = start_costs(job.plan, job.y0)
    beside = carried_at(job.plan, started, job.plan.t0)
    constant = tuple(tuple(x.detach() for x in state) for state in started)
    kept = first if goes_on else None
    return Opening(detached, copies, captured, slope, inputs, constant, beside, setting, kept)


def opened_behind(job: Job, carry: Carry) -> Opening:
    """The opening of the rest of a job, whose first steps autograd itself has recorded, up to this carry.

    What the steps have given and carried is an input of the rest, as what the caller gives is one of the whole.
    """
    job = replace(job, y0=carry.y)
    detached, copies = job.detached()
    captured, first, setting = captured_by(detached, copies, [carry.y, *carry.memory, *job.live], carry.t)
    started = without_graph(carry).costs
    beside = carried_at(job.plan, carry.costs, carry.t)
    return Opening(detached, copies, captured, first.slope.detach(), [*job.live, *captured], started, beside, setting)
