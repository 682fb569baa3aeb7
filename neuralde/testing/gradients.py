"""Is this gradient right? An adjoint against finite differences and direct differentiation, on a given problem."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from neuralde.adjoints import Adjoint, DirectAdjoint, DiscreteAdjoint
from neuralde.solvers import InvalidProblemError, Method, ODEProblem, SDEProblem, Solution
from neuralde.solvers.checks import integer
from neuralde.solvers.core.tolerances import loosest, scaled
from neuralde.solvers.front.kinds import kind_of

from .frozen_steps import Input, Subject

# How far an exact gradient may be from finite differences, relative to the largest derivative of the same input: the
# differences' own error in float64; in float32 the rounding of a few hundred operations over a step of eps^(1/5).
_EXACT = {True: 1e-6, False: 1e-2}
# A continuous adjoint's error in units of the tolerance, beyond which it has to prove that it converges.
_CONTINUOUS = 100.0
# Numbers of an input that are checked one by one.
_EACH = 6


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One input's derivatives, along its coordinates if it is small, else along random directions.

    Args:
        name: the input: ``y0``, ``args[0]``, ``t0``, ``t1``, a parameter's name.
        size: how many numbers it has.
        difference: the largest distance from finite differences.
        relative: that in units of the largest derivative of this input.
        direct: the largest distance from :class:`DirectAdjoint`, absolute.
        verdict: ``"right"``; ``"right to the tolerance"`` or to the step size (continuous adjoints); ``"wrong"`` and why;
            ``"unsure"``, where the differences themselves are not (a field with corners); ``"not checked"`` and why.
    """

    name: str
    size: int
    difference: float
    relative: float
    direct: float
    verdict: str


@dataclass(frozen=True, kw_only=True)
class GradientCheck:
    """What :func:`check_gradients` found; printed, it is a table."""

    adjoint: str
    rows: tuple[Compared, ...]
    refused: str | None = None
    """The error with which the adjoint gave no gradient at all."""

    @property
    def ok(self) -> bool:
        """Whether there is a gradient and no part of it is wrong."""
        return self.refused is None and not self.wrong

    @property
    def wrong(self) -> tuple[Compared, ...]:
        """The inputs whose gradient is wrong."""
        return tuple(row for row in self.rows if row.verdict.startswith("wrong"))

    def __str__(self) -> str:
        if self.refused is not None:
            return f"{self.adjoint} gives no gradient: {self.refused}"
        head = ("input", "numbers", "off by", "relative", "from direct", "verdict")
        lines = [head] + [
            (row.name, str(row.size), f"{row.difference:.1e}", f"{row.relative:.1e}", f"{row.direct:.1e}", row.verdict)
            for row in self.rows
        ]
        widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
        body = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
        ]
        return "\n".join([f"{self.adjoint} against finite differences of the frozen steps", *body])


