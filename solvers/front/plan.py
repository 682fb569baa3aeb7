"""From the user's arguments to a plan: everything is checked here, once, before the first step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..checks import integer
from ..core.packing import Packing
from ..core.scalars import Scalar, graph_constant, transformed
from ..core.ties import resolution
from ..core.times import read_times
from ..core.tolerances import Tolerance, checked_tolerance, refuse_zero
from ..drivers.integrate import Options
from ..errors import InvalidProblemError
from ..events.event import ScheduledEvent, as_events
from ..events.event_set import Events
from ..events.functions import Functions
from ..methods.base import Method
from ..output.saving import SavePlan
from ..stepping.attempt import Plan
from ..stepping.controllers import StepTo, usual_controller
from ..stepping.given_times import as_list
from ..stepping.stops import Stops
from ..terms.base import Term
from .kinds import kind_of
from .knots import find_knots
from .options import SolveOptions, checked_dt
from .precision import check_tolerances


def prepare_plan(
    problem: Any, packing: Packing, y0: Tensor, method: Method, options: SolveOptions, through_steps: bool = False
) -> Plan:
    """The plan of a solve; in a graph, and where steps are differentiated, with a joint clock in tensors."""
    per_sample, given = options.per_sample, options.controller
    t0, t1, live_t0, live_t1 = _ends(problem.tspan, y0, per_sample, torch.compiler.is_compiling() or through_steps)
    controller = None if given is None else given.constant()
    if not problem.smooth:
        _refuse_times(problem, options.events, through_steps)
    term, method = kind_of(problem).term(problem, packing, y0, method, controller, (t0, t1), options)
    if term.family not in method.takes:
        raise InvalidProblemError(f"solver: {method.name} does not step {term.title}; expected a method that takes it")
    for cost in options.regularizers:
        cost.check(method)
    rtol, atol = _tolerances(options, packing, method, y0)
    knots = find_knots(term.controls)
    live = [*knots.live, *(() if given is None else given.live)]
    controller = usual_controller(method) if controller is None else controller
    watched = _events(options.events, packing, problem, method, y0, through_steps, (t0, t1))
    return Plan(
        field=term,
        method=method,
        controller=controller.bind(method),
        stops=Stops(
            (*as_list(controller.step_ts), *(set() if watched is None else watched.scheduled())),
            (*as_list(controller.jump_ts), *knots.numbers),
            None if watched is None else watched.scheduled_each(),
            _live_stops(live, term, y0, through_steps),
            torch.cat(knots.traced) if knots.traced else None,
        ),
        t0=t0,
        t1=t1,
        direction=_direction(t0, t1),
        rtol=rtol,
        atol=atol,
        max_steps=integer(options.max_steps, "max_steps"),
        costs=tuple(options.regularizers),
        per_sample=per_sample,
        through_steps=through_steps,
        live_t0=live_t0,
        live_t1=live_t1,
        events=watched,
    )


def _direction(t0: Scalar, t1: Scalar) -> Scalar:
    if isinstance(t0, Tensor):
        return torch.where(t1 < t0, -1.0, 1.0).to(torch.float64)
    return -1.0 if t1 < t0 else 1.0


def _tolerances(options: SolveOptions, packing: Packing, method: Method, y0: Tensor) -> tuple[Tolerance, Tolerance]:
    """The tolerances, for each entry of the state where they are given for each."""
    rtol, atol = (
        checked_tolerance(x, name, packing, y0) for x, name in ((options.rtol, "rtol"), (options.atol, "atol"))
    )
    refuse_zero(rtol, atol)
    if method.adaptive:
        check_tolerances(rtol, atol, y0)
    return rtol, atol


def _events(
    events: Any,
    packing: Packing,
    problem: Any,
    method: Method,
    y0: Tensor,
    through_steps: bool,
    ends: tuple[Scalar, Scalar],
) -> Events | None:
    """The events of a solve, if there are any."""
    described = () if events is None else as_events(events)
    if not described:
        return None
    if torch.compiler.is_compiling():
        raise InvalidProblemError(
            "events cannot be compiled, because how many there are is not known; expected an eager solve"
        )
    for event in described:
        wanted = (y0.shape[0],) if packing.per_sample else ()
        if isinstance(event, ScheduledEvent) and tuple(torch.as_tensor(event.ts).shape[1:]) not in ((), wanted):
            raise InvalidProblemError(
                f"ts: got times of shape {tuple(torch.as_tensor(event.ts).shape)}; expected (T,)"
                + (f", or (T, {y0.shape[0]}) for each sample" if packing.per_sample else "; per_sample takes (T, B)")
            )
    if through_steps:
        raise InvalidProblemError("events: got some with through_steps=True; expected step sizes that are constants")
    t0, t1 = ends
    counts, first = Functions.first(described, packing, problem.args, t0, y0)
    watched = Events(described, packing, problem.args, y0.device, counts, first)
    watched.tie((t0, t1), [resolution(time) for time in problem.tspan])
    return watched


def _refuse_times(problem: Any, events: Any, through_steps: bool) -> None:
    """Refuse what needs the solution's slope, where there is none."""
    if events is not None and not (isinstance(events, (list, tuple)) and not events):
        raise InvalidProblemError(f"events: got some with {problem.title}; expected none, or an ODEProblem")
    if through_steps:
        raise InvalidProblemError(
            f"adjoint: got through_steps=True with {problem.title}; expected step sizes that are constants, since a path "
            "cannot be differentiated in time"
        )


