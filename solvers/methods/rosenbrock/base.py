"""The step of a Rosenbrock method: one Jacobian, one factorization, and a linear system for each stage."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...core.counts import Counts
from ...core.norms import rms
from ...core.scalars import Scalar, spread
from ...core.vmap import shared
from ...errors import InvalidProblemError
from ...linear.dense_lu import DenseLU
from ...linear.differentiable import solved
from ...linear.systems import Systems
from ..base import Accuracy, Cache, Memory, Method, Step, VectorField
from ..proved import tableau_of
from ..runge_kutta import combine
from .tableau import RosenbrockTableau


class Known(NamedTuple):
    """What one attempt leaves to the next.

    On lanes every part is a tensor, NaN where it is not known, so that the arrangement is the same throughout; a joint eager
    solve has None instead.
    """

    slope: Any
    """The field where the attempt starts."""
    jacobian: Any = None
    """The Jacobian there, ``(B, n, n)``."""
    in_time: Any = None
    """The slope in time there, ``(B, n)``."""


class RosenbrockStep(Step):
    """A step of a Rosenbrock method; every stage is evaluated when it is made."""

    def __init__(
        self,
        method: Rosenbrock,
        field: VectorField,
        t0: Scalar,
        t1: Scalar,
        y0: Tensor,
        known: Known | None,
    ) -> None:
        self.tableau, self.field, self.t0, self.t1, self.y0 = method.tableau, field, t0, t1, y0
        self.span = t1 - t0
        self.host = not isinstance(self.span, Tensor)
        self.per_sample = not self.host and self.span.dim() == 1
        self.systems = method.linear_solver.systems(field, y0, self.per_sample)
        self.calls: Scalar = 0
        self.jacobian: Any = None
        self.in_time: Any = None
        slope, jacobians = self._start(known)
        self._solve(method, slope)
        self.counts = Counts(
            jacobians=jacobians, factorizations=self._each(1), linear_solves=self._each(self.tableau.stages)
        )
        self.y = combine(y0, 1.0, self.tableau.m, self.u)

    def _each(self, count: int) -> Scalar:
        """A count, for each lane where there are lanes."""
        if self.host:
            return count
        return torch.full_like(self.span, count, dtype=torch.int64)

    def _start(self, known: Known | None) -> tuple[Tensor, Scalar]:
        """The field and its Jacobians at the start, from what is known; and how often the latter were computed."""
        return self._start_alone(known) if self.host else self._start_lanes(known)

    def _start_alone(self, known: Known | None) -> tuple[Tensor, int]:
        slope = None if known is None else known.slope
        if slope is None or not _is_known(slope):
            slope, self.calls = self.field(self.t0, self.y0), 1
        if known is not None and known.jacobian is not None and _is_known(known.jacobian):
            self.jacobian, self.in_time = known.jacobian, known.in_time
            return slope, 0
        self.jacobian, self.in_time = self.systems.jacobian(self.t0, self.y0, self.span)
        return slope, 1

    def _start_lanes(self, known: Known | None) -> tuple[Tensor, Tensor]:
        slope, self.jacobian, self.in_time = _unknown(self.y0, self.systems) if known is None else known
        asks = not torch.compiler.is_compiling() and not (self.y0.is_cuda and torch.cuda.is_current_stream_capturing())
        missing = slope.isnan().reshape(self.systems.lanes, -1).any(1)
        if not asks or bool(missing.any()):
            self.calls = self._lanes(missing).to(torch.int64)
            slope = torch.where(spread(self._lanes(missing), slope), self.field(self.t0, self.y0), slope)
        new = self.jacobian.isnan().any(-1).any(-1)
        if not asks or bool(new.any()):
            jacobian, in_time = self.systems.jacobian(self.t0, self.y0, self.span)
            assert in_time is not None
            self.jacobian = torch.where(new.reshape(-1, 1, 1), jacobian, self.jacobian)
            self.in_time = torch.where(new.unsqueeze(-1), in_time, self.in_time)
        return slope, self._lanes(new).to(torch.int64)

    def _lanes(self, flags: Tensor) -> Tensor:
        """A flag of each row as the clock has its lanes."""
        return flags.reshape(self.span.shape)

    def _solve(self, method: Rosenbrock, slope: Tensor) -> None:
        """Every stage."""
        tableau, systems, t0, y0 = self.tableau, self.systems, self.t0, self.y0
        gamma, length = tableau.gamma, self.span
        if not self.host:
            length = length.reshape(-1, 1).to(self.jacobian.dtype)
        matrix = torch.eye(self.jacobian.shape[-1], dtype=self.jacobian.dtype, device=y0.device)
        matrix = matrix - (gamma * length if self.host else gamma * length.unsqueeze(-1)) * self.jacobian
        factors = method.linear_solver.factorize(matrix.detach())
        self.u: list[Tensor] = []
        rows: list[Tensor] = []
        self.compared: dict[int, tuple[Tensor, Tensor]] = {}
        for i in range(tableau.stages):
            if i:
                argument = combine(y0, 1.0, tableau.a[i], self.u)
                node = tableau.nodes[i]
                time = t0 if node == 0.0 else self.t1 if node == 1.0 else t0 + node * self.span
                value = self.field(time, argument)
                self.calls = self.calls + 1
            else:
                argument, value = y0, slope
            if i in (tableau.stiffness_pair or ()):
                self.compared[i] = argument, value
            right = (gamma * length) * systems.rows(value)
            if tableau.in_time[i]:
                right = right + (gamma * tableau.in_time[i] * length * length) * self.in_time
            if i and any(tableau.c[i]):
                right = combine(right, 1.0, [gamma * x for x in tableau.c[i]], rows)
            rows.append(solved(matrix, factors, right))
            self.u.append(systems.state(rows[-1]))
        self.first, self.last = slope, value

    @property
    def cache(self) -> Cache:
        """The field at the end, where the last stage is that."""
        if self.host:
            return Known(self.last) if self.tableau.fsal else None
        unknown = _unknown(self.y0, self.systems)
        return unknown._replace(slope=self.last) if self.tableau.fsal else unknown

    @property
    def retry(self) -> Cache:
        """The field and its Jacobians at the start."""
        return Known(self.first, self.jacobian, self.in_time)

    @property
    def first_slope(self) -> Tensor:
        """The field at the start."""
        return self.first

    @property
    def end_slope(self) -> Tensor | None:
        """The field at the end, where the last stage is that."""
        return self.last if self.tableau.fsal else None

    @property
    def error(self) -> Tensor:
        """The difference of the two embedded solutions."""
        return combine(None, 1.0, self.tableau.error_weights, self.u)

    @property
    def stiffness(self) -> Tensor:
        """The quotient of the field's values of two stages at one time, and of their states."""
        if self.tableau.stiffness_pair is None:
            raise InvalidProblemError("solver: this tableau has no two different stages at one time to compare")
        (before, first), (after, second) = (self.compared[i] for i in self.tableau.stiffness_pair)
        rise, run = rms(second - first, self.per_sample), rms(after - before, self.per_sample)
        moved = run > 0
        return torch.where(moved, rise / torch.where(moved, run, 1.0), 0.0)

    def polynomial(self) -> list[Tensor]:
        """The method's dense output."""
        return [combine(None, 1.0, column, self.u) for column in zip(*self.tableau.pieces, strict=True)]


