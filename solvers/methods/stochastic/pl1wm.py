"""A method for moments: weak order 2."""

from __future__ import annotations

from torch import Tensor

from ...core.scalars import Scalar
from ..base import Accuracy, Cache, Memory, Step, VectorField
from .base import SDEMethod, SDEStep, over


class PL1WM(SDEMethod):
    r"""Platen's explicit method of weak order 2, for Ito problems with diagonal, scalar or additive noise.

    .. math:: \hat y &= y_n + f h + g W, \qquad y_\pm = y_n + f h \pm g \sqrt h \\
              y_{n+1} &= y_n + \tfrac12 \bigl(f + f(t_{n+1}, \hat y)\bigr) h
                         + \tfrac14 \bigl(g(t_{n+1}, y_+) + g(t_{n+1}, y_-) + 2 g\bigr) W \\
                      &\quad + \tfrac14 \bigl(g(t_{n+1}, y_+) - g(t_{n+1}, y_-)\bigr) \frac{W^2 - h}{\sqrt h}

    Means, variances and all other moments of smooth functions have an error that falls like :math:`h^2`, that of a path
    like :math:`h`: it is the method for :func:`neuralde.solve_ensemble` and for losses that are expectations. Two calls of
    the drift and three of the diffusion; fixed steps. With noises that are not diagonal it would need further random
    numbers, and refuses them.

    Raises:
        InvalidProblemError: in the solve, an :class:`ODEProblem`, general or commutative noise, a Stratonovich problem
            whose noise is not additive, or steps that are adapted.

    When to take it:
        For expectations: means, variances, prices, losses of moments, at weak order 2. For single paths its strong
        order is that of :class:`ItoMilstein` at more calls.

    References:
        Kloeden, Platen: Numerical Solution of Stochastic Differential Equations (1992), section 15.1, (1.1).

    Example:
        >>> import torch, neuralde as nde
        >>> y0 = torch.ones(20000, 1, dtype=torch.float64)
        >>> problem = nde.SDEProblem(lambda t, y: -y, lambda t, y: 0.1 * y, y0, (0.0, 1.0))
        >>> sol = nde.solve(problem, nde.PL1WM(), dt=0.1, seed=1)
        >>> bool((sol.y1.mean() - 0.3679).abs() < 1.5e-3), nde.PL1WM().weak_order
        (True, 2.0)
    """

    calculus = "ito"
    orders = dict.fromkeys(("diagonal", "scalar", "additive"), 1.0)
    weak_order = 2.0
    """How fast the errors of moments fall with the step."""
    drift_calls = 2
    diffusion_calls = 3

    def bound(self, noise: str, columns: int | None) -> SDEMethod:
        """The method for one kind of noise; additive noise is looked at once at the end."""
        method = super().bound(noise, columns)
        method.diffusion_calls = 2 if noise == "additive" else 3
        return method

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
        return _PlatenStep(field, t0, t1, y0)


class _PlatenStep(SDEStep):
    def __init__(self, field: VectorField, t0: Scalar, t1: Scalar, y0: Tensor) -> None:
        super().__init__(field, t0, t1, y0)
        field = self.field
        f, g = self.drift(t0, y0), field.diffusion(t0, y0)
        self.g, self.bends = g, []
        moved, root = y0 + self.h * f, self.length**0.5
        late = self.drift(t1, field.add_product(moved, g, self.w))
        y = y0 + 0.5 * self.h * (f + late)
        if field.kind == "additive":
            # The two values are one, whatever the state.
            self.y = y + field.product(g + field.diffusion(t1, moved), 0.5 * self.w)
            return
        up, down = field.diffusion(t1, moved + root * g), field.diffusion(t1, moved - root * g)
        self.bends = [(up - down) / (2.0 * root)]
        y = y + field.product(up + down + 2.0 * g, 0.25 * self.w)
        square = self.w * self.w - over(self.length, self.w)
        self.y = y + field.product(up - down, 0.25 * square / over(root, self.w))

    def moved_by_noise(self) -> Tensor:
        """The diffusion at the start."""
        return self.g

    def bent_by_noise(self) -> list[Tensor]:
        """The central difference of the step."""
        return self.bends
