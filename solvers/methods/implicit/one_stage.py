"""The classical implicit methods of one new stage: Euler's, the midpoint rule, the trapezoidal rule.

Source: E. Hairer, G. Wanner, "Solving Ordinary Differential Equations II", IV.3.
"""

from .esdirk import NamedDiagonallyImplicit
from .tableau import ImplicitTableau


class ImplicitEuler(NamedDiagonallyImplicit):
    r"""Euler's implicit method: order 1, compared with the trapezoidal rule, L-stable and monotone.

    .. math:: y_1 = y_0 + h f(t_1, y_1), \qquad e = \tfrac h2 (f(t_1, y_1) - f(t_0, y_0))

    Args:
        linear_solver: how the linear systems are solved; None: :class:`DenseLU`.
        derivatives: how often a solution can be differentiated, 1 or 2.

    Raises:
        InvalidProblemError: an argument is wrong; in the solve, a field that cannot be differentiated.

    When to take it:
        Where nothing may overshoot, in differentiable simulation at fixed steps, and to check others. :class:`TRBDF2` needs far
        fewer steps for the same accuracy.

    References:
        Hairer, Wanner: Solving Ordinary Differential Equations II, IV.3.

    Example:
        >>> import torch, neuralde as nde
        >>> problem = nde.ODEProblem(lambda t, y: -1e6 * y, torch.ones(1, dtype=torch.float64), (0.0, 1.0))
        >>> nde.solve(problem, nde.ImplicitEuler(), dt=0.5, controller=nde.ConstantStep()).y1 < 1e-10
        tensor([True])
    """

    @staticmethod
    def coefficients() -> ImplicitTableau:
        """The tableau."""
        return ImplicitTableau(a=((0.0,), (0.0, 1.0)), b=(0.0, 1.0), order=1, b_embedded=(0.5, 0.5), embedded_order=2)


class ImplicitMidpoint(NamedDiagonallyImplicit):
    r"""The implicit midpoint rule: order 2, symplectic and symmetric, A-stable, of fixed steps.

    .. math:: y_1 = y_0 + h f\Bigl(t_0 + \tfrac h2,\; \tfrac12 (y_0 + y_1)\Bigr)

    Args:
        linear_solver: how the linear systems are solved; None: :class:`DenseLU`.
        derivatives: how often a solution can be differentiated, 1 or 2.

    Raises:
        InvalidProblemError: an argument is wrong; in the solve, a field that cannot be differentiated, or no ``dt``.

    When to take it:
        For Hamiltonian and conservative systems over long times, with ``rtol`` and ``atol`` small, to which the equations are
        solved: quadratic invariants are kept as exactly as that. Rows between the ends of steps have order 1.

    References:
        Hairer, Lubich, Wanner: Geometric Numerical Integration, II.1 and VI.4.

    Example:
        >>> import torch, neuralde as nde
        >>> y0 = torch.tensor([1.0, 0.0], dtype=torch.float64)
        >>> problem = nde.ODEProblem(lambda t, y: torch.stack([y[1], -y[0]]), y0, (0.0, 100.0))
        >>> y1 = nde.solve(problem, nde.ImplicitMidpoint(), dt=0.1, rtol=1e-10, atol=1e-12).y1
        >>> (y1.square().sum() - 1.0).abs() < 1e-9
        tensor(True)
    """

    fixed_because = "it estimates no error"

    @staticmethod
    def coefficients() -> ImplicitTableau:
        """The tableau."""
        return ImplicitTableau(a=((0.5,),), b=(1.0,), order=2)


class Trapezoid(NamedDiagonallyImplicit):
    r"""The trapezoidal rule, Crank and Nicolson's method: order 2, A-stable, symmetric, of fixed steps.

    .. math:: y_1 = y_0 + \tfrac h2 (f(t_0, y_0) + f(t_1, y_1))

    Args:
        linear_solver: how the linear systems are solved; None: :class:`DenseLU`.
        derivatives: how often a solution can be differentiated, 1 or 2.

    Raises:
        InvalidProblemError: an argument is wrong; in the solve, a field that cannot be differentiated, or no ``dt``.

    When to take it:
        For semidiscretised partial differential equations with smooth solutions, at fixed steps. Stiff components that start
        off their equilibrium are not damped, and oscillate: :class:`TRBDF2` damps them, and adapts its steps.

    References:
        Hairer, Wanner: Solving Ordinary Differential Equations II, IV.3.

    Example:
        >>> import torch, neuralde as nde
        >>> problem = nde.ODEProblem(lambda t, y: -y, torch.ones(1, dtype=torch.float64), (0.0, 1.0))
        >>> nde.solve(problem, nde.Trapezoid(), dt=0.01, rtol=1e-8, atol=1e-8).y1
        tensor([0.3679], dtype=torch.float64)
    """

    @staticmethod
    def coefficients() -> ImplicitTableau:
        """The tableau."""
        return ImplicitTableau(a=((0.0,), (0.5, 0.5)), b=(0.5, 0.5), order=2)
