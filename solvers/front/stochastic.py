"""From an SDE problem, a solver and a seed or path to a field with noise; everything is checked here, once."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..core.packing import Packing
from ..core.scalars import Scalar, as_time, real_dtype
from ..errors import InvalidProblemError
from ..functions.calls import Caller
from ..methods.base import Method
from ..methods.explicit.heun import Heun
from ..methods.runge_kutta import RungeKutta
from ..methods.stochastic.base import SDEMethod, suggestion
from ..methods.stochastic.driven import DrivenRungeKutta
from ..methods.stochastic.euler import EulerMaruyama, ItoMilstein
from ..methods.stochastic.shark import ShARK
from ..methods.stochastic.spark import SPaRK
from ..methods.stochastic.sri import SOSRI
from ..paths.brownian.path import BrownianPath
from ..paths.grid import GridNoise
from ..paths.increments import Noise, checked_path, seed_of
from ..problems import SDEProblem
from ..stepping.controllers import ConstantStep, Controller, StepTo
from ..terms.base import Term
from ..terms.stochastic import SDEField, diffusion_leaves, noise_shape
from .kind import Kind
from .knots import find_knots
from .options import SolveOptions, checked_dt


def stochastic_method(problem: SDEProblem, solver: Method | None) -> SDEMethod:
    """The solver as it steps this problem; refuses one that does not solve it."""
    if solver is None:
        return default_method(problem)
    method = DrivenRungeKutta(solver) if isinstance(solver, RungeKutta) else solver
    if not isinstance(method, SDEMethod):
        raise InvalidProblemError(
            f"solver: got {solver!r} with an SDEProblem; expected a method for it, such as {suggestion(problem)}"
        )
    method.check(problem)
    return method


class Stochastic(Kind):
    """Drift, diffusion and the noise that drives them."""

    def method(self, problem: SDEProblem, solver: Method | None) -> SDEMethod:
        """The solver as it steps this problem; one that is right for the noise if there is none."""
        return stochastic_method(problem, solver)

    def check(self, problem: SDEProblem, options: SolveOptions) -> None:
        """Refuse a seed beside a path."""
        check_one_noise(options.seed, options.path)

    def controller(self, solver: Method | None, options: SolveOptions) -> Controller | None:
        """Constant steps where a ``dt`` is all that is said about them: neither a method that adapts them nor a controller."""
        only_dt = solver is None and options.dt is not None and options.controller is None
        return ConstantStep() if only_dt else options.controller

    def term(
        self,
        problem: SDEProblem,
        packing: Packing,
        y0: Tensor,
        method: Method,
        controller: Controller | None,
        ends: tuple[Scalar, Scalar],
        options: SolveOptions,
    ) -> tuple[Term, Method]:
        """The field with its noise, and the method bound to the noise."""
        return _field(problem, packing, y0, cast(SDEMethod, method), controller, ends, options)


def _field(
    problem: SDEProblem,
    packing: Packing,
    y0: Tensor,
    method: SDEMethod,
    controller: Controller | None,
    ends: tuple[Scalar, Scalar],
    options: SolveOptions,
) -> tuple[SDEField, SDEMethod]:
    dt, seed, path = checked_dt(options.dt), options.seed, options.path
    knots = find_knots((*problem.functions.values(), *pytree.tree_leaves(problem.args)))
    columns = noise_columns(problem, packing, y0, ends)
    method = method.bound(problem.noise, columns)
    shape = noise_shape(y0, columns, packing)
    if path is not None:
        noise = Noise(checked_path(path, shape, ends, y0, method.levy_area))
    else:
        gridded = not knots.any and (not method.adaptive if controller is None else on_grid(controller))
        noise = _noise(shape, seed_of(seed, y0), ends, method, dt if gridded else None, y0)
    field = SDEField(
        problem.drift,
        problem.diffusion,
        packing,
        problem.args,
        columns,
        noise,
        kind=problem.noise,
        calculus=problem.calculus,
    )
    field.looks = 4 if problem.noise == "additive" and not torch.compiler.is_compiling() else 1
    return field, method


def check_one_noise(seed: Any, path: Any) -> None:
    """Refuse a seed beside a path."""
    if seed is not None and path is not None:
        raise InvalidProblemError(
            f"seed, path: got {seed!r} and a path; expected one of them, since a path has its seed"
        )


def _noise(
    shape: tuple[int, ...], seed: int | Tensor, ends: tuple[Scalar, Scalar], method: SDEMethod, dt: Any, y0: Tensor
) -> Noise:
    """The increments of the path of a seed, cut into cells where steps have a ``dt``."""
    t0, t1 = ends
    if not isinstance(t0, Tensor) and t0 == t1:
        t1 = t0 + 1.0  # nothing will be asked of this path
    number = seed if isinstance(seed, int) else seed.to(y0.device)
    path = BrownianPath(shape, number, t0, t1, method.levy_area, dt=dt, dtype=real_dtype(y0), device=y0.device)
    return GridNoise(path, t0, t1, seed) if dt is not None and torch.compiler.is_compiling() else Noise(path, seed)


def default_method(problem: SDEProblem) -> SDEMethod:
    """A solver that is right for the noise and the calculus that are declared."""
    if problem.noise == "additive":
        return ShARK()
    if problem.calculus == "stratonovich":
        return DrivenRungeKutta(Heun()) if problem.noise == "general" else SPaRK()
    if problem.noise == "general":
        return EulerMaruyama()
    return ItoMilstein() if problem.noise == "commutative" else SOSRI()


def on_grid(controller: Controller) -> bool:
    """Whether all steps have the same length, so that the path can be cut into cells of it."""
    constant = isinstance(controller, ConstantStep) and not isinstance(controller, StepTo)
    return constant and not len(controller.step_ts) and not len(controller.jump_ts) and math.isinf(controller.dtmax)


def noise_columns(problem: SDEProblem, packing: Packing, y0: Tensor, ends: tuple[Scalar, Scalar]) -> int | None:
    """How many noises drive the state, from one call of the diffusion; refuses shapes that the problem does not allow."""
    caller = Caller()

    def called(t: Scalar, y: Tensor) -> list[Tensor]:
        return caller(problem.diffusion, "diffusion", partial(diffusion_leaves, packing), packing, t, y, problem.args)

    with torch.no_grad():
        leaves = called(ends[0], y0)
        same = [leaf.dim() == len(shape) for leaf, shape in zip(leaves, packing.shapes, strict=True)]
        if problem.noise == "diagonal" or (problem.noise == "additive" and all(same)):
            packing.pack(leaves[0] if packing.single else pytree.tree_unflatten(leaves, packing.spec), "diffusion")
            columns = None
        else:
            columns = _checked_columns(problem, packing, leaves)
        if problem.noise == "additive" and not torch.compiler.is_compiling():
            check_additive(called, ends[0], y0, leaves)
            check_additive(called, ends[1], y0, called(ends[1], y0))
    return columns


def _checked_columns(problem: SDEProblem, packing: Packing, leaves: list[Tensor]) -> int:
    last = "1" if problem.noise == "scalar" else "m"
    for leaf, shape in zip(leaves, packing.shapes, strict=True):
        fits = leaf.dim() == len(shape) + 1 and tuple(leaf.shape[:-1]) == shape and len(shape) > 0
        if not fits or (problem.noise == "scalar" and leaf.shape[-1] != 1) or leaf.shape[-1] != leaves[0].shape[-1]:
            wanted = "(" + ", ".join([*(str(size) for size in shape), last]) + ")"
            raise InvalidProblemError(
                f"diffusion: got shape {tuple(leaf.shape)} for {problem.noise} noise; expected {wanted}, the shape of y0, "
                f"{shape}, with the noises behind it" + (", or noise='diagonal'" if tuple(leaf.shape) == shape else "")
            )
    return leaves[0].shape[-1]


def check_additive(
    diffusion: Callable[[Scalar, Tensor], list[Tensor]], t: Scalar, y0: Tensor, before: list[Tensor]
) -> None:
    """Refuse noise that is declared additive and depends on the state at the time ``t``.

    Asked at both ends it sees what depends on the state from the start, or from some time on; not what does so only for a
    while in between, or only for states far from the first.
    """
    after = diffusion(t, y0 + 0.1 * (1.0 + y0.abs()))
    for old, new in zip(before, after, strict=True):
        tolerance = 1e3 * torch.finfo(old.dtype).eps
        if not torch.allclose(old, new, rtol=tolerance, atol=0.0, equal_nan=True):
            time, change = as_time(t, y0).reshape(-1)[0].item(), (old - new).abs().max().item()
            raise InvalidProblemError(
                f'noise: got "additive", but the diffusion changed with the state at t = {time:.6g}, by up to {change:.3g}; '
                'expected one that depends on t only, or noise="diagonal" or "general"'
            )
