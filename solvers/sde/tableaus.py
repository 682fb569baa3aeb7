r"""Tableaus of stochastic Runge-Kutta methods that refuse to be wrong.

One step over ``h`` with the increment W and the space-time Levy area H evaluates, stage by stage,

.. math::

    Y_i &= y_0 + h \sum_j a_{ij} f_j + \sum_j \bigl(a^W_{ij} W + a^H_{ij} H + a^R_{ij} \sqrt h\bigr) g_j,
    \qquad f_i = f(t_0 + c_i h, Y_i), \quad g_i = g(t_0 + c_i h, Y_i) \\
    y_1 &= y_0 + h \sum_i b_i f_i
        + \sum_i \Bigl(b^W_i W + b^H_i H + b^{WW}_i \frac{I_{11}}{\sqrt h} + b^{WWW}_i \frac{I_{111}}{h}\Bigr) g_i

with :math:`I_{11} = (W^2 - h)/2` and :math:`I_{111} = (W^3 - 3 h W)/6`. In these, :math:`I_{10} / h = W/2 + H`. With
several noises a term is :math:`g_i` applied to the vector of the noises, entry by entry where g is diagonal. A stage
may serve the drift, the diffusion or both; `StochasticTableau.drift_stages` and `diffusion_stages` say which, so that a
step calls nothing in vain. A stage without weights is :math:`y_0`.

Roessler's methods have separate stages for drift and diffusion; here they are merged where they are the same. His
embedded solution is the one of strong order 1 that his conditions give without the integrals :math:`I_{10}` and
:math:`I_{111}`, with Euler's drift.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import sqrt
from typing import Any

import numpy as np

from ..tableau import TableauError
from .conditions import Matrices, Rows, strong_order

__all__ = ["SHARK", "SLOWRK", "SOSRI", "SPARK", "SRA1", "SRA3", "SRIW1", "StochasticTableau", "Weights"]

NOISES = ("additive", "scalar", "diagonal", "commutative", "general")
_Row = tuple[float, ...]


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
        >>> from neuralde.solvers.sde.tableaus import Weights
        >>> Weights(drift=(1.0,), w=(1.0,))  # Euler and Maruyama's method
        Weights(drift=(1.0,), w=(1.0,), h=(), ww=(), www=())
    """

    drift: _Row = ()
    w: _Row = ()
    h: _Row = ()
    ww: _Row = ()
    www: _Row = ()


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
        >>> from neuralde.solvers.sde.tableaus import StochasticTableau, Weights
        >>> StochasticTableau("Euler", "ito", {"scalar": 1.0}, c=(0,), a=((),), solution=Weights((1,), (1,)))
        Traceback (most recent call last):
        ...
        neuralde.solvers.tableau.TableauError: Euler: for scalar noise the order is 0.5, claimed 1; g'(g) has 0 at \
W^0 H^0, expected -0.5
    """

    name: str
    calculus: str
    orders: Mapping[str, float]
    c: _Row
    a: tuple[_Row, ...]
    solution: Weights
    a_w: tuple[_Row, ...] | None = None
    a_h: tuple[_Row, ...] | None = None
    a_root: tuple[_Row, ...] | None = None
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

    def _checked_rows(self, name: str) -> tuple[_Row, ...]:
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


def _numbers(row: Sequence[float]) -> _Row:
    return tuple(float(value) for value in row)


def _square(rows: tuple[_Row, ...]) -> np.ndarray:
    return np.array([(*row, *(0.0,) * (len(rows) - len(row))) for row in rows]).reshape(len(rows), len(rows))


def _used(uses: list[np.ndarray]) -> tuple[bool, ...]:
    """For each stage whether some weight is not zero."""
    return tuple(bool(one) for one in np.any([np.any(rows != 0.0, axis=0) for rows in uses], axis=0))


def _roessler_sri(
    name: str,
    a0: Sequence[Sequence[float]],
    a1: Sequence[Sequence[float]],
    b0: Sequence[Sequence[float]],
    b1: Sequence[Sequence[float]],
    alpha: Sequence[float],
    beta: Sequence[Sequence[float]],
) -> StochasticTableau:
    """Roessler's form, of ``s`` drift and ``s`` diffusion stages, merged into one list of stages.

    ``I_10 / h`` on a drift stage is ``W / 2 + H``; ``beta`` holds the weights of W, I_11, I_10 and I_111.
    """
    drift = [i for i in range(len(alpha)) if alpha[i] or any(row[i] for row in (*a0, *a1) if len(row) > i)]
    noise = [
        i for i in range(len(alpha)) if any(row[i] for row in beta) or any(row[i] for row in (*b0, *b1) if len(row) > i)
    ]
    # In an order in which everything is there when it is used: the diffusion's stage i may use the drift's up to i - 1.
    order = sorted([(i, 0) for i in drift] + [(i, 1) for i in noise if i or 0 not in drift])
    place = {stage: n for n, stage in enumerate(order)}
    if 0 in drift:
        place[0, 1] = place[0, 0]  # both are y0

    def spread(row: Sequence[float], kind: int, width: int) -> _Row:
        out = [0.0] * width
        for i, value in enumerate(row):
            if value:
                out[place[i, kind]] = value
        return tuple(out)

    drifts = [spread((a0, a1)[kind][i], 0, n) for n, (i, kind) in enumerate(order)]
    chi = [spread(b0[i] if kind == 0 else (), 1, n) for n, (i, kind) in enumerate(order)]
    root = [spread(b1[i] if kind == 1 else (), 1, n) for n, (i, kind) in enumerate(order)]
    stages = len(order)
    b, b_w, b_ww, b_chi, b_www = (
        spread(row, kind, stages) for row, kind in zip((alpha, *beta), (0, 1, 1, 1, 1), strict=True)
    )
    return StochasticTableau(
        name,
        "ito",
        {"scalar": 1.5, "diagonal": 1.5},
        c=tuple(sum(row) for row in drifts),
        a=tuple(drifts),
        a_w=tuple(tuple(0.5 * value for value in row) for row in chi),
        a_h=tuple(chi),
        a_root=tuple(root),
        solution=Weights(b, tuple(w + 0.5 * x for w, x in zip(b_w, b_chi, strict=True)), b_chi, b_ww, b_www),
        embedded=Weights((1.0, *(0.0,) * (stages - 1)), b_w, (), b_ww),
        embedded_order=1.0,
    )


SRIW1 = _roessler_sri(
    "SRIW1",
    a0=((), (3 / 4,), (0, 0), (0, 0, 0)),
    a1=((), (1 / 4,), (1, 0), (0, 0, 1 / 4)),
    b0=((), (3 / 2,), (0, 0), (0, 0, 0)),
    b1=((), (1 / 2,), (-1, 0), (-5, 3, 1 / 2)),
    alpha=(1 / 3, 2 / 3, 0, 0),
    beta=((-1, 4 / 3, 2 / 3, 0), (-1, 4 / 3, -1 / 3, 0), (2, -4 / 3, -2 / 3, 0), (-2, 5 / 3, -2 / 3, 1)),
)
"""Roessler: Runge-Kutta methods for the strong approximation of solutions of stochastic differential equations. SIAM J.
Numer. Anal. 48 (2010). Two drifts and four diffusions a step."""

SOSRI = _roessler_sri(
    "SOSRI",
    a0=(
        (),
        (-0.04199224421316468,),
        (2.842612915017106, -2.0527723684000727),
        (4.338237071435815, -2.8895936137439793, 2.3017575594644466),
    ),
    a1=(
        (),
        (0.26204282091330466,),
        (0.20903646383505375, -0.1502377115150361),
        (0.05836595312746999, 0.6149440396332373, 0.08535117634046772),
    ),
    b0=(
        (),
        (-0.21641093549612528,),
        (1.5336352863679572, 0.26066223492647056),
        (-1.0536037558179159, 1.7015284721089472, -0.20725685784180017),
    ),
    b1=(
        (),
        (-0.5119011827621657,),
        (2.67767339866713, -4.9395031322250995),
        (0.15580956238299215, 3.2361551006624674, -1.4223118283355949),
    ),
    alpha=(1.140099274172029, -0.6401334255743456, 0.4736296532772559, 0.026404498125060714),
    beta=(
        (-1.8453464565104432, 2.688764531100726, -0.2523866501071323, 0.40896857551684956),
        (0.4969658141589478, -0.5771202869753592, -0.12919702470322217, 0.2093514975196336),
        (2.8453464565104425, -2.688764531100725, 0.2523866501071322, -0.40896857551684945),
        (0.11522663875443433, -0.57877086147738, 0.2857851028163886, 0.17775911990655704),
    ),
)
"""Rackauckas, Nie: Stability-optimized high order methods and stiffness detection for pathwise stiff stochastic
differential equations. IEEE HPEC 2020 (arXiv:1804.04344). Four drifts and four diffusions a step; a larger region of
stability than SRIW1's."""

