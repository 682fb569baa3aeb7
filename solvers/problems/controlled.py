"""The initial value problem for an equation that a control path drives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..checks import shown
from ..errors import InvalidProblemError
from .base import Problem, check_parts, set_tspan


@dataclass(frozen=True, eq=False)
class CDEProblem(Problem):
    r"""An initial value problem for a controlled differential equation.

    .. math:: y(t) = y_0 + \int_{t_0}^t F(s, y(s), \text{args}) \, dX(s), \qquad
              y'(t) = F(t, y(t), \text{args}) \, X'(t)

    Args:
        field: the vector field, ``field(t, y, *args)``: a matrix for each state, one column for each channel of the path;
            for a pytree of states, the same structure of them.
        path: the control, such as :class:`HermitePath`; any object whose ``derivative(t)`` gives the channels last, those
            of torchcde included. Solves land on the knots of a path that is not smooth, each step on its own side.
        y0: the initial state, as for an :class:`ODEProblem`.
        tspan: ``(t0, t1)`` as for an :class:`ODEProblem`; None: the whole path, its ``interval``.
        args: a tuple, unpacked into ``field``; its tensors are differentiable, as are the path's.

    Shapes:
        A state ``(..., d)``, a path of ``c`` channels and series ``(...)`` or none, a field ``(..., d, c)``. With
        ``per_sample`` the path is asked at each sample's own time, ``(B, 1, ...)``.

    Units:
        ``field`` in those of the state per those of the path.

    Raises:
        InvalidProblemError: an argument is wrong; the path does not cover the interval; the field's last dimension is not
            the number of channels.

    When to take it:
        For a state that data drive: neural CDEs and RDEs, rough paths. A time that should matter by itself is a channel
        of the path. Everything that solves an :class:`ODEProblem` solves it, and all adjoints differentiate it.

    References:
        Kidger, Morrill, Foster, Lyons: Neural controlled differential equations for irregular time series. NeurIPS 2020.

    Example:
        >>> import torch, neuralde as nde
        >>> path = nde.HermitePath([0.0, 0.5, 2.0], torch.tensor([[0.0], [1.0], [3.0]], dtype=torch.float64))
        >>> problem = nde.CDEProblem(lambda t, y: y.unsqueeze(-1), path, torch.ones(1, dtype=torch.float64))
        >>> nde.solve(problem, rtol=1e-9, atol=1e-9).y1  # exp(X(2) - X(0))
        tensor([20.0855], dtype=torch.float64)
    """

    title = "a CDEProblem"
    parts = ("field",)
    field: Callable[..., Any]
    path: Any
    y0: Any
    tspan: tuple[Any, Any] | None = None
    args: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        check_parts(self.field, self.y0, self.args, "field")
        if not callable(getattr(self.path, "derivative", None)):
            raise InvalidProblemError(
                f"path: got {type(self.path).__name__}; expected a control path, such as HermitePath(ts, xs)"
            )
        covered = getattr(self.path, "interval", None)
        if self.tspan is None:
            if covered is None:
                raise InvalidProblemError(f"tspan: got None with {type(self.path).__name__}, which has no interval")
            object.__setattr__(self, "tspan", tuple(covered))
        set_tspan(self)
        if covered is not None:
            _check_cover(self.tspan, covered)


def _check_cover(tspan: Any, covered: Any) -> None:
    """Refuse an interval that the path does not cover."""
    if torch.compiler.is_compiling():
        return
    first, end = (float(x) for x in covered)
    for time in tspan:
        low, high = (float(f(time.detach())) if isinstance(time, Tensor) else time for f in (torch.min, torch.max))
        slack = 1e-6 * max(abs(first), abs(end)) if isinstance(time, Tensor) and time.dtype != torch.float64 else 0.0
        if low < first - slack or high > end + slack:
            raise InvalidProblemError(
                f"tspan: got {shown(time)}; expected times that the path covers, from {first!r} to {end!r}"
            )
