"""Roessler's methods for additive noise."""

from ..tableau import StochasticTableau, Weights

SRA1 = StochasticTableau(
    "SRA1",
    "any",
    {"additive": 1.5},
    c=(0, 1, 3 / 4),
    a=((), (0,), (3 / 4, 0)),
    a_w=((), (0,), (0, 3 / 4)),
    a_h=((), (0,), (0, 3 / 2)),
    solution=Weights((1 / 3, 0, 2 / 3), (1 / 2, 1 / 2, 0), (1, -1, 0)),
    embedded=Weights((1, 0, 0), (1 / 2, 1 / 2, 0), (1, -1, 0)),
    embedded_order=1.0,
)
"""Roessler (2010). The diffusion is that of both ends of the step; the embedded solution takes Euler's drift."""

SRA3 = StochasticTableau(
    "SRA3",
    "any",
    {"additive": 1.5},
    c=(0, 1, 1, 1 / 2),
    a=((), (0,), (1, 0), (1 / 4, 0, 1 / 4)),
    a_w=((), (0,), (0, 0), (1 / 4, 1 / 2, 0)),
    a_h=((), (0,), (0, 0), (1 / 2, 1, 0)),
    solution=Weights((1 / 6, 0, 1 / 6, 2 / 3), (1 / 2, 1 / 2, 0, 0), (1, -1, 0, 0)),
    embedded=Weights((1, 0, 0, 0), (1 / 2, 1 / 2, 0, 0), (1, -1, 0, 0)),
    embedded_order=1.0,
)
"""Roessler (2010): order 3 without noise."""
