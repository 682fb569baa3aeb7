r"""Fractional Gaussian noise on a uniform grid by embedding its covariance in a circulant matrix, which an FFT diagonalizes.

The first row of the circulant is :math:`\rho(0), ..., \rho(n), \rho(n - 1), ..., \rho(1)`, of length 2n. With the true
:math:`\rho(n)` in its middle its eigenvalues are not negative for any H in (0, 1), so that the law is exact for every n.

References:
    Davies, Harte: Tests for Hurst effect. Biometrika 74 (1987). Dietrich, Newsam: Fast and exact simulation of stationary
    Gaussian processes. SIAM J. Sci. Comput. 18 (1997). Perrin, Harba, Jennane, Iribarren: Fast and exact synthesis for 1-D
    fractional Brownian motion and fractional Gaussian noises. IEEE Signal Process. Lett. 9 (2002).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ...errors import InvalidProblemError
from .covariance import noise_autocovariance
from .normals import blocks, normals

_ROUNDING = 1e-12


def circulant_path(keys: Tensor, count: int, hurst: Tensor, scale: Tensor) -> Iterator[Tensor]:
    """Blocks of fractional Brownian motion of type I at times 1 to ``count``, one row for each key, times ``scale``.

    Takes O(count log count) time and, for the entries that are computed at once, 4 numbers of memory for each time.

    Raises:
        InvalidProblemError: an eigenvalue is negative beyond rounding, so that there is no embedding.
    """
    size = fast_length(count)
    amplitude = scale * _amplitude(size, hurst)
    for some in blocks(keys, 2 * size):
        z = normals(some, 2 * size + 2).reshape(len(some), size + 1, 2) * amplitude
        yield torch.fft.irfft(torch.view_as_complex(z), n=2 * size)[:, :count].cumsum(-1)


def _amplitude(size: int, hurst: Tensor) -> Tensor:
    """What the real and imaginary parts of the noise's spectrum are multiplied by, ``(size + 1, 2)``."""
    row = noise_autocovariance(size + 1, hurst)
    eigenvalues = torch.fft.rfft(torch.cat([row, row[1:-1].flip(0)])).real
    least, most = eigenvalues.detach().aminmax()
    if bool(least < -_ROUNDING * most):
        raise InvalidProblemError(
            f'method: got "circulant", whose matrix of size {2 * size} has the negative eigenvalue {least.item():.3g} for '
            f'hurst {hurst.item():.6g}; expected "cholesky" here'
        )
    root = (size * eigenvalues.clamp(min=1e-30)).sqrt()
    # At frequency 0 and at the highest one the spectrum is real.
    parts = torch.ones((size + 1, 2), dtype=torch.float64, device=row.device)
    parts[[0, -1]] = torch.tensor([2.0**0.5, 0.0], dtype=torch.float64, device=row.device)
    return root.unsqueeze(-1) * parts


def fast_length(count: int) -> int:
    """The least product of powers of 2, 3 and 5 that is not below ``count``."""
    best = 1 << max(count - 1, 0).bit_length()
    five = 1
    while five < best:
        three = five
        while three < best:
            two = three << max(-(-count // three) - 1, 0).bit_length()
            best = min(best, two)
            three *= 3
        five *= 5
    return best
