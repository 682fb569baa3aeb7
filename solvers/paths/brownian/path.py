r"""Brownian motion as a pure function of (seed, sample, component, time): nothing is drawn, so nothing is stored.

White noise is expanded in wavelets, each of which has its own normal number, hashed from a counter. The value at a time
needs only the wavelets whose interval holds that time, one per level of a dyadic tree, and their integrals are known in
closed form. So a query is a fixed number of elementwise operations over all levels at once, without recursion, the same
for one time or one per sample, in eager and in compiled code.

A solver asks for neighbouring intervals. So on a CPU the values at both ends of the latest query are kept, and the
normals of the later one: the next query computes one end instead of two, and of that only the levels below the smallest
interval that holds both times. What is kept is what would be computed again: it never decides about a value.

Without Lévy area the wavelets are Haar's and the expansion is Lévy and Ciesielski's. With it they are Alpert's piecewise
linear ones: both :math:`W_t = \int_0^t dW_u` and :math:`\int_0^t W_u\,du = \int_0^t (t - u)\,dW_u` integrate the noise
against a polynomial of degree 1 cut off at ``t``, and these wavelets are orthogonal to such polynomials wherever their
interval does not hold ``t``. The joint law at dyadic times is the one that Foster's conditional formulas for halving an
interval give. Inside the smallest intervals the exact conditional law is used, with one normal (two) for each interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from ...checks import positive
from ...core.scalars import Scalar
from ...errors import InvalidProblemError
from .arguments import check_span, checked_seed, checked_shape, keys_of
from .expansion import Expansion
from .wavelets import End, recalled

DEPTH = 24
"""Levels of the tree if no tolerance is given: the smallest interval is the cell times 2**-24, about 6e-8 of it."""
_BLOCK = 1 << 16
"""How many entries of whole cells are computed at once."""
Path = TypeVar("Path", bound="BrownianPath")


class Increment(NamedTuple):
    r"""What a path did on an interval: :math:`W_{s,t}`, and the space-time Lévy area :math:`H_{s,t}` or None."""

    w: Tensor
    h: Tensor | None


class BrownianPath:
    r"""One Brownian motion per entry of ``shape``, as a pure function of the seed.

    ``path(s, t)`` is the increment :math:`W_t - W_s`. It is the same in any order of queries, backwards, after a rejected
    step, in another process, and for one sample alone or in a batch of any size: to the last bit, on every device, in
    eager code (compiled code may round the last bit differently). Increments add up to rounding. Nothing grows with the
    number of queries, and gradients do not flow through a path.

    With ``levy_area="space-time"`` there is also

    .. math:: H_{s,t} = \frac{1}{t-s} \int_s^t \Bigl(W_{s,u} - \frac{u-s}{t-s} W_{s,t}\Bigr) du
              \sim N\Bigl(0, \frac{t-s}{12}\Bigr), \qquad \int_s^t W_{s,u}\,du = (t-s) (W_{s,t}/2 + H_{s,t})

    with the exact joint law of all increments and areas. A path with areas has other values than one without.

    Args:
        shape: the shape of one increment. With two or more dimensions the first one counts samples.
        seed: an int, or a 0-d int64 tensor.
        t0: where the path starts; a float, or ``(B,)`` where samples have intervals of their own.
        t1: where it ends. Times outside the interval are refused.
        levy_area: ``"none"`` or ``"space-time"``.
        dt: cuts the path into cells of this length from ``t0`` on, whose increments cost one normal each: the grid of a
            solve with steps of ``dt``. Times within a millionth of a cell of the grid count as on it. A query
            across many cells adds them up. None: one cell.
        tol: how short intervals the dyadic tree in a cell resolves; the default is 2**-24 of a cell. Two queried times
            closer than that are still consistent and add up, but what lies between them is not Brownian. A query's time
            grows with the levels, so a solver that never takes steps below 1e-4 of the interval may say so here.
        samples: the numbers of the samples, ``(shape[0],)``, where they are not 0, 1, 2, ...: a process that solves
            samples 5000 to 9999 of an ensemble gets the increments that one process would have given them.
        dtype: float32 or float64, of what is returned; torch's default if None. Everything is computed in float64.
        device: where.

    Shapes:
        Of an increment: ``shape``; times may be 0-d, or ``(B,)`` for one interval of each sample.

    Units:
        Times in those of the solve; increments and areas in the square root of time.

    Raises:
        InvalidProblemError: an argument is wrong; at a query, a time outside the interval.

    When to take it:
        To drive several solves by one path (a fine and a coarse one, two methods), or parts of an ensemble in several
        processes. A single solve makes its own from ``seed``. ``levy_area="space-time"`` where a method of strong order
        1.5 will read it.

    References:
        Foster, Oberhauser, Lyons: An optimal polynomial approximation of Brownian motion. SIAM J. Numer. Anal. 58
        (2020). Alpert: A class of bases in L2 for the sparse representation of integral operators. SIAM J. Math. Anal.
        24 (1993). Salmon et al.: Parallel random numbers: as easy as 1, 2, 3. SC 2011.

    Example:
        >>> import torch, neuralde as nde
        >>> path = nde.BrownianPath((1000, 2), seed=7, t0=0.0, t1=1.0, dtype=torch.float64)
        >>> whole, parts = path(0.0, 1.0), path(0.0, 0.3) + path(0.3, 1.0)
        >>> whole.shape, torch.allclose(whole, parts), torch.equal(path.sample(5)(0.3, 1.0), path(0.3, 1.0)[5])
        (torch.Size([1000, 2]), True, True)
    """

    def __init__(
        self,
        shape: Sequence[int],
        seed: int | Tensor,
        t0: Scalar,
        t1: Scalar,
        levy_area: str = "none",
        *,
        dt: float | None = None,
        tol: float | None = None,
        samples: Tensor | Sequence[int] | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        self.shape = torch.Size(checked_shape(shape))
        if levy_area not in ("none", "space-time"):
            raise InvalidProblemError(f'levy_area: got {levy_area!r}; expected "none" or "space-time"')
        self.dtype = torch.get_default_dtype() if dtype is None else dtype
        if self.dtype not in (torch.float32, torch.float64):
            raise InvalidProblemError(f"dtype: got {dtype}; expected torch.float32 or torch.float64")
        self.levy_area = levy_area
        self.device = torch.empty(0, device=device).device
        self.t0, self.t1 = (self._time(t).detach() for t in (t0, t1))
        check_span(self.t0, self.t1)
        # In a graph its value cannot be read.
        self.dt = dt if dt is None or torch.compiler.is_compiling() else positive(dt, "dt")
        self.depth = self._depth(tol)
        self._start = torch.minimum(self.t0, self.t1)
        self._width = (self.t1 - self.t0).abs() if self.dt is None else torch.zeros_like(self._start) + self.dt
        reach = torch.maximum(self.t0, self.t1)
        slack = 1e-6 * ((reach - self._start) if dt is None else self._width)
        slack = slack + 8 * torch.finfo(torch.float64).eps * torch.maximum(self._start.abs(), reach.abs())
        self._low, self._high = self._start - slack, reach + slack
        self.keys = keys_of(self.shape, checked_seed(seed, self.device), samples)
        self._expansion = Expansion(self.depth, levy_area != "none", self.device)
        self._memory: tuple[End, End] | None = None

    @property
    def levy_area_approximation(self) -> str:
        """The same as :attr:`levy_area`, under the name that torchsde's solvers ask for."""
        return self.levy_area

    def __call__(
        self, s: Scalar, t: Scalar | None = None, return_U: bool = False, return_A: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        r"""The increment from ``s`` to ``t`` (from the start to ``s`` without ``t``); ``t < s`` gives it negated.

        Args:
            s: a number, a 0-d tensor, or ``(shape[0],)``, one for each sample.
            t: likewise.
            return_U: also return :math:`U = \int_s^t W_{s,u}\,du`; needs the space-time area.
            return_A: refused; here because torchsde's solvers pass it.
        """
        if return_A:
            raise InvalidProblemError('return_A: got True; a BrownianPath has levy_area "none" or "space-time" only')
        s, t = (self.t0, s) if t is None else (s, t)
        w, h = self.increment(s, t)
        if not return_U:
            return w
        if h is None:
            raise InvalidProblemError('return_U: got True with levy_area="none"; expected levy_area="space-time"')
        return w, self._spread(self._time(t) - self._time(s)).to(w) * (0.5 * w + h)

    def increment(self, s: Scalar, t: Scalar) -> Increment:
        r""":math:`W_{s,t}` and, with ``levy_area="space-time"``, :math:`H_{s,t}`. Run backwards, W changes its sign."""
        if self.dt is not None and torch.compiler.is_compiling():
            raise InvalidProblemError(
                "dt: a path with dt was asked for increments in a compiled function, where the number of its cells between "
                "two times is not known; expected a path without dt, or eager code"
            )
        return self.within(s, t)

    def within(self, s: Scalar, t: Scalar) -> Increment:
        """As :meth:`increment`; in a graph, where values cannot be read, the caller knows that both times are in one cell."""
        with torch.no_grad():
            times = torch.stack(torch.broadcast_tensors(self._time(s), self._time(t))).reshape(2, -1)
            back = times[1] < times[0]
            turned = torch.compiler.is_compiling() or bool(back.any())
            w, h = self._between(torch.stack([times.amin(0), times.amax(0)]) if turned else times)
            if turned:
                w = self._spread(torch.where(back, -1.0, 1.0).to(torch.float64)) * w
            return Increment(w.to(self.dtype), None if h is None else h.to(self.dtype))

    def grid(self, first: int, count: int) -> Increment:
        """The increments of ``count`` cells of length ``dt``, from cell ``first`` on, stacked in front.

        These are the bits that ``path(t0 + k * dt, t0 + (k + 1) * dt)`` gives, for one normal per increment.
        """
        with torch.no_grad():
            cells = torch.arange(first, first + count, device=self.device).unsqueeze(-1)
            w, h = self._expansion.whole(cells, self.keys.reshape(1, -1))
            scale = self._width.sqrt().reshape(-1)
            shape = (count, *self.shape)
            h = None if h is None else (scale * h).reshape(shape).to(self.dtype)
            return Increment((scale * w).reshape(shape).to(self.dtype), h)

    def cell(self, t: Tensor) -> Tensor:
        """Times counted in cells from the path's earlier end."""
        return (t - self._start) / self._width

    def time(self, cell: Tensor) -> Tensor:
        """When a cell begins."""
        return self._start + cell * self._width

    def slack(self, cell: Tensor) -> Tensor:
        """How far from the grid a time counts as on it: a clock that adds dt up n times is off by n**2 units of rounding."""
        return (1e-6 + 0.5 * torch.finfo(torch.float64).eps * cell * cell).clamp(max=0.05)

    def in_cells(self, cells: Tensor) -> Increment:
        """The increments of whole cells, a 0-d index or one for each sample."""
        with torch.no_grad():
            index = cells.reshape(-1)
            w, h = self._expansion.whole(index, self.keys.reshape(len(index), self.keys.numel() // max(len(index), 1)))
            root = self._width.sqrt().reshape(-1, 1)
            h = None if h is None else (root * h).reshape(self.shape).to(self.dtype)
            return Increment((root * w).reshape(self.shape).to(self.dtype), h)

    def values(self, times: Tensor, cells: Tensor | None = None) -> Tensor:
        """W in float64 at the times ``(k,)`` or ``(k, B)``, of which one row is for all entries at once.

        Since the start of the path; with ``cells`` the times are parts of these cells, and W is since their starts. For
        graphs, which would otherwise hold the path once for each time.
        """
        with torch.no_grad():
            x = (self._located(times) if cells is None else times).reshape(len(times), -1)
            cell = torch.zeros_like(x, dtype=torch.int64) if cells is None else cells.to(torch.int64).reshape(x.shape)
            keys = self.keys.reshape(x.shape[1], self.keys.numel() // max(x.shape[1], 1))
            w, _, _ = self._expansion(self._expansion.nodes(x), cell, keys)
            return (self._width.sqrt().reshape(-1, 1) * w).reshape(len(times), *self.shape)

    def take(self: Path, rows: Tensor) -> Path:
        """The path of some of the samples, counted along the first dimension."""
        path = object.__new__(type(self))
        path.__dict__.update(self.__dict__, _memory=None)
        path.keys = self.keys[rows]
        path.shape = path.keys.shape
        for name in ("t0", "t1", "_start", "_width", "_low", "_high"):
            if getattr(self, name).dim():
                setattr(path, name, getattr(self, name)[rows])
        return path

    def rounded(self: Path, dtype: torch.dtype) -> Path:
        """The same path with increments of another dtype."""
        path = object.__new__(type(self))
        path.__dict__.update(self.__dict__, _memory=None, dtype=dtype)
        return path

    def sample(self: Path, index: int) -> Path:
        """The path of one sample alone, without the first dimension."""
        return self.take(torch.tensor(index, device=self.device))

    def __repr__(self) -> str:
        area = "" if self.levy_area == "none" else f", levy_area={self.levy_area!r}"
        ends = ", ".join(str(t.item() if not t.dim() else t.tolist()) for t in (self.t0, self.t1))
        return f"BrownianPath({tuple(self.shape)}, t0, t1 = {ends}{area})"

    def _time(self, t: Scalar) -> Tensor:
        time = torch.as_tensor(t, dtype=torch.float64, device=self.device)
        if time.dim() > 1 or (time.dim() and tuple(time.shape) != tuple(self.shape[:1])):
            raise InvalidProblemError(
                f"t: got a time of shape {tuple(time.shape)}; expected a number or shape {tuple(self.shape[:1])}"
            )
        return time

    def _spread(self, x: Tensor) -> Tensor:
        return x.reshape(-1, *[1] * (len(self.shape) - 1)) if x.dim() else x

    def _depth(self, tol: float | None) -> int:
        if tol is None:
            return DEPTH
        cell = (self.t1 - self.t0).abs().max().item() if self.dt is None else self.dt
        return min(max(math.ceil(math.log2(cell / positive(tol, "tol"))), 1), 45)

    def _located(self, times: Tensor) -> Tensor:
        """The times in cells; on the grid where they are so near to it that only rounding can be between."""
        if not torch.compiler.is_compiling() and not bool(((times >= self._low) & (times <= self._high)).all()):
            raise InvalidProblemError(
                f"t: got a time outside of the path, {times.reshape(-1).tolist()[:4]}; expected times between "
                f"{self._start.min().item():.9g} and {torch.maximum(self.t0, self.t1).max().item():.9g}"
            )
        x = self.cell(times)
        if self.dt is None:
            return x.clamp_(0.0, 1.0)
        near = torch.round(x)
        return torch.where((x - near).abs() <= self.slack(x), near, x).clamp_(min=0.0)

    def _between(self, times: Tensor) -> tuple[Tensor, Tensor | None]:
        """The increments of intervals in the order of time, ``(2, n)``."""
        times = self._located(times)
        s, t = times
        keys = self.keys.reshape(len(s), self.keys.numel() // max(len(s), 1))
        if self.dt is None:
            w, j = self._piece(torch.zeros_like(s, dtype=torch.int64), times, keys)
        else:
            first = torch.floor(s)
            last = torch.maximum(torch.ceil(t) - 1.0, first)
            apart = (last - first).to(torch.int64)
            w, j = self._piece(first, torch.stack([s - first, torch.where(apart > 0, 1.0, t - first)]), keys)
            if not torch.compiler.is_compiling() and bool((apart > 0).any()):
                w, j = self._append(w, j, self._cells(first, apart, keys))
                part = torch.stack([torch.where(apart > 0, 0.0, t - last), t - last])
                w, j = self._append(w, j, (*self._piece(last, part, keys), (part[1] - part[0]).unsqueeze(-1)))
        root = self._width.sqrt().reshape(-1, 1)
        h = None
        if j is not None:
            span = (t - s).unsqueeze(-1)
            h = (root * (j / torch.where(span > 0, span, 1.0) - 0.5 * w)).reshape(self.shape)
        return (root * w).reshape(self.shape), h

    @staticmethod
    def _append(
        w: Tensor, j: Tensor | None, then: tuple[Tensor, Tensor | None, Tensor]
    ) -> tuple[Tensor, Tensor | None]:
        """Chen's relation: a further piece behind what there is."""
        more, area, length = then
        return w + more, None if j is None or area is None else j + length * w + area

    def _cells(self, first: Tensor, apart: Tensor, keys: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """The cells strictly between the first and the last, in blocks."""
        w = torch.zeros((len(first), keys.shape[1]), dtype=torch.float64, device=self.device)
        j = torch.zeros_like(w) if self.levy_area != "none" else None
        most = int(apart.max()) - 1
        block = max(1, _BLOCK // max(1, keys.numel()))
        for begin in range(0, most, block):
            offset = torch.arange(begin + 1, min(begin + block, most) + 1, device=self.device).unsqueeze(-1)
            inside = (offset < apart).unsqueeze(-1)
            each, h = self._expansion.whole(first.to(torch.int64) + offset, keys)
            each = torch.where(inside, each, 0.0)
            if j is not None:
                assert h is not None
                before = w + each.cumsum(0) - each
                j = j + torch.where(inside, before + h + 0.5 * each, 0.0).sum(0)
            w = w + each.sum(0)
        return w, j, (apart - 1).clamp(min=0).to(torch.float64).unsqueeze(-1)

    def _piece(self, cell: Tensor, ends: Tensor, keys: Tensor) -> tuple[Tensor, Tensor | None]:
        """W and the integral of W on a part of a cell from ``ends[0]`` to ``ends[1]``, in units of the cell."""
        cell = cell.to(torch.int64)
        if torch.compiler.is_compiling() or self.device.type != "cpu":
            both, areas, _ = self._expansion(self._expansion.nodes(ends), cell, keys)
            (v, w), (u, x) = both.unbind(), (None, None) if areas is None else areas.unbind()
        else:
            start, end = self._ends(cell, ends, keys)
            v, w, u, x = start.w, end.w, start.area, end.area
        if u is None or x is None:
            return w - v, None
        return w - v, x - u - (ends[1] - ends[0]).unsqueeze(-1) * v

    def _ends(self, cell: Tensor, ends: Tensor, keys: Tensor) -> tuple[End, End]:
        """W and its integral from the start of the cell to both ends, remembering what the latest query had there."""
        old = self._memory
        found: list[End] = []
        cells = None if self.dt is None else cell.tolist()
        for theta, at in zip(ends, ends.tolist(), strict=True):
            place = cells, at
            known = None
            if at.count(0.0) == len(at):
                zero = torch.zeros((len(at), keys.shape[1]), dtype=torch.float64)
                known = End(place, cell, theta, zero, None if self.levy_area == "none" else zero)
            elif at.count(1.0) == len(at):
                w, h = self._expansion.whole(cell, keys)
                known = End(place, cell, theta, w, None if h is None else 0.5 * w + h)
            elif old is not None and len(old[0].theta) == len(at):
                known = recalled(old, place, cell, theta)
            if known is None:
                near = next((x for x in (*found[::-1], *(old or ())[::-1]) if x.z is not None), None)
                nodes = self._expansion.nodes(theta)
                known = End(place, cell, theta, *self._expansion(nodes, cell, keys, near), nodes[0])
            found.append(known)
        self._memory = found[0], found[1]
        return self._memory
