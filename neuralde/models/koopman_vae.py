"""A variational autoencoder of series whose latent sequence is pushed towards linear dynamics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from neuralde.solvers import HermitePath, InvalidProblemError, Method, Stats
from neuralde.solvers.checks import integer, number, shown

from ..regularizers.base import Regularizer
from .cde import MatrixField, NeuralCDE
from .latent_dynamics import Draw, SequencePrior, Spectrum, divergence, fitted, linear_misfit

MEMORY = 0.95
"""The part of the kept operator that a batch leaves as it is."""


class KoopmanVAE(nn.Module):
    r"""A generative model of windows of series, with a latent sequence that a linear operator nearly moves.

    .. math:: q(z|x) = \prod_t N(\mu_t(x), \sigma_t^2(x)), \qquad p(z) = \prod_t N(m_t(z_{<t}), s_t^2(z_{<t})), \qquad
              \hat x = \text{dec}(z)

    .. math:: L = |\hat x - x|^2 + \beta\, \text{KL}(q \,\|\, p) + \alpha \sum_{j \le J} \frac{\|\bar z_t A^j - \bar
              z_{t+j}\|^2}{\|\bar z_{t+j} - \langle \bar z \rangle\|^2} + \gamma\, S(A)

    .. math:: A = \arg\min_A \|\bar z_t A - \bar z_{t+1}\|^2

    where :math:`\bar z` is drawn from the prior (and, with ``fit_posterior``, from the posterior too), A is fitted to each
    batch by :func:`neuralde.koopman.fit_operator`, and S is
    the penalty of the spectrum. A running mean of A, and of the covariance of what it leaves, is kept: generation
    and forecasts can go by it.

    Args:
        channels: c, of the windows.
        length: T, of the windows.
        latent: the size of the latent state.
        hidden: the width of the recurrent layers.
        irregular: encode by a neural CDE along the observations, of which any may be NaN; else all must be there.
        spectrum: what A should be: None, ``"unit"`` (eigenvalues of modulus 1), ``"stable"`` (of modulus at most 1), or
            periods, in steps, each for one pair of eigenvalues of modulus 1.
        kl_weight: :math:`\beta`.
        linear_weight: :math:`\alpha`; 0 for a sequential VAE without the linear prior.
        spectrum_weight: :math:`\gamma`.
        fit_posterior: fit A to draws of the posterior too, and hold these against it. Forecasts start from the posterior, so they
            are worth something only with this, and with a ``linear_weight`` of about 1; the paper fits the prior alone.
        rollout: J, how many powers of A are held against the sequence.
        ridge: of the fit, in parts of the mean square of a latent coordinate.
        solver, rtol, atol, regularizers: of the irregular encoder, as in :class:`NeuralCDE`.
        options: further options of :func:`neuralde.solve`, for the irregular encoder.

    The methods are ``loss(x)``, ``sample(n)``, ``forecast(x, steps)`` and ``impute(x)``; ``operator`` is A, and ``eigenvalues``
    are its eigenvalues, of a step. After a loss the irregular encoder's ``solution`` has the regularizers' values, and ``stats``
    its counts.

    Shapes:
        Windows are ``(B, T, c)``, batch first and in [0, 1] (see :func:`neuralde.koopman.windows`), since the decoder ends with a
        sigmoid. ``operator`` is ``(latent, latent)``, rows times it are the next rows.

    Raises:
        InvalidProblemError: a size is no positive int, ``length`` is below 2, a weight below 0, ``spectrum`` none of those; at the
            call, windows have another shape or NaN where the model is not irregular, or an operator is needed before training.
        SolveError: as :func:`neuralde.solve`, from the irregular encoder.

    When to take it:
        To generate and forecast series that are near quasi-periodic, with an operator whose eigenvalues can be read or
        chosen. :class:`LatentODE` and :class:`LatentSDE` where time is continuous in the decoder too.

    References:
        Naiman, Erichson, Ren, Mahoney, Azencot: Generative modeling of regular and irregular time series data via Koopman VAEs.
        ICLR 2024. Penalties of the spectrum are on the operator here, not on its eigenvalues, and generation by the operator is
        not in the paper.

    Example:
        >>> import torch, neuralde as nde
        >>> _ = torch.manual_seed(0)
        >>> model = nde.KoopmanVAE(channels=2, length=12, latent=4, hidden=8, spectrum="stable")
        >>> x = 0.5 + 0.4 * torch.sin(torch.arange(12.0)[:, None] + 6 * torch.rand(16, 1, 2))
        >>> model.loss(x).backward()
        >>> model.sample(3).shape, model.forecast(x, steps=5).shape, model.operator.shape
        (torch.Size([3, 12, 2]), torch.Size([16, 5, 2]), torch.Size([4, 4]))
    """

    kept_operator: Tensor
    kept_covariance: Tensor
    batches: Tensor

    def __init__(
        self,
        channels: int,
        length: int,
        latent: int = 16,
        hidden: int = 20,
        irregular: bool = False,
        spectrum: str | Sequence[float] | None = None,
        *,
        kl_weight: float = 0.009,
        linear_weight: float = 0.03,
        spectrum_weight: float = 1.0,
        fit_posterior: bool = False,
        rollout: int = 1,
        ridge: float = 1e-6,
        solver: Method | None = None,
        rtol: Any = 1e-2,
        atol: Any = 1e-3,
        regularizers: Sequence[Regularizer] = (),
        **options: Any,
    ) -> None:
        super().__init__()
        self.channels, self.latent = integer(channels, "channels"), integer(latent, "latent")
        self.length = integer(length, "length", 2)
        self.rollout = integer(rollout, "rollout")
        if self.rollout >= self.length:
            raise InvalidProblemError(f"rollout: got {rollout}; expected less than length, {self.length}")
        hidden = integer(hidden, "hidden")
        weights = {
            "kl_weight": kl_weight,
            "linear_weight": linear_weight,
            "spectrum_weight": spectrum_weight,
            "ridge": ridge,
        }
        self.weights = {name: number(w, name, "a number of at least 0", least=0.0) for name, w in weights.items()}
        self.fit_posterior = bool(fit_posterior)
        self.irregular, self.spectrum = bool(irregular), Spectrum(spectrum, self.latent)
        if options and not irregular:
            raise InvalidProblemError(
                f"{next(iter(options))}: got an option of a solve; expected none without irregular=True"
            )
        if irregular:
            solve = dict(solver=solver, rtol=rtol, atol=atol, regularizers=regularizers, **options)
            self.encoder: nn.Module = _IrregularEncoder(channels, hidden, solve)
        else:
            self.encoder = _Recurrent(channels, hidden, 3)
        self.norm = nn.BatchNorm1d(2 * hidden)
        self.mean, self.logvar = nn.Linear(2 * hidden, latent), nn.Linear(2 * hidden, latent)
        self.prior = SequencePrior(latent, hidden)
        self.decoder, self.readout = _Recurrent(latent, hidden, 3), nn.Linear(2 * hidden, channels)
        self.register_buffer("kept_operator", torch.zeros(latent, latent))
        self.register_buffer("kept_covariance", torch.zeros(latent, latent))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    @property
    def stats(self) -> Stats | None:
        """The counts of the irregular encoder's last solve."""
        return self.encoder.cde.stats if isinstance(self.encoder, _IrregularEncoder) else None

    @property
    def solution(self) -> Any:
        """The irregular encoder's last solve, whose ``regularization`` belongs in the loss; else None."""
        return self.encoder.solution if isinstance(self.encoder, _IrregularEncoder) else None

    @property
    def operator(self) -> Tensor:
        """The running mean of the operators of the batches."""
        if not self.batches:
            raise InvalidProblemError(
                "operator: there is none before the first loss in training mode; expected training first"
            )
        return self.kept_operator

    @property
    def eigenvalues(self) -> Tensor:
        """Those of the operator, of a step, largest modulus first."""
        values = torch.linalg.eigvals(self.operator)
        return values[values.abs().argsort(descending=True, stable=True)]

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Means and log-variances of the latent sequence, ``(B, T, latent)`` each."""
        features = self.encoder(self._windows(x))
        features = self.norm(features.mT).mT
        return self.mean(features), self.logvar(features)

    def decode(self, z: Tensor) -> Tensor:
        """The window of a latent sequence, ``(B, T, c)``; of a longer one each step as the last of its window."""
        return torch.sigmoid(self.readout(self.decoder(z)))

    def loss(self, x: Tensor) -> Tensor:
        """The loss of the class's formula, 0-d, a mean over windows; what was not observed is left out and made up for."""
        return sum(self.losses(x).values(), start=torch.zeros((), device=x.device))

    def losses(self, x: Tensor) -> dict[str, Tensor]:
        """The terms of the loss, weighted: ``reconstruction``, ``kl``, ``linear`` and ``spectrum``."""
        mean, logvar = self.encode(x)
        seen = ~x.isnan()
        z = mean + (0.5 * logvar).exp() * torch.randn_like(mean)
        error = torch.where(seen, self.decode(z) - x, 0.0)
        rebuilt = error.square().sum() / seen.sum().clamp(min=1) * self.length * self.channels
        prior: Draw = self.prior(len(x), self.length)
        moving = torch.cat([prior.z, z]) if self.fit_posterior else prior.z
        operator, covariance = fitted(moving, self.weights["ridge"])
        if self.training:
            self._keep(operator.detach(), covariance)
        return {
            "reconstruction": rebuilt,
            "kl": self.weights["kl_weight"] * divergence(mean, logvar, prior).mean(),
            "linear": self.weights["linear_weight"] * linear_misfit(moving, operator, self.rollout),
            "spectrum": self.weights["spectrum_weight"] * self.spectrum.penalty(operator),
        }

    def _keep(self, operator: Tensor, covariance: Tensor) -> None:
        share = 1.0 - MEMORY if self.batches else 1.0
        self.kept_operator.lerp_(operator, share)
        self.kept_covariance.lerp_(covariance, share)
        self.batches += 1

    @torch.no_grad()
    def sample(self, n: int, *, by: str = "prior", seed: int | None = None) -> Tensor:
        """So many windows, ``(n, T, c)``.

        Args:
            n: how many.
            by: ``"prior"``, the recurrent one, as in the paper; or ``"operator"``: its first state, then the linear operator with
                normal noise of the covariance that it leaves.
            seed: of the draws; torch's global generator if None.
        """
        n = integer(n, "n")
        if by not in ("prior", "operator"):
            raise InvalidProblemError(f"by: got {by!r}; expected 'prior' or 'operator'")
        generator = None if seed is None else torch.Generator(self.kept_operator.device).manual_seed(seed)
        if by == "prior":
            return self.decode(self.prior(n, self.length, generator).z)
        start = self.prior(n, 1, generator).z
        return self.decode(torch.cat([start, self._moved(start[:, 0], self.length - 1, generator)], 1))

    @torch.no_grad()
    def forecast(self, x: Tensor, steps: int, *, samples: int | None = None, seed: int | None = None) -> Tensor:
        """What follows windows, by the operator: ``(B, steps, c)``.

        Args:
            x: windows, ``(B, T, c)``.
            steps: how many.
            samples: None for the path of the means; else so many draws, of the posterior and of what the operator leaves:
                ``(samples, B, steps, c)``, from which bands are quantiles.
            seed: of the draws.
        """
        steps = integer(steps, "steps")
        mean, logvar = self._evaluated(x)
        if samples is None:
            return self._continued(mean, self._moved(mean[:, -1], steps, None, noise=False))
        count = integer(samples, "samples")
        generator = None if seed is None else torch.Generator(mean.device).manual_seed(seed)
        found = []
        for _ in range(count):
            noise = torch.randn(mean.shape, dtype=mean.dtype, device=mean.device, generator=generator)
            z = mean + (0.5 * logvar).exp() * noise
            found.append(self._continued(z, self._moved(z[:, -1], steps, generator)))
        return torch.stack(found)

    @torch.no_grad()
    def impute(self, x: Tensor) -> Tensor:
        """Windows with what was not observed filled in from the decoded means of the posterior."""
        mean, _ = self._evaluated(x)
        return torch.where(x.isnan(), self.decode(mean), x)

    def _evaluated(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The posterior as evaluation has it, whatever the mode: batches then do not depend on each other."""
        training = self.training
        try:
            return self.eval().encode(x)
        finally:
            self.train(training)

    def _moved(self, z: Tensor, steps: int, generator: torch.Generator | None, noise: bool = True) -> Tensor:
        """What the operator makes of states ``(B, latent)``: ``(B, steps, latent)``."""
        operator = self.operator
        values, vectors = torch.linalg.eigh(self.kept_covariance.double())
        root = (vectors * values.clamp(min=0.0).sqrt()).to(z)
        rows = []
        for _ in range(steps):
            z = z @ operator
            if noise:
                z = z + torch.randn(z.shape, dtype=z.dtype, device=z.device, generator=generator) @ root.mT
            rows.append(z)
        return torch.stack(rows, 1)

    def _continued(self, past: Tensor, future: Tensor) -> Tensor:
        """The decoded future, each stretch of it at the end of a window of the length that the decoder was trained on."""
        whole, steps = torch.cat([past, future], 1), future.shape[1]
        stretch = max(1, self.length // 2)
        found = []
        for begin in range(0, steps, stretch):
            end = min(begin + stretch, steps)
            window = whole[:, end : end + self.length]
            found.append(self.decode(window)[:, self.length - (end - begin) :])
        return torch.cat(found, 1)

    def _windows(self, x: Tensor) -> Tensor:
        shape = ("B", self.length, self.channels)
        if (
            not isinstance(x, Tensor)
            or x.dim() != 3
            or x.shape[1:] != shape[1:]
            or not len(x)
            or not x.is_floating_point()
        ):
            raise InvalidProblemError(f"x: got {shown(x)}; expected float windows ({shape[0]}, {shape[1]}, {shape[2]})")
        if bool(x.isinf().any()) or (not self.irregular and bool(x.isnan().any())):
            missing = (
                "finite values, or NaN where nothing was observed"
                if self.irregular
                else "finite values (or irregular=True)"
            )
            raise InvalidProblemError(f"x: has values that are not finite; expected {missing}")
        return x


class _Recurrent(nn.Module):
    """Gated recurrent layers in both directions: ``(B, T, k)`` to ``(B, T, 2 hidden)``."""

    def __init__(self, size: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.GRU(size, hidden, layers, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)[0]
        return out


class _IrregularEncoder(nn.Module):
    """A neural CDE along the observations, read at all times, and a recurrent layer over what it gives."""

    def __init__(self, channels: int, hidden: int, options: dict[str, Any]) -> None:
        super().__init__()
        field = MatrixField(hidden, channels, hidden=[hidden] * 3)
        self.cde = NeuralCDE(field, nn.Linear(channels, hidden), path=HermitePath, **options)
        self.mix, self.over = nn.Linear(hidden, hidden), _Recurrent(hidden, hidden, 1)
        self.solution: Any = None

    def forward(self, x: Tensor) -> Tensor:
        times = torch.arange(x.shape[1], dtype=torch.float64, device=x.device)
        self.cde.saveat = times
        series = x.transpose(0, 1)
        # A channel of which nothing was observed in a window: the middle of the range at its start.
        empty = series.isnan().all(0)
        series = torch.cat([torch.where(empty, 0.5, series[0])[None], series[1:]])
        states, self.solution = self.cde(times, series)
        out: Tensor = self.over(torch.sigmoid(self.mix(states.transpose(0, 1))))
        return out
