"""Stochastic differential equations that fractional noise drives, and the Hurst index as a parameter."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from neuralde.adjoints import Adjoint
from neuralde.solvers import (
    ConstantStep,
    FractionalNoise,
    InvalidProblemError,
    Method,
    SemilinearSDEProblem,
    Solution,
    Stats,
)
from neuralde.solvers.checks import fraction, shown
from neuralde.solvers.paths.filtered.starts import stationary
from neuralde.solvers.paths.fractional.rates import shared_ends
from neuralde.solvers.paths.increments import seed_of

from ..regularizers.base import Regularizer
from ..solving import solve


class HurstIndex(nn.Module):
    r"""A Hurst index as a parameter that cannot leave (0, 1): the logistic function of a free number.

    .. math:: H = \frac{1}{1 + e^{-\theta}}

    Args:
        start: where it starts.

    Shapes:
        A 0-d tensor.

    Raises:
        InvalidProblemError: ``start`` is not between 0 and 1.

    When to take it:
        As ``hurst`` of :class:`FractionalSDE` and :class:`FractionalLatentSDE`, to learn the index.

    References:
        Daems, Opper, Crevecoeur, Birdal: Variational inference for SDEs driven by fractional noise. ICLR 2024.

    Example:
        >>> import neuralde as nde
        >>> hurst = nde.models.HurstIndex(0.3)
        >>> f"{hurst().item():.3f}", sum(p.numel() for p in hurst.parameters())
        ('0.300', 1)
    """

    def __init__(self, start: float = 0.5) -> None:
        super().__init__()
        start = fraction(start, "start", "a Hurst index in (0, 1)")
        self.free = nn.Parameter(torch.tensor(math.log(start / (1.0 - start)), dtype=torch.float64))

    def forward(self) -> Tensor:
        """The index."""
        return torch.sigmoid(self.free)


class FractionalModel(nn.Module):
    """What models with fractional noise share: the index, fixed rates, and where the filters start."""

    stats: Stats | None
    hurst: Any
    drift: Callable[..., Any]
    diffusion: Callable[..., Any]

    def __init__(
        self,
        functions: dict[str, Any],
        hurst: Any,
        tspan: tuple[Any, Any],
        kind: str,
        rates: Tensor | Sequence[float] | None,
        terms: int,
        horizon: float | None,
        noise: str,
        solver: Method | None,
        dt: float | None,
        regularizers: Sequence[Regularizer],
        options: dict[str, Any],
    ) -> None:
        super().__init__()
        for name, f in functions.items():
            if not callable(f):
                raise InvalidProblemError(f"{name}: got {type(f).__name__}; expected a module or callable")
            setattr(self, name, f)
        self.hurst, self.tspan, self.kind = hurst, tspan, kind
        self.horizon = float(tspan[1]) - float(tspan[0]) if horizon is None else horizon
        learns = isinstance(hurst, HurstIndex) or (isinstance(hurst, Tensor) and hurst.requires_grad)
        varies = callable(hurst) and not isinstance(hurst, HurstIndex)
        if varies and kind == "I":
            raise InvalidProblemError(
                'kind: got "I" with a Hurst index that varies along time, where no process is stationary; expected "II"'
            )
        if rates is None and (learns or varies) and kind in ("I", "II"):
            # One range for all indices, since rates that moved with the index would be no part of its gradient.
            ends = shared_ends(kind, terms, self.horizon)
            rates = torch.logspace(math.log10(ends[0]), math.log10(ends[1]), terms, dtype=torch.float64)
        self.rates = tuple(FractionalNoise(self.index(), kind, rates, terms, self.horizon).rates.tolist())
        self.noise = noise
        self.regularizers = tuple(regularizers)
        if dt is not None and solver is None:
            options.setdefault("controller", ConstantStep())
        self.options = dict(options, solver=solver, dt=dt)
        self.stats = None

    def index(self) -> Any:
        """The Hurst index: a number, a tensor, or a function of time."""
        return self.hurst() if isinstance(self.hurst, HurstIndex) else self.hurst

    def fractional_noise(self) -> FractionalNoise:
        """The noise, with weights for the index as it is now."""
        return FractionalNoise(self.index(), self.kind, self.rates, horizon=self.horizon)

    def filters(self, x: Tensor, seed: int | Tensor) -> Tensor:
        """Where the filters start: at 0 (type II), or drawn from their stationary law by the seed (type I)."""
        if self.kind == "II":
            return x.new_zeros((*x.shape, len(self.rates)))
        return stationary(self.rates, x.shape, seed, x.dtype, x.device)

    def run(
        self, drift: Any, x: Any, rest: tuple[Tensor, ...], args: Any, control: Any, seed: Any, path: Any
    ) -> Solution:
        """Solve from ``x``, and from what collects energy where there is that."""
        if not isinstance(x, Tensor) or not x.dim() or not x.is_floating_point():
            raise InvalidProblemError(f"x: got {shown(x)}; expected a floating-point tensor (B, d)")
        noise, drawn = self.fractional_noise(), seed_of(seed, x)
        problem = SemilinearSDEProblem(
            drift,
            self._spread,
            noise.rates,
            noise.weights if noise.function is None else noise.weights_at,
            (x, self.filters(x, drawn), *rest),
            self.tspan,
            args,
            control,
            self.noise,
        )
        regularizers = self.regularizers if self.training else ()
        given = {"seed": drawn} if path is None else {"path": path}
        solution = solve(problem, regularizers=regularizers, **given, **self.options)
        self.stats = solution.stats
        return solution

    def _spread(self, t: Tensor, y: Any, *args: Any) -> Tensor:
        out: Tensor = self.diffusion(t, y[0], *args)
        return out


class FractionalSDE(FractionalModel):
    r"""A layer whose output is a sample of the solution of an SDE that fractional noise drives.

    .. math:: dx = f_\theta(t, x)\, dt + g_\theta(t, x) \circ d\hat B, \qquad x(t_0) = x_0

    with :math:`\hat B` the Markov approximation of fractional Brownian motion of :class:`neuralde.FractionalNoise`, one
    for each component. Its processes are carried beside the state and propagated exactly, so that steps are as long as
    drift and diffusion allow.

    Args:
        drift: a module or callable ``drift(t, x, *args)``, ``(B, d)`` to ``(B, d)``.
        diffusion: ``diffusion(t, x, *args)``, the diagonal, ``(B, d)``.
        hurst: the Hurst index in (0, 1): a number, a tensor or ``Parameter``, a :class:`neuralde.models.HurstIndex`, or
            (type II) a function of time.
        tspan: ``(t0, t1)``.
        kind: ``"I"`` or ``"II"``; see :class:`neuralde.FractionalNoise`, and for the next three.
        rates: they do not change while the index is learned: if None, the best for a number, and one range for
            all indices that are learned or vary.
        terms: how many rates if none are given.
        horizon: the longest lag of interest; the length of ``tspan`` if None.
        noise: ``"diagonal"``, or ``"additive"`` where the diffusion depends on t only.
        solver: the method; :class:`neuralde.ExponentialHeun` if None.
        dt: with it and without ``solver`` every step has this length; otherwise steps are adapted.
        rtol: relative tolerance of adapted steps.
        atol: absolute tolerance.
        adjoint: how to differentiate; exact if None.
        regularizers: the solver's cost as terms of the loss, in training mode only.
        options: further options of :func:`neuralde.solve`, such as ``saveat`` or ``per_sample``.

    ``forward(x, args=(), seed=None, path=None)`` gives ``(states, solution)``: the final state, or with ``saveat`` the
    states ``(T, ...)``; and the :class:`neuralde.Solution`, whose states are pairs with the processes of the noise. In
    type I the seed draws their start as well; beside a ``path`` it does only that.

    Shapes:
        ``x`` and the states ``(B, d)``, with ``saveat`` a leading T.

    Raises:
        InvalidProblemError: a function is not callable; whatever :class:`neuralde.FractionalNoise` refuses; at the
            call, whatever :func:`neuralde.solve` refuses.
        SolveError: as :func:`neuralde.solve`.

    When to take it:
        For noise with a memory: rough (H below 1/2) or persistent (above). :class:`neuralde.NeuralSDE` where the noise is
        white; :class:`neuralde.models.FractionalLatentSDE` to fit observed paths.

    References:
        Daems, Opper, Crevecoeur, Birdal: Variational inference for SDEs driven by fractional noise. ICLR 2024.

    Example:
        >>> import torch, neuralde as nde
        >>> hurst = nde.models.HurstIndex(0.3)
        >>> model = nde.FractionalSDE(lambda t, x: -x, lambda t, x: 0.5 * torch.ones_like(x), hurst, dt=0.05)
        >>> states, sol = model(torch.ones(64, 2), seed=0)
        >>> states.square().mean().backward()
        >>> states.shape, model.stats.steps, bool(hurst.free.grad.isfinite())
        (torch.Size([64, 2]), 20, True)
    """

    def __init__(
        self,
        drift: Callable[..., Any],
        diffusion: Callable[..., Any],
        hurst: Any = 0.5,
        tspan: tuple[Any, Any] = (0.0, 1.0),
        *,
        kind: str = "I",
        rates: Tensor | Sequence[float] | None = None,
        terms: int = 8,
        horizon: float | None = None,
        noise: str = "diagonal",
        solver: Method | None = None,
        dt: float | None = None,
        rtol: Any = 1e-3,
        atol: Any = 1e-6,
        adjoint: Adjoint | None = None,
        regularizers: Sequence[Regularizer] = (),
        **options: Any,
    ) -> None:
        functions = {"drift": drift, "diffusion": diffusion}
        options = dict(options, rtol=rtol, atol=atol, adjoint=adjoint)
        super().__init__(functions, hurst, tspan, kind, rates, terms, horizon, noise, solver, dt, regularizers, options)

    def forward(
        self, x: Tensor, args: tuple[Any, ...] = (), seed: int | Tensor | None = None, path: Any = None
    ) -> tuple[Tensor, Solution]:
        """The states and the solution from ``x``."""
        solution = self.run(self._pull, x, (), args, None, seed, path)
        return (solution.y1 if self.options.get("saveat") is None else solution.ys)[0], solution

    def _pull(self, t: Tensor, y: Any, *args: Any) -> Tensor:
        out: Tensor = self.drift(t, y[0], *args)
        return out
