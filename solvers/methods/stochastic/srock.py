"""A stabilised explicit method for drifts that are stiff."""

from __future__ import annotations

import math

from torch import Tensor

from ...checks import integer, number
from ...core.scalars import Scalar
from ..base import Accuracy, Cache, Memory, Step, VectorField
from .base import COMMUTATIVE, SDEMethod, SDEStep


class SROCK(SDEMethod):
    r"""Stochastic orthogonal Runge-Kutta-Chebyshev: explicit, for Ito problems with a stiff dissipative drift, any noise.

    The drift is taken by the stages of a Chebyshev method, whose real stability interval grows with the square of their
    number, and the noise enters once, at the last stage but one:

    .. math:: K_0 &= y_n, \qquad K_1 = y_n + h \tfrac{\omega_1}{\omega_0} f(K_0) \\
              K_j &= 2 \tfrac{T_{j-1}}{T_j} \bigl(h \omega_1 f(K_{j-1}) + \omega_0 K_{j-1}\bigr)
                     - \tfrac{T_{j-2}}{T_j} K_{j-2}, \qquad j = 2, \dots, s \\
              y_{n+1} &= K_s + g(K_{s-1}) W

    with Chebyshev's polynomials :math:`T_j` at :math:`\omega_0 = 1 + \eta / s^2` and
    :math:`\omega_1 = T_s / T_s'`. Strong order 1/2, and 1 with additive noise; weak order 1; fixed steps. A step is stable
    for eigenvalues :math:`\lambda` of the drift's Jacobian near the negative axis with :math:`h |\lambda|` up to
    ``stability_radius``, about :math:`1.3 s^2`: a step of s stages is worth s Euler steps in calls, and about
    :math:`s^2 / 1.6` in length where stability limits them. Fast components are damped by at least
    :math:`1 / T_s(\omega_0)`, a half with the default damping, so that noise in them stays bounded. It is differentiable
    as often as the drift, by every adjoint for SDEs; no equations are solved.

    Args:
        stages: s, at least 2.
        damping: :math:`\eta`, positive; more of it damps more and shortens the interval.

    Raises:
        InvalidProblemError: ``stages`` is no int of at least 2, or ``damping`` not positive and finite; in the solve, a
            Stratonovich problem whose noise is not additive, or steps that are adapted.

    When to take it:
        For a drift with fast decay, discretised diffusion say, where every other method's steps are limited by
        stability. Its accuracy is that of :class:`EulerMaruyama`.

    References:
        Abdulle, Li: S-ROCK methods for stiff Ito SDEs. Commun. Math. Sci. 6 (2008). Abdulle, Cirilli: S-ROCK: Chebyshev
        methods for stiff stochastic differential equations. SIAM J. Sci. Comput. 30 (2008).

    Example:
        >>> import torch, neuralde as nde
        >>> y0 = torch.ones(100, 1, dtype=torch.float64)
        >>> problem = nde.SDEProblem(lambda t, y: -1000.0 * y, lambda t, y: 0.3 + 0.0 * y, y0, (0.0, 1.0))
        >>> solver = nde.SROCK(stages=6)
        >>> sol = nde.solve(problem, solver, dt=0.02, seed=1)  # explicit Euler would need dt < 0.002
        >>> bool((sol.y1.abs() < 0.3).all()), round(solver.stability_radius, 1)
        (True, 45.5)
    """

    calculus = "ito"
    orders = dict.fromkeys(COMMUTATIVE, 0.5) | {"general": 0.5, "additive": 1.0}

    def __init__(self, stages: int = 5, damping: float = 1.0) -> None:
        stages, damping = integer(stages, "stages", 2), number(damping, "damping", "a positive number", above=0.0)
        super().__init__()
        self.stages, self.damping = stages, damping
        self.drift_calls = stages
        w0 = 1.0 + damping / stages**2
        angle = math.acosh(w0)
        t = [math.cosh(j * angle) for j in range(stages + 1)]
        w1 = t[-1] * math.sqrt(w0 * w0 - 1.0) / (stages * math.sinh(stages * angle))
        self.first = w1 / w0
        # Of h f(K), of K and of the K before it, for each later stage.
        ratios = [(t[j - 1] / t[j], t[j - 2] / t[j]) for j in range(2, stages + 1)]
        self.rows = [(2.0 * w1 * one, 2.0 * w0 * one, -two) for one, two in ratios]
        self.stability_radius = (1.0 + w0) / w1

    def __repr__(self) -> str:
        return f"SROCK(stages={self.stages}, damping={self.damping:g})"

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
        return _SROCKStep(self, field, t0, t1, y0)


class _SROCKStep(SDEStep):
    def __init__(self, method: SROCK, field: VectorField, t0: Scalar, t1: Scalar, y0: Tensor) -> None:
        super().__init__(field, t0, t1, y0)
        before, k = y0, y0 + (method.first * self.h) * self.drift(t0, y0)
        node_before, node = 0.0, method.first
        for place, (push, stay, back) in enumerate(method.rows):
            if place == len(method.rows) - 1:
                noise = self.field.diffusion(self.at_node(node), k)
            before, k = k, (push * self.h) * self.drift(self.at_node(node), k) + stay * k + back * before
            # The times follow the recursion of the stages for f = 1.
            node_before, node = node, push + stay * node + back * node_before
        self.noise = noise
        self.y = self.field.add_product(k, noise, self.w)

    def moved_by_noise(self) -> Tensor:
        """The diffusion that the step used, behind the stages that damp."""
        return self.noise
