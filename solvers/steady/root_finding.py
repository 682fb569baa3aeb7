"""Steady states by root finding: Newton's method and Anderson's acceleration, on rows that are independent of each other."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..checks import integer, positive
from ..core.status import Status
from ..linear.jacobian import Dense, Linearized, LinearSolver, check_linear, linear_solver
from ..linear.spectrum import Anchored, conserved_totals, grows, strength
from ..problems import SteadyStateProblem
from .flow import Judge
from .search import Found, Residual, SteadyStateMethod, Stop, check_norm, no_counts

# Of a full step, the smallest part that a line search tries, and the decrease that it asks for (Armijo).
_HALVINGS = 30
_DECREASE = 1e-4


class Newton(SteadyStateMethod):
    r"""Newton's method with a line search, from ``y0``: quadratic convergence, to stable and unstable equilibria alike.

    .. math:: y \leftarrow y - \lambda J(y)^{-1} f(y), \qquad J = \partial f / \partial y

    with the largest :math:`\lambda = 1, \frac12, \frac14, \dots` that shortens :math:`f` enough (for each sample its own). It
    has arrived where the next step is within the tolerance, :math:`\|J^{-1} f(y)\| \le \text{atol} + \text{rtol} \|y\|`.
    Totals :math:`w^T y` that the field conserves, which make J singular, are held: of a line of equilibria it finds the one
    with the totals of ``y0`` (by the left null space of J; GMRES has its steps in the range of J, which holds them too).
    ``sol.singular`` says that J is singular at the end, ``sol.unstable`` that small differences grow there.

    Small systems are solved with the matrix; large ones by GMRES on products with J, no more exactly than the present
    residual deserves (Newton-Krylov), and no matrix is formed.

    Args:
        linear: ``"dense"``, ``"gmres"``, or ``"auto"``: dense for up to 128 unknowns (of each sample).
        max_iter: the largest number of linearizations.
        norm: of the stopping rule: ``"rms"``, ``"max"`` or ``"l2"``.

    Units:
        None: the iteration does not change when time is measured in another unit.

    Raises:
        InvalidProblemError: an argument is wrong; in the solve with GMRES, a field that uses a ``once_differentiable``
            function.
        ConvergenceError: in the solve, no equilibrium was found.

    When to take it:
        With a good start: a continuation from a neighbouring parameter, or the end of :class:`DynamicSS`. It does not
        ask whether the equilibrium is stable.

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
        run = _Iteration(self, residual, x, stop)
        for _ in range(min(self.max_iter, max_steps)):
            if not bool(run.going.any()):
                break
            run.step()
        return run.found()


