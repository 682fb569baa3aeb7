"""The gradient of the numerical solution, one step at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from neuralde.solvers.checks import integer
from neuralde.solvers.core.scalars import transformed
from neuralde.solvers.core.torch_private import is_legacy_batchedtensor, keeps_graph
from neuralde.solvers.drivers.integrate import Outcome, integrate
from neuralde.solvers.events.log import Logged
from neuralde.solvers.functions.severed_gradients import sequence_number

from ..base import Adjoint, Job, Result
from ..capabilities import Capabilities
from ..shared.call_context import is_freed
from ..shared.captured_tensors import Unchanged
from ..shared.carried import Costs, merged, replayable, replayed
from ..shared.dependencies import Opening, opened
from .captured_step import CapturedSteps
from .checkpoints import first_checkpoint
from .double_backward import gradient_again
from .kept_graphs import Keeper, Segment, leaf
from .replay import Record, Recorder, Replayed, advance, following, refuse_lost, replay

DEFAULT_BUDGET = 256 * 2**20
"""How many bytes of graphs :class:`DiscreteAdjoint` keeps where it is not told."""


class DiscreteAdjoint(Adjoint):
    r"""Exact (discretise-then-optimise), the default; keeps as many steps' graphs as a budget allows, and takes the others again.

    The gradient is the one that :class:`DirectAdjoint` gives, to rounding, and as fast where all graphs fit. Memory: one
    state per accepted step, the kept graphs, and the graph of a single step at a time. Cost: behind the step where the
    budget is used up, the backward pass calls the field once more per stage. Kept graphs are freed as the backward pass
    comes to them, unless it runs with ``retain_graph=True``. One with ``create_graph=True`` takes all steps again as
    one graph, so that derivatives of any order follow, with the memory of :class:`DirectAdjoint` for as long. No forward
    mode, which :class:`DirectAdjoint` has.

    .. math:: \lambda_{n-1} = \Bigl(\frac{\partial y_n}{\partial y_{n-1}}\Bigr)^{\!\top} \lambda_n, \qquad
              \frac{dL}{d\theta} = \sum_n \lambda_n^\top \frac{\partial y_n}{\partial \theta}, \qquad \lambda_N = \frac{dL}{dy_N}

    Args:
        budget: how many bytes the kept graphs may hold beside states and parameters; 0 keeps none. None: 256 MiB, or 0
            with ``checkpoints``. The size of a step's graph is looked at now and then, often enough that steps may grow
            fourfold in between. Solves in ``Blocks`` and with ``Reversible`` methods keep no graphs.
        checkpoints: keep at most this many states and compute the others again (recursive checkpointing): half of them
            are spread evenly over the solve as it runs, whatever its length; the rest divides the gap at hand in the
            backward pass. With n steps and about the square root of n states each step is taken two to four times in
            all; with a fixed number of states, more often, by a count that grows far more slowly than n. None keeps
            all.

    Raises:
        InvalidProblemError: ``checkpoints`` is no positive int, or ``budget`` no number of bytes from 0 on; in the
            solve, under ``torch.func`` or forward mode.
        RuntimeError: in the backward pass, where the field gives other values than in the solve.

    When to take it:
        First, and for most models. ``checkpoints`` for solves too long to keep a state of every step;
        :class:`DirectAdjoint` for forward mode; :class:`ForwardSensitivity` for few parameters and long solves; a
        continuous adjoint only where the gradient of the equation is the point.

    References:
        Griewank, Walther: Algorithm 799: revolve. ACM Trans. Math. Softw. 26 (2000), for the checkpoints. Stumm,
        Walther: New algorithms for optimal online checkpointing. SIAM J. Sci. Comput. 32 (2010), where the number of
        steps is not known before, as here.

    Example:
        >>> import torch, neuralde as nde
        >>> y0 = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
        >>> problem = nde.ODEProblem(lambda t, y: -y, y0, (0.0, 1.0))
        >>> sol = nde.solve(problem, adjoint=nde.DiscreteAdjoint(checkpoints=4), rtol=1e-8)
        >>> torch.autograd.grad(sol.y1, y0)[0]
        tensor(0.3679, dtype=torch.float64)
    """

    capabilities = Capabilities(
        exact=True,
        terms=("ODE", "SDE"),
        memory="a state per step, or `checkpoints` states, and graphs of steps within `budget`",
        cost="the gradient of each step, and again each step whose graph was not kept",
        events=True,
        compiles=True,
        double_backward=True,
    )

    def __init__(self, checkpoints: int | None = None, budget: int | None = None) -> None:
        expected = "a positive int, or None to keep all"
        self.checkpoints = None if checkpoints is None else integer(checkpoints, "checkpoints", 1, expected)
        usual = DEFAULT_BUDGET if checkpoints is None else 0
        self.budget = usual if budget is None else integer(budget, "budget", 0, "a number of bytes, 0 or more, or None")

    @property
    def sweep(self) -> type[Sweep]:
        """The backward pass."""
        return Sweep

    def _recorder(self) -> Recorder:
        """What keeps states during the solve: half of the budget, the other half is for the backward pass."""
        return Recorder(None if self.checkpoints is None else max(1, self.checkpoints // 2))

    def solve(self, job: Job) -> Result:
        """Run the job; the outputs are in the graph if anything that they depend on requires grad."""
        keeps = self.budget > 0 and job.options.driver is None and not job.plan.method.reversible
        opening = opened(job, goes_on=keeps)
        if isinstance(opening, Result):
            return opening
        run = _Run(self, job, opening, self._recorder(), keeps)
        y1, flat, coefficients, *rest = _Replay.apply(run, job.y0, *opening.inputs, *opening.states)
        outcome, run.outcome = run.outcome, None
        assert outcome is not None
        return assembled(job, outcome, y1, flat, coefficients, rest)


@dataclass(eq=False)
class _Run:
    """What the forward pass leaves for the backward pass. Holds no output, so that nothing refers to itself."""

    adjoint: DiscreteAdjoint
    live: Job
    opening: Opening
    recorder: Recorder
    keeps: bool
    outcome: Outcome | None = None
    final: Tensor | None = None

    def __post_init__(self) -> None:
        self.job, self.copies, self.captured = self.opening.job, self.opening.copies, self.opening.captured
        self.slope, self.started = self.opening.slope, self.opening.started
        self.like = replayed(self.job.plan, self.started, self.job.plan.t0)
        self.inputs, self.parameters = Unchanged([self.job.y0, *self.job.tensors]), Unchanged(self.captured)
        self.segments: list[Segment] = []

    def integrate(self, y0: Tensor) -> Outcome:
        """The solve, whose steps autograd records as far as the budget reaches."""
        if not self.keeps:
            return integrate(self.job.plan, y0, self.job.options, self.slope, self.recorder, self.started)
        assert self.opening.first is not None
        own = [y0, *self.job.tensors, *self.captured]
        keeper = Keeper(self.adjoint.budget, self.recorder, self.opening.first, own)
        with torch.enable_grad():
            outcome = integrate(self.job.plan, y0, self.job.options, self.slope, self.recorder, self.started, keeper)
            keeper.close()
        self.segments = keeper.segments
        self.opening = replace(self.opening, first=None)
        return keeper.without_graphs(outcome)


class _Replay(torch.autograd.Function):
    """A solve whose backward pass takes the recorded steps again, last first."""

    @staticmethod
    def forward(ctx: Any, run: _Run, y0: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        job = run.job
        outcome = run.outcome = run.integrate(y0.detach())
        run.final = outcome.carry.y if job.plan.method.reversible else None
        run.recorder.attach(None)  # the rows will hold this function's output, and nothing may refer to itself
        ctx.run = run
        ctx.save_for_backward(y0, *inputs)
        ctx.set_materialize_grads(False)
        flat = torch.cat(outcome.rows.values) if outcome.rows is not None and outcome.rows.values else y0.new_empty(0)
        pieces = outcome.steps.coefficients if outcome.steps is not None else []
        coefficients = torch.stack(pieces) if pieces else y0.new_empty(0)
        events = [] if outcome.log is None else list(outcome.log.flat(y0.detach()))
        costs = [x.clone() for state in replayed(job.plan, outcome.carry.costs, outcome.carry.t) for x in state]
        return outcome.carry.y.clone(), flat, coefficients, *events, *costs

    @staticmethod
    def backward(ctx: Any, y1: Tensor | None, flat: Tensor | None, pieces: Tensor | None, *rest: Tensor | None) -> Any:
        run, count = ctx.run, 0 if ctx.run.job.plan.events is None else len(Logged._fields)
        in_graph = torch.is_grad_enabled() or transformed()  # backward(create_graph=True), or vmap over it
        saved = ctx.saved_tensors if in_graph else ()
        with run.opening.setting.restored(run.captured):
            if in_graph:
                return None, *_in_graph(run, saved, (y1, flat, pieces, *rest))
            sweep = run.adjoint.sweep(run, y1, flat, pieces, rest[:count], rest[count:])
            sweep.run()
        return None, sweep.state, *sweep.grads, *sweep.costs


def _in_graph(run: _Run, saved: Sequence[Tensor], cotangents: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The gradients of the function's inputs, which can be differentiated again."""
    run.segments = []  # all steps are taken again, and nothing is kept twice
    sweep = run.adjoint.sweep(run, None, None, None, (), ())
    run.inputs.check()
    costs = _unflatten(saved[1 + len(run.copies) + len(run.captured) :], run.like)
    grads = gradient_again(run.live, run.captured, costs, run.recorder.records, cotangents, sweep.compare)
    run.parameters.check(grads[1 + len(run.copies) :][: len(run.captured)])
    return grads


