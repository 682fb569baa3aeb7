r"""Butcher tableaus that refuse to be wrong.

One step of an explicit Runge-Kutta method from ``(t0, y0)`` over ``h`` is::

    k_i = f(t0 + c_i h, y0 + h sum_j a_ij k_j)         stages
    y1  = y0 + h sum_i b_i k_i                          the step, of order ``order``
    y1 - y1_embedded = h sum_i (b_i - b_embedded_i) k_i the local error estimate
    y(t0 + theta h)  = y0 + h sum_i w_i(theta) k_i      dense output, w_i polynomials

A wrong digit in such a table does not crash: it lowers the order of convergence, which goes unnoticed. So a
`ButcherTableau` proves its claims when it is made: row sums, the order conditions of every rooted tree for ``b``, for
``b_embedded`` and, as polynomials in theta, for the dense output. What can be computed (FSAL, error weights, stability
radius, ...) is computed, never declared.

Source of the mathematics: Hairer, Norsett, Wanner, "Solving Ordinary Differential Equations I", sections II.2 (order
conditions), II.6 (dense output), and II, section IV.2 (stability function).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import factorial
from typing import cast

import numpy as np

from ..core.legendre import dense_weights
from ..core.rooted_trees import elementary_weights, rooted_trees
from .tableau_checks import (
    TOLERANCE,
    TableauError,
    as_row,
    as_rows,
    as_square,
    check_dense_order,
    check_order,
    check_row_sums,
    check_triangle,
    failed_dense,
    failed_trees,
)

__all__ = [
    "ButcherTableau",
    "Interpolant",
    "derive_interpolant",
    "max_dense_order",
    "max_order",
    "stability_radius",
]


@dataclass(frozen=True, eq=False)
class Interpolant:
    r"""Dense output: :math:`y(t_0 + \theta h) = y_0 + h \sum_i w_i(\theta) k_i` for :math:`0 \le \theta \le 1`.

    ``weights[i][j]`` multiplies ``theta**(j + 1)`` in ``w_i``, one row per stage of the tableau and then one per extra
    stage. Extra stages are evaluated only when dense output is wanted; row ``n`` of ``a`` holds the weights of *all*
    earlier stages, the tableau's and the extra ones. ``order`` is the order of ``y(t0 + theta h)`` at every theta: its
    local error is of size ``h**(order + 1)``.

    The tableau that holds the interpolant checks it, because its truth depends on the tableau's stages.

    Weights on powers of theta alternate in sign and cancel, so this form is for writing a method down, as papers do, and
    not for evaluating it: `ButcherTableau.dense` has the same polynomials in a form that loses nothing.

    Args:
        order: the order of the dense output at every time of the step.
        weights: a row of coefficients for each stage.
        a: rows of the extra stages.
        c: their nodes.

    Raises:
        TableauError: an entry is no number, or a row no sequence; and in a tableau whose stages contradict its order.

    When to take it:
        Where a paper prints one for its pair; without it the tableau derives one of the order that its stages allow.

    References:
        Hairer, Nørsett, Wanner: Solving Ordinary Differential Equations I, II.6.

    Example:
        >>> Interpolant(order=1, weights=((1.0,),))  # the straight line of Euler's method
        Interpolant(order=1, weights=((1.0,),), a=(), c=())
    """

    order: int
    weights: tuple[tuple[float, ...], ...]
    a: tuple[tuple[float, ...], ...] = ()
    c: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", as_rows(self.weights, "Interpolant.weights"))
        object.__setattr__(self, "a", as_rows(self.a, "Interpolant.a"))
        object.__setattr__(self, "c", as_row(self.c, "Interpolant.c"))


@dataclass(frozen=True, eq=False)
class ButcherTableau:
    r"""The coefficients of an explicit Runge-Kutta method, proved on construction.

    .. math:: k_i = f\Bigl(t_0 + c_i h,\; y_0 + h \sum_{j < i} a_{ij} k_j\Bigr), \qquad y_1 = y_0 + h \sum_i b_i k_i

    and the order is p if :math:`\sum_i b_i \Phi_i(\tau) = 1 / \gamma(\tau)` for every rooted tree :math:`\tau` of up to
    p nodes.

    Args:
        a: row ``i`` holds the ``i`` weights of the stages before stage ``i``; the first row is ``()``.
        b: the weights of the step.
        c: the nodes.
        order: the order of ``b``.
        b_embedded: the weights of the embedded solution, whose distance from the step is the error estimate.
        embedded_order: the order of ``b_embedded``.
        interpolant: dense output. None derives one, see `derive_interpolant`; after construction it is never None.

    Attributes:
        stages: the number of stages.
        fsal: first same as last: the last stage is ``f(t1, y1)``, which is the next step's first.
        error_weights: ``b - b_embedded``, or None.
        stability_radius: the largest ``x`` with ``|R(-z)| <= 1`` for all ``z`` in ``[0, x]``, see `stability_radius`.
        stiffness_pair: the last two stages ``(i, j)`` evaluated at one time with different states. The quotient
            ``|k_j - k_i| / |Y_j - Y_i|`` then measures the Jacobian alone, free of df/dt. None without such stages.
        end_slope: the index of the stage that equals ``f(t1, y1)``, or None. The extra stages of the interpolant count
            too, numbered on from the stages.
        dense: the dense output as steps evaluate it, a row for each stage: the weights ``w_i(theta)`` on the functions
            of `neuralde.solvers.core.legendre`, which do not cancel.

    Raises:
        TableauError: a shape, a row sum, an order condition or the dense output contradicts the claim.

    When to take it:
        To add a method: with :class:`RungeKutta` it is complete. Digits that were mistyped are found here, not in a
        plot.

    References:
        Hairer, Nørsett, Wanner: Solving Ordinary Differential Equations I, II.2, and II, IV.2 (stability function).

    Example:
        >>> heun = ButcherTableau(a=((), (1,)), b=(1 / 2, 1 / 2), c=(0, 1), order=2, b_embedded=(1, 0), embedded_order=1)
        >>> heun.stages, heun.fsal, heun.error_weights, heun.stability_radius, heun.interpolant.order
        (2, False, (-0.5, 0.5), 2.0, 2)
        >>> try:
        ...     ButcherTableau(a=((), (1,)), b=(1 / 2, 1 / 2), c=(0, 1), order=3)
        ... except TableauError as error:
        ...     print(error)
        b: claimed order 3, but the weights have order 2: tree [t,t] (order 3) gives 0.5, expected 1/3
    """

    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    c: tuple[float, ...]
    order: int
    b_embedded: tuple[float, ...] | None = None
    embedded_order: int | None = None
    # None stands for "derive it" and never survives construction, so that readers need not rule it out.
    interpolant: Interpolant = None  # type: ignore[assignment]

    stages: int = field(init=False, repr=False)
    fsal: bool = field(init=False, repr=False)
    error_weights: tuple[float, ...] | None = field(init=False, repr=False)
    stability_radius: float = field(init=False, repr=False)
    stiffness_pair: tuple[int, int] | None = field(init=False, repr=False)
    end_slope: int | None = field(init=False, repr=False)
    dense: tuple[tuple[float, ...], ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        def put(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        put("a", as_rows(self.a, "a"))
        put("b", as_row(self.b, "b"))
        put("c", as_row(self.c, "c"))
        if self.b_embedded is not None:
            put("b_embedded", as_row(self.b_embedded, "b_embedded"))
        put("stages", len(self.b))
        self._check_shapes()
        a, b = as_square(self.a), np.array(self.b)
        check_row_sums("c", self.a, self.c, first=0)
        check_order("b", a, b, self.order)
        if self.b_embedded is not None:
            if self.b_embedded == self.b:
                raise TableauError("b_embedded: equals b, so that the error estimate would always be zero")
            check_order("b_embedded", a, np.array(self.b_embedded), self.embedded_order)
        if cast("Interpolant | None", self.interpolant) is None:
            put("interpolant", derive_interpolant(self.a, self.b, self.c, self.order))
        self._check_interpolant()
        order, powers = self.interpolant.order, self.interpolant.weights
        put("dense", dense_weights(as_square(self._all_a), self.b, powers, order))

        put("fsal", self._row_is_step(self.stages - 1) and self.c[-1] == 1.0)
        put("stability_radius", stability_radius(self.a, self.b, self.order))
        error = None if self.b_embedded is None else tuple(x - y for x, y in zip(self.b, self.b_embedded, strict=False))
        put("error_weights", error)
        pairs = [
            (i, j)
            for j in range(self.stages)
            for i in range(j)
            if self.c[i] == self.c[j] and self.a[i] + (0.0,) * (j - i) != self.a[j]
        ]
        put("stiffness_pair", max(pairs, key=lambda pair: (pair[1], pair[0]), default=None))
        ends = [i for i in range(len(self._all_a)) if self._all_c[i] == 1.0 and self._row_is_step(i)]
        put("end_slope", ends[0] if ends else None)

    @property
    def _all_a(self) -> tuple[tuple[float, ...], ...]:
        return self.a + self.interpolant.a

    @property
    def _all_c(self) -> tuple[float, ...]:
        return self.c + self.interpolant.c

    def _row_is_step(self, i: int) -> bool:
        """Whether stage ``i`` is evaluated at the state ``y1`` (zeros beyond either row do not count)."""
        row = self._all_a[i]
        width = max(len(row), self.stages)
        return row + (0.0,) * (width - len(row)) == self.b + (0.0,) * (width - self.stages)

    def _check_shapes(self) -> None:
        stages = self.stages
        if stages < 1:
            raise TableauError("b: empty, expected one weight per stage")
        for name, row in (("a", self.a), ("c", self.c), ("b_embedded", self.b_embedded)):
            if row is not None and len(row) != stages:
                raise TableauError(f"{name}: has {len(row)} entries, expected {stages}, as many as b")
        check_triangle("a", self.a, first=0)
        if (self.b_embedded is None) != (self.embedded_order is None):
            raise TableauError("b_embedded and embedded_order: give both or neither")

    def _check_interpolant(self) -> None:
        dense = self.interpolant
        stages = self.stages + len(dense.c)
        if len(dense.a) != len(dense.c):
            raise TableauError(f"interpolant.a: has {len(dense.a)} rows, expected {len(dense.c)}, as many as its c")
        check_triangle("interpolant.a", dense.a, first=self.stages)
        check_row_sums("interpolant.c", dense.a, dense.c, first=self.stages)
        if len(dense.weights) != stages:
            raise TableauError(f"interpolant.weights: has {len(dense.weights)} rows, expected {stages}, one per stage")
        degrees = {len(row) for row in dense.weights}
        if len(degrees) != 1 or min(degrees) < dense.order:
            raise TableauError(
                f"interpolant.weights: rows of length {sorted(degrees)}, expected one length of at least {dense.order}"
            )
        weights = np.array(dense.weights)
        b = np.concatenate([self.b, np.zeros(len(dense.c))])
        at_end, size = weights.sum(axis=1), np.abs(weights).sum(axis=1) + np.abs(b)
        rounding = 1e-15 * size.sum()  # what a solved linear system leaves in place of exact zeros
        for i in np.flatnonzero(np.abs(at_end - b) > TOLERANCE * size + rounding)[:1]:
            raise TableauError(f"interpolant.weights: row {i} sums to {at_end[i]!s} at theta = 1, expected {b[i]!s}")
        check_dense_order(as_square(self._all_a), weights, dense.order)


def max_order(a: Sequence[Sequence[float]], b: Sequence[float], at_most: int = 10) -> int:
    """The true order of the weights ``b`` on the stages ``a``: every tree of that order agrees, one of the next fails.

    Looks no further than ``at_most``; the rows of ``a`` may be given without their trailing zeros. That the nodes are
    the row sums of ``a`` is for `ButcherTableau` to check.

    >>> max_order(((), (1 / 2,), (0, 1 / 2), (0, 0, 1)), (1 / 6, 1 / 3, 1 / 3, 1 / 6))
    4
    """
    square, weights = as_square(as_rows(a, "a")), np.array(as_row(b, "b"))
    for order in range(1, at_most + 1):  # from below: most weights need few trees
        failed, *_ = failed_trees(square, weights, order)
        if failed.size:
            return order - 1
    return at_most


def max_dense_order(tableau: ButcherTableau, at_most: int = 10) -> int:
    """The true order of a tableau's dense output at every theta, looking no further than ``at_most``.

    >>> max_dense_order(ButcherTableau(a=((), (1,)), b=(1 / 2, 1 / 2), c=(0, 1), order=2))
    2
    """
    square, weights = as_square(tableau._all_a), np.array(tableau.interpolant.weights)
    for order in range(1, at_most + 1):
        failed, *_ = failed_dense(square, weights, order)
        if len(failed):
            return order - 1
    return at_most


def stability_radius(a: Sequence[Sequence[float]], b: Sequence[float], order: int) -> float:
    r"""The length of the stable stretch of the negative real axis.

    On ``y' = -z y / h`` one step multiplies ``y`` by ``R(-z)``, with ``R(z) = 1 + sum_k z**k (b a**(k-1) 1)``. The
    radius is the largest ``x`` with ``|R(-z)| <= 1`` for all ``z`` in ``[0, x]``.

    ``order`` replaces the first coefficients by the ``1 / k!`` that they are, free of rounding.

    >>> stability_radius(((),), (1,), 1)  # Euler
    2.0
    >>> round(stability_radius(((), (1 / 2,), (0, 1 / 2), (0, 0, 1)), (1 / 6, 1 / 3, 1 / 3, 1 / 6), 4), 5)
    2.78529
    """
    square, weights = as_square(as_rows(a, "a")), np.array(as_row(b, "b"))
    power = np.ones(len(weights))
    coefficients = [1.0]  # of R(-x), constant term first
    for k in range(1, len(weights) + 1):
        coefficients.append((-1) ** k * (1 / factorial(k) if k <= order else float(weights @ power)))
        power = square @ power
    r = np.trim_zeros(np.array(coefficients), "b")[::-1]
    crossings = np.concatenate([np.roots(r - np.eye(1, r.size, r.size - 1)[0] * sign) for sign in (1, -1)])
    real = np.sort(crossings.real[(np.abs(crossings.imag) < 1e-7) & (crossings.real > 1e-9)])
    # Between two neighbouring crossings |R| - 1 keeps its sign: the first stretch where it is positive ends the radius.
    for left, right in zip(real, [*real[1:], real[-1] + 1.0] if real.size else [], strict=False):
        if abs(np.polyval(r, (left + right) / 2)) > 1 + 1e-12:
            return float(left)
    return float("inf")


def derive_interpolant(a: Sequence[Sequence[float]], b: Sequence[float], c: Sequence[float], order: int) -> Interpolant:
    """Dense output for a method that comes without one.

    Weights of degree ``q`` that satisfy the continuous order conditions up to ``q`` and end in ``b`` solve a linear
    system; of its solutions the smallest is taken. The rule for ``q``, first come first served:

    1. the stages as they are, ``q`` from ``order`` down to ``min(order, 3)``;
    2. one extra stage ``f(t1, y1)``, where no stage is that already, with which order 3 (the cubic Hermite polynomial)
       always exists for methods of order 3 and more;
    3. the stages as they are, with a lower ``q``.

    For each ``q``, weights that also give a continuous slope where the stages allow it (``k_0`` at the start,
    ``f(t1, y1)`` at the end) are preferred.

    >>> derive_interpolant(((), (1 / 2,)), (0, 1), (0, 1 / 2), 2).order  # the midpoint rule
    2
    """
    rows, step, nodes = as_rows(a, "a"), as_row(b, "b"), as_row(c, "c")
    stages = len(step)
    enough = min(order, 3)
    at_end = [i for i in range(stages) if nodes[i] == 1.0 and rows[i] + (0.0,) * (stages - len(rows[i])) == step]
    end = at_end[0] if at_end else None
    for q in range(order, enough - 1, -1):
        weights = solve_dense(as_square(rows), np.array(step), q, end)
        if weights is not None:
            return Interpolant(order=q, weights=weights)
    if end is None:
        extended, padded = as_square((*rows, step)), np.array([*step, 0.0])
        for q in range(order, enough - 1, -1):
            weights = solve_dense(extended, padded, q, stages)
            if weights is not None:
                return Interpolant(order=q, weights=weights, a=(step,), c=(1.0,))
    for q in range(enough - 1, 0, -1):
        weights = solve_dense(as_square(rows), np.array(step), q, end)
        if weights is not None:
            return Interpolant(order=q, weights=weights)
    raise TableauError("interpolant: none exists on these stages, not even of order 1")


def solve_dense(
    a: np.ndarray, b: np.ndarray, q: int, end: int | None, rounding: float = TOLERANCE
) -> tuple[tuple[float, ...], ...] | None:
    """The smallest weights of degree and order ``q`` with ``w(1) = b``, or None where there are none."""
    stages = len(b)
    trees = rooted_trees(q)
    one, powers = np.eye(stages), np.arange(1.0, q + 1)
    conditions = [np.kron(np.eye(q), elementary_weights(a, q)), np.kron(np.ones(q), one)]
    values = [((trees.order == powers[:, None]) / trees.density).ravel(), b]
    smooth = [np.kron(powers == 1, one)], [one[0]]
    if end is not None:
        smooth[0].append(np.kron(powers, one))
        smooth[1].append(one[end])
    for extra, wanted in (smooth, ([], [])):
        matrix, target = np.vstack(conditions + extra), np.concatenate(values + wanted)
        solution = np.linalg.lstsq(matrix, target, rcond=1e-12)[0]
        residual = target - matrix @ solution
        solution += np.linalg.lstsq(matrix, residual, rcond=1e-12)[0]  # refined once, to rounding
        residual = target - matrix @ solution
        if np.all(np.abs(residual) <= rounding * np.abs(matrix).max(axis=1) * np.abs(solution).max()):
            solution[np.abs(solution) < 1e-14 * np.abs(solution).max()] = (
                0.0  # exact zeros, before they were solved for
            )
            return tuple(map(tuple, solution.reshape(q, stages).T.tolist()))
    return None
