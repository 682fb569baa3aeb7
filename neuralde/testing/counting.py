"""What an eager run does beside computing: how often the host waits for a value, and how many bytes are held at once."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

Run = Callable[[], Any]


class _Reads(TorchDispatchMode):
    """Counts the operators that hand a tensor's value to Python, on which a GPU's queue would be waited for."""

    SYNCS = ("_local_scalar_dense", "nonzero", "equal")

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.overloadpacket.__name__ in self.SYNCS
        return func(*args, **(kwargs or {}))


class _Lists(TorchFunctionMode):
    """Counts ``Tensor.tolist`` and ``Tensor.numpy``, which read memory without an operator."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += getattr(func, "__name__", "") in ("tolist", "numpy")
        return func(*args, **(kwargs or {}))


def host_syncs(run: Run) -> int:
    """How often an eager run reads a tensor's value from Python.

    >>> host_syncs(lambda: bool(torch.ones(1) > 0))
    1
    """
    with _Reads() as reads, _Lists() as lists:
        run()
    return reads.count + lists.count


class _Allocations(TorchDispatchMode):
    """Follows every storage that an operator makes until it is freed."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {id(x.untyped_storage()) for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        for leaf in pytree.tree_leaves(out):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                if id(storage) not in self._known and id(storage) not in given:
                    self._known.add(id(storage))
                    self.live += storage.nbytes()
                    weakref.finalize(storage, self._freed, id(storage), storage.nbytes())
        self.peak = max(self.peak, self.live)
        return out

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def peak_bytes(run: Run, device: str = "cpu") -> int:
    """The most bytes of tensors that an eager run holds at one time, beside those that existed before.

    On a GPU the allocator says; on the CPU the results of all operators are followed, which does not see the scratch
    memory inside an operator.

    >>> peak_bytes(lambda: torch.ones(1000).add(1.0).sum())
    8000
    """
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with _Allocations() as allocations:
        run()
    return allocations.peak
