r"""Tableaus of stochastic Runge-Kutta methods that refuse to be wrong.

One step over ``h`` with the increment W and the space-time Lévy area H evaluates, stage by stage,

.. math::

    Y_i &= y_0 + h \sum_j a_{ij} f_j + \sum_j \bigl(a^W_{ij} W + a^H_{ij} H + a^R_{ij} \sqrt h\bigr) g_j,
    \qquad f_i = f(t_0 + c_i h, Y_i), \quad g_i = g(t_0 + c_i h, Y_i) \\
    y_1 &= y_0 + h \sum_i b_i f_i
        + \sum_i \Bigl(b^W_i W + b^H_i H + b^{WW}_i \frac{I_{11}}{\sqrt h} + b^{WWW}_i \frac{I_{111}}{h}\Bigr) g_i

with :math:`I_{11} = (W^2 - h)/2` and :math:`I_{111} = (W^3 - 3 h W)/6`. In these, :math:`I_{10} / h = W/2 + H`. With
several noises a term is :math:`g_i` applied to the vector of the noises, entry by entry where g is diagonal. A stage
may serve the drift, the diffusion or both; `StochasticTableau.drift_stages` and `diffusion_stages` say which, so that a
step calls nothing in vain. A stage without weights is :math:`y_0`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..tableau_checks import TableauError
from .order_conditions import Matrices, Rows, strong_order

NOISES = ("additive", "scalar", "diagonal", "commutative", "general")
Row = tuple[float, ...]


@dataclass(frozen=True)
class Weights:
    r"""How the stages make a step, one weight each; an empty row stands for zeros.

    Args:
        drift: of ``h`` on the drifts.
        w: of W on the diffusions.
        h: of H on the diffusions.
        ww: of :math:`I_{11} / \sqrt h`.
        www: of :math:`I_{111} / h`.

    Example:
        >>> from neuralde.solvers.methods.stochastic.tableau import Weights
        >>> Weights(drift=(1.0,), w=(1.0,))  # Euler and Maruyama's method
        Weights(drift=(1.0,), w=(1.0,), h=(), ww=(), www=())
    """

    drift: Row = ()
    w: Row = ()
    h: Row = ()
    ww: Row = ()
    www: Row = ()


@dataclass(frozen=True, eq=False)
class StochasticTableau:
    """The coefficients of an explicit stochastic Runge-Kutta method, proved on construction.

    Args:
        name: the method's name in the literature.
        calculus: ``"ito"``, ``"stratonovich"``, or ``"any"`` for additive noise, where they agree.
        orders: the strong order for each kind of noise (``"additive"``, ``"scalar"``, ``"diagonal"``,
            ``"commutative"``, ``"general"``) that the method is for.
        c: when each stage is, in steps.
        a: weights of the earlier drifts, row by row; row ``i`` has ``i`` entries.
        a_w: weights of W on the earlier diffusions; None for zeros.
        a_h: weights of H.
        a_root: weights of the square root of h.
        solution: the step.
        embedded: a second solution, whose distance from the step is the error estimate; None without one.
        embedded_order: its strong order.

    Attributes:
        stages: how many.
        drift_stages: for each stage whether the drift is evaluated there.
        diffusion_stages: likewise.
        levy_area: ``"space-time"`` where H is needed, otherwise ``"none"``: what to ask a `BrownianPath` for.
        error: ``solution - embedded``, weight by weight, or None.

    The conditions are those of one noise, computed from trees for every weight up to the order (see ``conditions.py``).
    They decide about scalar and diagonal noise, about several additive noises, and about commutative noise up to order
    1 and general noise of order 1/2. For order 3/2 with several commutative noises they are necessary.

    Raises:
        TableauError: a shape, a row sum or a condition contradicts the claims; the message names it and both numbers.

    Example:
        >>> from neuralde.solvers.methods.stochastic.tableau import StochasticTableau, Weights
        >>> StochasticTableau("Euler", "ito", {"scalar": 1.0}, c=(0,), a=((),), solution=Weights((1,), (1,)))
        Traceback (most recent call last):
        ...
        neuralde.solvers.methods.tableau_checks.TableauError: Euler: for scalar noise the order is 0.5, claimed 1; g'(g) has 0 at \
W^0 H^0, expected -0.5
    """

    name: str
    calculus: str
    orders: Mapping[str, float]
    c: Row
    a: tuple[Row, ...]
    solution: Weights
    a_w: tuple[Row, ...] | None = None
    a_h: tuple[Row, ...] | None = None
    a_root: tuple[Row, ...] | None = None
    embedded: Weights | None = None
    embedded_order: float | None = None

    stages: int = field(init=False)
    drift_stages: tuple[bool, ...] = field(init=False)
    diffusion_stages: tuple[bool, ...] = field(init=False)
    levy_area: str = field(init=False)
    error: Weights | None = field(init=False)

    def __post_init__(self) -> None:
        def put(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        put("stages", len(self.c))
        put("c", _numbers(self.c))
        put("a", self._checked_rows("a"))
        for name in ("a_w", "a_h", "a_root"):
            put(name, self._checked_rows(name))
        for name in ("solution", "embedded"):
            put(name, self._checked_weights(name))
        if (self.embedded is None) != (self.embedded_order is None):
            raise TableauError(f"{self.name}: give embedded and embedded_order both, or neither")
        if self.calculus not in ("ito", "stratonovich", "any"):
            raise TableauError(f'{self.name}: calculus is {self.calculus!r}, expected "ito", "stratonovich" or "any"')
        wrong = [noise for noise in self.orders if noise not in NOISES]
        if wrong or not self.orders:
            raise TableauError(f"{self.name}: orders are for {[*self.orders]}, expected some of {NOISES}")
        if self.calculus == "any" and set(self.orders) != {"additive"}:
            raise TableauError(f'{self.name}: calculus "any" is for additive noise, not {[*self.orders]}')

        m, rows = self._matrices(), self._rows(self.solution)
        others = [] if self.embedded is None else [self._rows(self.embedded)]
        uses = [m.a, *(np.atleast_2d(row.drift) for row in (rows, *others))]
        put("drift_stages", _used(uses))
        uses = [m.w, m.h, m.root, *(np.array(row[1:]) for row in (rows, *others))]
        put("diffusion_stages", _used(uses))
        put("levy_area", "space-time" if any(np.any(row) for row in [m.h, rows.h]) else "none")
        self._check_nodes(m)
        for noise, order in self.orders.items():
            self._check_order("", self.solution, noise, order)
            if self.embedded is not None and self.embedded_order is not None:
                self._check_order("embedded, ", self.embedded, noise, min(order, self.embedded_order))
        put("error", None)
        if self.embedded is not None:
            if self.embedded == self.solution:
                raise TableauError(f"{self.name}: embedded equals the solution: the error would always be zero")
            gap = [np.subtract(x, y) for x, y in zip(rows, others[0], strict=True)]
            put("error", Weights(*(tuple(row.tolist()) if row.any() else () for row in gap)))

    def quiet_stage(self, any_state: bool) -> int | None:
        """The first stage with a diffusion that no noise has moved; with ``any_state`` the first with one."""
        for i, here in enumerate(self.diffusion_stages):
            rows = self.a_w, self.a_h, self.a_root
            if here and (any_state or not any(any(row[i]) for row in rows if row is not None)):
                return i
        return None

    def bent_stage(self, quiet: int) -> int | None:
        r"""The first stage with a diffusion that only :math:`\sqrt h` times that of the quiet stage has moved, and drift."""
        for i, here in enumerate(self.diffusion_stages):
            moved = [j for row in (self.a_w, self.a_h) if row is not None for j, x in enumerate(row[i]) if x]
            root = [] if self.a_root is None else [j for j, x in enumerate(self.a_root[i]) if x]
            if here and not moved and root == [quiet]:
                return i
        return None

    def _checked_rows(self, name: str) -> tuple[Row, ...]:
        rows: Any = getattr(self, name)
        rows = tuple((0.0,) * i for i in range(self.stages)) if rows is None else tuple(map(_numbers, rows))
        lengths = [len(row) for row in rows]
        if lengths != [*range(self.stages)]:
            raise TableauError(
                f"{self.name}: the rows of {name} have {lengths} entries, expected 0 to {self.stages - 1}"
            )
        return rows

    def _checked_weights(self, name: str) -> Weights | None:
        weights: Weights | None = getattr(self, name)
        if weights is None:
            return None
        rows = Weights(*(_numbers(row) for row in vars(weights).values()))
        for part, row in vars(rows).items():
            if len(row) not in (0, self.stages):
                raise TableauError(f"{self.name}: {name}.{part} has {len(row)} entries, expected {self.stages} or none")
        return rows

    def _check_nodes(self, m: Matrices) -> None:
        """Times are row sums; a stage that serves only an additive diffusion may have any."""
        additive = set(self.orders) == {"additive"}
        for i, total in enumerate(m.a.sum(axis=1)):
            if (self.drift_stages[i] or not additive) and abs(total - self.c[i]) > 1e-13 * (1 + np.abs(m.a[i]).sum()):
                raise TableauError(
                    f"{self.name}: c of stage {i} is {self.c[i]:.15g}, expected its row sum {total:.15g}"
                )

    def _check_order(self, which: str, weights: Weights, noise: str, claim: float) -> None:
        order, reason = strong_order(
            self._matrices(), self._rows(weights), self.calculus != "stratonovich", noise == "additive"
        )
        if order < claim:
            raise TableauError(
                f"{self.name}: {which}for {noise} noise the order is {order:g}, claimed {claim:g}; {reason}"
            )

    def _matrices(self) -> Matrices:
        return Matrices(np.array(self.c), *(_square(getattr(self, name)) for name in ("a", "a_w", "a_h", "a_root")))

    def _rows(self, weights: Weights) -> Rows:
        return Rows(*(np.array(row or (0.0,) * self.stages) for row in vars(weights).values()))


def _numbers(row: Sequence[float]) -> Row:
    return tuple(float(value) for value in row)


def _square(rows: tuple[Row, ...]) -> np.ndarray:
    return np.array([(*row, *(0.0,) * (len(rows) - len(row))) for row in rows]).reshape(len(rows), len(rows))


def _used(uses: list[np.ndarray]) -> tuple[bool, ...]:
    """For each stage whether some weight is not zero."""
    return tuple(bool(one) for one in np.any([np.any(rows != 0.0, axis=0) for rows in uses], axis=0))
