"""The initial value problem for a stochastic differential equation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..errors import InvalidProblemError
from .base import Problem, check_parts, set_tspan

NOISES = ("diagonal", "additive", "scalar", "commutative", "general")
CALCULI = ("ito", "stratonovich")


@dataclass(frozen=True, eq=False)
class SDEProblem(Problem):
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

    Shapes:
        The drift as ``y``; the diffusion as the table says; the increments of the path as the columns of ``g``, with
        the leading dimensions of ``y``.

    Units:
        Drift in state per time, diffusion in state per square root of time: a Brownian path has the unit of the square
        root of time.

    Raises:
        InvalidProblemError: an argument is wrong; the message names it.

    When to take it:
        Where noise acts all along the way. Take ``"ito"`` where ``g`` is a volatility of data that is not looked ahead,
        ``"stratonovich"`` where the noise stands for a smooth one, and for the gradients of :class:`BacksolveAdjoint`;
        the noise as narrow as it is, since higher strong orders rest on it. A random start or random parameters alone
        are an :class:`ODEProblem`.

    Example:
        >>> import torch, neuralde as nde
        >>> y0 = torch.ones(1000, 1, dtype=torch.float64)
        >>> problem = nde.SDEProblem(lambda t, y: -y, lambda t, y: 0.5 * y, y0, (0.0, 1.0))
        >>> sol = nde.solve(problem, nde.EulerMaruyama(), dt=0.01, seed=1)
        >>> bool((sol.y1.mean() - 0.3679).abs() < 0.03), sol.stats.steps
        (True, 100)
    """

    title = "an SDEProblem"
    smooth = False
    random = True
    parts = ("drift", "diffusion")
    declared = ("noise", "calculus")
    drift: Callable[..., Any]
    diffusion: Callable[..., Any]
    y0: Any
    tspan: tuple[Any, Any]
    args: tuple[Any, ...] = ()
    noise: str = "diagonal"
    calculus: str = "ito"

    def __post_init__(self) -> None:
        check_parts(self.drift, self.y0, self.args, "drift")
        check_parts(self.diffusion, self.y0, self.args, "diffusion")
        check_noise(self, NOISES)
        set_constant_tspan(self)


def check_noise(problem: Any, noises: tuple[str, ...]) -> None:
    """Refuse a kind of noise or a calculus that is none of those accepted."""
    for name, accepted in (("noise", noises), ("calculus", CALCULI)):
        if getattr(problem, name) not in accepted:
            raise InvalidProblemError(f"{name}: got {getattr(problem, name)!r}; expected one of {accepted}")


def set_constant_tspan(problem: Any) -> None:
    """Check the ends of the interval, which no gradient reaches."""
    set_tspan(problem)
    if any(isinstance(time, Tensor) and time.requires_grad for time in problem.tspan):
        raise InvalidProblemError("tspan: requires grad; expected constant times, since a Brownian path has no slope")
