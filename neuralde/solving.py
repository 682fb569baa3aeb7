"""The one entry point: it knows solvers and adjoints; they do not know it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from neuralde.adjoints import Adjoint, DirectAdjoint, DiscreteAdjoint
from neuralde.adjoints.base import Job
from neuralde.adjoints.shared.call_context import uncached_casts
from neuralde.solvers import (
    Blocks,
    CDEProblem,
    Controller,
    Event,
    InvalidProblemError,
    Method,
    ODEProblem,
    ScheduledEvent,
    SDEProblem,
    SemilinearSDEProblem,
    Solution,
    SteadyStateMethod,
    SteadyStateProblem,
)
from neuralde.solvers.core.scalars import transformed
from neuralde.solvers.drivers.graph import compiling, integrate_in_graph
from neuralde.solvers.drivers.integrate import Result
from neuralde.solvers.front.assemble import assemble, judged
from neuralde.solvers.front.kinds import entry_for
from neuralde.solvers.front.prepare import prepare

from .listeners import announce, watched
from .options import Options
from .progress import ProgressBar
from .regularizers.base import Regularizer
from .steady import solve_steady


def solve(
    problem: ODEProblem | CDEProblem | SDEProblem | SemilinearSDEProblem | SteadyStateProblem,
    solver: Method | SteadyStateMethod | None = None,
    *,
    rtol: Any = 1e-3,
    atol: Any = 1e-6,
    dt: float | None = None,
    saveat: Any = None,
    saveat_side: str = "left",
    dense: bool = False,
    events: Event | ScheduledEvent | Sequence[Event | ScheduledEvent] | None = None,
    controller: Controller | None = None,
    adjoint: Adjoint | None = None,
    per_sample: bool = False,
    compact: bool = False,
    regularizers: Sequence[Regularizer] = (),
    trace: bool = False,
    seed: int | Tensor | None = None,
    path: Any = None,
    max_steps: int = 10_000,
    driver: Blocks | None = None,
    progress: bool = False,
    throw: bool = True,
) -> Solution:
    r"""Solve an initial value problem, or find a steady state.

    A step from :math:`y_n` to :math:`y_{n+1}` with error estimate :math:`e` is accepted when the root mean square of
    :math:`e_i / (\text{atol} + \text{rtol} \max(|y_{n,i}|, |y_{n+1,i}|))` is at most 1: over the whole state, or with
    ``per_sample`` over each sample. The last step always ends exactly at ``t1``. For ODEs :math:`|y_{n+1,i}|` counts up to
    the largest entry of :math:`y_n` (unless that is 0), so that a step far too long does not excuse its own error.

    A :class:`SteadyStateProblem` ends where :math:`\|J^{-1} f(y)\| \le \text{atol} + \text{rtol}\|y\|` (each sample on its
    own with ``per_sample``); of the options it takes ``rtol``, ``atol``, ``dt``, ``controller``, ``adjoint``,
    ``per_sample``, ``max_steps`` and ``throw``.

    Args:
        problem: what to solve, an :class:`ODEProblem`, :class:`CDEProblem`, :class:`SDEProblem`, :class:`SemilinearSDEProblem`
            or :class:`SteadyStateProblem`.
        solver: the method. If None, :class:`Tsit5` for an ODE; for an SDE one that is right for its noise and calculus. For
            a steady state also :class:`DynamicSS`, :class:`Newton` or :class:`Anderson`.
        rtol: relative tolerance, a number or a 0-d tensor (whose new value does not recompile a compiled solve); or one for
            each entry of the state: an array that broadcasts against ``y0``, or a pytree like it of numbers and arrays.
        atol: absolute tolerance, in the units of the state; likewise. Entries of different units want one each.
        dt: the first step (adaptive; None: chosen from the field) or the step (fixed), positive, in units of time. Of an
            SDE with neither ``solver`` nor ``controller`` every step has this length, as in torchsde; a ``solver`` that
            adapts its steps only begins with it, unless ``controller=ConstantStep()``.
        saveat: None saves the end only; 1-D times (a tensor or list, in the order of integration, inside ``tspan``);
            ``"steps"`` saves the start and every accepted step; with ``per_sample`` also ``(T, B)`` times.
            An SDE's rows between the ends of a step follow the path there: they have the law of the process and
            the method's strong order, and steps do not change with them.
        saveat_side: which state the row of a time shows at which an event changes the state, and ``sol(t)`` there: the
            one before (``"left"``) or after it (``"right"``, as pharmacometric and SBML tools have it). Times within a
            few units of rounding of a scheduled one, in the coarser dtype of the two, are that time. What is scheduled
            for ``t0`` is in the row of ``t0`` on either side, what is scheduled for ``t1`` does not happen in this solve.
        dense: keep the solution between the steps, for ``sol(t)`` and ``sol.derivative(t)``. An SDE's ``sol(t)`` follows the
            path, and has no derivative.
        events: what to look out for, an :class:`Event` or :class:`ScheduledEvent` or a list of them; what happened is in
            ``sol.events``.
        controller: step-size control; a PI controller, or constant steps for methods without error estimate.
        adjoint: how to differentiate; :class:`DiscreteAdjoint`, exact. For a steady state :class:`ImplicitAdjoint`.
        per_sample: the first dimension counts independent systems, each with its own clock, step size, error norm and
            status.
        compact: with ``per_sample``, samples that have finished leave the calls of the field. The field then sees fewer
            rows, so what tells samples apart must be in the state.
        regularizers: the solver's cost as differentiable numbers, in ``sol.regularization``.
        trace: keep time, step size, error, stiffness and verdict of every attempt.
        seed: of an SDE's noise, an int or a 0-d int64 tensor. None draws one from torch's global generator; it is in
            ``sol.seed``. With steps of a fixed ``dt`` the path also depends on ``dt``; give one ``path`` to several
            solves to compare them.
        path: the noise itself instead of a seed: a :class:`BrownianPath` that covers ``tspan``, shaped like the noise.
            The path that was used is in ``sol.path``.
        max_steps: the largest number of attempts (per sample).
        driver: what runs the attempts: None, one at a time; ``Blocks()``, several for each host sync, for a GPU.
        progress: show a progress bar (needs tqdm).
        throw: raise on failure; otherwise ``sol.status`` tells.

    Returns:
        A :class:`Solution`.

    Raises:
        InvalidProblemError: an argument is wrong; the message names it, what was passed and what is accepted.
        SolveError: the solve failed (``MaxStepsError``, ``StepSizeError``, ``NonFiniteError``, ``ConvergenceError``);
            its ``.solution`` holds what was computed before.

    When to take it:
        For one problem at a time. :class:`neuralde.NeuralODE` and :class:`neuralde.NeuralSDE` hold a field and the
        options as a layer, and compile the solve; :func:`neuralde.solve_ensemble` sums up many paths of an SDE without
        keeping them.

    Example:
        >>> import torch, neuralde as nde
        >>> problem = nde.ODEProblem(lambda t, y, k: -k * y, torch.ones(2), (0.0, 1.0), args=(torch.tensor(3.0),))
        >>> sol = nde.solve(problem, rtol=1e-6, atol=1e-6)
        >>> sol.y1, sol.status.name
        (tensor([0.0498, 0.0498]), 'SUCCESS')
    """
    asked = Options(
        rtol=rtol,
        atol=atol,
        dt=dt,
        saveat=saveat,
        saveat_side=saveat_side,
        dense=dense,
        events=events,
        controller=controller,
        adjoint=adjoint,
        per_sample=per_sample,
        compact=compact,
        regularizers=regularizers,
        trace=trace,
        seed=seed,
        path=path,
        max_steps=max_steps,
        driver=driver,
        progress=progress,
        throw=throw,
    )
    return (entry_for(problem, WAYS) or solve_in_time)(problem, solver, asked)


def solve_in_time(problem: Any, solver: Any, asked: Options) -> Solution:
    """Integrate over the problem's interval: check, step as the adjoint has it, and show what came of it."""
    asked.check_kinds()
    if asked.regularizers:
        problem, asked = asked.for_problem(problem)
    adjoint = _default_adjoint() if asked.adjoint is None else asked.adjoint
    ready = prepare(problem, solver, asked, adjoint.through_steps)
    functions = ready.plan.field.functions
    job, peaks = watched(Job(plan=ready.plan, y0=ready.y0, options=ready.keep, f=functions, args=problem.args))
    result = _run(adjoint, job, asked.progress)
    solution = assemble(ready, result)
    announce(problem, ready.method, solution, asked.rtol, asked.atol, peaks)
    return judged(solution, ready, result, asked.throw)


