"""The users' functions, whose sign changes are events, called on packed states.

Events are numbered through: a function with a vector of values has a number for each of them, a scheduled event one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..core.packing import Packing
from ..core.scalars import Scalar, as_time, real_dtype
from ..core.torch_private import transforms_active
from ..core.vmap import refuse_lanes
from ..errors import InvalidProblemError
from ..functions.calls import Caller
from .bracketing import from_host

if TYPE_CHECKING:
    from .event import Event, ScheduledEvent


_FLOATS = {torch.float64, torch.float32, torch.float16, torch.bfloat16}


def _worth_it(functions: int, points: int) -> bool:
    """Whether one call for all points is faster: it costs as much as about ten, and each function as two."""
    return functions * points > 10 + 2 * functions


class Functions:
    """Every event's function; scheduled events have none, and the value 1.

    Args:
        events: the user's.
        counts: how many values each one's function has.
        packing: how the state is laid out.
        args: what else the functions receive.
        tabled: whose functions the tables of values show; None: all. Others have the value 1 there.
    """

    def __init__(
        self,
        events: Sequence[Event | ScheduledEvent],
        counts: Sequence[int],
        packing: Packing,
        args: tuple[Any, ...],
        tabled: Collection[int] | None = None,
    ) -> None:
        self.events, self.counts, self.packing, self.args = events, counts, packing, args
        self.tabled = range(len(events)) if tabled is None else tabled
        self.batches = True
        """Whether the functions can be called for many points at once, as far as that is known."""
        self.fns: list[Callable[..., Any] | None] = [getattr(event, "fn", None) for event in events]
        self.owner = [place for place, count in enumerate(counts) for _ in range(count)]
        self.part = [part for count in counts for part in range(count)]
        self.caller = Caller()

    @staticmethod
    def first(
        events: Sequence[Event | ScheduledEvent], packing: Packing, args: tuple[Any, ...], t: Scalar, y: Tensor
    ) -> tuple[list[int], list[Tensor | None]]:
        """How many values each event's function has, by one call of it, and these values; scheduled events have none."""
        functions, y = Functions(events, [0] * len(events), packing, args), y.detach()
        asked, time = functions._asked(), as_time(t, y)
        given: dict[int, Tensor] = {}
        with torch.no_grad():
            fns = [fn for place in asked if (fn := functions.fns[place]) is not None]
            found = functions.caller.many(fns, "fn", packing, time.unsqueeze(0), y.unsqueeze(0), args)
            for index, place in enumerate(asked):
                known = None if found is None else found[0][index]
                given[place] = functions.call(place, time, y) if known is None else functions._checked(place, y, known)
        lanes = len(functions._lanes(y))
        values = [given.get(place) for place in range(len(events))]
        return [1 if g is None or g.dim() == lanes else g.shape[-1] for g in values], values

    def call(self, place: int, time: Tensor, y: Tensor) -> Tensor:
        """One of the user's functions: shaped like the lanes, with a dimension behind them where it has many values."""
        fn = self.fns[place]
        assert fn is not None
        return self.caller(fn, "fn", partial(self._checked, place, y), self.packing, time, y, self.args)

    def _checked(self, place: int, y: Tensor, g: Any, name: str = "fn") -> Tensor:
        lanes = y.shape[:1] if self.packing.per_sample else torch.Size(())
        if not isinstance(g, Tensor) or not g.is_floating_point():
            got = f"a {g.dtype} tensor" if isinstance(g, Tensor) else f"{type(g).__name__} {g!r}"[:80]
            raise InvalidProblemError(f"{name}: got {got}; expected {self._wanted(lanes)}")
        refuse_lanes(g, name, "events")
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
        places, time = self._asked(wanted), as_time(t, y)
        return self.joined(
            [self.call(place, time, y) if place in places else None for place in range(len(self.fns))], y
        )

    def _asked(self, wanted: Collection[int] | None = None) -> list[int]:
        """Whose functions are called for a table."""
        places = range(len(self.events)) if wanted is None else {self.owner[index] for index in wanted}
        return [place for place in self.tabled if place in places and self.fns[place] is not None]

    def values_at(self, times: Tensor, ys: Tensor, wanted: Collection[int] | None = None) -> Tensor:
        """The same at several times and states, which stand in front of the lanes; nothing is recorded."""
        asked = self._asked(wanted)
        if not asked:
            return torch.stack([self.joined([None] * len(self.fns), y) for y in ys.unbind()])
        found = self._at_once(asked, times, ys) if _worth_it(len(asked), len(times)) else None
        if found is not None:
            return found
        fns = [fn for place in asked if (fn := self.fns[place]) is not None]
        rows = self.caller.many(fns, "fn", self.packing, times, ys, self.args)
        if rows is None:
            return torch.stack([self.values(t, y, wanted) for t, y in zip(times.unbind(), ys.unbind(), strict=True)])
        for row in rows:
            for index, place in enumerate(asked):
                if not self._fits(place, row[index], ys[0]):
                    row[index] = self._checked(place, ys[0], row[index])
        if len(asked) == len(self.fns) == len(self.owner) > 1:
            flat, lanes = [g for row in rows for g in row], self._lanes(ys[0])
            return torch.stack(flat, -1).reshape(*lanes, len(rows), len(asked)).movedim(-2, 0).to(torch.float64)
        return torch.stack([self._placed(asked, row, y) for row, y in zip(rows, ys.unbind(), strict=True)])

    def picked_at(self, times: Tensor, ys: Tensor, which: np.ndarray) -> Tensor:
        """At several times and states one event's number for each, and for each lane; nothing is recorded."""
        asked = self._asked(np.unique(which).tolist())
        table = self._at_once(asked, times, ys, compact=True) if _worth_it(len(asked), len(times)) else None
        if table is None:
            points = zip(times.unbind(), ys.unbind(), which, strict=True)
            table = torch.stack([self.values(t, y, np.unique(one).tolist()) for t, y, one in points])
        else:
            columns = np.zeros(len(self.owner), dtype=np.int64)
            own = [index for index, place in enumerate(self.owner) if place in asked]
            columns[own] = np.arange(len(own))
            which = columns[which]
        return table.gather(-1, from_host(which, ys.device).unsqueeze(-1)).squeeze(-1)

    def _at_once(self, asked: list[int], times: Tensor, ys: Tensor, compact: bool = False) -> Tensor | None:
        """The table at all points by one call of each function, where ``torch.func.vmap`` can follow them.

        A ``compact`` one has no columns for other functions.
        """
        if not self.batches:
            return None

        def table(time: Tensor, y: Tensor) -> Tensor:
            state, row = self.packing.unpack(y), []
            for place in asked:
                fn = self.fns[place]
                assert fn is not None
                g = fn(time, state, *self.args)
                if not self._fits(place, g, y):
                    raise TypeError  # what is wrong with it is said of a call of its own
                row.append(g)
            if not compact:
                return self._placed(asked, row, y)
            columns = [g.unsqueeze(-1) if self.counts[place] == 1 else g for place, g in zip(asked, row, strict=True)]
            return torch.cat(columns, -1).to(torch.float64)

        found = self.caller.at_once(table, "fn", times, ys)
        self.batches = found is not None
        return found

    def _fits(self, place: int, g: Any, y: Tensor) -> bool:
        lanes, count = self._lanes(y), self.counts[place]
        return type(g) is Tensor and g.shape == (lanes if count == 1 else (*lanes, count)) and g.dtype in _FLOATS

    def _lanes(self, y: Tensor) -> torch.Size:
        return y.shape[:1] if self.packing.per_sample else torch.Size(())

    def _placed(self, asked: list[int], row: Sequence[Tensor], y: Tensor) -> Tensor:
        known = dict(zip(asked, row, strict=True))
        return self.joined([known.get(place) for place in range(len(self.fns))], y)

    def joined(self, parts: Sequence[Tensor | None], y: Tensor) -> Tensor:
        """The values of every function as one tensor, the events last; ones where a function was not called."""
        full = [self._ones(place, y) if g is None else g for place, g in enumerate(parts)]
        if len(full) == 1 and self.counts[0] > 1:
            return full[0].to(torch.float64)
        if len(self.owner) == len(full):
            return torch.stack(full, dim=-1).to(torch.float64)
        columns = [g.unsqueeze(-1) if count == 1 else g for g, count in zip(full, self.counts, strict=True)]
        return torch.cat(columns, dim=-1).to(torch.float64)

    def _ones(self, place: int, y: Tensor) -> Tensor:
        """What stands for the values of a function that is not asked."""
        lanes, count = self._lanes(y), self.counts[place]
        return torch.ones(lanes if count == 1 else (*lanes, count), dtype=real_dtype(y), device=y.device)

    def gradients(self, t: Scalar, y: Tensor, wanted: Collection[int]) -> tuple[list[int], Tensor, Tensor]:
        """How functions change with time and state, each lane's with its own, without a graph.

        Returns:
            The wanted events that have functions, and their derivatives, the events first.
        """
        places = self._asked(wanted)
        indices = [index for index in sorted(wanted) if self.owner[index] in places]
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
