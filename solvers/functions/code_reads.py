"""What a function's code reads by name: real reads of globals, not every name that stands in it.

``co_names`` of a code object mixes globals with attributes and methods: ``y.mean()`` puts ``mean`` there. The
instructions tell them apart, and they are the same words in every CPython from 3.10 on.
"""

from __future__ import annotations

import dis
import sys
import types
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

_LIBRARIES = {"torch", "numpy", *sys.stdlib_module_names} - {"__main__"}
_GLOBAL = {"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"}
_FREE = {"LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_DEREF"}
_ATTRIBUTE = {"LOAD_ATTR", "LOAD_METHOD"}
# Instructions that may stand between a name and its attribute.
_BETWEEN = {"EXTENDED_ARG", "NOP", "CACHE", "PUSH_NULL"}
_INSTALLED = ("site-packages", "dist-packages")


class _Read(NamedTuple):
    """One name that a code reads, and the attributes that it goes on to read of it."""

    where: str
    """``"global"``, ``"free"`` for a name of an enclosing function, or ``"import"`` for a module."""
    name: str
    attributes: tuple[str, ...]


def written_by_user(module: Any) -> bool:
    """Whether a module of this name is neither torch, numpy nor of the standard library."""
    return not (isinstance(module, str) and module.partition(".")[0] in _LIBRARIES)


def named(f: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """The globals that a function or a function inside it reads, and what it reads of modules, with their names.

    Of a module, or of one that the function imports itself, that is ``module.name``; nothing of libraries.

    >>> scale = 2.0
    >>> namespace = {"scale": 2.0, "mean": 3.0}
    >>> exec("def f(y): return scale * y.mean()", namespace)
    >>> dict(named(namespace["f"]))
    {'scale': 2.0}
    """
    module = f.__globals__.get("__name__")
    # Functions of this library read no tensors; those of its examples, which have no file, may.
    if not written_by_user(module) or (_own(module) and not f.__code__.co_filename.startswith("<")):
        return
    spaces: dict[str, Mapping[str, Any]] = {"global": f.__globals__, "free": _cells(f)}
    for read in _reads(f.__code__):
        if read.where == "import":
            value = _imported(read.name, f.__globals__.get("__package__"))
        elif read.name in spaces[read.where]:
            value = spaces[read.where][read.name]
        else:
            continue
        if not isinstance(value, types.ModuleType):
            if read.where == "global":  # what cells hold is known to whoever looks at them
                yield read.name, value
        elif len(read.attributes) and read.where != "import":
            yield from _along(value, read.name, read.attributes)
        else:  # the module goes by another name from here on
            for attribute in sorted(_attributes(f.__code__)):
                yield from _along(value, read.name, (attribute,))


def _along(module: types.ModuleType, label: str, attributes: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """What stands behind the first attributes that are not modules themselves."""
    value: Any = module
    for attribute in attributes:
        if not isinstance(value, types.ModuleType) or not _readable(value) or attribute not in vars(value):
            break
        value, label = vars(value)[attribute], f"{label}.{attribute}"
    if not isinstance(value, types.ModuleType):
        yield label, value


def _readable(module: types.ModuleType) -> bool:
    """Whether a module is the user's own, and none that was installed."""
    file = getattr(module, "__file__", None) or ""
    known = not written_by_user(module.__name__) or _own(module.__name__)
    return not known and not any(part in file for part in _INSTALLED)


def _own(module: Any) -> bool:
    return isinstance(module, str) and module.partition(".")[0] == __name__.partition(".")[0]


def _imported(name: str, package: Any) -> types.ModuleType | None:
    """A module that an import inside a function names, if anything has imported it yet."""
    found = sys.modules.get(name)
    if found is None and isinstance(package, str) and package:
        found = sys.modules.get(f"{package}.{name}" if name else package)
    return found


def _cells(f: types.FunctionType) -> dict[str, Any]:
    found = {}
    for name, cell in zip(f.__code__.co_freevars, f.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # a name that has no value yet
            continue
    return found


@lru_cache(maxsize=4096)
def _reads(code: types.CodeType) -> tuple[_Read, ...]:
    """The names that a code reads from outside, those inside it included."""
    found: dict[_Read, None] = {}
    steps = [step for step in dis.get_instructions(code) if step.opname not in _BETWEEN]
    for place, step in enumerate(steps):
        if step.opname == "IMPORT_NAME":
            found[_Read("import", step.argval, ())] = None
        elif step.opname in _GLOBAL or step.opname in _FREE:
            chain = []
            for after in steps[place + 1 :]:
                if after.opname not in _ATTRIBUTE:
                    break
                chain.append(after.argval)
            found[_Read("global" if step.opname in _GLOBAL else "free", step.argval, tuple(chain))] = None
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            found.update(dict.fromkeys(_reads(inner)))
    return tuple(found)


@lru_cache(maxsize=4096)
def _attributes(code: types.CodeType) -> frozenset[str]:
    """Every attribute and imported name that stands in a code, those inside it included."""
    words = {step.argval for step in dis.get_instructions(code) if step.opname in (*_ATTRIBUTE, "IMPORT_FROM")}
    return frozenset(words).union(*(_attributes(x) for x in code.co_consts if isinstance(x, types.CodeType)))
