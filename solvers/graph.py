"""The loop as one graph: the only place that knows about compilation.

Under ``torch.compile`` the same ``attempt`` and ``settle`` run inside a loop operator with tensors for clocks and
buffers of fixed size for what is saved. The operator is private in torch, so it is called in one function here.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .attempt import RUNNING, Carry, Plan, Trial, attempt, settle
from .errors import InvalidProblemError
from .integrate import Options, Outcome
from .loop import start
from .saving import SavePlan
from .scalars import real_dtype


def compiling() -> bool:
    """Whether ``torch.compile`` is tracing this call."""
    return torch.compiler.is_compiling()


def integrate_in_graph(plan: Plan, y0: Tensor, options: Options) -> tuple[Outcome, Tensor | None]:
    """Solve inside a graph; gives the outcome and the states at the save times, differentiable by autograd."""
    _refuse(options)
    carry = start(plan, y0, options.dt)
    anchor = _anchor(y0, carry.slope if carry.slope is not None else plan.field(plan.t0, y0))
    carry = carry._replace(
        y=carry.y + anchor,
        slope=None if carry.slope is None else carry.slope + anchor,
        costs=tuple(tuple(_anchored(x, anchor) for x in state) for state in carry.costs),
    )
    ys = None if options.save.times is None else _buffer(plan, options.save, y0) + anchor
    shape = _Shape(carry, ys)

    def going(*flat: Tensor) -> Tensor:
        return (shape.carry(flat).status == RUNNING).any()

    def body(*flat: Tensor) -> tuple[Tensor, ...]:
        now = shape.carry(flat)
        trial = attempt(plan, now)
        rows = None if ys is None else _write(plan, options.save, now, trial, flat[-1])
        return shape.flat(settle(plan, now, trial), rows)

    out = _loop(going, body, shape.flat(carry, ys))
    return Outcome(shape.carry(out), None, None, None), None if ys is None else out[-1]


def _loop(
    going: Callable[..., Tensor], body: Callable[..., tuple[Tensor, ...]], carry: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    from torch._higher_order_ops.while_loop import while_loop

    return while_loop(going, body, carry)


def _refuse(options: Options) -> None:
    wrong = [
        name
        for name, asked in (
            ("dense=True", options.save.dense),
            ('saveat="steps"', options.save.every),
            ("trace=True", options.trace),
            ("compact=True", options.compact),
            ("progress=True", bool(options.listeners)),
        )
        if asked
    ]
    if wrong:
        raise InvalidProblemError(
            f"{wrong[0]} cannot be compiled, because its output grows with the number of steps; expected save times, or an "
            "eager solve"
        )


def _anchor(y0: Tensor, slope: Tensor) -> Tensor:
    """A zero that depends on the state and on everything the field depends on.

    The loop operator differentiates a carry between iterations only if it requires grad from the start; a buffer of
    plain zeros would lose its gradient without a word.
    """
    touched = y0 + slope
    return torch.where(torch.isfinite(touched), 0.0 * touched, 0.0).sum()


def _anchored(x: Tensor, anchor: Tensor) -> Tensor:
    if not x.is_floating_point() and not x.is_complex():
        return x
    return x + (anchor if x.is_complex() else anchor.real).to(x.dtype)


class _Shape:
    """How a carry lies in the operator's flat tuple of tensors."""

    def __init__(self, carry: Carry, ys: Tensor | None) -> None:
        self.with_slope = carry.slope is not None
        self.controls = len(carry.control)
        self.costs = [len(state) for state in carry.costs]

    def flat(self, carry: Carry, ys: Tensor | None) -> tuple[Tensor, ...]:
        """The tensors one after another; copies, because the operator refuses aliases."""
        slope = () if carry.slope is None else (carry.slope,)
        costs = [x for state in carry.costs for x in state]
        counts = (carry.status, carry.steps, carry.accepted, carry.nfe)
        tensors = (carry.t, carry.h, carry.y, *slope, *carry.control, *costs, *counts)
        return tuple(x.clone() for x in (tensors if ys is None else (*tensors, ys)))

    def carry(self, flat: tuple[Tensor, ...]) -> Carry:
        """The carry again."""
        rest = iter(flat)
        t, h, y = next(rest), next(rest), next(rest)
        slope = next(rest) if self.with_slope else None
        control = tuple([next(rest) for _ in range(self.controls)])
        costs = tuple([tuple([next(rest) for _ in range(count)]) for count in self.costs])
        return Carry(t, h, y, slope, control, costs, next(rest), next(rest), next(rest), next(rest))


def _times(save: SavePlan, live: bool) -> Tensor:
    times = save.live if live and save.live is not None else save.times
    assert isinstance(times, Tensor)
    return times


def _lanes(x: Tensor, y: Tensor, per_sample: bool) -> Tensor:
    """``(T,)`` or ``(T, B)``, shaped to broadcast against ``(T, *state)``."""
    return x.reshape(*x.shape, *[1] * (y.dim() - (1 if per_sample else 0)))


def _buffer(plan: Plan, save: SavePlan, y0: Tensor) -> Tensor:
    """The rows before the first step: the initial state where a save time is the start, else NaN."""
    times = _times(save, live=False)
    at_start = _lanes(times == plan.t0, y0, plan.per_sample)
    return torch.where(at_start, y0, torch.nan)


def _write(plan: Plan, save: SavePlan, carry: Carry, trial: Trial, rows: Tensor) -> Tensor:
    """The rows after a step: those whose times lie in it are filled from its dense output."""
    times, step = _times(save, live=False), trial.step
    after = (times - trial.t) * plan.direction > 0
    if save.live is not None or plan.live_t0 is not None:
        after = after | ((times == trial.t) & (carry.accepted == 0))
    inside = after & ((times - trial.t_end) * plan.direction <= 0) & trial.accept
    length = torch.where(inside, step.t1 - step.t0, 1.0)
    theta = torch.where(inside, (_times(save, live=True) - step.t0) / length, 0.0)
    theta = _lanes(theta.to(real_dtype(carry.y)), carry.y, plan.per_sample)
    value = torch.zeros_like(step.y)
    for coefficient in reversed(step.polynomial()):
        value = (value + coefficient) * theta
    return torch.where(_lanes(inside, carry.y, plan.per_sample), step.y0 + value, rows)
