"""CUDA graphs: a function of tensors captured once, then replayed. The only place that knows about them.

A graph replays the same kernels on the same memory. So a captured function reads buffers of its own, into which each call
copies its inputs, and what it leaves in its outputs is copied out before the next replay can overwrite it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..errors import InvalidProblemError
from ..functions.captured_objects import held

Function = Callable[..., list[Tensor]]


class Graph(Protocol):
    """What captures and replays; the tests have one of their own that needs no GPU."""

    @staticmethod
    def check(device: torch.device) -> None:
        """Refuse a device that cannot capture."""

    def capture(self, function: Function, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Capture a call on these inputs, whose memory every replay reads; the outputs, which every replay writes."""

    def replay(self) -> None:
        """Run the captured call again."""


class DeviceGraph:
    """A CUDA graph."""

    WARM_UPS: ClassVar[int] = 3

    @staticmethod
    def check(device: torch.device) -> None:
        """Refuse a device that is no GPU."""
        if device.type != "cuda":
            raise InvalidProblemError(
                f"driver: got cuda_graph=True with a state on {device.type}"
                + ("" if torch.cuda.is_available() else ", and torch finds no CUDA device")
                + "; expected a state on a CUDA device, or Blocks(cuda_graph=False)"
            )

    def capture(self, function: Function, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Warm up on a side stream, where libraries set up what they need, and capture."""
        device = inputs[0].device
        with torch.cuda.device(device):
            side, current = torch.cuda.Stream(), torch.cuda.current_stream()
            side.wait_stream(current)
            with torch.cuda.stream(side):
                for _ in range(self.WARM_UPS):
                    function(*inputs)
            current.wait_stream(side)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                return function(*inputs)

    def replay(self) -> None:
        """Queue the captured kernels."""
        self.graph.replay()


def check_capture(device: torch.device) -> None:
    """Refuse a device that cannot capture."""
    DeviceGraph.check(device)


class Captured:
    """A captured function: call it with tensors like those at the capture.

    Autocast must not remember casts meanwhile (``solve`` and the backward passes see to it): a weight that was cast
    before the capture would be a constant of the graph.

    Args:
        function: takes tensors and gives a list of tensors; never waits for the device, and does the same each time.
        inputs: tensors to capture it with.
    """

    def __init__(self, function: Function, inputs: Sequence[Tensor]) -> None:
        self.inputs = [x.detach().clone() for x in inputs]
        self.graph: Graph = DeviceGraph()
        self.outputs = self.graph.capture(function, self.inputs)

    def __call__(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The function's value, in memory of the caller's own."""
        with torch.no_grad():
            for static, x in zip(self.inputs, inputs, strict=True):
                static.copy_(x)
            self.graph.replay()
            return [x.clone() for x in self.outputs]


class Layout:
    """A pytree as a list of its tensors, and back; what else is in it stays as it was.

    >>> layout = Layout({"a": torch.ones(1), "b": 2})
    >>> layout.tree(layout.tensors({"a": torch.zeros(1), "b": 2}))
    {'a': tensor([0.]), 'b': 2}
    """

    def __init__(self, tree: Any) -> None:
        leaves, self.spec = pytree.tree_flatten(tree)
        self.constants = [None if isinstance(x, Tensor) else x for x in leaves]
        self.places = [place for place, x in enumerate(leaves) if isinstance(x, Tensor)]

    def tensors(self, tree: Any) -> list[Tensor]:
        """The tensors of a tree of this layout."""
        leaves = pytree.tree_leaves(tree)
        return [leaves[place] for place in self.places]

    def tree(self, tensors: Sequence[Tensor]) -> Any:
        """The tree with these tensors."""
        leaves = list(self.constants)
        for place, x in zip(self.places, tensors, strict=True):
            leaves[place] = x
        return pytree.tree_unflatten(leaves, self.spec)


class Cache:
    """Captured functions by what they depend on; the oldest goes when there are too many.

    What a captured function reads beside its inputs, it reads where it was at the capture. So the tensors that a field
    holds belong to the key by their addresses, and modules by their mode.
    """

    LIMIT: ClassVar[int] = 16

    def __init__(self) -> None:
        self.entries: list[tuple[list[Any], Any]] = []
        self.captures = 0

    def __deepcopy__(self, memo: Any) -> Cache:
        return Cache()

    def __reduce__(self) -> tuple[Any, ...]:
        return Cache, ()

    def get(self, key: list[Any], make: Callable[[], Any]) -> Any:
        """What was made for an equal key, or is made now."""
        for place, (known, value) in enumerate(self.entries):
            if len(known) == len(key) and all(map(_equal, known, key)):
                self.entries.append(self.entries.pop(place))
                return value
        value = make()
        self.captures += 1
        self.entries = [*self.entries[-self.LIMIT + 1 :], (key, value)]
        return value


def signature(tensors: Sequence[Tensor], *callables: Any) -> list[Any]:
    """A key for inputs like these tensors and for what the callables hold, as it is now."""
    device = tensors[0].device.type
    key: list[Any] = [(x.shape, x.dtype, x.device, x.requires_grad) for x in tensors]
    key.append((torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)))
    key.append(torch.get_float32_matmul_precision())
    for callable_ in callables:
        key.append(callable_)
        for value in held(callable_):
            if isinstance(value, Tensor):
                place = value.data_ptr() if value.layout is torch.strided else id(value)
                key.append((place, value.shape, value.dtype, value.requires_grad))
            elif isinstance(value, torch.nn.Module):
                key.extend(module.training for module in value.modules())
    return key


def _equal(a: Any, b: Any) -> bool:
    """Whether two parts of a key mean the same: the same object, an equal value, or two instances of equal contents."""
    if a is b:
        return True
    if type(a) is not type(b) or isinstance(a, (Tensor, torch.nn.Module)):
        return False
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(_equal, a, b))
    if "__eq__" in {name for kind in type(a).__mro__[:-1] for name in vars(kind)}:
        return bool(a == b)
    inside, other = getattr(a, "__dict__", None), getattr(b, "__dict__", None)
    if callable(a) or not inside or other is None or inside.keys() != other.keys():
        return False
    return all(_equal(inside[name], other[name]) for name in inside)
