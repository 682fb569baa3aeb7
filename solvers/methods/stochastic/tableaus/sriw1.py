"""Roessler's SRIW1."""

from .roessler import roessler_sri

SRIW1 = roessler_sri(
    "SRIW1",
    a0=((), (3 / 4,), (0, 0), (0, 0, 0)),
    a1=((), (1 / 4,), (1, 0), (0, 0, 1 / 4)),
    b0=((), (3 / 2,), (0, 0), (0, 0, 0)),
    b1=((), (1 / 2,), (-1, 0), (-5, 3, 1 / 2)),
    alpha=(1 / 3, 2 / 3, 0, 0),
    beta=((-1, 4 / 3, 2 / 3, 0), (-1, 4 / 3, -1 / 3, 0), (2, -4 / 3, -2 / 3, 0), (-2, 5 / 3, -2 / 3, 1)),
)
"""Roessler: Runge-Kutta methods for the strong approximation of solutions of stochastic differential equations. SIAM J.
Numer. Anal. 48 (2010). Two drifts and four diffusions a step."""
