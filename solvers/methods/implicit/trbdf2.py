"""The trapezoidal rule followed by the second backward differentiation formula, as one step.

Source: M. E. Hosea, L. F. Shampine, "Analysis and implementation of TR-BDF2", Appl. Numer. Math. 20 (1996) 21-37.
"""

from math import sqrt

from .esdirk import NamedDiagonallyImplicit
from .tableau import ImplicitTableau


class TRBDF2(NamedDiagonallyImplicit):
    r"""TR-BDF2: order 2, compared with order 3, two implicit stages, stiffly accurate and L-stable.

    .. math:: y_\gamma = y_0 + \tfrac{\gamma h}{2} (f_0 + f_\gamma), \qquad
              y_1 = \frac{y_\gamma - (1 - \gamma)^2 y_0}{\gamma (2 - \gamma)} + \frac{1 - \gamma}{2 - \gamma} h f_1, \qquad
              \gamma = 2 - \sqrt 2

    Args:
        linear_solver: how the linear systems are solved; None: :class:`DenseLU`.
        derivatives: how often a solution can be differentiated, 1 or 2.

    Raises:
        InvalidProblemError: an argument is wrong; in the solve, a field that cannot be differentiated.

    When to take it:
        For stiff fields at tolerances from 1e-2 to 1e-4, of which a Jacobian is dear: it is kept. :class:`Kvaerno5` for tighter
        ones.

    References:
        Hosea, Shampine: Analysis and implementation of TR-BDF2. Appl. Numer. Math. 20 (1996).

    Example:
        >>> import torch, neuralde as nde
        >>> problem = nde.ODEProblem(lambda t, y: -1e6 * (y - torch.cos(t)), torch.ones(1, dtype=torch.float64), (0.0, 1.0))
        >>> nde.solve(problem, nde.TRBDF2()).y1.round(decimals=3)
        tensor([0.5400], dtype=torch.float64)
    """

    @staticmethod
    def coefficients() -> ImplicitTableau:
        """The tableau."""
        d, w = 1.0 - sqrt(0.5), sqrt(2.0) / 4.0
        return ImplicitTableau(
            a=((0.0,), (d, d), (w, w, d)),
            b=(w, w, d),
            order=2,
            b_embedded=((1.0 - w) / 3.0, (3.0 * w + 1.0) / 3.0, d / 3.0),
            embedded_order=3,
        )
