"""What a callable holds: the tensors and modules that a walk over its objects meets."""

from __future__ import annotations

import functools
import sys
import types
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

# Objects that hold no parameters of a field, or far too much.
_OPAQUE = (types.ModuleType, type, str, bytes, int, float, complex, bool, type(None), torch.dtype, torch.device)
_LIMIT = 20_000
_LIBRARIES = {"torch", "numpy", *sys.stdlib_module_names} - {"__main__"}


def held(f: Any) -> Iterator[Any]:
    """Every object that ``f`` holds, in a module, list, closure, partial, object or global: itself first, each once.

    >>> import torch
    >>> k = torch.ones(1)
    >>> [x is k for x in held(lambda y: k * y) if isinstance(x, Tensor)]
    [True]
    """
    seen: set[int] = set()
    stack: list[Any] = [f]
    while stack and len(seen) < _LIMIT:
        value = stack.pop()
        if isinstance(value, _OPAQUE) or id(value) in seen:
            continue
        seen.add(id(value))
        yield value
        if not isinstance(value, Tensor):
            stack.extend(_inside(value))


def _inside(value: Any) -> Iterator[Any]:
    """What one object holds."""
    if isinstance(value, nn.Module):
        yield from value.parameters()
        yield from value.buffers()
        for module in value.modules():
            yield from (x for name, x in vars(module).items() if name not in ("_parameters", "_buffers", "_modules"))
            yield from _inside_class(type(module))
    elif isinstance(value, types.FunctionType):
        yield from _inside_function(value)
    elif isinstance(value, types.MethodType):
        yield value.__self__
        yield value.__func__
    elif isinstance(value, functools.partial):
        yield value.func
        yield from value.args
        yield from value.keywords.values()
    elif isinstance(value, Mapping):
        yield from value.values()
    elif isinstance(value, (list, tuple, set, frozenset, deque)):
        yield from value
    elif isinstance(value, (staticmethod, classmethod)):
        yield value.__func__
    elif isinstance(value, property):
        yield value.fget
    elif type(value).__module__.partition(".")[0] not in ("torch", "numpy", "builtins"):
        yield from getattr(value, "__dict__", {}).values()
        for slot in _slots(type(value)):
            if hasattr(value, slot):
                yield getattr(value, slot)
        yield from _inside_class(type(value))


def _inside_class(kind: type) -> Iterator[Any]:
    """The attributes and methods of a class, its own and inherited ones, as far as a user wrote them."""
    for base in kind.__mro__:
        if base.__module__.partition(".")[0] not in _LIBRARIES:
            yield from vars(base).values()


def _inside_function(f: types.FunctionType) -> Iterator[Any]:
    for cell in f.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # a name that has no value yet
            continue
    yield from f.__defaults__ or ()
    yield from (f.__kwdefaults__ or {}).values()
    yield from vars(f).values()
    for name in _global_names(f.__code__):
        if name in f.__globals__:
            yield f.__globals__[name]


def _global_names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _global_names(constant)


def _slots(kind: type) -> Iterator[str]:
    for base in kind.__mro__:
        slots = base.__dict__.get("__slots__", ())
        yield from (slots,) if isinstance(slots, str) else slots
