"""Networks that read a series with gaps and say where a latent process starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from neuralde.solvers import HermitePath, InvalidProblemError, Method

from .cde import MatrixField, NeuralCDE


class MaskedGRU(nn.Module):
    r"""A gated recurrent network that runs backwards over a series with gaps and gives a latent normal distribution.

    Its state is a pair (mean, deviation), both of size ``state``, beginning as zeros and ``start_std``. At each time, the
    last one first, with :math:`s` the state and :math:`x_i = [\text{data}, \text{mask}, \Delta t]`,

    .. math:: u = \sigma(U[s, x_i]), \quad r = \sigma(R[s, x_i]), \quad c = C[r s, x_i], \quad s \leftarrow (1 - u) c + u s

    where ``u`` and ``r`` act on both halves of the state, and :math:`U, R, C` have one hidden layer with a tanh. A sample of
    which nothing was observed at a time keeps its state. Two more layers make mean and log-variance from the last state.

    Args:
        channels: how many numbers are observed at a time.
        latent: the size of the distribution.
        state: the size of each half of the state.
        hidden: the width of the hidden layers.
        bounded: end the candidate with a tanh, as Pal et al. (2023) do.
        start_std: the deviation half's first value (1 in 2023).

    Shapes:
        ``forward(ts, x, mask)`` with ``(T,)``, ``(B, T, channels)`` and the same gives mean and log-variance,
        each ``(B, latent)``. :math:`\Delta t` is the time to the next observation, 0 for the last one.

    Raises:
        RuntimeError: the series, the mask and the times do not fit each other (torch's own error;
            :class:`neuralde.LatentODE` checks them first).

    When to take it:
        The encoder of the papers' latent ODEs, and cheap: it does not solve an equation between the observations, so
        gaps of very different lengths enter only as the number :math:`\Delta t`. Any module ``(ts, x, mask) -> (mean,
        logvar)`` may replace it.

    References:
        Rubanova, Chen, Duvenaud: Latent ODEs for Irregularly-Sampled Time Series. NeurIPS 2019.
        Pal, Ma, Shah, Rackauckas: Opening the Blackbox. ICML 2021.

    Example:
        >>> import torch, neuralde as nde
        >>> encoder = nde.models.MaskedGRU(channels=3, latent=4)
        >>> x, ts = torch.randn(8, 10, 3), torch.linspace(0.0, 1.0, 10)
        >>> mean, logvar = encoder(ts, x, torch.ones_like(x, dtype=torch.bool))
        >>> mean.shape, logvar.shape
        (torch.Size([8, 4]), torch.Size([8, 4]))
    """

    update: nn.Sequential
    reset: nn.Sequential
    candidate: nn.Sequential

    def __init__(
        self,
        channels: int,
        latent: int,
        state: int = 50,
        hidden: int = 40,
        bounded: bool = False,
        start_std: float = 0.0,
    ) -> None:
        super().__init__()
        inputs = 2 * state + 2 * channels + 1
        self.state, self.start_std = state, start_std
        self.update = self._network(inputs, hidden, state, nn.Sigmoid())
        self.reset = self._network(inputs, hidden, state, nn.Sigmoid())
        self.candidate = self._network(inputs, hidden, 2 * state, nn.Tanh() if bounded else nn.Identity())
        self.head = nn.Sequential(nn.Linear(2 * state, 50), nn.Tanh(), nn.Linear(50, 2 * latent))

    @staticmethod
    def _network(inputs: int, hidden: int, outputs: int, last: nn.Module) -> nn.Sequential:
        return nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, outputs), last)

    def forward(self, ts: Tensor, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance."""
        gaps = torch.cat([ts.diff(), ts.new_zeros(1)]).to(x).expand(len(x), -1)
        inputs = torch.cat([torch.where(mask, x, 0.0), mask.to(x), gaps.unsqueeze(-1)], -1)
        weight, bias = (
            torch.cat([network.get_parameter(f"0.{part}") for network in (self.update, self.reset, self.candidate)])
            for part in ("weight", "bias")
        )
        of_state, of_input = weight.split([2 * self.state, inputs.shape[-1]], 1)
        width = len(bias) // 3
        # What the first layers make of the inputs needs no recurrence: one product for all times.
        ready = nn.functional.linear(inputs, of_input, bias).transpose(0, 1).split([2 * width, width], -1)
        gates, candidates = of_state.T.split([2 * width, width], 1)
        seen = mask.any(-1).T[..., None]
        mean, deviation = x.new_zeros(len(x), self.state), x.new_full((len(x), self.state), self.start_std)
        state = torch.cat([mean, deviation], -1)
        for for_gates, for_candidate, some in zip(*(part.flip(0) for part in (*ready, seen)), strict=True):
            inner_update, inner_reset = torch.addmm(for_gates, state, gates).tanh().split(width, -1)
            update, reset = self.update[2:](inner_update), self.reset[2:](inner_reset)
            inner = torch.addmm(for_candidate, self._both(reset, state), candidates).tanh()
            candidate = self.candidate[2:](inner)
            changed = candidate + self._both(update, state - candidate)
            state = torch.where(some, changed, state)
        mean, logvar = self.head(state).chunk(2, -1)
        return mean, logvar

    @staticmethod
    def _both(gate: Tensor, state: Tensor) -> Tensor:
        """A gate on both halves of a state."""
        return (gate.unsqueeze(1) * state.unflatten(1, (2, -1))).flatten(1)


