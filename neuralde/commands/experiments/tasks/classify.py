"""Training a neural ODE classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from neuralde.adjoints import Adjoint
from neuralde.solvers import Tsit5

from ....models import NeuralODE, TimeConditionedMLP
from .. import training
from ..arms import ARMS, Term
from ..training import History


@dataclass(frozen=True)
class Config:
    """What a run depends on, beside its data and its arm."""

    experiment: str = "digits"
    epochs: int = 30
    batch_size: int = 128
    learning_rate: float = 3e-3
    weight_decay: float = 0.0
    hidden: int = 64
    tolerance: float = 1e-7
    train_size: int | None = None
    test_size: int | None = None
    optimizer: str = "adam"
    learning_rate_decay: float = 0.0
    """The rate at the n-th batch is divided by 1 + decay n."""
    device: str = "cpu"


class Classifier(nn.Module):
    """A neural ODE on the pixels, then a linear layer; ``bounded`` ends the field with a tanh."""

    def __init__(
        self,
        pixels: int,
        config: Config,
        terms: Sequence[Term],
        adjoint: Adjoint | None = None,
        bounded: bool = True,
    ) -> None:
        super().__init__()
        field = TimeConditionedMLP(pixels, [config.hidden], bounded=bounded)
        self.node = NeuralODE(
            field,
            solver=Tsit5(),
            rtol=config.tolerance,
            atol=config.tolerance,
            adjoint=adjoint,
            regularizers=[term.make() for term in terms],
        )
        self.head = nn.Linear(pixels, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The logits, and the regularizers' values."""
        states, solution = self.node(x)
        return self.head(states), solution.regularization


class Run(training.Run):
    """One arm with one seed, on :class:`~.data.Images`; without ``terms`` those of :data:`ARMS`."""

    bounded: ClassVar[bool] = True
    portion: ClassVar[int] = 2048
    """How many images are predicted at once when all are."""
    measured = ("accuracy", "nfe", "accepted", "rejected")

    def samples(self) -> int:
        """How many training images there are."""
        return len(self.data.train_x)

    def build(self) -> nn.Module:
        """A classifier with fresh parameters."""
        self.terms = ARMS[self.arm] if self.terms is None else self.terms
        pixels = self.data.train_x.shape[1]
        return Classifier(pixels, self.config, self.terms, self.adjoint, self.bounded).to(self.data.train_x)

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Adam, or gradient descent with momentum 0.9."""
        rate, decay = self.config.learning_rate, self.config.weight_decay
        if self.config.optimizer == "sgd":
            return torch.optim.SGD(model.parameters(), lr=rate, weight_decay=decay, momentum=0.9)
        return torch.optim.Adam(model.parameters(), lr=rate, weight_decay=decay)

    def line(self, history: History, epoch: int) -> str:
        """Accuracy and calls."""
        return f"{self.arm}/{self.seed}: accuracy {100 * history['accuracy'][epoch]:.1f} %, nfe {history['nfe'][epoch]:.0f}"

    def task(self, model: nn.Module, batch: Tensor, step: int) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Cross entropy."""
        del step
        logits, values = model(self.data.train_x[batch])
        return nn.functional.cross_entropy(logits, self.data.train_y[batch]), values

    def measure(self, model: Any) -> dict[str, float]:
        """Accuracy on the held-out images, and the solver's counts for predicting the first 512 of them."""
        accuracy = self.accuracy(model, self.data.test_x, self.data.test_y)
        self.predict(model)
        return {"accuracy": accuracy, **self.counts(model)}

    def measure_last(self, model: Any) -> dict[str, float]:
        """Accuracy on the training images."""
        return {"train_accuracy": self.accuracy(model, self.data.train_x, self.data.train_y)}

    def predict(self, model: Any) -> Tensor:
        """The logits of the first 512 held-out images."""
        return self.logits(model, self.data.test_x[:512])

    def logits(self, model: Any, x: Tensor) -> Tensor:
        """What the model says of images."""
        found: Tensor = model(x)[0]
        return found

    def accuracy(self, model: Any, x: Tensor, y: Tensor) -> float:
        """The part of the images that is recognized."""
        guesses = torch.cat([self.logits(model, part).argmax(dim=1) for part in x.split(self.portion)])
        return (guesses == y).double().mean().item()

    @staticmethod
    def counts(model: Any) -> dict[str, float]:
        """What the last solve cost."""
        stats = model.node.stats
        return {"nfe": stats.nfe, "accepted": stats.accepted, "rejected": stats.rejected}
