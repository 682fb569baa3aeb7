"""What docstrings say under "Raises" is true: each error that is claimed is provoked here, by the wrong thing.

The first word before the colon is the claim. A name may claim an error for several reasons; each line of the table below
provokes one of them, and a claim without a line, or a line without a claim, fails.
"""

import inspect
import math
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

import neuralde as nde
from neuralde import InvalidProblemError, koopman, models, regularizers

Provoked = tuple[type[Exception], Callable[[], object]]

ONE = torch.ones(1, dtype=torch.float64)
DECAY = nde.ODEProblem(lambda t, y: -y, ONE, (0.0, 1.0))
NOISY = nde.SDEProblem(lambda t, y: -y, lambda t, y: 0.1 + 0.0 * y, ONE, (0.0, 1.0))


def wrong(call: Callable[[], object]) -> Provoked:
    """An argument that is refused."""
    return InvalidProblemError, call


def solved(*given: object, problem: object = DECAY, **options: object) -> Callable[[], object]:
    """A solve that fails."""
    return lambda: nde.solve(problem, *given, **options)  # type: ignore[arg-type]


def with_regularizer(one: object, *given: object, problem: object = DECAY, **options: object) -> Callable[[], object]:
    return solved(*given, problem=problem, regularizers=[one], **options)


REGULARIZERS: dict[str, list[Provoked]] = {
    "StepReduction": [wrong(lambda: regularizers.StepCount("median"))],
    "ErrorEstimate": [
        wrong(lambda: regularizers.ErrorEstimate(norm="l1")),
        wrong(with_regularizer(regularizers.ErrorEstimate(), nde.RK4(), dt=0.1)),
        wrong(with_regularizer(regularizers.ErrorEstimate(), adjoint=nde.GaussAdjoint())),
    ],
    "StiffnessEstimate": [
        wrong(lambda: regularizers.StiffnessEstimate("median")),
        wrong(with_regularizer(regularizers.StiffnessEstimate(), nde.Heun())),
    ],
    "KineticEnergy": [
        wrong(lambda: regularizers.KineticEnergy(norm="max")),
        wrong(lambda: regularizers.KineticEnergy(reduction="median")),
        wrong(with_regularizer(regularizers.KineticEnergy(), problem=NOISY)),
    ],
    "TaylorDerivative": [
        wrong(lambda: regularizers.TaylorDerivative(0)),
        wrong(lambda: regularizers.TaylorDerivative(points=0)),
        wrong(with_regularizer(regularizers.TaylorDerivative(), problem=NOISY)),
    ],
    "JacobianFrobenius": [
        wrong(lambda: regularizers.JacobianFrobenius(points=0)),
        wrong(lambda: regularizers.JacobianFrobenius(norm="max")),
        wrong(with_regularizer(regularizers.JacobianFrobenius(), problem=NOISY)),
    ],
    "Local": [
        wrong(lambda: regularizers.Local(sampling="even")),
        wrong(lambda: regularizers.Local(regularizers.STEER())),  # type: ignore[arg-type]
        wrong(with_regularizer(regularizers.Local(), nde.RK4(), dt=0.1)),
    ],
    "RunningCost": [
        wrong(lambda: nde.RunningCost(1.0)),  # type: ignore[arg-type]
        wrong(with_regularizer(nde.RunningCost(lambda t, y: y > 0))),
        wrong(with_regularizer(nde.RunningCost(lambda t, y: y.zero_().sum()))),
    ],
    "StepCount": [
        wrong(lambda: regularizers.StepCount("median")),
        wrong(with_regularizer(regularizers.StepCount(), nde.RK4(), dt=0.1)),
    ],
    "STEER": [
        wrong(lambda: regularizers.STEER(-1.0)),
        wrong(with_regularizer(regularizers.STEER(1.0))),
        wrong(with_regularizer(regularizers.STEER(0.5), saveat=[0.75])),
    ],
    "Constant": [wrong(lambda: regularizers.Constant(-1.0)), wrong(lambda: regularizers.Constant("1"))],  # type: ignore[arg-type]
    "Exponential": [
        wrong(lambda: regularizers.Exponential(1.0, 0.0, 10)),
        wrong(lambda: regularizers.Exponential(1.0, 0.1, 0)),
    ],
    "Cosine": [wrong(lambda: regularizers.Cosine(-1.0, 0.0, 10)), wrong(lambda: regularizers.Cosine(1.0, 0.0, 0))],
    "Warmup": [
        wrong(lambda: regularizers.Warmup(1.0, 0)),
        wrong(lambda: regularizers.Warmup(1.0, 1, start=-1)),
        wrong(lambda: regularizers.Warmup("1", 1)),  # type: ignore[arg-type]
    ],
    "TargetNFE": [
        wrong(lambda: regularizers.TargetNFE(20, count="calls")),
        wrong(lambda: regularizers.TargetNFE(0.5)),
        wrong(lambda: regularizers.TargetNFE(20, memory=0.5)),
    ],
    "Penalty": [
        wrong(lambda: regularizers.Penalty(regularizers.STEER())),  # type: ignore[arg-type]
        wrong(lambda: regularizers.Penalty((regularizers.STEER(), -1.0))),
        wrong(lambda: regularizers.Penalty((regularizers.STEER(), 1.0))(nde.solve(DECAY))),
    ],
}

