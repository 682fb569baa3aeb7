"""Steady states: where a field is zero, found by integration until it is."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..attempt import RUNNING, Carry, Plan, attempt, settle
from ..checks import fraction, positive
from ..controllers import Controller
from ..errors import InvalidProblemError
from ..field import Field
from ..loop import start
from ..method import Method
from ..norms import rms
from ..prepare import prepare_plan
from ..problems import ODEProblem, SteadyStateProblem
from ..runge_kutta import Tsit5
from ..scalars import Scalar, any_true, both, maximum, real_dtype, select, spread
from ..sde.method import SDEMethod
from ..solution import Status
from ..state import Packing

NORMS = ("rms", "max", "l2")


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


@dataclass(frozen=True, kw_only=True, eq=False)
class Stop:
    r"""The stopping rule :math:`\|f(y)\| \le \text{atol} + \text{rtol}\,\|y\|`, for every row of real vectors."""

    rtol: float
    atol: float
    norm: str = "rms"

    def size(self, x: Tensor) -> Tensor:
        """The norm of every row."""
        if self.norm == "max":
            return x.abs().amax(dim=1) if x.shape[1] else x.new_zeros(len(x))
        return torch.linalg.vector_norm(x, dim=1) / (math.sqrt(max(x.shape[1], 1)) if self.norm == "rms" else 1.0)

    def allowed(self, x: Tensor) -> Tensor:
        """The largest residual that counts as none."""
        return self.atol + self.rtol * self.size(x)

    def holds(self, x: Tensor, value: Tensor) -> Tensor:
        """Whether the rule holds; False where anything is NaN or infinite."""
        size = self.size(value)
        return (size <= self.allowed(x)) & size.isfinite()


@dataclass(kw_only=True, eq=False)
class Found:
    """Where a search for a steady state ended: real rows, and for each a status, its residual and its counts."""

    x: Tensor
    residual: Tensor
    status: Tensor
    t: Tensor
    counts: dict[str, Tensor]
    """``nfe``, ``steps``, ``accepted``, ``jacobians``, ``linear_solves``, ``products``."""

    def then(self, second: Found, went: Tensor) -> Found:
        """The end of a second search, for the rows that went on to it, with the counts of both."""
        keep = went.unsqueeze(-1)
        return Found(
            x=torch.where(keep, second.x, self.x),
            residual=torch.where(went, second.residual, self.residual),
            status=torch.where(went, second.status, self.status),
            t=self.t,
            counts={name: count + torch.where(went, second.counts[name], 0) for name, count in self.counts.items()},
        )


COUNTS = ("nfe", "steps", "accepted", "jacobians", "linear_solves", "products")


def no_counts(x: Tensor) -> dict[str, Tensor]:
    """Every count before the first call, a zero for each row."""
    return {name: torch.zeros(len(x), dtype=torch.int64, device=x.device) for name in COUNTS}


class SteadyStateMethod(ABC):
    """How to find a steady state: pass an instance of a subclass as the ``solver`` of a :class:`SteadyStateProblem`.

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
    r"""Integrate :math:`y' = f(y)` from ``y0`` until the field is zero to the tolerance; the default.

    It finds the equilibrium to which the system itself goes, and stable ones only. The path is not the result, so a step
    may be wrong by a part of its own length (``path_rtol``) rather than by the tolerance. Steps then stay within the
    limits of stability and the residual falls all the way, however small ``rtol`` and ``atol`` are. Mind that a state
    that grows without end may meet a rule that is relative to it; ``rtol=0`` asks for a field of zero.

    Args:
        solver: the method of integration; :class:`Tsit5` if None. One without error estimate needs ``dt`` in ``solve``.
        t_max: how long to integrate, in units of time.
        norm: of the stopping rule :math:`\|f(y)\| \le \text{atol} + \text{rtol}\|y\|`: ``"rms"`` (root mean square),
            ``"max"`` or ``"l2"``; with ``per_sample`` of each sample.
        path_rtol: the error of a step relative to its length. It decides how weakly damped an oscillation may be, about
            ``path_rtol`` of its frequency, for the numerical solution to come to rest too.
        controller: step-size control, as in ``solve``.
        dt: the first step, or the step of a method without error estimate; None: chosen from the field.
        polish: a root finder, such as :class:`Newton`, that goes on from where
            :math:`\|f(y)\| \le \text{atol} + 0.01 \|y\|`: explicit integration of a stiff field is slow, and Newton's method
            converges quadratically once it is close.

    References:
        Rackauckas, Nie: DifferentialEquations.jl. J. Open Research Software 5 (2017), whose name this has.

    Example:
        >>> import torch, neuralde as nde
        >>> logistic = nde.SteadyStateProblem(lambda t, y, k: y * (k - y), torch.ones(1, dtype=torch.float64), args=(2.0,))
        >>> sol = nde.solve(logistic, nde.DynamicSS(nde.Tsit5(), polish=nde.Newton()), rtol=1e-12, atol=1e-12)
        >>> sol.y1, sol.stats.linear_solves
        (tensor([2.], dtype=torch.float64), 3)
    """

    def __init__(
        self,
        solver: Method | None = None,
        *,
        t_max: float = 1e8,
        norm: str = "rms",
        path_rtol: float = 1e-3,
        controller: Controller | None = None,
        dt: float | None = None,
        polish: SteadyStateMethod | None = None,
    ) -> None:
        self.solver = Tsit5() if solver is None else solver
        if not isinstance(self.solver, Method) or isinstance(self.solver, SDEMethod) or self.solver.reversible:
            raise InvalidProblemError(
                f"solver: got {solver!r}; expected a method for ODEs such as Tsit5(), not a Reversible one"
            )
        t_max, path_rtol = positive(t_max, "t_max"), fraction(path_rtol, "path_rtol")
        if not isinstance(controller, (Controller, type(None))):
            raise InvalidProblemError(f"controller: got {controller!r}; expected one such as PIController()")
        if polish is not None and (not isinstance(polish, SteadyStateMethod) or isinstance(polish, DynamicSS)):
            raise InvalidProblemError(f"polish: got {polish!r}; expected a root finder such as Newton()")
        self.t_max, self.norm, self.controller, self.dt = t_max, check_norm(norm), controller, dt
        self.polish, self.path_rtol = polish, path_rtol

    def __repr__(self) -> str:
        return f"DynamicSS({self.solver!r})"

    def find(self, problem: SteadyStateProblem, residual: Residual, x: Tensor, stop: Stop, max_steps: int) -> Found:
        """Integrate, and polish what arrived."""
        first = stop if self.polish is None else replace(stop, rtol=max(stop.rtol, 0.01))
        found = self._integrate(problem, residual, x, first, max_steps)
        if self.polish is None:
            return found
        went = found.status == int(Status.SUCCESS)
        return found.then(self.polish.find(problem, residual, found.x, stop, max_steps), went)

    def _integrate(
        self, problem: SteadyStateProblem, residual: Residual, x: Tensor, stop: Stop, max_steps: int
    ) -> Found:
        packing, y0 = residual.packing, residual.packed(x)
        plan = prepare_plan(
            ODEProblem(problem.f, problem.y0, (0.0, self.t_max), problem.args),
            packing,
            y0,
            self.solver,
            self.controller,
            rtol=self.path_rtol,
            atol=stop.atol,
            max_steps=max_steps,
            per_sample=packing.per_sample,
        )
        plan = replace(plan, field=residual.at)
        slope = plan.field(0.0, y0)
        carry = start(plan, y0, self._first_step(plan), slope)
        carry = _arrived(residual, stop, carry, slope)
        while any_true(carry.status == RUNNING):
            now = _relative(plan, carry.h, carry.y, slope, self.path_rtol)
            trial = attempt(now, carry._replace(slope=slope))
            carry = settle(now, carry, trial)
            if carry.slope is not None:
                slope = carry.slope
            elif any_true(trial.accept):
                slope = plan.field(0.0, carry.y)
                carry = carry._replace(nfe=carry.nfe + select(trial.accept, 1, 0))
            carry = _arrived(residual, stop, carry, slope)
        rows, value = residual.flat(carry.y), residual.flat(slope)

        def each(number: Scalar, dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.as_tensor(number, dtype=dtype, device=x.device).reshape(-1)

        status = each(carry.status)
        # Arriving at the end of the interval is what a solve calls success; here it is a search that found nothing.
        late = (status == int(Status.SUCCESS)) & ~stop.holds(rows, value)
        counts = no_counts(x) | {name: each(getattr(carry, name)) for name in ("nfe", "steps", "accepted")}
        return Found(
            x=rows,
            residual=stop.size(value),
            status=torch.where(late, int(Status.NOT_CONVERGED), status),
            t=each(carry.t, torch.float64),
            counts=counts,
        )

    def _first_step(self, plan: Plan) -> float | None:
        dt = self.dt
        if dt is None and not plan.controller.adaptive:
            raise InvalidProblemError(
                f"dt: got None with {plan.method.name} and {type(plan.controller).__name__}; expected the step size"
            )
        return None if dt is None else positive(dt, "dt")


def _relative(plan: Plan, h: Scalar, y: Tensor, slope: Tensor, path_rtol: float) -> Plan:
    r"""The plan with an absolute tolerance of a part of the length of the coming step, :math:`h \|f\|`, for each row.

    A fixed tolerance would let the state wander by so much around the equilibrium, and the residual by as much times the
    field's Lipschitz constant, which may never fall below the stopping rule.
    """
    if not plan.controller.adaptive:
        return plan
    smallest = 8 * torch.finfo(real_dtype(y)).eps  # of the state; below this the error estimate is rounding
    length, size = plan.read(rms(slope, plan.per_sample)), plan.read(rms(y, plan.per_sample))
    allowed = maximum(path_rtol * h * length, maximum(smallest * size, torch.finfo(real_dtype(y)).tiny))
    return replace(plan, rtol=0.0, atol=spread(allowed, y))


def _arrived(residual: Residual, stop: Stop, carry: Carry, slope: Tensor) -> Carry:
    """The carry with those rows stopped at which the rule holds."""
    holds = stop.holds(residual.flat(carry.y), residual.flat(slope))
    steady: Scalar = bool(holds) if isinstance(carry.status, int) else holds
    return carry._replace(status=select(both(steady, carry.status == RUNNING), int(Status.SUCCESS), carry.status))


def check_norm(norm: object) -> str:
    """Refuse what is no norm."""
    if not isinstance(norm, str) or norm not in NORMS:
        raise InvalidProblemError(f'norm: got {norm!r}; expected "rms", "max" or "l2"')
    return norm
