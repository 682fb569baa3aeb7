"""Fractional Brownian motion as a pure function of (seed, sample, component, grid of times), with its exact law."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from ...checks import number
from ...core.scalars import Scalar
from ...errors import InvalidProblemError
from ..brownian.arguments import checked_seed, checked_shape, keys_of
from . import grids
from .cholesky import LIMIT, cholesky_path, cholesky_with_brownian, conditioned
from .circulant import circulant_path
from .covariance import amplitude, covariance
from .grids import Grid
from .normals import bridge_keys, path_keys
from .volterra import volterra_path

METHODS = ("auto", "circulant", "convolution", "cholesky")


class FractionalBrownianPath:
    r"""Fractional Brownian motion with its exact law on a grid of times, one for each entry of ``shape``.

    Type I (Mandelbrot and Van Ness) has stationary increments, type II (Riemann and Liouville) begins at ``t0`` without a
    past. With time counted from ``t0``, Hurst index H and by default variance 1 at time 1,

    .. math:: \text{I:}\quad & E[B(s) B(t)] = \tfrac12 (s^{2H} + t^{2H} - |t - s|^{2H}) \\
              \text{II:}\quad & B(t) = \sqrt{2H} \int_0^t (t - s)^{H - 1/2}\,dW(s), \qquad E[B(t)^2] = t^{2H}

    ``path.sample(ts)`` is a pure function of the seed, the sample's number and the grid: the same in another process, on
    another device, and for one sample alone or in a batch, to rounding. Entries are independent, unless a ``correlation``
    couples those of the last dimension, and independent of the ``BrownianPath`` with the same seed.

    **One path, one grid.** Values on two grids have the law of fractional Brownian motion each, but are not two views of one
    path: the value at a time depends on all times that were asked for with it. So a path answers on one grid, and refuses
    a second one, unless the Cholesky method is used and one grid continues the other, where values agree. To refine a path,
    :meth:`bridge` it: the law of both grids together is exact.

    Args:
        shape: the shape of a value. With two or more dimensions the first one counts samples.
        seed: an int, or a 0-d int64 tensor.
        t0: where the path starts, at 0.
        t1: where it ends; later times are refused.
        hurst: the Hurst index, a number or a 0-d tensor above 0 and below 1; samples are differentiable in it.
        kind: ``"I"`` or ``"II"``.
        method: ``"circulant"`` (type I on a uniform grid), ``"convolution"`` (type II on a uniform grid), ``"cholesky"`` (any
            times), or ``"auto"``: the fast one where the grid is uniform, else ``"cholesky"`` up to 8,192 times.
            :meth:`method` says which one a grid gets. A method that cannot take a grid refuses it.
        unit_variance: False scales both types as :math:`1/\Gamma(H + 1/2)` times the integral against dW, the scale of
            :class:`FractionalNoise`: type I by :math:`(\Gamma(2H + 1) \sin \pi H)^{-1/2}`, type II by
            :math:`(2H)^{-1/2} / \Gamma(H + 1/2)`.
        correlation: of the components in the last dimension, ``(shape[-1], shape[-1])``; None: they are independent.
        samples: the numbers of the samples, ``(shape[0],)``, where they are not 0, 1, 2, ...
        dtype: float32 or float64, of what is returned; torch's default if None. Everything is computed in float64.
        device: where.

    Shapes:
        A sample: ``(T, *shape)`` for T times, often a transposed view of a tensor with time last.

    Units:
        Times in those of the solve; values in time to the power H.

    Raises:
        InvalidProblemError: an argument is wrong; for a sample, times that are not increasing or outside the interval, a grid
            that the method cannot take, or another grid than that of an earlier sample.

    When to take it:
        As data with a known Hurst index, as the volatility of a rough model (type II with :meth:`sample_with_brownian`), as a
        reference for approximations. A sample needs all its times at once: an equation is driven by the Markov
        approximation, :class:`FractionalNoise`. ``"circulant"`` takes O(T log T) time and O(T) memory, ``"convolution"`` 20
        times as much, ``"cholesky"`` O(T^3) time once, O(T^2) for each entry, and memory for four matrices.

    References:
        Mandelbrot, Van Ness: Fractional Brownian motions, fractional noises and applications. SIAM Review 10 (1968).
        Dietrich, Newsam: Fast and exact simulation of stationary Gaussian processes through circulant embedding of the
        covariance matrix. SIAM J. Sci. Comput. 18 (1997). Marinucci, Robinson: Alternative forms of fractional Brownian
        motion. J. Stat. Plan. Inference 80 (1999).

    Example:
        >>> import torch, neuralde as nde
        >>> ts = torch.linspace(0.0, 1.0, 1025, dtype=torch.float64)
        >>> path = nde.FractionalBrownianPath((5, 2), seed=7, t0=0.0, t1=1.0, hurst=0.3)
        >>> coarse = path.sample(ts[::4])
        >>> coarse.shape, path.method(ts), path.method([0.1, 0.5, 0.6])
        (torch.Size([257, 5, 2]), 'circulant', 'cholesky')
        >>> fine = path.bridge(ts[4::4], coarse[1:]).sample(ts)
        >>> torch.allclose(fine[::4], coarse)
        True
    """

    def __init__(
        self,
        shape: Sequence[int],
        seed: int | Tensor,
        t0: Scalar,
        t1: Scalar,
        hurst: float | Tensor,
        kind: str = "I",
        *,
        method: str = "auto",
        unit_variance: bool = True,
        correlation: Tensor | None = None,
        samples: Tensor | Sequence[int] | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        self.shape = torch.Size(checked_shape(shape))
        if kind not in ("I", "II"):
            raise InvalidProblemError(f'kind: got {kind!r}; expected "I" or "II"')
        if method not in METHODS:
            raise InvalidProblemError(f"method: got {method!r}; expected one of {', '.join(map(repr, METHODS))}")
        refused = {"I": "convolution", "II": "circulant"}[kind]
        if method == refused:
            why = "has no kernel to convolve" if kind == "I" else "has no stationary increments"
            raise InvalidProblemError(
                f'method: got {method!r} with kind="{kind}", which {why}; expected another method'
            )
        self.dtype = torch.get_default_dtype() if dtype is None else dtype
        if self.dtype not in (torch.float32, torch.float64):
            raise InvalidProblemError(f"dtype: got {dtype}; expected torch.float32 or torch.float64")
        self.kind, self.unit_variance, self._chosen = kind, unit_variance, method
        self.device = torch.empty(0, device=device).device
        self.t0, self.t1 = number(t0, "t0"), number(t1, "t1")
        if self.t1 <= self.t0:
            raise InvalidProblemError(f"t1: got {self.t1!r} with t0 = {self.t0!r}; expected a later time")
        self.hurst = checked_hurst(hurst).to(self.device)
        self.correlation, self._mixing = self._checked_correlation(correlation)
        self._keys = path_keys(keys_of(self.shape, checked_seed(seed, self.device), samples))
        self._given: tuple[Tensor, Tensor, float] | None = None
        self._asked: Tensor | None = None

    def method(self, ts: Any) -> str:
        """The method by which :meth:`sample` computes values at ``ts``: ``"circulant"``, ``"convolution"`` or ``"cholesky"``.

        Args:
            ts: increasing times, ``(T,)``.
        """
        grid = self._read(ts)
        return self._method(grid if self._given is None else grids.join(grid, self._given[0], self._given[2])[0])

    def sample(self, ts: Any) -> Tensor:
        """The values at the times ``ts``.

        Args:
            ts: increasing times between ``t0`` and ``t1``, ``(T,)``. A grid counts as uniform where rounding in the dtype of
                ``ts`` explains what it lacks, and ``t0`` lies a whole number of steps before it.

        Returns:
            ``(T, *shape)``.
        """
        grid = self._read(ts)
        self._remember(grid.times)
        if self._given is None:
            return self._shaped(grid, self._free(grid))
        known, given, slack = self._given
        joined, own, at = grids.join(grid, known, slack)
        free = self._collected(joined, self._free(joined))
        moved = conditioned(free, joined.positive, at, given.flatten(1).T, self.hurst, self.kind)
        return self._shaped(grid, iter([moved[:, own]]), mixed=True)

    def sample_with_brownian(self, ts: Any) -> tuple[Tensor, Tensor]:
        """The values at ``ts``, those of :meth:`sample`, and at the same times the Brownian motion that drives them.

        Args:
            ts: as for :meth:`sample`.

        Returns:
            The values and the Brownian motion, ``(T, *shape)`` each, with their joint law.

        Raises:
            InvalidProblemError: the path is of type I, which is driven by an infinite past, or a bridge.
        """
        if self.kind == "I" or self._given is not None:
            what = 'kind="I", which is driven from the infinite past' if self.kind == "I" else "a bridge"
            raise InvalidProblemError(
                f'sample_with_brownian: got {what}; expected a path of kind="II" that is not a bridge'
            )
        grid = self._read(ts)
        self._remember(grid.times)
        values, motions = zip(*self._driven(grid), strict=True)
        return self._shaped(grid, iter(values)), self._shaped(grid, iter(motions))

    def bridge(self, ts: Any, values: Tensor) -> FractionalBrownianPath:
        """The path given its values at some times: an exact Gaussian conditioning, with fresh noise between them.

        Values of this path are continued with the joint law of all times, so this refines a path too. Times given before
        stay given.

        Args:
            ts: increasing times after ``t0``, ``(m,)``.
            values: ``(m, *shape)``, or what broadcasts to it; samples are differentiable in them.

        Returns:
            Another path, which takes any grid whose union with the given times its method takes.
        """
        grid = self._read(ts)
        times, slack = grid.times, grid.slack
        if grid.starts:
            raise InvalidProblemError(f"ts: got t0 = {self.t0!r}, where the path is 0; expected times after it")
        if not isinstance(values, Tensor) or not values.is_floating_point() or not bool(values.isfinite().all()):
            raise InvalidProblemError("values: expected a tensor of finite real numbers, (m, *shape)")
        try:
            values = values.to(self.device, torch.float64).broadcast_to(len(times), *self.shape)
        except RuntimeError:
            raise InvalidProblemError(
                f"values: got shape {tuple(values.shape)}; expected {(len(times), *self.shape)}, or what broadcasts to it"
            ) from None
        if self._given is not None:
            known, before, wide = self._given
            slack = max(slack, wide)
            if bool(((times.unsqueeze(1) - known).abs() <= slack).any()):
                raise InvalidProblemError("ts: got a time that is given already; expected others")
            times, order = torch.cat([known, times]).sort()
            values = torch.cat([before, values])[order]
        path = self._like()
        path._given, path._keys = (times, values, slack), bridge_keys(self._keys)
        return path

    def take(self, rows: Tensor) -> FractionalBrownianPath:
        """The path of some of the samples, counted along the first dimension."""
        path = self._like()
        path._keys, path._asked = self._keys[rows], self._asked
        path.shape = path._keys.shape
        if self._given is not None:
            path._given = self._given[0], self._given[1][:, rows], self._given[2]
        if not path.shape and self._mixing is not None:
            raise InvalidProblemError("rows: got one entry of a correlated path; expected whole samples")
        return path

    def covariance(self, s: Any, t: Any) -> Tensor:
        """The covariance of an entry at the times ``s`` and ``t``, which broadcast; without what a bridge was given."""
        times = [torch.as_tensor(x, dtype=torch.float64, device=self.device) - self.t0 for x in (s, t)]
        if any(bool((x < 0).any()) for x in times):
            raise InvalidProblemError(f"s, t: got a time before t0 = {self.t0!r}; expected later ones")
        return self._scale() ** 2 * covariance(times[0], times[1], self.hurst, self.kind)

    def variance(self, t: Any) -> Tensor:
        """The variance of an entry at ``t``."""
        return self.covariance(t, t)

    def __repr__(self) -> str:
        given = "" if self._given is None else f", given {len(self._given[0])} values"
        ends = f"t0, t1 = {self.t0}, {self.t1}"
        return f"FractionalBrownianPath({tuple(self.shape)}, {ends}, hurst={self.hurst.item():.6g}, kind={self.kind!r}{given})"

    def _like(self) -> FractionalBrownianPath:
        path = object.__new__(FractionalBrownianPath)
        path.__dict__.update(self.__dict__, _asked=None)
        return path

    def _scale(self) -> Tensor:
        return amplitude(self.hurst, self.kind, self.unit_variance)

    def _read(self, ts: Any) -> Grid:
        return grids.read(ts, self.t0, self.t1, self.device)

    def _method(self, grid: Grid) -> str:
        """The method for a grid, or an error that says what the grid lacks."""
        fast = {"I": "circulant", "II": "convolution"}[self.kind]
        if self._chosen == "cholesky" or (self._chosen == "auto" and grid.step is None):
            if self._chosen == "auto" and len(grid.times) > LIMIT:
                raise InvalidProblemError(
                    f"ts: got {len(grid.times)} times that are not uniform ({grid.lacks}), for which a matrix of "
                    f"{8 * len(grid.times) ** 2 / 2**30:.1f} GiB is factorized; expected a uniform grid, at most {LIMIT} "
                    'times, or method="cholesky"'
                )
            return "cholesky"
        if grid.step is None:
            raise InvalidProblemError(f'ts: {grid.lacks}; method "{fast}" expected a uniform grid from t0 on')
        return fast

    def _remember(self, times: Tensor) -> None:
        """Refuse a second grid, whose values would be those of another path."""
        old, self._asked = self._asked, times if self._asked is None else self._asked
        if old is None:
            return
        short = min(len(old), len(times))
        if torch.equal(old[:short], times[:short]):
            if len(old) == len(times):
                return
            if self._given is None and self._method_at(old) == self._method_at(times) == "cholesky":
                self._asked = max(old, times, key=len)
                return
        raise InvalidProblemError(
            f"ts: got {len(times)} times after a sample at {len(old)} others, whose values they would contradict; expected the "
            "same times, path.bridge(ts, values) to refine the first sample, or a path with another seed"
        )

    def _method_at(self, times: Tensor) -> str:
        return self._method(self._read(times))

    def _free(self, grid: Grid) -> Iterator[Tensor]:
        """Blocks of independent entries at the times after ``t0``, without what is given, ``(n, T)`` each."""
        keys, method = self._keys.reshape(-1), self._method(grid)
        if method == "convolution":
            return (values for values, _ in self._driven(grid))
        if method == "cholesky":
            return cholesky_path(keys, grid.positive, self.hurst, self.kind, self._scale())
        assert grid.step is not None
        whole = circulant_path(keys, grid.before + grid.count, self.hurst, grid.step**self.hurst * self._scale())
        return (block[:, grid.before :] for block in whole)

    def _driven(self, grid: Grid) -> Iterator[tuple[Tensor, Tensor]]:
        """The same of type II, with the motion that drives it."""
        keys = self._keys.reshape(-1)
        if self._method(grid) == "cholesky":
            yield from cholesky_with_brownian(keys, grid.positive, self.hurst, self._scale())
            return
        assert grid.step is not None
        root, scale = grid.step**0.5, grid.step**self.hurst * self._scale()
        for values, motion in volterra_path(keys, grid.before + grid.count, self.hurst, scale):
            yield values[:, grid.before :], root * motion[:, grid.before :]

    def _mixed(self, values: Tensor) -> Tensor:
        """Entries with the correlation of the components."""
        assert self._mixing is not None
        parts = values.reshape(-1, len(self._mixing), values.shape[-1])
        return (self._mixing @ parts).reshape(values.shape)

    def _collected(self, grid: Grid, free: Iterator[Tensor]) -> Tensor:
        """Blocks as one, in float64, components correlated, ``(entries, T)``."""
        whole = [*free]
        values = torch.cat(whole) if whole else torch.empty((0, grid.count), dtype=torch.float64, device=self.device)
        return values if self._mixing is None else self._mixed(values)

    def _shaped(self, grid: Grid, blocks: Iterator[Tensor], mixed: bool = False) -> Tensor:
        """What is returned, from blocks of entries at the times after ``t0``; ``mixed``: their components are correlated."""
        if self._mixing is not None and not mixed:
            blocks = iter([self._collected(grid, blocks)])
        finished = [pad(block.to(self.dtype), (int(grid.starts), 0)) for block in blocks]
        empty = torch.empty((0, len(grid.times)), dtype=self.dtype, device=self.device)
        values = torch.cat(finished) if finished else empty
        return values.T.reshape(len(grid.times), *self.shape)

    def _checked_correlation(self, given: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        if given is None:
            return None, None
        size = self.shape[-1] if self.shape else 0
        matrix = torch.as_tensor(given, dtype=torch.float64, device=self.device)
        expected = f"a symmetric positive definite matrix of shape ({size}, {size}) with ones on its diagonal"
        if tuple(matrix.shape) != (size, size) or not size:
            raise InvalidProblemError(f"correlation: got shape {tuple(matrix.shape)}; expected {expected}")
        even = torch.allclose(matrix, matrix.T) and torch.allclose(matrix.diagonal(), matrix.new_ones(size))
        factor, info = torch.linalg.cholesky_ex(matrix)
        if not even or int(info):
            raise InvalidProblemError(f"correlation: got {matrix.tolist()}; expected {expected}")
        return matrix, factor


def checked_hurst(value: Any) -> Tensor:
    """A Hurst index as a 0-d float64 tensor, in the graph where it is in one."""
    plain = value.detach() if isinstance(value, Tensor) else value
    found = number(plain, "hurst", "a number above 0 and below 1", above=0.0, below=1.0)
    return value.to(torch.float64) if isinstance(value, Tensor) else torch.tensor(found, dtype=torch.float64)
