r"""Type II on a uniform grid as a convolution of white noise, exact to rounding, together with the noise that drives it.

On cell j of the grid the Brownian motion is expanded in Legendre polynomials :math:`P_k`, with independent normals
:math:`Z_{jk} = \int P_k\,dW`. Then

.. math:: \int_0^i (i - u)^{H - 1/2} dW_u = \sum_{j < i} \sum_k \Bigl(\int_0^1 (i - j - u)^{H - 1/2} P_k(u)\,du\Bigr) Z_{jk}
          + c R_{i-1}

From the second cell back the kernel is analytic on a cell, and 20 polynomials hold it to the rounding of float64 (its
singularity is three half-widths from the middle: errors fall as 5.8**-k). What polynomials do not hold of the kernel on the
latest cell is independent of everything else, so that one more normal :math:`R` with the rest of the variance gives the exact
law. The sum over j is a convolution, by FFT. The increments of the driving motion are the :math:`Z_{j0}`.

The hybrid scheme of Bennedsen, Lunde and Pakkanen (Hybrid scheme for Brownian semistationary processes, Finance Stoch. 21,
2017) takes constants instead of polynomials from some cell back, and is not exact.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from .circulant import fast_length
from .normals import blocks, normals

DEGREES = 20
"""How many polynomials there are on a cell."""
_POINTS = 40


def volterra_path(keys: Tensor, count: int, hurst: Tensor, scale: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Blocks of type II, times ``scale``, and of the motion that drives it, at times 1 to ``count``, one row for each key.

    Takes O(20 count log count) time and, for the entries that are computed at once, 60 numbers of memory for each time.
    """
    weights, rest = (scale * part for part in _weights(count, hurst))
    size = 2 * fast_length(count)
    spectrum = torch.fft.rfft(weights, n=size)
    for some in blocks(keys, 3 * DEGREES * count):
        z = torch.stack([normals(some, count, k) for k in range(DEGREES + 1)], 1)
        total = (torch.fft.rfft(z[:, :DEGREES], n=size) * spectrum).sum(1)
        yield torch.fft.irfft(total, n=size)[:, :count] + rest * z[:, DEGREES], z[:, 0].cumsum(-1)


def _weights(count: int, hurst: Tensor) -> tuple[Tensor, Tensor]:
    """What each polynomial's normal weighs after 1 to ``count`` cells, ``(DEGREES, count)``; and the rest's, at once."""
    device = hurst.device
    power = hurst - 0.5
    degrees = np.arange(DEGREES)
    points, areas = np.polynomial.legendre.leggauss(_POINTS)
    values = np.polynomial.legendre.legvander(points, DEGREES - 1) * np.sqrt(2.0 * degrees + 1.0)
    quadrature, inside, norms = (
        torch.as_tensor(x, dtype=torch.float64, device=device)
        for x in ((0.5 * areas)[:, None] * values, 0.5 * points + 0.5, np.sqrt(2.0 * degrees + 1.0))
    )
    lags = torch.arange(2, count + 1, dtype=torch.float64, device=device)
    far = (lags.unsqueeze(-1) - inside) ** power @ quadrature
    # The moments of the singular kernel (1 - u)**power, by Rodrigues' formula.
    moments = [1.0 / (power + 1.0)]
    for k in range(1, DEGREES):
        moments.append(moments[-1] * (k - 1 - power) / (k + 1 + power))
    near = torch.stack(moments) * norms
    rest = (1.0 / (2.0 * hurst) - near.square().sum()).clamp(min=0.0)
    scale = (2.0 * hurst).sqrt()
    root = torch.where(rest > 0, rest, 1.0).sqrt() * (rest > 0)
    return scale * torch.cat([near.unsqueeze(0), far]).T, scale * root
