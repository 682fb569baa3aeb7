"""Ornstein-Uhlenbeck integrals of one Brownian motion as a pure function of a seed, exact at every step size."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ...core.scalars import Scalar
from ...errors import InvalidProblemError
from ..brownian.path import BrownianPath, Increment, Path
from ..fractional.rates import checked_rates
from .tree import NUMBERS, Tree, tree

_DEPTH = 32
"""Levels of the tree over a whole interval, which so is cut into pieces of 2.3e-10 of it."""


class OrnsteinUhlenbeckPath(BrownianPath):
    r"""What one Brownian motion per entry does to Ornstein-Uhlenbeck processes of several rates, as a pure function of the seed.

    ``path(s, t)`` is, for each rate :math:`\gamma_k` in the last dimension,

    .. math:: \xi_k(s, t) = \int_s^t e^{-\gamma_k (t - u)}\, dW_u, \qquad
              \operatorname{Cov}(\xi_i, \xi_j) = \frac{1 - e^{-(\gamma_i + \gamma_j)(t - s)}}{\gamma_i + \gamma_j}

    by which :math:`Y_k(t) = e^{-\gamma_k (t - s)} Y_k(s) + \xi_k(s, t)` solves :math:`dY_k = -\gamma_k Y_k\, dt + dW` without
    error, however large :math:`\gamma_k (t - s)` is. A rate of 0 gives W itself. The law of all rates and any number of
    intervals is the exact joint one, to 1e-11. It is the same in any order of queries and after a rejected step, and

    .. math:: \xi_k(s, t) = e^{-\gamma_k (t - m)} \xi_k(s, m) + \xi_k(m, t)

    holds to rounding: a dyadic tree carries the whole vector, in the wavelets of the functions :math:`e^{\gamma_k u}`.
    Its values are those of ``BrownianPath`` in no case, not even for a rate of 0.

    Limits. Queried times are rounded to the shortest intervals of the tree, 2.3e-10 of the path or 6e-8 of ``dt``. Time runs
    forward only. On other machines values may differ by 1e-5 of an increment, where their linear algebra rounds
    differently; the increments of whole cells by rounding only.

    Args:
        shape: the shape of W; with two or more dimensions the first one counts samples.
        rates: the rates, ``(K,)``, 0 or positive, and increasing.
        seed: as for :class:`BrownianPath`, and so the other arguments.
        t0: where the path starts.
        t1: where it ends. Where samples have intervals of their own, ``(B,)``, the path is one over their union.
        dt: cuts the path into cells of this length.
        tol: how short the shortest intervals of the tree are.
        samples: the numbers of the samples.
        dtype: float32 or float64, of what is returned; torch's default if None.
        device: where.

    Shapes:
        Of an increment: ``(*shape, K)``; times may be 0-d, or ``(B,)`` for one interval of each sample.

    Units:
        Rates in 1/time, increments in the square root of time.

    Raises:
        InvalidProblemError: an argument is wrong; at a query, a time outside the interval, or times in the wrong order.

    When to take it:
        To drive several solves of a :class:`SemilinearSDEProblem` by one path, or for the exact simulation of
        Ornstein-Uhlenbeck processes and of what is made of them, such as :class:`FractionalNoise`. A single solve makes its
        own from ``seed``.

    References:
        Gillespie: Exact numerical simulation of the Ornstein-Uhlenbeck process and its integral. Phys. Rev. E 54 (1996).
        Alpert: A class of bases in L2 for the sparse representation of integral operators. SIAM J. Math. Anal. 24 (1993).

    Example:
        >>> import torch, neuralde as nde
        >>> rates = torch.tensor([0.0, 1.0, 1e4], dtype=torch.float64)
        >>> path = nde.OrnsteinUhlenbeckPath((2000,), rates, seed=7, t0=0.0, t1=1.0, dtype=torch.float64)
        >>> whole = torch.exp(-rates * 0.7) * path(0.0, 0.3) + path(0.3, 1.0)
        >>> torch.allclose(path(0.0, 1.0), whole), [f"{x:.4g}" for x in path(0.0, 1.0).square().mean(0).tolist()]
        (True, ['0.9681', '0.42', '4.982e-05'])
    """

    def __init__(
        self,
        shape: Sequence[int],
        rates: Any,
        seed: int | Tensor,
        t0: Scalar,
        t1: Scalar,
        *,
        dt: float | None = None,
        tol: float | None = None,
        samples: Tensor | Sequence[int] | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        ends = [t.detach() if isinstance(t, Tensor) else t for t in (t0, t1)]
        first, last = (
            f(t) if isinstance(t, Tensor) else t for f, t in zip((torch.amin, torch.amax), ends, strict=True)
        )
        super().__init__(shape, seed, first, last, "none", dt=dt, tol=tol, samples=samples, dtype=dtype, device=device)
        self.rates = checked_rates(rates, "II").to(self.device)
        if 2 * len(self.rates) > NUMBERS:
            raise InvalidProblemError(f"rates: got {len(self.rates)} of them; expected at most {NUMBERS // 2}")
        if not torch.compiler.is_compiling() and bool(self.t1 < self.t0):
            raise InvalidProblemError(
                f"t0, t1: got {self.t0.item()} and {self.t1.item()}; expected t0 < t1, for the decay is not invertible"
            )
        self.depth = self.depth if tol is not None or dt is not None else _DEPTH
        self._latest: dict[Any, Tensor] = {}

    def grid(self, first: int, count: int) -> Increment:
        """The integrals over ``count`` cells of length ``dt``, from cell ``first`` on, stacked in front."""
        with torch.no_grad():
            cells = torch.arange(first, first + count, device=self.device)
            whole = self._tree.each(cells, self.keys.reshape(1, -1))
            return Increment(whole.reshape(count, *self.shape, -1).to(self.dtype), None)

    def in_cells(self, cells: Tensor) -> Increment:
        """The integrals over whole cells, a 0-d index or one for each sample."""
        with torch.no_grad():
            index = cells.reshape(-1)
            keys = self._rows(len(index))
            if torch.compiler.is_compiling():
                from .opaque import opaque_whole

                whole = opaque_whole(keys, self.rates, self._width, self.depth, index)
            else:
                whole = self._tree.whole(index, keys)
            return Increment(whole.reshape(*self.shape, -1).to(self.dtype), None)

    def values(self, times: Tensor, cells: Tensor | None = None) -> Tensor:
        """The integrals in float64 from the start of the path, or of ``cells``, to the times ``(k,)`` or ``(k, B)``."""
        with torch.no_grad():
            x = (self._located(times) if cells is None else times).reshape(len(times), -1)
            cell = torch.zeros_like(x) if cells is None else cells.reshape(x.shape)
            keys, one = self._rows(x.shape[1]), 1 << self.depth
            if cells is None:  # the end of the path is the start of what would follow, in which nothing has happened
                s = torch.zeros_like(x[0], dtype=torch.int64)
                rows = [self._passed(s, t, keys) for t in self._position(x)]
                return torch.stack(rows).reshape(len(times), *self.shape, len(self.rates))
            position, cell = self._position(x).clamp(max=one - 1), cell.to(torch.int64)
            if torch.compiler.is_compiling():
                from .opaque import opaque_since_start

                found = opaque_since_start(keys, self.rates, self._width, self.depth, position, cell)
            else:
                each = zip(position, cell, strict=True)
                found = torch.stack([self._tree.since_start(*place, keys, self._latest) for place in each])
            return found.reshape(len(times), *self.shape, len(self.rates))

    def take(self: Path, rows: Tensor) -> Path:
        """The path of some of the samples."""
        path = super().take(rows)
        path.__dict__["_latest"] = {}
        return path

    def __repr__(self) -> str:
        ends = f"{self.t0.item()}, {self.t1.item()}"
        return f"OrnsteinUhlenbeckPath({tuple(self.shape)}, {len(self.rates)} rates, t0, t1 = {ends})"

    def within(self, s: Scalar, t: Scalar) -> Increment:
        """As :meth:`increment`; in a graph the caller knows that both times are in one cell."""
        with torch.no_grad():
            times = torch.stack(torch.broadcast_tensors(self._time(s), self._time(t))).reshape(2, -1)
            if not torch.compiler.is_compiling() and bool((times[1] < times[0]).any()):
                raise InvalidProblemError(
                    f"s, t: got {times[0].tolist()[:4]} and {times[1].tolist()[:4]}; expected s <= t, for the decay is not "
                    "invertible"
                )
            position = self._position(self._located(times))
            xi = self._passed(position[0], position[1], self._rows(times.shape[1]))
            return Increment(xi.reshape(*self.shape, len(self.rates)).to(self.dtype), None)

    @cached_property
    def _tree(self) -> Tree:
        return tree(tuple(self.rates.tolist()), self._width.item(), self.depth, self.device)

    def _passed(self, s: Tensor, t: Tensor, keys: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            from .opaque import opaque_passed

            return opaque_passed(keys, self.rates, self._width, self.depth, s, t)
        return self._tree.passed(s, t, keys, self._latest)

    def _rows(self, count: int) -> Tensor:
        """The keys, one row for each of so many times."""
        return self.keys.reshape(count, self.keys.numel() // max(count, 1))

    def _position(self, x: Tensor) -> Tensor:
        """Times in cells as the numbers of the shortest intervals that start there."""
        return torch.round(x * 2.0**self.depth).to(torch.int64)
