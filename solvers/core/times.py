"""Times as users give them: the one place where they become clock numbers, and stay in the graph where they are in one."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..checks import as_number
from ..errors import InvalidProblemError
from .scalars import differentiated
from .vmap import refuse_lanes


class Times(NamedTuple):
    """Times that a user gave."""

    shown: Tensor
    """In the precision in which tensors were given, else in float64; in the graph."""
    numbers: Tensor
    """In float64, without a graph: what the clock compares and adds."""
    live: Tensor | None
    """The same in the graph, where any of them may be differentiated."""

    @property
    def in_graph(self) -> Tensor:
        """In float64, in the graph where there is one."""
        return self.numbers if self.live is None else self.live


def read_times(given: Any, name: str, expected: str = "a sequence of times", many: bool = False) -> Times:
    """Times from a number, a tensor, an array, or a list or any nesting of lists of these, whose shape they keep.

    Tensors among them are stacked, so that gradients flow to each; none of them passes a precision that it did not have.

    Args:
        given: what the user gave.
        name: how a message calls it.
        expected: what a message says is accepted.
        many: refuse a plain number, which is no sequence.

    Raises:
        InvalidProblemError: they are no real times, or each lane of ``torch.func.vmap`` has its own.

    Example:
        >>> import torch
        >>> tau = torch.tensor(0.3, requires_grad=True)
        >>> times = read_times([0.1, tau], "ts")
        >>> times.live.requires_grad, times.numbers.dtype, times.numbers[0].item()
        (True, torch.float64, 0.1)
    """
    try:
        shown = _stacked(given)
    except (TypeError, ValueError, RuntimeError):
        raise InvalidProblemError(f"{name}: got {given!r}; expected {expected}") from None
    if many and not shown.dim() and not isinstance(given, Tensor):
        raise InvalidProblemError(f"{name}: got {given!r}; expected {expected}")
    refuse_lanes(shown, name, "times")
    if shown.dtype == torch.bool or shown.is_complex():
        raise InvalidProblemError(f"{name}: got {shown.dtype}; expected real times")
    if not shown.is_floating_point():
        shown = shown.to(torch.float64)
    times = shown.to(torch.float64)
    return Times(shown, times.detach(), times if _has_tensors(given) and differentiated(times) else None)


def refuse_live(value: Any, name: str, why: str) -> None:
    """Refuse a number that requires grad where a solve has no derivative with respect to it; ``detach()`` says so.

    Args:
        value: what the user gave.
        name: how the message calls it.
        why: what it is instead of an input of the solution.
    """
    if torch.is_grad_enabled() and isinstance(value, Tensor) and _tracked(value):
        raise InvalidProblemError(
            f"{name}: requires grad, and {why}, so that no gradient reaches it; expected a constant, {name}.detach()"
        )


def _tracked(x: Tensor) -> bool:
    """Whether this very tensor is differentiated, by autograd or by a transform; not whether any transform is at work."""
    if x.requires_grad or torch.compiler.is_compiling():
        return x.requires_grad
    return forward_ad._current_level >= 0 and forward_ad.unpack_dual(x).tangent is not None


def _has_tensors(given: Any) -> bool:
    return isinstance(given, Tensor) or (isinstance(given, (list, tuple)) and any(map(_has_tensors, given)))


def _numbers(given: Any) -> Any:
    """The same lists, with Python numbers for fractions and others that torch does not read; it reads NumPy's itself."""
    if isinstance(given, (list, tuple)):
        return [_numbers(part) for part in given]
    if isinstance(given, (int, float, np.number)):
        return given
    return as_number(given) if isinstance(given, Real) else given


def _stacked(given: Any) -> Tensor:
    if isinstance(given, Tensor):
        return given
    if isinstance(given, Iterable) and not isinstance(given, (list, tuple, str, bytes, np.ndarray)):
        given = list(given)
    if not _has_tensors(given):
        given = _numbers(given)
        plain = torch.as_tensor(given)
        return plain if plain.dtype == torch.bool or plain.is_complex() else torch.as_tensor(given, dtype=torch.float64)
    parts = [_stacked(part) for part in given]
    kinds = {part.dtype for part in parts}
    kind = kinds.pop() if len(kinds) == 1 else torch.float64
    device = next((part.device for part in parts if part.device.type != "cpu"), parts[0].device)
    if any(part.dim() == 0 for part in parts):  # then one of a single entry is a number too
        parts = [part.reshape(()) for part in parts]
    return torch.stack([part.to(device=device, dtype=kind) for part in parts])
