"""Residual dynamic mode decomposition: which eigenvalues and pseudospectra the data prove."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from neuralde.solvers import InvalidProblemError
from neuralde.solvers.checks import positive, shown

from .edmd import EDMD


class ResDMD(EDMD):
    r"""EDMD with proofs: the residual of each eigenpair, and the pseudospectrum that the dictionary can certify.

    .. math:: \text{res}(\lambda, g)^2 = \frac{g^* [L - \lambda A^* - \bar\lambda A + |\lambda|^2 G] g}{g^* G g}, \qquad
              G = \Psi_X^* W \Psi_X,\; A = \Psi_X^* W \Psi_Y,\; L = \Psi_Y^* W \Psi_Y

    As the data grow the residual converges to :math:`\|(\mathcal K - \lambda) g\| / \|g\|` in the space of square-integrable
    functions. So a point whose residual is below :math:`\varepsilon` lies in the :math:`\varepsilon`-pseudospectrum of the whole
    operator, not only of its compression; what EDMD invents has a large one. Norms are computed from the observables themselves
    and not from the squares in the formula, so that residuals down to rounding are right.

    Args:
        dictionary, rank, ridge: as for :class:`EDMD`.

    Beside what :class:`EDMD` has there are :meth:`verified` and :meth:`pseudospectrum`. Give ``weights`` to the fit where the
    states are nodes of a quadrature; without, they are draws from the measure that is meant.

    Shapes:
        As :class:`EDMD`.

    Units:
        As :class:`EDMD`; residuals have none, and points are eigenvalues of a step.

    Raises:
        InvalidProblemError: as :class:`EDMD`; a tolerance is not positive, or points are not finite.

    When to take it:
        Whenever an eigenvalue is to be believed. There must be many more pairs than observables: with as many, residuals are
        0 whatever the dynamics.

    References:
        Colbrook, Townsend: Rigorous data-driven computation of spectral properties of Koopman operators for dynamical systems.
        Communications on Pure and Applied Mathematics 77, 2024, equation 3.5 and algorithms 2 and 3.

    Example:
        >>> import torch, neuralde as nde
        >>> x = torch.linspace(0, 1, 2001, dtype=torch.float64)[:-1, None]
        >>> y = (2 * x + 0.01 * torch.sin(2 * torch.pi * x)) % 1.0  # expanding: no eigenfunction but constants
        >>> model = nde.koopman.ResDMD(nde.koopman.Fourier(10, period=1.0)).fit(x, y)
        >>> len(model.eigenvalues), model.eigenvalues[model.verified(0.01)].real
        (21, tensor([1.0000], dtype=torch.float64))
    """

    def verified(self, tolerance: float) -> Tensor:
        """Which eigenvalues have a residual of at most ``tolerance``: a mask ``(r,)`` (algorithm 2)."""
        return self.residuals <= positive(tolerance, "tolerance")

    def pseudospectrum(self, z: Any) -> Tensor:
        r"""The least residual of any combination of the observables at each point: ``z.shape`` (algorithm 3).

        Where it is below :math:`\varepsilon` the point is in the operator's :math:`\varepsilon`-pseudospectrum.

        Args:
            z: complex points of any shape, eigenvalues of a step.
        """
        triangle, grid = self._triangles(z)
        before, after = triangle
        flat = torch.cat(
            [torch.linalg.svdvals(after - part[:, None, None] * before)[:, -1] for part in grid.flatten().split(256)]
        )
        return flat.reshape(grid.shape)

    def pseudoeigenfunction(self, z: complex, x: Tensor) -> Tensor:
        """The combination of least residual at a point, evaluated at states: ``(n,)``; its mean square over the data is 1.

        Args:
            z: the point.
            x: states ``(n, d)``.
        """
        (before, after), grid = self._triangles(z)
        vector = torch.linalg.svd(after - grid * before)[2][-1].conj()
        observed = self._observables(x).to(vector.dtype)
        return observed @ (self._whitening.to(vector.dtype) @ vector) * len(self._reduced[0]) ** 0.5

    def _triangles(self, z: Any) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """Both sides in an orthonormal basis of their joint span: ``(2 r, r)`` each; and the points."""
        self._need_fit()
        before, after = self._reduced
        joint = torch.linalg.qr(torch.cat([before, after], 1), mode="r")[1]
        kind = torch.complex128 if joint.real.dtype == torch.float64 else torch.complex64
        try:
            grid = torch.as_tensor(z, dtype=kind, device=joint.device)
        except (TypeError, ValueError, RuntimeError):
            grid = torch.full((), torch.nan, dtype=kind)
        if not bool(grid.isfinite().all()):
            raise InvalidProblemError(f"z: got {shown(z)}; expected finite complex points")
        size = before.shape[1]
        return (joint[:, :size].to(kind), joint[:, size:].to(kind)), grid
