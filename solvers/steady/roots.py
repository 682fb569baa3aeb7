"""Steady states by root finding: Newton's method and Anderson's acceleration, on rows that are independent of each other."""

from __future__ import annotations

import torch
from torch import Tensor

from ..checks import integer, positive
from ..problems import SteadyStateProblem
from ..solution import Status
from .linear import Dense, Linearized, LinearSolver, check_linear, linear_solver
from .search import Found, Residual, SteadyStateMethod, Stop, check_norm, no_counts

# Of a full step, the smallest part that a line search tries, and the decrease that it asks for (Armijo).
_HALVINGS = 30
_DECREASE = 1e-4


class Newton(SteadyStateMethod):
    r"""Newton's method with a line search, from ``y0``: quadratic convergence, to stable and unstable equilibria alike.

    .. math:: y \leftarrow y - \lambda J(y)^{-1} f(y), \qquad J = \partial f / \partial y

    with the largest :math:`\lambda = 1, \frac12, \frac14, \dots` that shortens :math:`f` enough (for each sample its own).
    Small systems are solved with the matrix; large ones by GMRES on products with J, no more exactly than the present
    residual deserves (Newton-Krylov), and no matrix is formed.

    Args:
        linear: ``"dense"``, ``"gmres"``, or ``"auto"``: dense for up to 128 unknowns (of each sample).
        max_iter: the largest number of linearizations.
        norm: of the stopping rule :math:`\|f(y)\| \le \text{atol} + \text{rtol}\|y\|`: ``"rms"``, ``"max"`` or ``"l2"``.

    References:
        Eisenstat, Walker: Choosing the forcing terms in an inexact Newton method. SIAM J. Sci. Comput. 17 (1996).
        Knoll, Keyes: Jacobian-free Newton-Krylov methods. J. Comput. Phys. 193 (2004).

    Example:
        >>> import torch, neuralde as nde
        >>> bistable = nde.SteadyStateProblem(lambda t, y: y - y**3, torch.tensor([[0.3], [0.9]], dtype=torch.float64))
        >>> nde.solve(bistable, nde.Newton(), per_sample=True, rtol=1e-9).y1.round(decimals=6).abs().flatten()
        tensor([0., 1.], dtype=torch.float64)
    """

    def __init__(self, *, linear: str = "auto", max_iter: int = 50, norm: str = "rms") -> None:
        self.linear, self.max_iter, self.norm = (
            check_linear(linear),
            integer(max_iter, "max_iter"),
            check_norm(norm),
        )

    def find(self, problem: SteadyStateProblem, residual: Residual, x: Tensor, stop: Stop, max_steps: int) -> Found:
        """Iterate until every row has arrived, or comes no closer."""
        counts = no_counts(x)
        at = Linearized(residual, x)
        counts["nfe"] += 1
        x, size = at.x.detach(), torch.linalg.vector_norm(at.value, dim=1)
        going = at.value.isfinite().all(dim=1) & ~stop.holds(x, at.value)
        status = torch.where(at.value.isfinite().all(dim=1), int(Status.SUCCESS), int(Status.NON_FINITE))
        value, forcing = at.value, torch.full_like(size, 0.1)
        for _ in range(min(self.max_iter, max_steps)):
            if not bool(going.any()):
                break
            direction = self._direction(at, going, forcing, counts)
            x, at, value, after, stuck = _search(residual, stop, at, x, value, direction, going, counts)
            ratio = after / size.clamp(min=torch.finfo(x.dtype).tiny)
            forcing = (0.9 * ratio**2).clamp(min=1e-8 if x.dtype == torch.float64 else 1e-4, max=0.1)
            size = after
            status = torch.where(going & stuck, int(Status.NOT_CONVERGED), status)
            going = going & ~stuck & ~stop.holds(x, value)
        status = torch.where(going, int(Status.NOT_CONVERGED), status)
        return Found(
            x=x,
            residual=stop.size(value),
            status=status,
            t=torch.full_like(size, torch.inf, dtype=torch.float64),
            counts=counts,
        )

    def _direction(self, at: Linearized, going: Tensor, forcing: Tensor, counts: dict[str, Tensor]) -> Tensor:
        """The step to the root of the linearization."""
        rhs = torch.where(going.unsqueeze(-1), -at.value, 0.0)
        solver: LinearSolver = linear_solver(at, self.linear)
        step, left = solver.solve(rhs, rtol=torch.where(going, forcing, 0.1).min().item())
        if isinstance(solver, Dense):
            singular = going & ~(left < 1e-3)
            if bool(singular.any()):
                step = torch.where(singular.unsqueeze(-1), solver.least_squares(rhs), step)
        counts["jacobians"] += going
        counts["linear_solves"] += going
        counts["products"] += torch.where(going, solver.products, 0)
        return step.nan_to_num(0.0, 0.0, 0.0)


