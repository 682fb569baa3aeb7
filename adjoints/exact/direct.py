"""Autograd through the accepted steps."""

from __future__ import annotations

import torch

from neuralde.solvers.drivers.integrate import Outcome, Result, integrate, plain
from neuralde.solvers.stepping.attempt import start_costs

from ..base import Adjoint, Job
from ..capabilities import Capabilities
from ..shared.carried import Costs, carried_at
from ..shared.outputs import result_of
from .replay import Recorder, retake


class DirectAdjoint(Adjoint, rank=1):
    r"""Exact (discretise-then-optimise); autograd records every accepted step, so memory grows with stages times steps.

    The gradient is that of the numerical solution for the steps taken. It supports everything: double backward, forward
    mode (``torch.func.jvp``), regularizers, dense output. A joint solve is recorded as it runs; a per-sample solve, or
    one in blocks, runs first and is then taken again in the graph, step by step, so that a lane that failed, or a
    rejected step, cannot disturb the gradients.

    .. math:: \frac{dL}{d\theta} = \frac{dL}{dy_N} \sum_n \Bigl(\prod_{m > n} \frac{\partial y_{m}}{\partial y_{m-1}}\Bigr)
              \frac{\partial y_n}{\partial \theta}

    Args:
        through_steps: differentiate the choice of step sizes as well (see
            :func:`neuralde.solvers.stepping.controllers.constant_for_gradient` for why that is off).

    Raises:
        RuntimeError: in a second backward pass without ``retain_graph=True`` (torch's own error).

    When to take it:
        For forward mode and ``torch.func``, gradients through step sizes, or a field whose second call would differ
        (dropout). :class:`DiscreteAdjoint` gives the same gradient in less memory.

    References:
        Griewank, Walther: Evaluating Derivatives. 2nd edition, SIAM (2008), for reverse mode. Kidger: On Neural
        Differential Equations. PhD thesis, University of Oxford (2022), section 5.1.

    Example:
        >>> import torch, neuralde as nde
        >>> y0 = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
        >>> sol = nde.solve(nde.ODEProblem(lambda t, y: -y, y0, (0.0, 1.0)), adjoint=nde.DirectAdjoint(), rtol=1e-8)
        >>> torch.autograd.grad(sol.y1, y0)[0]
        tensor(0.3679, dtype=torch.float64)
    """

    capabilities = Capabilities(
        exact=True,
        terms=("ODE", "SDE", "semilinear SDE"),
        memory="the graph of every step",
        cost="the gradient of each step",
        events=True,
        compiles=True,
        double_backward=True,
        forward_mode=True,
        through_steps=True,
    )

    follows_calls = True

    def __init__(self, through_steps: bool = False) -> None:
        self.through_steps = through_steps

    def solve(self, job: Job) -> Result:
        """Run the job in the graph."""
        as_it_runs = not job.plan.per_sample and job.options.driver is None
        if as_it_runs or self.through_steps or not torch.is_grad_enabled():
            return plain(integrate(job.plan, job.y0, job.options), job.y0)
        return _solve_again(job)


def _solve_again(job: Job) -> Result:
    """Solve without a graph, then take the accepted steps again with one."""
    started = start_costs(job.plan, job.y0)
    return again(job, started, *recorded(job, started))


def recorded(job: Job, started: Costs) -> tuple[Recorder, Outcome]:
    """A solve without a graph, and its accepted steps."""
    recorder = Recorder()
    with torch.no_grad():
        outcome = integrate(job.plan, job.y0, job.options, None, recorder, started)
    return recorder, outcome


def again(job: Job, started: Costs, recorder: Recorder, outcome: Outcome) -> Result:
    """The recorded steps taken again in the graph, from the job's own tensors."""
    steps = retake(job, recorder.records, carried_at(job.plan, started, job.plan.t0))
    return result_of(job, outcome, steps.outputs(job.y0, job.plan.per_sample))
