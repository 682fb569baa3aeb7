"""Training a neural ODE classifier, so that it can stop at any time and go on to the same numbers."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from neuralde.adjoints import Adjoint
from neuralde.solvers import Tsit5

from ..models import NeuralODE, TimeConditionedMLP
from .arms import ARMS, Term
from .data import Images


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
    """A neural ODE on the pixels, then a linear layer."""

    def __init__(self, pixels: int, config: Config, terms: Sequence[Term], adjoint: Adjoint | None = None) -> None:
        super().__init__()
        field = TimeConditionedMLP(pixels, [config.hidden], bounded=True)
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


class CheckpointError(Exception):
    """A checkpoint does not belong to the run that wants to resume from it."""


@dataclass(eq=False)
class Run:
    """One arm with one seed."""

    arm: str
    seed: int
    config: Config
    data: Images
    checkpoint: Path
    terms: tuple[Term, ...] | None = None
    """The regularizers and weights; None: those of :data:`ARMS` under the arm's name."""
    adjoint: Adjoint | None = None

    def train(self, resume: bool, tick: Callable[[str], None]) -> dict[str, Any]:
        """Train, from the last finished epoch if ``resume``; returns the numbers of the run.

        A checkpoint is written after every epoch. An interruption loses the epoch under way, which is then done again
        from the same parameters and the same random numbers.
        """
        torch.manual_seed(self.seed)
        model = Classifier(self.data.train_x.shape[1], self.config, self._terms, self.adjoint).to(self.data.train_x)
        optimizer = self._optimizer(model)
        history: dict[str, list[float]] = {
            name: [] for name in ("loss", "accuracy", "nfe", "accepted", "rejected", "seconds")
        }
        if resume and self.checkpoint.is_file():
            self._load(model, optimizer, history)
            for epoch in range(len(history["loss"])):
                tick(self._line(history, epoch))
        for epoch in range(len(history["loss"]), self.config.epochs):
            start = time.perf_counter()
            loss = self._epoch(model, optimizer, epoch)
            self._finished()
            history["seconds"].append(time.perf_counter() - start)
            history["loss"].append(loss)
            for name, value in self.measure(model).items():
                history[name].append(value)
            self._save(model, optimizer, history)
            tick(self._line(history, epoch))
        final = {name: values[-1] for name, values in history.items() if name != "seconds"}
        return {
            "arm": self.arm,
            "seed": self.seed,
            **final,
            "train_accuracy": self._accuracy(model, self.data.train_x, self.data.train_y),
            "training_seconds": sum(history["seconds"]),
            "prediction_seconds": self._prediction_seconds(model),
            "history": history,
        }

    @property
    def _terms(self) -> tuple[Term, ...]:
        return ARMS[self.arm] if self.terms is None else self.terms

    def _optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Adam, or gradient descent with momentum 0.9."""
        rate, decay = self.config.learning_rate, self.config.weight_decay
        if self.config.optimizer == "sgd":
            return torch.optim.SGD(model.parameters(), lr=rate, weight_decay=decay, momentum=0.9)
        return torch.optim.Adam(model.parameters(), lr=rate, weight_decay=decay)

    def _line(self, history: dict[str, list[float]], epoch: int) -> str:
        return f"{self.arm}/{self.seed}: accuracy {100 * history['accuracy'][epoch]:.1f} %, nfe {history['nfe'][epoch]:.0f}"

    def _epoch(self, model: Classifier, optimizer: torch.optim.Optimizer, epoch: int) -> float:
        model.train()
        terms, total = self._terms, 0.0
        order = torch.randperm(len(self.data.train_x))
        batches = order.split(self.config.batch_size)
        for place, batch in enumerate(batches, start=epoch * len(batches)):
            for group in optimizer.param_groups:
                group["lr"] = self.config.learning_rate / (1.0 + self.config.learning_rate_decay * place)
            batch = batch.to(self.data.train_x.device)
            logits, values = model(self.data.train_x[batch])
            task = nn.functional.cross_entropy(logits, self.data.train_y[batch])
            weighted = [
                term.weight(epoch, self.config.epochs) * value for term, value in zip(terms, values, strict=True)
            ]
            loss = task + sum(weighted)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += task.item() * len(batch)
        return total / len(order)

    @torch.no_grad()
    def measure(self, model: Classifier) -> dict[str, float]:
        """Accuracy on the held-out images, and the solver's counts for predicting the first 512 of them."""
        accuracy = self._accuracy(model, self.data.test_x, self.data.test_y)
        model(self.data.test_x[:512])
        stats = model.node.stats
        assert stats is not None
        return {"accuracy": accuracy, "nfe": stats.nfe, "accepted": stats.accepted, "rejected": stats.rejected}

    @staticmethod
    @torch.no_grad()
    def _accuracy(model: Classifier, x: Tensor, y: Tensor) -> float:
        """The part of the images that is recognized."""
        model.eval()
        guesses = torch.cat([model(part)[0].argmax(dim=1) for part in x.split(2048)])
        return (guesses == y).double().mean().item()

    @torch.no_grad()
    def _prediction_seconds(self, model: Classifier) -> float:
        """The median time of predicting the first 512 held-out images."""
        model.eval()
        batch, times = self.data.test_x[:512], []
        model(batch)
        for _ in range(15):
            start = time.perf_counter()
            model(batch)
            self._finished()
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    def _finished(self) -> None:
        """Wait for the device, so that a clock shows what was computed."""
        if self.data.test_x.is_cuda:
            torch.cuda.synchronize(self.data.test_x.device)

    def _save(self, model: nn.Module, optimizer: torch.optim.Optimizer, history: dict[str, list[float]]) -> None:
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        state = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(self.data.train_x.device) if self.data.train_x.is_cuda else None,
            "history": history,
            "config": json.dumps(asdict(self.config), sort_keys=True),
        }
        temporary = self.checkpoint.with_suffix(".part")
        torch.save(state, temporary)
        temporary.replace(self.checkpoint)  # a reader never sees half a file

    def _load(self, model: nn.Module, optimizer: torch.optim.Optimizer, history: dict[str, list[float]]) -> None:
        try:
            state = torch.load(self.checkpoint, weights_only=True)
        except Exception as error:
            raise CheckpointError(f"{self.checkpoint}: cannot be read as tensors and plain numbers: {error}") from error
        if state["config"] != json.dumps(asdict(self.config), sort_keys=True):
            raise CheckpointError(
                f"{self.checkpoint}: was written with {state['config']}; expected the options it was started with, or "
                "another --out"
            )
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        if state["random_cuda"] is not None:
            torch.cuda.set_rng_state(state["random_cuda"], self.data.train_x.device)
        history.update(state["history"])
