"""The names of torch that are not public, in one place: one that a release lacks costs a feature, not the import.

What is needed to trace a graph is imported when it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad


def _private(owner: Any, path: str, default: Any) -> Any:
    """The attribute at a dotted path, or the default where any part of it is missing."""
    for name in path.split("."):
        owner = getattr(owner, name, None)
    return default if owner is None else owner


def _never(*_: Any) -> bool:
    return False


transforms_active: Callable[[], bool] = _private(torch, "_C._are_functorch_transforms_active", _never)
"""Whether a function transform (``torch.func``) watches tensors; False where torch does not tell."""
is_legacy_batchedtensor: Callable[[Tensor], bool] = _private(torch, "_C._functorch.is_legacy_batchedtensor", _never)
"""Whether a tensor is one of ``is_grads_batched``'s, which still uses the vmap from before functorch."""
is_batchedtensor: Callable[[Tensor], bool] = _private(torch, "_C._functorch.is_batchedtensor", _never)
"""Whether a tensor stands for the lanes of a ``torch.func.vmap``."""
is_wrapped: Callable[[Tensor], bool] = _private(torch, "_C._functorch.is_functorch_wrapped_tensor", _never)
"""Whether a tensor is a function transform's view of another one."""
get_unwrapped: Callable[[Tensor], Tensor] = _private(torch, "_C._functorch.get_unwrapped", lambda x: x)
"""The tensor below a function transform's."""
batch_dimension: Callable[[Tensor], int] = _private(torch, "_C._functorch.maybe_get_bdim", lambda x: -1)
"""Which dimension of the tensor below counts the lanes of a ``vmap``; -1 if none does."""
_interpreters: Callable[[], Any] = _private(torch, "_C._functorch.get_interpreter_stack", lambda: None)
_keep_graph: Callable[[], bool] = _private(torch, "_C._autograd._get_current_graph_task_keep_graph", _never)
_next_number: Callable[[], int] | None = _private(torch, "_C._autograd._get_sequence_nr", None)


def sequence_number() -> int:
    """Autograd's current sequence number: nodes made from now on, by this thread, have this number or a higher one."""
    if _next_number is not None:
        return _next_number()
    with torch.enable_grad():
        node: Any = (torch.zeros((), requires_grad=True) * 1.0).grad_fn
    return int(node._sequence_nr()) + 1


# How many nodes asking for the number makes.
NODES_OF_ASKING = 0 if _next_number is not None else 1


def transform_levels() -> int:
    """How many function transforms are inside each other here."""
    return len(_interpreters() or ()) if transforms_active() else 0


def forward_mode_active() -> bool:
    """Whether forward-mode differentiation watches tensors."""
    level: int = getattr(forward_ad, "_current_level", -1)
    return level >= 0


def keeps_graph() -> bool:
    """Whether the backward pass that is running was told to keep the graph, for another one (``retain_graph=True``)."""
    return bool(_keep_graph())
