"""Neural controlled equations with linear fields, solved by a scan."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from neuralde.solvers import InvalidProblemError, LinearPath, Solution, solve_linear_cde
from neuralde.solvers.checks import integer

from .driven import Driven


class LinearField(nn.Module):
    r"""A field that is linear in the state, with a diagonal or block-diagonal matrix for each channel.

    .. math:: F(z)_{\cdot i} = A_i z + b_i, \qquad A_i = \mathrm{diag}(A_{i1}, \dots, A_{in})

    Args:
        dim: the size of the state, d.
        channels: those of the control, c; with a log-signature path those of the data.
        block: the size k of the blocks, which divides d: 1 for diagonal matrices, d for dense ones.
        complex: complex diagonals, and states; for ``block=1`` only. Their real parts and imaginary parts are two real
            parameters, so that ``.double()`` and optimizers see nothing special.
        offset: whether there is a b. Diagonal matrices without offsets see no more of a path than where it ends.

    The weights begin normal with variance ``1 / (k c)``, so that a control that moves by about 1 changes the state by about
    as much.

    Shapes:
        ``z`` is ``(..., dim)``; the result ``(..., dim, channels)``. ``matrices`` are ``(c, d)`` or ``(c, d / k, k, k)``,
        ``offsets`` ``(c, d)`` or None. The time is not used.

    Raises:
        InvalidProblemError: a size is no positive int; ``block`` does not divide ``dim``; complex blocks.

    When to take it:
        In a :class:`LinearNeuralCDE`. Blocks of 4 and more reach what dense matrices do, at ``k / d`` of the cost; diagonal
        ones are the cheapest, and cannot follow the order in which things happen except through their offsets.

    References:
        Walker, Yang, Muca Cirone, Salvi, Lyons: Structured linear CDEs: maximally expressive and parallel-in-time sequence
        models. NeurIPS 2025.

    Example:
        >>> import torch, neuralde as nde
        >>> field = nde.models.LinearField(8, 3, block=4)
        >>> field(torch.tensor(0.0), torch.zeros(5, 8)).shape, field.matrices.shape
        (torch.Size([5, 8, 3]), torch.Size([3, 2, 4, 4]))
    """

    def __init__(self, dim: int, channels: int, block: int = 4, *, complex: bool = False, offset: bool = True) -> None:
        super().__init__()
        dim, channels, block = integer(dim, "dim"), integer(channels, "channels"), integer(block, "block")
        if dim % block:
            raise InvalidProblemError(f"block: got {block} with dim = {dim}; expected a divisor of it")
        if complex and block > 1:
            raise InvalidProblemError(
                f"complex: got True with block = {block}; expected block=1, since blocks can turn"
            )
        self.channels, self.block, self.complex = channels, block, bool(complex)
        pair = (2,) if complex else ()
        shape = (channels, dim, *pair) if block == 1 else (channels, dim // block, block, block)
        std = (block * channels * (2 if complex else 1)) ** -0.5
        self.weight = nn.Parameter(torch.randn(shape) * std)
        self.bias = nn.Parameter(torch.randn(channels, dim, *pair) * std) if offset else None

    @property
    def matrices(self) -> Tensor:
        """A, one for each channel."""
        return torch.view_as_complex(self.weight) if self.complex else self.weight

    @property
    def offsets(self) -> Tensor | None:
        """b, one for each channel."""
        return self.bias if self.bias is None or not self.complex else torch.view_as_complex(self.bias)

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        """The matrices at ``z``."""
        del t
        if self.block == 1:
            columns = self.matrices.mT * z.unsqueeze(-1)
        else:
            parts = z.unflatten(-1, (-1, 1, self.block, 1))
            columns = (self.matrices.transpose(0, 1) @ parts).squeeze(-1).transpose(-1, -2).flatten(-3, -2)
        return columns if self.offsets is None else columns + self.offsets.mT


class LinearNeuralCDE(Driven):
    r"""A neural CDE whose field is linear: all its steps are known in closed form and combined by a parallel scan.

    .. math:: z(t_0) = \zeta(X(t_0)), \qquad dz = \sum_i (A_i z + b_i) \, dX^i, \qquad \text{out} = z(t_1)

    Args:
        field: a :class:`LinearField`.
        initial: a module or callable, the initial state from the first value of the path.
        path: what makes a path of times and values, as for :class:`neuralde.NeuralCDE`. A
            ``functools.partial(LogSignaturePath, depth=2, window=16)`` takes windows as steps, with the Lie brackets of the
            field to that depth.
        saveat: None: the final state; times; ``"observations"``: those of the series.

    ``forward(ts, xs)`` gives ``(states, solution)`` as :class:`neuralde.NeuralCDE` does, ``stream`` and ``resume`` likewise.
    The solution is that of :func:`neuralde.solve_linear_cde`, which says along which paths it is exact.

    Shapes:
        As :class:`neuralde.NeuralCDE`.

    Raises:
        InvalidProblemError: ``field`` is no :class:`LinearField`; otherwise as :class:`neuralde.NeuralCDE` and
            :func:`neuralde.solve_linear_cde`.
        SolveError: the state overflowed.

    When to take it:
        For long series, where the steps of a :class:`neuralde.NeuralCDE` one after the other take too long. Its state is a
        linear function of the path's signature, so what reads it has to be nonlinear; layers of it can be stacked, the states
        of one the values of the next.

    References:
        Walker, Yang, Muca Cirone, Salvi, Lyons: Structured linear CDEs: maximally expressive and parallel-in-time sequence
        models. NeurIPS 2025. Muca Cirone, Orvieto, Walker, Salvi, Lyons: Theoretical foundations of deep selective
        state-space models. NeurIPS 2024.

    Example:
        >>> import torch, neuralde as nde
        >>> _ = torch.manual_seed(0)
        >>> field = nde.models.LinearField(8, 3, block=4)
        >>> model = nde.LinearNeuralCDE(field, torch.nn.Linear(3, 8), saveat="observations")
        >>> states, sol = model(torch.linspace(0, 1, 100), torch.randn(100, 5, 3).cumsum(0) / 10)
        >>> states.shape, sol.stats.steps, sol.stats.nfe
        (torch.Size([100, 5, 8]), 99, 0)
    """

    field: LinearField

    def __init__(
        self,
        field: LinearField,
        initial: Callable[[Tensor], Any],
        *,
        path: Callable[[Any, Any], Any] = LinearPath,
        saveat: Any = None,
    ) -> None:
        if not isinstance(field, LinearField):
            raise InvalidProblemError(f"field: got {type(field).__name__}; expected a LinearField")
        super().__init__(field, initial, path, saveat, "a LinearField")

    def along(self, path: Any, y0: Any, saveat: Any) -> Solution:
        """The solution along a path."""
        return solve_linear_cde(self.field.matrices, path, y0, offsets=self.field.offsets, saveat=saveat)
