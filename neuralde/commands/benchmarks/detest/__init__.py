"""The 25 nonstiff problems of DETEST, their solutions, and work-precision curves over them.

Twenty-one of the problems have a solution in closed form, given here; the other four are solved by SciPy close to
rounding. Every field takes a state ``(..., n)``, so that a problem can be solved in a batch.

References:
    Hull, Enright, Fellen, Sedgwick: Comparing numerical methods for ordinary differential equations. SIAM Journal on
    Numerical Analysis 9 (1972), the classes A (single equations) to E (higher-order equations), all from 0 to 20.
    The solutions of A5, B3, B4 and B5 in polar coordinates, Bessel functions, on the torus and in Jacobi's elliptic
    functions are derived here; the tests confirm them by integration.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neuralde.solvers import Method, ODEProblem

from ....solving import solve
from ...extras import needed
from .exact import EXACT

Field = Callable[[Any, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Problem:
    """One initial value problem from 0 to 20.

    Args:
        name: its name in the collection, such as ``"B2"``.
        f: the field ``f(t, y)`` of states ``(..., n)``.
        start: the initial state.

    >>> problem = PROBLEMS["A1"]
    >>> problem.y0(), float(problem.reference()[0]) == math.exp(-20.0)
    (tensor([1.], dtype=torch.float64), True)
    """

    name: str
    f: Field
    start: tuple[float, ...]
    tspan: tuple[float, float] = (0.0, 20.0)

    def y0(self) -> Tensor:
        """The initial state ``(n,)``, float64."""
        return torch.tensor(self.start, dtype=torch.float64)

    def problem(self) -> ODEProblem:
        """The problem as :func:`neuralde.solve` takes it."""
        return ODEProblem(self.f, self.y0(), self.tspan)

    def numpy(self, t: float, y: np.ndarray) -> np.ndarray:
        """The field as SciPy calls it: the same tensor operations, on the same memory."""
        return self.f(t, torch.from_numpy(y)).numpy()

    def reference(self, t: float = 20.0) -> np.ndarray:
        """The solution at ``t``: in closed form, or by SciPy's DOP853 at a relative tolerance of 1e-13."""
        return EXACT[self.name](t) if self.name in EXACT else _integrated(self, t)

    def error(self, y: Any) -> float:
        r"""The largest :math:`|y_i - y_i(20)| / \max(1, |y_i(20)|)`."""
        exact = self.reference()
        return float(np.max(np.abs(np.asarray(y) - exact) / np.maximum(1.0, np.abs(exact))))


@lru_cache(maxsize=64)
def _integrated(problem: Problem, t: float) -> np.ndarray:
    solve_ivp = needed("scipy.integrate", "bench").solve_ivp

    options = dict(method="DOP853", rtol=1e-13, atol=1e-15)
    return solve_ivp(problem.numpy, (problem.tspan[0], t), np.array(problem.start), **options).y[:, -1]


def _components(f: Callable[..., tuple[Any, ...]]) -> Field:
    """A field written component by component."""

    def field(t: Any, y: Tensor) -> Tensor:
        return torch.cat(f(t, *y.split(1, dim=-1)), dim=-1)

    return field


def _linear(matrix: np.ndarray) -> Field:
    fixed = torch.from_numpy(matrix.T.copy())

    def field(t: Any, y: Tensor) -> Tensor:
        return y @ fixed.to(y)

    return field


def _chain(rates: Sequence[float]) -> np.ndarray:
    """A radioactive decay chain: what leaves one component enters the next; the last one keeps what it gets."""
    return np.diag([*(-rate for rate in rates), 0.0]) + np.diag(rates, -1)


def _diffusion(n: int) -> np.ndarray:
    return np.diag([-2.0] * n) + np.diag([1.0] * (n - 1), 1) + np.diag([1.0] * (n - 1), -1)


def _torus(t: Any, a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, ...]:
    radius = torch.sqrt(a * a + b * b)
    return -b - a * c / radius, a - b * c / radius, a / radius


def _orbit(t: Any, y: Tensor) -> Tensor:
    place, speed = y.split(2, dim=-1)
    return torch.cat([speed, -place * place.square().sum(-1, keepdim=True) ** -1.5], dim=-1)


