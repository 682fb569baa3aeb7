"""The linear map between two clouds of points, differentiable also where it is not determined, and truncated decompositions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from neuralde.solvers import InvalidProblemError
from neuralde.solvers.checks import number, shown


def fit_operator(z0: Tensor, z1: Tensor, ridge: Any = 0.0) -> Tensor:
    r"""The matrix that takes each row of one cloud of points to the row of another, in the least-squares sense.

    .. math:: A = \arg\min_A \|z_0 A - z_1\|_F^2 + \rho \|A\|_F^2

    Where several matrices are as good, the one of least norm. Gradients follow the derivative of the pseudo-inverse (Golub
    and Pereyra), which holds no difference of singular values or eigenvalues: they are finite for clouds of deficient rank,
    for repeated eigenvalues of A, and where all points have collapsed into one or into zero.

    Args:
        z0: points, real or complex.
        z1: where they go.
        ridge: :math:`\rho`, at least 0. With any positive value A is a smooth function of the points.

    Shapes:
        ``z0`` is ``(..., n, d)``, ``z1`` ``(..., n, k)``, and A ``(..., d, k)``: points are rows, ``z0 @ A`` is near ``z1``.

    Units:
        ``ridge`` in those of ``z0`` squared, not divided by the number of points.

    Returns:
        A, with the dtype and device of the points.

    Raises:
        InvalidProblemError: the points are no floating tensors, do not fit each other, have none or not finite ones, or
            ``ridge`` is below 0.

    When to take it:
        Inside a model whose latent dynamics should be linear. For the spectrum of data take :class:`DMD` or :class:`EDMD`.

    References:
        Golub, Pereyra: The differentiation of pseudo-inverses and nonlinear least squares problems whose variables separate.
        SIAM Journal on Numerical Analysis 10, 1973, equation 4.12.

    Example:
        >>> import torch, neuralde as nde
        >>> turn = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
        >>> z0 = torch.randn(8, 2, requires_grad=True)
        >>> A = nde.koopman.fit_operator(z0, z0.detach() @ turn)
        >>> torch.allclose(A, turn, atol=1e-5)
        True
        >>> A.norm().backward()
        >>> collapsed = torch.ones(8, 2, requires_grad=True)
        >>> nde.koopman.fit_operator(collapsed, 2 * collapsed).sum().backward()
        >>> collapsed.grad.isfinite().all()
        tensor(True)
    """
    for name, value in (("z0", z0), ("z1", z1)):
        points(value, name, at_least=2)
    if z0.shape[:-1] != z1.shape[:-1] or z0.dtype != z1.dtype:
        raise InvalidProblemError(f"z1: got {shown(z1)}; expected a row for each of z0, {shown(z0)}")
    rho = number(ridge, "ridge", "a number of at least 0", least=0.0)
    return least_squares(z0, z1, rho)


def least_squares(z0: Tensor, z1: Tensor, ridge: float = 0.0, rtol: float | None = None) -> Tensor:
    """:func:`fit_operator` without its checks; ``rtol`` of the largest singular value counts as zero."""
    rows, size = z0.shape[-2:]
    real = z0.real.dtype if z0.is_complex() else z0.dtype
    # The derivative has squares of the inverse: units in which the points are near 1 keep them in range.
    scale = z0.detach().abs().amax((-2, -1), keepdim=True).to(real)
    scale = scale.clamp(min=max(ridge**0.5, torch.finfo(real).tiny ** 0.5))
    scaled = z0 / scale
    if ridge:
        extra = torch.eye(size, dtype=z0.dtype, device=z0.device) * (ridge**0.5 / scale)
        scaled = torch.cat([scaled, extra.expand(*scaled.shape[:-2], size, size)], -2)
    smallest = max(scaled.shape[-2:]) * torch.finfo(real).eps if rtol is None else rtol
    # Points below the clamp have collapsed to zero, and nothing follows from them: hence the absolute tolerance.
    inverse = torch.linalg.pinv(scaled, atol=torch.finfo(real).eps, rtol=smallest)
    return inverse[..., :rows] @ (z1 / scale)


def points(value: Any, name: str, at_least: int = 1) -> Tensor:
    """A floating or complex tensor with so many dimensions, rows and columns, all finite."""
    dtypes = "a float or complex tensor"
    if not isinstance(value, Tensor) or not (value.is_floating_point() or value.is_complex()):
        raise InvalidProblemError(f"{name}: got {shown(value)}; expected {dtypes}")
    if value.dim() < at_least or not value.numel():
        raise InvalidProblemError(
            f"{name}: got {shown(value)}; expected {dtypes} of {at_least} or more dimensions, not empty"
        )
    if not bool(value.isfinite().all()):
        raise InvalidProblemError(f"{name}: has values that are not finite; expected finite ones")
    return value


EXTRA, SWEEPS = 12, 12
"""Columns of the iteration beside those that are wanted, and its sweeps before the decomposition is made directly."""


def leading_svd(x: Tensor, rank: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    r"""The largest singular values with their vectors, :math:`x \approx U S V^*`, as many as ``rank`` or as are not rounding.

    Subspace iteration from a random start finds few of many; they are taken where :math:`\|x v - s u\|` and :math:`\|x^* u - s
    v\|` prove them to rounding. Where singular values fall too slowly for that, and otherwise, the decomposition is made
    directly.

    >>> x = torch.randn(500, 3, dtype=torch.float64) @ torch.randn(3, 400, dtype=torch.float64)
    >>> u, s, v = leading_svd(x)
    >>> u.shape, s.shape, bool(torch.dist(x, u * s @ v.mH) < 1e-10)
    (torch.Size([500, 3]), torch.Size([3]), True)
    """
    small = min(x.shape)
    found = _iterated(x, rank) if rank is not None and 4 * (rank + EXTRA) < small else None
    if found is None:
        found = _direct(x)
    u, s, v = found
    positive = int((s > max(x.shape) * torch.finfo(s.dtype).eps * s[0]).sum())
    kept = positive if rank is None else min(rank, positive)
    return u[:, :kept], s[:kept], v[:, :kept]


def _direct(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """By a triangular factor where the matrix is far from square, which is cheaper and as exact."""
    if x.shape[0] < x.shape[1]:
        v, s, u = _direct(x.mH)
        return u, s, v
    if x.shape[0] > 2 * x.shape[1]:
        q, r = torch.linalg.qr(x)
        u, s, vh = torch.linalg.svd(r, full_matrices=False)
        return q @ u, s, vh.mH
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    return u, s, vh.mH


def _iterated(x: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor] | None:
    """By subspace iteration; None where it has not converged."""
    generator = torch.Generator(x.device).manual_seed(0)
    start = torch.randn(x.shape[1], rank + EXTRA, dtype=x.dtype, device=x.device, generator=generator)
    q = torch.linalg.qr(x @ start)[0]
    for _ in range(SWEEPS):
        back = torch.linalg.qr(x.mH @ q)[0]
        image = x @ back
        u, s, wh = torch.linalg.svd(image, full_matrices=False)
        v = back @ wh.mH
        tolerance = 1e2 * torch.finfo(s.dtype).eps * s[0]
        # x v = s u holds by construction
        if bool((x.mH @ u[:, :rank] - s[:rank] * v[:, :rank]).norm(dim=0).max() <= tolerance):
            return u[:, :rank], s[:rank], v[:, :rank]
        q = u
    return None
