"""The loop in blocks: several attempts for each time the host looks at the device.

An eager loop waits for the device at every attempt, to learn whether the step was accepted. Here ``size`` attempts are
queued with clocks in tensors, attempts behind the end masked; then one read brings the numbers of all of them to the
host, and the same listeners hear of them as in the eager loop, with the same kind of numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..checks import integer
from ..core.scalars import Scalar, select, transformed
from ..errors import InvalidProblemError
from ..output.saving import Rows, Steps
from ..stepping.attempt import RUNNING, Carry, Plan, Trial
from .block import Attempts, Reading, Seen, block, read
from .captured_block import Wants, captured_block
from .cuda_graph import Cache, check_capture
from .eager import Listener, start


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """Run attempts in blocks, with one host sync per block instead of one per attempt: ``solve(..., driver=Blocks())``.

    For a GPU, whose queue runs dry while the host waits. The steps are those of a solve without a driver, to rounding
    (their sizes are computed in tensors), and so is everything else in the solution. What it costs: in the last block,
    attempts behind the end call the field and are thrown away, at most ``size - 1`` of them (``sol.stats.masked`` counts
    the calls); and where a step does not start with the last slope of the one before (methods without FSAL, or
    ``jump_ts``), that slope is computed again, which ``nfe`` counts. Every adjoint works; the backward solves of the
    continuous ones run in blocks as well. Events, ``compact``, ``through_steps``, ``torch.compile`` and ``torch.func`` are
    refused.

    With ``cuda_graph`` the block is captured once and then launched as a whole; in training, so is the gradient of a step
    under :class:`DiscreteAdjoint`. A graph reads what it reads where it was at the capture: inputs are copied in, and
    parameters may be trained in place, but *what the field reads beside tensors is as it was then* (a number in an
    attribute, say), and its operations must not wait for the device. A new shape, dtype, tolerance, method, ``train()``
    or ``eval()``, or parameters that have moved, are captured anew. The graphs belong to this object, up to 16 of each
    kind, and are released with it: keep it with the model, and give every solve the same field, not a new lambda.

    Args:
        size: attempts in a block.
        cuda_graph: capture the block; needs a state on a CUDA device.

    Raises:
        InvalidProblemError: ``size`` is no positive int, or ``cuda_graph`` no bool; in the solve, what is refused
            above, or ``cuda_graph`` for a state that is not on a CUDA device.

    When to take it:
        On a GPU, for small fields, where waiting for the device takes longer than the calls; with ``cuda_graph`` where
        launching them does. On a CPU the eager loop is faster. A solve that compiles (``torch.compile``) gains more,
        and cannot use it.

    Example:
        >>> import torch, neuralde as nde
        >>> problem = nde.ODEProblem(lambda t, y: -y, torch.ones(2), (0.0, 1.0))
        >>> sol = nde.solve(problem, driver=nde.Blocks(size=4))
        >>> sol.y1, sol.stats.steps, sol.stats.masked
        (tensor([0.3679, 0.3679]), 2, 12)
    """

    size: int = 8
    cuda_graph: bool = False
    graphs: Cache = field(default_factory=Cache, init=False, repr=False, compare=False)
    """What has been captured so far."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", integer(self.size, "size"))
        if not isinstance(self.cuda_graph, bool):
            raise InvalidProblemError(f"cuda_graph: got {self.cuda_graph!r}; expected True or False")

    def check(self, plan: Plan, y0: Tensor, compact: bool) -> None:
        """Refuse what asks the host something at every attempt, and a device that cannot capture."""
        if self.cuda_graph:
            check_capture(y0.device)
        for refused, what, why in (
            (plan.field.random, plan.field.title, "its noise is drawn by the host"),
            (plan.events is not None, "events", "each is located on the host as it happens"),
            (compact, "compact=True", "the host drops finished samples between attempts"),
            (plan.through_steps, "through_steps=True", "the graph of step sizes does not go through a block"),
            (torch.compiler.is_compiling(), "torch.compile", "a compiled solve is one graph already"),
            (transformed(), "torch.func or forward-mode differentiation", "its tensors cannot be read in one piece"),
        ):
            if refused:
                came = (
                    "Blocks()" if torch.compiler.is_compiling() else repr(self)
                )  # torch cannot compile a dataclass's repr
                raise InvalidProblemError(f"driver: got {came} with {what}, but {why}; expected None")


