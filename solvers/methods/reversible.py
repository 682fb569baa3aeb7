"""Algebraically reversible methods: any explicit method, coupled with itself so that a step can be taken back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..checks import fraction
from ..core.scalars import Scalar
from ..errors import InvalidProblemError
from .base import Accuracy, Cache, Memory, Method, Step, VectorField


class ReversibleStep(Step):
    """A step of the coupled pair: the state is the first copy, the memory the second."""

    beside: Scalar = 0

    def __init__(
        self,
        base: Method,
        coupling: float,
        field: VectorField,
        t0: Scalar,
        t1: Scalar,
        y0: Tensor,
        memory: Memory,
        slope: Tensor | None,
    ) -> None:
        self.field, self.t0, self.t1, self.y0 = field, t0, t1, y0
        (z,) = memory
        self.forward = base.step(field, t0, t1, z, cache=slope)
        self.y = coupling * y0 + (1.0 - coupling) * z + (self.forward.y - z)
        self.backward = base.step(field, t1, t0, self.y)
        self.memory = (z - (self.backward.y - self.y),)
        self.pull = (1.0 - coupling) * (z - y0)

    @property
    def calls(self) -> Scalar:
        """How often both halves have called the field so far, and what the loop has counted beside them."""
        return self.forward.calls + self.backward.calls + self.beside

    @calls.setter
    def calls(self, count: Scalar) -> None:
        self.beside = count - self.forward.calls - self.backward.calls

    @property
    def retry(self) -> Tensor | None:
        """The field at the start, at the second copy."""
        return self.forward.retry

    @property
    def first_slope(self) -> Tensor:
        """The field at the start, at the second copy."""
        return self.forward.first_slope

    @property
    def slopes(self) -> list[tuple[float, Tensor]]:
        """Those of the first half."""
        return self.forward.slopes

    @property
    def error(self) -> Tensor:
        """The base method's estimate."""
        return self.forward.error

    @property
    def stiffness(self) -> Tensor:
        """The base method's estimate."""
        return self.forward.stiffness

    def polynomial(self) -> list[Tensor]:
        """The base method's, moved to start at the first copy and to end at it."""
        first, *rest = self.forward.polynomial()
        return [first + self.pull, *rest]


