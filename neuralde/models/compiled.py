"""A model's solve as one compiled graph."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from neuralde.adjoints import Adjoint
from neuralde.solvers import BrownianPath, InvalidProblemError, ODEProblem, SDEProblem, Solution, Stats, Status
from neuralde.solvers.checks import as_number
from neuralde.solvers.core.packing import Packing
from neuralde.solvers.core.scalars import as_clock, real_dtype
from neuralde.solvers.front.kinds import kind_of
from neuralde.solvers.front.options import checked_dt
from neuralde.solvers.front.stochastic import check_one_noise, noise_columns
from neuralde.solvers.paths.brownian.arguments import checked_seed
from neuralde.solvers.paths.increments import check_path_compiles, checked_path, seed_of
from neuralde.solvers.terms.stochastic import noise_shape

from ..listeners import announce
from ..solving import solve

_GROWING = ("dense", "trace", "compact", "progress", "events", "driver")
"""Options that keep something whose size a graph cannot know."""


def check_compile(compile: bool, adjoint: Adjoint | None, options: dict[str, Any]) -> None:
    """Refuse at once what the first call could not compile."""
    growing = [name for name in _GROWING if options.get(name)]
    growing += ["saveat"] if isinstance(options.get("saveat"), str) else []
    growing += ["adjoint"] if adjoint is not None and not adjoint.capabilities.compiles else []
    if compile and growing:
        got = adjoint if growing[0] == "adjoint" else options[growing[0]]
        raise InvalidProblemError(f"{growing[0]}: got {got!r} with compile=True; expected an option that compiles")


def solve_compiled(
    model: nn.Module,
    problem: ODEProblem | SDEProblem,
    *,
    rtol: Any,
    atol: Any,
    dt: Any = None,
    saveat: Any = None,
    seed: Any = None,
    path: Any = None,
    throw: bool = True,
    **options: Any,
) -> Solution:
    """:func:`neuralde.solve` as the model's own graph; numbers go in as tensors, so that new values need no new graph."""
    per_sample = bool(options.get("per_sample"))
    solver = options.pop("solver")
    solver = kind_of(problem).method(problem, solver)
    if problem.random:
        seed = _checked_noise(problem, solver, seed, path, per_sample, first=model not in _GRAPHS)
    step = checked_dt(dt)
    single = isinstance(problem.y0, Tensor)
    numbers = [_as_tensors(x, single) for x in (*problem.tspan, rtol, atol, step)]
    times = saveat if saveat is None or isinstance(saveat, Tensor) else as_clock(saveat)
    number = None if seed is None else checked_seed(seed, torch.device("cpu"))
    out, counts, drawn = _graph_of(model)(*_parts(problem), numbers, times, number, path, solver, options)
    ts, ys, y1, status, costs, end = out
    if drawn is not None:
        shape, area, gridded = drawn
        like = Packing(problem.y0, per_sample).pack(problem.y0, "y0")
        cell = step if gridded else None
        path = BrownianPath(shape, seed, *problem.tspan, area, dt=cell, dtype=real_dtype(like), device=like.device)
    status = status if per_sample else Status(int(status))
    solution = Solution(ts, ys, y1, Stats(**counts), status, tuple(costs), seed=seed, path=path, _end=end)
    announce(problem, solver, solution, rtol, atol)
    if throw:
        solution.raise_on_failure()
    return solution


def _checked_noise(problem: Any, solver: Any, seed: Any, path: Any, per_sample: bool, first: bool) -> Any:
    """The seed, drawn here where there is none; what a graph cannot look at is checked before it runs."""
    check_one_noise(seed, path)
    packing = Packing(problem.y0, per_sample)
    y0 = packing.pack(problem.y0, "y0")
    if first or path is not None:
        columns = noise_columns(problem, packing, y0, problem.tspan)
    if path is None:
        return seed_of(seed, y0)
    check_path_compiles(path)
    checked_path(path, noise_shape(y0, columns, packing), problem.tspan, y0, solver.levy_area)
    return None


def _parts(problem: Any) -> tuple[type, dict[str, Any], Any, tuple[Any, ...]]:
    """What a graph makes the problem of again: its class, functions and what is declared of them, state, arguments."""
    said = problem.functions | {name: getattr(problem, name) for name in problem.declared}
    return type(problem), said, problem.y0, problem.args


def _as_tensors(x: Any, single: bool = True) -> Any:
    """Numbers as tensors; in a tolerance for a pytree each of them."""
    if x is None or isinstance(x, Tensor):
        return x
    plain = as_number(x)
    if plain is None and not single:
        return pytree.tree_map(_as_tensors, x)
    return torch.as_tensor(x if plain is None else plain, dtype=torch.float64)


def _outputs(
    kind: type,
    said: dict[str, Any],
    y0: Any,
    args: tuple[Any, ...],
    numbers: list[Any],
    saveat: Tensor | None,
    seed: Tensor | None,
    path: Any,
    solver: Any,
    options: dict[str, Any],
) -> tuple[Any, ...]:
    """A solve's tensors, as a graph can return them; its counts; what its path was made with, if it was made here."""
    t0, t1, rtol, atol, dt = numbers
    problem = kind(**said, y0=y0, tspan=(t0, t1), args=args)
    solution = solve(problem, solver, rtol=rtol, atol=atol, dt=dt, saveat=saveat, seed=seed, path=path, **options)
    stats, noise = solution.stats, solution.path
    names = ("nfe", "steps", "accepted", "rejected", "diffusion_evaluations")
    counts = {name: getattr(stats, name) for name in names}
    drawn = None if seed is None else (tuple(noise.shape), noise.levy_area, noise.dt is not None)
    out = (solution.ts, solution.ys, solution.y1, solution.status, solution.regularization, solution._end)
    return out, counts, drawn


_GRAPHS: WeakKeyDictionary[nn.Module, Callable[..., Any]] = WeakKeyDictionary()


def _graph_of(model: nn.Module) -> Callable[..., Any]:
    """The model's own compiled solve, which is not part of its state.

    torch counts recompilations by code object and gives up at eight: one of its own keeps a model from using up another's.
    """
    if model not in _GRAPHS:
        own = FunctionType(_outputs.__code__.replace(), globals(), "_outputs")
        _GRAPHS[model] = torch.compile(own, fullgraph=True)
    return _GRAPHS[model]
