"""Dormand and Prince's 5(4) pair with Shampine's free fourth-order dense output.

Sources: J. R. Dormand, P. J. Prince, "A family of embedded Runge-Kutta formulae", J. Comput. Appl. Math. 6 (1980)
19-26. The embedded weights are those of L. F. Shampine, "Some practical Runge-Kutta formulas", Math. Comp. 46 (1986)
135-150, as in torchdiffeq and diffrax; the error estimate is 2/3 of that of the original ones (5179/57600, ...), which
scipy's RK45 keeps. The dense output is Shampine's, in the polynomial form that scipy's RK45 uses.
"""

from ..runge_kutta import NamedRungeKutta
from ..tableau import ButcherTableau, Interpolant

_B = (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84)


class Dopri5(NamedRungeKutta):
    r"""Dormand and Prince's pair: order 5, embedded order 4, six new stages a step (FSAL).

    .. math:: y_{n+1} = y_n + h \sum_{i=1}^{6} b_i k_i, \qquad e = h \sum_{i=1}^{7} (b_i - \hat b_i) k_i

    with local extrapolation, first same as last; the coefficients are in ``tableau``.

    Raises:
        InvalidProblemError: in the solve, an SDE whose calculus is Ito and whose noise is not additive.

    When to take it:
        To compare with other codes (MATLAB's ode45, SciPy's RK45, torchdiffeq's dopri5), whose method it is.
        :class:`Tsit5` is the newer choice for the same tolerances.

    References:
        Dormand, Prince: A family of embedded Runge-Kutta formulae. J. Comput. Appl. Math. 6 (1980).

    Example:
        >>> import torch, neuralde as nde
        >>> problem = nde.ODEProblem(lambda t, y: -y, torch.ones(1, dtype=torch.float64), (0.0, 1.0))
        >>> nde.solve(problem, nde.Dopri5(), rtol=1e-8, atol=1e-8).y1
        tensor([0.3679], dtype=torch.float64)
    """

    @staticmethod
    def coefficients() -> ButcherTableau:
        """The tableau."""
        return ButcherTableau(
            a=(
                (),
                (1 / 5,),
                (3 / 40, 9 / 40),
                (44 / 45, -56 / 15, 32 / 9),
                (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
                (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
                _B,
            ),
            b=(*_B, 0),
            c=(0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1, 1),
            order=5,
            b_embedded=(1951 / 21600, 0, 22642 / 50085, 451 / 720, -12231 / 42400, 649 / 6300, 1 / 60),
            embedded_order=4,
            interpolant=Interpolant(
                order=4,
                weights=(
                    (1, -8048581381 / 2820520608, 8663915743 / 2820520608, -12715105075 / 11282082432),
                    (0, 0, 0, 0),
                    (0, 131558114200 / 32700410799, -68118460800 / 10900136933, 87487479700 / 32700410799),
                    (0, -1754552775 / 470086768, 14199869525 / 1410260304, -10690763975 / 1880347072),
                    (0, 127303824393 / 49829197408, -318862633887 / 49829197408, 701980252875 / 199316789632),
                    (0, -282668133 / 205662961, 2019193451 / 616988883, -1453857185 / 822651844),
                    (0, 40617522 / 29380423, -110615467 / 29380423, 69997945 / 29380423),
                ),
            ),
        )
