"""The times at which what drives an equation says that it is not smooth."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core.scalars import is_finite
from ..core.times import read_times
from ..errors import InvalidProblemError
from ..stepping.given_times import as_list


class Knots(NamedTuple):
    """Where controls say that they are not smooth."""

    numbers: list[float]
    live: list[Tensor]
    """What of them is differentiated."""
    traced: list[Tensor]
    """Those that are tensors of a graph, of which no number is known."""

    @property
    def any(self) -> bool:
        """Whether there are any."""
        return bool(self.numbers or self.traced)


def find_knots(owners: Iterable[Any]) -> Knots:
    """Where controls among these objects say that they are not smooth.

    They say so with an attribute ``jumps``, as :class:`ControlPath` does, or else ``knots``, or ``grid_points`` as the
    paths of torchcde do.
    """
    found: list[float] = []
    live: list[Tensor] = []
    traced: list[Tensor] = []
    for owner in owners:
        if isinstance(owner, (Tensor, int, float, str)):
            continue
        name = next((x for x in ("jumps", "knots", "grid_points") if hasattr(owner, x)), None)
        knots = None if name is None else getattr(owner, name)
        if name is None or knots is None:
            continue
        if torch.compiler.is_compiling() and not isinstance(knots, Tensor):
            found.extend(as_list(knots))
            continue
        if torch.compiler.is_compiling():
            traced.append(knots.detach().reshape(-1).to(torch.float64))
            live.extend([knots] if knots.requires_grad else [])
            continue
        try:
            read = read_times(knots, name, many=True)
        except InvalidProblemError as error:
            raise InvalidProblemError(f"args: got {type(owner).__name__}.{name} = {knots!r}; {error}") from error
        found.extend(read.numbers.reshape(-1).tolist())
        if read.live is not None:
            live.append(read.live[read.numbers.isfinite()])
    found = [knot for knot in found if is_finite(knot)]
    return Knots(found if torch.compiler.is_compiling() else list(dict.fromkeys(found)), live, traced)
