"""Explicit Runge-Kutta methods: one step for every tableau. The named methods are in the room ``explicit``."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ..core.legendre import basis
from ..core.norms import rms
from ..core.scalars import Scalar, real_dtype, spread
from ..core.torch_private import transforms_active
from ..errors import InvalidProblemError
from .base import Accuracy, Cache, Memory, Method, Step, VectorField
from .proved import tableau_of
from .tableau import ButcherTableau


def combine(y: Tensor | None, h: Scalar, weights: Sequence[float], stages: Sequence[Any]) -> Tensor:
    r""":math:`y + h \sum_i w_i k_i` (without ``y``: the sum alone), skipping zero weights."""
    host = isinstance(h, float)
    scale = h if host else 1.0
    start = y if host else None
    # add_ saves nothing for the backward pass, so accumulating in place is safe; a batching transform may need room
    # for a dimension that ``total`` does not have yet.
    inplace = host and not transforms_active()
    total: Any = None
    for weight, stage in zip(weights, stages, strict=False):
        if weight == 0.0:
            continue
        if total is None:
            total = stage * (scale * weight) if start is None else torch.add(start, stage, alpha=scale * weight)
        elif inplace:
            total.add_(stage, alpha=scale * weight)
        else:
            total = torch.add(total, stage, alpha=scale * weight)
    if total is None:
        return torch.zeros_like(stages[0]) if y is None else y
    if host:
        return total
    return h * total if y is None else y + h * total


def dense_weights_at(tableau: ButcherTableau, theta: float) -> list[float]:
    """The weights of the stages in the increment up to a relative time, by the interpolant."""
    rows = tableau.dense
    _, *values = basis(theta, len(rows[0]) + 1)
    return [sum(w * value for w, value in zip(row, values, strict=True)) for row in rows]


def _matrix(tableau: ButcherTableau, thetas: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """The same at several times, a row for each: they are those of the events' probes in every step."""
    # What is made inside a function transform belongs to it, and must not be kept.
    make = _kept_matrix.__wrapped__ if transforms_active() else _kept_matrix
    return make(tableau, thetas, dtype, device)


@lru_cache(maxsize=64)
def _kept_matrix(
    tableau: ButcherTableau, thetas: tuple[float, ...], dtype: torch.dtype, device: torch.device
) -> Tensor:
    # Made here, in no mode of the caller's, because it is kept.
    with torch.inference_mode(False):
        return torch.tensor([dense_weights_at(tableau, theta) for theta in thetas], dtype=dtype, device=device)


