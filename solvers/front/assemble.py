"""From a finished solve, packed, to the user's view of it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..core.scalars import choose
from ..core.status import Status
from ..drivers.integrate import Result
from ..events.log import Logged, logged
from ..output.dense import DenseOutput
from ..output.solution import Solution, Stats
from ..stepping.attempt import Plan
from ..stepping.stiffness import stiff_advice
from .prepare import Prepared

# As ints: in a graph a tensor is never equal to a member of an enumeration (torch 2.13).
_SUCCESS, _EVENT = int(Status.SUCCESS), int(Status.EVENT)


def assemble(ready: Prepared, result: Result) -> Solution:
    """The solution of a solve that has run."""
    if ready.fired is not None:
        result = _with_first_events(ready, result)
    plan, outcome, carry, packing = ready.plan, result.outcome, result.outcome.carry, ready.packing
    y1 = result.y1
    ts = _times(ready, result)
    numbers = [cost.value(state, carry.accepted, plan) for cost, state in zip(plan.costs, result.costs, strict=True)]
    calls = ready.probes + sum(calls for _, calls in numbers)
    noise, log = plan.field.noise, outcome.log
    end = None if log is None or result.logged is None else _ending(plan, result)
    return Solution(
        ts=ts,
        ys=packing.unpack(_states(ready, result, y1, ts), lead=1),
        y1=packing.unpack(y1),
        stats=Stats(
            carry.nfe + calls,
            carry.steps,
            carry.accepted,
            carry.steps - carry.accepted,
            diffusion_evaluations=plan.field.second_calls(plan.method, carry),
            masked=outcome.masked,
            **({} if carry.counts is None else carry.counts._asdict()),
        ),
        status=Status(carry.status) if isinstance(carry.status, int) else carry.status,
        regularization=tuple(value for value, _ in numbers),
        trace=outcome.tracer.trace(ready.y0.device) if outcome.tracer is not None else None,
        event_time=None if end is None else end[0],
        event_index=None if end is None else end[1],
        events=log.view(result.logged, packing) if log is not None and result.logged is not None else None,
        seed=None if noise is None else noise.seed,
        path=None if noise is None else noise.path,
        dense=_dense(ready, result),
        _end=carry.t,
    )


def judged(solution: Solution, ready: Prepared, result: Result, throw: bool) -> Solution:
    """The solution; of a failed one with advice, or raised. Only a host that knows, or must learn, looks."""
    looks = throw or (ready.keep.driver is None and isinstance(solution.status, Status))
    if looks and not torch.compiler.is_compiling() and solution.failed():
        solution = replace(solution, _advice=stiff_advice(ready.plan, result.outcome.carry))
        if throw:
            solution.raise_on_failure()
    return solution


def _with_first_events(ready: Prepared, result: Result) -> Result:
    """The result with what was scheduled for the start, which no step has seen."""
    plan, log, later = ready.plan, result.outcome.log, result.logged
    assert ready.fired is not None
    assert log is not None
    assert later is not None
    entries = logged(ready.fired, plan.ends(plan.t0, plan.t1, True, False)[0], ready.given, ready.y0)
    outcome = replace(result.outcome, log=log.behind_first(ready.fired, entries))
    return replace(
        result, outcome=outcome, logged=Logged(*(torch.cat(pair) for pair in zip(entries, later, strict=True)))
    )


def _times(ready: Prepared, result: Result) -> Tensor:
    """The save times as the user gave them, those of every step, or the end."""
    plan, steps, device = ready.plan, result.outcome.steps, ready.y0.device
    if ready.shown is not None:
        return ready.shown
    if ready.keep.save.every and steps is not None:
        return steps.times(plan.t0).to(device)
    end = torch.as_tensor(plan.t1, dtype=torch.float64, device=device) if plan.live_t1 is None else plan.live_t1
    return end.unsqueeze(0)


def _states(ready: Prepared, result: Result, y1: Tensor, ts: Tensor) -> Tensor:
    """The states at these times; of a solve that saves its end only, that where it arrived there."""
    plan, carry, save, log = ready.plan, result.outcome.carry, ready.keep.save, result.outcome.log
    if result.ys is None:
        arrived = (carry.status == _SUCCESS) | ((carry.status == _EVENT) & (carry.t == plan.t1))
        return (y1 if arrived is True else choose(arrived, y1, torch.full_like(y1, torch.nan))).unsqueeze(0)
    ys = result.ys
    if log is not None and result.logged is not None and save.every and save.right:
        ys = log.behind(ys, ts, result.logged)
    return ys


def _ending(plan: Plan, result: Result) -> tuple[Any, Any]:
    """The time and the index of the event that ended the solve."""
    assert plan.events is not None
    assert result.outcome.log is not None
    assert result.logged is not None
    return result.outcome.log.ending(result.logged.times, result.outcome.carry.status, plan.events.terminal)


def _dense(ready: Prepared, result: Result) -> DenseOutput | None:
    """The solution between the steps, where it is kept."""
    plan, steps, log, save = ready.plan, result.outcome.steps, result.outcome.log, ready.keep.save
    if not save.dense or steps is None:
        return None
    moved = jumps = None
    if log is not None and result.logged is not None:
        moved = partial(log.moved, times=result.logged.times)
        jumps = log.view(result.logged, ready.packing).ts.detach()
    return steps.dense(plan, result.coefficients, ready.packing, ready.y0, moved, jumps, save.right)
