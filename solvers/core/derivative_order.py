"""Numbers whose derivatives are right up to some order, and refuse to be differentiated more often."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import InvalidProblemError
from . import torch_private


def transform_levels() -> int:
    """How many function transforms (``torch.func``) are active: no derivative inside them has a higher order."""
    return 0 if torch.compiler.is_compiling() else torch_private.transform_levels()


def at_most(x: Tensor, order: int, message: str) -> Tensor:
    """``x``, whose derivatives of a higher order raise instead of being wrong.

    Args:
        x: a tensor in the graph.
        order: how often it may be differentiated, 1 or more.
        message: what the error says.
    """
    if torch.compiler.is_compiling():  # a compiled solve gives first derivatives only
        return x
    limited: Tensor = _Limited.apply(x, order, message)
    return limited


def refuse_once(derivatives: Iterable[Tensor], known: Iterable[Tensor], message: str) -> None:
    """Refuse first derivatives in whose graph a backward pass cannot be differentiated.

    A function marked ``once_differentiable`` puts an error into the graph of its derivative that leads to no input, and
    ``torch.autograd.grad`` runs only what leads to the inputs it is asked about: it passes over the error, and what it
    gives lacks that function's share (torch 2.13).

    Args:
        derivatives: first derivatives, made with ``create_graph=True``, that are to be differentiated.
        known: tensors behind which the graph need not be looked at.
        message: what the error says.

    Raises:
        InvalidProblemError: there is such a function.
    """
    seen = {x.grad_fn for x in known}
    stack = [x.grad_fn for x in derivatives]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name() == "torch::autograd::Error":
            raise InvalidProblemError(message)
        stack += [before for before, _ in node.next_functions]


def leads_outside(output: Tensor, since: int, own: Sequence[Tensor], message: str) -> bool:
    """Whether the graph of a call leads to more than its own arguments, so that its derivatives have derivatives of their own.

    Then a function that is marked ``once_differentiable`` is refused: a batched derivative does not carry the error that
    such a function puts into the graph of a plain one (torch 2.13).

    Args:
        output: what the call gave.
        since: autograd's sequence number before it.
        own: the arguments.
        message: what the error says.

    Raises:
        InvalidProblemError: there is such a function.
    """
    seen: set[Any] = set()
    stack, outside, once = [output.grad_fn], False, False
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None or node._sequence_nr() < since:
            outside = outside or not any(leaf is x for x in own)
            continue
        function = getattr(type(node), "_forward_cls", None)
        once = once or (
            function is not None and getattr(getattr(function.backward, "__code__", None), "co_filename", "") == _ONCE
        )
        stack += [before for before, _ in node.next_functions]
    if outside and once:
        raise InvalidProblemError(message)
    return outside


# The decorator wraps a backward pass in a function of its own file; an ordinary one is of the user's.
_ONCE = torch.autograd.function.__file__


class _Limited(torch.autograd.Function):
    """The identity; its derivative is a :class:`_Derivative`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, left: int, message: str) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, ctx.left, ctx.message = inputs
        ctx.save_for_backward(x)
        ctx.save_for_forward(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return _derivative(ctx, g, ctx.saved_tensors[0]), None, None

    @staticmethod
    def jvp(ctx: Any, v: Tensor, left: None, message: None) -> Tensor:
        return _derivative(ctx, v, ctx.saved_tensors[0]).view_as(v)


class _Derivative(torch.autograd.Function):
    """A derivative of ``x``, tied to it.

    A cotangent is often a constant, and autograd leaves out what does not lead to a tensor that it was asked about. So
    every derivative is in the graph of ``x``, with a zero derivative that counts the order.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(g: Tensor, x: Tensor, left: int, message: str) -> Tensor:
        return g.view_as(g)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, x, ctx.left, ctx.message = inputs
        ctx.save_for_backward(x)
        ctx.save_for_forward(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x = ctx.saved_tensors[0]
        if ctx.left == 0:
            return g, torch.zeros_like(x), None, None
        return _derivative(ctx, g, x), _derivative(ctx, torch.zeros_like(x), x), None, None

    @staticmethod
    def jvp(ctx: Any, v: Tensor, moved: Tensor, left: None, message: None) -> Tensor:
        if ctx.left == 0:
            raise InvalidProblemError(ctx.message)
        return _derivative(ctx, v, ctx.saved_tensors[0]).view_as(v)


def _derivative(ctx: Any, g: Tensor, x: Tensor) -> Tensor:
    if not torch.is_grad_enabled() and not torch_private.transforms_active():
        return g
    if ctx.left == 1:
        x = _Refused.apply(x, ctx.message)
    tied: Tensor = _Derivative.apply(g, x, ctx.left - 1, ctx.message)
    return tied


class _Refused(torch.autograd.Function):
    """The identity, whose backward pass raises: on the way to ``x``, and not on the way to a cotangent.

    A forward derivative that is taken as the derivative of a backward one with respect to its cotangent has order one.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, message: str) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.message = inputs

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        raise InvalidProblemError(ctx.message)

    @staticmethod
    def jvp(ctx: Any, v: Tensor, message: None) -> Tensor:
        return v.view_as(v)
