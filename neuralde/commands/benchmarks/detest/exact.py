"""Closed-form solutions of the DETEST problems that have one, as functions of a time ``t >= 0``."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ...extras import needed

Solution = Callable[[float], np.ndarray]


def _a5(t: float) -> np.ndarray:
    r"""In polar coordinates the logarithmic spiral :math:`r = 4 e^{\pi/2 - \theta}`, started at :math:`\theta = \pi/2`."""
    brentq = needed("scipy.optimize", "bench").brentq

    scale = 4.0 * math.exp(math.pi / 2)
    if t == 0.0:
        return np.array([4.0])
    theta = brentq(lambda x: scale * math.exp(-x) * math.cos(x) - t, -math.pi / 4, math.pi / 2, xtol=1e-15, rtol=1e-15)
    return np.array([scale * math.exp(-theta) * math.sin(theta)])


def _b2(t: float) -> np.ndarray:
    slow, fast = math.exp(-t) / 2, math.exp(-3.0 * t) / 2
    return np.array([1.0 + slow + fast, 1.0 - 2.0 * fast, 1.0 - slow + fast])


def _b3(t: float) -> np.ndarray:
    """The second component is u'/u of u'' = exp(-t) u, whose solutions are modified Bessel functions of 2 exp(-t/2)."""
    special = needed("scipy.special", "bench")
    i0, i1, k0, k1 = special.i0, special.i1, special.k0, special.k1

    s = 2.0 * math.exp(-t / 2)
    a, b = k1(2.0), i1(2.0)
    second = -s / 2 * (a * i1(s) - b * k1(s)) / (a * i0(s) + b * k0(s))
    return np.array([math.exp(-t), second, -math.expm1(-t) - second])


def _b4(t: float) -> np.ndarray:
    """On the torus the angles turn uniformly: the radius is 2 + cos t."""
    radius = 2.0 + math.cos(t)
    return np.array([radius * math.cos(t), radius * math.sin(t), math.sin(t)])


def _b5(t: float) -> np.ndarray:
    """Jacobi's sn, cn and dn with the parameter m = 0.51."""
    ellipj = needed("scipy.special", "bench").ellipj

    return np.array(ellipj(t, 0.51)[:3])


def _c1(t: float) -> np.ndarray:
    """Poisson's probabilities of 0 to 8 events, and that of more."""
    gammainc = needed("scipy.special", "bench").gammainc

    return np.array([*(math.exp(-t) * t**i / math.factorial(i) for i in range(9)), gammainc(9, t)])


def _c2(t: float) -> np.ndarray:
    """Yule's pure birth process: geometric probabilities."""
    grown = -math.expm1(-t)
    return np.array([*(math.exp(-t) * grown**i for i in range(9)), grown**9])


def _diffusion(n: int) -> Solution:
    """The sine modes of the discrete Laplace operator."""
    k = np.arange(1, n + 1)
    modes = np.sin(np.outer(k, k) * math.pi / (n + 1))
    rates = 4.0 * np.sin(k * math.pi / (2 * (n + 1))) ** 2
    return lambda t: 2.0 / (n + 1) * modes @ (modes[:, 0] * np.exp(-rates * t))


def _orbit(e: float) -> Solution:
    """Kepler's equation for the eccentric anomaly u, u - e sin u = t, by Newton's method."""

    def at(t: float) -> np.ndarray:
        u = t
        for _ in range(100):
            step = (u - e * math.sin(u) - t) / (1.0 - e * math.cos(u))
            u -= step
            if abs(step) < 1e-15 * max(1.0, abs(u)):
                break
        b, rate = math.sqrt(1.0 - e * e), 1.0 / (1.0 - e * math.cos(u))
        return np.array([math.cos(u) - e, b * math.sin(u), -math.sin(u) * rate, b * math.cos(u) * rate])

    return at


def _e1(t: float) -> np.ndarray:
    """The Bessel function of order 1/2 at t + 1, and its derivative."""
    x = t + 1.0
    scale = math.sqrt(2.0 / (math.pi * x))
    return np.array([scale * math.sin(x), scale * (math.cos(x) - math.sin(x) / (2.0 * x))])


def _e4(t: float) -> np.ndarray:
    """A body that falls against a resistance that grows with the square of its speed."""
    limit = math.sqrt(0.032 / 0.4)
    return np.array([30.0 + math.log(math.cosh(0.4 * limit * t)) / 0.4, limit * math.tanh(0.4 * limit * t)])


def _e5(t: float) -> np.ndarray:
    """The curve of pursuit."""
    left = 25.0 - t
    return np.array([12.5 * math.log(25.0 / left) - (625.0 - left**2) / 100.0, (25.0 / left - left / 25.0) / 2.0])


EXACT: dict[str, Solution] = {
    "A1": lambda t: np.array([math.exp(-t)]),
    "A2": lambda t: np.array([1.0 / math.sqrt(1.0 + t)]),
    "A3": lambda t: np.array([math.exp(math.sin(t))]),
    "A4": lambda t: np.array([20.0 / (1.0 + 19.0 * math.exp(-t / 4.0))]),
    "A5": _a5,
    "B2": _b2,
    "B3": _b3,
    "B4": _b4,
    "B5": _b5,
    "C1": _c1,
    "C2": _c2,
    "C3": _diffusion(10),
    "C4": _diffusion(51),
    **{f"D{i}": _orbit(e) for i, e in enumerate((0.1, 0.3, 0.5, 0.7, 0.9), start=1)},
    "E1": _e1,
    "E4": _e4,
    "E5": _e5,
}
"""By the name of the problem."""
