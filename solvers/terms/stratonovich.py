"""Ito equations as Stratonovich ones: the drift that the noise brings along, by derivatives of the diffusion."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.derivative_order import refuse_once
from ..core.scalars import Scalar, spread
from ..errors import InvalidProblemError
from .stochastic import DrivenField, SDEField, noise_shape

_ONCE_ONLY = (
    "diffusion: uses an autograd.Function marked once_differentiable, and BacksolveAdjoint() differentiates it twice to turn "
    'the Ito equation into a Stratonovich one; expected one without it, calculus="stratonovich", or DiscreteAdjoint()'
)


class StratonovichField(DrivenField):
    r"""An Ito equation's driven field: :math:`f - \tfrac12 \sum_j (D g_j) g_j + g W / h`.

    It is differentiable where gradients are enabled, for which the diffusion must be differentiable twice. Of an Ito
    equation solved backwards in time, along the path run backwards, the correction has the other sign.
    """

    def __init__(self, field: SDEField, t0: Scalar, t1: Scalar, direction: Scalar) -> None:
        super().__init__(field, t0, t1)
        self.direction = direction

    def __call__(self, t: Scalar, y: Tensor) -> Tensor:
        """The driven field at one point."""
        g, correction = with_correction(self.field, t, y)
        slope = self.field.add_product(self.field(t, y) - spread(self.direction, y) * correction, g, self.rate)
        return slope if torch.is_grad_enabled() else slope.detach()


def with_correction(field: SDEField, t: Scalar, y: Tensor, signs: Tensor | None = None) -> tuple[Tensor, Tensor]:
    r"""The diffusion and :math:`\tfrac12 \sum_j (D g_j) g_j`, with :math:`g_j` what the j-th noise moves.

    What several noises move is differentiated at once, which is right where none depends on what another moves.
    ``signs``, plus or minus one for each noise, move them differently and change nothing then.
    """
    with torch.enable_grad():
        y = y if y.requires_grad else y.detach().requires_grad_()
        g = field.diffusion(t, y)
        total = torch.zeros_like(y)
        if not g.requires_grad:
            return g, total
        # The derivative along a direction, by differentiating the pull twice: user's functions know backward passes.
        weights = torch.zeros_like(g, requires_grad=True)
        (pulled,) = torch.autograd.grad(g, y, weights, create_graph=True, allow_unused=True)
        if pulled is None or not pulled.requires_grad:
            return g, total
        if signs is not None:  # the look before the solve; each call of it need not look again
            refuse_once([pulled], [], _ONCE_ONLY)
        for column in (None,) if field.elementwise else range(g.shape[-1]):
            move = g if column is None else g[..., column]
            along = move if signs is None else signs * move
            (change,) = torch.autograd.grad(pulled, weights, along, create_graph=True)
            change = change if column is None else change[..., column]
            total = total + (change if signs is None else signs * change)
        return g, 0.5 * total


def check_correctable(field: SDEField, t: Scalar, y: Tensor) -> None:
    """Refuse a diffusion in which one noise's share depends on what another noise of its kind moves."""
    y = y.detach() + 0.1 * (1.0 + y.detach().abs())
    shape = noise_shape(y, field.columns, field.packing)
    shape = shape if field.columns is None else (*shape[:-1], 1)
    made = torch.Generator().manual_seed(0)
    signs = (2.0 * torch.randint(0, 2, shape, generator=made) - 1.0).to(y)
    signed, plain = (with_correction(field, t, y, s)[1].detach() for s in (signs, None))
    if not torch.allclose(plain, signed, rtol=1e-3, atol=1e-5 * plain.abs().max().item()):
        what = "an entry" if field.columns is None else "a row"
        raise InvalidProblemError(
            f"diffusion: {what} of it depends on other entries of the state than those that its noise moves, so that "
            "BacksolveAdjoint() cannot turn the Ito equation into a Stratonovich one; expected "
            'calculus="stratonovich", DiscreteAdjoint(), or noise="general" with all noises as columns'
        )
