"""The users' functions, whose sign changes are events, called on packed states.

Events are numbered through: a function with a vector of values has a number for each of them, a scheduled event one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..core.packing import Packing
from ..core.scalars import Scalar, as_time, real_dtype
from ..core.torch_private import transforms_active
from ..core.vmap import refuse_lanes
from ..errors import InvalidProblemError
from ..functions.calls import Caller

if TYPE_CHECKING:
    from .event import Event, ScheduledEvent


_FLOATS = {torch.float64, torch.float32, torch.float16, torch.bfloat16}


class Functions:
    """Every event's function; scheduled events have none, and the value 1.

    Args:
        events: the user's.
        counts: how many values each one's function has.
        packing: how the state is laid out.
        args: what else the functions receive.
    """

    def __init__(
        self,
        events: Sequence[Event | ScheduledEvent],
        counts: Sequence[int],
        packing: Packing,
        args: tuple[Any, ...],
    ) -> None:
        self.events, self.counts, self.packing, self.args = events, counts, packing, args
        self.fns: list[Callable[..., Any] | None] = [getattr(event, "fn", None) for event in events]
        self.owner = [place for place, count in enumerate(counts) for _ in range(count)]
        self.part = [part for count in counts for part in range(count)]
        self.caller = Caller()

    @staticmethod
    def count(event: Event | ScheduledEvent, packing: Packing, args: tuple[Any, ...], t: Scalar, y: Tensor) -> int:
        """How many values an event's function has, by one call of it."""
        if getattr(event, "fn", None) is None:
            return 1
        with torch.no_grad():
            g = Functions((event,), (0,), packing, args).call(0, as_time(t, y), y.detach())
        lanes = 1 if packing.per_sample else 0
        return 1 if g.dim() == lanes else g.shape[-1]

    def call(self, place: int, time: Tensor, y: Tensor) -> Tensor:
        """One of the user's functions: shaped like the lanes, with a dimension behind them where it has many values."""
        fn = self.fns[place]
        assert fn is not None
        return self.caller(fn, "fn", partial(self._checked, place, y), self.packing, time, y, self.args)

    def _checked(self, place: int, y: Tensor, g: Any) -> Tensor:
        lanes = y.shape[:1] if self.packing.per_sample else torch.Size(())
        if not isinstance(g, Tensor) or not g.is_floating_point():
            got = f"a {g.dtype} tensor" if isinstance(g, Tensor) else f"{type(g).__name__} {g!r}"[:80]
            raise InvalidProblemError(f"fn: got {got}; expected {self._wanted(lanes)}")
        refuse_lanes(g, "fn", "events")
        return g if g.shape == lanes and self.counts[place] == 1 else self._shaped(place, g, lanes)

    def _shaped(self, place: int, g: Tensor, lanes: torch.Size) -> Tensor:
        count = self.counts[place]  # 0 where it is not known yet
        if g.numel() == math.prod(lanes) and count < 2:
            return g.reshape(lanes)
        if g.dim() != len(lanes) + 1 or g.shape[:-1] != lanes or not g.shape[-1] or count not in (0, g.shape[-1]):
            before = "" if not count else f", {count} of them as before"
            raise InvalidProblemError(f"fn: got shape {tuple(g.shape)}; expected {self._wanted(lanes)}{before}")
        return g

    @staticmethod
    def _wanted(lanes: torch.Size) -> str:
        if lanes:
            return f"a real number for each of {lanes[0]} samples, or ({lanes[0]}, k) for k events"
        return "one real number, a 0-d tensor, or (k,) for k events"

    def value(self, index: int, t: Scalar, y: Tensor) -> Tensor:
        """One number per lane."""
        place = self.owner[index]
        g = self.call(place, as_time(t, y), y)
        return (g if self.counts[place] == 1 else g[..., self.part[index]]).to(torch.float64)

    def values(self, t: Scalar, y: Tensor, wanted: Collection[int] | None = None) -> Tensor:
        """Every event's number, lanes first; 1 for scheduled events, and for all beside those that are ``wanted``."""
        places = range(len(self.events)) if wanted is None else {self.owner[index] for index in wanted}
        time = as_time(t, y)
        parts = [
            self.call(place, time, y) if place in places and fn is not None else self._ones(place, y)
            for place, fn in enumerate(self.fns)
        ]
        return self._joined(parts)

    def values_at(self, times: Tensor, ys: Tensor) -> Tensor:
        """The same at several times and states, which stand in front of the lanes; nothing is recorded."""
        asked = [place for place, fn in enumerate(self.fns) if fn is not None]
        fns = [fn for fn in self.fns if fn is not None]
        found = self.caller.many(fns, "fn", self.packing, times, ys, self.args)
        if found is None:
            return torch.stack([self.values(t, y) for t, y in zip(times.unbind(), ys.unbind(), strict=True)])
        lanes = ys.shape[1:2] if self.packing.per_sample else torch.Size(())
        shapes = [lanes if self.counts[place] == 1 else (*lanes, self.counts[place]) for place in asked]
        for row in found:
            for index, (g, shape) in enumerate(zip(row, shapes, strict=True)):
                if type(g) is not Tensor or g.shape != shape or g.dtype not in _FLOATS:
                    row[index] = self._checked(asked[index], ys[0], g)
        if len(self.fns) == 1 and self.counts[0] > 1:
            return torch.stack([g for (g,) in found]).to(torch.float64)
        if len(fns) == len(self.fns) and len(self.owner) == len(fns):
            flat = [g for row in found for g in row]
            return torch.stack(flat, -1).reshape(*lanes, len(found), len(fns)).movedim(-2, 0).to(torch.float64)
        rows, y = [], ys[0]
        for row in found:
            known = dict(zip(asked, row, strict=True))
            parts = [known[place] if place in known else self._ones(place, y) for place in range(len(self.fns))]
            rows.append(self._joined(parts))
        return torch.stack(rows)

    def _ones(self, place: int, y: Tensor) -> Tensor:
        """What stands for the values of a function that is not asked."""
        lanes, count = y.shape[:1] if self.packing.per_sample else torch.Size(()), self.counts[place]
        return torch.ones(lanes if count == 1 else (*lanes, count), dtype=real_dtype(y), device=y.device)

    def _joined(self, parts: list[Tensor]) -> Tensor:
        """The values of every function as one tensor, the events last."""
        if len(parts) == 1 and self.counts[0] > 1:
            return parts[0].to(torch.float64)
        if len(self.owner) == len(parts):
            return torch.stack(parts, dim=-1).to(torch.float64)
        columns = [g.unsqueeze(-1) if count == 1 else g for g, count in zip(parts, self.counts, strict=True)]
        return torch.cat(columns, dim=-1).to(torch.float64)

    def gradients(self, t: Scalar, y: Tensor, wanted: Collection[int]) -> tuple[list[int], Tensor, Tensor]:
        """How functions change with time and state, each lane's with its own, without a graph.

        Returns:
            The wanted events that have functions, and their derivatives, the events first.
        """
        indices = [index for index in sorted(wanted) if self.fns[self.owner[index]] is not None]
        time = torch.as_tensor(t, dtype=torch.float64, device=y.device).detach()
        if not indices:
            return indices, time.new_empty((0, *time.shape)), y.new_empty((0, *y.shape))
        if transforms_active():
            rows = [gradient(lambda t, y, i=index: self.value(i, t, y).sum(), time, y) for index in indices]
            return indices, torch.stack([row[0] for row in rows]), torch.stack([row[1] for row in rows])
        with torch.enable_grad():
            leaves = time.clone().requires_grad_(), y.detach().clone().requires_grad_()
            totals = self.values(*leaves, indices).reshape(-1, len(self.owner)).sum(0)[indices]
            if not totals.requires_grad:
                return indices, time.new_zeros((len(indices), *time.shape)), y.new_zeros((len(indices), *y.shape))
            units = torch.eye(len(indices), dtype=totals.dtype, device=totals.device)
            g_t, g_y = gradients_of_rows(totals, leaves, units)
            return indices, g_t, g_y


