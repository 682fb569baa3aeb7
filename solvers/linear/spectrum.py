"""What the Jacobian at a state says of it: how far the equilibrium is, what is conserved, and whether it is stable.

Everything is real and flat, ``(B, n)``, as in :mod:`.linear`, and free of the unit of time: a field that is multiplied by a
number has the same answers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .jacobian import DENSE_UP_TO, Linearized

# A part of the largest eigenvalue; growth slower than this is not told from none.
_GROWTH = {torch.float64: 1e-5, torch.float32: 1e-3}
# Eigenvalues are looked for where they cost less than about 0.1 s: rows times n cubed.
_CHEAP = 3e7
# Units of rounding of the field's terms below which a value of the field is none.
_NOISE = 64


def conserved_totals(f: Callable[[Tensor], Tensor], x: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor]:
    r"""Orthogonal projectors ``(B, n, n)`` on the totals :math:`w^T y` that the field conserves, and how many there are.

    They are the left null vectors that the Jacobian has at ``x`` and at a point beside it: a vector that is one at ``x`` only
    (a bifurcation, a curved continuum of equilibria) is none of a conservation law. Columns are scaled first, so that fast
    and slow reactions count alike.

    Args:
        f: the field on rows.
        x: where.
        matrix: its Jacobians there, ``(B, n, n)``.

    Example:
        >>> import torch
        >>> def exchange(x): return (0.3 * x[:, 1:] - 0.1 * x[:, :1]) * torch.tensor([[1.0, -1.0]], dtype=torch.float64)
        >>> x = torch.tensor([[3.0, 1.0]], dtype=torch.float64)
        >>> projector, count = conserved_totals(exchange, x, Linearized(exchange, x).dense())
        >>> projector[0].round(decimals=6), count
        (tensor([[0.5000, 0.5000],
                [0.5000, 0.5000]], dtype=torch.float64), tensor([1]))
    """
    lanes, n = x.shape
    nothing = matrix.new_zeros(lanes, n, n), torch.zeros(lanes, dtype=torch.int64, device=x.device)
    finite = matrix.isfinite().all(dim=(1, 2))
    if not n or not bool(finite.any()):
        return nothing
    there = beside(x)
    other = Linearized(f, there)
    second = other.dense()
    finite = finite & second.isfinite().all(dim=(1, 2)) & other.value.isfinite().all(dim=1)
    both = torch.cat([matrix, second], dim=2)
    both = torch.where(finite.reshape(-1, 1, 1), both, torch.eye(n).repeat(1, 2).to(both))
    length = torch.linalg.vector_norm(both, dim=1, keepdim=True)
    left, values, _ = torch.linalg.svd(both / torch.where(length > 0, length, 1.0), full_matrices=False)
    null = values <= 10 * n * torch.finfo(x.dtype).eps * values[:, :1]
    basis = left * null.unsqueeze(1)
    projector = basis @ basis.mT
    # A total that changes at a constant rate has no equilibrium at all.
    value = torch.where(finite.unsqueeze(-1), other.value, 0.0)
    drift = torch.linalg.vector_norm(torch.einsum("bij,bj->bi", projector, value), dim=1)
    terms = torch.einsum("bij,bj->bi", second.nan_to_num().abs(), there.abs())
    size = torch.linalg.vector_norm(value, dim=1) + torch.linalg.vector_norm(terms, dim=1)
    kept = finite & (drift <= 1e3 * n * torch.finfo(x.dtype).eps * size)
    return projector * kept.reshape(-1, 1, 1), null.sum(dim=1) * kept


def beside(x: Tensor) -> Tensor:
    """Points near the given ones, the same for the same shapes; zeros and positive numbers stay non-negative."""
    made = torch.Generator().manual_seed(17)
    part = (0.5 + torch.rand(x.shape, generator=made, dtype=torch.float64)).to(x)
    scale = x.abs().amax(dim=1, keepdim=True)
    return x + 0.01 * part * (x.abs() + 0.1 * torch.where(scale > 0, scale, 1.0)) * (1.0 - 2.0 * (x < 0).to(x))


class Anchored:
    r"""The field with its totals held, :math:`f(x) - c\, P (x - x_0)`: zero where ``f`` is and the totals are those of ``x0``.

    With the projector P on conserved totals its Jacobian :math:`J - c P` is regular wherever the equilibrium is isolated
    among the states of the same totals, and the totals' eigenvalues are :math:`-c`.

    Args:
        f: the field on rows.
        projector: P, ``(B, n, n)``; zero for rows without totals.
        start: where the totals are those to hold, ``(B, n)``.
        strength: c, ``(B,)``, about the size of J.
    """

    def __init__(self, f: Callable[[Tensor], Tensor], projector: Tensor, start: Tensor, strength: Tensor) -> None:
        self.f, self.projector, self.start, self.strength = f, projector, start, strength

    @property
    def added(self) -> Tensor:
        """What the Jacobian has in addition."""
        return -self.strength.reshape(-1, 1, 1) * self.projector

    def __call__(self, x: Tensor) -> Tensor:
        """The value at ``x``."""
        return self.f(x) + torch.einsum("bij,bj->bi", self.added, x - self.start)


def strength(matrix: Tensor) -> Tensor:
    """A number of the size of every matrix, for :class:`Anchored`."""
    size = matrix.abs().amax(dim=(1, 2)) if matrix.numel() else matrix.new_ones(len(matrix))
    return torch.where(size.isfinite() & (size > 0), size, 1.0)


class Distance(NamedTuple):
    """How far the equilibrium is from a state."""

    step: Tensor
    """The move to it by the linearization, ``(B, n)``; infinite where there is none."""
    singular: Tensor
    """Rows whose Jacobian has a direction in which rounding hides it."""
    values: Tensor
    """The singular values, ``(B, n)``."""


def distance(matrix: Tensor, x: Tensor, value: Tensor) -> Distance:
    r"""The step :math:`-J^{-1} f` by singular values, in whose directions f counts where it is more than rounding.

    Where the field has no part in the left singular direction of a singular value zero, as with a conserved total or along
    a continuum of equilibria, nothing moves in the right one.
    """
    finite = matrix.isfinite().all(dim=(1, 2)) & value.isfinite().all(dim=1)
    safe = torch.where(finite.reshape(-1, 1, 1), matrix, torch.eye(x.shape[1]).to(matrix))
    left, values, right = torch.linalg.svd(safe)
    parts = torch.einsum("bij,bi->bj", left, torch.where(finite.unsqueeze(-1), value, 0.0))
    terms = torch.einsum("bij,bj->bi", safe.abs(), x.abs())
    eps = torch.finfo(x.dtype).eps
    noise = _NOISE * eps * torch.linalg.vector_norm(terms, dim=1, keepdim=True)
    moves = torch.where(parts.abs() > noise, parts / values, 0.0)
    moves = torch.where((parts.abs() > noise) & (values <= 0), torch.inf, moves)
    step = torch.where(
        moves.isfinite().all(dim=1, keepdim=True), -torch.einsum("bji,bj->bi", right, moves.nan_to_num()), torch.inf
    )
    singular = values[:, -1] <= 10 * x.shape[1] * eps * values[:, 0]
    return Distance(torch.where(finite.unsqueeze(-1), step, torch.inf), singular & finite, values)


def grows(matrix: Tensor, rough: Tensor) -> Tensor | None:
    """Whether a small difference from the equilibrium grows, for every row; None where that would be dear.

    Args:
        matrix: the Jacobians.
        rough: how far they may be from those at the equilibrium, relative.
    """
    lanes, n = matrix.shape[:2]
    if not n or lanes * n**3 > _CHEAP:
        return None if n else torch.zeros(lanes, dtype=torch.bool, device=matrix.device)
    finite = matrix.isfinite().all(dim=(1, 2))
    values = torch.linalg.eigvals(torch.where(finite.reshape(-1, 1, 1), matrix, 0.0))
    allowed = torch.maximum(rough, torch.full_like(rough, _GROWTH[matrix.dtype]))
    return finite & (values.real.amax(dim=1) > allowed * values.abs().amax(dim=1))


def affordable(x: Tensor) -> bool:
    """Whether matrices are formed for states of this size."""
    return x.shape[1] <= DENSE_UP_TO