def check_gradients(
    problem: ODEProblem | SDEProblem,
    solver: Method | None = None,
    adjoint: Adjoint | None = None,
    *,
    rtol: Any = 1e-3,
    atol: Any = 1e-6,
    loss: Callable[[Solution], Tensor] | None = None,
    directions: int = 3,
    seed: int = 0,
    show: bool = True,
    **options: Any,
) -> GradientCheck:
    r"""Compare an adjoint's gradients with finite differences and with :class:`DirectAdjoint`, on a given problem.

    The accepted steps of one solve are kept, and the loss is differenced along coordinates, or random directions, of the
    initial state, every tensor in ``args``, the ends of the interval, and every tensor that requires grad in the field,
    the events and the regularizers:

    .. math:: \frac{dL}{dx} \cdot d = \frac{8 (L_h - L_{-h}) - (L_{2h} - L_{-2h})}{12 h} + O(h^4),
              \qquad L_h = L(x + h d)

    An exact adjoint agrees to ``1e-6`` of the largest derivative of the same input in float64, to ``1e-2`` in float32;
    where the differences' own error, estimated with a second step, is larger, to ten times that. A continuous adjoint
    differs by about the tolerance, or else its distance from direct differentiation must shrink to a fifth at a hundredth
    of the tolerance. Where direct differentiation differs from the differences as well, the fault is in the field:
    something in it is hidden from autograd. A field that is not a function of its arguments (dropout) is found first.

    An SDE is solved along one path, that of ``seed`` or a ``path`` among the options; its ends are not checked, since the
    solution has no derivative in time. A continuous adjoint with steps of a ``dt`` must come nearer at a hundredth of it.

    Cost: six solves for every direction. The tensors are moved and put back; nothing else is changed.

    Args:
        problem: what to solve.
        solver: the method; :class:`Tsit5` if None.
        adjoint: what to check; :class:`DiscreteAdjoint` if None.
        rtol: relative tolerance of the solve.
        atol: absolute tolerance of the solve.
        loss: a number from the solution; a fixed random combination of the states it has saved if None.
        directions: how many random directions for an input of more than six numbers.
        seed: of the directions, and of an SDE's noise.
        show: print the table.
        options: what else ``solve`` takes: ``saveat``, ``events``, ``per_sample``, ``regularizers``, ``dt``, ...

    Returns:
        A :class:`GradientCheck`: ``ok``, ``wrong``, ``rows``.

    Raises:
        InvalidProblemError: an argument is wrong.
        SolveError: the solve failed.

    When to take it:
        Once for every new field, event or loss, in float64 and before the training: it finds a tensor that is hidden
        from autograd, a field that is no function of its arguments, and a continuous adjoint whose tolerance is too
        loose.

    Example:
        >>> import torch, neuralde as nde
        >>> k = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
        >>> y0 = torch.ones(2, dtype=torch.float64)
        >>> good = nde.ODEProblem(lambda t, y: -k * y * torch.cos(t), y0, (0.0, 1.0))
        >>> [row.name for row in nde.testing.check_gradients(good, show=False).rows]
        ['y0', 'k', 't0', 't1']
        >>> nde.testing.check_gradients(good, show=False).ok
        True
        >>> bad = nde.ODEProblem(lambda t, y: -k * y.detach() * torch.cos(t), y0, (0.0, 1.0))
        >>> [row.name for row in nde.testing.check_gradients(bad, show=False).wrong]
        ['y0', 'k', 't0', 't1']
    """
    kind_of(problem)
    for name in ("throw", "progress", "adjoint"):
        if name in options:
            raise InvalidProblemError(f"{name}: got {options[name]!r}; expected no such argument in a check")
    directions = integer(directions, "directions")
    adjoint = DiscreteAdjoint() if adjoint is None else adjoint
    if not isinstance(adjoint, Adjoint):
        raise InvalidProblemError(
            f"adjoint: got {type(adjoint).__name__}; expected an instance, such as DiscreteAdjoint()"
        )
    options = options | {"solver": solver, "rtol": rtol, "atol": atol}
    if problem.random and options.get("path") is None:
        options["seed"] = seed
    subject = Subject(problem, options, _combination(seed) if loss is None else loss, seed, adjoint)
    result = _compare(subject, adjoint, directions, seed)
    if show:
        print(result)
    return result


def _compare(subject: Subject, adjoint: Adjoint, directions: int, seed: int) -> GradientCheck:
    if subject.varies():
        return GradientCheck(
            adjoint=adjoint.name,
            rows=(),
            refused="the field gives other values each time (dropout, or something that it keeps); expected a function of "
            "(t, y, *args)",
        )
    try:
        _, grads = subject.gradients(adjoint=adjoint)
    except (InvalidProblemError, RuntimeError) as error:
        return GradientCheck(adjoint=adjoint.name, rows=(), refused=str(error))
    _, direct = subject.gradients(**subject.frozen)
    closer = None
    if not adjoint.capabilities.exact:
        finer = {name: scaled(subject.options[name], 0.01) for name in subject.accuracy}
        pairs = [subject.gradients(adjoint=kind, **finer)[1] for kind in (adjoint, DirectAdjoint())]
        closer = [_size(a - b) for a, b in zip(*pairs, strict=True)]
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for place, one in enumerate(subject.inputs):
        if one.tensor.numel():
            judge = _Judge(subject, one, _directions(one.tensor, directions, generator))
            rows.append(judge.row(grads[place], direct[place], None if closer is None else closer[place]))
    return GradientCheck(adjoint=adjoint.name, rows=tuple(rows))