def _search(
    residual: Residual,
    stop: Stop,
    at: Linearized,
    x: Tensor,
    value: Tensor,
    direction: Tensor,
    going: Tensor,
    counts: dict[str, Tensor],
) -> tuple[Tensor, Linearized, Tensor, Tensor, Tensor]:
    """Along the direction, as far as the field becomes shorter: ``x``, there linearized, its value and size, and who is stuck."""
    size, part = torch.linalg.vector_norm(value, dim=1), torch.ones_like(value[:, 0])
    searching = going & (direction != 0).any(dim=1)
    stuck = going & ~searching
    for _ in range(_HALVINGS):
        if not bool(searching.any()):
            break
        trial = torch.where(searching.unsqueeze(-1), x + part.unsqueeze(-1) * direction, x)
        at = Linearized(residual, trial)
        counts["nfe"] += searching
        counts["steps"] += searching
        shorter = torch.linalg.vector_norm(at.value, dim=1) <= (1.0 - _DECREASE * part) * size
        good = searching & (shorter | stop.holds(trial, at.value))
        counts["accepted"] += good
        x, value = (torch.where(good.unsqueeze(-1), new, old) for new, old in ((trial, x), (at.value, value)))
        searching = searching & ~good
        part = torch.where(searching, 0.5 * part, part)
    return x, at, value, torch.linalg.vector_norm(value, dim=1), stuck | searching


class Anderson(SteadyStateMethod):
    r"""Anderson's acceleration of the fixed-point iteration :math:`y \leftarrow y + \beta f(y)`; no Jacobian.

    Each new state is the mixture of the last ``m`` whose residuals, so mixed, are shortest. For contractions, such as the
    layer :math:`f = g(z, x) - z` of a deep-equilibrium model, it takes few calls of the field and no derivatives; a
    stiff field needs a ``beta`` of the size of its fastest time.

    Args:
        m: how many differences of former states are mixed.
        beta: the step of the fixed-point iteration, in units of time.
        max_iter: the largest number of calls of the field.
        norm: of the stopping rule :math:`\|f(y)\| \le \text{atol} + \text{rtol}\|y\|`: ``"rms"``, ``"max"`` or ``"l2"``.

    References:
        Walker, Ni: Anderson acceleration for fixed-point iterations. SIAM J. Numer. Anal. 49 (2011).

    Example:
        >>> import torch, neuralde as nde
        >>> cosine = nde.SteadyStateProblem(lambda t, y: torch.cos(y) - y, torch.zeros(1, dtype=torch.float64))
        >>> sol = nde.solve(cosine, nde.Anderson(), rtol=1e-12, atol=1e-12)
        >>> round(sol.y1.item(), 10), sol.stats.nfe < 12
        (0.7390851332, True)
    """

    def __init__(self, m: int = 5, *, beta: float = 1.0, max_iter: int = 200, norm: str = "rms") -> None:
        self.m, self.beta, self.norm = integer(m, "m"), positive(beta, "beta"), check_norm(norm)
        self.max_iter = integer(max_iter, "max_iter")

    def find(self, problem: SteadyStateProblem, residual: Residual, x: Tensor, stop: Stop, max_steps: int) -> Found:
        """Iterate until every row has arrived; the best state of every row is kept."""
        counts, value = no_counts(x), residual(x)
        counts["nfe"] += 1
        best, least = x, stop.size(value)
        kept = value
        steps: list[Tensor] = []
        changes: list[Tensor] = []
        finite = value.isfinite().all(dim=1)
        status = torch.where(finite, int(Status.SUCCESS), int(Status.NON_FINITE))
        going = finite & ~stop.holds(x, value)
        for _ in range(min(self.max_iter, max_steps)):
            if not bool(going.any()):
                break
            new = torch.where(going.unsqueeze(-1), self._next(x, value, steps, changes), x)
            after = residual(new)
            for name in ("nfe", "steps", "accepted"):
                counts[name] += going
            lost = going & ~after.isfinite().all(dim=1)
            status = torch.where(lost, int(Status.NON_FINITE), status)
            # A row that stands still, or is lost, leaves nothing in the history.
            steps, changes = (
                [*past, torch.where((going & ~lost).unsqueeze(-1), ahead - behind, 0.0)][-self.m :]
                for past, ahead, behind in ((steps, new, x), (changes, after, value))
            )
            going = going & ~lost
            x, value = (torch.where(going.unsqueeze(-1), y, old) for y, old in ((new, x), (after, value)))
            size = stop.size(value)
            better = going & (size < least)
            best, kept = (torch.where(better.unsqueeze(-1), y, old) for y, old in ((x, best), (value, kept)))
            least = torch.where(better, size, least)
            done = going & stop.holds(x, value)
            best, kept = (torch.where(done.unsqueeze(-1), y, old) for y, old in ((x, best), (value, kept)))
            going = going & ~done
        status = torch.where(going, int(Status.NOT_CONVERGED), status)
        return Found(
            x=best,
            residual=stop.size(kept),
            status=status,
            t=torch.full_like(least, torch.inf, dtype=torch.float64),
            counts=counts,
        )

    def _next(self, x: Tensor, value: Tensor, steps: list[Tensor], changes: list[Tensor]) -> Tensor:
        """The mixture of former states with the shortest mixed residual, and a step of the iteration from it."""
        if not steps:
            return x + self.beta * value
        d_x, d_f = torch.stack(steps, dim=2), torch.stack(changes, dim=2)
        length = torch.linalg.vector_norm(d_f, dim=1, keepdim=True)
        length = torch.where(length > 0, length, 1.0)
        scaled = d_f / length
        gram = scaled.mT @ scaled
        inverse = torch.linalg.pinv(gram, hermitian=True, rtol=torch.finfo(x.dtype).eps ** 0.75)
        weights = inverse @ (scaled.mT @ value.unsqueeze(-1)) / length.mT
        return x + self.beta * value - ((d_x + self.beta * d_f) @ weights).squeeze(-1)
