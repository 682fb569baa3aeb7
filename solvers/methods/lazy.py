"""Names of a package that are resolved when they are first read (PEP 562)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazily(
    package: str, names: dict[str, Any], files: Mapping[str, str]
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """``__getattr__`` and ``__dir__`` of a package whose names lie in modules of its own.

    Args:
        package: its ``__name__``.
        names: its ``globals()``, where a name is kept once it is resolved.
        files: the module, without the package, of each name.
    """

    def getattr_(name: str) -> Any:
        if name not in files:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        names[name] = getattr(import_module(f".{files[name]}", package), name)
        return names[name]

    return getattr_, lambda: sorted({*names, *files})
