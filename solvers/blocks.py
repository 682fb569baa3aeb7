"""The loop in blocks: several attempts for each time the host looks at the device.

An eager loop waits for the device at every attempt, to learn whether the step was accepted. Here ``size`` attempts are
queued with clocks in tensors, attempts behind the end masked; then one read brings the numbers of all of them to the
host, and the same listeners hear of them as in the eager loop, with the same kind of numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .attempt import RUNNING, Carry, OnHost, Plan, Trial, attempt, settle
from .errors import InvalidProblemError
from .loop import Listener, start
from .saving import Rows
from .scalars import Scalar, select, transformed

Attempts = list[tuple[Carry, Trial]]


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

    Args:
        size: attempts in a block.

    Example:
        >>> import torch, neuralde as nde
        >>> problem = nde.ODEProblem(lambda t, y: -y, torch.ones(2), (0.0, 1.0))
        >>> sol = nde.solve(problem, driver=nde.Blocks(size=4))
        >>> sol.y1, sol.stats.steps, sol.stats.masked
        (tensor([0.3679, 0.3679]), 2, 12)
    """

    size: int = 8

    def __post_init__(self) -> None:
        if isinstance(self.size, bool) or not isinstance(self.size, int) or self.size < 1:
            raise InvalidProblemError(f"size: got {self.size!r}; expected a positive int")

    def check(self, plan: Plan, compact: bool) -> None:
        """Refuse what asks the host something at every attempt."""
        for refused, what, why in (
            (plan.events is not None, "events", "each is located on the host as it happens"),
            (compact, "compact=True", "the host drops finished samples between attempts"),
            (plan.through_steps, "through_steps=True", "the graph of step sizes does not go through a block"),
            (torch.compiler.is_compiling(), "torch.compile", "a compiled solve is one graph already"),
            (transformed(), "torch.func or forward-mode differentiation", "its tensors cannot be read in one piece"),
        ):
            if refused:
                raise InvalidProblemError(f"driver: got {self!r} with {what}, but {why}; expected None")


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
    inner = in_tensors(plan, y0.device)
    carry = start(inner, y0, dt, slope, costs)
    # Of many lanes the numbers are read only where rows are saved, which the host places.
    numbers = plan.host or any(isinstance(listener, Rows) for listener in listeners)
    masked, extra, going = 0, 0, True
    while going:
        attempts, carry = block(inner, carry, blocks.size)
        reading = read(attempts, carry, numbers)
        for (before, trial), seen in zip(attempts, reading.attempts(), strict=True):
            if not seen.running:
                masked += int(trial.step.calls)
                continue
            extra = extra + _tell(plan, listeners, before, trial, seen)
        going = reading.going
    if plan.host:
        carry = reading.carry(carry)
    return carry._replace(nfe=carry.nfe + extra), masked


def in_tensors(plan: Plan, device: torch.device) -> Plan:
    """The plan with its clock in tensors."""
    if not plan.host:
        return plan
    t0, t1, direction = (
        torch.full((), x, dtype=torch.float64, device=device) for x in (plan.t0, plan.t1, plan.direction)
    )
    return replace(plan, t0=t0, t1=t1, direction=direction)


def block(plan: Plan, carry: Carry, size: int) -> tuple[Attempts, Carry]:
    """``size`` attempts, nothing of which waits for the device; each with the carry before it."""
    attempts = []
    for _ in range(size):
        trial = attempt(plan, carry)
        attempts.append((carry, trial))
        carry = settle(plan, carry, trial)
    return attempts, carry


def _tell(plan: Plan, listeners: Sequence[Listener], before: Carry, trial: Trial, seen: _Seen) -> Scalar:
    """Tell the listeners of one attempt; the calls of the field that they caused, for each lane."""
    if plan.host:
        before, trial = seen.on_host(before, trial)
    else:
        trial = trial._replace(host=seen.host)
    calls = trial.step.calls
    for listener in listeners:
        listener(plan, before, trial)
    return select(before.status == RUNNING, trial.step.calls - calls, 0) if trial.step.calls is not calls else 0


