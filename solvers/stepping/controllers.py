"""Step-size control: from a step size and how large its error was, whether to accept it and the size to try next.

A controller sees numbers only, never the state, the field or the solver. Where the library treats step sizes as
constants for the gradient, and why, is :func:`constant_for_gradient`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..checks import as_number, number
from ..core.scalars import Scalar, in_order, is_finite, maximum, minimum, select
from ..core.times import read_times, refuse_live
from ..errors import InvalidProblemError
from ..methods.base import Method
from .given_times import as_list, checked_times, ordered


def constant_for_gradient(value: Tensor, through_steps: bool = False) -> Tensor:
    """The one place where step-size decisions leave the graph.

    Step sizes are constants for every gradient of the library, as in Diffrax, torchdiffeq and SciML: the derivative
    is that of the map "these steps, on this problem". Differentiating the choice of the steps as well is possible
    (``DirectAdjoint(through_steps=True)`` does) but rarely wanted: the choice is a heuristic with corners, it moves
    the solution by no more than the tolerance, and its derivative is noise of that size. A regularizer's gradient in
    particular would mostly say "take shorter steps", which the controller undoes.
    """
    return value if through_steps else value.detach()


@dataclass(frozen=True, kw_only=True)
class Controller(ABC):
    """What every controller shares.

    Args:
        step_ts: times that a step must end on.
        jump_ts: times at which the field is discontinuous: a step ends there on the left limit and the next one
            starts on the right limit. Gradients flow to those inside the interval that require grad, as to ``step_ts``:
            the end of the step moves with them.
        dtmin: the solve ends with ``STEP_UNDERFLOW`` rather than take a smaller step.
        dtmax: no step is longer, to the rounding of the clock.

    Units:
        All in units of time.

    Raises:
        InvalidProblemError: a time is not finite, ``dtmin`` is negative, or ``dtmax`` is below it; in the solve, steps
            that are adapted by a method without an embedded error estimate.

    When to take it:
        To write a controller: :meth:`start` and :meth:`decide` see numbers only, never the state, the field or the
        method.

    Example:
        >>> import torch, neuralde as nde
        >>> problem = nde.ODEProblem(lambda t, y: torch.sign(0.5 - t) + 0.0 * y, torch.zeros(1), (0.0, 1.0))
        >>> sol = nde.solve(problem, controller=nde.PIController(jump_ts=[0.5]))
        >>> abs(sol.y1.item()) < 1e-6, sol.stats.rejected
        (True, 0)
    """

    step_ts: Sequence[float] | Tensor = ()
    jump_ts: Sequence[float] | Tensor = ()
    dtmin: float = 0.0
    dtmax: float = math.inf
    adaptive: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("step_ts", "jump_ts"):
            object.__setattr__(self, name, checked_times(getattr(self, name), name))
        for name in ("dtmin", "dtmax"):
            refuse_live(getattr(self, name), name, "a bound of step sizes, which are constants for every gradient")
        dtmin = number(self.dtmin, "dtmin", "a number, 0 or positive", least=0.0)
        # math.inf, the default, is one as well
        unbounded = as_number(self.dtmax) == math.inf
        limit = "a positive number"
        if dtmin and not torch.compiler.is_compiling():  # a graph cannot write a symbol down
            limit += f", not below dtmin={dtmin:g}"
        dtmax = math.inf if unbounded else number(self.dtmax, "dtmax", limit, above=0.0, least=dtmin)
        object.__setattr__(self, "dtmin", dtmin)
        object.__setattr__(self, "dtmax", dtmax)

    @property
    def live(self) -> list[Tensor]:
        """The times to land on that are differentiated."""
        return [times for times in (self.step_ts, self.jump_ts) if isinstance(times, Tensor)]

    def constant(self) -> Controller:
        """This controller with all times as numbers."""
        return replace(self, step_ts=as_list(self.step_ts), jump_ts=as_list(self.jump_ts)) if self.live else self

    def bind(self, method: Method) -> Controller:
        """This controller with the method's constants filled in."""
        if self.adaptive and not method.adaptive:
            raise InvalidProblemError(
                f"controller: got {type(self).__name__} with {method.name}, whose steps cannot be adapted: "
                f"{method.fixed_because}; expected ConstantStep() or StepTo(ts)"
            )
        return self

    @abstractmethod
    def start(self, like: Scalar) -> tuple[Scalar, ...]:
        """The state before the first step, of the kind of number that ``like`` is."""

    @abstractmethod
    def decide(self, h: Scalar, ratio: Scalar, state: tuple[Scalar, ...]) -> tuple[Scalar, Scalar, tuple[Scalar, ...]]:
        """``(accept, next step size, state)`` after a step of size ``h > 0`` whose scaled error was ``ratio``."""


