"""What a method is, and the one record that a step of any method returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from ..core.counts import Counts
from ..core.legendre import evaluate
from ..core.scalars import Scalar, shaped
from ..core.tolerances import Tolerance
from ..errors import InvalidProblemError

VectorField = Callable[[Scalar, Tensor], Tensor]
Memory = tuple[Tensor, ...]
"""What a method must know of the steps before, beside the state: tensors, with ``per_sample`` a row for each sample."""
Cache = Any
"""What a step can use of the one before it and can do without: None, a tensor, or tuples of them, samples first."""


class Accuracy(Protocol):
    """How exact the solution is to be, as far as a step that solves equations needs to know."""

    @property
    def rtol(self) -> Tolerance:
        """The relative tolerance."""

    @property
    def atol(self) -> Tolerance:
        """The absolute tolerance."""


class Step(ABC):
    """One step from ``(t0, y0)`` to ``(t1, y)``, with all that the method knows about it.

    Everything but ``y`` is computed when it is read, so what is not read costs nothing, and everything is
    differentiable. Norms and tolerances belong to the reader.

    When to take it:
        To write a method: its :meth:`Method.step` returns one; and to write a reduction over steps, which reads one.

    Example:
        >>> import torch, neuralde as nde
        >>> y0 = torch.ones(1, dtype=torch.float64)
        >>> step = nde.Tsit5().step(lambda t, y: -3 * y, 0.0, 0.5, y0)
        >>> step.y, step.error.abs() < 0.01, round(step.stiffness.item(), 6)
        (tensor([0.2265], dtype=torch.float64), tensor([True]), 3.0)
    """

    t0: Scalar
    t1: Scalar
    y0: Tensor
    y: Tensor
    memory: Memory = ()
    """The method's memory at the end, from which the next step starts; in the graph, as ``y`` is."""
    field: Any
    """What the step calls, ``field(t, y)``; a reader of the step may call it too, and then adds to :attr:`asked`."""
    calls: Scalar
    """How often this step has called the field so far, for each lane where lanes differ."""
    asked: int = 0
    """How often its readers have."""
    looked: int = 0
    """How often its readers have called the diffusion alone, of a stochastic equation."""
    failed: Scalar = False
    """Whether the step was not found: its equations were not solved. It is tried again with a shorter step."""
    counts: Counts | None = None
    """What an implicit method counts."""
    order: Scalar | None = None
    """The order that a method of variable order took this step with; its own order where that is None."""
    follows_path: bool = False
    """Whether the solution between the ends follows a path, so that a method ``emit`` of the step gives its rows there."""

    @property
    def cache(self) -> Cache:
        """What the next step can use of this one, such as the field at its end; None where there is nothing."""
        return None

    @property
    def retry(self) -> Cache:
        """What another step from the same start can use of this one, such as the field at the start."""
        return None

    @property
    def first_slope(self) -> Tensor:
        """The field at the start, ``f(t0, y0)``, called where the method does not have it."""
        self.asked += 1
        slope: Tensor = self.field(self.t0, self.y0)
        return slope

    @property
    def end_slope(self) -> Tensor | None:
        """The field at the end, ``f(t1, y)``, where the method has it for free."""
        return None

    @property
    @abstractmethod
    def error(self) -> Tensor:
        """The local error estimate, signed and shaped like ``y``."""

    @property
    @abstractmethod
    def stiffness(self) -> Tensor:
        r"""An estimate of the field's Lipschitz constant on the step, 1/time: 0-d, or one per sample."""

    @property
    def slopes(self) -> list[tuple[float, Tensor]]:
        r"""Weights :math:`w_i` and slopes :math:`k_i` with :math:`y = y_0 + h \sum_i w_i k_i`: the step as a quadrature."""
        raise InvalidProblemError("solver: its steps are no weighted sum of slopes; expected a Runge-Kutta method")

    @abstractmethod
    def polynomial(self) -> list[Tensor]:
        r"""Coefficients :math:`r_0, r_1, \dots` of the dense output :math:`y_0 + r_0 \theta + \sum_{j \ge 1} r_j E_j(\theta)`.

        The functions are those of :mod:`neuralde.solvers.core.legendre`, which evaluates it: they vanish at both ends, so that
        the first coefficient is the increment over the step, and alone makes the straight line.
        """

    def pieces(self) -> list[Tensor]:
        """What is kept of the step for ``dense=True``, each shaped like the state: the coefficients, unless it says otherwise."""
        return self.polynomial()

    def at(self, theta: Scalar) -> Tensor:
        """The dense output at one relative time of the step, or at each lane's own."""
        return evaluate(shaped(theta, self.y0), self.y0, self.polynomial())

    def at_each(self, thetas: tuple[float, ...]) -> Tensor:
        """The dense output at several relative times, the same of all lanes, in front of the state's dimensions."""
        y0 = self.y0
        factor = torch.tensor(thetas, dtype=torch.float64, device=y0.device).reshape(-1, *[1] * y0.dim())
        return evaluate(factor, y0, self.polynomial())

    def complete(self) -> None:
        """Evaluate what the dense output needs beside the step itself, so that it is counted with the step."""
        self.polynomial()

    @staticmethod
    def at_each_of(steps: Sequence[Step], thetas: tuple[float, ...]) -> Tensor:
        """The dense output of several steps at several relative times of each, which stand in front in this order."""
        return torch.stack([step.at_each(thetas) for step in steps])

    @staticmethod
    def polynomials(steps: Sequence[Step]) -> Sequence[Tensor]:
        """The coefficients of several steps: each of them with the steps in front."""
        return [torch.stack(x) for x in zip(*(step.polynomial() for step in steps), strict=True)]


