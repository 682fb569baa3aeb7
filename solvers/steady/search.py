"""Steady states: where a field is zero, found by integration until it is."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..checks import fraction, positive
from ..core.norms import rms
from ..core.packing import Packing
from ..core.scalars import Scalar, any_true, as_clock, minimum, spread
from ..core.status import Status
from ..drivers.eager import start
from ..errors import InvalidProblemError
from ..front.options import SolveOptions
from ..front.plan import prepare_outputs, prepare_plan
from ..methods.base import Method
from ..methods.explicit.tsit5 import Tsit5
from ..problems import ODEProblem, SteadyStateProblem
from ..stepping.attempt import Carry, Plan
from ..stepping.controllers import Controller
from ..terms.base import Term
from ..terms.ordinary import Field
from .flow import Flow, Judge

NORMS = ("rms", "max", "l2")
# From where a state is polished, relative to it; and how much farther than predicted it may be moved by that.
_LOOSE = 0.01
_NEAR = 4.0
# How long to integrate, in units in which the state changes by its own size.
_LONGEST = 1e16
# A first step, in such units, that asks for a shorter unit.
_SHORT = 1e-9


class Residual:
    """The field of a steady-state problem as a function of real vectors, ``(B, n) -> (B, n)``.

    A joint problem is one row. A complex state is its real and imaginary parts, so that a field that is not holomorphic has
    a Jacobian too.

    Args:
        problem: the problem.
        packing: how its state is laid out.
        args: what the field receives; the problem's own if None.
    """

    def __init__(self, problem: SteadyStateProblem, packing: Packing, args: tuple[Any, ...] | None = None) -> None:
        self.packing, self.time = packing, problem.t
        self.field = Field(problem.f, packing, problem.args if args is None else args)

    def __call__(self, x: Tensor) -> Tensor:
        """The field at ``x``."""
        return self.flat(self.at(0.0, self.packed(x)))

    def at(self, t: Scalar, y: Tensor) -> Tensor:
        """The field as an integrator calls it: whatever the clock says, the field's own time stands still."""
        lanes = (len(y),) if self.packing.per_sample else ()
        time: Scalar = torch.full(lanes, self.time, dtype=torch.float64, device=y.device) if lanes else self.time
        return self.field(time, y)

    def flat(self, y: Tensor) -> Tensor:
        """A packed state as real rows."""
        rows = y.reshape(len(y), math.prod(y.shape[1:])) if self.packing.per_sample else y.reshape(1, -1)
        return torch.view_as_real(rows.resolve_conj()).reshape(len(rows), -1) if y.is_complex() else rows

    def packed(self, x: Tensor) -> Tensor:
        """The packed state of real rows."""
        if self.packing.dtype.is_complex:
            x = torch.view_as_complex(x.reshape(len(x), -1, 2))
        if not self.packing.single:
            return x if self.packing.per_sample else x.reshape(-1)
        shape = self.packing.shapes[0]
        return x.reshape((len(x), *shape[1:]) if self.packing.per_sample else shape)


class Standing(Term):
    """The term of the flow towards a steady state: the residual, whatever its own clock says, in a unit of time.

    Args:
        residual: the field, whose own time stands still.
        unit: of the clock, in units of time, for each lane; None is one.
    """

    def __init__(self, residual: Residual, unit: Scalar | None) -> None:
        self.residual, self.unit = residual, unit

    def __call__(self, t: Scalar, y: Tensor) -> Tensor:
        """The slope in that unit."""
        value = self.residual.at(t, y)
        return value if self.unit is None else value * spread(self.unit, value)


@dataclass(frozen=True, kw_only=True, eq=False)
class Stop:
    r"""The stopping rule :math:`\|\Delta\| \le \text{atol} + \text{rtol}\,\|y\|`, for every row of real vectors.

    :math:`\Delta` is how far the equilibrium is predicted to be, by Newton's step or another. It is compared with the
    state, and not the field with the state, because a field has a unit of time: that of :math:`10^{-4} (2 - y)` is small
    everywhere.
    """

    rtol: float
    atol: float
    norm: str = "rms"

    def size(self, x: Tensor) -> Tensor:
        """The norm of every row."""
        if self.norm == "max":
            return x.abs().amax(dim=1) if x.shape[1] else x.new_zeros(len(x))
        return torch.linalg.vector_norm(x, dim=1) / (math.sqrt(max(x.shape[1], 1)) if self.norm == "rms" else 1.0)

    def allowed(self, x: Tensor) -> Tensor:
        """The farthest that the equilibrium may be."""
        return self.atol + self.rtol * self.size(x)