SHORT = {"max_steps": 1, "rtol": 1e-5, "atol": 1e-5}
"""Options with which a solve fails."""


def failing(error: type[Exception], call: Callable[[], object]) -> Provoked:
    """Something that fails while it runs."""
    return error, call


def latent(**options: object) -> models.LatentSDE:
    given = {"posterior": lambda t, z: -z, "prior": lambda t, z: -z, "diffusion": lambda t, z: torch.ones_like(z)}
    return models.LatentSDE(**{**given, **options})  # type: ignore[arg-type]


def broken(model: torch.nn.Module) -> torch.nn.Module:
    """A model whose training has diverged."""
    for x in model.parameters():
        torch.nn.init.constant_(x, torch.nan)
    return model


MLP = models.TimeConditionedMLP(2, hidden=[4])
TS, SERIES = torch.linspace(0.0, 1.0, 5), torch.zeros(3, 5, 2)

MODELS: dict[str, list[Provoked]] = {
    "MaskedGRU": [failing(RuntimeError, lambda: models.MaskedGRU(2, 4)(TS[1:], SERIES, SERIES > 0))],
    "LatentField": [failing(RuntimeError, lambda: models.LatentField(2)(torch.tensor(0.0), torch.zeros(3)))],
    "TimeConditionedMLP": [failing(RuntimeError, lambda: MLP(torch.tensor(0.0), torch.zeros(3)))],
    "LatentODE": [
        wrong(lambda: models.LatentODE(0)),
        wrong(lambda: models.LatentODE(2, std=0.0)),
        wrong(lambda: models.LatentODE(2, steer=2.0)),
        wrong(lambda: models.LatentODE(2, saveat=[0.5])),
        wrong(lambda: models.LatentODE(2)(TS.flip(0), SERIES)),
        wrong(lambda: models.LatentODE(2)(TS, SERIES[:, 1:])),
        wrong(lambda: models.LatentODE(2, 4, encoder=lambda ts, x, mask: (torch.zeros(3, 2),) * 2)(TS, SERIES)),
        failing(nde.SolveError, lambda: broken(models.LatentODE(2))(TS, SERIES)),  # type: ignore[arg-type]
    ],
    "KoopmanVAE": [
        wrong(lambda: models.KoopmanVAE(0, 24)),
        wrong(lambda: models.KoopmanVAE(2, 1)),
        wrong(lambda: models.KoopmanVAE(2, 24, kl_weight=-1.0)),
        wrong(lambda: models.KoopmanVAE(2, 24, spectrum="round")),
        wrong(lambda: models.KoopmanVAE(2, 24).loss(torch.zeros(3, 23, 2))),
        wrong(lambda: models.KoopmanVAE(2, 24).loss(torch.full((3, 24, 2), math.nan))),
        wrong(lambda: models.KoopmanVAE(2, 24).operator),
        failing(
            nde.SolveError,
            lambda: broken(models.KoopmanVAE(2, 5, irregular=True)).loss(torch.zeros(3, 5, 2)),  # type: ignore[operator]
        ),
    ],
    "LatentSDE": [
        wrong(lambda: latent(prior=1.0)),
        wrong(lambda: latent(dt=0.1)(torch.ones(3, 1, dtype=torch.int64))),
        wrong(lambda: latent(dt=0.1, prior=lambda t, z: z[..., :1])(torch.ones(3, 2))),
        failing(nde.SolveError, lambda: latent(dt=0.1, max_steps=1)(torch.ones(3, 1))),
    ],
    "NeuralODE": [
        wrong(lambda: models.NeuralODE(1.0)),  # type: ignore[arg-type]
        wrong(lambda: models.NeuralODE(MLP, augment=-1)),
        wrong(lambda: models.NeuralODE(MLP, compile=True, adjoint=nde.GaussAdjoint())),
        wrong(lambda: models.NeuralODE(MLP, augment=1)(torch.tensor(1.0))),
        failing(nde.SolveError, lambda: broken(models.NeuralODE(models.LatentField(2)))(torch.ones(3, 2))),  # type: ignore[arg-type]
    ],
    "NeuralSDE": [
        wrong(lambda: models.NeuralSDE(MLP, 0.1)),  # type: ignore[arg-type]
        wrong(lambda: models.NeuralSDE(MLP, MLP, compile=True, adjoint=nde.BacksolveAdjoint())),
        wrong(lambda: models.NeuralSDE(MLP, MLP, dt=0.1, noise="white")(torch.ones(3, 2))),
        failing(nde.SolveError, lambda: models.NeuralSDE(MLP, MLP, dt=0.1, max_steps=1)(torch.ones(3, 2))),
    ],
    "SDEGenerator": [
        wrong(lambda: models.SDEGenerator(0, dt=0.1)),
        wrong(lambda: models.SDEGenerator(1, dt=0.1)(TS.flip(0), 3)),
        failing(nde.SolveError, lambda: broken(models.SDEGenerator(1, dt=0.1))(TS, 1)),
    ],
    "CDECritic": [
        wrong(lambda: models.CDECritic(0)),
        wrong(lambda: models.CDECritic(1)(TS.flip(0), torch.zeros(5, 3, 1))),
        wrong(lambda: models.CDECritic(1)(TS, torch.zeros(5, 3, 2))),
        failing(nde.SolveError, lambda: models.CDECritic(1)(TS, torch.full((5, 3, 1), torch.nan))),
    ],
    "SDEGAN": [wrong(lambda: models.SDEGAN(len, models.CDECritic(1)))],  # type: ignore[arg-type]
}