_MASSES = (0.000954786104043, 0.000285583733151, 0.0000437273164546, 0.0000517759138449, 0.00000277777777778)
_SUN, _GRAVITY = 1.00000597682, 2.95912208286
_PLANETS = (
    *(3.42947415189, 3.35386959711, 1.35494901715, 6.64145542550, 5.97156957878, 2.18231499728),
    *(11.2630437207, 14.6952576794, 6.27960525067, -30.1552268759, 1.65699966404, 1.43785752721),
    *(-21.1238353380, 28.4465098142, 15.3882659679),
    *(-0.557160570446, 0.505696783289, 0.230578543901, -0.415570776342, 0.365682722812, 0.169143213293),
    *(-0.325325669158, 0.189706021964, 0.0877265322780, -0.0240476254170, -0.287659532608, -0.117219543175),
    *(-0.176860753121, -0.216393453025, -0.0148647893090),
)


def _planets(t: Any, y: Tensor) -> Tensor:
    """The five outer planets around the sun, which is the origin: astronomical units and hundreds of days."""
    place, speed = y.split(15, dim=-1)
    place = place.unflatten(-1, (5, 3))
    mass = y.new_tensor(_MASSES)
    towards = place.unsqueeze(-3) - place.unsqueeze(-2)  # [j, k] from planet j to planet k
    apart = towards.square().sum(-1) + torch.eye(5, dtype=y.dtype, device=y.device)
    own = place * place.square().sum(-1, keepdim=True) ** -1.5
    pulls = ((mass * apart**-1.5).unsqueeze(-1) * towards).sum(-2)
    drift = (mass.unsqueeze(-1) * own).sum(-2, keepdim=True) - mass.unsqueeze(-1) * own  # of the origin, by the others
    force = _GRAVITY * (pulls - drift - (_SUN + mass).unsqueeze(-1) * own)
    return torch.cat([speed, force.flatten(-2)], dim=-1)


def _bessel(t: Any, y: Tensor, v: Tensor) -> tuple[Tensor, ...]:
    x = t + 1.0
    return v, -(v / x + (1.0 - 0.25 / (x * x)) * y)


def _duffing(t: Any, y: Tensor, v: Tensor) -> tuple[Tensor, ...]:
    forcing = torch.sin(torch.as_tensor(2.78535 * t, dtype=y.dtype, device=y.device))
    return v, y * y * y / 6.0 - y + 2.0 * forcing


def _unit(n: int) -> tuple[float, ...]:
    return (1.0, *[0.0] * (n - 1))


def _cosine(t: Any, y: Tensor) -> Tensor:
    return y * torch.cos(torch.as_tensor(t, dtype=y.dtype, device=y.device))


_BESSEL = (math.sqrt(2.0 / math.pi) * math.sin(1.0), math.sqrt(2.0 / math.pi) * (math.cos(1.0) - math.sin(1.0) / 2.0))
_ALL = [
    Problem("A1", lambda t, y: -y, (1.0,)),
    Problem("A2", lambda t, y: -0.5 * y * y * y, (1.0,)),
    Problem("A3", _cosine, (1.0,)),
    Problem("A4", lambda t, y: 0.25 * y * (1.0 - y / 20.0), (1.0,)),
    Problem("A5", lambda t, y: (y - t) / (y + t), (4.0,)),
    Problem("B1", _components(lambda t, a, b: (2.0 * (a - a * b), a * b - b)), (1.0, 3.0)),
    Problem("B2", _components(lambda t, a, b, c: (b - a, a - 2.0 * b + c, b - c)), (2.0, 0.0, 1.0)),
    Problem("B3", _components(lambda t, a, b, c: (-a, a - b * b, b * b)), (1.0, 0.0, 0.0)),
    Problem("B4", _components(_torus), (3.0, 0.0, 0.0)),
    Problem("B5", _components(lambda t, a, b, c: (b * c, -a * c, -0.51 * a * b)), (0.0, 1.0, 1.0)),
    Problem("C1", _linear(_chain([1.0] * 9)), _unit(10)),
    Problem("C2", _linear(_chain([float(i) for i in range(1, 10)])), _unit(10)),
    Problem("C3", _linear(_diffusion(10)), _unit(10)),
    Problem("C4", _linear(_diffusion(51)), _unit(51)),
    Problem("C5", _planets, _PLANETS),
    *(
        Problem(f"D{i}", _orbit, (1.0 - e, 0.0, 0.0, math.sqrt((1.0 + e) / (1.0 - e))))
        for i, e in enumerate((0.1, 0.3, 0.5, 0.7, 0.9), start=1)
    ),
    Problem("E1", _components(_bessel), _BESSEL),
    Problem("E2", _components(lambda t, y, v: (v, (1.0 - y * y) * v - y)), (2.0, 0.0)),
    Problem("E3", _components(_duffing), (0.0, 0.0)),
    Problem("E4", _components(lambda t, y, v: (v, 0.032 - 0.4 * v * v)), (30.0, 0.0)),
    Problem("E5", _components(lambda t, y, v: (v, torch.sqrt(1.0 + v * v) / (25.0 - t))), (0.0, 0.0)),
]
PROBLEMS: dict[str, Problem] = {problem.name: problem for problem in _ALL}
"""Every problem by its name."""


