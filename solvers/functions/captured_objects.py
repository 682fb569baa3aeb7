"""What a callable holds: the tensors and modules that a walk over its objects meets."""

from __future__ import annotations

import types
import weakref
from collections import OrderedDict, deque
from collections.abc import Iterator
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from .code_reads import named, written_by_user

# Objects that hold no parameters of a field, or far too much.
_OPAQUE = (types.ModuleType, str, bytes, int, float, complex, bool, type(None), torch.dtype, torch.device)
_PLAIN = {str, bytes, int, float, complex, bool, type(None)}
_HOLDERS = {dict, list, tuple, set, frozenset, OrderedDict}
_LIMIT = 20_000
# Attributes that are another face of their owner, and have no name of their own.
_FACES = {"__wrapped__", "__func__", "func", "fget"}
_MAPPINGS = (dict, types.MappingProxyType, weakref.WeakValueDictionary, weakref.WeakKeyDictionary)
_SEQUENCES = (list, tuple, set, frozenset, deque, weakref.WeakSet)
_BOUND = (types.BuiltinMethodType, types.MethodWrapperType)
Part = tuple[str, Any]


def held(f: Any) -> Iterator[Any]:
    """Every object that ``f`` holds, in a module, list, closure, partial, object or global: itself first, each once.

    >>> import torch
    >>> k = torch.ones(1)
    >>> [x is k for x in held(lambda y: k * y) if isinstance(x, Tensor)]
    [True]
    """
    return (value for _, value in walk(f))


def walk(root: Any, label: str = "") -> Iterator[Part]:
    """The same with what each object is called: how it is reached, what is nearest first.

    What the root itself holds goes by its own name, the root by ``label``. Iterators are not looked into, which would
    move them, nor is anything behind the first twenty thousand objects.
    """
    seen: dict[int, Any] = {}  # with the objects, so that no other one takes the place of an id
    waiting = deque([(label, root, True)])
    while waiting and len(seen) < _LIMIT:
        path, value, top = waiting.popleft()
        if isinstance(value, _OPAQUE) or id(value) in seen:
            continue
        seen[id(value)] = value
        yield path, value
        if isinstance(value, Tensor):
            continue
        for name, inner in _parts(value):
            kind = type(inner)
            if kind in _PLAIN or (kind in _HOLDERS and not inner):  # most of what a module has
                continue
            if not name:
                waiting.append((path, inner, top))
            elif top:
                waiting.append((name.lstrip("."), inner, False))
            else:
                waiting.append((path + ("" if name[0] in ".[" else ".") + name, inner, False))


def _parts(value: Any) -> Iterator[Part]:
    """What one object holds, with the name that it has there; "" is another face of the object itself."""
    if isinstance(value, nn.Module):
        yield from value.named_parameters()
        yield from value.named_buffers()
        for path, module in value.named_modules():
            own = ((name, x) for name, x in vars(module).items() if name not in ("_parameters", "_buffers", "_modules"))
            yield from ((f".{path}.{name}" if path else f".{name}", x) for name, x in own)
            yield from _inside_class(type(module))
    elif isinstance(value, types.FunctionType):
        yield from _inside_function(value)
    elif isinstance(value, types.MethodType):
        yield "", value.__self__
        yield "", value.__func__
    elif isinstance(value, partial):
        yield "", value.func
        yield from ((f"[{place}]", x) for place, x in enumerate(value.args))
        yield from value.keywords.items()
    elif isinstance(value, weakref.ref):
        yield "", value()
    elif isinstance(value, type):
        yield from _inside_class(value)
    elif isinstance(value, (staticmethod, classmethod)):
        yield "", value.__func__
    elif isinstance(value, property):
        yield "", value.fget
    elif isinstance(value, _BOUND):
        yield "", value.__self__
    elif isinstance(value, types.GeneratorType):
        yield from ({} if value.gi_frame is None else dict(value.gi_frame.f_locals)).items()
    else:
        if isinstance(value, _MAPPINGS):
            yield from ((f"[{key!r}]" if isinstance(key, (str, int)) else "[]", x) for key, x in list(value.items()))
        elif isinstance(value, _SEQUENCES):
            yield from ((f"[{place}]", x) for place, x in enumerate(list(value)))
        yield from _inside_object(value)


def _inside_object(value: Any) -> Iterator[Part]:
    """The attributes of an object, and what its class holds."""
    kind = type(value)
    package = kind.__module__.partition(".")[0]
    if isinstance(value, np.ndarray):
        if value.dtype == object:
            yield from ((f"[{place}]", x) for place, x in enumerate(value.reshape(-1).tolist()))
    elif package != "builtins" and not kind.__module__.startswith("torch._"):
        attributes = getattr(value, "__dict__", {})
        yield from ((_face(name), x) for name, x in list(attributes.items()))
        if package != "torch":
            yield from ((f".{slot}", getattr(value, slot)) for slot in _slots(kind) if hasattr(value, slot))
            yield from _inside_class(kind)


def _inside_class(kind: type) -> Iterator[Part]:
    """The attributes and methods of a class, its own and inherited ones, as far as a user wrote them."""
    for base in kind.__mro__:
        if written_by_user(base.__module__):
            for name, value in list(vars(base).items()):
                method = isinstance(value, (types.FunctionType, staticmethod, classmethod, property))
                yield "" if method else f".{name}", value


def _inside_function(f: types.FunctionType) -> Iterator[Part]:
    for name, cell in zip(f.__code__.co_freevars, f.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # a name that has no value yet
            continue
    defaults = f.__defaults__ or ()
    names = f.__code__.co_varnames[: f.__code__.co_argcount]
    yield from zip(names[len(names) - len(defaults) :], defaults, strict=True)
    yield from (f.__kwdefaults__ or {}).items()
    yield from ((_face(name), x) for name, x in list(vars(f).items()))
    yield from named(f)


def _face(name: str) -> str:
    return "" if name in _FACES else f".{name}"


def _slots(kind: type) -> Iterator[str]:
    for base in kind.__mro__:
        slots = cast(Any, base.__dict__.get("__slots__", ()))
        for slot in (slots,) if isinstance(slots, str) else tuple(slots):
            private = slot.startswith("__") and not slot.endswith("__")
            yield f"_{base.__name__.lstrip('_')}{slot}" if private else slot
