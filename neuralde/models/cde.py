"""Neural controlled and rough differential equations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from neuralde.adjoints import Adjoint
from neuralde.solvers import CDEProblem, HermitePath, InvalidProblemError, LogSignaturePath, Method, Solution
from neuralde.solvers.checks import integer

from ..regularizers.base import Regularizer
from ..solving import solve
from .driven import Driven


class NeuralCDE(Driven):
    r"""A layer whose output is a state that a series of observations has driven.

    .. math:: z(t_0) = \zeta(X(t_0)), \qquad z'(t) = F_\theta(t, z(t)) \, X'(t), \qquad \text{out} = z(t_1)

    Args:
        field: a module or callable ``F(t, z)``, a matrix for each state, one column for each channel.
        initial: a module or callable, the initial state from the first value of the path.
        path: what makes a path of times and values, a subclass of :class:`neuralde.ControlPath` or a partial of one.
        solver: the method; :class:`neuralde.Tsit5` if None.
        rtol: relative tolerance.
        atol: absolute tolerance.
        adjoint: how to differentiate; exact if None.
        regularizers: the solver's cost as terms of the loss, in training mode only; ``eval()`` solves plainly.
        saveat: None: the final state; times, as for :func:`neuralde.solve`; ``"observations"``: those of the series.
        options: further options of :func:`neuralde.solve`, such as ``per_sample``.

    ``forward(ts, xs)`` gives ``(states, solution)``: the final state, or with ``saveat`` the states ``(T, ...)``; and the
    :class:`neuralde.Solution`, whose ``regularization`` belongs in the loss. The counts of the last solve stay readable as
    ``stats``. The time is no channel by itself: where it should matter, it is one of ``xs``. ``stream(t0, x0)`` begins a
    series whose observations arrive one by one, ``resume(kept)`` goes on with one: see
    :class:`neuralde.models.CDEStream`.

    Shapes:
        ``ts`` is ``(T,)``, or ``(T, B)`` where each series has its own; ``xs`` ``(T, B, c)``, NaN where nothing was observed;
        ``initial`` maps ``(B, c)`` to ``(B, d)``, ``field`` gives ``(B, d, c)``; the states are ``(B, d)``.

    Raises:
        InvalidProblemError: ``field``, ``initial`` or ``path`` is not callable; at the call, what the path,
            :class:`neuralde.CDEProblem` and :func:`neuralde.solve` refuse.
        SolveError: as :func:`neuralde.solve`.

    When to take it:
        To classify or follow irregular series with missing values. :class:`NeuralRDE` for long ones, or
        :class:`LinearNeuralCDE`; ``path=neuralde.RectilinearPath`` where outputs may depend on nothing later.

    References:
        Kidger, Morrill, Foster, Lyons: Neural controlled differential equations for irregular time series. NeurIPS 2020.

    Example:
        >>> import torch, neuralde as nde
        >>> _ = torch.manual_seed(0)
        >>> field = nde.models.MatrixField(8, 3, hidden=[16])
        >>> model = nde.NeuralCDE(field, torch.nn.Linear(3, 8), regularizers=[nde.regularizers.ErrorEstimate()])
        >>> states, sol = model(torch.linspace(0, 1, 20), torch.randn(20, 5, 3).cumsum(0) / 4)
        >>> states.shape, len(sol.regularization)
        (torch.Size([5, 8]), 1)
    """

    def __init__(
        self,
        field: Callable[..., Any],
        initial: Callable[[Tensor], Any],
        *,
        path: Callable[[Any, Any], Any] = HermitePath,
        solver: Method | None = None,
        rtol: Any = 1e-3,
        atol: Any = 1e-6,
        adjoint: Adjoint | None = None,
        regularizers: Sequence[Regularizer] = (),
        saveat: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(field, initial, path, saveat, "a module or callable F(t, z)")
        self.regularizers = tuple(regularizers)
        self.options = dict(solver=solver, rtol=rtol, atol=atol, adjoint=adjoint, **options)

    def along(self, path: Any, y0: Any, saveat: Any) -> Solution:
        """The solution along a path, without the regularizers in evaluation."""
        regularizers = self.regularizers if self.training else ()
        problem = CDEProblem(self.field, path, y0)
        return solve(problem, saveat=saveat, regularizers=regularizers, **self.options)


class NeuralRDE(NeuralCDE):
    r"""A neural CDE that takes windows of a long series as steps, each with its log-signature as the control.

    .. math:: z(t_0) = \zeta(x_0), \qquad
              z'(t) = F_\theta(t, z(t)) \, \frac{\log S_{[r_i, r_{i+1}]}(x)}{r_{i+1} - r_i}, \qquad r_i \le t < r_{i+1}

    Args:
        field: as for :class:`NeuralCDE`, with a column for each coordinate of the log-signature.
        initial: the initial state from the first observation, all channels filled.
        depth: of the log-signatures.
        window: how many intervals between observations a window has.
        options: those of :class:`NeuralCDE` but ``path``, and of :func:`neuralde.solve`.

    Shapes:
        As :class:`NeuralCDE`, with ``field`` ``(B, d, n)`` for n = ``logsignature_channels(c, depth)``.

    Raises:
        InvalidProblemError: as :class:`NeuralCDE` and :class:`neuralde.LogSignaturePath`.
        SolveError: as :func:`neuralde.solve`.

    When to take it:
        For series of hundreds of observations and more, where a :class:`NeuralCDE` would step between them.

    References:
        Morrill, Salvi, Kidger, Foster, Lyons: Neural rough differential equations for long time series. ICML 2021.

    Example:
        >>> import torch, neuralde as nde
        >>> _ = torch.manual_seed(0)
        >>> field = nde.models.MatrixField(8, nde.logsignature_channels(3, 2), hidden=[16])
        >>> model = nde.NeuralRDE(field, torch.nn.Linear(3, 8), depth=2, window=50)
        >>> model(torch.linspace(0, 1, 1001), torch.randn(1001, 5, 3).cumsum(0) / 30)[0].shape
        torch.Size([5, 8])
    """

    def __init__(
        self, field: Callable[..., Any], initial: Callable[[Tensor], Any], depth: int, window: int, **options: Any
    ) -> None:
        if "path" in options:
            raise InvalidProblemError("path: got one; expected none, since the windows are the path")
        depth, window = integer(depth, "depth"), integer(window, "window")
        super().__init__(field, initial, path=partial(LogSignaturePath, depth=depth, window=window), **options)


class MatrixField(nn.Module):
    r"""A fully connected field of matrices, bounded by 1.

    .. math:: F(z) = \tanh(W_2 \, \sigma(W_1 z + b_1) + b_2), \qquad \text{reshaped to } d \times c

    Args:
        dim: the size of the state.
        channels: those of the control.
        hidden: the sizes of the hidden layers.
        activation: what makes :math:`\sigma`, the ReLU of the paper; adaptive solves take fewer steps with a smooth one, such as
            ``torch.nn.SiLU``.

    Shapes:
        ``z`` is ``(..., dim)``; the result ``(..., dim, channels)``. The time is not used.

    Raises:
        RuntimeError: the last dimension of ``z`` is not ``dim`` (torch's own error).

    When to take it:
        As a first field of a :class:`NeuralCDE`: the bound keeps the state of a long series finite.

    References:
        Kidger, Morrill, Foster, Lyons: Neural controlled differential equations for irregular time series. NeurIPS 2020,
        whose experiments use it.

    Example:
        >>> import torch, neuralde as nde
        >>> nde.models.MatrixField(4, 3, hidden=[16])(torch.tensor(0.0), torch.zeros(5, 4)).shape
        torch.Size([5, 4, 3])
    """

    def __init__(
        self, dim: int, channels: int, hidden: Sequence[int], *, activation: Callable[[], nn.Module] = nn.ReLU
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        size = dim
        for width in hidden:
            layers += [nn.Linear(size, width), activation()]
            size = width
        self.layers = nn.Sequential(
            *layers, nn.Linear(size, dim * channels), nn.Tanh(), nn.Unflatten(-1, (dim, channels))
        )

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        """The matrices at ``z``."""
        del t
        matrices: Tensor = self.layers(z)
        return matrices
