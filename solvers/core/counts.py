"""What steps count beside their calls of the field, as one tree that every driver carries.

A further counter is a field of :class:`Counts` and of :class:`Stats`, here; nothing else names them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .scalars import Scalar, select


class Counts(NamedTuple):
    """What a step of an implicit method counts, each a number, or one for each sample."""

    jacobians: Scalar = 0
    factorizations: Scalar = 0
    linear_solves: Scalar = 0
    newton_iterations: Scalar = 0
    newton_failures: Scalar = 0

    def plus(self, more: Counts, running: Scalar) -> Counts:
        """With what one more attempt counted, in the lanes that made it."""
        return Counts(*[total + select(running, count, 0) for total, count in zip(self, more, strict=True)])


@dataclass(frozen=True)
class Stats:
    """Counts of a solve: ints, or ``(B,)`` tensors with ``per_sample`` (0-d tensors under ``torch.compile``).

    Attributes:
        nfe: calls of the field, those of the first-step heuristic and of the dense output included.
        steps: attempted steps.
        accepted: accepted steps.
        rejected: rejected steps, those that failed included.
        diffusion_evaluations: calls of an SDE's diffusion, those that looked at its shape included; ``nfe`` then counts
            those of the drift.
        masked: further calls of the field, in attempts of a block (``driver=Blocks()``) that found every lane arrived.
        jacobians: Jacobians of the field; its calls for them are not in ``nfe``. This and what follows is 0 for explicit
            methods.
        factorizations: factorizations of a step's matrix.
        linear_solves: linear systems solved with them.
        newton_iterations: iterations of the steps' nonlinear equations.
        newton_failures: attempts whose equations were not solved; they are among ``rejected``.

    Example:
        >>> import torch, neuralde as nde
        >>> stats = nde.solve(nde.ODEProblem(lambda t, y: -y, torch.ones(1), (0.0, 1.0))).stats
        >>> stats.steps == stats.accepted + stats.rejected
        True
    """

    nfe: Any
    steps: Any
    accepted: Any
    rejected: Any
    diffusion_evaluations: Any = field(default=0, repr=False, kw_only=True)
    masked: int = field(default=0, repr=False, kw_only=True)
    jacobians: Any = field(default=0, repr=False, kw_only=True)
    factorizations: Any = field(default=0, repr=False, kw_only=True)
    linear_solves: Any = field(default=0, repr=False, kw_only=True)
    newton_iterations: Any = field(default=0, repr=False, kw_only=True)
    newton_failures: Any = field(default=0, repr=False, kw_only=True)
