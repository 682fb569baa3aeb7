"""A latent SDE of human walking: 50 motion-capture channels from their first frames, with and without noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from neuralde.solvers import Euler, ODEProblem

from ....data import DataError
from ....models import LatentSDE
from ....solving import solve
from ...extras import needed
from .. import training
from ..report import arms_table

ARMS = {"sde": True, "ode": False}
"""Whether noise drives the latent state."""
COLUMNS = (
    ("test MSE", "mse", 3),
    ("validation MSE", "validation_mse", 3),
    ("one path's MSE", "path_mse", 3),
    ("test NLL", "nll", 3),
    ("bound (nats)", "bound", 3),
    ("path KL", "kl", 1),
    ("training s", "training_seconds", 0),
)


@dataclass(frozen=True)
class Config:
    """What a run depends on, beside its arm, seed and data."""

    experiment: str = "latent-sde"
    epochs: int = 20
    iterations: int = 25
    """In each epoch."""
    batch_size: int = 64
    window: int = 60
    """Frames of a training window; where it starts is drawn anew each time."""
    seen: int = 3
    """Frames that the encoder sees."""
    latent: int = 6
    context: int = 3
    hidden: int = 64
    learning_rate: float = 0.005
    learning_rate_decay: float = 0.0
    frame: float = 0.1
    """The time from one frame to the next, which is one step of the solver."""
    weight: float = 0.1
    """Of the divergences in the loss, reached over the first third of the iterations."""
    paths: int = 50
    """Behind each prediction."""
    device: str = "cpu"


@dataclass(frozen=True, eq=False)
class Walks:
    """Sequences ``(N, frames, channels)``, each channel with mean 0 and variance 1 over the training set.

    ``unit`` is what 1 is in the file's units, for errors that can be compared with published ones.
    """

    train: Tensor
    validation: Tensor
    test: Tensor
    unit: Tensor


def read(file: Path | None) -> Walks:
    """``mocap35.mat``: subject 35 of the CMU motion-capture database, split 16, 3 and 4 as in the papers."""
    about = "expected mocap35.mat, subject 35 of mocap.cs.cmu.edu as prepared for ODE2VAE (Xtr, Xval, Xtest)"
    if file is None or not Path(file).is_file():
        raise DataError(f"--data: got {file}, which is no file; {about}")
    matlab: Any = needed("scipy.io", "train")
    try:
        tables = matlab.loadmat(file)
        parts = [torch.as_tensor(tables[name], dtype=torch.float32) for name in ("Xtr", "Xval", "Xtest")]
    except (matlab.matlab.MatReadError, ValueError, KeyError, TypeError, NotImplementedError) as error:
        raise DataError(f"--data: got {file}, which cannot be read ({error}); {about}") from error
    if any(part.dim() != 3 or part.shape[1:] != parts[0].shape[1:] for part in parts):
        raise DataError(f"--data: got shapes {[tuple(part.shape) for part in parts]}; expected (N, frames, channels)")
    return standardized(*parts)


def standardized(train: Tensor, validation: Tensor, test: Tensor) -> Walks:
    """The parts in units of the training set."""
    middle, unit = train.mean((0, 1)), train.std((0, 1))
    unit = torch.where(unit > 0, unit, 1.0)
    train, validation, test = ((part - middle) / unit for part in (train, validation, test))
    return Walks(train, validation, test, unit)


def mlp(*sizes: int) -> nn.Sequential:
    """Linear layers with Softplus between them."""
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.Softplus()]
    return nn.Sequential(*layers[:-1])


def _bounded(push: Tensor, z: Tensor) -> Tensor:
    """A drift that cannot leave a box, so that a path longer than those trained on stays where the decoder was trained."""
    return 4.0 * torch.tanh(push) - z


class Separate(nn.Module):
    """A network of one hidden layer for each component by itself, ``(B, d)`` to ``(B, d)``."""

    def __init__(self, d: int, hidden: int) -> None:
        super().__init__()
        self.slope, self.shift = nn.Parameter(torch.randn(d, hidden)), nn.Parameter(torch.randn(d, hidden))
        self.out, self.bias = nn.Parameter(torch.randn(d, hidden) / hidden**0.5), nn.Parameter(torch.zeros(d))

    def forward(self, z: Tensor) -> Tensor:
        """Each component's value."""
        return (torch.tanh(z.unsqueeze(-1) * self.slope + self.shift) * self.out).sum(-1) + self.bias


