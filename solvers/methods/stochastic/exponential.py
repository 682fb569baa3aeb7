"""Exponential methods for states that filtered noise drives: the filter is exact at any step size."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from ...core.norms import rms
from ...core.scalars import Scalar, as_time, differentiated, spread
from ...errors import InvalidProblemError
from ...problems import SDEProblem
from ...terms.semilinear import Parts, SemilinearField
from ..base import Accuracy, Cache, Memory, Step, VectorField
from .base import SDEMethod
from .between import PathStep

if TYPE_CHECKING:
    from ...output.saving import Request, SavePlan


class _ExponentialStep(PathStep):
    """Euler's step for x along the exact move of the filter."""

    def __init__(self, field: VectorField, t0: Scalar, t1: Scalar, y0: Tensor) -> None:
        self.field = self.term = cast(SemilinearField, field)
        self.t0, self.t1, self.y0 = t0, t1, y0
        self.recorded = torch.is_grad_enabled()
        self.start = self.term.split(y0)
        self.h = spread(t1 - t0, self.start.x)
        self.made = self.term.passed(t1 - t0, self.start.x)
        self.w, _ = self.term.noise(t0, t1)
        self.b, self.s, self.u = self._evaluate(as_time(t0, y0), y0)
        held = torch.addcmul(self.w, self.start.filter, self.made.decay)
        self.filter = held if self.u is None else held + self.made.first * self.u.unsqueeze(-1)
        self.z = self.term.moved(t0, t1 - t0, self.start.filter, self.filter, y0)
        self.x = self.start.x + self.h * self.b + self.s * self.z
        self.energy = self.start.energy
        if self.energy is not None:
            self.power = self.term.power(self.u, self.energy)
            self.energy = self.energy + spread(t1 - t0, self.energy) * self.power
        self.change: Tensor | None = None

    def _evaluate(self, t: Scalar, y: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        self.calls += 1
        return self.term.drift(t, y), self.term.diffusion(t, y), self.term.control(t, y)

    calls = 0

    def _moves(self) -> list[Parts]:
        """What the solution between the ends is made of, :meth:`SemilinearField.inside`."""
        none = torch.zeros_like(self.start.x)
        u = none if self.u is None else self.u
        change = none if self.change is None else self.change
        gained = None if self.energy is None or self.start.energy is None else self.energy - self.start.energy
        still = None if gained is None else torch.zeros_like(gained)
        move = Parts(self.x - self.start.x, self.filter - self.start.filter, gained)
        return [move, Parts(self.s, u.unsqueeze(-1), still), Parts(self.z, change.unsqueeze(-1), still)]

    def pieces(self) -> list[Tensor]:
        """The same, packed."""
        filter = self.start.filter
        return [self.term.join(x, y.expand_as(filter), energy) for x, y, energy in self._moves()]

    def between(self, theta: Scalar, xi: Tensor, w: Tensor | None = None) -> Tensor:
        """For a graph: the solution at relative times ``(T,)`` or ``(T, B)``, from what the noise does up to there."""
        length = torch.where(self.t1 == self.t0, 1.0, self.t1 - self.t0)
        start, *moves = (_with_rows(parts) for parts in (self.start, *self._moves()))
        parts = self.term.inside(start, moves, self.t0, length, theta * length, xi, self.y0)
        return self.term.join(*parts, lead=1)

    def emit(self, request: Request, save: SavePlan) -> Tensor:
        """The states that a request asks of the step, ``(n, *lane)``, along the path."""
        if differentiated(self.t0) or differentiated(self.t1):
            raise InvalidProblemError(
                "tspan: requires grad; expected constant times, since a Brownian path has no slope"
            )
        noise, times = self.term.noise, save.times
        assert request.theta is not None
        if request.lanes is None:
            assert isinstance(times, list)
            rows = []
            for row, place in zip(request.rows, request.theta, strict=True):
                if place == 1.0:
                    rows.append(self.y)
                    continue
                passed = times[row] - self.t0
                xi = noise.inside(self.t0, times[row])
                parts = self.term.inside(self.start, self._moves(), self.t0, self.t1 - self.t0, passed, xi, self.y0)
                rows.append(self.term.join(*parts))
            return torch.stack(rows)
        assert isinstance(times, Tensor)
        assert isinstance(request.theta, Tensor)
        lanes = request.lanes
        at, start, end = times[request.rows, request.samples], self.t0[lanes], self.t1[lanes]
        xi = noise.inside(self.t0, at, lanes)
        first, *moves = (_lanes(parts, lanes) for parts in (self.start, *self._moves()))
        length = torch.where(end == start, 1.0, end - start)
        parts = self.term.inside(first, moves, start, length, at - start, xi, self.y0[lanes])
        value = self.term.join(*parts)
        return torch.where(spread(request.theta == 1.0, value), self.y[lanes], value)


def _lanes(parts: Parts, lanes: Tensor) -> Parts:
    return Parts(parts.x[lanes], parts.filter[lanes], None if parts.energy is None else parts.energy[lanes])


def _with_rows(parts: Parts) -> Parts:
    energy = None if parts.energy is None else parts.energy.unsqueeze(0)
    return Parts(parts.x.unsqueeze(0), parts.filter.unsqueeze(0), energy)


class _EulerStep(_ExponentialStep):
    def __init__(self, field: VectorField, t0: Scalar, t1: Scalar, y0: Tensor) -> None:
        super().__init__(field, t0, t1, y0)
        self.y = self.term.join(self.x, self.filter, self.energy)


class _HeunStep(_ExponentialStep):
    """Heun's step along the filter, whose control changes linearly over the step."""

    def __init__(self, field: VectorField, t0: Scalar, t1: Scalar, y0: Tensor) -> None:
        super().__init__(field, t0, t1, y0)
        self.guess = self.term.join(self.x, self.filter, self.energy)
        b, s, u = self._evaluate(as_time(t1, y0), self.guess)
        self.rise, self.run = b - self.b, self.x - self.start.x
        if u is not None and self.u is not None:
            self.change = u - self.u
            self.filter = self.filter + self.made.second * self.change.unsqueeze(-1)
            self.z = self.term.moved(t0, t1 - t0, self.start.filter, self.filter, y0)
        self.x = self.start.x + 0.5 * self.h * (self.b + b) + 0.5 * (self.s + s) * self.z
        if self.energy is not None and self.start.energy is not None:
            mean = 0.5 * (self.power + self.term.power(u, self.energy))
            self.energy = self.start.energy + spread(t1 - t0, self.energy) * mean
        self.y = self.term.join(self.x, self.filter, self.energy)

    @property
    def error(self) -> Tensor:
        """The distance from Euler's step, half of it: what the changes of drift, diffusion and control have moved."""
        return self.y - self.guess

    @property
    def stiffness(self) -> Tensor:
        """The quotient of the two drifts, by which the Jacobian stretches the distance of their states."""
        per_sample = isinstance(self.t1, Tensor) and self.t1.dim() == 1
        run, rise = rms(self.run, per_sample), rms(self.rise, per_sample)
        moved = run > 0
        return (rise / run.where(moved, run.new_ones(()))).where(moved, run.new_zeros(()))


class ExponentialMethod(SDEMethod):
    """A method for a :class:`SemilinearSDEProblem`: the filter exactly, x by increments of what it gives."""

    takes = ("semilinear SDE",)

    def check(self, problem: SDEProblem) -> None:
        """Refuse a calculus that the method does not solve."""
        if problem.noise != "additive" and problem.calculus != self.calculus:
            other = "ExponentialHeun()" if problem.calculus == "stratonovich" else "ExponentialEuler()"
            raise InvalidProblemError(
                f"solver: {self.name} solves {self.calculus} problems and this one is {problem.calculus}; expected {other}"
            )


class ExponentialEuler(ExponentialMethod):
    r"""Euler's method along filtered noise, for Ito problems and additive noise: one call of everything a step.

    .. math:: Y_{n+1} &= e^{-\gamma h} Y_n + h \varphi_1(-\gamma h)\, u_n + \xi, \qquad
              \xi_k = \int_{t_n}^{t_{n+1}} e^{-\gamma_k (t_{n+1} - v)} dW_v \\
              x_{n+1} &= x_n + b_n h + s_n \bigl(Z_{n+1} - Z_n\bigr), \qquad Z = \sum_k \omega_k Y_k

    Where there is no control the filter is exact in law and along the path, at any :math:`\gamma h`; with one it is of
    order 1 in the control. x is of strong order 1 with additive noise and 1/2 otherwise, once steps resolve the filter.
    Fixed steps: it has no error estimate.

    Raises:
        InvalidProblemError: in the solve, another problem than a :class:`SemilinearSDEProblem`, a Stratonovich one whose noise
            is not additive, or steps that are adapted.

    When to take it:
        For additive noise at one call a step. :class:`ExponentialHeun` where the diffusion depends on the state, and
        where steps are to be adapted.

    References:
        Lord, Tambue: Stochastic exponential integrators for the finite element discretization of SPDEs. IMA J. Numer.
        Anal. 33 (2013).

    Example:
        >>> import torch, neuralde as nde
        >>> x0, y0 = torch.zeros(500, 1, dtype=torch.float64), torch.zeros(500, 1, 1, dtype=torch.float64)
        >>> problem = nde.SemilinearSDEProblem(
        ...     lambda t, y: -y[0], lambda t, y: torch.ones_like(y[0]), [1e4], [100.0], (x0, y0), (0.0, 1.0), noise="additive"
        ... )
        >>> sol = nde.solve(problem, nde.ExponentialEuler(), dt=0.1, seed=0)
        >>> f"{sol.y1[1].var().item() * 2e4:.2f}"  # the stationary variance of the filter is 1 / 2e4
        '1.04'
    """

    calculus = "ito"
    orders = {"diagonal": 0.5, "additive": 1.0}  # noqa: RUF012

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
        return _EulerStep(field, t0, t1, y0)


class ExponentialHeun(ExponentialMethod):
    r"""Heun's method along filtered noise, for Stratonovich problems and additive noise; two calls of everything a step.

    With :math:`\hat x, \hat Y` the step of :class:`ExponentialEuler` and hats on what is evaluated there,

    .. math:: Y_{n+1} &= \hat Y + h \varphi_2(-\gamma h) (\hat u - u_n) \\
              x_{n+1} &= x_n + \tfrac h2 (b_n + \hat b) + \tfrac12 (s_n + \hat s) (Z_{n+1} - Z_n)

    Where there is no control the filter is exact in law and along the path, at any :math:`\gamma h`; with one it is of
    order 2 in the control. As a function of the path of Z, x is that of Heun's method for a smooth one. The error
    estimate is the distance from :math:`\hat x, \hat Y`.

    Raises:
        InvalidProblemError: in the solve, another problem than a :class:`SemilinearSDEProblem`, or an Ito one whose
            noise is not additive.

    When to take it:
        For every :class:`SemilinearSDEProblem`; it is the default. :class:`ExponentialEuler` takes half the calls.

    References:
        Cox, Matthews: Exponential time differencing for stiff systems. J. Comput. Phys. 176 (2002). Rumelin: Numerical
        treatment of stochastic differential equations. SIAM J. Numer. Anal. 19 (1982).

    Example:
        >>> import torch, neuralde as nde
        >>> x0, y0 = torch.ones(4, 1, dtype=torch.float64), torch.zeros(4, 1, 1, dtype=torch.float64)
        >>> problem = nde.SemilinearSDEProblem(lambda t, y: 0 * y[0], lambda t, y: y[0], [0.0], [1.0], (x0, y0), (0.0, 1.0))
        >>> x, w = nde.solve(problem, nde.ExponentialHeun(), dt=1e-3, seed=0).y1  # a rate of 0: Brownian motion
        >>> bool((x - w[..., 0].exp()).abs().max() < 1e-2)
        True
    """

    calculus = "stratonovich"
    orders = {"diagonal": 1.0, "additive": 1.0}  # noqa: RUF012
    embedded_order = 0.5
    drift_calls = 2
    diffusion_calls = 2

    @property
    def has_stiffness(self) -> bool:
        """From the two drifts."""
        return True

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
        return _HeunStep(field, t0, t1, y0)
