"""Training controlled equations, and an ODE-RNN beside them, to classify irregular series."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from neuralde.adjoints import DirectAdjoint
from neuralde.solvers import NaturalCubicPath, logsignature_channels

from ....data import DataError, SeriesSet, from_arrays, read_npz, read_ts
from ....models import MatrixField, NeuralCDE, NeuralRDE
from .. import training
from ..experiment import ACCURACY, COST, Arm, Experiment, Measure
from ..training import History
from .images import SMOKE
from .odernn import ODERNN

STAND_IN = "These are random walks, not the data (no --data): a run of the machinery, not a reproduction."
WARM_UP = 30
"""Over how many steps the learning rate rises."""


@dataclass(frozen=True)
class Config:
    """What a run depends on, beside its data and its arm."""

    experiment: str
    epochs: int = 16
    batch_size: int = 64
    learning_rate: float = 5e-3
    """Constant for 0.4 of the steps, then falling on a line to a fiftieth."""
    hidden: int = 32
    """The size of the state."""
    width: int = 32
    """Of the hidden layers of the field."""
    layers: int = 1
    """How many the field has."""
    tolerance: float = 1e-3
    window: int = 12
    """Of how many observations a log-ODE step has the log-signature."""
    depth: int = 2
    """Of the log-signature."""
    integrated: bool = False
    """Whether the path is the running integral of the channels."""
    train_size: int | None = None
    test_size: int | None = None
    split_seed: int = 0
    device: str = "cpu"


class Split(NamedTuple):
    """The series to train on, and those held out."""

    train: SeriesSet
    test: SeriesSet


class Inputs(NamedTuple):
    """What a model takes of many series: a clock of all of them ``(T,)``, the channels ``(T, N, c)`` and the lengths ``(N,)``."""

    clock: Tensor
    xs: Tensor
    lengths: Tensor

    def batch(self, which: Tensor) -> Inputs:
        """Some of the series, up to the end of the longest."""
        xs = self.xs[:, which]
        rows = int((~xs[..., 0].isnan()).any(1).nonzero().max()) + 1
        return Inputs(self.clock[: max(rows, 2)], xs[: max(rows, 2)], self.lengths[which])


class Classifier(nn.Module):
    """A layer that ends in a state, then a linear layer; ``forward`` gives the logits and the solution."""

    def __init__(self, layer: nn.Module, hidden: int, classes: int) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(hidden, classes)

    def forward(self, inputs: Inputs) -> tuple[Tensor, Any]:
        """The logits, and what the solve cost."""
        states, solution = self.layer(*inputs) if isinstance(self.layer, ODERNN) else self.layer(*inputs[:2])
        return self.head(states), solution


def standardized(split: Split, integrated: bool) -> Split:
    """Channels of mean 0 and deviation 1 over the training part; their running integrals likewise, the time in front.

    The time runs from 0 to 1 over the longest training series. The integrals are of the straight lines between the
    observations that are there, from 0.
    """
    end = float(split.train.ts.nan_to_num(0.0).max())
    parts = [part for part in split]
    for _ in range(1 + integrated):
        seen = parts[0].xs[~parts[0].xs.isnan().any(-1)]
        mean, deviation = seen.mean(0), seen.std(0).clamp(min=1e-6)
        parts = [_with(part, (part.xs - mean) / deviation) for part in parts]
        if integrated:
            parts, integrated = [_with(part, _integral(part.ts / end, part.xs)) for part in parts], False
    return Split(*(_with(part, torch.cat([(part.ts / end).unsqueeze(-1), part.xs], -1)) for part in parts))


def _with(series: SeriesSet, xs: Tensor) -> SeriesSet:
    return SeriesSet(series.ts, xs, series.lengths, series.labels, series.classes, series.name)


def _integral(ts: Tensor, xs: Tensor) -> Tensor:
    """Running integrals by trapezoids, NaN behind the end."""
    pieces = (xs[1:] + xs[:-1]) / 2 * ts.diff(dim=0).unsqueeze(-1)
    return torch.cat([torch.zeros_like(xs[:1]), pieces.nan_to_num(0.0).cumsum(0)]).where(~xs.isnan(), torch.nan)


def on_grid(series: SeriesSet) -> Inputs:
    """At all times of any series: what a spline goes through."""
    clock, xs = series.on_one_clock()
    return Inputs(clock / clock[-1], xs, series.lengths)


def by_count(series: SeriesSet) -> Inputs:
    """One observation after the other, so that windows of so many observations are those of all series."""
    count = len(series.ts)
    return Inputs(torch.arange(count, dtype=torch.float64) / (count - 1), series.xs, series.lengths)


@dataclass(eq=False)
class Run(training.Run):
    """One arm with one seed, on a :class:`Split`.

    Attributes:
        model: ``"ncde"``, ``"nrde"`` or ``"odernn"``.
        dropped: the part of the observations that is taken away, the same for all seeds.
    """

    model: str = "ncde"
    dropped: float = 0.0

    measured = ("accuracy", "nfe", "accepted", "rejected")
    clip: ClassVar[float | None] = 1.0

    def samples(self) -> int:
        """How many training series there are."""
        return len(self.data.train)

    def rate(self, step: int, steps: int) -> float:
        """A rise, a plateau, and a line down."""
        done = step / steps
        falling = 1.0 if done < 0.4 else max(0.02, (1.0 - done) / 0.6)
        return float(self.config.learning_rate * min(1.0, (step + 1) / WARM_UP) * falling)

    def setting(self) -> dict[str, Any]:
        """Also which model, and how many observations are left."""
        return {**super().setting(), "model": self.model, "dropped": self.dropped}

    def build(self) -> nn.Module:
        """A classifier with fresh parameters; beside it what it reads, as it reads it."""
        seed = 2 * self.config.split_seed
        split = Split(*(part.thinned(self.dropped, seed + i) for i, part in enumerate(self.data)))
        split = standardized(split, self.config.integrated)
        lay_out = on_grid if self.model == "ncde" else by_count
        device = torch.device(self.config.device)
        self.inputs = [Inputs(i.clock, i.xs.float().to(device), i.lengths.to(device)) for i in map(lay_out, split)]
        self.labels = [part.labels.to(device) for part in split if part.labels is not None]
        hidden, channels = self.config.hidden, split.train.channels
        layer = MODELS[self.model](channels, self.config, regularizers=[term.make() for term in self.terms or ()])
        return Classifier(layer, hidden, len(split.train.classes)).to(device)

    def task(self, model: Any, batch: Tensor, step: int) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Cross entropy."""
        del step
        logits, solution = model(self.inputs[0].batch(batch))
        return nn.functional.cross_entropy(logits, self.labels[0][batch]), solution.regularization

    def measure(self, model: Any) -> dict[str, float]:
        """Accuracy on the held-out series, and the counts of solving the first 512 of them."""
        stats = self.predict(model)
        return {"accuracy": self._accuracy(model, 1), **{name: getattr(stats, name) for name in self.measured[1:]}}

    def measure_last(self, model: Any) -> dict[str, float]:
        """Accuracy on the training series."""
        return {"train_accuracy": self._accuracy(model, 0)}

    def predict(self, model: Any) -> Any:
        """The first 512 held-out series; the counts of their solve."""
        return model(self.inputs[1].batch(torch.arange(min(512, len(self.labels[1])))))[1].stats

    def _accuracy(self, model: Any, part: int) -> float:
        """The part of the series that is recognized."""
        places = torch.arange(len(self.labels[part]), device=self.device).split(512)
        guesses = torch.cat([model(self.inputs[part].batch(some))[0].argmax(1) for some in places])
        return (guesses == self.labels[part]).double().mean().item()

    def line(self, history: History, epoch: int) -> str:
        """Accuracy and calls."""
        return f"{self.arm}/{self.seed}: accuracy {100 * history['accuracy'][epoch]:.2f} %, nfe {history['nfe'][epoch]:.0f}"


