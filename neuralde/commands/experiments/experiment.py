"""What a table of a paper is made of: an experiment, its rows, its sizes and what is measured."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neuralde.adjoints import Adjoint

from .arms import Term
from .training import Run


@dataclass(frozen=True)
class Measure:
    """A number of a run, as the report shows it.

    Attributes:
        key: its name in a run's result, and in the papers' numbers.
        title: the column's.
        scale: what it is multiplied by to be shown.
        digits: after the point.
        against: how a row is held against its base: ``"ratio"``, ``"difference"`` or not at all.
        unit: of a difference.
        beside: whether the papers' number stands beside the measured one, and not only their ratios to vanilla.
        log: whether its curve is drawn on a logarithmic axis.
    """

    key: str
    title: str
    scale: float = 1.0
    digits: int = 1
    against: str = ""
    unit: str = ""
    beside: bool = False
    log: bool = False


NFE = Measure("nfe", "NFE", against="ratio", beside=True)
COST = (
    NFE,
    Measure("prediction_seconds", "prediction ms", 1e3, 1, "ratio"),
    Measure("training_seconds", "training s", 1.0, 1, "ratio"),
)
"""What every table shows last."""
ACCURACY = Measure("accuracy", "test accuracy %", 100.0, 2, "difference", "points", beside=True)


@dataclass(frozen=True)
class Arm:
    """One way of training, as a row of a table.

    Attributes:
        label: the row's name.
        terms: the regularizers and their weights.
        adjoint: how gradients are computed; exact if None.
        reported: the paper's means and standard deviations, by the measures' keys and in the same units (accuracies as
            parts of 1, times in seconds).
        options: what else the experiment does otherwise in this row.
        base: the row that it is held against.
    """

    label: str
    terms: tuple[Term, ...] = ()
    adjoint: Callable[[], Adjoint] | None = None
    reported: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    base: str = "vanilla"


class Experiment(ABC):
    """What the rows of a table have in common: data, model, training and measuring.

    A configuration is a frozen dataclass with at least ``experiment`` (the table's name), ``epochs``, ``tolerance`` and
    ``device``. :class:`neuralde.commands.experiments.training.Run` says what else its runs read.
    """

    measures: tuple[Measure, ...]
    """The columns; the first is the quality that the picture shows, and NFE is among the others."""
    data_help: str = ""
    """What ``--data`` must hold; empty where the experiment makes its data itself."""

    @abstractmethod
    def data(self, folder: Path | None, config: Any, scale: str) -> tuple[Any, list[str]]:
        """The data on the configuration's device, and what the report must say about it."""

    @abstractmethod
    def identity(self, data: Any) -> dict[str, Any]:
        """What of the data a finished run depends on, beside the configuration; as JSON knows it."""

    @abstractmethod
    def run(self, name: str, arm: Arm, seed: int, config: Any, data: Any, checkpoint: Path) -> Run:
        """One row with one seed."""


@dataclass(frozen=True)
class Table:
    """A table of a paper.

    Attributes:
        title: what it shows.
        source: where it is from.
        experiment: what is trained.
        arms: the rows, by the name that ``--arms`` takes.
        scales: the sizes at which it can be run.
        seeds: which seeds each scale takes.
        notes: where set-up or numbers differ from the paper's, and why.
    """

    title: str
    source: str
    experiment: Experiment
    arms: Mapping[str, Arm]
    scales: Mapping[str, Any]
    seeds: Mapping[str, tuple[int, ...]]
    notes: tuple[str, ...] = ()
