"""Solutions of dense linear systems that can be differentiated, in the matrix too, with factors that are there already."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..core.scalars import transformed
from .factorization import Factorization


def solved(matrix: Tensor, factors: Factorization, b: Tensor) -> Tensor:
    r"""The solutions of ``A x = b`` for matrices ``(B, n, n)`` and right-hand sides ``(B, n)``, differentiable in both.

    Any derivative, of any order, is one more system with the same factors: :math:`dx = A^{-1} (db - dA\,x)`.

    Args:
        matrix: the matrices, in the graph.
        factors: their factors, which need not be.
        b: the right-hand sides.

    Example:
        >>> import torch
        >>> matrix = torch.tensor([[[2.0, 1.0], [0.0, 4.0]]], requires_grad=True)
        >>> x = solved(matrix, Factorization.of(matrix.detach()), torch.tensor([[4.0, 8.0]]))
        >>> torch.autograd.grad(x.sum(), matrix)[0]
        tensor([[[-0.5000, -1.0000],
                 [-0.1250, -0.2500]]])
    """
    if torch.compiler.is_compiling():  # first derivatives, which are all that a compiled solve has
        x = factors.solve(b)
        rest = ((matrix - matrix.detach()) @ x.detach().unsqueeze(-1)).squeeze(-1)
        return x - factors.solve(rest)
    if transformed() or (torch.is_grad_enabled() and (matrix.requires_grad or b.requires_grad)):
        found: Tensor = _Solved.apply(matrix, factors.factors, factors.pivots, b, False)
        return found
    return factors.solve(b)


class _Solved(torch.autograd.Function):
    """The solution, of the transposed system with ``transposed``."""

    generate_vmap_rule = True

    @staticmethod
    def forward(matrix: Tensor, factors: Tensor, pivots: Tensor, b: Tensor, transposed: bool) -> Tensor:
        del matrix
        return Factorization(factors, pivots).solve(b, transposed)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        matrix, factors, pivots, _, ctx.transposed = inputs
        ctx.save_for_backward(matrix, factors, pivots, output)
        ctx.save_for_forward(matrix, factors, pivots, output)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        matrix, factors, pivots, x = ctx.saved_tensors
        of_b = _Solved.apply(matrix, factors, pivots, g, not ctx.transposed)
        of_matrix = None
        if ctx.needs_input_grad[0]:
            left, right = (x, of_b) if ctx.transposed else (of_b, x)
            of_matrix = -left.unsqueeze(-1) * right.unsqueeze(-2)
        return of_matrix, None, None, of_b, None

    @staticmethod
    def jvp(ctx: Any, matrix: Tensor | None, factors: None, pivots: None, b: Tensor | None, transposed: None) -> Tensor:
        primal, known, order, x = ctx.saved_tensors
        rest = torch.zeros_like(x) if b is None else b
        if matrix is not None:
            moved = matrix.mT if ctx.transposed else matrix
            rest = rest - (moved @ x.unsqueeze(-1)).squeeze(-1)
        tangent: Tensor = _Solved.apply(primal, known, order, rest, ctx.transposed)
        return tangent
