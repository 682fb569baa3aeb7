"""The gradient of the numerical solution, one step at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from neuralde.solvers.checks import integer
from neuralde.solvers.core.scalars import transformed
from neuralde.solvers.drivers.integrate import Result

from ..base import Adjoint, Job
from ..capabilities import Capabilities
from ..shared.dependencies import opened
from ..shared.outputs import Cotangents, Outputs, outputs_of, result_of
from .double_backward import gradient_again
from .replay import Recorder
from .sweep import Run, Sweep

DEFAULT_BUDGET = 256 * 2**20
"""How many bytes of graphs :class:`DiscreteAdjoint` keeps where it is not told."""


class DiscreteAdjoint(Adjoint, rank=0):
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
            fourfold in between. Solves in ``Blocks`` keep no graphs.
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
        keeps = self.budget > 0 and job.options.driver is None
        opening = opened(job, goes_on=keeps)
        if isinstance(opening, Result):
            return opening
        run = Run(opening, job, self._recorder(), self.budget if keeps else None, self.checkpoints)
        flat = _Replay.apply(run, self.sweep, job.y0, *opening.inputs, *opening.carried.tensors)
        outcome, run.outcome = run.outcome, None
        assert outcome is not None
        return result_of(job, outcome, Outputs.arranged(flat, run.like))


class _Replay(torch.autograd.Function):
    """A solve whose backward pass takes the recorded steps again, last first."""

    @staticmethod
    def forward(ctx: Any, run: Run, kind: type[Sweep], y0: Tensor, *inputs: Tensor) -> tuple[Any, ...]:
        outcome = run.outcome = run.integrate(y0.detach())
        run.final = (outcome.carry.y, *outcome.carry.memory) if run.job.plan.method.reversible else None
        run.recorder.attach(None)  # the backward pass needs no rows
        ctx.run, ctx.kind = run, kind
        ctx.save_for_backward(y0, *inputs)
        ctx.set_materialize_grads(False)
        return outputs_of(run.job.plan, outcome, y0).flat

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
        return None, None, sweep.state[0], *sweep.grads, *sweep.carried


def _in_graph(run: Run, kind: type[Sweep], saved: Sequence[Tensor], cotangents: Cotangents) -> list[Tensor | None]:
    """The gradients of the function's inputs, which can be differentiated again."""
    run.segments = []  # all steps are taken again, and nothing is kept twice
    run.inputs.check()
    carried = run.like.filled(saved[1 + len(run.copies) + len(run.captured) :])
    compare = kind(run, cotangents).compare
    grads = gradient_again(run.live, run.captured, carried, run.recorder.records, cotangents, compare)
    run.parameters.check(grads[1 + len(run.copies) :][: len(run.captured)])
    return grads
