"""Integrals along the path as penalties: how fast, how bent and how sensitive the dynamics are."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from neuralde.solvers import InvalidProblemError, Method
from neuralde.solvers.checks import integer
from neuralde.solvers.core.scalars import Scalar
from neuralde.solvers.stepping.quadrature import gauss_points
from neuralde.solvers.stepping.reductions import StepView

from .base import StepReduction


class KineticEnergy(StepReduction):
    r"""The kinetic energy of the path, :math:`\int \|f(t, y)\|^2 \, dt`: straight, slow paths are easy to solve.

    .. math:: R_K = \operatorname{reduce}_j |h_j|^p \sum_i b_i \|k_{j,i}\|^2

    over the stages :math:`k_{j,i}` and weights :math:`b_i` that the step is made of. With the defaults that is what the
    method itself would get for the integral as a further component of the state, to its full order, and it costs no call
    of the field.

    Args:
        norm: ``"mean"`` (default), over the entries of the state, or ``"sum"``.
        reduction: ``"sum"`` (the integral), ``"mean"`` or ``"max"`` over the steps.
        dt_power: :math:`p`, 1.

    Shapes:
        0-d; ``(B,)`` with ``per_sample``.

    Units:
        State squared per time with the defaults.

    Raises:
        InvalidProblemError: ``norm`` or ``reduction`` is none of those accepted; in the solve, a method for SDEs, or
            one whose steps are no weighted sum of slopes.

    When to take it:
        To make the trajectories of a flow straight, as in continuous normalizing flows, often beside
        :class:`JacobianFrobenius`. It acts on the equation, not on the solver: its weight holds at every tolerance. To
        lower the cost as such, :class:`StepCount` or :class:`TaylorDerivative` aim nearer.

    References:
        Finlay, Jacobsen, Nurbekyan, Oberman: How to Train Your Neural ODE: the World of Jacobian and Kinetic
        Regularization. ICML 2020.

    Example:
        >>> import torch, neuralde as nde
        >>> problem = nde.ODEProblem(lambda t, y: -y, torch.ones(2, dtype=torch.float64), (0.0, 1.0))
        >>> sol = nde.solve(problem, rtol=1e-8, atol=1e-8, regularizers=[nde.regularizers.KineticEnergy()])
        >>> round(sol.regularization[0].item(), 6)  # (1 - exp(-2)) / 2
        0.432332
    """

    def __init__(self, *, norm: str = "mean", reduction: str = "sum", dt_power: float = 1) -> None:
        super().__init__(reduction, dt_power)
        self.norm = checked_norm(norm)

    def check(self, method: Method) -> None:
        """Refuse a method that integrates noise, and one whose steps are no weighted sum of slopes."""
        refuse_noise(method, type(self).__name__)
        if not method.sums_slopes:
            raise InvalidProblemError(
                f"regularizers: got KineticEnergy with {method.name}, whose steps are no weighted sum of slopes; expected a "
                "Runge-Kutta method, or RunningCost of the field"
            )

    def measure(self, view: StepView) -> Tensor:
        """The step's mean kinetic energy."""
        first, *rest = [weight * view.squares(slope, self.norm) for weight, slope in view.slopes]
        return sum(rest, first)


class _PathIntegral(StepReduction):
    """An integrand that calls the field itself, at Gauss points of every accepted step's dense output."""

    def __init__(self, points: int, norm: str, reduction: str, dt_power: float) -> None:
        super().__init__(reduction, dt_power)
        self.points, self.norm = integer(points, "points"), checked_norm(norm)
        self.nodes = gauss_points(2 * self.points)  # n points integrate degree 2n - 1 exactly

    def check(self, method: Method) -> None:
        """Refuse a method that integrates noise."""
        refuse_noise(method, type(self).__name__)

    @abstractmethod
    def tensor(self, view: StepView, t: Tensor, y: Tensor, noise: Tensor | None) -> Tensor:
        """The state-shaped tensor whose square is integrated."""

    def measure(self, view: StepView, noise: Tensor | None = None) -> Tensor:
        """The step's mean."""
        total: Any = 0.0
        for node, weight in self.nodes:
            t, y = view.at(node)
            time = torch.as_tensor(t, dtype=torch.float64, device=y.device)
            total = total + weight * view.squares(self.tensor(view, time, y, noise), self.norm)
        return total