def backward(adjoint: object, field: Callable[..., object] | None = None, **options: object) -> Callable[[], object]:
    """A backward pass that fails."""
    y0 = ONE.clone().requires_grad_()
    rate = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    problem = nde.ODEProblem(field or (lambda t, y, k: -k * y), y0, (0.0, 1.0), (rate,))
    return lambda: nde.solve(problem, adjoint=adjoint, **options).y1.sum().backward()  # type: ignore[arg-type]


def through(adjoint: object, *given: object, problem: object = DECAY, **options: object) -> Callable[[], object]:
    return solved(*given, problem=problem, adjoint=adjoint, **options)


def twice() -> None:
    y0 = ONE.clone().requires_grad_()
    end = nde.solve(nde.ODEProblem(lambda t, y: y.sin(), y0, (0.0, 1.0)), adjoint=nde.DirectAdjoint()).y1.sum()
    end.backward()
    end.backward()


def unresolved() -> None:
    """A parameter's share that oscillates faster than a quadrature may resolve, where the solution itself is smooth."""
    k = torch.zeros((), dtype=torch.float64, requires_grad=True)
    problem = nde.ODEProblem(lambda t, y, k: -y + k * torch.sin(1e5 * t), ONE, (0.0, 1.0), (k,))
    with patch("neuralde.adjoints.continuous.integrands._MOST_HALVINGS", 10):
        nde.solve(problem, adjoint=nde.GaussAdjoint(), rtol=1e-8, atol=1e-8).y1.sum().backward()


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, y: torch.Tensor) -> torch.Tensor:
        return -y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: object, g: torch.Tensor) -> torch.Tensor:
        return -g


def equilibrium(field: Callable[..., object], *, args: tuple[object, ...] = (), **options: object) -> nde.Solution:
    return nde.solve(nde.SteadyStateProblem(field, ONE, args), nde.Newton(), **options)  # type: ignore[arg-type]


def at_a_fold() -> None:
    k = torch.zeros((), dtype=torch.float64, requires_grad=True)
    equilibrium(lambda t, y, k: k - (y - 1.0) ** 2, args=(k,)).y1.sum().backward()


FALL = nde.Event(lambda t, y: y[0] - 0.5)

