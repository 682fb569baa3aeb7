"""Foster and Jelincic's SPaRK.

Foster, Jelincic: On the convergence of adaptive approximations for stochastic differential equations
(arXiv:2311.14201), definition 1.6.
"""

from math import sqrt

from .runge_kutta import NamedStochasticRungeKutta
from .tableau import StochasticTableau, Weights

_SIXTH, _THIRD = (3 - sqrt(3)) / 6, sqrt(3) / 3


class SPaRK(NamedStochasticRungeKutta):
    r"""The splitting-path Runge-Kutta method for Stratonovich problems: order 1 where noises commute, else 1/2.

    Three drifts and three diffusions a step, and an error estimate; the default for Stratonovich problems. Strong order
    1.5 with additive noise.

    .. math:: y_{n+1} = y_n + h \sum_i b_i f_i + \sum_i \Bigl(b^W_i W + b^H_i H\Bigr) g_i

    over stages as in :class:`StochasticRungeKutta`; the coefficients are in ``tableau``.

    Raises:
        InvalidProblemError: in the solve, an :class:`ODEProblem`, or an Ito problem whose noise is not additive.

    When to take it:
        First, for Stratonovich problems of every noise but additive. :class:`SlowRK` for tight tolerances and commuting
        noises; :class:`EulerHeun` and :class:`ReversibleHeun` for fewer calls a step.

    References:
        Foster, Jelincic: On the convergence of adaptive approximations for stochastic differential equations.
        arXiv:2311.14201 (2023).

    Example:
        >>> import torch, neuralde as nde
        >>> y0 = torch.ones(100, 1, dtype=torch.float64)
        >>> problem = nde.SDEProblem(lambda t, y: 0 * y, lambda t, y: 0.5 * y, y0, (0.0, 1.0), calculus="stratonovich")
        >>> sol = nde.solve(problem, nde.SPaRK(), rtol=1e-3, seed=1)
        >>> bool((sol.y1 - torch.exp(0.5 * sol.path(0.0, 1.0))).abs().mean() < 1e-2)
        True
    """

    @classmethod
    def coefficients(cls) -> StochasticTableau:
        """The tableau."""
        return StochasticTableau(
            cls.__name__,
            "stratonovich",
            {"additive": 1.5, "scalar": 1.0, "diagonal": 1.0, "commutative": 1.0, "general": 0.5},
            c=(0, 1 / 2, 1),
            a=((), (1 / 2,), (0, 1)),
            a_w=((), (1 / 2,), (0, 1)),
            a_h=((), (sqrt(3),), (0, 0)),
            solution=Weights((_SIXTH, _THIRD, _SIXTH), (_SIXTH, _THIRD, _SIXTH), (1, 0, -1)),
            embedded=Weights((1 / 2, 0, 1 / 2), (1 / 2, 0, 1 / 2)),
            embedded_order=1.0,
        )
