"""What a finished solve gives that can be differentiated, as one record: made once, by whoever differentiates it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from neuralde.solvers.drivers.integrate import Outcome, Result
from neuralde.solvers.events.log import Logged
from neuralde.solvers.stepping.attempt import Plan

from ..base import Job
from .carried import Carried, carried_at, merged


class Outputs(NamedTuple):
    """The differentiable outputs of a solve."""

    y1: Tensor
    """The packed state at the end."""
    rows: Tensor | None
    """The rows that the steps emitted, one after another; of a continuous adjoint the states at the save times."""
    pieces: Tensor | None
    """Every step's polynomial, ``(N, degree + 1, *state)``."""
    logged: Logged | None
    """The times and states of the events, where there may be any."""
    carried: Carried
    """What the last step left beside the state."""

    @property
    def flat(self) -> tuple[Any, ...]:
        """All of it in a row, as an autograd function gives and takes it."""
        return (self.y1, self.rows, self.pieces, *(self.logged or ()), *self.carried.tensors)

    @staticmethod
    def arranged(flat: Sequence[Any], like: Carried) -> Outputs:
        """The record again, from such a row, of a solve that carries something like this."""
        y1, rows, pieces, logged, rest = _parts(flat, like)
        return Outputs(y1, rows, pieces, Logged(*logged) if logged else None, like.filled(rest))


class Cotangents(NamedTuple):
    """The cotangents of the outputs, None where one has none."""

    y1: Tensor | None
    rows: Tensor | None
    pieces: Tensor | None
    logged: Sequence[Tensor | None]
    """Those of the times and states of the events, empty in a solve without."""
    carried: Sequence[Tensor | None]
    """In the order of :attr:`Carried.tensors`."""

    @property
    def flat(self) -> tuple[Tensor | None, ...]:
        """All of them in a row, as an autograd function takes them."""
        return (self.y1, self.rows, self.pieces, *self.logged, *self.carried)

    @staticmethod
    def arranged(flat: Sequence[Tensor | None], like: Carried) -> Cotangents:
        """The record from such a row, of a solve that carries something like this."""
        return Cotangents(*_parts(flat, like))


def _parts(flat: Sequence[Any], like: Carried) -> tuple[Any, Any, Any, Sequence[Any], Sequence[Any]]:
    y1, rows, pieces, *rest = flat
    count = 0 if like.clock is None else len(Logged._fields)  # both are there in a solve with events
    return y1, rows, pieces, rest[:count], rest[count:]


def outputs_of(plan: Plan, outcome: Outcome, y0: Tensor) -> Outputs:
    """The outputs of a solve that was run without a graph, as tensors of their own, which an autograd function may give."""
    rows, steps, log = outcome.rows, outcome.steps, outcome.log
    return Outputs(
        y1=outcome.carry.y.clone(),
        rows=torch.cat(rows.values) if rows is not None and rows.values else None,
        pieces=torch.stack(steps.coefficients) if steps is not None and steps.coefficients else None,
        logged=None if log is None else Logged(*(x.clone() for x in log.flat(y0))),
        carried=carried_at(plan, outcome.carry.costs, outcome.carry.t).map(torch.clone),
    )


def result_of(job: Job, outcome: Outcome, outputs: Outputs, assembled: bool = False) -> Result:
    """The result of a solve whose outputs are in a graph that the solve itself did not make.

    ``assembled`` says that the rows are the states at the save times already.
    """
    ys = outputs.rows
    if outcome.rows is not None and not assembled:
        ys = outcome.rows.assemble(job.y0, [] if outputs.rows is None else [outputs.rows])
    costs = merged(job.plan, outputs.carried.costs, outcome.carry.costs)
    return Result(outputs.y1, ys, costs, outputs.pieces, outcome, outputs.logged)
