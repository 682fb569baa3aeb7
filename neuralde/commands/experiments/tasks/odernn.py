"""A recurrent network whose state moves along an equation between the observations."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from neuralde.solvers import Bosh3, ODEProblem, ScheduledEvent

from ....regularizers import Regularizer
from ....solving import solve


class ODERNN(nn.Module):
    r"""An ODE between observations and a gated recurrent cell at each, in one solve for a batch of series.

    .. math:: z'(t) = g_k \, f_\theta(z), \quad k \le t < k + 1, \qquad z(k^+) = \mathrm{GRU}(x_k, z(k^-))

    The clock counts the observations, :math:`g_k` is the time from the k-th to the next one: so each series has its own
    times, and they all jump together. A series that has ended stands still.

    Args:
        channels: of the observations, the time among them, as the first.
        hidden: the size of the state.
        width: of the field's hidden layer.
        regularizers: the solver's cost, in training mode.
        options: of :func:`neuralde.solve`.

    Shapes:
        ``forward(clock, xs, lengths)`` with ``(T,)``, ``(T, B, c)`` and ``(B,)`` gives the states ``(B, hidden)`` and the solution.

    References:
        Rubanova, Chen, Duvenaud: Latent ODEs for Irregularly-Sampled Time Series. NeurIPS 2019.
    """

    def __init__(
        self, channels: int, hidden: int, width: int, *, regularizers: list[Regularizer] | None = None, **options: Any
    ) -> None:
        super().__init__()
        self.field = nn.Sequential(nn.Linear(hidden, width), nn.Tanh(), nn.Linear(width, hidden), nn.Tanh())
        self.cell = nn.GRUCell(channels, hidden)
        self.regularizers, self.options = tuple(regularizers or ()), options

    def forward(self, clock: Tensor, xs: Tensor, lengths: Tensor) -> tuple[Tensor, Any]:
        """The states at the ends of the series, and the solution."""
        count = len(clock)
        xs = xs.nan_to_num(0.0)
        gaps = torch.where(
            torch.arange(1, count, device=xs.device).unsqueeze(-1) < lengths, xs[..., 0].diff(dim=0), 0.0
        )

        def seen(k: int, z: Tensor) -> Tensor:
            return torch.where((k < lengths).unsqueeze(-1), self.cell(xs[k], z), z)

        def jump(t: Tensor, y: tuple[Tensor, Tensor], index: int) -> tuple[Tensor, Tensor]:
            return seen(index + 1, y[0]), gaps[index + 1].unsqueeze(-1)

        def field(t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            return y[1] * self.field(y[0]), torch.zeros_like(y[1])

        first = seen(0, xs.new_zeros(xs.shape[1], self.cell.hidden_size)), gaps[0].unsqueeze(-1)
        between = [float(k) for k in range(1, count - 1)]
        events = ScheduledEvent(between, jump, indexed=True) if between else None
        problem = ODEProblem(field, first, (0.0, float(count - 1)))
        regularizers = self.regularizers if self.training else ()
        solution = solve(problem, Bosh3(), dt=1.0, events=events, regularizers=regularizers, **self.options)
        return seen(count - 1, solution.y1[0]), solution
