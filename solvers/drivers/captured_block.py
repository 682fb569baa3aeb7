"""A block of attempts as a captured function of tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from ..core.scalars import Scalar
from ..errors import InvalidProblemError
from ..methods.base import Cache as StepCache
from ..methods.base import Memory, Step
from ..stepping.attempt import Carry, Plan, Trial
from .block import CARRIED, JUDGED, Attempts, Reading, block, packed, unpacked
from .cuda_graph import Cache, Captured, Layout, signature

Costs = tuple[tuple[Tensor, ...], ...]


class Wants(NamedTuple):
    """What of a block is looked at outside it."""

    numbers: bool
    """The numbers of every lane, on the host."""
    states: bool
    """Each attempt's states and clocks."""
    polynomials: bool
    stiffness: bool


class Kept(Step):
    """What a captured block has kept of a step."""

    def __init__(
        self, ends: tuple[Scalar, Scalar], states: tuple[Any, Any], calls: Scalar, pieces: Any, stiffness: Any
    ) -> None:
        self.t0, self.t1 = ends
        self.y0, self.y = states
        self.calls, self._pieces, self._stiffness = calls, pieces, stiffness

    def polynomial(self) -> list[Tensor]:
        """The dense output's coefficients."""
        return list(self._pieces.unbind(0))

    @property
    def stiffness(self) -> Tensor:
        """The stiffness estimate."""
        return self._stiffness

    @property
    def retry(self) -> StepCache:
        """Not kept."""
        raise self._gone("retry")

    @property
    def cache(self) -> StepCache:
        """Not kept."""
        raise self._gone("cache")

    @property
    def error(self) -> Tensor:
        """Not kept."""
        raise self._gone("error")

    def _gone(self, name: str) -> InvalidProblemError:
        return InvalidProblemError(f"driver: a block with cuda_graph=True keeps no {name}; expected cuda_graph=False")


def captured_block(
    plan: Plan, carry: Carry, size: int, wants: Wants, cache: Cache
) -> Callable[[Carry], tuple[Attempts, Carry, Reading]]:
    """The captured block of a plan whose clock is in tensors: from the cache, or captured now."""
    field = plan.field
    given = (carry, clock_of(plan), field.args)
    layout = Layout(given)
    tensors = [x.detach() for x in layout.tensors(given)]
    key = ["block", size, wants, *plan_key(plan, layout, tensors)]
    captured = cache.get(key, lambda: _CapturedBlock(plan, layout, tensors, size, wants))
    return lambda carry: captured(layout.tensors((carry, clock_of(plan), field.args)))


def plan_key(plan: Plan, layout: Layout, tensors: list[Tensor]) -> list[Any]:
    """Everything but the inputs' values that a captured function of a plan depends on."""
    field = plan.field
    key = [plan.method, plan.controller, plan.stops.ts, plan.stops.jumps, plan.max_steps]
    key += [plan.per_sample, plan.costs, field.packing, layout.spec, layout.constants]
    return [*key, *signature(tensors, *field.functions, layout.constants, plan.costs)]


def clock_of(plan: Plan) -> tuple[Any, ...]:
    """What a captured function of a plan is given anew each time: its interval, and its tolerances."""
    return plan.t0, plan.t1, plan.direction, plan.live_t0, plan.live_t1, plan.rtol, plan.atol


def set_to(plan: Plan, clock: tuple[Any, ...], args: tuple[Any, ...]) -> Plan:
    """The plan with another clock and other arguments."""
    names = ("t0", "t1", "direction", "live_t0", "live_t1", "rtol", "atol")
    return replace(plan, field=plan.field.rebind(args), **dict(zip(names, clock, strict=True)))


