"""The continuous adjoint, solved backwards beside the state."""

from __future__ import annotations

import torch
from torch import Tensor

from neuralde.solvers.attempt import Carry, Plan, Trial
from neuralde.solvers.scalars import Scalar, choose

from .capabilities import Capabilities
from .continuous import ContinuousAdjoint, Sweep
from .integrands import Quadrature


class BacksolveAdjoint(ContinuousAdjoint):
    r"""Not exact: solves the adjoint equation backwards, reconstructing the state on the way; O(1) memory.

    .. math:: \dot a = -a^\top \frac{\partial f}{\partial y}, \qquad
              \frac{dL}{d\theta} = \int_{t_0}^{t_1} a^\top \frac{\partial f}{\partial \theta} \, dt

    The gradient is that of the continuous problem: it differs from the derivative of the numerical solution by an error
    that converges with the tolerance, and it is wrong where the state cannot be reconstructed backwards (stiff or
    chaotic fields). Prefer :class:`DiscreteAdjoint`, or
    :class:`GaussAdjoint` among the continuous ones, unless memory forbids it. The state is reset to the saved one at
    each save time. Parameters are not part of the backward state: their integral is a Gauss quadrature over each
    accepted step, so they neither steer the step size (what others call the seminorm) nor cost memory beyond one
    gradient. Of the regularizers ``RunningCost`` and ``Local(...)`` only; no dense output, no double backward. At an event
    the state is reset to what it was there, and the cotangent jumps as :class:`GaussAdjoint` says.

    Args:
        solver: the method of the backward solve; the forward one if None.
        rtol: its relative tolerance; the forward one if None.
        atol: its absolute tolerance; the forward one if None.
        controller: its step-size control; the forward one if None.

    References:
        Chen, Rubanova, Bettencourt, Duvenaud: Neural Ordinary Differential Equations. NeurIPS 2018. Kidger, Chen,
        Lyons: "Hey, that's not an ODE": Faster ODE Adjoints via Seminorms. ICML 2021.

    Example:
        >>> import torch, neuralde as nde
        >>> y0 = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
        >>> problem = nde.ODEProblem(lambda t, y: -y, y0, (0.0, 1.0))
        >>> sol = nde.solve(problem, adjoint=nde.BacksolveAdjoint(), rtol=1e-8, atol=1e-8)
        >>> torch.autograd.grad(sol.y1, y0)[0]
        tensor(0.3679, dtype=torch.float64)
    """

    capabilities = Capabilities(
        exact=False,
        solvers="not reversible",
        memory="the end, the saved states",
        cost="a backward solve of twice the size",
        saves=("end", "times"),
        dense=False,
        events=True,
        regularizers=False,
        many_cotangents=False,
    )

    @property
    def sweep(self) -> type[Sweep]:
        """State and cotangent together."""
        return _Pair


class _Pair(Sweep):
    """The state is reconstructed beside the cotangent, the two stacked in one tensor."""

    def prepare(self) -> None:
        """The parameters' share is a quadrature."""
        self.quadrature = Quadrature(self.plan, self.parameters, self.integrands)

    def pack(self, y: Tensor, a: Tensor) -> Tensor:
        """One tensor."""
        return torch.stack([y, a], dim=self._pair_dim)

    def unpack(self, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The two again."""
        del y
        state, a = z.unbind(self._pair_dim)
        return state, a

    def slope(self, t: Scalar, z: Tensor) -> Tensor:
        """The field of both."""
        y, a = z.unbind(self._pair_dim)
        slope, (pulled,) = self.pull(t, y, a, [])
        return torch.stack([slope, -pulled], dim=self._pair_dim)

    def hear(self, plan: Plan, carry: Carry, trial: Trial) -> None:
        """Add a step's share."""
        self.quadrature.add(plan, carry, trial, self._read)

    def gradients(self) -> list[Tensor | None]:
        """The quadrature's sums."""
        return self.quadrature.total

    @property
    def _pair_dim(self) -> int:
        return 1 if self.plan.per_sample else 0

    def _read(self, plan: Plan, carry: Carry, trial: Trial, node: float) -> tuple[Tensor, Tensor]:
        del plan
        y, a = choose(trial.accept, trial.step.at(node), carry.y).unbind(self._pair_dim)
        return y, a
