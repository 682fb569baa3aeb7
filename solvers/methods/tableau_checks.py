"""What every tableau is held to: numbers in the right shape, row sums, and the order conditions of the rooted trees."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..checks import as_number, shown
from ..core.rooted_trees import elementary_weights, rooted_trees

# Relative to the sum of the absolute terms of a condition. Coefficients rounded to double precision leave about 1e-15;
# a wrong digit that matters leaves far more.
TOLERANCE = 1e-12


class TableauError(ValueError):
    """A tableau contradicts itself or its claims; the message names the part, the row or tree, and both numbers.

    Raised by:
        :class:`ButcherTableau` and the tableaus of stochastic methods, when they are made.

    Example:
        >>> import neuralde as nde
        >>> nde.ButcherTableau(a=((), (0.5,)), b=(0.0, 1.0), c=(0.0, 0.4), order=2)
        Traceback (most recent call last):
        ...
        neuralde.solvers.methods.tableau_checks.TableauError: c: stage 1 has node 0.4, expected its row sum of a, 0.5
    """


def as_row(values: Sequence[float], name: str) -> tuple[float, ...]:
    """A sequence of finite numbers as a tuple."""
    try:
        row = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        raise TableauError(f"{name}: got {shown(values)}; expected a sequence of numbers") from None
    if not np.all(np.isfinite(row)):
        raise TableauError(f"{name}: {row} has an entry that is not finite")
    return row


def as_rows(values: Sequence[Sequence[float]], name: str) -> tuple[tuple[float, ...], ...]:
    """Rows of finite numbers as tuples."""
    if not isinstance(values, Sequence):
        raise TableauError(f"{name}: got {shown(values)}; expected a sequence of rows of numbers")
    return tuple(as_row(row, f"{name}, row {i}") for i, row in enumerate(values))


def as_square(rows: Sequence[Sequence[float]]) -> np.ndarray:
    """Rows without their trailing zeros as a square matrix."""
    square = np.zeros((len(rows), len(rows)))
    for i, row in enumerate(rows):
        square[i, : len(row)] = row
    return square


def check_triangle(name: str, rows: Sequence[Sequence[float]], first: int) -> None:
    """Refuse rows that do not have one entry for each earlier stage."""
    for i, row in enumerate(rows):
        if len(row) != first + i:
            raise TableauError(f"{name}: row {i} has {len(row)} entries, expected {first + i} (one per earlier stage)")


def check_row_sums(name: str, rows: Sequence[Sequence[float]], nodes: Sequence[float], first: int) -> None:
    """Refuse nodes that are not the sums of their rows."""
    for i, (row, node) in enumerate(zip(rows, nodes, strict=False)):
        if abs(sum(row) - node) > TOLERANCE * (sum(map(abs, row)) + abs(node)):
            raise TableauError(f"{name}: stage {first + i} has node {node!r}, expected its row sum of a, {sum(row)!r}")


def failed_trees(
    a: np.ndarray, b: np.ndarray, order: int, rounding: float = TOLERANCE
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The trees up to ``order`` whose condition ``b`` does not satisfy, and both sides for all trees."""
    trees = rooted_trees(order)
    phi = elementary_weights(a, order)
    came, expected = phi @ b, 1 / trees.density
    return np.flatnonzero(np.abs(came - expected) > rounding * (np.abs(phi) @ np.abs(b) + expected)), came, expected


def failed_dense(a: np.ndarray, weights: np.ndarray, order: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The (tree, power of theta - 1) pairs that fail in ``sum_i w_i(theta) Phi_i(t) = theta**|t| / gamma(t)``."""
    trees = rooted_trees(order)
    phi = elementary_weights(a, order)
    came = phi @ weights
    size = (np.abs(phi) @ np.abs(weights)).max(axis=1, keepdims=True)  # what cancels at some power of theta rounds
    expected = (trees.order[:, None] == np.arange(1, weights.shape[1] + 1)) / trees.density[:, None]
    failed = np.abs(came - expected) > TOLERANCE * (size + expected)
    failed |= (trees.order > weights.shape[1])[:, None]  # a power of theta that the weights do not have
    return np.argwhere(failed), came, expected


def check_order(name: str, a: np.ndarray, b: np.ndarray, order: int | None, rounding: float = TOLERANCE) -> None:
    """Refuse an order that the weights do not have."""
    found = as_number(order)
    if order is None or not isinstance(found, int) or found < 1:
        raise TableauError(f"{name}: order must be an integer of at least 1, got {order!r}")
    failed, came, _ = failed_trees(a, b, order, rounding)
    if failed.size:
        i, trees = int(failed[0]), rooted_trees(order)
        raise TableauError(
            f"{name}: claimed order {order}, but the weights have order {trees.order[i] - 1}: tree {trees.name(i)} "
            f"(order {trees.order[i]}) gives {came[i]!s}, expected 1/{trees.density[i]:.0f}"
        )


def check_dense_order(a: np.ndarray, weights: np.ndarray, order: int) -> None:
    """Refuse an order that the dense output does not have."""
    found = as_number(order)
    if not isinstance(found, int) or found < 1:
        raise TableauError(f"interpolant.order: must be an integer of at least 1, got {order!r}")
    failed, came, expected = failed_dense(a, weights, order)
    if len(failed):
        (i, j), trees = failed[0], rooted_trees(order)
        raise TableauError(
            f"interpolant.weights: claimed order {order}, but they have order {trees.order[i] - 1}: tree "
            f"{trees.name(i)} (order {trees.order[i]}) gives {came[i, j]!s} times theta**{j + 1}, expected "
            f"{expected[i, j]!s}"
        )
