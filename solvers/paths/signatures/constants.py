"""Tables as constants of a graph under ``torch.compile``: the search for words and for nodes is not traced."""

from __future__ import annotations

import torch
from torch import Tensor

from . import gauss, lie


@torch.compiler.assume_constant_result
def word_indices(channels: int, depth: int) -> Tensor:
    """As :func:`.lie.word_indices`."""
    return lie.word_indices(channels, depth)


@torch.compiler.assume_constant_result
def from_words(channels: int, depth: int, basis: str) -> tuple[Tensor, Tensor, Tensor]:
    """As :func:`.lie.from_words`."""
    return lie.from_words(channels, depth, basis)


@torch.compiler.assume_constant_result
def gauss_rule(nodes: int) -> list[tuple[float, float]]:
    """As :func:`.gauss.gauss_rule`."""
    return gauss.gauss_rule(nodes)