SRA1 = StochasticTableau(
    "SRA1",
    "any",
    {"additive": 1.5},
    c=(0, 1, 3 / 4),
    a=((), (0,), (3 / 4, 0)),
    a_w=((), (0,), (0, 3 / 4)),
    a_h=((), (0,), (0, 3 / 2)),
    solution=Weights((1 / 3, 0, 2 / 3), (1 / 2, 1 / 2, 0), (1, -1, 0)),
    embedded=Weights((1, 0, 0), (1 / 2, 1 / 2, 0), (1, -1, 0)),
    embedded_order=1.0,
)
"""Roessler (2010). The diffusion is that of both ends of the step; the embedded solution takes Euler's drift."""

SRA3 = StochasticTableau(
    "SRA3",
    "any",
    {"additive": 1.5},
    c=(0, 1, 1, 1 / 2),
    a=((), (0,), (1, 0), (1 / 4, 0, 1 / 4)),
    a_w=((), (0,), (0, 0), (1 / 4, 1 / 2, 0)),
    a_h=((), (0,), (0, 0), (1 / 2, 1, 0)),
    solution=Weights((1 / 6, 0, 1 / 6, 2 / 3), (1 / 2, 1 / 2, 0, 0), (1, -1, 0, 0)),
    embedded=Weights((1, 0, 0, 0), (1 / 2, 1 / 2, 0, 0), (1, -1, 0, 0)),
    embedded_order=1.0,
)
"""Roessler (2010): order 3 without noise."""

