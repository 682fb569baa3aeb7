"""Roots of functions of one number, every lane with its own bracket."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def find_root(
    f: Callable[[Tensor], Tensor], a: Tensor, b: Tensor, f_a: Tensor, f_b: Tensor, tol: Tensor, limit: int = 120
) -> Tensor:
    """Where ``f`` changes sign between ``a`` and ``b``, by Chandrupatla's method.

    Inverse quadratic interpolation where three points allow it, else bisection; every lane is frozen when its bracket is
    no longer than ``tol``, so that lanes do not influence each other. Where both ends are equally good, as with a
    function that jumps, the result is the far one.

    Args:
        f: the function, entry by entry; NaN counts as the sign at ``b``.
        a: one end.
        b: the other end, at which ``f`` has another sign, or is zero.
        f_a: the value at ``a``, nonzero.
        f_b: the value at ``b``.
        tol: how short a bracket must become.
        limit: the largest number of evaluations.

    Source: Chandrupatla, Advances in Engineering Software 28 (1997) 145.

    >>> zero, one = torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    >>> squares = torch.tensor([0.25, 0.5], dtype=torch.float64)
    >>> find_root(lambda x: x * x - squares, zero, one, -squares, 1 - squares, 1e-15 * one)
    tensor([0.5000, 0.7071], dtype=torch.float64)
    """
    side, tiny = f_a.sign(), torch.finfo(a.dtype).eps
    near, far, f_near, f_far = a, b, f_a, f_b
    third, f_third, place = a, f_a, torch.full_like(a, 0.5)
    root, done = b, f_b == 0
    for _ in range(limit):
        root = torch.where(done, root, torch.where(f_near.abs() < f_far.abs(), near, far))
        width = (far - near).abs()
        done = done | (width <= torch.maximum(tol, 2 * tiny * torch.maximum(near.abs(), far.abs()))) | (f_far == 0)
        if bool(done.all()):
            break
        x = near + place * (far - near)
        f_x = f(x)
        stays = f_x.sign() == side
        # The end that x replaces is kept for the interpolation.
        third, f_third = torch.where(stays, near, far), torch.where(stays, f_near, f_far)
        near, f_near = torch.where(stays, x, near), torch.where(stays, f_x, f_near)
        far, f_far = torch.where(stays, far, x), torch.where(stays, f_far, f_x)
        place = _next_place(near, far, third, f_near, f_far, f_third, stays, tol)
    return root


def _next_place(
    near: Tensor, far: Tensor, third: Tensor, f_near: Tensor, f_far: Tensor, f_third: Tensor, stays: Tensor, tol: Tensor
) -> Tensor:
    """Where between the ends to look next, relative to the bracket."""
    # Chandrupatla's a is the newest point, b the other end of the bracket, c the point that the newest one replaced.
    a, f_a = torch.where(stays, near, far), torch.where(stays, f_near, f_far)
    b, f_b = torch.where(stays, far, near), torch.where(stays, f_far, f_near)
    xi, phi = (a - b) / (third - b), (f_a - f_b) / (f_third - f_b)
    smooth = (phi**2 < xi) & ((1 - phi) ** 2 < 1 - xi)
    along = f_a / (f_b - f_a) * f_third / (f_b - f_third)
    along = along + (third - a) / (b - a) * f_a / (f_third - f_a) * f_b / (f_third - f_b)
    along = torch.where(smooth & along.isfinite(), along, 0.5)
    margin = (0.5 * tol / (far - near).abs()).clamp(max=0.5)
    along = torch.minimum(torch.maximum(along, margin), 1 - margin)
    return torch.where(stays, along, 1 - along)