class _CapturedBlock:
    """A block's attempts from the tensors that it depends on."""

    def __init__(self, plan: Plan, inputs: Layout, tensors: list[Tensor], size: int, wants: Wants) -> None:
        self.size, self.wants, self.per_sample = size, wants, plan.per_sample
        self.outputs: Layout | None = None

        def function(*tensors: Tensor) -> list[Tensor]:
            with torch.no_grad():
                carry, clock, args = inputs.tree(tensors)
                kept = _block(plan, carry, clock, args, size, wants)
            self.outputs = Layout(kept)
            return self.outputs.tensors(kept)

        self.captured = Captured(function, tensors)

    def __call__(self, tensors: list[Tensor]) -> tuple[Attempts, Carry, Reading]:
        assert self.outputs is not None
        kept: _KeptBlock = self.outputs.tree(self.captured(tensors))
        attempts = [self._attempt(kept, index) for index in range(self.size)]
        return attempts, kept.after, unpacked(kept.packed.cpu().numpy(), self.size, self.wants.numbers)

    def _attempt(self, kept: _KeptBlock, index: int) -> tuple[Carry, Trial]:
        lane = {name: None if x is None else x[index] for name, x in kept.clocks.items()}
        ys = (None, None) if kept.ys is None else (kept.ys[index], kept.ys[index + 1])
        pieces = None if kept.pieces is None else kept.pieces[index]
        stiffness = None if kept.stiffness is None else kept.stiffness[index]
        costs = tuple(tuple(x[index] for x in state) for state in kept.costs)
        memory = tuple(x[index] for x in kept.memory)
        step = Kept((lane["t"], lane["t_end"]), ys, kept.calls[index], pieces, stiffness)
        counts = (lane["status"], lane["steps"], lane["accepted"], lane["nfe"])
        before = Carry(lane["t"], lane["h"], ys[0], memory, None, (), costs, *counts)  # type: ignore[arg-type]
        return before, Trial(step, lane["t"], lane["t_end"], lane["ratio"], lane["accept"], lane["next"], (), None)


class _KeptBlock(NamedTuple):
    """What leaves the captured function; attempts are stacked, so that few tensors are copied out."""

    after: Carry
    packed: Tensor
    clocks: dict[str, Tensor | None]
    ys: Tensor | None
    memory: Memory
    costs: Costs
    pieces: Tensor | None
    stiffness: Tensor | None
    calls: tuple[Scalar, ...]


def _block(
    plan: Plan, carry: Carry, clock: tuple[Any, ...], args: tuple[Any, ...], size: int, wants: Wants
) -> _KeptBlock:
    """A block of the plan with this clock and these arguments."""
    plan = set_to(plan, clock, args)

    def beside(step: Step) -> tuple[Tensor | None, Tensor | None]:
        pieces = torch.stack(step.polynomial()) if wants.polynomials else None
        return pieces, step.stiffness if wants.stiffness else None

    attempts, after, extras = block(plan, carry, size, beside)
    states, trials = [*(before for before, _ in attempts), after], [trial for _, trial in attempts]
    clocks: dict[str, Tensor | None] = dict.fromkeys((*CARRIED, *JUDGED))
    ys, memory, costs = None, cast(Memory, ()), cast(Costs, ())
    if wants.states:
        clocks = {name: torch.stack([getattr(state, name) for state in states]) for name in CARRIED}
        clocks |= {key: torch.stack([getattr(x, name) for x in trials]) for key, name in JUDGED.items()}
        # Where a step was accepted its end is the next state, and the others are not read.
        ys = torch.stack([state.y for state in states])
        memory = tuple(torch.stack(list(xs)) for xs in zip(*(state.memory for state in states), strict=True))
        costs = tuple(
            tuple(torch.stack(list(xs)) for xs in zip(*(state.costs[place] for state in states), strict=True))
            for place in range(len(plan.costs))
        )
    pieces, stiffness = (None if xs[0] is None else torch.stack(list(xs)) for xs in zip(*extras, strict=True))
    calls = tuple(trial.step.calls for trial in trials)
    return _KeptBlock(
        after, packed(attempts, after, wants.numbers), clocks, ys, memory, costs, pieces, stiffness, calls
    )
