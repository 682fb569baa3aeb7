"""Reversible Heun: a Stratonovich method whose steps can be taken back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...core.scalars import Scalar, as_time, spread
from ..base import Step, VectorField
from .base import COMMUTATIVE, SDEMethod, SDEStep


class ReversibleHeun(SDEMethod):
    r"""Reversible Heun, for Stratonovich problems with any noise; one call of drift and diffusion a step.

    A second copy :math:`z` of the state is stepped beside it, and everything is evaluated there:

    .. math:: z_{n+1} &= 2 y_n - z_n + f(t_n, z_n)\, h + g(t_n, z_n)\, W \\
              y_{n+1} &= y_n + \tfrac12 \bigl(f(t_n, z_n) + f(t_{n+1}, z_{n+1})\bigr) h
                         + \tfrac12 \bigl(g(t_n, z_n) + g(t_{n+1}, z_{n+1})\bigr) W

    The same formulas with :math:`-h` and :math:`-W` lead back, to rounding, so :class:`ReversibleAdjoint` gives exact
    gradients without storing a state. Strong order 1 where noises commute, else 1/2.

    Limits. On a decaying drift :math:`y' = -ky` the two copies drift apart and the difference grows, slowly for short
    times: over long times (:math:`kt` above about 10) use another method.

    Raises:
        InvalidProblemError: in the solve, an :class:`ODEProblem`, or an Ito problem whose noise is not additive.

    When to take it:
        With :class:`ReversibleAdjoint` for long neural SDEs, and where calls are dear: one of drift and diffusion a
        step. :class:`SPaRK` is stabler, and of order 1.5 with additive noise.

    References:
        Kidger, Foster, Li, Lyons: Efficient and accurate gradients for neural SDEs. NeurIPS 2021.

    Example:
        >>> import torch, neuralde as nde
        >>> y0 = torch.ones(4, 2, dtype=torch.float64, requires_grad=True)
        >>> problem = nde.SDEProblem(lambda t, y: -y, lambda t, y: 0.3 * y, y0, (0.0, 1.0), calculus="stratonovich")
        >>> sol = nde.solve(problem, nde.ReversibleHeun(), dt=0.1, seed=1, adjoint=nde.ReversibleAdjoint())
        >>> torch.autograd.grad(sol.y1.sum(), y0)[0].shape
        torch.Size([4, 2])
    """

    calculus = "stratonovich"
    orders = dict.fromkeys((*COMMUTATIVE, "additive"), 1.0) | {"general": 0.5}
    embedded_order = 0.5
    stability_radius = 0.0
    reversible = True
    chains = True

    def lift(self, y: Tensor) -> Tensor:
        """Two copies, in a new last dimension."""
        return torch.stack([y, y], dim=-1)

    def lower(self, state: Tensor) -> Tensor:
        """The first copy."""
        return state[..., 0]

    def step(self, field: VectorField, t0: Scalar, t1: Scalar, y0: Tensor, slope: Any = None) -> Step:
        """One step from ``t0`` to ``t1``; ``slope`` is drift and diffusion at the start."""
        return _ReversibleHeunStep(field, t0, t1, y0, slope)

    def back(self, field: VectorField, t0: Scalar, t1: Scalar, y1: Tensor) -> Tensor:
        """The pair at ``t0`` from which a step to ``t1`` has led to ``y1``."""
        # The step from t1 to t0: its length and its increment are the negated ones.
        return _ReversibleHeunStep(field, t1, t0, y1, None).y


class _ReversibleHeunStep(SDEStep):
    """A step of the pair; its state, error and polynomial have the two copies in their last dimension."""

    def __init__(self, field: VectorField, t0: Scalar, t1: Scalar, y0: Tensor, slope: Any) -> None:
        super().__init__(field, t0, t1, y0)
        y, z = y0.unbind(-1)
        self.h = spread(t1 - t0, y)
        self.start = self._both(t0, z) if slope is None else slope
        first, noisy = self._moves(self.start)
        z = 2.0 * y - z + first + noisy
        self.end = self._both(t1, z)
        last, noisy_last = self._moves(self.end)
        self.y = torch.stack([y + 0.5 * (first + last) + 0.5 * (noisy + noisy_last), z], dim=-1)
        self.gap = (last - first) + (noisy_last - noisy)

    def _both(self, t: Scalar, z: Tensor) -> tuple[Tensor, Tensor]:
        time = as_time(t, z)
        return self.drift(time, z), self.field.diffusion(time, z)

    def _moves(self, values: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return self.h * values[0], self.field.product(values[1], self.w)

    def moved_by_noise(self) -> Tensor:
        """The diffusion at the start, at the second copy."""
        return self.start[1]

    def lifted(self, x: Tensor) -> Tensor:
        """The same for both copies."""
        return torch.stack([x, x], dim=-1)

    @property
    def first_slope(self) -> tuple[Tensor, Tensor]:
        """Drift and diffusion at the start, at the second copy."""
        return self.start

    @property
    def end_slope(self) -> tuple[Tensor, Tensor]:
        """Drift and diffusion at the end, at the second copy."""
        return self.end

    @property
    def error(self) -> Tensor:
        """How far drift and noise changed over the step, for both copies."""
        error = 0.5 * self.gap
        return torch.stack([error, error], dim=-1)
