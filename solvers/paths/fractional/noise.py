"""Fractional Brownian motion as a weighted sum of Ornstein-Uhlenbeck processes that share one Brownian motion."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...checks import as_number, integer, positive, shown
from ...core.scalars import as_clock
from ...core.vmap import refuse_lanes
from ...errors import InvalidProblemError
from .rates import checked_rates, default_ends
from .weights import condition, energy, gram, projection, solved

_MOST = 64
"""Terms beyond which no range of rates can be told apart in float64."""


class FractionalNoise:
    r"""The Markov approximation of fractional Brownian motion.

    .. math:: \hat B(t) = \sum_{k=1}^K \omega_k \bigl(Y_k(t) - Y_k(0)\bigr), \qquad dY_k = -\gamma_k Y_k\, dt + dW

    with one Brownian motion W for all K, so that :math:`\hat B` is a semimartingale and ordinary calculus applies. The
    weights minimise :math:`\int_0^T \mathbb E (\hat B - B)^2 dt` over the horizon T, where

    .. math:: B(t) = \frac1{\Gamma(H + 1/2)} \int_{-\infty}^t \bigl[(t - s)_+^{H - 1/2} - (-s)_+^{H - 1/2}\bigr] dW(s)
              \ \text{(type I)}, \qquad
              B(t) = \frac1{\Gamma(H + 1/2)} \int_0^t (t - s)^{H - 1/2} dW(s) \ \text{(type II)}

    Type I (Mandelbrot and Van Ness) has stationary increments and the variance
    :math:`t^{2H} / (\Gamma(2H + 1) \sin \pi H)`; there the processes start in their stationary law, :attr:`initial_covariance`.
    Type II (Riemann and Liouville) has no past, :math:`Y(0) = 0`, and the variance
    :math:`t^{2H} / (2H\, \Gamma(H + 1/2)^2)`. Neither is normalised to variance 1 at t = 1.

    How good it is: :attr:`error`. The default rates are the best geometric progression for the horizon, type, number of
    terms and Hurst index (that of the construction: they do not follow a parameter). With 12 of them the error is below
    2 % for H from 0.2 to 0.77 in type I, and from 0.16 on in type II. Near 0 and, in type I, near 1 it falls slowly, like
    :math:`e^{-c \sqrt K}`: at H = 0.1 and 0.9, 12 terms of type I leave 7 % and 8 %. A search over all rates, geometric or
    not, found no 12 that leave less than 5 % there, so take more terms, or type II, if it matters.

    Args:
        hurst: the Hurst index H in (0, 1): a number, or a tensor, to which gradients flow. A tensor of any shape stands
            for as many indices; a callable ``hurst(t)`` for an index that varies along time (multifractional motion,
            whose weights are those of the index at each time).
        kind: ``"I"`` or ``"II"``.
        rates: the rates :math:`\gamma_k`, positive (in type II the first may be 0: Brownian motion itself) and
            increasing; None: the best ones.
        terms: how many rates, if none are given.
        horizon: T, the longest lag of interest.

    Attributes:
        rates: ``(K,)``, float64.

    Shapes:
        ``weights`` ``(*hurst, K)``; ``covariance(s, t)`` and ``variance(t)`` as the broadcast times.

    Units:
        Rates in 1/time; the motion in time to the power H.

    Raises:
        InvalidProblemError: H at or outside of (0, 1); rates that do not increase or are negative; a horizon that is not
            positive; an unknown type; so many terms that float64 cannot tell the processes apart, with the largest
            number that it can.

    When to take it:
        To drive a stochastic equation by fractional noise: :class:`neuralde.FractionalSDE` and
        :class:`neuralde.models.FractionalLatentSDE` do. Exact samples of the motion itself, without an equation, are
        those of ``FractionalBrownianPath``.

    References:
        Daems, Opper, Crevecoeur, Birdal: Variational inference for SDEs driven by fractional noise. ICLR 2024. Carmona,
        Coutin, Montseny: Approximation of some Gaussian processes. Stat. Inference Stoch. Process. 3 (2000).

    Example:
        >>> import torch, neuralde as nde
        >>> hurst = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
        >>> noise = nde.FractionalNoise(hurst, "II", terms=8)
        >>> noise.rates.shape, f"{noise.error.item():.4f}"
        (torch.Size([8]), '0.0067')
        >>> variance = noise.variance(1.0)  # of the motion itself: 1 / (0.6 gamma(0.8)^2) = 1.2296
        >>> f"{variance.item():.3f}", f"{float(torch.autograd.grad(variance, hurst)[0]):.2f}"
        ('1.226', '-1.73')
    """

    def __init__(
        self,
        hurst: float | Tensor | Callable[[Any], Any],
        kind: str = "I",
        rates: Tensor | Sequence[float] | None = None,
        terms: int = 8,
        horizon: float = 1.0,
    ) -> None:
        if kind not in ("I", "II"):
            raise InvalidProblemError(f'kind: got {kind!r}; expected "I" or "II"')
        self.kind, self.horizon = kind, positive(horizon, "horizon")
        self.function = hurst if callable(hurst) else None
        self.hurst = None if callable(hurst) else checked_hurst(hurst)
        device = None if self.hurst is None else self.hurst.device
        if rates is None:
            terms = integer(terms, "terms")
            middle = 0.5 if self.hurst is None or not self.hurst.numel() else self.hurst.detach().mean().item()
            low, high = default_ends(middle, kind, terms, self.horizon)
            self.rates = _geometric(low, high, min(terms, _MOST + 1)).to(device)
            self._check_condition("terms", terms)
        else:
            self.rates = checked_rates(rates, kind).to(device)
            self._check_condition("rates", len(self.rates))

    @property
    def condition(self) -> float:
        """The condition number of the equations for the weights, scaled to a unit diagonal.

        They are solved in float64 with 8 K units of rounding (2e-15 K) added to the diagonal. That changes no weight that the error
        depends on; what it changes are combinations of weights that the equations do not determine beyond rounding.
        """
        return condition(self._gram)

    @property
    def weights(self) -> Tensor:
        r"""The weights :math:`\omega`, ``(*hurst, K)`` in float64; a graph leads to the Hurst index."""
        return self._weights(self._index())

    @property
    def error(self) -> Tensor:
        r"""The relative root mean square error over the horizon, down to 1e-8; a graph leads to the Hurst index.

        .. math:: \Bigl(\int_0^T \mathbb E (\hat B - B)^2 dt \Big/ \int_0^T \mathbb E B^2 dt\Bigr)^{1/2}
        """
        hurst = self._index()
        b, c = projection(hurst, self._x, self.kind), energy(hurst, self.kind)
        w = solved(self._gram, b)
        cost = ((w @ self._gram) * w).sum(-1) - 2.0 * (b * w).sum(-1) + c
        return (cost / c).clamp(min=1e-16).sqrt()

    @property
    def initial_covariance(self) -> Tensor:
        r"""The covariance of :math:`Y(0)`, ``(K, K)``: :math:`1 / (\gamma_i + \gamma_j)` in type I, zero in type II."""
        both = self.rates.unsqueeze(-1) + self.rates
        return 1.0 / both if self.kind == "I" else torch.zeros_like(both)

    def weights_at(self, t: Any) -> Tensor:
        """The weights at times ``t``, ``(*t, K)``: those of ``hurst(t)`` where the index is a function of time."""
        time = self._times(t)
        if self.function is None:
            return self.weights.expand(*time.shape, len(self.rates)) if time.dim() else self.weights
        hurst = self.function(time)
        if not isinstance(hurst, Tensor):
            hurst = torch.as_tensor(hurst, dtype=torch.float64, device=time.device)
        return self._weights(checked_hurst(hurst.expand(time.shape), "hurst(t)"))

    def covariance(self, s: Any, t: Any) -> Tensor:
        r""":math:`\mathbb E \hat B(s) \hat B(t)` of the approximation at times that are not negative; they broadcast."""
        s, t = torch.broadcast_tensors(self._times(s), self._times(t))
        left, right = self.weights_at(s), self.weights_at(t)
        swap = (s > t).unsqueeze(-1)
        early, late = torch.where(swap, right, left), torch.where(swap, left, right)
        low, high = torch.minimum(s, t)[..., None, None], torch.maximum(s, t)[..., None, None]
        first, second = self.rates.unsqueeze(-1), self.rates  # of the earlier and of the later time
        both = first + second
        if self.kind == "I":
            each = torch.expm1(-second * (high - low)) - torch.expm1(-first * low) - torch.expm1(-second * high)
            each = each / both
        else:
            held = torch.where(both > 0, both, 1.0)
            each = torch.where(both > 0, -torch.expm1(-both * low) / held, low) * torch.exp(-second * (high - low))
        return ((early.unsqueeze(-2) @ each).squeeze(-2) * late).sum(-1)

    def variance(self, t: Any) -> Tensor:
        """The variance of the approximation at times that are not negative."""
        return self.covariance(t, t)

    def __repr__(self) -> str:
        hurst = self.function if self.hurst is None else self.hurst.tolist()
        ends = f"{self.rates[0].item():.3g} to {self.rates[-1].item():.3g}"
        return f"FractionalNoise({hurst}, {self.kind!r}, {len(self.rates)} rates from {ends}, horizon={self.horizon})"

    @property
    def _x(self) -> Tensor:
        return self.rates * self.horizon

    @property
    def _gram(self) -> Tensor:
        return gram(self._x, self.kind)

    def _weights(self, hurst: Tensor) -> Tensor:
        scaled = solved(self._gram, projection(hurst, self._x, self.kind))
        return scaled * self.horizon ** (hurst.unsqueeze(-1) - 0.5)

    def _index(self) -> Tensor:
        if self.hurst is None:
            raise InvalidProblemError(
                "hurst: got a function of time, whose weights differ from time to time; expected weights_at(t)"
            )
        return self.hurst.to(torch.float64)

    def _times(self, t: Any) -> Tensor:
        times = as_clock(t, self.rates.device)
        if not torch.compiler.is_compiling() and not bool((times >= 0).all()):
            raise InvalidProblemError(f"t: got {shown(t)} with a time below 0, or NaN; expected times from 0 on")
        return times

    def _check_condition(self, name: str, terms: int) -> None:
        if torch.compiler.is_compiling() or (len(self.rates) == terms and math.isfinite(self.condition)):
            return
        low, high = self.rates[0].item(), self.rates[-1].item()
        able = [k for k in range(1, min(terms, _MOST + 1)) if self._solvable(low, high, k, name)]
        raise InvalidProblemError(
            f"{name}: got {terms} processes that float64 cannot tell apart on [0, {self.horizon:.6g}] (type {self.kind}, "
            f"rates from {low:.3g} to {high:.3g}); expected at most {max(able, default=1)} over this range, or a wider one"
        )

    def _solvable(self, low: float, high: float, count: int, name: str) -> bool:
        if name == "terms":
            middle = 0.5 if self.hurst is None else self.hurst.detach().mean().item()
            low, high = default_ends(middle, self.kind, count, self.horizon)
        if low <= 0.0:
            low = min(1e-3 / self.horizon, 0.1 * high)
        return math.isfinite(condition(gram(_geometric(low, high, count) * self.horizon, self.kind)))


def checked_hurst(hurst: Any, name: str = "hurst") -> Tensor:
    """The index as a tensor, in the graph that it is in; refuses what is not between 0 and 1."""
    expected = "a number in (0, 1), a tensor of them, or a function of time"
    if isinstance(hurst, Tensor):
        refuse_lanes(hurst, name, "a number")
        if not hurst.is_floating_point():
            raise InvalidProblemError(f"{name}: got {shown(hurst)}; expected {expected}")
        inside = torch.compiler.is_compiling() or bool(((hurst > 0.0) & (hurst < 1.0)).all())
        if not inside:
            raise InvalidProblemError(f"{name}: got {hurst.detach().tolist()}; expected {expected}")
        return hurst
    value = as_number(hurst)
    if value is None or not 0.0 < value < 1.0:
        raise InvalidProblemError(f"{name}: got {shown(hurst)}; expected {expected}")
    return torch.tensor(float(value), dtype=torch.float64)


def _geometric(low: float, high: float, count: int) -> Tensor:
    if count == 1:
        return torch.tensor([math.sqrt(low * high)], dtype=torch.float64)
    exponents = torch.linspace(math.log(low), math.log(high), count, dtype=torch.float64)
    return exponents.exp()
