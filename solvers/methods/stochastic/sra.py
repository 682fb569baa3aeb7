"""Roessler's methods for additive noise.

SRA1: Roessler (2010). The diffusion is that of both ends of the step; the embedded solution takes Euler's drift.
SRA3: Roessler (2010): order 3 without noise.
"""

from .runge_kutta import NamedStochasticRungeKutta
from .tableau import StochasticTableau, Weights


class SRA1(NamedStochasticRungeKutta):
    r"""Roessler's SRA1, for additive noise: strong order 1.5, embedded order 1, two drifts and two diffusions a step.

    .. math:: y_{n+1} = y_n + h \sum_i b_i f_i + \sum_i \Bigl(b^W_i W + b^H_i H\Bigr) g_i

    over stages as in :class:`StochasticRungeKutta`; the coefficients are in ``tableau``.

    Raises:
        InvalidProblemError: in the solve, an :class:`ODEProblem`, or noise that is not additive.

    When to take it:
        To compare with other codes; :class:`ShARK`, the default for additive noise, has the smaller leading error at
        the same cost.

    References:
        Rößler: Runge-Kutta methods for the strong approximation of solutions of stochastic differential equations. SIAM
        J. Numer. Anal. 48 (2010), where it has this name.

    Example:
        >>> import torch, neuralde as nde
        >>> y0 = torch.zeros(100, 1, dtype=torch.float64)
        >>> problem = nde.SDEProblem(lambda t, y: -y, lambda t, y: torch.full_like(y, 0.5), y0, (0.0, 1.0), noise="additive")
        >>> nde.solve(problem, nde.SRA1(), rtol=1e-3, seed=1).status.name
        'SUCCESS'
    """

    @classmethod
    def coefficients(cls) -> StochasticTableau:
        """The tableau."""
        return StochasticTableau(
            cls.__name__,
            "any",
            {"additive": 1.5},
            c=(0, 1, 3 / 4),
            a=((), (0,), (3 / 4, 0)),
            a_w=((), (0,), (0, 3 / 4)),
            a_h=((), (0,), (0, 3 / 2)),
            solution=Weights((1 / 3, 0, 2 / 3), (1 / 2, 1 / 2, 0), (1, -1, 0)),
            embedded=Weights((1, 0, 0), (1 / 2, 1 / 2, 0), (1, -1, 0)),
            embedded_order=1.0,
        )


class SRA3(NamedStochasticRungeKutta):
    r"""Roessler's SRA3, for additive noise: strong order 1.5, order 3 without noise, embedded order 1.

    Three drifts and two diffusions a step.

    .. math:: y_{n+1} = y_n + h \sum_i b_i f_i + \sum_i \Bigl(b^W_i W + b^H_i H\Bigr) g_i

    over stages as in :class:`StochasticRungeKutta`; the coefficients are in ``tableau``.

    Raises:
        InvalidProblemError: in the solve, an :class:`ODEProblem`, or noise that is not additive.

    When to take it:
        For additive noise that is weak: without noise it has order 3. Otherwise :class:`ShARK`, with one drift less a
        step.

    References:
        Rößler: Runge-Kutta methods for the strong approximation of solutions of stochastic differential equations. SIAM
        J. Numer. Anal. 48 (2010), where it has this name.

    Example:
        >>> import torch, neuralde as nde
        >>> y0 = torch.zeros(100, 1, dtype=torch.float64)
        >>> problem = nde.SDEProblem(lambda t, y: -y, lambda t, y: torch.full_like(y, 0.5), y0, (0.0, 1.0), noise="additive")
        >>> nde.solve(problem, nde.SRA3(), rtol=1e-3, seed=1).status.name
        'SUCCESS'
    """

    @classmethod
    def coefficients(cls) -> StochasticTableau:
        """The tableau."""
        return StochasticTableau(
            cls.__name__,
            "any",
            {"additive": 1.5},
            c=(0, 1, 1, 1 / 2),
            a=((), (0,), (1, 0), (1 / 4, 0, 1 / 4)),
            a_w=((), (0,), (0, 0), (1 / 4, 1 / 2, 0)),
            a_h=((), (0,), (0, 0), (1 / 2, 1, 0)),
            solution=Weights((1 / 6, 0, 1 / 6, 2 / 3), (1 / 2, 1 / 2, 0, 0), (1, -1, 0, 0)),
            embedded=Weights((1, 0, 0, 0), (1 / 2, 1 / 2, 0, 0), (1, -1, 0, 0)),
            embedded_order=1.0,
        )
