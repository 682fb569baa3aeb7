"""Backward passes that cannot be differentiated again, and say so."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from neuralde.solvers.core.scalars import transformed
from neuralde.solvers.core.torch_private import is_legacy_batchedtensor
from neuralde.solvers.errors import InvalidProblemError

from ..capabilities import who_has


def once(
    who: str | Callable[[Any], str], gives: str = "first derivatives only", expected: str | None = None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator for the ``backward`` of an autograd function: its gradients refuse to be differentiated.

    torch's own ``once_differentiable`` does so only where a cotangent requires grad. In the usual gradient penalty,
    ``grad(y1.sum(), y0, create_graph=True)``, none does, and the second derivative would be lost without a word.

    The function must have saved its differentiable inputs, and nothing else, with ``ctx.save_for_backward``.

    Args:
        who: the adjoint that the message names, or what tells it from the function's context.
        gives: what the message says that it gives.
        expected: what the message says to use instead; None: the adjoints that can.
    """

    def decorate(backward: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(backward)
        def wrapped(ctx: Any, *cotangents: Any) -> Any:
            again = torch.is_grad_enabled()  # backward(create_graph=True)
            name = who if isinstance(who, str) else who(ctx)
            if again and transformed():
                raise _refusal(name, gives, expected)
            with torch.no_grad():
                grads = backward(ctx, *cotangents)
            if not again:
                return grads
            # On the inputs and cotangents themselves: autograd leaves out what does not lead to a tensor that it was asked
            # about. A forward derivative taken as the derivative of a backward one asks about the cotangents alone.
            given = (*ctx.saved_tensors, *cotangents)
            inputs = [tensor for tensor in given if isinstance(tensor, Tensor) and tensor.requires_grad]
            said = (name, gives, expected)
            return tuple(_Last.apply(said, grad, *inputs) if isinstance(grad, Tensor) else grad for grad in grads)

        return wrapped

    return decorate


class _Last(torch.autograd.Function):
    """A gradient that is in the graph only to refuse what comes next."""

    @staticmethod
    def forward(ctx: Any, who: tuple[str, str, str | None], grad: Tensor, *inputs: Tensor) -> Tensor:
        ctx.who = who
        return grad.view_as(grad)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        raise _refusal(*ctx.who)


def _refusal(who: str, gives: str, expected: str | None) -> InvalidProblemError:
    return InvalidProblemError(
        f"adjoint: {who} gives {gives}, and its gradient was differentiated again (create_graph=True); expected "
        f"{who_has(double_backward=True) if expected is None else expected}"
    )


def refuse_batches(who: str, cotangents: Sequence[Tensor | None]) -> None:
    """Refuse a backward pass for many cotangents at once, where each needs steps of its own."""
    # is_grads_batched still uses the vmap from before functorch.
    if transformed() or any(x is not None and is_legacy_batchedtensor(x) for x in cotangents):
        raise InvalidProblemError(
            f"adjoint: {who} solves backwards for one cotangent at a time, and got many (torch.func.vmap over a backward "
            f"pass, is_grads_batched=True, vectorize=True); expected one, or {who_has(exact=True)}"
        )
