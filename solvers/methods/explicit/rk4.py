"""The classic Runge-Kutta method, with dense output derived from its stages.

Source: W. Kutta, "Beitrag zur naeherungsweisen Integration totaler Differentialgleichungen", Z. Math. Phys. 46 (1901)
435-453.
"""

from ..runge_kutta import NamedRungeKutta
from ..tableau import ButcherTableau


class RK4(NamedRungeKutta):
    r"""The classic Runge-Kutta method: order 4, four stages, fixed steps.

    .. math:: y_{n+1} = y_n + \tfrac h6 (k_1 + 2 k_2 + 2 k_3 + k_4)

    with the slopes at the start, twice in the middle, and at the end.

    Raises:
        InvalidProblemError: in the solve, no ``dt``, a controller that adapts steps, or an SDE whose calculus is Ito
            and whose noise is not additive.

    When to take it:
        With a fixed step that is known to suffice: comparisons, control, published set-ups. :class:`Tsit5` chooses its
        steps and needs fewer calls at equal error.

    References:
        Kutta: Beitrag zur näherungsweisen Integration totaler Differentialgleichungen. Z. Math. Phys. 46 (1901).

    Example:
        >>> import torch, neuralde as nde
        >>> problem = nde.ODEProblem(lambda t, y: -y, torch.ones(1, dtype=torch.float64), (0.0, 1.0))
        >>> nde.solve(problem, nde.RK4(), dt=0.01).y1
        tensor([0.3679], dtype=torch.float64)
    """

    @staticmethod
    def coefficients() -> ButcherTableau:
        """The tableau."""
        return ButcherTableau(
            a=((), (1 / 2,), (0, 1 / 2), (0, 0, 1)), b=(1 / 6, 1 / 3, 1 / 3, 1 / 6), c=(0, 1 / 2, 1 / 2, 1), order=4
        )
