"""Which tensors a field depends on beside its arguments: found, or refused by name, never silently dropped.

Two searches complete each other. The *object walk* looks at what the field holds: modules, lists, closures, partials,
bound objects, globals it names. It finds tensors that a first call may not touch. The *graph walk* looks at the
autograd graph of one call. It finds everything that call touched, however it was reached; what it meets that the object
walk did not find and that cannot be an input of the solve is refused.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from neuralde.solvers.core.scalars import Scalar
from neuralde.solvers.core.torch_private import sequence_number
from neuralde.solvers.errors import InvalidProblemError
from neuralde.solvers.functions.captured_objects import held
from neuralde.solvers.functions.severed_gradients import made_inside
from neuralde.solvers.stepping.quadrature import PathIntegral

from ..base import Job
from .call_context import Setting
from .tensor_names import names_of


class Captured(list[Tensor]):
    """The tensors that are inputs of a solve because its field captures them.

    Args:
        tensors: the tensors.
        f: what holds them, for their names in messages.
        spare: tensors that ``f`` holds as well, but that are no inputs: another input is computed from them, or they
            are themselves computed from an input and no call has used them. A call that does is refused.
    """

    def __init__(self, tensors: Iterable[Tensor], f: Any = (), spare: Iterable[Tensor] = ()) -> None:
        super().__init__(tensors)
        self.f = f
        # Not kept alive: a loss that the field holds has the graph of an earlier solve behind it, which holds the one
        # before, and so on.
        self._spare = [weakref.ref(tensor) for tensor in spare]

    @property
    def spare(self) -> list[Tensor]:
        """The tensors that are no inputs, as far as anything still holds them."""
        return [tensor for tensor in (one() for one in self._spare) if tensor is not None]

    def name(self, tensor: Tensor) -> str:
        """How a message calls a tensor: by the way to it, if it is held, and by its shape."""
        (name,) = names_of([("f", part) for part in _flat(self.f)], [tensor])
        shape = f"a tensor of shape {tuple(tensor.shape)}"
        return shape if name.startswith("captured[0]") else f"{shape} ({name!r})"


def _flat(f: Any) -> list[Any]:
    return [x for part in f for x in _flat(part)] if isinstance(f, (tuple, list)) else [f]


def held_by(f: Any) -> tuple[list[Tensor], list[nn.Module]]:
    """What ``f`` holds, in a module, list, closure, partial, object or global: tensors that require grad, and modules."""
    values = list(held(f))
    tensors = [value for value in values if isinstance(value, Tensor) and value.requires_grad]
    return tensors, [value for value in values if isinstance(value, nn.Module)]


def held_tensors(f: Any) -> list[Tensor]:
    """The tensors among what ``f`` holds."""
    return held_by(f)[0]


def graph_tensors(
    outputs: Iterable[Tensor],
    own: Iterable[Tensor],
    held: list[Tensor],
    since: int,
    who: str = "f",
    f: Any = (),
    walked: set[Any] | None = None,
) -> list[Tensor]:
    """The tensors from outside that the graph of ``outputs`` ends in.

    Args:
        outputs: what one call of the field returned, computed with grad.
        own: the call's own inputs, which are not captured.
        held: what the object walk found.
        since: the autograd sequence number before the call; older nodes belong to computations before the solve.
        who: what was called, as a message names it.
        f: what may hold a tensor that a message is about.
        walked: takes up the nodes of the graph, for :func:`let_go`; those in it already are not looked at again.

    Raises:
        InvalidProblemError: the call used a tensor that was computed before the solve and that no walk can name.
    """
    seen: set[Any] = set() if walked is None else walked
    ours = {id(tensor) for tensor in own}
    outputs = list(outputs)
    # On an accelerator a derivative inside the call is computed by a thread of its own, whose nodes are numbered apart.
    numbered = all(tensor.device.type == "cpu" for tensor in outputs)
    nodes = [tensor.grad_fn for tensor in outputs if tensor.grad_fn is not None]
    if all(tensor.grad_fn is None for tensor in held):
        return _leaves(nodes, ours, since if numbered else 0, who, f, seen)
    # A node may have many outputs (those of unbind, say), of which some are held.
    computed = {(tensor.grad_fn, tensor.output_nr): tensor for tensor in held if tensor.grad_fn is not None}
    found: dict[int, Tensor] = {}
    stack: list[Any] = [(tensor.grad_fn, tensor.output_nr) for tensor in outputs if tensor.grad_fn is not None]
    while stack:
        edge = stack.pop()
        node = edge[0]
        if node is None or (node in seen and not computed):
            continue
        if edge in computed:
            found[id(computed[edge])] = computed[edge]
            continue
        if node in seen:
            continue
        seen.add(node)
        parents = node.next_functions
        if not parents:
            leaf = None if made_inside(node) else getattr(node, "variable", None)
            if leaf is not None and id(leaf) not in ours:
                found[id(leaf)] = leaf
        elif numbered and node._sequence_nr() < since:
            raise _unreachable(node, who, f)
        else:
            stack.extend(parents)
    return list(found.values())


def _leaves(stack: list[Any], ours: set[int], since: int, who: str, f: Any, seen: set[Any]) -> list[Tensor]:
    """What :func:`graph_tensors` finds where no held tensor is computed, so that only leaves count; it runs for each solve."""
    found: dict[int, Tensor] = {}
    stack = [node for node in stack if node not in seen]
    seen.update(stack)
    while stack:
        node = stack.pop()
        parents = node.next_functions
        if parents:
            if since and node._sequence_nr() < since:
                raise _unreachable(node, who, f)
            for parent, _ in parents:
                if parent is not None and parent not in seen:
                    seen.add(parent)
                    stack.append(parent)
        elif not made_inside(node):
            leaf = getattr(node, "variable", None)
            if leaf is not None and id(leaf) not in ours:
                found[id(leaf)] = leaf
    return list(found.values())


def let_go(walked: set[Any]) -> None:
    """Free the nodes of a graph that nothing else holds any more, one by one, later ones first.

    A node that Python has seen is freed by Python (torch 2.13), and with it, inside that call, the one before it if
    nothing else holds that, and so on: some ten thousand deep the stack is used up and the process dies.
    """
    order = sorted(walked, key=lambda node: node._sequence_nr())
    walked.clear()
    while order:
        order.pop()


def _unreachable(node: Any, who: str, f: Any) -> InvalidProblemError:
    name = next((Captured([], f).name(x) for x in held_tensors(f) if x.grad_fn is node), "a tensor")
    return InvalidProblemError(
        f"{who}: uses {name} that was computed from others before the solve, or by an earlier call, "
        f"({node.name()}) and that the adjoint cannot reach; expected such tensors in args, or DirectAdjoint()"
    )


def captured_tensors(
    f: Any,
    call: Callable[[], tuple[Tensor, Sequence[Tensor]]],
    copies: Sequence[Tensor],
    originals: Sequence[Tensor] = (),
) -> tuple[Captured, Setting]:
    """Every captured tensor the field's gradient may need, and what surrounds its calls.

    A tensor counts if the call used it. One that the call did not use may matter later in the solve: a leaf always, and
    one that was computed before the solve unless its graph is used up, or an input was computed from it, or it from an
    input. Such a tensor is most likely what an earlier solve has left in the field (a loss, a last output); should a
    step use it nevertheless, the step is refused.

    What the call itself computed and left in the field (a last output, a normalized weight) is no input of it, unless a
    second call uses it again: a weight that only the first call computes.

    Args:
        f: what may hold tensors.
        call: calls the field; gives the state at which it did, and what it returned, computed with grad.
        copies: the call's other inputs, which are not captured either.
        originals: the tensors of the caller of which these are copies.

    Raises:
        InvalidProblemError: the call used a tensor and another one that was computed from it before the solve, whose
            gradients would count twice.
    """
    since, (y, outputs) = sequence_number(), call()
    every, modules = held_by(f)
    if any(_made_since(tensor, since) and not _Graph([tensor]).meets([y]) for tensor in every):
        since, (y, outputs) = sequence_number(), call()
        every, modules = held_by(f)
    own = [y, *copies]
    mine = {id(tensor) for tensor in own}
    made = {id(tensor) for tensor in every if _made_since(tensor, since)}
    ours = [tensor for tensor in every if id(tensor) not in mine and id(tensor) not in made]
    used = graph_tensors(outputs, own, ours, since, f=f)
    if all(tensor.grad_fn is None for tensor in (*ours, *used)):
        tensors = Captured(dict.fromkeys([*ours, *used]), f)
    else:
        tensors = _independent(Captured(used, f), ours, originals)
    stale = {id(tensor) for tensor in tensors.spare if tensor.grad_fn is not None}
    return tensors, Setting(modules, made | stale, outputs[0].device)


def _independent(used: Captured, held: list[Tensor], originals: Sequence[Tensor]) -> Captured:
    """The tensors that were used, and those of the others of which none is computed from another input."""
    inputs, below = dict.fromkeys(used), _Graph(used)
    for tensor in inputs:
        if tensor in below:
            above = next(x for x in used if x is not tensor and tensor in _Graph([x]))
            raise InvalidProblemError(
                f"f: captures both a tensor and another one computed from it before the solve, and uses both: "
                f"{used.name(tensor)}, and {used.name(above)}; expected the computed one in args, where its gradient is "
                "counted once, or DirectAdjoint()"
            )
    rest = [tensor for tensor in held if tensor not in inputs]
    inputs.update(dict.fromkeys(tensor for tensor in rest if tensor.grad_fn is None and tensor not in below))
    for tensor in rest:
        if tensor.grad_fn is not None and tensor not in below:
            alone = _Graph([tensor])
            if not alone.meets([*inputs, *originals]) and not _used_up({tensor.grad_fn, *alone.seen}):
                inputs[tensor] = None
                below = _Graph([tensor], below)
    return Captured(inputs, used.f, [tensor for tensor in rest if tensor not in inputs])


class _Graph:
    """What some tensors were computed from.

    Args:
        tensors: the tensors, which are not in it.
        more: another graph, which is.
    """

    def __init__(self, tensors: Iterable[Tensor], more: _Graph | None = None) -> None:
        nodes = {tensor.grad_fn for tensor in tensors if tensor.grad_fn is not None}
        self.waiting = [edge for node in nodes for edge in node.next_functions]
        self.more = more
        self.seen: set[Any] = set()
        self.edges: set[tuple[Any, int]] = set()
        self.leaves: set[int] = set()

    def __contains__(self, tensor: Tensor) -> bool:
        return self.meets([tensor]) or (self.more is not None and tensor in self.more)

    def meets(self, tensors: Sequence[Tensor]) -> bool:
        """Whether any of the tensors is in it; looks no further than to the first."""
        leaves = {id(tensor) for tensor in tensors if tensor.grad_fn is None}
        edges = {(tensor.grad_fn, tensor.output_nr) for tensor in tensors if tensor.grad_fn is not None}
        if not leaves.isdisjoint(self.leaves) or not edges.isdisjoint(self.edges):
            return True
        while self.waiting:
            edge = self.waiting.pop()
            node = edge[0]
            if node is None or edge in self.edges:
                continue
            self.edges.add(edge)
            leaf = None
            if node not in self.seen:
                self.seen.add(node)
                self.waiting.extend(node.next_functions)
                leaf = getattr(node, "variable", None)
            if leaf is not None:
                self.leaves.add(id(leaf))
            if edge in edges or id(leaf) in leaves:
                return True
        return False


def _used_up(nodes: Iterable[Any]) -> bool:
    """Whether a backward pass has freed what some of these nodes had saved, so that no other can go through them."""
    for node in nodes:
        for name in dir(node):
            if name == "saved_tensors" or name.startswith("_saved_"):
                try:
                    getattr(node, name)
                except RuntimeError:
                    return True
    return False


def _made_since(tensor: Tensor, since: int) -> bool:
    node: Any = tensor.grad_fn
    return node is not None and node._sequence_nr() >= since


def refuse_unknown(
    outputs: Iterable[Tensor],
    own: Iterable[Tensor],
    captured: list[Tensor],
    since: int,
    who: str = "f",
    walked: set[Any] | None = None,
) -> None:
    """Refuse a step whose graph ends in a tensor that is no input of the solve: its gradient would be lost."""
    known = {id(tensor) for tensor in captured}
    spare, f = (captured.spare, captured.f) if isinstance(captured, Captured) else ([], ())
    for tensor in graph_tensors(outputs, own, [*captured, *spare], since, who, f, walked):
        if id(tensor) in known:
            continue
        name = captured.name(tensor) if isinstance(captured, Captured) else f"a tensor of shape {tuple(tensor.shape)}"
        if any(tensor is x for x in spare):
            raise InvalidProblemError(
                f"{who}: uses {name} later in the solve and captures another tensor from which it was computed before the "
                "solve, or that was computed from it; expected the computed one in args, or DirectAdjoint()"
            )
        raise InvalidProblemError(
            f"{who}: uses {name} later in the solve that requires grad and that the "
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

    @property
    def same(self) -> bool:
        """Whether none of them was changed in place."""
        return all(tensor._version == version for tensor, version in zip(self.tensors, self.versions, strict=True))

    def check(self, grads: Sequence[Tensor | None] | None = None) -> None:
        """Refuse to differentiate at other values than those of the solve, where there is a gradient."""
        grads = self.tensors if grads is None else grads
        for tensor, version, grad in zip(self.tensors, self.versions, grads, strict=True):
            if grad is not None and tensor._version != version:
                raise RuntimeError(
                    f"a tensor of shape {tuple(tensor.shape)} that the solve uses was changed in place between the "
                    "solve and its backward pass (an optimizer step, say); call backward() before changing it"
                )


class First(NamedTuple):
    """The first call of the field, in the graph."""

    y0: Tensor
    """The initial state, a leaf."""
    slope: Tensor
    """The field there."""
    since: int
    """Autograd's sequence number before the call."""


def captured_by(
    job: Job, copies: Sequence[Tensor], originals: Sequence[Tensor], at: Scalar | None = None
) -> tuple[Captured, First, Setting]:
    """What the field captures, the field at the start (one call serves both), and what surrounds its calls.

    Args:
        job: the job; its state is where the field is called.
        copies: its own tensors.
        originals: those of the caller of which they are copies.
        at: the time at which the field is called; None: the start.
    """
    plan = job.plan
    t = plan.t0 if at is None else at
    y0 = job.y0.detach().requires_grad_()
    stop = plan.stops.after(t, plan.t1, plan.direction)
    field = plan.stops.one_sided(plan.field, t, stop, y0)
    integrals = [cost for cost in plan.costs if isinstance(cost, PathIntegral)]
    outputs: list[Tensor] = []
    since = sequence_number()

    def call() -> tuple[Tensor, list[Tensor]]:
        with torch.enable_grad():
            found = field.probe(t, y0)
            outputs[:] = *found, *(cost.density(plan.field, t, y0) for cost in integrals)
        return y0, outputs

    captured, setting = captured_tensors(job.callables, call, copies, originals)
    return captured, First(y0, outputs[0], since), setting
