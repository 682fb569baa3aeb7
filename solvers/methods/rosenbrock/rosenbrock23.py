"""The modified Rosenbrock pair of order 2(3) of MATLAB's ode23s.

Source: L. F. Shampine, M. W. Reichelt, "The MATLAB ODE suite", SIAM J. Sci. Comput. 18 (1997) 1-22, section 3.
"""

from math import sqrt

import numpy as np

from .base import NamedRosenbrock
from .tableau import RosenbrockTableau, from_slopes


class Rosenbrock23(NamedRosenbrock):
    r"""Shampine and Reichelt's pair: order 2, compared with order 3, L-stable, three stages of which one is the next's first.

    .. math:: W k_1 = f_0 + h d\, T, \quad W (k_2 - k_1) = f_1 - k_1, \quad y_1 = y_0 + h k_2, \qquad W = I - h d J

    with :math:`d = 1 / (2 + \sqrt 2)`, :math:`T = \partial f / \partial t`.

    Args:
        linear_solver: how the linear systems are solved; None: :class:`DenseLU`.

    Raises:
        InvalidProblemError: in the solve, a field that ``torch.func`` cannot differentiate.

    When to take it:
        For stiff fields at crude tolerances, 1e-2 and 1e-3, and where the solution is not smooth. :class:`Rodas5P` from 1e-4 on.

    References:
        Shampine, Reichelt: The MATLAB ODE suite. SIAM J. Sci. Comput. 18 (1997).

    Example:
        >>> import torch, neuralde as nde
        >>> problem = nde.ODEProblem(lambda t, y: -1e6 * (y - torch.cos(t)), torch.zeros(1, dtype=torch.float64), (0.0, 1.0))
        >>> sol = nde.solve(problem, nde.Rosenbrock23())
        >>> sol.y1.round(decimals=2), sol.stats.steps < 200
        (tensor([0.5400], dtype=torch.float64), True)
    """

    @staticmethod
    def coefficients() -> RosenbrockTableau:
        """The tableau."""
        d, e = 1.0 / (2.0 + sqrt(2.0)), 6.0 + sqrt(2.0)
        slope = 1.0 - 2.0 * d
        return from_slopes(
            alpha=np.array([[0, 0, 0], [0.5, 0, 0], [0, 1, 0]]),
            gammas=d * np.array([[1, 0, 0], [-1, 1, 0], [e - 2, -e, 1]]),
            b=np.array([0.0, 1.0, 0.0]),
            b_embedded=np.array([1 / 6, 2 / 3, 1 / 6]),
            orders=(2, 3),
            dense=np.array([[1 / slope, -1 / slope], [-2 * d / slope, 1 / slope], [0.0, 0.0]]),
            dense_order=2,
        )