class Sweep:
    """The backward pass: cotangents of the state and the reductions, pulled back through one step after another."""

    def __init__(
        self,
        run: _Run,
        y1: Tensor | None,
        flat: Tensor | None,
        pieces: Tensor | None,
        events: Sequence[Tensor | None],
        costs: Sequence[Tensor | None],
    ) -> None:
        job = run.job
        self.plan, self.save = replayable(job.plan), job.options.save
        self.run_data, self.flat, self.pieces = run, flat, pieces
        self.state = torch.zeros_like(job.y0) if y1 is None else y1
        given = (y1, flat, pieces, *events, *costs)
        self.batched = any(x is not None and is_legacy_batchedtensor(x) for x in given)
        self.costs = list(costs)
        self.like = [x for state in run.like for x in state]
        self.events = _Rest(events)
        self.inputs = [*run.copies, *run.captured]
        self.grads: list[Tensor | None] = [None] * len(self.inputs)
        self.extra: dict[int, Tensor] = {}
        self.offset = 0 if flat is None else len(flat)
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
        self.run_data.parameters.check(self.grads[len(self.run_data.copies) :])

    def finish(self) -> None:
        """What a subclass checks at the start."""

    def _as_recorded(self) -> bool:
        """Whether kept graphs serve: the tensors are as they were (if not, the steps tell which of them matter)."""
        return self.run_data.parameters.same and not (self.plan.per_sample and self.batched)

    def _segment(self, segment: Segment) -> None:
        """Pull everything back through the kept graph of a row of steps; through the steps, where that goes wrong."""
        before = self.state, list(self.costs), self.offset
        given = [segment.y0, *_flat(segment.costs0), *self.run_data.copies]
        whole = Replayed(segment.y, segment.costs, None, None, None)
        refuse_lost(whole, given, self.run_data.captured, segment.since)
        outputs, cotangents = self._paired_segment(segment)
        leaves = _flat(segment.costs0)
        wanted = [segment.y0, *(x for x in leaves if x.requires_grad), *self.inputs]
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
            self.state, self.costs, self.offset = before
            for index in range(segment.end - 1, segment.start - 1, -1):
                self._step(index)
            return
        self._put_state(segment.rows, got.pop(0))
        for place, x in enumerate(leaves):
            self._put_cost(place, segment.rows, got.pop(0) if x.requires_grad else None)
        self._add(got)

    def _paired_segment(self, segment: Segment) -> tuple[list[Tensor], list[Tensor]]:
        """A segment's outputs that have a cotangent, and the cotangents."""
        rows = segment.rows
        pairs: list[tuple[Tensor, Tensor | None]] = [(segment.y, self.state if rows is None else self.state[rows])]
        for x, cotangent in zip(_flat(segment.costs), self.costs, strict=True):
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
        y = self.state_at(index).detach().requires_grad_()
        costs = tuple(tuple(leaf(x) for x in state) for state in record.costs)
        with torch.enable_grad():
            since = sequence_number()
            again = replay(self.plan, self.save, record, y, costs)
        flat_costs = [x for state in costs for x in state]
        refuse_lost(again, [y, *flat_costs, *self.run_data.copies], self.run_data.captured, since)
        self.compare(index, again.y)
        outputs, cotangents = self._paired(index, again)
        wanted = [y, *(x for x in flat_costs if x.requires_grad), *self.inputs]
        got: list[Tensor | None] = [None] * len(wanted)
        if outputs:
            got = list(torch.autograd.grad(outputs, wanted, cotangents, allow_unused=True))
        self._put_state(record.rows, got.pop(0))
        for place, x in enumerate(flat_costs):
            if x.requires_grad:
                self._put_cost(place, record.rows, got.pop(0))
        self._add(got)

    def _captured_step(self, captured: CapturedSteps, index: int, record: Record) -> None:
        emitted = None
        if record.request is not None and self.flat is not None:
            count = len(record.request.rows) if record.request.theta is not None or self.plan.per_sample else 1
            self.offset -= count
            emitted = self.flat[self.offset : self.offset + count]
        piece = None if self.pieces is None or not self.save.dense else self.pieces[index]
        y = self.state_at(index).detach()
        grad, costs, got = captured.pull(record, y, record.costs, self.state, self.costs, emitted, piece)
        self._put_state(None, grad)
        for place, cotangent in enumerate(costs):
            self._put_cost(place, None, cotangent)
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
        pairs: list[tuple[Tensor, Tensor | None]] = [(again.y, self.state if rows is None else self.state[rows])]
        for x, cotangent in zip((x for state in again.costs for x in state), self.costs, strict=True):
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

    def probed(self) -> int | None:
        """A step from the middle of the solve whose result was kept."""
        run = self.run_data
        recorded = {index for segment in run.segments for index in range(segment.start, segment.end)}
        kept = [index - 1 for index in run.recorder.states if index > 0 and index - 1 not in recorded]
        return kept[len(kept) // 2] if kept else None

    def compare(self, index: int, again: Tensor) -> None:
        """Refuse to go on where the field is not the function that it was in the solve; looks at one of the steps."""
        if index != self.probe:
            return
        again = again.detach()
        recorder = self.run_data.recorder
        record, after = recorder.records[index], recorder.records[index + 1]
        before = following(self.state_at(index), record.rows, after.rows)
        again, first = following(again, record.rows, after.rows), recorder.states[index + 1]
        change, noise = torch.linalg.vector_norm(first - before), torch.linalg.vector_norm(first)
        allowed = 1e-3 * change + 1e3 * torch.finfo(first.dtype).eps * noise
        if torch.linalg.vector_norm(again - first) > allowed:
            self.run_data.parameters.check()
            raise RuntimeError(
                "f: gave other values in the backward pass, where DiscreteAdjoint calls it again, than in the solve: it "
                "is random (dropout, say), or something that it uses was replaced in between; expected a function of "
                "(t, y, *args), backward() before the change, or DirectAdjoint(), which does not call it again"
            )

    def _put_state(self, rows: Tensor | None, grad: Tensor | None) -> None:
        if rows is None:
            self.state = torch.zeros_like(self.state) if grad is None else grad
        else:
            self.state = self.state.index_copy(0, rows, torch.zeros_like(self.state[rows]) if grad is None else grad)

    def _put_cost(self, place: int, rows: Tensor | None, grad: Tensor | None) -> None:
        before = self.costs[place]
        if rows is None:
            self.costs[place] = grad
        elif before is not None or grad is not None:
            like = self.like[place]
            before = torch.zeros_like(like) if before is None else before
            self.costs[place] = before.index_copy(0, rows, torch.zeros_like(like[rows]) if grad is None else grad)

    def state_at(self, index: int) -> Tensor:
        """The state before a step: kept, or computed again from the last kept one before it."""
        recorder, limit = self.run_data.recorder, self.run_data.adjoint.checkpoints
        if index in recorder.states:
            return recorder.states[index]
        assert limit is not None
        self.extra = {place: y for place, y in self.extra.items() if place <= index}
        place = max([index - index % recorder.stride, *self.extra])
        y = self.extra[place] if place in self.extra else recorder.states[place]
        free = limit - len(recorder.states) - len(self.extra)
        while place < index:
            target = place + first_checkpoint(index - place + 1, free) if free else index
            y, place = self._advance(y, place, target), target
            if free:
                self.extra[place], free = y, free - 1
        return y

    def _advance(self, y: Tensor, first: int, last: int) -> Tensor:
        """The state before the step ``last``, from the one before ``first``."""
        records = self.run_data.recorder.records
        with torch.no_grad():
            for index in range(first, last):
                y = following(advance(self.plan, records[index], y), records[index].rows, records[index + 1].rows)
        return y


def assembled(
    job: Job, outcome: Outcome, y1: Tensor, flat: Tensor, coefficients: Tensor, rest: Sequence[Tensor]
) -> Result:
    """The result of a solve whose pieces came out of an autograd function."""
    if outcome.rows is not None:
        outcome.rows.values = [flat] if outcome.rows.requests else []
    ys = None if outcome.rows is None else outcome.rows.assemble(outcome.rows.flat(job.y0), job.y0)
    count = 0 if outcome.log is None else len(Logged._fields)
    events = Logged(*rest[:count]) if count else None
    live = _unflatten(rest[count:], replayed(job.plan, outcome.carry.costs, outcome.carry.t))
    return Result(y1, ys, merged(job.plan, live, outcome.carry.costs), coefficients, outcome, events)


class _Rest:
    """Cotangents of outputs to which the steps have contributed one after another, taken from the end."""

    def __init__(self, cotangents: Sequence[Tensor | None]) -> None:
        self.cotangents = cotangents

    def take(self, count: int) -> list[Tensor | None]:
        """The last ``count`` rows of each."""
        taken = [None if x is None else x[len(x) - count :] for x in self.cotangents]
        self.cotangents = [None if x is None else x[: len(x) - count] for x in self.cotangents]
        return taken


def _flat(costs: Costs) -> list[Tensor]:
    return [x for state in costs for x in state]


def _needed(pairs: Sequence[tuple[Tensor, Tensor | None]]) -> tuple[list[Tensor], list[Tensor]]:
    """The outputs that have a graph and a cotangent, and the cotangents."""
    kept = [(x, cotangent) for x, cotangent in pairs if cotangent is not None and x.requires_grad]
    return [x for x, _ in kept], [cotangent for _, cotangent in kept]


def _unflatten(flat: Sequence[Tensor], like: Costs) -> Costs:
    rest = iter(flat)
    return tuple(tuple(next(rest) for _ in state) for state in like)
