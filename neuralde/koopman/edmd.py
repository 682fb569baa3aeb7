"""Extended dynamic mode decomposition: the Koopman operator between observables."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from neuralde.solvers import InvalidProblemError
from neuralde.solvers.checks import integer, number, shown

from .dictionaries import Dictionary, Identity
from .least_squares import leading_svd, least_squares, points
from .snapshots import Snapshots, snapshots
from .spectrum import KoopmanModel, eigen, relative


class EDMD(KoopmanModel):
    r"""The Koopman operator on the span of observables, by least squares over pairs of snapshots.

    .. math:: \psi(y_i) \approx \psi(x_i) K, \qquad K \xi_j = \mu_j \xi_j, \qquad \varphi_j(x) = \psi(x) \xi_j, \qquad
              x \approx \sum_j \varphi_j(x) v_j

    The observables are first replaced by combinations that are orthonormal over the data, and combinations that vanish there
    are left out; so a redundant dictionary adds no eigenvalues of its own.

    Args:
        dictionary: the observables, such as :class:`Polynomial`; None for the state itself.
        rank: how many combinations are kept, the most energetic ones; None for all that are not rounding.
        ridge: added to the diagonal of the Gram matrix of the normalized observables; 0 for plain least squares.

    ``fit(X, Y=None, dt=None, ts=None, control=None, weights=None)`` takes pairs ``(n, d)``, one trajectory ``(T, d)``,
    several ``(T, B, d)`` or a :class:`neuralde.Solution`; it gives the model itself. ``control`` are inputs ``(n, m)``, one for
    each step, which enter linearly: :math:`\psi(y) \approx \psi(x) K + u B` (EDMDc). ``weights`` ``(n,)`` are those of a
    quadrature. What it then has is said at :class:`KoopmanModel`.

    Shapes:
        Snapshots are rows. ``eigenvalues`` ``(r,)``, ``modes`` ``(r, d)``, ``predict(x0, ts)`` ``(T, d)`` or ``(T, B, d)``.

    Units:
        ``dt`` and ``ts`` in one unit of time; 1 if neither is given.

    Raises:
        InvalidProblemError: the data are not finite, do not fit each other, are fewer than the observables (and no smaller rank
            is asked for) or than the delays are long, times are not even, control follows from the state, or a number is out of
            range; something is asked for before the fit.

    When to take it:
        For nonlinear dynamics, with observables that fit them. :class:`DMD` where the state itself evolves linearly;
        :class:`ResDMD` to know which eigenvalues to believe.

    References:
        Williams, Kevrekidis, Rowley: A data-driven approximation of the Koopman operator. Journal of Nonlinear Science 25,
        2015. Korda, Mezić: Linear predictors for nonlinear dynamical systems. Automatica 93, 2018 (control).

    Example:
        >>> import torch, neuralde as nde
        >>> x = 2 * torch.rand(200, 2, dtype=torch.float64) - 1
        >>> y = torch.stack([0.9 * x[:, 0], 0.5 * x[:, 1] + 0.3 * x[:, 0] ** 2], 1)
        >>> model = nde.koopman.EDMD(nde.koopman.Polynomial(2)).fit(x, y)
        >>> model.eigenvalues.real[:4]  # the constant, 0.9, its square and 0.5; the other two leave the span
        tensor([1.0000, 0.9000, 0.8100, 0.5000], dtype=torch.float64)
        >>> model.residuals[:4].max() < 1e-8
        tensor(True)
    """

    def __init__(self, dictionary: Dictionary | None = None, *, rank: int | None = None, ridge: float = 0.0) -> None:
        self.dictionary = Identity() if dictionary is None else dictionary
        if not isinstance(self.dictionary, Dictionary):
            raise InvalidProblemError(
                f"dictionary: got {shown(dictionary)}; expected a Dictionary, such as Polynomial(3)"
            )
        self.rank = None if rank is None else integer(rank, "rank")
        self.ridge = number(ridge, "ridge", "a number of at least 0", least=0.0)
        self._state_dims = 1 if self.dictionary.window == 1 else 2

    def fit(
        self,
        X: Any,
        Y: Any = None,
        *,
        dt: Any = None,
        ts: Any = None,
        control: Any = None,
        weights: Any = None,
    ) -> EDMD:
        """Fit the operator to data; the model itself."""
        data = snapshots(X, Y, dt, ts, control, self.dictionary.window)
        if data.dt is None:
            raise InvalidProblemError("ts: times are not even; expected even ones (DMD(method='optimized') takes any)")
        self._fit(data, _quadrature(weights, data.x))
        return self

    def eigenfunctions(self, x: Tensor) -> Tensor:
        r"""The values :math:`\varphi_j(x)`, ``(n, r)``, at states ``(n, d)``."""
        self._need_fit()
        observed = self._observables(x)
        return observed.to(self._functionals.dtype) @ self._functionals

    def _observables(self, x: Tensor) -> Tensor:
        """The dictionary at states of the size that was fitted, without gradients."""
        if x.dim() != self._state_dims + 1 or x.shape[1:] != self._shape:
            raise InvalidProblemError(f"x: got {shown(x)}; expected states {('n', *self._shape)}")
        with torch.no_grad():
            return self.dictionary(x)

    def _fit(self, data: Snapshots, root: Tensor | None) -> None:
        self._shape, self._real = data.x.shape[1:], not data.x.is_complex()
        px, py = self._sides(data, root)
        u, s, v = leading_svd(px, self.rank)
        if not len(s):
            raise InvalidProblemError("X: all observables vanish on it; expected data that are not all zero")
        before, after = u, py @ (v / s)
        self.operator, self.input_matrix = self._operator(before, after, data.control, root)
        values, vectors = eigen(self.operator)
        self._set_spectrum(values, data.dt)
        self._vectors, self._functionals = vectors, (v / s).to(vectors.dtype) @ vectors
        self._modes = self._readout(data, root, before.to(vectors.dtype))
        known = after if data.control is None else after - self._effect(data.control, root)
        self._reduced, self._whitening = (before, known), v / s
        functions = before.to(vectors.dtype) @ vectors
        self._residuals = relative(known.to(vectors.dtype) @ vectors - values * functions, functions)

    def _sides(self, data: Snapshots, root: Tensor | None) -> tuple[Tensor, Tensor]:
        """The observables on both sides, ``(n, N)``, in units of the weights."""
        self.dictionary.prepare(data.x, data.y)
        px, py = (points(self._observables(z), "dictionary", at_least=2) for z in (data.x, data.y))
        if len(px) < px.shape[1] and (self.rank is None or self.rank >= len(px)):
            raise InvalidProblemError(
                f"X: got {len(px)} pairs of snapshots for {px.shape[1]} observables; expected at least as many, or a rank "
                "below the number of pairs"
            )
        return weighted(px, root), weighted(py, root)

    def _readout(self, data: Snapshots, root: Tensor | None, before: Tensor) -> Tensor:
        """The modes: the state in terms of the eigenfunctions, by least squares over the earlier snapshots."""
        state = weighted(present(data.x), root).to(before.dtype)
        return torch.linalg.pinv(self._vectors) @ (before.mH @ state)

    def _operator(
        self, before: Tensor, after: Tensor, control: Tensor | None, root: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """The least-squares operator between orthonormal observables and, with control, the matrix of the inputs."""
        size = before.shape[1]
        if control is None:
            return before.mH @ after / (1.0 + self.ridge), None
        inputs = weighted(control, root).to(before.dtype)
        # In units of their own, so that rank does not depend on those of the user.
        units = inputs.norm(dim=0).clamp(min=torch.finfo(inputs.abs().dtype).tiny)
        joint = torch.cat([before, inputs / units], 1)
        smallest = torch.linalg.svdvals(joint)[-1]
        if len(joint) < joint.shape[1] or smallest <= len(joint) ** 0.5 * 1e2 * torch.finfo(smallest.dtype).eps:
            raise InvalidProblemError(
                "control: cannot be told from the state's own dynamics in these data (it is zero, or a function of the "
                "observables); expected inputs that vary by themselves"
            )
        both = least_squares(joint, after, self.ridge)
        return both[:size], both[size:] / units[:, None].to(both.dtype)

    def _effect(self, control: Tensor, root: Tensor | None) -> Tensor:
        assert self.input_matrix is not None
        return weighted(control, root).to(self.input_matrix.dtype) @ self.input_matrix


def weighted(rows: Tensor, root: Tensor | None) -> Tensor:
    """Rows times the roots of the weights."""
    return rows if root is None else root[:, None] * rows


def present(x: Tensor) -> Tensor:
    """The states themselves, the last of each window."""
    return x if x.dim() == 2 else x[:, -1]


def _quadrature(weights: Any, x: Tensor) -> Tensor | None:
    """Roots of the weights, ``(n,)``."""
    if weights is None:
        return None
    points(weights, "weights")
    if weights.shape != (len(x),) or not bool((weights >= 0).all()) or not bool(weights.any()):
        raise InvalidProblemError(f"weights: got {shown(weights)}; expected {len(x)} numbers of at least 0, not all 0")
    root: Tensor = weights.detach().to(x.real.dtype).sqrt()
    return root
