"""What surrounds the field's calls in a solve, so that a backward pass can call it again in the same surroundings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from neuralde.solvers.errors import InvalidProblemError

_ABSENT = object()
# What torch says where a graph is gone.
_FREED = "backward through the graph a second time"


class Setting:
    """The tensors that the field's modules hold, and the autocast mode, as they are now.

    ``torch.func.functional_call`` lends a module other parameters and takes them back when the call returns, which is
    before the backward pass. Autocast is usually left before it, too; and on an accelerator the backward pass runs in a
    thread of its own, which no autocast has entered.

    Args:
        modules: the modules.
        made: which of their tensors the field's call itself has left there; they are not kept.
        device: where the state lives.
    """

    def __init__(self, modules: Iterable[nn.Module], made: set[int], device: torch.device) -> None:
        self._held: list[tuple[dict[str, Any], str, Tensor]] = []
        for module in dict.fromkeys(part for whole in modules for part in whole.modules()):
            for table in (module._parameters, module._buffers, vars(module)):
                tensors = ((name, x) for name, x in table.items() if isinstance(x, Tensor) and id(x) not in made)
                self._held.extend((table, name, x) for name, x in tensors)
        self._kind = device.type
        self._autocast = torch.is_autocast_enabled(self._kind)
        self._dtype = torch.get_autocast_dtype(self._kind) if self._autocast else None

    @contextmanager
    def restored(self, captured: Sequence[Tensor]) -> Iterator[None]:
        """Call the field as in the solve, and differentiate with respect to captured tensors undisturbed by hooks."""
        swapped = []
        for table, name, then in self._held:
            now = table.get(name, _ABSENT)
            if now is not then:
                swapped.append((table, name, now))
                table[name] = then
        try:
            with freed_is_named(), self._as_cast(), muted(captured):
                yield
        finally:
            for table, name, now in swapped:
                if now is _ABSENT:
                    table.pop(name, None)
                else:
                    table[name] = now

    @contextmanager
    def _as_cast(self) -> Iterator[None]:
        if not self._autocast and not torch.is_autocast_enabled(self._kind):
            yield
            return
        with torch.autocast(self._kind, dtype=self._dtype, enabled=self._autocast, cache_enabled=False):
            yield


def is_freed(error: RuntimeError) -> bool:
    """Whether autograd says that the graph it was to go through is gone."""
    return _FREED in str(error)


@contextmanager
def freed_is_named() -> Iterator[None]:
    """Say of a field whose graph is gone when it is to be differentiated what is the matter."""
    try:
        yield
    except RuntimeError as error:
        if not is_freed(error):
            raise
        raise InvalidProblemError(
            "f: frees the graph of what it gives, because it calls torch.autograd.grad (or backward) without "
            "create_graph=True; expected create_graph=True, also where self.training is False"
        ) from error


@contextmanager
def muted(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Differentiate with respect to tensors without running their hooks, which are meant for the whole gradient.

    autograd runs a tensor's hooks, those of ``retain_grad`` included, whenever a gradient with respect to it is computed:
    here once for each step, and again for the sum, so that a hook that scales would scale twice.
    """
    hooks = [(x._backward_hooks, dict(x._backward_hooks)) for x in tensors if x._backward_hooks]
    retained = [(x, x.grad) for x in tensors if x.retains_grad]
    for table, _ in hooks:
        table.clear()
    try:
        yield
    finally:
        for table, own in hooks:
            table.update(own)
        for x, grad in retained:
            x.grad = grad


@contextmanager
def uncached_casts(device: torch.device) -> Iterator[None]:
    """Autocast without its memory, which holds a weight's cast together with the graph of the call that made it first.

    A call of the field that is differentiated by itself must not end in the graph of another.
    """
    if not torch.is_autocast_enabled(device.type):
        yield
        return
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)


def gradients_of_many(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], cotangents: Sequence[Tensor]
) -> tuple[Tensor | None, ...]:
    """The gradients for a row of cotangents at once."""
    anomaly = torch.is_anomaly_enabled()
    # Anomaly mode looks at values, which a batch of them does not have; it keeps its tracebacks.
    with torch.autograd.set_detect_anomaly(anomaly, check_nan=False) if anomaly else nullcontext():
        return torch.autograd.grad(outputs, inputs, cotangents, allow_unused=True, is_grads_batched=True)
