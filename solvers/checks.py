"""What counts as a number, in one place: everything the user gives where a number is taken goes through here.

A number is whatever is a :class:`numbers.Real` (Python's and numpy's ints and floats, a ``Fraction``, sympy's numbers) or
holds exactly one of them without a dimension: a 0-d tensor or array of any library. A boolean is none, and neither are
strings, complex numbers and ``Decimal``, which Python itself does not mix with floats.
"""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from .core.vmap import refuse_lanes
from .errors import InvalidProblemError


def as_number(value: Any) -> int | float | None:
    """The Python int or float that a value stands for; None where it stands for none.

    >>> import numpy as np
    >>> from fractions import Fraction
    >>> as_number(np.float32(0.5)), as_number(Fraction(1, 4)), as_number(torch.tensor(3)), as_number(True)
    (0.5, 0.25, 3, None)
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return value if type(value) in (int, float) or torch.compiler.is_compiling() else _plain(value)
    if not isinstance(value, Real) and getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, bool) or not isinstance(value, Real) else _plain(value)


def _plain(value: Any) -> int | float | None:
    try:
        return int(value) if isinstance(value, Integral) else float(value)
    except (OverflowError, TypeError, ValueError):
        return None


def number(
    value: Any,
    name: str,
    expected: str = "a finite number",
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    most: float = math.inf,
    below: float = math.inf,
) -> float:
    """A finite float within bounds; ``above`` and ``below`` are not reached.

    Args:
        value: what the user gave.
        name: what messages call it.
        expected: what they say is accepted.
        least: the smallest number accepted.
        above: every number accepted is larger.
        most: the largest number accepted.
        below: every number accepted is smaller.

    Raises:
        InvalidProblemError: it is no number, or outside the bounds, or a tensor that requires grad, which it would lose.

    >>> number(torch.tensor(2), "dtmax", least=0.0)
    2.0
    """
    found = as_number(_constant(value, name))
    if found is not None:
        try:
            found = float(found)
        except OverflowError:
            found = math.inf
    if found is None or not (least <= found <= most and above < found < below and -math.inf < found < math.inf):
        raise InvalidProblemError(f"{name}: got {shown(value)}; expected {expected}")
    return found


def positive(value: Any, name: str) -> float:
    """A positive, finite float."""
    return number(value, name, "a positive, finite number", above=0.0)


def fraction(value: Any, name: str, expected: str = "a number between 0 and 1") -> float:
    """A float between 0 and 1, neither of which it is."""
    return number(value, name, expected, above=0.0, below=1.0)


def integer(value: Any, name: str, least: float = 1, expected: str = "") -> int:
    """An int that is not below ``least``; no float is one.

    >>> import numpy as np
    >>> integer(np.int64(5), "max_steps")
    5
    """
    found = as_number(_constant(value, name))
    if not isinstance(found, int) or found < least:
        usual = {1.0: "a positive int", 0.0: "an int, 0 or positive"}.get(least, f"an int of at least {least}")
        raise InvalidProblemError(f"{name}: got {shown(value)}; expected {expected or usual}")
    return found


def _constant(value: Any, name: str) -> Any:
    """The value, without the gradient that a number cannot carry, which is refused."""
    if isinstance(value, Tensor):
        refuse_lanes(value, name, "a number")
        if value.requires_grad and torch.is_grad_enabled():
            raise InvalidProblemError(
                f"{name}: got a tensor that requires grad; expected a constant, .detach(), since no gradient flows to it"
            )
        return value.detach()
    return value


def shown(value: Any) -> str:
    """A value as messages show it: tensors and arrays by kind and shape, anything else as Python writes it."""
    shape = getattr(value, "shape", None)
    if shape is not None and shape != () and hasattr(value, "dtype"):
        return f"a {value.dtype} {'tensor' if isinstance(value, Tensor) else 'array'} of shape {tuple(shape)}"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
