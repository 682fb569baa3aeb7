r"""A state that filtered white noise drives: the filter's linear part is solved in closed form.

.. math:: dY_k = (-\gamma_k Y_k + u)\, dt + dW, \qquad dx = b\, dt + s \circ dZ, \qquad Z = \sum_k \omega_k Y_k
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor

from ..core.packing import Packing, refuse_unusual
from ..core.scalars import Scalar, real_dtype
from ..errors import InvalidProblemError
from ..paths.increments import Noise
from .base import clamped
from .exponentials import Decays, decays
from .noisy_first_step import noisy_initial_step
from .ordinary import Field

if TYPE_CHECKING:
    from ..problems.semilinear import ConstantWeights


class Parts(NamedTuple):
    """The leaves of the state."""

    x: Tensor
    filter: Tensor
    """Y: the shape of x, and the rates behind it."""
    energy: Tensor | None
    """What collects the control's energy, if there is a third leaf."""


class SemilinearField(Field):
    """Drift, diffusion, control and weights for packed states; calling it gives the slope of everything but the noise.

    Args:
        functions: the user's ``drift``, ``diffusion``, ``weights`` and, where there is one, ``control``.
        rates: the rates of the filter, ``(K,)``, float64.
        packing: how the state is laid out.
        args: what else the functions receive.
        noise: where the integrals of the noise come from.
        kind: of the noise, ``"additive"`` where the diffusion does not depend on the state.
        bounds: the times between which the functions are seen, where the interval's ends are discontinuities.
    """

    family = "semilinear SDE"
    random = True
    smooth = False
    chains = False
    captures = False
    title = "a SemilinearSDEProblem"
    name = "drift"
    noise: Noise

    def __init__(
        self,
        functions: Sequence[Callable[..., Any]],
        rates: Tensor,
        packing: Packing,
        args: tuple[Any, ...],
        noise: Noise,
        kind: str,
        bounds: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        super().__init__(functions[0], packing, args)
        self.parts, self.rates, self.noise, self.kind, self.bounds = tuple(functions), rates, noise, kind, bounds
        self._decays: dict[Any, Decays] = {}

    @property
    def functions(self) -> tuple[Callable[..., Any], ...]:
        """Drift, diffusion, weights and control."""
        return self.parts

    def split(self, y: Tensor, lead: int = 0) -> Parts:
        """The leaves of a packed state, with ``lead`` dimensions of rows in front."""
        packing = self.packing
        if y.is_contiguous():  # the leaves have one dtype here, so that views are all there is to it
            cut = 1 if packing.per_sample else 0
            front, pieces = y.shape[: lead + cut], y.split(packing.sizes, dim=-1)
            leaves = [x.view(front + shape[cut:]) for x, shape in zip(pieces, packing.shapes, strict=True)]
        else:
            leaves = packing.unpack(y, lead=lead)
        return Parts(leaves[0], leaves[1], leaves[2] if len(leaves) > 2 else None)

    def join(self, x: Tensor, filter: Tensor, energy: Tensor | None, lead: int = 0) -> Tensor:
        """The packed state of leaves."""
        keep = lead + (1 if self.packing.per_sample else 0)
        leaves = [leaf.reshape(*leaf.shape[:keep], -1) for leaf in (x, filter, energy) if leaf is not None]
        return torch.cat(leaves, dim=-1)

    def drift(self, t: Scalar, y: Tensor) -> Tensor:
        """b, like x."""
        return self._called(0, "drift", t, y)

    def diffusion(self, t: Scalar, y: Tensor) -> Tensor:
        """s, like x."""
        return self._called(1, "diffusion", t, y)

    def weights(self, t: Scalar, y: Tensor) -> Tensor:
        """The weights at a time, ``(K,)``, or a row for each sample."""
        if not self.varying:
            value = cast("ConstantWeights", self.parts[2]).value
            here = value.dtype is self.packing.dtype and value.device == self.rates.device
            return value if here else value.to(self.rates.device, self.packing.dtype)
        return self.caller(self.parts[2], "weights", self._pack_weights, self.packing, self._seen(t, y), y, ())

    def control(self, t: Scalar, y: Tensor) -> Tensor | None:
        """u, like x; None where there is none."""
        return self._called(3, "control", t, y) if len(self.parts) > 3 else None

    def __call__(self, t: Scalar, y: Tensor) -> Tensor:
        """The slope of the state without noise, at the rates that the filter has."""
        _, filter, energy = self.split(y)
        b, u = self.drift(t, y), self.control(t, y)
        pull = -self.rates.to(filter.dtype) * filter
        pull = pull if u is None else pull + u.unsqueeze(-1)
        return self.join(b, pull, None if energy is None else self.power(u, energy))

    def power(self, u: Tensor | None, energy: Tensor) -> Tensor:
        """Half the squared control, summed over the dimensions that the third leaf does not have."""
        if u is None:
            return torch.zeros_like(energy)
        return 0.5 * u.square().reshape(*energy.shape, -1).sum(-1)

    def passed(self, length: Scalar, like: Tensor) -> Decays:
        """What a length of time does to the filter; the rates are last, in front of them the dimensions of ``like``."""
        if isinstance(length, Tensor):
            return decays(
                self.rates, length.reshape(*length.shape, *[1] * (like.dim() - length.dim())), real_dtype(like)
            )
        # Of steps of one length, whose clock rounds each a little differently, one.
        key = (float(f"{length:.13g}"), like.dtype)
        if key not in self._decays:
            if len(self._decays) > 32:
                self._decays.clear()
            time = torch.tensor(key[0], dtype=torch.float64, device=self.rates.device)
            self._decays[key] = decays(self.rates, time, like.dtype)
        return self._decays[key]

    def probe(self, t: Scalar, y: Tensor) -> list[Tensor]:
        """The slope, diffusion and weights."""
        return [self(t, y), self.diffusion(t, y), self.weights(t, y)]

    def rebind(self, args: tuple[Any, ...]) -> SemilinearField:
        """The same field with other arguments."""
        return self._like(args, self.noise, self.bounds)

    def take(self, rows: Tensor) -> SemilinearField:
        """The field of some of the samples, with their noise."""
        return self._like(self.args, self.noise.take(rows), self.bounds)

    def one_sided(self, low: Scalar, high: Scalar) -> SemilinearField:
        """The functions seen from inside an interval."""
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
        """A step size to begin with, as drift and noise of x ask for it: the filter asks for none."""
        x = self.join(self.split(slope).x, *self._quiet(y))
        return noisy_initial_step(cast(Any, _OfState(self)), t, y, x, direction, longest, order, norm)

    def _quiet(self, y: Tensor) -> tuple[Tensor, Tensor | None]:
        """Zeros like the filter, and like what collects energy."""
        _, filter, energy = self.split(y)
        return torch.zeros_like(filter), None if energy is None else torch.zeros_like(energy)

    def along(self) -> AlongFilter:
        """What evaluates kept steps between their ends."""
        return AlongFilter(self)

    def bridges(self, times: Tensor) -> Callable[..., Tensor]:
        """What the noise does to the filter from a step's start to the times."""
        return self.noise.bridges(times)

    def second_calls(self, method: Any, counts: Any) -> Any:
        """How often the diffusion was called."""
        del method
        return counts.nfe - counts.asked + counts.looked + self.looks

    def inside(
        self, start: Parts, pieces: Sequence[Parts], t0: Scalar, length: Scalar, passed: Scalar, xi: Tensor, y: Tensor
    ) -> Parts:
        r"""The state a time ``passed`` after the start of a step: the filter exactly, x along it.

        .. math:: x(t_0 + \tau) = x_0 + \theta (x_1 - x_0) + s_0 \bigl(Z(\tau) - \theta Z(h)\bigr)

        Args:
            start: the state at the start.
            pieces: its move over the step; the diffusion and the control at the start; of x the move of Z, and the
                change of the control.
            t0: the time at the start.
            length: that of the step, 1 for one without length.
            passed: a number, or a tensor whose dimensions lead those of the leaves.
            xi: what the noise has done to the filter.
            y: a packed state, for the precision of times.
        """
        move, first, change = pieces
        theta = passed / length
        made = self.passed(passed, start.x)
        filter = made.decay * start.filter + made.first * first.filter
        filter = filter + theta_over(theta, xi) * made.second * change.filter + xi
        part = theta_over(theta, start.x)
        z = self.moved(t0, passed, start.filter, filter, y)
        x = start.x + part * move.x + first.x * (z - part * change.x)
        if start.energy is None or move.energy is None:
            return Parts(x, filter, None)
        return Parts(x, filter, start.energy + theta_over(theta, start.energy) * move.energy)

    def moved(self, t0: Scalar, passed: Scalar, before: Tensor, after: Tensor, y: Tensor) -> Tensor:
        """The move of Z over a part of a step that starts at ``t0``."""
        w = self.weights(t0, y)
        if not self.varying:
            return (after - before) @ w
        end = self.weights(t0 + passed, y)
        return (after * _of_lanes(end, after)).sum(-1) - (before * _of_lanes(w, before)).sum(-1)

    @property
    def varying(self) -> bool:
        """Whether the weights change along time."""
        return bool(getattr(self.parts[2], "varies", True))

    def _called(self, place: int, name: str, t: Scalar, y: Tensor) -> Tensor:
        return self.caller(self.parts[place], name, self._pack, self.packing, self._seen(t, y), y, self.args)

    def _seen(self, t: Scalar, y: Tensor) -> Scalar:
        return t if self.bounds is None else clamped(t, y, *self.bounds)

    def _pack(self, value: Any, what: str) -> Tensor:
        """A function's value, like x."""
        shape, dtype = self.packing.shapes[0], self.packing.dtype
        if not isinstance(value, Tensor):
            raise InvalidProblemError(f"{what}: got {type(value).__name__}; expected a tensor like x, {shape}")
        refuse_unusual(value, what)
        keep = 1 if self.packing.per_sample else 0
        if tuple(value.shape[keep:]) != shape[keep:] or value.dim() != len(shape):
            raise InvalidProblemError(f"{what}: got shape {tuple(value.shape)}; expected {shape}, that of x")
        if torch.promote_types(value.dtype, dtype) != dtype:
            raise InvalidProblemError(f"{what}: got {value.dtype}; expected {dtype}, the dtype of y0")
        return value if value.dtype is dtype else value.to(dtype)

    def _pack_weights(self, value: Any, what: str) -> Tensor:
        if not isinstance(value, Tensor) or value.shape[-1:] != self.rates.shape:
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise InvalidProblemError(f"{what}: got {got}; expected a tensor ({len(self.rates)},), one for each rate")
        return value.to(self.rates.device, self.packing.dtype)

    def _like(self, args: tuple[Any, ...], noise: Noise, bounds: tuple[Tensor, Tensor] | None) -> SemilinearField:
        like = SemilinearField(self.parts, self.rates, self.packing, args, noise, self.kind, bounds)
        like.caller, like._decays = self.caller, self._decays
        return like


class AlongFilter:
    """A kept step at any time inside it.

    Args:
        field: the field, with its noise.
    """

    def __init__(self, field: SemilinearField) -> None:
        self.field = field

    def refuse_slope(self) -> None:
        """Refuse to be asked for a derivative."""
        raise InvalidProblemError(
            "derivative: the solution of an SDE has none, because a path driven by noise has no slope; expected sol(t)"
        )

    def rows(self, pieces: Tensor, start: Tensor, end: Tensor, t: Tensor) -> Tensor:
        """The states at each of the times; ``pieces`` is ``(pieces, T, ...)``, the state at the start first."""
        if t.requires_grad:
            raise InvalidProblemError(
                "t: requires grad; expected constant times, since the solution of an SDE has no slope"
            )
        rows = [self._at(pieces[:, row], start[row].detach(), end[row].detach(), t[row]) for row in range(len(t))]
        return torch.stack(rows) if rows else pieces[0]

    def _at(self, pieces: Tensor, start: Tensor, end: Tensor, t: Tensor) -> Tensor:
        inside = torch.minimum(torch.maximum(t, start), end)
        length = torch.where(end == start, 1.0, end - start)
        ends = (start, inside, length) if t.dim() else (start.item(), inside.item(), length.item())
        y0, *moves = pieces.unbind(0)
        xi = self.field.noise.inside(ends[0], ends[1])
        parts = [self.field.split(piece) for piece in moves]
        passed = ends[1] - ends[0]
        return self.field.join(*self.field.inside(self.field.split(y0), parts, ends[0], ends[2], passed, xi, y0))


class _OfState:
    """Drift and diffusion as the search for a first step asks for them: of x alone, packed, on the shortest time scale."""

    elementwise = True

    def __init__(self, field: SemilinearField) -> None:
        self.field = field

    def __call__(self, t: Scalar, y: Tensor) -> Tensor:
        return self.field.join(self.field.drift(t, y), *self.field._quiet(y))

    def diffusion(self, t: Scalar, y: Tensor) -> Tensor:
        """What white noise does to x."""
        x = self.field.diffusion(t, y)
        total = _of_lanes(self.field.weights(t, y).sum(-1, keepdim=True), x.unsqueeze(-1)).squeeze(-1)
        return self.field.join(x * total, *self.field._quiet(y))


def _of_lanes(w: Tensor, like: Tensor) -> Tensor:
    """Weights of each lane, ``(B, ..., K)``, in front of the dimensions between."""
    return w if w.dim() == 1 else w.reshape(w.shape[0], *[1] * (like.dim() - 2), w.shape[-1])


def theta_over(x: Scalar, like: Tensor) -> Scalar:
    """Numbers of rows and lanes in front of the other dimensions of a tensor."""
    if not isinstance(x, Tensor):
        return x
    return x.to(real_dtype(like)).reshape(*x.shape, *[1] * (like.dim() - x.dim()))
