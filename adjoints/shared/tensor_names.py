"""What users call the tensors that a field holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from neuralde.solvers.functions.captured_objects import walk


def names_of(roots: Sequence[tuple[str, Any]], tensors: Sequence[Tensor]) -> list[str]:
    """A name for each tensor: how it is reached from one of the roots, or its place and shape where that is not seen.

    A name that two of them would have begins with the root's.

    >>> import torch
    >>> k = torch.ones(1)
    >>> names_of([("f", lambda t, y: k * y)], [k, torch.ones(2)])
    ['k', 'captured[1] (2,)']
    """
    found: dict[int, str] = {}
    roots_of: dict[int, str] = {}
    for label, root in roots:
        for name, tensor in walk(root, label):
            if isinstance(tensor, Tensor) and found.setdefault(id(tensor), name) == name:
                roots_of.setdefault(id(tensor), label)
    shared = Counter(found[id(x)] for x in tensors if id(x) in found)
    for key, name in found.items():
        if shared[name] > 1:
            found[key] = f"{roots_of[key]}.{name}"
    return [found.get(id(x), f"captured[{place}] {tuple(x.shape)}") for place, x in enumerate(tensors)]