ADJOINTS: dict[str, list[Provoked]] = {
    "check_gradients": [
        wrong(lambda: nde.testing.check_gradients(1.0)),  # type: ignore[arg-type]
        wrong(lambda: nde.testing.check_gradients(DECAY, directions=0)),
        failing(nde.SolveError, lambda: nde.testing.check_gradients(DECAY, show=False, **SHORT)),  # type: ignore[arg-type]
    ],
    "BacksolveAdjoint": [
        wrong(lambda: nde.BacksolveAdjoint(solver="rk4")),  # type: ignore[arg-type]
        wrong(through(nde.BacksolveAdjoint(), dense=True)),
        wrong(through(nde.BacksolveAdjoint(), saveat="steps")),
        failing(nde.SolveError, backward(nde.BacksolveAdjoint(rtol=1e-13, atol=1e-13), max_steps=20)),
    ],
    "GaussAdjoint": [
        wrong(lambda: nde.GaussAdjoint(rtol=-1.0)),
        wrong(through(nde.GaussAdjoint(), dense=True)),
        failing(nde.SolveError, backward(nde.GaussAdjoint(rtol=1e-13, atol=1e-13), max_steps=20)),
        failing(nde.ConvergenceError, unresolved),
    ],
    "InterpolatingAdjoint": [
        wrong(lambda: nde.InterpolatingAdjoint(controller=0.9)),  # type: ignore[arg-type]
        wrong(through(nde.InterpolatingAdjoint(), saveat="steps")),
        failing(nde.SolveError, backward(nde.InterpolatingAdjoint(rtol=1e-13, atol=1e-13), max_steps=20)),
    ],
    "DirectAdjoint": [failing(RuntimeError, twice)],
    "DiscreteAdjoint": [
        wrong(lambda: nde.DiscreteAdjoint(checkpoints=0)),
        wrong(lambda: nde.DiscreteAdjoint(budget=-1)),
        wrong(
            lambda: torch.func.grad(
                lambda y: nde.solve(
                    nde.ODEProblem(lambda t, y: -y, y, (0.0, 1.0)), adjoint=nde.DiscreteAdjoint()
                ).y1.sum()
            )(ONE)
        ),
        failing(
            RuntimeError,
            backward(
                nde.DiscreteAdjoint(budget=0),
                lambda t, y, k: -k * y * torch.rand(()),
                dt=0.1,
                controller=nde.ConstantStep(),
            ),
        ),
    ],
    "ForwardSensitivity": [
        wrong(lambda: nde.ForwardSensitivity(in_error_norm=1)),  # type: ignore[arg-type]
        wrong(through(nde.ForwardSensitivity(), problem=NOISY)),
        wrong(through(nde.ForwardSensitivity(in_error_norm=True), events=FALL)),
        wrong(backward(nde.ForwardSensitivity(), lambda t, y, k: _Once.apply(k * y))),
    ],
    "ReversibleAdjoint": [
        wrong(through(nde.ReversibleAdjoint())),
        wrong(through(nde.ReversibleAdjoint(), nde.Reversible(nde.Tsit5()), events=FALL)),
        wrong(
            backward(
                nde.ReversibleAdjoint(),
                lambda t, y, k: torch.sin(3 * y),
                solver=nde.Reversible(nde.RK4(), 0.5),
                dt=0.01,
            )
        ),
    ],
    "ImplicitAdjoint": [
        wrong(lambda: nde.ImplicitAdjoint("cholesky")),
        wrong(through(nde.ImplicitAdjoint())),
        failing(nde.ConvergenceError, at_a_fold),
    ],
}


def two_grids() -> None:
    path = nde.FractionalBrownianPath((1,), 0, 0.0, 1.0, 0.3)
    path.sample([0.5, 1.0])
    path.sample([0.25, 0.5, 0.75, 1.0])


NEVER = nde.SteadyStateProblem(lambda t, y: 1.0 + y**2, ONE)
STEPS = nde.ConstantStep()


def once_only(method: nde.solvers.SteadyStateMethod) -> Callable[[], object]:
    return solved(method, problem=nde.SteadyStateProblem(lambda t, y: _Once.apply(y) - 0.3 * y.sin() + 2.0, ONE))


