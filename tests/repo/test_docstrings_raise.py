"""What docstrings say under "Raises" is true: each error that is claimed is provoked here, by the wrong thing.

The first word before the colon is the claim. A name may claim an error for several reasons; each line of the table below
provokes one of them, and a claim without a line, or a line without a claim, fails.
"""

import inspect
import re
from collections.abc import Callable

import pytest
import torch

import neuralde as nde
from neuralde import InvalidProblemError, models, regularizers

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

TABLE: dict[str, list[Provoked]] = {**REGULARIZERS}

ROOMS = (nde, nde.solvers, nde.adjoints, regularizers, models, nde.testing)


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
    with pytest.raises(error) as caught:
        call()
    assert type(caught.value) is error


def test_every_claim_is_provoked_and_nothing_else() -> None:
    told = claimed()
    provoked = {name: {error.__name__ for error, _ in lines} for name, lines in TABLE.items()}
    assert {name: errors for name, errors in told.items() if provoked.get(name, errors) != errors} == {}
    assert sorted(set(provoked) - set(told)) == []