class RungeKuttaStep(Step):
    """A step of an explicit Runge-Kutta method; later stages are evaluated when something needs them."""

    def __init__(
        self, tableau: ButcherTableau, field: VectorField, t0: Scalar, t1: Scalar, y0: Tensor, slope: Tensor | None
    ) -> None:
        self.tableau, self.field, self.t0, self.t1, self.y0 = tableau, field, t0, t1, y0
        self.span = t1 - t0
        self.h = spread(self.span, y0)
        self.calls = 0 if slope is not None else 1
        self.recorded = torch.is_grad_enabled()
        # Only those that `stiffness` compares: all others make room, still in the cache, for the next.
        self.arguments = {0: y0}
        self.stages = [slope if slope is not None else field(t0, y0)]
        self.y: Tensor
        if tableau.fsal:
            self._evaluate(tableau.stages - 1)
            self.y = combine(y0, self.h, tableau.b, self.stages)
        else:
            self._evaluate(tableau.stages)
            self.y = combine(y0, self.h, tableau.b, self.stages)

    def _evaluate(self, count: int) -> list[Tensor]:
        """The first ``count`` stages, the dense output's extra ones behind the main ones.

        They are in the graph if the step is, whoever asks for them first: a trace, which wants no graph, may look at a
        stage that the next step then starts with.
        """
        if torch.is_grad_enabled() == self.recorded or torch.compiler.is_compiling():
            return self._evaluate_here(count)
        with torch.set_grad_enabled(self.recorded):
            return self._evaluate_here(count)

    def _evaluate_here(self, count: int) -> list[Tensor]:
        tableau, main, stages = self.tableau, self.tableau.stages, self.stages
        compared, end = tableau.stiffness_pair or (), tableau.end_slope
        for index in range(len(stages), count):
            if index < main:
                row, node = tableau.a[index], tableau.c[index]
            else:
                row, node = tableau.interpolant.a[index - main], tableau.interpolant.c[index - main]
            argument = self.y if index == end else combine(self.y0, self.h, row, stages)
            time = self.t0 if node == 0.0 else self.t1 if node == 1.0 else self.t0 + node * self.span
            if index in compared:
                self.arguments[index] = argument
            stages.append(self.field(time, argument))
            self.calls += 1
        return stages

    @property
    def per_sample(self) -> bool:
        """Whether every sample has its own clock."""
        return isinstance(self.span, Tensor) and self.span.dim() == 1

    @property
    def retry(self) -> Tensor | None:
        """The first stage."""
        return self.stages[0]

    @property
    def first_slope(self) -> Tensor:
        """The first stage."""
        return self.stages[0]

    @property
    def end_slope(self) -> Tensor | None:
        """The same as the cache."""
        return self.cache

    @property
    def cache(self) -> Tensor | None:
        """The stage that sits at the end, where the tableau has one and it is at hand."""
        index = self.tableau.end_slope
        if index is None or (index >= len(self.stages) and not self.tableau.fsal):
            return None
        return self._evaluate(index + 1)[index]

    @property
    def slopes(self) -> list[tuple[float, Tensor]]:
        """The stages that the solution is made of, and their weights."""
        return [(weight, stage) for weight, stage in zip(self.tableau.b, self.stages, strict=False) if weight != 0.0]

    @property
    def error(self) -> Tensor:
        """The difference of the two embedded solutions."""
        weights = self.tableau.error_weights
        if weights is None:
            raise InvalidProblemError("solver: this tableau has no embedded row, so a step has no error estimate")
        return combine(None, self.h, weights, self._evaluate(self.tableau.stages))

    @property
    def stiffness(self) -> Tensor:
        """The quotient of two stages at one time, by which the Jacobian stretches their difference."""
        pair = self.tableau.stiffness_pair
        if pair is None:
            raise InvalidProblemError("solver: this tableau has no two different stages at one time to compare")
        i, j = pair
        stages = self._evaluate(max(j + 1, self.tableau.stages))
        rise = rms(stages[j] - stages[i], self.per_sample)
        run = rms(self.arguments[j] - self.arguments[i], self.per_sample)
        moved = run > 0
        return torch.where(moved, rise / torch.where(moved, run, 1.0), 0.0)

    def polynomial(self) -> list[Tensor]:
        """The interpolant's coefficients."""
        weights = self.tableau.dense
        stages = self._evaluate(len(weights))
        return [combine(None, self.h, column, stages) for column in zip(*weights, strict=True)]

    def at(self, theta: Scalar) -> Tensor:
        """The interpolant at one relative time; a Python number's is one combination of the stages."""
        if not isinstance(theta, float):
            return super().at(theta)
        weights = dense_weights_at(self.tableau, theta)
        return combine(self.y0, self.h, weights, self._evaluate(len(weights)))

    def at_each(self, thetas: tuple[float, ...]) -> Tensor:
        """The interpolant at several relative times: one product of a matrix with the stages."""
        y0, count = self.y0, len(self.tableau.dense)
        stages = torch.stack(self._evaluate(count)[:count]).reshape(count, -1)
        weights, shape = _matrix(self.tableau, thetas, y0.dtype, y0.device), (len(thetas), *y0.shape)
        if isinstance(self.h, float):
            return torch.addmm(y0.reshape(1, -1), weights, stages, alpha=self.h).reshape(shape)
        return y0 + self.h * (weights @ stages).reshape(shape)

    def complete(self) -> None:
        """The stages of the interpolant."""
        self._evaluate(len(self.tableau.dense))

    @staticmethod
    def at_each_of(steps: Sequence[Step], thetas: tuple[float, ...]) -> Tensor:
        """All in one product."""
        own = _of_one_tableau(steps)
        if not own:
            return Step.at_each_of(steps, thetas)
        y0 = torch.stack([step.y0 for step in own])
        return y0.unsqueeze(1) + _combined(own, _matrix(own[0].tableau, thetas, y0.dtype, y0.device))

    @staticmethod
    def polynomials(steps: Sequence[Step]) -> Sequence[Tensor]:
        """All in one product."""
        own = _of_one_tableau(steps)
        if not own:
            return Step.polynomials(steps)
        y0, weights = own[0].y0, own[0].tableau.dense
        return _combined(own, torch.tensor(weights, dtype=y0.dtype, device=y0.device).T).unbind(1)


