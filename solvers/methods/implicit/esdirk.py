"""The step of a diagonally implicit Runge-Kutta method, and the methods of such tableaus."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from ...checks import integer
from ...core.counts import Counts
from ...core.norms import rms
from ...core.scalars import Scalar, spread
from ...core.vmap import shared
from ...errors import InvalidProblemError
from ...linear.dense_lu import DenseLU
from ...linear.systems import Systems
from ..base import Accuracy, Cache, Memory, Method, Step, VectorField
from ..proved import tableau_of
from ..runge_kutta import combine
from .newton import Known, Newton, nothing_known
from .tableau import ImplicitTableau


class DiagonallyImplicitStep(Step):
    """A step of a diagonally implicit method; every stage is solved when it is made."""

    def __init__(
        self,
        method: DiagonallyImplicit,
        field: VectorField,
        t0: Scalar,
        t1: Scalar,
        y0: Tensor,
        known: Known | None,
        accuracy: Accuracy | None,
    ) -> None:
        self.tableau, self.field, self.t0, self.t1, self.y0 = method.tableau, field, t0, t1, y0
        self.span = t1 - t0
        self.h = spread(self.span, y0)
        self.host = not isinstance(self.span, Tensor)
        self.per_sample = not self.host and self.span.dim() == 1
        systems = method.linear_solver.systems(field, y0, self.per_sample)
        self.systems, self.derivatives = systems, method.derivatives
        self.first, called = self._first(known)
        args = (systems, method.linear_solver, t0, y0, self.span, self.tableau.gamma, known, accuracy)
        self.newton = Newton(*args)
        self.slopes_: list[Tensor] = []
        self.states: list[Tensor] = []
        self._solve()
        newton, tableau = self.newton, self.tableau
        self.y = self.states[-1] if tableau.stiffly_accurate else combine(y0, self.h, tableau.b, self.slopes_)
        self.calls = self._lanes(newton.calls + called)
        self.counts = Counts(*[self._lanes(x) for x in newton.counts._replace(newton_failures=1 * newton.failed)])
        # A field that is no number at the start has no equations that could be solved.
        known_start = self.first.detach().isfinite()
        if self.host:
            self.failed = newton.failed and bool(shared(known_start.all()))
        else:
            rows = known_start.reshape(systems.lanes, -1).all(dim=1)
            self.failed = self._lanes(newton.failed & rows)

    def _lanes(self, x: Scalar) -> Scalar:
        """A number of each lane as the clock has its lanes."""
        return x if self.host else x.reshape(self.span.shape)

    def _first(self, known: Known | None) -> tuple[Tensor, Scalar]:
        """The field at the start, from what is known, and how often it was called."""
        if self.host:
            if known is not None and not bool(shared(known.slope.isnan().any())):
                return known.slope, 0
            return self.field(self.t0, self.y0), 1
        if known is None:
            known = nothing_known(None, self.y0, self.systems)
        missing = known.slope.isnan().reshape(self.systems.lanes, -1).any(dim=1)
        waits = torch.compiler.is_compiling() or (self.y0.is_cuda and torch.cuda.is_current_stream_capturing())
        if not waits and not bool(missing.any()):
            return known.slope, missing.to(torch.int64)
        flags = spread(missing.reshape(self.span.shape), self.y0)
        return torch.where(flags, self.field(self.t0, self.y0), known.slope), missing.to(torch.int64)

    def _solve(self) -> None:
        """Every stage."""
        tableau, newton, y0 = self.tableau, self.newton, self.y0
        length = spread(newton.live_length, y0)
        for i, row in enumerate(tableau.a):
            if i == 0 and tableau.explicit_first:
                self.slopes_.append(self.first)
                self.states.append(y0)
                continue
            node = tableau.c[i]
            t = self.t0 if node == 0.0 else self.t1 if node == 1.0 else self.t0 + node * self.span
            psi = combine(y0, self.h, row[:-1], self.slopes_) if self.slopes_ else y0
            before = self.slopes_ or [self.first]
            guess = combine(None, length, tableau.predictors[i] or (1.0,), before)
            if newton.failed is True:  # nothing is known of the rest
                z = torch.full_like(y0, torch.nan)
            else:
                z = newton.in_graph(t, psi, newton.solve(t, psi, guess), self.derivatives)
            # The slope that the equation gives has no remainder of the field's own, which may be stiff.
            if self.host:
                slope = z / length if length else self.first
            else:
                still = length == 0
                slope = torch.where(still, self.first, z / torch.where(still, 1.0, length))
            self.slopes_.append(slope)
            self.states.append(psi + z)

    @property
    def cache(self) -> Known:
        """The slope at the end where the last stage is there, the Jacobian and the factorization."""
        return self.newton.known(self.slopes_[-1] if self.tableau.stiffly_accurate else self._nothing())

    def _nothing(self) -> Tensor:
        return torch.full_like(self.y0.detach(), torch.nan)

    @property
    def retry(self) -> Known:
        """The slope at the start, and the Jacobian and factorization that were used."""
        return self.newton.known(self.first)

    @property
    def first_slope(self) -> Tensor:
        """The field at the start."""
        return self.first

    @property
    def end_slope(self) -> Tensor | None:
        """The slope at the end, where the last stage is there."""
        return self.slopes_[-1] if self.tableau.stiffly_accurate else None

    @property
    def slopes(self) -> list[tuple[float, Tensor]]:
        """The slopes of the stages that the solution is made of, and their weights."""
        return [(weight, slope) for weight, slope in zip(self.tableau.b, self.slopes_, strict=True) if weight != 0.0]

    @property
    def error(self) -> Tensor:
        """The difference of the two embedded solutions."""
        weights = self.tableau.error_weights
        if weights is None:
            raise InvalidProblemError("solver: this tableau has no embedded row, so a step has no error estimate")
        return combine(None, self.h, weights, self.slopes_)

    @property
    def stiffness(self) -> Tensor:
        """The quotient of the slopes of two stages at one time, and of their states."""
        if self.tableau.stiffness_pair is None:
            raise InvalidProblemError("solver: this tableau has no two different stages at one time to compare")
        i, j = self.tableau.stiffness_pair
        rise = rms(self.slopes_[j] - self.slopes_[i], self.per_sample)
        run = rms(self.states[j] - self.states[i], self.per_sample)
        moved = run > 0
        return torch.where(moved, rise / torch.where(moved, run, 1.0), 0.0)

    def polynomial(self) -> list[Tensor]:
        """The dense output, whose first coefficient is the increment itself."""
        rest = [
            combine(None, self.h, column, self.slopes_) for column in list(zip(*self.tableau.pieces, strict=True))[1:]
        ]
        return [self.y - self.y0, *rest]


class DiagonallyImplicit(Method):
    r"""The diagonally implicit Runge-Kutta method of a tableau: one nonlinear system for each stage, all with one matrix.

    .. math:: Y_i = y_0 + h \sum_{j \le i} a_{ij} f(t_0 + c_j h, Y_j), \qquad y_1 = y_0 + h \sum_i b_i f(t_0 + c_i h, Y_i)

    Each is solved by Newton's simplified iteration to a hundredth of ``rtol`` and ``atol``, with fixed steps too. Jacobian and
    factorization are kept for as long as it converges fast. A step whose equations are not solved is tried again, shorter. The
    gradient is that of the equations' solution, by the implicit function theorem: the iteration leaves no graph.

    Args:
        tableau: the coefficients; it has verified itself.
        name: what messages and tables call the method.
        linear_solver: how the linear systems are solved; None: :class:`DenseLU`.
        derivatives: how often a solution can be differentiated, 1 or 2, which costs a call of the field more for each stage.

    Raises:
        InvalidProblemError: an argument is wrong; in the solve, a field that cannot be differentiated.

    When to take it:
        To add a method from a paper: the tableau proves its order, and everything else follows from it.

    References:
        Hairer, Wanner: Solving Ordinary Differential Equations II, IV.6 and IV.8.

    Example:
        >>> import torch, neuralde as nde
        >>> euler = nde.ImplicitTableau(a=((1.0,),), b=(1.0,), order=1)
        >>> problem = nde.ODEProblem(lambda t, y: -1e6 * (y - 2.0), torch.ones(1, dtype=torch.float64), (0.0, 1.0))
        >>> nde.solve(problem, nde.DiagonallyImplicit(euler), dt=0.1).y1
        tensor([2.], dtype=torch.float64)
    """

    implicit = True
    differentiable_in_loops = False
    sums_slopes = True

    def __init__(
        self,
        tableau: ImplicitTableau,
        name: str | None = None,
        linear_solver: DenseLU | None = None,
        derivatives: int = 1,
    ) -> None:
        if not isinstance(tableau, ImplicitTableau):
            raise InvalidProblemError(f"tableau: got {type(tableau).__name__}; expected an ImplicitTableau")
        if linear_solver is not None and not isinstance(linear_solver, DenseLU):
            raise InvalidProblemError(f"linear_solver: got {type(linear_solver).__name__}; expected DenseLU()")
        if integer(derivatives, "derivatives", expected="1 or 2") > 2:
            raise InvalidProblemError(f"derivatives: got {derivatives}; expected 1 or 2")
        self.tableau = tableau
        self._name = name or type(self).__name__
        self.linear_solver = DenseLU() if linear_solver is None else linear_solver
        self.derivatives = derivatives
        self.order, self.embedded_order = tableau.order, tableau.embedded_order
        self.fsal = tableau.stiffly_accurate
        self.stability_radius, self.dense_order = tableau.stability_radius, tableau.dense_order

    @property
    def name(self) -> str:
        """The name that messages and tables use."""
        return self._name

    @property
    def error_order(self) -> float:
        """The power of the step size with which the estimated local error falls."""
        assert self.tableau.embedded_order is not None
        return min(self.tableau.order, self.tableau.embedded_order) + 1

    @property
    def has_stiffness(self) -> bool:
        """Whether two different stages look at one time."""
        return self.tableau.stiffness_pair is not None

    def known(self, slope: Tensor | None, y: Tensor, per_sample: bool) -> Cache:
        """That slope, and no matrix."""
        return nothing_known(slope, y, Systems(None, y, per_sample))

    def step(
        self,
        field: VectorField,
        t0: Scalar,
        t1: Scalar,
        y0: Tensor,
        memory: Memory = (),
        cache: Cache = None,
        accuracy: Accuracy | None = None,
    ) -> DiagonallyImplicitStep:
        """One step from ``t0`` to ``t1``; the cache is the field at the start, a Jacobian and a factorization."""
        return DiagonallyImplicitStep(self, field, t0, t1, y0, cache, accuracy)


class NamedDiagonallyImplicit(DiagonallyImplicit):
    """Such a method that comes with its tableau, which is built and proved when the first one is made."""

    def __init__(self, linear_solver: DenseLU | None = None, derivatives: int = 1) -> None:
        super().__init__(tableau_of(type(self)), linear_solver=linear_solver, derivatives=derivatives)

    @staticmethod
    @abstractmethod
    def coefficients() -> ImplicitTableau:
        """The tableau."""