@dataclass(frozen=True, kw_only=True)
class ConstantStep(Controller):
    r"""Steps of ``dt``, the last one shortened to end at ``t1``; what a method without error estimate uses by itself.

    .. math:: t_{n+1} = \min(t_n + \Delta t,\; t_1)

    Units:
        ``dt``, which is given to the solve, in units of time.

    Raises:
        InvalidProblemError: as :class:`Controller`; in the solve, no ``dt``.

    When to take it:
        For convergence studies, comparisons at equal steps, and methods without error estimate. :class:`StepTo` where
        the grid is not even; an adaptive controller for everything else.

    Example:
        >>> import torch, neuralde as nde
        >>> problem = nde.ODEProblem(lambda t, y: -y, torch.ones(1), (0.0, 1.0))
        >>> nde.solve(problem, nde.Tsit5(), dt=0.25, controller=nde.ConstantStep()).stats.accepted
        4
    """

    adaptive: ClassVar[bool] = False

    def start(self, like: Scalar) -> tuple[Scalar, ...]:
        """No state."""
        return ()

    def decide(self, h: Scalar, ratio: Scalar, state: tuple[Scalar, ...]) -> tuple[Scalar, Scalar, tuple[Scalar, ...]]:
        """Accept whatever is finite; there is no smaller step to try."""
        accept = ratio <= 1.0
        return accept, select(accept, h, 0.0), state


