"""Observations as they are given to a path: times, values, lengths; checked, and laid out alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence, pad_sequence

from ...core.times import read_times
from ...core.vmap import batched, shared
from ...errors import InvalidProblemError


class Observations(NamedTuple):
    """Times and values with one layout."""

    ts: Tensor
    """Increasing times in float64, ``(T,)`` or ``(T, B)``; behind the end of a shorter series they go on by ones."""
    xs: Tensor
    """Values ``(T, ..., c)``, NaN where nothing was observed."""
    last: Tensor | None
    """Which point is the last of each series, ``(B,)``; None where all have T."""


def observations(ts: Any, xs: Any) -> Observations:
    """Times and values, refused by name where they make no path."""
    ts, xs = padded(ts, xs)
    values = _values(xs)
    times = read_times(ts, "ts", "increasing times, shape (T,) or (T, B)", many=True).in_graph.to(values.device)
    if times.dim() not in (1, 2) or times.shape[0] != values.shape[0] or times.shape[0] < 2:
        raise InvalidProblemError(
            f"ts: got shape {tuple(times.shape)} with xs of shape {tuple(values.shape)}; expected (T,), or (T, B) where "
            "each series has its own times, with the T of xs and at least two"
        )
    if times.dim() == 2 and (values.dim() < 3 or times.shape[1] != values.shape[1]):
        raise InvalidProblemError(
            f"ts: got shape {tuple(times.shape)} with xs of shape {tuple(values.shape)}; expected as many columns as xs has "
            "series in its second dimension"
        )
    times, last = _checked_times(times)
    _check_values(values, last)
    return Observations(times, values, last)


def padded(ts: Any, xs: Any) -> tuple[Any, Any]:
    """Times and values as they are; of a list of series, or packed ones, one tensor, NaN behind the end of the shorter ones."""
    if isinstance(xs, PackedSequence):  # a named tuple, too
        return _unpacked(ts, xs)
    return _listed(ts, xs) if isinstance(xs, (list, tuple)) else (ts, xs)


def _unpacked(ts: Any, xs: PackedSequence) -> tuple[Tensor, Tensor]:
    """Packed series; their times packed alike, or as a tensor."""
    nan = float("nan")
    values, lengths = pad_packed_sequence(xs, padding_value=nan)
    if isinstance(ts, PackedSequence):
        times, of_times = pad_packed_sequence(ts, padding_value=nan)
        if times.dim() != 2 or not torch.equal(of_times, lengths):
            raise InvalidProblemError(
                f"ts: got packed times {tuple(times.shape)} of lengths {of_times.tolist()}; expected one for each value of "
                f"xs, of lengths {lengths.tolist()}"
            )
        return times, values
    times = read_times(ts, "ts", "times (T,) or (T, B), or packed as xs is", many=True).in_graph
    if times.dim() not in (1, 2) or len(times) != len(values) or times.shape[1:] not in ((), values.shape[1:2]):
        raise InvalidProblemError(
            f"ts: got shape {tuple(times.shape)} with packed xs of {len(values)} times and {values.shape[1]} series; expected "
            "(T,) or (T, B), or times packed alike"
        )
    ahead = torch.arange(len(values)).unsqueeze(-1) < lengths
    return torch.where(ahead.to(times.device), times if times.dim() == 2 else times.unsqueeze(-1), nan), values


def observation_times(ts: Any, xs: Any) -> Tensor:
    """When there are observations, ``(T,)`` or ``(T, B)`` as a path has them; behind the end of a series, its end."""
    times, _, last = observations(ts, xs)
    times = times.detach()
    if last is None:
        return times
    steps = torch.arange(len(times), device=times.device).unsqueeze(-1)
    return times.gather(0, torch.minimum(steps, last))


def _listed(ts: Any, xs: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """Series of different lengths as one, NaN behind the end of the shorter ones."""
    if not isinstance(ts, (list, tuple)) or len(ts) != len(xs) or not xs:
        raise InvalidProblemError(
            f"ts: got {type(ts).__name__} with a list of {len(xs)} series; expected a list of as many times, one for each"
        )
    each = [read_times(t, f"ts[{i}]", "a sequence of times", many=True).in_graph for i, t in enumerate(ts)]
    values = [_values(x, f"xs[{i}]") for i, x in enumerate(xs)]
    for i, (t, x) in enumerate(zip(each, values, strict=True)):
        if t.shape != x.shape[:1] or x.shape[1:] != values[0].shape[1:] or len(t) < 2:
            raise InvalidProblemError(
                f"xs[{i}]: got shape {tuple(x.shape)} with {tuple(t.shape)} times; expected (T, ..., c) with as many times, at "
                f"least two, and the trailing shape {tuple(values[0].shape[1:])} of the first series"
            )
    nan = float("nan")
    return pad_sequence(each, padding_value=nan), pad_sequence(values, padding_value=nan)


def _values(xs: Any, name: str = "xs") -> Tensor:
    if not isinstance(xs, Tensor):
        raise InvalidProblemError(
            f"{name}: got {type(xs).__name__}; expected a tensor of shape (T, ..., c), time first and channels last"
        )
    if not xs.is_floating_point():
        raise InvalidProblemError(
            f"{name}: got dtype {xs.dtype}; expected real floating point, such as {name}.double()"
        )
    if xs.dim() < 2 or xs.shape[-1] < 1:
        raise InvalidProblemError(
            f"{name}: got shape {tuple(xs.shape)}; expected (T, ..., c), time first and channels last, at least one channel"
        )
    return xs


def _checked_times(ts: Tensor) -> tuple[Tensor, Tensor | None]:
    """Increasing times without NaN, and which point is the last of each series."""
    if torch.compiler.is_compiling():
        torch._assert_async((ts.diff(dim=0) > 0).all(), "ts: expected increasing times")
        return ts, None
    known = ~ts.isnan()
    count = known.sum(0)
    if ts.dim() == 2 and not bool(known.all()):
        steps = torch.arange(len(ts), device=ts.device).unsqueeze(-1)
        if not bool((known == (steps < count)).all()) or bool((count < 2).any()):
            raise InvalidProblemError(
                "ts: got NaN before the end of a series, or fewer than two times in one; expected NaN only behind the end"
            )
        end = ts.gather(0, (count - 1).unsqueeze(0))
        ts = torch.where(known, ts, end + (steps - count + 1))
        last = count - 1
    else:
        last = None
    if not bool(ts.isfinite().all()):
        raise InvalidProblemError("ts: got a time that is not finite; expected finite, increasing times")
    steps = ts.diff(dim=0)
    if not bool((steps > 0).all()):
        position, *series = (~(steps > 0)).nonzero()[0].tolist()
        before, after = (float(x.detach()[tuple(series)]) for x in ts[position : position + 2])
        raise InvalidProblemError(
            f"ts: got {before!r} and then {after!r} at position {position + 1}; expected strictly increasing times"
        )
    return ts, last


def _check_values(xs: Tensor, last: Tensor | None) -> None:
    """Refuse infinities, and channels without any observation."""
    if torch.compiler.is_compiling():
        return
    if bool(shared(xs.isinf().any())):
        raise InvalidProblemError("xs: got an infinite value; expected finite ones, NaN where nothing was observed")
    seen = ~xs.isnan()
    if last is not None:
        steps = torch.arange(len(xs), device=xs.device).reshape(-1, *[1] * (xs.dim() - 1))
        seen = seen & (steps <= last.reshape(-1, *[1] * (xs.dim() - 2)))
    empty = ~seen.any(0)
    if bool(shared(empty.any())):
        if batched(empty):
            raise InvalidProblemError("xs: got no observation in a channel of a lane; expected at least one in each")
        *series, channel = empty.nonzero()[0].tolist()
        of = f" of series {tuple(series) if len(series) > 1 else series[0]}" if series else ""
        raise InvalidProblemError(
            f"xs: got no observation in channel {channel}{of}; expected at least one, or the channel left out"
        )


def trailing(times: Tensor, like: Tensor) -> Tensor:
    """Times ``(T,)`` or ``(T, B)`` as they broadcast against values ``(T, ..., c)``, in their dtype."""
    return times.to(like.dtype).reshape(*times.shape, *[1] * (like.dim() - times.dim()))


def linearly_filled(ts: Tensor, xs: Tensor) -> Tensor:
    """Values with the unobserved ones on the line between their neighbours; constant before the first and behind the last."""
    seen = ~xs.isnan()
    if not torch.compiler.is_compiling() and not bool(shared((~seen).any())):
        return xs
    steps = torch.arange(len(xs), device=xs.device).reshape(-1, *[1] * (xs.dim() - 1)).expand_as(xs)
    before = torch.where(seen, steps, -1).cummax(0).values
    behind = torch.where(seen, steps, len(xs)).flip(0).cummin(0).values.flip(0)
    before, behind = torch.where(before < 0, behind, before), torch.where(behind >= len(xs), before, behind)
    known = torch.where(seen, xs, 0.0)
    times = trailing(ts, xs).expand_as(xs)
    t0, t1 = times.gather(0, before), times.gather(0, behind)
    apart = behind > before
    weight = torch.where(apart, (times - t0) / torch.where(apart, t1 - t0, 1.0), 0.0)
    return torch.where(seen, known, torch.lerp(known.gather(0, before), known.gather(0, behind), weight))


def carried_forward(xs: Tensor, initial: float) -> Tensor:
    """Values with the last observation in place of the unobserved ones, and ``initial`` before the first."""
    seen = ~xs.isnan()
    steps = torch.arange(len(xs), device=xs.device).reshape(-1, *[1] * (xs.dim() - 1)).expand_as(xs)
    before = torch.where(seen, steps, -1).cummax(0).values
    known = torch.where(seen, xs, 0.0)
    return torch.where(before < 0, initial, known.gather(0, before.clamp(min=0)))
