"""What the layers have in common that a series of observations drives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from neuralde.solvers import ControlPath, InvalidProblemError, Solution, Stats
from neuralde.solvers.paths.control.observations import observation_times

from .streaming import CDEStream


class Driven(nn.Module, ABC):
    """A field, what makes the initial state of the first value, and what makes the path of the observations.

    Args:
        field: what the path drives.
        initial: the initial state from the first value.
        path: what makes a path of times and values.
        saveat: when states are wanted; ``"observations"``: at the times of the series.
        fields: what messages say is accepted as ``field``.
    """

    stats: Stats | None

    def __init__(
        self,
        field: Callable[..., Any],
        initial: Callable[[Tensor], Any],
        path: Callable[[Any, Any], Any],
        saveat: Any,
        fields: str,
    ) -> None:
        super().__init__()
        for name, value, expected in (
            ("field", field, fields),
            ("initial", initial, "a module or callable of the first value"),
            ("path", path, "what makes a path of (ts, xs), such as HermitePath"),
        ):
            if not callable(value) or isinstance(value, ControlPath):
                raise InvalidProblemError(f"{name}: got {type(value).__name__}; expected {expected}")
        self.field, self.initial, self.path, self.saveat = field, initial, path, saveat
        self.stats = None

    @abstractmethod
    def along(self, path: Any, y0: Any, saveat: Any) -> Solution:
        """The solution along a path."""

    def forward(self, ts: Any, xs: Any) -> tuple[Any, Solution]:
        """The states and the solution along the path of the observations."""
        path, saveat = self.path(ts, xs), self.saveat
        if isinstance(saveat, str) and saveat == "observations":
            saveat = observation_times(ts, xs)
        solution = self.along(path, self.initial(first_of(path)), saveat)
        self.stats = solution.stats
        return (solution.y1 if saveat is None else solution.ys), solution

    def stream(self, t0: Any, x0: Tensor) -> CDEStream:
        """Begin a series with its first observation; see :class:`neuralde.models.CDEStream`."""
        return CDEStream.begun(self, t0, x0)

    def resume(self, kept: dict[str, Any]) -> CDEStream:
        """Go on with the series of which a stream's ``state_dict()`` is known."""
        return CDEStream.resumed(self, kept)


def first_of(path: Any) -> Tensor:
    """The value at which a path begins; of a log-signature path, the series' own."""
    own: Any = getattr(path, "first", None)
    value: Tensor = path(path.interval[0]) if own is None else own
    return value
