"""Reversible Heun: a Stratonovich method whose steps can be taken back."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...core.scalars import Scalar, as_time
from ..base import Accuracy, Cache, Memory, Step, VectorField
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

    def start(self, field: VectorField, t0: Scalar, y0: Tensor) -> Memory:
        """The second copy, equal to the first."""
        return (y0,)

    def restart(self, field: VectorField, t: Scalar, before: Tensor, y: Tensor, memory: Memory) -> Memory:
        """The second copy, moved as far as the first; one of a field that jumps stays where it is."""
        return (memory[0] + (y - before),)

    def known(self, slope: Any, y: Tensor, per_sample: bool) -> Cache:
        """Drift and diffusion, where both are given."""
        return slope if isinstance(slope, tuple) else None

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
        """One step from ``t0`` to ``t1``; the cache is drift and diffusion at the start, at the second copy."""
        return _ReversibleHeunStep(field, t0, t1, y0, memory, cache)

    def back(self, field: VectorField, t0: Scalar, t1: Scalar, y1: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """The pair at ``t0`` from which a step to ``t1`` has led to ``y1`` and ``memory``."""
        # The step from t1 to t0: its length and its increment are the negated ones.
        step = _ReversibleHeunStep(field, t1, t0, y1, memory, None)
        return step.y, step.memory


class _ReversibleHeunStep(SDEStep):
    """A step of the pair: the state is the first copy, the memory the second."""

    def __init__(self, field: VectorField, t0: Scalar, t1: Scalar, y0: Tensor, memory: Memory, cache: Cache) -> None:
        super().__init__(field, t0, t1, y0)
        (z,) = memory
        self.start = self._both(t0, z) if cache is None else cache
        first, noisy = self._moves(self.start)
        z = 2.0 * y0 - z + first + noisy
        self.end = self._both(t1, z)
        last, noisy_last = self._moves(self.end)
        self.y, self.memory = y0 + 0.5 * (first + last) + 0.5 * (noisy + noisy_last), (z,)
        self.gap = (last - first) + (noisy_last - noisy)

    def _both(self, t: Scalar, z: Tensor) -> tuple[Tensor, Tensor]:
        time = as_time(t, z)
        return self.drift(time, z), self.field.diffusion(time, z)

    def _moves(self, values: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return self.h * values[0], self.field.product(values[1], self.w)

    def moved_by_noise(self) -> Tensor:
        """The diffusion at the start, at the second copy."""
        return self.start[1]

    @property
    def retry(self) -> tuple[Tensor, Tensor]:
        """Drift and diffusion at the start, at the second copy."""
        return self.start

    @property
    def cache(self) -> tuple[Tensor, Tensor]:
        """Drift and diffusion at the end, at the second copy."""
        return self.end

    @property
    def error(self) -> Tensor:
        """How far drift and noise changed over the step."""
        return 0.5 * self.gap
