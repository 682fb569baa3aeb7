"""The first steps of a solve, which autograd itself records, until their graphs have used up a budget of memory."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from neuralde.solvers.drivers.integrate import Outcome
from neuralde.solvers.output.saving import Rows, Steps
from neuralde.solvers.stepping.attempt import Carry, Plan, Trial, without_graph

from ..base import Job
from ..shared.dependencies import Opening, opened_behind
from ..shared.outputs import Outputs
from .budget import Budget
from .replay import Recorder


@dataclass(frozen=True, eq=False)
class End:
    """Where the recorded steps of a solve end, and the others begin."""

    carry: Carry
    """In the graph."""
    emitted: int
    """How many pieces of saved rows the steps before have given."""
    pieces: int
    """How many polynomials."""
    opening: Opening
    """On what the steps behind it depend."""

    def rest(self, outcome: Outcome) -> Outcome:
        """What the steps behind it have left, without a graph."""
        outcome, rows, steps = outcome.detached(), outcome.rows, outcome.steps
        return replace(
            outcome,
            rows=None if rows is None else rows.holding([x.detach() for x in rows.values[self.emitted :]]),
            steps=None if steps is None else steps.holding([x.detach() for x in steps.coefficients[self.pieces :]]),
        )

    def told(self, outcome: Outcome) -> Outcome:
        """The whole solve's outcome without a graph, with the call of the field counted that :attr:`opening` has made."""
        outcome = outcome.detached()
        return replace(outcome, carry=outcome.carry._replace(nfe=outcome.carry.nfe + 1))

    def joined(self, outcome: Outcome, rest: Outputs) -> Outputs:
        """The outputs of the whole solve: what the steps before have given, and what those behind give in another graph."""
        rows = [] if outcome.rows is None else outcome.rows.values[: self.emitted]
        pieces = [] if outcome.steps is None else outcome.steps.coefficients[: self.pieces]
        if rest.rows is not None:
            rows = [*rows, rest.rows]
        begun = [torch.stack(pieces)] if pieces else []
        if rest.pieces is not None:
            begun.append(rest.pieces)
        return rest._replace(rows=torch.cat(rows) if rows else None, pieces=torch.cat(begun) if begun else None)


class Start:
    """Lets a joint solve without events run in the caller's graph until its steps have used up a budget.

    There it stands as under :class:`DirectAdjoint`: nothing has to be searched for, and nothing is taken again. Behind the
    place where the budget ends, steps are taken without a graph and recorded.

    Args:
        job: the job.
        budget: what the graphs may hold.
        recorder: what keeps the steps behind that place.
    """

    def __init__(self, job: Job, budget: Budget, recorder: Recorder) -> None:
        self.job, self.budget, self.recorder = job, budget, recorder
        self.end: End | None = None
        self._plan, self._here = job.plan, (0, 0)
        self._carry: Carry | None = None
        self._emitted: list[Tensor] = []
        self._pieces: list[Tensor] = []

    def attach(self, rows: Rows | None, steps: Steps | None) -> None:
        """Learn where the steps' contributions are found."""
        self._emitted = [] if rows is None else rows.values
        self._pieces = [] if steps is None else steps.coefficients

    def before(self, plan: Plan, carry: Carry, rows: Tensor | None) -> Carry:
        """The carry from which the next attempt starts: in the graph, or in none."""
        if self.end is None:
            self._carry, self._here = carry, (len(self._emitted), len(self._pieces))
            if not self.budget.spent:
                self.budget.begin(carry.accepted)
                return carry
            self._stop()
        elif self._carry is None:
            return carry
        self._carry = None
        return without_graph(carry)

    def after(self, trial: Trial, carry: Carry) -> None:
        """Hear of the carry behind an attempt."""
        if self.end is not None:
            return
        self.budget.look(trial, carry, self._emitted, self._pieces, carry.accepted)
        if self.budget.spent:  # one attempt too late; or freed, and the backward pass must say whose fault that is
            before = self._carry
            self._stop()
            assert before is not None
            self.recorder(self._plan, before, trial)
        elif trial.moved:
            self.budget.add()

    def _stop(self) -> None:
        """Go on without a graph from where the last attempt began."""
        carry = self._carry
        assert carry is not None
        with torch.enable_grad():
            opening = opened_behind(self.job, carry)
        self.end = End(carry, *self._here, opening)
        for values, kept in zip((self._emitted, self._pieces), self._here, strict=True):
            values[kept:] = [x.detach() for x in values[kept:]]
        self.recorder.begin(self._here[0])
        torch.set_grad_enabled(False)  # until the solve's own context ends
