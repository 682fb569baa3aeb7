"""What a solve returns."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..core.counts import Stats
from ..core.status import Status
from ..errors import ConvergenceError, InvalidProblemError, MaxStepsError, NonFiniteError, SolveError, StepSizeError
from .dense import DenseOutput


@dataclass(frozen=True)
class SteadyStats(Stats):
    """Counts of a search for a steady state: those of a solve, and of the linear algebra of its root finder.

    A product with the Jacobian is a backward pass through one call of the field and is not counted in ``nfe``.

    Attributes:
        jacobians: how often the field was linearized.
        linear_solves: linear systems with the Jacobian.
        products: products with the Jacobian or its transpose; to form a Jacobian of n unknowns takes n.

    Example:
        >>> import torch, neuralde as nde
        >>> problem = nde.SteadyStateProblem(lambda t, y: 1.0 - y, torch.zeros(3))
        >>> nde.solve(problem, nde.Newton()).stats
        SteadyStats(nfe=2, steps=1, accepted=1, rejected=0, jacobians=1, linear_solves=1, products=3)
    """

    jacobians: Any = field(default=0)
    linear_solves: Any = field(default=0)
    products: Any = 0


@dataclass(frozen=True)
class Trace:
    """What happened at every attempted step, in order; detached. With ``per_sample`` each has shape ``(steps, B)``.

    Attributes:
        t: where the attempt started.
        dt: its signed length; 0 for a lane that had already finished.
        error: the scaled error norm, accepted when at most 1; NaN for methods without estimate.
        stiffness: the raw stiffness quotient, 1/time; NaN for methods without estimate.
        accepted: the verdict.

    Units:
        ``t`` and ``dt`` in time, ``stiffness`` in 1/time, ``error`` in units of the tolerance.

    Example:
        >>> import torch, neuralde as nde
        >>> sol = nde.solve(nde.ODEProblem(lambda t, y: -50 * y, torch.ones(1), (0.0, 1.0)), trace=True)
        >>> round(sol.trace.stiffness[-1].item())
        50
    """

    t: Tensor
    dt: Tensor
    error: Tensor
    stiffness: Tensor
    accepted: Tensor


@dataclass(frozen=True, eq=False)
class EventLog:
    """The events of a solve, in order, a row for each; differentiable.

    With ``per_sample`` the second dimension counts the samples, and a sample with fewer events than another has NaN, and
    index -1, behind its last.

    Attributes:
        ts: when they happened, ``(N,)`` or ``(N, B)``, float64.
        index: which of ``events`` they were, int64; a function with k values counts as k.
        ys: the states there, ``(N, *y0.shape)``, before any change.
        after: the states with which the solve went on.

    Units:
        ``ts`` in those of ``tspan``, the states in their own.

    Example:
        >>> import torch, neuralde as nde
        >>> problem = nde.ODEProblem(lambda t, y: torch.ones_like(y), torch.zeros(1, dtype=torch.float64), (0.0, 2.6))
        >>> reset = nde.Event(lambda t, y: y[0] - 1.0, terminal=False, apply=lambda t, y: 0.0 * y)
        >>> sol = nde.solve(problem, events=reset)
        >>> sol.events.ts.round(decimals=9), sol.y1
        (tensor([1., 2.], dtype=torch.float64), tensor([0.6000], dtype=torch.float64))
    """

    ts: Tensor
    index: Tensor
    ys: Any
    after: Any

    def __len__(self) -> int:
        return len(self.ts)


@dataclass(frozen=True, eq=False)
class Solution:
    """The result of :func:`neuralde.solve`.

    Attributes:
        ts: save times ``(T,)``; ``(T, B)`` with per-sample times.
        ys: states at them, ``(T, *y0.shape)`` (pytree: the same structure). Rows that were not reached are NaN.
        y1: the state where the solve ended.
        stats: counts.
        status: a :class:`Status`, or a ``(B,)`` int64 tensor of them with ``per_sample``.
        regularization: one 0-d (``(B,)``) differentiable tensor for each regularizer.
        trace: with ``trace=True``, a :class:`Trace`.
        event_time: when the event that ended the solve happened, else None; with ``per_sample`` ``(B,)``, NaN where none did.
        event_index: which of ``events`` that was (the first of several; a function with k values counts as k), else None;
            with ``per_sample`` ``(B,)``, or -1.
        events: with ``events=``, an :class:`EventLog` of all that happened.
        residual: of a steady state, the norm of the field at ``y1``, ``(B,)`` with ``per_sample``; else None.
        unstable: of a steady state, True where small differences from it are known to grow (up to 128 unknowns).
        singular: of a steady state, True where its Jacobian is known to be singular: it is not isolated, because totals
            are conserved, say, or lies at a bifurcation.
        seed: of an SDE's noise, given or drawn; None where a path was given.
        path: an SDE's noise: ``path(s, t)`` gives its increments, between the steps as well.

    Units:
        Times in those of ``tspan``, states in those of ``y0``, ``residual`` in state per time.

    Example:
        >>> import torch, neuralde as nde
        >>> problem = nde.ODEProblem(lambda t, y: -y, torch.ones(1), (0.0, 1.0))
        >>> nde.solve(problem, saveat=torch.tensor([0.0, 0.5, 1.0]), rtol=1e-6).ys
        tensor([[1.0000],
                [0.6065],
                [0.3679]])
    """

    ts: Tensor
    ys: Any
    y1: Any
    stats: Stats
    status: Any
    regularization: tuple[Tensor, ...] = ()
    trace: Trace | None = None
    event_time: Tensor | None = None
    event_index: Any = None
    events: EventLog | None = None
    residual: Any = None
    unstable: Any = None
    singular: Any = None
    seed: Any = None
    path: Any = field(default=None, repr=False)
    dense: DenseOutput | None = field(default=None, repr=False)

    def __call__(self, t: float | Tensor) -> Any:
        """The state at ``t`` (a number, or a tensor of times, whose shape leads), from the dense output.

        With ``per_sample`` the rule is that of ``saveat``: a number and times ``(T,)`` are those of all samples, also where
        T is B, and times ``(T, B)`` are each sample's own. A ``(B,)`` tensor with one time for each, such as
        ``event_time``, is therefore given as ``sol(times[None])[0]``.

        Differentiable with respect to the solve's inputs and ``t``. Needs ``dense=True``.

        Example:
            >>> import torch, neuralde as nde
            >>> problem = nde.ODEProblem(lambda t, y: -y, torch.ones(3, 1), (0.0, 1.0))
            >>> sol = nde.solve(problem, per_sample=True, dense=True)
            >>> sol(0.5).shape, sol(torch.tensor([0.0, 0.5, 1.0])).shape, sol(torch.rand(5, 3)).shape
            (torch.Size([3, 1]), torch.Size([3, 3, 1]), torch.Size([5, 3, 1]))
        """
        return self._dense()(t)

    def derivative(self, t: float | Tensor) -> Any:
        """The time derivative of the dense output at ``t``, by the same rule for times.

        Where an interval has no length it is the field's value there, which is asked for then (NaN for an SDE, whose
        solutions have none).
        """
        return self._dense()(t, slope=True)

    def _dense(self) -> DenseOutput:
        if self.dense is None:
            raise InvalidProblemError(
                "dense: got False; expected solve(..., dense=True) for the solution between save times"
            )
        return self.dense

    def raise_on_failure(self) -> None:
        """Raise the :class:`SolveError` that describes a failed status, with this solution in its ``.solution``."""
        failed = self.failed()
        if not failed:
            return
        statuses = self.status if isinstance(self.status, Tensor) else torch.tensor([int(self.status)])
        worst = Status(int(statuses[failed[0]]))
        where = (
            "" if not isinstance(self.status, Tensor) else f" in {len(failed)} of {len(statuses)} samples {failed[:8]}"
        )
        raise failure(worst, "", f"{where}; reached {self._reached(failed[0])}", self, self._advice)

    def failed(self) -> list[int]:
        """The numbers of the samples whose status is a failure; 0 for a joint solve."""
        if not isinstance(self.status, Tensor):
            return [0] if self.status > Status.EVENT else []
        return (self.status > int(Status.EVENT)).nonzero().reshape(-1).tolist()

    _end: Any = None
    _advice: str = field(default="", repr=False)

    def _reached(self, lane: int) -> str:
        def number(x: Any) -> Any:
            return x if not isinstance(x, Tensor) else x[lane].item() if x.dim() else x.item()

        end, steps, nfe = map(number, (self._end, self.stats.steps, self.stats.nfe))
        place = f"t = {end!r}"
        if self.residual is not None:
            place = f"a residual of {number(self.residual):.3g}" + ("" if math.isinf(end) else f" at {place}")
        said = " (the Jacobian there is singular)" if self.singular is not None and bool(number(self.singular)) else ""
        return f"{place}{said} after {steps} steps and {nfe} field calls"


def failure(
    status: Status, who: str = "", where: str = "", solution: Solution | None = None, advice: str = ""
) -> SolveError:
    """The error that a failed status stands for; ``advice`` is what is known beyond the status, if anything is."""
    reason, known = _REASONS[status], advice.lstrip() or _ADVICE[status]
    if status == Status.NOT_CONVERGED and (solution is None or solution.residual is None):
        reason, known = _UNSOLVED, advice.lstrip() or _UNSOLVED_ADVICE
    kept = "" if solution is None else "What was computed is in the error's .solution. "
    return _ERRORS[status](f"{who}{reason}{where}. {kept}{known}", solution)


_ERRORS: dict[Status, type[SolveError]] = {
    Status.MAX_STEPS: MaxStepsError,
    Status.STEP_UNDERFLOW: StepSizeError,
    Status.NON_FINITE: NonFiniteError,
    Status.NOT_CONVERGED: ConvergenceError,
}
_UNSOLVED = "the equations of an implicit step were not solved, at any step size that was tried"
_UNSOLVED_ADVICE = (
    "The solution may jump there, or the field not be smooth enough for Newton's iteration; with fixed steps take a smaller dt, or "
    "a controller that adapts them."
)
_REASONS = {
    Status.MAX_STEPS: "max_steps attempts did not reach the end of the interval",
    Status.STEP_UNDERFLOW: "the step size fell below the smallest one allowed",
    Status.NON_FINITE: "the field returned NaN or infinity",
    Status.NOT_CONVERGED: "no steady state was found",
}
_ADVICE = {
    Status.MAX_STEPS: (
        "Look at solve(..., trace=True, throw=False): small steps "
        "everywhere mean a stiff field or a tolerance below rounding; otherwise raise max_steps or loosen rtol and atol."
    ),
    Status.STEP_UNDERFLOW: (
        "The solution may be singular there, or the field stiff or "
        "discontinuous, or events may follow each other ever faster; give known discontinuities as jump_ts of the "
        "controller, and use float64 for tight tolerances."
    ),
    Status.NON_FINITE: (
        "Check the field at that time and state: a division, log or "
        "sqrt outside its domain, parameters that have diverged, or NaN in y0."
    ),
    Status.NOT_CONVERGED: (
        "There may be none near y0; it may be unstable or oscillate (DynamicSS, Anderson), or the Jacobian be singular on "
        "the way (Newton). Try another y0, a larger t_max, a smaller beta, DynamicSS(polish=Newton()), or looser tolerances."
    ),
}
