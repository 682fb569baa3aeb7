"""Observables: functions of the state in whose span the Koopman operator is sought."""

from __future__ import annotations

from abc import ABC, abstractmethod
from itertools import combinations_with_replacement, product
from typing import Any

import torch
from torch import Tensor, nn

from neuralde.solvers import InvalidProblemError
from neuralde.solvers.checks import integer, positive, shown

from .least_squares import points


class Dictionary(nn.Module, ABC):
    r"""Observables :math:`\psi(x)`, N numbers for each state.

    A dictionary of one's own is a subclass with ``forward``: states ``(n, d)`` to ``(n, N)``, differentiable or not. What
    depends on the data, such as centres, is chosen in :meth:`prepare`, which a fit calls first.

    When to take it:
        As the base of observables that the ready ones do not have: invariants of the system, say, or its energy.

    Example:
        >>> import torch, neuralde as nde
        >>> class Energy(nde.koopman.Dictionary):
        ...     def forward(self, x):
        ...         return torch.cat([x, x.square().sum(1, keepdim=True)], 1)
        >>> turn = torch.tensor([[0.6, 0.8], [-0.8, 0.6]]).double()
        >>> x = torch.randn(50, 2).double()
        >>> nde.koopman.EDMD(Energy()).fit(x, x @ turn).eigenvalues.abs()
        tensor([1.0000, 1.0000, 1.0000], dtype=torch.float64)
    """

    window: int = 1
    """How many states in a row make one."""

    def prepare(self, x: Tensor, y: Tensor) -> None:
        """Choose what depends on the data; nothing by default."""
        del x, y

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """The observables ``(n, N)`` at states ``(n, d)``."""


class Identity(Dictionary):
    """The state itself, and nothing else."""

    def forward(self, x: Tensor) -> Tensor:
        """The states."""
        return x


class Polynomial(Dictionary):
    r"""Monomials of the state, :math:`x_1^{p_1} \cdots x_d^{p_d}` with :math:`p_1 + \dots + p_d \le` degree, the constant too.

    Args:
        degree: the largest sum of powers.

    Shapes:
        ``(n, d)`` to ``(n, N)`` with N the binomial coefficient of ``d + degree`` over ``d``, by degree.

    Raises:
        InvalidProblemError: ``degree`` is no positive int.

    When to take it:
        For polynomial dynamics near the origin and few channels, in units in which the data are near 1.

    References:
        Williams, Kevrekidis, Rowley: A data-driven approximation of the Koopman operator. Journal of Nonlinear Science 25,
        2015.

    Example:
        >>> import torch, neuralde as nde
        >>> nde.koopman.Polynomial(2)(torch.tensor([[2.0, 3.0]]))
        tensor([[1., 2., 3., 4., 6., 9.]])
    """

    def __init__(self, degree: int) -> None:
        super().__init__()
        self.degree = integer(degree, "degree")

    def forward(self, x: Tensor) -> Tensor:
        """The monomials, by degree."""
        powers = [torch.ones_like(x[:, 0])]
        for total in range(1, self.degree + 1):
            powers += [x[:, list(which)].prod(1) for which in combinations_with_replacement(range(x.shape[1]), total)]
        return torch.stack(powers, 1)


class Fourier(Dictionary):
    r"""Waves on a box with periodic sides, :math:`e^{2 \pi i\, k \cdot x / L}` with :math:`|k_j| \le` order.

    Args:
        order: the largest wave number in each channel.
        period: L, one for all channels.

    Shapes:
        ``(n, d)`` to complex ``(n, (2 order + 1)^d)``.

    Units:
        ``period`` in those of the state.

    Raises:
        InvalidProblemError: ``order`` is no positive int, or ``period`` is not positive.

    When to take it:
        For angles: rotations and maps of the circle or torus, with the default period :math:`2\pi`.

    References:
        Colbrook, Townsend: Rigorous data-driven computation of spectral properties of Koopman operators for dynamical systems.
        Communications on Pure and Applied Mathematics 77, 2024.

    Example:
        >>> import torch, neuralde as nde
        >>> angles = torch.rand(100, 1, dtype=torch.float64) * 6.28
        >>> model = nde.koopman.EDMD(nde.koopman.Fourier(2)).fit(angles, angles + 0.5)
        >>> model.continuous_eigenvalues.imag.sort().values.round(decimals=9) + 0.0
        tensor([-1.0000, -0.5000,  0.0000,  0.5000,  1.0000], dtype=torch.float64)
    """

    def __init__(self, order: int, period: float = 2.0 * torch.pi) -> None:
        super().__init__()
        self.order, self.period = integer(order, "order"), positive(period, "period")

    def forward(self, x: Tensor) -> Tensor:
        """The waves."""
        numbers = range(-self.order, self.order + 1)
        waves = torch.tensor(list(product(numbers, repeat=x.shape[1])), dtype=x.dtype, device=x.device)
        phases = 2.0 * torch.pi / self.period * x @ waves.mT
        return torch.polar(torch.ones_like(phases), phases)


