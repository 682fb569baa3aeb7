"""From a problem, a method and the options to everything that a solve needs, checked once, before the first step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ..core.packing import Packing
from ..drivers.integrate import Options
from ..events.crossings import start_changes
from ..events.event_set import Fired
from ..methods.base import Method
from ..stepping.attempt import Plan
from .kinds import kind_of
from .options import SolveOptions, check_kind
from .plan import check_samples, prepare_outputs, prepare_plan
from .precision import check_products, check_size


@dataclass(frozen=True, kw_only=True, eq=False)
class Prepared:
    """A solve that is ready to run."""

    problem: Any
    method: Method
    """The method as it steps problems of this kind."""
    packing: Packing
    plan: Plan
    keep: Options
    """What to keep on the way."""
    shown: Tensor | None
    """The save times as the solution shows them; None: the end, or every step."""
    y0: Tensor
    """The state from which steps start, as the method steps it."""
    given: Tensor
    """The same before what was scheduled for the start has changed it."""
    fired: Fired | None
    """What was scheduled for the start."""
    probes: int
    """Calls of the field that the checks took."""


def prepare(problem: Any, solver: Method | None, options: SolveOptions, through_steps: bool = False) -> Prepared:
    """Check everything and lay it out; ``through_steps`` says that step sizes will be differentiated."""
    kind = kind_of(problem)
    options.check_kinds()
    if solver is not None:
        check_kind(solver, Method, "solver", "such as Tsit5()")
    kind.check(problem, options)
    controller = kind.controller(solver, options)
    if controller is not options.controller:
        options = replace(options, controller=controller)
    method = kind.method(problem, solver)
    if options.per_sample:
        check_samples(problem.y0)
    packing = Packing(problem.y0, options.per_sample)
    y0 = packing.pack(problem.y0, "y0")
    plan = prepare_plan(problem, packing, y0, method, options, through_steps)
    keep, shown = prepare_outputs(plan, y0, options)
    probes = check_products(plan, y0) + (check_size(plan, y0) if options.driver is None else 0)
    start, fired = start_changes(plan, y0)
    return Prepared(
        problem=problem,
        method=method,
        packing=packing,
        plan=plan,
        keep=keep,
        shown=shown,
        y0=start,
        given=y0,
        fired=fired,
        probes=probes,
    )
