"""What solves cost, in counts that do not depend on the machine."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from neuralde.solvers import Status
from neuralde.solvers.core.scalars import as_clock
from neuralde.solvers.core.tolerances import strictest

from ..listeners import Solved, listening


@dataclass(frozen=True)
class SolveCost:
    """What one solve cost.

    Attributes:
        solver: the method's name.
        dtype: of the state, ``float64`` say.
        rtol: relative tolerance.
        atol: absolute tolerance.
        samples: how many samples had a clock of their own; None for a joint solve.
        counts: the solve's statistics by name: ``nfe``, ``steps``, ``accepted``, ``rejected``, and what else the
            solve counts where it is not 0; with ``per_sample`` the sums over the samples.
        slowest: with ``per_sample`` the field calls of the sample that needed most.
        steps_per_time: accepted steps (of the slowest sample) per unit of time; None for a steady state.
        max_error: the largest error estimate of an accepted step in units of the tolerance; None where there is none.
        max_stiffness: the largest stiffness estimate, 1/time; None where there is none.
        status: how the solve ended; of several samples the worst.

    Example:
        >>> import torch, neuralde as nde
        >>> with nde.testing.CostRecorder() as cost:
        ...     sol = nde.solve(nde.ODEProblem(lambda t, y: -y, torch.ones(1), (0.0, 1.0)))
        >>> cost.solves[0].counts["nfe"] == sol.stats.nfe, cost.solves[0].dtype
        (True, 'float32')
    """

    solver: str
    dtype: str
    rtol: float
    atol: float
    samples: int | None
    counts: dict[str, int]
    slowest: int | None
    steps_per_time: float | None
    max_error: float | None
    max_stiffness: float | None
    status: str

    @classmethod
    def of(cls, solved: Solved) -> SolveCost:
        """The cost of a solve that a listener has heard of."""
        solution = solved.solution
        stats = {item.name: getattr(solution.stats, item.name) for item in fields(solution.stats)}
        stats = {name: torch.as_tensor(value).detach() for name, value in stats.items() if value is not None}
        lanes = stats["nfe"].dim() > 0
        status = torch.as_tensor(solution.status)
        worst = Status(int(status.max())) if status.numel() else Status.SUCCESS
        return cls(
            solver=getattr(solved.method, "name", type(solved.method).__name__),
            dtype=_dtype(solved.problem.y0),
            rtol=strictest(solved.rtol),
            atol=strictest(solved.atol),
            samples=len(stats["nfe"]) if lanes else None,
            counts=_counts(stats),
            slowest=int(stats["nfe"].max()) if lanes and stats["nfe"].numel() else None,
            steps_per_time=_rate(stats["accepted"], solved.problem),
            max_error=None if solved.peaks is None else solved.peaks.error,
            max_stiffness=None if solved.peaks is None else solved.peaks.stiffness,
            status=worst.name,
        )


def _counts(stats: dict[str, Tensor]) -> dict[str, int]:
    """The sums; of what only some solves count, what there was."""
    sums = {name: int(value.sum()) for name, value in stats.items()}
    return {name: value for name, value in sums.items() if value or name in _ALWAYS}


_ALWAYS = ("nfe", "steps", "accepted", "rejected")


def _dtype(state: Any) -> str:
    kinds = {str(leaf.dtype).removeprefix("torch.") for leaf in pytree.tree_leaves(state)}
    return "+".join(sorted(kinds))


def _rate(accepted: Tensor, problem: Any) -> float | None:
    span = getattr(problem, "tspan", None)
    if span is None:
        return None
    length = as_clock(span[1] - span[0], accepted.device).detach().abs()
    rate = torch.where(length > 0, accepted / length, 0.0)
    return float(rate.max()) if rate.numel() else 0.0


@dataclass(eq=False)
class CostRecorder:
    """Records the cost of every solve inside a ``with`` block.

    Solves are counted as they run forward: the calls that an adjoint makes in the backward pass are not among them.
    Eager solves and those of models with ``compile=True`` are heard (the latter without error and stiffness maxima); a
    solve inside a function under ``torch.compile`` is not.

    Attributes:
        solves: a :class:`SolveCost` for each solve, in the order in which they finished.

    When to take it:
        To read the cost of a piece of code; :class:`SolverCost` compares it with a file, :class:`CostLogger` sums it
        per step.

    Example:
        >>> import torch, neuralde as nde
        >>> problem = nde.ODEProblem(lambda t, y: -y, torch.ones(1), (0.0, 1.0))
        >>> with nde.testing.CostRecorder() as cost:
        ...     sols = [nde.solve(problem, rtol=rtol) for rtol in (1e-3, 1e-5)]
        >>> len(cost.solves), cost.nfe == sum(sol.stats.nfe for sol in sols)
        (2, True)
    """

    solves: list[SolveCost] = field(default_factory=list)
    _open: ExitStack = field(default_factory=ExitStack, repr=False)

    def __enter__(self) -> CostRecorder:
        self._open.enter_context(listening(self._hear))
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def _hear(self, solved: Solved) -> None:
        self.solves.append(SolveCost.of(solved))

    @property
    def totals(self) -> dict[str, int]:
        """Every count, summed over the solves; ``solves`` is their number."""
        found: dict[str, int] = {"solves": len(self.solves)}
        for solve in self.solves:
            for name, value in solve.counts.items():
                found[name] = found.get(name, 0) + value
        return found

    @property
    def nfe(self) -> int:
        """All calls of the fields."""
        return self.totals.get("nfe", 0)

    @property
    def metrics(self) -> dict[str, float]:
        """The totals and the maxima as one flat dictionary of numbers, for a logger."""
        found: dict[str, float] = {name: float(value) for name, value in self.totals.items()}
        for name in ("max_error", "max_stiffness", "steps_per_time"):
            values = [getattr(solve, name) for solve in self.solves if getattr(solve, name) is not None]
            if values:
                found[name] = max(values)
        return found
