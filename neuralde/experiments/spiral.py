"""A neural SDE fitted to the mean and variance of noisy spirals, with and without the solver's error in the loss."""

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

from neuralde.solvers import SOSRI, EulerMaruyama, SDEProblem

from ..ensemble import solve_ensemble
from ..regularizers import ErrorEstimate, Regularizer, StiffnessEstimate
from ..solving import solve
from .report import arms_of, spread, write_numbers

ARMS: dict[str, tuple[Callable[[], Regularizer], float] | None] = {
    "vanilla": None,
    "error": (lambda: ErrorEstimate(reduction="sum"), 0.2),
    "stiffness": (lambda: StiffnessEstimate(reduction="mean"), 0.1),
}
"""Regularizer and weight. That of the error is the papers'; that of the stiffness is that of their digits."""


@dataclass(frozen=True)
class Config:
    """What a run depends on, beside its arm and seed; the numbers are those of Pal et al. (2021)."""

    experiment: str = "spiral-sde"
    iterations: int = 250
    trajectories: int = 100
    hidden: int = 50
    tolerance: float = 0.3
    learning_rate: float = 0.01
    times: int = 30
    simulated: int = 10_000


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


def truth(config: Config) -> tuple[Tensor, Tensor, Tensor]:
    """Times, means and variances of ``dy = A y**3 dt + 0.2 y dW`` from (2, 0), simulated with 1160 steps."""
    matrix = torch.tensor([[-0.1, 2.0], [-2.0, -0.1]], dtype=torch.float64)
    start = torch.tensor([2.0, 0.0], dtype=torch.float64)
    ts = torch.linspace(0.0, 1.0, config.times, dtype=torch.float64)
    problem = SDEProblem(lambda t, y: y**3 @ matrix.T, lambda t, y: 0.2 * y, start, (0.0, 1.0))
    steps = 40 * (config.times - 1)
    data = solve_ensemble(
        problem, EulerMaruyama(), paths=config.simulated, batch=2500, saveat=ts, dt=1.0 / steps, seed=2021
    )
    return ts, data.mean, data.variance


class Run:
    """One arm with one seed."""

    def __init__(self, arm: str, seed: int, config: Config, data: tuple[Tensor, Tensor, Tensor]) -> None:
        self.arm, self.seed, self.config = arm, seed, config
        self.ts, self.mean, self.variance = data
        torch.manual_seed(seed)
        self.model = Spiral(config.hidden).double()
        term = ARMS[arm]
        self.regularizers = () if term is None else (term[0](),)
        self.weight = 0.0 if term is None else term[1]

    def simulate(self, seed: int, regularizers: Sequence[Regularizer] = ()) -> Any:
        """The model's trajectories, each with steps of its own."""
        config = self.config
        y0 = torch.tensor([2.0, 0.0], dtype=torch.float64).expand(config.trajectories, 2)
        problem = SDEProblem(self.model.drift, self.model.diffusion, y0, (0.0, 1.0))
        return solve(
            problem,
            SOSRI(),
            rtol=config.tolerance,
            atol=config.tolerance,
            saveat=self.ts,
            per_sample=True,
            regularizers=regularizers,
            seed=seed,
        )

    def loss(self, ys: Tensor) -> Tensor:
        """Squared distances of the means and of the variances, averaged over times and components."""
        return (ys.mean(1) - self.mean).square().mean() + (ys.var(1) - self.variance).square().mean()

    def train(self, tick: Callable[[str], None]) -> dict[str, Any]:
        """Train; returns the numbers of the run."""
        optimizer = torch.optim.Adam(self.model.parameters(), lr=self.config.learning_rate)
        history: dict[str, list[float]] = {"loss": [], "nfe": []}
        start = time.perf_counter()
        for iteration in range(self.config.iterations):
            solution = self.simulate(1_000_003 * self.seed + iteration, self.regularizers)
            task = self.loss(solution.ys)
            total = task + sum(self.weight * value.mean() for value in solution.regularization)
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            history["loss"].append(task.item())
            history["nfe"].append(solution.stats.nfe.double().mean().item())
            tick(f"{self.arm}/{self.seed}: loss {task.item():.4f}, nfe {history['nfe'][-1]:.0f}")
        seconds = time.perf_counter() - start
        return {"arm": self.arm, "seed": self.seed, "training_seconds": seconds, **self._measured(), "history": history}

    @torch.no_grad()
    def _measured(self) -> dict[str, float]:
        """Loss and counts on fresh noise, averaged over ten simulations, and the median time of one."""
        losses, counts, times = [], [], []
        for index in range(10):
            start = time.perf_counter()
            solution = self.simulate(-1 - index)
            times.append(time.perf_counter() - start)
            losses.append(self.loss(solution.ys).item())
            counts.append(
                [getattr(solution.stats, name).double().mean().item() for name in ("nfe", "accepted", "rejected")]
            )
        nfe, accepted, rejected = (statistics.fmean(column) for column in zip(*counts, strict=True))
        return dict(
            loss=statistics.fmean(losses),
            nfe=nfe,
            accepted=accepted,
            rejected=rejected,
            prediction_seconds=statistics.median(times),
        )


def finished(out: Path, config: Config, resume: bool) -> list[dict[str, Any]]:
    """The runs that an earlier command with the same options has finished."""
    path = out / "results.json"
    if not resume or not path.is_file():
        return []
    kept = json.loads(path.read_text())
    return list(kept["results"]) if kept.get("config") == asdict(config) else []


def table(results: list[dict[str, Any]]) -> str:
    """A row per arm, mean ± standard deviation over seeds; below, each arm's ratios to vanilla."""
    columns = (
        ("loss", "loss", 1.0, 4),
        ("drift evaluations", "nfe", 1.0, 1),
        ("accepted", "accepted", 1.0, 1),
        ("rejected", "rejected", 1.0, 1),
        ("training s", "training_seconds", 1.0, 1),
        ("prediction ms", "prediction_seconds", 1e3, 1),
    )
    lines = ["".join([f"{'arm':<12}", *(f"{title:>20}" for title, *_ in columns)])]
    for arm in arms_of(results):
        cells = [(*spread(results, arm, name), scale, digits) for _, name, scale, digits in columns]
        texts = [f"{scale * mean:.{digits}f} ± {scale * std:.{digits}f}" for mean, std, scale, digits in cells]
        lines.append("".join([f"{arm:<12}", *(f"{text:>20}" for text in texts)]))
    arms = arms_of(results)
    for arm in arms if "vanilla" in arms else []:
        if arm != "vanilla":
            ratios = [
                f"{title} x{spread(results, arm, name)[0] / spread(results, 'vanilla', name)[0]:.2f}"
                for title, name, *_ in columns
                if name in ("loss", "nfe", "training_seconds", "prediction_seconds")
            ]
            lines.append(f"{arm} against vanilla: {', '.join(ratios)}")
    return "\n".join(lines)


def run(
    config: Config, arms: Sequence[str], seeds: int, out: Path, resume: bool, tick: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Every arm with every seed; the numbers are written after each, so an interruption loses one run at most."""
    results = finished(out, config, resume)
    done = {(result["arm"], result["seed"]) for result in results}
    data = truth(config)
    for seed in range(seeds):
        for arm in arms:
            if (arm, seed) in done:
                for _ in range(config.iterations):
                    tick(f"{arm}/{seed}: finished before")
                continue
            results.append(Run(arm, seed, config, data).train(tick))
            results.sort(key=lambda result: (list(ARMS).index(result["arm"]), result["seed"]))
            write_numbers(results, config, out)
    return results
