"""Signatures of piecewise linear paths, forward and backward in memory that does not grow with their length."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...core.scalars import transformed
from ...errors import InvalidProblemError
from .blocks import Block, halves
from .prefixes import prefixes
from .tensor_algebra import Levels, channels_of, invert, join, multiply, split

# Entries of the largest tensor that exists for every step of a block. Measured on CPU: half a megabyte stays in the
# cache, and blocks of a megabyte are slower. A GPU wants few large kernels instead.
ENTRIES = {"cpu": 2**17, "cuda": 2**23}


def _plan(x: Tensor, depth: int) -> tuple[int, int]:
    """How many paths and how many steps are taken at once: whole paths where they fit, which need no products of blocks."""
    batch, channels, time = x.shape
    words = channels ** halves(depth)[0]
    entries = ENTRIES.get(x.device.type, 2**20)
    steps = max(128, min(time, entries // words))
    return max(1, min(batch, entries // (words * steps))), steps


def _levels(x: Tensor, depth: int, steps: int) -> Levels:
    """The signature of increments ``(batch, channels, time)``, block after block."""
    total: Levels | None = None
    for part in x.split(steps, -1):
        levels = Block(part, depth).levels()
        total = levels if total is None else multiply(total, levels)
    assert total is not None
    return total


def _in_groups(x: Tensor, depth: int) -> Tensor:
    """The flat signature, a group of paths after the other; made of differentiable operations."""
    paths, steps = _plan(x, depth)
    return torch.cat([join(_levels(part, depth, steps)) for part in x.split(paths)])


def _gradient(x: Tensor, levels: Levels, grads: Levels, depth: int, steps: int) -> Tensor:
    """The gradient with respect to the increments, from the end to the start.

    The signature before a block is the one behind it times the inverse of the block's own, so none was kept.
    """
    parts = []
    blocks = x.split(steps, -1)
    for index in reversed(range(len(blocks))):
        block = Block(blocks[index], depth)
        own = grads
        if index:
            behind = block.levels()
            levels = multiply(levels, invert(behind, x.shape[1]))
            grads, own = _product_vjp(levels, behind, grads)
        parts.append(block.vjp(own))
    return torch.cat(parts[::-1], -1)


def _product_vjp(a: Levels, b: Levels, grads: Levels) -> tuple[Levels, Levels]:
    """The gradients of both factors of :func:`multiply`."""
    left, right = list(grads), list(grads)
    for k in range(len(a)):
        for i in range(k):
            j = k - 1 - i
            square = grads[k].reshape(-1, a[i].shape[-1], b[j].shape[-1])
            left[i] = left[i] + (square @ b[j].unsqueeze(-1)).squeeze(-1)
            right[j] = right[j] + (a[i].unsqueeze(-2) @ square).squeeze(-2)
    return left, right


class _Signature(torch.autograd.Function):
    """Keeps the increments and the result; a gradient of the gradient goes through the operations themselves."""

    @staticmethod
    def forward(x: Tensor, depth: int) -> Tensor:
        return _in_groups(x, depth)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
        x, ctx.depth = inputs
        ctx.save_for_backward(x, output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        x, flat = ctx.saved_tensors
        gradient = _SignatureGradient.apply if torch.is_grad_enabled() else _SignatureGradient.forward
        return gradient(x, flat.detach(), grad, ctx.depth), None


class _SignatureGradient(torch.autograd.Function):
    """The gradient; its own derivative is that of a plain computation of the same numbers."""

    @staticmethod
    def forward(x: Tensor, flat: Tensor, grad: Tensor, depth: int) -> Tensor:
        paths, steps = _plan(x, depth)
        sizes = (x.shape[1], depth)
        groups = zip(x.split(paths), flat.split(paths), grad.split(paths), strict=True)
        return torch.cat([_gradient(a, split(b, *sizes), split(c, *sizes), depth, steps) for a, b, c in groups])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, int], output: Tensor) -> None:
        x, _, grad, ctx.depth = inputs
        ctx.save_for_backward(x, grad)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None, Tensor, None]:
        x, grad = ctx.saved_tensors

        def gradient(x: Tensor, grad: Tensor) -> Tensor:
            return torch.func.vjp(lambda v: _in_groups(v, ctx.depth), x)[1](grad)[0]

        of_x, of_grad = torch.func.vjp(gradient, x, grad)[1](cotangent)
        return of_x, None, of_grad, None


def check_depth(depth: object) -> int:
    """A depth, refused by name."""
    if isinstance(depth, bool) or not isinstance(depth, int) or depth < 1:
        raise InvalidProblemError(f"depth: got {depth!r}; expected an int of at least 1")
    return depth


def check_series(xs: object, name: str = "xs") -> Tensor:
    """Values ``(T, ..., channels)`` of a path, refused by name."""
    if not isinstance(xs, Tensor):
        raise InvalidProblemError(f"{name}: got {type(xs).__name__}; expected a tensor of shape (T, ..., channels)")
    if not xs.is_floating_point():
        raise InvalidProblemError(
            f"{name}: got dtype {xs.dtype}; expected real floating point, such as {name}.double()"
        )
    if xs.dim() < 2 or xs.shape[0] < 1 or xs.shape[-1] < 1:
        raise InvalidProblemError(
            f"{name}: got shape {tuple(xs.shape)}; expected (T, ..., channels) with at least one point and one channel"
        )
    return xs


def signature(xs: Tensor, depth: int, *, stream: bool = False) -> Tensor:
    r"""The signature of the piecewise linear path through ``xs``, truncated at words of ``depth`` letters.

    .. math:: S^{i_1 \dots i_k} = \int_{t_0 < u_1 < \dots < u_k < t_1} dX^{i_1}_{u_1} \cdots dX^{i_k}_{u_k},
              \qquad k = 1, \dots, \text{depth}

    It does not depend on how fast the path is run through, so a path of times and values needs the time as a channel.
    The backward pass keeps only ``xs`` and the result, and computes the rest again from the end to the start.

    Args:
        xs: the points of the path.
        depth: the longest words.
        stream: whether the signature of every prefix is returned; then all of them are kept for the gradient.

    Shapes:
        ``xs`` is ``(T, ..., c)``, time first. The result is ``(..., n)`` with n = ``signature_channels(c, depth)``, words
        by length and then lexicographic, without the 1 of the empty word; with ``stream`` it is ``(T, ..., n)``, aligned
        with ``xs``, so that its first row is zero.

    Units:
        Level k has the unit of ``xs`` to the power k.

    Returns:
        The signature, a tensor of the dtype of ``xs``.

    Raises:
        InvalidProblemError: ``xs`` is no real floating-point tensor with time first and channels last, or ``depth`` is no
            positive int.

    When to take it:
        As features of a whole series, for a loss between laws of paths, or for a test. For a model that is driven by
        windows of a series take :func:`logsignature`, which has fewer channels and no redundant ones.

    References:
        Chen: Iterated integrals and exponential homomorphisms. Proc. London Math. Soc. 1954 (products); Kidger, Lyons:
        Signatory. ICLR 2021 (reversing the product in the backward pass).

    Example:
        >>> import torch, neuralde as nde
        >>> nde.signature(torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 2.0]]), depth=2)
        tensor([1.0000, 2.0000, 0.5000, 2.0000, 0.0000, 2.0000])
    """
    xs, depth = check_series(xs), check_depth(depth)
    channels, lead = xs.shape[-1], xs.shape[1:-1]
    x = xs.diff(dim=0)
    width = channels_of(channels, depth)
    if stream:
        rows = join(prefixes(x.movedim(0, -2), depth)).movedim(-2, 0)
        return torch.cat([xs.new_zeros(1, *lead, width), rows])
    if x.shape[0] == 0 or 0 in lead:
        return xs.new_zeros(*lead, width) + 0.0 * xs.sum()
    flat = x.flatten(1).mT.contiguous().unflatten(0, (-1, channels))
    # A transform or forward mode looks at the operations themselves.
    return (_in_groups if transformed() else _Signature.apply)(flat, depth).reshape(*lead, width)
