"""A step of a stochastic equation between its ends: what :mod:`neuralde.solvers.terms.along_path` evaluates there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...core.scalars import Scalar, differentiated, leading, spread
from ...errors import InvalidProblemError
from ...terms.along_path import combined
from ...terms.stochastic import SDEField
from ..base import Step

if TYPE_CHECKING:
    from ...output.saving import Request, SavePlan


class PathStep(Step):
    """A step along a path: what has no estimate says so, and a quadrature sees a straight line."""

    follows_path = True

    @property
    def error(self) -> Tensor:
        """No estimate, unless the method has one."""
        raise InvalidProblemError("solver: this method has no error estimate")

    @property
    def stiffness(self) -> Tensor:
        """No estimate, unless the method has one."""
        raise InvalidProblemError("solver: this method has no stiffness estimate")

    def polynomial(self) -> list[Tensor]:
        """The straight line between the ends, which a quadrature over the step takes; saved rows follow the path."""
        return [self.y - self.y0]


class Between(PathStep):
    """A step along a path, which knows what noise does between its ends."""

    w: Tensor
    """What the path does on the step."""
    _pieces: list[Tensor] | None = None

    @property
    def driven_by(self) -> SDEField:
        """Drift, diffusion and the noise."""
        field: SDEField = self.field
        return field

    def moved_by_noise(self) -> Tensor:
        """The diffusion near the start, from where the path moves the state: at hand, or called."""
        self.looked += 1
        return self.driven_by.diffusion(self.t0, self.y0)

    def bent_by_noise(self) -> list[Tensor]:
        """How that changes along each noise, :math:`(D g_k) g_j` with j outside and k inside; empty where not needed."""
        return []

    def pieces(self) -> list[Tensor]:
        """The move to the end, what each noise moves, and how that bends."""
        if self._pieces is None:
            g = self.moved_by_noise()
            columns = [g] if self.driven_by.elementwise else list(g.unbind(-1))
            self._pieces = [self.y - self.y0, *columns, *self.bent_by_noise()]
        return self._pieces

    def between(self, theta: Scalar, bridge: Tensor, lanes: Tensor | None = None) -> Tensor:
        """The solution at relative times, from what the path does there beside its share of the whole."""
        own = (self.y0, *self.pieces()), self.w
        (y0, *pieces), w = own if lanes is None else ([x[lanes] for x in own[0]], self.w[lanes])
        return combined(y0, pieces, theta, bridge, w, self.driven_by.elementwise)

    def emit(self, request: Request, save: SavePlan) -> Tensor:
        """The states that a request asks of the step, ``(n, *lane)``, along the path."""
        moves = differentiated(self.t0) or differentiated(self.t1)
        noise, times = self.driven_by.noise, save.times
        assert request.theta is not None
        if request.lanes is None:
            assert isinstance(times, list)
            rows = []
            for row, place in zip(request.rows, request.theta, strict=True):
                if place == 1.0 and not moves:
                    rows.append(self.y)
                    continue
                theta = (times[row] - self.t0) / (self.t1 - self.t0) if moves else place
                rows.append(
                    self.between(theta, noise.inside(self.t0, times[row]) - leading(theta, 0, self.w.dtype) * self.w)
                )
            return torch.stack(rows)
        assert isinstance(times, Tensor)
        assert isinstance(request.theta, Tensor)
        lanes, theta = request.lanes, request.theta
        at_end = theta == 1.0
        at = times[request.rows, request.samples]
        if moves:
            start, end = self.t0[lanes], self.t1[lanes]
            theta, at_end = (at - start) / (end - start), torch.zeros_like(at_end)
        w = self.w[lanes]
        bridge = noise.inside(self.t0, at, lanes) - leading(theta, w.dim(), w.dtype) * w
        value = self.between(theta, bridge, lanes)
        return torch.where(spread(at_end, value), self.y[lanes], value)