class _Judge:
    """The verdict on one input."""

    def __init__(self, subject: Subject, one: Input, along: list[Tensor]) -> None:
        self.subject, self.one, self.along = subject, one, along

    def row(self, grad: Tensor, direct: Tensor, closer: float | None) -> Compared:
        """Compare the derivatives along every direction."""
        h = self.subject.step_for(self.one)
        try:
            wanted, errors = zip(*(self.subject.difference(self.one.tensor, d, h) for d in self.along), strict=True)
        except InvalidProblemError as refusal:
            return self._made(math.nan, math.nan, grad, direct, f"not checked: {refusal}")
        scale = max(map(abs, wanted))
        noise = 50 * self.subject.eps * max(abs(self.subject.baseline), 1e-300) / h
        expected = _EXACT[self.subject.eps < 1e-10]
        error = max(errors)
        allowed = expected * scale + 10 * error + noise
        off, off_direct = (
            max(abs(_dot(g, d) - w) for d, w in zip(self.along, wanted, strict=True)) for g in (grad, direct)
        )
        relative = off / scale if scale else off / allowed * expected if off > allowed else 0.0
        if not math.isfinite(off) or (off > allowed and off_direct > allowed):
            verdict = "wrong, as DirectAdjoint is: the field hides something from autograd (detach, .data, numpy)"
        elif closer is not None:
            verdict = self._continuous(_size(grad - direct), closer, _size(direct), scale)
        elif off > allowed:
            verdict = "wrong"
        else:
            verdict = "unsure: the differences do not converge (a corner?)" if error > 1e-2 * scale + noise else "right"
        return self._made(off, relative, grad, direct, verdict)

    def _continuous(self, off: float, closer: float, size: float, scale: float) -> str:
        """A continuous adjoint's: near enough, or nearer at a smaller tolerance."""
        options = self.subject.options
        nearer = closer < off / 5
        if "dt" in self.subject.accuracy:
            return "right to the step size" if nearer or not off else "wrong: does not converge"
        tolerance = loosest(options["rtol"]) * max(size, scale) + loosest(options["atol"])
        if off <= _CONTINUOUS * tolerance:
            return "right to the tolerance"
        return "right to the tolerance, with a large factor" if nearer else "wrong: does not converge"

    def _made(self, off: float, relative: float, grad: Tensor, direct: Tensor, verdict: str) -> Compared:
        return Compared(
            name=self.one.name,
            size=self.one.tensor.numel(),
            difference=off,
            relative=relative,
            direct=_size(grad - direct),
            verdict=verdict,
        )


def _size(x: Tensor) -> float:
    return x.abs().max().item() if x.numel() else 0.0


def _dot(g: Tensor, d: Tensor) -> float:
    return (g.conj() * d).real.to(torch.float64).sum().item()


def _directions(x: Tensor, count: int, generator: torch.Generator) -> list[Tensor]:
    """Every coordinate of a small tensor, else random directions whose largest entry is 1."""
    if x.numel() <= _EACH and not x.is_complex():
        eye = torch.eye(x.numel(), dtype=x.dtype, device=x.device)
        return [row.reshape(x.shape) for row in eye]
    drawn = [torch.randn(x.shape, generator=generator, dtype=x.dtype) for _ in range(count)]
    return [(d / d.abs().max()).to(x.device) for d in drawn]


def _combination(seed: int) -> Callable[[Solution], Tensor]:
    """A fixed random combination of the saved states; rows that a failed or ended sample has not reached do not count."""

    def loss(sol: Solution) -> Tensor:
        generator, total = torch.Generator().manual_seed(seed), torch.zeros((), dtype=torch.float64)
        for leaf in pytree.tree_leaves((sol.ys, sol.y1)):
            weights = torch.randn(leaf.shape, generator=generator, dtype=leaf.dtype).to(leaf.device)
            part = (torch.where(leaf.isnan(), 0.0, leaf) * weights.conj()).real
            total = total.to(leaf.device) + part.to(torch.float64).sum()
        return total

    return loss
