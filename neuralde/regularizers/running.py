"""A loss that is an integral along the path."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from neuralde.solvers import InvalidProblemError
from neuralde.solvers.core.scalars import Scalar, real_dtype
from neuralde.solvers.functions.calls import Caller
from neuralde.solvers.functions.severed_gradients import Cuts
from neuralde.solvers.stepping.attempt import Plan
from neuralde.solvers.stepping.quadrature import PathIntegral
from neuralde.solvers.terms.base import Term

from .base import Regularizer


class RunningCost(PathIntegral, Regularizer):
    r"""An integral along the solution, without a further component of the state: in ``sol.regularization``.

    .. math:: \int_{t_0}^{t_1} \ell(t, y(t), \text{args}) \, dt

    Every accepted step is integrated at Gauss points on its dense output, with the order of the solution; the integral
    is not part of the error control (augment the state where it must be). An interval that runs backwards gives the
    integral its sign. It is differentiable with respect to everything: state, ``args``, both ends, the tensors that
    ``fn`` holds, and through the times of events. A continuous adjoint puts :math:`\partial \ell / \partial y` into its
    backward equation.

    Args:
        fn: ``fn(t, y, *args)``, real: one number, or one for each sample ``(B,)``, which ``per_sample`` expects. ``t`` is
            what the field receives. Its calls are not counted in ``stats.nfe``.

    Shapes:
        ``fn`` gives 0-d or ``(B,)``; the value is shaped alike, ``(B,)`` with ``per_sample``.

    Units:
        Those of ``fn`` times time.

    Raises:
        InvalidProblemError: ``fn`` is not callable, gives something else than real numbers, or writes into the state.

    When to take it:
        For an objective along the path, as in optimal control, with any adjoint, continuous ones included. A
        regularizer of the solver's own numbers (:class:`ErrorEstimate`, :class:`KineticEnergy`) costs no further call
        of a function; a component of the state belongs to the error control.

    References:
        Pontryagin, Boltyanskii, Gamkrelidze, Mishchenko: The Mathematical Theory of Optimal Processes (1962), for the
        adjoint of an integral cost.

    Example:
        >>> import torch, neuralde as nde
        >>> k = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
        >>> problem = nde.ODEProblem(lambda t, y, k: -k * y, torch.ones(1, dtype=torch.float64), (0.0, 1.0), (k,))
        >>> effort = nde.RunningCost(lambda t, y, k: y.square().sum())
        >>> sol = nde.solve(problem, regularizers=[effort], rtol=1e-8, atol=1e-8)
        >>> round(sol.regularization[0].item(), 6)  # (1 - exp(-2k)) / 2k
        0.245421
        >>> torch.autograd.grad(sol.regularization[0], k)[0]
        tensor(-0.1136, dtype=torch.float64)
    """

    def __init__(self, fn: Callable[..., Any]) -> None:
        if not callable(fn):
            raise InvalidProblemError(f"fn: got {type(fn).__name__}; expected a callable fn(t, y, *args)")
        self.fn, self.caller = fn, Caller(Cuts())

    def start(self, y0: Tensor, lanes: Tensor, span: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        """Zero; each solve looks at ``fn`` anew."""
        self.caller = Caller(Cuts())
        return super().start(y0, lanes, span)

    def density(self, field: Term, t: Scalar, y: Tensor) -> Tensor:
        """The integrand, checked."""
        samples = f"one for each of {len(y)} samples" if field.packing.per_sample else "0-d, or one for each sample"

        def checked(value: Any, name: str) -> Tensor:
            if not isinstance(value, Tensor) or not value.is_floating_point():
                got = (
                    f"a {value.dtype} tensor" if isinstance(value, Tensor) else f"{type(value).__name__} {value!r}"[:80]
                )
                raise InvalidProblemError(f"{name}: got {got}; expected real numbers, {samples}")
            fits = value.numel() == len(y) if field.packing.per_sample else value.dim() < 2
            if not fits:
                raise InvalidProblemError(f"{name}: got shape {tuple(value.shape)}; expected real numbers, {samples}")
            return value.reshape(math.prod(value.shape) if field.packing.per_sample else value.shape).to(real_dtype(y))

        return self.caller(self.fn, "fn", checked, field.packing, t, y, field.args)

    def value(self, state: tuple[Tensor, ...], accepted: Any, plan: Plan) -> tuple[Tensor, int]:
        """The integral; 0 over an empty interval."""
        del accepted, plan
        return state[0], 0
