"""Where torch's compiler is wrong, kept out of its way. Imported while a graph is traced: eager solves need none of it."""

from __future__ import annotations

from typing import Any

import torch
from torch._functorch import config
from torch.fx import GraphModule

# The setting of the process, while one of this library's graphs is compiled with another.
_before: list[bool] = []


@torch.compiler.assume_constant_result
def keep_saved_tensors() -> None:
    """Forbid the backward graph of the function that is being compiled to overwrite what its forward saved.

    Runs while a graph is traced; the setting goes back when the compiler is done with it. What it decides is decided while
    the forward graph is compiled, also where the backward one follows later. Inductor marks what a backward graph may
    overwrite by position, and reads the inputs of a loop's body by the same positions: it overwrote parameters and saved
    states between iterations, and gradients were wrong by a fifth without a word (pytorch/pytorch#192840, seen in 2.13).
    """
    from torch._dynamo.callback import callback_handler

    if not _before:
        _before.append(config.donated_buffer)
    config.donated_buffer = False
    if _put_back not in callback_handler.end_callbacks:
        callback_handler.register_end_callback(_put_back)


def _put_back(_: Any) -> None:
    if _before:
        config.donated_buffer = _before.pop()


@torch.compiler.assume_constant_result
def reverse_mode_inside() -> bool:
    """Whether a loop's body takes a derivative by reverse mode itself.

    Runs while a graph is traced, behind the loop. The gradient of torch's loop operator leaves out what goes through
    ``torch.func.grad`` (``vjp``, ``jacrev``) in its body, without a word (seen in 2.13); ``torch.func.jvp`` it follows.
    """
    from torch._dynamo.symbolic_convert import InstructionTranslator

    modules = InstructionTranslator.current_tx().output.nn_modules.values()
    targets = (node.target for part in modules if isinstance(part, GraphModule) for node in part.graph.nodes)
    return any(getattr(target, "__name__", "") in ("_autograd_grad", "grad") for target in targets)
