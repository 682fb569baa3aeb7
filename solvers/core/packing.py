"""Between the user's state (a tensor or a pytree of tensors) and the one tensor that the solver steps."""

from __future__ import annotations

import math
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..errors import InvalidProblemError


class Packing:
    """How a pytree of tensors is laid out in one tensor, and back.

    A single tensor is stepped as it is. The leaves of a pytree are flattened (per sample: behind the batch
    dimension), promoted to one dtype and concatenated; each comes back in its own shape and dtype.

    Args:
        state: the tensor or pytree of tensors.
        per_sample: whether the first dimension of every leaf counts samples.
    """

    def __init__(self, state: Any, per_sample: bool = False) -> None:
        leaves, self.spec = pytree.tree_flatten(state)
        self.single = isinstance(state, Tensor)
        self.per_sample = per_sample
        self.shapes = [tuple(leaf.shape) for leaf in leaves]
        self.dtypes = [leaf.dtype for leaf in leaves]
        self.dtype = reduce(torch.promote_types, self.dtypes)
        keep = 1 if per_sample else 0
        self.sizes = [math.prod(shape[keep:]) for shape in self.shapes]

    def pack(self, state: Any, what: str = "f") -> Tensor:
        """The state as one tensor; refuses another structure, shape or a dtype that would lose information."""
        if self.single:
            if not isinstance(state, Tensor):
                raise InvalidProblemError(
                    f"{what}: got {_describe(state)}; expected a tensor of shape {self.shapes[0]}, like y0"
                )
            if state.shape == self.shapes[0] and state.dtype is self.dtype and state.layout is torch.strided:
                return state
            return self._checked(state, 0, what)
        try:
            leaves = self.spec.flatten_up_to(state)  # a dict in any order of its keys
        except ValueError:
            leaves = [None]
        if not all(isinstance(leaf, Tensor) for leaf in leaves):
            raise InvalidProblemError(f"{what}: got {_describe(state)}; expected the structure of y0: {self.spec}")
        flat = []
        for index, leaf in enumerate(leaves):
            leaf = self._checked(leaf, index, what).to(self.dtype)
            flat.append(leaf.reshape((leaf.shape[0], self.sizes[index]) if self.per_sample else (-1,)))
        return torch.cat(flat, dim=-1)

    def unpack(self, flat: Tensor, lead: int = 0) -> Any:
        """The pytree from the packed tensor; ``lead`` counts extra leading dimensions (save times)."""
        if self.single:
            return flat
        front = flat.shape[: lead + (1 if self.per_sample else 0)]
        keep = 1 if self.per_sample else 0
        leaves = []
        for piece, shape, dtype in zip(flat.split(self.sizes, dim=-1), self.shapes, self.dtypes, strict=True):
            piece = piece.real if piece.is_complex() and not dtype.is_complex else piece
            leaves.append(piece.reshape((*front, *shape[keep:])).to(dtype))
        return pytree.tree_unflatten(leaves, self.spec)

    def _checked(self, leaf: Tensor, index: int, what: str) -> Tensor:
        # Compact per-sample solves call the field with fewer rows, so there only the rest of the shape is compared.
        keep = 1 if self.per_sample else 0
        shape, dtype = self.shapes[index], self.dtypes[index]
        refuse_unusual(leaf, what)
        if tuple(leaf.shape[keep:]) != shape[keep:] or leaf.dim() != len(shape):
            hint = ""
            if self.per_sample and leaf.dim() > len(shape) and leaf.shape[0] == leaf.shape[1]:
                hint = (
                    "; with per_sample the time has an entry for each sample, and what was called with it, such as a path "
                    "of torchcde, answered for every sample at every time: take the diagonal of its first two dimensions"
                )
            raise InvalidProblemError(f"{what}: got shape {tuple(leaf.shape)}; expected {shape}, the shape of y0{hint}")
        if leaf.dtype == dtype:
            return leaf
        if torch.promote_types(leaf.dtype, dtype) != dtype:
            raise InvalidProblemError(
                f"{what}: got {leaf.dtype}; expected {dtype}, the dtype of y0 (convert y0, or the module's parameters)"
            )
        return leaf.to(dtype)


def refuse_unusual(leaf: Tensor, what: str) -> None:
    """Refuse a tensor of flags, and one that is not stored as an array."""
    if leaf.is_nested:
        raise InvalidProblemError(
            f"{what}: got a nested tensor; expected a dense one, such as torch.nested.to_padded_tensor"
        )
    if leaf.layout != torch.strided:
        raise InvalidProblemError(f"{what}: got a {leaf.layout} tensor; expected a dense one, such as its to_dense()")
    if leaf.dtype == torch.bool:
        raise InvalidProblemError(f"{what}: got booleans (torch.bool); expected numbers, such as (y > 0).to(y.dtype)")


def check_state(state: Any, what: str = "y0") -> None:
    """Refuse a state that is not a non-empty pytree of floating-point or complex tensors on one device."""
    leaves = pytree.tree_leaves(state)
    if not leaves:
        raise InvalidProblemError(f"{what}: got {state!r}; expected a tensor or a pytree with at least one tensor")
    for leaf in leaves:
        if not isinstance(leaf, Tensor):
            raise InvalidProblemError(f"{what}: got {_describe(leaf)}; expected a tensor or a pytree of tensors")
        refuse_unusual(leaf, what)
        if leaf.dtype not in (torch.float32, torch.float64, torch.complex64, torch.complex128):
            raise InvalidProblemError(
                f"{what}: got {leaf.dtype}; expected float32, float64, complex64 or complex128 (y0.float(), say)"
            )
        if leaf.device != leaves[0].device:
            raise InvalidProblemError(
                f"{what}: got tensors on {leaves[0].device} and {leaf.device}; expected one device"
            )


def _describe(value: Any) -> str:
    return f"{type(value).__name__} {value!r}"[:80]