class _Iteration:
    """Newton's iteration on rows, and what is known of each."""

    def __init__(self, how: Newton, residual: Residual, x: Tensor, stop: Stop) -> None:
        self.how, self.stop, self.counts = how, stop, no_counts(x)
        self.f: Callable[[Tensor], Tensor] = residual
        self.at = Linearized(residual, x)
        self.counts["nfe"] += 1
        self.x, self.value = self.at.x.detach(), self.at.value
        finite = self.value.isfinite().all(dim=1)
        self.size = torch.linalg.vector_norm(self.value, dim=1)
        self.going = finite & (self.size > 0)
        self.status = torch.where(finite, int(Status.SUCCESS), int(Status.NON_FINITE))
        self.forcing = torch.full_like(self.size, 0.1)
        self.conserved = torch.zeros_like(self.status)
        self.singular = torch.zeros_like(self.going)
        self.matrix, self.rough = self.value.new_zeros(len(x), 1, 1), torch.ones_like(self.size)

    def step(self) -> None:
        """One linearization, and the step that it leads to; rows stop where the step is within the tolerance."""
        solver = self._solver()
        direction, believed = self._direction(solver)
        length = self.stop.size(direction)
        near = self.going & believed & (length <= self.stop.allowed(self.x))
        self._look(solver, self.going, length)
        self.going = self.going & ~near
        if not bool(self.going.any()):
            return
        before = self.size
        self.x, self.at, self.value, self.size, stuck, full = _search(
            self.f, self.at, self.x, self.value, direction, self.going, self.counts
        )
        ratio = self.size / before.clamp(min=torch.finfo(self.x.dtype).tiny)
        self.forcing = (0.9 * ratio**2).clamp(min=1e-8 if self.x.dtype == torch.float64 else 1e-4, max=0.1)
        self.status = torch.where(self.going & stuck, int(Status.NOT_CONVERGED), self.status)
        self.going = self.going & ~stuck & (self.size > 0)
        self.going = self.going & ~self._arrived(solver, full & believed, length, ratio)

    def _arrived(self, solver: LinearSolver, full: Tensor, length: Tensor, ratio: Tensor) -> Tensor:
        """Rows whose next step, by the matrix of the last one, is within the tolerance."""
        allowed = self.stop.allowed(self.x)
        likely = self.going & full & (length * ratio <= allowed)
        if not bool(likely.any()):
            return likely
        before = solver.products
        chord, left = solver.solve(torch.where(likely.unsqueeze(-1), -self.value, 0.0), rtol=0.1)
        self.counts["linear_solves"] += likely
        self.counts["products"] += torch.where(likely, solver.products - before, 0)
        following = self.stop.size(chord)
        # Where the matrix had changed much, the second step would not be so much shorter than the first.
        return likely & (left < 0.5) & (following <= 0.25 * length) & (following <= allowed)

    def _solver(self) -> LinearSolver:
        """The linear systems here; where the matrix is singular because totals are conserved, with the totals held."""
        solver = linear_solver(self.at, self.how.linear)
        self.counts["jacobians"] += self.going
        self.counts["products"] += torch.where(self.going, solver.products, 0)
        if not isinstance(solver, Dense) or isinstance(self.f, Anchored):
            return solver
        suspect = self.going & solver.nearly_singular
        if not bool(suspect.any()):
            return solver
        projector, count = conserved_totals(self.f, self.x, solver.matrix)
        self.counts["nfe"] += suspect
        self.counts["products"] += torch.where(suspect, self.x.shape[1], 0)
        projector = projector * suspect.reshape(-1, 1, 1)
        self.conserved = torch.where(suspect, count, 0)
        if not bool(self.conserved.any()):
            return solver
        self.f = Anchored(self.f, projector, self.x, strength(solver.matrix))
        return Dense.of(solver.matrix + self.f.added)

    def _direction(self, solver: LinearSolver) -> tuple[Tensor, Tensor]:
        """The step to the root of the linearization, and whether it leads there."""
        rhs = torch.where(self.going.unsqueeze(-1), -self.value, 0.0)
        step, left = solver.solve(rhs, rtol=torch.where(self.going, self.forcing, 0.1).min().item())
        self.counts["linear_solves"] += self.going
        if isinstance(solver, Dense):
            singular = self.going & ~(left < 1e-3)
            if bool(singular.any()):
                step = torch.where(singular.unsqueeze(-1), solver.least_squares(rhs), step)
                rest = torch.linalg.vector_norm(rhs - torch.einsum("bij,bj->bi", solver.matrix, step), dim=1)
                left = torch.where(singular, rest / torch.linalg.vector_norm(rhs, dim=1), left)
        else:
            self.counts["products"] += torch.where(self.going, solver.products, 0)
        return step.nan_to_num(0.0, 0.0, 0.0), left < 0.5

    def _look(self, solver: LinearSolver, rows: Tensor, length: Tensor) -> None:
        """Remember what the matrix says of the state."""
        if not isinstance(solver, Dense):
            return
        self.singular = torch.where(rows, solver.nearly_singular | (self.conserved > 0), self.singular)
        near = 10 * length / self.stop.size(self.x).clamp(min=torch.finfo(self.x.dtype).tiny)
        self.matrix = torch.where(rows.reshape(-1, 1, 1), solver.matrix, self.matrix)
        self.rough = torch.where(rows, near.clamp(max=1.0), self.rough)

    def found(self) -> Found:
        """Where every row is."""
        status = torch.where(self.going, int(Status.NOT_CONVERGED), self.status)
        value = self.value
        if isinstance(self.f, Anchored):
            value = value - torch.einsum("bij,bj->bi", self.f.added, self.x - self.f.start)
        unstable = grows(self.matrix, self.rough)
        return Found(
            x=self.x,
            residual=self.stop.size(value),
            status=status,
            t=torch.full_like(self.size, torch.inf, dtype=torch.float64),
            counts=self.counts,
            unstable=torch.zeros_like(self.going) if unstable is None else unstable,
            singular=self.singular,
        )


