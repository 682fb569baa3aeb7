"""Training one arm with one seed, so that it can stop at any time and go on to the same numbers."""

from __future__ import annotations

import json
import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from neuralde.adjoints import Adjoint

from .arms import Term

History = dict[str, list[Any]]


class CheckpointError(Exception):
    """A checkpoint does not belong to the run that wants to resume from it."""


class Clock:
    """Seconds since it was made: on the wall, and of this process's processors.

    The second kind does not count what else the machine does, so that it is the one to compare on a CPU. Neither is
    read before a device has finished.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._wait()
        self._wall, self._processor = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        """Wall and processor seconds."""
        self._wait()
        return time.perf_counter() - self._wall, time.process_time() - self._processor

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@dataclass(eq=False)
class Run(ABC):
    """One arm with one seed: a model, its optimizer and its epochs, kept in a checkpoint.

    An experiment's own run says how many samples there are (:meth:`samples`), makes the model (:meth:`build`), gives a
    batch's loss (:meth:`task`), measures (:meth:`measure`) and predicts (:meth:`predict`). ``config`` is a dataclass with
    ``epochs``, ``batch_size``, ``learning_rate``, ``learning_rate_decay`` and ``device``. Whatever is random is drawn
    from torch's global generator, whose state is part of the checkpoint, or follows from the seed and the step.
    """

    arm: str
    seed: int
    config: Any
    data: Any
    checkpoint: Path
    terms: tuple[Term, ...] | None = None
    """The regularizers and weights."""
    adjoint: Adjoint | None = None

    measured: ClassVar[tuple[str, ...]] = ()
    """What :meth:`measure` gives."""
    drop_last: ClassVar[bool] = False
    """Whether a smaller last batch is left out."""
    predictions: ClassVar[int] = 15
    """Of how many predictions the time is the median."""
    anneal_by_step: ClassVar[bool] = False
    """Whether the weights change from step to step, and not from epoch to epoch."""

    clip: ClassVar[float | None] = None
    """The largest norm that a gradient may have; longer ones are shortened."""

    @abstractmethod
    def samples(self) -> int:
        """How many there are to train on."""

    @abstractmethod
    def build(self) -> nn.Module:
        """A model with fresh parameters, on the device."""

    @abstractmethod
    def task(self, model: Any, batch: Tensor, step: int) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The loss of the samples whose numbers are in ``batch``, and the regularizers' values."""

    @abstractmethod
    def measure(self, model: Any) -> dict[str, float]:
        """What is recorded after every epoch."""

    @abstractmethod
    def predict(self, model: Any) -> object:
        """What prediction time is the time of."""

    def measure_last(self, model: Any) -> dict[str, float]:
        """What is measured only once, at the end."""
        del model
        return {}

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Adam at the configuration's rate."""
        return torch.optim.Adam(model.parameters(), lr=self.config.learning_rate)

    def rate(self, step: int, steps: int) -> float:
        """The learning rate at a step."""
        del steps
        return float(self.config.learning_rate / (1.0 + self.config.learning_rate_decay * step))

    def setting(self) -> dict[str, Any]:
        """What a run that goes on must have in common with the one that began it."""
        terms = [[type(term.make()).__name__, term.first, term.last] for term in self.terms or ()]
        adjoint = None if self.adjoint is None else type(self.adjoint).__name__
        return {**asdict(self.config), "terms": terms, "adjoint": adjoint}

    def line(self, history: History, epoch: int) -> str:
        """What a progress bar shows after an epoch."""
        return f"{self.arm}/{self.seed}: loss {history['loss'][epoch]:.4g}, nfe {history['nfe'][epoch]:.0f}"

    def train(self, resume: bool, tick: Callable[[str], None]) -> dict[str, Any]:
        """Train, from the last finished epoch if ``resume``; returns the numbers of the run.

        A checkpoint is written after every epoch. An interruption loses the epoch under way, which is then done again
        from the same parameters and the same random numbers.
        """
        torch.manual_seed(self.seed)
        model = self.build()
        optimizer = self.optimizer(model)
        history: History = {name: [] for name in ("loss", *self.measured, "seconds", "cpu_seconds")}
        if resume and self.checkpoint.is_file():
            self._load(model, optimizer, history)
            for epoch in range(len(history["loss"])):
                tick(self.line(history, epoch))
        for epoch in range(len(history["loss"]), self.config.epochs):
            clock = Clock(self.device)
            history["loss"].append(self.epoch(model, optimizer, epoch))
            for name, value in zip(("seconds", "cpu_seconds"), clock.read(), strict=True):
                history[name].append(value)
            with torch.no_grad():
                model.eval()
                for name, value in self.measure(model).items():
                    history[name].append(value)
            self._save(model, optimizer, history)
            tick(self.line(history, epoch))
        return {"arm": self.arm, "seed": self.seed, **self._final(model, history), "history": history}

    def epoch(self, model: nn.Module, optimizer: torch.optim.Optimizer, epoch: int) -> float:
        """Once over the samples; the mean of the task's loss."""
        model.train()
        total, seen = 0.0, 0
        batches = list(torch.randperm(self.samples()).split(self.config.batch_size))
        if self.drop_last and len(batches) > 1 and len(batches[-1]) < self.config.batch_size:
            batches.pop()
        steps = len(batches) * self.config.epochs
        for step, batch in enumerate(batches, start=epoch * len(batches)):
            for group in optimizer.param_groups:
                group["lr"] = self.rate(step, steps)
            task, values = self.task(model, batch.to(self.device), step)
            at = (step, steps) if self.anneal_by_step else (epoch, self.config.epochs)
            weighted = [term.weight(*at) * value for term, value in zip(self.terms or (), values, strict=True)]
            loss = task + sum(weighted)
            optimizer.zero_grad()
            loss.backward()
            if self.clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), self.clip)
            optimizer.step()
            total, seen = total + task.item() * len(batch), seen + len(batch)
        return total / seen

    @property
    def device(self) -> torch.device:
        """Where everything is computed."""
        return torch.device(self.config.device)

    @torch.no_grad()
    def _final(self, model: nn.Module, history: History) -> dict[str, Any]:
        model.eval()
        last = {name: values[-1] for name, values in history.items() if name not in ("seconds", "cpu_seconds")}
        last |= self.measure_last(model)
        own = [seconds for seconds in history["cpu_seconds"] if seconds is not None]
        self.predict(model)  # not timed: what is done only the first time
        times = []
        for _ in range(self.predictions):
            clock = Clock(self.device)
            self.predict(model)
            times.append(clock.read())
        wall, processor = (statistics.median(column) for column in zip(*times, strict=True))
        return {
            **last,
            "training_seconds": sum(history["seconds"]),
            "training_cpu_seconds": sum(own) if len(own) == len(history["seconds"]) else None,
            "prediction_seconds": wall,
            "prediction_cpu_seconds": processor,
        }

    def _save(self, model: nn.Module, optimizer: torch.optim.Optimizer, history: History) -> None:
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        state = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
            "history": history,
            "config": json.dumps(self.setting(), sort_keys=True),
        }
        temporary = self.checkpoint.with_suffix(".part")
        torch.save(state, temporary)
        temporary.replace(self.checkpoint)  # a reader never sees half a file

    def _load(self, model: nn.Module, optimizer: torch.optim.Optimizer, history: History) -> None:
        try:
            state = torch.load(self.checkpoint, weights_only=True)
        except Exception as error:
            raise CheckpointError(f"{self.checkpoint}: cannot be read as tensors and plain numbers: {error}") from error
        if state["config"] != json.dumps(self.setting(), sort_keys=True):
            raise CheckpointError(
                f"{self.checkpoint}: was written with {state['config']}; expected the options it was started with, or "
                "another --out"
            )
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        if state["random_cuda"] is not None:
            torch.cuda.set_rng_state(state["random_cuda"], self.device)
        history.update(state["history"])
        if not history["cpu_seconds"]:  # 0.1's checkpoints have wall seconds only
            history["cpu_seconds"] = [None] * len(history["seconds"])
