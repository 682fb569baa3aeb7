"""The search for a state at which an equation stands still."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..checks import number
from .base import Problem, check_parts


@dataclass(frozen=True, eq=False)
class SteadyStateProblem(Problem):
    r"""A state at which a differential equation stands still.

    .. math:: f(t, y^*, \text{args}) = 0, \qquad t \text{ held fixed}

    :func:`neuralde.solve` finds one: with :class:`DynamicSS` the one to which the equation itself goes from ``y0``, with
    :class:`Newton` or :class:`Anderson` one near ``y0``. Its gradient is that of the equilibrium, by implicit
    differentiation (:class:`neuralde.ImplicitAdjoint`). A fixed point :math:`z = g(z)`, as in a deep-equilibrium model,
    is the steady state of :math:`f = g(z) - z`.

    Args:
        f: the field, ``f(t, y, *args) -> dy``, as for an :class:`ODEProblem`.
        y0: where the search starts: a tensor or a pytree, as for an :class:`ODEProblem`. With ``per_sample`` the first
            dimension counts independent systems.
        args: a tuple, unpacked into ``f``; its tensors are differentiable.
        t: the time that ``f`` is given, whatever the clock of an integration says; it matters only to a field that
            depends on time.

    Shapes:
        As for an :class:`ODEProblem`; the solution's ``ts`` has one entry, ``ys`` a leading 1.

    Units:
        ``f`` in those of the state per time; the stopping rule needs no unit of time.

    Raises:
        InvalidProblemError: an argument is wrong; the message names it.

    When to take it:
        For equilibria, fixed points and deep-equilibrium layers, whose gradient needs no transient. An
        :class:`ODEProblem` over a long time is dearer, and its gradient is that of the transient.

    Example:
        >>> import torch, neuralde as nde
        >>> c = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
        >>> problem = nde.SteadyStateProblem(lambda t, y, c: c - y**2, torch.ones((), dtype=torch.float64), args=(c,))
        >>> sol = nde.solve(problem, nde.Newton(), rtol=1e-12, atol=1e-12)
        >>> sol.y1.detach(), torch.autograd.grad(sol.y1, c)[0]  # sqrt(2), and 1 / (2 sqrt(2))
        (tensor(1.4142, dtype=torch.float64), tensor(0.3536, dtype=torch.float64))
    """

    title = "a SteadyStateProblem"
    f: Callable[..., Any]
    y0: Any
    args: tuple[Any, ...] = ()
    t: float = 0.0

    def __post_init__(self) -> None:
        check_parts(self.f, self.y0, self.args)
        object.__setattr__(self, "t", number(self.t, "t"))
