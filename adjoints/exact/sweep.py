"""The backward pass of the exact adjoints: cotangents pulled back through one step after another, last first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from neuralde.solvers.core.torch_private import is_legacy_batchedtensor, keeps_graph, sequence_number
from neuralde.solvers.drivers.integrate import Outcome, integrate

from ..base import Job
from ..shared.call_context import is_freed
from ..shared.captured_tensors import Unchanged, refuse_unknown
from ..shared.carried import carried_at, replayable
from ..shared.dependencies import Opening
from ..shared.outputs import Cotangents, Outputs
from .budget import Budget
from .captured_step import CapturedSteps
from .checkpoints import first_checkpoint
from .kept_graphs import Keeper, Segment, leaf
from .replay import Record, Recorder, Replayed, State, advance, first_state, following, refuse_lost, replay


@dataclass(eq=False)
class Run:
    """What the forward pass leaves for the backward pass. Holds no output, so that nothing refers to itself."""

    opening: Opening
    live: Job
    """The job with the caller's tensors."""
    recorder: Recorder
    budget: int | None
    """How many bytes of graphs to keep; None where autograd does not follow the solve at all."""
    checkpoints: int | None
    """How many states to keep; None for all."""
    memory: State | None = None
    """The method's in front of the first recorded step; None where the method starts it at ``y0``."""
    final: State | None = None

    def __post_init__(self) -> None:
        self.job, self.copies, self.captured = self.opening.job, self.opening.copies, self.opening.captured
        self.slope, self.started = self.opening.slope, self.opening.started
        self.like = carried_at(self.job.plan, self.started, self.job.plan.t0)
        self.inputs, self.parameters = Unchanged([self.job.y0, *self.job.tensors]), Unchanged(self.captured)
        self.segments: list[Segment] = []
        self.outcome: Outcome | None = None
        """What the solve leaves, between the forward pass and the adjoint that waits for it."""
        self.outputs: Outputs | None = None
        """Those of a solve that has been run already."""

    def integrate(self, y0: Tensor) -> Outcome:
        """The solve, whose steps autograd records as far as the budget reaches."""
        if self.budget is None:
            return integrate(self.job.plan, y0, self.job.options, self.slope, self.recorder, self.started)
        assert self.opening.first is not None
        budget = Budget(self.budget, [y0, *self.job.tensors, *self.captured])
        keeper = Keeper(budget, self.recorder, self.opening.first)
        with torch.enable_grad():
            outcome = integrate(self.job.plan, y0, self.job.options, self.slope, self.recorder, self.started, keeper)
            keeper.close()
        self.segments = keeper.segments
        self.opening = replace(self.opening, first=None)
        return outcome.detached()