class RadialBasis(Dictionary):
    r"""Bumps round centres, beside the constant and the state: :math:`1, x, k(|x - c_1|), \dots, k(|x - c_N|)`.

    Gaussians :math:`k(r) = e^{-r^2 / 2 w^2}`, or thin plates :math:`k(r) = (r/w)^2 \log (r/w)`.

    Args:
        centers: ``(N, d)``, or how many to take from the data, each as far as possible from those before.
        width: w; None for the mean distance of a centre to its nearest one.
        kernel: ``"gaussian"`` or ``"thinplate"``.

    Shapes:
        ``(n, d)`` to ``(n, 1 + d + N)``.

    Units:
        ``width`` in those of the state.

    Raises:
        InvalidProblemError: ``centers`` are no finite points or positive int, ``width`` is not positive, ``kernel`` is unknown; at
            the fit, there are fewer different states than centres, or called before there are any.

    When to take it:
        Where nothing is known of good observables, and the state has few channels.

    References:
        Williams, Kevrekidis, Rowley: A data-driven approximation of the Koopman operator. Journal of Nonlinear Science 25,
        2015.

    Example:
        >>> import torch, neuralde as nde
        >>> bumps = nde.koopman.RadialBasis(torch.zeros(1, 2), width=1.0)
        >>> bumps(torch.tensor([[0.0, 2.0]]))
        tensor([[1.0000, 0.0000, 2.0000, 0.1353]])
    """

    centers: Tensor | None

    def __init__(self, centers: Any, width: float | None = None, kernel: str = "gaussian") -> None:
        super().__init__()
        if kernel not in ("gaussian", "thinplate"):
            raise InvalidProblemError(f"kernel: got {kernel!r}; expected 'gaussian' or 'thinplate'")
        given = isinstance(centers, Tensor) and centers.dim() > 0
        self.count = len(points(centers, "centers", at_least=2)) if given else integer(centers, "centers")
        if given and (centers.dim() != 2 or centers.is_complex()):
            raise InvalidProblemError(f"centers: got {shown(centers)}; expected real points (N, d)")
        self.given = given
        self.width = None if width is None else positive(width, "width")
        self.kernel = kernel
        self.register_buffer("centers", centers.detach() if given else None)

    def prepare(self, x: Tensor, y: Tensor) -> None:
        """Choose the centres among the states."""
        del y
        if not self.given:
            self.centers = _spread(x, self.count)

    def forward(self, x: Tensor) -> Tensor:
        """The constant, the state and the bumps."""
        if self.centers is None:
            raise InvalidProblemError("centers: are chosen from the data; expected a fit first, or centres given")
        centers = self.centers.to(x)
        width = self.width or _nearest(centers)
        ratio = torch.cdist(x, centers) / width
        bumps = (-0.5 * ratio**2).exp() if self.kernel == "gaussian" else torch.special.xlogy(ratio**2, ratio)
        return torch.cat([torch.ones_like(x[:, :1]), x, bumps], 1)


def _nearest(centers: Tensor) -> float:
    """The mean distance of a centre to its nearest one; 1 for a single centre."""
    if len(centers) < 2:
        return 1.0
    distances = torch.cdist(centers, centers).fill_diagonal_(torch.inf)
    return float(distances.min(1).values.mean())


def _spread(x: Tensor, count: int) -> Tensor:
    """So many rows, the first nearest to the mean, each of the others farthest from those before."""
    found = [int((x - x.mean(0)).norm(dim=1).argmin())]
    distance = torch.full_like(x[:, 0], torch.inf)
    while len(found) < count:
        distance = torch.minimum(distance, (x - x[found[-1]]).norm(dim=1))
        found.append(int(distance.argmax()))
        if not bool(distance[found[-1]] > 0):
            raise InvalidProblemError(
                f"centers: got {count}; expected at most {len(found) - 1}, the different states of the data"
            )
    return x[found]


class Delay(Dictionary):
    r"""The last states in a row as one, :math:`(x_{n-w+1}, \dots, x_n)`, and observables of these.

    Args:
        delays: w, how many states.
        dictionary: observables of the joined states ``(n, w d)``; None for these themselves (Hankel DMD).

    Shapes:
        ``(n, w, d)`` to ``(n, N)``. A fit makes the windows of a trajectory; pairs must be windows already.

    Raises:
        InvalidProblemError: ``delays`` is no int of at least 2, ``dictionary`` is none or has delays itself; at the fit, the
            trajectory is not longer than the delays.

    When to take it:
        Where less than the state is observed, or more frequencies are present than channels.

    References:
        Arbabi, Mezić: Ergodic theory, dynamic mode decomposition, and computation of spectral properties of the Koopman operator.
        SIAM Journal on Applied Dynamical Systems 16, 2017.

    Example:
        >>> import torch, neuralde as nde
        >>> t = torch.arange(60, dtype=torch.float64)[:, None]
        >>> x = torch.cos(0.3 * t) + torch.cos(0.7 * t)  # one channel, four exponents
        >>> model = nde.koopman.EDMD(nde.koopman.Delay(4)).fit(x)
        >>> model.continuous_eigenvalues.imag.sort().values
        tensor([-0.7000, -0.3000,  0.3000,  0.7000], dtype=torch.float64)
        >>> model.predict(x[:4], [5.0]).sub(x[8]).abs().max() < 1e-8
        tensor(True)
    """

    def __init__(self, delays: int, dictionary: Dictionary | None = None) -> None:
        super().__init__()
        self.window = integer(delays, "delays", 2)
        self.dictionary = Identity() if dictionary is None else dictionary
        if not isinstance(self.dictionary, Dictionary) or self.dictionary.window > 1:
            raise InvalidProblemError(f"dictionary: got {shown(dictionary)}; expected a Dictionary without delays")

    def prepare(self, x: Tensor, y: Tensor) -> None:
        """Choose what depends on the data of the inner dictionary."""
        self.dictionary.prepare(x.flatten(1), y.flatten(1))

    def forward(self, x: Tensor) -> Tensor:
        """The observables of the joined states."""
        joined: Tensor = self.dictionary(x.flatten(1))
        return joined