def gradients_of_rows(totals: Tensor, leaves: Sequence[Tensor], units: Tensor) -> list[Tensor]:
    """The gradients of several numbers, all in one backward pass where the operations allow it."""

    def pull(unit: Tensor, batched: bool) -> list[Tensor | None]:
        return list(
            torch.autograd.grad(totals, leaves, unit, allow_unused=True, retain_graph=True, is_grads_batched=batched)
        )

    try:
        got = pull(units, True) if len(units) > 1 else None
    except RuntimeError:  # an operation without a rule for batches
        got = None
    if got is None:
        rows = [pull(unit, False) for unit in units]
        got = [None if x[0] is None else torch.stack(x) for x in zip(*rows, strict=True)]
    return [
        leaf.new_zeros((len(units), *leaf.shape)) if x is None else x.detach()
        for x, leaf in zip(got, leaves, strict=True)
    ]


def gradient(total: Callable[..., Tensor], *inputs: Tensor) -> tuple[Tensor, ...]:
    """The gradient of a number at constant inputs, also inside a function transform; zeros where it does not depend."""
    constants = [x.detach() for x in inputs]
    if transforms_active():
        return torch.func.grad(total, argnums=tuple(range(len(inputs))))(*constants)
    with torch.enable_grad():
        leaves = [x.clone().requires_grad_() for x in constants]
        out = total(*leaves)
        if not out.requires_grad:
            return tuple(torch.zeros_like(x) for x in constants)
        found = torch.autograd.grad(out, leaves, allow_unused=True)
    return tuple(torch.zeros_like(x) if g is None else g for x, g in zip(constants, found, strict=True))
