r"""Linear recurrences :math:`y_{i+1} = M_i y_i + v_i`, in as few rounds as the square root of their length.

The maps form a semigroup, so the steps are cut into chunks: the product of each chunk's maps, all chunks at once; the states at
the chunks' beginnings, one after the other; then the states inside, all chunks at once again. The gradient is the same
recurrence backwards, of the transposed maps, and keeps maps and states only.
"""

from __future__ import annotations

from math import isqrt
from typing import Any

import torch
from torch import Tensor

# Entries of a step's maps from which a CPU is busy with one step after the other (measured on one thread).
_BUSY = {False: 4096, True: 2048}


def act(maps: Tensor, y: Tensor) -> Tensor:
    """Maps on states: matrices if they have a dimension more, else diagonals."""
    return maps * y if maps.dim() == y.dim() else (maps @ y.unsqueeze(-1)).squeeze(-1)


def compose(after: Tensor, before: Tensor, diagonal: bool) -> Tensor:
    """The product of two maps."""
    return after * before if diagonal else after @ before


def recurrence(maps: Tensor, shifts: Tensor, y0: Tensor) -> Tensor:
    r"""All states of :math:`y_{i+1} = M_i y_i + v_i`.

    Args:
        maps: ``(m, ..., k, k)``, or diagonals ``(m, ..., k)``.
        shifts: ``(m, ..., k)``.
        y0: ``(..., k)``.

    Returns:
        ``(m + 1, ..., k)``, ``y0`` first.

    References:
        Blelloch: Prefix sums and their applications. 1990, section 1.4 on recurrences.

    Example:
        >>> import torch
        >>> from neuralde.solvers.linear.scan import recurrence
        >>> recurrence(torch.full((3, 1), 2.0), torch.ones(3, 1), torch.zeros(1)).squeeze(-1)
        tensor([0., 1., 3., 7.])
    """
    if torch.compiler.is_compiling():
        return _states(maps, shifts, y0)
    states: Tensor = _Recurrence.apply(maps, shifts, y0)
    return states


def _states(maps: Tensor, shifts: Tensor, y0: Tensor) -> Tensor:
    steps, diagonal = len(maps), maps.dim() == shifts.dim()
    busy = maps.device.type == "cpu" and maps[0].numel() >= _BUSY[not diagonal]
    chunk = steps if busy or steps < 4 else isqrt(steps)
    chunks = steps // chunk
    inside = chunk * chunks
    cut_maps, cut_shifts = (x[:inside].unflatten(0, (chunks, chunk)) for x in (maps, shifts))
    starts = [y0]
    if chunks > 1:
        product, shift = cut_maps[:-1, 0], cut_shifts[:-1, 0]
        for j in range(1, chunk):
            following = cut_maps[:-1, j]
            product, shift = compose(following, product, diagonal), act(following, shift) + cut_shifts[:-1, j]
        for i in range(chunks - 1):
            starts.append(act(product[i], starts[-1]) + shift[i])
    state, states = torch.stack(starts), []
    for j in range(chunk):
        state = act(cut_maps[:, j], state) + cut_shifts[:, j]
        states.append(state)
    rest = [torch.stack([torch.stack(starts), *states[:-1]], 1).flatten(0, 1), state[-1:]]
    for i in range(inside, steps):
        rest.append(act(maps[i : i + 1], rest[-1]) + shifts[i : i + 1])
    return torch.cat(rest)


class _Recurrence(torch.autograd.Function):
    """The recurrence with its own derivatives, which are recurrences too."""

    generate_vmap_rule = True

    @staticmethod
    def forward(maps: Tensor, shifts: Tensor, y0: Tensor) -> Tensor:
        return _states(maps, shifts, y0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        maps, _, y0 = inputs
        ctx.save_for_backward(maps, output)
        ctx.save_for_forward(maps, output, y0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        maps, states = ctx.saved_tensors
        (given,) = gradients
        diagonal = maps.dim() == states.dim()
        turned = (maps if diagonal else maps.mT).flip(0).conj()
        behind = recurrence(turned, given[:-1].flip(0), given[-1]).flip(0)
        before = states[:-1].conj()
        of_maps = behind[1:] * before if diagonal else behind[1:].unsqueeze(-1) * before.unsqueeze(-2)
        return of_maps, behind[1:], behind[0]

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        maps, states, y0 = ctx.saved_tensors
        of_maps, of_shifts, of_y0 = tangents
        moved = torch.zeros_like(states[1:]) if of_shifts is None else of_shifts
        if of_maps is not None:
            moved = moved + act(of_maps, states[:-1])
        return recurrence(maps, moved, torch.zeros_like(y0) if of_y0 is None else of_y0)
