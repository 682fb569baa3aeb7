"""A field linearized at a state: products with its Jacobian, and linear systems with it.

Everything here is real and flat: ``(B, n)``, a row for each independent system (a joint solve has one).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from ..core.derivative_order import refuse_once
from ..errors import InvalidProblemError
from .factorization import Factorization
from .krylov import gmres

LINEAR = ("auto", "dense", "gmres")
# Up to this many unknowns the Jacobian is formed: a product with it for each, and a factorization of microseconds.
DENSE_UP_TO = 128
_ONCE_ONLY = (
    "f: uses an autograd.Function marked once_differentiable, and products with its Jacobian differentiate its backward "
    'pass; expected a field without one, Newton(linear="dense"), or Anderson(check=False)'
)


class Linearized:
    """``f`` at ``x`` and its Jacobian there, as products; the graph of one call of ``f``.

    Args:
        f: ``(B, n) -> (B, n)``, rows independent of each other.
        x: where.

    Example:
        >>> import torch
        >>> at = Linearized(lambda x: x**2, torch.tensor([[1.0, 3.0]]))
        >>> at.value, at.product(torch.tensor([[1.0, 1.0]])), at.transposed(torch.tensor([[0.0, 1.0]]))
        (tensor([[1., 9.]]), tensor([[2., 6.]]), tensor([[0., 6.]]))
    """

    def __init__(self, f: Callable[[Tensor], Tensor], x: Tensor) -> None:
        with torch.inference_mode(False), torch.enable_grad():
            self.x = x.detach().clone().requires_grad_()
            self.out = f(self.x)
        self.value = self.out.detach()
        self._pullback: tuple[Tensor, Tensor] | None = None

    def transposed(self, v: Tensor) -> Tensor:
        """The product of the transposed Jacobian with ``v``."""
        if not self.out.requires_grad:
            return torch.zeros_like(self.x)
        (got,) = torch.autograd.grad(self.out, self.x, v, retain_graph=True, allow_unused=True)
        return torch.zeros_like(self.value) if got is None else got

    def product(self, v: Tensor) -> Tensor:
        """The product of the Jacobian with ``v``: the transposed product is linear in its argument, so its own is this."""
        if self._pullback is None:
            with torch.inference_mode(False), torch.enable_grad():
                u = torch.zeros_like(self.value).requires_grad_()
                got = None
                if self.out.requires_grad:
                    (got,) = torch.autograd.grad(self.out, self.x, u, create_graph=True, allow_unused=True)
                    refuse_once([] if got is None else [got], [], _ONCE_ONLY)
                self._pullback = u, (0.0 * u if got is None else got)
        u, pulled = self._pullback
        if not pulled.requires_grad:
            return torch.zeros_like(v)
        (got,) = torch.autograd.grad(pulled, u, v, retain_graph=True, allow_unused=True)
        return torch.zeros_like(v) if got is None else got

    def dense(self) -> Tensor:
        """The Jacobians, ``(B, n, n)``: one transposed product for each row of them."""
        rows = []
        for index in range(self.x.shape[1]):
            unit = torch.zeros_like(self.value)
            unit[:, index] = 1.0
            rows.append(self.transposed(unit))
        return torch.stack(rows, dim=1) if rows else self.value.new_zeros(len(self.value), 0, 0)


def jacobian_of(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The Jacobians ``(B, n, n)`` of ``f`` at ``x``, by forward mode: one call of it, for all directions at once.

    Args:
        f: ``(B, n) -> (B, n)``, rows independent of each other, of operations that ``torch.func`` knows.
        x: where.

    Example:
        >>> import torch
        >>> jacobian_of(lambda x: torch.stack([x[:, 0] * x[:, 1], x[:, 1]], 1), torch.tensor([[2.0, 3.0]]))
        tensor([[[3., 2.],
                 [0., 1.]]])
    """
    directions = torch.eye(x.shape[1], dtype=x.dtype, device=x.device).unsqueeze(1).expand(-1, *x.shape)
    columns = torch.func.vmap(lambda v: torch.func.jvp(f, (x,), (v,))[1])(directions)
    return columns.permute(1, 2, 0)


