"""Where torch's compiler is wrong, kept out of its way. Imported while a graph is traced: eager solves need none of it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._functorch import config

from ..brownian.arguments import mixed


@torch.compiler.assume_constant_result
def keep_saved_tensors() -> None:
    """Forbid the backward graphs of this process to overwrite what the forward saved for them.

    Runs while a graph is traced, before its backward is compiled. Inductor marks what a backward graph may overwrite by
    position, and reads the inputs of a loop's body by the same positions: it overwrote parameters and saved states between
    iterations, and gradients were wrong by a fifth without a word (pytorch/pytorch#192840, seen in 2.13).
    """
    config.donated_buffer = False


# Graphs call this operator and do not see into it. Inductor writes the product of a loop's counter and the constant as a
# signed product that overflows, from which the C++ compiler concludes that the loop ends early, and lets it run on past
# the end of its buffer.
opaque_mixed = torch.library.custom_op("neuralde::brownian_keys", mutates_args=())(mixed)


@opaque_mixed.register_fake
def _(seed: Tensor, numbers: Tensor, places: int) -> Tensor:
    return numbers.new_empty(numbers.shape[0], places)
