"""The gradient of a steady state by the implicit function theorem."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from neuralde.solvers.checks import fraction, integer
from neuralde.solvers.core.packing import Packing
from neuralde.solvers.core.scalars import transformed
from neuralde.solvers.core.status import Status
from neuralde.solvers.core.torch_private import sequence_number
from neuralde.solvers.drivers.integrate import Result
from neuralde.solvers.errors import InvalidProblemError
from neuralde.solvers.linear.jacobian import Dense, Linearized, LinearSolver, check_linear
from neuralde.solvers.linear.spectrum import Anchored, beside, conserved_totals, strength
from neuralde.solvers.problems import SteadyStateProblem
from neuralde.solvers.steady.search import Found, Residual, Stop

from .base import Adjoint, Job
from .capabilities import Capabilities, who_has
from .equilibrium import Equilibrium, check_unchanged, refuse, refuse_changed, refuse_failed, refuse_untrusted
from .shared.call_context import muted, uncached_casts
from .shared.captured_tensors import Unchanged, captured_tensors, refuse_unknown
from .shared.single_backward import once, refuse_batches


class ImplicitAdjoint(Adjoint, rank=7):
    r"""Not exact: the gradient of the equilibrium itself, for steady states only, in error by as much as ``y1`` is.

    At an equilibrium :math:`f(y^*, \theta) = 0`, so :math:`dy^* = -J^{-1}\, \partial_\theta f\, d\theta` with
    :math:`J = \partial f / \partial y`, and a loss with gradient :math:`g` at :math:`y^*` has

    .. math:: J^T \lambda = -g, \qquad \frac{dL}{d\theta} = \lambda^T \frac{\partial f}{\partial \theta}

    however the equilibrium was found: nothing of the search is kept. Small systems are solved with the matrix, large ones
    by GMRES on backward passes through ``f``, without a matrix. The gradient with respect to ``y0`` is zero: a small
    change of it does not change the equilibrium. Second derivatives are right, third ones are refused.

    Where the field conserves totals :math:`W^T y`, J is singular, and the equilibrium depends on ``y0`` by them. With the
    matrix, the totals are held (:math:`W^T J = 0`, and W has orthonormal columns):

    .. math:: (J - c\, W W^T)\, dy^* = -\partial_\theta f\, d\theta - c\, W W^T dy_0

    gives both gradients, for any number c. It is refused where the totals themselves depend on parameters.

    A gradient is refused with a :class:`neuralde.ConvergenceError` where there is none: at a state that is no
    equilibrium, because the search failed; where J is singular for another reason, on a curved continuum of equilibria or
    at a bifurcation (or singular at all, with GMRES); and, with ``check``, where the residual that the tolerance left
    changes the gradient by more than a tenth. Newton's method also finds unstable equilibria, and their gradient is right too.

    Args:
        linear: ``"dense"``, ``"gmres"``, or ``"auto"``: dense for up to 128 unknowns (of each sample).
        rtol: how exactly the linear system is solved, relative; None: 1e-10, in float32 1e-5.
        max_products: the largest number of backward passes that GMRES may take.
        check: estimate what the residual does to the gradient. Costs one more call of ``f``, and with GMRES two rough
            solves.

    Raises:
        InvalidProblemError: an argument is wrong; in the solve, a problem that is no
            :class:`neuralde.SteadyStateProblem`.
        ConvergenceError: in the backward pass, where the state has no gradient.

    When to take it:
        The only adjoint of steady states, and their default. To differentiate a transient, solve an
        :class:`neuralde.ODEProblem` over its time.

    References:
        Christianson: Reverse accumulation and attractive fixed points. Optim. Methods Softw. 3 (1994).
        Bai, Kolter, Koltun: Deep equilibrium models. NeurIPS 2019.

    Example:
        >>> import torch, neuralde as nde
        >>> k = torch.tensor([2.0, 5.0], dtype=torch.float64, requires_grad=True)
        >>> problem = nde.SteadyStateProblem(lambda t, y, k: y * (k - y), torch.ones(2, dtype=torch.float64), args=(k,))
        >>> sol = nde.solve(problem, rtol=1e-9, atol=1e-9, adjoint=nde.ImplicitAdjoint())
        >>> torch.autograd.grad(sol.y1.square().sum(), k)[0].round(decimals=6)  # y* = k
        tensor([ 4., 10.], dtype=torch.float64)
    """

    capabilities = Capabilities(
        exact=False,
        memory="the equilibrium",
        cost="one linear system with the Jacobian of f",
        terms=("steady state",),
        saves=("end",),
        dense=False,
        regularizers=False,
        running_costs=False,
        double_backward=True,
        many_cotangents=False,
    )

    def __init__(
        self, linear: str = "auto", *, rtol: float | None = None, max_products: int = 1000, check: bool = True
    ) -> None:
        self.linear = check_linear(linear)
        self.rtol = None if rtol is None else fraction(rtol, "rtol", "a number between 0 and 1, or None")
        self.max_products, self.checks = integer(max_products, "max_products"), bool(check)

    def check(self, job: Job) -> NoReturn:
        """Refuse everything but a steady state, which has no job."""
        raise InvalidProblemError(
            f"adjoint: {self.name} is for a SteadyStateProblem; for an ODEProblem expected {who_has(exact=True)}"
        )

    def solve(self, job: Job) -> Result:
        """Refuse, for the same reason."""
        self.check(job)

    def attach(self, problem: SteadyStateProblem, packing: Packing, y0: Tensor, found: Found, stop: Stop) -> Tensor:
        """The packed steady state that was found, in the graph if anything that it depends on requires grad."""
        residual = Residual(problem, packing)
        y = residual.packed(found.x)
        if not torch.is_grad_enabled():
            return y
        if transformed():
            raise InvalidProblemError(
                f"adjoint: {self.name} knows the backward pass only, not torch.func or forward-mode differentiation; "
                "expected gradients by backward() or torch.autograd.grad"
            )
        live = list(dict.fromkeys(x for x in pytree.tree_leaves(problem.args) if _differentiable(x)))
        swap = {id(tensor): tensor.detach().requires_grad_() for tensor in live}
        args = pytree.tree_map(lambda leaf: swap.get(id(leaf), leaf), problem.args)
        copies = list(swap.values())
        residual = Residual(problem, packing, args)
        found = _borrowed(found)
        calls: list[Linearized] = []

        def call() -> tuple[Tensor, list[Tensor]]:
            with uncached_casts(found.x.device):
                calls.append(Linearized(residual, found.x))
            return calls[-1].x, [calls[-1].out]

        captured, setting = captured_tensors((problem.f, args), call, copies, [y0, *live])
        if not y0.requires_grad and not live and not captured:
            return y
        watched = Unchanged(live), Unchanged(captured)
        start = y0.detach().requires_grad_(y0.requires_grad)
        run = Equilibrium(self, residual, found, stop, copies, captured, setting, calls[-1].value, *watched, start)
        return _Implicit.apply(run, y0, y, *live, *captured)


def _borrowed(found: Found) -> Found:
    """The rows that failed at a state of one that did not, so that no NaN of theirs, times zero, reaches the parameters."""
    failed = found.status != int(Status.SUCCESS)
    if not bool(failed.any()) or bool(failed.all()):
        return found
    return replace(found, x=torch.where(failed.unsqueeze(-1), found.x[(~failed).to(torch.int64).argmax()], found.x))


def _differentiable(x: Any) -> bool:
    return isinstance(x, Tensor) and x.requires_grad


class _Implicit(torch.autograd.Function):
    """The equilibrium as a function of what the field depends on."""

    @staticmethod
    def forward(ctx: Any, run: Equilibrium, y0: Tensor, y: Tensor, *inputs: Tensor) -> Tensor:
        ctx.run = run
        ctx.save_for_backward(y0, *inputs)
        return y.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        run, (y0, *inputs) = ctx.run, ctx.saved_tensors
        refuse_batches(run.adjoint.name, (g,))
        first = torch.zeros_like(y0) if y0.requires_grad else None
        if not g.numel():
            return None, first, None, *(torch.zeros_like(x) for x in inputs)
        with run.setting.restored(run.captured):
            if torch.is_grad_enabled():
                grads = _Twice.apply(run, g, *inputs, *([y0] if y0.requires_grad else []))
                grads = (grads,) if isinstance(grads, Tensor) else grads
            else:
                at, _, adjoint = _adjoint(run, run.residual.flat(g))
                grads = torch.autograd.grad(at.out, run.wanted, adjoint, allow_unused=True) if run.wanted else ()
                check_unchanged(run, grads)
        if y0.requires_grad:
            *grads, last = grads
            first = first if last is None else last
        return None, first, None, *grads


def _adjoint(run: Equilibrium, g: Tensor) -> tuple[Linearized, LinearSolver, Tensor]:
    r"""The field at the equilibrium, its linear solver, and the :math:`\lambda` of a loss with gradient ``g``."""
    refuse_failed(run, g)
    run.inputs.check()
    with torch.enable_grad():
        since = sequence_number()
    run.held = None
    at = run.linearized()
    refuse_unknown([at.out], [at.x, *run.copies], run.captured, since)
    refuse_changed(run, at)
    solver = run.solver(at)
    limit = 1.0 / (torch.finfo(g.dtype).eps * max(10, g.shape[1]))
    if isinstance(solver, Dense):
        singular = (g != 0).any(dim=1) & (solver.nearly_singular | ~(solver.condition <= limit))
        if bool(singular.any()) and _hold(run, g, solver, singular):
            at = run.linearized()
            solver = run.solver(at)
    condition = solver.condition
    if condition is not None:
        refuse(run, g, ~(condition <= limit), f"its condition number is {condition.max().item():.1e}")
    adjoint, _ = solver.solve(-g, transposed=True, rtol=run.tol)
    adjoint = torch.where((g != 0).any(dim=1, keepdim=True), adjoint, 0.0)
    # By the field's own product, which also tells samples that are not independent of each other.
    left = at.transposed(adjoint) + g
    size = torch.linalg.vector_norm(g, dim=1)
    rest = torch.linalg.vector_norm(left, dim=1) / torch.where(size > 0, size, 1.0)
    # Substitution leaves what rounding does at this condition, GMRES twice what it was asked for at most.
    allowed = 1e-3 if isinstance(solver, Dense) else 2 * run.tol
    refuse(run, g, ~(rest <= allowed), f"the linear system is solved to {rest.max().item():.1e} only", coupled=True)
    if run.adjoint.checks:
        refuse_untrusted(run, g, at, solver, adjoint)
    return at, solver, adjoint


def _hold(run: Equilibrium, g: Tensor, solver: Dense, singular: Tensor) -> bool:
    """Hold the totals that make the Jacobian singular; False where there are none. Refuses those that parameters move."""
    x, rows = run.found.x, singular.reshape(-1, 1, 1)
    projector, count = conserved_totals(run.residual, x, solver.matrix)
    projector = torch.where(rows, projector, 0.0)
    if not bool(((count > 0) & singular).any()):
        return False
    start = run.residual.flat(run.start)
    moved = run.stop.size(torch.einsum("bij,bj->bi", projector, x - start.detach()))
    rounding = 1e3 * torch.finfo(x.dtype).eps * run.stop.size(x.abs() + start.detach().abs())
    refuse(run, g, moved > 10 * run.stop.allowed(x) + rounding, "totals that the field conserves are not those of y0")
    given = [*run.copies, *run.captured]
    small = 1e-6 if x.dtype == torch.float64 else 1e-3
    made = torch.Generator().manual_seed(29)
    probe = torch.randn(x.shape, generator=made, dtype=torch.float64).to(x)
    along = torch.einsum("bij,bj->bi", projector, probe)
    for place in (x, beside(x)) if given else ():
        out = run.linearized(place).out
        if not out.requires_grad:
            continue
        ours, all_of_it = (
            torch.autograd.grad(out, given, v, retain_graph=True, allow_unused=True) for v in (along, probe)
        )
        for part, whole in zip(ours, all_of_it, strict=True):
            if part is not None and whole is not None and bool(part.abs().max() > small * whole.abs().max()):
                refuse(run, g, singular, "a total that the field conserves depends on its parameters")
    with torch.enable_grad():
        start = run.residual.flat(run.start)
    run.held = Anchored(run.residual, projector, start, strength(solver.matrix))
    return True


class _Twice(torch.autograd.Function):
    r"""The gradient as a function that has a derivative once more.

    Two chord iterations :math:`y \leftarrow y - J^{-1} f(y)`, with :math:`J` at the equilibrium as a constant, leave the
    equilibrium in place and have, as a function of what f depends on, its first and second derivatives.
    """

    @staticmethod
    def forward(ctx: Any, run: Equilibrium, g: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.run = run
        ctx.save_for_backward(g, *inputs)
        rows = run.residual.flat(g.detach())
        at, solver, _ = _adjoint(run, rows)
        asked = (rows != 0).any(dim=1, keepdim=True)
        with torch.enable_grad():
            ctx.g = g.detach().requires_grad_()
            live = at.x.detach()
            for _ in range(2):
                move = _Solve.apply(run.system(live), solver, asked, False, run.tol)
                live = live - (move - move.detach())
            out = run.residual.packed(live)
            ctx.grads = torch.autograd.grad(out, run.wanted, ctx.g, create_graph=True, allow_unused=True)
        check_unchanged(run, ctx.grads)
        return tuple(
            torch.zeros_like(x) if grad is None else grad.detach()
            for grad, x in zip(ctx.grads, run.wanted, strict=True)
        )

    @staticmethod
    @once("ImplicitAdjoint", "first and second derivatives", "no derivative of a second one")
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        run = ctx.run
        run.inputs.check()
        pairs = [
            (grad, cotangent)
            for grad, cotangent in zip(ctx.grads, cotangents, strict=True)
            if grad is not None and grad.requires_grad
        ]
        wanted = [ctx.g, *run.wanted]
        if not pairs:
            return (None,) * (len(wanted) + 1)
        outputs, given = zip(*pairs, strict=True)
        with muted(run.captured):
            return None, *torch.autograd.grad(outputs, wanted, given, allow_unused=True, retain_graph=True)


class _Solve(torch.autograd.Function):
    """The solution of a linear system with a constant matrix; its derivatives are such solutions again."""

    @staticmethod
    def forward(ctx: Any, b: Tensor, solver: LinearSolver, rows: Tensor, transposed: bool, rtol: float) -> Tensor:
        ctx.solver, ctx.rows, ctx.transposed, ctx.rtol = solver, rows, transposed, rtol
        return torch.where(rows, solver.solve(b.detach(), transposed, rtol)[0], 0.0)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return _Solve.apply(g, ctx.solver, ctx.rows, not ctx.transposed, ctx.rtol), None, None, None, None
