"""Stochastic Runge-Kutta methods: one step for every tableau."""

from __future__ import annotations

from abc import abstractmethod
from itertools import zip_longest
from typing import Any

from torch import Tensor

from ...core.norms import rms
from ...core.scalars import Scalar, as_time, spread
from ...errors import InvalidProblemError
from ..base import Accuracy, Cache, Memory, VectorField
from ..proved import tableau_of
from ..runge_kutta import combine
from .base import SDEMethod, SDEStep, over
from .tableau import StochasticTableau, Weights

_SHORT = 0.1
"""How far, in what noise moves over a step, a difference reaches: its error falls with it, and rounding does not show."""


class StochasticRungeKuttaStep(SDEStep):
    """A step of a stochastic Runge-Kutta method."""

    def __init__(self, tableau: StochasticTableau, field: VectorField, t0: Scalar, t1: Scalar, y0: Tensor) -> None:
        super().__init__(field, t0, t1, y0)
        self.tableau = tableau
        self.root = self.length**0.5
        # The same numbers, shaped to broadcast against the noise, which may have fewer dimensions than the state.
        self.noise_root = spread(abs(t1 - t0), self.w) ** 0.5
        self._squares: tuple[Tensor, Tensor] | None = None
        self.arguments: list[Tensor] = []
        self.drifts: list[Tensor | None] = []
        self.diffusions: list[Tensor | None] = []
        for i in range(tableau.stages):
            self._evaluate(i)
        self.y = self._combined(y0, tableau.solution)

    def _evaluate(self, i: int) -> None:
        tableau = self.tableau
        assert tableau.a_w is not None
        assert tableau.a_h is not None
        assert tableau.a_root is not None
        argument = combine(self.y0, self.h, tableau.a[i], self.drifts)
        for j, (w, h, root) in enumerate(zip(tableau.a_w[i], tableau.a_h[i], tableau.a_root[i], strict=True)):
            if w or h or root:
                argument = self._pushed(argument, j, self._noise(w, h, root=root))
        time = as_time(self.at_node(tableau.c[i]), argument)
        self.arguments.append(argument)
        self.drifts.append(self.drift(time, argument) if tableau.drift_stages[i] else None)
        self.diffusions.append(self.field.diffusion(time, argument) if tableau.diffusion_stages[i] else None)

    def _pushed(self, y: Tensor, stage: int, noise: Tensor) -> Tensor:
        """The state moved by noise through one stage's diffusion."""
        g = self.diffusions[stage]
        assert g is not None
        return self.field.add_product(y, g, noise)

    def _noise(self, w: float, h: float, ww: float = 0.0, www: float = 0.0, root: float = 0.0) -> Tensor:
        r"""A weighted sum of W, H, :math:`I_{11} / \sqrt h`, :math:`I_{111} / h` and :math:`\sqrt h`, entry by entry."""
        parts: list[Any] = [self.w, self.area]
        if ww or www:
            parts += self._iterated()
            w -= 0.5 * www
        if w == 1.0 and not (h or ww or www):
            total = self.w
        else:
            total = combine(None, 1.0, (w, h, ww, www), parts)
        return total if not root else total + root * self.noise_root

    def _iterated(self) -> tuple[Tensor, Tensor]:
        r""":math:`I_{11} / \sqrt h`, and :math:`z^2 W / 6` with :math:`z = W / \sqrt h`, which is :math:`I_{111} / h + W / 2`."""
        if self._squares is None:
            square = (self.w / _unit(self.noise_root)).square()
            self._squares = (square - 1.0) * (0.5 * self.noise_root), square * (self.w / 6.0)
        return self._squares

    def _combined(self, y: Tensor, weights: Weights) -> Tensor:
        """The state moved by everything, weighted."""
        y = combine(y, self.h, weights.drift, self.drifts)
        rows = zip_longest(weights.w, weights.h, weights.ww, weights.www, fillvalue=0.0)
        for stage, (w, h, ww, www) in enumerate(rows):
            if w or h or ww or www:
                y = self._pushed(y, stage, self._noise(w, h, ww, www))
        return y

    def moved_by_noise(self) -> Tensor:
        """The diffusion of the first stage without noise; where the noise is additive every stage is."""
        stage = self.tableau.quiet_stage(self.driven_by.kind == "additive")
        g = None if stage is None else self.diffusions[stage]
        return super().moved_by_noise() if g is None else g

    def bent_by_noise(self) -> list[Tensor]:
        r"""For a method whose order needs it, differences: from a stage that :math:`\sqrt h g` moves, or from further calls."""
        field, tableau = self.driven_by, self.tableau
        if field.kind == "additive" or tableau.orders.get(field.kind, 0.0) <= 1.0:
            return []
        quiet, g = tableau.quiet_stage(False), self.moved_by_noise()
        state, t = self.y0, self.t0
        if quiet is not None:
            bent = tableau.bent_stage(quiet) if field.elementwise else None
            if bent is not None:
                moved, reach = self.diffusions[bent], tableau.a_root
                assert moved is not None
                assert reach is not None
                return [(moved - g) / (reach[bent][quiet] * self.root)]
            state, t = self.arguments[quiet], self.at_node(tableau.c[quiet])
        bends: list[Tensor] = []
        root = _SHORT * self.root
        for column in [g] if field.elementwise else g.unbind(-1):
            self.looked += 1
            change = (field.diffusion(t, state + root * column) - g) / over(root, g)
            bends += [change] if field.elementwise else change.unbind(-1)
        return bends

    @property
    def error(self) -> Tensor:
        """The difference of the two embedded solutions."""
        if self.tableau.error is None:
            raise InvalidProblemError("solver: this tableau has no embedded solution, so a step has no error estimate")
        return self._combined(0.0 * self.y0, self.tableau.error)

    @property
    def stiffness(self) -> Tensor:
        """The quotient of the last two drifts, by which its Jacobian stretches the distance of their states."""
        i, j = [stage for stage, drift in enumerate(self.drifts) if drift is not None][-2:]
        first, last = self.drifts[i], self.drifts[j]
        assert first is not None
        assert last is not None
        per_sample = isinstance(self.t1, Tensor) and self.t1.dim() == 1
        run = rms(self.arguments[j] - self.arguments[i], per_sample)
        moved = run > 0
        return (rms(last - first, per_sample) / run.where(moved, run.new_ones(()))).where(moved, run.new_zeros(()))


