"""The one entry point: it knows solvers and adjoints; they do not know it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from neuralde.adjoints import Adjoint, DirectAdjoint, DiscreteAdjoint
from neuralde.adjoints.base import Job, Result
from neuralde.adjoints.shared.call_context import uncached_casts
from neuralde.solvers import (
    Blocks,
    Controller,
    Event,
    InvalidProblemError,
    Method,
    ODEProblem,
    ScheduledEvent,
    SDEProblem,
    Solution,
    Stats,
    Status,
    SteadyStateMethod,
    SteadyStateProblem,
    Tsit5,
)
from neuralde.solvers.core.packing import Packing
from neuralde.solvers.core.scalars import choose, transformed
from neuralde.solvers.drivers.graph import compiling, integrate_in_graph
from neuralde.solvers.drivers.integrate import Options
from neuralde.solvers.events.crossings import start_changes
from neuralde.solvers.events.event import Fired
from neuralde.solvers.events.log import Logged, logged
from neuralde.solvers.front.plan import check_samples, prepare_options, prepare_plan
from neuralde.solvers.front.precision import check_products, check_size
from neuralde.solvers.front.stochastic import default_controller, stochastic_method
from neuralde.solvers.methods.stochastic.base import SDEMethod
from neuralde.solvers.stepping.attempt import Plan
from neuralde.solvers.stepping.stiffness import stiff_advice

from .listeners import announce, watched
from .progress import ProgressBar
from .regularizers.base import Regularizer
from .steady import solve_steady

# As ints: in a graph a tensor is never equal to a member of an enumeration (torch 2.13).
_SUCCESS, _EVENT = int(Status.SUCCESS), int(Status.EVENT)


def solve(
    problem: ODEProblem | SDEProblem | SteadyStateProblem,
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
        problem: what to solve, an :class:`ODEProblem`, :class:`SDEProblem` or :class:`SteadyStateProblem`.
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
    if isinstance(problem, SteadyStateProblem):
        return solve_steady(
            problem,
            solver,
            rtol=rtol,
            atol=atol,
            dt=dt,
            saveat=saveat,
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
    if isinstance(problem, SDEProblem):
        controller = default_controller(solver, dt, controller)
    solver = _solver_for(problem, solver, seed, path)
    _check_kinds(controller, adjoint, driver, regularizers)
    for regularizer in regularizers:
        given, problem = problem, regularizer.prepare(problem)
        saveat = regularizer.save_times(saveat, given, problem)
    assert not isinstance(problem, SteadyStateProblem)
    adjoint = _default_adjoint() if adjoint is None else adjoint

    if per_sample:
        check_samples(problem.y0)
    packing = Packing(problem.y0, per_sample)
    y0 = solver.lift(packing.pack(problem.y0, "y0"))
    plan = prepare_plan(
        problem,
        packing,
        y0,
        solver,
        controller,
        rtol=rtol,
        atol=atol,
        max_steps=max_steps,
        dt=dt,
        seed=seed,
        path=path,
        per_sample=per_sample,
        costs=tuple(regularizers),
        through_steps=adjoint.through_steps,
        tensors=compiling(),
        events=events,
    )
    options, shown = prepare_options(
        plan,
        y0,
        dt=dt,
        saveat=saveat,
        saveat_side=saveat_side,
        dense=dense,
        trace=trace,
        compact=compact,
        driver=driver,
    )
    probes = check_products(plan, y0) + (check_size(plan, y0) if driver is None else 0)
    y_start, first = start_changes(plan, y0)
    job = Job(plan=plan, y0=y_start, options=options, f=plan.field.functions, args=problem.args)
    job, peaks = watched(job)
    result = _run(adjoint, job, progress)
    if first is not None:
        result = _with_first_events(plan, result, first, y0, y_start)
    solution = _solution(plan, options, packing, y_start, result, shown, regularizers, probes)
    announce(problem, solver, solution, rtol, atol, peaks)
    looks = throw or (driver is None and isinstance(solution.status, Status))  # at what a host knows, or must learn
    if looks and not compiling() and solution.failed():
        solution = replace(solution, _advice=stiff_advice(plan, result.outcome.carry))
        if throw:
            solution.raise_on_failure()
    return solution


def _solver_for(problem: Any, solver: Any, seed: Any, path: Any) -> Method:
    """The method that steps this problem; refuses what is no problem, and noise where there is none."""
    if solver is not None:
        _check_kind(solver, Method, "solver", "such as Tsit5()")
    if isinstance(problem, SDEProblem):
        return stochastic_method(problem, solver)
    if not isinstance(problem, ODEProblem):
        raise InvalidProblemError(
            f"problem: got {type(problem).__name__}; expected an ODEProblem, SDEProblem or SteadyStateProblem"
        )
    for name, value in (("seed", seed), ("path", path)):
        if value is not None:
            raise InvalidProblemError(f"{name}: got {value!r} with an ODEProblem, which has no noise; expected None")
    if isinstance(solver, SDEMethod):
        raise InvalidProblemError(
            f"solver: got {solver!r} with an ODEProblem; expected a method for it, such as Tsit5()"
        )
    return Tsit5() if solver is None else solver


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


def _with_first_events(plan: Plan, result: Result, fired: Fired, before: Tensor, after: Tensor) -> Result:
    """The result with what was scheduled for the start, which no step has seen."""
    log, later = result.outcome.log, result.logged
    assert log is not None
    assert later is not None
    entries = logged(fired, plan.ends(plan.t0, plan.t1, True, False)[0], before, after)
    outcome = replace(result.outcome, log=log.behind_first(fired, entries))
    return replace(
        result, outcome=outcome, logged=Logged(*(torch.cat(pair) for pair in zip(entries, later, strict=True)))
    )


def _check_kinds(controller: Any, adjoint: Any, driver: Any, regularizers: Any) -> None:
    """Refuse classes in the place of instances, and what is neither."""
    _check_kind(controller, (Controller, type(None)), "controller", "such as PIController()")
    _check_kind(adjoint, (Adjoint, type(None)), "adjoint", "such as DiscreteAdjoint()")
    _check_kind(driver, (Blocks, type(None)), "driver", "such as Blocks(size=8), or None")
    if not isinstance(regularizers, (tuple, list)):
        raise InvalidProblemError(f"regularizers: got {regularizers!r}; expected a tuple, such as (ErrorEstimate(),)")
    for regularizer in regularizers:
        _check_kind(regularizer, Regularizer, "regularizers", "such as ErrorEstimate()")


def _check_kind(value: Any, kind: Any, name: str, example: str) -> None:
    if not isinstance(value, kind):
        got = f"the class {value.__name__}" if isinstance(value, type) else f"{type(value).__name__} {value!r}"[:80]
        raise InvalidProblemError(f"{name}: got {got}; expected an instance, {example}")


def _default_adjoint() -> Adjoint:
    """The default is exact either way; inside a function transform (vmap, jvp, ...) only autograd itself reaches."""
    return DirectAdjoint() if transformed() else DiscreteAdjoint()


def _solution(
    plan: Plan,
    options: Options,
    packing: Packing,
    y0: Tensor,
    result: Result,
    shown: Tensor | None,
    regularizers: Sequence[Regularizer],
    probes: int,
) -> Solution:
    """The user's view of a packed result."""
    outcome, carry, save, lower = result.outcome, result.outcome.carry, options.save, plan.method.lower
    y1 = lower(result.y1)
    if result.ys is not None:
        ys = lower(result.ys)
    else:
        arrived = (carry.status == _SUCCESS) | ((carry.status == _EVENT) & (carry.t == plan.t1))
        ys = choose(arrived, y1, torch.full_like(y1, torch.nan)).unsqueeze(0)
    if shown is None:
        ts = outcome.steps.times(plan.t0).to(y0.device) if save.every and outcome.steps is not None else _end(plan, y0)
    else:
        ts = shown
    log, moved, event_time, event_index = outcome.log, None, None, None
    if log is not None and result.logged is not None:
        assert plan.events is not None
        moved = partial(log.moved, times=result.logged.times)
        event_time, event_index = log.ending(result.logged.times, carry.status, plan.events.terminal)
        if save.every and save.right:
            ys = log.behind(ys, ts, result.logged)
    dense = None
    if save.dense and outcome.steps is not None:
        pieces = None if result.coefficients is None else lower(result.coefficients)
        jumps = None if log is None or result.logged is None else log.view(result.logged, packing).ts.detach()
        dense = outcome.steps.dense(plan, pieces, packing, lower(y0), moved, jumps, save.right)
    numbers = [
        regularizer.value(state, carry.accepted, plan)
        for regularizer, state in zip(regularizers, result.costs, strict=True)
    ]
    noise = plan.field.noise
    nfe = carry.nfe + probes + sum(calls for _, calls in numbers)
    return Solution(
        ts=ts,
        ys=packing.unpack(ys, lead=1),
        y1=packing.unpack(y1),
        stats=Stats(
            nfe,
            carry.steps,
            carry.accepted,
            carry.steps - carry.accepted,
            diffusion_evaluations=plan.field.second_calls(plan.method, carry),
            masked=outcome.masked,
        ),
        status=Status(carry.status) if isinstance(carry.status, int) else carry.status,
        regularization=tuple(value for value, _ in numbers),
        trace=outcome.tracer.trace(y0.device) if outcome.tracer is not None else None,
        event_time=event_time,
        event_index=event_index,
        events=log.view(result.logged, packing) if log is not None and result.logged is not None else None,
        seed=None if noise is None else noise.seed,
        path=None if noise is None else noise.path,
        dense=dense,
        _end=carry.t,
    )


def _end(plan: Plan, y0: Tensor) -> Tensor:
    """The one save time of a solve that saves its end only."""
    live = plan.live_t1
    end = torch.as_tensor(plan.t1, dtype=torch.float64, device=y0.device) if live is None else live
    return end.unsqueeze(0)
