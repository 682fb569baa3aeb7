"""How many bytes the graphs of steps hold, as far as it was looked at, beside what they may hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.utils import _pytree as pytree

from neuralde.solvers.core.torch_private import sequence_number
from neuralde.solvers.functions.severed_gradients import made_inside
from neuralde.solvers.stepping.attempt import Carry, Trial

from ..shared.call_context import is_freed

# Between two looks at the size of a step's graph, steps may grow by this factor without passing the budget.
_GROWTH = 4.0


class Budget:
    """Counts what the graphs of a solve's steps hold.

    A graph is looked at when it is there: hooks on what autograd saves would see it sooner, but inside them a field cannot
    call ``torch.func.grad``.

    Args:
        size: how many bytes the graphs may hold.
        own: tensors that live anyway and are not counted. Leaves of the graphs (parameters), unless the field itself makes
            them, are not counted either.
    """

    def __init__(self, size: int, own: Sequence[Tensor]) -> None:
        self.size, self.used, self.largest = size, 0.0, 0.0
        self.freed = False
        """Whether a graph was met of which a derivative inside the field has freed a part."""
        self._own = {tensor.untyped_storage().data_ptr() for tensor in own}
        self._next_look = 0
        self._since: int | None = None

    @property
    def spent(self) -> bool:
        """Whether one more step may be too many, or a graph is of no use."""
        return self.freed or self.used + self.largest > self.size

    def begin(self, steps: int) -> None:
        """An attempt begins, behind so many accepted steps."""
        self._since = sequence_number() if steps >= self._next_look else None

    def skip(self) -> None:
        """The attempt at hand is in no graph."""
        self._since = None

    def look(self, trial: Trial, carry: Carry, emitted: Sequence[Tensor], pieces: Sequence[Tensor], steps: int) -> None:
        """Learn how many bytes the graph of the last attempt holds, if that is due.

        Args:
            trial: the attempt.
            carry: the carry behind it.
            emitted: the rows that the solve has saved so far.
            pieces: the polynomials that it has kept so far.
            steps: how many steps were accepted so far.
        """
        if self._since is None:
            return
        outputs = [trial.step.y, *_tensors(carry), *emitted[-1:], *pieces[-1:]]
        self.largest = max(self.largest, self._saved(outputs, self._since))
        self._since = None
        self._next_look = steps + max(1, int((self.size - self.used) / (_GROWTH * max(self.largest, 1.0))))

    def add(self) -> None:
        """The last attempt was accepted, and its graph is kept."""
        self.used += self.largest

    def _saved(self, outputs: Sequence[Tensor], since: int) -> int:
        """How many bytes the nodes of a graph that are not older than ``since`` have saved, beside what lives anyway."""
        sizes: dict[int, int] = {}
        leaves = set(self._own)
        seen = {x.grad_fn for x in outputs if x.grad_fn is not None}
        stack: list[Any] = list(seen)
        while stack:
            node = stack.pop()
            parents = node.next_functions
            if not parents:
                if hasattr(node, "variable") and not made_inside(node):
                    leaves.add(node.variable.untyped_storage().data_ptr())
                continue
            if node._sequence_nr() < since:
                continue
            for parent, _ in parents:
                if parent is not None and parent not in seen:
                    seen.add(parent)
                    stack.append(parent)
            for tensor in self._saved_by(node):
                try:
                    storage = tensor.untyped_storage()
                    sizes[storage.data_ptr()] = storage.nbytes()
                except RuntimeError:  # of a function transform, where a tensor is a view of others
                    sizes[id(tensor)] = tensor.numel() * tensor.element_size()
        return sum(size for place, size in sizes.items() if place not in leaves)

    def _saved_by(self, node: Any) -> Iterator[Tensor]:
        """The tensors that a node has saved."""
        kind = type(node)
        for name in _saved_names(kind):
            try:
                saved = getattr(node, name, None)
            except RuntimeError as error:
                self.freed = self.freed or is_freed(error)
                continue
            if isinstance(saved, Tensor):
                yield saved
                continue
            held = [x for x in saved if isinstance(x, Tensor)] if isinstance(saved, (tuple, list)) else []
            yield from held
            if not held and _is_number(saved) and not issubclass(kind, BackwardCFunction):
                _NAMES[kind] = tuple(other for other in _NAMES[kind] if other != name)  # it is one in every node


def _tensors(x: Any) -> Iterator[Tensor]:
    """All tensors in a carry."""
    if isinstance(x, Tensor):
        yield x
    elif isinstance(x, tuple):
        for part in x:
            yield from _tensors(part)
    elif not isinstance(x, (int, float, bool, type(None))):  # what a method remembers is a pytree of its own
        yield from (leaf for leaf in pytree.tree_leaves(x) if isinstance(leaf, Tensor))


def _is_number(saved: Any) -> bool:
    """Whether a node has saved a number there, or numbers (a shape)."""
    parts = saved if isinstance(saved, (tuple, list)) and saved else [saved]
    return all(isinstance(x, (int, float, complex)) for x in parts)


_NAMES: dict[type, tuple[str, ...]] = {}


def _saved_names(kind: type) -> tuple[str, ...]:
    """The attributes in which nodes of a kind have what they saved; looking for them takes longer than reading them."""
    if kind not in _NAMES:
        _NAMES[kind] = tuple(name for name in dir(kind) if name == "saved_tensors" or name.startswith("_saved_"))
    return _NAMES[kind]
