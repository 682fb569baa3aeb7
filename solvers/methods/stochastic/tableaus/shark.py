"""Foster, dos Reis and Strange's ShARK."""

from ..tableau import StochasticTableau, Weights

SHARK = StochasticTableau(
    "ShARK",
    "any",
    {"additive": 1.5},
    c=(0, 0, 1, 5 / 6),
    a=((), (0,), (0, 0), (0, 5 / 6, 0)),
    a_w=((), (0,), (0, 0), (5 / 6, 0, 0)),
    a_h=((), (1,), (0, 0), (1, 0, 0)),
    solution=Weights((0, 2 / 5, 0, 3 / 5), (1 / 2, 0, 1 / 2, 0), (1, 0, -1, 0)),
    embedded=Weights((0, 1, 0, 0), (1 / 2, 0, 1 / 2, 0), (1, 0, -1, 0)),
    embedded_order=1.0,
)
"""Foster, dos Reis, Strange: High order splitting methods for SDEs satisfying a commutativity condition. SIAM J. Numer.
Anal. 62 (2024; arXiv:2210.17543), equation 6.1; a diffusion that depends on time enters as in SRA1."""
