r"""Tableaus of Rosenbrock methods, proved when they are built.

One step, in the form that needs no product with the Jacobian J (Hairer, Wanner II, (7.25)):

.. math:: \Bigl(\frac{1}{h \gamma} I - J\Bigr) u_i = f\Bigl(t_0 + \alpha_i h,\; y_0 + \sum_{j<i} a_{ij} u_j\Bigr)
          + \sum_{j<i} \frac{c_{ij}}{h} u_j + \gamma_i h\, \frac{\partial f}{\partial t}, \qquad
          y_1 = y_0 + \sum_i m_i u_i

The order conditions are those of the form with slopes :math:`k_i`, :math:`u = \Gamma h k`: a vertex of a tree with one branch
takes :math:`\beta = \alpha + \Gamma`, one with more takes :math:`\alpha` (theorem IV.7.4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ...core.legendre import from_powers
from ...core.rooted_trees import rooted_trees
from ..stability import at_infinity, is_a_stable, real_radius
from ..tableau import TableauError

# Relative to the sum of the moduli of a condition's terms; published coefficients have 15 digits.
TOLERANCE = 2e-12
# A node this close to 0 or 1 is it.
_NODE = 1e-13


@dataclass(frozen=True, eq=False)
class RosenbrockTableau:
    r"""The coefficients of a Rosenbrock method, proved on construction.

    Args:
        gamma: the diagonal of :math:`\Gamma`.
        a: the weights of earlier stages in the argument of the field, a row for each stage, the first one ``()``.
        c: those beside the field's value, likewise.
        m: the weights of the step.
        m_embedded: the weights of the embedded solution.
        order: the order of ``m``.
        embedded_order: the order of ``m_embedded``, which may be the higher one.
        dense: the weights of the dense output, for each stage those of :math:`\theta, \theta^2, \dots`
        dense_order: the order of the dense output.

    Attributes:
        stages: the number of stages.
        nodes: :math:`\alpha_i`, where each stage looks.
        in_time: :math:`\gamma_i`, how much of the slope in time each stage takes.
        fsal: whether the last stage looks at the end of the step, so that its value is the next one's first.
        stiffness_pair: two stages that look at one time with different states.
        a_stable: whether the method is.
        at_infinity: the modulus of the stability function at infinity, 0 for an L-stable method.
        stability_radius: how far the negative real axis is stable.
        error_weights: ``m`` without ``m_embedded``.
        pieces: the dense output as steps evaluate it.

    Raises:
        TableauError: a shape, an order condition or the dense output contradicts the claim.

    Example:
        >>> linear = RosenbrockTableau(
        ...     gamma=1.0, a=((),), c=((),), m=(1.0,), m_embedded=(0.5,), order=1, embedded_order=0,
        ...     dense=((1.0,),), dense_order=1)
        >>> linear.a_stable, linear.at_infinity, linear.in_time
        (True, 0.0, (1.0,))
    """

    gamma: float
    a: tuple[tuple[float, ...], ...]
    c: tuple[tuple[float, ...], ...]
    m: tuple[float, ...]
    m_embedded: tuple[float, ...]
    order: int
    embedded_order: int
    dense: tuple[tuple[float, ...], ...]
    dense_order: int

    stages: int = field(init=False, repr=False)
    nodes: tuple[float, ...] = field(init=False, repr=False)
    in_time: tuple[float, ...] = field(init=False, repr=False)
    fsal: bool = field(init=False, repr=False)
    stiffness_pair: tuple[int, int] | None = field(init=False, repr=False)
    a_stable: bool = field(init=False, repr=False)
    at_infinity: float = field(init=False, repr=False)
    stability_radius: float = field(init=False, repr=False)
    error_weights: tuple[float, ...] = field(init=False, repr=False)
    pieces: tuple[tuple[float, ...], ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        def put(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        stages = len(self.m)
        put("stages", stages)
        for name in ("a", "c"):
            lengths = [len(row) for row in getattr(self, name)]
            if lengths != list(range(stages)):
                raise TableauError(f"{name}: got rows of lengths {lengths}; expected 0 to {stages - 1}")
        for name in ("m_embedded", "dense"):
            if len(getattr(self, name)) != stages:
                raise TableauError(f"{name}: got {len(getattr(self, name))} entries; expected {stages}")
        gammas = np.linalg.inv(np.eye(stages) / self.gamma - _square(self.c))
        alpha = _square(self.a) @ gammas
        put("nodes", tuple(_snapped(x) for x in alpha.sum(1)))
        put("in_time", tuple(_snapped(x) for x in gammas.sum(1)))
        weights = np.array(self.m) @ gammas
        _check("m", alpha, gammas, weights[:, None], self.order)
        embedded = np.array(self.m_embedded) @ gammas
        if self.embedded_order:
            _check("m_embedded", alpha, gammas, embedded[:, None], self.embedded_order)
        powers = np.array(self.dense)
        if not np.allclose(powers.sum(1), self.m, rtol=0, atol=1e-11 * np.abs(powers).sum()):
            raise TableauError("dense: its weights at the end of the step differ from m")
        _check("dense", alpha, gammas, gammas.T @ powers, self.dense_order)
        put("error_weights", tuple(x - y for x, y in zip(self.m, self.m_embedded, strict=True)))
        rows = np.array([from_powers(row) for row in powers.tolist()])
        rows[:, 0] = self.m
        put("pieces", tuple(map(tuple, rows.tolist())))
        beta = alpha + gammas
        put("a_stable", is_a_stable(beta, weights))
        put("at_infinity", at_infinity(beta, weights))
        put("stability_radius", real_radius(beta, weights))
        last = (*self.a[-1], 0.0)
        put("fsal", self.nodes[-1] == 1.0 and np.allclose(last, self.m, rtol=0, atol=1e-14))
        pairs = [(i, j) for j in range(stages) for i in range(j) if self.nodes[i] == self.nodes[j]]
        put("stiffness_pair", max(pairs, key=lambda pair: (pair[1], pair[0]), default=None))


def _square(rows: Sequence[Sequence[float]]) -> np.ndarray:
    square = np.zeros((len(rows), len(rows)))
    for i, row in enumerate(rows):
        square[i, : len(row)] = row
    return square


def _snapped(node: float) -> float:
    """The node, 0 or 1 themselves where rounding keeps it from them."""
    return next((exact for exact in (0.0, 1.0) if abs(node - exact) < _NODE), float(node))


def rosenbrock_weights(alpha: np.ndarray, gammas: np.ndarray, max_order: int) -> tuple[np.ndarray, np.ndarray]:
    """The elementary weights of every tree, a row for each, and the same with the moduli of all coefficients."""
    trees, out = rooted_trees(max_order), []
    for a, beta in ((alpha, alpha + gammas), (np.abs(alpha), np.abs(alpha) + np.abs(gammas))):
        phi = np.ones((trees.order.size, len(a)))
        several = np.ones_like(phi)  # the product over all branches, by alpha
        for i in range(1, len(phi)):
            trunk, branch = trees.trunk[i], trees.branch[i]
            several[i] = several[trunk] * (a @ phi[branch])
            phi[i] = beta @ phi[branch] if trunk == 0 else several[i]
        out.append(phi)
    return out[0], out[1]


def _check(name: str, alpha: np.ndarray, gammas: np.ndarray, weights: np.ndarray, order: int) -> None:
    """Refuse weights, a column for each power of theta (one: at the end of the step), without the order."""
    trees = rooted_trees(order)
    phi, size = rosenbrock_weights(alpha, gammas, order)
    came, terms = phi @ weights, size @ np.abs(weights)
    if weights.shape[1] == 1 and name != "dense":
        expected = 1.0 / trees.density[:, None]
    else:
        expected = (trees.order[:, None] == np.arange(1, weights.shape[1] + 1)) / trees.density[:, None]
    failed = np.argwhere(np.abs(came - expected) > TOLERANCE * (terms.max(axis=1, keepdims=True) + expected))
    if len(failed):
        i, j = failed[0]
        raise TableauError(
            f"{name}: claimed order {order}, but it has order {trees.order[i] - 1}: tree {trees.name(int(i))} (order "
            f"{trees.order[i]}) gives {came[i, j]!s}, expected {expected[i, j]!s}"
        )


def from_slopes(
    alpha: np.ndarray,
    gammas: np.ndarray,
    b: np.ndarray,
    b_embedded: np.ndarray,
    orders: tuple[int, int],
    dense: np.ndarray,
    dense_order: int,
) -> RosenbrockTableau:
    r"""The tableau of a method that is written in its slopes :math:`k = \Gamma^{-1} u / h`, as papers derive them."""
    inverse = np.linalg.inv(gammas)
    stages = len(b)
    a, c = alpha @ inverse, np.diag(1.0 / np.diag(gammas)) - inverse
    a[np.abs(a) < 1e-15] = 0.0
    return RosenbrockTableau(
        gamma=float(gammas[0, 0]),
        a=tuple(tuple(a[i, :i].tolist()) for i in range(stages)),
        c=tuple(tuple(c[i, :i].tolist()) for i in range(stages)),
        m=tuple((b @ inverse).tolist()),
        m_embedded=tuple((b_embedded @ inverse).tolist()),
        order=orders[0],
        embedded_order=orders[1],
        dense=tuple(map(tuple, (inverse.T @ dense).tolist())),
        dense_order=dense_order,
    )


def bent_line(m: Sequence[float], *bends: Sequence[float]) -> tuple[tuple[float, ...], ...]:
    r"""The weights of :math:`(1 - \theta) y_0 + \theta (y_1 + (1 - \theta) (d_1 + \theta d_2 + \theta^2 d_3 + \dots))`.

    Args:
        m: the weights of the step.
        bends: those of :math:`d_1, d_2, \dots`

    >>> bent_line((1.0,), (0.5,))
    ((1.5, -0.5),)
    """
    powers = np.zeros((len(m), len(bends) + 1))
    powers[:, 0] = m
    for j, row in enumerate(bends):
        powers[:, j] += row
        powers[:, j + 1] -= row
    return tuple(map(tuple, powers.tolist()))
