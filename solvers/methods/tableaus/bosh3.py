"""Bogacki and Shampine's 3(2) pair; its dense output is the cubic Hermite polynomial, derived from the stages.

Source: P. Bogacki, L. F. Shampine, "A 3(2) pair of Runge-Kutta formulas", Appl. Math. Lett. 2 (1989) 321-325.
"""

from ..tableau import ButcherTableau

__all__ = ["BOSH3"]

BOSH3 = ButcherTableau(
    a=((), (1 / 2,), (0, 3 / 4), (2 / 9, 1 / 3, 4 / 9)),
    b=(2 / 9, 1 / 3, 4 / 9, 0),
    c=(0, 1 / 2, 3 / 4, 1),
    order=3,
    b_embedded=(7 / 24, 1 / 4, 1 / 3, 1 / 8),
    embedded_order=2,
)
