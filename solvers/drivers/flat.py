"""A solve as a pure function on a flat tuple of tensors, which a graph, of either kind, can hold.

Clocks are tensors and what is saved goes into buffers of fixed size, so nothing here waits for a value to reach the host.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from ..core.counts import Counts
from ..core.legendre import evaluate
from ..errors import InvalidProblemError
from ..output.saving import SavePlan
from ..stepping.attempt import RUNNING, Carry, Plan, Trial, attempt, settle
from ..stepping.hand_over import map_cache
from .integrate import Options


class FlatSolve:
    """The loop's carry, condition and body for flat tuples of tensors.

    Args:
        plan: a plan whose clock is in tensors.
        options: what to keep; only save times can be kept.
        carry: the carry before the first attempt.
        ys: the buffer of saved rows, or None.
    """

    def __init__(self, plan: Plan, options: Options, carry: Carry, ys: Tensor | None) -> None:
        self.plan, self.options = plan, options
        self.memory, self.cache, self.saves = len(carry.memory), carry.cache, ys is not None
        self.bridges = plan.field.bridges(_times(options.save, live=False)) if self.saves else None
        self.controls = len(carry.control)
        self.costs = [len(state) for state in carry.costs]
        self.first = self.flat(carry, ys)

    def flat(self, carry: Carry, ys: Tensor | None) -> tuple[Tensor, ...]:
        """The tensors one after another; copies, because the loop operator refuses aliases."""
        cache: list[Tensor] = []
        map_cache(lambda x: cache.append(x) or x, carry.cache)  # type: ignore[func-returns-value]
        costs = [x for state in carry.costs for x in state]
        # Of the calls that readers of steps make, an SDE's tell how often its diffusion was called.
        asked = (carry.asked, carry.looked) if self.plan.field.random else ()
        counts = (carry.status, carry.steps, carry.accepted, carry.nfe, *(carry.counts or ()), *asked)
        tensors = (carry.t, carry.h, carry.y, *carry.memory, *cache, *carry.control, *costs, *counts)
        # The loop operator compares strides too, and factors come in columns.
        return tuple(
            x.clone(memory_format=torch.contiguous_format) for x in (tensors if ys is None else (*tensors, ys))
        )

    def carry(self, flat: tuple[Tensor, ...]) -> Carry:
        """The carry again."""
        rest = iter(flat)
        t, h, y = next(rest), next(rest), next(rest)
        memory = tuple([next(rest) for _ in range(self.memory)])
        cache = map_cache(lambda _: next(rest), self.cache)
        control = tuple([next(rest) for _ in range(self.controls)])
        costs = tuple([tuple([next(rest) for _ in range(count)]) for count in self.costs])
        status, steps, accepted, nfe = [next(rest) for _ in range(4)]
        counts = Counts(*[next(rest) for _ in Counts._fields]) if self.plan.method.implicit else None
        asked, looked = (next(rest), next(rest)) if self.plan.field.random else (0, 0)
        numbers = status, steps, accepted, nfe, None, asked, looked, counts
        return Carry(t, h, y, memory, cache, control, costs, *numbers)

    def ys(self, flat: tuple[Tensor, ...]) -> Tensor | None:
        """The saved rows."""
        return flat[-1] if self.saves else None

    def going(self, *flat: Tensor) -> Tensor:
        """Whether any lane is still running."""
        return (self.carry(flat).status == RUNNING).any()

    def attempt(self, *flat: Tensor) -> tuple[tuple[Tensor, ...], Trial]:
        """One attempt; lanes that are not running stay as they are."""
        now = self.carry(flat)
        trial = attempt(self.plan, now)
        rows = write_rows(self.plan, self.options.save, now, trial, flat[-1], self.bridges) if self.saves else None
        return self.flat(settle(self.plan, now, trial), rows), trial

    def body(self, *flat: Tensor) -> tuple[Tensor, ...]:
        """The loop's body."""
        return self.attempt(*flat)[0]


def refuse_growing(options: Options, what: str) -> None:
    """Refuse outputs whose size depends on the number of steps."""
    for name, asked in (
        ("dense=True", options.save.dense),
        ('saveat="steps"', options.save.every),
        ("trace=True", options.trace),
        ("compact=True", options.compact),
        ("progress=True", bool(options.listeners)),
    ):
        if asked:
            raise InvalidProblemError(
                f"{name} cannot be {what}, because its output grows with the number of steps; expected save times, or "
                "an eager solve"
            )


def _times(save: SavePlan, live: bool) -> Tensor:
    times = save.live if live and save.live is not None else save.times
    assert isinstance(times, Tensor)
    return times


def _lanes(x: Tensor, y: Tensor, per_sample: bool) -> Tensor:
    """``(T,)`` or ``(T, B)``, shaped to broadcast against ``(T, *state)``."""
    return x.reshape(*x.shape, *[1] * (y.dim() - (1 if per_sample else 0)))


def row_buffer(plan: Plan, save: SavePlan, y0: Tensor) -> Tensor:
    """The rows before the first step: the initial state where a save time is the start, else NaN."""
    times = _times(save, live=False)
    at_start = _lanes(times == plan.t0, y0, plan.per_sample)
    return torch.where(at_start, y0, torch.nan)


def write_rows(
    plan: Plan, save: SavePlan, carry: Carry, trial: Trial, rows: Tensor, bridges: Callable[..., Tensor] | None
) -> Tensor:
    """The rows after a step: those whose times lie in it are filled from its dense output, along ``bridges`` of the path."""
    times, step = _times(save, live=False), cast(Any, trial.step)
    after = (times - trial.t) * plan.direction > 0
    if save.live is not None or plan.live_t0 is not None:
        after = after | ((times == trial.t) & (carry.accepted == 0))
    inside = after & ((times - trial.t_end) * plan.direction <= 0) & trial.accept
    length = torch.where(inside, step.t1 - step.t0, 1.0)
    theta = torch.where(inside, (_times(save, live=True) - step.t0) / length, 0.0)
    if bridges is not None:
        value = step.between(theta, bridges(step.t0, theta, step.w))
        value = torch.where(_lanes(times == trial.t_end, carry.y, plan.per_sample), step.y, value)
        return torch.where(_lanes(inside, carry.y, plan.per_sample), value, rows)
    value = evaluate(_lanes(theta, carry.y, plan.per_sample), step.y0, step.polynomial())
    return torch.where(_lanes(inside, carry.y, plan.per_sample), value, rows)
