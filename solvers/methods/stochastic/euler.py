"""Euler's and Milstein's methods for stochastic equations."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

from ...core.scalars import Scalar, as_time
from ..base import Accuracy, Cache, Memory, Step, VectorField
from .base import COMMUTATIVE, SDEMethod, SDEStep, over


class EulerMaruyama(SDEMethod):
    r"""Euler and Maruyama's method, for Ito problems with any noise: strong order 1/2, and 1 with additive noise.

    .. math:: y_{n+1} = y_n + f(t_n, y_n)\, h + g(t_n, y_n)\, W

    Fixed steps: it has no error estimate, and with steps that depend on the path it may converge to something else.

    Raises:
        InvalidProblemError: in the solve, an :class:`ODEProblem`, a Stratonovich problem whose noise is not additive,
            or steps that are adapted.

    When to take it:
        For general noise in the sense of Ito, for large problems at weak accuracy, and where the discretisation is the
        model (as in most published neural SDEs). :class:`SOSRI` for diagonal noise, :class:`ShARK` for additive noise
        are far more accurate per call.

    References:
        Maruyama: Continuous Markov processes and stochastic equations. Rend. Circ. Mat. Palermo 4 (1955).

    Example:
        >>> import torch, neuralde as nde
        >>> y0 = torch.ones(1000, 1, dtype=torch.float64)
        >>> problem = nde.SDEProblem(lambda t, y: -y, lambda t, y: 0.5 * y, y0, (0.0, 1.0))
        >>> sol = nde.solve(problem, nde.EulerMaruyama(), dt=0.01, seed=1)
        >>> bool((sol.y1.mean() - 0.3679).abs() < 0.03), sol.stats.diffusion_evaluations
        (True, 101)
    """

    calculus = "ito"
    orders = dict.fromkeys(COMMUTATIVE, 0.5) | {"general": 0.5, "additive": 1.0}

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


class _EulerStep(SDEStep):
    def __init__(self, field: VectorField, t0: Scalar, t1: Scalar, y0: Tensor) -> None:
        super().__init__(field, t0, t1, y0)
        self.start = as_time(t0, y0)
        self.f = self.drift(self.start, y0)
        self.g = self.field.diffusion(self.start, y0)
        self.y = self.field.add_product(_moved(y0, self.f, self.h), self.g, self.w)

    def moved_by_noise(self) -> Tensor:
        """The diffusion at the start."""
        return self.g


class _CorrectedStep(_EulerStep):
    """Euler's step and a correction for the noise, by which it judges itself, beside the change of the drift."""

    correction: Tensor

    def __init__(self, field: VectorField, t0: Scalar, t1: Scalar, y0: Tensor) -> None:
        super().__init__(field, t0, t1, y0)
        self.recorded = torch.is_grad_enabled()
        self._change: Tensor | None = None

    @property
    def error(self) -> Tensor:
        r"""The correction, and :math:`\tfrac h2 (f(t_1, y_1) - f(t_0, y_0))`: where the noise is constant, all there is to see."""
        if self._change is None:
            # In the graph if the step is, whoever reads it first.
            same = torch.is_grad_enabled() == self.recorded or torch.compiler.is_compiling()
            with nullcontext() if same else torch.set_grad_enabled(self.recorded):
                change = self.field(self.t1, self.y) - self.f
                self._change = self.correction + 0.5 * self.h * change
            self.asked += 1
        return self._change


def _moved(y: Tensor, f: Tensor, h: Scalar) -> Tensor:
    """``y + h * f``."""
    return torch.add(y, f, alpha=h) if isinstance(h, float) else torch.addcmul(y, f, h.to(f.dtype))


class EulerHeun(SDEMethod):
    r"""Euler's method for the drift and Heun's for the noise, for Stratonovich problems with any noise.

    .. math:: \hat y = y_n + g(t_n, y_n) W, \qquad
              y_{n+1} = y_n + f(t_n, y_n)\, h + \tfrac12 \bigl(g(t_n, y_n) + g(t_{n+1}, \hat y)\bigr) W

    Strong order 1 where noises commute, else 1/2. Its error estimate is the distance from
    :math:`y_n + f h + g(t_n, y_n) W` and :math:`\tfrac h2 (f(t_{n+1}, y_{n+1}) - f(t_n, y_n))`, one more call of the drift.

    Raises:
        InvalidProblemError: in the solve, an :class:`ODEProblem`, or an Ito problem whose noise is not additive.

    When to take it:
        For Stratonovich problems at weak accuracy. :class:`SPaRK` is the default where steps are adapted;
        :class:`ReversibleHeun` costs half as many calls.

    References:
        Rumelin: Numerical treatment of stochastic differential equations. SIAM J. Numer. Anal. 19 (1982).

    Example:
        >>> import torch, neuralde as nde
        >>> y0 = torch.ones(1000, 1, dtype=torch.float64)
        >>> problem = nde.SDEProblem(lambda t, y: 0 * y, lambda t, y: 0.5 * y, y0, (0.0, 1.0), calculus="stratonovich")
        >>> sol = nde.solve(problem, nde.EulerHeun(), dt=0.01, seed=1)
        >>> exact = torch.exp(0.5 * sol.path(0.0, 1.0))
        >>> bool((sol.y1 - exact).abs().mean() < 5e-3)
        True
    """

    calculus = "stratonovich"
    orders = dict.fromkeys((*COMMUTATIVE, "additive"), 1.0) | {"general": 0.5}
    embedded_order = 0.5
    diffusion_calls = 2

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
        return _EulerHeunStep(field, t0, t1, y0)


