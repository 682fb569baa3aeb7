"""Controlled equations while their observations arrive."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from neuralde.solvers import ControlPath, InvalidProblemError, LogSignaturePath
from neuralde.solvers.core.times import read_times
from neuralde.solvers.paths.control.observations import carried_forward

if TYPE_CHECKING:
    from .driven import Driven


class CDEStream:
    """A series that a controlled model sees one observation after the other, and whose state it carries on.

    The model is a :class:`neuralde.NeuralCDE`, :class:`neuralde.NeuralRDE` or :class:`neuralde.LinearNeuralCDE`; its
    ``stream(t0, x0)`` or ``resume(kept)`` makes this. A call takes what has arrived since and gives the state at each new
    observation. The path has to be causal: :class:`neuralde.RectilinearPath`, which also takes values that are missing;
    :class:`neuralde.LinearPath` and :class:`neuralde.HermitePath` of complete observations, as they would fill a missing
    one by a later one; or :class:`neuralde.LogSignaturePath`, whose states are those at the ends of windows.

    A call continues where the one before has ended, so the states are those of the whole series at once wherever a solve of
    the whole series would have a step end there too: with a :class:`neuralde.LinearNeuralCDE`, and with fixed steps which
    land on the observations (always with :class:`neuralde.LinearPath`, :class:`neuralde.RectilinearPath` and
    :class:`neuralde.LogSignaturePath` and one clock for all series; with :class:`neuralde.HermitePath` if ``dt`` divides the
    intervals) they are equal to rounding. Steps that adapt begin anew at each call: equal to the tolerance.

    Args:
        model: what the series drives.
        ts: the times of the observations that are still needed, ``(n,)`` or ``(n, B)``, the last one seen at the end.
        xs: their values, ``(n, ..., c)``.
        state: the state at the last one, at the end of the last window with windows.

    ``stream(ts, xs)`` takes times ``(n,)``, or ``(n, B)`` where each series has its own, and values ``(n, ..., c)``; one
    observation without its first dimension too (a number or ``(B,)`` with ``(..., c)``). It gives ``(n, ..., d)``, or
    ``(..., d)``; with windows a row for each window that has become complete. NaN as the time of a series: nothing has
    arrived for it. ``state`` is the last one, ``time`` when that is; ``finish()`` ends a window that is not complete.
    ``state_dict()`` is what ``torch.save`` keeps and ``torch.load(weights_only=True)`` gives back; ``to(device)`` moves it,
    ``detach()`` cuts the gradient, which otherwise flows to all that was seen. A call that is refused changes nothing.

    Raises:
        InvalidProblemError: the path looks ahead; a value is missing that it would fill by a later one; times do not
            increase, shapes do not fit; the model ends at events.
        SolveError: as :func:`neuralde.solve`.

    When to take it:
        Where outputs are wanted while data arrive, and for series that do not fit into memory.

    Example:
        >>> import torch, neuralde as nde
        >>> _ = torch.manual_seed(0)
        >>> field = nde.models.MatrixField(8, 3, hidden=[16])
        >>> model = nde.NeuralCDE(field, torch.nn.Linear(3, 8), path=nde.RectilinearPath)
        >>> stream = model.stream(0.0, torch.zeros(5, 3))
        >>> stream(0.5, torch.randn(5, 3)).shape, stream(torch.tensor([0.7, 1.0]), torch.randn(2, 5, 3)).shape
        (torch.Size([5, 8]), torch.Size([2, 5, 8]))
        >>> kept = stream.state_dict()
        >>> torch.equal(model.resume(kept)(1.5, torch.ones(5, 3)), stream(1.5, torch.ones(5, 3)))
        True
    """

    def __init__(self, model: Driven, ts: Tensor, xs: Tensor, state: Any) -> None:
        if getattr(model, "options", {}).get("events") is not None:
            raise InvalidProblemError("events: got some; expected none, since a stream goes on")
        self.model, self.ts, self.xs, self.state = model, ts, xs, state
        self.window = _window_of(model.path)

    @classmethod
    def begun(cls, model: Driven, t0: Any, x0: Tensor) -> CDEStream:
        """A stream of which the first observation has arrived."""
        if not isinstance(x0, Tensor) or x0.dim() < 1:
            got = f"shape {tuple(x0.shape)}" if isinstance(x0, Tensor) else type(x0).__name__
            raise InvalidProblemError(f"x0: got {got}; expected the first values, a tensor (..., c)")
        start = _times(t0, x0, "t0")
        if start.dim() > 1 or not bool(start.isfinite().all()):
            raise InvalidProblemError(f"t0: got {t0!r}; expected a finite time, or one for each series (B,)")
        ts, rows = torch.stack([start, start + 1]), torch.stack([x0, x0.nan_to_num()])
        # What a path makes of the first observation does not depend on the second: that is looked at with one made up.
        path = model.path(ts, rows, **({} if _window_of(model.path) is None else {"window": 1}))
        _check_causal(path, bool(x0.isnan().any()))
        first = path.first if isinstance(path, LogSignaturePath) else path.pieces[0, 0]
        return cls(model, start.unsqueeze(0), first.unsqueeze(0), model.initial(first))

    @classmethod
    def resumed(cls, model: Driven, kept: dict[str, Any]) -> CDEStream:
        """A stream that goes on from what another one kept."""
        if not isinstance(kept, dict) or set(kept) != {"ts", "xs", "state"}:
            got = sorted(kept) if isinstance(kept, dict) else type(kept).__name__
            raise InvalidProblemError(f"kept: got {got}; expected the state_dict() of a stream: ts, xs, state")
        return cls(model, kept["ts"], kept["xs"], kept["state"])

    @property
    def time(self) -> Tensor:
        """When ``state`` is, 0-d or ``(B,)``, float64."""
        return self.ts[-1] if self.window is None else self.ts[0]

    def state_dict(self) -> dict[str, Any]:
        """What is known of the series, as plain tensors."""
        return {"ts": self.ts, "xs": self.xs, "state": self.state}

    def to(self, device: Any) -> CDEStream:
        """Move what is known to a device; the model is moved by itself."""
        self.ts, self.xs, self.state = pytree.tree_map(lambda x: x.to(device), (self.ts, self.xs, self.state))
        return self

    def detach(self) -> CDEStream:
        """Cut the gradient to what was seen before."""
        self.ts, self.xs, self.state = pytree.tree_map(lambda x: x.detach(), (self.ts, self.xs, self.state))
        return self

    def __call__(self, ts: Any, xs: Tensor) -> Any:
        """Take what has arrived; the state at each of the observations."""
        times, values, alone = self._checked(ts, xs)
        if self.window is not None:
            return self._by_windows(times, values, self.window)
        if self.ts.dim() == 1:
            states = self._together(times, values)
        else:
            states = pytree.tree_map(lambda *rows: torch.stack(rows), *map(self._each, times, values))
        return pytree.tree_map(lambda x: x[0], states) if alone else states

    def finish(self) -> Any:
        """End the window that is not complete, as the end of a series does; its state, ``(1, ..., d)`` or ``(0, ..., d)``."""
        rest = len(self.ts) - 1
        return self._by_windows(self.ts[:0], self.xs[:0], rest if self.window is not None and rest else 1)

    def _together(self, times: Tensor, values: Tensor) -> Any:
        """New observations of all series at the same times."""
        ts, xs = torch.cat([self.ts, times]), torch.cat([self.xs, values])
        path = self._path(ts, xs)
        solution = self.model.along(path, self.state, times)
        self._keep(path, ts, carried_forward(xs, 0.0), pytree.tree_map(lambda x: x[-1], solution.ys), solution)
        return solution.ys

    def _each(self, times: Tensor, values: Tensor) -> Any:
        """One new observation, or none, of each series at its own time."""
        here = ~times.isnan()
        if not bool(here.any()):
            return self.state
        gap = (times - self.ts[-1])[here].max()
        shape = (-1, *[1] * (values.dim() - 1))
        new_ts = torch.where(here, times, self.ts[-1] + gap.abs())
        new_xs = torch.where(here.reshape(shape), values, self.xs[-1])
        ts, xs = torch.cat([self.ts, new_ts[None]]), torch.cat([self.xs, new_xs[None]])
        path = self._path(ts, xs)
        if path.lookback and not bool(here.all()):
            raise InvalidProblemError(
                f"ts: got NaN in a stream of a {type(path).__name__}, whose pieces depend on the one before; expected a time "
                "for each series, or LinearPath or RectilinearPath"
            )
        solution = self.model.along(path, self.state, None)
        state = pytree.tree_map(
            lambda new, old: torch.where(here.reshape(-1, *[1] * (new.dim() - 1)), new, old), solution.y1, self.state
        )
        filled = carried_forward(xs, 0.0)
        if not bool(here.all()):  # then one row is kept
            ts, filled = torch.where(here, ts, self.ts), torch.where(here.reshape(shape), filled, self.xs)
        self._keep(path, ts, filled, state, solution)
        return state

    def _path(self, ts: Tensor, xs: Tensor) -> ControlPath:
        """The path since the last observation; what came before shapes it only."""
        path: ControlPath = self.model.path(ts, xs)
        _check_causal(path, bool(xs.isnan().any()))
        return path.since(len(self.ts) - 1)

    def _keep(self, path: ControlPath, ts: Tensor, xs: Tensor, state: Any, solution: Any) -> None:
        needed = (path.lookback or 0) + 1
        self.ts, self.xs, self.state, self.model.stats = ts[-needed:], xs[-needed:], state, solution.stats

    def _by_windows(self, times: Tensor, values: Tensor, window: int) -> Any:
        """The states at the ends of the windows that are complete now."""
        if bool(times.isnan().any()) or bool(values.isnan().any()):
            raise InvalidProblemError(
                "xs: got NaN in a stream of a LogSignaturePath, which would fill it by a later value; expected complete "
                "observations of all series"
            )
        ts, xs = torch.cat([self.ts, times]), torch.cat([self.xs, values])
        done = (len(ts) - 1) // window * window
        if not bool((ts.diff(dim=0) > 0).all()):
            raise InvalidProblemError("ts: got times that do not increase; expected times behind those seen before")
        if not done:
            self.ts, self.xs = ts, xs
            return pytree.tree_map(lambda x: x.new_zeros((0, *x.shape)), self.state)
        make: Callable[..., ControlPath] = self.model.path
        states, state = [], self.state
        for start in range(0, done, window):
            rows = slice(start, start + window + 1)
            solution = self.model.along(make(ts[rows], xs[rows], window=window), state, None)
            state = solution.y1
            states.append(state)
        self.ts, self.xs, self.state, self.model.stats = ts[done:], xs[done:], state, solution.stats
        return pytree.tree_map(lambda *rows: torch.stack(rows), *states)

    def _checked(self, ts: Any, xs: Any) -> tuple[Tensor, Tensor, bool]:
        """New times ``(n,)`` or ``(n, B)`` and values, and whether they came without their first dimension."""
        if not isinstance(xs, Tensor) or xs.shape[-self.xs.dim() + 1 :] != self.xs.shape[1:]:
            got = f"shape {tuple(xs.shape)}" if isinstance(xs, Tensor) else type(xs).__name__
            raise InvalidProblemError(
                f"xs: got {got}; expected values (n, ...) or (...) for {tuple(self.xs.shape[1:])}"
            )
        times = _times(ts, xs, "ts")
        alone = xs.dim() == self.xs.dim() - 1
        if alone:
            times, xs = times.unsqueeze(0), xs.unsqueeze(0)
        if xs.dim() != self.xs.dim() or times.shape != (len(xs), *self.ts.shape[1:]) or not len(xs):
            raise InvalidProblemError(
                f"ts: got shape {tuple(times.shape)} for xs of shape {tuple(xs.shape)}; expected "
                f"{(len(xs), *self.ts.shape[1:])}, as the first time has it"
            )
        return times, xs.to(self.xs.dtype), alone


def _times(ts: Any, like: Tensor, name: str) -> Tensor:
    return read_times(ts, name, "times").numbers.to(like.device)


def _window_of(path: Callable[..., Any]) -> int | None:
    """The window of a partial of :class:`LogSignaturePath`."""
    if isinstance(path, partial) and path.func is LogSignaturePath:
        return path.keywords.get("window")
    return None


def _check_causal(path: Any, missing: bool) -> None:
    """Refuse what a later observation would change."""
    name = type(path).__name__
    if not isinstance(path, ControlPath) or path.lookback is None:
        raise InvalidProblemError(
            f"path: got {name}, which depends on later observations; expected a causal one for a stream: RectilinearPath, "
            "LinearPath, HermitePath or a functools.partial of LogSignaturePath"
        )
    if missing and path.fills_ahead:
        raise InvalidProblemError(
            f"xs: got NaN in a stream of a {name}, which would fill it by a later value; expected complete observations, or "
            "RectilinearPath"
        )
