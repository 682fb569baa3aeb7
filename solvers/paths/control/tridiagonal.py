"""Tridiagonal systems in as many vectorised steps as the logarithm of their size."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad


def solve_tridiagonal(lower: Tensor, diagonal: Tensor, upper: Tensor, right: Tensor) -> Tensor:
    r"""Solve for x along the first dimension, by parallel cyclic reduction.

    .. math:: l_i x_{i-1} + d_i x_i + u_i x_{i+1} = r_i

    Each round eliminates from every row its two neighbours, so that the coupled rows are twice as far apart. It is stable
    for diagonally dominant systems, which those of splines are, and needs no pivots.

    Args:
        lower: what multiplies the unknown before; the first is ignored.
        diagonal: what multiplies the row's own.
        upper: what multiplies the one behind; the last is ignored.
        right: the right-hand sides; the others broadcast against them.

    Returns:
        The solution, of the shape of ``right``.

    Example:
        >>> import torch
        >>> from neuralde.solvers.paths.control.tridiagonal import solve_tridiagonal
        >>> one = torch.ones(3, dtype=torch.float64)
        >>> solve_tridiagonal(one, 4 * one, one, torch.tensor([5.0, 6.0, 5.0], dtype=torch.float64))
        tensor([1., 1., 1.], dtype=torch.float64)
    """
    size, apart = len(diagonal), 1
    lower = torch.cat([torch.zeros_like(lower[:1]), lower[1:]])
    upper = torch.cat([upper[:-1], torch.zeros_like(upper[:1])])
    while apart < size:
        down = -lower / _moved(diagonal, apart, 1.0)
        up = -upper / _moved(diagonal, -apart, 1.0)
        diagonal = diagonal + down * _moved(upper, apart) + up * _moved(lower, -apart)
        right = right + down * _moved(right, apart) + up * _moved(right, -apart)
        lower, upper = down * _moved(lower, apart), up * _moved(upper, -apart)
        apart *= 2
    return right / diagonal


def _moved(x: Tensor, by: int, value: float = 0.0) -> Tensor:
    """Rows moved along the first dimension, ``value`` where none comes from."""
    sides = [0, 0] * (x.dim() - 1) + ([by, 0] if by > 0 else [0, -by])
    return pad(x[:-by] if by > 0 else x[-by:], sides, value=value)