class Reversible(Method):
    r"""An algebraically reversible method of the same order, built on any explicit method.

    Two copies of the state are stepped, with :math:`\Psi_h(y) = \Phi_h(y) - y` the increment of the base method:

    .. math:: y_{n+1} = \lambda y_n + (1 - \lambda) z_n + \Psi_h(t_n, z_n), \qquad
              z_{n+1} = z_n - \Psi_{-h}(t_{n+1}, y_{n+1})

    and :meth:`back` solves these for :math:`z_n`, then :math:`y_n`, without iteration. :class:`ReversibleAdjoint` uses
    that to give exact gradients with no stored states. A step costs two of the base method's. ``nde.Reversible(m)`` is
    an ordinary method otherwise: it adapts its steps, and every exact adjoint differentiates it.

    Limits. Taking steps back divides by :math:`\lambda` each time, so rounding grows as :math:`\lambda^{-n}` over n
    steps, at least. Stability is weak: on :math:`y' = -ky` the pair is stable for steps with :math:`hk \le`
    ``stability_radius``, about :math:`1 - \lambda`; beyond it the difference of the two copies grows, at most as
    :math:`e^{kt}`. On contracting problems over long times (:math:`kt` above about 10) use a smaller coupling and short
    steps, or a plain method.

    Args:
        base: the method to build on.
        coupling: :math:`\lambda` between 0 and 1: nearer 1 takes back more accurately, smaller is more stable.

    Raises:
        InvalidProblemError: ``base`` is no explicit method or reversible itself, or ``coupling`` not between 0 and 1;
            in the solve, an :class:`SDEProblem`.

    When to take it:
        With :class:`ReversibleAdjoint`, where memory for one state is all there is. Otherwise the base method alone: it
        costs half, and is far stabler.

    References:
        McCallum, Foster: Efficient, Accurate and Stable Gradients for Neural ODEs. arXiv:2410.11648 (2024).

    Example:
        >>> import torch, neuralde as nde
        >>> problem = nde.ODEProblem(lambda t, y: -y, torch.ones(1, dtype=torch.float64), (0.0, 1.0))
        >>> nde.solve(problem, nde.Reversible(nde.Tsit5()), rtol=1e-8, atol=1e-8).y1
        tensor([0.3679], dtype=torch.float64)
    """

    reversible = True
    fsal = False
    sums_slopes = True

    def __init__(self, base: Method, coupling: float = 0.999) -> None:
        if not isinstance(base, Method) or base.reversible or base.implicit:
            raise InvalidProblemError(f"base: got {base!r}; expected an explicit method, such as Tsit5()")
        self.base, self.coupling = base, fraction(coupling, "coupling")
        self.order, self.embedded_order, self.dense_order = base.order, base.embedded_order, base.dense_order
        self.stability_radius = _stable_stretch(base, self.coupling)

    def __repr__(self) -> str:
        return f"Reversible({self.base!r}, coupling={self.coupling})"

    @property
    def has_stiffness(self) -> bool:
        """Whether the base method estimates stiffness."""
        return self.base.has_stiffness

    @property
    def controller_options(self) -> dict[str, Any]:
        """The base method's."""
        return self.base.controller_options

    def start(self, field: VectorField, t0: Scalar, y0: Tensor) -> Memory:
        """The second copy, equal to the first."""
        return (y0,)

    def restart(self, field: VectorField, t: Scalar, before: Tensor, y: Tensor, memory: Memory) -> Memory:
        """The second copy, moved as far as the first; one of a field that jumps stays where it is."""
        return (memory[0] + (y - before),)

    def step(
        self,
        field: VectorField,
        t0: Scalar,
        t1: Scalar,
        y0: Tensor,
        memory: Memory = (),
        cache: Cache = None,
        accuracy: Accuracy | None = None,
    ) -> ReversibleStep:
        """One step of the pair; the cache is the field at its second copy."""
        return ReversibleStep(self.base, self.coupling, field, t0, t1, y0, memory, cache)

    def back(self, field: VectorField, t0: Scalar, t1: Scalar, y1: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """The pair at ``t0`` from which a step to ``t1`` has led to ``y1`` and ``memory``."""
        (z,) = memory
        z = z + (self.base.step(field, t1, t0, y1).y - y1)
        y = (y1 - (1.0 - self.coupling) * z - (self.base.step(field, t0, t1, z).y - z)) / self.coupling
        return y, (z,)


def _stable_stretch(base: Method, coupling: float) -> float:
    r"""How far on the negative real axis both eigenvalues of the pair's step stay within the unit circle.

    On :math:`y' = -xy/h` the step is a matrix of determinant :math:`\lambda` and trace
    :math:`1 + \lambda - (R(x) - 1)(1 - \lambda + R(-x) - 1)`, with :math:`R` the base's stability function; it is stable
    exactly where the trace is at most :math:`1 + \lambda` in size.
    """
    low, high = 1e-9, 1e3
    for _ in range(3):  # each pass narrows the first crossing down by a factor of 4000
        x = torch.linspace(low, high, 4001, dtype=torch.float64) if low > 1e-9 else torch.logspace(-9, 3, 4001).double()
        down, up = _growth(base, x, 0.0, 1.0), _growth(base, x, 1.0, 0.0)
        trace = 1.0 + coupling - (up - 1.0) * (down - coupling)
        unstable = (trace.abs() > (1.0 + coupling) * (1 + 1e-14)).nonzero()
        if not len(unstable) or int(unstable[0]) == 0:
            return float(x[0])
        low, high = float(x[unstable[0] - 1]), float(x[unstable[0]])
    return low


def _growth(base: Method, x: Tensor, t0: float, t1: float) -> Tensor:
    """What a step from ``t0`` to ``t1`` makes of 1 on y' = -xy."""
    return base.step(lambda t, y: -x * y, t0, t1, torch.ones_like(x)).y