@dataclass(frozen=True)
class Point:
    """What one solve at one tolerance cost and reached.

    Attributes:
        tolerance: ``rtol`` and ``atol``.
        calls: calls of the field.
        error: :meth:`Problem.error` of the final state; infinite for a solve that failed.
        seconds: how long it took.
    """

    tolerance: float
    calls: int
    error: float
    seconds: float = math.nan


Contender = Callable[[Problem, float], tuple[Any, int]]
"""Solves a problem at a tolerance: the final state and the calls of the field."""


def ours(method: Method, **options: Any) -> Contender:
    """This library as a contender; ``options`` are those of :func:`neuralde.solve`, such as ``controller``.

    >>> from neuralde.solvers import Tsit5
    >>> y, calls = ours(Tsit5())(PROBLEMS["A4"], 1e-6)
    >>> PROBLEMS["A4"].error(y) < 1e-5, calls < 150
    (True, True)
    """

    def run(problem: Problem, tolerance: float) -> tuple[Any, int]:
        with torch.no_grad():
            sol = solve(problem.problem(), method, rtol=tolerance, atol=tolerance, max_steps=10**6, **options)
        return sol.y1, sol.stats.nfe

    return run


def curve(problem: Problem, contender: Contender, tolerances: Iterable[float]) -> list[Point]:
    """A contender's work and error on a problem, tolerance by tolerance."""
    points = []
    for tolerance in tolerances:
        start = time.perf_counter()
        y, calls = contender(problem, tolerance)
        seconds = time.perf_counter() - start
        error = problem.error(y)
        points.append(Point(tolerance, calls, error if math.isfinite(error) else math.inf, seconds))
    return points


def frontier(points: Sequence[Point], work: str = "calls") -> list[tuple[float, float]]:
    """The ``(log10 error, log10 work)`` of the points that no other point beats in both, largest error first.

    >>> frontier([Point(1e-2, 10, 1e-2), Point(1e-3, 100, 1e-1), Point(1e-4, 1000, 1e-4)])
    [(-2.0, 1.0), (-4.0, 3.0)]
    """
    kept: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda point: (getattr(point, work), point.error)):
        if math.isfinite(point.error) and (not kept or point.error < 10 ** kept[-1][0]):
            kept.append((math.log10(max(point.error, 1e-17)), math.log10(getattr(point, work))))
    return kept


def field_calls_at_equal_error(first: Sequence[Point], second: Sequence[Point], work: str = "calls") -> float | None:
    """How many times the field calls of ``first`` the ``second`` needs: above 1, the first is better.

    The geometric mean of the ratio over the errors that both curves reach, each curve interpolated linearly in
    logarithms between the points that are not beaten in both; None where the curves have no error in common.

    >>> first = [Point(1e-2, 10, 1e-2), Point(1e-4, 100, 1e-4)]
    >>> second = [Point(1e-3, 40, 1e-3), Point(1e-4, 400, 1e-4)]
    >>> round(field_calls_at_equal_error(first, second), 3)
    2.249
    """
    curves = [frontier(points, work) for points in (first, second)]
    if not all(curves):
        return None
    worst = min(errors[0][0] for errors in curves)
    best = max(errors[-1][0] for errors in curves)
    if best >= worst:
        return None
    levels = np.linspace(best, worst, 33)
    a, b = (np.interp(levels, *np.array(points[::-1]).T) for points in curves)
    # The trapezoidal mean, in which both ends count half.
    weights = np.ones_like(levels)
    weights[[0, -1]] = 0.5
    return float(10 ** np.average(b - a, weights=weights))


def geometric_mean(values: Iterable[float]) -> float:
    """The geometric mean; NaN of nothing.

    >>> geometric_mean([1.0, 4.0])
    2.0
    """
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan
