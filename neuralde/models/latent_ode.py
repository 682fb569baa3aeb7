"""Latent ordinary differential equations: an encoder, a start drawn from it, dynamics, a decoder and their bound."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from neuralde.solvers import InvalidProblemError, Method, Solution, Stats
from neuralde.solvers.checks import integer, number

from ..regularizers.base import Regularizer
from .encoders import MaskedGRU, checked_series
from .ode import NeuralODE


class LatentField(nn.Module):
    r"""The autonomous field of the papers' latent ODEs: a tanh, then pairs of layers with a tanh after each.

    .. math:: f(t, z) = (b_n \circ \dots \circ b_1)(\tanh z), \qquad b_i(z) = \tanh(W_i' \tanh(W_i z + c_i) + c_i')

    Args:
        dim: the size of the state.
        hidden: the width in each pair.
        blocks: how many pairs.

    Shapes:
        ``z`` and the result are ``(..., dim)``; ``t`` is ignored.

    Raises:
        RuntimeError: the last dimension of ``z`` is not ``dim`` (torch's own error).

    When to take it:
        To repeat a published latent ODE. It has no time in it, and its values are within 1; :class:`TimeConditionedMLP`
        is the usual choice where neither is wanted.

    References:
        Rubanova, Chen, Duvenaud: Latent ODEs for Irregularly-Sampled Time Series. NeurIPS 2019. Pal, Ma, Shah,
        Rackauckas: Opening the Blackbox. ICML 2021.

    Example:
        >>> import torch, neuralde as nde
        >>> field = nde.models.LatentField(20)
        >>> field(torch.tensor(0.0), torch.zeros(8, 20)).shape
        torch.Size([8, 20])
    """

    def __init__(self, dim: int, hidden: int = 50, blocks: int = 4) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Tanh()]
        for _ in range(blocks):
            layers += [nn.Linear(dim, hidden), nn.Tanh(), nn.Linear(hidden, dim), nn.Tanh()]
        self.layers = nn.Sequential(*layers)

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        """The derivative at ``(t, z)``."""
        del t
        out: Tensor = self.layers(z)
        return out


class LatentSeries(NamedTuple):
    """What a :class:`LatentODE` gives.

    Attributes:
        prediction: the decoded states, ``(B, T, channels)``.
        mean: of the latent start, ``(B, latent)``.
        logvar: logarithm of the latent start's variance, ``(B, latent)``.
        states: the latent states, ``(T, B, latent)``.
        solution: of the solve; its ``regularization`` belongs in the loss.

    Example:
        >>> import torch, neuralde as nde
        >>> series = nde.LatentODE(channels=3, latent=4)(torch.linspace(0.0, 1.0, 10), torch.randn(8, 10, 3))
        >>> series.prediction.shape, series.states.shape, series.solution.status.name
        (torch.Size([8, 10, 3]), torch.Size([10, 8, 4]), 'SUCCESS')
    """

    prediction: Tensor
    mean: Tensor
    logvar: Tensor
    states: Tensor
    solution: Solution


class LatentODE(nn.Module):
    r"""A generative model of series with gaps: the whole series follows from a latent start and an ODE.

    .. math:: (\mu, \log \sigma^2) = \text{enc}(t, x, m), \quad z(t_1) = \mu + \sigma \varepsilon, \quad
              z' = f_\theta(t, z), \quad \hat x_i = \text{dec}(z(t_i)), \quad x_i \sim N(\hat x_i, s^2)

    It is trained by the evidence lower bound, which :meth:`log_likelihood` and :meth:`kl` make up:

    .. math:: \log p(x) \ge \mathbb E \sum_{m_{ic} = 1} \log N(x_{ic}; \hat x_{ic}, s^2)
              - \text{KL}(N(\mu, \sigma^2) \,\|\, N(0, 1))

    Args:
        channels: how many numbers are observed at a time.
        latent: the size of the latent state.
        encoder: a module or callable ``(ts, x, mask) -> (mean, logvar)``, each ``(B, latent)``; if None
            :class:`neuralde.models.MaskedGRU`; :class:`neuralde.models.CDEEncoder` is a neural CDE.
        field: ``f(t, z)``; if None :class:`LatentField`. With the defaults and 37 channels this is the model of Pal et al.
            (2021), of 45,467 parameters.
        decoder: ``(..., latent)`` to ``(..., channels)``; if None a linear layer.
        std: :math:`s`, the observations' standard deviation, in the units of ``x``.
        steer: in training mode, move every time after the first by a uniform random part of this width, in units of the
            smaller gap beside it (STEER for save times; the papers use 1), not beyond the last time; 0 for not at all.
        solver, rtol, atol, adjoint, regularizers: as in :class:`neuralde.NeuralODE`, which holds the field and solves.
        options: further options of :func:`neuralde.solve`.

    Calls are ``forward(ts, x, mask=None, predict=None)``. Without a mask, observed is where ``x`` is not NaN. What is not
    observed is never read. ``predict`` are other times to decode at, the first not before ``ts[0]``. It gives a
    :class:`LatentSeries`. In training mode the start is drawn from torch's global generator, in evaluation it is the mean.
    The counts of the last solve stay readable as ``stats``.

    Shapes:
        ``ts`` ``(T,)``, increasing; ``x`` and ``mask`` ``(B, T, channels)``, the mask true where something was
        observed; ``predict`` ``(P,)``; the prediction ``(B, T, channels)`` or ``(B, P, channels)``; the likelihood and
        the divergence ``(B,)``.

    Units:
        Times in any one unit, that of the field; ``std`` in the units of ``x``; the bound in nats.

    Raises:
        InvalidProblemError: a size, ``std`` or ``steer`` is out of range, an option fixes the times; at the call, times
            do not increase, or series, mask or an encoder's output do not fit.
        SolveError: as :func:`neuralde.solve`.

    When to take it:
        For series observed at irregular times or with gaps, whose noise is that of the measurement. :class:`LatentSDE`
        where the process itself is random; :class:`NeuralODE` where the state is observed whole.

    References:
        Rubanova, Chen, Duvenaud: Latent ODEs for Irregularly-Sampled Time Series. NeurIPS 2019.
        Pal, Ma, Shah, Rackauckas: Opening the Blackbox. ICML 2021.

    Example:
        >>> import torch, neuralde as nde
        >>> _ = torch.manual_seed(0)
        >>> model = nde.LatentODE(channels=3, latent=4, regularizers=[nde.regularizers.ErrorEstimate()])
        >>> ts = torch.linspace(0.0, 1.0, 10)
        >>> x = torch.randn(8, 10, 3)
        >>> x[:, 5:, 0] = float("nan")  # not observed
        >>> out = model(ts, x)
        >>> bound = model.log_likelihood(out, x) - model.kl(out)
        >>> loss = -bound.mean() + 10.0 * out.solution.regularization[0]
        >>> loss.backward()
        >>> out.prediction.shape, bound.shape
        (torch.Size([8, 10, 3]), torch.Size([8]))
    """

    def __init__(
        self,
        channels: int,
        latent: int = 20,
        *,
        encoder: Callable[..., tuple[Tensor, Tensor]] | None = None,
        field: Callable[..., Tensor] | None = None,
        decoder: Callable[[Tensor], Tensor] | None = None,
        std: float = 0.01,
        steer: float = 0.0,
        solver: Method | None = None,
        rtol: Any = 1e-3,
        atol: Any = 1e-6,
        adjoint: Any = None,
        regularizers: Sequence[Regularizer] = (),
        **options: Any,
    ) -> None:
        super().__init__()
        channels, latent = integer(channels, "channels"), integer(latent, "latent")
        std = number(std, "std", "a positive number", above=0.0)
        steer = number(steer, "steer", "a number from 0 to 1", least=0.0, most=1.0)
        for name in ("saveat", "events", "per_sample"):
            if options.get(name) is not None:
                raise InvalidProblemError(f"{name}: got {options[name]!r}; expected none, the times are an input")
        self.channels, self.latent, self.std, self.steer = channels, latent, std, steer
        self.encoder = MaskedGRU(channels, latent) if encoder is None else encoder
        self.decoder = nn.Linear(latent, channels) if decoder is None else decoder
        dynamics = LatentField(latent) if field is None else field
        self.node = NeuralODE(
            dynamics, solver=solver, rtol=rtol, atol=atol, adjoint=adjoint, regularizers=regularizers, **options
        )

    @property
    def stats(self) -> Stats | None:
        """The counts of the last solve."""
        return self.node.stats

    def forward(self, ts: Tensor, x: Tensor, mask: Tensor | None = None, predict: Tensor | None = None) -> LatentSeries:
        """The series as the model has it."""
        x, mask = checked_series(ts, x, mask, self.channels)
        mean, logvar = self.encoder(ts, x, mask)
        for name, value in (("mean", mean), ("logvar", logvar)):
            if value.shape != (len(x), self.latent):
                raise InvalidProblemError(
                    f"encoder: got a {name} of shape {tuple(value.shape)}; expected {(len(x), self.latent)}"
                )
        z0 = mean + (0.5 * logvar).exp() * torch.randn_like(mean) if self.training else mean
        times = self._times(ts, predict)
        self.node.tspan, self.node.options["saveat"] = (ts[0], times[-1]), times
        states, solution = self.node(z0)
        return LatentSeries(self.decoder(states).transpose(0, 1), mean, logvar, states, solution)

    def log_likelihood(self, series: LatentSeries, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The logarithm of the density of what was observed, given the latent path: ``(B,)``."""
        x, mask = self._observed(series, x, mask)
        error = torch.where(mask, (series.prediction - x) / self.std, 0.0)
        constant = math.log(self.std) + 0.5 * math.log(2.0 * math.pi)
        return -0.5 * error.square().sum((1, 2)) - constant * mask.sum((1, 2))

    def kl(self, series: LatentSeries) -> Tensor:
        """The divergence of the latent start from a standard normal variable: ``(B,)``."""
        mean, logvar = series.mean, series.logvar
        return 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar).sum(-1)

    def squared_error(self, series: LatentSeries, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The mean squared error over what was observed of each series, ``(B,)``; 0 where nothing was."""
        x, mask = self._observed(series, x, mask)
        error = torch.where(mask, series.prediction - x, 0.0)
        return error.square().sum((1, 2)) / mask.sum((1, 2)).clamp(min=1)

    @staticmethod
    def _observed(series: LatentSeries, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """The data and where they were observed, fitting the prediction."""
        if x.shape != series.prediction.shape:
            raise InvalidProblemError(
                f"x: got shape {tuple(x.shape)}; expected {tuple(series.prediction.shape)}, the prediction's"
            )
        mask = ~x.isnan() if mask is None else mask.bool()
        return torch.where(mask, x, 0.0), mask

    def _times(self, ts: Tensor, predict: Tensor | None) -> Tensor:
        """When to decode."""
        if predict is not None and (not isinstance(predict, Tensor) or predict.dim() != 1 or not len(predict)):
            raise InvalidProblemError(f"predict: got {predict!r}; expected a tensor of times (T,)")
        times = ts if predict is None else predict
        if not self.training or not self.steer or len(times) < 2:
            return times
        return jittered(times, self.steer)


def jittered(ts: Tensor, width: float) -> Tensor:
    """Times each moved, but the first, by ``U(-width/2, width/2)`` of the smaller gap beside it, not beyond the last.

    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> jittered(torch.tensor([0.0, 1.0, 2.0]), 1.0)
    tensor([0.0000, 0.9963, 2.0000])
    """
    gaps = ts.diff()
    smaller = torch.minimum(gaps, torch.cat([gaps[1:], gaps[-1:]]))
    moved = ts[1:] + width * (torch.rand_like(smaller) - 0.5) * smaller
    return torch.cat([ts[:1], torch.minimum(moved, ts[-1])])
