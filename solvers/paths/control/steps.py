"""The pieces of a control path as steps of the log-ODE method: the log-signature of each."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from ..signatures.lie import Bracket, brackets_of
from .base import ControlPath
from .observations import trailing
from .rough import LogSignaturePath


def letters_of(path: ControlPath) -> int:
    """How many channels of data a path has: fewer than its own where these are brackets."""
    return path.letters if isinstance(path, LogSignaturePath) else path.channels


def brackets_along(path: ControlPath) -> list[Bracket]:
    """The brackets whose coordinates :func:`log_signatures` gives for a path, in this order."""
    if isinstance(path, LogSignaturePath):
        return brackets_of(path.letters, path.depth, "lyndon" if path.basis == "words" else path.basis)
    return brackets_of(path.channels, 1 if path.pieces.shape[1] == 2 else 2, "lyndon")


def log_signatures(pieces: Sequence[Tensor], length: Tensor) -> Tensor:
    r"""The log-signatures of pieces of polynomials, from their beginning over a length of time.

    That of a straight piece is its increment. That of a cubic one begins with it and the areas

    .. math:: \tfrac12 \int X_i \, dX_j - X_j \, dX_i
              = \tfrac12 \sum_{p < q} \frac{q - p}{p + q} (a_{p,i} a_{q,j} - a_{p,j} a_{q,i}), \qquad X(u) = \sum_p a_p u^p

    Args:
        pieces: the coefficients, constant first, each ``(..., c)``.
        length: the time since the beginning, broadcasting against them.

    Returns:
        ``(..., n)``, by letters and then, where the pieces are bent, by pairs of letters.
    """
    powers = [coefficient * length**p for p, coefficient in enumerate(pieces[1:], 1)]
    moved = sum(powers[1:], powers[0])
    if len(powers) == 1:
        return moved
    pairs = torch.tensor(list(combinations(range(moved.shape[-1]), 2)), dtype=torch.int64, device=moved.device)
    i, j = pairs.reshape(-1, 2).unbind(-1)
    area = torch.zeros_like(moved[..., i])
    for (p, low), (q, high) in combinations(list(enumerate(powers, 1)), 2):
        area = area + (0.5 * (q - p) / (p + q)) * (low[..., i] * high[..., j] - low[..., j] * high[..., i])
    return torch.cat([moved, area], -1)


def whole_steps(path: ControlPath) -> Tensor:
    """The log-signature of every piece, ``(pieces, ..., n)``; zero behind the end of a shorter series."""
    pieces = list(path.pieces.unbind(1))
    length = path.knots.diff(dim=0)
    if path.last is not None:
        steps = torch.arange(len(length), device=length.device).unsqueeze(-1)
        length = torch.where(steps < path.last, length, 0.0)
    return log_signatures(pieces, trailing(length, pieces[0]))


def part_steps(path: ControlPath, times: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """From the knot before each time to it; ``(T,)``, or ``(T, B)`` where each series has its own.

    Returns:
        Which piece, ``(T,)`` or ``(T, B)``; what of it is done, from 0 to 1; and the log-signature ``(T, ..., n)`` of that.
    """
    own = path.knots.dim() == 2
    if own and times.dim() == 1:
        times = times.unsqueeze(-1).expand(-1, path.knots.shape[1])
    each = times.dim() == 2
    index, s, _ = path.locate(times, each)
    pieces = path.coefficients(index, each)
    lengths = path.knots.detach().diff(dim=0)
    whole = lengths.gather(0, index) if own else lengths[index]
    return index, s.detach() / whole, log_signatures(pieces, trailing(s, pieces[0]))