@dataclass(frozen=True, kw_only=True)
class StepTo(ConstantStep):
    r"""One step between each two neighbours of the given times, and to ``t1``.

    .. math:: t_{n+1} = \min\{\, s \in \text{ts} \cup \{t_1\} : s > t_n \,\}

    Args:
        ts: the times to step to, in any order; those outside the interval are passed over. Gradients flow to them.

    Units:
        ``ts`` in units of time.

    Raises:
        InvalidProblemError: as :class:`Controller`; a time of ``ts`` is not finite.

    When to take it:
        For data on an uneven grid, one step between each two points, and to repeat the steps of another solve
        (``saveat="steps"`` gives them).

    Example:
        >>> import torch, neuralde as nde
        >>> problem = nde.ODEProblem(lambda t, y: -y, torch.ones(1), (0.0, 1.0))
        >>> nde.solve(problem, nde.RK4(), controller=nde.StepTo([0.1, 0.5])).stats.accepted
        3
    """

    ts: Sequence[float] | Tensor = field(kw_only=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        ts = checked_times(self.ts, "ts")
        if isinstance(self.step_ts, Tensor) or isinstance(ts, Tensor):
            both = [read_times(times, "ts").in_graph for times in (self.step_ts, ts)]
            steps: Any = ordered(torch.cat([times.to(both[1].device) for times in both]))
        else:
            steps = tuple(in_order((*self.step_ts, *ts)))
        object.__setattr__(self, "step_ts", steps)

    def constant(self) -> Controller:
        """This controller with all times as numbers."""
        return replace(self, ts=as_list(self.ts), step_ts=as_list(self.step_ts), jump_ts=as_list(self.jump_ts))


@dataclass(frozen=True, kw_only=True)
class _ErrorController(Controller):
    r"""The step is scaled by :math:`\gamma \prod_i r_{n-i}^{-\beta_{i+1}}`, within bounds; :math:`r_n` is the scaled error."""

    safety: float | None = None
    factor_min: float | None = None
    factor_max: float | None = None
    beta: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("safety", "factor_min", "factor_max"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, number(getattr(self, name), name, "a positive number", above=0.0))
        low, high, safety = self.factor_min or 0.2, self.factor_max or 10.0, self.safety or 0.9
        if not low < 1.0 <= high or safety > 1.0:
            raise InvalidProblemError(
                f"factor_min, factor_max, safety: got {low}, {high}, {safety}; expected factor_min < 1 <= factor_max and "
                "safety at most 1, so that a step grows after a small error and shrinks after a large one"
            )
        if self.beta is not None:
            given = self.beta if isinstance(self.beta, (tuple, list)) and len(self.beta) else (None,)
            expected = "a tuple of numbers, the first one positive"
            first = number(given[0], "beta", expected, above=0.0)
            object.__setattr__(self, "beta", (first, *[number(x, "beta", expected) for x in given[1:]]))

    @abstractmethod
    def _exponents(self, order: float) -> tuple[float, ...]:
        """The default exponents for a method whose error is of this local order."""

    def bind(self, method: Method) -> Controller:
        super().bind(method)
        preferred: dict[str, Any] = method.controller_options if isinstance(self, PIController) else {}
        assert method.embedded_order is not None
        beta = preferred.get("beta", self._exponents(method.error_order))
        defaults: dict[str, Any] = {"safety": 0.9, "factor_min": 0.2, "factor_max": 10.0, **preferred, "beta": beta}
        missing = {name: value for name, value in defaults.items() if getattr(self, name) is None}
        return replace(self, **missing) if missing else self

    def start(self, like: Scalar) -> tuple[Scalar, ...]:
        # Nothing is known of an error before the first step, and 1 lets the first one decide alone (Hairer and SciML
        # start from 1e-4, which holds the first steps back). The heuristic first step may be far too small, so one
        # large growth is allowed after it.
        return (*[0.0 * like + 1.0] * (len(self.beta or ()) - 1), 0.0 * like + 1e4)

    def decide(self, h: Scalar, ratio: Scalar, state: tuple[Scalar, ...]) -> tuple[Scalar, Scalar, tuple[Scalar, ...]]:
        assert self.beta is not None
        assert self.safety is not None
        assert self.factor_min is not None
        assert self.factor_max is not None
        accept = ratio <= 1.0
        error = maximum(select(is_finite(ratio), ratio, 1e30), 1e-12)
        *past, limit = state
        alone = self.safety * error ** -self.beta[0]
        factor = alone
        for exponent, earlier in zip(self.beta[1:], past, strict=True):
            factor = factor * earlier**-exponent
        grown = maximum(minimum(factor, limit), self.factor_min)
        shrunk = maximum(minimum(alone, self.safety), self.factor_min)
        following = (maximum(error, 1e-4), *past[:-1]) if past else ()
        kept = tuple(select(accept, new, old) for new, old in zip(following, past, strict=True))
        return accept, h * select(accept, grown, shrunk), (*kept, select(accept, self.factor_max, limit))


@dataclass(frozen=True, kw_only=True)
class IController(_ErrorController):
    r"""Integral control, :math:`h \leftarrow h \gamma r^{-1/k}`, :math:`k` the local order of the error (Hairer I, II.4).

    Args:
        safety: :math:`\gamma`, 0.9.
        factor_min: the strongest decrease, 0.2.
        factor_max: the strongest increase, 10; after the first step 10,000.
        beta: the exponents, if not the standard ones.

    Units:
        Factors and exponents are pure numbers; ``dtmin`` and ``dtmax`` in units of time.

    Raises:
        InvalidProblemError: as :class:`Controller`; a factor, ``safety`` or ``beta`` is out of range; in the solve, a
            method without an embedded error estimate.

    When to take it:
        The classic rule, with nothing remembered from the step before. Near the limit of stability its step sizes
        oscillate, which :class:`PIController` damps.

    Example:
        >>> import torch, neuralde as nde
        >>> problem = nde.ODEProblem(lambda t, y: -y, torch.ones(1), (0.0, 1.0))
        >>> nde.solve(problem, controller=nde.IController(dtmax=0.1)).stats.accepted >= 10
        True
    """

    def _exponents(self, order: float) -> tuple[float, ...]:
        return (1.0 / order,)


@dataclass(frozen=True, kw_only=True)
class PIController(_ErrorController):
    r"""Proportional-integral control, the default: :math:`h \leftarrow h \gamma r_n^{-\beta_1} r_{n-1}^{\beta_2}`.

    With :math:`\beta_1 = 0.95/k`, :math:`\beta_2 = 0.1/k`, unless the method prefers others (Dopri8: 0.85/8 and 0.2/8 with
    factors from 1/3 to 6); :math:`k` is the local order of the error. Over the DETEST problems all common
    choices need the same number of field calls at equal error, to 3 %; this one, between integral control and
    Hairer's ``(0.85 / k, -0.2 / k)``, loses the least in solves of a few steps. SciML's ``(0.7 / k, -0.4 / k)`` rejects
    half as many steps and takes a fifth more.

    Args:
        safety: :math:`\gamma`, 0.9.
        factor_min: the strongest decrease, 0.2.
        factor_max: the strongest increase, 10; after the first step 10,000.
        beta: :math:`(\beta_1, -\beta_2)`, if not the method's.

    Units:
        Factors and exponents are pure numbers; ``dtmin`` and ``dtmax`` in units of time.

    Raises:
        InvalidProblemError: as :class:`Controller`; a factor, ``safety`` or ``beta`` is out of range; in the solve, a
            method without an embedded error estimate.

    When to take it:
        First, and nearly always; with other factors or exponents for a field that jumps often. :class:`PIDController`
        where stability limits the steps.

    References:
        Gustafsson: Control theoretic techniques for stepsize selection in explicit Runge-Kutta methods. ACM Trans.
        Math. Softw. 17 (1991). Hairer, Wanner: Solving Ordinary Differential Equations II, IV.2.

    Example:
        >>> import torch, neuralde as nde
        >>> problem = nde.ODEProblem(lambda t, y: -y, torch.ones(1), (0.0, 1.0))
        >>> nde.solve(problem, controller=nde.PIController(step_ts=[0.5])).status.name
        'SUCCESS'
    """

    def _exponents(self, order: float) -> tuple[float, ...]:
        return (0.95 / order, -0.1 / order)


@dataclass(frozen=True, kw_only=True)
class PIDController(_ErrorController):
    r"""PID control, :math:`h \leftarrow h \gamma r_n^{-\beta_1/k} r_{n-1}^{-\beta_2/k} r_{n-2}^{-\beta_3/k}`.

    The default :math:`\beta = (0.64, -0.31, 0.04)` is the one of Ranocha et al., Commun. Appl. Math. Comput. 4 (2022).

    Args:
        safety: :math:`\gamma`, 0.9.
        factor_min: the strongest decrease, 0.2.
        factor_max: the strongest increase, 10; after the first step 10,000.
        beta: the exponents, already divided by :math:`k`, if not the standard ones.

    Units:
        Factors and exponents are pure numbers; ``dtmin`` and ``dtmax`` in units of time.

    Raises:
        InvalidProblemError: as :class:`Controller`; a factor, ``safety`` or ``beta`` is out of range; in the solve, a
            method without an embedded error estimate.

    When to take it:
        For discretised partial differential equations and other mildly stiff fields, where stability limits the steps
        and a smooth sequence of them saves rejections. Otherwise it costs what :class:`PIController` does.

    References:
        Söderlind: Digital filters in adaptive time-stepping. ACM Trans. Math. Softw. 29 (2003). Ranocha, Dalcin,
        Parsani, Ketcheson: Optimized Runge-Kutta methods with automatic step size control for compressible
        computational fluid dynamics. Commun. Appl. Math. Comput. 4 (2022).

    Example:
        >>> import torch, neuralde as nde
        >>> problem = nde.ODEProblem(lambda t, y: -y, torch.ones(1), (0.0, 1.0))
        >>> nde.solve(problem, controller=nde.PIDController()).status.name
        'SUCCESS'
    """

    def _exponents(self, order: float) -> tuple[float, ...]:
        return (0.64 / order, -0.31 / order, 0.04 / order)


def usual_controller(method: Method) -> Controller:
    """What a solve takes that names no controller, bound to the method."""
    if not method.adaptive:
        return ConstantStep()
    if torch.compiler.is_compiling():
        return PIController()
    key = (method.error_order, repr(method.controller_options))
    if key not in _USUAL:
        _USUAL[key] = PIController().bind(method)
    return _USUAL[key]


# Made and checked once for all solves by methods with the same constants, because it holds nothing else.
_USUAL: dict[tuple[Any, ...], Controller] = {}
