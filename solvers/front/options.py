"""What a solve is asked for beside the problem and the method, as one record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..checks import number
from ..core.scalars import Scalar, graph_constant
from ..core.times import refuse_live
from ..core.vmap import refuse_lanes
from ..drivers.blocks import Blocks
from ..errors import InvalidProblemError
from ..stepping.controllers import Controller
from ..stepping.reductions import Cost


@dataclass(frozen=True, kw_only=True, eq=False)
class SolveOptions:
    """The arguments of :func:`neuralde.solve` that this layer knows, with its defaults; there they are explained.

    Example:
        >>> from neuralde.solvers.front.options import SolveOptions
        >>> SolveOptions(rtol=1e-6).rtol, SolveOptions().max_steps
        (1e-06, 10000)
    """

    rtol: Any = 1e-3
    atol: Any = 1e-6
    dt: Any = None
    saveat: Any = None
    saveat_side: str = "left"
    dense: bool = False
    events: Any = None
    controller: Controller | None = None
    per_sample: bool = False
    compact: bool = False
    regularizers: Sequence[Cost] = ()
    trace: bool = False
    seed: Any = None
    path: Any = None
    max_steps: Any = 10_000
    driver: Blocks | None = None
    throw: bool = True
    reduction: ClassVar[Any] = Cost
    """What the regularizers must be."""

    def check_kinds(self) -> None:
        """Refuse classes in the place of instances, and what is neither."""
        check_kind(self.controller, (Controller, type(None)), "controller", "such as PIController()")
        if not isinstance(self.regularizers, (tuple, list)):
            raise InvalidProblemError(
                f"regularizers: got {self.regularizers!r}; expected a tuple, such as (ErrorEstimate(),)"
            )
        for regularizer in self.regularizers:
            check_kind(regularizer, self.reduction, "regularizers", "such as ErrorEstimate()")
        check_kind(self.driver, (Blocks, type(None)), "driver", "such as Blocks(size=8), or None")


def check_kind(value: Any, kind: Any, name: str, example: str) -> None:
    """Refuse what is not of a kind; ``example`` says what would be."""
    if not isinstance(value, kind):
        got = f"the class {value.__name__}" if isinstance(value, type) else f"{type(value).__name__} {value!r}"[:80]
        raise InvalidProblemError(f"{name}: got {got}; expected an instance, {example}")


def checked_dt(dt: Any) -> Scalar | None:
    """The step size as a float, in a graph a constant or a tensor; refuses what is no positive, finite number."""
    if dt is None:
        return None
    refuse_lanes(dt, "dt", "a number")
    refuse_live(dt, "dt", "a step size, which is a constant for every gradient")
    if torch.compiler.is_compiling():
        return dt.detach().to(torch.float64).reshape(()) if isinstance(dt, Tensor) else graph_constant(dt)
    value = dt.reshape(()) if isinstance(dt, Tensor) and dt.numel() == 1 else dt
    return number(value, "dt", "a positive, finite number (the direction follows from tspan)", above=0.0)
