"""What all problems have: facts that they say of themselves, and checks of their parts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..checks import as_number, shown
from ..core.packing import check_state
from ..core.vmap import refuse_lanes
from ..errors import InvalidProblemError
from ..functions.hints import check_order


class Problem:
    """What a problem says of itself; how it is solved is in :mod:`neuralde.solvers.front.kinds`."""

    title: ClassVar[str]
    """What messages call it, with its article."""
    smooth: ClassVar[bool] = True
    """Whether its solution has a slope, so that times can be differentiated and events located."""
    random: ClassVar[bool] = False
    """Whether noise drives it."""
    parts: ClassVar[tuple[str, ...]] = ("f",)
    """The attributes that are the user's functions."""
    declared: ClassVar[tuple[str, ...]] = ()
    """The attributes, other than the state, the times and the arguments, that say more about these."""

    @property
    def functions(self) -> dict[str, Callable[..., Any]]:
        """The user's functions by name."""
        return {name: getattr(self, name) for name in self.parts}


def check_parts(f: Any, y0: Any, args: Any, name: str = "f") -> None:
    """Refuse what is no function, no state, or no tuple of arguments."""
    if not callable(f):
        raise InvalidProblemError(f"{name}: got {type(f).__name__}; expected a callable {name}(t, y, *args)")
    check_order(f, name)
    check_state(y0)
    if not isinstance(args, tuple):
        raise InvalidProblemError(f"args: got {type(args).__name__}; expected a tuple, such as args=(k,)")


def set_tspan(problem: Any) -> None:
    """Check the ends of the interval; what is a number of another library becomes one of Python."""
    tspan: Any = problem.tspan
    if not isinstance(tspan, (tuple, list)) or len(tspan) != 2:
        raise InvalidProblemError(f"tspan: got {shown(tspan)}; expected a pair (t0, t1){_meant(tspan)}")
    ends = tuple([_checked_time(time, end) for time, end in zip(tspan, ("start", "end"), strict=True)])
    if any(new is not old for new, old in zip(ends, tspan, strict=True)):
        object.__setattr__(problem, "tspan", ends)


def _meant(tspan: Any) -> str:
    """What times in the place of the interval were meant for."""
    several = len(tspan) > 2 if isinstance(tspan, (tuple, list)) else getattr(tspan, "shape", ()) != ()
    return "; for the states at times ts: tspan=(ts[0], ts[-1]), and solve(..., saveat=ts)" if several else ""


def _checked_time(time: Any, end: str) -> Any:
    """A tensor as it is, any other number as Python's."""
    if isinstance(time, Tensor):
        refuse_lanes(time, "tspan", "times")
        if time.dim() > 1 or not (time.is_floating_point() or time.dtype in (torch.int32, torch.int64)):
            raise InvalidProblemError(
                f"tspan: got a {time.dtype} tensor of shape {tuple(time.shape)} for its {end}; "
                "expected a float, a real 0-d tensor, or (B,) with per_sample"
            )
        if not torch.compiler.is_compiling() and not bool(time.isfinite().all()):
            raise InvalidProblemError(f"tspan: got {time.tolist()} for its {end}; expected a finite time")
        return time
    found = as_number(time)
    if found is None:
        raise InvalidProblemError(f"tspan: got {type(time).__name__} {shown(time)} for its {end}; expected a number")
    if not torch.compiler.is_compiling() and not math.isfinite(found):
        raise InvalidProblemError(f"tspan: got {found} for its {end}; expected a finite time")
    return found