def run_blocks(
    plan: Plan,
    y0: Tensor,
    dt: Scalar | None,
    blocks: Blocks,
    listeners: Sequence[Listener] = (),
    slope: Tensor | None = None,
    costs: tuple[tuple[Tensor, ...], ...] | None = None,
) -> tuple[Carry, int]:
    """Attempt steps until no lane is running; the carry, as the eager loop leaves it, and the masked calls."""
    if plan.host and plan.t0 == plan.t1:
        return start(plan, y0, dt, slope, costs), 0
    inner = in_tensors(replace(plan, stops=plan.stops.bind(None)), y0.device)  # a block has no graph
    carry = start(inner, y0, dt, slope, costs)
    advance = _advance(inner, carry, blocks, listeners, plan.host)
    masked, extra, going = 0, 0, True
    while going:
        attempts, carry, reading = advance(carry)
        for (before, trial), seen in zip(attempts, reading.attempts(), strict=True):
            if not seen.running:
                masked += _most(trial.step.calls) + trial.step.asked
                continue
            extra = extra + _tell(plan, listeners, before, trial, seen)
        going = reading.going
    if plan.host:
        carry = reading.carry(carry)
    return carry._replace(nfe=carry.nfe + extra), masked


def _advance(
    plan: Plan, carry: Carry, blocks: Blocks, listeners: Sequence[Listener], joint: bool
) -> Callable[[Carry], tuple[Attempts, Carry, Reading]]:
    """What runs a block: from a carry its attempts, the carry after them, and what the host may know of them."""

    def anyone(*kinds: type) -> bool:
        return any(isinstance(listener, kinds) for listener in listeners)

    # Of many lanes the numbers are read only where rows are saved, which the host places.
    numbers, size = joint or anyone(Rows), blocks.size
    if blocks.cuda_graph and plan.field.captures:
        polynomials = anyone(Rows) or any(isinstance(x, Steps) and x.polynomials for x in listeners)
        stiffness = any(getattr(x, "reads_stiffness", False) for x in listeners) and plan.method.has_stiffness
        wants = Wants(numbers, bool(listeners), polynomials, stiffness)
        return captured_block(plan, carry, size, wants, blocks.graphs)

    def run(carry: Carry) -> tuple[Attempts, Carry, Reading]:
        attempts, after, _ = block(plan, carry, size)
        return attempts, after, read(attempts, after, numbers)

    return run


def in_tensors(plan: Plan, device: torch.device) -> Plan:
    """The plan with its clock in tensors."""
    if not plan.host:
        return plan
    t0, t1, direction = (
        torch.full((), x, dtype=torch.float64, device=device) for x in (plan.t0, plan.t1, plan.direction)
    )
    return replace(plan, t0=t0, t1=t1, direction=direction)


def _most(calls: Scalar) -> int:
    """How often the field was called for all lanes together, from the counts of each."""
    return int(calls.max()) if isinstance(calls, Tensor) else int(calls)


def _tell(plan: Plan, listeners: Sequence[Listener], before: Carry, trial: Trial, seen: Seen) -> Scalar:
    """Tell the listeners of one attempt; the calls of the field that they caused, for each lane."""
    if plan.host:
        before, trial = seen.on_host(before, trial)
    else:
        trial = trial._replace(host=seen.host)
    calls = trial.step.calls
    for listener in listeners:
        listener(plan, before, trial)
    return select(before.status == RUNNING, trial.step.calls - calls, 0) if trial.step.calls is not calls else 0
