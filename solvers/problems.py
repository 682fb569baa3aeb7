"""What to solve: an initial value problem."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .errors import InvalidProblemError
from .lanes import refuse_lanes
from .state import check_state


@dataclass(frozen=True, eq=False)
class ODEProblem:
    r"""An initial value problem for an ordinary differential equation.

    .. math:: y'(t) = f(t, y(t), \text{args}), \qquad y(t_0) = y_0, \qquad t \text{ from } t_0 \text{ to } t_1

    Args:
        f: the field, ``f(t, y, *args) -> dy`` with the structure and shapes of ``y``. ``t`` is a 0-d tensor of the
            state's real dtype on its device (shape ``(B, 1, ...)`` when every sample has its own clock).
        y0: the initial state: a tensor of any shape, float32, float64, complex64 or complex128, or a pytree of them.
        tspan: ``(t0, t1)``, floats or 0-d tensors, to which gradients flow; ``t1 < t0`` integrates backwards. With
            ``per_sample`` each may have shape ``(B,)``.
        args: a tuple, unpacked into ``f``; its tensors are differentiable.

    Raises:
        InvalidProblemError: an argument is wrong; the message names it.

    Example:
        >>> import torch, neuralde as nde
        >>> problem = nde.ODEProblem(lambda t, y, k: -k * y, torch.ones(1), (0.0, 1.0), args=(torch.tensor(2.0),))
        >>> nde.solve(problem, rtol=1e-6).y1
        tensor([0.1353])
    """

    f: Callable[..., Any]
    y0: Any
    tspan: tuple[Any, Any]
    args: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        if not callable(self.f):
            raise InvalidProblemError(f"f: got {type(self.f).__name__}; expected a callable f(t, y, *args)")
        check_state(self.y0)
        if not isinstance(self.args, tuple):
            raise InvalidProblemError(f"args: got {type(self.args).__name__}; expected a tuple, such as args=(k,)")
        if not isinstance(self.tspan, (tuple, list)) or len(self.tspan) != 2:
            raise InvalidProblemError(f"tspan: got {self.tspan!r}; expected a pair (t0, t1)")
        for time, end in zip(self.tspan, ("start", "end"), strict=True):
            _check_time(time, end)


def _check_time(time: Any, end: str) -> None:
    if isinstance(time, Tensor):
        refuse_lanes(time, "tspan", "times")
        if time.dim() > 1 or not (time.is_floating_point() or time.dtype in (torch.int32, torch.int64)):
            raise InvalidProblemError(
                f"tspan: got a {time.dtype} tensor of shape {tuple(time.shape)} for its {end}; "
                "expected a float, a real 0-d tensor, or (B,) with per_sample"
            )
        if not torch.compiler.is_compiling() and not bool(time.isfinite().all()):
            raise InvalidProblemError(f"tspan: got {time.tolist()} for its {end}; expected a finite time")
    elif isinstance(time, bool) or not isinstance(time, (int, float)):
        raise InvalidProblemError(f"tspan: got {type(time).__name__} {time!r} for its {end}; expected a number")
    elif not torch.compiler.is_compiling() and not math.isfinite(time):
        raise InvalidProblemError(f"tspan: got {time} for its {end}; expected a finite time")
