r"""The best geometric range of rates for a horizon, a Hurst index and a number of terms.

For K rates in geometric progression from :math:`10^a / T` to :math:`10^b / T` the least error over [0, T] was sought
numerically for K = 3, 5, 8, 12, the condition of the weights kept below about 1e11. Both ends turn out to be straight
lines in :math:`\sqrt K`, as for the best rational approximation of a power; the table holds the lines, and is
interpolated in H. Tests search again, and find no range that is better by more than a tenth or so.
"""

from __future__ import annotations

import bisect
import math
from typing import Any

import torch
from torch import Tensor

from ...checks import integer, positive, shown
from ...errors import InvalidProblemError

_Line = tuple[float, float]
# H: the lower end's exponent as (at 0, per sqrt K), then the upper end's.
_TABLE: dict[str, dict[float, tuple[_Line, _Line]]] = {
    "I": {
        0.05: ((1.48, -0.46), (-5.27, 6.24)),
        0.10: ((1.15, -0.54), (-3.57, 4.49)),
        0.15: ((1.11, -0.70), (-2.59, 3.51)),
        0.20: ((0.99, -0.82), (-2.03, 2.89)),
        0.25: ((0.71, -0.85), (-1.89, 2.54)),
        0.30: ((0.58, -0.97), (-1.64, 2.20)),
        0.40: ((0.15, -1.20), (-1.97, 1.88)),
        0.45: ((-0.77, -1.18), (-2.14, 1.75)),
        0.55: ((-1.19, -1.36), (-1.86, 1.43)),
        0.60: ((-0.59, -1.58), (-1.79, 1.34)),
        0.70: ((0.02, -2.04), (-1.65, 1.10)),
        0.80: ((0.50, -2.68), (-1.58, 0.89)),
        0.85: ((0.42, -2.99), (-1.71, 0.83)),
        0.90: ((0.06, -3.37), (-2.05, 0.84)),
        0.95: ((-0.20, -3.90), (-2.40, 0.85)),
    },
    "II": {
        0.05: ((0.88, -0.20), (-5.89, 6.57)),
        0.10: ((0.72, -0.24), (-3.98, 4.85)),
        0.15: ((1.02, -0.47), (-2.37, 3.67)),
        0.20: ((0.73, -0.44), (-1.68, 3.04)),
        0.25: ((0.39, -0.34), (-1.20, 2.66)),
        0.30: ((-0.36, -0.13), (-1.78, 2.62)),
        0.40: ((-0.32, -0.24), (-0.40, 1.87)),
        0.50: ((-0.95, -0.05), (-0.80, 1.75)),
        0.60: ((-0.89, -0.08), (-0.88, 1.71)),
        0.75: ((-1.39, 0.05), (-2.05, 1.99)),
        0.95: ((-1.56, 0.11), (-2.43, 2.07)),
    },
}


def default_ends(hurst: float, kind: str, terms: int, horizon: float) -> tuple[float, float]:
    """The smallest and the largest rate.

    >>> low, high = default_ends(0.3, "I", 8, 1.0)
    >>> f"{low:.1e} {high:.1e}"
    '6.9e-03 3.8e+04'
    """
    table = _TABLE[kind]
    knots = sorted(table)
    hurst = min(max(hurst, knots[0]), knots[-1])
    place = min(max(bisect.bisect_right(knots, hurst), 1), len(knots) - 1)
    left, right = knots[place - 1], knots[place]
    part, root = (hurst - left) / (right - left), math.sqrt(terms)
    ends = []
    for before, after in zip(table[left], table[right], strict=True):
        exponents = [line[0] + line[1] * root for line in (before, after)]
        ends.append(10.0 ** ((1.0 - part) * exponents[0] + part * exponents[1]) / horizon)
    return ends[0], ends[1]


def shared_ends(kind: str, terms: int, horizon: float) -> tuple[float, float]:
    """The ends of a range for Hurst indices that are not known: the widest of those for 0.25 and 0.75.

    >>> shared_ends("II", 8, 1.0)[0] < default_ends(0.25, "II", 8, 1.0)[0]
    True
    """
    terms = integer(terms, "terms")
    ends = [default_ends(hurst, kind, terms, positive(horizon, "horizon")) for hurst in (0.25, 0.75)]
    return min(low for low, _ in ends), max(high for _, high in ends)


def checked_rates(rates: Any, kind: str) -> Tensor:
    """Rates as a float64 tensor; refuses what does not increase from 0 on, in type I from above 0 on."""
    least = "0 or positive" if kind == "II" else "positive"
    expected = f"one or more finite rates (K,), {least} and increasing"
    try:
        found = torch.as_tensor(rates, dtype=torch.float64).detach()
    except (TypeError, ValueError, RuntimeError):
        raise InvalidProblemError(f"rates: got {shown(rates)}; expected {expected}") from None
    if torch.compiler.is_compiling():  # in a graph there are no values to look at
        return found
    fits = found.dim() == 1 and len(found) and bool(found.isfinite().all()) and bool((found.diff() > 0).all())
    if not fits or found[0] < 0 or (kind == "I" and found[0] == 0):
        got = found.tolist() if found.numel() <= 16 else shown(found)
        raise InvalidProblemError(f"rates: got {got}; expected {expected}")
    return found
