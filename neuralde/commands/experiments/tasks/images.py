"""The experiments on MNIST: one classifier, globally or locally regularized."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ....data import DataError
from ..experiment import ACCURACY, COST, Arm, Experiment, Measure
from .classify import Config, Run
from .data import Images, digits, mnist

STAND_IN = "These are scikit-learn's 8x8 digits, not MNIST (no --data): a run of the machinery, not a reproduction."
SMOKE = "Smoke scale: a handful of samples and steps, to see that everything runs. No number means anything."


class Classification(Experiment):
    """A neural ODE on MNIST's pixels; ``kind`` is how one row is trained."""

    measures: tuple[Measure, ...] = (ACCURACY, Measure("train_accuracy", "train %", 100.0, 2), *COST)
    data_help = "the folder with MNIST's four idx files"

    def __init__(self, kind: type[Run] = Run) -> None:
        self.kind = kind

    def data(self, folder: Path | None, config: Config, scale: str) -> tuple[Images, list[str]]:
        """MNIST, or at smoke scale without a folder scikit-learn's digits."""
        if folder is None and scale != "smoke":
            raise DataError(f"--data: got none; expected {self.data_help}")
        if folder is None:
            images, warnings = digits(torch.float64).head(config.train_size, config.test_size), [STAND_IN]
        else:
            images, warnings = mnist(folder, torch.float64, config.train_size, config.test_size), []
        if scale == "smoke":
            warnings.append(SMOKE)
        return images.to(torch.device(config.device)), warnings

    def identity(self, data: Images) -> dict[str, Any]:
        """Which images, and how many."""
        return {"images": [len(data.train_x), len(data.test_x), data.train_x.shape[1]]}

    def run(self, name: str, arm: Arm, seed: int, config: Config, data: Images, checkpoint: Path) -> Run:
        """One row with one seed."""
        adjoint = None if arm.adjoint is None else arm.adjoint()
        return self.kind(name, seed, config, data, checkpoint, arm.terms, adjoint)
