"""Gauss's rule, by which the words of a signature are integrated over a step."""

from __future__ import annotations

from functools import lru_cache

import numpy as np


@lru_cache(maxsize=32)
def gauss_rule(nodes: int) -> list[tuple[float, float]]:
    """Nodes between 0 and 1 with their weights, exact for polynomials of degree ``2 nodes - 1``.

    Example:
        >>> from neuralde.solvers.paths.signatures.gauss import gauss_rule
        >>> gauss_rule(1)
        [(0.5, 1.0)]
    """
    points, weights = np.polynomial.legendre.leggauss(nodes)
    return list(zip(((1 + points) / 2).tolist(), (weights / 2).tolist(), strict=True))
