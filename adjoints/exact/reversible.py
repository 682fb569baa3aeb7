"""The gradient of a reversible method's solution, from states that are taken back."""

from __future__ import annotations

import torch

from neuralde.solvers.errors import InvalidProblemError

from ..capabilities import Capabilities
from .discrete import DiscreteAdjoint
from .replay import State, retreat
from .sweep import Sweep


class ReversibleAdjoint(DiscreteAdjoint, rank=2):
    r"""Exact (discretise-then-optimise), for reversible methods; keeps no states and takes each step back to differentiate it.

    The gradient is the one that :class:`DirectAdjoint` gives for the same method, up to the rounding that taking steps
    back collects: how far the state at the start is missed is measured, and beyond :math:`\sqrt\epsilon` of its size
    the backward pass refuses instead of giving a gradient. Memory: one state and the graph of a single step, whatever
    the number of steps (and two numbers for the time of each). Cost: the backward pass takes each step back and once
    more. With ``create_graph=True`` it takes all steps again as one graph, as :class:`DiscreteAdjoint` does.

    Raises:
        InvalidProblemError: in the solve, a method that is not reversible, or events; in the backward pass, if the
            start is missed by more than :math:`\sqrt\epsilon`.

    When to take it:
        For solves so long that even ``DiscreteAdjoint(checkpoints=...)`` is short of memory, on fields that do not
        contract much; it needs :class:`Reversible` or :class:`ReversibleHeun`, whose stability is weak. Exact, where
        :class:`BacksolveAdjoint` is not.

    References:
        McCallum, Foster: Efficient, Accurate and Stable Gradients for Neural ODEs. arXiv:2410.11648 (2024).

    Example:
        >>> import torch, neuralde as nde
        >>> y0 = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
        >>> problem = nde.ODEProblem(lambda t, y: -y, y0, (0.0, 1.0))
        >>> sol = nde.solve(problem, nde.Reversible(nde.Tsit5()), adjoint=nde.ReversibleAdjoint(), rtol=1e-8)
        >>> torch.autograd.grad(sol.y1, y0)[0]
        tensor(0.3679, dtype=torch.float64)
    """

    capabilities = Capabilities(
        exact=True,
        terms=("ODE", "SDE"),
        memory="one state",
        cost="each step back, again, and its gradient",
        solvers="reversible",
        double_backward=True,
    )

    def __init__(self) -> None:
        super().__init__(checkpoints=1)

    @property
    def sweep(self) -> type[Sweep]:
        """The sweep that takes steps back."""
        return _Backwards


class _Backwards(Sweep):
    """A backward pass whose states come from the end."""

    current: State | None = None

    def state_at(self, index: int) -> State:
        """The state before a step, which must be the last one not taken back yet."""
        record = self.run_data.recorder.records[index]
        after = self.run_data.final if self.current is None else self.current
        assert after is not None
        rows = record.rows
        with torch.no_grad():
            before = retreat(self.plan, record, after if rows is None else tuple(x[rows] for x in after))
            self.current = before
            if rows is not None:
                self.current = tuple(whole.index_copy(0, rows, x) for whole, x in zip(after, before, strict=True))
        return before

    def probed(self) -> int | None:
        """No state was kept to compare with but the first."""
        return None

    def finish(self) -> None:
        """Refuse a gradient along a trajectory that has not come back to its start."""
        if self.current is None:
            return
        pairs = list(zip(self.current, self.start, strict=True))
        missed, size = (max(x.abs().amax().item() for x in xs) for xs in ([a - b for a, b in pairs], self.start))
        final = () if self.run_data.final is None else self.run_data.final
        largest = max(size, *(x.abs().amax().item() for x in final))
        allowed = torch.finfo(self.start[0].dtype).eps ** 0.5 * largest
        if not missed <= allowed:
            raise InvalidProblemError(
                f"adjoint: ReversibleAdjoint took the steps back and missed y0 by {missed:.2g} (states of size "
                f"{largest:.2g}): rounding has grown too much, or the field has changed since the solve; expected fewer "
                "steps, a coupling nearer 1, float64, or DiscreteAdjoint(checkpoints=...)"
            )
