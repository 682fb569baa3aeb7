"""Foster, dos Reis and Strange's ShARK.

Foster, dos Reis, Strange: High order splitting methods for SDEs satisfying a commutativity condition. SIAM J. Numer.
Anal. 62 (2024; arXiv:2210.17543), equation 6.1; a diffusion that depends on time enters as in SRA1.
"""

from .runge_kutta import NamedStochasticRungeKutta
from .tableau import StochasticTableau, Weights


class ShARK(NamedStochasticRungeKutta):
    r"""The shifted additive-noise Runge-Kutta method: strong order 1.5 with the smallest leading error, embedded order 1.

    Two drifts and two diffusions a step; the default for additive noise.

    .. math:: y_{n+1} = y_n + h \sum_i b_i f_i + \sum_i \Bigl(b^W_i W + b^H_i H\Bigr) g_i

    over stages as in :class:`StochasticRungeKutta`; the coefficients are in ``tableau``.

    Raises:
        InvalidProblemError: in the solve, an :class:`ODEProblem`, or noise that is not additive.

    When to take it:
        First, for additive noise of either calculus. :class:`SRA3` where the noise is weak, :class:`SROCK` where the
        drift is stiff.

    References:
        Foster, dos Reis, Strange: High order splitting methods for SDEs satisfying a commutativity condition. SIAM J.
        Numer. Anal. 62 (2024), equation 6.1.

    Example:
        >>> import torch, neuralde as nde
        >>> y0 = torch.zeros(100, 1, dtype=torch.float64)
        >>> problem = nde.SDEProblem(lambda t, y: -y, lambda t, y: torch.full_like(y, 0.5), y0, (0.0, 1.0), noise="additive")
        >>> nde.solve(problem, nde.ShARK(), rtol=1e-3, seed=1).status.name
        'SUCCESS'
    """

    @classmethod
    def coefficients(cls) -> StochasticTableau:
        """The tableau."""
        return StochasticTableau(
            cls.__name__,
            "any",
            {"additive": 1.5},
            c=(0, 0, 1, 5 / 6),
            a=((), (0,), (0, 0), (0, 5 / 6, 0)),
            a_w=((), (0,), (0, 0), (5 / 6, 0, 0)),
            a_h=((), (1,), (0, 0), (1, 0, 0)),
            solution=Weights((0, 2 / 5, 0, 3 / 5), (1 / 2, 0, 1 / 2, 0), (1, 0, -1, 0)),
            embedded=Weights((0, 1, 0, 0), (1 / 2, 0, 1 / 2, 0), (1, 0, -1, 0)),
            embedded_order=1.0,
        )
