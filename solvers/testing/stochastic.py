"""Stochastic problems whose solutions are known along every path, and how fast a method approaches them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..paths.brownian.path import Increment
from ..problems import SDEProblem


class SampledPath:
    """A path given by W and H on equal cells, ``(cells, *shape)`` each; no other times are known."""

    def __init__(self, w: Tensor, h: Tensor, t0: float, t1: float) -> None:
        self.w, self.h, self.t0, self.t1 = w, h, t0, t1
        self.shape, self.cells = w.shape[1:], len(w)
        self.width = (t1 - t0) / len(w)
        zero = torch.zeros_like(w[:1])
        self.values = torch.cat([zero, w.cumsum(0)])
        self.areas = torch.cat([zero, (self.width * (self.values[:-1] + 0.5 * w + h)).cumsum(0)])

    @staticmethod
    def random(shape: Sequence[int], cells: int, t0: float, t1: float, seed: int) -> SampledPath:
        """A Brownian path."""
        generator = torch.Generator().manual_seed(seed)
        w, h = torch.randn((2, cells, *shape), dtype=torch.float64, generator=generator)
        root = math.sqrt((t1 - t0) / cells)
        return SampledPath(root * w, root / math.sqrt(12.0) * h, t0, t1)

    @property
    def middles(self) -> Tensor:
        """The middles of the cells, shaped to broadcast against ``w``."""
        times = self.t0 + self.width * (torch.arange(self.cells, dtype=torch.float64) + 0.5)
        return times.reshape(-1, *[1] * (self.w.dim() - 1))

    def increment(self, s: float, t: float) -> Increment:
        """W and H from ``s`` to ``t``."""
        first, last = (self._place(time) for time in (s, t))
        w = self.values[last] - self.values[first]
        if first == last:
            return Increment(w, torch.zeros_like(w))
        area = self.areas[last] - self.areas[first]
        return Increment(w, area / (t - s) - self.values[first] - 0.5 * w)

    def _place(self, t: float) -> int:
        x = (t - self.t0) / self.width
        if abs(x - round(x)) > 1e-6:
            raise ValueError(f"the path is not known at {t}")
        return round(x)


@dataclass(frozen=True)
class Reference:
    """A problem and its solution at ``t1`` along a path."""

    problem: SDEProblem
    exact: Callable[[SampledPath], Tensor]
    noises: int


def logistic(samples: int, noise: str, calculus: str, span: float = 1.0) -> Reference:
    r"""Two populations, :math:`dx = x (\lambda(t) - x) dt + x \circ L(t) dW`, seen in a basis in which they mix.

    With :math:`E = \exp(\int \lambda ds + \int L dW)` the solution is :math:`x = E / (1/x_0 + \int E ds)`. Diagonal noise
    has no mixing, and a diagonal L; scalar noise one column, commutative noise three. Additive noise drives the mixed
    logarithms instead, :math:`d \log x = (\lambda(t) - x) dt + L(t) dW`. The unit of time is ``span`` of
    the formula's.
    """
    noises = {"diagonal": 2, "scalar": 1, "commutative": 3, "additive": 3}[noise]
    logs = noise == "additive"
    if noise == "diagonal":
        basis = torch.eye(2, dtype=torch.float64)
        start, slope = torch.diag(torch.tensor([0.9, 0.7])).double(), torch.diag(torch.tensor([-0.4, 0.5])).double()
    else:
        basis = torch.tensor([[1.0, 0.4], [-0.3, 1.0]], dtype=torch.float64)
        start = torch.tensor([[0.7, -0.4, 0.3], [0.3, 0.6, -0.4]], dtype=torch.float64)[:, :noises]
        slope = torch.tensor([[-0.3, 0.2, 0.4], [0.5, -0.2, 0.3]], dtype=torch.float64)[:, :noises]
    start, slope = math.sqrt(span) * start, math.sqrt(span) * slope
    inverse = torch.linalg.inv(basis)
    growth, rise = torch.tensor([1.0, 0.5], dtype=torch.float64), torch.tensor([-0.6, 0.8], dtype=torch.float64)
    x0 = torch.tensor([0.5, 0.8], dtype=torch.float64)

    def drift(t: Tensor, y: Tensor) -> Tensor:
        x, rate = y @ inverse.T, growth + rise * t
        if logs:
            return span * (rate - torch.exp(x)) @ basis.T
        if calculus == "ito":
            rate = rate + 0.5 / span * (start + slope * t).square().sum(-1)
        return span * (x * (rate - x)) @ basis.T

    def diffusion(t: Tensor, y: Tensor) -> Tensor:
        x, loads = y @ inverse.T, start + slope * t
        if logs:
            return (basis @ loads).expand(*y.shape, 3)
        return x * loads.diagonal() if noise == "diagonal" else basis @ (x.unsqueeze(-1) * loads)

    def exact(path: SampledPath) -> Tensor:
        times = torch.linspace(0.0, 1.0, path.cells + 1, dtype=torch.float64).reshape(-1, 1, 1)
        middle, width = path.middles, path.width
        steps = path.w @ start.T + (middle * path.w - width * path.h) @ slope.T
        noisy = torch.cat([torch.zeros_like(steps[:1]), steps.cumsum(0)])
        e = torch.exp(span * (growth * times + 0.5 * rise * times**2) + noisy)
        bridge = path.h @ start.T + (middle * path.h) @ slope.T
        integral = (width * (0.5 * (e[1:] + e[:-1]) + (e[1:] * e[:-1]).sqrt() * bridge)).sum(0)
        x = e[-1] / (1.0 / x0 + span * integral)
        return (x.log() if logs else x) @ basis.T

    y0 = ((x0.log() if logs else x0) @ basis.T).expand(samples, 2).clone()
    return Reference(SDEProblem(drift, diffusion, y0, (0.0, 1.0), noise=noise, calculus=calculus), exact, noises)


def noncommutative(samples: int, calculus: str) -> Reference:
    r"""A plane motion and the weighted Lévy area that it sweeps; the weight :math:`1 + t` moves with time.

    The same for both calculi. Along a sampled path the area is summed without a solver.
    """

    def drift(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([torch.cos(t) + 0.0 * y[..., 0], 0.0 * y[..., 0], 0.0 * y[..., 0]], dim=-1)

    def diffusion(t: Tensor, y: Tensor) -> Tensor:
        one, zero, weight = torch.ones_like(y[..., 0]), torch.zeros_like(y[..., 0]), 0.5 * (1.0 + t)
        rows = [one, zero, zero, one, -weight * y[..., 1], weight * (y[..., 0] - torch.sin(t))]
        return torch.stack(rows, dim=-1).reshape(*y.shape[:-1], 3, 2)

    def exact(path: SampledPath) -> Tensor:
        w, step = path.values, path.w
        swept = w[:-1, ..., 0] * step[..., 1] - w[:-1, ..., 1] * step[..., 0]
        area = (0.5 * (1.0 + path.middles[..., 0]) * swept).sum(0)
        return torch.stack([w[-1, ..., 0] + math.sin(1.0), w[-1, ..., 1], area], dim=-1)

    y0 = torch.zeros(samples, 3, dtype=torch.float64)
    return Reference(SDEProblem(drift, diffusion, y0, (0.0, 1.0), noise="general", calculus=calculus), exact, 2)


def strong_order(
    solve: Callable[[SDEProblem, float, Any], Tensor], reference: Reference, counts: Sequence[int], seed: int = 0
) -> tuple[float, list[float]]:
    """The slope of the root mean square error at the end over the step size, and the errors.

    Args:
        solve: ``solve(problem, dt, path)``, the state at the end.
        reference: the problem.
        counts: numbers of steps, each dividing the last one times 16.
        seed: of the path, which all step sizes share.
    """
    shape = (*reference.problem.y0.shape[:-1], reference.noises)
    path = SampledPath.random(shape, 16 * counts[-1], 0.0, 1.0, seed)
    exact = reference.exact(path)
    errors = [(solve(reference.problem, 1.0 / n, path) - exact).square().mean().sqrt().item() for n in counts]
    x = torch.tensor([[math.log(1.0 / n), 1.0] for n in counts], dtype=torch.float64)
    y = torch.tensor([[math.log(error)] for error in errors], dtype=torch.float64)
    return torch.linalg.lstsq(x, y).solution[0, 0].item(), errors
