"""What happened on the way: the events of a solve, written down as it runs, and as the user sees them."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..core.legendre import evaluate
from ..core.packing import Packing
from ..core.scalars import Scalar, as_clock, select, shaped, transformed
from ..core.status import Status
from ..output.solution import EventLog
from .bracketing import from_host, on_host
from .dense_search import DenseSearch, Found, turns
from .event_set import Events, Fired

if TYPE_CHECKING:
    from ..methods.base import Step
    from ..stepping.attempt import Carry, Plan, Trial


class Logged(NamedTuple):
    """What the events of one or more steps contribute, in the graph: one entry for each lane that had any."""

    times: Tensor
    before: Tensor
    after: Tensor


class _Entry(NamedTuple):
    """What is known of the same entries without the graph."""

    hits: Tensor
    primary: Tensor
    samples: Tensor | None
    times: Tensor
    cuts: bool = True
    """Whether steps end there."""


def logged(fired: Fired, t: Scalar, before: Tensor, after: Tensor) -> Logged:
    """The entries of one step that ends at ``t``."""
    time = torch.as_tensor(t, dtype=torch.float64, device=before.device)
    if fired.lanes is None:
        return Logged(time.unsqueeze(0), before.unsqueeze(0), after.unsqueeze(0))
    return Logged(time[fired.lanes], before[fired.lanes], after[fired.lanes])


def logged_inside(events: Events, step: Step, found: Found) -> Logged:
    """The entries of events of one step that only log, in the graph.

    The time is the root of the event's function on the step's dense output, an implicit function of everything that the
    step depends on.
    """
    t0, t1 = (as_clock(t, step.y0.device) for t in (step.t0, step.t1))
    curve = _Curve(step.y0, step.polynomial(), t0, t1)
    if found.lanes is None:
        pairs = [
            curve.root(events, index, time) for index, time in zip(found.primary.tolist(), found.times, strict=True)
        ]
        times, states = zip(*pairs, strict=True)
        return Logged(torch.stack(times), torch.stack(states), torch.stack(states))
    nth = from_host(turns(on_host(found.lanes)), found.lanes.device)
    order, ts, ys = [], [], []
    for turn in range(int(nth.max()) + 1):
        for index in found.primary[nth == turn].unique().tolist():
            here = ((nth == turn) & (found.primary == index)).nonzero().reshape(-1)
            lanes = found.lanes[here]
            mask = torch.zeros(len(step.y0), dtype=torch.bool, device=lanes.device).index_fill(0, lanes, True)
            # The other lanes take one for which the function is meant.
            ends = found.times[here[0]].expand(len(mask)).index_put((lanes,), found.times[here])
            time, state = curve.of(mask, lanes[0]).root(events, index, ends)
            order.append(here)
            ts.append(time[lanes])
            ys.append(state[lanes])
    back = torch.argsort(torch.cat(order))
    return Logged(torch.cat(ts)[back], torch.cat(ys)[back], torch.cat(ys)[back])


class _Curve(NamedTuple):
    """One step's dense output, in the graph if the step is."""

    y0: Tensor
    pieces: list[Tensor]
    t0: Tensor
    t1: Tensor

    def of(self, mask: Tensor, donor: Tensor) -> _Curve:
        """The same where ``mask`` holds, elsewhere the donor's."""
        y0, *pieces = (torch.where(shaped(mask, x), x, x[donor]) for x in (self.y0, *self.pieces))
        t0, t1 = (select(mask, t, t[donor]) if t.dim() else t for t in (self.t0, self.t1))
        return _Curve(y0, pieces, t0, t1)

    def root(self, events: Events, index: int, end: Tensor) -> tuple[Tensor, Tensor]:
        """The event's time near ``end``, and the state there."""
        constant = [x.detach() for x in self.pieces]

        def arrive(t: Scalar, s: Scalar, y: Tensor) -> Tensor:
            del t
            live = y is self.y0  # the rate of change is a constant
            t0, t1 = (self.t0, self.t1) if live else (self.t0.detach(), self.t1.detach())
            return evaluate(shaped((s - t0) / (t1 - t0), y), y, self.pieces if live else constant)

        time = events.root_time(index, arrive, self.t0, end, self.y0)
        return time, arrive(self.t0, time, self.y0)


