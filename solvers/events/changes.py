"""What events do to the state."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..core.scalars import Scalar, choose, select
from ..errors import InvalidProblemError

if TYPE_CHECKING:
    from .event import Event, ScheduledEvent
    from .event_set import Events, Fired


def changed(events: Events, fired: Fired, t: Scalar, y: Tensor) -> Tensor:
    """The state after the events that happened, one after another, where the solve goes on."""
    before = y
    for index, place in enumerate(events.functions.owner):
        event = events.events[place]
        if event.apply is None:
            continue
        if isinstance(fired.hits, tuple):
            if fired.hits[index] and fired.changed:
                for turn, _ in _turns(events, index, t, y):
                    y = _after(event, events, t, y, before, int(turn))
            continue
        happens = fired.hits[:, index] & fired.changed
        if not bool(happens.any()):
            continue
        for turn, again in _turns(events, index, t, y):
            mask = happens & again
            if not bool(mask.any()):
                continue
            # Other lanes pass a state for which the function is meant, so that none of theirs reaches a gradient.
            donor = mask.to(torch.int64).argmax()
            now, own = select(mask, t, t[donor]), torch.where(mask, turn, turn[donor])
            here, front = (choose(mask, x, x[donor].expand_as(x)) for x in (y, before))
            y = choose(mask, _after(event, events, now, here, front, own), y)
    return y


def _turns(events: Events, index: int, t: Scalar, y: Tensor) -> Iterator[tuple[Any, Any]]:
    """Which time, or which of its values, an event is, for each time that it happens; and in which lanes it does."""
    times = events.times[index]
    lanes = y.shape[:1] if events.packing.per_sample else torch.Size(())
    if times is None:
        yield torch.full(lanes, events.functions.part[index], dtype=torch.int64, device=y.device), True
        return
    now = torch.as_tensor(t.detach() if isinstance(t, Tensor) else t, dtype=torch.float64, device=y.device)
    # The nearest one, because finite differences move the time of the event a little.
    gaps = (times.reshape(len(times), -1) - now.reshape(-1)).abs().nan_to_num(torch.inf)
    same = gaps == gaps.min(dim=0).values
    for turn in range(int(same.sum(0).max())):
        this = same & (same.cumsum(0) == turn + 1)
        yield this.to(torch.int64).argmax(0).reshape(lanes), this.any(0).reshape(lanes)


def _after(event: Event | ScheduledEvent, events: Events, t: Scalar, y: Tensor, before: Tensor, turn: Any) -> Tensor:
    """The state after one event, from the state now and the one before all events of this time."""
    extra = {"index": turn} if event.indexed else {}
    if event.sees == "latest":
        return _applied(event, events, t, y, extra)
    after = _applied(event, events, t, before, extra)
    # What the function leaves as it is keeps what other events made of it; written as a difference, so that gradients are
    # right also where it assigns what was there already.
    return torch.where(after.detach() != before.detach(), after, y + (after - before))


def _applied(event: Event | ScheduledEvent, events: Events, t: Scalar, y: Tensor, extra: dict[str, Any]) -> Tensor:
    assert event.apply is not None
    apply, pack = partial(event.apply, **extra), events.packing.pack
    # A copy, so that a function that writes into its state changes nothing of the solver's.
    after = events.functions.caller(apply, "apply", pack, events.packing, t, y, events.args, writes=True)
    if after.shape != y.shape:
        raise InvalidProblemError(
            f"apply: got {after.shape[0]} rows; expected {y.shape[0]}, like the state it was given"
        )
    return after
