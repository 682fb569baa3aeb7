"""Drift, diffusion and the noise that drives them, as one field on packed states."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..core.packing import Packing, refuse_unusual
from ..core.scalars import Scalar, spread
from ..errors import InvalidProblemError
from ..paths.brownian.path import Increment
from ..paths.increments import Noise
from .along_path import AlongPath
from .base import clamped
from .noisy_first_step import noisy_initial_step
from .ordinary import Field


class SDEField(Field):
    """Drift and diffusion for packed states; calling it gives the drift.

    Args:
        drift: the user's ``drift(t, y, *args)``.
        g: the user's ``diffusion(t, y, *args)``.
        packing: how the state is laid out.
        args: what else both receive.
        columns: how many noises there are behind each entry of the diffusion; None where it is shaped like the state.
        noise: where increments come from.
        bounds: the times between which both are seen, where the interval's ends are discontinuities.
        kind: of the noise, as the problem declares it.
        calculus: likewise.
    """

    family = "SDE"
    random = True
    smooth = False
    chains = False  # a step needs the diffusion at its start as well
    captures = False
    title = "an SDEProblem"
    name = "drift"
    noise: Noise

    def __init__(
        self,
        drift: Callable[..., Any],
        g: Callable[..., Any],
        packing: Packing,
        args: tuple[Any, ...],
        columns: int | None,
        noise: Noise,
        bounds: tuple[Tensor, Tensor] | None = None,
        kind: str = "general",
        calculus: str = "ito",
    ) -> None:
        super().__init__(drift, packing, args)
        self.kind, self.calculus = kind, calculus
        self.g, self.columns, self.noise, self.bounds = g, columns, noise, bounds

    @property
    def functions(self) -> tuple[Callable[..., Any], ...]:
        """Drift and diffusion."""
        return (self.f, self.g)

    @property
    def elementwise(self) -> bool:
        """Whether noise multiplies the diffusion entry by entry: one each, or one for all."""
        return self.columns is None or self.columns == 1

    def __call__(self, t: Scalar, y: Tensor) -> Tensor:
        """The drift at ``(t, y)``."""
        return self.value(self.f, "drift", self.packing.pack, self._seen(t, y), y)

    def diffusion(self, t: Scalar, y: Tensor) -> Tensor:
        """The diffusion, packed: shaped like the state, or with the columns behind where there are several."""
        return self.value(self.g, "diffusion", self._pack_diffusion, self._seen(t, y), y)

    def _seen(self, t: Scalar, y: Tensor) -> Scalar:
        return t if self.bounds is None else clamped(t, y, *self.bounds)

    def _pack_diffusion(self, g: Any, what: str) -> Tensor:
        if self.columns is None:
            return self.packing.pack(g, what)
        packed = pack_columns(self.packing, g, self.columns)
        return packed.squeeze(-1) if self.columns == 1 else packed

    def product(self, g: Tensor, w: Tensor) -> Tensor:
        """What the noise ``w`` does through ``g``."""
        if self.elementwise:
            return g * w
        return (g @ w.to(g.dtype).unsqueeze(-1)).squeeze(-1)

    def add_product(self, y: Tensor, g: Tensor, w: Tensor) -> Tensor:
        """The state moved by what the noise ``w`` does through ``g``."""
        return torch.addcmul(y, g, w) if self.elementwise and w.dtype == y.dtype else y + self.product(g, w)

    def increment(self, t0: Scalar, t1: Scalar) -> Increment:
        """W and H on the interval; no graph leads to them."""
        return self.noise(t0, t1)

    def on(self, t0: Scalar, t1: Scalar) -> DrivenField:
        """The field along the straight line between the path's ends."""
        return DrivenField(self, t0, t1)

    def probe(self, t: Scalar, y: Tensor) -> list[Tensor]:
        """Drift and diffusion."""
        return [self(t, y), self.diffusion(t, y)]

    def rebind(self, args: tuple[Any, ...]) -> SDEField:
        """The same field with other arguments."""
        return self._like(args, self.noise, self.bounds)

    def take(self, rows: Tensor) -> SDEField:
        """The field of some of the samples, with their noise."""
        return self._like(self.args, self.noise.take(rows), self.bounds)

    def one_sided(self, low: Scalar, high: Scalar) -> SDEField:
        """Drift and diffusion seen from inside an interval."""
        return self._like(self.args, self.noise, (low, high))

    def first_step(
        self,
        t: Scalar,
        y: Tensor,
        slope: Tensor,
        direction: Scalar,
        longest: Scalar,
        order: float,
        norm: Callable[[Tensor], Scalar],
    ) -> Scalar:
        """A step size to begin with, for one more call of the drift and two of the diffusion."""
        return noisy_initial_step(self, t, y, slope, direction, longest, order, norm)

    def along(self) -> AlongPath:
        """What evaluates kept steps between their ends."""
        return AlongPath(self.noise, self.elementwise)

    def bridges(self, times: Tensor) -> Callable[..., Tensor]:
        """What the path does at the times, beside its share of a step."""
        return self.noise.bridges(times)

    def second_calls(self, method: Any, counts: Any) -> Any:
        """How often the diffusion was called: with the drift, but in steps, whose counts are known; and to see its shape."""
        in_steps = counts.steps * (method.diffusion_calls - method.drift_calls)
        return counts.nfe - counts.asked + in_steps + counts.looked + self.looks

    def _like(self, args: tuple[Any, ...], noise: Noise, bounds: tuple[Tensor, Tensor] | None) -> SDEField:
        like = SDEField(self.f, self.g, self.packing, args, self.columns, noise, bounds, self.kind, self.calculus)
        like.caller = self.caller
        return like


