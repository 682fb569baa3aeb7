"""Values that change with the state though autograd sees no connection: their gradient is refused, not lost."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..core.scalars import transformed
from ..core.torch_private import NODES_OF_ASKING, is_legacy_batchedtensor, sequence_number
from ..errors import InvalidProblemError

# How far the state is moved, in units of its size plus 1.
_MOVE = 1e-3


def _references(node: Any) -> int:
    """How many references there are to the leaf of an autograd node, those of looking at it included; many without one."""
    return sys.getrefcount(getattr(node, "variable", None))


def _alone() -> int:
    # The library may be imported by its first use, in whatever mode the caller is then.
    with torch.inference_mode(False), torch.enable_grad():
        out: Any = torch.zeros(()).requires_grad_() * 1.0
        return _references(out.grad_fn.next_functions[0][0])


_ALONE = _alone()


def made_inside(node: Any) -> bool:
    """Whether the leaf of an autograd node was made by the call whose graph it is in: nothing else refers to it.

    So nothing can ask for its gradient. Such are the time and the parts of the state that a field has told to require
    grad, copies of them, and constants.
    """
    return _references(node) <= _ALONE


def _leaves_inside(output: Tensor, since: int) -> list[Tensor]:
    """The leaves that were made inside the call, in an order that its graph alone decides."""
    found, seen = [], set()
    stack: list[Any] = [output.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node._sequence_nr() < since:
            continue  # what the arguments were made from
        if hasattr(node, "variable") and made_inside(node):
            found.append(node)
        stack.extend(parent for parent, _ in node.next_functions)
    return [node.variable for node in found]


class Cuts:
    """Refuses the gradient of what a function gives where that changes with the state, but not for autograd.

    A derivative that is taken without ``create_graph=True``, and a state that was detached before it was told to require
    grad: the values are right, and a gradient through them would miss a part without a word. The first call that autograd
    records shows what is suspect: what it gives without a graph though it recorded something, and leaves that it made.
    Where there is any, two more calls at states beside each other tell whether it depends on the state. Values may be used
    and their gradients are zero as long as the loss does not depend on them; a cotangent that is not zero is refused.
    What records nothing at all (``y.detach()``, NumPy, ``no_grad``, a constant) is taken at its word, as torch takes it.
    """

    def __init__(self) -> None:
        self._found: dict[str, frozenset[int]] = {}

    def clear(self, name: str) -> bool:
        """Whether a function was looked at, and nothing was found."""
        return self._found.get(name) == frozenset()

    def begin(self, name: str) -> int:
        """Where the graph of the next call begins, if it is to be looked at."""
        return 0 if name in self._found else sequence_number()

    def __call__(self, name: str, run: Callable[[Tensor], Any], y: Tensor, value: Any, since: int) -> Any:
        """The value of one call, or the same that refuses its gradient.

        Args:
            name: what messages call the function.
            run: the function of the packed state.
            y: the packed state, which requires grad.
            value: what the function gave there.
            since: what :meth:`begin` gave before.
        """
        if name not in self._found:
            self._found[name] = _cut(run, y, value, since, sequence_number() - since > NODES_OF_ASKING)
        cut = self._found[name]
        if not cut:
            return value
        leaves, spec = pytree.tree_flatten(value)
        marked = [_Cut.apply(name, leaf, y) if place in cut else leaf for place, leaf in enumerate(leaves)]
        return pytree.tree_unflatten(marked, spec)


def _cut(run: Callable[[Tensor], Any], y: Tensor, value: Any, since: int, recorded: bool) -> frozenset[int]:
    """The places of the leaves that autograd does not connect with the state though they, or what they use, change with it."""
    suspects = {place: parts for place, parts in enumerate(_parts(value, since)) if parts}
    if not suspects or not recorded:
        return frozenset()
    try:
        here, there = (_beside(run, y, move) for move in (0.0, _MOVE))
    except Exception:  # the function may not be defined there, and says so as it likes
        return frozenset()
    return frozenset(
        place
        for place in suspects
        if place < min(len(here), len(there))
        and any(_moved(*pair) for pair in zip(here[place], there[place], strict=False))
    )


def _parts(value: Any, since: int) -> list[list[Tensor]]:
    """For each leaf of a value, what may hide the state from autograd."""
    out: list[list[Tensor]] = []
    for leaf in pytree.tree_leaves(value):
        if not isinstance(leaf, Tensor):
            out.append([])
        else:
            out.append(_leaves_inside(leaf, since) if leaf.requires_grad else [leaf])
    return out


def _beside(run: Callable[[Tensor], Any], y: Tensor, move: float) -> list[list[Tensor]]:
    """The same at a state that is moved a little, with the same random numbers each time."""
    y = y.detach()
    with torch.random.fork_rng([y.device] if y.is_cuda else []), torch.enable_grad():
        torch.manual_seed(0)
        since = sequence_number()
        found = _parts(run((y + move * (1.0 + y.abs())).requires_grad_()), since)
    return [[part.detach() for part in parts] for parts in found]


def _moved(here: Tensor, there: Tensor) -> bool:
    if here.shape != there.shape or here.layout != torch.strided or there.layout != torch.strided:
        return False
    return bool(((here != there) & here.isfinite() & there.isfinite()).any())


class _Cut(torch.autograd.Function):
    """A value whose gradient is refused."""

    @staticmethod
    def forward(ctx: Any, name: str, value: Tensor, y: Tensor) -> Tensor:
        ctx.name = name
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        several = torch.is_grad_enabled() or transformed() or is_legacy_batchedtensor(g)
        if several or bool((g != 0).any()):
            raise InvalidProblemError(
                f"{ctx.name}: what it gives changes with the state, but autograd does not see how, so that the gradient would "
                "miss it; expected torch.autograd.grad(..., create_graph=True) where it differentiates, of the state itself "
                "(x if x.requires_grad else x.detach().requires_grad_()), and no detach(), numpy or torch.no_grad() on the "
                "way; or a loss that does not depend on it"
            )
        return None, None, None
