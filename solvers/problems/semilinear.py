"""The initial value problem for a state that filtered noise drives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..checks import shown
from ..core.scalars import as_clock
from ..errors import InvalidProblemError
from ..paths.fractional.rates import checked_rates
from .base import Problem, check_parts
from .stochastic import check_noise, set_constant_tspan


class ConstantWeights:
    """Weights as a function of time that they do not depend on."""

    varies = False

    def __init__(self, value: Tensor) -> None:
        self.value = value

    def __call__(self, t: Tensor, y: Any) -> Tensor:
        """The weights."""
        return self.value


class VaryingWeights:
    """The weights at a time, as the function of a field that no state enters."""

    varies = True

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        self.function = function

    def __call__(self, t: Tensor, y: Any) -> Any:
        """The weights at ``t``."""
        return self.function(t)


@dataclass(frozen=True, eq=False)
class SemilinearSDEProblem(Problem):
    r"""An initial value problem for a state that filtered white noise drives.

    .. math:: dY_k = \bigl(-\gamma_k Y_k + u(t, y)\bigr)\, dt + dW, \qquad
              dx = b(t, y)\, dt + s(t, y) \circ dZ, \qquad Z(t) = \sum_k \omega_k(t)\, Y_k(t)

    with one Brownian motion W for each entry of x, which drives all K filters Y of that entry. Their linear part is solved
    in closed form, so that rates of any size are exact at any step size; with the weights of a :class:`FractionalNoise` Z is
    fractional Brownian motion. Fixed and adapted steps, rejections, save times and per-sample clocks follow one and the
    same path of W, with its exact law.

    Args:
        drift: ``drift(t, y, *args)``, like x, where ``y`` is the whole state.
        diffusion: ``diffusion(t, y, *args)``, like x; each entry depends on no other entry of x than its own.
        rates: the rates :math:`\gamma`, ``(K,)``, 0 or positive, and increasing; constants.
        weights: the weights :math:`\omega`, ``(K,)``, or a function of time that gives them; differentiable.
        y0: the initial state, a pair ``(x, Y)`` with Y shaped like x and K behind; or a triple ``(x, Y, E)``, whose last leaf
            grows by :math:`\tfrac12 \int |u|^2 dt`, summed over those last dimensions of x that E does not have: the path's
            Kullback-Leibler divergence from the process without control.
        tspan: ``(t0, t1)`` with t0 < t1, constants: a decay cannot be run backwards.
        args: a tuple, unpacked into the functions; its tensors are differentiable.
        control: ``control(t, y, *args)``, u, like x; None: 0.
        noise: ``"diagonal"``, or ``"additive"`` where the diffusion depends on t only.
        calculus: ``"stratonovich"`` or ``"ito"``; of additive noise the same.

    Shapes:
        x of any shape, Y with K behind, the functions' values like x.

    Units:
        Rates in 1/time, Y in the square root of time, the control in its inverse.

    Raises:
        InvalidProblemError: an argument is wrong; the message names it.

    When to take it:
        For fractional noise, coloured noise, and other linear filters with a wide range of rates, at steps much longer
        than the shortest time scale. :class:`SDEProblem` where the noise is white.

    References:
        Daems, Opper, Crevecoeur, Birdal: Variational inference for SDEs driven by fractional noise. ICLR 2024.

    Example:
        >>> import torch, neuralde as nde
        >>> noise = nde.FractionalNoise(0.7, "II")
        >>> x, filters = torch.zeros(500, 1, dtype=torch.float64), torch.zeros(500, 1, 8, dtype=torch.float64)
        >>> problem = nde.SemilinearSDEProblem(
        ...     lambda t, y: 0 * y[0], lambda t, y: torch.ones_like(y[0]), noise.rates, noise.weights, (x, filters), (0.0, 1.0)
        ... )
        >>> sol = nde.solve(problem, dt=0.1, seed=1)
        >>> f"{sol.y1[0].var():.2f}", f"{noise.variance(1.0):.2f}"
        ('0.83', '0.85')
    """

    title = "a SemilinearSDEProblem"
    smooth = False
    random = True
    parts = ("drift", "diffusion", "weights", "control")
    declared = ("rates", "noise", "calculus")
    drift: Callable[..., Any]
    diffusion: Callable[..., Any]
    rates: Any
    weights: Any
    y0: Any
    tspan: tuple[Any, Any]
    args: tuple[Any, ...] = ()
    control: Callable[..., Any] | None = None
    noise: str = "diagonal"
    calculus: str = "stratonovich"

    def __post_init__(self) -> None:
        for name in ("drift", "diffusion", *(() if self.control is None else ("control",))):
            check_parts(getattr(self, name), self.y0, self.args, name)
        check_noise(self, ("diagonal", "additive"))
        object.__setattr__(self, "rates", checked_rates(self.rates, "II"))
        count = len(self.rates)
        if not callable(self.weights):
            weights = (
                self.weights if isinstance(self.weights, Tensor) else torch.as_tensor(self.weights, dtype=torch.float64)
            )
            if tuple(weights.shape) != (count,):
                raise InvalidProblemError(
                    f"weights: got shape {tuple(weights.shape)}; expected ({count},), one for each rate"
                )
            object.__setattr__(self, "weights", weights)
        _check_filter_state(self.y0, count)
        set_constant_tspan(self)
        _check_forward(self.tspan)

    @property
    def functions(self) -> dict[str, Callable[..., Any]]:
        """The user's functions by name."""
        weights = VaryingWeights(self.weights) if callable(self.weights) else ConstantWeights(self.weights)
        found: dict[str, Any] = {"drift": self.drift, "diffusion": self.diffusion, "weights": weights}
        return found if self.control is None else {**found, "control": self.control}


def _check_filter_state(y0: Any, count: int) -> None:
    """Refuse a state that is no pair of x and filters, or a triple with what collects energy."""
    leaves = list(y0) if isinstance(y0, (tuple, list)) else []
    shapes = [tuple(leaf.shape) if isinstance(leaf, Tensor) else type(leaf).__name__ for leaf in leaves]
    fits = len(leaves) in (2, 3) and all(isinstance(leaf, Tensor) for leaf in leaves)
    if not fits or shapes[1] != (*shapes[0], count) or (len(leaves) == 3 and shapes[0][: len(shapes[2])] != shapes[2]):
        got = shapes if leaves else type(y0).__name__
        wanted = f"(x, Y) with shapes (...) and (..., {count}), or (x, Y, E) with E of leading dimensions of x"
        raise InvalidProblemError(f"y0: got {got}; expected {wanted}")
    if any(leaf.is_complex() for leaf in leaves) or len({leaf.dtype for leaf in leaves}) > 1:
        raise InvalidProblemError(f"y0: got {[leaf.dtype for leaf in leaves]}; expected one real dtype")


def _check_forward(tspan: tuple[Any, Any]) -> None:
    if torch.compiler.is_compiling():
        return
    if bool((as_clock(tspan[1]) < as_clock(tspan[0])).any()):
        raise InvalidProblemError(
            f"tspan: got {shown(tspan)}; expected t0 <= t1, since a decay cannot be run backwards"
        )