class Sweep:
    """The backward pass: cotangents of the state and the reductions, pulled back through one step after another."""

    def __init__(self, run: Run, cotangents: Cotangents) -> None:
        job = run.job
        self.plan, self.save = replayable(job.plan), job.options.save
        self.run_data, self.flat, self.pieces = run, cotangents.rows, cotangents.pieces
        with torch.no_grad():
            y0, memory = job.y0.detach(), run.memory
            self.start = first_state(self.plan, y0) if memory is None else (y0, *(x.detach() for x in memory))
        self.state: list[Tensor] = [torch.zeros_like(x) for x in self.start]
        """The cotangents of the state and of the method's memory."""
        if cotangents.y1 is not None:
            self.state[0] = cotangents.y1
        self.batched = any(x is not None and is_legacy_batchedtensor(x) for x in cotangents.flat)
        self.carried: list[Tensor | None] = [*cotangents.carried]
        self.like = run.like.tensors
        self.events = _Rest(cotangents.logged)
        self.inputs = [*run.copies, *run.captured]
        self.grads: list[Tensor | None] = [None] * len(self.inputs)
        self.extra: dict[int, State] = {}
        self.offset = 0 if self.flat is None else len(self.flat)
        self.probe = self.probed()
        self.captured = self._captured()

    def run(self) -> None:
        """Pull everything back to the start."""
        self.run_data.inputs.check()
        segments = list(self.run_data.segments) if self._as_recorded() else []
        self.keep = keeps_graph()
        if not self.keep:
            self.run_data.segments = []
        index = len(self.run_data.recorder.records)
        while index:
            if segments and segments[-1].end == index:
                segment = segments.pop()
                index = segment.start
                self._segment(segment)
            else:
                index -= 1
                self._step(index)
        self.finish()
        self._begin()
        self.run_data.parameters.check(self.grads[len(self.run_data.copies) :])

    def finish(self) -> None:
        """What a subclass checks at the start."""

    def _begin(self) -> None:
        """Pull the cotangent of the method's first memory back to the initial state."""
        if len(self.state) == 1 or self.run_data.memory is not None:
            return
        y = self.run_data.job.y0.detach().requires_grad_()
        with torch.enable_grad():
            since = sequence_number()
            _, *memory = first_state(self.plan, y)
        refuse_unknown(memory, [y, *self.run_data.copies], self.run_data.captured, since)
        outputs, cotangents = _needed(list(zip(memory, self.state[1:], strict=True)))
        if outputs:
            first, *got = torch.autograd.grad(outputs, [y, *self.inputs], cotangents, allow_unused=True)
            self.state[0] = self.state[0] if first is None else self.state[0] + first
            self._add(got)

    def _as_recorded(self) -> bool:
        """Whether kept graphs serve: the tensors are as they were (if not, the steps tell which of them matter)."""
        return self.run_data.parameters.same and not (self.plan.per_sample and self.batched)

    def _segment(self, segment: Segment) -> None:
        """Pull everything back through the kept graph of a row of steps; through the steps, where that goes wrong."""
        before = list(self.state), list(self.carried), self.offset
        leaves = segment.carried0.tensors
        given = [*segment.state0, *leaves, *self.run_data.copies]
        whole = Replayed(segment.state, segment.carried, None, None, None)
        refuse_lost(whole, given, self.run_data.captured, segment.since, segment.walked)
        outputs, cotangents = self._paired_segment(segment)
        states = [x for x in segment.state0 if x.requires_grad]
        wanted = [*states, *(x for x in leaves if x.requires_grad), *self.inputs]
        got: list[Tensor | None] = [None] * len(wanted)
        gone = False
        try:
            if outputs:
                found = torch.autograd.grad(outputs, wanted, cotangents, retain_graph=self.keep, allow_unused=True)
                got = list(found)
        except RuntimeError as error:  # A loss of what the field has kept of its calls may have used the graph up.
            gone = is_freed(error)
            if not gone:
                raise
        # A lane that has failed, or a rejected step, may have left NaN where the graph multiplies by zero.
        if gone or (self.plan.per_sample and not all(bool(x.isfinite().all()) for x in got if x is not None)):
            self.state, self.carried, self.offset = before
            for index in range(segment.end - 1, segment.start - 1, -1):
                self._step(index)
            return
        self._put_state(segment.rows, [got.pop(0) if x.requires_grad else None for x in segment.state0])
        for place, x in enumerate(leaves):
            self._put_carried(place, segment.rows, got.pop(0) if x.requires_grad else None)
        self._add(got)

    def _paired_segment(self, segment: Segment) -> tuple[list[Tensor], list[Tensor]]:
        """A segment's outputs that have a cotangent, and the cotangents."""
        rows = segment.rows
        pairs: list[tuple[Tensor, Tensor | None]] = self._with_cotangents(segment.state, rows)
        for x, cotangent in zip(segment.carried.tensors, self.carried, strict=True):
            pairs.append((x, cotangent if cotangent is None or rows is None else cotangent[rows]))
        if self.flat is not None:
            for x in reversed(segment.emitted):
                self.offset -= len(x)
                pairs.append((x, self.flat[self.offset : self.offset + len(x)]))
        if self.pieces is not None and segment.pieces:
            pairs.extend(zip(segment.pieces, self.pieces[segment.start : segment.end], strict=True))
        return _needed(pairs)

    def _captured(self) -> CapturedSteps | None:
        """What takes steps without Python, where the solve was driven by captured blocks."""
        job, driver = self.run_data.job, self.run_data.job.options.driver
        if driver is None or not driver.cuda_graph:
            return None
        return CapturedSteps(job, self.plan, driver, self.run_data.copies, self.run_data.captured)

    def _step(self, index: int) -> None:
        record = self.run_data.recorder.records[index]
        # A few steps are looked at more closely, which a captured function cannot do.
        if self.captured is not None and index not in (0, len(self.run_data.recorder.records) - 1, self.probe):
            if self.captured.fits(record):
                self._captured_step(self.captured, index, record)
                return
        before = tuple([leaf(x) for x in self.state_at(index)])
        carried = record.carried.map(leaf)
        with torch.enable_grad():
            since = sequence_number()
            again = replay(self.plan, self.save, record, before, carried)
        leaves = carried.tensors
        refuse_lost(again, [*before, *leaves, *self.run_data.copies], self.run_data.captured, since)
        self.compare(index, again.state)
        outputs, cotangents = self._paired(index, again)
        states = [x for x in before if x.requires_grad]
        wanted = [*states, *(x for x in leaves if x.requires_grad), *self.inputs]
        got: list[Tensor | None] = [None] * len(wanted)
        if outputs:
            got = list(torch.autograd.grad(outputs, wanted, cotangents, allow_unused=True))
        self._put_state(record.rows, [got.pop(0) if x.requires_grad else None for x in before])
        for place, x in enumerate(leaves):
            if x.requires_grad:
                self._put_carried(place, record.rows, got.pop(0))
        self._add(got)

    def _captured_step(self, captured: CapturedSteps, index: int, record: Record) -> None:
        emitted = None
        if record.request is not None and self.flat is not None:
            count = len(record.request.rows) if record.request.theta is not None or self.plan.per_sample else 1
            self.offset -= count
            emitted = self.flat[self.offset : self.offset + count]
        piece = None if self.pieces is None or not self.save.dense else self.pieces[index]
        before = tuple(x.detach() for x in self.state_at(index))
        grad, carried, got = captured.pull(record, before, record.carried, self.state, self.carried, emitted, piece)
        self._put_state(None, grad)
        for place, cotangent in enumerate(carried):
            self._put_carried(place, None, cotangent)
        self._add(got)

    def _add(self, got: Sequence[Tensor | None]) -> None:
        """Add a step's share of the inputs' gradients."""
        self.grads = [
            new if old is None else old if new is None else old + new for old, new in zip(self.grads, got, strict=True)
        ]

    def _paired(self, index: int, again: Replayed) -> tuple[list[Tensor], list[Tensor]]:
        """The step's outputs that have a cotangent, and the cotangents."""
        record = self.run_data.recorder.records[index]
        rows = record.rows
        pairs = self._with_cotangents(again.state, rows)
        for x, cotangent in zip(again.carried.tensors, self.carried, strict=True):
            pairs.append((x, cotangent if cotangent is None or rows is None else cotangent[rows]))
        if again.emitted is not None and self.flat is not None:
            self.offset -= len(again.emitted)
            pairs.append((again.emitted, self.flat[self.offset : self.offset + len(again.emitted)]))
        if again.logged is not None:
            pairs.extend(zip(again.logged, self.events.take(len(again.logged.times)), strict=True))
        if again.coefficients is not None and self.pieces is not None:
            piece = self.pieces[index]
            pairs.append((again.coefficients, piece if rows is None else piece[:, rows]))
        return _needed(pairs)

    def _with_cotangents(self, state: State, rows: Tensor | None) -> list[tuple[Tensor, Tensor | None]]:
        return [(x, g if rows is None else g[rows]) for x, g in zip(state, self.state, strict=True)]

    def probed(self) -> int | None:
        """A step from the middle of the solve whose result was kept."""
        run = self.run_data
        recorded = {index for segment in run.segments for index in range(segment.start, segment.end)}
        kept = [index - 1 for index in run.recorder.states if index > 0 and index - 1 not in recorded]
        return kept[len(kept) // 2] if kept else None

    def compare(self, index: int, again: State) -> None:
        """Refuse to go on where the field is not the function that it was in the solve; looks at one of the steps."""
        if index != self.probe:
            return
        recorder = self.run_data.recorder
        record, after = recorder.records[index], recorder.records[index + 1]
        pair = self.state_at(index)[:1], again[:1]
        before, now = (following(x, record.rows, after.rows)[0].detach() for x in pair)
        first = recorder.states[index + 1][0]
        change, noise = torch.linalg.vector_norm(first - before), torch.linalg.vector_norm(first)
        allowed = 1e-3 * change + 1e3 * torch.finfo(first.dtype).eps * noise
        if torch.linalg.vector_norm(now - first) > allowed:
            self.run_data.parameters.check()
            raise RuntimeError(
                "f: gave other values in the backward pass, where DiscreteAdjoint calls it again, than in the solve: it "
                "is random (dropout, say), or something that it uses was replaced in between; expected a function of "
                "(t, y, *args), backward() before the change, or DirectAdjoint(), which does not call it again"
            )

    def _put_state(self, rows: Tensor | None, grads: Sequence[Tensor | None]) -> None:
        for place, (old, grad) in enumerate(zip(self.state, grads, strict=True)):
            if rows is None:
                self.state[place] = torch.zeros_like(old) if grad is None else grad
            else:
                self.state[place] = old.index_copy(0, rows, torch.zeros_like(old[rows]) if grad is None else grad)

    def _put_carried(self, place: int, rows: Tensor | None, grad: Tensor | None) -> None:
        before = self.carried[place]
        if rows is None:
            self.carried[place] = grad
        elif before is not None or grad is not None:
            like = self.like[place]
            before = torch.zeros_like(like) if before is None else before
            self.carried[place] = before.index_copy(0, rows, torch.zeros_like(like[rows]) if grad is None else grad)

    def state_at(self, index: int) -> State:
        """The state before a step: kept, or computed again from the last kept one before it."""
        recorder, limit = self.run_data.recorder, self.run_data.checkpoints
        if index in recorder.states:
            return recorder.states[index]
        assert limit is not None
        self.extra = {place: state for place, state in self.extra.items() if place <= index}
        place = max([index - index % recorder.stride, *self.extra])
        state = self.extra[place] if place in self.extra else recorder.states[place]
        free = limit - len(recorder.states) - len(self.extra)
        while place < index:
            target = place + first_checkpoint(index - place + 1, free) if free else index
            state, place = self._advance(state, place, target), target
            if free:
                self.extra[place], free = state, free - 1
        return state

    def _advance(self, state: State, first: int, last: int) -> State:
        """The state before the step ``last``, from the one before ``first``."""
        records = self.run_data.recorder.records
        with torch.no_grad():
            for index in range(first, last):
                after = advance(self.plan, records[index], state)
                state = following(after, records[index].rows, records[index + 1].rows)
        return state


class _Rest:
    """Cotangents of outputs to which the steps have contributed one after another, taken from the end."""

    def __init__(self, cotangents: Sequence[Tensor | None]) -> None:
        self.cotangents = cotangents

    def take(self, count: int) -> list[Tensor | None]:
        """The last ``count`` rows of each."""
        taken = [None if x is None else x[len(x) - count :] for x in self.cotangents]
        self.cotangents = [None if x is None else x[: len(x) - count] for x in self.cotangents]
        return taken


def _needed(pairs: Sequence[tuple[Tensor, Tensor | None]]) -> tuple[list[Tensor], list[Tensor]]:
    """The outputs that have a graph and a cotangent, and the cotangents."""
    kept = [(x, cotangent) for x, cotangent in pairs if cotangent is not None and x.requires_grad]
    return [x for x, _ in kept], [cotangent for _, cotangent in kept]
