r"""The functions in which the solution between the ends of a step is written, and the only place that evaluates them.

With :math:`\theta = (t - t_0) / h` and the Legendre polynomials :math:`P_j` at :math:`x = 2 \theta - 1`,

.. math:: y(t_0 + \theta h) = y_0 + \theta\, r_0 + \sum_{j \ge 1} E_j(\theta)\, r_j, \qquad
          E_j = P_{j+1} - P_{j-1}, \quad E_j' = 2 (2 j + 1) P_j.

Every :math:`E_j` is 0 at both ends, so that :math:`r_0` is the step's increment, and the slope is a Legendre series.
Powers of theta cancel instead: the terms of Vern9's weights on them add up to 2e5, here to 3, and so does the rounding.

Source: Szabo, Babuska, Finite Element Analysis (1991), section 6.1 (the integrated Legendre polynomials).
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import factorial
from typing import Any

import numpy as np
from torch import Tensor

from .rooted_trees import elementary_weights, rooted_trees
from .scalars import Scalar, real_dtype

# Of the conditions' singular values, relative to the largest, what is left out when rounded weights are repaired: what
# rounding took shows in the large ones, and along the small ones the repair would move weights that it need not.
_SINGULAR = 3e-3


def _polynomials(theta: Any, count: int) -> list[Any]:
    """The first ``count`` Legendre polynomials, shifted to [0, 1]: numbers of the kind that ``theta`` is."""
    x = 2.0 * theta - 1.0
    values = [0.0 * x + 1.0, x]
    for j in range(1, count - 1):
        product = x * values[j]
        values.append(product + (product - values[j - 1]) * (j / (j + 1)))
    return values[:count]


def basis(theta: Any, count: int) -> list[Any]:
    r"""The values at theta of :math:`1, \theta, E_1, E_2, \dots`: ``count`` numbers, or tensors like ``theta``.

    >>> basis(0.25, 4)
    [1.0, 0.25, -1.125, 0.9375]
    """
    values = _polynomials(theta, count)
    return [values[0], theta, *(values[j + 1] - values[j - 1] for j in range(1, count - 1))][:count]


def slopes(theta: Any, count: int) -> list[Any]:
    """The derivatives of :func:`basis` by theta.

    >>> slopes(0.25, 4)
    [0.0, 1.0, -3.0, -1.25]
    """
    one, *values = _polynomials(theta, count - 1)
    return [0.0 * one, one, *((4.0 * j + 2.0) * value for j, value in enumerate(values, 1))][:count]


def evaluate(theta: Scalar, y0: Tensor, pieces: Sequence[Tensor]) -> Tensor:
    """The state at a relative time.

    Args:
        theta: a number, or a tensor that broadcasts against the states; best in float64, whatever they are.
        y0: the state at the start of the step.
        pieces: the increment over the step, and the coefficients of the :math:`E_j`.
    """
    return y0 + _sum(basis(theta, len(pieces) + 1), pieces)


def derivative(theta: Scalar, pieces: Sequence[Tensor]) -> Tensor:
    """The derivative of :func:`evaluate` by theta."""
    return _sum(slopes(theta, len(pieces) + 1), pieces)


def _sum(values: Sequence[Any], pieces: Sequence[Tensor]) -> Tensor:
    """What the pieces add up to; the smallest first."""
    kind = real_dtype(pieces[0])
    weights = [value.to(kind) if isinstance(value, Tensor) else value for value in values[1:]]
    total = weights[-1] * pieces[-1]
    for weight, piece in zip(weights[-2::-1], pieces[-2::-1], strict=True):
        total = total + weight * piece
    return total


def from_powers(weights: Sequence[float | Fraction]) -> list[float]:
    r"""The coefficients of :math:`\theta, E_1, E_2, \dots` of a polynomial without constant term, rounded once.

    Args:
        weights: those of :math:`\theta, \theta^2, \dots`

    >>> from_powers([1.0, -1.0])  # theta (1 - theta) = -E_1 / 6
    [0.0, -0.16666666666666666]
    """
    exact = [Fraction(weight) for weight in weights]
    out = []
    for j in range(len(exact)):
        # The slope's coefficient on P_j is (2 j + 1) times its integral against it; E_j' is 2 (2 j + 1) P_j.
        terms = [w * (n + 1) * _moment(n, j) for n, w in enumerate(exact) if n >= j]
        out.append(float(sum(terms) / (1 if j == 0 else 2)))
    return out


def _moment(n: int, j: int) -> Fraction:
    r""":math:`\int_0^1 \theta^n P_j(2 \theta - 1) \, d\theta` for ``n >= j``."""
    return Fraction(factorial(n) ** 2, factorial(n - j) * factorial(n + j + 1))


def dense_weights(
    a: np.ndarray, b: Sequence[float], powers: Sequence[Sequence[float]], order: int
) -> tuple[tuple[float, ...], ...]:
    r"""The weights of the stages in :math:`r_0, r_1, \dots`, a row for each stage, from those on powers of theta.

    Weights on powers are large and printed with so many digits, so that what they stand for is known to an absolute
    rounding only, 1e-12 for Vern9. The order conditions, which are linear in them, know the rest: the smallest change that
    fulfills them again is added.

    Args:
        a: the square matrix of all stages, extra ones too.
        b: the weights of the step, for its own stages.
        powers: for each stage its weights on the powers of theta.
        order: how far the conditions hold.
    """
    weights = np.array([from_powers(row) for row in powers])
    weights[:, 0] = [*b, *[0.0] * (len(weights) - len(b))]
    trees, degree = rooted_trees(order), weights.shape[1]
    unit = np.eye(degree).tolist()
    columns = np.array([from_powers(unit[power - 1]) for power in range(1, order + 1)])
    wanted = columns[trees.order.astype(int) - 1] / trees.density[:, None]
    used = np.flatnonzero(np.abs(weights).sum(axis=1))
    conditions = elementary_weights(a, order)[:, used]
    for _ in range(2):
        missing = wanted - conditions @ weights[used]
        weights[used, 1:] += np.linalg.lstsq(conditions, missing[:, 1:], rcond=_SINGULAR)[0]
    return tuple(map(tuple, weights.tolist()))
