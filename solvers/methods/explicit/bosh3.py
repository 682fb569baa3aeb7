"""Bogacki and Shampine's 3(2) pair; its dense output is the cubic Hermite polynomial, derived from the stages.

Source: P. Bogacki, L. F. Shampine, "A 3(2) pair of Runge-Kutta formulas", Appl. Math. Lett. 2 (1989) 321-325.
"""

from ..runge_kutta import NamedRungeKutta
from ..tableau import ButcherTableau


class Bosh3(NamedRungeKutta):
    r"""Bogacki and Shampine's pair: order 3, embedded order 2, three new stages a step (FSAL).

    .. math:: y_{n+1} = y_n + h \sum_{i=1}^{3} b_i k_i, \qquad e = h \sum_{i=1}^{4} (b_i - \hat b_i) k_i

    with local extrapolation, first same as last; the coefficients are in ``tableau``.

    Raises:
        InvalidProblemError: in the solve, an SDE whose calculus is Ito and whose noise is not additive.

    When to take it:
        For tolerances of 1e-2 to 1e-3 and fields that are not very smooth; its dense output is a cubic Hermite
        polynomial. :class:`Tsit5` below that.

    References:
        Bogacki, Shampine: A 3(2) pair of Runge-Kutta formulas. Appl. Math. Lett. 2 (1989).

    Example:
        >>> import torch, neuralde as nde
        >>> problem = nde.ODEProblem(lambda t, y: -y, torch.ones(1, dtype=torch.float64), (0.0, 1.0))
        >>> nde.solve(problem, nde.Bosh3(), rtol=1e-8, atol=1e-8).y1
        tensor([0.3679], dtype=torch.float64)
    """

    @staticmethod
    def coefficients() -> ButcherTableau:
        """The tableau."""
        return ButcherTableau(
            a=((), (1 / 2,), (0, 3 / 4), (2 / 9, 1 / 3, 4 / 9)),
            b=(2 / 9, 1 / 3, 4 / 9, 0),
            c=(0, 1 / 2, 3 / 4, 1),
            order=3,
            b_embedded=(7 / 24, 1 / 4, 1 / 3, 1 / 8),
            embedded_order=2,
        )