def _controlled(channels: int, config: Config, **options: Any) -> nn.Module:
    return NeuralCDE(
        _field(config, channels), nn.Linear(channels, config.hidden), path=NaturalCubicPath, **_tight(config), **options
    )


def _rough(channels: int, config: Config, **options: Any) -> nn.Module:
    field = _field(config, logsignature_channels(channels, config.depth))
    initial = nn.Linear(channels, config.hidden)
    return NeuralRDE(field, initial, config.depth, config.window, **_tight(config), **options)


def _field(config: Config, channels: int) -> nn.Module:
    return MatrixField(config.hidden, channels, [config.width] * config.layers, activation=nn.SiLU)


def _tight(config: Config) -> dict[str, Any]:
    return dict(rtol=config.tolerance, atol=config.tolerance, adjoint=DirectAdjoint())


def _recurrent(channels: int, config: Config, **options: Any) -> nn.Module:
    return ODERNN(channels, config.hidden, config.width, **_tight(config), **options)


MODELS: dict[str, Callable[..., nn.Module]] = {"ncde": _controlled, "nrde": _rough, "odernn": _recurrent}


class SeriesExperiment(Experiment):
    """Series that are classified.

    Args:
        names: the names of the data set's files, without their endings.
        split: how the two parts of the archive become a :class:`Split`.
    """

    measures: tuple[Measure, ...] = (ACCURACY, Measure("train_accuracy", "train %", 100.0, 2), *COST)

    def __init__(self, names: tuple[str, ...], split: Callable[[dict[str, SeriesSet], Config], Split]) -> None:
        self.names, self.split = names, split
        files = " or ".join(f"{name}.npz, or {name}_TRAIN.ts and {name}_TEST.ts" for name in names)
        self.data_help = f"the folder with {files}"

    def data(self, folder: Path | None, config: Config, scale: str) -> tuple[Split, list[str]]:
        """The data set, or at smoke scale without a folder random walks."""
        if folder is None and scale != "smoke":
            raise DataError(f"--data: got none; expected {self.data_help}")
        warnings = [SMOKE] if scale == "smoke" else []
        sets, warnings = (_walks(), [STAND_IN, *warnings]) if folder is None else (self.read(folder), warnings)
        train, test = self.split(sets, config)
        return Split(train[: config.train_size], test[: config.test_size]), warnings

    def read(self, folder: Path) -> dict[str, SeriesSet]:
        """The two parts of the archive, from the first of the files that is there."""
        for name in self.names:
            if (folder / f"{name}.npz").is_file():
                return read_npz(folder / f"{name}.npz")
            if (folder / f"{name}_TRAIN.ts").is_file():
                return {part: read_ts(folder / f"{name}_{part.upper()}.ts") for part in ("train", "test")}
        raise DataError(f"{folder}: has none of the files; expected {self.data_help}")

    def identity(self, data: Split) -> dict[str, Any]:
        """How many series of how many channels."""
        return {"series": [len(data.train), len(data.test), data.train.channels]}

    def run(self, name: str, arm: Arm, seed: int, config: Config, data: Split, checkpoint: Path) -> Run:
        """One row with one seed."""
        adjoint = None if arm.adjoint is None else arm.adjoint()
        return Run(name, seed, config, data, checkpoint, arm.terms, adjoint, **dict(arm.options))


