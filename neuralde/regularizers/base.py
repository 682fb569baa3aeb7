"""What a regularizer is: a reduction over the accepted steps of a solve, and a number at its end."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from neuralde.solvers import InvalidProblemError, Method, ODEProblem, SDEProblem
from neuralde.solvers.stepping.attempt import Plan
from neuralde.solvers.stepping.reductions import Cost, StepView


class Regularizer(Cost):
    """A differentiable number for the training loss, computed from what the solver knows of itself.

    A further regularizer is a reduction over accepted steps: a subclass of this, or of :class:`StepReduction` where one
    number per step is summed, averaged or maximised.

    A regularizer's value is in ``sol.regularization``, in the order in which they were given to the solve.

    When to take it:
        To write a regularizer that keeps more than one number between the steps. For one number per step
        :class:`StepReduction` is shorter; for an integral of a known function :class:`RunningCost` needs no class.

    Example:
        >>> import torch, neuralde as nde
        >>> class Length(nde.regularizers.Regularizer):
        ...     def start(self, y0, lanes, span):
        ...         return (lanes,)
        ...     def update(self, state, view):
        ...         return (state[0] + view.rms(view.y1 - view.y0),)
        ...     def value(self, state, accepted, plan):
        ...         return state[0], 0
        >>> problem = nde.ODEProblem(lambda t, y: -y, torch.ones(3), (0.0, 1.0))
        >>> nde.solve(problem, regularizers=[Length()]).regularization[0]
        tensor(0.6321)
    """

    def prepare(self, problem: ODEProblem | SDEProblem) -> ODEProblem | SDEProblem:
        """The problem to solve instead; only an end-time jitter changes it."""
        return problem

    def save_times(self, saveat: Any, given: ODEProblem | SDEProblem, problem: ODEProblem | SDEProblem) -> Any:
        """``saveat`` as asked of the ``given`` problem, for the one that :meth:`prepare` made of it."""
        del given, problem
        return saveat


class StepReduction(Regularizer):
    r"""One number per accepted step, :math:`v_j |h_j|^p`, reduced over the steps.

    Args:
        reduction: ``"mean"``, ``"sum"`` or ``"max"``. A maximum's gradient is that of the one largest step.
        dt_power: :math:`p`, the power of the step size (a constant for the gradient).
        start_value: a value to reduce along with the steps'; the papers' code has one at ``t0`` (see the subclasses).

    Shapes:
        :meth:`measure` gives one number for each lane: 0-d, or ``(B,)`` with ``per_sample``; so is the reduced value.

    Units:
        Those of :meth:`measure` times time to the power of ``dt_power``.

    Raises:
        InvalidProblemError: ``reduction`` is none of the three.

    When to take it:
        To write a regularizer that is one number per accepted step. :class:`Regularizer` where more must be remembered;
        :class:`RunningCost` for an integral that does not depend on the method.

    Example:
        >>> import torch, neuralde as nde
        >>> class StageNorm(nde.regularizers.StepReduction):
        ...     def measure(self, view):
        ...         return view.rms(view.y1 - view.y0)
        >>> problem = nde.ODEProblem(lambda t, y: -y, torch.ones(3), (0.0, 1.0))
        >>> nde.solve(problem, regularizers=[StageNorm(reduction="sum")]).regularization[0]
        tensor(0.6321)
    """

    def __init__(self, reduction: str = "mean", dt_power: float = 0, start_value: float | None = None) -> None:
        if reduction not in ("mean", "sum", "max"):
            raise InvalidProblemError(f'reduction: got {reduction!r}; expected "mean", "sum" or "max"')
        self.reduction, self.dt_power, self.start_value = reduction, dt_power, start_value

    @abstractmethod
    def measure(self, view: StepView) -> Tensor:
        """The number of one step, a value per lane."""

    def start(self, y0: Tensor, lanes: Tensor, span: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        """Zero, or the value that stands at the start."""
        del y0, span
        return (lanes + (self.start_value or 0.0),)

    def update(self, state: tuple[Tensor, ...], view: StepView) -> tuple[Tensor, ...]:
        """Take in one more step."""
        (total,) = state
        return (self.combined(total, self.measure(view), view),)

    def combined(self, total: Tensor, value: Tensor, view: StepView) -> Tensor:
        """What was reduced so far, with one more step's number."""
        if self.dt_power:
            value = value * view.dt**self.dt_power
        return torch.maximum(total, value) if self.reduction == "max" else total + value

    def value(self, state: tuple[Tensor, ...], accepted: Any, plan: Plan) -> tuple[Tensor, int]:
        """The reduced number; 0 for a solve without steps."""
        del plan
        (total,) = state
        if self.reduction != "mean":
            return total, 0
        count = accepted + (self.start_value is not None)
        if isinstance(count, Tensor):
            return total / count.clamp(min=1), 0
        return total / max(count, 1), 0


def check_method(method: Method, reads_stiffness: bool) -> None:
    """Refuse a method that does not estimate what is read."""
    if reads_stiffness:
        method.require_stiffness()
    elif not method.adaptive:
        raise InvalidProblemError(
            f"solver: {method.name} has no error estimate, which the regularizer reads; expected an embedded method, "
            "such as Tsit5()"
        )
