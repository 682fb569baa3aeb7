r"""Roessler's form of a stochastic Runge-Kutta method as a list of stages.

His methods have separate stages for drift and diffusion; here they are merged where they are the same. His embedded
solution is the one of strong order 1 that his conditions give without the integrals :math:`I_{10}` and :math:`I_{111}`,
with Euler's drift.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..tableau import Row, StochasticTableau, Weights


def roessler_sri(
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

    def spread(row: Sequence[float], kind: int, width: int) -> Row:
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
