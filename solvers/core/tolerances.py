"""Tolerances as the user may give them, a number or one for each entry of the state, and as the steps use them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..checks import as_number, number, shown
from ..errors import InvalidProblemError
from .packing import Packing
from .scalars import graph_constant, real_dtype
from .vmap import refuse_lanes

Tolerance = Any  # float | Tensor: a number (in a graph a 0-d tensor), or a tensor shaped like the packed state

_NUMBER = "a number or 0-d tensor, 0 or positive"


def checked_tolerance(value: Any, name: str, packing: Packing, state: Tensor) -> Tolerance:
    """A tolerance as the steps use it.

    Args:
        value: a number; or, for each entry of the state, an array that broadcasts against it, or a pytree like it whose
            leaves are numbers or such arrays.
        name: what messages call it.
        packing: how the state is laid out.
        state: the packed state.

    Returns:
        A float (in a graph a 0-d tensor, so that a new value is not a new graph), or a tensor shaped like ``state``.

    Raises:
        InvalidProblemError: an entry is no number, negative or not finite, or the shape does not fit.
    """
    refuse_lanes(value, name, "a number")
    found = _number(value, name)
    if found is not None:
        return found
    leaves = [value] if packing.single else _leaves(value, name, packing)
    kinds = zip(leaves, packing.shapes, packing.dtypes, strict=True)
    parts = [_entries(leaf, name, shape, dtype, state) for leaf, shape, dtype in kinds]
    packed = packing.pack(parts[0] if packing.single else pytree.tree_unflatten(parts, packing.spec), name)
    packed = packed.real if packed.is_complex() else packed
    return packed.clone()  # no view: the operators of a graph refuse tensors that share memory


def _number(value: Any, name: str) -> Tolerance | None:
    """A tolerance for all entries, or None where there is one for each."""
    if torch.compiler.is_compiling() and isinstance(value, Tensor):
        return value.detach().to(torch.float64) if not value.dim() and not value.is_complex() else None
    if isinstance(value, (bool, str)) or value is None or as_number(value) is not None or _scalar(value):
        found = number(value, name, _NUMBER, least=0.0)
        return graph_constant(found) if torch.compiler.is_compiling() else found
    return None


def _scalar(value: Any) -> bool:
    """Whether it has no dimension, though it is no number: to be refused as one."""
    return not isinstance(value, (list, tuple, dict)) and getattr(value, "shape", None) == ()


def _leaves(value: Any, name: str, packing: Packing) -> list[Any]:
    try:
        return packing.spec.flatten_up_to(value)
    except (ValueError, TypeError):
        raise InvalidProblemError(
            f"{name}: got {shown(value)}; expected {_NUMBER}, or the structure of y0: {packing.spec}"
        ) from None


def _entries(value: Any, name: str, shape: tuple[int, ...], dtype: torch.dtype, state: Tensor) -> Tensor:
    """A leaf's tolerances in its shape, in the precision of the state."""
    got = shown(value)
    expected = f"{_NUMBER}, or an array of them that broadcasts against the shape of y0, {shape}"
    plain = None if torch.compiler.is_compiling() else as_number(value)
    if plain is not None:
        value = float(plain)
    elif not isinstance(value, (list, tuple, int, float)) and not hasattr(value, "shape"):
        raise InvalidProblemError(f"{name}: got {got}; expected {expected}")
    try:
        entries = value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise InvalidProblemError(f"{name}: got {got}; expected {expected}") from None
    if entries.is_complex() or entries.dtype == torch.bool:
        raise InvalidProblemError(f"{name}: got {got}; expected real numbers")
    if not torch.compiler.is_compiling():
        if entries.requires_grad:
            raise InvalidProblemError(f"{name}: got a tensor that requires grad; expected a constant")
        if not bool((torch.isfinite(entries) & (entries >= 0)).all()):
            raise InvalidProblemError(f"{name}: got {entries.tolist()}; expected finite numbers, 0 or positive")
    try:
        entries = entries.detach().to(state.device, torch.float64).expand(shape)
    except RuntimeError:
        raise InvalidProblemError(f"{name}: got {got}; expected {expected}") from None
    kind = real_dtype(torch.empty(0, dtype=dtype))
    # What is too small for the state's precision stays positive: 0 would mean that no error is allowed.
    return torch.where(entries > 0, entries.clamp(min=torch.finfo(kind).tiny), 0.0).to(kind)


def for_each_entry(tolerance: Tolerance) -> bool:
    """Whether there is a tolerance for each entry of the state."""
    return isinstance(tolerance, Tensor) and tolerance.dim() > 0


def refuse_zero(rtol: Tolerance, atol: Tolerance) -> None:
    """Refuse a state, or an entry of it, that may have no error at all; in a graph there are no values to look at."""
    if torch.compiler.is_compiling():
        return
    if isinstance(rtol, Tensor) or isinstance(atol, Tensor):
        both = bool((torch.as_tensor(rtol == 0) & torch.as_tensor(atol == 0)).any())
    else:
        both = rtol == 0 and atol == 0
    if both:
        where = " of an entry" if for_each_entry(rtol) or for_each_entry(atol) else ""
        raise InvalidProblemError(f"rtol, atol: got 0 for both{where}; expected at least one of them positive")


def geometric_mean(tolerance: Tensor, per_sample: bool) -> Tensor:
    """The geometric mean over each lane's positive entries; 1 where there are none."""
    rows = tolerance.reshape(tolerance.shape[0], -1) if per_sample else tolerance.reshape(1, -1)
    counted = rows > 0
    mean = torch.where(counted, rows, 1.0).log().sum(1) / counted.sum(1).clamp(min=1)
    return mean.exp() if per_sample else mean.exp().squeeze(0)


def strictest(tolerance: Any) -> float:
    """The smallest number in a tolerance as the user gave it.

    >>> strictest(1e-3), strictest({"a": [1e-3, 1e-6], "b": 1e-4})
    (0.001, 1e-06)
    """
    return min(_all(tolerance))


def loosest(tolerance: Any) -> float:
    """The largest number in a tolerance as the user gave it.

    >>> loosest({"a": torch.tensor([1.0, 2.0]), "b": 1e-4})
    2.0
    """
    return max(_all(tolerance))


def scaled(tolerance: Any, factor: float) -> Any:
    """A tolerance as the user gave it, times a factor.

    >>> scaled({"a": [1.0, 2.0], "b": 3}, 0.5)
    {'a': [0.5, 1.0], 'b': 1.5}
    """
    return pytree.tree_map(lambda leaf: factor * (leaf if hasattr(leaf, "shape") else float(leaf)), tolerance)


def _all(tolerance: Any) -> list[float]:
    found: list[float] = []
    for leaf in pytree.tree_leaves(tolerance):
        plain = as_number(leaf)
        found += torch.as_tensor(leaf).reshape(-1).tolist() if plain is None else [float(plain)]
    return found
