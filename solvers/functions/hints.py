"""What a wrong field most likely meant: hints for functions whose arguments are not (t, y, *args)."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..errors import InvalidProblemError

_TIMES = ("t", "time", "_t")
_STATES = ("y", "x", "z", "u", "h", "state", "states", "_y")


def check_order(f: Callable[..., Any], name: str) -> None:
    """Refuse a function whose parameters are named for the state first and the time second, as SciPy's ``odeint`` has it."""
    if torch.compiler.is_compiling():
        return
    names = _first_names(f)
    if len(names) == 2 and names[0] in _STATES and names[1] in _TIMES:
        raise InvalidProblemError(
            f"{name}: got a function of ({names[0]}, {names[1]}, ...); expected {name}(t, y, *args), the time first: wrap it "
            f"as lambda t, y, *args: {name}(y, t, *args), or swap its parameters"
        )


def _first_names(f: Any) -> tuple[str, ...]:
    """The names of the first two parameters, where they can be read at little cost; this is done for every problem."""
    bound = 0
    if isinstance(f, nn.Module):
        f, bound = type(f).forward, 1
    elif hasattr(f, "__func__"):
        f, bound = f.__func__, 1
    elif not hasattr(f, "__code__"):
        f, bound = type(f).__call__, 1
    code = None if hasattr(f, "__wrapped__") else getattr(f, "__code__", None)
    if code is None or code.co_argcount < bound + 2:
        return ()
    return tuple(code.co_varnames[bound : bound + 2])


def refuse_arguments(f: Callable[..., Any], name: str, given: int, error: Exception) -> None:
    """Refuse a function, by name, whose call failed because it cannot take the time, the state and args."""
    wrong = _cannot_take(f, given, name) if isinstance(error, TypeError) else None
    if wrong is not None:
        raise InvalidProblemError(wrong) from error


def _cannot_take(f: Callable[..., Any], given: int, name: str) -> str | None:
    """What is wrong with a function that cannot be called with so many arguments; None if it can."""
    try:
        signature = inspect.signature(f.forward if isinstance(f, nn.Module) else f)
    except (TypeError, ValueError):
        return None
    try:
        signature.bind(*range(given))
    except TypeError:
        names, rest = list(signature.parameters), ", *args" if given > 2 else ""
        timeless = len(names) == given - 1 and names[:1] and names[0] not in _TIMES
        remedy = f"; if it does not depend on time, lambda t, y{rest}: {name}(y{rest})" if timeless else ""
        more = f" and {given - 2} in args" if given > 2 else ""
        return (
            f"{name}: got a function of {signature}, which cannot take a time, a state{more}; expected "
            f"{name}(t, y, *args){remedy}"
        )
    return None
