r"""The stability function of an implicit method, :math:`R(z) = 1 + z\, b^T (I - z B)^{-1} \mathbf 1`, and what it says.

Source: Hairer, Wanner, "Solving Ordinary Differential Equations II", IV.3 and IV.7.
"""

from __future__ import annotations

import numpy as np

# Where the imaginary axis is looked at, in units of the step; the poles of the methods here are of size 1 to 10.
_AXIS = np.concatenate([[0.0], np.logspace(-3, 5, 1601)])
_ROUNDING = 1e-9


def amplification(matrix: np.ndarray, b: np.ndarray, z: np.ndarray) -> np.ndarray:
    """The stability function at complex numbers.

    >>> amplification(np.array([[1.0]]), np.array([1.0]), np.array([-1.0]))  # the implicit Euler method
    array([0.5])
    """
    one = np.eye(len(b))
    return np.array([1.0 + x * b @ np.linalg.solve(one - x * matrix, np.ones(len(b))) for x in z])


def is_a_stable(matrix: np.ndarray, b: np.ndarray) -> bool:
    """Whether no solution that decays is amplified: at most 1 on the imaginary axis, and no poles left of it.

    >>> is_a_stable(np.array([[1.0]]), np.array([1.0])), is_a_stable(np.array([[0.0]]), np.array([1.0]))
    (True, False)
    """
    eigenvalues = np.linalg.eigvals(matrix)
    poles = 1.0 / eigenvalues[np.abs(eigenvalues) > 1e-12]
    inside = bool((poles.real > 0.0).all())
    return inside and bool((np.abs(amplification(matrix, b, 1j * _AXIS)) <= 1.0 + _ROUNDING).all())


def at_infinity(matrix: np.ndarray, b: np.ndarray) -> float:
    """What is left of the stiffest components after a step, the modulus of R at infinity: 0 for an L-stable method.

    >>> at_infinity(np.array([[1.0]]), np.array([1.0]))
    0.0
    """
    first_explicit = not matrix[0].any()
    if first_explicit:  # what the first stage adds to the others is a constant of the rest, and grows with z of its own
        near, far = amplification(matrix, b, np.array([-1e4, -1e5])).real
        return abs(round((10.0 * far - near) / 9.0, 6))  # its distance from the limit falls with 1 / z
    left = abs(1.0 - b @ np.linalg.solve(matrix, np.ones(len(b))))
    return 0.0 if left < _ROUNDING else float(left)


def real_radius(matrix: np.ndarray, b: np.ndarray) -> float:
    """How far the negative real axis is stable, infinite where all of it is.

    >>> real_radius(np.array([[1.0]]), np.array([1.0]))
    inf
    """
    points = -np.logspace(-3, 8, 2201)
    unstable = np.flatnonzero(np.abs(amplification(matrix, b, points)) > 1.0 + _ROUNDING)
    return float(-points[unstable[0]]) if unstable.size else float("inf")
