"""The tableau of a named method: built and proved when the first one is made, and kept. Importing a method proves nothing."""

from __future__ import annotations

from typing import Any

import torch


def tableau_of(kind: Any) -> Any:
    """The tableau that ``kind.coefficients()`` builds, the same for all instances."""
    if torch.compiler.is_compiling():
        from .proved_in_graphs import prove_outside  # it imports the compiler, which is at work already

        prove_outside(kind)
    else:
        prove(kind)
    return kind._tableau


def prove(kind: Any) -> None:
    """Build the tableau of a class, unless it has been; a subclass may have another."""
    if "_tableau" not in vars(kind):
        kind._tableau = kind.coefficients()
