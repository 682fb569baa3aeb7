"""What methods for stochastic equations share: which noise they take, and a step that follows its path."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor

from ...core.scalars import Scalar, spread
from ...errors import InvalidProblemError
from ...problems import SDEProblem
from ...terms.stochastic import SDEField
from ..base import Accuracy, Cache, Memory, Method, Step, VectorField
from .between import Between

COMMUTATIVE = ("diagonal", "scalar", "commutative")
"""The kinds of noise whose columns commute, additive noise aside."""


class SDEStep(Between):
    """One step of a stochastic method. Between its ends the solution follows the path; a quadrature sees a straight line."""

    field: SDEField

    def __init__(self, field: VectorField, t0: Scalar, t1: Scalar, y0: Tensor) -> None:
        self.field, self.t0, self.t1, self.y0 = cast(SDEField, field), t0, t1, y0
        self.h = spread(t1 - t0, y0)
        self.calls = 0
        self.w, self.area = self.field.increment(t0, t1)

    def drift(self, t: Scalar, y: Tensor) -> Tensor:
        """The drift, counted."""
        self.calls += 1
        return self.field(t, y)

    def at_node(self, c: float) -> Scalar:
        """A time inside the step; exactly its end where the node is 1."""
        return self.t0 if c == 0.0 else self.t1 if c == 1.0 else self.t0 + c * (self.t1 - self.t0)

    @property
    def length(self) -> Scalar:
        """The length of the step, positive; 1 for a lane that stands still, so that it can be divided by."""
        if isinstance(self.h, Tensor):
            return torch.where(self.h == 0, 1.0, self.h.abs())
        return abs(self.h)


class SDEMethod(Method):
    """A method for stochastic equations: a few facts, and :meth:`step`.

    Raises:
        InvalidProblemError: in the solve, noise or a calculus that the method does not take.

    When to take it:
        To write a method for SDEs that is none of a tableau: :class:`StochasticRungeKutta` needs coefficients only.

    Example:
        >>> import neuralde as nde
        >>> solver = nde.EulerHeun()
        >>> solver.calculus, solver.orders["additive"], solver.orders["general"], solver.levy_area
        ('stratonovich', 1.0, 0.5, 'none')
    """

    takes = ("SDE",)
    calculus: str
    """Which integral it converges to: ``"ito"``, ``"stratonovich"``, or ``"any"`` where it takes additive noise only."""
    orders: Mapping[str, float]
    """The strong order for each kind of noise that the method takes."""
    levy_area: str = "none"
    """Which area the method needs of the path."""
    drift_calls: int = 1
    """How often a step calls the drift."""
    diffusion_calls: int = 1
    """How often a step calls the diffusion."""
    embedded_order: float | None = None
    fsal = False
    stability_radius = 2.0
    dense_order = 1

    def __init__(self) -> None:
        self.order = max(self.orders.values())

    @property
    def has_stiffness(self) -> bool:
        """Whether the method estimates stiffness."""
        return False

    @property
    def error_order(self) -> float:
        """Errors of mean zero add up like the square root of the number of steps, so a local one is half an order up."""
        assert self.embedded_order is not None
        return self.embedded_order + 0.5

    @property
    def controller_options(self) -> dict[str, Any]:
        """Milder than for smooth solutions, since estimates are random."""
        k = self.error_order
        return {"beta": (0.4 / k, -0.1 / k), "factor_max": 5.0}

    def check(self, problem: SDEProblem) -> None:
        """Refuse noise or a calculus that the method does not solve."""
        if problem.noise not in self.orders:
            raise InvalidProblemError(
                f"solver: {self.name} does not take {problem.noise} noise, only {', '.join(self.orders)}; expected a "
                f"solver such as {suggestion(problem)}"
            )
        if self.calculus not in ("any", problem.calculus) and problem.noise != "additive":
            raise InvalidProblemError(
                f"solver: {self.name} solves {self.calculus} problems and this one is {problem.calculus}; expected a "
                f"solver such as {suggestion(problem)}"
            )

    def bound(self, noise: str, columns: int | None) -> SDEMethod:
        """The method for one kind of noise: its order there, and whether its steps can be adapted there."""
        del columns
        method = copy.copy(self)
        method.order = self.orders[noise]
        if self.embedded_order is None:
            return method
        if noise == "general":
            method.embedded_order = None
            method.fixed_because = (
                "without the Levy area of the path, steps chosen by an error estimate bias the solution where noises "
                "do not commute"
            )
        else:
            method.embedded_order = min(self.embedded_order, method.order)
        return method

    def known(self, slope: Any, y: Tensor, per_sample: bool) -> Cache:
        """Nothing: a step cannot start with the drift alone."""
        return None

    @abstractmethod
    def step(
        self,
        field: VectorField,
        t0: Scalar,
        t1: Scalar,
        y0: Tensor,
        memory: Memory = (),
        cache: Cache = None,
        accuracy: Accuracy | None = None,
    ) -> Step:
        """One step from ``t0`` to ``t1``."""


def over(x: Scalar, w: Tensor) -> Scalar:
    """A number per lane, shaped to broadcast against the noise, which may have fewer dimensions than the state."""
    return x.reshape(-1, *[1] * (w.dim() - 1)) if isinstance(x, Tensor) and x.dim() else x


def suggestion(problem: SDEProblem) -> str:
    """A solver that takes the problem, as a message names it."""
    if problem.noise == "additive":
        return "ShARK() or SRA3()"
    if problem.noise == "general":
        return "EulerMaruyama()" if problem.calculus == "ito" else "EulerHeun() or Heun()"
    if problem.calculus == "stratonovich":
        return "SPaRK() or SlowRK()"
    return "ItoMilstein()" if problem.noise == "commutative" else "SOSRI() or ItoMilstein()"
