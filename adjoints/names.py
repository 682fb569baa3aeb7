"""What users call the tensors that a field holds."""

from __future__ import annotations

import functools
import types
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

_DEPTH = 5


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
        for name, tensor in _labelled(root, label, True, _DEPTH):
            if found.setdefault(id(tensor), name) == name:
                roots_of.setdefault(id(tensor), label)
    shared = Counter(found[id(x)] for x in tensors if id(x) in found)
    for key, name in found.items():
        if shared[name] > 1:
            found[key] = f"{roots_of[key]}.{name}"
    return [found.get(id(x), f"captured[{place}] {tuple(x.shape)}") for place, x in enumerate(tensors)]


def _labelled(value: Any, label: str, top: bool, depth: int) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in an object with the path to it; what a root itself holds goes by its own name."""
    if isinstance(value, Tensor):
        yield label, value
    elif depth:
        for name, inner in _parts(value):
            joined = name.lstrip(".") if top else label + ("" if name[:1] in ".[" or not name else ".") + name
            yield from _labelled(inner, joined or label, top and not name, depth - 1)


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, nn.Module):
        yield from value.named_parameters()
        yield from value.named_buffers()
        yield from ((f".{name}", x) for name, x in vars(value).items() if not name.startswith("_"))
    elif isinstance(value, types.FunctionType):
        for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            try:
                yield name, cell.cell_contents
            except ValueError:  # a name that has no value yet
                continue
        yield from ((name, value.__globals__[name]) for name in value.__code__.co_names if name in value.__globals__)
    elif isinstance(value, types.MethodType):
        yield "", value.__self__
        yield "", value.__func__
    elif isinstance(value, functools.partial):
        yield "", value.func
        yield from ((f"[{place}]", x) for place, x in enumerate(value.args))
        yield from value.keywords.items()
    elif isinstance(value, Mapping):
        yield from ((f"[{key!r}]", x) for key, x in value.items())
    elif isinstance(value, (list, tuple)):
        yield from ((f"[{place}]", x) for place, x in enumerate(value))
    elif not isinstance(value, (type, types.ModuleType)):
        yield from ((f".{name}", x) for name, x in getattr(value, "__dict__", {}).items())
