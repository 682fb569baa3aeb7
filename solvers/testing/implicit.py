"""Two small implicit methods, against which the contract of :class:`Method` is tested: a cache, a memory, steps that fail.

:class:`ImplicitEuler` reuses its Jacobian and its factorization from step to step; :class:`BDF2` has a history beside. For
tests: the equations are dense, and states are real.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..core.counts import Counts
from ..core.derivative_order import at_most
from ..core.norms import rms, tolerance
from ..core.scalars import Scalar, as_clock, spread, transformed
from ..errors import InvalidProblemError
from ..linear.factorization import Factorization
from ..linear.jacobian import affine_jacobian, jacobian_of
from ..methods.base import Accuracy, Cache, Memory, Method, Step, VectorField

__all__ = ["BDF2", "ImplicitEuler", "Known"]

# Newton's iteration ends where what is left is this part of the tolerance, and fails after so many iterations.
_LEFT, _MOST = 1e-3, 12
_IN_GRAPHS = 6
# A factorization serves steps whose length differs from its own by no more than this part.
_DRIFT = 0.2
# BDF2 is stable while steps grow by less than 1 + sqrt(2).
_GROWTH = 2.4


class Known(NamedTuple):
    """What one step leaves to the next for its equations: nothing that the next one could not compute again."""

    slope: Tensor
    """The field where the step ended; NaN where it is not known."""
    jacobian: Tensor
    factors: Factorization
    length: Tensor
    """For which step the matrix was factorized, ``(B,)``; 0 where nothing is known."""


def nothing_known(slope: Tensor | None, y: Tensor, lanes: int | None) -> Known:
    """What is known before a first step."""
    count = 1 if lanes is None else lanes
    size = y.numel() // count if count else 0
    one = torch.eye(size, dtype=y.dtype, device=y.device).expand(count, size, size)
    slope = torch.full_like(y, torch.nan) if slope is None else slope
    length = torch.zeros(count, dtype=torch.float64, device=y.device)
    return Known(slope, torch.zeros_like(one), Factorization.of(one), length)


class Solved(NamedTuple):
    """The solution of a step's equations."""

    y: Tensor
    jacobian: Tensor
    factors: Factorization
    length: Tensor
    converged: Tensor
    counts: Counts
    calls: Tensor


