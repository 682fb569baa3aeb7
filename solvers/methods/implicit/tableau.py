r"""Tableaus of implicit Runge-Kutta methods, proved when they are built.

.. math:: Y_i = y_0 + h \sum_j a_{ij} f(t_0 + c_j h, Y_j), \qquad y_1 = y_0 + h \sum_i b_i f(t_0 + c_i h, Y_i)

The order conditions are those of all Runge-Kutta methods, with sums over the whole matrix; stability is read off the stability
function. Source: Hairer, Wanner, "Solving Ordinary Differential Equations II", IV.3, IV.5 and IV.6.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ...core.legendre import dense_weights
from ..stability import at_infinity, is_a_stable, real_radius
from ..tableau import solve_dense
from ..tableau_checks import TOLERANCE, TableauError, check_order

# Weights of a predictor beyond this are an extrapolation too far.
_LONGEST = 6.0


@dataclass(frozen=True, eq=False)
class ImplicitTableau:
    r"""The coefficients of a diagonally implicit Runge-Kutta method, proved on construction.

    Args:
        a: row ``i`` holds the ``i + 1`` weights of the stages up to its own; all diagonal entries are one number, except that
            the first may be 0 (ESDIRK).
        b: the weights of the step.
        order: the order of ``b``.
        b_embedded: the weights of the embedded solution; None: steps are fixed.
        embedded_order: the order of ``b_embedded``, which may be the higher one.
        rounding: how exactly the coefficients are printed, relative.

    Attributes:
        stages: the number of stages, an explicit first one among them.
        gamma: the diagonal.
        c: the nodes, the sums of the rows.
        explicit_first: whether the first stage is the field at the start.
        stiffly_accurate: whether the last stage is the step, so that its state is the solution.
        a_stable: whether the method is.
        at_infinity: the modulus of the stability function at infinity, 0 for an L-stable method.
        stability_radius: how far the negative real axis is stable.
        error_weights: ``b`` without ``b_embedded``, or None.
        stiffness_pair: two implicit stages that look at one time with different states, or None.
        dense_order: the order of the dense output, which is derived: the highest that the stages have weights for.
        pieces: the dense output as steps evaluate it.
        predictors: for each stage the weights of the slopes before it that its own begins with.

    Raises:
        TableauError: a shape, the diagonal or an order condition contradicts the claim.

    Example:
        >>> euler = ImplicitTableau(a=((1.0,),), b=(1.0,), order=1)
        >>> euler.stiffly_accurate, euler.a_stable, euler.at_infinity, euler.c
        (True, True, 0.0, (1.0,))
    """

    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    order: int
    b_embedded: tuple[float, ...] | None = None
    embedded_order: int | None = None
    rounding: float = TOLERANCE

    stages: int = field(init=False, repr=False)
    gamma: float = field(init=False, repr=False)
    c: tuple[float, ...] = field(init=False, repr=False)
    explicit_first: bool = field(init=False, repr=False)
    stiffly_accurate: bool = field(init=False, repr=False)
    a_stable: bool = field(init=False, repr=False)
    at_infinity: float = field(init=False, repr=False)
    stability_radius: float = field(init=False, repr=False)
    error_weights: tuple[float, ...] | None = field(init=False, repr=False)
    stiffness_pair: tuple[int, int] | None = field(init=False, repr=False)
    dense_order: int = field(init=False, repr=False)
    pieces: tuple[tuple[float, ...], ...] = field(init=False, repr=False)
    predictors: tuple[tuple[float, ...], ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        def put(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        stages = len(self.b)
        put("stages", stages)
        lengths = [len(row) for row in self.a]
        if lengths != list(range(1, stages + 1)):
            raise TableauError(f"a: got rows of lengths {lengths}; expected 1 to {stages}, up to the diagonal")
        diagonal = [row[-1] for row in self.a]
        put("gamma", float(diagonal[-1]))
        put("explicit_first", diagonal[0] == 0.0)
        implicit = diagonal[1:] if self.explicit_first else diagonal
        if self.gamma <= 0.0 or set(implicit) != {self.gamma}:
            raise TableauError(f"a: got the diagonal {diagonal}; expected one positive number, or 0 in front of them")
        square = np.zeros((stages, stages))
        for i, row in enumerate(self.a):
            square[i, : i + 1] = row
        b = np.array(self.b)
        put("c", tuple(_snapped(x) for x in square.sum(1)))
        check_order("b", square, b, self.order, self.rounding)
        put("error_weights", None)
        if self.b_embedded is not None:
            check_order("b_embedded", square, np.array(self.b_embedded), self.embedded_order, self.rounding)
            put("error_weights", tuple(x - y for x, y in zip(self.b, self.b_embedded, strict=True)))
        put("stiffly_accurate", self.a[-1] == self.b)
        put("a_stable", is_a_stable(square, b))
        put("at_infinity", at_infinity(square, b))
        put("stability_radius", real_radius(square, b))
        first = int(self.explicit_first)
        pairs = [(i, j) for j in range(stages) for i in range(first, j) if self.c[i] == self.c[j]]
        put("stiffness_pair", max(pairs, key=lambda pair: (pair[1], pair[0]), default=None))
        end = stages - 1 if self.stiffly_accurate else None
        found = ((q, solve_dense(square, b, q, end, self.rounding)) for q in range(self.order, 0, -1))
        order, powers = next((q, weights) for q, weights in found if weights is not None)
        put("dense_order", order)
        put("pieces", dense_weights(square, self.b, powers, order))
        put("predictors", tuple(_predictor(self.c[:i], self.c[i]) for i in range(stages)))


def _snapped(node: float) -> float:
    """The node, 0 or 1 themselves where rounding keeps it from them."""
    return next((exact for exact in (0.0, 1.0) if abs(node - exact) < TOLERANCE), float(node))


def _predictor(before: tuple[float, ...], node: float) -> tuple[float, ...]:
    """Weights of slopes at earlier nodes for the slope at a node: by the polynomial through the nearest, up to a parabola.

    >>> _predictor((0.0, 0.5), 1.0)
    (-1.0, 2.0)
    """
    nearest: list[int] = []
    for i in sorted(range(len(before)), key=lambda i: (abs(before[i] - node), -i)):
        if all(abs(before[i] - before[j]) > 1e-3 for j in nearest):
            nearest.append(i)
    for count in range(min(3, len(nearest)), 0, -1):
        used = nearest[:count]
        weights = [float(np.prod([(node - before[j]) / (before[i] - before[j]) for j in used if j != i])) for i in used]
        if sum(map(abs, weights)) <= _LONGEST:
            out = dict(zip(used, weights, strict=True))
            return tuple(out.get(i, 0.0) for i in range(len(before)))
    return ()
