"""The initial value problem for an ordinary differential equation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..errors import InvalidProblemError
from .base import Problem, check_parts, set_tspan


@dataclass(frozen=True, eq=False)
class ODEProblem(Problem):
    r"""An initial value problem for an ordinary differential equation.

    .. math:: y'(t) = f(t, y(t), \text{args}), \qquad y(t_0) = y_0, \qquad t \text{ from } t_0 \text{ to } t_1

    Args:
        f: the vector field, ``f(t, y, *args) -> dy`` with the structure and shapes of ``y``. ``t`` is a 0-d tensor of the
            state's real dtype on its device (shape ``(B, 1, ...)`` when every sample has its own clock).
        y0: the initial state: a tensor of any shape, float32, float64, complex64 or complex128, or a pytree of them.
        tspan: ``(t0, t1)``, floats or 0-d tensors, to which gradients flow; ``t1 < t0`` integrates backwards. With
            ``per_sample`` each may have shape ``(B,)``.
        args: a tuple, unpacked into ``f``; its tensors are differentiable. Controls among them that have ``knots``, or
            ``grid_points`` as the paths of torchcde do, are landed on there, each step on its own side. With ``per_sample``
            the time has shape ``(B, 1)``, at which a path of torchcde returns every sample at every time,
            ``(B, B, 1, c)``: take ``path.derivative(t).diagonal(dim1=0, dim2=1).movedim(-1, 0)[:, 0]``.
        jac: the Jacobian ``jac(t, y, *args)`` for implicit methods, of the flattened state; None: by automatic
            differentiation. A pytree is flattened leaf by leaf.

    Shapes:
        Any, and any pytree of them: a joint solve has one clock for all of it. With ``per_sample`` the first dimension,
        common to all leaves, counts independent systems. ``jac`` returns ``(n, n)``, with ``per_sample`` ``(B, n, n)``.

    Units:
        ``f`` in those of the state per time; tolerances and entries of the state may have units of their own.

    Raises:
        InvalidProblemError: an argument is wrong; the message names it.

    When to take it:
        For everything that a deterministic vector field moves: neural ODEs, flows, a control that is given as a
        function of time. :class:`SDEProblem` where noise drives it; :class:`SteadyStateProblem` where only the rest
        state matters.

    Example:
        >>> import torch, neuralde as nde
        >>> problem = nde.ODEProblem(lambda t, y, k: -k * y, torch.ones(1), (0.0, 1.0), args=(torch.tensor(2.0),))
        >>> nde.solve(problem, rtol=1e-6).y1
        tensor([0.1353])
    """

    title = "an ODEProblem"
    f: Callable[..., Any]
    y0: Any
    tspan: tuple[Any, Any]
    args: tuple[Any, ...] = ()
    jac: Callable[..., Any] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_parts(self.f, self.y0, self.args)
        if self.jac is not None and not callable(self.jac):
            raise InvalidProblemError(
                f"jac: got {type(self.jac).__name__}; expected a callable jac(t, y, *args), or None"
            )
        set_tspan(self)
