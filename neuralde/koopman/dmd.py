"""Dynamic mode decomposition: the linear operator between snapshots themselves."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from neuralde.solvers import InvalidProblemError
from neuralde.solvers.checks import shown

from .edmd import EDMD, weighted
from .least_squares import leading_svd
from .optimized import fit_exponentials
from .snapshots import Snapshots, snapshots

METHODS = ("exact", "tls", "optimized")


class DMD(EDMD):
    r"""The linear operator that takes each snapshot to the next, by its eigenvalues and modes.

    .. math:: y_i \approx x_i A, \qquad x(t) \approx \sum_j \varphi_j(x_0)\, e^{\omega_j t} v_j

    ``"exact"`` solves the least-squares problem on the leading principal components of X; its modes are those of the operator
    :math:`X^+ Y` itself. ``"tls"`` removes from both sides what is not in the leading components of the pair, so that noise
    in X does not shrink the eigenvalues. ``"optimized"`` fits exponentials to the whole trajectory, by variable projection:

    .. math:: \min_{\omega, V} \sum_i \Big\| x(t_i) - \sum_j e^{\omega_j t_i} v_j \Big\|^2

    at any times, even or not; it is the maximum-likelihood estimate under white noise.

    Args:
        rank: how many components or exponentials; None for all that are not rounding.
        method: one of the three.
        ridge: as for :class:`EDMD`; of the exact method.

    ``fit`` takes what :class:`EDMD` takes; the optimized method one trajectory ``(T, d)`` without control, and with
    ``ts=`` any increasing times. With ``control`` the exact method is DMDc. What it then has is said at
    :class:`KoopmanModel`; for the optimized method ``residuals`` are those of the least-squares fit, one number for all.

    Shapes:
        Snapshots are rows: ``(T, d)``, where many packages take columns. ``eigenvalues`` ``(r,)``, ``modes`` ``(r, d)``,
        scaled so that the sum above holds as it stands.

    Units:
        ``dt`` and ``ts`` in one unit of time; 1 if neither is given.

    Raises:
        InvalidProblemError: as :class:`EDMD`; ``method`` is none of the three, or takes no such data or control.

    When to take it:
        For data near a linear system, an attractor of few frequencies above all. ``"exact"`` without noise,
        ``"optimized"`` with noise or uneven times, ``"tls"`` with noise where pairs are no trajectory. :class:`EDMD` for
        nonlinear dynamics.

    References:
        Tu, Rowley, Luchtenburg, Brunton, Kutz: On dynamic mode decomposition. Journal of Computational Dynamics 1, 2014.
        Hemati, Rowley, Deem, Cattafesta: De-biasing the dynamic mode decomposition. Theoretical and Computational Fluid
        Dynamics 31, 2017. Askham, Kutz: Variable projection methods for an optimized dynamic mode decomposition. SIAM Journal
        on Applied Dynamical Systems 17, 2018. Proctor, Brunton, Kutz: Dynamic mode decomposition with control, ibid. 15, 2016.

    Example:
        >>> import torch, neuralde as nde
        >>> x0 = torch.tensor([1.0, 0.0], dtype=torch.float64)
        >>> swing = nde.ODEProblem(lambda t, y: torch.stack([y[1], -4 * y[0] - 0.2 * y[1]]), x0, (0.0, 5.0))
        >>> sol = nde.solve(swing, saveat=torch.linspace(0, 5, 101).double(), rtol=1e-10, atol=1e-12)
        >>> model = nde.koopman.DMD().fit(sol)
        >>> model.continuous_eigenvalues.imag.abs().round(decimals=4), model.growth_rates.round(decimals=4)
        (tensor([1.9975, 1.9975], dtype=torch.float64), tensor([-0.1000, -0.1000], dtype=torch.float64))
        >>> model.predict(sol.ys[0], [5.0]).sub(sol.y1).abs().max() < 1e-7
        tensor(True)
    """

    def __init__(self, rank: int | None = None, method: str = "exact", *, ridge: float = 0.0) -> None:
        super().__init__(None, rank=rank, ridge=ridge)
        if method not in METHODS:
            raise InvalidProblemError(f"method: got {method!r}; expected one of {', '.join(METHODS)}")
        if ridge and method != "exact":
            raise InvalidProblemError(f"ridge: got {ridge!r} with method {method!r}; expected 0")
        self.method = method

    def fit(
        self, X: Any, Y: Any = None, *, dt: Any = None, ts: Any = None, control: Any = None, weights: Any = None
    ) -> DMD:
        """Fit the operator to data; the model itself."""
        if self.method != "exact" and control is not None:
            raise InvalidProblemError(
                f"control: got {shown(control)} with method {self.method!r}; expected method 'exact'"
            )
        if self.method == "optimized":
            if weights is not None:
                raise InvalidProblemError(f"weights: got {shown(weights)}; expected none with method 'optimized'")
            self._fit_exponentials(snapshots(X, Y, dt, ts, None))
        else:
            super().fit(X, Y, dt=dt, ts=ts, control=control, weights=weights)
        return self

    def _sides(self, data: Snapshots, root: Tensor | None) -> tuple[Tensor, Tensor]:
        x, y = weighted(data.x, root), weighted(data.y, root)
        if self.method == "tls":
            # Snapshots are rows, so the left vectors of [X Y] are the directions along time in which both sides lie.
            directions = leading_svd(torch.cat([x, y], 1), self.rank or min(x.shape))[0]
            x, y = (directions @ (directions.mH @ z) for z in (x, y))
        return x, y

    def _readout(self, data: Snapshots, root: Tensor | None, before: Tensor) -> Tensor:
        """The modes of the operator itself (Tu et al., definition 2); of the eigenvalue 0, projected ones."""
        projected = super()._readout(data, root, before)
        if self.input_matrix is not None:
            return projected
        image = torch.linalg.pinv(self._vectors) @ (before.mH @ self._sides(data, root)[1].to(before.dtype))
        sizes = self.eigenvalues.abs()
        small = (sizes <= len(sizes) * torch.finfo(sizes.dtype).eps * sizes.max())[:, None]
        return torch.where(small, projected, image / torch.where(small, 1.0, self.eigenvalues[:, None]))

    def _fit_exponentials(self, data: Snapshots) -> None:
        if data.series is None:
            raise InvalidProblemError(
                "X: got pairs or several trajectories; expected one (T, d) with method 'optimized'"
            )
        x = data.series
        self._shape, self._real = x.shape[1:], not x.is_complex()
        step = data.dt or 1.0
        times = data.ts if data.ts is not None else step * torch.arange(len(x), dtype=torch.float64)
        exponents, modes, error = fit_exponentials(x, times - times[0], self.rank)
        order = exponents.real.argsort(descending=True, stable=True)
        self.operator = self.input_matrix = None
        self._continuous, self._modes, self.dt = exponents[order], modes[order], data.dt
        self._eigenvalues = (self._continuous * step).exp()
        self._functionals = torch.linalg.pinv(self._modes)
        self._residuals = error.expand(len(order))