class TaylorDerivative(_PathIntegral):
    r"""The squared K-th time derivative of the solution along the path, :math:`\int \|d^K y / dt^K\|^2 \, dt`.

    A method of order K - 1 or higher takes long steps where the K-th derivative is small. The derivatives are those of
    the flow through the point, :math:`y' = f`, :math:`y^{(k+1)} = \partial_t y^{(k)} + (\partial_y y^{(k)}) f`, by nested
    forward-mode differentiation. Each point costs K calls of the field, which compute :math:`2^K - 1` times what a plain
    one does (truncated Taylor arithmetic, which torch does not have, would need :math:`K (K + 1) / 2`: no less up to
    K = 3).

    Args:
        order: K, 3 by default, as in the paper for a method of order 5.
        points: Gauss points of the dense output in every accepted step. Two integrate to order 4, one to order 2.
        norm: ``"mean"`` (default), over the entries of the state, or ``"sum"``.
        reduction: ``"sum"`` (the integral), ``"mean"`` or ``"max"`` over the steps.
        dt_power: the power of the step size in front, 1.

    The field must be differentiable K times: a ReLU has no second derivative. Under ``torch.compile`` K is at most 2.

    Shapes:
        0-d; ``(B,)`` with ``per_sample``.

    Units:
        With the defaults state squared per time to the power of 2K - 1.

    Raises:
        InvalidProblemError: an argument is none of those accepted, ``order`` or ``points`` no positive int; in the
            solve, a method for SDEs.

    When to take it:
        To make a solution smooth in the sense of the method's order, whatever the tolerance in training. The dearest of
        the regularizers: :class:`StepCount` and :class:`ErrorEstimate` aim at the same thing with numbers that the
        solver has anyway, but for the tolerance of the training.

    References:
        Kelly, Bettencourt, Johnson, Duvenaud: Learning Differential Equations that are Easy to Solve. NeurIPS 2020.

    Example:
        >>> import torch, neuralde as nde
        >>> problem = nde.ODEProblem(lambda t, y: -2.0 * y, torch.ones(1, dtype=torch.float64), (0.0, 1.0))
        >>> taylor = nde.regularizers.TaylorDerivative(order=3)
        >>> sol = nde.solve(problem, rtol=1e-8, atol=1e-8, regularizers=[taylor])
        >>> round(sol.regularization[0].item(), 4)  # 16 (1 - exp(-4))
        15.7069
    """

    def __init__(
        self, order: int = 3, *, points: int = 2, norm: str = "mean", reduction: str = "sum", dt_power: float = 1
    ) -> None:
        super().__init__(points, norm, reduction, dt_power)
        self.order = integer(order, "order", 1, "a positive int, 3 for a method of order 5")

    def tensor(self, view: StepView, t: Tensor, y: Tensor, noise: Tensor | None) -> Tensor:
        """The derivative of that order."""
        if self.order > 2 and torch.compiler.is_compiling():
            raise InvalidProblemError(
                f"regularizers: TaylorDerivative({self.order}) cannot be compiled, because nested forward-mode "
                "differentiation cannot; expected order 2 at most, or an eager solve"
            )
        return time_derivative(view.call, self.order)(t, y)


