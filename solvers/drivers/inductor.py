"""Where torch's compiler is wrong, kept out of its way. Imported while a graph is traced: eager solves need none of it."""

from __future__ import annotations

import torch
from torch._functorch import config
from torch.fx import GraphModule


@torch.compiler.assume_constant_result
def keep_saved_tensors() -> None:
    """Forbid the backward graphs of this process to overwrite what the forward saved for them.

    Runs while a graph is traced, before its backward is compiled. Inductor marks what a backward graph may overwrite by
    position, and reads the inputs of a loop's body by the same positions: it overwrote parameters and saved states between
    iterations, and gradients were wrong by a fifth without a word (pytorch/pytorch#192840, seen in 2.13).
    """
    config.donated_buffer = False


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
