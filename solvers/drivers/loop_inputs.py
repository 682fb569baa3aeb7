"""What the loop of a graph takes from outside: numbers that change, and tensors that share memory.

Dynamo makes an input of the loop of everything that its body takes from outside, wherever it comes from: arguments,
closures, attributes. The loop operator refuses two kinds of inputs that valid code has, and both are changed here on their
way in:

- **Symbolic floats**, which ``torch.compile`` makes of a Python float when it has changed. Where one is a term or a factor it
  goes in as a 0-d tensor, which gives the same numbers; everywhere else it becomes a constant of the graph, guarded by its value.
- **Two tensors that share memory**, such as a weight and its transpose: the second one goes in as a copy.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

_NAMES = "add sub mul truediv div pow iadd isub imul itruediv lt le gt ge where clamp".split()
_TENSOR_WILL_DO: frozenset[Any] = frozenset(
    (*_NAMES, *(getattr(owner, name) for owner in (operator, torch) for name in _NAMES if hasattr(owner, name)))
)
"""Functions and methods of tensors that give the same for a 0-d tensor as for a number."""
_OF_NUMBERS: frozenset[Any] = frozenset(
    getattr(operator, name) for name in (*_NAMES[:-3], "neg") if hasattr(operator, name)
)
"""Arithmetic that Python does with numbers alone, and which stays outside of the loop."""


@dataclass
class _Taken:
    """What the loop has taken: of each symbol its tensor, of each memory the tensors that lie in it."""

    numbers: dict[Any, Any] = field(default_factory=dict)
    memories: dict[int, dict[str, Any]] = field(default_factory=dict)


@torch.compiler.assume_constant_result
def take_from_outside() -> None:
    """Change what the subgraph that is being traced takes from outside; called at its beginning, while it is traced.

    There is no public place at which to say how: two methods of dynamo's tracer of this one subgraph are replaced. They end
    with it.
    """
    from torch._dynamo.symbolic_convert import InstructionTranslator

    tracer = InstructionTranslator.current_tx().output.current_tracer
    create, lift = tracer.create_proxy, tracer.lift_tracked_freevar_to_input
    taken = _Taken()

    def symbol(x: Any) -> bool:
        return _is_symbol(x) and x.tracer is not tracer

    def constant(x: Any) -> Any:
        return _guarded(x) if symbol(x) else x

    def tensor(x: Any) -> Any:
        if not symbol(x):
            return x
        if x.node not in taken.numbers:
            taken.numbers[x.node] = _as_tensor(x, tensor)
        return taken.numbers[x.node]

    def create_proxy(kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **more: Any) -> Any:
        inputs = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, torch.fx.Proxy)]
        if inputs and target in _OF_NUMBERS and all(map(symbol, inputs)):
            return inputs[0].tracer.create_proxy(kind, target, args, kwargs, *rest, **more)
        if any(map(symbol, inputs)):
            change = tensor if _tensor_will_do(target, args, kwargs) else constant
            args, kwargs = pytree.tree_map(change, (args, kwargs))
        return create(kind, target, args, kwargs, *rest, **more)

    def lift_tracked_freevar_to_input(proxy: Any) -> Any:
        return _guarded(proxy) if symbol(proxy) else lift(_alone(proxy, taken))

    tracer.create_proxy = create_proxy  # type: ignore[method-assign]
    tracer.lift_tracked_freevar_to_input = lift_tracked_freevar_to_input  # type: ignore[method-assign]


def _is_symbol(x: Any) -> bool:
    return isinstance(x, torch.fx.Proxy) and isinstance(x.node.meta.get("example_value"), torch.SymFloat)


def _guarded(symbol: Any) -> Any:
    """A symbol's value, from now on a guard of the graph."""
    from torch.fx.experimental.symbolic_shapes import guard_scalar

    return guard_scalar(symbol.node.meta["example_value"])


def _alone(proxy: Any, taken: _Taken) -> Any:
    """The tensor, or where another one with its memory is taken already, a copy."""
    value = proxy.node.meta.get("example_value")
    if not isinstance(value, Tensor) or value.layout is not torch.strided:
        return proxy
    node, kept = proxy.node, taken.memories.setdefault(value.untyped_storage()._cdata, {})
    # Each use of a property, such as ``W.T``, is a node of its own.
    key = node.name if node.op == "placeholder" else f"{node.target} {node.args} {node.kwargs}"
    if key not in kept:
        kept[key] = _made(proxy, torch.clone) if kept else proxy
    return kept[key]


def _made(proxy: Any, function: Any, **options: Any) -> Any:
    """A function of what is outside, in the graph that it belongs to."""
    made = proxy.tracer.create_proxy("call_function", function, (proxy,), options)
    value = proxy.node.meta["example_value"]
    with proxy.tracer.output_graph.fake_mode:
        made.node.meta["example_value"] = function(value if isinstance(value, Tensor) else 0.0, **options)
    return made


def _as_tensor(symbol: Any, tensor: Any) -> Any:
    """A symbol as a 0-d tensor; of one that was computed from others the same computation with their tensors.

    Compilers turn the tensor of an input's symbol into an input, and guard the value of any other one.
    """
    node = symbol.node
    if node.op != "call_function" or node.target not in _OF_NUMBERS or node.kwargs:
        # As a product, which compilers can rewrite with the input's own tensor; one that is filled they cannot.
        one = symbol.tracer.create_proxy("call_function", torch.ones, ((),), {"dtype": torch.float64})
        made = symbol.tracer.create_proxy("call_function", operator.mul, (one, symbol), {})
        with symbol.tracer.output_graph.fake_mode:
            one.node.meta["example_value"] = torch.ones((), dtype=torch.float64)
            made.node.meta["example_value"] = torch.zeros((), dtype=torch.float64)
        return made
    args = [tensor(torch.fx.Proxy(x, symbol.tracer)) if isinstance(x, torch.fx.Node) else x for x in node.args]
    made = symbol.tracer.create_proxy("call_function", node.target, tuple(args), {})
    with symbol.tracer.output_graph.fake_mode:
        values = [x.node.meta["example_value"] if isinstance(x, torch.fx.Proxy) else x for x in args]
        made.node.meta["example_value"] = node.target(*values)
    return made


def _tensor_will_do(target: Any, args: Any, kwargs: Any) -> bool:
    """Whether the operation gives the same, dtype included, for a 0-d float64 tensor in the place of a number."""
    if target not in _TENSOR_WILL_DO:
        return False
    if target in (torch.clamp, "clamp"):
        if len(args) + len(kwargs) != 2:
            return False  # both bounds are tensors, or none
    elif any(map(_is_symbol, kwargs.values())):
        return False  # such as alpha
    nodes = [getattr(x, "node", None) for x in pytree.tree_leaves((args, kwargs))]
    values = [node.meta.get("example_value") for node in nodes if node is not None]
    return any(
        isinstance(x, Tensor)
        and (x.is_floating_point() or x.is_complex())
        and (x.dim() > 0 or x.dtype in (torch.float64, torch.complex128))
        for x in values
    )
