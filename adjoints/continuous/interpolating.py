"""The continuous adjoints that read the state from the forward solve's dense output."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from neuralde.solvers.core.scalars import Scalar, choose
from neuralde.solvers.stepping.attempt import Carry, Plan, Trial

from ..capabilities import Capabilities
from ..shared.call_context import gradients_of_many
from .base import ContinuousAdjoint, Sweep
from .integrands import Quadrature


class GaussAdjoint(ContinuousAdjoint, rank=4):
    r"""Not exact (optimise-then-discretise): solves the adjoint equation on the dense output; parameters by Gauss quadrature.

    .. math:: \dot a = -a^\top \frac{\partial f}{\partial y}(t, u(t)), \qquad
              \frac{dL}{d\theta} = \int_{t_0}^{t_1} a^\top \frac{\partial f}{\partial \theta}(t, u(t)) \, dt

    with :math:`u` the dense output of the forward solve, so that nothing is reconstructed backwards and stiff or chaotic
    fields do no harm. The gradient is that of the continuous problem and converges with the tolerance; the backward
    solve has tolerances of its own. Memory: a polynomial per forward step. The integral is a Gauss quadrature over each
    backward step, so parameters neither steer the step size nor cost memory beyond a few gradients. A step is cut where
    forward steps end in it, and with error control the quadrature halves what it does not resolve to the backward
    tolerances, so that a parameter's share that oscillates faster than the cotangent is right too. Of the
    regularizers ``RunningCost`` and ``Local(...)`` only; no dense output, no double backward.

    At an event the cotangent jumps by the transpose of what the event does to a variation of the state: it moves the event's
    time by the implicit function theorem, and is changed by ``apply``. The backward solve goes from event to event.

    Args:
        solver: the method of the backward solve; the forward one if None.
        rtol: its relative tolerance; the forward one if None.
        atol: its absolute tolerance; the forward one if None.
        controller: its step-size control; the forward one if None.

    Raises:
        InvalidProblemError: an argument is wrong; in the solve, an option that the adjoint does not differentiate
            (``dense=True``, ``saveat="steps"``, a regularizer of the steps).
        ConvergenceError: in the backward pass, if the parameters' integral does not converge.
        SolveError: in the backward pass, if the backward solve fails.

    When to take it:
        Where the gradient of the equation is wanted and not that of its discretisation, with many parameters: the
        backward tolerances are then its own. Otherwise :class:`DiscreteAdjoint`, which is exact and usually faster.
        :class:`InterpolatingAdjoint` where the parameters' integral must steer the steps.

    References:
        Norcliffe, Deisenroth: Faster Training of Neural ODEs Using Gauss-Legendre Quadrature. TMLR 2023. Rackauckas et
        al.: Universal Differential Equations for Scientific Machine Learning. arXiv:2001.04385.

    Example:
        >>> import torch, neuralde as nde
        >>> k = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
        >>> problem = nde.ODEProblem(lambda t, y, k: -k * y, torch.ones((), dtype=torch.float64), (0.0, 1.0), (k,))
        >>> sol = nde.solve(problem, adjoint=nde.GaussAdjoint(), rtol=1e-8, atol=1e-8)
        >>> torch.autograd.grad(sol.y1, k)[0]
        tensor(-0.1353, dtype=torch.float64)
    """

    keeps_path = True
    capabilities = Capabilities(
        exact=False,
        memory="a polynomial per step",
        cost="a backward solve",
        saves=("end", "times"),
        dense=False,
        events=True,
        regularizers=False,
        many_cotangents=False,
    )

    def sweep(self, plan: Plan) -> type[Sweep]:
        """The cotangent alone."""
        del plan
        return _OnPath


class InterpolatingAdjoint(GaussAdjoint, rank=5):
    r"""Not exact (optimise-then-discretise): solves the adjoint equation on the dense output, parameters' integral included.

    As :class:`GaussAdjoint`, but the parameters' integral is part of the backward state, where the error control sees it:
    choose it where that integral itself is hard (parameters that matter for a short time only). The backward state is
    as large as the parameters; with ``per_sample`` as large as samples times parameters, and :class:`GaussAdjoint` is
    the better choice.

    .. math:: \frac{d}{dt} \begin{pmatrix} a \\ q \end{pmatrix} = -\begin{pmatrix} (\partial f / \partial y)^\top a \\
              (\partial f / \partial \theta)^\top a \end{pmatrix}(t, u(t)), \qquad \frac{dL}{d\theta} = q(t_0)

    Args:
        solver: the method of the backward solve; the forward one if None.
        rtol: its relative tolerance; the forward one if None.
        atol: its absolute tolerance; the forward one if None.
        controller: its step-size control; the forward one if None.

    Raises:
        InvalidProblemError: an argument is wrong; in the solve, an option that the adjoint does not differentiate
            (``dense=True``, ``saveat="steps"``, a regularizer of the steps).
        SolveError: in the backward pass, if the backward solve fails.

    When to take it:
        Where parameters matter for short times only, which a quadrature might miss, and are few. :class:`GaussAdjoint`
        in every other case.

    References:
        Rackauckas et al.: Universal Differential Equations for Scientific Machine Learning. arXiv:2001.04385.

    Example:
        >>> import torch, neuralde as nde
        >>> k = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
        >>> problem = nde.ODEProblem(lambda t, y, k: -k * y, torch.ones((), dtype=torch.float64), (0.0, 1.0), (k,))
        >>> sol = nde.solve(problem, adjoint=nde.InterpolatingAdjoint(), rtol=1e-8, atol=1e-8)
        >>> torch.autograd.grad(sol.y1, k)[0]
        tensor(-0.1353, dtype=torch.float64)
    """

    capabilities = Capabilities(
        exact=False,
        memory="a polynomial per step",
        cost="a backward solve that carries the parameters",
        saves=("end", "times"),
        dense=False,
        events=True,
        regularizers=False,
        many_cotangents=False,
    )

    def sweep(self, plan: Plan) -> type[Sweep]:
        """Cotangent and parameters."""
        del plan
        return _WithParameters


class _OnPath(Sweep):
    """The backward state is the cotangent."""

    affine = True

    def prepare(self) -> None:
        """The parameters' share is a quadrature."""
        self.quadrature = Quadrature(self.plan, self.parameters, self.integrands, self.path, self.data.adjoint.name)

    def state(self, t: Scalar) -> Tensor:
        """The forward solution."""
        assert self.path is not None
        return self.path.packed(t.reshape(-1) if self.plan.per_sample else t)

    def pack(self, y: Tensor, a: Tensor) -> Tensor:
        """The cotangent."""
        del y
        return a

    def unpack(self, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The cotangent, and the state as it was: the saved one takes its place."""
        return y, z

    def __call__(self, t: Scalar, z: Tensor) -> Tensor:
        """The cotangent's derivative."""
        return -self.pull(t, self.state(t), z, [])[1][0]

    def hear(self, plan: Plan, carry: Carry, trial: Trial) -> None:
        """Add a step's share."""
        self.quadrature.add(plan, carry, trial, self._read, self.allowed)

    def gradients(self) -> list[Tensor | None]:
        """The quadrature's sums."""
        return self.quadrature.total

    def _read(self, plan: Plan, carry: Carry, trial: Trial, node: Scalar) -> tuple[Tensor, Tensor]:
        del plan
        a = choose(trial.accept, trial.step.at(node), carry.y)
        return self.state(trial.t + node * (trial.t_end - trial.t)), a


class _WithParameters(_OnPath):
    """The backward state is one row (per sample: a row each) of the cotangent and the parameters' integrals."""

    def prepare(self) -> None:
        """The sums over the segments."""
        self.total = [torch.zeros_like(x) for x in self.parameters]
        self.touched: set[int] = set()

    def pack(self, y: Tensor, a: Tensor) -> Tensor:
        """The cotangent, and integrals that start at zero."""
        rows = self._rows(a)
        return torch.cat([rows, rows.new_zeros((len(rows), sum(x.numel() for x in self.parameters)))], dim=1)

    def join(self, of_state: Tensor, of_cotangent: Tensor, of_integrals: Tensor) -> Tensor:
        """The cotangent's, and the lane's for its integrals."""
        rows = self._rows(of_cotangent)
        integrals = of_integrals.reshape(-1, 1).expand(len(rows), sum(x.numel() for x in self.parameters))
        return torch.cat([rows, integrals], dim=1)

    def unpack(self, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The cotangent; the integrals are added to the sums."""
        a, shares = self._split(z, y)
        for total, share in zip(self.total, shares, strict=True):
            total += (share if total.is_complex() else share.real).sum(0).reshape(total.shape).to(total.dtype)
        return y, a

    def __call__(self, t: Scalar, z: Tensor) -> Tensor:
        """The derivatives of both."""
        y = self.state(t)
        a, _ = self._split(z, y)
        if self.plan.per_sample:
            pulled = self.pull(t, y, a, [])[1][0]
            shares = self._pull_each(t, y, a)
        else:
            _, (pulled, *shares) = self.pull(t, y, a, self.parameters, self.touched)
        parts = [part.reshape(len(z), -1) for part in (pulled, *shares)]
        return -torch.cat(parts, dim=1).to(z.dtype)

    def hear(self, plan: Plan, carry: Carry, trial: Trial) -> None:
        """Nothing to add: the shares are part of the state."""

    def gradients(self) -> list[Tensor | None]:
        """The sums; None for parameters on which the field does not depend."""
        return [total if place in self.touched else None for place, total in enumerate(self.total)]

    def _rows(self, a: Tensor) -> Tensor:
        return a.reshape(len(a), -1) if self.plan.per_sample else a.reshape(1, -1)

    def _split(self, z: Tensor, like: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
        size = like[0].numel() if self.plan.per_sample else like.numel()
        a, *shares = z.split([size, *(x.numel() for x in self.parameters)], dim=1)
        return a.reshape(like.shape), shares

    def _pull_each(self, t: Scalar, y: Tensor, a: Tensor) -> list[Tensor]:
        """Every sample's own pull on every parameter, ``(B, *parameter)``."""
        shapes = [(len(y), *x.shape) for x in self.parameters]
        with torch.enable_grad():
            slope = self.plan.field(t, y)
            outputs, cotangents = self.integrands.beside(t, y, slope, a)
        if not outputs or not self.parameters:
            return [y.new_zeros(shape) for shape in shapes]
        alone = [_each_alone(x) for x in cotangents]
        got = gradients_of_many(outputs, self.parameters, alone)
        self.touched.update(place for place, g in enumerate(got) if g is not None)
        return [y.new_zeros(shape) if g is None else g for g, shape in zip(got, shapes, strict=True)]


def _each_alone(x: Tensor) -> Tensor:
    """One copy for each sample, in which it alone is not zero: ``(B, B, ...)``."""
    return torch.eye(len(x), dtype=x.dtype, device=x.device).reshape(len(x), len(x), *[1] * (x.dim() - 1)) * x
