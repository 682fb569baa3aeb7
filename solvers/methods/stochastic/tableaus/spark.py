"""Foster and Jelincic's SPaRK."""

from math import sqrt

from ..tableau import StochasticTableau, Weights

_SIXTH, _THIRD = (3 - sqrt(3)) / 6, sqrt(3) / 3
SPARK = StochasticTableau(
    "SPaRK",
    "stratonovich",
    {"additive": 1.5, "scalar": 1.0, "diagonal": 1.0, "commutative": 1.0, "general": 0.5},
    c=(0, 1 / 2, 1),
    a=((), (1 / 2,), (0, 1)),
    a_w=((), (1 / 2,), (0, 1)),
    a_h=((), (sqrt(3),), (0, 0)),
    solution=Weights((_SIXTH, _THIRD, _SIXTH), (_SIXTH, _THIRD, _SIXTH), (1, 0, -1)),
    embedded=Weights((1 / 2, 0, 1 / 2), (1 / 2, 0, 1 / 2)),
    embedded_order=1.0,
)
"""Foster, Jelincic: On the convergence of adaptive approximations for stochastic differential equations
(arXiv:2311.14201), definition 1.6."""