def affine_jacobian(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The same of an affine function, from its differences, which are exact: one call for each direction, and one more.

    Example:
        >>> import torch
        >>> affine_jacobian(lambda x: 3.0 * x.flip(1) + 1.0, torch.tensor([[2.0, 3.0]]))
        tensor([[[0., 3.],
                 [3., 0.]]])
    """
    zero = torch.zeros_like(x)
    at_zero, one = f(zero), torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    return torch.stack([f(zero + unit) - at_zero for unit in one], dim=2)


class LinearSolver(ABC):
    """Linear systems with the Jacobian of :class:`Linearized`, each row its own."""

    products: Tensor
    """How many products with the Jacobian every row has taken."""

    @abstractmethod
    def solve(self, b: Tensor, transposed: bool = False, rtol: float = 1e-10) -> tuple[Tensor, Tensor]:
        r"""``(x, left)`` with :math:`J x = b` or :math:`J^T x = b`, and the relative residual norm of every row."""

    @property
    def condition(self) -> Tensor | None:
        """The condition number of every row's Jacobian, where it is known."""
        return None


class Dense(LinearSolver):
    """By the matrix and its LU factorization."""

    def __init__(self, at: Linearized) -> None:
        self._set(at.dense())

    @classmethod
    def of(cls, matrix: Tensor) -> Dense:
        """The solver of matrices that are there already, ``(B, n, n)``."""
        solver = cls.__new__(cls)
        solver._set(matrix)
        return solver

    def _set(self, matrix: Tensor) -> None:
        self.matrix = matrix
        self.products = torch.full((len(matrix),), matrix.shape[1], dtype=torch.int64, device=matrix.device)
        self.finite = self.matrix.isfinite().all(dim=(1, 2)) if self.matrix.numel() else self.products >= 0
        # Rows that are not finite get a factorization of something else, and NaN as their result.
        self._safe = torch.where(
            self.finite.reshape(-1, 1, 1), self.matrix, torch.eye(self.matrix.shape[-1]).to(matrix)
        )
        self._factors = Factorization.of(self._safe)

    @property
    def nearly_singular(self) -> Tensor:
        """Rows whose factorization has a pivot that is rounding beside its column."""
        if not self.matrix.shape[-1]:
            return torch.zeros_like(self.finite)
        pivots = self._factors.factors.diagonal(dim1=1, dim2=2).abs()
        limit = 100 * self.matrix.shape[-1] * torch.finfo(self.matrix.dtype).eps
        return self.finite & (pivots <= limit * self._safe.abs().amax(dim=1)).any(dim=1)

    @property
    def condition(self) -> Tensor:
        """Of every matrix, in the 2-norm."""
        if not self.matrix.shape[-1]:
            return self.matrix.new_ones(len(self.matrix))
        values = torch.linalg.svdvals(self._safe)
        return torch.where(self.finite & (values[:, -1] > 0), values[:, 0] / values[:, -1], torch.inf)

    def solve(self, b: Tensor, transposed: bool = False, rtol: float = 1e-10) -> tuple[Tensor, Tensor]:
        """By substitution."""
        x = self._factors.solve(b, transposed)
        matrix = self._safe.mT if transposed else self._safe
        rest = torch.linalg.vector_norm(b - torch.einsum("bij,bj->bi", matrix, x), dim=1)
        size = torch.linalg.vector_norm(b, dim=1)
        left = torch.where(size > 0, rest / size.clamp(min=torch.finfo(b.dtype).tiny), rest)
        return torch.where(self.finite.unsqueeze(-1), x, torch.nan), torch.where(self.finite, left, torch.inf)

    def least_squares(self, b: Tensor) -> Tensor:
        """The shortest of the vectors that come closest, for singular matrices."""
        return torch.einsum("bij,bj->bi", torch.linalg.pinv(self._safe), b)


class MatrixFree(LinearSolver):
    """By GMRES, with products only."""

    def __init__(self, at: Linearized, max_products: int = 1000, restart: int = 40) -> None:
        self.at, self.max_products, self.restart = at, max_products, restart
        self.products = torch.zeros(len(at.value), dtype=torch.int64, device=at.value.device)

    def solve(self, b: Tensor, transposed: bool = False, rtol: float = 1e-10) -> tuple[Tensor, Tensor]:
        """By as many products as it takes, up to the limit."""
        apply = self.at.transposed if transposed else self.at.product
        found = gmres(apply, b, rtol=rtol, max_products=self.max_products, restart=self.restart)
        self.products = self.products + found.products
        size = torch.linalg.vector_norm(b, dim=1)
        left = torch.where(size > 0, found.residual / size.clamp(min=torch.finfo(b.dtype).tiny), found.residual)
        return found.x, left


def linear_solver(at: Linearized, kind: str, max_products: int = 1000, restart: int = 40) -> LinearSolver:
    """The solver of this kind: ``"dense"``, ``"gmres"``, or ``"auto"`` (dense for up to 128 unknowns)."""
    dense = kind == "dense" or (kind == "auto" and at.value.shape[1] <= DENSE_UP_TO)
    return Dense(at) if dense else MatrixFree(at, max_products, restart)


def check_linear(kind: object) -> str:
    """Refuse what is no kind of linear solver."""
    if not isinstance(kind, str) or kind not in LINEAR:
        raise InvalidProblemError(f'linear: got {kind!r}; expected "auto", "dense" or "gmres"')
    return kind
