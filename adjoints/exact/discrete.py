"""The gradient of the numerical solution, one step at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from neuralde.solvers.checks import integer
from neuralde.solvers.core.scalars import transformed
from neuralde.solvers.drivers.integrate import Result, integrate, plain

from ..base import Adjoint, Job
from ..capabilities import Capabilities
from ..shared.dependencies import opened, unrecorded
from ..shared.outputs import Cotangents, Outputs, outputs_of, result_of
from .budget import Budget
from .double_backward import gradient_again
from .recorded_start import Start
from .replay import Recorder
from .sweep import Run, Sweep

DEFAULT_BUDGET = 256 * 2**20
"""How many bytes of graphs :class:`DiscreteAdjoint` keeps where it is not told."""


class DiscreteAdjoint(Adjoint, rank=0):
    r"""Exact (discretise-then-optimise), the default; keeps as many steps' graphs as a budget allows, and takes the others again.

    The gradient is the one that :class:`DirectAdjoint` gives, to rounding, and as fast where all graphs fit. Memory: one
    state per accepted step, the kept graphs, and the graph of a single step at a time. Cost: behind the step where the
    budget is used up, the backward pass calls the field once more per stage. The steps before it are, in a joint solve
    without events, a part of the caller's graph like any other, with torch's rules for ``retain_graph`` and changes in
    place; in other solves the adjoint keeps their graphs, and frees them as a backward pass without ``retain_graph=True``
    comes to them. One with ``create_graph=True`` takes the steps that are not in the caller's graph again as one graph, so
    that derivatives of any order follow, with the memory of :class:`DirectAdjoint` for as long. No forward mode, which
    :class:`DirectAdjoint` has.

    .. math:: \lambda_{n-1} = \Bigl(\frac{\partial y_n}{\partial y_{n-1}}\Bigr)^{\!\top} \lambda_n, \qquad
              \frac{dL}{d\theta} = \sum_n \lambda_n^\top \frac{\partial y_n}{\partial \theta}, \qquad \lambda_N = \frac{dL}{dy_N}

    Args:
        budget: how many bytes the kept graphs may hold beside states and parameters; 0 keeps none. None: 256 MiB, or 0
            with ``checkpoints``. The size of a step's graph is looked at now and then, often enough that steps may grow
            fourfold in between. Solves in ``Blocks`` keep no graphs.
        checkpoints: keep at most this many states and compute the others again (recursive checkpointing): half of them
            are spread evenly over the solve as it runs, whatever its length; the rest divides the gap at hand in the
            backward pass. With n steps and about the square root of n states each step is taken two to four times in
            all; with a fixed number of states, more often, by a count that grows far more slowly than n. None keeps
            all.

    Raises:
        InvalidProblemError: ``checkpoints`` is no positive int, or ``budget`` no number of bytes from 0 on; in the
            solve, under ``torch.func`` or forward mode.
        RuntimeError: in the backward pass, where the field is called again and gives other values than in the solve.

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
        terms=("ODE", "SDE", "semilinear SDE"),
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

    def _recorder(self, waits: bool = False) -> Recorder:
        """What keeps states during the solve: half of the checkpoints, the other half is for the backward pass."""
        return Recorder(None if self.checkpoints is None else max(1, self.checkpoints // 2), waits)

    def solve(self, job: Job) -> Result:
        """Run the job; the outputs are in the graph if anything that they depend on requires grad."""
        keeps = self.budget > 0 and job.options.driver is None
        if keeps and not job.plan.per_sample and job.plan.events is None:
            return self._in_graph(job)
        opening = opened(job, goes_on=keeps)
        if isinstance(opening, Result):
            return opening
        run = Run(opening, job, self._recorder(), self.budget if keeps else None, self.checkpoints)
        outputs = _replayed(run, self.sweep)
        outcome, run.outcome = run.outcome, None
        assert outcome is not None
        return result_of(job, outcome, outputs)

    def _in_graph(self, job: Job) -> Result:
        """Run a joint job without events in the caller's graph, as far as the budget reaches."""
        done = unrecorded(job)
        if done is not None:
            return done
        recorder = self._recorder(waits=True)
        start = Start(job, Budget(self.budget, [job.y0, *job.tensors]), recorder)
        with torch.enable_grad():
            outcome = integrate(job.plan, job.y0, job.options, None, recorder, None, start)
        if start.end is None:
            return plain(outcome, job.y0)
        end, opening = start.end, start.end.opening
        live = replace(job, y0=end.carry.y)
        run = Run(opening, live, recorder, None, self.checkpoints, end.carry.memory)
        with torch.no_grad():
            run.outputs = outputs_of(job.plan, end.rest(outcome), job.y0)
        return result_of(job, end.told(outcome), end.joined(outcome, _replayed(run, self.sweep)))


def _replayed(run: Run, kind: type[Sweep]) -> Outputs:
    """The outputs of a run, in the graph of everything on which its steps depend."""
    opening = run.opening
    inputs = run.live.y0, *(run.memory or ()), *opening.inputs, *opening.carried.tensors
    return Outputs.arranged(_Replay.apply(run, kind, *inputs), run.like)


class _Replay(torch.autograd.Function):
    """The outputs of a solve, whose backward pass takes the recorded steps again, last first."""

    @staticmethod
    def forward(ctx: Any, run: Run, kind: type[Sweep], *inputs: Tensor) -> tuple[Any, ...]:
        outputs, run.outputs = run.outputs, None
        if outputs is None:
            # Here, so that this node is older than the graphs that are kept: in a backward pass that meets both, for what
            # the field has left behind, autograd then comes to them first, and finding them used up is no harm.
            outcome = run.outcome = run.integrate(inputs[0].detach())
            run.final = (outcome.carry.y, *outcome.carry.memory) if run.job.plan.method.reversible else None
            outputs = outputs_of(run.job.plan, outcome, inputs[0])
        run.recorder.attach(None)  # the backward pass needs no rows
        ctx.run, ctx.kind = run, kind
        ctx.save_for_backward(*inputs)
        ctx.set_materialize_grads(False)
        return outputs.flat

    @staticmethod
    def backward(ctx: Any, *flat: Tensor | None) -> Any:
        run, cotangents = ctx.run, Cotangents.arranged(flat, ctx.run.like)
        in_graph = torch.is_grad_enabled() or transformed()  # backward(create_graph=True), or vmap over it
        saved = ctx.saved_tensors if in_graph else ()
        with run.opening.setting.restored(run.captured):
            if in_graph:
                return None, None, *_in_graph(run, ctx.kind, saved, cotangents)
            sweep = ctx.kind(run, cotangents)
            sweep.run()
        state = sweep.state if run.memory is not None else sweep.state[:1]
        return None, None, *state, *sweep.grads, *sweep.carried


def _in_graph(run: Run, kind: type[Sweep], saved: Sequence[Tensor], cotangents: Cotangents) -> list[Tensor | None]:
    """The gradients of the function's inputs, which can be differentiated again."""
    run.segments = []  # all steps are taken again, and nothing is kept twice
    run.inputs.check()
    state = 1 + len(run.memory or ())
    memory = None if run.memory is None else tuple(saved[1:state])
    carried = run.like.filled(saved[state + len(run.copies) + len(run.captured) :])
    compare = kind(run, cotangents).compare
    grads = gradient_again(run.live, run.captured, carried, run.recorder.records, cotangents, compare, memory)
    run.parameters.check(grads[state + len(run.copies) :][: len(run.captured)])
    return grads
