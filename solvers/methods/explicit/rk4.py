"""The classic Runge-Kutta method, with dense output derived from its stages.

Source: W. Kutta, "Beitrag zur naeherungsweisen Integration totaler Differentialgleichungen", Z. Math. Phys. 46 (1901)
435-453.
"""

from ..runge_kutta import NamedRungeKutta
from ..tableau import ButcherTableau


class RK4(NamedRungeKutta):
    """The classic Runge-Kutta method: order 4, four stages, fixed steps.

    Source: Kutta, Z. Math. Phys. 46 (1901).

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