class Equations:
    r"""The equations :math:`y = \psi + \gamma h f(t_1, y)` of one step, a system for each lane.

    Args:
        field: the right-hand side.
        t1: where the step ends.
        psi: what is known, in the graph.
        scale: :math:`\gamma h`, in the graph.
        per_sample: whether each sample is a system of its own.
    """

    def __init__(self, field: VectorField, t1: Scalar, psi: Tensor, scale: Scalar, per_sample: bool) -> None:
        if psi.is_complex():
            raise InvalidProblemError("y0: got a complex state with an implicit method; expected a real one")
        self.field, self.t1, self.psi, self.scale, self.shape = field, t1, psi, scale, psi.shape
        self.lanes = psi.shape[0] if per_sample else 1
        self.per_sample = per_sample
        length = as_clock(scale, psi.device) if not isinstance(scale, Tensor) else scale
        self.length = length.detach().reshape(-1).to(torch.float64).expand(self.lanes)
        self.fixed = self.rows(psi.detach()), self.length.reshape(-1, 1).to(psi.dtype)
        constant = t1.detach() if isinstance(t1, Tensor) else t1
        self.f: Callable[[Tensor], Tensor] = lambda x: self.rows(field(constant, x.reshape(self.shape)))
        # The field of a backward solve takes derivatives itself, which torch.func does not see through.
        self.jacobian = affine_jacobian if getattr(field, "affine", False) else jacobian_of

    def rows(self, x: Tensor) -> Tensor:
        """A row for each system."""
        return x.reshape(self.lanes, -1)

    def matrix(self, jacobian: Tensor) -> Tensor:
        r""":math:`I - \gamma h J`."""
        one = torch.eye(jacobian.shape[-1], dtype=jacobian.dtype, device=jacobian.device)
        return one - self.length.reshape(-1, 1, 1).to(jacobian.dtype) * jacobian

    def solve(self, guess: Tensor, known: Known, unit: Tensor) -> Solved:
        """Newton's iteration with a matrix that is kept as long as it converges, from a guess; no graph.

        Args:
            guess: where to begin.
            known: what earlier steps have left.
            unit: the tolerance of each entry.
        """
        start = self.rows(guess.detach())
        # A graph cannot look whether something is needed: it does all of it, with its own matrix.
        waits = torch.compiler.is_compiling() or (start.is_cuda and torch.cuda.is_current_stream_capturing())
        old = (known.length != 0) & (not waits)
        near = (self.length - known.length).abs() <= _DRIFT * known.length.abs()
        new, again = ~old, old & ~near
        counts = Counts(*[torch.zeros_like(new, dtype=torch.int64)] * 5)
        made = self._renewed(start, known.jacobian.detach(), known.factors, new, again, counts, waits)
        jacobian, factors, counts = made
        length = torch.where(new | again, self.length, known.length)
        y, converged, used = self._iterate(start, factors, unit, torch.ones_like(new), waits)
        counts = counts._replace(newton_iterations=used, linear_solves=used)
        stale = ~converged & ~new
        if not waits and bool(stale.any()):  # the matrix may be to blame: once more with its own
            jacobian, factors, counts = self._renewed(start, jacobian, factors, stale, stale & False, counts, waits)
            length = torch.where(stale, self.length, length)
            second, right, more = self._iterate(start, factors, unit, stale, waits)
            y, converged = torch.where(stale.unsqueeze(-1), second, y), converged | (stale & right)
            counts = counts._replace(newton_iterations=used + more, linear_solves=used + more)
        counts = counts._replace(newton_failures=(~converged).to(torch.int64))
        length = torch.where(converged, length, 0.0)  # a step that failed leaves nothing
        return Solved(y, jacobian, factors, length, converged, counts, counts.newton_iterations)

    def _renewed(
        self,
        at: Tensor,
        jacobian: Tensor,
        factors: Factorization,
        new: Tensor,
        again: Tensor,
        counts: Counts,
        waits: bool,
    ) -> tuple[Tensor, Factorization, Counts]:
        """The Jacobian anew in some lanes, the factorization in those and others."""
        every = new | again
        if waits or bool(new.any()):
            fresh = self.jacobian(self.f, at).detach()
            jacobian = torch.where(new.reshape(-1, 1, 1), fresh, jacobian)
            counts = counts._replace(jacobians=counts.jacobians + new.to(torch.int64))
        if waits or bool(every.any()):
            made = Factorization.of(self.matrix(jacobian))
            pairs = zip(made, factors, strict=True)
            factors = Factorization(*[torch.where(spread(every, x), x, y.detach()) for x, y in pairs])
            counts = counts._replace(factorizations=counts.factorizations + every.to(torch.int64))
        return jacobian, factors, counts

    def _iterate(
        self, y: Tensor, factors: Factorization, unit: Tensor, active: Tensor, waits: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The state after the iteration, where it converged, and how many iterations each lane took."""
        psi, length = self.fixed
        unit = self.rows(unit)
        before = torch.full(active.shape, torch.inf, dtype=y.dtype, device=y.device)
        converged, used = torch.zeros_like(active), torch.zeros_like(active, dtype=torch.int64)
        for _ in range(_IN_GRAPHS if waits else _MOST):
            move = factors.solve(y - psi - length * self.f(y).detach())
            y = torch.where(active.unsqueeze(-1), y - move, y)
            used = used + active.to(torch.int64)
            size = rms(move / unit, True)
            rate = size / before
            rounding = rms(16 * torch.finfo(y.dtype).eps * y / unit, True)
            left = torch.where((rate < 1) & before.isfinite(), size * rate / (1 - rate), torch.inf)
            done = active & ((left <= _LEFT) | (size <= torch.maximum(rounding, 0.1 * _LEFT * torch.ones_like(size))))
            converged = converged | done
            active = active & ~done & size.isfinite() & ((rate < 1) | before.isinf())
            before = size
            if not waits and not bool(active.any()):
                break
        return y, converged, used

    def in_graph(self, y: Tensor, derivatives: int) -> tuple[Tensor, int, int]:
        r"""The solution as a function of all that the equations depend on, how often the field was called, and Jacobians.

        By the implicit function: :math:`y - M^{-1} (y - \psi - \gamma h f(t_1, y))`, with :math:`M` at the solution as a constant,
        has the value and the first derivative of the solution, at one transposed solve; taken twice, the second derivative.
        """
        length = self.scale if isinstance(self.scale, float) else spread(self.scale, self.psi)
        y = y.reshape(self.shape)
        rest = y - self.psi - length * self.field(self.t1, y)
        if not (rest.requires_grad or transformed()):
            return y, 1, 0
        factors = Factorization.of(self.matrix(self.jacobian(self.f, self.rows(y).detach()).detach()))
        live = y - factors.solve(self.rows(rest)).reshape(self.shape)
        if derivatives == 2:
            rest = live - self.psi - length * self.field(self.t1, live)
            live = live - factors.solve(self.rows(rest)).reshape(self.shape)
        return at_most(live, derivatives, _DERIVATIVES), derivatives, 1


_DERIVATIVES = (
    "solver: the steps of this implicit method have first derivatives, or with derivatives=2 second ones, and a higher one was "
    "asked for; expected an explicit method, such as Tsit5()"
)


class _ImplicitStep(Step):
    """What the steps of both methods share: a solved system, and the polynomial through its ends and its last slope."""

    def __init__(
        self,
        method: ImplicitEuler,
        equations: Equations,
        ends: tuple[Scalar, Scalar],
        y0: Tensor,
        cache: Cache,
        accuracy: Accuracy | None,
    ) -> None:
        self.field, (self.t0, self.t1), self.y0 = equations.field, ends, y0
        self.h = spread(self.t1 - self.t0, y0)
        self.equations = equations
        known: Known = nothing_known(None, y0, len(y0) if equations.per_sample else None) if cache is None else cache
        self.first, called = self._first_slope(known)
        guess = y0 + self.h * self.first
        unit = (
            torch.ones_like(y0) * 1e-9
            if accuracy is None
            else tolerance(y0.detach().abs(), accuracy.rtol, accuracy.atol)
        )
        self.known = known._replace(slope=self.first)
        solved = equations.solve(torch.where(guess.isfinite(), guess, y0), known, unit)
        self.y, more, jacobians = equations.in_graph(solved.y, method.derivatives)
        # The slope that the equations give: it has no rounding or remainder of the field's own, which may be stiff.
        length = equations.scale if isinstance(equations.scale, float) else spread(equations.scale, y0)
        still = torch.as_tensor(length == 0, dtype=torch.bool, device=y0.device)
        self.last = torch.where(still, self.first, (self.y - equations.psi) / torch.where(still, 1.0, length))
        self.cache_ = Known(self.last, solved.jacobian, solved.factors, solved.length)
        failed = ~solved.converged & equations.rows(self.first.detach()).isfinite().all(dim=1)
        counts = solved.counts._replace(
            jacobians=solved.counts.jacobians + jacobians,
            factorizations=solved.counts.factorizations + jacobians,
            linear_solves=solved.counts.linear_solves + jacobians * method.derivatives,
        )
        calls = solved.calls + called + more
        if isinstance(self.t1 - self.t0, float):
            self.failed, self.calls = bool(failed), int(calls)
            self.counts = Counts(*[int(x) for x in counts])
        else:
            shape = () if not equations.per_sample else (-1,)
            self.failed, self.calls = failed.reshape(shape), calls.reshape(shape)
            self.counts = Counts(*[x.reshape(shape) for x in counts])

    def _first_slope(self, known: Known) -> tuple[Tensor, int]:
        """The field at the start, called where it is not known."""
        missing = known.slope.isnan()
        if not torch.compiler.is_compiling() and not bool(missing.any()):
            return known.slope, 0
        return torch.where(missing, self.field(self.t0, self.y0), known.slope), 1

    @property
    def cache(self) -> Known:
        """The slope at the end, the Jacobian and the factorization."""
        return self.cache_

    @property
    def retry(self) -> Known:
        """The slope at the start, and the Jacobian and factorization that were used."""
        return self.cache_._replace(slope=self.first)

    @property
    def first_slope(self) -> Tensor:
        """The field at the start."""
        return self.first

    @property
    def end_slope(self) -> Tensor:
        """The slope that the equations give."""
        return self.last

    @property
    def stiffness(self) -> Tensor:
        """None."""
        raise InvalidProblemError("solver: this method has no stiffness estimate")

    def polynomial(self) -> list[Tensor]:
        """The parabola through both ends with the slope at the last."""
        rise = self.y - self.y0
        return [rise, (self.h * self.last - rise) / 6.0]


class ImplicitEuler(Method):
    """Euler's implicit method: order 1, stable however stiff the field is."""

    order, embedded_order, dense_order = 1, 1, 1
    fsal, implicit = True, True
    stability_radius = torch.inf

    def __init__(self, derivatives: int = 1) -> None:
        self.derivatives = derivatives

    @property
    def has_stiffness(self) -> bool:
        """No."""
        return False

    def known(self, slope: Tensor | None, y: Tensor, per_sample: bool) -> Cache:
        """That slope, and no matrix."""
        return nothing_known(slope, y, len(y) if per_sample else None)

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
        equations = Equations(field, t1, y0, t1 - t0, _per_sample(t0, t1))
        return _EulerStep(self, equations, (t0, t1), y0, cache, accuracy)


class _EulerStep(_ImplicitStep):
    """A step of the implicit Euler method."""

    @property
    def slopes(self) -> list[tuple[float, Tensor]]:
        """The slope at the end alone."""
        return [(1.0, self.last)]

    @property
    def error(self) -> Tensor:
        """Half of what the slope changed by, over the step."""
        return 0.5 * (self.y - self.y0 - self.h * self.first)


class BDF2(ImplicitEuler):
    r"""The two-step backward differentiation formula with variable steps, order 2; its history is its memory.

    .. math:: y_{n+1} = \frac{(1 + \omega)^2}{1 + 2 \omega} y_n - \frac{\omega^2}{1 + 2 \omega} y_{n-1}
              + h \frac{1 + \omega}{1 + 2 \omega} f_{n+1}, \qquad \omega = h / h_{n-1}

    Without a history :math:`\omega` is 0, which is the implicit Euler method.

    References:
        Hairer, Norsett, Wanner: Solving Ordinary Differential Equations I, III.5.
    """

    order, embedded_order, dense_order = 2, 2, 2

    def start(self, field: VectorField, t0: Scalar, y0: Tensor) -> Memory:
        """No history: a state before, and 0 for how long ago that was."""
        lanes = t0.shape if isinstance(t0, Tensor) else ()
        return (y0, torch.zeros(lanes, dtype=torch.float64, device=y0.device))

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
        before, span = memory
        length = (t1 - t0) * torch.ones_like(span)
        # Steps that grow faster are not stable (they say what was before in units of a rounding error): a new history.
        new = (span == 0) | ((length.detach() / torch.where(span == 0, 1.0, span.detach())) > _GROWTH)
        ratio = torch.where(new, 0.0, length / torch.where(new, 1.0, span))
        w = spread(ratio, y0)
        psi = y0 + w * w / (1.0 + 2.0 * w) * (y0 - before)
        scale = (1.0 + ratio) / (1.0 + 2.0 * ratio) * (t1 - t0)
        equations = Equations(field, t1, psi, scale, _per_sample(t0, t1))
        return _BDF2Step(self, equations, (t0, t1), y0, cache, accuracy, memory, ratio)


class _BDF2Step(_ImplicitStep):
    """A step of BDF2."""

    def __init__(
        self,
        method: ImplicitEuler,
        equations: Equations,
        ends: tuple[Scalar, Scalar],
        y0: Tensor,
        cache: Cache,
        accuracy: Accuracy | None,
        memory: Memory,
        ratio: Tensor,
    ) -> None:
        super().__init__(method, equations, ends, y0, cache, accuracy)
        self.before, self.span = memory
        self.ratio = ratio
        length = torch.as_tensor(self.t1 - self.t0, dtype=torch.float64, device=y0.device)
        self.memory = (y0, length)
        constant = ratio.detach()
        self.order = torch.where(constant == 0, 1, 2) if isinstance(self.t1, Tensor) else 2 if constant else 1

    @property
    def error(self) -> Tensor:
        r"""From the distance of the predictor :math:`y_n + h f_n + \omega^2 (y_{n-1} - y_n + h_{n-1} f_n)`."""
        w, span = (spread(x, self.y0) for x in (self.ratio, self.span))
        predicted = self.y0 + self.h * self.first + w * w * (self.before - self.y0 + span * self.first)
        return (1.0 + w) / (2.0 + 3.0 * w) * (self.y - predicted)


def _per_sample(t0: Scalar, t1: Scalar) -> bool:
    return any(isinstance(t, Tensor) and t.dim() == 1 for t in (t0, t1))
