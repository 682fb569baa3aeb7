"""How many steps the solve needs, as a differentiable number."""

from __future__ import annotations

from torch import Tensor

from neuralde.solvers import Method
from neuralde.solvers.stepping.reductions import StepView

from .base import StepReduction, check_method


class StepCount(StepReduction):
    r"""The number of steps that the solve needs, made smooth.

    .. math:: R_N = \sum_j \frac{\|e_j\|^{1/k}}{s}

    An error :math:`\|e\|` (in units of the tolerance) of order :math:`k` says that a step longer by the factor
    :math:`s \|e\|^{-1/k}` would just have passed with the controller's safety factor :math:`s`: the step was that
    fraction of the one that would do. Their sum is the number of steps, with fractions: what :class:`ErrorEstimate`
    lowers indirectly, in the units that one pays in. Unlike an error, whose size follows from the tolerance, it hardly
    needs another weight at another tolerance, and it does not vanish where the controller does its work (where every
    :math:`\|e_j\|` is near the same value whatever the field). Step sizes are constants for the gradient.

    Args:
        reduction: ``"sum"`` (the count), ``"mean"`` or ``"max"``.
        floor: errors below it count as it, with gradient 0 (the power's derivative at 0 is infinite).
        safety: the controller's safety factor, 0.9.

    Shapes:
        0-d; ``(B,)`` with ``per_sample``.

    Units:
        Steps.

    Raises:
        InvalidProblemError: ``reduction`` is none of the three; in the solve, a method without an embedded error
            estimate.

    When to take it:
        To train for a number of steps: its weight is in the loss's units per step, and hardly depends on the tolerance.
        :class:`ErrorEstimate` is the published regularizer, with the papers' weights; :class:`TargetNFE` finds a weight
        for either.

    References:
        Hairer, Nørsett, Wanner: Solving Ordinary Differential Equations I, II.4, for the step that would just pass.

    Example:
        >>> import torch, neuralde as nde
        >>> problem = nde.ODEProblem(lambda t, y: torch.cos(t) * y, torch.ones(1, dtype=torch.float64), (0.0, 20.0))
        >>> sol = nde.solve(problem, rtol=1e-8, atol=1e-8, regularizers=[nde.regularizers.StepCount()])
        >>> 0.8 < sol.regularization[0].item() / sol.stats.accepted < 1.1
        True
    """

    def __init__(self, reduction: str = "sum", *, floor: float = 1e-6, safety: float = 0.9) -> None:
        super().__init__(reduction, 0)
        self.floor, self.safety = floor, safety

    def check(self, method: Method) -> None:
        """Refuse a method without error estimate."""
        check_method(method, reads_stiffness=False)

    def measure(self, view: StepView) -> Tensor:
        """The fraction that the step was of the one that would do."""
        return view.error_ratio.clamp(min=self.floor) ** (1.0 / view.method.error_order) / self.safety
