"""Neural stochastic differential equations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from neuralde.adjoints import Adjoint
from neuralde.solvers import ConstantStep, InvalidProblemError, Method, SDEProblem, Solution, Stats

from ..regularizers.base import Regularizer
from ..solving import solve
from .compiled import check_compile, solve_compiled


class NeuralSDE(nn.Module):
    r"""A layer whose output is a sample of the solution of an SDE that starts at its input.

    .. math:: \text{out} = y(t_1), \qquad dy = f_\theta(t, y)\, dt + g_\theta(t, y)\, dW_t, \qquad y(t_0) = x

    Args:
        drift: a module or callable ``drift(t, y, *args)``.
        diffusion: a module or callable ``diffusion(t, y, *args)``, shaped as ``noise`` says.
        tspan: ``(t0, t1)``.
        noise: see :class:`neuralde.SDEProblem`.
        calculus: ``"ito"`` or ``"stratonovich"``.
        solver: the method; one that is right for the noise and the calculus if None.
        dt: with it every step has this length, unless ``controller`` is among the options; without it steps are adapted.
        rtol: relative tolerance of adapted steps.
        atol: absolute tolerance.
        adjoint: how to differentiate; exact if None.
        regularizers: the solver's cost as terms of the loss, in training mode only; ``eval()`` solves plainly.
        compile: run the solve as one compiled graph (``torch.compile(fullgraph=True)``), forward and backward. The first
            call of each shape, and of training and evaluation, compiles for half a minute to two; new values of inputs, seeds,
            times, save times, ``dt``, tolerances and parameters do not compile again. The shape of the noise, and that
            additive noise is additive, are checked at the first call only.
        options: further options of :func:`neuralde.solve`, such as ``saveat`` or ``per_sample``.

    ``forward(x, args=(), seed=None, path=None)`` gives ``(states, solution)``: the final state, or with ``saveat`` the
    states ``(T, ...)``; and the :class:`neuralde.Solution`, whose ``seed`` repeats the sample and whose
    ``regularization`` belongs in the loss. Without a seed, one is drawn from torch's global generator at each call. The
    counts of the last solve stay readable as ``stats``.

    Shapes:
        ``x`` is any state with the components in its last dimension, ``(B, d)`` say; the states have its shape, with
        ``saveat`` a leading T. The diffusion is shaped as :class:`neuralde.SDEProblem` says for the noise.

    Raises:
        InvalidProblemError: drift or diffusion is not callable, or ``compile`` meets an option that does not compile;
            at the call, ``noise`` or ``calculus`` is unknown, and whatever :func:`neuralde.solve` refuses.
        SolveError: as :func:`neuralde.solve`.

    When to take it:
        For a random layer, or dynamics whose noise is learned by moments of its samples. A fit to whole paths needs
        :class:`LatentSDE` (a likelihood) or :class:`SDEGAN` (a critic) around it.

    References:
        Kidger: On Neural Differential Equations. PhD thesis, University of Oxford (2022), chapter 4.

    Example:
        >>> import torch, neuralde as nde
        >>> _ = torch.manual_seed(0)
        >>> drift = nde.models.TimeConditionedMLP(2, hidden=[16])
        >>> model = nde.NeuralSDE(drift, lambda t, y: 0.1 * y, dt=0.05)
        >>> states, sol = model(torch.ones(8, 2))
        >>> states.square().mean().backward()
        >>> again, _ = model(torch.ones(8, 2), seed=sol.seed)
        >>> states.shape, torch.equal(states, again), model.stats.steps
        (torch.Size([8, 2]), True, 20)
    """

    stats: Stats | None

    def __init__(
        self,
        drift: Callable[..., Any],
        diffusion: Callable[..., Any],
        tspan: tuple[Any, Any] = (0.0, 1.0),
        *,
        noise: str = "diagonal",
        calculus: str = "ito",
        solver: Method | None = None,
        dt: float | None = None,
        rtol: Any = 1e-3,
        atol: Any = 1e-6,
        adjoint: Adjoint | None = None,
        regularizers: Sequence[Regularizer] = (),
        compile: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        given: dict[str, Any] = {"drift": drift, "diffusion": diffusion}
        for name, f in given.items():
            if not callable(f):
                got = type(f).__name__
                raise InvalidProblemError(f"{name}: got {got}; expected a module or callable {name}(t, y, *args)")
        self.drift, self.diffusion, self.tspan = drift, diffusion, tspan
        self.noise, self.calculus = noise, calculus
        self.regularizers = tuple(regularizers)
        check_compile(compile, adjoint, options)
        self.compiled = compile
        if dt is not None:
            options.setdefault("controller", ConstantStep())
        self.options = dict(options, solver=solver, dt=dt, rtol=rtol, atol=atol, adjoint=adjoint)
        self.stats = None

    def forward(
        self, x: Any, args: tuple[Any, ...] = (), seed: int | Tensor | None = None, path: Any = None
    ) -> tuple[Any, Solution]:
        """The states and the solution from ``x``."""
        problem = SDEProblem(self.drift, self.diffusion, x, self.tspan, args, self.noise, self.calculus)
        regularizers = self.regularizers if self.training else ()
        run = partial(solve_compiled, self) if self.compiled else solve
        solution = run(problem, regularizers=regularizers, seed=seed, path=path, **self.options)
        self.stats = solution.stats
        return (solution.y1 if self.options.get("saveat") is None else solution.ys), solution
