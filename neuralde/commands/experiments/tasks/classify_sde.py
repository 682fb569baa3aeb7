"""Training a neural SDE classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from neuralde.adjoints import Adjoint
from neuralde.solvers import SOSRI, SDEProblem

from ....models import NeuralSDE
from ....solving import solve
from ..arms import Term
from ..experiment import ACCURACY, COST, NFE, Measure
from . import classify
from .images import Classification

EVALUATION = -1
"""The seed of all noise in measurements, which thus takes nothing from the training's random numbers."""
FINER = 100
"""By how much the tolerance is divided where calls are counted once more."""


@dataclass(frozen=True)
class Config(classify.Config):
    """What a run depends on, beside its data and its arm."""

    latent: int = 32
    """The size of the state."""
    trajectories: int = 10
    """Over how many the logits are averaged in a prediction."""


class _Autonomous(nn.Module):
    """A field that does not see the time."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """The field at ``y``."""
        del t
        out: Tensor = self.net(y)
        return out


class NoisyClassifier(nn.Module):
    """A linear layer, a neural SDE with diagonal noise, and another linear layer."""

    def __init__(self, pixels: int, config: Config, terms: Sequence[Term], adjoint: Adjoint | None = None) -> None:
        super().__init__()
        size = config.latent
        self.encoder, self.head = nn.Linear(pixels, size), nn.Linear(size, 10)
        drift = nn.Sequential(nn.Linear(size, config.hidden), nn.Tanh(), nn.Linear(config.hidden, size))
        self.node = NeuralSDE(
            _Autonomous(drift),
            _Autonomous(nn.Linear(size, size)),
            solver=SOSRI(),
            rtol=config.tolerance,
            atol=config.tolerance,
            adjoint=adjoint,
            regularizers=[term.make() for term in terms],
        )

    def forward(self, x: Tensor, trajectories: int = 1, seed: int | None = None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The logits, averaged over so many trajectories solved together, and the regularizers' values."""
        states, solution = self.node(self.encoder(x).repeat(trajectories, 1), seed=seed)
        logits = self.head(states).unflatten(0, (trajectories, len(x))).mean(dim=0)
        return logits, solution.regularization


class Run(classify.Run):
    """One arm with one seed: a trajectory for each image in training, several in predictions."""

    config: Config
    portion = 512
    predictions = 5

    def build(self) -> nn.Module:
        """A classifier with fresh parameters."""
        pixels = self.data.train_x.shape[1]
        return NoisyClassifier(pixels, self.config, self.terms or (), self.adjoint).to(self.data.train_x)

    def measure(self, model: Any) -> dict[str, float]:
        """Accuracy on the first 512 held-out images, and the solver's counts for predicting them."""
        guesses = self.predict(model).argmax(dim=1)
        right = (guesses == self.data.test_y[: len(guesses)]).double().mean().item()
        return {"accuracy": right, **self.counts(model)}

    def measure_last(self, model: Any) -> dict[str, float]:
        """Accuracy on all held-out images and on as many training images, and the calls at a finer tolerance."""
        data, count = self.data, len(self.data.test_x)
        return {
            "accuracy": self.accuracy(model, data.test_x, data.test_y),
            "train_accuracy": self.accuracy(model, data.train_x[:count], data.train_y[:count]),
            "nfe_finer": self._calls(model, self.config.tolerance / FINER),
        }

    def _calls(self, model: Any, tolerance: float) -> float:
        """Calls of the drift for one trajectory of each of the first 512 held-out images."""
        node, start = model.node, model.encoder(self.data.test_x[:512])
        problem = SDEProblem(node.drift, node.diffusion, start, node.tspan)
        calls = solve(problem, SOSRI(), rtol=tolerance, atol=tolerance, seed=EVALUATION).stats.nfe
        return float(calls)

    def logits(self, model: Any, x: Tensor) -> Tensor:
        """Averaged over the trajectories, whose noise is the same in every measurement."""
        found: Tensor = model(x, self.config.trajectories, EVALUATION)[0]
        return found


class NoisyClassification(Classification):
    """A neural SDE on MNIST's pixels."""

    measures = (
        ACCURACY,
        Measure("train_accuracy", "train %", 100.0, 2),
        NFE,
        Measure("nfe_finer", f"NFE at tolerance / {FINER}", against="ratio"),
        *COST[1:],
    )

    def __init__(self) -> None:
        super().__init__(Run)
