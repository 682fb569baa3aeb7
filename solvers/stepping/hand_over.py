"""What a method hands over from one step to the next: its memory, and its cache."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor

from ..core.scalars import Scalar, both, choose
from ..methods.base import Cache, Memory, Method, Step

if TYPE_CHECKING:
    from .attempt import Carry, Plan, Trial


def next_memory(plan: Plan, carry: Carry, trial: Trial) -> Memory:
    """The method's memory where the next attempt starts."""
    if trial.accept is False:
        return carry.memory
    new = landed(plan, trial.step, trial.t_end)
    return tuple([choose(trial.accept, x, old) for x, old in zip(new, carry.memory, strict=True)])


def landed(plan: Plan, step: Step, t_end: Scalar) -> Memory:
    """The memory at the end of a step, which starts again where the field is discontinuous there."""
    if not plan.stops.breaks:
        return step.memory
    return restarted(plan, plan.stops.is_jump(t_end), step.t1, t_end, step.y, step.y, step.memory)


def restarted(plan: Plan, lanes: Scalar, t: Scalar, clock: Scalar, before: Tensor, y: Tensor, memory: Memory) -> Memory:
    """The memory of a step's end, started again in those lanes that stand at a discontinuity.

    Args:
        plan: the solve.
        lanes: the lanes.
        t: the time, in the graph.
        clock: the same without it.
        before: the state in front of the discontinuity.
        y: the state behind it.
        memory: the memory in front of it.
    """
    if not memory or lanes is False:
        return memory
    field = plan.stops.one_sided(plan.field, clock, plan.stops.after(clock, plan.t1, plan.direction), y)
    again = plan.method.restart(field, t, before, y, memory)
    return tuple([choose(lanes, new, old) for new, old in zip(again, memory, strict=True)])


def first_memory(plan: Plan, y0: Tensor) -> Memory:
    """The method's memory before the first step."""
    if type(plan.method).start is Method.start:
        return ()
    first, _ = plan.ends(plan.t0, plan.t1, True, False)
    stop = plan.stops.after(plan.t0, plan.t1, plan.direction)
    return plan.method.start(plan.stops.one_sided(plan.field, plan.t0, stop, y0), first, y0)


def next_cache(plan: Plan, carry: Carry, trial: Trial) -> Cache:
    """What the next attempt can use of this one: nothing that may be seen from both sides of a discontinuity."""
    step = trial.step
    if plan.host:
        if not trial.accept:
            return step.retry
        last = trial.t_end == plan.t1 or trial.restarts
        return None if last or plan.stops.is_jump(trial.t_end) else step.cache
    if carry.cache is None:
        return None
    cache = map_cache(partial(choose, trial.accept), step.cache, step.retry)
    if not plan.stops.breaks:
        return cache
    fresh = plan.method.known(None, step.y, plan.per_sample)
    return map_cache(partial(choose, both(trial.accept, plan.stops.is_jump(trial.t_end))), fresh, cache)


def map_cache(f: Callable[..., Tensor], cache: Cache, *others: Cache) -> Cache:
    """A function of a cache's tensors, one after another."""
    if cache is None:
        return None
    if isinstance(cache, tuple):
        parts = [map_cache(f, *each) for each in zip(cache, *others, strict=True)]
        return cache._make(parts) if hasattr(cache, "_make") else tuple(parts)
    return f(cache, *others)