SHARK = StochasticTableau(
    "ShARK",
    "any",
    {"additive": 1.5},
    c=(0, 0, 1, 5 / 6),
    a=((), (0,), (0, 0), (0, 5 / 6, 0)),
    a_w=((), (0,), (0, 0), (5 / 6, 0, 0)),
    a_h=((), (1,), (0, 0), (1, 0, 0)),
    solution=Weights((0, 2 / 5, 0, 3 / 5), (1 / 2, 0, 1 / 2, 0), (1, 0, -1, 0)),
    embedded=Weights((0, 1, 0, 0), (1 / 2, 0, 1 / 2, 0), (1, 0, -1, 0)),
    embedded_order=1.0,
)
"""Foster, dos Reis, Strange: High order splitting methods for SDEs satisfying a commutativity condition. SIAM J. Numer.
Anal. 62 (2024; arXiv:2210.17543), equation 6.1; a diffusion that depends on time enters as in SRA1."""

SLOWRK = StochasticTableau(
    "SlowRK",
    "stratonovich",
    {"additive": 1.5, "scalar": 1.5, "diagonal": 1.5, "commutative": 1.5, "general": 0.5},
    c=(0, 1 / 2, 1 / 2, 1 / 2, 1 / 2, 3 / 4, 1),
    a=((), (1 / 2,), (1 / 2, 0), (1 / 2, 0, 0), (1 / 2, 0, 0, 0), (3 / 4, 0, 0, 0, 0), (1, 0, 0, 0, 0, 0)),
    a_w=((), (0,), (0, 1 / 2), (0, 0, 1 / 2), (0, 0, 0, 1), (0, 0, 0, 3 / 4, 0), (0, 0, 1 / 2, 0, 0, 0)),
    a_h=((), (0,), (0, 0), (0, 0, 0), (0, 0, 0, 0), (0, 0, 0, 3 / 2, 0), (0,) * 6),
    solution=Weights((1 / 3, 0, 0, 0, 0, 2 / 3, 0), (0, 1 / 6, 1 / 3, 1 / 3, 1 / 6, 0, 0), (0, 0, 0, 2, 0, 0, -2)),
    embedded=Weights((1, 0, 0, 0, 0, 0, 0), (0, 0, 1, 0, 0, 0, 0)),
    embedded_order=1.0,
)
"""Foster, dos Reis, Strange (arXiv:2210.17543), equation 6.2. The embedded solution, a midpoint rule for the noise, is
this library's: the paper gives none."""

_SIXTH, _THIRD = (3 - sqrt(3)) / 6, sqrt(3) / 3
SPARK = StochasticTableau(
    "SPaRK",
    "stratonovich",
    {"additive": 1.5, "scalar": 1.0, "diagonal": 1.0, "commutative": 1.0, "general": 0.5},
    c=(0, 1 / 2, 1),
    a=((), (1 / 2,), (0, 1)),
    a_w=((), (1 / 2,), (0, 1)),
    a_h=((), (sqrt(3),), (0, 0)),
    solution=Weights((_SIXTH, _THIRD, _SIXTH), (_SIXTH, _THIRD, _SIXTH), (1, 0, -1)),
    embedded=Weights((1 / 2, 0, 1 / 2), (1 / 2, 0, 1 / 2)),
    embedded_order=1.0,
)
"""Foster, Jelincic: On the convergence of adaptive approximations for stochastic differential equations
(arXiv:2311.14201), definition 1.6."""
