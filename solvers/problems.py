"""What to solve: initial value problems."""

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
        _check_common(self.y0, self.tspan, self.args)


NOISES = ("diagonal", "additive", "scalar", "commutative", "general")
CALCULI = ("ito", "stratonovich")


@dataclass(frozen=True, eq=False)
class SDEProblem:
    r"""An initial value problem for a stochastic differential equation.

    .. math:: dy = f(t, y, \text{args})\, dt + g(t, y, \text{args})\, dW_t \quad (\text{Ito}), \qquad
              dy = f\, dt + g \circ dW_t \quad (\text{Stratonovich})

    ====================  ==================  ==============================================================
    noise                 shape of ``g``      what it promises
    ====================  ==================  ==============================================================
    ``"diagonal"``        ``(..., d)``        each component has a noise of its own, and ``g_i`` depends on
                                              no other component than ``y_i`` (else orders above 0.5 are lost)
    ``"additive"``        ``(..., d, m)``     ``g`` does not depend on ``y``; also ``(..., d)``, one noise each
    ``"scalar"``          ``(..., d, 1)``     one noise for all components
    ``"commutative"``     ``(..., d, m)``     the derivatives of the columns of ``g`` along each other commute
    ``"general"``         ``(..., d, m)``     nothing; correlated noise is one case
    ====================  ==================  ==============================================================

    The last dimension of ``y`` is the one that a column of ``g`` drives; the dimensions before it count systems with
    noises of their own. In a pytree each leaf of ``g`` is shaped like the leaf of ``y``, with ``m`` behind it where
    there is one, and the same ``m`` noises drive all leaves (per sample, where ``solve`` has ``per_sample=True``).
    With ``t1 < t0`` the equation is integrated along the path run backwards: for Stratonovich problems that inverts the
    forward solution, for Ito problems it is another process.

    Args:
        drift: ``drift(t, y, *args)``, with the structure and shapes of ``y``.
        diffusion: ``diffusion(t, y, *args)``.
        y0: the initial state: a tensor or a pytree of tensors.
        tspan: ``(t0, t1)``, floats or tensors. A path has no derivative, so times cannot require grad.
        args: a tuple, unpacked into both; its tensors are differentiable.
        noise: see the table.
        calculus: ``"ito"`` or ``"stratonovich"``.

    Raises:
        InvalidProblemError: an argument is wrong; the message names it.

    Example:
        >>> import torch, neuralde as nde
        >>> y0 = torch.ones(1000, 1, dtype=torch.float64)
        >>> problem = nde.SDEProblem(lambda t, y: -y, lambda t, y: 0.5 * y, y0, (0.0, 1.0))
        >>> sol = nde.solve(problem, nde.EulerMaruyama(), dt=0.01, seed=1)
        >>> bool((sol.y1.mean() - 0.3679).abs() < 0.03), sol.stats.steps
        (True, 100)
    """

    drift: Callable[..., Any]
    diffusion: Callable[..., Any]
    y0: Any
    tspan: tuple[Any, Any]
    args: tuple[Any, ...] = ()
    noise: str = "diagonal"
    calculus: str = "ito"

    def __post_init__(self) -> None:
        for name in ("drift", "diffusion"):
            if not callable(getattr(self, name)):
                got = type(getattr(self, name)).__name__
                raise InvalidProblemError(f"{name}: got {got}; expected a callable {name}(t, y, *args)")
        for name, accepted in (("noise", NOISES), ("calculus", CALCULI)):
            if getattr(self, name) not in accepted:
                raise InvalidProblemError(f"{name}: got {getattr(self, name)!r}; expected one of {accepted}")
        _check_common(self.y0, self.tspan, self.args)
        if any(isinstance(time, Tensor) and time.requires_grad for time in self.tspan):
            raise InvalidProblemError(
                "tspan: requires grad; expected constant times, since a Brownian path has no slope"
            )


def _check_common(y0: Any, tspan: Any, args: Any) -> None:
    check_state(y0)
    if not isinstance(args, tuple):
        raise InvalidProblemError(f"args: got {type(args).__name__}; expected a tuple, such as args=(k,)")
    if not isinstance(tspan, (tuple, list)) or len(tspan) != 2:
        raise InvalidProblemError(f"tspan: got {tspan!r}; expected a pair (t0, t1)")
    for time, end in zip(tspan, ("start", "end"), strict=True):
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