def _unit(root: Scalar) -> Scalar:
    """The root, 1 where it is 0: a lane that stands still has no noise either."""
    return root.where(root > 0, root.new_ones(())) if isinstance(root, Tensor) else root


class StochasticRungeKutta(SDEMethod):
    r"""The stochastic Runge-Kutta method of a tableau. Nothing but the tableau is needed to add one.

    .. math:: Y_i &= y_n + h \sum_j a_{ij} f_j + \sum_j \bigl(a^W_{ij} W + a^H_{ij} H + a^R_{ij} \sqrt h\bigr) g_j \\
              y_{n+1} &= y_n + h \sum_i b_i f_i + \sum_i \bigl(b^W_i W + b^H_i H + b^{WW}_i I_{11} / \sqrt h
                         + b^{WWW}_i I_{111} / h\bigr) g_i

    with W the increment of the path on the step and H its space-time Lévy area.

    Args:
        tableau: the coefficients; it has verified itself.

    Raises:
        InvalidProblemError: ``tableau`` is no stochastic tableau.

    When to take it:
        To add a method from a paper; the tableau proves its strong order.

    References:
        Rößler: Runge-Kutta methods for the strong approximation of solutions of stochastic differential equations. SIAM
        J. Numer. Anal. 48 (2010).

    Example:
        >>> import neuralde as nde
        >>> method = nde.StochasticRungeKutta(nde.SOSRI().tableau)
        >>> method.calculus, method.orders["diagonal"], method.levy_area, method.adaptive
        ('ito', 1.5, 'space-time', True)
    """

    def __init__(self, tableau: StochasticTableau) -> None:
        if not isinstance(tableau, StochasticTableau):
            raise InvalidProblemError(f"tableau: got {type(tableau).__name__}; expected a StochasticTableau")
        self.tableau, self.calculus, self.orders = tableau, tableau.calculus, tableau.orders
        self.levy_area, self.embedded_order = tableau.levy_area, tableau.embedded_order
        self.drift_calls, self.diffusion_calls = sum(tableau.drift_stages), sum(tableau.diffusion_stages)
        super().__init__()

    @property
    def name(self) -> str:
        """The tableau's."""
        return self.tableau.name

    @property
    def has_stiffness(self) -> bool:
        """Whether two drifts of a step can be compared."""
        return self.drift_calls > 1

    def step(
        self,
        field: VectorField,
        t0: Scalar,
        t1: Scalar,
        y0: Tensor,
        memory: Memory = (),
        cache: Cache = None,
        accuracy: Accuracy | None = None,
    ) -> StochasticRungeKuttaStep:
        """One step from ``t0`` to ``t1``."""
        return StochasticRungeKuttaStep(self.tableau, field, t0, t1, y0)


class NamedStochasticRungeKutta(StochasticRungeKutta):
    """A stochastic Runge-Kutta method that comes with its tableau, which is built and proved when the first one is made."""

    def __init__(self) -> None:
        super().__init__(tableau_of(type(self)))

    @classmethod
    @abstractmethod
    def coefficients(cls) -> StochasticTableau:
        """The tableau."""
