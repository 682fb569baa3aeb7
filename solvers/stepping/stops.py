"""The times a solve must not step over: the end, and the controller's ``step_ts`` and ``jump_ts``."""

from __future__ import annotations

import copy
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable

import torch
from torch import Tensor

from ..core.scalars import Scalar, as_time, graph_constants, in_order
from ..terms.base import Term


class Stops:
    """Given times, in the order in which the solve meets them.

    Args:
        step_ts: sorted times to land on.
        jump_ts: sorted times to land on, where the field is discontinuous.
        each: times that each lane has for itself, ``(T, B)`` in any order; NaN is none.
        live: those of all lanes' times that are differentiated, in the graph.
        traced: further times where the field is discontinuous, of which a graph knows no numbers.
    """

    def __init__(
        self,
        step_ts: tuple[float, ...],
        jump_ts: tuple[float, ...],
        each: Tensor | None = None,
        live: Tensor | None = None,
        traced: Tensor | None = None,
    ) -> None:
        self.each, self.live, self.traced = each, live, traced
        self.moving = None if live is None else live.detach()
        """The differentiated times without their graph."""
        places = [] if self.moving is None else list(enumerate(self.moving.tolist()))
        self._places = {time: place for place, time in reversed(places)}
        self.ts = in_order((*step_ts, *jump_ts))
        self.jumps: Collection[float] = tuple(jump_ts) if torch.compiler.is_compiling() else frozenset(jump_ts)
        self._tensors: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}
        self._in_graph = self._all_in_graph() if torch.compiler.is_compiling() else {}

    def after(self, t: Scalar, t1: Scalar, direction: Scalar) -> Scalar:
        """The next of the times strictly ahead of ``t``, or ``t1`` where that comes first."""
        if self.each is not None:
            ahead = (self.each - t) * direction
            nearest = torch.where(ahead > 0, ahead, torch.inf).min(dim=0)
            own = self.each.gather(0, nearest.indices.unsqueeze(0)).squeeze(0)
            t1 = torch.where(nearest.values < (t1 - t) * direction, own, t1)
        if not self.ts and self.traced is None:
            return t1
        if not isinstance(t, Tensor):
            if direction > 0:
                index = bisect_right(self.ts, t)
                return min(self.ts[index], t1) if index < len(self.ts) else t1
            index = bisect_left(self.ts, t) - 1
            return max(self.ts[index], t1) if index >= 0 else t1
        # Without an index: torch 2.13 cannot compile one that depends on constants alone.
        ts = self._tensor("ts", t) * (direction.unsqueeze(-1) if isinstance(direction, Tensor) else direction)
        following = torch.where(ts > (t * direction).unsqueeze(-1), ts, torch.inf).amin(dim=-1)
        return torch.where(following < t1 * direction, following * direction, t1)

    def bind(self, live: Tensor | None) -> Stops:
        """The same stops with other live times at the same places; with None all are constants."""
        if live is self.live:
            return self
        bound = copy.copy(self)
        bound.live = live
        return bound

    def at(self, t: Scalar) -> Scalar:
        """A time of the clock as the graph sees it: where a differentiated time stands there, that one, of equals the first."""
        if self.live is None or self.moving is None:
            return t
        if not isinstance(t, Tensor):
            return self.live[self._places[t]] if t in self._places else t
        same = t.unsqueeze(-1) == self.moving
        return torch.where(same.any(-1), self.live[same.to(torch.int64).argmax(-1)], t)

    def sides(self, t: Scalar, like: Tensor, direction: Scalar) -> tuple[Tensor, Tensor]:
        """The neighbours of a time in front of it and behind it, in the precision of the state."""
        time = torch.as_tensor(as_time(t, like))
        ahead = torch.as_tensor(as_time(direction * torch.inf, like)).expand_as(time)
        return torch.nextafter(time, -ahead), torch.nextafter(time, ahead)

    def take(self, rows: Tensor) -> Stops:
        """The stops of some of the lanes."""
        if self.each is None:
            return self
        taken = copy.copy(self)
        taken.each = self.each[:, rows]
        return taken

    def breaking(self, times: Iterable[float]) -> Stops:
        """The same stops for a field that is discontinuous at further times, where the solve stops for other reasons."""
        more = copy.copy(self)
        more.jumps, more._tensors = {*self.jumps, *times}, {}
        return more

    @property
    def breaks(self) -> bool:
        """Whether the field is discontinuous anywhere."""
        return len(self.jumps) > 0 or self.traced is not None

    def is_jump(self, t: Scalar) -> Scalar:
        """Whether the field is discontinuous at ``t``."""
        if not isinstance(t, Tensor):
            return t in self.jumps
        return (t.unsqueeze(-1) == self._tensor("jumps", t)).any(dim=-1)

    def _all_in_graph(self) -> dict[str, Tensor]:
        """The times as tensors of the graph, made before its loop, which could not take them in when they change."""
        known = {name: graph_constants(times) for name, times in (("ts", self.ts), ("jumps", self.jumps)) if times}
        if self.traced is None:
            return known
        more = self.traced
        return {name: torch.cat([known[name].to(more), more]) if name in known else more for name in ("ts", "jumps")}

    def _tensor(self, name: str, like: Tensor) -> Tensor:
        """The times of that name where ``like`` is, copied there once."""
        if torch.compiler.is_compiling():
            return self._in_graph[name].to(like.device, like.dtype)
        key = (name, like.dtype, like.device)
        if key not in self._tensors:
            self._tensors[key] = torch.tensor(sorted(getattr(self, name)), dtype=like.dtype, device=like.device)
        return self._tensors[key]

    def one_sided(self, field: Term, t: Scalar, t_end: Scalar, like: Tensor) -> Term:
        """The field on ``[t, t_end]``, seen from inside where an end is a discontinuity."""
        if not self.breaks:
            return field
        start, end = torch.as_tensor(as_time(t, like)), torch.as_tensor(as_time(t_end, like))
        forward = _flag(t_end >= t, start)
        ahead = torch.where(forward, torch.inf, -torch.inf).to(start.dtype)
        leaves, lands = _flag(self.is_jump(t), start), _flag(self.is_jump(t_end), end)
        first = torch.where(leaves, torch.nextafter(start, ahead), start)
        last = torch.where(lands, torch.nextafter(end, -ahead), end)
        # In the precision of the state a short step may have no inside: then its one time is on the right side.
        crossed = torch.where(forward, last < first, last > first)
        first, last = torch.where(crossed & ~leaves, last, first), torch.where(crossed & leaves, first, last)
        bounds = torch.minimum(first, last), torch.maximum(first, last)
        return field.one_sided(*bounds)


def _flag(value: Scalar, like: Tensor) -> Tensor:
    flag = torch.as_tensor(value, device=like.device)
    return flag.reshape(like.shape) if flag.dim() else flag
