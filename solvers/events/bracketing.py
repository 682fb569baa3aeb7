"""Roots of functions of one number, every lane with its own bracket."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..core.scalars import transformed


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
    kind, device = a.dtype, a.device

    def at(x: np.ndarray) -> np.ndarray:
        return on_host(f(torch.as_tensor(x, dtype=kind, device=device)))

    # On the host, where the arithmetic on a few brackets costs less than as many operators, and is asked for flags.
    near, far, f_near, f_far, least = (on_host(x) for x in (a, b, f_a, f_b, tol))
    side, tiny = np.sign(f_near), torch.finfo(kind).eps
    third, f_third = near, f_near
    root, done = far, f_far == 0
    with np.errstate(all="ignore"):
        # First where a straight line is zero, unless that is next to an end: then in the middle.
        place = f_near / (f_near - f_far)
        place = np.where((place > 0.01) & (place < 0.99), place, 0.5)
        for _ in range(limit):
            root = np.where(done, root, np.where(abs(f_near) < abs(f_far), near, far))
            width = abs(far - near)
            done = done | (width <= np.maximum(least, 2 * tiny * np.maximum(abs(near), abs(far)))) | (f_far == 0)
            if done.all():
                break
            x = near + place * (far - near)
            f_x = at(x)
            stays = np.sign(f_x) == side
            # The end that x replaces is kept for the interpolation.
            third, f_third = np.where(stays, near, far), np.where(stays, f_near, f_far)
            near, f_near = np.where(stays, x, near), np.where(stays, f_x, f_near)
            far, f_far = np.where(stays, far, x), np.where(stays, f_far, f_x)
            place = _next_place(near, far, third, f_near, f_far, f_third, stays, least)
    return torch.as_tensor(root, dtype=kind, device=device)


def on_host(x: Tensor) -> np.ndarray:
    """The values, where NumPy can calculate with them."""
    return np.array(x.tolist()) if transformed() else x.cpu().numpy()


def from_host(x: np.ndarray, device: torch.device) -> Tensor:
    """The same numbers as a tensor, in the dtype that they have."""
    return torch.from_numpy(np.array(x)).to(device)


def _next_place(
    near: np.ndarray,
    far: np.ndarray,
    third: np.ndarray,
    f_near: np.ndarray,
    f_far: np.ndarray,
    f_third: np.ndarray,
    stays: np.ndarray,
    tol: np.ndarray,
) -> np.ndarray:
    """Where between the ends to look next, relative to the bracket."""
    # Chandrupatla's a is the newest point, b the other end of the bracket, c the point that the newest one replaced.
    a, f_a = np.where(stays, near, far), np.where(stays, f_near, f_far)
    b, f_b = np.where(stays, far, near), np.where(stays, f_far, f_near)
    xi, phi = (a - b) / (third - b), (f_a - f_b) / (f_third - f_b)
    smooth = (phi**2 < xi) & ((1 - phi) ** 2 < 1 - xi)
    along = f_a / (f_b - f_a) * f_third / (f_b - f_third)
    along = along + (third - a) / (b - a) * f_a / (f_third - f_a) * f_b / (f_third - f_b)
    along = np.where(smooth & np.isfinite(along), along, 0.5)
    margin = np.minimum(0.5 * tol / abs(far - near), 0.5)
    along = np.minimum(np.maximum(along, margin), 1 - margin)
    return np.where(stays, along, 1 - along)
