"""Which tensors a field depends on beside its arguments: found, or refused by name, never silently dropped.

Two searches complete each other. The *object walk* looks at what the field holds: modules, lists, closures, partials,
bound objects, globals it names. It finds tensors that a first call may not touch. The *graph walk* looks at the
autograd graph of one call. It finds everything that call touched, however it was reached; what it meets that the object
walk did not find and that cannot be an input of the solve is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from neuralde.solvers.errors import InvalidProblemError
from neuralde.solvers.field import Field
from neuralde.solvers.held import held
from neuralde.solvers.quadrature import PathIntegral, as_field

from .base import Job
from .setting import Setting


def held_by(f: Any) -> tuple[list[Tensor], list[nn.Module]]:
    """What ``f`` holds, in a module, list, closure, partial, object or global: tensors that require grad, and modules."""
    values = list(held(f))
    tensors = [value for value in values if isinstance(value, Tensor) and value.requires_grad]
    return tensors, [value for value in values if isinstance(value, nn.Module)]


def held_tensors(f: Any) -> list[Tensor]:
    """The tensors among what ``f`` holds."""
    return held_by(f)[0]


def graph_tensors(
    outputs: Iterable[Tensor], own: Iterable[Tensor], held: list[Tensor], since: int, who: str = "f"
) -> list[Tensor]:
    """The tensors from outside that the graph of ``outputs`` ends in.

    Args:
        outputs: what one call of the field returned, computed with grad.
        own: the call's own inputs, which are not captured.
        held: what the object walk found.
        since: the autograd sequence number before the call; older nodes belong to computations before the solve.
        who: what was called, as a message names it.

    Raises:
        InvalidProblemError: the call used a tensor that was computed before the solve and that no walk can name.
    """
    ours = {id(tensor) for tensor in own}
    by_node = {tensor.grad_fn: tensor for tensor in held if tensor.grad_fn is not None}
    found: dict[int, Tensor] = {}
    seen: set[Any] = set()
    stack: list[Any] = [tensor.grad_fn for tensor in outputs if tensor.grad_fn is not None]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            if id(leaf) not in ours:
                found[id(leaf)] = leaf
        elif node in by_node:
            found[id(by_node[node])] = by_node[node]
        elif node._sequence_nr() < since:
            raise InvalidProblemError(
                f"{who}: uses a tensor that was computed from others before the solve ({node.name()}) and that the adjoint "
                "cannot reach; expected such tensors in args, or DirectAdjoint()"
            )
        else:
            stack.extend(parent for parent, _ in node.next_functions)
    return list(found.values())


def captured_tensors(
    f: Any, outputs: Sequence[Tensor], own: Iterable[Tensor], since: int
) -> tuple[list[Tensor], Setting]:
    """Every captured tensor the field's gradient may need, and what surrounds its calls.

    The tensors are the union of both walks, checked for double counting.

    What the call itself computed and left in the field (a cached output, a normalized weight) is no input of it.
    """
    mine = {id(tensor) for tensor in own}
    every, modules = held_by(f)
    made = {id(tensor) for tensor in every if _made_since(tensor, since)}
    ours = [tensor for tensor in every if id(tensor) not in mine and id(tensor) not in made]
    met = graph_tensors(outputs, own, ours, since)
    known = {id(tensor) for tensor in ours}
    tensors = ours + [tensor for tensor in met if id(tensor) not in known]
    _refuse_overlap(tensors)
    return tensors, Setting(modules, made, outputs[0].device)


def _made_since(tensor: Tensor, since: int) -> bool:
    node: Any = tensor.grad_fn
    return node is not None and node._sequence_nr() >= since


def refuse_unknown(
    outputs: Iterable[Tensor], own: Iterable[Tensor], captured: list[Tensor], since: int, who: str = "f"
) -> None:
    """Refuse a step whose graph ends in a tensor that nobody found before the solve: its gradient would be lost."""
    known = {id(tensor) for tensor in captured}
    for tensor in graph_tensors(outputs, own, captured, since, who):
        if id(tensor) not in known:
            raise InvalidProblemError(
                f"{who}: uses a tensor of shape {tuple(tensor.shape)} later in the solve that requires grad and that the "
                "adjoint could not find before; expected such tensors in args or in a module, or DirectAdjoint()"
            )


class Unchanged:
    """Watches tensors between a solve and its backward pass, which reads them again.

    Args:
        tensors: the tensors.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.tensors = [tensor for tensor in tensors if not tensor.is_inference()]
        self.versions = [tensor._version for tensor in self.tensors]

    def check(self, grads: Sequence[Tensor | None] | None = None) -> None:
        """Refuse to differentiate at other values than those of the solve, where there is a gradient."""
        grads = self.tensors if grads is None else grads
        for tensor, version, grad in zip(self.tensors, self.versions, grads, strict=True):
            if grad is not None and tensor._version != version:
                raise RuntimeError(
                    f"a tensor of shape {tuple(tensor.shape)} that the solve uses was changed in place between the "
                    "solve and its backward pass (an optimizer step, say); call backward() before changing it"
                )


def _refuse_overlap(tensors: list[Tensor]) -> None:
    """Refuse a captured tensor that was itself computed from another captured one: its gradient would count twice."""
    leaves = {id(tensor) for tensor in tensors if tensor.grad_fn is None}
    nodes: set[Any] = {tensor.grad_fn for tensor in tensors if tensor.grad_fn is not None}
    seen: set[Any] = set()
    stack: list[Any] = [parent for node in nodes for parent, _ in node.next_functions]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node in nodes or id(getattr(node, "variable", None)) in leaves:
            raise InvalidProblemError(
                "f: captures both a tensor and another one computed from it before the solve; expected the computed one "
                "in args, where its gradient is counted once, or DirectAdjoint()"
            )
        stack.extend(parent for parent, _ in node.next_functions)


def sequence_number() -> int:
    """Autograd's current sequence number: nodes made from now on have this number or a higher one."""
    probe = torch.zeros((), requires_grad=True)
    node: Any = (probe * 1.0).grad_fn
    return int(node._sequence_nr())


def captured_by(job: Job, copies: Sequence[Tensor]) -> tuple[list[Tensor], Tensor, Setting]:
    """What the field captures, the field at the start (one call serves both), and what surrounds its calls."""
    plan = job.plan
    with torch.enable_grad():
        y0 = plan.method.lower(job.y0.detach()).requires_grad_()
        since = sequence_number()
        stop = plan.stops.after(plan.t0, plan.t1, plan.direction)
        field = plan.stops.one_sided(plan.field, plan.t0, stop, y0)
        found = field.probe(plan.t0, y0) if isinstance(field, Field) else [field(plan.t0, y0)]
        integrals = [cost for cost in plan.costs if isinstance(cost, PathIntegral)]
        densities = [cost.density(as_field(plan.field), plan.t0, y0) for cost in integrals]
    captured, setting = captured_tensors(job.callables, [*found, *densities], [y0, *copies], since)
    return captured, found[0].detach(), setting
