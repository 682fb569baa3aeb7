"""The keys of a path as one operator, for graphs. Imported while a graph is traced: eager solves need none of it."""

from __future__ import annotations

import torch
from torch import Tensor

from .arguments import mixed

# Graphs call this operator and do not see into it. Inductor writes the product of a loop's counter and the constant as a
# signed product that overflows, from which the C++ compiler concludes that the loop ends early, and lets it run on past
# the end of its buffer.
opaque_mixed = torch.library.custom_op("neuralde::brownian_keys", mutates_args=())(mixed)


@opaque_mixed.register_fake
def _(seed: Tensor, numbers: Tensor, places: int) -> Tensor:
    return numbers.new_empty(numbers.shape[0], places)