class Method(ABC):
    """An integration method: a few facts, and :meth:`step`. It holds no state, so one instance serves any solve.

    A method must: use only what it is passed; return a :class:`Step`; never branch on a tensor's value; evaluate the
    field at ``t0`` and ``t1`` themselves where its nodes are 0 and 1; never write into a tensor it was given.

    What it knows of earlier steps is passed and returned, in two parts. The *memory* is as essential as the state: the
    second copy of a reversible method, the history of a multistep one. It is differentiated, and the adjoints keep it
    beside the state. The *cache* may be thrown away at any time, and a step without one is the same step: the field at
    the start, a factorization. States, errors and the dense output are those of the problem, never of the memory.

    When to take it:
        To write a method that is no Runge-Kutta method of a tableau: for those :class:`RungeKutta` and
        :class:`StochasticRungeKutta` need the coefficients only.

    Example:
        >>> import neuralde as nde
        >>> solver = nde.Tsit5()
        >>> solver.order, solver.embedded_order, solver.fsal, solver.dense_order, round(solver.stability_radius, 4)
        (5, 4, True, 4, 3.5068)
    """

    order: float
    """The order of the solution that is propagated."""
    embedded_order: float | None
    """The order of the embedded solution, or None without error estimate."""
    fsal: bool
    """Whether the last stage of a step is the first of the next."""
    stability_radius: float
    """How far the stability region reaches along the negative real axis."""
    dense_order: int
    """The order of the dense output."""
    takes: tuple[str, ...] = ("ODE",)
    """The families of terms that it steps, :attr:`Term.family`."""
    chains: bool = False
    """Whether a step can start with all that the term's functions gave at the end of the one before it, :meth:`Term.probe`."""
    implicit: bool = False
    """Whether a step solves equations: then it counts what that takes, and may fail."""
    differentiable_in_loops: bool = True
    """Whether torch's compiled loops can differentiate a step."""
    sums_slopes: bool = False
    """Whether a step is a weighted sum of slopes, :attr:`Step.slopes`."""
    reversible: bool = False
    """Whether :meth:`back` takes a step back, algebraically."""
    fixed_because: str = "it estimates no error"
    """Why a method without ``embedded_order`` has none."""

    @property
    def name(self) -> str:
        """The name that messages and tables use."""
        return type(self).__name__

    @property
    def adaptive(self) -> bool:
        """Whether the method estimates its error."""
        return self.embedded_order is not None

    @property
    def error_order(self) -> float:
        """The power of the step size with which the estimated local error falls."""
        assert self.embedded_order is not None
        return self.embedded_order + 1

    @property
    @abstractmethod
    def has_stiffness(self) -> bool:
        """Whether the method estimates stiffness."""

    @property
    def controller_options(self) -> dict[str, Any]:
        """What the method's authors or the field prefer over the default PI controller's constants."""
        return {}

    def start(self, field: VectorField, t0: Scalar, y0: Tensor) -> Memory:
        """The memory before the first step. What it calls of the field is not counted."""
        del field, t0, y0
        return ()

    def restart(self, field: VectorField, t: Scalar, before: Tensor, y: Tensor, memory: Memory) -> Memory:
        """The memory behind a discontinuity at ``t``, of the field, or of the state, which was ``before`` and is now ``y``.

        As before the first step, unless a method knows better.
        """
        del before, memory
        return self.start(field, t, y)

    def known(self, slope: Tensor | None, y: Tensor, per_sample: bool) -> Cache:
        """The cache of a step from ``y`` of which nothing is known but ``slope``, the field there, or not even that.

        A compiled loop needs one arrangement of tensors throughout: what is not known has a place in it all the same.
        """
        del y, per_sample
        return slope

    @abstractmethod
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
        """One step from ``t0`` to ``t1``.

        Args:
            field: the right-hand side.
            t0: where the step starts.
            t1: where it ends.
            y0: the state at the start.
            memory: the method's memory there.
            cache: what an earlier step has left, or None.
            accuracy: how exact the solution is to be; None: to rounding.
        """

    def back(self, field: VectorField, t0: Scalar, t1: Scalar, y1: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """State and memory at ``t0`` from which a step to ``t1`` has led to ``y1`` and ``memory``; reversible methods only."""
        raise InvalidProblemError(f"solver: {self.name} cannot take a step back; expected Reversible({self.name}())")

    def __repr__(self) -> str:
        return f"{self.name}()"

    def require_stiffness(self) -> None:
        """Refuse a method that cannot estimate stiffness, saying why."""
        if not self.has_stiffness:
            raise InvalidProblemError(
                f"solver: {self.name} has no stiffness estimate, because no two of its stages look at one time with "
                "different states; expected a method that has one, such as Tsit5(), Dopri5(), Dopri8(), RK4() or Vern7()"
            )