class Walker(nn.Module):
    """Encoder of the first frames, posterior and prior drift, diagonal diffusion, decoder; noise of each channel."""

    def __init__(self, channels: int, config: Config, noisy: bool) -> None:
        super().__init__()
        d, c, h = config.latent, config.context, config.hidden
        self.config, self.noisy = config, noisy
        self.encoder = mlp(config.seen * channels, h, 2 * d + c)
        self.decoder = mlp(d, h, channels)
        self.f, self.h = mlp(d + c, h, d), mlp(d, h, d)
        self.g = Separate(d, h // 4)
        self.log_noise = nn.Parameter(torch.zeros(channels))
        self.start = nn.Parameter(torch.zeros(2, d))

    def posterior(self, t: Tensor, z: Tensor, context: Tensor) -> Tensor:
        """The drift that has seen the first frames."""
        return _bounded(self.f(torch.cat([z, context], -1)), z)

    def prior(self, t: Tensor, z: Tensor) -> Tensor:
        """The drift that has not."""
        return _bounded(self.h(z), z)

    def diffusion(self, t: Tensor, z: Tensor) -> Tensor:
        """Each component's own, between 0.05 and 1.05."""
        out: Tensor = 0.05 + torch.sigmoid(self.g(z))
        return out

    def forward(self, seen: Tensor, frames: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """Frames ``(frames, B, channels)`` as one path has them, and the divergences of path and start, ``(B,)`` each."""
        config, made = self.config, torch.Generator().manual_seed(seed)
        sizes = [config.latent, config.latent, config.context]
        mean, log_scale, context = self.encoder(seen.flatten(1)).split(sizes, -1)
        log_scale = log_scale.clamp(-6.0, 3.0)
        z0 = mean + log_scale.exp() * torch.randn(mean.shape, generator=made)
        scale = log_scale - self.start[1]
        moved = (mean - self.start[0]) / self.start[1].exp()
        apart = 0.5 * ((2.0 * scale).exp() + moved.square() - 1.0 - 2.0 * scale).sum(-1)
        ts = config.frame * torch.arange(frames, dtype=torch.float64)
        span = (0.0, ts[-1].item())
        if not self.noisy:
            problem = ODEProblem(self.posterior, z0, span, (context,))
            states = solve(problem, Euler(), dt=config.frame, saveat=ts).ys
            return self.decoder(states), torch.zeros_like(apart), apart
        model = LatentSDE(self.posterior, self.prior, self.diffusion, span, dt=config.frame, saveat=ts)
        path = model(z0, (context,), seed)
        return self.decoder(path.states), path.kl[-1], apart

    def log_likelihood(self, x: Tensor, frames: Tensor) -> Tensor:
        """Of observed frames given predicted ones, ``(..., channels)`` to ``(...)``."""
        scaled = (x - frames) * (-self.log_noise).exp()
        return -(0.5 * scaled.square() + self.log_noise + 0.5 * math.log(2.0 * math.pi)).sum(-1)


class Run(training.Run):
    """One arm with one seed. The samples of an epoch are windows of the training walks, always new ones."""

    config: Config
    data: Walks
    measured = ("validation_mse",)
    predictions = 3
    clip = 1.0

    def samples(self) -> int:
        """All windows of an epoch."""
        return self.config.iterations * self.config.batch_size

    def build(self) -> nn.Module:
        """A model with fresh parameters."""
        config, frames = self.config, min(self.data.train.shape[1], self.data.test.shape[1])
        if not config.seen < config.window <= frames:
            raise DataError(f"window: got {config.window}; expected more than {config.seen} and at most {frames}")
        return Walker(self.data.train.shape[-1], config, ARMS[self.arm]).to(self.device)

    def rate(self, step: int, steps: int) -> float:
        """Half a cosine from the configuration's rate to 0."""
        return self.config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * step / steps))

    def task(self, model: Any, batch: Tensor, step: int) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The negative bound for a frame and channel, on windows that start anywhere."""
        config, data = self.config, self.data.train
        seed = 1_000_003 * self.seed + step
        made = torch.Generator().manual_seed(seed)
        rows = torch.randint(len(data), (len(batch), 1), generator=made)
        starts = torch.randint(data.shape[1] - config.window + 1, (len(batch), 1), generator=made)
        x = data[rows, starts + torch.arange(config.window)]
        frames, kl, apart = model(x[:, : config.seen], config.window, seed)
        fit = model.log_likelihood(x.transpose(0, 1), frames).sum(0)
        weight = config.weight * min(1.0, 3.0 * (step + 1) / (config.epochs * config.iterations))
        return (weight * (kl + apart) - fit).mean() / (config.window * data.shape[-1]), ()

    def measure(self, model: Any) -> dict[str, float]:
        """The error on the validation walks, from few paths."""
        return {"validation_mse": self.judged(model, self.data.validation, 5)["mse"]}

    def measure_last(self, model: Any) -> dict[str, float]:
        """Everything, on the test walks, which the training has not looked at."""
        numbers = self.judged(model, self.data.test, self.config.paths)
        return {**numbers, "parameters": sum(x.numel() for x in model.parameters())}

    def predict(self, model: Any) -> object:
        """One path for each test walk."""
        x = self.data.test
        return model(x[:, : self.config.seen], x.shape[1], 10**9)

    def line(self, history: training.History, epoch: int) -> str:
        """Loss, and the error on the validation walks."""
        loss, error = history["loss"][epoch], history["validation_mse"][epoch]
        return f"{self.arm}/{self.seed}: loss {loss:.3f}, validation MSE {error:.2f}"

    @torch.no_grad()
    def judged(self, model: Walker, x: Tensor, paths: int) -> dict[str, float]:
        """Of all later frames, from the first ones alone: errors of the paths' mean and of one path, and likelihoods."""
        seen, seeds = self.config.seen, range(10**9, 10**9 + paths)
        frames, kl, apart = (
            torch.stack(parts) for parts in zip(*(model(x[:, :seen], x.shape[1], s) for s in seeds), strict=True)
        )
        later, x = frames[:, seen:], x.transpose(0, 1)
        unit = self.data.unit
        fits = model.log_likelihood(x, frames)
        predictive = fits[:, seen:].logsumexp(0) - math.log(paths)
        return {
            "mse": ((later.mean(0) - x[seen:]) * unit).square().mean().item(),
            "path_mse": ((later - x[seen:]) * unit).square().mean().item(),
            "nll": -predictive.mean().item() / x.shape[-1],
            "bound": ((fits.sum(1) - kl - apart).mean() / (len(x) * x.shape[-1])).item(),
            "kl": kl.mean().item(),
        }


