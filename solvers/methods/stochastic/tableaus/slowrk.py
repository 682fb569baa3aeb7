"""Foster, dos Reis and Strange's SlowRK."""

from ..tableau import StochasticTableau, Weights

SLOWRK = StochasticTableau(
    "SlowRK",
    "stratonovich",
    {"additive": 1.5, "scalar": 1.5, "diagonal": 1.5, "commutative": 1.5, "general": 0.5},
    c=(0, 1 / 2, 1 / 2, 1 / 2, 1 / 2, 3 / 4, 1),
    a=((), (1 / 2,), (1 / 2, 0), (1 / 2, 0, 0), (1 / 2, 0, 0, 0), (3 / 4, 0, 0, 0, 0), (1, 0, 0, 0, 0, 0)),
    a_w=((), (0,), (0, 1 / 2), (0, 0, 1 / 2), (0, 0, 0, 1), (0, 0, 0, 3 / 4, 0), (0, 0, 1 / 2, 0, 0, 0)),
    a_h=((), (0,), (0, 0), (0, 0, 0), (0, 0, 0, 0), (0, 0, 0, 3 / 2, 0), (0,) * 6),
    solution=Weights((1 / 3, 0, 0, 0, 0, 2 / 3, 0), (0, 1 / 6, 1 / 3, 1 / 3, 1 / 6, 0, 0), (0, 0, 0, 2, 0, 0, -2)),
    embedded=Weights((1, 0, 0, 0, 0, 0, 0), (0, 0, 1, 0, 0, 0, 0)),
    embedded_order=1.0,
)
"""Foster, dos Reis, Strange (arXiv:2210.17543), equation 6.2. The embedded solution, a midpoint rule for the noise, is
this library's: the paper gives none."""
