"""Exponentials of many small matrices, and the flows of linear equations that they give."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..core.torch_private import is_wrapped

# Below this norm the Taylor polynomial of the degree is the exponential to rounding: x^(n + 1) / (n + 1)! < eps.
_NORM = 0.8
_DEGREES = {torch.float32: (9, 3), torch.float64: (16, 4)}
"""Degree and the power by which Horner's rule goes, so that the products are fewest."""
_NEAR = 0.5
_TERMS = {torch.float32: 8, torch.float64: 16}


def exponential(a: Tensor) -> Tensor:
    r"""The exponentials of matrices ``(..., k, k)``: a Taylor polynomial of :math:`A / 2^s`, squared s times.

    One s serves all of them, the largest norm's. In products of small matrices, so that a gradient costs twice as much as the
    value; of ``torch.linalg.matrix_exp``, which takes its place where no number may be read (in graphs, under
    ``torch.func``), it costs seven times as much and the value itself two to four times.

    Args:
        a: real or complex.

    Returns:
        ``exp(a)``, of the shape of ``a``.

    Example:
        >>> import math, torch
        >>> from neuralde.solvers.linear.exponential import exponential
        >>> turn = exponential(torch.tensor([[0.0, -math.pi], [math.pi, 0.0]], dtype=torch.float64))
        >>> torch.allclose(turn, -torch.eye(2, dtype=torch.float64))
        True
    """
    if torch.compiler.is_compiling() or is_wrapped(a) or not a.numel():
        return torch.linalg.matrix_exp(a)
    norm = float(a.detach().abs().sum(-1).max())
    if not math.isfinite(norm):
        return a * math.nan
    halvings = max(0, math.ceil(math.log2(norm / _NORM))) if norm else 0
    degree, stride = _DEGREES[a.real.dtype if a.is_complex() else a.dtype]
    a = a / 2**halvings
    powers = [torch.eye(a.shape[-1], dtype=a.dtype, device=a.device), a]
    while len(powers) <= stride:
        powers.append(powers[-1] @ a)
    value = powers[stride] / math.factorial(degree)
    for low in range(degree - stride, -1, -stride):
        value = _sum(value, powers[:stride], low)
        value = value @ powers[stride] if low else value
    for _ in range(halvings):
        value = value @ value
    return value


def _sum(value: Tensor, powers: list[Tensor], low: int) -> Tensor:
    for j, power in enumerate(powers):
        value = torch.add(value, power, alpha=1 / math.factorial(low + j))
    return value


def relative_exponential(m: Tensor) -> Tensor:
    r""":math:`\varphi_1(m) = (e^m - 1) / m` of numbers, 1 at zero; differentiable there.

    >>> relative_exponential(torch.tensor([0.0, 1.0]))
    tensor([1.0000, 1.7183])
    """
    near = m.abs() < _NEAR
    small, large = torch.where(near, m, 0.0), torch.where(near, 1.0, m)
    series = torch.ones_like(m)
    for n in range(_TERMS[m.real.dtype if m.is_complex() else m.dtype], 1, -1):
        series = 1.0 + series * small / n
    return torch.where(near, series, (large.exp() - 1.0) / large)


def flow(matrix: Tensor, offset: Tensor | None) -> tuple[Tensor, Tensor]:
    r"""What :math:`y' = A y + b` does in a unit of time: :math:`y \mapsto e^A y + \varphi_1(A) b`.

    Args:
        matrix: diagonals ``(..., d)``, or matrices ``(..., k, k)`` if ``offset`` has a dimension less.
        offset: b, ``(..., d)`` or ``(..., k)``; None for matrices: zero.

    Returns:
        The exponential and the shift.

    >>> flow(torch.zeros(2), torch.ones(2))
    (tensor([1., 1.]), tensor([1., 1.]))
    """
    if offset is not None and offset.dim() == matrix.dim():
        return matrix.exp(), relative_exponential(matrix) * offset
    if offset is None:
        return exponential(matrix), matrix.new_zeros(()).expand(matrix.shape[:-1])
    # The exponential of [[A, b], [0, 0]] is [[exp A, phi_1(A) b], [0, 1]].
    whole = exponential(pad(torch.cat([matrix, offset.unsqueeze(-1)], -1), (0, 0, 0, 1)))
    return whole[..., :-1, :-1], whole[..., :-1, -1]