class JacobianFrobenius(_PathIntegral):
    r"""The squared Frobenius norm of the field's Jacobian along the path, :math:`\int \|\partial f / \partial y\|_F^2 \, dt`.

    Estimated without bias as :math:`\|(\partial f / \partial y)\, \varepsilon\|^2` (Hutchinson), with
    :math:`\varepsilon = \pm 1` drawn from torch's global generator once for each solve: noise that changed from step to
    step would make the integrand rough. One call of the field for each point, by forward-mode differentiation, which
    computes about twice what a plain one does. The Jacobian is that of the whole state: in a joint solve of a batch it is
    block diagonal, and the mean over entries is the mean over samples.

    Args:
        points: Gauss points of the dense output in every accepted step. Two integrate to order 4, one to order 2.
        norm: ``"mean"`` (default) divides by the number of entries of the state; ``"sum"`` does not.
        reduction: ``"sum"`` (the integral), ``"mean"`` or ``"max"`` over the steps.
        dt_power: the power of the step size in front, 1.

    Shapes:
        0-d; ``(B,)`` with ``per_sample``.

    Units:
        Per time with the defaults: a squared rate, integrated.

    Raises:
        InvalidProblemError: an argument is none of those accepted, ``points`` no positive int; in the solve, a method
            for SDEs.

    When to take it:
        To bound how sensitive the flow is to its state: fewer steps, and less variance of a log-determinant's trace
        estimate in a continuous normalizing flow. Usually beside :class:`KineticEnergy`. :class:`StiffnessEstimate`
        sees less of the Jacobian and costs nothing.

    References:
        Finlay, Jacobsen, Nurbekyan, Oberman, ICML 2020; Hutchinson, Commun. Stat. Simul. Comput. 19 (1990).

    Example:
        >>> import torch, neuralde as nde
        >>> problem = nde.ODEProblem(lambda t, y: -3.0 * y, torch.ones(4, dtype=torch.float64), (0.0, 2.0))
        >>> sol = nde.solve(problem, regularizers=[nde.regularizers.JacobianFrobenius(norm="sum")])
        >>> round(sol.regularization[0].item(), 6)  # 4 entries of 3 squared, over 2 units of time
        72.0
    """

    def __init__(self, *, points: int = 2, norm: str = "mean", reduction: str = "sum", dt_power: float = 1) -> None:
        super().__init__(points, norm, reduction, dt_power)

    def start(self, y0: Tensor, lanes: Tensor, span: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        """Zero, and the noise of this solve."""
        signs = torch.randint(0, 2, y0.shape, device=y0.device).to(lanes.dtype) * 2 - 1
        return *super().start(y0, lanes, span), signs.to(y0.dtype)

    def update(self, state: tuple[Tensor, ...], view: StepView) -> tuple[Tensor, ...]:
        """Take in one more step."""
        total, noise = state
        return self.combined(total, self.measure(view, noise), view), noise

    def value(self, state: tuple[Tensor, ...], accepted: Any, plan: Any) -> tuple[Tensor, int]:
        """The reduced number."""
        return super().value(state[:1], accepted, plan)

    def tensor(self, view: StepView, t: Tensor, y: Tensor, noise: Tensor | None) -> Tensor:
        """The Jacobian times the noise."""
        assert noise is not None
        return _pushed(lambda y: view.call(t, y), (y,), (noise,))


def time_derivative(field: Callable[[Scalar, Tensor], Tensor], order: int) -> Callable[[Tensor, Tensor], Tensor]:
    r"""The function :math:`(t, y) \mapsto d^K y / dt^K` of the flow of a field.

    >>> import torch
    >>> third = time_derivative(lambda t, y: t * y, 3)  # y' = ty, y'' = y + t^2 y, y''' = 3ty + t^3 y
    >>> third(torch.tensor(2.0), torch.tensor(1.0))
    tensor(14.)
    """
    if order == 1:
        return field
    lower = time_derivative(field, order - 1)

    def derivative(t: Tensor, y: Tensor) -> Tensor:
        return _pushed(lower, (t, y), (torch.ones_like(t), field(t, y)))

    return derivative


def _pushed(f: Callable[..., Tensor], at: tuple[Tensor, ...], along: tuple[Tensor, ...]) -> Tensor:
    """The derivative of a function along a direction."""
    # Copies, because in a graph these are parts of buffers of unknown length, whose storage forward mode would compare.
    return torch.func.jvp(f, tuple(x.clone() for x in at), tuple(x.clone() for x in along))[1]


def refuse_noise(method: Method, name: str) -> None:
    """Refuse a method for stochastic equations, whose solutions have no time derivative."""
    if "ODE" not in method.takes:
        raise InvalidProblemError(
            f"regularizers: got {name} with {method.name}, but a path driven by noise has no time derivative to integrate; "
            "expected ErrorEstimate(), or RunningCost of the drift"
        )


def checked_norm(norm: Any) -> str:
    """A norm's name, or a refusal."""
    if norm not in ("mean", "sum"):
        raise InvalidProblemError(f'norm: got {norm!r}; expected "mean" or "sum"')
    return str(norm)
