"""What a continuous adjoint integrates beside the cotangent: the running costs, and the parameters' share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import pairwise
from math import factorial, prod

import numpy as np
import torch
from torch import Tensor

from neuralde.solvers.core.norms import rms
from neuralde.solvers.core.scalars import Scalar, select, spread
from neuralde.solvers.errors import ConvergenceError
from neuralde.solvers.methods.base import VectorField
from neuralde.solvers.output.dense import DenseOutput
from neuralde.solvers.stepping.attempt import Carry, Plan, Trial
from neuralde.solvers.stepping.quadrature import PathIntegral, gauss_points


class Integrands:
    r"""The running costs in the loss, each with the cotangent of its integral.

    They add :math:`g \, \partial \ell / \partial y` to the backward equation, :math:`g \, \partial \ell / \partial \theta`
    to the parameters' integral, and :math:`g \, \ell` to what a moving end of the interval does.

    Args:
        plan: the forward plan, with the reductions.
        cotangents: of the integrals, in their order.
    """

    def __init__(self, plan: Plan, cotangents: Sequence[Tensor | None]) -> None:
        integrals = [cost for cost in plan.costs if isinstance(cost, PathIntegral)]
        self.field, self.per_sample = plan.field, plan.per_sample
        self.pairs = [(cost, g) for cost, g in zip(integrals, cotangents, strict=True) if g is not None]

    def size(self, like: Tensor) -> Tensor:
        """How large the cotangents are, for each lane."""
        out = like.real.new_zeros(like.shape[:1] if self.per_sample else ())
        for _, g in self.pairs:
            out = torch.maximum(out, g.abs() if self.per_sample else g.abs().max())
        return out

    def beside(
        self, t: Scalar, y: Tensor, slope: Tensor, a: Tensor, share: Scalar = 1.0
    ) -> tuple[list[Tensor], list[Tensor]]:
        """What is pulled back at one time, and the cotangents: of the field, and a share of each integrand's."""
        pairs = [(slope, a)]
        for cost, g in self.pairs:
            value = cost.density(self.field, t, y)
            pairs.append((value, (g * share).to(value.dtype).expand_as(value)))
        pairs = [(x, g) for x, g in pairs if x.requires_grad]
        return [x for x, _ in pairs], [g for _, g in pairs]

    def at_end(self, t: Scalar, y: Tensor, along: Tensor) -> Tensor:
        """How the loss changes when this end of the interval moves, from how it does by the state alone."""
        for cost, g in self.pairs:
            with torch.no_grad():
                rate = (g * cost.density(self.field, t, y)).to(torch.float64)
            along = along + (rate if self.per_sample else rate.sum())
        return along