def _is_known(x: Tensor) -> bool:
    """Whether a joint solve has it."""
    return not bool(shared(x.isnan().any()))


def _unknown(y: Tensor, systems: Systems) -> Known:
    """Nothing known, on lanes."""
    rows = systems.rows(y.detach())
    nothing = torch.full_like(rows, torch.nan)
    return Known(
        torch.full_like(y.detach(), torch.nan), nothing.unsqueeze(-1).expand(-1, -1, rows.shape[1]).clone(), nothing
    )


class Rosenbrock(Method):
    r"""The Rosenbrock method of a tableau: implicit steps without iteration, from one Jacobian each.

    .. math:: (I - \gamma h J)\, k_i = f\Bigl(t_0 + \alpha_i h, y_0 + h \sum_{j<i} \alpha_{ij} k_j\Bigr)
              + h J \sum_{j<i} \gamma_{ij} k_j + \gamma_i h \frac{\partial f}{\partial t}, \qquad
              y_1 = y_0 + h \sum_i b_i k_i

    with :math:`J = \partial f / \partial y (t_0, y_0)`. Everything is a differentiable function of the state, the
    parameters and the times, so that gradients of any order need nothing but autograd, which differentiates the Jacobian too.

    Args:
        tableau: the coefficients; it has verified itself.
        name: what messages and tables call the method.
        linear_solver: how the linear systems are solved; None: :class:`DenseLU`.

    Raises:
        InvalidProblemError: ``tableau`` is no :class:`RosenbrockTableau`; ``linear_solver`` is none; in the solve, a field
            that ``torch.func`` cannot differentiate.

    When to take it:
        To add a method from a paper: the tableau proves its order, and everything else follows from it.

    References:
        Hairer, Wanner: Solving Ordinary Differential Equations II, IV.7.

    Example:
        >>> import torch, neuralde as nde
        >>> euler = nde.RosenbrockTableau(
        ...     gamma=1.0, a=((),), c=((),), m=(1.0,), m_embedded=(0.5,), order=1, embedded_order=0,
        ...     dense=((1.0,),), dense_order=1)
        >>> problem = nde.ODEProblem(lambda t, y: -1e6 * (y - 2.0), torch.ones(1, dtype=torch.float64), (0.0, 1.0))
        >>> nde.solve(problem, nde.Rosenbrock(euler), dt=0.1, controller=nde.ConstantStep()).y1
        tensor([2.], dtype=torch.float64)
    """

    implicit = True
    differentiable_in_loops = False

    def __init__(
        self, tableau: RosenbrockTableau, name: str | None = None, linear_solver: DenseLU | None = None
    ) -> None:
        if not isinstance(tableau, RosenbrockTableau):
            raise InvalidProblemError(f"tableau: got {type(tableau).__name__}; expected a RosenbrockTableau")
        if linear_solver is not None and not isinstance(linear_solver, DenseLU):
            raise InvalidProblemError(f"linear_solver: got {type(linear_solver).__name__}; expected DenseLU()")
        self.tableau = tableau
        self._name = name or type(self).__name__
        self.linear_solver = DenseLU() if linear_solver is None else linear_solver
        self.order, self.embedded_order = tableau.order, tableau.embedded_order
        self.fsal, self.stability_radius = tableau.fsal, tableau.stability_radius
        self.dense_order = tableau.dense_order

    @property
    def name(self) -> str:
        """The name that messages and tables use."""
        return self._name

    @property
    def error_order(self) -> float:
        """The power of the step size with which the estimated local error falls."""
        return min(self.tableau.order, self.tableau.embedded_order) + 1

    @property
    def has_stiffness(self) -> bool:
        """Whether two different stages look at one time."""
        return self.tableau.stiffness_pair is not None

    def known(self, slope: Tensor | None, y: Tensor, per_sample: bool) -> Cache:
        """That slope, and no Jacobian."""
        unknown = _unknown(y, Systems(None, y, per_sample))
        return unknown if slope is None else unknown._replace(slope=slope)

    def step(
        self,
        field: VectorField,
        t0: Scalar,
        t1: Scalar,
        y0: Tensor,
        memory: Memory = (),
        cache: Cache = None,
        accuracy: Accuracy | None = None,
    ) -> RosenbrockStep:
        """One step from ``t0`` to ``t1``; the cache is the field at the start, and behind a rejected attempt its Jacobian."""
        return RosenbrockStep(self, field, t0, t1, y0, cache)


class NamedRosenbrock(Rosenbrock):
    """A Rosenbrock method that comes with its tableau, which is built and proved when the first one is made."""

    def __init__(self, linear_solver: DenseLU | None = None) -> None:
        super().__init__(tableau_of(type(self)), linear_solver=linear_solver)

    @staticmethod
    @abstractmethod
    def coefficients() -> RosenbrockTableau:
        """The tableau."""
