"""Runge-Kutta methods along the driven field, which solve Stratonovich equations."""

from __future__ import annotations

from typing import cast

from torch import Tensor

from ...core.scalars import Scalar
from ...errors import InvalidProblemError
from ...terms.base import Term
from ...terms.stochastic import SDEField
from ..base import Accuracy, Cache, Memory, VectorField
from ..runge_kutta import RungeKutta, RungeKuttaStep
from .base import COMMUTATIVE, SDEMethod
from .between import Between


class _DrivenStep(RungeKuttaStep, Between):
    """A step of a Runge-Kutta method along the driven field, which is another one on each interval."""

    @property
    def retry(self) -> None:
        """Nothing that another step could start with."""
        return None

    @property
    def cache(self) -> None:
        """Nothing that the next step could start with."""
        return None

    @property
    def driven_by(self) -> SDEField:
        """The field without the path."""
        field: SDEField = self.field.field
        return field

    @property
    def w(self) -> Tensor:  # type: ignore[override]
        """What the path does on the step."""
        w: Tensor = self.field.w
        return w

    def moved_by_noise(self) -> Tensor:
        """The diffusion at the start, which the first stage has called."""
        g: Tensor = self.field.first
        return g


class DrivenRungeKutta(SDEMethod):
    r"""A Runge-Kutta method of order 2 or more, taken along the field :math:`f + g W / h` on each step.

    This is how :func:`neuralde.solve` uses ``Heun()``, ``Midpoint()`` and the like on an :class:`SDEProblem`. It solves
    Stratonovich problems with any noise: strong order 1 where noises commute, else 1/2, whatever the order for ODEs.
    """

    calculus = "stratonovich"
    orders = dict.fromkeys((*COMMUTATIVE, "additive"), 1.0) | {"general": 0.5}

    def __init__(self, base: RungeKutta) -> None:
        super().__init__()
        if base.order < 2:
            raise InvalidProblemError(
                f"solver: got {base!r}, whose order 1 does not see the noise twice; expected EulerMaruyama(), EulerHeun(), or "
                "a Runge-Kutta method of order 2 or more, such as Heun()"
            )
        self.base, self.tableau = base, base.tableau
        self.embedded_order = None if base.embedded_order is None else 0.5 if base.embedded_order == 1 else 1.0
        self.drift_calls = self.diffusion_calls = base.tableau.stages

    @property
    def name(self) -> str:
        """The Runge-Kutta method's."""
        return self.base.name

    def step(
        self,
        field: VectorField,
        t0: Scalar,
        t1: Scalar,
        y0: Tensor,
        memory: Memory = (),
        cache: Cache = None,
        accuracy: Accuracy | None = None,
    ) -> _DrivenStep:
        """One step from ``t0`` to ``t1``."""
        return _DrivenStep(self.tableau, cast(Term, field).on(t0, t1), t0, t1, y0, None)