def _live_stops(live: list[Tensor], term: Term, y0: Tensor, through_steps: bool) -> Tensor | None:
    """Given times to land on that are differentiated, as one tensor; refused where no gradient could reach them."""
    if not live or not torch.is_grad_enabled():
        return None
    for refused, where in (
        (not term.smooth, f"{term.title}, whose path has no slope"),
        (through_steps, "through_steps=True, whose clock runs in the graph already"),
        (torch.compiler.is_compiling(), "torch.compile, where they are constants of the graph"),
    ):
        if refused and (not transformed() or any(x.requires_grad for x in live)):
            raise InvalidProblemError(
                f"jump_ts, step_ts, knots: some require grad, with {where}; expected constant times, .detach()"
            )
        if refused:
            return None
    return torch.cat([times.reshape(-1).to(y0.device) for times in live])


def prepare_outputs(plan: Plan, y0: Tensor, options: SolveOptions) -> tuple[Options, Tensor | None]:
    """What to keep, and the save times as the solution shows them (None: the end, or every step)."""
    if options.compact and not plan.per_sample:
        raise InvalidProblemError("compact: got True without per_sample; expected per_sample=True, which it is about")
    if options.driver is not None:
        options.driver.check(plan, y0, options.compact)
    step = _first_step(options.dt, plan)
    save, shown = _save_plan(options.saveat, options.dense, plan, y0)
    if options.saveat_side not in ("left", "right"):
        raise InvalidProblemError(f'saveat_side: got {options.saveat_side!r}; expected "left" or "right"')
    save = replace(save, right=options.saveat_side == "right")
    if not plan.field.smooth and save.live is not None:
        raise InvalidProblemError(
            "saveat: requires grad; expected constant times, since the solution of an SDE has no slope"
        )
    return Options(dt=step, save=save, trace=options.trace, compact=options.compact, driver=options.driver), shown


def check_samples(y0: Any) -> None:
    """Refuse a per-sample solve of a state whose leaves do not share a first dimension."""
    sizes = {leaf.shape[0] if leaf.dim() else None for leaf in pytree.tree_leaves(y0)}
    if None in sizes or len(sizes) != 1:
        shapes = [tuple(leaf.shape) for leaf in pytree.tree_leaves(y0)]
        raise InvalidProblemError(f"y0: got shapes {shapes}; with per_sample expected one first dimension, the samples")


