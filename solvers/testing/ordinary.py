"""What tests of solvers share: problems with exact solutions, measured orders, recording fields, scripted stubs.

Public, because whoever adds a method or a controller needs the same: reference problems that are nonlinear and depend
on time (a linear autonomous one hides most mistakes in a tableau), and stubs with which loops are tested by exact counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..core.scalars import Scalar
from ..methods import named
from ..methods.base import Accuracy, Cache, Memory, Method, Step, VectorField
from ..methods.runge_kutta import RungeKutta
from ..problems import ODEProblem
from ..stepping.controllers import Controller

__all__ = [
    "COMPLEX",
    "LIMIT_CYCLE",
    "REFERENCES",
    "SINE",
    "TIGHT",
    "Recorder",
    "Reference",
    "ScriptedController",
    "StubMethod",
    "StubStep",
    "decay",
    "methods",
    "number",
    "observed_order",
    "state",
]

TIGHT = {"rtol": 1e-9, "atol": 1e-9}
"""Tolerances at which a solution is exact for most tests."""


def number(*values: float) -> Tensor:
    """Numbers in float64, on the default device.

    >>> number(1.0, 2.0)
    tensor([1., 2.], dtype=torch.float64)
    """
    return torch.tensor(values, dtype=torch.float64)


def state(per_sample: bool, *values: float) -> Tensor:
    """A state in float64, or two samples of it.

    >>> state(True, 1.0, 2.0).shape
    torch.Size([2, 2])
    """
    return number(*values).expand(2, len(values)).clone() if per_sample else number(*values)


def decay(t: Tensor, y: Tensor) -> Tensor:
    """The field whose solutions are multiples of ``exp(-t)``.

    >>> decay(number(0.0), number(3.0))
    tensor([-3.], dtype=torch.float64)
    """
    del t
    return -y


@dataclass(frozen=True, eq=False)
class Reference:
    """An initial value problem whose solution is known in closed form.

    Args:
        name: for test ids.
        f: the field.
        exact: the solution at times of any shape, whose shape leads that of the state.
        tspan: the interval.

    >>> LIMIT_CYCLE.y0()
    tensor([0.8165, 0.0000], dtype=torch.float64)
    """

    name: str
    f: Callable[[Tensor, Tensor], Tensor]
    exact: Callable[[Tensor], Tensor]
    tspan: tuple[float, float]

    def at(self, t: float | Tensor) -> Tensor:
        """The exact solution at ``t``."""
        return self.exact(torch.as_tensor(t, dtype=torch.float64))

    def y0(self) -> Tensor:
        """The exact solution at the start."""
        return self.at(self.tspan[0])

    def problem(self, backward: bool = False) -> ODEProblem:
        """The problem, forward or from the end back to the start."""
        t0, t1 = reversed(self.tspan) if backward else self.tspan
        return ODEProblem(self.f, self.at(t0), (t0, t1))

    def __repr__(self) -> str:
        return self.name


def _limit_cycle(t: Tensor, y: Tensor) -> Tensor:
    x, v = y.unbind(-1)
    pull, turn = 1.0 - x * x - v * v, 1.0 + torch.cos(t)
    return torch.stack([x * pull - turn * v, v * pull + turn * x], dim=-1)


def _on_limit_cycle(t: Tensor) -> Tensor:
    radius, angle = (1.0 + 0.5 * torch.exp(-2.0 * t)) ** -0.5, t + torch.sin(t)
    return torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], dim=-1)


_SEVERAL = torch.tensor([0.6, 1.0, 1.7], dtype=torch.float64)

SINE = Reference(
    "sine",
    lambda t, y: torch.cos(t) * torch.sin(y),
    lambda t: 2.0 * torch.atan(_SEVERAL * torch.exp(torch.sin(t).unsqueeze(-1))),
    (0.3, 4.3),
)
"""Three uncoupled components of a nonlinear, non-autonomous problem, ``y' = cos(t) sin(y)``."""
LIMIT_CYCLE = Reference("limit-cycle", _limit_cycle, _on_limit_cycle, (0.0, 2.0))
"""Two coupled components attracted by a circle on which they turn at a rate that depends on time."""
COMPLEX = Reference(
    "complex",
    lambda t, y: 1j * (1.0 + 0.5 * torch.cos(t)) * y * (1.0 - y),
    lambda t: 1.0 / (1.0 + _SEVERAL * (0.4 + 0.5j) * torch.exp(-1j * (t + 0.5 * torch.sin(t)).unsqueeze(-1))),
    (0.0, 3.0),
)
"""Three uncoupled components of a nonlinear, non-autonomous complex problem, ``z' = i (1 + cos(t) / 2) z (1 - z)``."""
REFERENCES = (SINE, LIMIT_CYCLE, COMPLEX)
"""Every reference problem."""


def methods(adaptive: bool | None = None) -> list[Method]:
    """One instance of every named Runge-Kutta method; with ``adaptive`` only those that (do not) estimate their error.

    >>> methods(adaptive=False)
    [Euler(), RK4()]
    """
    kinds = [getattr(named, name) for name in named.__all__]
    every: list[Method] = [kind() for kind in kinds if issubclass(kind, RungeKutta)]
    every.sort(key=lambda method: (method.order, method.name))
    return [method for method in every if adaptive is None or method.adaptive == adaptive]