PROBLEMS: dict[str, list[Provoked]] = {
    "ODEProblem": [
        wrong(lambda: nde.ODEProblem(1.0, ONE, (0.0, 1.0))),  # type: ignore[arg-type]
        wrong(lambda: nde.ODEProblem(DECAY.f, 1.0, (0.0, 1.0))),
        wrong(lambda: nde.ODEProblem(DECAY.f, ONE, (0.0, 1.0), [ONE])),  # type: ignore[arg-type]
        wrong(lambda: nde.ODEProblem(DECAY.f, ONE, 1.0)),  # type: ignore[arg-type]
    ],
    "SDEProblem": [
        wrong(lambda: nde.SDEProblem(DECAY.f, 0.1, ONE, (0.0, 1.0))),  # type: ignore[arg-type]
        wrong(lambda: nde.SDEProblem(DECAY.f, DECAY.f, ONE, (0.0, 1.0), noise="white")),
        wrong(lambda: nde.SDEProblem(DECAY.f, DECAY.f, ONE, (0.0, torch.tensor(1.0, requires_grad=True)))),
    ],
    "SteadyStateProblem": [
        wrong(lambda: nde.SteadyStateProblem(DECAY.f, ONE, t=math.nan)),
        wrong(lambda: nde.SteadyStateProblem(DECAY.f, ONE, [])),  # type: ignore[arg-type]
    ],
    "Event": [
        wrong(lambda: nde.Event(1.0)),  # type: ignore[arg-type]
        wrong(lambda: nde.Event(DECAY.f, direction="left")),
        wrong(lambda: nde.Event(DECAY.f, apply=DECAY.f)),
        wrong(lambda: nde.Event(DECAY.f, probes=-1)),
    ],
    "ScheduledEvent": [
        wrong(lambda: nde.ScheduledEvent([0.5], None)),  # type: ignore[arg-type]
        wrong(lambda: nde.ScheduledEvent([math.inf], DECAY.f)),
        wrong(lambda: nde.ScheduledEvent([0.5], DECAY.f, indexed=True)),
    ],
    "Controller": [
        wrong(lambda: nde.PIController(step_ts=[math.nan])),
        wrong(lambda: nde.PIController(dtmin=-1.0)),
        wrong(lambda: nde.PIController(dtmin=0.1, dtmax=0.01)),
        wrong(solved(nde.RK4(), controller=nde.PIController())),
    ],
    "ConstantStep": [wrong(lambda: nde.ConstantStep(dtmin=-1.0)), wrong(solved(controller=STEPS))],
    "StepTo": [wrong(lambda: nde.StepTo([math.inf])), wrong(lambda: nde.StepTo([0.5], dtmax=0.0))],
    "IController": [
        wrong(lambda: nde.IController(safety=2.0)),
        wrong(solved(nde.Euler(), controller=nde.IController())),
    ],
    "PIController": [wrong(lambda: nde.PIController(factor_min=1.0)), wrong(lambda: nde.PIController(beta=(0.0, 0.1)))],
    "PIDController": [
        wrong(lambda: nde.PIDController(factor_max=0.5)),
        wrong(solved(nde.Euler(), controller=nde.PIDController())),
    ],
    "BrownianPath": [
        wrong(lambda: nde.BrownianPath((1,), 0, 0.0, 0.0)),
        wrong(lambda: nde.BrownianPath((1,), 0, 0.0, 1.0, "space")),
        wrong(lambda: nde.BrownianPath((1,), 0, 0.0, 1.0)(0.5, 1.5)),
    ],
    "FractionalBrownianPath": [
        wrong(lambda: nde.FractionalBrownianPath((1,), 0, 0.0, 1.0, 1.0)),
        wrong(lambda: nde.FractionalBrownianPath((1,), 0, 0.0, 1.0, 0.3).sample([0.5, 0.2])),
        wrong(lambda: nde.FractionalBrownianPath((1,), 0, 0.0, 1.0, 0.3).sample([0.5, 1.5])),
        wrong(lambda: nde.FractionalBrownianPath((1,), 0, 0.0, 1.0, 0.3, method="circulant").sample([0.1, 0.5, 0.6])),
        wrong(two_grids),
    ],
    "Blocks": [
        wrong(lambda: nde.Blocks(size=0)),
        wrong(lambda: nde.Blocks(cuda_graph=1)),  # type: ignore[arg-type]
        wrong(solved(driver=nde.Blocks(cuda_graph=True))),
        wrong(solved(problem=NOISY, driver=nde.Blocks())),
        wrong(solved(events=FALL, driver=nde.Blocks())),
    ],
    "SteadyStateMethod": [wrong(solved(nde.Newton())), wrong(solved(nde.DynamicSS(), problem=NOISY))],
    "DynamicSS": [
        wrong(lambda: nde.DynamicSS(nde.SOSRI())),
        wrong(lambda: nde.DynamicSS(path_rtol=1.0)),
        failing(nde.ConvergenceError, solved(nde.DynamicSS(t_max=0.1), problem=NEVER)),
    ],
    "Newton": [
        wrong(lambda: nde.Newton(max_iter=0)),
        wrong(once_only(nde.Newton(linear="gmres"))),
        failing(nde.ConvergenceError, solved(nde.Newton(), problem=NEVER)),
    ],
    "Anderson": [
        wrong(lambda: nde.Anderson(0)),
        wrong(once_only(nde.Anderson())),
        failing(nde.ConvergenceError, solved(nde.Anderson(max_iter=3), problem=NEVER)),
    ],
}


def pinned(name: object, run: object, text: str | None = None, **options: object) -> Callable[[], object]:
    """A check of costs against a file that does not exist, or holds a text."""

    def call() -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "costs.json"
            if text is not None:
                path.write_text(text, encoding="utf-8")
            nde.testing.SolverCost(path, **options).check(name, run)  # type: ignore[arg-type]

    return call


def without_lightning() -> None:
    with patch.dict("sys.modules", {"lightning": None, "lightning.pytorch": None}):
        nde.testing.lightning_callback()


