"""Ralston's method: of all two-stage methods of order 2, the one with the smallest bound on the local error.

It carries Euler's step as its embedded solution, so that it can choose its own step size. Its dense output is derived from
its stages.

Source: A. Ralston, "Runge-Kutta methods with minimum error bounds", Math. Comp. 16 (1962) 431-437.
"""

from ..runge_kutta import NamedRungeKutta
from ..tableau import ButcherTableau


class Ralston(NamedRungeKutta):
    r"""Ralston's method: order 2 with the smallest error bound, embedded order 1, two stages.

    .. math:: y_{n+1} = y_n + h \bigl(\tfrac14 k_1 + \tfrac34 k_2\bigr), \qquad k_1 = f(t_n, y_n), \quad
              k_2 = f\bigl(t_n + \tfrac23 h,\; y_n + \tfrac23 h k_1\bigr)

    Raises:
        InvalidProblemError: in the solve, an SDE whose calculus is Ito and whose noise is not additive.

    When to take it:
        The best of the two-stage methods for a smooth field, by its bound on the local error. :class:`Bosh3` has one
        order more for one call more.

    References:
        Ralston: Runge-Kutta methods with minimum error bounds. Math. Comp. 16 (1962).

    Example:
        >>> import torch, neuralde as nde
        >>> problem = nde.ODEProblem(lambda t, y: -y, torch.ones(1, dtype=torch.float64), (0.0, 1.0))
        >>> nde.solve(problem, nde.Ralston(), rtol=1e-8, atol=1e-8).y1
        tensor([0.3679], dtype=torch.float64)
    """

    @staticmethod
    def coefficients() -> ButcherTableau:
        """The tableau."""
        return ButcherTableau(
            a=((), (2 / 3,)), b=(1 / 4, 3 / 4), c=(0, 2 / 3), order=2, b_embedded=(1, 0), embedded_order=1
        )
