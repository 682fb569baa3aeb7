"""States that filtered noise drives: the exponential methods, and the field with its noise as a term."""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..core.packing import Packing
from ..core.scalars import Scalar, real_dtype
from ..errors import InvalidProblemError
from ..functions.calls import Caller
from ..methods.base import Method
from ..methods.stochastic.base import SDEMethod
from ..methods.stochastic.exponential import ExponentialEuler, ExponentialHeun
from ..paths.filtered.increments import filtered
from ..paths.filtered.ornstein_uhlenbeck import OrnsteinUhlenbeckPath
from ..paths.increments import Noise, checked_path, seed_of
from ..problems import SemilinearSDEProblem
from ..stepping.controllers import Controller
from ..terms.base import Term
from ..terms.semilinear import SemilinearField
from .knots import find_knots
from .options import SolveOptions, checked_dt
from .stochastic import Stochastic, check_additive, on_grid


class Semilinear(Stochastic):
    """A state and the filters that drive it."""

    def method(self, problem: Any, solver: Method | None) -> SDEMethod:
        """The solver, if it steps such problems; one that is right for the calculus if there is none."""
        if solver is None:
            ito = problem.calculus == "ito" and problem.noise != "additive"
            return ExponentialEuler() if ito else ExponentialHeun()
        if SemilinearField.family not in solver.takes:
            raise InvalidProblemError(
                f"solver: got {solver!r} with a SemilinearSDEProblem; expected ExponentialHeun() or ExponentialEuler()"
            )
        method = cast(SDEMethod, solver)
        method.check(problem)
        return method

    def term(
        self,
        problem: Any,
        packing: Packing,
        y0: Tensor,
        method: Method,
        controller: Controller | None,
        ends: tuple[Scalar, Scalar],
        options: SolveOptions,
    ) -> tuple[Term, Method]:
        """The field with its noise, and the method bound to the noise."""
        bound = cast(SDEMethod, method).bound(problem.noise, None)
        noise = _noise(problem, packing, y0, bound, controller, ends, options)
        rates = problem.rates.to(y0.device)
        functions = list(problem.functions.values())
        field = SemilinearField(functions, rates, packing, problem.args, noise, problem.noise)
        if problem.noise == "additive" and not torch.compiler.is_compiling():
            _check_diffusion(problem, packing, y0, ends)
            field.looks = 4
        return field, bound


def _noise(
    problem: SemilinearSDEProblem,
    packing: Packing,
    y0: Tensor,
    method: SDEMethod,
    controller: Controller | None,
    ends: tuple[Scalar, Scalar],
    options: SolveOptions,
) -> Noise:
    """The integrals of the user's path, or of one from the seed, cut into cells where steps have a ``dt``."""
    shape = packing.shapes[0]
    if options.path is not None:
        path = options.path
        if not isinstance(path, OrnsteinUhlenbeckPath) or not torch.equal(path.rates.cpu(), problem.rates.cpu()):
            raise InvalidProblemError(
                f"path: got {path!r}; expected an OrnsteinUhlenbeckPath with the rates of the problem"
            )
        return filtered(checked_path(path, shape, ends, y0, "none"), None, ends)
    knots = find_knots((*problem.functions.values(), *pytree.tree_leaves(problem.args)))
    gridded = not knots.any and (not method.adaptive if controller is None else on_grid(controller))
    seed, dt = seed_of(options.seed, y0), checked_dt(options.dt) if gridded else None
    t0, t1 = ends
    if not isinstance(t0, Tensor) and t0 == t1:
        t1 = t0 + 1.0  # nothing will be asked of this path
    number = seed if isinstance(seed, int) else seed.to(y0.device)
    path = OrnsteinUhlenbeckPath(shape, problem.rates, number, t0, t1, dt=dt, dtype=real_dtype(y0), device=y0.device)
    return filtered(path, seed, (t0, t1))


def _check_diffusion(problem: SemilinearSDEProblem, packing: Packing, y0: Tensor, ends: tuple[Scalar, Scalar]) -> None:
    """Refuse noise that is declared additive and depends on the state."""
    caller = Caller()

    def leaves(value: Any, what: str) -> list[Tensor]:
        if not isinstance(value, Tensor):
            raise InvalidProblemError(f"{what}: got {type(value).__name__}; expected a tensor like x")
        return [value]

    with torch.no_grad():
        called = partial(_called, caller, problem, leaves, packing)
        for time in ends:
            check_additive(called, time, y0, called(time, y0))


def _called(caller: Caller, problem: SemilinearSDEProblem, pack: Any, packing: Packing, t: Scalar, y: Tensor) -> Any:
    return caller(problem.diffusion, "diffusion", pack, packing, t, y, problem.args)
