"""Training a latent ODE on PhysioNet 2012."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from neuralde.adjoints import DirectAdjoint
from neuralde.solvers import Tsit5

from ....data import DataError
from ....models import LatentField, LatentODE, MaskedGRU
from .. import training
from ..experiment import COST, Arm, Experiment, Measure
from .images import SMOKE
from .physionet import CHANNELS, HELP, HOURS, Series, physionet

LATENT = 20
STD = 0.01
STAND_IN = "These are random numbers, not PhysioNet's records (no --data): a run of the machinery, not a reproduction."


@dataclass(frozen=True)
class Config:
    """What a run depends on, beside its data and its arm."""

    experiment: str = "regnde-physionet"
    epochs: int = 300
    batch_size: int = 512
    learning_rate: float = 0.01
    learning_rate_decay: float = 1e-5
    """The rate at the n-th batch is divided by 1 + decay n."""
    hidden: int = 50
    """The width of the field."""
    tolerance: float = 1.4e-8
    kl_after: int = 10
    """The epoch (or, in the local table, the step) after which the divergence enters: weight 1 - 0.99^(n - kl_after)."""
    train_size: int | None = None
    test_size: int | None = None
    split_seed: int = 0
    device: str = "cpu"


@dataclass(eq=False)
class Run(training.Run):
    """One arm with one seed, on :class:`Series`."""

    steer: float = 0.0
    encoder: dict[str, Any] = field(default_factory=dict)

    kl_by_step: ClassVar[bool] = False
    measured = ("error", "nfe", "accepted", "rejected")
    drop_last = True

    def samples(self) -> int:
        """How many training series there are."""
        return len(self.data.train_x)

    def build(self) -> nn.Module:
        """A latent ODE with fresh parameters, drawn as the papers' framework draws them (Glorot and Bengio; biases of zero).

        With torch's own smaller weights a model still predicted the channels' means after 400 batches of 64 (seed 0, at
        1.4e-8), which these leave after 64 to 208 (at 1e-6).
        """
        channels = self.data.train_x.shape[-1]
        model = LatentODE(
            channels,
            LATENT,
            encoder=MaskedGRU(channels, LATENT, **self.encoder),
            field=LatentField(LATENT, self.config.hidden),
            std=STD,
            steer=self.steer,
            solver=Tsit5(),
            rtol=self.config.tolerance,
            atol=self.config.tolerance,
            adjoint=self.adjoint or DirectAdjoint(),  # exact as the default, without calling the small field again
            regularizers=[term.make() for term in self.terms or ()],
        )
        for layer in model.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        return model.to(self.data.train_x)

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """AdaMax."""
        return torch.optim.Adamax(model.parameters(), lr=self.config.learning_rate)

    def task(self, model: Any, batch: Tensor, step: int) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The papers' bound: likelihood for each observed number, less the divergence for each latent dimension."""
        x, mask = self.data.train_x[batch], self.data.train_mask[batch]
        out = model(self.data.ts, x, mask)
        observed = mask.sum((1, 2)).clamp(min=1)
        bound = model.log_likelihood(out, x, mask) / observed - self._kl_weight(step) * model.kl(out) / LATENT
        return -bound.mean(), out.solution.regularization

    def _kl_weight(self, step: int) -> float:
        """How much of the divergence counts."""
        batches = max(self.samples() // self.config.batch_size, 1)
        count = step if self.kl_by_step else step // batches
        return max(0.0, 1.0 - 0.99 ** (count - self.config.kl_after))

    def measure(self, model: Any) -> dict[str, float]:
        """The error on the held-out series, and the counts of predicting the first 512 of them."""
        error = self._error(model, self.data.test_x, self.data.test_mask)
        self.predict(model)
        stats = model.stats
        return {"error": error, "nfe": stats.nfe, "accepted": stats.accepted, "rejected": stats.rejected}

    def measure_last(self, model: Any) -> dict[str, float]:
        """The error on the training series."""
        return {"train_error": self._error(model, self.data.train_x, self.data.train_mask)}

    def predict(self, model: Any) -> object:
        """The first 512 held-out series."""
        return model(self.data.ts, self.data.test_x[:512], self.data.test_mask[:512])

    def _error(self, model: Any, x: Tensor, mask: Tensor) -> float:
        """The mean over the series of each one's masked squared error."""
        errors = [
            model.squared_error(model(self.data.ts, part, seen), part, seen)
            for part, seen in zip(x.split(512), mask.split(512), strict=True)
        ]
        return torch.cat(errors).mean().item()


class StepRun(Run):
    """Everything that changes does so from step to step, as in Pal et al. (2023)."""

    kl_by_step = True
    anneal_by_step = True


class LatentSeriesExperiment(Experiment):
    """A latent ODE that fits intensive-care series; ``kind`` is how a row is trained, ``encoder`` what is special in it."""

    measures = (
        Measure("error", "test error x1e-3", 1e3, 2, "ratio", beside=True, log=True),
        Measure("train_error", "train error x1e-3", 1e3, 2, beside=True),
        *COST,
    )
    data_help = HELP

    def __init__(self, kind: type[Run] = Run, **encoder: Any) -> None:
        self.kind, self.encoder = kind, encoder

    def data(self, folder: Path | None, config: Config, scale: str) -> tuple[Series, list[str]]:
        """PhysioNet's records, or at smoke scale without a folder random numbers."""
        if folder is None and scale != "smoke":
            raise DataError(f"--data: got none; expected {HELP}")
        warnings = [SMOKE] if scale == "smoke" else []
        if folder is None:
            series, warnings = _noise(config), [STAND_IN, *warnings]
        else:
            series = physionet(folder, torch.float64, config.train_size, config.test_size, config.split_seed)
        return series.to(torch.device(config.device)), warnings

    def identity(self, data: Series) -> dict[str, Any]:
        """How many series."""
        return {"series": [len(data.train_x), len(data.test_x)]}

    def run(self, name: str, arm: Arm, seed: int, config: Config, data: Series, checkpoint: Path) -> Run:
        """One row with one seed."""
        adjoint = None if arm.adjoint is None else arm.adjoint()
        return self.kind(
            name, seed, config, data, checkpoint, arm.terms, adjoint, encoder=self.encoder, **dict(arm.options)
        )


def _noise(config: Config) -> Series:
    """Random series of PhysioNet's shape, of which a fifth is observed."""
    generator = torch.Generator().manual_seed(0)
    parts = []
    for count in (config.train_size or 64, config.test_size or 32):
        shape = (count, HOURS + 1, len(CHANNELS))
        mask = torch.rand(shape, generator=generator) < 0.2
        parts += [torch.rand(shape, generator=generator, dtype=torch.float64) * mask, mask]
    return Series(torch.linspace(0.0, 1.0, HOURS + 1, dtype=torch.float64), *parts)