def _search(
    f: Callable[[Tensor], Tensor],
    at: Linearized,
    x: Tensor,
    value: Tensor,
    direction: Tensor,
    going: Tensor,
    counts: dict[str, Tensor],
) -> tuple[Tensor, Linearized, Tensor, Tensor, Tensor, Tensor]:
    """Along the direction, as far as the field becomes shorter.

    ``x``, there linearized, its value and size, who is stuck, and who took the whole step.
    """
    size, part = torch.linalg.vector_norm(value, dim=1), torch.ones_like(value[:, 0])
    searching = going & (direction != 0).any(dim=1)
    stuck, full = going & ~searching, torch.zeros_like(going)
    for _ in range(_HALVINGS):
        if not bool(searching.any()):
            break
        trial = torch.where(searching.unsqueeze(-1), x + part.unsqueeze(-1) * direction, x)
        at = Linearized(f, trial)
        counts["nfe"] += searching
        counts["steps"] += searching
        good = searching & (torch.linalg.vector_norm(at.value, dim=1) <= (1.0 - _DECREASE * part) * size)
        counts["accepted"] += good
        x, value = (torch.where(good.unsqueeze(-1), new, old) for new, old in ((trial, x), (at.value, value)))
        full = full | (good & (part == 1.0))
        searching = searching & ~good
        part = torch.where(searching, 0.5 * part, part)
    return x, at, value, torch.linalg.vector_norm(value, dim=1), stuck | searching, full


