r"""Implied volatilities of the rough Bergomi model, simulated with its exact Volterra process.

.. math:: dS / S = \sqrt{v}\, (\rho\, dW + \sqrt{1 - \rho^2}\, dW^\perp), \qquad
          v_t = \xi \exp\Bigl(\eta \sqrt{2H} \int_0^t (t - s)^{H - 1/2} dW_s - \tfrac12 \eta^2 t^{2H}\Bigr)

Given W the price is lognormal, so the Black-Scholes formula integrates the other motion, and only W is simulated: the Volterra
process and W jointly, with their exact law on the grid, by ``FractionalBrownianPath.sample_with_brownian``.

References:
    Bayer, Friz, Gatheral: Pricing under rough volatility. Quantitative Finance 16 (2016). Romano, Touzi: Contingent claims and
    market completeness in a stochastic volatility model. Math. Finance 7 (1997), for the conditional formula. Bergomi, Guyon:
    Stochastic volatility's orderly smiles. Risk (2012), for the skew to first order in the volatility of variance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from neuralde.solvers import FractionalBrownianPath

from ...reporting import Row, markdown_table
from .study import Study


class Model(NamedTuple):
    """The parameters: Hurst index, volatility of variance, correlation, forward variance."""

    hurst: float = 0.07
    eta: float = 1.9
    rho: float = -0.9
    xi: float = 0.235**2


class Smile(NamedTuple):
    """Of calls on a spot of 1 at several log-strikes: prices, their standard errors, implied volatilities and theirs."""

    prices: Tensor
    errors: Tensor
    volatilities: Tensor
    volatility_errors: Tensor


_BLOCK = 4096


def conditional_prices(model: Model, maturity: float, strikes: Tensor, paths: int, steps: int, seed: int) -> Tensor:
    """The price of each call given each path of W, ``(paths, strikes)``; log-strikes ``(strikes,)``.

    Two regression controls are taken off: the spot given W, whose mean is 1, and the call's price given W were the variance
    constant, whose mean is the Black-Scholes price.
    """
    times = torch.linspace(0.0, maturity, steps + 1, dtype=torch.float64)
    flat = torch.tensor(model.xi * maturity, dtype=torch.float64)
    usual = call(torch.ones_like(strikes), strikes, flat.sqrt())
    found, controls = [], []
    for first in range(0, paths, _BLOCK):
        numbers = range(first, min(first + _BLOCK, paths))
        path = FractionalBrownianPath(
            (len(numbers),), seed, 0.0, maturity, model.hurst, "II", samples=numbers, dtype=torch.float64
        )
        process, motion = path.sample_with_brownian(times)
        drift = 0.5 * model.eta**2 * times[:-1] ** (2.0 * model.hurst)
        variance = model.xi * torch.exp(model.eta * process[:-1] - drift.unsqueeze(-1))
        total = variance.sum(0) * (maturity / steps)
        spot = torch.exp(model.rho * (variance.sqrt() * motion.diff(dim=0)).sum(0) - 0.5 * model.rho**2 * total)
        deviation = ((1.0 - model.rho**2) * total).sqrt()
        found.append(call(spot.unsqueeze(-1), strikes, deviation.unsqueeze(-1)))
        plain = torch.exp(model.rho * model.xi**0.5 * motion[-1] - 0.5 * model.rho**2 * flat).unsqueeze(-1)
        control = call(plain, strikes, ((1.0 - model.rho**2) * flat).sqrt()) - usual
        controls.append(torch.stack([control, (spot - 1.0).unsqueeze(-1).expand_as(control)], -1))
    return _controlled(torch.cat(found), torch.cat(controls))


def _controlled(values: Tensor, controls: Tensor) -> Tensor:
    """Values ``(paths, strikes)`` less what controls ``(paths, strikes, c)`` of mean 0 explain of them."""
    centred = controls - controls.mean(0)
    crossed = torch.einsum("psc,ps->sc", centred, values - values.mean(0))
    weights = torch.linalg.solve(torch.einsum("psc,psd->scd", centred, centred), crossed)
    return values - torch.einsum("psc,sc->ps", controls, weights)


def call(spot: Tensor, strike: Tensor, deviation: Tensor) -> Tensor:
    """The Black-Scholes price of a call with log-strike ``strike``, total standard deviation ``deviation``, no interest."""
    first = (spot.log() - strike) / deviation + 0.5 * deviation
    return spot * torch.special.ndtr(first) - strike.exp() * torch.special.ndtr(first - deviation)


def implied(prices: Tensor, strikes: Tensor, maturity: float) -> Tensor:
    """Implied volatilities of calls on a spot of 1, by bisection."""
    low, high = torch.full_like(prices, 1e-6), torch.full_like(prices, 10.0)
    for _ in range(60):
        middle = 0.5 * (low + high)
        above = call(torch.ones_like(prices), strikes, middle) > prices
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return 0.5 * (low + high) / maturity**0.5


def smile(model: Model, maturity: float, strikes: Tensor, paths: int, steps: int, seed: int = 0) -> Smile:
    """Prices and implied volatilities at log-strikes, with Monte Carlo errors."""
    each = conditional_prices(model, maturity, strikes, paths, steps, seed)
    prices, errors = each.mean(0), each.std(0) / paths**0.5
    volatilities = implied(prices, strikes, maturity)
    return Smile(prices, errors, volatilities, errors / _vega(volatilities, strikes, maturity))


def _vega(volatility: Tensor, strike: Tensor, maturity: float) -> Tensor:
    deviation = volatility * maturity**0.5
    return maturity**0.5 * torch.exp(-0.5 * (0.5 * deviation - strike / deviation) ** 2) / math.sqrt(2.0 * math.pi)


def skew(model: Model, maturity: float, paths: int, steps: int, seed: int = 0) -> tuple[float, float]:
    """The slope of the implied volatility at the money, and its Monte Carlo error; of two strikes on the same paths."""
    width = 0.1 * (model.xi * maturity) ** 0.5
    strikes = torch.tensor([-width, width], dtype=torch.float64)
    each = conditional_prices(model, maturity, strikes, paths, steps, seed)
    prices = each.mean(0)
    volatilities = implied(prices, strikes, maturity)
    slopes = (each - prices) / _vega(volatilities, strikes, maturity)
    error = (slopes[:, 1] - slopes[:, 0]).std() / paths**0.5 / (2.0 * width)
    return ((volatilities[1] - volatilities[0]) / (2.0 * width)).item(), error.item()


def first_order_skew(model: Model, maturity: float) -> float:
    r"""The skew to first order in eta: :math:`\rho\eta\sqrt{2H}\, T^{H - 1/2} / (2 (H + 1/2) (H + 3/2))`."""
    h = model.hurst
    return model.rho * model.eta * (2.0 * h) ** 0.5 * maturity ** (h - 0.5) / (2.0 * (h + 0.5) * (h + 1.5))


def run(folder: Path | None, paths: int, steps: int, maturities: Sequence[float]) -> Row:
    """Skews over maturities, and a smile."""
    model = Model()
    rows = []
    for maturity in maturities:
        slope, error = skew(model, maturity, paths, steps)
        finer = skew(model, maturity, paths, 2 * steps)[0]
        rows.append(
            dict(maturity=maturity, skew=slope, error=error, finer=finer, first=first_order_skew(model, maturity))
        )
    times, sizes = (np.log([abs(row[key]) for row in rows]) for key in ("maturity", "skew"))
    exponent = float(np.polyfit(times, sizes, 1)[0])
    deviations = torch.linspace(-2.0, 1.5, 8, dtype=torch.float64)
    smiles = []
    for maturity in (maturities[0], maturities[-1]):
        strikes = deviations * (model.xi * maturity) ** 0.5
        found = smile(model, maturity, strikes, paths, steps)
        part = {name: getattr(found, name).tolist() for name in ("volatilities", "volatility_errors")}
        smiles.append({"maturity": maturity, "strikes": strikes.tolist(), **part})
    return {"model": model._asdict(), "exponent": exponent, "skews": rows, "smiles": smiles}


def report(numbers: Row) -> list[str]:
    """The skews beside the first-order formula, and the exponent."""
    model = numbers["model"]
    rows = [
        [
            f"{row['maturity']:.4f}",
            f"{row['skew']:.4f} ± {row['error']:.4f}",
            f"{row['finer']:.4f}",
            f"{row['first']:.4f}",
        ]
        for row in numbers["skews"]
    ]
    lines = [", ".join(f"{name} = {value:.6g}" for name, value in model.items()) + ".", ""]
    lines += markdown_table(["maturity", "skew at the money", "with twice the steps", "first order in eta"], rows)
    return [
        *lines,
        "",
        f"The skew falls as a power of the maturity, {numbers['exponent']:.3f}; H - 1/2 is {model['hurst'] - 0.5:.3f}. The formula",
        "is of first order in the volatility of variance, which is not small here: it overstates the skew, most where maturities",
        "are long.",
    ]


def draw(numbers: Row, figure: Any) -> None:
    """The skews on logarithmic axes, and the smiles."""
    figure.set_size_inches(10, 4)
    left, right = figure.subplots(1, 2)
    times = [row["maturity"] for row in numbers["skews"]]
    left.loglog(times, [-row["skew"] for row in numbers["skews"]], "o", label="simulated")
    left.loglog(times, [-row["first"] for row in numbers["skews"]], label="first order in eta")
    left.set(xlabel="maturity", ylabel="minus the skew at the money")
    left.legend()
    for one in numbers["smiles"]:
        right.errorbar(
            one["strikes"], one["volatilities"], one["volatility_errors"], label=f"T = {one['maturity']:.3g}"
        )
    right.set(xlabel="log-strike", ylabel="implied volatility")
    right.legend()


STUDY = Study(
    "Implied volatility skew of the rough Bergomi model",
    "Bayer, Friz, Gatheral: Pricing under rough volatility. Quantitative Finance 16 (2016), with its parameters H = 0.07, "
    "eta = 1.9, rho = -0.9 and a flat forward variance of 0.235 squared",
    {
        "smoke": dict(paths=200, steps=8, maturities=(0.1, 0.5)),
        "cpu": dict(paths=40_000, steps=250, maturities=(1 / 52, 1 / 24, 1 / 12, 0.25, 0.5, 1.0)),
        "paper": dict(paths=1_000_000, steps=1000, maturities=(1 / 52, 1 / 24, 1 / 12, 0.25, 0.5, 1.0, 2.0)),
    },
    run,
    report,
    draw,
)
