"""Every error the library raises on purpose. A failed solve carries what it computed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .output.solution import Solution


class NeuralDEError(Exception):
    """The base of every error raised by neuralde.

    Raised by:
        Everything below; caught to tell the library's errors from all others. :class:`TableauError` is a plain
            ``ValueError``.

    Example:
        >>> import neuralde as nde
        >>> issubclass(nde.InvalidProblemError, nde.NeuralDEError)
        True
    """


class InvalidProblemError(NeuralDEError, ValueError):
    """An argument is wrong. The message names the argument, what was passed and what is accepted.

    Raised by:
        Constructors and solves, before anything is computed where that can be known, at the call of a function
            otherwise.

    Example:
        >>> import torch, neuralde as nde
        >>> nde.ODEProblem(lambda t, y: -y, torch.ones(2), (0.0, float("nan")))
        Traceback (most recent call last):
        ...
        neuralde.solvers.errors.InvalidProblemError: tspan: got nan for its end; expected a finite time
    """


class PrecisionWarning(UserWarning):
    """The tolerance does not fit the numbers: below what the dtype resolves, or far above the size of the whole state.

    Above the state's size, errors as large as the state are accepted: give an ``atol`` below it, one for each entry where
    their units differ. Below the rounding, the error estimate measures rounding.
    Steps are then rejected for noise, and a regularizer on the estimate trains against noise. Use float64, or a relative
    tolerance above four units of rounding (about 5e-7 in float32).

    Raised by:
        :func:`neuralde.solve`, as a warning, before the first step.

    Example:
        >>> import torch, warnings, neuralde as nde
        >>> problem = nde.ODEProblem(lambda t, y: -y, torch.ones(1), (0.0, 0.1))
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     _ = nde.solve(problem, rtol=1.4e-8, atol=1.4e-8)
        >>> caught[0].category.__name__
        'PrecisionWarning'
    """


class SolveError(NeuralDEError, RuntimeError):
    """A solve stopped before its end; ``solution`` holds everything computed before that.

    Args:
        message: what happened, where, and what usually helps.
        solution: the partial solution; rows that were not reached are NaN.

    Raised by:
        :func:`neuralde.solve` unless ``throw=False``, :meth:`Solution.raise_on_failure`, and backward solves of
            continuous adjoints.

    Example:
        >>> import torch, neuralde as nde
        >>> problem = nde.ODEProblem(lambda t, y: y**2, torch.tensor(1.0), (0.0, 2.0))
        >>> try:
        ...     nde.solve(problem, saveat=torch.tensor([0.5, 1.5]))
        ... except nde.SolveError as error:
        ...     print(type(error).__name__, error.solution.ys[0].isfinite().item())
        StepSizeError True
    """

    def __init__(self, message: str, solution: Solution | None = None) -> None:
        super().__init__(message)
        self.solution = solution


class MaxStepsError(SolveError):
    """``max_steps`` attempts were made before the end of the interval.

    Small steps everywhere mean a stiff field or a tolerance below rounding: otherwise a larger ``max_steps`` helps.

    Raised by:
        A solve with the status ``MAX_STEPS``.

    Example:
        >>> import torch, neuralde as nde
        >>> problem = nde.ODEProblem(lambda t, y: -y, torch.tensor(1.0), (0.0, 1.0))
        >>> nde.solve(problem, max_steps=1, throw=False).status.name
        'MAX_STEPS'
    """


class StepSizeError(SolveError):
    """The step size fell below the smallest one allowed (``dtmin``, or the resolution of time).

    The solution may be singular there, or the field jump: give known jumps as ``jump_ts`` of the controller.

    Raised by:
        A solve with the status ``STEP_UNDERFLOW``.

    Example:
        >>> import torch, neuralde as nde
        >>> problem = nde.ODEProblem(lambda t, y: y**2, torch.tensor(1.0), (0.0, 2.0))
        >>> nde.solve(problem, throw=False).status.name
        'STEP_UNDERFLOW'
    """


class NonFiniteError(SolveError):
    """The field returned NaN or infinity, and no smaller step avoided it.

    A division, root or logarithm outside its domain, or parameters that have diverged.

    Raised by:
        A solve with the status ``NON_FINITE``.

    Example:
        >>> import torch, neuralde as nde
        >>> problem = nde.ODEProblem(lambda t, y: y / (t < 0.5), torch.tensor(1.0), (0.0, 1.0))
        >>> nde.solve(problem, throw=False).status.name
        'NON_FINITE'
    """


class ConvergenceError(SolveError):
    """A steady state was not found, or has no gradient, or a continuous adjoint's integral; the message says which, and why.

    Raised by:
        A steady state's solve with the status ``NOT_CONVERGED``; the backward passes of :class:`ImplicitAdjoint` and
            :class:`GaussAdjoint`.

    Example:
        >>> import torch, neuralde as nde
        >>> no_equilibrium = nde.SteadyStateProblem(lambda t, y: 1.0 + y**2, torch.ones(1, dtype=torch.float64))
        >>> nde.solve(no_equilibrium, nde.Newton(), throw=False).status.name
        'NOT_CONVERGED'
    """
