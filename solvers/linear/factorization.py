"""A batch of dense matrices, factorized once and used for many systems, transposed ones too."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Factorization(NamedTuple):
    r"""LU factors of matrices ``(B, n, n)``, one for each lane: a tree of tensors, which any driver can carry.

    Example:
        >>> import torch
        >>> lu = Factorization.of(torch.tensor([[[2.0, 1.0], [0.0, 4.0]]]))
        >>> lu.solve(torch.tensor([[4.0, 8.0]])), lu.solve(torch.tensor([[4.0, 8.0]]), transposed=True)
        (tensor([[1., 2.]]), tensor([[2.0000, 1.5000]]))
    """

    factors: Tensor
    """``(B, n, n)``, both triangles in one."""
    pivots: Tensor
    """``(B, n)``, int32."""

    @classmethod
    def of(cls, matrix: Tensor) -> Factorization:
        """The factors of matrices; of one that is singular or not finite some that give no finite solution."""
        factors, pivots, _ = torch.linalg.lu_factor_ex(matrix)
        return cls(factors, pivots)

    def solve(self, b: Tensor, transposed: bool = False) -> Tensor:
        """The solutions of ``A x = b``, or ``A^T x = b``, for right-hand sides ``(B, n)``; differentiable in ``b``."""
        return torch.linalg.lu_solve(self.factors, self.pivots, b.unsqueeze(-1), adjoint=transposed).squeeze(-1)
