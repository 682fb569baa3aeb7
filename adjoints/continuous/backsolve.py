"""The continuous adjoint, solved backwards beside the state."""

from __future__ import annotations

from neuralde.solvers.errors import InvalidProblemError
from neuralde.solvers.methods.base import Method
from neuralde.solvers.stepping.attempt import Plan

from ..base import Job
from ..capabilities import Capabilities
from .augmented_state import NoisyPair, Pair, noisy_method
from .base import ContinuousAdjoint, Sweep


class BacksolveAdjoint(ContinuousAdjoint, rank=6):
    r"""Not exact (optimise-then-discretise): solves the adjoint equation backwards, reconstructing the state; O(1) memory.

    .. math:: \dot a = -a^\top \frac{\partial f}{\partial y}, \qquad
              \frac{dL}{d\theta} = \int_{t_0}^{t_1} a^\top \frac{\partial f}{\partial \theta} \, dt

    The gradient is that of the continuous problem: it differs from the derivative of the numerical solution by an error
    that converges with the tolerance, and it is wrong where the state cannot be reconstructed backwards (stiff or
    chaotic fields). Prefer :class:`DiscreteAdjoint`, or
    :class:`GaussAdjoint` among the continuous ones, unless memory forbids it. The state is reset to the saved one at
    each save time. Parameters are not part of the backward state: their integral is a Gauss quadrature over each
    accepted step, so they neither steer the step size (what others call the seminorm) nor cost memory beyond a few
    gradients. With error control the quadrature halves what it does not resolve to the backward tolerances.

    Of an SDE the backward equation is driven by the same path run backwards, and is solved as a Stratonovich equation:

    .. math:: da = -a^\top \Bigl(\frac{\partial f}{\partial y}\, dt
              + \sum_j \frac{\partial g_j}{\partial y} \circ dW_j\Bigr), \qquad
              f_{\text{Stratonovich}} = f_{\text{Ito}} - \tfrac12 \sum_j (D g_j)\, g_j

    whatever the forward method is. Its distance from the exact gradient of the same steps shrinks like dt; of an Ito
    equation whose noises do not commute like the square root of dt. An Ito equation needs a diffusion that is
    differentiable twice, and one whose entries depend on what their own noise moves only: others are refused.

    Of the regularizers ``RunningCost`` and ``Local(...)`` only; no dense output, no double backward. At an event the
    state is reset to what it was there, and the cotangent jumps as :class:`GaussAdjoint` says.

    Args:
        solver: the method of the backward solve; the forward one if None. Of an SDE's a Runge-Kutta method of order 2
            or more, :class:`Heun` if None.
        rtol: its relative tolerance; the forward one if None.
        atol: its absolute tolerance; the forward one if None.
        controller: its step-size control; the forward one if None.

    Raises:
        InvalidProblemError: an argument is wrong; in the solve, an option that the adjoint does not differentiate
            (``dense=True``, ``saveat="steps"``, a regularizer of the steps).
        SolveError: in the backward pass, if the backward solve fails.

    When to take it:
        Where neither the states of all steps nor a polynomial for each fit into memory, and the field is neither stiff
        nor chaotic backwards. :class:`GaussAdjoint` is the continuous adjoint otherwise, :class:`ReversibleAdjoint` the
        exact one with O(1) memory, :class:`DiscreteAdjoint` with ``checkpoints`` the exact one with memory that is
        chosen.

    References:
        Chen, Rubanova, Bettencourt, Duvenaud: Neural Ordinary Differential Equations. NeurIPS 2018. Kidger, Chen,
        Lyons: "Hey, that's not an ODE": Faster ODE Adjoints via Seminorms. ICML 2021. Li, Wong, Chen, Duvenaud:
        Scalable Gradients for Stochastic Differential Equations. AISTATS 2020.

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
        terms=("ODE", "SDE"),
        memory="the end, the saved states",
        cost="a backward solve of twice the size",
        saves=("end", "times"),
        dense=False,
        events=True,
        regularizers=False,
        many_cotangents=False,
    )

    def sweep(self, plan: Plan) -> type[Sweep]:
        """State and cotangent together."""
        return NoisyPair if plan.field.random else Pair

    def backward_method(self, job: Job) -> Method:
        """The method of the backward solve; of an SDE's one that solves Stratonovich equations."""
        solver = job.plan.method if self.solver is None else self.solver
        if solver.implicit:
            raise InvalidProblemError(
                f"solver: got {solver!r} for the backward solve of BacksolveAdjoint, which takes the state back too, where a stiff "
                "field grows as fast as it decays forwards; expected GaussAdjoint(), or BacksolveAdjoint(Tsit5())"
            )
        return noisy_method(job, self.solver) if job.plan.field.random else super().backward_method(job)