class DrivenField:
    r"""The field :math:`f + g W / h` on one interval: the equation along the straight line between the path's ends.

    Its solution over the interval is that of the Stratonovich equation up to the path's fluctuation about the line.
    """

    def __init__(self, field: SDEField, t0: Scalar, t1: Scalar) -> None:
        self.field = field
        self.first: Tensor | None = None
        self.w, _ = field.increment(t0, t1)
        span = t1 - t0
        span = span.detach() if isinstance(span, Tensor) else span
        self.rate = self.w / (spread(torch.where(span == 0, 1.0, span), self.w) if isinstance(span, Tensor) else span)

    def __call__(self, t: Scalar, y: Tensor) -> Tensor:
        """The driven field at one point."""
        slope, g = self.field(t, y), self.field.diffusion(t, y)
        self.first = g if self.first is None else self.first
        return self.field.add_product(slope, g, self.rate)


def pack_columns(packing: Packing, g: Any, columns: int) -> Tensor:
    """A diffusion with columns as one tensor, ``(*state, m)``; refuses other shapes, showing both."""
    keep = 1 if packing.per_sample else 0
    flat = []
    for leaf, shape, size in zip(diffusion_leaves(packing, g), packing.shapes, packing.sizes, strict=True):
        refuse_unusual(leaf, "diffusion")
        if tuple(leaf.shape[keep:]) != (*shape[keep:], columns) or leaf.dim() != len(shape) + 1:
            raise InvalidProblemError(
                f"diffusion: got shape {tuple(leaf.shape)}; expected {(*shape, columns)}, the shape of y0 with {columns} "
                "noises behind it"
            )
        if torch.promote_types(leaf.dtype, packing.dtype) != packing.dtype:
            raise InvalidProblemError(f"diffusion: got {leaf.dtype}; expected {packing.dtype}, the dtype of y0")
        leaf = leaf.to(packing.dtype)
        flat.append(leaf if packing.single else leaf.reshape((*leaf.shape[:keep], size, columns)))
    return flat[0] if packing.single else torch.cat(flat, dim=-2)


def diffusion_leaves(packing: Packing, g: Any, what: str = "diffusion") -> list[Tensor]:
    """The leaves of a diffusion in the order of the state's."""
    try:
        leaves = [g] if packing.single else packing.spec.flatten_up_to(g)
    except ValueError:
        leaves = [None]
    if not all(isinstance(leaf, Tensor) for leaf in leaves):
        got = [type(leaf).__name__ for leaf in pytree.tree_leaves(g)]
        raise InvalidProblemError(f"{what}: got {got}; expected tensors in the structure of y0")
    return leaves


def noise_shape(y0: Tensor, columns: int | None, packing: Packing) -> tuple[int, ...]:
    """The shape of one increment of the path that drives a state."""
    if columns is None:
        return tuple(y0.shape)
    lead = tuple(y0.shape[:-1]) if packing.single else tuple(y0.shape[: 1 if packing.per_sample else 0])
    return (*lead, columns)
