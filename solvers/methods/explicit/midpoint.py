"""The explicit midpoint method, with dense output derived from its stages.

It carries Euler's step as its embedded solution, so that it can choose its own step size.

Source: Hairer, Norsett, Wanner, "Solving Ordinary Differential Equations I", section II.1.
"""

from ..runge_kutta import NamedRungeKutta
from ..tableau import ButcherTableau


class Midpoint(NamedRungeKutta):
    r"""The explicit midpoint method: order 2, embedded order 1, two stages.

    .. math:: y_{n+1} = y_n + h f\bigl(t_n + \tfrac h2,\; y_n + \tfrac h2 f(t_n, y_n)\bigr)

    Raises:
        InvalidProblemError: in the solve, an SDE whose calculus is Ito and whose noise is not additive.

    When to take it:
        At crude tolerances, for a field that is piecewise smooth (it never looks at the end of a step), and for
        Stratonovich SDEs. :class:`Ralston` has the smaller error bound, :class:`Bosh3` needs fewer calls below a
        tolerance of about 1e-3.

    References:
        Runge: Ueber die numerische Auflösung von Differentialgleichungen. Math. Ann. 46 (1895).

    Example:
        >>> import torch, neuralde as nde
        >>> problem = nde.ODEProblem(lambda t, y: -y, torch.ones(1, dtype=torch.float64), (0.0, 1.0))
        >>> nde.solve(problem, nde.Midpoint(), rtol=1e-8, atol=1e-8).y1
        tensor([0.3679], dtype=torch.float64)
    """

    @staticmethod
    def coefficients() -> ButcherTableau:
        """The tableau."""
        return ButcherTableau(a=((), (1 / 2,)), b=(0, 1), c=(0, 1 / 2), order=2, b_embedded=(1, 0), embedded_order=1)