class Log:
    """A listener that keeps the events of a solve, and finds those that only log.

    Args:
        samples: how many samples there are; None in a joint solve.
        search: what finds those that only log, where there are any.
        graph: whether their times and states are in the graph, where there is one.
    """

    def __init__(self, samples: int | None, search: DenseSearch | None = None, graph: bool = False) -> None:
        self.samples, self.search, self.graph = samples, search, graph
        self.entries: list[_Entry] = []
        self.values: list[Logged] = []
        self.latest: Found | None = None
        """What only logged in the last step."""

    def __call__(self, plan: Plan, carry: Carry, trial: Trial) -> None:
        """Keep the events of a step."""
        seen, tied = trial.events, None
        if self.search is not None:
            results = self.search.add(plan, trial)
            self.latest, tied = results[-1] if results else (None, None)
            for found, _ in results:
                self._keep(found, trial.step)
        if seen is None or seen.fired is None:
            return
        step, t = trial.step, trial.t_end if seen.live is None else seen.live
        values = logged(seen.fired, t, step.y, step.y if seen.after is None else seen.after)
        self.add(seen.fired, values, trial.rows, tied=tied)

    def finish(self) -> None:
        """Look into the steps that have been waiting."""
        if self.search is not None and self.search.parts:
            found, _ = self.search.look()
            self._keep(found, None)

    def _keep(self, found: Found | None, step: Step | None) -> None:
        """Keep what only logged; of a solve in the graph that was in the one ``step``."""
        if found is None:
            return
        assert self.search is not None
        values = Logged(found.times, found.states, found.states)
        if self.graph and step is not None and (torch.is_grad_enabled() or transformed()) and not self.search.later:
            values = logged_inside(self.search.events, step, found)
        self.entries.append(_Entry(found.hits, found.primary, found.samples, found.times, cuts=False))
        self.values.append(values)

    def add(
        self,
        fired: Fired,
        values: Logged,
        rows: Tensor | None = None,
        tied: np.ndarray | None = None,
    ) -> None:
        """Keep one more step's entries; ``tied`` flags others of the same time."""
        if fired.lanes is None:
            device = values.before.device
            hits, samples = torch.tensor([fired.hits], device=device), None
            primary = torch.tensor([fired.primary], device=device)
        else:
            assert isinstance(fired.hits, Tensor)
            hits, samples = fired.hits[fired.lanes], fired.lanes if rows is None else rows[fired.lanes]
            primary = fired.primary[fired.lanes]
        if tied is not None:
            also = from_host(tied, hits.device)
            hits = hits | (also.unsqueeze(0) if fired.lanes is None else also[fired.lanes])
        self.entries.append(_Entry(hits, primary, samples, values.times.detach()))
        self.values.append(values)

    def behind_first(self, fired: Fired, values: Logged) -> Log:
        """The log of a solve before which something happened at its start, which no step has seen."""
        out = Log(self.samples)
        out.add(fired, values)
        out.entries += self.entries
        out.values += self.values
        return out

    def detached(self) -> Log:
        """The same with times and states as constants."""
        out = copy(self)
        out.values = [Logged(*(x.detach() for x in one)) for one in self.values]
        return out

    def flat(self, like: Tensor, values: Sequence[Logged] | None = None) -> Logged:
        """All entries, one after another; ``values`` are the same in another graph, if they are given."""
        values = self.values if values is None else values
        if not values:
            lane = like.shape if self.samples is None else like.shape[1:]
            none = like.new_empty((0, *lane))
            return Logged(torch.empty(0, dtype=torch.float64, device=like.device), none, none)
        return Logged(*(torch.cat(pieces) for pieces in zip(*values, strict=True)))

    def found(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """All entries' events, the one whose time is theirs, and their samples, in the order of :meth:`flat`."""
        none = torch.empty(0, dtype=torch.int64)
        hits, primary = (
            torch.cat(pieces) if pieces else none
            for pieces in ([one.hits for one in self.entries], [one.primary for one in self.entries])
        )
        return hits, primary, None if self.samples is None else self._lanes() if self.entries else none

    def view(self, flat: Logged, packing: Packing) -> EventLog:
        """The events as the user sees them, a row for each."""
        if not self.entries:
            lanes = () if self.samples is None else (self.samples,)
            none = flat.before.new_empty((0, *lanes, *flat.before.shape[1:]))
            ts = flat.times.new_empty((0, *lanes))
            return EventLog(ts, ts.to(torch.int64), packing.unpack(none, lead=1), packing.unpack(none, lead=1))
        entry, index = torch.cat([one.hits for one in self.entries]).nonzero(as_tuple=True)
        ts, before, after = (x[entry] for x in flat)
        if self.samples is not None:
            lane = self._lanes()[entry]
            turns = torch.nn.functional.one_hot(lane, self.samples).cumsum(0)
            turn = turns.gather(1, lane.unsqueeze(1)).squeeze(1) - 1
            shape, where = (int(turn.max()) + 1, self.samples), (turn, lane)
            ts, before, after = (
                x.new_full((*shape, *x.shape[1:]), torch.nan).index_put(where, x) for x in (ts, before, after)
            )
            index = index.new_full(shape, -1).index_put(where, index)
        return EventLog(ts, index, packing.unpack(before, lead=1), packing.unpack(after, lead=1))

    def ending(self, times: Tensor, status: Scalar, terminal: Tensor) -> tuple[Tensor | None, Any]:
        """When which event ended the solve, or each sample of it: None, or NaN and -1, where none did."""
        if self.samples is None:
            if status != Status.EVENT:
                return None, None
            return times[-1], int((self.entries[-1].hits[-1] & terminal).to(torch.int64).argmax())
        ended = status == int(Status.EVENT)
        if not self.entries:
            return torch.full_like(ended, torch.nan, dtype=torch.float64), torch.full_like(ended, -1, dtype=torch.int64)
        number = torch.arange(len(times), device=times.device)
        last = torch.zeros_like(ended, dtype=torch.int64).scatter_reduce(0, self._lanes(), number, "amax")
        hits = torch.cat([one.hits for one in self.entries])[last] & terminal
        return torch.where(ended, times[last], torch.nan), torch.where(ended, hits.to(torch.int64).argmax(-1), -1)

    def behind(self, rows: Tensor, ts: Tensor, flat: Logged) -> Tensor:
        """Rows at the times ``ts``, those of events with the states behind them."""
        if not self.entries:
            return rows
        constant = self._ends()
        if self.samples is None:
            row, which = (ts.unsqueeze(1) == constant).nonzero(as_tuple=True)
            return rows.index_put((row,), flat.after[which])
        lane = self._lanes()
        row, which = (ts[:, lane] == constant).nonzero(as_tuple=True)
        return rows.index_put((row, lane[which]), flat.after[which])

    def moved(self, knots: Tensor, counts: Tensor | None, times: Tensor) -> Tensor:
        """Knots of the solution, of which those that are times of events move with ``times`` in the graph."""
        if not self.entries or not times.requires_grad:
            return knots
        constant = self._ends()
        if self.samples is None:
            same = knots.unsqueeze(1) == constant
            rows, which = same.nonzero(as_tuple=True)
            places: tuple[Tensor, ...] = (rows,)
        else:
            assert counts is not None
            lane = self._lanes()
            rows, which = ((knots[:, lane] == constant) & counts[:, lane]).nonzero(as_tuple=True)
            places = (rows, lane[which])
        shift = torch.zeros_like(knots).index_put(places, (times - times.detach())[which], accumulate=True)
        return knots + shift

    def _ends(self) -> Tensor:
        """The times of all entries, NaN where no step ends."""
        return torch.cat([one.times if one.cuts else torch.full_like(one.times, torch.nan) for one in self.entries])

    def _lanes(self) -> Tensor:
        return torch.cat([one.samples for one in self.entries if one.samples is not None])
