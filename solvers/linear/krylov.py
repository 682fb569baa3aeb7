"""GMRES for a batch of independent linear systems, given by their products only."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

# A step of Arnoldi's process whose new direction is this small against what was orthogonalized is a breakdown.
_BREAKDOWN = 4.0


class Krylov(NamedTuple):
    """What GMRES found: the solutions, the norms of what is left, and how many products each lane took."""

    x: Tensor
    residual: Tensor
    products: Tensor


def gmres(
    apply: Callable[[Tensor], Tensor],
    b: Tensor,
    *,
    rtol: float,
    max_products: int = 1000,
    restart: int = 40,
) -> Krylov:
    r"""Solve :math:`A_i x_i = b_i` for every row, to :math:`\|b_i - A_i x_i\|_2 \le \text{rtol}\,\|b_i\|_2` if it can.

    Restarted GMRES: each cycle minimizes the residual over a Krylov space of up to ``restart`` dimensions, orthogonalized
    twice. No matrix is formed. Rows that are done wait for the others. The solve gives up, with the best it has, after
    ``max_products`` products or a cycle that gains nothing; the caller compares ``residual`` with what it needs.

    Args:
        apply: the products, ``(B, n) -> (B, n)``, each row with its own matrix.
        b: the right-hand sides, ``(B, n)``, real.
        rtol: how much of ``b`` may be left, relative.
        max_products: the largest number of products.
        restart: the largest dimension of a Krylov space, whose basis is kept.

    References:
        Saad, Schultz: GMRES: a generalized minimal residual algorithm for solving nonsymmetric linear systems. SIAM J.
        Sci. Stat. Comput. 7 (1986).

    Example:
        >>> import torch
        >>> a = torch.tensor([[4.0, 1.0], [0.0, 3.0]], dtype=torch.float64)
        >>> gmres(lambda v: v @ a.T, torch.tensor([[6.0, 6.0]], dtype=torch.float64), rtol=1e-12).x.round(decimals=9)
        tensor([[1., 2.]], dtype=torch.float64)
    """
    goal = rtol * torch.linalg.vector_norm(b, dim=1)
    x, left = torch.zeros_like(b), torch.linalg.vector_norm(b, dim=1)
    rest, products = b, torch.zeros(len(b), dtype=torch.int64, device=b.device)
    size = max(1, min(restart, b.shape[1]))
    while len(b) and (left_over := max_products - int(products.max())) > 0:
        going = (left > goal) & left.isfinite()
        if not bool(going.any()):
            break
        step, used = _cycle(apply, torch.where(going.unsqueeze(-1), rest, 0.0), goal, min(size, left_over))
        products = products + torch.where(going, used + 1, 0)
        trial = x + step
        remaining = b - apply(trial)
        after = torch.linalg.vector_norm(remaining, dim=1)
        better = going & (after < left)
        gained = better & (after < 0.999 * left)
        x, rest = (torch.where(better.unsqueeze(-1), new, old) for new, old in ((trial, x), (remaining, rest)))
        left = torch.where(better, after, left)
        if not bool(gained.any()):
            break
    return Krylov(x, left, products)


def _cycle(apply: Callable[[Tensor], Tensor], r: Tensor, goal: Tensor, size: int) -> tuple[Tensor, int]:
    """One cycle from the residual ``r``: the correction, and the number of products it took."""
    lanes, n = r.shape
    eps = torch.finfo(r.dtype).eps
    norm = torch.linalg.vector_norm(r, dim=1)
    basis = r.new_zeros(lanes, size + 1, n)
    basis[:, 0] = r / torch.where(norm > 0, norm, 1.0).unsqueeze(-1)
    upper = r.new_zeros(lanes, size, size)
    rotations: list[tuple[Tensor, Tensor]] = []
    right = r.new_zeros(lanes, size + 1)
    right[:, 0] = norm
    used = 0
    for j in range(size):
        w = apply(basis[:, j])
        before = torch.linalg.vector_norm(w, dim=1)
        column = r.new_zeros(lanes, size + 1)
        for _ in range(2):  # once is not enough (Kahan, Parlett)
            part = torch.einsum("bkn,bn->bk", basis[:, : j + 1], w)
            w = w - torch.einsum("bkn,bk->bn", basis[:, : j + 1], part)
            column[:, : j + 1] += part
        height = torch.linalg.vector_norm(w, dim=1)
        height = torch.where(height > _BREAKDOWN * eps * before, height, 0.0)
        basis[:, j + 1] = torch.where((height > 0).unsqueeze(-1), w / height.clamp(min=eps**2).unsqueeze(-1), 0.0)
        column[:, j + 1] = height
        for i, (c, s) in enumerate(rotations):
            column[:, i], column[:, i + 1] = (
                c * column[:, i] + s * column[:, i + 1],
                c * column[:, i + 1] - s * column[:, i],
            )
        length = torch.hypot(column[:, j], column[:, j + 1])
        c = torch.where(length > 0, column[:, j] / length.clamp(min=eps**2), 1.0)
        s = torch.where(length > 0, column[:, j + 1] / length.clamp(min=eps**2), 0.0)
        rotations.append((c, s))
        column[:, j] = length
        upper[:, :, j] = column[:, :size].masked_fill(torch.arange(size, device=r.device) > j, 0.0)
        right[:, j], right[:, j + 1] = c * right[:, j], -s * right[:, j]
        used = j + 1
        # A lane of a singular matrix leaves a zero on the diagonal, and its residual as it was.
        if bool(((right[:, j + 1].abs() <= 0.5 * goal) | (height == 0)).all()):
            break
    upper, right = upper[:, :used, :used], right[:, :used]
    diagonal = upper.diagonal(dim1=1, dim2=2)
    dead = diagonal.abs() <= _BREAKDOWN * eps * diagonal.abs().amax(dim=1, keepdim=True)
    upper = upper + torch.diag_embed(torch.where(dead, 1.0 - diagonal, 0.0))
    weights = torch.linalg.solve_triangular(upper, torch.where(dead, 0.0, right).unsqueeze(-1), upper=True)
    return torch.einsum("bkn,bk->bn", basis[:, :used], weights.squeeze(-1)), used