FUNCTIONS: dict[str, list[Provoked]] = {
    "estimate_hurst": [
        wrong(lambda: nde.estimate_hurst(TS, "rescaled range")),
        wrong(lambda: nde.estimate_hurst(TS[:5])),
        wrong(lambda: nde.estimate_hurst(torch.ones(100))),
        wrong(lambda: nde.estimate_hurst(torch.full((100,), math.nan))),
    ],
    "solve": [
        wrong(solved(rtol=-1.0)),
        wrong(solved("Tsit5")),
        wrong(solved(saveat=[2.0])),
        wrong(solved(adjoint="direct")),
        wrong(solved(problem=1.0)),
        failing(nde.MaxStepsError, solved(**SHORT)),
        failing(nde.StepSizeError, solved(problem=nde.ODEProblem(lambda t, y: y**2, ONE, (0.0, 2.0)))),
        failing(nde.NonFiniteError, solved(problem=nde.ODEProblem(lambda t, y: y * math.nan, ONE, (0.0, 2.0)))),
        failing(nde.ConvergenceError, solved(nde.Newton(), problem=NEVER)),
    ],
    "solve_ensemble": [
        wrong(lambda: nde.solve_ensemble(DECAY, paths=10)),  # type: ignore[arg-type]
        wrong(lambda: nde.solve_ensemble(1.0, paths=10)),  # type: ignore[arg-type]
        wrong(lambda: nde.solve_ensemble(NOISY, paths=0, dt=0.1)),
        wrong(lambda: nde.solve_ensemble(NOISY, paths=10, dt=0.1, per_sample=True)),
        wrong(lambda: nde.solve_ensemble(NOISY, paths=10, dt=0.1, starts=lambda numbers: ONE)),
    ],
    "SolverCost": [
        wrong(lambda: nde.testing.SolverCost("costs.json", tolerance=-1.0)),
        wrong(pinned("", lambda: None)),
        wrong(pinned("decay", 1.0)),
        wrong(pinned("decay", solved(), text="{}")),
        failing(nde.testing.SolverCostError, pinned("decay", solved())),
        failing(nde.testing.SolverCostError, pinned("nothing", lambda: None, update=True)),
    ],
    "CostLogger": [
        wrong(lambda: nde.testing.CostLogger(1.0)),  # type: ignore[arg-type]
        wrong(lambda: nde.testing.CostLogger(print, every=0)),
    ],
    "lightning_callback": [wrong(without_lightning)],
}

LINEAR = nde.ButcherTableau(a=((),), b=(1.0,), c=(0.0,), order=1)


def sde(noise: str, calculus: str) -> nde.SDEProblem:
    width = {"diagonal": (2,), "scalar": (2, 1)}.get(noise, (2, 2))
    start = torch.ones(2, dtype=torch.float64)
    return nde.SDEProblem(
        lambda t, y: -y, lambda t, y: torch.full(width, 0.1).to(y), start, (0.0, 1.0), noise=noise, calculus=calculus
    )


def refuses(method: nde.Method, *kinds: str, ode: bool = True, adaptive: bool = True) -> list[Provoked]:
    """A method that refuses kinds of problems, written as calculus and noise, ODEs, or steps that are adapted."""
    fixed = {"dt": 0.1, "controller": STEPS}
    lines = [wrong(solved(method, problem=sde(*reversed(one.split())), **fixed)) for one in kinds]
    if ode:
        lines.append(wrong(solved(method, **fixed)))
    if adaptive:
        noise = "diagonal" if "diagonal" in getattr(method, "orders", {}) else "additive"
        calculus = getattr(method, "calculus", "any")
        problem = sde(noise, "ito" if calculus == "any" else calculus)
        lines.append(wrong(solved(method, problem=problem, controller=nde.PIController())))
    return lines


def driven(method: nde.Method) -> list[Provoked]:
    """A method for ODEs that takes SDEs one by one step's path, as Stratonovich equations."""
    return refuses(method, "ito diagonal", "ito scalar", "ito general", ode=False, adaptive=False)