class Quadrature:
    r"""The parameters' integral, added up over the accepted steps of the backward solve at Gauss points.

    The cotangent's equation can be far easier than the field, and its steps far longer than the parameters' share
    :math:`g = a^\top \partial f / \partial \theta` bears. So a step is cut at the ends of the forward steps inside it
    (every second one, so that steps as long as the forward ones stay whole), and with error control each piece is looked
    at: how fast the Legendre coefficients of :math:`g` at the points fall tells what the rule leaves out, at no further
    call. Where that exceeds the tolerance, in the first piece, and behind a piece that was halved, the piece is
    compared with its halves, which are halved again until they agree with theirs to the tolerance. What is still hidden:
    a share that appears only between the points of such a piece, as a short pulse does.

    Args:
        plan: the backward plan, with the field itself.
        parameters: what to differentiate with respect to.
        integrands: the running costs.
        path: the forward solve's dense output, if there is one.
        who: the adjoint's name, for errors.
    """

    def __init__(
        self,
        plan: Plan,
        parameters: Sequence[Tensor],
        integrands: Integrands,
        path: DenseOutput | None = None,
        who: str = "",
    ) -> None:
        self.plan, self.parameters, self.integrands = plan, list(parameters), integrands
        self.path, self.who = path, who
        self.total: list[Tensor | None] = [None] * len(self.parameters)
        # Fixed steps are the user's own, and the noise of an SDE is no function that smaller pieces would show.
        self.checked = plan.controller.adaptive and plan.field.smooth
        # n points integrate degree 2n - 1 exactly, so the quadrature is no less accurate than the steps.
        self.points = gauss_points(max(plan.method.order, _LEAST_ORDER) if self.checked else plan.method.order)
        self.wary = True

    def add(
        self,
        plan: Plan,
        carry: Carry,
        trial: Trial,
        read: Callable[[Plan, Carry, Trial, Scalar], tuple[Tensor, Tensor]],
        allowed: tuple[Scalar, Tensor],
        field: VectorField | None = None,
    ) -> None:
        """Add an accepted step's share; ``field`` is that of this step, where it is not the plan's.

        ``read`` gives state and cotangent at a relative time of the step; of lanes that did not move, anything. It is
        passed, not kept: a sweep that refers to itself would keep its tensors until the garbage collector comes.
        ``allowed`` are the relative and the absolute tolerance of the integral.
        """
        if not self.parameters or not trial.moved:
            return
        length = (trial.t - trial.t_end) * -plan.direction * self.plan.direction

        def each(low: Scalar, high: Scalar) -> Iterator[Sequence[Tensor | None]]:
            for node, weight in self.points:
                theta = low + node * (high - low)
                y, a = read(plan, carry, trial, theta)
                share = select(trial.accept, weight * (high - low) * length, 0.0)
                yield self._pulled(field or self.plan.field, trial.t + theta * (trial.t_end - trial.t), y, a, share)

        knots = [] if self.path is None else self.path.ends_between(trial.t, trial.t_end)[1::2]
        for low, high in pairwise([0.0, *knots, 1.0]):
            if self.checked:
                self._add_checked(each, low, high, allowed)
            else:
                for grads in each(low, high):
                    self._add(grads)

    def _add(self, grads: Sequence[Tensor | None]) -> None:
        for index, grad in enumerate(grads):
            if grad is not None:
                total = self.total[index]
                self.total[index] = grad if total is None else total + grad

    def _add_checked(self, each: Each, low: Scalar, high: Scalar, allowed: tuple[Scalar, Tensor]) -> None:
        """Add a piece's share, halved until it agrees with its halves."""
        rows = self._rows(each, low, high)
        sums = _sums(rows)
        limits = self._limits(rows, sums, allowed)
        if not self.wary and not _exceeds([None if x is None else left_out(x) for x in rows], limits):
            self._add(sums)
            return
        del rows
        self.wary, pieces, count = False, [(low, high, sums, 0)], 0
        while pieces:
            low, high, sums, depth = pieces.pop()
            middle = (low + high) / 2
            ends = ((middle, high), (low, middle))
            halves = [(one, two, _sums(self._rows(each, one, two)), depth + 1) for one, two in ends]
            both = [_plus(x, y) for x, y in zip(halves[0][2], halves[1][2], strict=True)]
            count += 1
            if depth == _DEEPEST or not _exceeds([_gained(x, y) for x, y in zip(both, sums, strict=True)], limits):
                self._add(both)
                continue
            if count > _MOST_HALVINGS:
                raise ConvergenceError(
                    f"the backward solve of {self.who}: the parameters' integral over one step does not converge in "
                    f"{_MOST_HALVINGS} halvings. Their share of the field oscillates too fast, or jumps too often, for "
                    "this tolerance: loosen rtol and atol, or take DiscreteAdjoint"
                )
            self.wary = True
            pieces += halves

    def _rows(self, each: Each, low: Scalar, high: Scalar) -> list[Tensor | None]:
        """The weighted gradients at the points, in front of each parameter's dimensions."""
        columns = zip(*each(low, high), strict=True)
        return [
            None
            if all(x is None for x in column)
            else torch.stack([torch.zeros_like(p) if x is None else x for x in column])
            for column, p in zip(columns, self.parameters, strict=True)
        ]

    def _limits(
        self, rows: list[Tensor | None], sums: list[Tensor | None], allowed: tuple[Scalar, Tensor]
    ) -> list[Tensor]:
        """The error that a piece may add to each parameter's integral, as a root mean square: no less than rounding."""
        rtol, atol = allowed
        limits = []
        for row, value, total in zip(rows, sums, self.total, strict=True):
            limit, after = atol, _plus(total, value)
            if after is not None:
                size = rms(after).new_zeros(()) if row is None else torch.stack([rms(x) for x in row]).sum()
                limit = limit + rtol * torch.maximum(size, rms(after)) + _ROUNDING * torch.finfo(after.dtype).eps * size
            limits.append(limit)
        return limits

    def _pulled(self, field: VectorField, t: Scalar, y: Tensor, a: Tensor, share: Scalar) -> Sequence[Tensor | None]:
        with torch.enable_grad():
            slope = field(t, y)
            outputs, cotangents = self.integrands.beside(t, y, slope, a * spread(share, a), share)
        if not outputs:
            return [None] * len(self.parameters)
        return torch.autograd.grad(outputs, self.parameters, cotangents, allow_unused=True)


