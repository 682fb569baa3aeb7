"""The graphs of steps, kept as the solve runs, as many as a budget of memory allows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from neuralde.solvers.core.scalars import Scalar, any_true
from neuralde.solvers.output.saving import Rows, Steps
from neuralde.solvers.stepping.attempt import Carry, Plan, Trial, without_graph

from ..shared.captured_tensors import First, let_go
from ..shared.carried import Carried, carried_at
from .budget import Budget
from .replay import Recorder, State


@dataclass(frozen=True, eq=False)
class Segment:
    """A row of steps whose graph was kept: from leaves of its own to everything that the steps gave."""

    start: int
    """The number of its first step."""
    end: int
    """The number of the first step behind it."""
    rows: Tensor | None
    """The samples that a compact solve still had."""
    state0: State
    carried0: Carried
    state: State
    carried: Carried
    emitted: list[Tensor]
    pieces: list[Tensor]
    since: int
    """Autograd's sequence number before it."""
    walked: set[Any] = field(default_factory=set)
    """The nodes of its graph, once they have been looked at."""

    def __del__(self) -> None:
        walked = self.walked
        self.__dict__.clear()  # the graph's outputs
        let_go(walked)


@dataclass(frozen=True, eq=False)
class _Place:
    """How far a solve has come, and what its steps have given so far."""

    carry: Carry
    steps: int
    emitted: int
    pieces: int


class Keeper:
    """Lets the steps of a solve be recorded by autograd until their graphs have used up a budget.

    The solve is one graph as long as nothing stands against it. It ends where a compact solve drops samples, and before a
    step with an event, whose time only a step that is taken again can differentiate; another one begins behind that place.
    When the budget is used up, it ends for good. Steps outside of all segments are taken again in the backward pass.

    Args:
        budget: what the graphs may hold beside states and parameters.
        recorder: what keeps the accepted steps.
        first: the first call of the field; the first segment begins with it, unless the time of the start is an input.
    """

    def __init__(self, budget: Budget, recorder: Recorder, first: First) -> None:
        self.budget, self.recorder, self.first = budget, recorder, first
        self.segments: list[Segment] = []
        self._open: tuple[_Place, Tensor | None, State, Carried] | None = None
        self._begun = False
        self._here: _Place | None = None
        self._plan: Plan | None = None
        self._emitted: list[Tensor] = []
        self._pieces: list[Tensor] = []

    def attach(self, rows: Rows | None, steps: Steps | None) -> None:
        """Learn where the steps' contributions are found."""
        self._emitted = [] if rows is None else rows.values
        self._pieces = [] if steps is None else steps.coefficients

    def before(self, plan: Plan, carry: Carry, rows: Tensor | None) -> Carry:
        """The carry from which the next attempt starts: in the graph of a segment, or in none."""
        if self._open is not None and rows is not self._open[1]:
            self.close()
        if self.budget.spent:
            self.close()
            torch.set_grad_enabled(False)  # until the solve's own context ends
        if self._open is None:
            carry = self._opened(plan, carry, rows)
        if self._open is None:
            self.budget.skip()
        else:
            self.budget.begin(len(self.recorder.records))
        return carry

    def after(self, trial: Trial, carry: Carry) -> None:
        """Hear of the carry behind an attempt."""
        self.budget.look(trial, carry, self._emitted, self._pieces, len(self.recorder.records))
        if self._open is None or self._here is None:
            return
        fired = trial.events is not None and trial.events.fired is not None
        logged = trial.moved and self.recorder.records[-1].inside is not None
        if fired or logged or self.budget.spent:
            self.close()  # before this step
            return
        if not trial.moved:
            return
        self.budget.add()
        self._here = self._place(carry)

    def close(self) -> None:
        """End the segment at hand where the solve stands."""
        if self._open is None:
            return
        begin, rows, state0, carried0 = self._open
        here, plan = self._here, self._plan
        assert here is not None
        assert plan is not None
        self._open = self._here = None
        for values, kept in ((self._emitted, here.emitted), (self._pieces, here.pieces)):
            values[kept:] = [x.detach() for x in values[kept:]]
        if here.steps == begin.steps:
            return
        self.segments.append(
            Segment(
                begin.steps,
                here.steps,
                rows,
                state0,
                carried0,
                (here.carry.y, *here.carry.memory),
                carried_at(plan, here.carry.costs, here.carry.t),
                self._emitted[begin.emitted : here.emitted],
                self._pieces[begin.pieces : here.pieces],
                self.first.since,
            )
        )

    def _place(self, carry: Carry) -> _Place:
        counts = len(self.recorder.records), len(self._emitted), len(self._pieces)
        return _Place(carry, *counts)

    def _opened(self, plan: Plan, carry: Carry, rows: Tensor | None) -> Carry:
        """Begin a segment here, if one may begin."""
        carry = without_graph(carry)
        events = carry.events
        stands = events is not None and any_true(events.standing)
        if not torch.is_grad_enabled() or (stands and not plan.host):
            return carry
        t = carry.t
        if events is not None and stands:
            t = leaf(torch.as_tensor(t, dtype=torch.float64, device=carry.y.device))
            carry = carry._replace(events=events._replace(live=t))
        costs0 = tuple(
            tuple(leaf(x) if cost.differentiable else x for x in state)
            for cost, state in zip(plan.costs, carry.costs, strict=True)
        )
        goes_on = not self._begun and plan.live_t0 is None
        self._begun = True
        y, cache = self.first.y0 if goes_on else carry.y.detach().requires_grad_(), carry.cache
        if cache is not None:
            cache = plan.method.known(self.first.slope if goes_on else _slope(plan, carry, t, y), y, plan.per_sample)
        memory = tuple(leaf(x) for x in carry.memory)
        carry = carry._replace(y=y, memory=memory, cache=cache, costs=costs0)
        self._plan, self._here = plan, self._place(carry)
        self._open = self._here, rows, (y, *memory), carried_at(plan, costs0, t)
        return carry


def leaf(x: Tensor) -> Tensor:
    """A copy that gradients end in, where there can be any."""
    return x.detach().requires_grad_(x.is_floating_point() or x.is_complex())


def _slope(plan: Plan, carry: Carry, t: Scalar, y: Tensor) -> Tensor:
    """The field from which the next attempt starts, in the graph."""
    stop = plan.stops.after(carry.t, plan.t1, plan.direction)
    t, _ = plan.ends(t, stop, carry.accepted == 0, False)
    return plan.stops.one_sided(plan.field, carry.t, stop, y)(t, y)
