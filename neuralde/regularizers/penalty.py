"""Several regularizers and their weights as one term of the loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from neuralde.solvers import InvalidProblemError, Solution

from .base import Regularizer
from .schedules import Schedule, as_schedule


class Penalty:
    r"""Regularizers with their weights, :math:`\sum_i \lambda_i(n) R_i`.

    ``penalty.regularizers`` goes to the solve or the model, ``penalty(solution, step)`` into the loss.

    Args:
        terms: pairs of a regularizer and its weight: a number or a :class:`Schedule`, such as :class:`Exponential`,
            :class:`Cosine`, :class:`Warmup` or :class:`TargetNFE`.

    Raises:
        InvalidProblemError: a term is no pair of a regularizer and its weight, or a weight is no number or below 0; at
            the call, the solution has not as many values as there are terms.

    When to take it:
        For more than one regularizer, or a weight that changes while a model trains. For one fixed weight ``loss + 10.0
        * sol.regularization[0]`` is enough.

    Example:
        >>> import torch, neuralde as nde
        >>> from neuralde.regularizers import STEER, ErrorEstimate, Exponential, Penalty
        >>> penalty = Penalty((ErrorEstimate(), Exponential(100.0, 10.0, steps=75)), (STEER(b=0.5), 0.0))
        >>> field = nde.models.TimeConditionedMLP(4, hidden=[16])
        >>> model = nde.NeuralODE(field, regularizers=penalty.regularizers)
        >>> for epoch in range(2):
        ...     states, sol = model(torch.randn(8, 4))
        ...     loss = states.square().mean() + penalty(sol, epoch)
        ...     loss.backward()
        >>> penalty.weights(75)
        (10.0, 0.0)
    """

    def __init__(self, *terms: tuple[Regularizer, float | Schedule]) -> None:
        for term in terms:
            if not isinstance(term, (tuple, list)) or len(term) != 2 or not isinstance(term[0], Regularizer):
                raise InvalidProblemError(
                    f"terms: got {term!r}; expected pairs of a regularizer and its weight, such as (ErrorEstimate(), 10.0)"
                )
        self.regularizers: tuple[Regularizer, ...] = tuple(regularizer for regularizer, _ in terms)
        self.schedules = tuple(as_schedule(weight) for _, weight in terms)

    def weights(self, step: float = 0) -> tuple[float, ...]:
        """The weights at a step."""
        return tuple(schedule(step) for schedule in self.schedules)

    def __call__(self, solution: Solution, step: float = 0) -> Tensor:
        """The weighted sum, 0-d; with ``per_sample`` of the means over the samples.

        With gradients on (in training), each schedule that learns, such as :class:`TargetNFE`, learns of the solution first.
        """
        values = solution.regularization
        if len(values) != len(self.regularizers):
            raise InvalidProblemError(
                f"solution: has {len(values)} regularization values; expected {len(self.regularizers)}, from a solve with "
                "penalty.regularizers (a model in eval() solves without)"
            )
        if torch.is_grad_enabled():
            for schedule in self.schedules:
                schedule.observe(solution, step)
        total: Any = torch.zeros((), device=solution.ts.device)
        for weight, value in zip(self.weights(step), values, strict=True):
            if weight:
                total = total + weight * value.mean()
        return total

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must keep: plain numbers."""
        states = {str(place): schedule.state_dict() for place, schedule in enumerate(self.schedules)}
        return {place: state for place, state in states.items() if state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        for place, schedule in enumerate(self.schedules):
            if str(place) in state:
                schedule.load_state_dict(state[str(place)])