class _EulerHeunStep(_CorrectedStep):
    def __init__(self, field: VectorField, t0: Scalar, t1: Scalar, y0: Tensor) -> None:
        super().__init__(field, t0, t1, y0)
        end = self.field.diffusion(t1, self.field.add_product(y0, self.g, self.w))
        self.correction = self.field.product(end - self.g, 0.5 * self.w)
        self.y = self.y + self.correction


class _MilsteinStep(_CorrectedStep):
    r"""Euler's step and :math:`\sum_{jk} (D g_k\, g_j) J_{jk}`, with a difference for the derivative along each column.

    :math:`J_{jk} = \frac12 (W_j W_k - \delta_{jk} |h|)` for Ito, without the last term for Stratonovich: what commuting
    noises need of the iterated integrals.
    """

    def __init__(self, field: VectorField, t0: Scalar, t1: Scalar, y0: Tensor, ito: bool) -> None:
        super().__init__(field, t0, t1, y0)
        root = self.length**0.5
        if self.field.elementwise:
            change = self.field.diffusion(self.start, _moved(y0, self.g, root)) - self.g
            self.bends = [change / root]
            square = self.w * self.w - over(self.length, self.w) if ito else self.w * self.w
            self.correction = self.field.product(change, (0.5 / over(root, self.w)) * square)
        else:
            self.correction = self._columns(root, ito)
        self.y = self.y + self.correction

    def _columns(self, root: Scalar, ito: bool) -> Tensor:
        """The correction from several columns, each of which moves the state once."""
        total, self.bends = torch.zeros_like(self.y0), []
        for j, column in enumerate(self.g.unbind(-1)):
            change = self.field.diffusion(self.start, _moved(self.y0, column, root)) - self.g
            self.bends += (change / over(root, change)).unbind(-1)
            w = self.w
            integral = 0.5 * w * w[..., j : j + 1]
            if ito:
                unit = torch.zeros_like(w)
                unit[..., j] = 1.0
                integral = integral - 0.5 * over(self.length, w) * unit
            total = total + self.field.product(change, integral / over(root, w))
        return total

    def bent_by_noise(self) -> list[Tensor]:
        """The differences that the correction is made of."""
        return [] if self.field.kind == "additive" else self.bends


class _Milstein(SDEMethod):
    orders = dict.fromkeys((*COMMUTATIVE, "additive"), 1.0)
    embedded_order = 0.5
    diffusion_calls = 2

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
        return _MilsteinStep(field, t0, t1, y0, self.calculus == "ito")

    def bound(self, noise: str, columns: int | None) -> SDEMethod:
        """The method for one kind of noise; several columns take a call each."""
        method = super().bound(noise, columns)
        method.diffusion_calls = 1 + (columns or 1)
        return method


class ItoMilstein(_Milstein):
    r"""Milstein's method without derivatives, for Ito problems whose noises commute: strong order 1.

    .. math:: y_{n+1} = y_n + f h + g W + \sum_{j} \frac{g(y_n + g_j \sqrt h) - g(y_n)}{\sqrt h}
              \cdot \tfrac12 (W_j W - e_j h)

    with :math:`g_j` the columns of g; entry by entry for diagonal noise. Its error estimate is the sum and
    :math:`\tfrac h2 (f(t_{n+1}, y_{n+1}) - f(t_n, y_n))`, one more call of the drift. With m noises that are not diagonal
    a step calls the diffusion m + 1 times. General noise would need the Lévy area and is refused.

    Raises:
        InvalidProblemError: in the solve, an :class:`ODEProblem`, a Stratonovich problem whose noise is not additive,
            or general noise.

    When to take it:
        For commutative noise in the sense of Ito, where it is the default. :class:`SOSRI` has order 1.5 for diagonal
        and scalar noise.

    References:
        Kloeden, Platen: Numerical Solution of Stochastic Differential Equations (1992), section 11.1.

    Example:
        >>> import torch, neuralde as nde
        >>> y0 = torch.ones(1000, 1, dtype=torch.float64)
        >>> problem = nde.SDEProblem(lambda t, y: 0.0 * y, lambda t, y: 0.5 * y, y0, (0.0, 1.0))
        >>> sol = nde.solve(problem, nde.ItoMilstein(), dt=0.01, seed=1)
        >>> exact = torch.exp(0.5 * sol.path(0.0, 1.0) - 0.125)
        >>> bool((sol.y1 - exact).abs().mean() < 2e-3)
        True
    """

    calculus = "ito"


class StratonovichMilstein(_Milstein):
    r"""Milstein's method without derivatives, for Stratonovich problems whose noises commute: strong order 1.

    As :class:`ItoMilstein`, with :math:`\tfrac12 W_j W` for the iterated integrals.

    Raises:
        InvalidProblemError: in the solve, an :class:`ODEProblem`, an Ito problem whose noise is not additive, or
            general noise.

    When to take it:
        For commutative noise with few columns at order 1. :class:`SPaRK` needs as many calls whatever the number of
        columns; :class:`SlowRK` has order 1.5.

    References:
        Kloeden, Platen: Numerical Solution of Stochastic Differential Equations (1992), section 11.1.

    Example:
        >>> import torch, neuralde as nde
        >>> y0 = torch.ones(1000, 1, dtype=torch.float64)
        >>> problem = nde.SDEProblem(lambda t, y: 0 * y, lambda t, y: 0.5 * y, y0, (0.0, 1.0), calculus="stratonovich")
        >>> sol = nde.solve(problem, nde.StratonovichMilstein(), dt=0.01, seed=1)
        >>> bool((sol.y1 - torch.exp(0.5 * sol.path(0.0, 1.0))).abs().mean() < 2e-3)
        True
    """

    calculus = "stratonovich"
