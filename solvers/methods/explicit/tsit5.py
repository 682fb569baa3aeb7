"""Tsitouras' 5(4) pair with its free fourth-order dense output (continuous slope, no extra stages).

Source: Ch. Tsitouras, "Runge-Kutta pairs of order 5(4) satisfying only the first column simplifying assumption",
Comput. Math. Appl. 62 (2011) 770-775. The paper prints the last weight of the embedded solution with the wrong sign; it
is +1/66, as the order conditions demand and as OrdinaryDiffEq.jl and diffrax have it. The paper's dense output, printed
in factors of 16 digits, is expanded here and rounded once.
"""

from ..runge_kutta import NamedRungeKutta
from ..tableau import ButcherTableau, Interpolant

_B = (0.09646076681806523, 0.01, 0.4798896504144996, 1.379008574103742, -3.290069515436081, 2.324710524099774)


class Tsit5(NamedRungeKutta):
    r"""Tsitouras' pair, the default: order 5, embedded order 4, six new stages a step (FSAL).

    .. math:: y_{n+1} = y_n + h \sum_{i=1}^{6} b_i k_i, \qquad e = h \sum_{i=1}^{7} (b_i - \hat b_i) k_i

    with local extrapolation, first same as last; the coefficients are in ``tableau``.

    Raises:
        InvalidProblemError: in the solve, an SDE whose calculus is Ito and whose noise is not additive.

    When to take it:
        First, for tolerances from about 1e-3 to 1e-7; it usually needs fewer calls than :class:`Dopri5`. :class:`Bosh3`
        for cruder, :class:`Vern7` for tighter tolerances.

    References:
        Tsitouras: Runge-Kutta pairs of order 5(4) satisfying only the first column simplifying assumption. Comput.
        Math. Appl. 62 (2011).

    Example:
        >>> import torch, neuralde as nde
        >>> problem = nde.ODEProblem(lambda t, y: -y, torch.ones(1, dtype=torch.float64), (0.0, 1.0))
        >>> nde.solve(problem, nde.Tsit5(), rtol=1e-8, atol=1e-8).y1
        tensor([0.3679], dtype=torch.float64)
    """

    @staticmethod
    def coefficients() -> ButcherTableau:
        """The tableau."""
        return ButcherTableau(
            a=(
                (),
                (0.161,),
                (-0.008480655492356989, 0.335480655492357),
                (2.8971530571054935, -6.359448489975075, 4.3622954328695815),
                (5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525),
                (5.86145544294642, -12.92096931784711, 8.159367898576159, -0.071584973281401, -0.028269050394068383),
                _B,
            ),
            b=(*_B, 0),
            c=(0, 0.161, 0.327, 0.9, 0.9800255409045097, 1, 1),
            order=5,
            b_embedded=(
                0.09468075576583945,
                0.009183565540343254,
                0.4877705284247616,
                1.234297566930479,
                -2.7077123499835256,
                1.866628418170587,
                1 / 66,
            ),
            embedded_order=4,
            interpolant=Interpolant(
                order=4,
                weights=(
                    (1, -2.763706197274826, 2.9132554618219126, -1.0530884977290216),
                    (0, 0.1317, -0.2234, 0.1017),
                    (0, 3.9302962368947516, -5.941033872131505, 2.490627285651253),
                    (0, -12.411077166933676, 30.33818863028232, -16.548102889244902),
                    (0, 37.50931341651104, -88.1789048947664, 47.37952196281928),
                    (0, -27.896526289197286, 65.09189467479366, -34.87065786149661),
                    (0, 1.5, -4, 2.5),
                ),
            ),
        )