def _ends(
    tspan: tuple[Any, Any], y0: Tensor, per_sample: bool, tensors: bool
) -> tuple[Scalar, Scalar, Tensor | None, Tensor | None]:
    """The interval as clock numbers, and its ends as the graph has them where they require grad."""
    shape = (y0.shape[0],) if per_sample else ()
    out: list[Scalar] = []
    live: list[Tensor | None] = []
    for time in tspan:
        if isinstance(time, Tensor) and time.dim() and tuple(time.shape) != shape:
            raise InvalidProblemError(
                f"tspan: got a time of shape {tuple(time.shape)}; expected a number"
                + (
                    f", or shape {shape}, one for each sample"
                    if per_sample
                    else "; per_sample takes one for each sample"
                )
            )
        read = read_times(time, "tspan") if isinstance(time, Tensor) else None
        if per_sample or tensors:
            number = graph_constant(time) if read is None else read.numbers
            out.append(number.to(y0.device, torch.float64).expand(shape).clone())
        else:
            out.append(float(time) if read is None else read.numbers.item())
        moving = None if read is None or read.live is None else read.live.to(y0.device)
        live.append(moving.expand(shape) if moving is not None and per_sample else moving)
    return out[0], out[1], live[0], live[1]


def _first_step(dt: Any, plan: Plan) -> Scalar | None:
    controller = plan.controller
    if dt is None:
        if not controller.adaptive and not isinstance(controller, StepTo):
            raise InvalidProblemError(
                f"dt: got None with {plan.method.name} and {type(controller).__name__}; expected the step size"
            )
        return None
    return checked_dt(dt)


def _save_plan(saveat: Any, dense: bool, plan: Plan, y0: Tensor) -> tuple[SavePlan, Tensor | None]:
    if saveat is None:
        return SavePlan(dense=dense), None
    if isinstance(saveat, str):
        if saveat != "steps":
            raise InvalidProblemError(f'saveat: got {saveat!r}; expected None, times, or "steps"')
        return SavePlan(every=True, dense=dense), None
    read = read_times(saveat, "saveat", 'None, times, or "steps"')
    shown = read.shown.to(y0.device)
    shapes = "(T,)" + (f" or (T, {y0.shape[0]})" if plan.per_sample else "")
    if (
        not (shown.dim() == 1 or (plan.per_sample and shown.dim() == 2 and shown.shape[1] == y0.shape[0]))
        or not shown.numel()
    ):
        raise InvalidProblemError(f"saveat: got times of shape {tuple(shown.shape)}; expected {shapes}, T at least 1")
    live = read.in_graph.to(y0.device)
    times: Any = _checked_times(live.detach(), shown, plan)
    if plan.events is not None:
        times = plan.events.tie_to_scheduled(times, resolution(shown))
    if plan.per_sample:
        live = live.unsqueeze(-1).expand(-1, y0.shape[0]) if live.dim() == 1 else live
    elif not torch.compiler.is_compiling():
        times = times.tolist()
    return SavePlan(times, None if read.live is None else live, False, dense), shown


def _checked_times(times: Tensor, shown: Tensor, plan: Plan) -> Tensor:
    """Times inside the interval and in the order in which the solve meets them; rounding at the ends is forgiven."""
    if plan.per_sample and times.dim() == 1:
        times = times.unsqueeze(-1).expand(-1, plan.t0.shape[0])
    if torch.compiler.is_compiling():
        return times
    t0, t1 = (torch.as_tensor(t, dtype=torch.float64, device=times.device) for t in (plan.t0, plan.t1))
    low, high = torch.minimum(t0, t1), torch.maximum(t0, t1)
    slack = 4 * torch.finfo(shown.dtype).eps * torch.maximum(low.abs(), high.abs())
    if not bool(((times >= low - slack) & (times <= high + slack)).all()):
        raise InvalidProblemError(
            f"saveat: got times from {times.min().item():.9g} to {times.max().item():.9g}; expected finite times between "
            f"{low.min().item():.9g} and {high.max().item():.9g}, the ends of tspan"
        )
    clamped = torch.minimum(torch.maximum(times, low), high)
    if not bool((clamped.diff(dim=0) * plan.direction >= 0).all()):
        order = "decreasing" if not plan.per_sample and plan.direction < 0 else "increasing"
        raise InvalidProblemError(f"saveat: got times out of order; expected {order} times, from t0 towards t1")
    return clamped