Each = Callable[[Scalar, Scalar], Iterator[Sequence[Tensor | None]]]
_LEAST_ORDER = 5  # three points: fewer do not show how fast coefficients fall
_MOST_HALVINGS = 10_000
_DEEPEST = 40  # next to nothing of the step, at a jump where the tolerance is 0
_ROUNDING = 16.0
_SAFETY = 10.0
# Halves are twice as good as the whole at a jump (the share of a ReLU's weights), 64 times where it is smooth.
_GAIN = 8.0


@cache
def _legendre(count: int) -> tuple[list[list[float]], float]:
    r"""Of Gauss points: the matrix from weighted values to Legendre coefficients, and the factor of :func:`left_out`.

    With :math:`f = e^{z x}` the coefficients are :math:`c_k \approx z^k / (2k - 1)!!`, and the rule leaves out
    :math:`\frac{2^{2n} n!^4}{(2n + 1) (2n)!^3} z^{2n}` of the mean.
    """
    nodes = [2.0 * node - 1.0 for node, _ in gauss_points(2 * count)]
    matrix = ((2 * np.arange(count) + 1) * np.polynomial.legendre.legvander(nodes, count - 1)).T
    rest = 2.0 ** (2 * count) * factorial(count) ** 4 / ((2 * count + 1) * factorial(2 * count) ** 3)
    return matrix.tolist(), _SAFETY * rest * prod(range(1, 2 * count - 2, 2))


def left_out(rows: Tensor) -> Tensor:
    r"""What n Gauss points leave out, as a root mean square, from the weighted values at them ``(n, ...)``.

    The last three Legendre coefficients give :math:`z`, the rate at which those of :math:`e^{z x}` would fall so slowly,
    and the rule's remainder at that rate is 10 times for safety :math:`c_{n-1} z^{n+1}` times a constant;
    but no more than the last two coefficients, whose ratio is chance where they are rounding or the solve's own error.
    """
    count = len(rows)
    matrix, constant = _legendre(count)
    flat = rows.reshape(count, -1)
    coefficients = rms(torch.tensor(matrix, dtype=rows.dtype, device=rows.device) @ flat, per_sample=True)
    third, second, first = coefficients[-3:].to(torch.float64).unbind()
    rate = torch.maximum((2 * count - 3) * first / second, (2 * count - 5) * second / third)
    return torch.where(first > 0, torch.minimum(constant * first * rate ** (count + 1), first + second), 0.0)


def _sums(rows: list[Tensor | None]) -> list[Tensor | None]:
    return [None if x is None else x.sum(0) for x in rows]


def _plus(x: Tensor | None, y: Tensor | None) -> Tensor | None:
    return y if x is None else x if y is None else x + y


def _gained(halves: Tensor | None, whole: Tensor | None) -> Tensor | None:
    """The error of two halves, from how far they are from the whole."""
    gap = _plus(halves, None if whole is None else -whole)
    return None if gap is None else rms(gap) / _GAIN


def _exceeds(errors: Sequence[Tensor | None], limits: Sequence[Tensor]) -> bool:
    """Whether any error is larger than its limit, in one look; smaller pieces do not make finite what is not."""
    pairs = zip(errors, limits, strict=True)
    beyond = [error > limit for error, limit in pairs if error is not None]
    return bool(torch.stack(beyond).any()) if beyond else False
