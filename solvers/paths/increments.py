"""Where a solve's increments come from: a path, asked for whole blocks of its grid at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..core.scalars import Scalar, leading, real_dtype
from ..errors import InvalidProblemError
from .brownian.arguments import integer_seed
from .brownian.path import BrownianPath, Increment
from .brownian.random import draw_seed
from .torchsde import BorrowedPath

_BLOCK = 1 << 15
"""How many numbers a block of increments may hold: what the processor's cache holds while they are computed."""
_LONGEST = 256
"""How many steps a block of increments may serve."""


class Noise:
    """Increments of a path as the steps ask for them. Whole cells of the path's grid are computed in blocks.

    The blocks are a cache: the values are those of the path, in whatever order they are asked for.

    Args:
        path: a :class:`BrownianPath`, or another object with ``increment(s, t)``.
        seed: the seed that the path was made from, None where the user made it.
    """

    def __init__(self, path: Any, seed: int | Tensor | None = None) -> None:
        self.path, self.seed = path, seed
        grid = isinstance(path, BrownianPath) and path.dt is not None and not path.t0.dim()
        self.dt: float | None = path.dt if grid and not torch.compiler.is_compiling() else None
        if self.dt is not None:
            ends = path.t0.item(), path.t1.item()
            self.start, self.cells = min(ends), max(1, int(abs(ends[1] - ends[0]) / self.dt + 0.5))
            self.size = min(max(1, _BLOCK // max(1, path.keys.numel())), _LONGEST, self.cells)
        self.first = -1
        self.block: tuple[tuple[Tensor, ...], tuple[Tensor, ...] | None] = ((), None)

    def __call__(self, t0: Scalar, t1: Scalar) -> Increment:
        """W and H from ``t0`` to ``t1``."""
        if self.dt is not None and isinstance(t0, float) and isinstance(t1, float):
            x0, x1 = (t0 - self.start) / self.dt, (t1 - self.start) / self.dt
            low, high = (x0, x1) if x0 < x1 else (x1, x0)
            cell = round(low)
            # As the path itself places times on its grid: a clock that adds dt up is off by a few units of rounding.
            allowed = min(1e-6 + 1.1e-16 * high * high, 0.05)
            if abs(low - cell) <= allowed and abs(high - cell - 1) <= allowed:
                w, h = self._cell(cell)
                return Increment(w if x0 < x1 else -w, h)
        with torch.no_grad():
            times = (t.detach() if isinstance(t, Tensor) else t for t in (t0, t1))
            increment: Increment = self.path.increment(*times)
        return increment

    def inside(self, t0: Scalar, t: Any, lanes: Tensor | None = None) -> Tensor:
        """W from the start of a step to a time inside it; of some lanes of a solve, to a time of each."""
        with torch.no_grad():
            path, t0 = self.path, t0.detach() if isinstance(t0, Tensor) else t0
            if lanes is not None:
                if not hasattr(path, "take"):
                    raise InvalidProblemError(
                        f"path: got {type(path).__name__} without take(rows), by which each sample is asked for at its own save "
                        "times; expected one that has it, a BrownianPath or one of torchsde, or a joint solve"
                    )
                path, t0 = path.take(lanes), t0[lanes]
            w: Tensor = path.increment(t0, t).w
        return w

    def bridges(self, times: Tensor) -> Callable[[Scalar, Tensor, Tensor], Tensor]:
        r"""For a graph: :math:`W(s) - \theta W` at all the times s, as a function of a step's start, ``theta`` and W.

        ``times`` and ``theta`` are ``(T,)`` or ``(T, B)``; where a time is not in the step, the value is of no use.
        """
        values = self.path.values(times)

        def bridge(t0: Scalar, theta: Tensor, w: Tensor) -> Tensor:
            done = values - self.path.values(t0.detach().unsqueeze(0))
            return done.to(w.dtype) - leading(theta, done.dim(), w.dtype) * w

        return bridge

    def _cell(self, cell: int) -> tuple[Tensor, Tensor | None]:
        place = cell % self.size
        if self.first != cell - place:
            self.first = cell - place
            w, h = self.path.grid(self.first, self.size)
            self.block = (w.unbind(0), None if h is None else h.unbind(0))
        ws, hs = self.block
        return ws[place], None if hs is None else hs[place]

    def take(self, rows: Tensor) -> Noise:
        """The noise of some of the samples."""
        return Noise(self.path.take(rows), self.seed)


def checked_path(path: Any, shape: Sequence[int], times: tuple[Scalar, Scalar], y0: Tensor, area: str) -> Any:
    """A path that the user passed, if it can drive this solve."""
    if not callable(getattr(path, "increment", None)):
        path = BorrowedPath(path)
    got = tuple(getattr(path, "shape", shape))
    if got != tuple(shape):
        raise InvalidProblemError(
            f"path: got increments of shape {got}; expected {tuple(shape)}, the noise of this problem"
        )
    if area != "none" and getattr(path, "levy_area", area) == "none":
        raise InvalidProblemError(
            f'path: got levy_area="none"; expected levy_area="{area}", which this solver needs (or another solver)'
        )
    if torch.compiler.is_compiling():
        check_path_compiles(path)
    device, dtype = getattr(path, "device", None), getattr(path, "dtype", None)
    if isinstance(device, torch.device) and device != y0.device:
        raise InvalidProblemError(f"path: got a path on {device}; expected {y0.device}, where y0 is")
    if not torch.compiler.is_compiling():
        _check_cover(path, times)
    if isinstance(dtype, torch.dtype) and dtype != real_dtype(y0):
        if isinstance(path, BrownianPath):  # which computes in float64 and rounds what it returns
            return path.rounded(real_dtype(y0))
        raise InvalidProblemError(f"path: got a path of {dtype}; expected dtype={real_dtype(y0)}, as y0 has")
    return path


def _check_cover(path: Any, times: tuple[Scalar, Scalar]) -> None:
    """Refuse a path that says where it ends, and does not reach as far as the solve."""
    known = (path.t0, path.t1) if isinstance(path, BrownianPath) else getattr(path, "span", None)
    if known is None:
        return
    low, high = (torch.as_tensor(t, dtype=torch.float64) for t in known)
    ends = [torch.as_tensor(t, dtype=torch.float64, device=low.device) for t in times]
    low, high = torch.minimum(low, high), torch.maximum(low, high)
    slack = 1e-6 * (high - low)
    if not all(bool(((t >= low - slack) & (t <= high + slack)).all()) for t in ends):
        raise InvalidProblemError(
            f"path: got a path from {low.min().item():.9g} to {high.max().item():.9g}; expected one that covers tspan, "
            f"{[t.tolist() for t in ends]}"
        )


def check_path_compiles(path: Any) -> None:
    """Refuse a path that a graph cannot ask."""
    if not isinstance(path, BrownianPath) or path.dt is not None:
        raise InvalidProblemError(
            f"path: got {path!r} in a compiled solve; expected a seed, or a BrownianPath without dt, whose increments need "
            "no look at the times"
        )


def seed_of(seed: Any, y0: Tensor) -> int | Tensor:
    """The user's seed, or one drawn from torch's global generator, so that ``torch.manual_seed`` repeats a solve."""
    if seed is None:
        drawn = draw_seed(torch.empty((), device="cpu"))
        return drawn.to(y0.device) if torch.compiler.is_compiling() else int(drawn)
    if isinstance(seed, Tensor) and not seed.dim() and seed.dtype == torch.int64:
        return seed if torch.compiler.is_compiling() else int(seed)
    return integer_seed(seed)