def observed_order(steps: Sequence[float], errors: Sequence[float], floor: float = 1e-13, finest: int = 4) -> float:
    """The slope of log(error) against log(step), by least squares over the ``finest`` steps with errors above ``floor``.

    Below the floor is rounding; of what is above it the coarse steps say the least about the limit.

    >>> round(observed_order([0.1, 0.05, 0.025], [1e-3, 1.25e-4, 1.5625e-5]), 6)
    3.0
    """
    points = [(math.log(h), math.log(e)) for h, e in zip(steps, errors, strict=True) if e > floor]
    if len(points) < 3:
        raise ValueError(f"observed_order: got {len(points)} errors above {floor}, expected at least 3: {errors}")
    points = sorted(points)[:finest]
    mean_h, mean_e = (sum(column) / len(points) for column in zip(*points, strict=True))
    rise = sum((h - mean_h) * (e - mean_e) for h, e in points)
    return rise / sum((h - mean_h) ** 2 for h, _ in points)


class Recorder:
    """A field that writes down its calls.

    Attributes:
        times: the time of every call, detached, as it was received.
        states: with ``keep_states``, the state of every call.
        rows: how many rows the state of each call had (of its first leaf; 1 for a 0-d state).

    >>> field = Recorder(lambda t, y: -y)
    >>> _ = field(torch.tensor(0.5), torch.ones(3))
    >>> field.calls, field.rows, field.times
    (1, [3], [tensor(0.5000)])
    """

    def __init__(self, f: Callable[..., Any], keep_states: bool = False) -> None:
        self.f, self.keep_states = f, keep_states
        self.times: list[Tensor] = []
        self.states: list[Any] = []
        self.rows: list[int] = []

    def __call__(self, t: Tensor, y: Any, *args: Any) -> Any:
        """Note the call, then call the field."""
        first = pytree.tree_leaves(y)[0]
        self.times.append(t.detach().clone())
        self.rows.append(first.shape[0] if first.dim() else 1)
        if self.keep_states:
            self.states.append(pytree.tree_map(lambda leaf: leaf.detach().clone(), y))
        return self.f(t, y, *args)

    @property
    def calls(self) -> int:
        """How often the field was called."""
        return len(self.times)


class StubStep(Step):
    """A step on which the state stands still and the error is what a script says."""

    def __init__(self, t0: Scalar, t1: Scalar, y0: Tensor, error: float) -> None:
        self.t0, self.t1, self.y0, self.y, self.calls = t0, t1, y0, y0, 0
        self._error = error

    @property
    def retry(self) -> Tensor:
        """The field at the start: zero."""
        return torch.zeros_like(self.y0)

    @property
    def cache(self) -> Tensor:
        """The field at the end: zero."""
        return torch.zeros_like(self.y0)

    @property
    def first_slope(self) -> Tensor:
        """Zero."""
        return torch.zeros_like(self.y0)

    @property
    def end_slope(self) -> Tensor:
        """Zero."""
        return torch.zeros_like(self.y0)

    @property
    def error(self) -> Tensor:
        """The scripted error in every entry."""
        return torch.full_like(self.y0, self._error)

    @property
    def stiffness(self) -> Tensor:
        """Zero."""
        return self.y0.new_zeros(())

    def polynomial(self) -> list[Tensor]:
        """A constant."""
        return [torch.zeros_like(self.y0)]


@dataclass
class StubMethod(Method):
    """A method without numerics: it takes what it is given, notes it, and reports the error a script says.

    Args:
        errors: the error of each attempt, in order; the last one is repeated.

    Attributes:
        taken: the ``(t0, t1)`` of every attempt.

    >>> method = StubMethod(errors=(2.0, 0.5))
    >>> _ = method.step(None, 0.0, 1.0, torch.zeros(1))
    >>> method.step(None, 0.0, 0.5, torch.zeros(1)).error, method.taken
    (tensor([0.5000]), [(0.0, 1.0), (0.0, 0.5)])
    """

    errors: Sequence[float] = (0.0,)
    taken: list[tuple[Scalar, Scalar]] = field(default_factory=list)
    order: int = 1
    embedded_order: int | None = 1
    fsal: bool = False
    stability_radius: float = 2.0
    dense_order: int = 1

    @property
    def has_stiffness(self) -> bool:
        """No."""
        return False

    def step(
        self,
        field: VectorField | None,
        t0: Scalar,
        t1: Scalar,
        y0: Tensor,
        memory: Memory = (),
        cache: Cache = None,
        accuracy: Accuracy | None = None,
    ) -> StubStep:
        """One step, without a call of the field."""
        error = self.errors[min(len(self.taken), len(self.errors) - 1)]
        self.taken.append((t0, t1))
        return StubStep(t0, t1, y0, error)


@dataclass(frozen=True, kw_only=True)
class ScriptedController(Controller):
    """Accepts and rejects by a script, and scales the step by ``factor`` after either.

    Args:
        verdicts: whether to accept each attempt, in order; the last one is repeated.
        factors: what the step is multiplied with after each attempt, in order; the last one is repeated.

    Attributes:
        seen: the arguments of every decision.
    """

    verdicts: tuple[bool, ...] = (True,)
    factors: tuple[float, ...] = (1.0,)
    seen: list[tuple[Scalar, Scalar]] = field(default_factory=list)
    adaptive: ClassVar[bool] = True

    def start(self, like: Scalar) -> tuple[Scalar, ...]:
        """The number of decisions made."""
        return (0,)

    def decide(self, h: Scalar, ratio: Scalar, state: tuple[Scalar, ...]) -> tuple[Scalar, Scalar, tuple[Scalar, ...]]:
        """The next verdict of the script."""
        index = state[0]
        self.seen.append((h, ratio))
        verdict = self.verdicts[min(index, len(self.verdicts) - 1)]
        return verdict, h * self.factors[min(index, len(self.factors) - 1)], (index + 1,)
