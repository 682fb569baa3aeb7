"""Latent processes that fractional noise drives: a prior, a posterior by control of the noise, and how far they are apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from neuralde.adjoints import Adjoint
from neuralde.solvers import InvalidProblemError, Method, Solution

from ..regularizers.base import Regularizer
from .fractional import FractionalModel


class FractionalLatentPath(NamedTuple):
    """What a :class:`FractionalLatentSDE` gives.

    Attributes:
        states: ``(B, d)`` at the end, or with ``saveat`` ``(T, B, d)``.
        kl: the path's divergence up to the same times, ``(B,)`` or ``(T, B)``, summed over the latent dimensions.
        solution: of the solve, whose states are triples with the processes of the noise and the divergence.

    Example:
        >>> import torch, neuralde as nde
        >>> control = lambda t, x, filters: torch.full_like(x, 0.5)
        >>> model = nde.models.FractionalLatentSDE(lambda t, x: -x, lambda t, x: torch.ones_like(x), control, 0.7, dt=0.1)
        >>> path = model(torch.zeros(4, 2), seed=0)
        >>> path.states.shape, path.kl  # 0.5**2 / 2 for each of two dimensions
        (torch.Size([4, 2]), tensor([0.2500, 0.2500, 0.2500, 0.2500]))
    """

    states: Tensor
    kl: Tensor
    solution: Solution


class FractionalLatentSDE(FractionalModel):
    r"""A prior that fractional noise drives, a posterior that controls the noise, and the divergence of their paths.

    .. math:: dx = f_\theta(t, x)\, dt + g_\theta(t, x) \circ d\hat B, \qquad
              \hat B = \sum_k \omega_k Y_k, \qquad dY_k = -\gamma_k Y_k\, dt + dW \ \text{(prior)}

    In the posterior :math:`dW + u_\phi(t, x, Y)\, dt` stands for dW. The law of its paths has, given the start, the
    Kullback-Leibler divergence

    .. math:: \text{KL} = \mathbb E \int_{t_0}^{t_1} \tfrac12 |u|^2\, dt

    from the prior's (Girsanov's theorem), summed over the latent dimensions; no diffusion is divided by, so that it may
    vanish. The integral is a component of the solve, one number for each sample. The start of Y has the same law in both.

    Args:
        drift: the prior's, a module or callable ``f(t, x)``, ``(B, d)`` to ``(B, d)``.
        diffusion: ``g(t, x)``, the diagonal, ``(B, d)``.
        control: ``u(t, x, filters, *args)``, ``(B, d)``, of the posterior, with ``filters`` the processes Y, ``(B, d, K)``:
            without them x is not Markov. ``args`` carry what an encoder says. A last layer that starts at zero starts at
            the prior.
        hurst: the Hurst index, as for :class:`neuralde.FractionalSDE`, and so the arguments down to ``horizon``.
        tspan: ``(t0, t1)``.
        kind: ``"I"`` or ``"II"``.
        rates: the rates of Y.
        terms: how many, if none are given.
        horizon: the longest lag of interest; the length of ``tspan`` if None.
        noise: ``"diagonal"``, or ``"additive"`` where the diffusion depends on t only.
        solver: the method; :class:`neuralde.ExponentialHeun` if None.
        dt: with it and without ``solver`` every step has this length; otherwise steps are adapted.
        adjoint: how to differentiate; exact if None.
        regularizers: the solver's cost as terms of the loss, in training mode only.
        options: further options of :func:`neuralde.solve`, such as ``saveat``.

    ``forward(x0, args=(), seed=None)`` solves the posterior from ``x0`` and gives a :class:`FractionalLatentPath`;
    ``sample_prior(x0, seed)`` solves the prior; ``elbo(path, log_likelihood, kl_start)`` is the evidence lower bound.

    Shapes:
        ``x0`` ``(B, d)``; ``states`` ``(B, d)`` and ``kl`` ``(B,)``, with ``saveat`` a leading T for both.

    Units:
        The divergence in nats; the control in the inverse square root of time.

    Raises:
        InvalidProblemError: a function is not callable; whatever :class:`neuralde.FractionalNoise` refuses; at the
            call, ``x0`` is no floating-point tensor with two dimensions, and whatever :func:`neuralde.solve` refuses.
        SolveError: as :func:`neuralde.solve`.

    When to take it:
        For a latent process whose noise has a memory, fitted by variational inference, the Hurst index included.
        :class:`neuralde.LatentSDE` where the noise is white.

    References:
        Daems, Opper, Crevecoeur, Birdal: Variational inference for SDEs driven by fractional noise. ICLR 2024.

    Example:
        >>> import torch, neuralde as nde
        >>> model = nde.models.FractionalLatentSDE(
        ...     drift=lambda t, x: -x,
        ...     diffusion=lambda t, x: 0.5 * torch.ones_like(x),
        ...     control=lambda t, x, filters, pull: pull * torch.ones_like(x),
        ...     hurst=nde.models.HurstIndex(0.4),
        ...     dt=0.05,
        ... )
        >>> path = model(torch.zeros(8, 1), args=(torch.tensor(1.0),), seed=0)
        >>> likelihood = torch.distributions.Normal(path.states[:, 0], 0.1).log_prob(torch.tensor(0.5))
        >>> path.kl.detach().mean(), bool(model.elbo(path, likelihood) < 0)
        (tensor(0.5000), True)
    """

    control: Callable[..., Any]

    def __init__(
        self,
        drift: Callable[..., Tensor],
        diffusion: Callable[..., Tensor],
        control: Callable[..., Tensor],
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
        adjoint: Adjoint | None = None,
        regularizers: Sequence[Regularizer] = (),
        **options: Any,
    ) -> None:
        functions = {"drift": drift, "diffusion": diffusion, "control": control}
        options = dict(options, adjoint=adjoint)
        super().__init__(functions, hurst, tspan, kind, rates, terms, horizon, noise, solver, dt, regularizers, options)

    def forward(self, x0: Tensor, args: tuple[Any, ...] = (), seed: int | Tensor | None = None) -> FractionalLatentPath:
        """The posterior from ``x0``, and the divergence of its paths from the prior's."""
        _check_start(x0)
        solution = self.run(self._pull, x0, (x0.new_zeros(x0.shape[:1]),), args, self._push, seed, None)
        states = solution.y1 if self.options.get("saveat") is None else solution.ys
        return FractionalLatentPath(states[0], states[2], solution)

    def sample_prior(self, x0: Tensor, seed: int | Tensor | None = None) -> Solution:
        """The prior from ``x0``: what the model generates; its states are pairs with the processes of the noise."""
        _check_start(x0)
        return self.run(self._pull, x0, (), (), None, seed, None)

    def elbo(self, path: FractionalLatentPath, log_likelihood: Tensor, kl_start: Tensor | float = 0.0) -> Tensor:
        """The evidence lower bound: the mean over the batch of the likelihood less the divergences of path and start.

        Args:
            path: what the posterior gave.
            log_likelihood: of the data of each sample given its path, ``(B,)``, summed over whatever was observed.
            kl_start: the divergence of the starts, ``(B,)`` or 0.
        """
        kl = path.kl if path.kl.dim() == 1 else path.kl[-1]
        if log_likelihood.shape != kl.shape:
            got = tuple(log_likelihood.shape)
            raise InvalidProblemError(
                f"log_likelihood: got shape {got}; expected {tuple(kl.shape)}, one for each sample"
            )
        return (log_likelihood - kl - kl_start).mean()

    def _pull(self, t: Tensor, y: Any, *args: Any) -> Tensor:
        del args
        out: Tensor = self.drift(t, y[0])
        return out

    def _spread(self, t: Tensor, y: Any, *args: Any) -> Tensor:
        return super()._spread(t, y)

    def _push(self, t: Tensor, y: Any, *args: Any) -> Tensor:
        out: Tensor = self.control(t, y[0], y[1], *args)
        return out


def _check_start(x0: Any) -> None:
    if not isinstance(x0, Tensor) or x0.dim() < 2 or not x0.is_floating_point():
        got = f"{x0.dtype} of shape {tuple(x0.shape)}" if isinstance(x0, Tensor) else type(x0).__name__
        raise InvalidProblemError(f"x0: got {got}; expected a floating-point tensor (B, d)")