@dataclass(kw_only=True, eq=False)
class Found:
    """Where a search for a steady state ended: real rows, and for each a status, its residual and its counts."""

    x: Tensor
    residual: Tensor
    status: Tensor
    t: Tensor
    counts: dict[str, Tensor]
    """``nfe``, ``steps``, ``accepted``, ``jacobians``, ``linear_solves``, ``products``."""
    unstable: Tensor
    """Rows at an equilibrium from which small differences grow, where that is known."""
    singular: Tensor
    """Rows with a singular Jacobian, where that is known."""


COUNTS = ("nfe", "steps", "accepted", "jacobians", "linear_solves", "products")


def no_counts(x: Tensor) -> dict[str, Tensor]:
    """Every count before the first call, a zero for each row."""
    return {name: torch.zeros(len(x), dtype=torch.int64, device=x.device) for name in COUNTS}


class SteadyStateMethod(ABC):
    """How to find a steady state: pass an instance of a subclass as the ``solver`` of a :class:`SteadyStateProblem`.

    Raises:
        InvalidProblemError: in the solve, if it is given for another problem than a :class:`SteadyStateProblem`.

    When to take it:
        To write another search: :meth:`find` moves real rows until the rule is met, and counts what it did.

    Example:
        >>> import neuralde as nde
        >>> [isinstance(how, nde.solvers.SteadyStateMethod) for how in (nde.DynamicSS(), nde.Newton(), nde.Anderson())]
        [True, True, True]
    """

    norm: str

    @property
    def name(self) -> str:
        """The name that messages and records use."""
        return type(self).__name__

    def __repr__(self) -> str:
        return f"{self.name}()"

    @abstractmethod
    def find(self, problem: SteadyStateProblem, residual: Residual, x: Tensor, stop: Stop, max_steps: int) -> Found:
        """Search from the real rows ``x``; called without gradients."""