class CDEEncoder(nn.Module):
    r"""A neural controlled equation that runs along a series with gaps and gives a latent normal distribution.

    .. math:: z(t_1) = \zeta(X(t_1)), \qquad dz = F_\theta(z) \, dX, \qquad
              (\mu, \log \sigma^2) = W z(t_T) + b, \qquad X = [t, x, n]

    where n counts the observations of each channel so far, scaled by their greatest possible number: where nothing is
    observed is information too.

    Args:
        channels: how many numbers are observed at a time.
        latent: the size of the distribution.
        state: the size of z.
        hidden: the widths of the hidden layers of the field.
        path: what makes a path of times and values, as for :class:`neuralde.NeuralCDE`.
        solver, rtol, atol: as in :class:`neuralde.NeuralCDE`, which holds the field and solves.
        options: further options of :class:`neuralde.NeuralCDE`.

    Shapes:
        ``forward(ts, x, mask)`` with ``(T,)``, ``(B, T, channels)`` and the same gives mean and log-variance,
        each ``(B, latent)``. A channel of which nothing was observed in a series counts as zero there.

    Raises:
        InvalidProblemError: as :class:`neuralde.NeuralCDE`; fewer than two times.
        SolveError: as :func:`neuralde.solve`.

    When to take it:
        As the ``encoder`` of a :class:`neuralde.LatentODE`, where gaps of very different lengths matter: it sees the times
        as they are, not only as numbers. :class:`MaskedGRU` is cheaper.

    References:
        Kidger, Morrill, Foster, Lyons: Neural controlled differential equations for irregular time series. NeurIPS 2020
        (the counts: its "observational intensity").

    Example:
        >>> import torch, neuralde as nde
        >>> encoder = nde.models.CDEEncoder(channels=3, latent=4)
        >>> model = nde.LatentODE(channels=3, latent=4, encoder=encoder)
        >>> model(torch.linspace(0.0, 1.0, 10), torch.randn(8, 10, 3)).mean.shape
        torch.Size([8, 4])
    """

    def __init__(
        self,
        channels: int,
        latent: int,
        state: int = 32,
        hidden: Sequence[int] = (32,),
        *,
        path: Callable[[Any, Any], Any] = HermitePath,
        solver: Method | None = None,
        rtol: Any = 1e-3,
        atol: Any = 1e-3,
        **options: Any,
    ) -> None:
        super().__init__()
        wide = 2 * channels + 1
        self.cde = NeuralCDE(
            MatrixField(state, wide, hidden),
            nn.Linear(wide, state),
            path=path,
            solver=solver,
            rtol=rtol,
            atol=atol,
            **options,
        )
        self.head = nn.Linear(state, 2 * latent)

    def forward(self, ts: Tensor, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance."""
        never = ~mask.any(1, keepdim=True)
        seen = torch.where(never, 0.0, torch.where(mask, x, float("nan")))
        counts = mask.to(x).cumsum(1) / len(ts)
        series = torch.cat([ts.to(x).reshape(1, -1, 1).expand(len(x), -1, 1), seen, counts], -1)
        mean, logvar = self.head(self.cde(ts, series.transpose(0, 1))[0]).chunk(2, -1)
        return mean, logvar


def checked_series(ts: Any, x: Any, mask: Any, channels: int) -> tuple[Tensor, Tensor]:
    """The series with zeros where nothing was observed, and the mask as booleans; refused if they do not fit."""
    if not isinstance(ts, Tensor) or ts.dim() != 1 or not len(ts) or not ts.is_floating_point():
        raise InvalidProblemError(f"ts: got {_shape(ts)}; expected a floating-point tensor of times (T,)")
    if bool((ts.diff() <= 0).any()):
        raise InvalidProblemError("ts: got times that do not increase; expected increasing ones")
    if not isinstance(x, Tensor) or x.dim() != 3 or x.shape[1:] != (len(ts), channels) or not x.is_floating_point():
        raise InvalidProblemError(f"x: got {_shape(x)}; expected a floating-point tensor (B, {len(ts)}, {channels})")
    if mask is None:
        mask = ~x.isnan()
    if not isinstance(mask, Tensor) or mask.shape != x.shape:
        raise InvalidProblemError(f"mask: got {_shape(mask)}; expected a tensor {tuple(x.shape)}, as x has it")
    mask = mask.bool()
    x = torch.where(mask, x, 0.0)
    if not bool(x.isfinite().all()):
        raise InvalidProblemError(
            "x: got numbers that are not finite where the mask says observed; expected finite ones"
        )
    return x, mask


def _shape(value: Any) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
