"""Reductions over the accepted steps of a solve: what regularizers are made of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..core.norms import largest, rms, scaled_error
from ..core.scalars import Scalar, real_dtype, spread
from ..core.tolerances import Tolerance
from ..methods.base import Method, Step
from ..terms.base import Term

if TYPE_CHECKING:
    from .attempt import Plan


class StepView:
    """What a reduction may know of one accepted step; everything is computed when it is read, in the graph.

    Args:
        step: the step.
        method: the method that took it.
        rtol: relative tolerance.
        atol: absolute tolerance.
        index: how many steps were accepted before this one.
        term: what was integrated.
    """

    def __init__(
        self,
        step: Step,
        method: Method,
        rtol: Tolerance,
        atol: Tolerance,
        index: Scalar,
        term: Term,
    ) -> None:
        self.step, self.method, self.rtol, self.atol, self.index = step, method, rtol, atol, index
        self.term = term
        self.t0, self.t1, self.y0, self.y1 = step.t0, step.t1, step.y0, step.y

    @property
    def per_sample(self) -> bool:
        """Whether every sample has its own clock; numbers per lane then have shape ``(B,)``."""
        return isinstance(self.t1, Tensor) and self.t1.dim() == 1

    @property
    def dt(self) -> Scalar:
        """The step's length, positive, a constant for the gradient."""
        length = abs(self.t1 - self.t0)
        if not isinstance(length, Tensor):
            return length
        return length.detach().to(real_dtype(self.y0))

    @property
    def error(self) -> Tensor:
        """The local error estimate, signed, shaped like the state."""
        return self.step.error

    @property
    def error_ratio(self) -> Tensor:
        """The norm that the controller compares with 1: root mean square of the error in units of the tolerance."""
        return self.rms(self.scaled_error)

    @property
    def scaled_error(self) -> Tensor:
        """The local error estimate in units of the tolerance, shaped like the state."""
        return scaled_error(self.step.error, self.y0, self.y1, self.rtol, self.atol)

    @property
    def stiffness(self) -> Tensor:
        """The method's stiffness estimate, 1/time."""
        return self.step.stiffness

    @property
    def slopes(self) -> list[tuple[float, Tensor]]:
        """Weights that sum to 1, and the field's values that go with them: the step as a quadrature, at no call."""
        return self.step.slopes

    def call(self, t: Scalar, y: Tensor) -> Tensor:
        """A further call of the field, in the graph, counted among the solve's."""
        self.step.asked += 1
        return self.step.field(t, y)

    def at(self, theta: float) -> tuple[Scalar, Tensor]:
        """Time and state at a relative time of the step, from its dense output."""
        return self.t0 + theta * (self.t1 - self.t0), self.step.at(theta)

    def rms(self, x: Tensor) -> Tensor:
        """Root mean square of a state-shaped tensor over each lane."""
        return rms(x, self.per_sample)

    def largest(self, x: Tensor) -> Tensor:
        """The largest modulus of a state-shaped tensor over each lane."""
        return largest(x, self.per_sample)

    def squares(self, x: Tensor, norm: str) -> Tensor:
        """The sum (``norm="sum"``) or mean (``"mean"``) of the squared moduli of a state-shaped tensor over each lane."""
        squared = self.rms(x).square()  # of the norm, whose derivative at 0 is 0
        entries = x[0].numel() if self.per_sample and len(x) else x.numel()
        return squared * entries if norm == "sum" else squared

    def spread(self, x: Scalar) -> Scalar:
        """A number per lane, shaped to broadcast against the state."""
        return spread(x, self.y0)


class Cost(ABC):
    """A reduction over accepted steps: ``start``, ``update`` once per accepted step, ``value``.

    The state is a tuple of tensors, each a number per lane (0-d, or ``(B,)``) or shaped like the solver's state; it is
    passed and returned, never stored.
    """

    differentiable: bool = True
    """Whether gradients flow through the reduction's state."""

    def check(self, method: Method) -> None:
        """Refuse a method that cannot supply what the reduction reads."""
        del method

    @abstractmethod
    def start(self, y0: Tensor, lanes: Tensor, span: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        """The state before the first step.

        Args:
            y0: the solver's initial state.
            lanes: a zero per lane, in the state's real dtype.
            span: the ends of the interval, per lane, float64.
        """

    @abstractmethod
    def update(self, state: tuple[Tensor, ...], view: StepView) -> tuple[Tensor, ...]:
        """The state after one more accepted step."""

    @abstractmethod
    def value(self, state: tuple[Tensor, ...], accepted: Any, plan: Plan) -> tuple[Tensor, int]:
        """The number, 0-d or ``(B,)``, from the reduction's last state; and how many calls of the field it took."""
