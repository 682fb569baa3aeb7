"""Observables that a network learns."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from neuralde.solvers.checks import integer, positive

from .dictionaries import Dictionary


class LearnedDictionary(Dictionary):
    r"""The constant, the state, and observables of a network that is trained for a span which the dynamics do not leave.

    .. math:: \min_\theta \frac{1}{N} \left\| (I - Q Q^*)\, \psi_\theta(Y) R^{-1} \right\|_F^2, \qquad \psi_\theta(X) = Q R

    This is the mean squared residual of observables that are orthonormal over the data. It does not change with the basis
    of the span, so that the network gains nothing by shrinking its outputs. Training happens in the fit.

    Args:
        dim: the size of the state.
        size: how many observables the network gives.
        hidden: the sizes of its hidden layers, with tanh.
        steps: of Adam, with all pairs in each; 0 leaves the network as it is.
        learning_rate: at the start, decreasing to 0 by a half cosine.
        ridge: added to the Gram matrix of the observables, in parts of its mean diagonal.

    Shapes:
        ``(n, dim)`` to ``(n, 1 + dim + size)``.

    Raises:
        InvalidProblemError: a size, a number of steps or a rate is out of range.
        RuntimeError: the states do not have ``dim`` channels (torch's own error).

    When to take it:
        Where polynomials and bumps are too many: several channels, or dynamics on a thin set. It costs a training; residuals on
        other data (``residuals_on``) say whether it was worth it.

    References:
        Li, Dietrich, Bollt, Kevrekidis: Extended dynamic mode decomposition with dictionary learning. Chaos 27, 2017 (the idea;
        the loss there is the error of prediction, with the operator fitted in turns).

    Example:
        >>> import torch, neuralde as nde
        >>> _ = torch.manual_seed(0)
        >>> x = 2 * torch.rand(200, 2) - 1
        >>> y = torch.stack([0.9 * x[:, 0], 0.5 * x[:, 1] + 0.3 * x[:, 0] ** 2], 1)
        >>> observables = nde.koopman.LearnedDictionary(2, 3, steps=300)
        >>> before = nde.koopman.DMD().fit(x, y).residuals.max()
        >>> nde.koopman.EDMD(observables).fit(x, y).residuals[:3].max() < before / 4
        tensor(True)
    """

    def __init__(
        self,
        dim: int,
        size: int,
        hidden: Sequence[int] = (32, 32),
        *,
        steps: int = 1000,
        learning_rate: float = 1e-2,
        ridge: float = 1e-6,
    ) -> None:
        super().__init__()
        sizes = [integer(dim, "dim"), *(integer(width, "hidden") for width in hidden)]
        self.steps, self.learning_rate = integer(steps, "steps", 0), positive(learning_rate, "learning_rate")
        self.ridge = positive(ridge, "ridge")
        layers: list[nn.Module] = []
        for narrow, wide in pairwise(sizes):
            layers += [nn.Linear(narrow, wide), nn.Tanh()]
        self.network = nn.Sequential(*layers, nn.Linear(sizes[-1], integer(size, "size")))

    def forward(self, x: Tensor) -> Tensor:
        """The constant, the state and what the network makes of it."""
        learned = self.network(x.to(next(self.network.parameters())))
        return torch.cat([torch.ones_like(x[:, :1]), x, learned.to(x)], 1)

    def prepare(self, x: Tensor, y: Tensor) -> None:
        """Train the network."""
        optimizer = torch.optim.Adam(self.parameters(), lr=self.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(self.steps, 1))
        with torch.enable_grad():
            for _ in range(self.steps):
                optimizer.zero_grad()
                self.loss(x, y).backward()
                optimizer.step()
                schedule.step()

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """The mean squared residual of orthonormal observables, 0-d; differentiable in the network."""
        before, after = self(x), self(y)
        size = before.shape[1]
        gram = before.mT @ before
        extra = self.ridge * gram.diagonal().mean() * torch.eye(size, dtype=gram.dtype, device=gram.device)
        factor = torch.linalg.cholesky(gram + extra)
        # rows times the inverse of the transposed factor have an orthonormal Gram matrix
        whitened, image = (torch.linalg.solve_triangular(factor.mT, z, upper=True, left=False) for z in (before, after))
        return (image - whitened @ (whitened.mT @ image)).square().sum() / size
