"""Random end times (Ghosh et al., STEER, NeurIPS 2020)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from neuralde.solvers import InvalidProblemError, ODEProblem, SDEProblem
from neuralde.solvers.attempt import Plan
from neuralde.solvers.checks import number
from neuralde.solvers.costs import StepView

from .base import Regularizer


class STEER(Regularizer):
    r"""Integrate to a random end time, so that the model cannot rely on one: :math:`t_1 \sim U(t_1 - b, t_1 + b)`.

    Its number in ``sol.regularization`` is 0. One draw, from torch's global generator, serves the whole solve. Leave it
    out when predicting.

    Args:
        b: half the width of the jitter, in units of time; it must be shorter than the interval. The paper's 0.5 is for
            an interval of length 1.

    References:
        Ghosh, Behl, Dupont, Torr, Namboodiri: STEER: Simple Temporal Regularization For Neural ODEs. NeurIPS 2020.

    Example:
        >>> import torch, neuralde as nde
        >>> _ = torch.manual_seed(0)
        >>> problem = nde.ODEProblem(lambda t, y: torch.ones_like(y), torch.zeros(1), (0.0, 1.0))
        >>> sol = nde.solve(problem, regularizers=[nde.regularizers.STEER(b=0.25)])
        >>> 0.75 <= sol.y1.item() <= 1.25
        True
    """

    differentiable = False

    def __init__(self, b: float = 0.5) -> None:
        self.b = number(b, "b", "a number, 0 or positive", least=0.0)

    def prepare(self, problem: ODEProblem | SDEProblem) -> ODEProblem | SDEProblem:
        """The same problem to the random end."""
        t0, t1 = problem.tspan
        if not torch.compiler.is_compiling() and bool((torch.as_tensor(t1 - t0).abs() <= self.b).any()):
            raise InvalidProblemError(
                f"b: got {self.b} for tspan {problem.tspan}; expected less than the interval's length"
            )
        jitter = (2.0 * torch.rand(()) - 1.0) * self.b
        return replace(problem, tspan=(t0, t1 + (jitter.to(t1) if isinstance(t1, Tensor) else jitter.item())))

    def start(self, y0: Tensor, lanes: Tensor, span: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        """Zero."""
        del y0, span
        return (lanes,)

    def update(self, state: tuple[Tensor, ...], view: StepView) -> tuple[Tensor, ...]:
        """Nothing is measured."""
        del view
        return state

    def value(self, state: tuple[Tensor, ...], accepted: Any, plan: Plan) -> tuple[Tensor, int]:
        """Zero."""
        del accepted, plan
        return state[0], 0
