"""The gradient of an exact adjoint as a graph of its own, for those who differentiate it again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from neuralde.solvers.core.torch_private import sequence_number

from ..base import Job
from ..shared.captured_tensors import refuse_unknown
from ..shared.carried import Carried
from ..shared.outputs import Cotangents
from .replay import Record, State, retake


class _Aliases:
    """Aliases of tensors at which one gradient ends, though the graph goes on to what the tensors were made from.

    A gradient of the outputs with respect to an argument and to a tensor from which the caller computed that argument must
    not count the way through the argument twice. So each alias keeps the gradient that reaches it and passes zeros on,
    until :meth:`gradients` has been read; derivatives of that gradient then go all the way.
    """

    def __init__(self) -> None:
        self.aliases: list[Tensor] = []
        self.got: dict[int, Tensor] = {}

    def __call__(self, tensor: Tensor) -> Tensor:
        """An alias of the tensor; the tensor itself where its gradient is not asked for."""
        alias = tensor.view_as(tensor)
        self.aliases.append(alias)
        return alias

    def _keep(self, place: int, gradient: Tensor) -> Tensor:
        self.got[place] = gradient
        return torch.zeros_like(gradient)

    def gradients(
        self, outputs: Sequence[Tensor], cotangents: Sequence[Tensor], captured: Sequence[Tensor]
    ) -> list[Tensor | None]:
        """The gradients of the aliases in the order in which they were made, then those of captured tensors."""
        if not outputs:
            return [None] * (len(self.aliases) + len(captured))
        # Not before: a field that differentiates with respect to what it is given would meet them.
        hooks = [
            alias.register_hook(partial(self._keep, place))
            for place, alias in enumerate(self.aliases)
            if alias.requires_grad
        ]
        wanted = [*(alias for alias in self.aliases if alias.requires_grad), *captured]
        got = torch.autograd.grad(outputs, wanted, cotangents, create_graph=torch.is_grad_enabled(), allow_unused=True)
        for hook in hooks:
            hook.remove()
        return [*(self.got.get(place) for place in range(len(self.aliases))), *got[len(got) - len(captured) :]]


def gradient_again(
    job: Job,
    captured: Sequence[Tensor],
    carried: Carried,
    records: Sequence[Record],
    cotangents: Cotangents,
    seen: Callable[[int, State], None],
    memory: State | None = None,
) -> list[Tensor | None]:
    """The gradient, in the graph: of the recorded steps, taken again as one graph that is differentiated as a whole.

    Args:
        job: the job with the caller's tensors.
        captured: what else the solve depends on.
        carried: what is carried beside the state at the start, in the caller's graph.
        records: the accepted steps.
        cotangents: those of the outputs.
        seen: hears of the state after each step.
        memory: the method's in front of the first step; None: as the method starts it at ``y0``.

    Returns:
        The gradients of ``y0``, of ``memory``, of ``job.live``, of the captured tensors and of ``carried``.
    """
    aliases = _Aliases()
    with torch.enable_grad():
        since = sequence_number()
        job = replace(job, y0=aliases(job.y0))
        memory = None if memory is None else tuple(map(aliases, memory))
        job, copies = job.copied(aliases)
        again = retake(job, records, carried.map(aliases), seen, memory)
        outputs = again.outputs(job.y0, job.plan.per_sample)
    pairs = [
        (x, cotangent)
        for x, cotangent in zip(outputs.flat, cotangents.flat, strict=True)
        if x is not None and cotangent is not None and x.requires_grad
    ]
    # The graph goes on behind the aliases, but not in search of tensors that are unknown.
    known = [*aliases.aliases, *captured]
    refuse_unknown([x for x, _ in pairs], known, known, since)
    captured_at = 1 + len(memory or ()) + len(copies)
    got = aliases.gradients([x for x, _ in pairs], [cotangent for _, cotangent in pairs], captured)
    count = len(got) - len(captured)
    return [*got[:captured_at], *got[count:], *got[captured_at:count]]
