"""Which of torch's own transforms and tools go with which adjoint, as data: tested cell by cell, printed in the docs."""

from __future__ import annotations

from typing import NamedTuple

from .base import Adjoint
from .capabilities import every_adjoint


class Way(NamedTuple):
    """One way to use a solve together with something of torch.

    It works with the adjoints that have the capability ``needs``, or with all; the others refuse it by name. It always
    works with ``adjoint=None``, and with the driver :class:`Blocks` where ``blocks`` says so.
    """

    name: str
    needs: str | None = None
    blocks: bool = True

    def works(self, kind: type[Adjoint] | None) -> bool:
        """Whether it works with this adjoint; None is ``adjoint=None``.

        >>> import neuralde as nde
        >>> [Way("jvp", "forward_mode").works(kind) for kind in (None, nde.DirectAdjoint, nde.GaussAdjoint)]
        [True, True, False]
        """
        return kind is None or self.needs is None or bool(getattr(kind.capabilities, self.needs))


WAYS = (
    Way("`torch.func.vmap` over `y0`", "forward_mode", blocks=False),
    Way("`torch.func.vmap` over `args`", "forward_mode", blocks=False),
    Way("`torch.func.vmap` over parameters (`functional_call`)", "forward_mode", blocks=False),
    Way("`torch.func.jvp`, `torch.autograd.forward_ad`", "forward_mode", blocks=False),
    Way("`torch.func.grad` over parameters", "forward_mode", blocks=False),
    Way("`torch.func.jacrev`", "forward_mode", blocks=False),
    Way("`torch.func.jacfwd`", "forward_mode", blocks=False),
    Way("`torch.func.hessian`", "forward_mode", blocks=False),
    Way("`vmap` of `jacrev`", "forward_mode", blocks=False),
    Way("`torch.func.vmap` over a backward pass", "many_cotangents"),
    Way("`is_grads_batched`, `jacobian(vectorize=True)`", "many_cotangents"),
    Way("double backward (`create_graph=True`)", "double_backward"),
    Way("`torch.func` inside the field"),
    Way("`no_grad`, `inference_mode`"),
    Way("autocast to bfloat16"),
    Way("`torch.compile` of the solve", "compiles", blocks=False),
    Way("a compiled field in an eager solve", "compiled_field"),
    Way("`torch.utils.checkpoint`"),
    Way("`functional_call` of a whole model"),
    Way("hooks, `retain_grad`, anomaly mode"),
    Way("`copy.deepcopy` of a model"),
    Way("`state_dict`, pickle"),
    Way("`DistributedDataParallel`"),
    Way("shared, unused and frozen parameters"),
    Way("`driver=nde.Blocks()`"),
)
"""Every way that is tested."""


def columns() -> list[type[Adjoint] | None]:
    """``adjoint=None`` and the adjoints for ordinary differential equations.

    >>> columns()[0] is None
    True
    """
    return [None, *(kind for kind in every_adjoint() if "ODE" in kind.capabilities.terms)]


def composability() -> str:
    """What goes together as a Markdown table: a row for each way, a column for each adjoint and one for blocks.

    Returns:
        A Markdown table.

    When to take it:
        Before a solve is put under ``torch.func``, ``torch.compile``, hooks or a second backward pass.

    Example:
        >>> import neuralde as nde
        >>> print(nde.adjoints.composability().splitlines()[2])
        | `torch.func.vmap` over `y0` | yes | no | yes | no | yes | no | no | no | no |
    """
    kinds = columns()
    names = ["`None`" if kind is None else f"`{kind.__name__}`" for kind in kinds]
    names.append("`None`, `driver=nde.Blocks()`")
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for way in WAYS:
        cells = ["yes" if works else "no" for works in (*(way.works(kind) for kind in kinds), way.blocks)]
        lines.append(f"| {way.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