class DynamicSS(SteadyStateMethod):
    r"""Integrate :math:`y' = f(y)` from ``y0`` until it has arrived at an equilibrium; the default.

    It finds the equilibrium to which the system itself goes, and stable ones only: a state that the flow merely passes, near
    a saddle, is passed. It has arrived where :math:`\|J^{-1} f(y)\| \le \text{atol} + \text{rtol} \|y\|`, that is, where
    the equilibrium of the linearization is no farther than the tolerance. The rule has no unit of time in it, and on a slow
    manifold it waits for the slow modes. It is looked at only where the rate that the last step has seen,
    :math:`\|\Delta f\| / \|\Delta y\|`, makes it likely; two or three times in a search are usual.

    The path is not the result, so a step may be wrong by a part of its own length (``path_rtol``) rather than by the
    tolerance. Steps then stay within the limits of stability and the residual falls all the way, however small ``rtol`` and
    ``atol`` are. Clocks are in a unit of the field's own, unless ``dt``, ``t_max`` or ``controller`` speak of times.

    Args:
        solver: the method of integration; :class:`Tsit5` if None. One without error estimate needs ``dt`` in ``solve``.
        t_max: how long to integrate, in units of time; None: for as long as ``max_steps`` allows.
        norm: of the rule: ``"rms"`` (root mean square), ``"max"`` or ``"l2"``; with ``per_sample`` of each sample.
        path_rtol: the error of a step relative to its length. It decides how weakly damped an oscillation may be, about
            ``path_rtol`` of its frequency, for the numerical solution to come to rest too.
        controller: step-size control, as in ``solve``.
        dt: the first step, or the step of a method without error estimate; None: chosen from the field.
        polish: a root finder, such as :class:`Newton`, that goes on from where the equilibrium is within 1 % of the state:
            explicit integration of a stiff field is slow, and Newton's method converges quadratically once it is close.
            What it finds is taken if it is as near as predicted, has the same conserved totals and is not unstable; else
            the integration goes on.
        check: False believes the rate that the last step has seen. It saves the linearizations (one call of the field and n
            products each; GMRES above 128 unknowns), and may stop on a slow manifold, or at a saddle. Fields without
            derivatives, such as those that call NumPy, are not checked.

    Units:
        ``t_max`` and ``dt`` in units of time; without them none is needed.

    Raises:
        InvalidProblemError: an argument is wrong; the message names it.
        ConvergenceError: in the solve, no equilibrium was reached.

    When to take it:
        First, and where only the state to which the system itself goes will do. :class:`Newton` is faster near an
        equilibrium and finds unstable ones too; ``polish=Newton()`` has both; :class:`Anderson` for contractions.

    References:
        Rackauckas, Nie: DifferentialEquations.jl. J. Open Research Software 5 (2017), whose name this has.

    Example:
        >>> import torch, neuralde as nde
        >>> logistic = nde.SteadyStateProblem(lambda t, y, k: y * (k - y), torch.ones(1, dtype=torch.float64), args=(2.0,))
        >>> sol = nde.solve(logistic, nde.DynamicSS(nde.Tsit5(), polish=nde.Newton()), rtol=1e-12, atol=1e-12)
        >>> sol.y1, sol.stats.linear_solves
        (tensor([2.], dtype=torch.float64), 4)
    """

    def __init__(
        self,
        solver: Method | None = None,
        *,
        t_max: float | None = None,
        norm: str = "rms",
        path_rtol: float = 1e-3,
        controller: Controller | None = None,
        dt: float | None = None,
        polish: SteadyStateMethod | None = None,
        check: bool = True,
    ) -> None:
        self.solver = Tsit5() if solver is None else solver
        if not isinstance(self.solver, Method) or "ODE" not in self.solver.takes or self.solver.reversible:
            raise InvalidProblemError(
                f"solver: got {solver!r}; expected a method for ODEs such as Tsit5(), not a Reversible one, which is not "
                "stable on the long way to a steady state"
            )
        t_max = None if t_max is None else positive(t_max, "t_max")
        path_rtol = fraction(path_rtol, "path_rtol")
        if not isinstance(controller, (Controller, type(None))):
            raise InvalidProblemError(f"controller: got {controller!r}; expected one such as PIController()")
        if polish is not None and (not isinstance(polish, SteadyStateMethod) or isinstance(polish, DynamicSS)):
            raise InvalidProblemError(f"polish: got {polish!r}; expected a root finder such as Newton()")
        self.t_max = t_max
        self.norm, self.controller, self.dt, self.check = check_norm(norm), controller, dt, bool(check)
        self.polish, self.path_rtol = polish, path_rtol

    def __repr__(self) -> str:
        return f"DynamicSS({self.solver!r})"

    def find(self, problem: SteadyStateProblem, residual: Residual, x: Tensor, stop: Stop, max_steps: int) -> Found:
        """Integrate, and polish what arrived; where that leads elsewhere than the flow, go on integrating."""
        flow = self._flow(problem, residual, x, stop, max_steps)
        loose = torch.full_like(x[:, 0] if x.shape[1] else x.new_zeros(len(x)), stop.rtol)
        if self.polish is not None:
            loose = loose.clamp(min=_LOOSE)

        def allowed(x: Tensor) -> Tensor:
            return stop.atol + loose * stop.size(x)

        flow.run(allowed)
        x, polished = flow.x, torch.zeros_like(flow.arrived)
        size, singular = stop.size(flow.value), flow.judge.singular
        while self.polish is not None:
            waits = flow.arrived & ~polished & (loose > stop.rtol) & (stop.size(flow.value) > 0)
            if not bool(waits.any()):
                break
            second = self.polish.find(problem, residual, flow.x, stop, max_steps)
            for name, count in second.counts.items():
                flow.judge.counts[name] += torch.where(waits, count, 0)
            good, last = self._same(flow, second, waits, stop)
            keep = good.unsqueeze(-1)
            x, size = torch.where(keep, second.x, x), torch.where(good, second.residual, size)
            singular = torch.where(good, singular | second.singular, singular)
            polished = polished | good
            loose = torch.where(waits, torch.where(last, 0.0, 0.1 * loose).clamp(min=stop.rtol), loose)
            flow.resume(waits & ~good)
            flow.run(allowed)
        found = self._found(flow, stop)
        found.x = torch.where(polished.unsqueeze(-1), x, found.x)
        found.residual = torch.where(polished, size, found.residual)
        found.singular = torch.where(polished, singular, found.singular)
        return found

    @staticmethod
    def _same(flow: Flow, second: Found, rows: Tensor, stop: Stop) -> tuple[Tensor, Tensor]:
        """Whether the polished state is the one to which the flow goes, and whether polishing is of no use here.

        It is as near as predicted, no difference grows there, and it is no point of a continuum.
        """
        moved, predicted = stop.size(second.x - flow.x), flow.judge.moves.to(flow.x.dtype)
        near = moved <= _NEAR * predicted + stop.allowed(flow.x)
        good = rows & (second.status == int(Status.SUCCESS)) & near
        there = torch.where(good.unsqueeze(-1), second.x, flow.x)
        grows, continuum = flow.judge.compare(there, good)
        return good & ~grows & ~continuum, continuum

    def _flow(self, problem: SteadyStateProblem, residual: Residual, x: Tensor, stop: Stop, max_steps: int) -> Flow:
        packing, y0 = residual.packing, residual.packed(x)
        first = residual.at(0.0, y0)
        own = self.t_max is None and self.dt is None and self.controller is None
        unit = _unit(y0, first, packing.per_sample) if own else 1.0

        def in_unit(unit: Scalar, prepared: Plan) -> tuple[Plan, Tensor, Carry]:
            field = Standing(residual, unit if own else None)
            plan, slope = replace(prepared, field=field), first * spread(unit, first) if own else first
            return plan, slope, start(plan, y0, keep.dt, slope)

        options = SolveOptions(
            rtol=self.path_rtol,
            atol=stop.atol,
            dt=self.dt,
            max_steps=max_steps,
            per_sample=packing.per_sample,
            controller=self.controller,
        )
        interval = (0.0, _LONGEST if self.t_max is None else self.t_max)
        path = ODEProblem(problem.f, problem.y0, interval, problem.args)
        # Not what a solve warns of: tolerances follow the steps here, whatever the size of the state.
        prepared = prepare_plan(path, packing, y0, self.solver, options)
        keep, _ = prepare_outputs(prepared, y0, options)
        plan, slope, carry = in_unit(unit, prepared)
        if own and any_true(carry.h < _SHORT):  # a start at rest but for rounding: its unit is that of the first step
            unit, calls = unit * _power_of_two(minimum(carry.h, 1.0)), carry.nfe - 1
            plan, slope, carry = in_unit(unit, prepared)
            carry = carry._replace(nfe=carry.nfe + calls)
        judge = Judge(residual, stop, no_counts(x), self.check)
        return Flow(plan, carry, slope, residual.flat, judge, self.path_rtol, unit)

    @staticmethod
    def _found(flow: Flow, stop: Stop) -> Found:
        """Where the flow is."""
        carry, judge, device = flow.carry, flow.judge, flow.x.device

        def each(number: Scalar, dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.as_tensor(number, dtype=dtype, device=device).reshape(-1)

        status = each(carry.status)
        # Arriving at the end of the interval is what a solve calls success; here it is a search that found nothing.
        status = torch.where((status == int(Status.SUCCESS)) & ~flow.arrived, int(Status.NOT_CONVERGED), status)
        counts = dict(judge.counts)
        for name in ("nfe", "steps", "accepted"):
            counts[name] = counts[name] + each(getattr(carry, name))
        return Found(
            x=flow.x,
            residual=stop.size(flow.value),
            status=status,
            t=each(carry.t, torch.float64) * flow.unit,
            counts=counts,
            unstable=judge.unstable & flow.arrived,
            singular=judge.singular & flow.arrived,
        )


def _unit(y0: Tensor, slope: Tensor, per_sample: bool) -> Scalar:
    """A unit of time in which the state changes by its own size: a power of two, so that no digit is lost."""
    size, rate = rms(y0, per_sample).to(torch.float64), rms(slope, per_sample).to(torch.float64)
    size = torch.where(size > 1e-6, size, 1.0)  # a start at zero says nothing of the size to come
    unit = _power_of_two(size / rate)
    return unit if per_sample else unit.item()


def _power_of_two(x: Scalar) -> Scalar:
    """The nearest one, or 1 where there is none."""
    tensor = x if isinstance(x, Tensor) else as_clock(x)
    power = torch.exp2(tensor.log2().round().clamp(-120, 120))
    power = torch.where(power.isfinite() & (tensor > 0) & tensor.isfinite(), power, 1.0)
    return power if isinstance(x, Tensor) else power.item()


def check_norm(norm: object) -> str:
    """Refuse what is no norm."""
    if not isinstance(norm, str) or norm not in NORMS:
        raise InvalidProblemError(f'norm: got {norm!r}; expected "rms", "max" or "l2"')
    return norm
