"""What each adjoint costs and how near its gradient is to that of the equation, against the tolerance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from neuralde.adjoints import (
    Adjoint,
    BacksolveAdjoint,
    DirectAdjoint,
    DiscreteAdjoint,
    ForwardSensitivity,
    GaussAdjoint,
    InterpolatingAdjoint,
    ReversibleAdjoint,
)
from neuralde.solvers import InvalidProblemError, Method, ODEProblem, Reversible, SolveError, Tsit5, Vern9

from ...solving import solve
from ...testing.counting import peak_bytes
from ..reporting import Row, text_table
from .measuring import Settings, alternate, mlp

TOLERANCES = (1e-3, 1e-5, 1e-7, 1e-9)
TIMED = 1e-5
CHECKPOINTS = 8
PLAIN: dict[str, Adjoint] = {
    "DirectAdjoint": DirectAdjoint(),
    "DiscreteAdjoint": DiscreteAdjoint(),
    f"DiscreteAdjoint(checkpoints={CHECKPOINTS})": DiscreteAdjoint(checkpoints=CHECKPOINTS),
    "ReversibleAdjoint": ReversibleAdjoint(),
    "GaussAdjoint": GaussAdjoint(),
    "InterpolatingAdjoint": InterpolatingAdjoint(),
    "BacksolveAdjoint": BacksolveAdjoint(),
}
FORWARD: dict[str, Adjoint] = {
    "ForwardSensitivity": ForwardSensitivity(),
    "ForwardSensitivity(in_error_norm=True)": ForwardSensitivity(in_error_norm=True),
}


@dataclass(frozen=True, eq=False)
class Problem:
    """A field with its inputs, and how many times are saved for the loss.

    Args:
        f: the field.
        y0: the initial state.
        t1: the end; the start is 0.
        inputs: what is differentiated.
        adjoints: those that suit.
        saved: how many times enter the loss, the sum of squares of the states plus their sum.
    """

    f: Callable[..., Tensor]
    y0: Tensor
    t1: float
    inputs: list[Tensor]
    adjoints: dict[str, Adjoint]
    saved: int = 4

    def loss(self, adjoint: Adjoint, solver: Method, tol: float, f: Callable[..., Tensor] | None = None) -> Tensor:
        """The loss of one solve."""
        problem = ODEProblem(self.f if f is None else f, self.y0, (0.0, self.t1))
        ts = torch.linspace(0.0, self.t1, self.saved + 1, dtype=torch.float64)[1:]
        sol = solve(problem, solver, adjoint=adjoint, rtol=tol, atol=tol, saveat=ts, max_steps=20_000)
        loss: Tensor = sol.ys.square().sum() + sol.ys.sum()
        return loss


def problems(settings: Settings) -> dict[str, Problem]:
    """A few parameters, many parameters, and a state that stands still while its derivative does not."""
    rates, prey, still = (
        torch.tensor(x, dtype=torch.float64, device=settings.device).requires_grad_()
        for x in ([1.5, 1.0, 3.0, 1.0], [1.0, 1.0], [0.0])
    )

    def lotka_volterra(t: Tensor, y: Tensor) -> Tensor:
        a, b, c, d = rates
        x, z = y
        return torch.stack([a * x - b * x * z, d * x * z - c * z])

    net = mlp(8, 32, settings.device).double()
    generator = torch.Generator().manual_seed(0)
    batch = torch.randn(4 if settings.quick else 64, 8, generator=generator, dtype=torch.float64).to(settings.device)
    end = 2.0 if settings.quick else 10.0
    return {
        "Lotka-Volterra": Problem(lotka_volterra, prey, end, [prey, rates], PLAIN | FORWARD),
        "MLP": Problem(lambda t, y: net(y) - 0.1 * y * torch.cos(t), batch, end, list(net.parameters()), PLAIN),
        "equilibrium": Problem(
            lambda t, y: 5.0 * torch.cos(10.0 * t) * torch.sin(y), still, 2.0, [still], PLAIN | FORWARD
        ),
    }


def run(settings: Settings) -> Row:
    """Calls, peak bytes and error of every adjoint at every tolerance; time at one of them."""
    rows: list[Row] = []
    for name, problem in problems(settings).items():
        exact = reference(problem, 1e-8 if settings.quick else 1e-11)
        for tol in TOLERANCES[:2] if settings.quick else TOLERANCES:
            rows += [
                dict(problem=name, adjoint=who, tol=tol) | measured(problem, adjoint, solver_for(adjoint), tol, exact)
                for who, adjoint in problem.adjoints.items()
            ]
    for name, problem in problems(settings).items():
        mine = {row["adjoint"]: row for row in rows if (row["problem"], row["tol"]) == (name, TIMED) and "error" in row}
        for who, time in _times(problem, settings, set(mine)).items():
            mine[who]["ms"] = time["ms"]
    return {"rows": rows, "checkpoints": CHECKPOINTS}


def reference(problem: Problem, tol: float) -> Tensor:
    """The gradient of a tight solve, whose steps fit the sensitivities too where there are few.

    >>> still = problems(Settings(quick=True))["equilibrium"]  # y stays 0, and dy/dy0 is exp(sin(10t) / 2)
    >>> exact = torch.exp(torch.sin(10 * torch.tensor([0.5, 1.0, 1.5, 2.0])) / 2).sum()
    >>> bool((reference(still, 1e-8) - exact).abs() < 1e-5)
    True
    """
    adjoint = ForwardSensitivity(in_error_norm=True) if "ForwardSensitivity" in problem.adjoints else DirectAdjoint()
    loss = problem.loss(adjoint, Vern9(), tol)
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, problem.inputs)])


def solver_for(adjoint: Adjoint) -> Method:
    """Tsit5, made reversible for the adjoint that asks for it."""
    return Reversible(Tsit5()) if adjoint.capabilities.solvers == "reversible" else Tsit5()


def measured(problem: Problem, adjoint: Adjoint, solver: Method, tol: float, exact: Tensor) -> Row:
    """One gradient: field calls before and in the backward pass, its relative error, and the peak of bytes.

    An adjoint that fails or refuses is a row without numbers.
    """
    calls = [0]

    def counted(t: Tensor, y: Tensor) -> Tensor:
        calls[0] += 1
        return problem.f(t, y)

    try:
        loss = problem.loss(adjoint, solver, tol, counted)
        forward = calls[0]
        grads = torch.autograd.grad(loss, problem.inputs)
    except (SolveError, InvalidProblemError) as failure:
        return dict(failed=type(failure).__name__, why=str(failure))
    error = (torch.cat([g.reshape(-1) for g in grads]) - exact).norm() / exact.norm()
    backward = calls[0] - forward
    peak = peak_bytes(lambda: torch.autograd.grad(problem.loss(adjoint, solver, tol), problem.inputs))
    return dict(forward=forward, backward=backward, bytes=peak, error=error.item())


def _times(problem: Problem, settings: Settings, fit: set[str]) -> dict[str, Row]:
    def gradient(adjoint: Adjoint) -> Callable[[], Any]:
        solver = solver_for(adjoint)
        return lambda: torch.autograd.grad(problem.loss(adjoint, solver, TIMED), problem.inputs)

    runs = {name: gradient(adjoint) for name, adjoint in problem.adjoints.items() if name in fit}
    return alternate(runs, settings)


def show(result: Row) -> str:
    """One table for each problem."""
    columns = [("adjoint", "adjoint", ""), ("tolerance", "tol", ".0e"), ("calls", "forward", "d")]
    columns += [("calls backward", "backward", "d"), ("peak kB", "kb", ".1f"), ("gradient's error", "error", ".1e")]
    columns += [("ms", "ms", ".1f"), ("failed", "failed", "")]
    names = dict.fromkeys(row["problem"] for row in result["rows"])
    rows = [row | (dict(kb=row["bytes"] / 1e3) if "bytes" in row else {}) for row in result["rows"]]
    return "\n\n".join(
        f"{name}\n{text_table([row for row in rows if row['problem'] == name], columns)}" for name in names
    )


def draw(result: Row, figure: Any) -> None:
    """Error against tolerance, and memory against error."""
    names = list(dict.fromkeys(row["problem"] for row in result["rows"]))
    figure.set_size_inches(6 * len(names), 9)
    grid = figure.subplots(2, len(names), squeeze=False)
    for column, name in enumerate(names):
        mine = [row for row in result["rows"] if row["problem"] == name and "error" in row]
        for place, adjoint in enumerate(PLAIN | FORWARD):
            rows = [row for row in mine if row["adjoint"] == adjoint]
            errors = [max(row["error"], 1e-16) for row in rows]
            style: Row = dict(color=f"C{place}", marker="o", label=adjoint)  # of an adjoint, the same in every panel
            grid[0][column].loglog([row["tol"] for row in rows], errors, **style)
            grid[1][column].loglog(errors, [row["bytes"] / 1e3 for row in rows], **style)
        grid[0][column].set(title=name, xlabel="tolerance", ylabel="relative error of the gradient")
        grid[1][column].set(xlabel="relative error of the gradient", ylabel="peak of forward and backward (kB)")
        for axis in (grid[0][column], grid[1][column]):
            axis.grid(alpha=0.3)
    grid[0][0].legend(fontsize=7)
