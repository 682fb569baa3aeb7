"""The other libraries, each run as its documentation recommends; those that are not installed are skipped by name."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

PEERS = ("torchdiffeq", "torchode", "diffrax")


def installed(name: str) -> Any:
    """The module, or None after a line that says why its rows are missing."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        print(f"without {name}: {error}")
        return None


def torchdiffeq_solver(
    torchdiffeq: Any,
    field: Callable[..., Tensor],
    y0: Tensor,
    t1: float,
    tolerance: float,
    net: nn.Module | None = None,
) -> Callable[[], Tensor]:
    """Dopri5; with ``net``, by ``odeint_adjoint`` with its parameters, else differentiated directly."""
    span = torch.tensor([0.0, t1], device=y0.device)
    options: dict[str, Any] = dict(rtol=tolerance, atol=tolerance, method="dopri5")
    if net is None:
        return lambda: torchdiffeq.odeint(field, y0, span, **options)[-1]
    parameters = tuple(net.parameters())
    return lambda: torchdiffeq.odeint_adjoint(field, y0, span, adjoint_params=parameters, **options)[-1]


def torchode_solver(
    torchode: Any, field: Callable[..., Tensor], y0: Tensor, t1: float, tolerance: float
) -> Callable[[], Any]:
    """Tsit5 with an integral controller and automatic differentiation; gives its solution object."""
    term = torchode.ODETerm(field)
    controller = torchode.IntegralController(atol=tolerance, rtol=tolerance, term=term)
    solver = torchode.AutoDiffAdjoint(torchode.Tsit5(term=term), controller)
    times = torch.tensor([0.0, t1], device=y0.device).expand(len(y0), 2).contiguous()
    return lambda: solver.solve(torchode.InitialValueProblem(y0=y0, t_eval=times))


def diffrax_solvers(
    diffrax: Any, net: nn.Sequential, y0: Tensor, t1: float, tolerance: float
) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Tsit5 under jit: the solution, ``(y1, stats)``, and the gradient of the sum of squares of its end.

    XLA uses its own threads, whatever torch is told.
    """
    jax: Any = importlib.import_module("jax")
    jnp = jax.numpy
    weights = [
        (jnp.asarray(layer.weight.detach().cpu().numpy().T), jnp.asarray(layer.bias.detach().cpu().numpy()))
        for layer in net
        if isinstance(layer, nn.Linear)
    ]
    start = jnp.asarray(y0.detach().cpu().numpy())

    def field(t: Any, y: Any, weights: Any) -> Any:
        for weight, bias in weights[:-1]:
            y = jnp.tanh(y @ weight + bias)
        return y @ weights[-1][0] + weights[-1][1]

    def solve(weights: Any, start: Any) -> Any:
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(field),
            diffrax.Tsit5(),
            0.0,
            t1,
            None,
            start,
            args=weights,
            stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance),
            adjoint=diffrax.RecursiveCheckpointAdjoint(),
        )
        return solution.ys[-1], solution.stats

    forward = jax.jit(solve)
    gradient = jax.jit(jax.grad(lambda weights, start: (solve(weights, start)[0] ** 2).sum()))
    return (
        lambda: jax.block_until_ready(forward(weights, start)),
        lambda: jax.block_until_ready(gradient(weights, start)),
    )
