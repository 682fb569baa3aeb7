"""What control paths have in common: piecewise polynomials, asked at one time, at many, or at each sample's own."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from copy import copy
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...checks import as_number, shown
from ...core.torch_private import is_wrapped
from ...errors import InvalidProblemError
from .observations import trailing

# Stages of a step that ends where the path does may lie behind it by rounding.
_SLACK = 8


class ControlPath:
    r"""A curve through observations, a polynomial on each interval between its knots.

    .. math:: X(t) = a_i + b_i s + c_i s^2 + d_i s^3, \qquad s = t - t_i, \quad t_i \le t \le t_{i+1}

    Subclasses choose the coefficients. A path is differentiable in its values and times; a question costs the same
    however many knots there are, and keeps nothing.

    Args:
        knots: increasing times, ``(T,)`` or ``(T, B)``, float64.
        pieces: the coefficients ``(T - 1, degree + 1, ..., c)``.
        last: which knot is the last of each series, ``(B,)``; None where all have T.

    Raises:
        InvalidProblemError: a time outside :attr:`interval`, or of a shape that fits no series.

    When to take it:
        As the base of another path, which only has to make the coefficients.

    Example:
        >>> import torch, neuralde as nde
        >>> path = nde.LinearPath([0.0, 1.0, 3.0], torch.tensor([[0.0], [2.0], [6.0]]))
        >>> path(2.0), path.derivative(2.0), path.interval
        (tensor([4.]), tensor([2.]), (0.0, 3.0))
    """

    smooth: ClassVar[bool] = False
    """Whether its derivative is continuous; if not, solves land on its knots."""
    lookback: ClassVar[int | None] = None
    """How many observations before the two at its ends a piece depends on, if on nothing later; None where it does."""
    fills_ahead: ClassVar[bool] = True
    """Whether a missing value is filled by the help of a later observation."""
    jumps: Any
    """The times at which its derivative jumps, on which solves land: the knots; of a smooth path where each series of its own
    times begins and ends, and None where all have the same."""

    def __init__(self, knots: Tensor, pieces: Tensor, last: Tensor | None = None) -> None:
        self.knots, self.pieces, self.last = knots, pieces, last
        self.channels: int = pieces.shape[-1]
        self._own = knots.dim() == 2
        self.jumps = self._jumps()
        self._host: dict[torch.dtype, array[float]] = {}

    def _jumps(self) -> Any:
        """As solves land on them: numbers where these are known, which a graph can hold."""
        if self.smooth and not self._own:
            return None
        known = torch.stack([self.knots[0], self._ends()]) if self.smooth else self.knots
        if torch.compiler.is_compiling() or self.knots.requires_grad or is_wrapped(self.knots):
            return known
        if self.last is not None and not self.smooth:
            known = known[self._steps() <= self.last]
        return tuple(known.unique().tolist())

    def _steps(self) -> Tensor:
        return torch.arange(len(self.knots), device=self.knots.device).unsqueeze(-1)

    def _ends(self) -> Tensor:
        """The last time, of each series where each has its own."""
        return self.knots[-1] if self.last is None else self.knots.gather(0, self.last.unsqueeze(0))[0]

    @property
    def interval(self) -> tuple[Any, Any]:
        """The first and the last time; of all series together where each has its own."""
        first, end = self.knots[0], self._ends()
        if self._own:
            first, end = first.min(), end.max()
        if self.knots.requires_grad or torch.compiler.is_compiling():
            return first, end
        return float(first), float(end)

    def __call__(self, t: Any) -> Tensor:
        """The value at ``t``.

        Args:
            t: a number or 0-d tensor; a 1-D tensor of N times; or, with a first dimension that counts the series, each
                one's own time, ``(B, 1, ...)``.

        Returns:
            ``(..., c)``, or ``(N, ..., c)`` for N times.
        """
        piece, s, _ = self._at(t)
        value = piece[-1]
        for coefficient in reversed(piece[:-1]):
            value = _add(coefficient, s, value)
        return value

    def derivative(self, t: Any) -> Tensor:
        """The time derivative at ``t``, in the shapes of a call; at a knot that of the right-hand side."""
        piece, s, held = self._at(t)
        slope = piece[-1] if len(piece) > 2 else piece[-1].clone()
        for power in range(len(piece) - 2, 0, -1):
            slope = _add(piece[power], (power + 1) / power * s, slope)
        return slope if held is None else torch.where(held, 0.0, slope)

    def _at(self, t: Any) -> tuple[list[Tensor], Any, Tensor | None]:
        """The coefficients at ``t``, the time since the knot, and where a series of its own times has not begun or has ended."""
        if not self._own and self.pieces.device.type == "cpu" and not torch.compiler.is_compiling():
            alone = self._alone(t)
            if alone is not None:
                return alone
        # A number keeps its precision, a tensor its own.
        kept = t.dtype if isinstance(t, Tensor) and t.is_floating_point() else torch.float64
        time = torch.as_tensor(t, dtype=kept, device=self.knots.device)
        time, each = self._per_series(time)
        index, s, held = self.locate(time, each)
        taken = self.coefficients(index, each)
        shape = (*index.shape, *[1] * (taken[0].dim() - index.dim()))
        s = s.to(self.pieces.dtype)
        return taken, s.reshape(shape), None if held is None else held.reshape(shape)

    def locate(self, time: Tensor, each: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        """On which pieces times lie, how long after their knots, and where a series of its own times stands still.

        Args:
            time: of all series, of any shape; or ``(..., B)`` if each has its own.
            each: whether it has.
        """
        knots = self.knots.detach().to(time.dtype)
        self._check(time, knots)
        index = self._index(time.detach(), knots, each)
        start = self.knots.gather(0, index.reshape(-1, index.shape[-1])) if self._own else _picked(self.knots, index)
        held = None
        if self._own:
            ends = self._ends().to(time.dtype)
            held = (time < knots[0]) | ((time >= ends) & (ends < ends.max()))
            time = torch.minimum(torch.maximum(time, self.knots[0].to(time.dtype)), ends)
        return index, time - start.reshape(index.shape), held

    def since(self, knots: int) -> ControlPath:
        """The path without its first pieces, as many as are asked for: what a series that goes on adds."""
        rest = copy(self)
        rest.knots, rest.pieces = self.knots[knots:], self.pieces[knots:]
        rest.last = None if self.last is None else self.last - knots
        rest.jumps, rest._host = rest._jumps(), {}
        return rest

    def _alone(self, t: Any) -> tuple[list[Tensor], Any, None] | None:
        """One time of all series, found by the host; None where ``t`` is something else."""
        live = isinstance(t, Tensor) and (t.requires_grad or not _plain(t))
        if live or self.knots.requires_grad or (isinstance(t, Tensor) and t.dim()):
            return None
        found = as_number(t)
        if found is None:
            raise InvalidProblemError(f"t: got {shown(t)}; expected a time, or a tensor of them")
        # A time in low precision is compared with the knots in that precision, so that each side keeps its side.
        knots = self._knots(t.dtype if isinstance(t, Tensor) else torch.float64)
        if not knots[0] <= found <= knots[-1]:
            self._check(torch.tensor(found, dtype=torch.float64), self.knots.detach())
        index = min(max(bisect_right(knots, found) - 1, 0), len(knots) - 2)
        return list(self.pieces[index].unbind(0)), found - self._knots(torch.float64)[index], None

    def _knots(self, dtype: torch.dtype) -> array[float]:
        if dtype not in self._host:
            self._host[dtype] = array("d", self.knots.detach().to(dtype).double().tolist())
        return self._host[dtype]

    def _per_series(self, time: Tensor) -> tuple[Tensor, bool]:
        """Times as ``(N,)`` for all series, or ``(B,)`` for each its own; and which it is."""
        batch = self.pieces.shape[2:-1]
        if time.dim() <= 1:
            if not self._own:
                return time, False
            return time.unsqueeze(-1).expand(*time.shape, self.knots.shape[1]), True
        if not batch or time.shape[0] != batch[0] or time.numel() != batch[0]:
            raise InvalidProblemError(
                f"t: got shape {tuple(time.shape)}; expected a 0-d or 1-D tensor, or ({batch[0] if batch else 'B'}, 1, ...) for "
                "each series its own time"
            )
        return time.reshape(-1), True

    def _index(self, time: Tensor, knots: Tensor, each: bool) -> Tensor:
        """On which piece each time lies; a knot belongs to the piece that it begins."""
        if self._own and each:
            rows = time.reshape(-1, time.shape[-1]).T.contiguous()
            found = torch.searchsorted(knots.T.contiguous(), rows, right=True).T.reshape(time.shape)
        else:
            found = torch.searchsorted(knots, time.contiguous(), right=True)
        found = (found - 1).clamp(0, self.pieces.shape[0] - 1)
        return found if self.last is None else torch.minimum(found, self.last - 1)

    def coefficients(self, index: Tensor, each: bool) -> list[Tensor]:
        """The coefficients of the pieces with these indices, in the order of their powers."""
        if not each:
            return list(_picked(self.pieces, index).unbind(index.dim()))
        series = torch.arange(index.shape[-1], device=index.device).expand(index.shape)
        return [self.pieces[:, power][index, series] for power in range(self.pieces.shape[1])]

    def _check(self, time: Tensor, knots: Tensor) -> None:
        """Refuse times outside the interval."""
        first, end = knots[0].min(), self._ends().detach().to(knots.dtype).max()
        slack = _SLACK * torch.finfo(time.dtype).eps * torch.maximum(first.abs(), end.abs())
        # NaN passes: it is the mark of a lane that has failed already.
        outside = (time.detach() < first - slack) | (time.detach() > end + slack)
        if torch.compiler.is_compiling() or time.device.type != "cpu":
            torch._assert_async(~outside.any(), "t: outside the path's interval")
        elif _plain(time) and bool(outside.any()):
            raise InvalidProblemError(
                f"t: got {time[outside].flatten()[0].item()!r}; expected a time in the path's interval "
                f"[{first.item()!r}, {end.item()!r}]"
            )

    def __repr__(self) -> str:
        series = f", {tuple(self.pieces.shape[2:-1])} series" if self.pieces.dim() > 3 else ""
        return f"{type(self).__name__}({len(self.knots)} knots{series}, {self.channels} channels)"


def _add(a: Tensor, s: Any, b: Tensor) -> Tensor:
    """``a + s b``, in one operation where ``s`` is a number."""
    return torch.add(a, b, alpha=s) if type(s) is float and not torch.compiler.is_compiling() else a + s * b


def _picked(x: Tensor, index: Tensor) -> Tensor:
    """``x[index]``; a graph would take an index without dimensions for a number."""
    return x.index_select(0, index.reshape(-1)).reshape((*index.shape, *x.shape[1:]))


def steps_of(ts: Tensor, xs: Tensor) -> Tensor:
    """The lengths of the intervals as they broadcast against values."""
    return trailing(ts.diff(dim=0), xs)


def _plain(t: Tensor) -> bool:
    """Whether the host may read a tensor: no transform and no other device stands between."""
    return t.device.type == "cpu" and not is_wrapped(t)
