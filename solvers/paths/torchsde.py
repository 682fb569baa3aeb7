"""Brownian motion of torchsde as the path of a solve, by what it can do and without importing torchsde."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from ..core.scalars import Scalar
from ..errors import InvalidProblemError
from .brownian.path import Increment


class BorrowedPath:
    r"""A torchsde Brownian motion, such as ``torchsde.BrownianInterval``, behind the interface of a `BrownianPath`.

    torchsde gives :math:`U = \int_s^t W_{s,u}\,du`; the area is :math:`H = U / (t - s) - W_{s,t} / 2`, as in its own
    convention. It knows only intervals forwards: one backwards has -W and the same H. It has one time for all samples;
    where samples have their own, each different interval is a query, from which the rows are taken.

    Unlike a `BrownianPath` it may depend on the order of the queries, those at save times among them (unless made with
    ``tol`` and ``halfway_tree``), but what was queried once stays, so rejected steps are revisited without bias.

    torchsde cuts a query off at the path's ends, with a warning, so that the noise beyond them is zero. A solve refuses
    a path whose ends it knows and that does not cover its interval, and one of another dtype than the state.

    Args:
        path: callable as ``path(s, t)`` and, with areas, ``path(s, t, return_U=True)``, with ``shape`` and
            ``levy_area_approximation``.

    Raises:
        InvalidProblemError: the object lacks one of these.

    Example:
        >>> import torch
        >>> from neuralde.solvers import BrownianPath
        >>> from neuralde.solvers.paths.torchsde import BorrowedPath
        >>> ours = BrownianPath((3, 2), 7, 0.0, 1.0, "space-time")  # looks like one of torchsde's from outside
        >>> w, h = BorrowedPath(ours).increment(0.2, 0.6)
        >>> torch.allclose(w, ours(0.2, 0.6)), torch.allclose(h, ours.increment(0.2, 0.6).h, atol=1e-6)
        (True, True)
    """

    def __init__(self, path: Any) -> None:
        missing = [name for name in ("shape", "levy_area_approximation") if not hasattr(path, name)]
        if missing or not callable(path):
            raise InvalidProblemError(
                f"path: got {type(path).__name__}; expected a BrownianPath, a Brownian motion of torchsde, or an object "
                "with increment(s, t) -> (W, H)"
            )
        self.path = path
        self.rows: Tensor | None = None
        self.shape = torch.Size(path.shape)
        self.levy_area = "none" if path.levy_area_approximation == "none" else "space-time"

    @property
    def span(self) -> tuple[float, float] | None:
        """Where torchsde's path begins and ends, None of another object; no public name tells."""
        path, sign = self.path, 1.0
        while hasattr(path, "base_brownian"):  # torchsde's path run backwards
            path, sign = path.base_brownian, -sign
        interval = getattr(path, "_interval", path)
        ends = getattr(interval, "_start", None), getattr(interval, "_end", None)
        if not all(isinstance(end, (int, float)) for end in ends):
            return None
        low, high = sorted(sign * float(end) for end in ends if end is not None)
        return low, high

    @property
    def dtype(self) -> Any:
        """Of the increments, where the path says so."""
        return getattr(self.path, "dtype", None)

    @property
    def device(self) -> Any:
        """Where they are, where the path says so."""
        return getattr(self.path, "device", None)

    def increment(self, s: Scalar, t: Scalar) -> Increment:
        """W and, where the path has areas, H from ``s`` to ``t``, numbers or one for each sample."""
        with torch.no_grad():
            if not any(isinstance(x, Tensor) and x.dim() for x in (s, t)):
                return self._interval(float(s), float(t))
            ends = torch.stack(torch.broadcast_tensors(*(torch.as_tensor(x, dtype=torch.float64) for x in (s, t))), 1)
            different, place = ends.unique(dim=0, return_inverse=True)
            each = [self._interval(*pair) for pair in different.tolist()]
            rows = torch.arange(len(place))
            w, h = (None if x[0] is None else torch.stack(x)[place, rows] for x in zip(*each, strict=True))
            assert w is not None
            return Increment(w, h)

    def take(self, rows: Tensor) -> BorrowedPath:
        """The path of some of the samples."""
        path = copy.copy(self)
        path.rows = rows if self.rows is None else self.rows[rows]
        path.shape = torch.Size((len(rows), *self.shape[1:]))
        return path

    def _interval(self, s: float, t: float) -> Increment:
        low, high = min(s, t), max(s, t)
        if self.levy_area == "none":
            w, h = self.path(low, high), None
        else:
            w, u = self.path(low, high, return_U=True)
            h = u / (high - low) - 0.5 * w if high > low else torch.zeros_like(w)
        if self.rows is not None:
            w, h = w[self.rows], None if h is None else h[self.rows]
        return Increment(w if s <= t else -w, h)
