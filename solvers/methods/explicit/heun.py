"""Heun's method, the explicit trapezoidal rule, with dense output derived from its stages.

It carries Euler's step as its embedded solution, so that it can choose its own step size.

Source: Hairer, Norsett, Wanner, "Solving Ordinary Differential Equations I", section II.1.
"""

from ..runge_kutta import NamedRungeKutta
from ..tableau import ButcherTableau


class Heun(NamedRungeKutta):
    r"""Heun's method (improved Euler): order 2, embedded order 1, two stages.

    .. math:: y_{n+1} = y_n + \tfrac h2 \bigl(f(t_n, y_n) + f(t_{n+1},\; y_n + h f(t_n, y_n))\bigr)

    Raises:
        InvalidProblemError: in the solve, an SDE whose calculus is Ito and whose noise is not additive.

    When to take it:
        At crude tolerances, for Stratonovich SDEs, and in the samplers of diffusion models, where it is the usual
        choice. :class:`Bosh3` where accuracy matters.

    References:
        Heun: Neue Methoden zur approximativen Integration. Z. Math. Phys. 45 (1900).

    Example:
        >>> import torch, neuralde as nde
        >>> problem = nde.ODEProblem(lambda t, y: -y, torch.ones(1, dtype=torch.float64), (0.0, 1.0))
        >>> nde.solve(problem, nde.Heun(), rtol=1e-8, atol=1e-8).y1
        tensor([0.3679], dtype=torch.float64)
    """

    @staticmethod
    def coefficients() -> ButcherTableau:
        """The tableau."""
        return ButcherTableau(a=((), (1,)), b=(1 / 2, 1 / 2), c=(0, 1), order=2, b_embedded=(1, 0), embedded_order=1)
