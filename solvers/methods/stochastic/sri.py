r"""Roessler's form of a stochastic Runge-Kutta method as a list of stages.

His methods have separate stages for drift and diffusion; here they are merged where they are the same. His embedded
solution is the one of strong order 1 that his conditions give without the integrals :math:`I_{10}` and :math:`I_{111}`,
with Euler's drift.

SRIW1: Roessler: Runge-Kutta methods for the strong approximation of solutions of stochastic differential equations. SIAM J.
Numer. Anal. 48 (2010). Two drifts and four diffusions a step.
SOSRI: Rackauckas, Nie: Stability-optimized high order methods and stiffness detection for pathwise stiff stochastic
differential equations. IEEE HPEC 2020 (arXiv:1804.04344). Four drifts and four diffusions a step; a larger region of
stability than SRIW1's.
"""

from __future__ import annotations

from collections.abc import Sequence

from .runge_kutta import NamedStochasticRungeKutta
from .tableau import Row, StochasticTableau, Weights


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
    # A drift stage without weights is the first one, at y0.
    at_start = [i for i in drift if i and 0 in drift and not any(a0[i]) and not any(b0[i])]
    drift = [i for i in drift if i not in at_start]
    # In an order in which everything is there when it is used: the diffusion's stage i may use the drift's up to i - 1.
    order = sorted([(i, 0) for i in drift] + [(i, 1) for i in noise if i or 0 not in drift])
    place = {stage: n for n, stage in enumerate(order)}
    if 0 in drift:
        place[0, 1] = place[0, 0]  # both are y0
        place.update({(i, 0): place[0, 0] for i in at_start})

    def spread(row: Sequence[float], kind: int, width: int) -> Row:
        out = [0.0] * width
        for i, value in enumerate(row):
            if value:
                out[place[i, kind]] += value
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


class SRIW1(NamedStochasticRungeKutta):
    r"""Roessler's SRIW1, for Ito problems with diagonal or scalar noise: strong order 1.5, embedded order 1.

    Two drifts and four diffusions a step; it needs the path's space-time Lévy area.

    .. math:: y_{n+1} = y_n + h \sum_i b_i f_i + \sum_i \Bigl(b^W_i W + b^H_i H
              + b^{WW}_i \frac{I_{11}}{\sqrt h} + b^{WWW}_i \frac{I_{111}}{h}\Bigr) g_i

    over stages as in :class:`StochasticRungeKutta`; the coefficients are in ``tableau``.

    Raises:
        InvalidProblemError: in the solve, an :class:`ODEProblem`, a Stratonovich problem, or noise that is neither
            diagonal nor scalar.

    When to take it:
        For diagonal or scalar Ito noise with a drift that is dear; :class:`SOSRI`, the default, is stabler and calls
        the drift more often.

    References:
        Rößler: Runge-Kutta methods for the strong approximation of solutions of stochastic differential equations. SIAM
        J. Numer. Anal. 48 (2010), where it has this name.

    Example:
        >>> import torch, neuralde as nde
        >>> y0 = torch.ones(100, 1, dtype=torch.float64)
        >>> problem = nde.SDEProblem(lambda t, y: 0.0 * y, lambda t, y: 0.5 * y, y0, (0.0, 1.0))
        >>> sol = nde.solve(problem, nde.SRIW1(), rtol=1e-3, seed=1)
        >>> bool((sol.y1 - torch.exp(0.5 * sol.path(0.0, 1.0) - 0.125)).abs().mean() < 1e-3)
        True
    """

    @classmethod
    def coefficients(cls) -> StochasticTableau:
        """The tableau."""
        return roessler_sri(
            cls.__name__,
            a0=((), (3 / 4,), (0, 0), (0, 0, 0)),
            a1=((), (1 / 4,), (1, 0), (0, 0, 1 / 4)),
            b0=((), (3 / 2,), (0, 0), (0, 0, 0)),
            b1=((), (1 / 2,), (-1, 0), (-5, 3, 1 / 2)),
            alpha=(1 / 3, 2 / 3, 0, 0),
            beta=((-1, 4 / 3, 2 / 3, 0), (-1, 4 / 3, -1 / 3, 0), (2, -4 / 3, -2 / 3, 0), (-2, 5 / 3, -2 / 3, 1)),
        )


class SOSRI(NamedStochasticRungeKutta):
    r"""The stability-optimized SOSRI, for Ito problems with diagonal or scalar noise: strong order 1.5, embedded order 1.

    Four drifts and four diffusions a step; the default for such problems. Its stiffness estimate compares the last two
    drifts, which are at different times: it is meant for drifts that change more with the state than with time.

    .. math:: y_{n+1} = y_n + h \sum_i b_i f_i + \sum_i \Bigl(b^W_i W + b^H_i H
              + b^{WW}_i \frac{I_{11}}{\sqrt h} + b^{WWW}_i \frac{I_{111}}{h}\Bigr) g_i

    over stages as in :class:`StochasticRungeKutta`; the coefficients are in ``tableau``.

    Raises:
        InvalidProblemError: in the solve, an :class:`ODEProblem`, a Stratonovich problem, or noise that is neither
            diagonal nor scalar.

    When to take it:
        First, for diagonal or scalar Ito noise. :class:`SRIW1` where the drift is dear and not stiff; :class:`SROCK`
        where it is so stiff that stability limits the steps; :class:`ItoMilstein` for commutative,
        :class:`EulerMaruyama` for general noise.

    References:
        Rackauckas, Nie: Stability-optimized high order methods and stiffness detection for pathwise stiff stochastic
        differential equations. IEEE HPEC 2020.

    Example:
        >>> import torch, neuralde as nde
        >>> y0 = torch.ones(100, 1, dtype=torch.float64)
        >>> problem = nde.SDEProblem(lambda t, y: 0.0 * y, lambda t, y: 0.5 * y, y0, (0.0, 1.0))
        >>> sol = nde.solve(problem, nde.SOSRI(), rtol=1e-3, seed=1)
        >>> bool((sol.y1 - torch.exp(0.5 * sol.path(0.0, 1.0) - 0.125)).abs().mean() < 1e-3)
        True
    """

    @classmethod
    def coefficients(cls) -> StochasticTableau:
        """The tableau."""
        return roessler_sri(
            cls.__name__,
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
