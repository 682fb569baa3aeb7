"""Random end times (Ghosh et al., STEER, NeurIPS 2020)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from neuralde.solvers import InvalidProblemError, ODEProblem, SDEProblem
from neuralde.solvers.checks import number
from neuralde.solvers.core.scalars import as_clock
from neuralde.solvers.stepping.attempt import Plan
from neuralde.solvers.stepping.reductions import StepView

from .base import Regularizer


class STEER(Regularizer):
    r"""Integrate to a random end time, so that the model cannot rely on one: :math:`t_1 \sim U(t_1 - b, t_1 + b)`.

    Its number in ``sol.regularization`` is 0. One draw, from torch's global generator, serves the whole solve. Leave it
    out when predicting. Of the save times, ``t1`` moves with the end, as ``sol.ts`` shows; the others stay, and have to
    lie where every draw reaches, up to :math:`t_1 - b`.

    Args:
        b: half the width of the jitter, in units of time; it must be shorter than the interval. The paper's 0.5 is for
            an interval of length 1.

    Shapes:
        The value is 0, 0-d or ``(B,)`` with ``per_sample``; the end time is one for all samples.

    Units:
        ``b`` is in units of time.

    Raises:
        InvalidProblemError: ``b`` is no number or negative; in the solve, ``b`` is not shorter than the interval, or a
            save time lies beyond ``t1 - b`` without being ``t1``.

    When to take it:
        For classifiers and flows whose end time means nothing in itself. It costs no call of the field and no gradient
        of the solver's numbers, so it goes with every adjoint and beside every other regularizer. Not for data at given
        times: :class:`neuralde.LatentODE` has ``steer`` for these.

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
        if not torch.compiler.is_compiling() and bool((as_clock(t1 - t0).abs() <= self.b).any()):
            raise InvalidProblemError(
                f"b: got {self.b} for tspan {problem.tspan}; expected less than the interval's length"
            )
        jitter = (2.0 * torch.rand(()) - 1.0) * self.b
        if isinstance(t1, Tensor):  # an int tensor would cut the jitter off, and one of float32 round it
            return replace(problem, tspan=(t0, t1.to(torch.float64) + jitter.to(t1.device)))
        return replace(problem, tspan=(t0, t1 + jitter.item()))

    def save_times(self, saveat: Any, given: ODEProblem | SDEProblem, problem: ODEProblem | SDEProblem) -> Any:
        """The same times, ``t1`` among them moved to the random end; refuses those that some draws would leave behind it."""
        times = None if not self.b or isinstance(saveat, str) else _as_times(saveat)
        if times is None:
            return saveat
        (t0, t1), end = (as_clock(t, times.device) for t in given.tspan), as_clock(problem.tspan[1], times.device)
        if t0.dim() + t1.dim() and times.dim() == 1:
            times = times.unsqueeze(-1)  # each sample's own
        rounded = isinstance(saveat, Tensor) and saveat.is_floating_point()
        slack = 4 * torch.finfo(saveat.dtype if rounded else torch.float64).eps * torch.maximum(t0.abs(), t1.abs())
        last = (times - t1).abs() <= slack
        fits = last | ((times - t0).abs() <= (t1 - t0).abs() - self.b + slack)
        if not torch.compiler.is_compiling() and not bool(fits.all()):
            late = times.expand_as(fits)[~fits].tolist()[:8]
            raise InvalidProblemError(
                f"saveat: got {late} with STEER(b={self.b}), which may end before them; expected times no later than b "
                "before t1, or t1 itself (its row is that of the random end), or a smaller b"
            )
        return torch.where(last, end, times)

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


def _as_times(saveat: Any) -> Tensor | None:
    """Save times in float64; None where there are none, or the solve refuses them."""
    if isinstance(saveat, Tensor):
        return None if saveat.is_complex() or saveat.dtype == torch.bool else saveat.to(torch.float64)
    try:
        return None if saveat is None else as_clock(saveat)
    except (TypeError, ValueError, RuntimeError):
        return None