def as_published(sets: dict[str, SeriesSet], config: Config) -> Split:
    """The archive's own split."""
    del config
    return Split(sets["train"], sets["test"])


def drawn(sets: dict[str, SeriesSet], config: Config) -> Split:
    """Of both parts together 85 % to train on and 15 % held out, drawn once."""
    both = [sets["train"], sets["test"]]
    whole = from_arrays(
        [part.xs[:n, i].T for part in both for i, n in enumerate(part.lengths.tolist())],
        torch.cat([part.labels for part in both if part.labels is not None]),
        ts=[part.ts[:n, i] for part in both for i, n in enumerate(part.lengths.tolist())],
        classes=both[0].classes,
        name=both[0].name,
    )
    order = np.random.default_rng(config.split_seed).permutation(len(whole)).tolist()
    count = int(0.85 * len(order))
    return Split(whole[order[:count]], whole[order[count:]])


def _walks() -> dict[str, SeriesSet]:
    """Random walks of three channels and four classes, which drift apart."""
    generator = np.random.default_rng(0)
    make: Callable[[int], SeriesSet] = partial(_some_walks, generator)
    return {"train": make(48), "test": make(24)}


def _some_walks(generator: np.random.Generator, count: int) -> SeriesSet:
    labels = generator.integers(0, 4, count)
    lengths = generator.integers(40, 60, count)
    drift = np.array([[1, 1, 0], [1, -1, 0], [-1, 1, 1], [-1, -1, 1]])[labels]
    walks = [
        generator.normal(size=(3, n)).cumsum(1) / 3 + d[:, None] * np.arange(n)
        for n, d in zip(lengths, drift, strict=True)
    ]
    return from_arrays(walks, labels, classes="abcd")
