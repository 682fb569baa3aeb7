"""The dynamics of a latent sequence: its recurrent prior, the operator fitted to it, and what its spectrum should be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from neuralde.solvers import InvalidProblemError
from neuralde.solvers.checks import number, shown

from ..koopman import fit_operator

KINDS = ("unit", "stable")


class Draw(NamedTuple):
    """A latent sequence from the prior, with the means and log-variances it was drawn with, all ``(B, T, k)``."""

    z: Tensor
    mean: Tensor
    logvar: Tensor


class SequencePrior(nn.Module):
    """Normal distributions, each given by a recurrent cell that has read the draws before it."""

    def __init__(self, latent: int, hidden: int) -> None:
        super().__init__()
        self.hidden, self.latent = hidden, latent
        self.cell = nn.GRUCell(latent, hidden)
        self.mean, self.logvar = nn.Linear(hidden, latent), nn.Linear(hidden, latent)

    def forward(self, batch: int, length: int, generator: torch.Generator | None = None) -> Draw:
        """So many sequences."""
        weight = self.mean.weight
        z = weight.new_zeros(batch, self.latent)
        h = weight.new_zeros(batch, self.hidden)
        noise = torch.randn(length, batch, self.latent, dtype=weight.dtype, device=weight.device, generator=generator)
        # both heads in one product
        heads = torch.cat([self.mean.weight, self.logvar.weight]), torch.cat([self.mean.bias, self.logvar.bias])
        rows = []
        for one in noise:
            h = self.cell(z, h)
            mean, logvar = nn.functional.linear(h, *heads).chunk(2, -1)
            z = mean + (0.5 * logvar).exp() * one
            rows.append((z, mean, logvar))
        return Draw(*(torch.stack(column, 1) for column in zip(*rows, strict=True)))


def divergence(mean: Tensor, logvar: Tensor, prior: Draw) -> Tensor:
    """KL(N(mean, var) || N(prior)), summed over all but the first dimension: ``(B,)``."""
    ratio = (logvar - prior.logvar).exp() + (mean - prior.mean).square() * (-prior.logvar).exp()
    return 0.5 * (prior.logvar - logvar + ratio - 1.0).sum((1, 2))


def linear_misfit(z: Tensor, operator: Tensor, rollout: int) -> Tensor:
    """How far so many powers of the operator miss the sequences, each in parts of the variance of what they should give."""
    total, moved = z.new_zeros(()), z
    for step in range(1, rollout + 1):
        moved = moved[:, :-1] @ operator
        wanted = z[:, step:]
        total = total + (moved - wanted).square().mean() / (wanted - wanted.mean((0, 1))).square().mean().clamp(
            min=1e-12
        )
    return total


def fitted(z: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """The operator between successive states of all sequences, and the covariance of what it leaves.

    The ridge is in parts of the mean square of a coordinate, so that the fit does not depend on the sequences' units.
    """
    z0, z1 = z[:, :-1].flatten(0, 1), z[:, 1:].flatten(0, 1)
    scale = float(z0.detach().square().sum()) / z0.shape[1]
    operator = fit_operator(z0, z1, ridge * scale)
    rest = (z1 - z0 @ operator).detach()
    return operator, rest.mT @ rest / len(rest)


class Spectrum:
    r"""What the eigenvalues of a latent operator should be, as a penalty on the operator.

    Latent coordinates are learnt, so that an operator may be asked for in the coordinates in which the wish is plainest, and no
    eigenvalue has to be differentiated: modulus 1 is :math:`A A^\top = 1`, modulus at most 1 is that no singular value is above
    it, and periods are rotations of the first pairs of coordinates.
    """

    def __init__(self, spectrum: Any, latent: int) -> None:
        self.kind: str | None = spectrum if isinstance(spectrum, str) else None
        self.periods: tuple[float, ...] = ()
        expected = f"None, 'unit', 'stable', or at most {latent // 2} periods of more than two steps each"
        if self.kind is not None and self.kind not in KINDS:
            raise InvalidProblemError(f"spectrum: got {spectrum!r}; expected {expected}")
        if spectrum is not None and self.kind is None:
            if not isinstance(spectrum, Sequence) or not 0 < len(spectrum) <= latent // 2:
                raise InvalidProblemError(f"spectrum: got {shown(spectrum)}; expected {expected}")
            self.periods = tuple(number(p, "spectrum", expected, above=2.0) for p in spectrum)

    def penalty(self, operator: Tensor) -> Tensor:
        """0 where the operator is as it should be; differentiable everywhere, with finite gradients."""
        size = len(operator)
        if self.kind == "unit":
            return (operator @ operator.mT - torch.eye(size).to(operator)).square().sum() / size
        if self.kind == "stable":
            return (torch.linalg.svdvals(operator) - 1.0).clamp(min=0.0).square().sum() / size
        if self.periods:
            turns = torch.block_diag(*(_rotation(2.0 * math.pi / p) for p in self.periods)).to(operator)
            first = len(turns)
            wanted = torch.zeros_like(operator)
            wanted[:first, :first] = turns
            off = operator - wanted
            return (off[:first].square().sum() + off[first:, :first].square().sum()) / (2 * first)
        return operator.new_zeros(())


def _rotation(angle: float) -> Tensor:
    c, s = math.cos(angle), math.sin(angle)
    return torch.tensor([[c, s], [-s, c]], dtype=torch.float64)
