"""A method that is first made in a function under ``torch.compile``: a proof has no place in a graph."""

from __future__ import annotations

import torch

from .proved import prove


@torch.compiler.assume_constant_result
def prove_outside(kind: type) -> None:
    """Build the tableau while the graph is made, outside it."""
    prove(kind)
