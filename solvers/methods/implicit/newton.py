r"""Newton's simplified iteration for the stages of implicit Runge-Kutta methods, with what it keeps from step to step.

A stage is a root of :math:`g(z) = z - \gamma h\, f(t, \psi + z)`. The iteration :math:`z \leftarrow z - M^{-1} g(z)` with
:math:`M = I - \gamma h J` keeps its Jacobian J and its factorization for as long as it converges fast: from stage to stage and from
step to step. It leaves no graph: :meth:`Newton.in_graph` puts the root into it, by the implicit function theorem.

Source: Hairer, Wanner, "Solving Ordinary Differential Equations II", IV.8 (when to stop, when to give up, what to keep).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...core.counts import Counts
from ...core.derivative_order import at_most
from ...core.norms import rms, tolerance
from ...core.scalars import Scalar, any_true, both, is_finite, maximum, minimum, negate, select, spread, transformed
from ...core.vmap import shared
from ...linear.dense_lu import DenseLU
from ...linear.factorization import Factorization
from ...linear.systems import Systems
from ..base import Accuracy

# What is left of a stage when the iteration ends, in units of the tolerance; and how often it iterates, in a graph always.
LEFT, MOST, IN_GRAPHS = 1e-2, 8, 6
# A factorization serves steps whose length differs from its own by no more than this part.
DRIFT = 0.2
# A Jacobian that made the iteration converge by less than this factor is computed anew at the next step.
SLOW = 0.1
# An iteration that gains less than this is given up.
_STALLS = 0.9
# How fast an iteration may be taken to converge that has not shown it yet; and by what a rate grows that a step has not measured.
_FASTEST, _FORGETS = 1e-2, 3.0
# Units of rounding of a state below which no iteration gets.
_ROUNDING = 16.0


class Known(NamedTuple):
    """What one attempt leaves to the next: nothing that it could not compute again.

    In a joint eager solve ``length`` and ``rate`` are Python's numbers, else there is one for each lane.
    """

    slope: Any
    """The field where the attempt starts; NaN where it is not known."""
    jacobian: Any
    """``(B, n, n)``."""
    factors: Any
    length: Any
    """For which step the matrix was factorized; 0 where nothing is known."""
    rate: Any
    """How fast the last iterations converged; 1 where the Jacobian has to be computed anew."""


def nothing_known(slope: Tensor | None, y: Tensor, systems: Systems) -> Known:
    """What is known before a first step, as every driver can carry it."""
    rows = systems.rows(y.detach())
    one = torch.eye(rows.shape[1], dtype=rows.dtype, device=y.device).expand(len(rows), -1, -1)
    slope = torch.full_like(y, torch.nan) if slope is None else slope
    length = torch.zeros(len(rows), dtype=torch.float64, device=y.device)
    return Known(slope, torch.zeros_like(one), Factorization.of(one), length, torch.ones_like(length))


class Newton:
    r"""The equations of one step's stages, all with one matrix.

    Args:
        systems: the field.
        linear_solver: how the systems are solved.
        t0: where the Jacobian is computed.
        y0: the state there.
        span: the length of the step, in the graph.
        gamma: the diagonal of the tableau.
        known: what earlier attempts have left, or None.
        accuracy: how exact the solution is to be; None: to about ten digits.
    """

    def __init__(
        self,
        systems: Systems,
        linear_solver: DenseLU,
        t0: Scalar,
        y0: Tensor,
        span: Scalar,
        gamma: float,
        known: Known | None,
        accuracy: Accuracy | None,
    ) -> None:
        self.systems, self.linear_solver, self.t0, self.y0 = systems, linear_solver, t0, y0
        self.host = not isinstance(span, Tensor)
        # A graph cannot look whether something is needed: it does all of it.
        self.waits = torch.compiler.is_compiling() or (y0.is_cuda and torch.cuda.is_current_stream_capturing())
        length = gamma * span
        self.live_length = length
        self.length = length if self.host else length.detach().reshape(-1).to(torch.float64)
        self.scale = length if self.host else self.length.to(systems.rows(y0).dtype).unsqueeze(-1)
        size = y0.detach().abs()
        unit = 1e-10 * (1.0 + size) if accuracy is None else tolerance(size, accuracy.rtol, accuracy.atol)
        self.floor = _ROUNDING / LEFT * torch.finfo(y0.dtype).eps
        unit = torch.maximum(unit, self.floor * size)
        self.unit = systems.rows(torch.complex(unit, unit) if systems.complex else unit)
        one = 1 if self.host else torch.ones_like(self.length, dtype=torch.int64)
        self.one, self.none = one, 0 * one
        self.counts = Counts(*[self.none] * len(Counts._fields))
        self.calls: Scalar = self.none
        self.failed: Scalar = False if self.host else torch.zeros_like(self.length, dtype=torch.bool)
        self.eta: Scalar
        self.made: Scalar
        # Whether what the field captures is differentiated is seen where the iteration calls it first.
        self.records, self.captures = torch.is_grad_enabled() and not self.waits, self.waits
        self.jacobian: Any = None
        self.factors: Any = None
        self.rate: Scalar = 0.0 * self.length - 1.0  # below 0: not measured
        self._begin(known)

    # The matrix

    def _begin(self, known: Known | None) -> None:
        """The Jacobian and the factorization: what is known, as far as it serves this step."""
        if self.host and (known is None or isinstance(known.length, Tensor)):
            self.eta, self.old_rate, self.made = 1.0, SLOW, 0.0
            self.fresh: Scalar = False
            self._renew(True, True)
            return
        if known is None:
            known = nothing_known(None, self.y0, self.systems)
        self.jacobian, self.factors, self.made = known.jacobian, known.factors, known.length
        old, slow = known.length != 0, known.rate > SLOW
        near = abs(self.length - self.made) <= DRIFT * abs(self.made)
        new = slow | negate(old)
        self.eta, self.old_rate = maximum(known.rate, _FASTEST), minimum(_FORGETS * known.rate, SLOW)
        self.fresh = new & False
        again = new | negate(near)
        if self.waits:
            new = again = torch.ones_like(new)
        self._renew(new, again)

    def _renew(self, new: Scalar, again: Scalar, at: tuple[Scalar, Tensor] | None = None) -> None:
        """The Jacobian anew in some lanes, at a time and state or at the start; the factorization in those and others."""
        if any_true(new) if not self.waits else True:
            with torch.no_grad():
                found = self.systems.jacobian(*((self.t0, self.y0.detach()) if at is None else at))[0].detach()
            self.jacobian = found if new is True else torch.where(new.reshape(-1, 1, 1), found, self.jacobian.detach())
            self.fresh = self.fresh | new
            self.eta = select(new, 1.0, self.eta)
            self.counts = self.counts._replace(jacobians=self.counts.jacobians + select(new, self.one, self.none))
        if any_true(again) if not self.waits else True:
            made = self.linear_solver.factorize(self.matrix(self.jacobian))
            if again is True:
                self.factors, self.made = made, self.length
            else:
                pairs = zip(made, self.factors, strict=True)
                self.factors = Factorization(*[torch.where(spread(again, x), x, old.detach()) for x, old in pairs])
                self.made = torch.where(again, self.length, self.made)
            count = self.counts.factorizations + select(again, self.one, self.none)
            self.counts = self.counts._replace(factorizations=count)

    def matrix(self, jacobian: Tensor) -> Tensor:
        r""":math:`I - \gamma h J`."""
        one = torch.eye(jacobian.shape[-1], dtype=jacobian.dtype, device=jacobian.device)
        return one - (self.scale if self.host else self.scale.unsqueeze(-1)) * jacobian

    # The iteration

    def solve(self, t: Scalar, psi: Tensor, guess: Tensor) -> Tensor:
        """The root ``z`` of a stage, without a graph; lanes in which there is none are in :attr:`failed`.

        Args:
            t: where the stage looks.
            psi: what its state has beside the root.
            guess: where to begin.
        """
        with torch.no_grad():
            time = t.detach() if isinstance(t, Tensor) else t
            known, start = self.systems.rows(psi.detach()), self.systems.rows(guess.detach())
            start = torch.where(start.isfinite(), start, 0.0)
            active = negate(self.failed)
            z, converged = self._iterate(time, known, start, active)
            if not self.waits:
                z, converged = self._with_new_matrices(time, known, z, active, converged)
            self.failed = self.failed | both(active, negate(converged))
            return self.systems.state(z)

    def _with_new_matrices(
        self, t: Scalar, psi: Tensor, z: Tensor, active: Scalar, converged: Scalar
    ) -> tuple[Tensor, Scalar]:
        """The same where the matrix may be to blame: with that of the step's start, then with one from where it has come."""
        again = both(active, negate(converged))
        if any_true(again):
            stale = both(again, negate(self.fresh))
            if any_true(stale):
                self._renew(stale, stale)
            # From the state at the start the first move is that of the linearized equation, however far the slope points.
            second, right = self._iterate(t, psi, self.systems.rows(self.y0.detach()) - psi, again)
            z, converged = self._chosen(again, second, z), converged | both(again, right)
        near = both(both(active, negate(converged)), self._finite(z))
        if any_true(near):
            self._renew(near, near, (t, self.systems.state(psi + z)))
            second, right = self._iterate(t, psi, z, near)
            z, converged = self._chosen(near, second, z), converged | both(near, right)
        return z, converged

    @staticmethod
    def _chosen(lanes: Scalar, new: Tensor, old: Tensor) -> Tensor:
        return new if lanes is True else torch.where(lanes.unsqueeze(-1), new, old)

    def _finite(self, z: Tensor) -> Scalar:
        finite = z.isfinite().all(dim=1)
        return bool(shared(finite.all())) if self.host else finite

    def _iterate(self, t: Scalar, psi: Tensor, z: Tensor, active: Scalar) -> tuple[Tensor, Scalar]:
        """Where the iteration ends, and whether it converged there."""
        f, eta = self.systems.at(t), self.eta
        unit = torch.maximum(self.unit, self.floor * psi.abs())  # whose rounding is in every residual
        before: Scalar = None
        converged = active & False
        for left in range((IN_GRAPHS if self.waits else MOST) - 1, -1, -1):
            with torch.set_grad_enabled(self.records and before is None):
                value = f(psi + z)
                self.captures = self.captures or value.requires_grad
            move = self.factors.solve(z - self.scale * value.detach())
            self._count(active)
            z = z - move if active is True else torch.where(active.unsqueeze(-1), z - move, z)
            size = self._number(rms(move / unit, True))
            going = is_finite(size)
            if before is not None:
                rate = size / maximum(before, 1e-300)
                self.rate = select(both(active, going), maximum(self.rate, rate), self.rate)
                gains = rate < _STALLS
                eta = select(active, select(gains, rate / maximum(1.0 - rate, 1e-3), 1.0), eta)
                if not self.waits:
                    gains = gains & (rate**left * size * eta <= LEFT)
                going = both(going, gains)
            done = both(both(active, is_finite(size)), (eta * size <= LEFT) | (size <= 0.1 * LEFT))
            converged = converged | done
            active = both(active, negate(done)) if self.waits else both(both(active, negate(done)), going)
            before = size
            if not self.waits and not any_true(active):
                break
        self.eta = select(converged, eta, self.eta)
        return z, converged

    def _count(self, active: Scalar) -> None:
        one = select(active, self.one, self.none)
        self.calls = self.calls + one
        self.counts = self.counts._replace(
            newton_iterations=self.counts.newton_iterations + one, linear_solves=self.counts.linear_solves + one
        )

    def _number(self, x: Tensor) -> Scalar:
        """A number of each lane."""
        if self.host:
            return float(shared(x.reshape(())) if transformed() else x)
        return x.to(torch.float64)

    # The graph

    def in_graph(self, t: Scalar, psi: Tensor, z: Tensor, derivatives: int) -> Tensor:
        r"""The root as a function of all that its equation depends on; its value is that of ``z``.

        By the implicit function theorem: :math:`z - M^{-1} (g(z) - \bar g)`, with :math:`M` at the root and :math:`\bar g = g(z)`
        as constants, has the first derivative of the root, at one transposed solve; taken twice, the second derivative.
        """
        if not transformed():
            parts = (psi, t, self.live_length)
            lives = self.captures or any(isinstance(x, Tensor) and x.requires_grad for x in parts)
            if not (torch.is_grad_enabled() and lives):
                return z
        z, length = z.detach(), spread(self.live_length, psi)
        rest = z - length * self.systems.field(t, psi + z)
        self.calls = self.calls + self.one
        constant = t.detach() if isinstance(t, Tensor) else t
        with torch.no_grad():
            jacobian, _ = self.systems.jacobian(constant, (psi + z).detach())
            factors = self.linear_solver.factorize(self.matrix(jacobian.detach()))
        live = z - self._moved(factors, rest)
        if derivatives == 2:
            self.calls = self.calls + self.one
            live = live - self._moved(factors, live - length * self.systems.field(t, psi + live))
        count = self.counts
        self.counts = count._replace(
            jacobians=count.jacobians + self.one,
            factorizations=count.factorizations + self.one,
            linear_solves=count.linear_solves + derivatives * self.one,
        )
        return at_most(live, derivatives, _DERIVATIVES)

    def _moved(self, factors: Factorization, rest: Tensor) -> Tensor:
        """What the root moves by, with value 0."""
        return self.systems.state(factors.solve(self.systems.rows(rest - rest.detach())))

    # What is left

    def known(self, slope: Tensor) -> Known:
        """What the next attempt can use: of lanes that failed nothing but the slope."""
        length, rate = select(self.failed, 0.0, self.made), select(self.rate < 0.0, self.old_rate, self.rate)
        if self.host:
            return Known(slope, self.jacobian, self.factors, length, rate)
        return Known(slope, self.jacobian.detach(), Factorization(*[x.detach() for x in self.factors]), length, rate)


_DERIVATIVES = (
    "solver: the steps of this implicit method have first derivatives, or with derivatives=2 second ones, and a higher one was "
    "asked for; expected a Rosenbrock method, such as Rodas5P(), or an explicit one"
)