METHODS: dict[str, list[Provoked]] = {
    "RungeKutta": [wrong(lambda: nde.RungeKutta("Euler"))],  # type: ignore[arg-type]
    "StochasticRungeKutta": [wrong(lambda: nde.StochasticRungeKutta(LINEAR))],  # type: ignore[arg-type]
    "Euler": [
        wrong(solved(nde.Euler())),
        wrong(solved(nde.Euler(), dt=0.1, controller=nde.PIController())),
        *refuses(nde.Euler(), "ito additive", "stratonovich diagonal", ode=False, adaptive=False),
    ],
    "RK4": [
        wrong(solved(nde.RK4())),
        wrong(solved(nde.RK4(), dt=0.1, controller=nde.PIController())),
        *driven(nde.RK4()),
    ],
    **{
        type(one).__name__: driven(one)
        for one in (
            nde.Midpoint(),
            nde.Heun(),
            nde.Ralston(),
            nde.Bosh3(),
            nde.Dopri5(),
            nde.Tsit5(),
            nde.Vern7(),
            nde.Dopri8(),
            nde.Vern9(),
        )
    },
    "Reversible": [
        wrong(lambda: nde.Reversible(nde.Reversible(nde.Tsit5()))),
        wrong(lambda: nde.Reversible(nde.Tsit5(), 1.0)),
        wrong(solved(nde.Reversible(nde.Heun()), problem=sde("diagonal", "stratonovich"), dt=0.1)),
    ],
    "SDEMethod": refuses(nde.PL1WM(), "ito general", "stratonovich diagonal", ode=False, adaptive=False),
    "EulerMaruyama": refuses(nde.EulerMaruyama(), "stratonovich diagonal", "stratonovich general"),
    "EulerHeun": refuses(nde.EulerHeun(), "ito diagonal", "ito general", adaptive=False),
    "ItoMilstein": refuses(nde.ItoMilstein(), "stratonovich scalar", "ito general", adaptive=False),
    "StratonovichMilstein": refuses(nde.StratonovichMilstein(), "ito scalar", "stratonovich general", adaptive=False),
    "PL1WM": refuses(nde.PL1WM(), "ito general", "ito commutative", "stratonovich diagonal"),
    "ReversibleHeun": refuses(nde.ReversibleHeun(), "ito diagonal", "ito general", adaptive=False),
    "SRIW1": refuses(nde.SRIW1(), "stratonovich diagonal", "ito additive", "ito commutative", adaptive=False),
    "SOSRI": refuses(nde.SOSRI(), "stratonovich diagonal", "ito additive", "ito commutative", adaptive=False),
    "SRA1": refuses(nde.SRA1(), "ito diagonal", "stratonovich scalar", adaptive=False),
    "SRA3": refuses(nde.SRA3(), "ito diagonal", "stratonovich scalar", adaptive=False),
    "ShARK": refuses(nde.ShARK(), "ito diagonal", "stratonovich scalar", adaptive=False),
    "SlowRK": refuses(nde.SlowRK(), "ito diagonal", "ito general", adaptive=False),
    "SPaRK": refuses(nde.SPaRK(), "ito diagonal", "ito general", adaptive=False),
    "SROCK": [
        wrong(lambda: nde.SROCK(stages=1)),
        wrong(lambda: nde.SROCK(damping=0.0)),
        *refuses(nde.SROCK(), "stratonovich diagonal", ode=False),
    ],
    "ButcherTableau": [
        failing(nde.TableauError, lambda: nde.ButcherTableau(a=((), (0.5,)), b=(0.0, 1.0), c=(0.0, 0.4), order=2)),
        failing(nde.TableauError, lambda: nde.ButcherTableau(a=((),), b=(1.0,), c=(0.0,), order=2)),
    ],
    "Interpolant": [
        failing(nde.TableauError, lambda: nde.Interpolant(order=1, weights=(("one",),))),  # type: ignore[arg-type]
        failing(nde.TableauError, lambda: nde.Interpolant(order=1, weights=1.0)),  # type: ignore[arg-type]
        failing(
            nde.TableauError,
            lambda: nde.ButcherTableau(
                a=((),), b=(1.0,), c=(0.0,), order=1, interpolant=nde.Interpolant(order=1, weights=((0.5,),))
            ),
        ),
    ],
}

WINDOWS = torch.rand(20, 6, 2)
STATES = torch.linspace(0.0, 1.0, 20, dtype=torch.float64)[:, None] ** torch.arange(1.0, 3.0)

