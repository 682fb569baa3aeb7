"""Many paths of one stochastic equation, summed up while they are solved."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from neuralde.solvers import BrownianPath, ConstantStep, InvalidProblemError, Method, SDEProblem, Status
from neuralde.solvers.checks import integer
from neuralde.solvers.front.kinds import kind_of
from neuralde.solvers.front.options import SolveOptions
from neuralde.solvers.front.stochastic import stochastic_method
from neuralde.solvers.paths.brownian.arguments import integer_seed
from neuralde.solvers.paths.brownian.random import draw_seed

from .solving import solve

PILOT = 1024
"""How many paths, the first ones, say where the bins lie that count all."""
BINS = 256


class Batch(NamedTuple):
    """What is kept of a batch of paths, each over the save times, ``(T, d)``."""

    first: int
    last: int
    solved: int
    mean: Tensor
    squares: Tensor
    """Squared distances from the mean, summed."""
    least: Tensor
    most: Tensor
    counts: Tensor
    """How many values lie in each bin, ``(T, d, bins)``."""
    failed: tuple[int, ...]


@dataclass(frozen=True)
class EnsembleSolution:
    r"""Moments and quantiles of many paths at the save times.

    Attributes:
        ts: the save times, ``(T,)``.
        edges: the inner ends of the bins that values were counted in, ``(T, d, bins - 1)``.
        seed: of the noise.
        batches: what each batch left, by number.

    Units:
        Moments and quantiles in those of the state, the variance in their square; times in those of ``tspan``.

    Example:
        >>> import torch, neuralde as nde
        >>> ornstein = nde.SDEProblem(lambda t, y: -y, lambda t, y: torch.ones_like(y), torch.zeros(1), (0.0, 1.0))
        >>> halves = [nde.solve_ensemble(ornstein, nde.EulerMaruyama(), paths=2048, first=first, batch=1024, dt=0.02, seed=3)
        ...           for first in (0, 2048)]
        >>> both = halves[0].merge(halves[1])
        >>> both.count, [round(x, 1) for x in both.quantile(torch.tensor([0.1, 0.5, 0.9])).flatten().tolist()]
        (4096, [-0.8, -0.0, 0.8])
    """

    ts: Tensor
    edges: Tensor
    seed: int
    batches: tuple[Batch, ...]

    @property
    def count(self) -> int:
        """How many paths were solved to their end."""
        return sum(batch.solved for batch in self.batches)

    @property
    def failed(self) -> tuple[int, ...]:
        """The numbers of the paths that failed; they are in no moment or quantile."""
        return tuple(number for batch in self.batches for number in batch.failed)

    @property
    def mean(self) -> Tensor:
        """The mean, ``(T, d)``."""
        return self._moments()[0]

    @property
    def variance(self) -> Tensor:
        """The unbiased variance, ``(T, d)``."""
        return self._moments()[1] / max(self.count - 1, 1)

    @property
    def std(self) -> Tensor:
        """The standard deviation, ``(T, d)``."""
        return self.variance.sqrt()

    @property
    def standard_error(self) -> Tensor:
        """Of the mean, ``(T, d)``."""
        return self.std / math.sqrt(max(self.count, 1))

    def quantile(self, q: float | Tensor) -> Tensor:
        r"""The values below which a fraction ``q`` of the paths lies, ``(*q.shape, T, d)``.

        Inside a bin, which holds about 1/256 of the paths, values are taken as spread evenly, so the fraction is off by
        much less than that.
        """
        q = torch.as_tensor(q, dtype=self.edges.dtype, device=self.edges.device)
        if not bool(((q >= 0) & (q <= 1)).all()):
            raise InvalidProblemError(f"q: got {q.tolist()}; expected fractions between 0 and 1")
        least = torch.stack([batch.least for batch in self.batches]).amin(0).unsqueeze(-1)
        most = torch.stack([batch.most for batch in self.batches]).amax(0).unsqueeze(-1)
        ends = torch.cat([least, self.edges.clamp(least, most), most], -1)
        below = torch.stack([batch.counts for batch in self.batches]).sum(0).cumsum(-1).to(ends.dtype)
        below = torch.cat([torch.zeros_like(least), below], -1)
        wanted = (q.reshape(-1) * self.count).expand(*ends.shape[:-1], -1).contiguous()
        right = torch.searchsorted(below.contiguous(), wanted).clamp(1, ends.shape[-1] - 1)
        low, high = below.gather(-1, right - 1), below.gather(-1, right)
        part = ((wanted - low) / (high - low).clamp(min=1.0)).clamp(0.0, 1.0)
        left = ends.gather(-1, right - 1)
        return (left + part * (ends.gather(-1, right) - left)).movedim(-1, 0).reshape(*q.shape, *ends.shape[:-1])

    def merge(self, other: EnsembleSolution) -> EnsembleSolution:
        """Both together, such as what two processes have solved.

        The result has the bits that one call for all paths would give, if every part starts at a multiple of ``batch``.

        Raises:
            InvalidProblemError: the other has another seed, other save times, other bins or some of the same paths.
        """
        for name in ("ts", "edges"):
            if not torch.equal(getattr(self, name), getattr(other, name)):
                raise InvalidProblemError(f"other: got other {name}; expected those of this ensemble, {name}=...")
        if self.seed != other.seed:
            raise InvalidProblemError(f"other: got paths of seed {other.seed}; expected seed {self.seed}")
        batches = sorted((*self.batches, *other.batches), key=lambda batch: batch.first)
        for before, after in pairwise(batches):
            if after.first < before.last:
                raise InvalidProblemError(
                    f"other: got paths {after.first} to {before.last - 1} twice; expected parts without common paths"
                )
        return replace(self, batches=tuple(batches))

    def _moments(self) -> tuple[Tensor, Tensor]:
        """Mean and summed squares, batch by batch (Chan, Golub, LeVeque, 1979)."""
        count, mean, squares = 0, torch.zeros_like(self.batches[0].mean), torch.zeros_like(self.batches[0].mean)
        for batch in self.batches:
            total = count + batch.solved
            if batch.solved:
                gap = batch.mean - mean
                mean = mean + gap * (batch.solved / total)
                squares = squares + batch.squares + gap.square() * (count * batch.solved / total)
            count = total
        return mean, squares


def solve_ensemble(
    problem: SDEProblem,
    solver: Method | None = None,
    *,
    paths: int,
    seed: int | None = None,
    first: int = 0,
    batch: int = 1024,
    saveat: Any = None,
    dt: float | None = None,
    starts: Callable[[Tensor], Tensor] | None = None,
    edges: Tensor | None = None,
    **options: Any,
) -> EnsembleSolution:
    r"""Solve many paths of one SDE and keep their moments and quantiles, not the paths.

    Path number ``k`` is driven by the noise of sample ``k`` of the seed: it is the same alone, in any batch and in any
    process. With a fixed ``dt`` a batch steps together; otherwise each path has steps of its own. Batches are cut at
    multiples of ``batch``. Save times need not be ends of steps: between these a path follows its noise.

    Quantiles come from counts in 256 bins whose ends are quantiles of the first 1024 paths (of all, if there are fewer).
    A call for other paths solves these too, unless it is given the ``edges`` of an earlier one.

    Args:
        problem: its state, ``(d,)``, is that of one path; drift and diffusion are called with ``(batch, d)``.
        solver: as in :func:`neuralde.solve`.
        paths: how many.
        seed: of the noise; None draws one from torch's global generator.
        first: the number of the first path.
        batch: how many paths are solved at once.
        saveat: times at which to sum up, ``(T,)``; None: the end only.
        dt: the step, for methods and controllers with fixed steps, and without ``solver`` and ``controller``.
        starts: start values by number, ``starts(numbers) -> (len(numbers), d)``; None: all start at ``problem.y0``.
        edges: the bins of another part of the same ensemble.
        options: further options of :func:`neuralde.solve`, such as ``rtol`` or ``max_steps``.

    Returns:
        An :class:`EnsembleSolution`; :meth:`EnsembleSolution.merge` puts parts together.

    Raises:
        InvalidProblemError: an argument is wrong; the message names it.

    When to take it:
        For moments and quantiles of more paths than fit into memory, or over several processes. :func:`neuralde.solve`
        with a batch of states where the paths themselves, or gradients, are wanted.

    Example:
        >>> import torch, neuralde as nde
        >>> growth = nde.SDEProblem(lambda t, y: 0.5 * y, lambda t, y: 0.2 * y, torch.ones(1), (0.0, 1.0))
        >>> ensemble = nde.solve_ensemble(growth, nde.ItoMilstein(), paths=2000, dt=0.05, seed=1)
        >>> bool((ensemble.mean - 1.6487).abs() < 4 * ensemble.standard_error + 0.02), ensemble.mean.shape
        (True, torch.Size([1, 1]))
    """
    if not getattr(problem, "random", False):
        raise InvalidProblemError(f"problem: got {type(problem).__name__}; expected an SDEProblem")
    y0 = problem.y0
    if not isinstance(y0, Tensor) or y0.dim() != 1:
        got = tuple(y0.shape) if isinstance(y0, Tensor) else type(y0).__name__
        raise InvalidProblemError(
            f"problem: got a state {got}; expected an SDEProblem whose y0 is (d,), one path's state"
        )
    paths, batch, first = integer(paths, "paths"), integer(batch, "batch"), integer(first, "first", 0)
    for name in ("path", "per_sample", "dense", "trace", "compact", "throw", "regularizers", "events"):
        if name in options:
            raise InvalidProblemError(f"{name}: got {options[name]!r}; an ensemble sets it or has none")
    seed = int(draw_seed(torch.empty(()))) if seed is None else integer_seed(seed)
    run = _Run(problem, solver, seed, saveat, dt, starts, options)
    pilot: list[tuple[int, int, Tensor]] = []
    if edges is None:
        pilot = [(a, b, run.values(a, b)) for a, b in _cuts(0, min(PILOT, first + paths), batch)]
        edges = _edges(torch.cat([ys for *_, ys in pilot], 1))
    known = {(a, b): ys for a, b, ys in pilot}
    parts = [_summed(a, b, known.pop((a, b), None), run, edges) for a, b in _cuts(first, first + paths, batch)]
    return EnsembleSolution(run.ts, edges, seed, tuple(parts))


def _cuts(first: int, last: int, batch: int) -> list[tuple[int, int]]:
    """The range in pieces that end at multiples of ``batch``."""
    ends = [first, *range((first // batch + 1) * batch, last, batch), last]
    return list(pairwise(ends))


class _Run:
    """How batches of an ensemble are solved."""

    def __init__(
        self,
        problem: SDEProblem,
        solver: Method | None,
        seed: int,
        saveat: Any,
        dt: float | None,
        starts: Callable[[Tensor], Tensor] | None,
        options: dict[str, Any],
    ) -> None:
        self.problem, self.seed, self.dt, self.starts = problem, seed, dt, starts
        y0 = problem.y0
        method = stochastic_method(problem, solver)
        g = problem.diffusion(torch.as_tensor(problem.tspan[0], dtype=y0.dtype), y0.unsqueeze(0), *problem.args)
        self.noises = g.shape[-1]
        self.levy_area = method.levy_area
        adaptive = method.bound(problem.noise, None if g.dim() == 2 else self.noises).adaptive
        controller = kind_of(problem).controller(solver, SolveOptions(dt=dt, controller=options.get("controller")))
        self.together = isinstance(controller, ConstantStep) or (controller is None and not adaptive)
        self.ts = torch.as_tensor([problem.tspan[1]] if saveat is None else saveat, dtype=torch.float64)
        if self.ts.dim() != 1 or not len(self.ts):
            raise InvalidProblemError(f"saveat: got shape {tuple(self.ts.shape)}; expected times (T,)")
        self.options = dict(options, solver=solver, dt=dt, saveat=self.ts, throw=False)

    def values(self, first: int, last: int) -> Tensor:
        """The states at the save times, ``(T, last - first, d)``, NaN for paths that failed."""
        numbers = torch.arange(first, last, device=self.problem.y0.device)
        y0 = self.problem.y0.expand(len(numbers), -1) if self.starts is None else self.starts(numbers)
        if tuple(y0.shape) != (len(numbers), *self.problem.y0.shape):
            wanted = (len(numbers), *self.problem.y0.shape)
            raise InvalidProblemError(f"starts: got {tuple(y0.shape)} for {len(numbers)} paths; expected {wanted}")
        path = BrownianPath(
            (len(numbers), self.noises),
            self.seed,
            *self.problem.tspan,
            self.levy_area,
            dt=self.dt if self.together else None,
            samples=numbers,
            dtype=y0.dtype,
            device=y0.device,
        )
        problem = replace(self.problem, y0=y0)
        sol = solve(problem, path=path, per_sample=not self.together, **self.options)
        if self.together and sol.status != Status.SUCCESS:
            # One path has stopped all: each on its own clock, the others go on.
            sol = solve(problem, path=path, per_sample=True, **self.options)
        lost = torch.as_tensor(sol.status, device=y0.device).expand(len(numbers)) != int(Status.SUCCESS)
        return torch.where(lost.unsqueeze(-1), torch.nan, sol.ys)


def _edges(values: Tensor) -> Tensor:
    """Quantiles of the pilot, so that each bin has as many of its values as any other."""
    with torch.no_grad():
        whole = values.detach().movedim(1, -1)
        whole = whole[..., ~whole.isnan().any(0).any(0)]
        if not whole.shape[-1]:
            raise InvalidProblemError("paths: all of the first ones failed; solve one alone to see why")
        return torch.quantile(
            whole, torch.linspace(0, 1, BINS + 1, dtype=whole.dtype, device=whole.device)[1:-1], -1
        ).movedim(0, -1)


def _summed(first: int, last: int, values: Tensor | None, run: _Run, edges: Tensor) -> Batch:
    """A batch's moments and counts."""
    values = run.values(first, last) if values is None else values
    lost = values.isnan().any(0).any(-1)
    failed: Sequence[int] = (first + lost.nonzero().reshape(-1)).tolist()
    values = values[:, ~lost] if failed else values
    count = values.shape[1]
    mean = _sum(values) / max(count, 1)
    with torch.no_grad():
        inner = values.detach().movedim(1, -1).contiguous()
        place = torch.searchsorted(edges.contiguous(), inner)
        counts = torch.zeros((*edges.shape[:-1], edges.shape[-1] + 1), dtype=torch.int64, device=edges.device)
        counts.scatter_add_(-1, place, torch.ones_like(place))
        least = inner.amin(-1) if count else torch.full_like(mean, torch.inf)
        most = inner.amax(-1) if count else torch.full_like(mean, -torch.inf)
    squares = _sum((values - mean.unsqueeze(1)).square())
    return Batch(first, last, count, mean, squares, least, most, counts, tuple(failed))


def _sum(values: Tensor) -> Tensor:
    """The sum over the paths, in an order that does not depend on the number of threads."""
    if not values.shape[1]:
        return values.sum(1)
    while values.shape[1] > 1:
        half = values.shape[1] // 2
        pairs = values[:, :half] + values[:, half : 2 * half]
        values = torch.cat([pairs, values[:, 2 * half :]], 1)
    return values[:, 0]