class Anderson(SteadyStateMethod):
    r"""Anderson's acceleration of the fixed-point iteration :math:`y \leftarrow y + \beta f(y)`.

    Each new state is the mixture of the last ``m`` whose residuals, so mixed, are shortest. For contractions, such as the
    layer :math:`f = g(z, x) - z` of a deep-equilibrium model, it takes few calls of the field. The search ends where the next
    move is within the tolerance, :math:`\le \text{atol} + \text{rtol} \|y\|`, and so is, by the linearization, the way to the
    equilibrium, :math:`\|J^{-1} f(y)\|`.

    Args:
        m: how many differences of former states are mixed.
        beta: the step of the fixed-point iteration, in units of time; a stiff field needs the size of its fastest time.
            None: the reciprocal of the rate that one product with the Jacobian at the start shows, about 1 for a layer.
        max_iter: the largest number of calls of the field.
        norm: of the rule: ``"rms"``, ``"max"`` or ``"l2"``.
        check: False believes the next move. It saves the linear system at the end (by GMRES, a few backward passes for a
            contraction), and may stop where a slow mode hides behind fast ones.

    Units:
        ``beta`` in units of time.

    Raises:
        InvalidProblemError: an argument is wrong; in the solve, unless ``check`` is False, a field that uses a
            ``once_differentiable`` function.
        ConvergenceError: in the solve, no equilibrium was found.

    When to take it:
        For deep-equilibrium layers and other contractions, where linear algebra costs more than calls. For a stiff
        field :class:`Newton` or :class:`DynamicSS`.

    References:
        Walker, Ni: Anderson acceleration for fixed-point iterations. SIAM J. Numer. Anal. 49 (2011).

    Example:
        >>> import torch, neuralde as nde
        >>> cosine = nde.SteadyStateProblem(lambda t, y: torch.cos(y) - y, torch.zeros(1, dtype=torch.float64))
        >>> sol = nde.solve(cosine, nde.Anderson(), rtol=1e-12, atol=1e-12)
        >>> round(sol.y1.item(), 10), sol.stats.nfe < 12
        (0.7390851332, True)
    """

    def __init__(
        self, m: int = 5, *, beta: float | None = None, max_iter: int = 200, norm: str = "rms", check: bool = True
    ) -> None:
        self.m, self.beta = integer(m, "m"), None if beta is None else positive(beta, "beta")
        self.norm, self.max_iter, self.check = check_norm(norm), integer(max_iter, "max_iter"), bool(check)

    def find(self, problem: SteadyStateProblem, residual: Residual, x: Tensor, stop: Stop, max_steps: int) -> Found:
        """Iterate until every row has arrived; the best state of every row is kept."""
        counts = no_counts(x)
        value, beta = self._start(residual, x, counts)
        judge = Judge(residual, stop, counts, self.check, dense=False)
        best, least = x, stop.size(value)
        kept, former = value, least
        steps: list[Tensor] = []
        changes: list[Tensor] = []
        finite = value.isfinite().all(dim=1)
        status = torch.where(finite, int(Status.SUCCESS), int(Status.NON_FINITE))
        going = finite & (least > 0)
        for _ in range(min(self.max_iter, max_steps)):
            if not bool(going.any()):
                break
            ahead = self._next(x, value, beta, steps, changes)
            if steps:
                move = torch.maximum(stop.size(ahead - x), stop.size(beta * value))
                # By itself a move is believed as a part of a geometric series.
                rest = (1.0 - stop.size(value) / former).clamp(min=0.0)
                done = going & judge.holds(x, value, move, going, stop.allowed(x), move / rest)
                best, kept = (torch.where(done.unsqueeze(-1), y, old) for y, old in ((x, best), (value, kept)))
                going = going & ~done
                if not bool(going.any()):
                    break
            new, former = torch.where(going.unsqueeze(-1), ahead, x), stop.size(value)
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
            going = going & (size > 0)
        status = torch.where(going, int(Status.NOT_CONVERGED), status)
        return Found(
            x=best,
            residual=stop.size(kept),
            status=status,
            t=torch.full_like(least, torch.inf, dtype=torch.float64),
            counts=counts,
            unstable=torch.zeros_like(going),
            singular=torch.zeros_like(going),
        )

    def _start(self, residual: Residual, x: Tensor, counts: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        r"""The field at the start, and :math:`\beta` for every row, ``(B, 1)``."""
        counts["nfe"] += 1
        if self.beta is not None:
            return residual(x), x.new_full((len(x), 1), self.beta)
        at = Linearized(residual, x)
        made = torch.Generator().manual_seed(23)
        signs = (2.0 * torch.randint(0, 2, x.shape, generator=made) - 1.0).to(x)
        rate = torch.linalg.vector_norm(at.transposed(signs), dim=1) / math.sqrt(max(x.shape[1], 1))
        counts["products"] += 1
        return at.value, torch.where(rate.isfinite() & (rate > 0), 1.0 / rate, 1.0).unsqueeze(-1)

    def _next(self, x: Tensor, value: Tensor, beta: Tensor, steps: list[Tensor], changes: list[Tensor]) -> Tensor:
        """The mixture of former states with the shortest mixed residual, and a step of the iteration from it."""
        if not steps:
            return x + beta * value
        d_x, d_f = torch.stack(steps, dim=2), torch.stack(changes, dim=2)
        length = torch.linalg.vector_norm(d_f, dim=1, keepdim=True)
        length = torch.where(length > 0, length, 1.0)
        scaled = d_f / length
        gram = scaled.mT @ scaled
        inverse = torch.linalg.pinv(gram, hermitian=True, rtol=torch.finfo(x.dtype).eps ** 0.75)
        weights = inverse @ (scaled.mT @ value.unsqueeze(-1)) / length.mT
        return x + beta * value - ((d_x + beta.unsqueeze(-1) * d_f) @ weights).squeeze(-1)
