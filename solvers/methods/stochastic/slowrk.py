"""Foster, dos Reis and Strange's SlowRK.

Foster, dos Reis, Strange (arXiv:2210.17543), equation 6.2. The embedded solution, a midpoint rule for the noise, is
this library's: the paper gives none.
"""

from .runge_kutta import NamedStochasticRungeKutta
from .tableau import StochasticTableau, Weights


class SlowRK(NamedStochasticRungeKutta):
    r"""The strong 1.5 Stratonovich method for commuting noises, order 1/2 with general noise; two drifts, five diffusions.

    .. math:: y_{n+1} = y_n + h \sum_i b_i f_i + \sum_i \Bigl(b^W_i W + b^H_i H\Bigr) g_i

    over stages as in :class:`StochasticRungeKutta`; the coefficients are in ``tableau``.

    Raises:
        InvalidProblemError: in the solve, an :class:`ODEProblem`, or an Ito problem whose noise is not additive.

    When to take it:
        For commutative Stratonovich noise at tight tolerances, where order 1.5 pays for five diffusions a step.
        :class:`SPaRK` at usual ones.

    References:
        Foster, dos Reis, Strange: High order splitting methods for SDEs satisfying a commutativity condition. SIAM J.
        Numer. Anal. 62 (2024), equation 6.2.

    Example:
        >>> import torch, neuralde as nde
        >>> y0 = torch.ones(100, 1, dtype=torch.float64)
        >>> problem = nde.SDEProblem(lambda t, y: 0 * y, lambda t, y: 0.5 * y, y0, (0.0, 1.0), calculus="stratonovich")
        >>> sol = nde.solve(problem, nde.SlowRK(), rtol=1e-3, seed=1)
        >>> bool((sol.y1 - torch.exp(0.5 * sol.path(0.0, 1.0))).abs().mean() < 1e-3)
        True
    """

    @classmethod
    def coefficients(cls) -> StochasticTableau:
        """The tableau."""
        return StochasticTableau(
            cls.__name__,
            "stratonovich",
            {"additive": 1.5, "scalar": 1.5, "diagonal": 1.5, "commutative": 1.5, "general": 0.5},
            c=(0, 1 / 2, 1 / 2, 1 / 2, 1 / 2, 3 / 4, 1),
            a=((), (1 / 2,), (1 / 2, 0), (1 / 2, 0, 0), (1 / 2, 0, 0, 0), (3 / 4, 0, 0, 0, 0), (1, 0, 0, 0, 0, 0)),
            a_w=((), (0,), (0, 1 / 2), (0, 0, 1 / 2), (0, 0, 0, 1), (0, 0, 0, 3 / 4, 0), (0, 0, 1 / 2, 0, 0, 0)),
            a_h=((), (0,), (0, 0), (0, 0, 0), (0, 0, 0, 0), (0, 0, 0, 3 / 2, 0), (0,) * 6),
            solution=Weights(
                (1 / 3, 0, 0, 0, 0, 2 / 3, 0), (0, 1 / 6, 1 / 3, 1 / 3, 1 / 6, 0, 0), (0, 0, 0, 2, 0, 0, -2)
            ),
            embedded=Weights((1, 0, 0, 0, 0, 0, 0), (0, 0, 1, 0, 0, 0, 0)),
            embedded_order=1.0,
        )
