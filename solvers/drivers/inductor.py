"""Where torch's compiler is wrong, kept out of its way. Imported while a graph is traced: eager solves need none of it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._functorch import config
from torch.fx import GraphModule

from ..paths.brownian.arguments import mixed


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


# Graphs call this operator and do not see into it. Inductor writes the product of a loop's counter and the constant as a
# signed product that overflows, from which the C++ compiler concludes that the loop ends early, and lets it run on past
# the end of its buffer.
opaque_mixed = torch.library.custom_op("neuralde::brownian_keys", mutates_args=())(mixed)


@opaque_mixed.register_fake
def _(seed: Tensor, numbers: Tensor, places: int) -> Tensor:
    return numbers.new_empty(numbers.shape[0], places)
