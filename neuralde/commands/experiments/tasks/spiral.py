"""A neural SDE fitted to the mean and variance of noisy spirals, with and without the solver's error in the loss."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from neuralde.solvers import SOSRI, EulerMaruyama, SDEProblem

from ....ensemble import solve_ensemble
from ....regularizers import ErrorEstimate, Regularizer, StiffnessEstimate
from ....solving import solve
from .. import training
from ..adabelief import AdaBelief
from ..arms import Term
from ..experiment import COST, NFE, Arm, Experiment, Measure

ARMS: dict[str, tuple[Term, ...]] = {
    "vanilla": (),
    "error": (Term(lambda: ErrorEstimate(reduction="sum"), 0.2, 0.2),),
    "stiffness": (Term(lambda: StiffnessEstimate(reduction="mean"), 0.1, 0.1),),
}
"""Regularizer and weight. That of the error is the paper's; that of the stiffness is that of its digits."""


@dataclass(frozen=True)
class Config:
    """What a run depends on, beside its arm and seed; the numbers are those of Pal et al. (2021)."""

    experiment: str = "spiral-sde"
    epochs: int = 10
    iterations: int = 25
    """In each epoch."""
    batch_size: int = 100
    """Trajectories in each iteration."""
    hidden: int = 50
    tolerance: float = 0.3
    learning_rate: float = 0.01
    learning_rate_decay: float = 0.0
    times: int = 30
    simulated: int = 10_000
    """Paths of the true process, of which the means and variances are taken."""
    per_sample: bool = False
    """Whether every trajectory has steps of its own; if not, all are one system, as in the paper."""
    device: str = "cpu"


Data = tuple[Tensor, Tensor, Tensor]
"""Times ``(T,)``, means and variances ``(T, 2)``."""


class Spiral(nn.Module):
    """The model: the drift is a network on the cubes of the state, the diffusion a linear layer, both of two components."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, hidden), nn.Tanh(), nn.Linear(hidden, 2))
        self.noise = nn.Linear(2, 2)

    def drift(self, t: Tensor, y: Tensor) -> Tensor:
        """``(B, 2)`` to ``(B, 2)``."""
        out: Tensor = self.net(y**3)
        return out

    def diffusion(self, t: Tensor, y: Tensor) -> Tensor:
        """The diagonal, ``(B, 2)``."""
        out: Tensor = self.noise(y)
        return out


def truth(config: Config) -> Data:
    """Times, means and variances of ``dy = A y**3 dt + 0.2 y dW`` from (2, 0), simulated with 40 steps between times."""
    matrix = torch.tensor([[-0.1, 2.0], [-2.0, -0.1]], dtype=torch.float64)
    start = torch.tensor([2.0, 0.0], dtype=torch.float64)
    ts = torch.linspace(0.0, 1.0, config.times, dtype=torch.float64)
    problem = SDEProblem(lambda t, y: y**3 @ matrix.T, lambda t, y: 0.2 * y, start, (0.0, 1.0))
    steps = 40 * (config.times - 1)
    data = solve_ensemble(
        problem, EulerMaruyama(), paths=config.simulated, batch=2500, saveat=ts, dt=1.0 / steps, seed=2021
    )
    return ts.to(config.device), data.mean.to(config.device), data.variance.to(config.device)


class Run(training.Run):
    """One arm with one seed. The samples of an epoch are trajectories, always new ones."""

    config: Config
    data: Data
    measured = ("test_loss", "nfe", "accepted", "rejected")

    def samples(self) -> int:
        """All trajectories of an epoch."""
        return self.config.iterations * self.config.batch_size

    def build(self) -> nn.Module:
        """A drift and a diffusion with fresh parameters."""
        self.terms = ARMS[self.arm] if self.terms is None else self.terms
        self.regularizers = [term.make() for term in self.terms]
        return Spiral(self.config.hidden).double().to(self.device)

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """AdaBelief."""
        return AdaBelief(model.parameters(), lr=self.config.learning_rate)

    def line(self, history: training.History, epoch: int) -> str:
        """Loss on fresh trajectories, and calls of the drift."""
        return f"{self.arm}/{self.seed}: loss {history['test_loss'][epoch]:.4f}, nfe {history['nfe'][epoch]:.0f}"

    def simulate(self, model: Spiral, seed: int, count: int, regularizers: list[Regularizer] | None = None) -> Any:
        """So many of the model's trajectories."""
        ts, mean, _ = self.data
        y0 = torch.tensor([2.0, 0.0], dtype=mean.dtype, device=mean.device).expand(count, 2)
        config, problem = self.config, SDEProblem(model.drift, model.diffusion, y0, (0.0, 1.0))
        options: dict[str, Any] = dict(rtol=config.tolerance, atol=config.tolerance, per_sample=config.per_sample)
        return solve(problem, SOSRI(), saveat=ts, seed=seed, regularizers=regularizers or (), **options)

    def loss(self, ys: Tensor) -> Tensor:
        """Squared distances of the means and of the variances, averaged over times and components."""
        _, mean, variance = self.data
        return (ys.mean(1) - mean).square().mean() + (ys.var(1) - variance).square().mean()

    def task(self, model: Spiral, batch: Tensor, step: int) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The distance from the data of as many trajectories as the batch has numbers."""
        solution = self.simulate(model, 1_000_003 * self.seed + step, len(batch), self.regularizers)
        return self.loss(solution.ys), tuple(value.mean() for value in solution.regularization)

    def measure(self, model: Spiral) -> dict[str, float]:
        """Loss and counts of two simulations with fresh noise."""
        return self._measured(model, 2)

    def measure_last(self, model: Spiral) -> dict[str, float]:
        """The same of ten."""
        return self._measured(model, 10)

    def predict(self, model: Spiral) -> object:
        """One simulation."""
        return self.simulate(model, -1, self.config.batch_size)

    def _measured(self, model: Spiral, simulations: int) -> dict[str, float]:
        found: dict[str, list[float]] = {name: [] for name in self.measured}
        for index in range(simulations):
            solution = self.simulate(model, -1 - index, self.config.batch_size)
            found["test_loss"].append(self.loss(solution.ys).item())
            for name in self.measured[1:]:
                found[name].append(float(torch.as_tensor(getattr(solution.stats, name)).double().mean()))
        return {name: statistics.fmean(values) for name, values in found.items()}


LOSS = Measure("test_loss", "loss", digits=4, against="ratio", beside=True, log=True)


class Fit(Experiment):
    """The spiral: its data are simulated, so there is nothing to give."""

    measures = (
        LOSS,
        NFE,
        Measure("accepted", "accepted"),
        Measure("rejected", "rejected"),
        *COST[1:],
    )

    def data(self, folder: Path | None, config: Config, scale: str) -> tuple[Data, list[str]]:
        """The true process, simulated."""
        del folder
        smoke = (
            "Smoke scale: a few steps with a few trajectories, to see that everything runs. No number means anything."
        )
        return truth(config), [smoke] if scale == "smoke" else []

    def identity(self, data: Data) -> dict[str, Any]:
        """How many times there are."""
        return {"times": len(data[0])}

    def run(self, name: str, arm: Arm, seed: int, config: Config, data: Data, checkpoint: Path) -> Run:
        """One row with one seed."""
        adjoint = None if arm.adjoint is None else arm.adjoint()
        return Run(name, seed, config, data, checkpoint, arm.terms, adjoint)
