"""What the search for a steady state leaves for its gradient, and where that is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from neuralde.solvers.core.status import Status
from neuralde.solvers.errors import ConvergenceError
from neuralde.solvers.linear.jacobian import Linearized, LinearSolver, linear_solver
from neuralde.solvers.linear.spectrum import Anchored
from neuralde.solvers.steady.search import Found, Residual, Stop

from .shared.call_context import Setting
from .shared.captured_tensors import Unchanged

if TYPE_CHECKING:
    from .implicit import ImplicitAdjoint

# How far what is left of the residual may move the gradient, before it says more about the residual than the equilibrium.
_TRUSTED = 0.1


@dataclass(eq=False)
class Equilibrium:
    """What the search leaves for the backward pass."""

    adjoint: ImplicitAdjoint
    residual: Residual
    found: Found
    stop: Stop
    copies: list[Tensor]
    captured: list[Tensor]
    setting: Setting
    value: Tensor
    inputs: Unchanged
    parameters: Unchanged
    start: Tensor
    """The packed ``y0``, a copy."""
    held: Anchored | None = None
    """The field with its conserved totals held, where that is the system to solve."""

    @property
    def wanted(self) -> list[Tensor]:
        """What the gradient is asked of, in order."""
        return [*self.copies, *self.captured, *([self.start] if self.start.requires_grad else [])]

    @property
    def system(self) -> Callable[[Tensor], Tensor]:
        """The equation of which the equilibrium is an isolated root."""
        return self.residual if self.held is None else self.held

    @property
    def tol(self) -> float:
        """How exactly linear systems are solved."""
        if self.adjoint.rtol is not None:
            return self.adjoint.rtol
        return 1e-10 if self.found.x.dtype == torch.float64 else 1e-5

    def linearized(self, x: Tensor | None = None) -> Linearized:
        """The field at the equilibrium, called again."""
        return Linearized(self.system, self.found.x if x is None else x)

    def solver(self, at: Linearized) -> LinearSolver:
        """Linear systems with its Jacobian."""
        return linear_solver(at, self.adjoint.linear, self.adjoint.max_products)


def refuse_failed(run: Equilibrium, g: Tensor) -> None:
    """Refuse the gradient of a state that is no equilibrium."""
    failed = (run.found.status != int(Status.SUCCESS)) & (g != 0).any(dim=1)
    if bool(failed.any()):
        names = ", ".join(Status(code).name for code in run.found.status[failed].unique().tolist())
        raise ConvergenceError(
            f"no steady state was found{_rows(run, failed)} ({names}), so it has no gradient; expected a loss without "
            "those that failed, or settings with which they are found"
        )


def refuse_changed(run: Equilibrium, at: Linearized) -> None:
    """Refuse to go on where the field is not the function that it was in the solve."""
    size, before = run.stop.size(at.value - run.value), run.stop.size(run.value)
    found = run.found.status == int(Status.SUCCESS)
    if bool((size > 1e-2 * before)[found].any()):
        # As much as the field changes over what the tolerance leaves is no change of the function.
        probe = torch.ones_like(at.value)
        rate = run.stop.size(at.transposed(probe)) / run.stop.size(probe).clamp(min=1e-30)
        before = before + 100 * rate * run.stop.allowed(run.found.x)
    if bool((size > 1e-2 * before)[found].any()):
        run.parameters.check()
        raise RuntimeError(
            "f: gave other values in the backward pass, where ImplicitAdjoint calls it again, than in the solve: it is "
            "random (dropout, say), or something that it uses was replaced in between; expected a function of "
            "(t, y, *args), and backward() before the change"
        )


def refuse(run: Equilibrium, g: Tensor, wrong: Tensor, why: str, coupled: bool = False) -> None:
    """Refuse the gradient of samples whose Jacobian is too nearly singular."""
    wrong = wrong & (g != 0).any(dim=1)
    if bool(wrong.any()):
        more = "; or the samples of a per_sample solve depend on each other" if coupled and len(g) > 1 else ""
        raise ConvergenceError(
            f"the Jacobian of f at the steady state is singular, or too nearly so, for a gradient{_rows(run, wrong)} "
            f'({why}): the equilibrium is not isolated (a conserved total: ImplicitAdjoint("dense") holds '
            f"it), or lies at a bifurcation{more}"
        )


def refuse_untrusted(run: Equilibrium, g: Tensor, at: Linearized, solver: LinearSolver, adjoint: Tensor) -> None:
    r"""Refuse a gradient that the rest of the residual moves by more than a tenth.

    The equilibrium is a Newton step away, at :math:`y - J^{-1} f`. There :math:`\lambda` would be another, to first order
    by :math:`J^{-T}(J_\text{there}^T \lambda + g)`. On a continuum of equilibria J is singular on it but not beside it,
    and there the two differ by all of :math:`\lambda`.
    """
    rough = 0.1
    step, left = solver.solve(at.value, rtol=rough)
    there = run.linearized(at.x.detach() - torch.where((g != 0).any(dim=1, keepdim=True), step, 0.0))
    change, also = solver.solve(-(there.transposed(adjoint) + g), transposed=True, rtol=rough)
    moved, size = (torch.linalg.vector_norm(x, dim=1) for x in (change, adjoint))
    failed = ~(left <= 2 * rough) | ~(also <= 2 * rough) | ~(moved <= _TRUSTED * size)
    failed = failed & (g != 0).any(dim=1)
    if bool(failed.any()):
        raise ConvergenceError(
            f"the residual at the steady state moves its gradient by more than a tenth{_rows(run, failed)}: the tolerance "
            "is too loose, or the equilibrium is not isolated; expected a smaller rtol and atol (ImplicitAdjoint(check="
            "False) gives the gradient as it is)"
        )


def _rows(run: Equilibrium, wrong: Tensor) -> str:
    """Which samples, in a message."""
    return f" in samples {wrong.nonzero().reshape(-1).tolist()[:8]}" if run.residual.packing.per_sample else ""


def check_unchanged(run: Equilibrium, grads: Sequence[Tensor | None]) -> None:
    """Refuse gradients of tensors that were changed in place since the search."""
    run.parameters.check(list(grads[len(run.copies) : len(run.copies) + len(run.captured)]))
