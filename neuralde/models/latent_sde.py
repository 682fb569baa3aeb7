"""Latent stochastic differential equations: two drifts, one diffusion, and how far the two laws are apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from neuralde.solvers import (
    ConstantStep,
    EulerHeun,
    EulerMaruyama,
    InvalidProblemError,
    Method,
    SDEProblem,
    Solution,
    Stats,
)

from ..solving import solve

_LEAST = 1e-7
"""Diffusions nearer to zero are divided by as if they were so large."""


class LatentPath(NamedTuple):
    """What a :class:`LatentSDE` gives.

    Attributes:
        states: ``(B, d)`` at the end, or with ``saveat`` ``(T, B, d)``.
        kl: the path's share of the divergence up to the same times, ``(B,)`` or ``(T, B)``.
        solution: of the solve, whose states have the divergence as a last component.

    Example:
        >>> import torch, neuralde as nde
        >>> model = nde.LatentSDE(lambda t, z: 1.0 - z, lambda t, z: -z, lambda t, z: 0.5 + 0.0 * z, dt=0.1)
        >>> path = model(torch.zeros(4, 2), seed=0)
        >>> path.states.shape, path.kl.shape, path.solution.stats.steps
        (torch.Size([4, 2]), torch.Size([4]), 10)
    """

    states: Tensor
    kl: Tensor
    solution: Solution


class LatentSDE(nn.Module):
    r"""A posterior and a prior process that share their diffusion, and the divergence of their paths.

    .. math:: dz = f_\phi(t, z, \text{args})\,dt + g(t, z)\,dW \ \text{(posterior)}, \qquad
              dz = h_\theta(t, z)\,dt + g(t, z)\,dW \ \text{(prior)}

    The law of the posterior's paths has, given the start, the Kullback-Leibler divergence

    .. math:: \text{KL} = \mathbb E \int_{t_0}^{t_1} \tfrac12 |u|^2\,dt, \qquad u = g^{-1} (f - h)

    from the prior's (Girsanov's theorem). The integral is a component of the solve, one number for each sample; its mean
    belongs in the loss beside the divergence of the starts and the likelihood of the data given ``states``.

    Args:
        posterior: a module or callable ``f(t, z, *args)``, ``(B, d)`` to ``(B, d)``; ``args`` carry what an encoder says.
        prior: ``h(t, z)``.
        diffusion: ``g(t, z)``, the diagonal, ``(B, d)``, positive. Where it is nearer to zero than 1e-7, the divergence
            is that of 1e-7.
        tspan: ``(t0, t1)``.
        calculus: ``"ito"`` or ``"stratonovich"``; the divergence is the same, for the correction is in both drifts.
        solver: the method; if None :class:`EulerMaruyama` or :class:`EulerHeun`, by the calculus, with steps of ``dt``.
        options: further options of :func:`neuralde.solve`, such as ``dt``, ``saveat`` or ``adjoint``.

    ``forward(z0, args=(), seed=None)`` solves the posterior from ``z0``, ``(B, d)``, and gives a :class:`LatentPath`.
    The counts of the last solve stay readable as ``stats``.

    Shapes:
        ``z0`` ``(B, d)``; drifts and diffusion ``(B, d)`` to ``(B, d)``; ``states`` ``(B, d)`` and ``kl`` ``(B,)``,
        with ``saveat`` a leading T for both.

    Units:
        The divergence in nats; the diffusion in state per square root of time.

    Raises:
        InvalidProblemError: a function is not callable; at the call, ``z0`` is no floating-point tensor with a
            dimension, or a function gives another shape than that of ``z0``.
        SolveError: as :func:`neuralde.solve`.

    When to take it:
        For a process that is random itself, fitted by variational inference: the data have a likelihood given the path.
        :class:`SDEGAN` where there is no such likelihood; :class:`LatentODE` where only the start is random.

    References:
        Li, Wong, Chen, Duvenaud: Scalable Gradients for Stochastic Differential Equations. AISTATS 2020.

    Example:
        >>> import torch, neuralde as nde
        >>> model = nde.LatentSDE(
        ...     posterior=lambda t, z, pull: -z + pull,
        ...     prior=lambda t, z: -z,
        ...     diffusion=lambda t, z: 0.5 * torch.ones_like(z),
        ...     dt=0.02,
        ... )
        >>> states, kl, sol = model(torch.zeros(4, 1), args=(torch.tensor(1.0),), seed=0)
        >>> states.shape, kl  # u = 1 / 0.5 all the time
        (torch.Size([4, 1]), tensor([2.0000, 2.0000, 2.0000, 2.0000]))
    """

    stats: Stats | None

    def __init__(
        self,
        posterior: Callable[..., Tensor],
        prior: Callable[..., Tensor],
        diffusion: Callable[..., Tensor],
        tspan: tuple[Any, Any] = (0.0, 1.0),
        *,
        calculus: str = "ito",
        solver: Method | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        for name, value in (("posterior", posterior), ("prior", prior), ("diffusion", diffusion)):
            if not callable(value):
                raise InvalidProblemError(f"{name}: got {type(value).__name__}; expected a module or callable")
        self.posterior, self.prior, self.diffusion = posterior, prior, diffusion
        self.tspan, self.calculus = tspan, calculus
        default = EulerMaruyama() if calculus == "ito" else EulerHeun()
        if solver is None:
            options.setdefault("controller", ConstantStep())
        self.options = dict(options, solver=default if solver is None else solver)
        self.stats = None

    def forward(self, z0: Tensor, args: tuple[Any, ...] = (), seed: int | Tensor | None = None) -> LatentPath:
        """The posterior from ``z0``, and the divergence of its paths from the prior's."""
        _check_start(z0)
        start = torch.cat([z0, z0.new_zeros((*z0.shape[:-1], 1))], -1)
        problem = SDEProblem(self._drift, self._noise, start, self.tspan, args, calculus=self.calculus)
        solution = solve(problem, seed=seed, **self.options)
        self.stats = solution.stats
        states = solution.y1 if self.options.get("saveat") is None else solution.ys
        return LatentPath(states[..., :-1], states[..., -1], solution)

    def sample_prior(self, z0: Tensor, seed: int | Tensor | None = None) -> Solution:
        """The prior from ``z0``: what the model generates."""
        _check_start(z0)
        problem = SDEProblem(self.prior, self.diffusion, z0, self.tspan, calculus=self.calculus)
        return solve(problem, seed=seed, **self.options)

    def _drift(self, t: Tensor, y: Tensor, *args: Any) -> Tensor:
        z = y[..., :-1]
        f, h, g = self.posterior(t, z, *args), self.prior(t, z), self.diffusion(t, z)
        for name, value in (("posterior", f), ("prior", h), ("diffusion", g)):
            if value.shape != z.shape:
                raise InvalidProblemError(
                    f"{name}: got shape {tuple(value.shape)}; expected {tuple(z.shape)}, the latent state's"
                )
        sign = torch.where(g < 0, -1.0, 1.0).to(g)
        u = (f - h) / torch.where(g.abs() < _LEAST, _LEAST * sign, g)
        return torch.cat([f, 0.5 * u.square().sum(-1, keepdim=True)], -1)

    def _noise(self, t: Tensor, y: Tensor, *args: Any) -> Tensor:
        del args
        z = y[..., :-1]
        return torch.cat([self.diffusion(t, z), torch.zeros_like(y[..., -1:])], -1)


def _check_start(z0: Any) -> None:
    if not isinstance(z0, Tensor) or not z0.dim() or not z0.is_floating_point():
        got = f"{z0.dtype} of shape {tuple(z0.shape)}" if isinstance(z0, Tensor) else type(z0).__name__
        raise InvalidProblemError(f"z0: got {got}; expected a floating-point tensor (B, d)")
