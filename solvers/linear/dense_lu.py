"""Dense LU factorization, as the linear algebra of implicit steps."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..checks import integer
from .factorization import Factorization
from .systems import Systems


class DenseLU:
    r"""Jacobians as dense matrices, and systems :math:`(I - \gamma h J)\,x = b` by their LU factorization.

    Args:
        chunk: how many columns of a Jacobian are computed at once, in one batched call of the field; None: all of them.

    Attributes:
        chunk: as given.

    Shapes:
        A Jacobian is ``(n, n)`` for the n entries of the state; ``(B, n, n)`` with ``per_sample``, ``n`` those of a sample.

    Raises:
        InvalidProblemError: ``chunk`` is no positive integer.

    When to take it:
        It is the default, and right up to some hundred unknowns: a factorization costs :math:`\tfrac23 n^3` operations. A
        ``chunk`` saves memory where the field's own intermediate values are large.

    References:
        Golub, Van Loan: Matrix Computations, section 3.4.

    Example:
        >>> import torch, neuralde as nde
        >>> problem = nde.ODEProblem(lambda t, y: -1e5 * (y - 1.0), torch.zeros(4, dtype=torch.float64), (0.0, 1.0))
        >>> nde.solve(problem, nde.Rodas5P(linear_solver=nde.DenseLU(chunk=2))).y1[0]
        tensor(1., dtype=torch.float64)
    """

    def __init__(self, chunk: int | None = None) -> None:
        self.chunk = None if chunk is None else integer(chunk, "chunk")

    def systems(self, field: Any, like: Tensor, per_sample: bool) -> Systems:
        """The field as systems, whose Jacobians are computed as this solver has it."""
        return Systems(field, like, per_sample, self.chunk)

    def factorize(self, matrix: Tensor) -> Factorization:
        """The factors of matrices ``(B, n, n)``."""
        return Factorization.of(matrix)

    def __repr__(self) -> str:
        return "DenseLU()" if self.chunk is None else f"DenseLU(chunk={self.chunk})"
