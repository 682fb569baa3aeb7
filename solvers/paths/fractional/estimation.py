"""Estimates of the Hurst index of observed series, with their standard errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from ...checks import integer, number
from ...errors import InvalidProblemError
from .covariance import noise_autocovariance

_LOW, _HIGH = 1e-3, 1.0 - 1e-3
_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0
_STEPS = 32
"""Steps of golden section: they shorten an interval of length 1 to 2e-7."""
METHODS = ("whittle", "structure")


class HurstEstimate(NamedTuple):
    r"""A Hurst index estimated from each of one or many series.

    Attributes:
        hurst: the estimate, in the shape of the series without their time.
        standard_error: its standard error: of ``"whittle"`` from the Fisher information of the model, of ``"structure"`` from a
            block bootstrap of the series.
        scale: the standard deviation of the process's increments over one step, without noise.
        noise: the standard deviation of independent errors of the observations; 0 where they were not estimated.

    Example:
        >>> import torch, neuralde as nde
        >>> ts = torch.linspace(0.0, 1.0, 2001, dtype=torch.float64)
        >>> x = nde.FractionalBrownianPath((), 1, 0.0, 1.0, 0.3, dtype=torch.float64).sample(ts)
        >>> found = nde.estimate_hurst(x)
        >>> low, high = found.interval()
        >>> bool(low < 0.3 < high), f"{found.standard_error.item():.3f}"
        (True, '0.012')
    """

    hurst: Tensor
    standard_error: Tensor
    scale: Tensor
    noise: Tensor

    def interval(self, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """The ends of a confidence interval, by the normal law.

        Args:
            level: its probability.
        """
        level = number(level, "level", "a number above 0 and below 1", above=0.0, below=1.0)
        width = math.sqrt(2.0) * torch.erfinv(torch.tensor(level, dtype=torch.float64)).item() * self.standard_error
        return self.hurst - width, self.hurst + width


def estimate_hurst(
    x: Tensor,
    method: str = "whittle",
    *,
    noise: bool = False,
    lags: Sequence[int] = tuple(range(1, 31)),
    moments: Sequence[float] = (0.5, 1.0, 1.5, 2.0, 3.0),
    block: int | None = None,
    resamples: int = 200,
    seed: int = 0,
) -> HurstEstimate:
    r"""Estimate the Hurst index of series that are taken for fractional Brownian motion observed at equal steps.

    ``"whittle"`` maximizes Whittle's likelihood of the increments: their periodogram is compared with its expectation for
    fractional Gaussian noise and, with ``noise``, for independent errors of the observations beside it. ``"structure"``
    fits the moments of increments over several lags,

    .. math:: m(q, \Delta) = \operatorname{mean}_t |x_{t + \Delta} - x_t|^q \propto \Delta^{\zeta_q}, \qquad
              \zeta_q = q H,

    by least squares: of log m in log Δ for each q, then of the slopes in q.

    Args:
        x: the series, ``(T, ...)``, time first; observations, not increments.
        method: ``"whittle"`` or ``"structure"``.
        noise: estimate the size of independent errors of the observations too (``"whittle"``).
        lags: the lags of ``"structure"``, in steps.
        moments: its exponents q.
        block: the length of the blocks that its bootstrap draws; None: the square root of T, or twice the longest lag.
        resamples: how many series the bootstrap draws.
        seed: its seed.

    Returns:
        A :class:`HurstEstimate`, whose tensors have the shape ``(...)`` and are float64.

    Raises:
        InvalidProblemError: an argument is wrong; the series are too short, constant, or have values that are not finite.

    When to take it:
        ``"whittle"`` where the model is trusted: its standard error is the least there is for long series (for H = 0.05 and
        1,000 observations it is a tenth too small). ``"structure"`` where only the scaling over the chosen lags is, as for
        real data; for H above 3/4 its bootstrap is too sure. Errors of observations bias both downwards, unless ``noise``
        allows for them.

    References:
        Sykulski, Olhede, Guillaumin, Lilly, Early: The debiased Whittle likelihood. Biometrika 106 (2019). Fox, Taqqu:
        Large-sample properties of parameter estimates for strongly dependent stationary Gaussian time series. Ann.
        Statist. 14 (1986). Gatheral, Jaisson, Rosenbaum: Volatility is rough. Quant. Finance 18 (2018). Künsch: The
        jackknife and the bootstrap for general stationary observations. Ann. Statist. 17 (1989).

    Example:
        >>> import torch, neuralde as nde
        >>> ts = torch.linspace(0.0, 1.0, 4001, dtype=torch.float64)
        >>> x = nde.FractionalBrownianPath((3,), 0, 0.0, 1.0, 0.1, dtype=torch.float64).sample(ts)
        >>> found = nde.estimate_hurst(x)
        >>> (found.hurst - 0.1).abs().max() < 0.03
        tensor(True)
    """
    if method not in METHODS:
        raise InvalidProblemError(f'method: got {method!r}; expected "whittle" or "structure"')
    series = _checked(x, 8)
    shape = x.shape[1:]
    if method == "whittle":
        found = _whittle(series.diff(dim=0), noise)
    else:
        if noise:
            raise InvalidProblemError('noise: got True with method="structure"; expected method="whittle"')
        chosen = _checked_lags(lags, len(series))
        powers = [number(q, "moments", "positive numbers", above=0.0) for q in moments]
        if not powers:
            raise InvalidProblemError("moments: got none; expected one at least")
        length = max(math.isqrt(len(series)), 2 * chosen[-1]) if block is None else integer(block, "block")
        if length > (len(series) - chosen[-1]) // 2:
            raise InvalidProblemError(
                f"block: got {length} for {len(series)} observations and lags up to {chosen[-1]}; expected two blocks at least"
            )
        count = integer(resamples, "resamples", 2)
        generator = torch.Generator().manual_seed(integer(seed, "seed", -math.inf))
        each = [_structure(row, chosen, powers, length, count, generator) for row in series.T]
        found = HurstEstimate(*(torch.stack(part) for part in zip(*each, strict=True)))
    return HurstEstimate(*(part.reshape(shape) for part in found))


def _checked(x: Tensor, least: int) -> Tensor:
    """Series as ``(T, n)`` in float64."""
    if not isinstance(x, Tensor) or not x.is_floating_point() or not x.dim():
        raise InvalidProblemError("x: expected a real tensor of shape (T, ...), time first")
    if len(x) < least or not x[0].numel():
        raise InvalidProblemError(
            f"x: got shape {tuple(x.shape)}; expected at least {least} observations of one series"
        )
    series = x.detach().to(torch.float64).reshape(len(x), -1)
    if not bool(series.isfinite().all()):
        raise InvalidProblemError(
            "x: got a value that is not finite; expected finite ones, missing observations left out"
        )
    if bool((series.diff(dim=0).abs().amax(0) == 0).any()):
        raise InvalidProblemError("x: got a constant series; expected one that moves")
    return series


def _checked_lags(lags: Sequence[int], count: int) -> list[int]:
    chosen = [integer(lag, "lags") for lag in lags]
    if len(chosen) < 2 or any(b <= a for a, b in pairwise(chosen)) or chosen[-1] >= count // 2:
        raise InvalidProblemError(
            f"lags: got {chosen}; expected two or more increasing lags, below half of the {count} observations"
        )
    return chosen


def _whittle(increments: Tensor, noise: bool) -> HurstEstimate:
    """By the expectations of the periodogram, so that its leakage biases nothing."""
    count, series = increments.shape
    m = (count - 1) // 2
    periodogram = torch.fft.rfft(increments, dim=0)[1 : m + 1].abs().square() / count

    def expected(autocovariance: Tensor) -> Tensor:
        taper = 1.0 - torch.arange(len(autocovariance), dtype=torch.float64, device=increments.device) / count
        weighted = taper.unsqueeze(-1) * autocovariance
        return 2.0 * torch.fft.rfft(weighted, n=count, dim=0).real[1 : m + 1] - autocovariance[0]

    errors = expected(torch.tensor([[2.0], [-1.0]], dtype=torch.float64, device=increments.device))

    def density(hurst: Tensor, share: Tensor, own: Tensor | None = None) -> Tensor:
        """Of the increments over the sum of both variances, ``(m, series)``; ``share`` is that of the errors."""
        own = expected(noise_autocovariance(count, hurst)) if own is None else own
        return (1.0 - share) * own + share * errors if noise else own

    def deviance(g: Tensor) -> Tensor:
        """Minus twice the log-likelihood over the number of frequencies, with the best variance."""
        return (periodogram / g).mean(0).log() + g.log().mean(0)

    def best_share(hurst: Tensor) -> Tensor:
        if not noise:
            return torch.zeros_like(hurst)
        own = expected(noise_autocovariance(count, hurst))
        most = torch.full_like(hurst, 1.0 - 1e-6)
        return _least(lambda share: deviance(density(hurst, share, own)), torch.zeros_like(hurst), most)

    low, high = (torch.full((series,), end, dtype=torch.float64, device=increments.device) for end in (_LOW, _HIGH))
    hurst = _least(lambda h: deviance(density(h, best_share(h))), low, high)
    share = best_share(hurst)
    variance = (periodogram / density(hurst, share)).mean(0)
    error = _information(density, hurst, share, noise).inverse()[:, 1, 1].sqrt()
    # A share of the errors counts their variance in an observation, of which an increment has two.
    return HurstEstimate(hurst, error, (variance * (1.0 - share)).sqrt(), (variance * share).sqrt())


def _information(density: Callable[[Tensor, Tensor], Tensor], hurst: Tensor, share: Tensor, noise: bool) -> Tensor:
    """The Fisher information of log variance, H and, with noise, its share, ``(series, p, p)``."""
    step = torch.minimum(torch.minimum(hurst, 1.0 - hurst) / 2.0, torch.full_like(hurst, 1e-4))
    slopes = [torch.ones_like(density(hurst, share))]
    slopes.append((density(hurst + step, share).log() - density(hurst - step, share).log()) / (2.0 * step))
    if noise:
        above, below = (share + 1e-5).clamp(max=1.0), (share - 1e-5).clamp(min=0.0)
        slopes.append((density(hurst, above).log() - density(hurst, below).log()) / (above - below))
    all_slopes = torch.stack(slopes, -1)
    return torch.einsum("msa,msb->sab", all_slopes, all_slopes)


def _least(function: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Tensor:
    """Where a function of one number for each series is least, by golden section."""
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = function(left), function(right)
    for _ in range(_STEPS):
        down = at_left < at_right
        low, high = torch.where(down, low, left), torch.where(down, right, high)
        new = torch.where(down, high - _GOLDEN * (high - low), low + _GOLDEN * (high - low))
        at_new = function(new)
        left, right = torch.where(down, new, right), torch.where(down, left, new)
        at_left, at_right = torch.where(down, at_new, at_right), torch.where(down, at_left, at_new)
    return 0.5 * (low + high)


def _structure(
    x: Tensor, lags: list[int], powers: list[float], block: int, resamples: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One series: the estimate, its standard error by blocks drawn with replacement, the scale, and no noise."""
    count = len(x) - lags[-1]
    rows = torch.stack([(x[lag : lag + count] - x[:count]).abs() for lag in lags])
    values = torch.stack([rows**q for q in powers])
    logs = torch.tensor(lags, dtype=torch.float64, device=x.device).log()
    whole = [torch.stack([(x[lag:] - x[:-lag]).abs().pow(q).mean() for lag in lags]) for q in powers]
    hurst, at_one = _slopes(torch.stack(whole).log(), logs, powers)
    sums = torch.nn.functional.pad(values.cumsum(-1), (1, 0))
    means = (sums[..., block:] - sums[..., :-block]) / block
    starts = torch.randint(count - block + 1, (resamples, -(-count // block)), generator=generator).to(x.device)
    drawn = means[..., starts].mean(-1).movedim(-1, 0)
    error = _slopes(drawn.log(), logs, powers)[0].std()
    return hurst, error, at_one, torch.zeros_like(hurst)


def _slopes(logs: Tensor, lags: Tensor, powers: list[float]) -> tuple[Tensor, Tensor]:
    """H from log moments ``(..., q, lags)``; and the standard deviation over one step, of a normal law."""
    q = torch.tensor(powers, dtype=torch.float64, device=logs.device)
    centred = lags - lags.mean()
    slopes = (logs * centred).sum(-1) / centred.square().sum()
    starts = logs.mean(-1) - slopes * lags.mean()
    # The moment of order q of a standard normal is 2**(q/2) Gamma((q + 1) / 2) / sqrt(pi).
    usual = 0.5 * q * math.log(2.0) + torch.lgamma(0.5 * (q + 1.0)) - 0.5 * math.log(math.pi)
    hurst = (slopes * q).sum(-1) / q.square().sum()
    return hurst, (((starts - usual) * q).sum(-1) / q.square().sum()).exp()
