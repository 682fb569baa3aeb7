"""What the fitted operators of this room have in common: eigenvalues, modes, residuals and prediction."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from neuralde.solvers import InvalidProblemError
from neuralde.solvers.checks import shown

from .least_squares import points


class KoopmanModel(ABC):
    r"""A fitted operator by its eigenvalues, eigenfunctions and modes.

    .. math:: \varphi_j(x_{n+1}) \approx \mu_j \varphi_j(x_n), \qquad x(t) \approx \sum_j \varphi_j(x_0)\, e^{\omega_j t} v_j,
              \qquad \mu_j = e^{\omega_j \Delta t}

    Attributes:
        dt: the time of a step, or None where the data's times were not even.
        eigenvalues: :math:`\mu_j`, of a step, largest modulus first.
        continuous_eigenvalues: :math:`\omega_j`, by the principal logarithm: imaginary parts are within :math:`\pm\pi/\Delta t`.
        modes: :math:`v_j`, a row for each.
        residuals: the relative mean-square error of each eigenfunction over the data (see :meth:`residuals_on`).
        operator: the matrix whose eigenvalues these are, in coordinates of its own (None where the method has none).
        input_matrix: with control, how the inputs enter these coordinates, ``(m, r)``.

    Shapes:
        r eigenvalues; ``modes`` ``(r, d)``; ``operator`` ``(r, r)``, to be multiplied by rows from the left.

    Units:
        ``continuous_eigenvalues`` and ``growth_rates`` in 1/time, ``frequencies`` in cycles per time.

    When to take it:
        As the base of another way to fit an operator; :class:`DMD`, :class:`EDMD` and :class:`ResDMD` are ready.

    Example:
        >>> import torch, neuralde as nde
        >>> isinstance(nde.koopman.DMD(), nde.koopman.KoopmanModel)
        True
    """

    dt: float | None
    operator: Tensor | None
    input_matrix: Tensor | None
    _eigenvalues: Tensor | None = None
    _continuous: Tensor
    _modes: Tensor
    _residuals: Tensor
    _real: bool

    @abstractmethod
    def eigenfunctions(self, x: Tensor) -> Tensor:
        r"""The values :math:`\varphi_j(x)`, ``(n, r)``, at states ``(n, d)``."""

    @property
    def fitted(self) -> bool:
        """Whether there has been a fit."""
        return self._eigenvalues is not None

    def _need_fit(self) -> None:
        if not self.fitted:
            raise InvalidProblemError(f"{type(self).__name__}: has not been fitted; expected fit() first")

    @property
    def eigenvalues(self) -> Tensor:
        """The eigenvalues of a step, ``(r,)``."""
        self._need_fit()
        if self.dt is None:
            raise InvalidProblemError(
                "eigenvalues: there is no single step between uneven times; expected continuous_eigenvalues"
            )
        assert self._eigenvalues is not None
        return self._eigenvalues

    @property
    def continuous_eigenvalues(self) -> Tensor:
        """The exponents in time, ``(r,)``."""
        self._need_fit()
        return self._continuous

    @property
    def frequencies(self) -> Tensor:
        """Cycles per unit of time, signed, ``(r,)``."""
        return self.continuous_eigenvalues.imag / (2.0 * math.pi)

    @property
    def growth_rates(self) -> Tensor:
        """Real parts of the exponents, ``(r,)``: negative where a mode decays."""
        return self.continuous_eigenvalues.real

    @property
    def modes(self) -> Tensor:
        """The Koopman modes of the state, ``(r, d)``."""
        self._need_fit()
        return self._modes

    @property
    def residuals(self) -> Tensor:
        """How far each eigenpair is from being one, over the data of the fit, ``(r,)``."""
        self._need_fit()
        return self._residuals

    def residuals_on(self, x: Tensor, y: Tensor) -> Tensor:
        r"""The residuals over other pairs of snapshots, which the fit has not seen.

        .. math:: \text{res}_j = \left(\sum_i w_i |\varphi_j(y_i) - \mu_j \varphi_j(x_i)|^2 \Big/ \sum_i w_i
                  |\varphi_j(x_i)|^2\right)^{1/2}

        Args:
            x: states, ``(n, d)``.
            y: the states a step later.
        """
        self._need_fit()
        points(x, "X", at_least=2)
        if points(y, "Y", at_least=2).shape != x.shape:
            raise InvalidProblemError(f"Y: got {shown(y)}; expected the shape of X, {shown(x)}")
        before, after = self.eigenfunctions(x), self.eigenfunctions(y)
        return relative(after - self.eigenvalues * before, before)

    def predict(self, x0: Tensor, ts: Any, control: Tensor | None = None) -> Tensor:
        """The states at any times after (or before) a state, by the eigenvalues; in steps where a control drives them.

        Args:
            x0: the state at time 0, ``(d,)`` or ``(B, d)``; with delays the states up to it, ``(w, d)`` or ``(B, w, d)``.
            ts: times, ``(T,)``, in any order; with a control multiples of ``dt``.
            control: the inputs of the steps from time 0 on, ``(N, m)`` or ``(N, B, m)``; N reaches as far as the last time.

        Gives ``(T, d)`` or ``(T, B, d)``. Data that were real give real states; between steps an eigenvalue on the negative
        axis leaves no real path, and the real part is taken.
        """
        self._need_fit()
        x0 = points(x0, "x0")
        times = torch.as_tensor(ts, dtype=torch.float64, device=x0.device)
        if times.dim() != 1 or not bool(times.isfinite().all()):
            raise InvalidProblemError(f"ts: got {shown(ts)}; expected finite times (T,)")
        single = x0.dim() == self._state_dims
        start = self.eigenfunctions(x0[None] if single else x0)
        if (control is None) != (self.input_matrix is None):
            wanted = (
                "the inputs that drive the fitted model" if control is None else "none: the model was fitted without"
            )
            raise InvalidProblemError(f"control: got {shown(control)}; expected {wanted}")
        values = self._driven(start, times, control) if control is not None else start * self._powers(times)[:, None]
        states = values @ self._modes
        states = states.real if self._real and not x0.is_complex() else states
        return states[:, 0] if single else states

    _state_dims: int = 1

    def _powers(self, times: Tensor) -> Tensor:
        """Eigenvalues to the power of times, ``(T, r)``; of the eigenvalue 0 as the power 0 has it."""
        exponents = self._continuous
        gone = exponents.real == -math.inf
        grown = (torch.where(gone, 0.0, exponents) * times[:, None]).exp()
        return torch.where(gone & (times[:, None] != 0.0), 0.0, grown).to(exponents.dtype)

    def _driven(self, values: Tensor, times: Tensor, control: Tensor) -> Tensor:
        """The eigenfunctions at multiples of the step, with inputs that are constant in between."""
        assert self.dt is not None
        steps = (times / self.dt).round()
        if not bool(((times / self.dt - steps).abs() <= 1e-6 * steps.abs().clamp(min=1)).all()) or bool(
            (steps < 0).any()
        ):
            raise InvalidProblemError(
                f"ts: expected multiples of dt={self.dt:g}, 0 or later, where a control drives the steps"
            )
        inputs = self._inputs(control, values)
        last = int(steps.max()) if len(steps) else 0
        if len(inputs) < last:
            raise InvalidProblemError(
                f"control: got the inputs of {len(inputs)} steps; expected {last}, to reach the last time"
            )
        path = [values]
        for n in range(last):
            path.append(path[-1] * self.eigenvalues + inputs[n])
        return torch.stack(path)[steps.long()]

    def _inputs(self, control: Tensor, values: Tensor) -> Tensor:
        """What each step's input adds to the eigenfunctions, ``(N, B, r)``."""
        assert self.input_matrix is not None
        points(control, "control", at_least=2)
        size = self.input_matrix.shape[0]
        shape = control.shape[1:] if control.dim() == 3 else (1, *control.shape[1:])
        if control.dim() > 3 or shape[-1] != size or shape[0] not in (1, len(values)):
            raise InvalidProblemError(
                f"control: got {shown(control)}; expected (N, {size}) or (N, {len(values)}, {size})"
            )
        rows = control if control.dim() == 3 else control[:, None]
        return rows.to(values.dtype) @ self.input_matrix.to(values.dtype) @ self._vectors

    _vectors: Tensor

    def _set_spectrum(self, eigenvalues: Tensor, dt: float | None) -> None:
        self.dt, self._eigenvalues = dt, eigenvalues
        if dt is not None:
            self._continuous = eigenvalues.log() / dt


def relative(error: Tensor, values: Tensor) -> Tensor:
    """Column by column, the norm of an error over that of the values."""
    return error.norm(dim=0) / values.norm(dim=0)


def eigen(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, largest modulus first, and right eigenvectors in columns."""
    values, vectors = torch.linalg.eig(matrix)
    order = values.abs().argsort(descending=True, stable=True)
    return values[order], vectors[:, order]
