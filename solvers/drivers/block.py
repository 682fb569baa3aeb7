"""One block of attempts, and the one read that brings its numbers to the host."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..core.counts import Counts
from ..methods.base import Step
from ..stepping.attempt import RUNNING, Carry, OnHost, Plan, Trial, attempt, settle

Attempts = list[tuple[Carry, Trial]]


def block(
    plan: Plan, carry: Carry, size: int, beside: Callable[[Step], Any] | None = None
) -> tuple[Attempts, Carry, list[Any]]:
    """``size`` attempts, nothing of which waits for the device; each with the carry before it.

    What ``beside`` reads of every step comes last; the calls that it causes are counted.
    """
    attempts, extras = [], []
    for _ in range(size):
        trial = attempt(plan, carry)
        extras.append(None if beside is None else beside(trial.step))
        attempts.append((carry, trial))
        carry = settle(plan, carry, trial)
    return attempts, carry, extras


class Seen(NamedTuple):
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

    def attempts(self) -> Iterator[Seen]:
        """The attempts of the block, in order."""
        for index in range(len(self.running) - 1):
            x = {name: values[index] for name, values in self.numbers.items()}
            host = OnHost(bool(self.moved[index]))
            if x:
                accept, accepted = x["accept"] != 0.0, x["accepted"].astype(np.int64)
                host = host._replace(t=x["t"], t_end=x["t_end"], accept=accept, accepted=accepted)
            yield Seen(bool(self.running[index]), host, x)

    def carry(self, carry: Carry) -> Carry:
        """The carry after the block with Python numbers."""
        last = {name: self.numbers[name][-1].item() for name in CARRIED}
        status, steps, accepted, nfe = (int(last[name]) for name in ("status", "steps", "accepted", "nfe"))
        counts = None if carry.counts is None else Counts(*[int(x) for x in carry.counts])
        return carry._replace(
            t=last["t"], h=last["h"], status=status, steps=steps, accepted=accepted, nfe=nfe, counts=counts
        )


# What is read of a carry, and of a trial (by the names that the host's table has for them).
CARRIED = ("t", "h", "status", "steps", "accepted", "nfe")
JUDGED = {"t_end": "t_end", "ratio": "ratio", "accept": "accept", "next": "h"}


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
        columns: list[list[Tensor]] = [[getattr(state, name) for state in states] for name in CARRIED]
        columns += [[getattr(trial, name) for trial in trials] for name in JUDGED.values()]
        parts += [torch.stack([x.reshape(-1) for x in column]).reshape(-1) for column in columns]
    return torch.cat([part.to(torch.float64) for part in parts])


def unpacked(values: np.ndarray, size: int, numbers: bool) -> Reading:
    """The same on the host."""
    flags, rest = values[: 2 * (size + 1)].reshape(2, size + 1), values[2 * (size + 1) :]
    names = [*CARRIED, *JUDGED] if numbers else []
    table = rest.reshape(len(names), size + 1, -1) if names else rest
    return Reading(flags, dict(zip(names, table, strict=False)))