def baselines(data: Walks, seen: int) -> dict[str, float]:
    """The test error of rules that learn little: the last seen frame, the training mean, linear autoregression.

    The autoregression predicts a frame linearly from the ``seen`` before it, by ridge regression whose strength is
    chosen on the validation set, and is run on its own predictions.
    """
    unit, x = data.unit, data.test
    errors = {
        "last frame": ((x[:, seen - 1 : seen] - x[:, seen:]) * unit).square().mean().item(),
        "training mean": (x[:, seen:] * unit).square().mean().item(),
    }
    inputs, targets = _lagged(data.train.double(), seen)
    best = (math.inf, math.nan)
    for ridge in (1e-2, 1.0, 1e2, 1e3, 1e4):
        gram = inputs.T @ inputs + ridge * torch.eye(inputs.shape[1], dtype=inputs.dtype)
        weights = torch.linalg.solve(gram, inputs.T @ targets)
        pair = [_rolled(part.double(), weights, seen, unit) for part in (data.validation, x)]
        best = min(best, (pair[0], pair[1]))
    return {**errors, "linear autoregression": best[1]}


def _lagged(x: Tensor, seen: int) -> tuple[Tensor, Tensor]:
    windows = x.unfold(1, seen, 1)[:, :-1]  # (N, frames - seen, channels, seen)
    return windows.flatten(0, 1).flatten(1), x[:, seen:].flatten(0, 1)


def _rolled(x: Tensor, weights: Tensor, seen: int, unit: Tensor) -> float:
    frames = list(x[:, :seen].unbind(1))
    while len(frames) < x.shape[1]:
        frames.append(torch.stack(frames[-seen:], -1).flatten(1) @ weights)
    error = ((torch.stack(frames[seen:], 1) - x[:, seen:]) * unit).square().mean().item()
    return error if math.isfinite(error) else math.inf


def table(results: list[dict[str, Any]], rules: dict[str, float]) -> str:
    """A row for each arm, mean ± standard deviation over seeds; below, what simple rules reach."""
    lines = [arms_table(results, [(title, key, 1.0, digits) for title, key, digits in COLUMNS])]
    return "\n".join([*lines, "test MSE of " + ", ".join(f"{name} {error:.3f}" for name, error in rules.items())])
