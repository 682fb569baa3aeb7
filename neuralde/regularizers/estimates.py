"""The solver's own estimates as regularizers (Pal et al., Opening the Blackbox, ICML 2021)."""

from __future__ import annotations

import math

from torch import Tensor

from neuralde.solvers import InvalidProblemError, Method
from neuralde.solvers.stepping.reductions import StepView

from .base import StepReduction, check_method


class ErrorEstimate(StepReduction):
    r"""The local error that the solver estimates at every accepted step, as a penalty.

    .. math:: R_E = \operatorname{reduce}_j \; \|e_j\| \, |h_j|^p

    with :math:`\|e_j\|` the root mean square of the error in units of the tolerance, the number that the controller
    compares with 1. Step sizes are constants for the gradient; rejected steps do not count. The value depends on the
    tolerance and, in a joint solve, on the batch. The defaults are those of the paper's code for MNIST.

    Args:
        reduction: ``"mean"`` (default), ``"sum"`` or ``"max"``. The weights for them differ by a factor of the number
            of steps.
        dt_power: :math:`p`, 1; the paper also mentions 2.
        scaled: False takes the norm of the error itself, in units of the state.
        norm: ``"rms"`` (default), over the entries of the state, or ``"max"``.
        start_value: a further value to reduce along; the paper's code has its initial estimate there, 0.

    Shapes:
        0-d; ``(B,)`` with ``per_sample``.

    Units:
        A pure number, the error in units of the tolerance (with ``scaled=False`` those of the state), times time to the
        power of ``dt_power``.

    Raises:
        InvalidProblemError: an argument is none of those accepted; in the solve, a method without an embedded error
            estimate, or an adjoint that does not see the steps.

    When to take it:
        To make a neural ODE or SDE cheaper where the controller limits the steps by accuracy: the estimate is there
        already and costs no call of the field. :class:`StiffnessEstimate` where stability limits them,
        :class:`StepCount` for a weight that holds at several tolerances, :class:`Local` with an adjoint that does not
        see the steps.

    References:
        Pal, Ma, Shah, Rackauckas: Opening the Blackbox: Accelerating Neural Differential Equations by Regularizing
        Internal Solver Heuristics. ICML 2021.

    Example:
        >>> import torch, neuralde as nde
        >>> rate = torch.tensor(-2.0, dtype=torch.float64, requires_grad=True)
        >>> problem = nde.ODEProblem(lambda t, y, k: k * y, torch.ones(2, dtype=torch.float64), (0.0, 1.0), (rate,))
        >>> sol = nde.solve(problem, regularizers=[nde.regularizers.ErrorEstimate()])
        >>> (sol.regularization[0] > 0).item(), torch.autograd.grad(sol.regularization[0], rate)[0].isfinite().item()
        (True, True)
    """

    def __init__(
        self,
        reduction: str = "mean",
        dt_power: float = 1,
        scaled: bool = True,
        start_value: float | None = None,
        norm: str = "rms",
    ) -> None:
        super().__init__(reduction, dt_power, start_value)
        if norm not in ("rms", "max"):
            raise InvalidProblemError(f'norm: got {norm!r}; expected "rms" or "max"')
        self.scaled, self.norm = scaled, norm

    def check(self, method: Method) -> None:
        """Refuse a method without error estimate."""
        check_method(method, reads_stiffness=False)

    def measure(self, view: StepView) -> Tensor:
        """The norm of the step's error."""
        if self.norm == "max":
            return view.largest(view.scaled_error if self.scaled else view.error)
        return view.error_ratio if self.scaled else view.rms(view.error)


class StiffnessEstimate(StepReduction):
    r"""The stiffness that the solver estimates at every accepted step, as a penalty.

    .. math:: R_S = \operatorname{reduce}_j \; S_j |h_j|^p / \sigma, \qquad S_j = \frac{\|k_b - k_a\|}{\|g_b - g_a\|}

    with root-mean-square norms over two stages at one time, :math:`k` the field and :math:`g` the state it was
    evaluated at (Hairer, Wanner II, IV.2), and :math:`\sigma` how far the method's stability region reaches along the
    negative real axis. Where the two states coincide the estimate is 0.

    Args:
        reduction: ``"max"`` (default, the paper's for ODEs), ``"mean"`` or ``"sum"``.
        dt_power: :math:`p`, 0; with 1 the number is dimensionless, the fraction of the stability limit that was used.
        normalized: False leaves the division by :math:`\sigma` out.
        start_value: a further value to reduce along; the paper's code has its initial estimate there,
            1 / 3.5068 for Tsit5.

    Shapes:
        0-d; ``(B,)`` with ``per_sample``.

    Units:
        1/time, times time to the power of ``dt_power``: with 1 a pure number.

    Raises:
        InvalidProblemError: ``reduction`` is none of the three; in the solve, a method without stiffness estimate, and with
            ``normalized`` one that is stable on the whole negative axis.

    When to take it:
        To keep a learned field from becoming stiff, where explicit methods take steps shorter than accuracy asks for.
        :class:`ErrorEstimate` where accuracy limits the steps; :class:`JacobianFrobenius` for a bound on the whole
        Jacobian, not only on the direction that the stages happen to see.

    References:
        Pal, Ma, Shah, Rackauckas, ICML 2021; Shampine, ACM Trans. Math. Softw. 3 (1977).

    Example:
        >>> import torch, neuralde as nde
        >>> problem = nde.ODEProblem(lambda t, y: -7.0 * y, torch.ones(2, dtype=torch.float64), (0.0, 1.0))
        >>> sol = nde.solve(problem, regularizers=[nde.regularizers.StiffnessEstimate(normalized=False)])
        >>> round(sol.regularization[0].item(), 4)
        7.0
    """

    def __init__(
        self,
        reduction: str = "max",
        dt_power: float = 0,
        normalized: bool = True,
        start_value: float | None = None,
    ) -> None:
        super().__init__(reduction, dt_power, start_value)
        self.normalized = normalized

    def check(self, method: Method) -> None:
        """Refuse a method without stiffness estimate, or one that is stable however stiff the field is."""
        check_method(method, reads_stiffness=True)
        if self.normalized and math.isinf(method.stability_radius):
            raise InvalidProblemError(
                f"regularizers: got StiffnessEstimate() with {method.name}, whose stability region has no end to divide by; "
                "expected StiffnessEstimate(normalized=False)"
            )

    def measure(self, view: StepView) -> Tensor:
        """The step's estimate."""
        return view.stiffness / view.method.stability_radius if self.normalized else view.stiffness
