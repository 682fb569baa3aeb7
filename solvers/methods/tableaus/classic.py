"""The classical low-order methods, with dense output derived from their stages.

Heun, Midpoint and Ralston carry Euler's step as their embedded solution, so that they can choose their own step size.

Sources: Hairer, Norsett, Wanner, "Solving Ordinary Differential Equations I", sections II.1 and II.2; A. Ralston,
"Runge-Kutta methods with minimum error bounds", Math. Comp. 16 (1962) 431-437, for RALSTON; W. Kutta, "Beitrag zur
naeherungsweisen Integration totaler Differentialgleichungen", Z. Math. Phys. 46 (1901) 435-453, for RK4.
"""

from ..tableau import ButcherTableau

__all__ = ["EULER", "HEUN", "MIDPOINT", "RALSTON", "RK4"]

EULER = ButcherTableau(a=((),), b=(1,), c=(0,), order=1)

MIDPOINT = ButcherTableau(a=((), (1 / 2,)), b=(0, 1), c=(0, 1 / 2), order=2, b_embedded=(1, 0), embedded_order=1)

# The explicit trapezoidal rule.
HEUN = ButcherTableau(a=((), (1,)), b=(1 / 2, 1 / 2), c=(0, 1), order=2, b_embedded=(1, 0), embedded_order=1)

# Of all two-stage methods of order 2, the one with the smallest bound on the local error.
RALSTON = ButcherTableau(a=((), (2 / 3,)), b=(1 / 4, 3 / 4), c=(0, 2 / 3), order=2, b_embedded=(1, 0), embedded_order=1)

RK4 = ButcherTableau(
    a=((), (1 / 2,), (0, 1 / 2), (0, 0, 1)), b=(1 / 6, 1 / 3, 1 / 3, 1 / 6), c=(0, 1 / 2, 1 / 2, 1), order=4
)
