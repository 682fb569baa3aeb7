"""A whole solve of a packed problem, without a view on how it is differentiated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from ..core.scalars import Scalar, transformed
from ..events.dense_search import DenseSearch
from ..events.log import Log, Logged
from ..output.saving import Rows, SavePlan, Steps, Tracer
from ..stepping.attempt import Carry, Plan, without_graph
from .blocks import Blocks, run_blocks
from .eager import Listener, Recording, run, start


@dataclass(frozen=True, kw_only=True, eq=False)
class Options:
    """What a solve is asked for beside its result."""

    dt: Scalar | None = None
    save: SavePlan
    trace: bool = False
    compact: bool = False
    listeners: tuple[Listener, ...] = ()
    driver: Blocks | None = None


@dataclass(frozen=True, eq=False)
class Outcome:
    """Everything a finished solve left behind, still packed."""

    carry: Carry
    rows: Rows | None
    steps: Steps | None
    tracer: Tracer | None
    log: Log | None = None
    masked: int = 0
    """Calls of the field in attempts of a block that found every lane arrived."""

    def detached(self) -> Outcome:
        """The same as constants, of a solve that was recorded."""
        return replace(
            self,
            carry=without_graph(self.carry),
            rows=None if self.rows is None else self.rows.detached(),
            steps=None if self.steps is None else self.steps.detached(),
            log=None if self.log is None else self.log.detached(),
        )


@dataclass(frozen=True, eq=False)
class Result:
    """A finished solve's differentiable outputs, packed, and the rest of what it left behind."""

    y1: Tensor
    ys: Tensor | None
    """The states at the save times, where there are any."""
    costs: tuple[tuple[Tensor, ...], ...]
    coefficients: Tensor | None
    outcome: Outcome
    logged: Logged | None = None
    """The times and states of the events, where there may be any."""


class Recorded(Protocol):
    """A listener that wants to know what the accepted steps are asked to emit."""

    def attach(self, rows: Rows | None, log: Log | None) -> Listener:
        """Learn where the requests are found, before the first attempt."""


class Kept(Recording, Protocol):
    """A recording that wants to know what the accepted steps give."""

    def attach(self, rows: Rows | None, steps: Steps | None) -> None:
        """Learn where their contributions are found, before the first attempt."""


def integrate(
    plan: Plan,
    y0: Tensor,
    options: Options,
    slope: Tensor | None = None,
    recorder: Recorded | None = None,
    costs: tuple[tuple[Tensor, ...], ...] | None = None,
    kept: Kept | None = None,
) -> Outcome:
    """Solve; under ``torch.no_grad`` or not, as the caller has it.

    Args:
        plan: the problem and how to step it.
        y0: the packed initial state.
        options: what to keep.
        slope: ``f(t0, y0)`` where the caller has it already; counted as a call all the same.
        recorder: a further listener, called after the library's own.
        costs: the reductions before the first step, where the caller has started them (they may draw random numbers).
        kept: what has steps recorded by autograd; for solves that no driver runs.
    """
    save, samples = options.save, y0.shape[0] if plan.per_sample else None
    rows = Rows(plan, save, y0) if save.every or save.times is not None else None
    steps = Steps(save.dense, samples) if save.every or save.dense else None
    tracer = Tracer(plan.method.has_stiffness, samples) if options.trace else None
    log = None
    if plan.events is not None:
        followed = recorder is None and kept is None
        later = followed and not (plan.events.cuts or torch.is_grad_enabled() or transformed())
        log = Log(samples, DenseSearch(plan, samples, later) if plan.events.logs else None, graph=followed)
    last = recorder.attach(rows, log) if recorder is not None else None
    own = [listener for listener in (rows, steps, tracer, log, last) if listener is not None]
    if kept is not None:
        kept.attach(rows, steps)
    carry, masked = drive(plan, y0, options, [*own, *options.listeners], slope, costs, kept)
    if log is not None:
        log.finish()
    return Outcome(carry, rows, steps, tracer, log, masked)


def drive(
    plan: Plan,
    y0: Tensor,
    options: Options,
    listeners: Sequence[Listener] = (),
    slope: Tensor | None = None,
    costs: tuple[tuple[Tensor, ...], ...] | None = None,
    recording: Recording | None = None,
) -> tuple[Carry, int]:
    """Attempt steps, by the driver that the options name, until no lane is running; the carry, and masked calls."""
    if options.driver is not None:
        return run_blocks(plan, y0, options.dt, options.driver, listeners, slope, costs)
    return run(plan, start(plan, y0, options.dt, slope, costs), listeners, options.compact, recording), 0


def plain(outcome: Outcome, y0: Tensor) -> Result:
    """The result of a solve whose outputs are in the graph already, or need no graph."""
    steps, rows = outcome.steps, outcome.rows
    coefficients = torch.stack(steps.coefficients) if steps is not None and steps.coefficients else None
    ys = rows.assemble(y0) if rows is not None else None
    events = None if outcome.log is None else outcome.log.flat(y0)
    return Result(outcome.carry.y, ys, outcome.carry.costs, coefficients, outcome, events)