WAYS: dict[type, Callable[[Any, Any, Options], Solution]] = {SteadyStateProblem: solve_steady}
"""How problems are solved that have no interval of time, by their class."""


def _run(adjoint: Adjoint, job: Job, progress: bool) -> Result:
    """The steps, by the adjoint that will differentiate them."""
    if torch.is_grad_enabled():
        adjoint.check(job)
    if compiling():
        return _in_graph(adjoint, job)
    with nullcontext() if adjoint.follows_calls else uncached_casts(job.y0.device):
        return _with_progress(adjoint, job) if progress else adjoint.solve(job)


def _in_graph(adjoint: Adjoint, job: Job) -> Result:
    """A compiled solve: autograd differentiates the loop exactly, one step at a time, from the states between."""
    if not adjoint.capabilities.compiles or adjoint.through_steps:
        raise InvalidProblemError(
            f"adjoint: {adjoint.name} cannot be compiled; expected None, which is exact in a graph"
        )
    outcome, ys = integrate_in_graph(job.plan, job.y0, job.options)
    return Result(outcome.carry.y, ys, outcome.carry.costs, None, outcome)


def _with_progress(adjoint: Adjoint, job: Job) -> Result:
    bar, done = ProgressBar(), False
    try:
        result = adjoint.solve(replace(job, options=replace(job.options, listeners=(*job.options.listeners, bar))))
        done = True
        return result
    finally:
        bar.close(done)


def _default_adjoint() -> Adjoint:
    """The default is exact either way; inside a function transform (vmap, jvp, ...) only autograd itself reaches."""
    return DirectAdjoint() if transformed() else DiscreteAdjoint()
