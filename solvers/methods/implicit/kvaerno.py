"""Kvaerno's pairs: singly diagonally implicit, with an explicit first stage, both formulas stiffly accurate.

Source: A. Kvaerno, "Singly diagonally implicit Runge-Kutta methods with an explicit first stage", BIT Numer. Math. 44 (2004)
489-502. The last but one stage is the embedded solution.
"""

from .esdirk import NamedDiagonallyImplicit
from .tableau import ImplicitTableau

# The root of 6 x^3 - 18 x^2 + 9 x - 1 that makes the method of order 3 L-stable.
_GAMMA = 0.43586652150845899942


class Kvaerno3(NamedDiagonallyImplicit):
    r"""Kvaerno's pair of order 3(2): three implicit stages, L-stable, as is the embedded solution nearly.

    .. math:: Y_i = y_0 + h \sum_{j<i} a_{ij} f_j + h \gamma f(t_0 + c_i h, Y_i), \qquad y_1 = Y_4, \quad \hat y_1 = Y_3

    Args:
        linear_solver: how the linear systems are solved; None: :class:`DenseLU`.
        derivatives: how often a solution can be differentiated, 1 or 2.

    Raises:
        InvalidProblemError: an argument is wrong; in the solve, a field that cannot be differentiated.

    When to take it:
        For stiff fields at tolerances from 1e-3 to 1e-4, of which a Jacobian is dear: it is kept while the iteration converges.

    References:
        Kvaerno: Singly diagonally implicit Runge-Kutta methods with an explicit first stage. BIT Numer. Math. 44 (2004).

    Example:
        >>> import torch, neuralde as nde
        >>> problem = nde.ODEProblem(lambda t, y: -1e6 * (y - torch.cos(t)), torch.ones(1, dtype=torch.float64), (0.0, 1.0))
        >>> nde.solve(problem, nde.Kvaerno3(), rtol=1e-5).y1
        tensor([0.5403], dtype=torch.float64)
    """

    @staticmethod
    def coefficients() -> ImplicitTableau:
        """The tableau, by the formulas of the paper."""
        g = _GAMMA
        embedded = (1.0 - (1.0 - 2.0 * g) / (4.0 * g) - g, (1.0 - 2.0 * g) / (4.0 * g), g)
        third = (-6.0 * g * g + 6.0 * g - 1.0) / (6.0 * g - 3.0)
        second = 1.0 / (12.0 * g * (1.0 - 2.0 * g))
        b = (1.0 - second - third - g, second, third, g)
        return ImplicitTableau(
            a=((0.0,), (g, g), embedded, b), b=b, order=3, b_embedded=(*embedded, 0.0), embedded_order=2
        )


class Kvaerno5(NamedDiagonallyImplicit):
    r"""Kvaerno's pair of order 5(4): six implicit stages, L-stable, as is the embedded solution nearly.

    .. math:: Y_i = y_0 + h \sum_{j<i} a_{ij} f_j + h \gamma f(t_0 + c_i h, Y_i), \qquad y_1 = Y_7, \quad \hat y_1 = Y_6

    Args:
        linear_solver: how the linear systems are solved; None: :class:`DenseLU`.
        derivatives: how often a solution can be differentiated, 1 or 2.

    Raises:
        InvalidProblemError: an argument is wrong; in the solve, a field that cannot be differentiated.

    When to take it:
        For stiff fields at tolerances from 1e-4 to 1e-8, of which a Jacobian is dear: it is kept while the iteration converges.
        :class:`Rodas5P` where Jacobians are cheap, since it iterates nothing.

    References:
        Kvaerno: Singly diagonally implicit Runge-Kutta methods with an explicit first stage. BIT Numer. Math. 44 (2004).

    Example:
        >>> import torch, neuralde as nde
        >>> from neuralde.solvers.testing.stiff import ROBERTSON
        >>> sol = nde.solve(ROBERTSON.problem(), nde.Kvaerno5(), rtol=1e-6, atol=1e-12)
        >>> ROBERTSON.error(sol.y1) < 1e-4, sol.stats.jacobians < sol.stats.steps
        (True, True)
    """

    @staticmethod
    def coefficients() -> ImplicitTableau:
        """The tableau; what row sums and weights of the paper round is made up in the first column."""
        g = 0.26
        rows = (
            (0.84033320996790809,),
            (0.47675532319799699, -0.06470895363112615),
            (0.10450018841591720, 0.03631482272098715, -0.13090704451073998),
            (0.0, -0.04245337201752043, 0.02446657898003141, 0.61943039072480676),
            (0.0, -0.05496908796538376, -0.04118626728321046, 0.62993304899016403, 0.06962479448202728),
        )
        first = (0.13, 0.22371961478320505, 0.16648564323248321, 0.13855640231268224, 0.13659751177640291)
        a = ((0.0,), (g, g), *((start, *row, g) for start, row in zip(first, rows, strict=True)))
        return ImplicitTableau(a=a, b=a[-1], order=5, b_embedded=(*a[-2], 0.0), embedded_order=4)
