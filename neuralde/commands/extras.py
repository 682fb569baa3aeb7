"""Packages that only some commands need: asked for where they are used, and named where they are missing."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


class MissingExtraError(Exception):
    """A package that a command needs is not installed."""


def needed(module: str, extra: str) -> ModuleType:
    """A module of an optional package.

    Args:
        module: what to import.
        extra: the extra of this package that brings it.

    Raises:
        MissingExtraError: it is not installed; the message says how to install it.

    >>> needed("math", "train").pi > 3
    True
    >>> needed("no_such_package.io", "train")
    Traceback (most recent call last):
    ...
    neuralde.commands.extras.MissingExtraError: no_such_package: not installed; expected pip install 'neuralde[train]'
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != package:
            raise
        raise MissingExtraError(f"{package}: not installed; expected pip install 'neuralde[{extra}]'") from None