def _of_one_tableau(steps: Sequence[Step]) -> list[RungeKuttaStep]:
    """The steps, if they are all of one tableau, else none."""
    own = [step for step in steps if isinstance(step, RungeKuttaStep)]
    return own if len(own) == len(steps) and all(step.tableau is own[0].tableau for step in own) else []


def _combined(steps: Sequence[RungeKuttaStep], weights: Tensor) -> Tensor:
    """Combinations of the stages of each step, by the rows of a matrix, times its length: steps first, then rows."""
    first, count = steps[0], weights.shape[1]
    stages = torch.stack([stage for step in steps for stage in step._evaluate(count)[:count]])
    moves = (weights @ stages.reshape(len(steps), count, -1)).reshape(len(steps), len(weights), *first.y0.shape)
    h = [step.h for step in steps]
    if isinstance(first.h, Tensor):
        return torch.stack(h).unsqueeze(1) * moves
    factor = torch.tensor(h, dtype=torch.float64, device=moves.device).to(real_dtype(moves))
    return factor.reshape(-1, *[1] * (moves.dim() - 1)) * moves


class RungeKutta(Method):
    r"""The explicit Runge-Kutta method of a tableau. Nothing but the tableau is needed to add one.

    .. math:: k_i = f\Bigl(t_n + c_i h,\; y_n + h \sum_j a_{ij} k_j\Bigr), \qquad y_{n+1} = y_n + h \sum_i b_i k_i

    with the embedded error estimate :math:`h \sum_i (b_i - \hat b_i) k_i` and local extrapolation: the solution of
    higher order goes on.

    Args:
        tableau: the coefficients; it has verified itself.
        name: what messages and tables call the method.

    Raises:
        InvalidProblemError: ``tableau`` is no :class:`ButcherTableau`.

    When to take it:
        To add a method from a paper: the tableau proves its order, and everything else follows from it.

    References:
        Hairer, Nørsett, Wanner: Solving Ordinary Differential Equations I, II.1.

    Example:
        >>> import torch, neuralde as nde
        >>> midpoint = nde.ButcherTableau(a=((), (0.5,)), b=(0.0, 1.0), c=(0.0, 0.5), order=2)
        >>> problem = nde.ODEProblem(lambda t, y: -y, torch.ones(1, dtype=torch.float64), (0.0, 1.0))
        >>> nde.solve(problem, nde.RungeKutta(midpoint), dt=0.01).y1
        tensor([0.3679], dtype=torch.float64)
    """

    def __init__(self, tableau: ButcherTableau, name: str | None = None) -> None:
        if not isinstance(tableau, ButcherTableau):
            raise InvalidProblemError(f"tableau: got {type(tableau).__name__}; expected a ButcherTableau")
        self.tableau = tableau
        self._name = name or type(self).__name__
        self.order, self.embedded_order = tableau.order, tableau.embedded_order
        self.fsal, self.stability_radius = tableau.fsal, tableau.stability_radius
        self.dense_order = tableau.interpolant.order
        self.sums_slopes = True

    @property
    def name(self) -> str:
        """The name that messages and tables use."""
        return self._name

    @property
    def has_stiffness(self) -> bool:
        """Whether two different stages look at one time."""
        return self.tableau.stiffness_pair is not None

    def step(
        self,
        field: VectorField,
        t0: Scalar,
        t1: Scalar,
        y0: Tensor,
        memory: Memory = (),
        cache: Cache = None,
        accuracy: Accuracy | None = None,
    ) -> RungeKuttaStep:
        """One step from ``t0`` to ``t1``; the cache is the field at the start."""
        return RungeKuttaStep(self.tableau, field, t0, t1, y0, cache)


class NamedRungeKutta(RungeKutta):
    """An explicit Runge-Kutta method that comes with its tableau, which is built and proved when the first one is made."""

    def __init__(self) -> None:
        super().__init__(tableau_of(type(self)))

    @staticmethod
    @abstractmethod
    def coefficients() -> ButcherTableau:
        """The tableau."""
