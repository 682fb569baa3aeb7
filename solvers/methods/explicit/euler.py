"""Euler's method, with dense output derived from its stage.

Source: Hairer, Norsett, Wanner, "Solving Ordinary Differential Equations I", section I.7.
"""

from ..runge_kutta import NamedRungeKutta
from ..tableau import ButcherTableau


class Euler(NamedRungeKutta):
    """Euler's method: order 1, one stage, fixed steps.

    .. math:: y_{n+1} = y_n + h f(t_n, y_n)

    Raises:
        InvalidProblemError: in the solve, an :class:`SDEProblem`, no ``dt``, or a controller that adapts steps.

    When to take it:
        For comparisons, residual networks read as an ODE, and fields without smoothness. :class:`Heun` adapts its steps
        for one call more; every other method needs fewer calls at equal error on a smooth field.

    References:
        Hairer, Nørsett, Wanner: Solving Ordinary Differential Equations I, I.7.

    Example:
        >>> import torch, neuralde as nde
        >>> problem = nde.ODEProblem(lambda t, y: -y, torch.ones(1, dtype=torch.float64), (0.0, 1.0))
        >>> nde.solve(problem, nde.Euler(), dt=0.001).y1
        tensor([0.3677], dtype=torch.float64)
    """

    @staticmethod
    def coefficients() -> ButcherTableau:
        """The tableau."""
        return ButcherTableau(a=((),), b=(1,), c=(0,), order=1)
