"""Generative adversarial networks of paths: an SDE that makes them, a controlled equation that judges them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from neuralde.adjoints import Adjoint, ReversibleAdjoint
from neuralde.solvers import (
    CDEProblem,
    ConstantStep,
    ControlPath,
    InvalidProblemError,
    Midpoint,
    ReversibleHeun,
    SDEProblem,
    StepTo,
)
from neuralde.solvers.checks import integer
from neuralde.solvers.paths.control.linear import straight

from ..solving import solve


class _Field(nn.Module):
    """Two layers of ``[t; state]`` with LipSwish between them and tanh behind: bounded, and with slope 1 at most once clipped.

    LipSwish is ``0.909 x sigmoid(x)``, whose slope is at most 1 (Chen et al., Residual Flows, 2019).
    """

    def __init__(self, dim: int, width: int, shape: Sequence[int], bounded: bool = True) -> None:
        super().__init__()
        self.shape, self.bounded = tuple(shape), bounded
        self.first, self.last = nn.Linear(dim + 1, width), nn.Linear(width, torch.Size(shape).numel())

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        x = torch.cat([t.expand(*y.shape[:-1], 1), y], -1)
        out: Tensor = self.last(0.909 * functional.silu(self.first(x)))
        return (torch.tanh(out) if self.bounded else out).reshape(*y.shape[:-1], *self.shape)


class SDEGenerator(nn.Module):
    r"""Paths from noise: a hidden Stratonovich SDE with a random start, read out linearly.

    .. math:: X_0 = \zeta_\theta(V), \qquad dX = \mu_\theta(t, X)\,dt + \sigma_\theta(t, X) \circ dW, \qquad
              Y = \alpha_\theta X + \beta_\theta

    with V standard normal. It is stepped by :class:`ReversibleHeun`, so :class:`ReversibleAdjoint`, the default, gives exact
    gradients without keeping states.

    Args:
        channels: of the paths.
        hidden: the size of X.
        width: of the hidden layers.
        noises: how many Brownian motions drive X (general noise).
        start: the size of V.
        dt: the length of the steps; with the times' own distance there is one step between two of them.
        adjoint: how to differentiate.

    ``forward(ts, samples, seed=None)`` gives ``(T, samples, channels)`` at the times ``ts``, ``(T,)``, increasing. ``V``
    comes from torch's global generator unless there is a seed.

    Shapes:
        ``ts`` ``(T,)``, increasing; the paths ``(T, samples, channels)``.

    Units:
        ``dt`` and ``ts`` in one unit of time.

    Raises:
        InvalidProblemError: a size is no positive int; at the call, times do not increase.
        SolveError: as :func:`neuralde.solve`.

    When to take it:
        As the generator of an :class:`SDEGAN`. :class:`NeuralSDE` starts from a given state, this one from noise.

    References:
        Kidger, Foster, Li, Oberhauser, Lyons: Neural SDEs as infinite-dimensional GANs. ICML 2021. Kidger, Foster, Li,
        Lyons: Efficient and accurate gradients for neural SDEs. NeurIPS 2021.

    Example:
        >>> import torch, neuralde as nde
        >>> make = nde.models.SDEGenerator(channels=2, dt=0.1)
        >>> make(torch.linspace(0.0, 1.0, 6), samples=4, seed=0).shape
        torch.Size([6, 4, 2])
    """

    def __init__(
        self,
        channels: int,
        hidden: int = 16,
        width: int = 32,
        noises: int = 3,
        start: int = 4,
        *,
        dt: float,
        adjoint: Adjoint | None = None,
    ) -> None:
        super().__init__()
        _check_sizes(channels=channels, hidden=hidden, width=width, noises=noises, start=start)
        self.begin, self.size = nn.Sequential(nn.Linear(start, width), nn.SiLU(), nn.Linear(width, hidden)), start
        self.drift, self.noise = _Field(hidden, width, (hidden,)), _Field(hidden, width, (hidden, noises))
        self.readout = nn.Linear(hidden, channels)
        self.dt, self.adjoint = dt, ReversibleAdjoint() if adjoint is None else adjoint

    def forward(self, ts: Tensor, samples: int, seed: int | None = None) -> Tensor:
        """So many paths at the times."""
        _check_times(ts)
        weight = self.readout.weight
        made = None if seed is None else torch.Generator(weight.device).manual_seed(seed)
        v = torch.randn(samples, self.size, generator=made, dtype=weight.dtype, device=weight.device)
        span = (float(ts[0]), float(ts[-1]))
        problem = SDEProblem(self.drift, self.noise, self.begin(v), span, (), "general", "stratonovich")
        options: dict[str, Any] = {"dt": self.dt, "controller": ConstantStep(), "adjoint": self.adjoint}
        out: Tensor = self.readout(solve(problem, ReversibleHeun(), saveat=ts.double(), seed=seed, **options).ys)
        return out


class CDECritic(nn.Module):
    r"""A score for each path: a neural controlled differential equation along it, read out linearly at the end.

    .. math:: H_0 = \xi_\phi(t_0, Y_0), \qquad dH = f_\phi(t, H)\,dt + g_\phi(t, H)\,dY, \qquad
              D = m_\phi \cdot H_{t_1}

    The path is joined linearly between its samples, and each piece is one step of the midpoint rule. :meth:`clip_` keeps
    it Lipschitz.

    Args:
        channels: of the paths.
        hidden: the size of H.
        width: of the hidden layers.
        adjoint: how to differentiate; exact if None.

    ``forward(ts, ys)`` takes times ``(T,)``, increasing, and paths ``(T, B, channels)``, and gives ``(B,)``. Gradients flow to
    the paths.

    Shapes:
        ``ts`` ``(T,)``, increasing; ``ys`` ``(T, B, channels)``; the scores ``(B,)``.

    Raises:
        InvalidProblemError: a size is no positive int; at the call, times do not increase, or ``ys`` is not ``(T, B,
            channels)``.
        SolveError: as :func:`neuralde.solve`.

    When to take it:
        As the critic of an :class:`SDEGAN`, and wherever a number is wanted from a whole path. A critic of single times
        sees marginal laws only.

    References:
        Kidger, Foster, Li, Oberhauser, Lyons: Neural SDEs as infinite-dimensional GANs. ICML 2021.

    Example:
        >>> import torch, neuralde as nde
        >>> judge = nde.models.CDECritic(channels=2)
        >>> judge(torch.linspace(0.0, 1.0, 6), torch.zeros(6, 4, 2)).shape
        torch.Size([4])
    """

    def __init__(self, channels: int, hidden: int = 16, width: int = 32, adjoint: Adjoint | None = None) -> None:
        super().__init__()
        _check_sizes(channels=channels, hidden=hidden, width=width)
        self.begin = _Field(channels, width, (hidden,), bounded=False)
        self.drift, self.pull = _Field(hidden, width, (hidden,)), _Field(hidden, width, (hidden, channels))
        self.readout = nn.Linear(hidden, 1, bias=False)
        self.channels, self.adjoint = channels, adjoint

    def forward(self, ts: Tensor, ys: Tensor) -> Tensor:
        """The scores."""
        _check_times(ts)
        if not isinstance(ys, Tensor) or ys.dim() != 3 or ys.shape[::2] != (len(ts), self.channels):
            got = tuple(ys.shape) if isinstance(ys, Tensor) else type(ys).__name__
            raise InvalidProblemError(
                f"ys: got {got}; expected ({len(ts)}, B, {self.channels}), the paths at the times"
            )
        times = ts.to(ys)
        # The time is the first channel, of slope 1: one control for both parts of the field. Made paths are observed
        # everywhere: NaN is a failure, which a LinearPath would take for a missing value.
        knots, values = ts.double(), torch.cat([times.reshape(-1, 1, 1).expand(-1, ys.shape[1], 1), ys], -1)
        path = ControlPath(knots, straight(knots, values))
        problem = CDEProblem(self._field, path, self.begin(times[0], ys[0]))
        end = solve(problem, Midpoint(), controller=StepTo(ts=path.knots.tolist()), adjoint=self.adjoint).y1
        return self.readout(end).squeeze(-1)

    def _field(self, t: Tensor, h: Tensor) -> Tensor:
        return torch.cat([self.drift(t, h).unsqueeze(-1), self.pull(t, h)], -1)

    @torch.no_grad()
    def clip_(self) -> CDECritic:
        """Bring every weight of the fields into ``[-1/n, 1/n]``, n its layer's inputs; to be called after each update.

        Then each layer's slope is at most 1 in the largest-entry norm, and so the fields', however long the path.
        """
        for field in (self.begin, self.drift, self.pull):
            for layer in (field.first, field.last):
                layer.weight.clamp_(-1.0 / layer.in_features, 1.0 / layer.in_features)
        return self


class SDEGAN(nn.Module):
    r"""A generator of paths and a critic of them, trained against each other as a Wasserstein GAN.

    .. math:: \min_\theta \max_\phi \; \mathbb E_{\text{data}}[D_\phi(Y)] - \mathbb E_{\theta}[D_\phi(Y)]

    so that the law of the paths, not only their moments at single times, approaches the data's. Update the critic with
    :meth:`critic_loss` and clip it, update the generator with :meth:`generator_loss`, in turns and with optimizers of their
    own; average the generator's weights over the last part of the training (``torch.optim.swa_utils``), since the last ones
    go round the equilibrium.

    Args:
        generator: :class:`SDEGenerator`, or a module ``generator(ts, samples, seed)`` to ``(T, samples, channels)``.
        critic: :class:`CDECritic`, or any module ``critic(ts, ys)`` to ``(B,)``; clipped where it has ``clip_``.

    Shapes:
        ``ts`` ``(T,)``; real and made paths ``(T, B, channels)``; the losses 0-d.

    Raises:
        InvalidProblemError: generator or critic is no module.

    When to take it:
        To fit the law of whole paths where a likelihood is unknown and moments do not suffice. :class:`LatentSDE` is
        stabler to train where observations have a known noise.

    References:
        Kidger, Foster, Li, Oberhauser, Lyons: Neural SDEs as infinite-dimensional GANs. ICML 2021. Kidger, Foster, Li,
        Lyons: Efficient and accurate gradients for neural SDEs. NeurIPS 2021 (reversible Heun, clipping).

    Example:
        >>> import torch, neuralde as nde
        >>> _ = torch.manual_seed(0)
        >>> gan = nde.SDEGAN(nde.models.SDEGenerator(1, dt=0.25), nde.models.CDECritic(1))
        >>> ts, data = torch.linspace(0.0, 1.0, 5), torch.randn(5, 8, 1)
        >>> ascent = torch.optim.Adam(gan.critic.parameters(), lr=1e-3)
        >>> gan.critic_loss(ts, data, seed=0).backward()
        >>> ascent.step()
        >>> _ = gan.clip_()
        >>> gan.generator_loss(ts, samples=8, seed=1).backward()
        >>> gan(ts, samples=3, seed=2).shape
        torch.Size([5, 3, 1])
    """

    def __init__(self, generator: nn.Module, critic: nn.Module) -> None:
        super().__init__()
        for name, value in (("generator", generator), ("critic", critic)):
            if not isinstance(value, nn.Module):
                raise InvalidProblemError(f"{name}: got {type(value).__name__}; expected a module")
        self.generator, self.critic = generator, critic

    def forward(self, ts: Tensor, samples: int, seed: int | None = None) -> Tensor:
        """Paths that the generator makes, ``(T, samples, channels)``."""
        out: Tensor = self.generator(ts, samples, seed)
        return out

    def critic_loss(self, ts: Tensor, data: Tensor, seed: int | None = None) -> Tensor:
        """The negative distance that the critic sees between as many made paths as real ones; for the critic's update.

        Args:
            ts: times, ``(T,)``.
            data: real paths, ``(T, B, channels)``.
            seed: of the made ones.
        """
        with torch.no_grad():
            made = self(ts, data.shape[1], seed)
        scores: Tensor = self.critic(ts, torch.cat([data, made], 1))
        real, fake = scores.split([data.shape[1], made.shape[1]])
        return fake.mean() - real.mean()

    def generator_loss(self, ts: Tensor, samples: int, seed: int | None = None) -> Tensor:
        """The negative mean score of made paths; for the generator's update."""
        scores: Tensor = self.critic(ts, self(ts, samples, seed))
        return -scores.mean()

    def clip_(self) -> SDEGAN:
        """Clip the critic, if it can be clipped."""
        clip = getattr(self.critic, "clip_", None)
        if clip is not None:
            clip()
        return self


def _check_sizes(**sizes: Any) -> None:
    for name, size in sizes.items():
        integer(size, name)


def _check_times(ts: Any) -> None:
    if not isinstance(ts, Tensor) or ts.dim() != 1 or len(ts) < 2 or not bool((ts.diff() > 0).all()):
        got = f"shape {tuple(ts.shape)}" if isinstance(ts, Tensor) else type(ts).__name__
        raise InvalidProblemError(f"ts: got {got}; expected at least two increasing times (T,)")
