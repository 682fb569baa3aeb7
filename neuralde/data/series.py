"""Many series of different times and lengths as two tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import DataError


@dataclass(frozen=True, eq=False)
class SeriesSet:
    r"""N series in the layout of control paths: the time first, the channels last.

    Attributes:
        ts: the times ``(T, N)``, float64, NaN behind the end of a shorter series.
        xs: the values ``(T, N, c)``, NaN where nothing was observed and behind the end.
        lengths: how many times each series has, ``(N,)``.
        labels: ``(N,)``: int64 places in ``classes``, or float64 targets of a regression; None without labels.
        classes: the names of the classes, as written in the file; empty for a regression or without labels.
        name: of the problem.
        starts: where the times were dates, the first one of each series, ``(N,)``, in seconds since 1970-01-01.

    Units:
        Times as in the file; seconds since the series' first time where they are dates; 0, 1, 2, … where it has none.

    Raises:
        DataError: from the methods, what they say.

    When to take it:
        What :func:`read_ts`, :func:`read_npz` and :func:`from_arrays` return: ``HermitePath(series.ts, series.xs)`` is its path.

    Example:
        >>> import numpy as np, neuralde as nde
        >>> series = nde.data.from_arrays([np.zeros((2, 5)), np.ones((2, 3))], labels=["walk", "run"])
        >>> series.xs.shape, series.lengths, series.classes, series.labels
        (torch.Size([5, 2, 2]), tensor([5, 3]), ('run', 'walk'), tensor([1, 0]))
        >>> nde.HermitePath(series.ts, series.with_time().xs)(2.0).shape
        torch.Size([2, 3])
    """

    ts: Tensor
    xs: Tensor
    lengths: Tensor
    labels: Tensor | None = None
    classes: tuple[str, ...] = ()
    name: str = ""
    starts: Tensor | None = None

    def __len__(self) -> int:
        """How many series."""
        return self.xs.shape[1]

    @property
    def channels(self) -> int:
        """How many channels."""
        return self.xs.shape[2]

    def __getitem__(self, which: Any) -> SeriesSet:
        """Some of the series, by a slice, a list or a tensor of places; cut to the longest of them."""
        which = torch.arange(len(self))[which].reshape(-1)
        if not len(which):
            raise DataError(f"which: got none of {len(self)} series; expected at least one")
        at = which.to(self.xs.device)
        lengths = self.lengths[at]
        longest = int(lengths.max())
        labels, starts = (None if part is None else part[at] for part in (self.labels, self.starts))
        ts, xs = self.ts[:longest, at], self.xs[:longest, at]
        return replace(self, ts=ts, xs=xs, lengths=lengths, labels=labels, starts=starts)

    def to(self, *target: Any) -> SeriesSet:
        """On another device, or with values of another dtype; times stay in float64."""
        xs = self.xs.to(*target)
        labels, starts = (None if part is None else part.to(xs.device) for part in (self.labels, self.starts))
        ts, lengths = self.ts.to(xs.device), self.lengths.to(xs.device)
        return replace(self, ts=ts, xs=xs, lengths=lengths, labels=labels, starts=starts)

    def with_time(self, scale: float = 1.0) -> SeriesSet:
        """With ``scale`` times the time as the first channel: a controlled equation does not see the time otherwise."""
        return replace(self, xs=torch.cat([(scale * self.ts).to(self.xs.dtype).unsqueeze(-1), self.xs], -1))

    def thinned(self, fraction: float, seed: int) -> SeriesSet:
        """Without a fraction of the times of each series, drawn at random for each; at least two are left."""
        if not 0.0 <= fraction < 1.0:
            raise DataError(f"fraction: got {fraction}; expected at least 0 and less than 1")
        generator, lengths = np.random.default_rng(seed), self.lengths.tolist()
        kept = [_kept(length, fraction, generator) for length in lengths]
        ts, xs = torch.full_like(self.ts, float("nan")), torch.full_like(self.xs, float("nan"))
        for place, rows in enumerate(kept):
            ts[: len(rows), place], xs[: len(rows), place] = self.ts[rows, place], self.xs[rows, place]
        counts = torch.tensor([len(rows) for rows in kept], dtype=torch.int64, device=self.lengths.device)
        return replace(self, ts=ts, xs=xs, lengths=counts)[:]

    def on_one_clock(self) -> tuple[Tensor, Tensor]:
        """All series at the times of any: ``(G,)`` and ``(G, N, c)``, NaN where a series has none of them.

        A path with one clock for all answers faster than one with a clock for each; where the series share few of
        their times it becomes long.
        """
        known = ~self.ts.isnan()
        clock, place = self.ts[known].unique(return_inverse=True)
        xs = self.xs.new_full((len(clock), *self.xs.shape[1:]), float("nan"))
        xs[place, known.nonzero()[:, 1]] = self.xs[known]
        return clock, xs


def _kept(length: int, fraction: float, generator: np.random.Generator) -> list[int]:
    """The places of the times that stay."""
    order: list[int] = generator.permutation(length).tolist()
    return sorted(order[min(int(length * fraction), max(length - 2, 0)) :])


def padded(
    times: Sequence[np.ndarray], values: Sequence[np.ndarray], labels: Tensor | None = None, **about: Any
) -> SeriesSet:
    """Series of their own times ``(T_i,)`` and values ``(T_i, c)`` in one layout."""
    lengths = [len(t) for t in times]
    ts = np.full((max(lengths), len(times)), np.nan)
    xs = np.full((max(lengths), len(times), values[0].shape[1]), np.nan)
    for place, (t, x) in enumerate(zip(times, values, strict=True)):
        ts[: len(t), place], xs[: len(x), place] = t, x
    return SeriesSet(
        torch.from_numpy(ts), torch.from_numpy(xs), torch.tensor(lengths, dtype=torch.int64), labels, **about
    )


def coded(labels: Sequence[str], classes: Sequence[str] | None) -> tuple[Tensor, tuple[str, ...]]:
    """Labels as places in the classes; these are the sorted labels where none are given."""
    names = tuple(sorted(set(labels)) if classes is None else classes)
    place = {name: index for index, name in enumerate(names)}
    unknown = sorted(set(labels) - set(names))
    if unknown:
        raise DataError(f"labels: got {unknown[0]!r}; expected one of {', '.join(names)}")
    return torch.tensor([place[label] for label in labels], dtype=torch.int64), names