KOOPMAN: dict[str, list[Provoked]] = {
    "fit_operator": [
        wrong(lambda: koopman.fit_operator(STATES, STATES[1:])),
        wrong(lambda: koopman.fit_operator(STATES, STATES, -1.0)),
    ],
    "DMD": [
        wrong(lambda: koopman.DMD(method="backward")),
        wrong(lambda: koopman.DMD(2, "optimized").fit(STATES, STATES)),
        wrong(lambda: koopman.DMD(2, "tls").fit(STATES, control=STATES[1:])),
    ],
    "EDMD": [
        wrong(lambda: koopman.EDMD().fit(STATES * math.nan)),
        wrong(lambda: koopman.EDMD(koopman.Polynomial(9)).fit(STATES)),
        wrong(lambda: koopman.EDMD().fit(STATES, ts=STATES[:, 0] ** 2)),
        wrong(lambda: koopman.EDMD().fit(STATES, control=STATES[:-1])),
        wrong(lambda: koopman.EDMD().eigenvalues),
    ],
    "ResDMD": [
        wrong(lambda: koopman.ResDMD().fit(STATES).verified(-1.0)),
        wrong(lambda: koopman.ResDMD().fit(STATES).pseudospectrum(math.inf)),
    ],
    "windows": [
        wrong(lambda: koopman.windows(STATES[:, 0], 3)),
        wrong(lambda: koopman.windows(STATES / 0.0, 3)),
        wrong(lambda: koopman.windows(STATES, 21)),
        wrong(lambda: koopman.windows(STATES, 1)),
    ],
    "discriminative": [
        wrong(lambda: koopman.scores.discriminative(WINDOWS, WINDOWS[:, 1:])),
        wrong(lambda: koopman.scores.discriminative(WINDOWS, WINDOWS * math.nan)),
        wrong(lambda: koopman.scores.discriminative(WINDOWS[:4], WINDOWS)),
        wrong(lambda: koopman.scores.discriminative(WINDOWS, WINDOWS, repeats=0)),
    ],
    "discriminative_floor": [wrong(lambda: koopman.scores.discriminative_floor(WINDOWS[:6]))],
    "predictive": [
        wrong(lambda: koopman.scores.predictive(WINDOWS[:, :, :1], WINDOWS[:, :, :1])),
        wrong(lambda: koopman.scores.predictive(WINDOWS, WINDOWS, steps=0)),
    ],
    "principal_plane": [wrong(lambda: koopman.scores.principal_plane(WINDOWS, WINDOWS[0]))],
    "draw": [wrong(lambda: koopman.scores.draw(None, WINDOWS, WINDOWS.double()))],
    "Polynomial": [wrong(lambda: koopman.Polynomial(0))],
    "Fourier": [wrong(lambda: koopman.Fourier(0)), wrong(lambda: koopman.Fourier(1, 0.0))],
    "RadialBasis": [
        wrong(lambda: koopman.RadialBasis(STATES, width=0.0)),
        wrong(lambda: koopman.RadialBasis(STATES, kernel="cubic")),
        wrong(lambda: koopman.RadialBasis(3)(STATES)),
        wrong(lambda: koopman.EDMD(koopman.RadialBasis(30)).fit(STATES)),
    ],
    "Delay": [
        wrong(lambda: koopman.Delay(1)),
        wrong(lambda: koopman.Delay(2, koopman.Delay(2))),
        wrong(lambda: koopman.EDMD(koopman.Delay(20)).fit(STATES)),
    ],
    "LearnedDictionary": [
        wrong(lambda: koopman.LearnedDictionary(2, 0)),
        wrong(lambda: koopman.LearnedDictionary(2, 1, steps=-1)),
        failing(RuntimeError, lambda: koopman.LearnedDictionary(3, 1)(STATES)),
    ],
}

TABLE: dict[str, list[Provoked]] = {**REGULARIZERS, **MODELS, **KOOPMAN, **ADJOINTS, **PROBLEMS, **FUNCTIONS, **METHODS}

ROOMS = (nde, nde.solvers, nde.adjoints, regularizers, models, koopman, koopman.scores, nde.testing)


def claimed() -> dict[str, set[str]]:
    """The errors that each public name's docstring says it raises."""
    found = {}
    for room in ROOMS:
        for name in room.__all__:
            value = getattr(room, name)
            if not (inspect.isclass(value) or inspect.isroutine(value)):
                continue
            text = (vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__) or ""
            part = re.search(r"^Raises:\n((?:    .*\n?|\n)*)", inspect.cleandoc(text), flags=re.MULTILINE)
            if part is not None:
                found[name] = set(re.findall(r"^    (\w+):", part[1], flags=re.MULTILINE))
    return found


CASES = [(name, place) for name, lines in TABLE.items() for place in range(len(lines))]


@pytest.mark.parametrize(("name", "place"), CASES)
def test_the_wrong_thing_raises_what_is_claimed(name: str, place: int) -> None:
    error, call = TABLE[name][place]
    with pytest.raises(error):
        call()


def test_every_claim_is_provoked_and_nothing_else() -> None:
    told = claimed()
    provoked = {name: {_claim(error, told.get(name, set())) for error, _ in lines} for name, lines in TABLE.items()}
    assert {name: errors for name, errors in told.items() if provoked.get(name, errors) != errors} == {}
    assert sorted(set(provoked) - set(told)) == []


def _claim(error: type[Exception], told: set[str]) -> str:
    """Under which name an error is claimed: its own, or that of its kind."""
    return next((one.__name__ for one in error.__mro__ if one.__name__ in told), error.__name__)
