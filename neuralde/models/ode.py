"""Neural ordinary differential equations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from neuralde.adjoints import Adjoint
from neuralde.solvers import InvalidProblemError, Method, ODEProblem, Solution, Stats
from neuralde.solvers.checks import integer

from ..regularizers.base import Regularizer
from ..solving import solve
from .compiled import check_compile, solve_compiled


class TimeConditionedMLP(nn.Module):
    r"""A fully connected field that sees the time: ``t`` is appended to the input of every layer.

    .. math:: f(t, z) = \sigma(W_2 [\tanh(W_1 [z; t] + b_1); t] + b_2)

    with :math:`\sigma = \tanh` or the identity, and as many hidden layers as ``hidden`` has entries.

    Args:
        dim: the size of the state.
        hidden: the sizes of the hidden layers.
        bounded: end with a tanh, as the field of Pal et al. (2021) does, so that no component moves faster than 1.

    Shapes:
        ``z`` is ``(..., dim)``, ``t`` 0-d or broadcasting against ``(..., 1)``; the result is ``(..., dim)``.

    Raises:
        RuntimeError: the last dimension of ``z`` is not ``dim`` (torch's own error).

    When to take it:
        A first field for a :class:`NeuralODE` or the drift of a :class:`NeuralSDE`; it is smooth, so methods keep their
        order. A field with a structure that is known (symmetry, conserved quantities) learns from less.

    References:
        Pal, Ma, Shah, Rackauckas: Opening the Blackbox. ICML 2021, whose field for MNIST this is.

    Example:
        >>> import torch, neuralde as nde
        >>> field = nde.models.TimeConditionedMLP(3, hidden=[16])
        >>> field(torch.tensor(0.5), torch.zeros(5, 3)).shape
        torch.Size([5, 3])
    """

    def __init__(self, dim: int, hidden: Sequence[int], bounded: bool = False) -> None:
        super().__init__()
        sizes = [dim, *hidden, dim]
        self.layers = nn.ModuleList(nn.Linear(before + 1, after) for before, after in pairwise(sizes))
        self.bounded = bounded

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        """The derivative at ``(t, z)``."""
        time = t.expand(*z.shape[:-1], 1)
        last = len(self.layers) - 1
        for index, layer in enumerate(self.layers):
            z = layer(torch.cat([z, time], dim=-1))
            if index < last or self.bounded:
                z = torch.tanh(z)
        return z


class NeuralODE(nn.Module):
    r"""A layer whose output is the solution of an ODE that starts at its input.

    .. math:: \text{out} = y(t_1), \qquad y'(t) = f_\theta(t, y(t)), \qquad y(t_0) = [x, 0, \dots, 0]

    Args:
        field: a module or callable ``f(t, y, *args)``.
        tspan: ``(t0, t1)``.
        solver: the method; :class:`neuralde.Tsit5` if None.
        rtol: relative tolerance.
        atol: absolute tolerance.
        adjoint: how to differentiate; exact if None.
        regularizers: the solver's cost as terms of the loss, in training mode only; ``eval()`` solves plainly.
        augment: how many zeros to append to the last dimension of the input (Dupont et al., 2019).
        compile: run the solve as one compiled graph (``torch.compile(fullgraph=True)``), forward and backward. The first
            call of each shape, and of training and evaluation, compiles for tens of seconds; new values of inputs,
            times, save times, tolerances and parameters do not compile again.
        options: further options of :func:`neuralde.solve`, such as ``saveat`` or ``per_sample``.

    ``forward(x, args=())`` gives ``(states, solution)``: the final state, or with ``saveat`` the states ``(T, ...)``; and
    the :class:`neuralde.Solution`, whose ``regularization`` belongs in the loss. The counts of the last solve stay
    readable as ``stats``.

    Shapes:
        ``x`` is any state, a tensor ``(B, ...)`` or a pytree; the states have its shape (the last dimension longer by
        ``augment``), with ``saveat`` a leading T.

    Raises:
        InvalidProblemError: ``field`` is not callable, ``augment`` no int from 0 on, or ``compile`` meets an option
            that does not compile; at the call, ``augment`` meets a state without a last dimension, and whatever
            :func:`neuralde.solve` refuses.
        SolveError: as :func:`neuralde.solve`.

    When to take it:
        As a layer in a network, or as the model of a state that is observed whole. :func:`neuralde.solve` itself where
        a problem changes from call to call; :class:`NeuralSDE` where the dynamics are random.

    References:
        Chen, Rubanova, Bettencourt, Duvenaud: Neural Ordinary Differential Equations. NeurIPS 2018.
        Dupont, Doucet, Teh: Augmented Neural ODEs. NeurIPS 2019.

    Example:
        >>> import torch, neuralde as nde
        >>> _ = torch.manual_seed(0)
        >>> field = nde.models.TimeConditionedMLP(4, hidden=[16])
        >>> model = nde.NeuralODE(field, augment=2, regularizers=[nde.regularizers.ErrorEstimate()])
        >>> states, sol = model(torch.randn(8, 2))
        >>> loss = states.square().mean() + 10.0 * sol.regularization[0]
        >>> loss.backward()
        >>> states.shape, model.stats.nfe == sol.stats.nfe
        (torch.Size([8, 4]), True)
    """

    stats: Stats | None

    def __init__(
        self,
        field: Callable[..., Any],
        tspan: tuple[Any, Any] = (0.0, 1.0),
        *,
        solver: Method | None = None,
        rtol: Any = 1e-3,
        atol: Any = 1e-6,
        adjoint: Adjoint | None = None,
        regularizers: Sequence[Regularizer] = (),
        augment: int = 0,
        compile: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        if not callable(field):
            raise InvalidProblemError(
                f"field: got {type(field).__name__}; expected a module or callable f(t, y, *args)"
            )
        self.field, self.tspan, self.augment = field, tspan, integer(augment, "augment", 0)
        self.regularizers = tuple(regularizers)
        check_compile(compile, adjoint, options)
        self.compiled = compile
        self.options = dict(solver=solver, rtol=rtol, atol=atol, adjoint=adjoint, **options)
        self.stats = None

    def forward(self, x: Any, args: tuple[Any, ...] = ()) -> tuple[Any, Solution]:
        """The states and the solution from ``x``."""
        if self.augment:
            if not isinstance(x, Tensor) or not x.dim():
                raise InvalidProblemError(
                    f"x: got {type(x).__name__}; with augment expected a tensor with a last dimension"
                )
            x = torch.cat([x, x.new_zeros((*x.shape[:-1], self.augment))], dim=-1)
        problem = ODEProblem(self.field, x, self.tspan, args)
        regularizers = self.regularizers if self.training else ()
        run = partial(solve_compiled, self) if self.compiled else solve
        solution = run(problem, regularizers=regularizers, **self.options)
        self.stats = solution.stats
        return (solution.y1 if self.options.get("saveat") is None else solution.ys), solution