class _Seen(NamedTuple):
    """One attempt's numbers on the host."""

    running: bool
    host: OnHost
    numbers: dict[str, np.ndarray]

    def on_host(self, before: Carry, trial: Trial) -> tuple[Carry, Trial]:
        """A joint solve's attempt with Python numbers, as the eager loop has them."""
        x = {name: value.item() for name, value in self.numbers.items()}
        steps, accepted, nfe = (int(x[name]) for name in ("steps", "accepted", "nfe"))
        before = before._replace(t=x["t"], h=x["h"], status=RUNNING, steps=steps, accepted=accepted, nfe=nfe)
        accept = bool(x["accept"])
        trial = trial._replace(t=x["t"], t_end=x["t_end"], ratio=x["ratio"], accept=accept, h=x["next"], host=self.host)
        return before, trial


class Reading:
    """What one read of a block brought to the host."""

    def __init__(self, flags: np.ndarray, numbers: dict[str, np.ndarray]) -> None:
        self.running, self.moved = flags
        self.numbers = numbers

    @property
    def going(self) -> bool:
        """Whether any lane is running after the block."""
        return bool(self.running[-1])

    def attempts(self) -> Iterator[_Seen]:
        """The attempts of the block, in order."""
        for index in range(len(self.running) - 1):
            x = {name: values[index] for name, values in self.numbers.items()}
            host = OnHost(bool(self.moved[index]))
            if x:
                accept, accepted = x["accept"] != 0.0, x["accepted"].astype(np.int64)
                host = host._replace(t=x["t"], t_end=x["t_end"], accept=accept, accepted=accepted)
            yield _Seen(bool(self.running[index]), host, x)

    def carry(self, carry: Carry) -> Carry:
        """The carry after the block with Python numbers."""
        last = {name: self.numbers[name][-1].item() for name in _CARRIED}
        status, steps, accepted, nfe = (int(last[name]) for name in ("status", "steps", "accepted", "nfe"))
        return carry._replace(t=last["t"], h=last["h"], status=status, steps=steps, accepted=accepted, nfe=nfe)


_CARRIED = ("t", "h", "status", "steps", "accepted", "nfe")
_JUDGED = {"t_end": "t_end", "ratio": "ratio", "accept": "accept", "next": "h"}


def read(attempts: Attempts, carry: Carry, numbers: bool) -> Reading:
    """Everything that the host needs to know of a block, in one transfer."""
    return unpacked(packed(attempts, carry, numbers).cpu().numpy(), len(attempts), numbers)


def packed(attempts: Attempts, carry: Carry, numbers: bool) -> Tensor:
    """The block's numbers in one tensor: the flags of every attempt, then each number for every attempt and lane."""
    states = [*(before for before, _ in attempts), carry]
    trials = [*(trial for _, trial in attempts), attempts[-1][1]]
    statuses, accepts = (
        torch.stack([x.reshape(-1) for x in xs])
        for xs in ([state.status for state in states], [trial.accept for trial in trials])
    )
    parts = [(statuses == RUNNING).any(dim=1), accepts.any(dim=1)]
    if numbers:
        columns: list[list[Tensor]] = [[getattr(state, name) for state in states] for name in _CARRIED]
        columns += [[getattr(trial, name) for trial in trials] for name in _JUDGED.values()]
        parts += [torch.stack([x.reshape(-1) for x in column]).reshape(-1) for column in columns]
    return torch.cat([part.to(torch.float64) for part in parts])


def unpacked(values: np.ndarray, size: int, numbers: bool) -> Reading:
    """The same on the host."""
    flags, rest = values[: 2 * (size + 1)].reshape(2, size + 1), values[2 * (size + 1) :]
    names = [*_CARRIED, *_JUDGED] if numbers else []
    table = rest.reshape(len(names), size + 1, -1) if names else rest
    return Reading(flags, dict(zip(names, table, strict=False)))
