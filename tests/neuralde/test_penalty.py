"""Schedules, combinations, and the weight that finds itself."""

import math

import pytest
import torch

import neuralde as nde
from neuralde.regularizers import (
    STEER,
    Constant,
    Cosine,
    ErrorEstimate,
    Exponential,
    KineticEnergy,
    Penalty,
    StepCount,
    TargetNFE,
    Warmup,
)

D = torch.float64


def test_schedules_have_their_closed_forms():
    steps = [0, 1, 17, 50, 74, 75, 200]
    for step in steps:
        part = min(step / 75, 1.0)
        assert Exponential(100.0, 10.0, 75)(step) == pytest.approx(100 * math.exp(-math.log(10) * part))
        assert Cosine(100.0, 10.0, 75)(step) == pytest.approx(10 + 90 * (1 + math.cos(math.pi * part)) / 2)
        assert Warmup(Constant(3.0), 10, start=5)(step) == pytest.approx(3 * min(max((step - 5) / 10, 0), 1))
        assert Warmup(2.0, 10)(step) == pytest.approx(2 * min(step / 10, 1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Exponential(0.0, 1.0, 10), r"first: got 0\.0; expected a number, positive"),
        (lambda: Exponential(1.0, float("nan"), 10), r"last: got nan"),
        (lambda: Cosine(1.0, 0.0, 0), r"steps: got 0"),
        (lambda: Constant(-1.0), r"weight: got -1\.0"),
        (lambda: Constant("1"), r"weight: got '1'"),
        (lambda: TargetNFE(0), r"target: got 0"),
        (lambda: TargetNFE(20, count="calls"), r"count: got 'calls'"),
        (lambda: Penalty(ErrorEstimate()), r"terms: got .*; expected pairs"),
        (lambda: Penalty((1.0, ErrorEstimate())), r"terms: got .*; expected pairs"),
        (lambda: Penalty((ErrorEstimate(), None)), r"weight: got None"),
    ],
)
def test_wrong_arguments_are_named(make, message):
    with pytest.raises(nde.InvalidProblemError, match=message):
        make()


@pytest.mark.parametrize("per_sample", [False, True])
def test_a_penalty_is_the_weighted_sum(per_sample):
    penalty = Penalty((ErrorEstimate(), Exponential(8.0, 2.0, 2)), (KineticEnergy(), 0.5), (STEER(0.1), 0.0))
    y0 = torch.ones(3, 2, dtype=D, requires_grad=True)
    problem = nde.ODEProblem(lambda t, y: -y * y, y0, (0.0, 1.0))
    sol = nde.solve(problem, regularizers=penalty.regularizers, per_sample=per_sample)
    error, energy, _ = (value.mean() for value in sol.regularization)
    torch.testing.assert_close(penalty(sol, 1), 4.0 * error + 0.5 * energy)
    assert torch.autograd.grad(penalty(sol, 1), y0)[0].abs().sum() > 0
    with pytest.raises(nde.InvalidProblemError, match=r"solution: has 0 regularization values; expected 3"):
        penalty(nde.solve(problem))
    assert Penalty()(nde.solve(problem)).item() == 0.0


def test_the_weight_learns_in_training_only_and_goes_on_from_a_checkpoint():
    problem = nde.ODEProblem(lambda t, y: -y, torch.ones(2, dtype=D), (0.0, 1.0))
    penalty = Penalty((StepCount(), TargetNFE(5.0)), (ErrorEstimate(), 1.0))
    sol = nde.solve(problem, regularizers=penalty.regularizers)
    with torch.no_grad():
        penalty(sol)
    assert penalty.weights() == (1.0, 1.0)
    for _ in range(3):
        penalty(sol)
    assert penalty.weights()[0] > 1.0
    other = Penalty((StepCount(), TargetNFE(5.0)), (ErrorEstimate(), 1.0))
    other.load_state_dict(penalty.state_dict())
    assert other.weights() == penalty.weights()
    penalty(sol)
    other(sol)
    assert other.weights() == penalty.weights()


def test_a_weight_that_warms_up_learns_once_it_has_begun():
    problem = nde.ODEProblem(lambda t, y: -y, torch.ones(2, dtype=D), (0.0, 1.0))
    penalty = Penalty((StepCount(), Warmup(TargetNFE(5.0), steps=4, start=2)))
    sol = nde.solve(problem, regularizers=penalty.regularizers)
    for step in (0, 1):
        penalty(sol, step)
    assert penalty.weights(6) == (1.0,)
    for step in (2, 3, 4):
        penalty(sol, step)
    alone = TargetNFE(5.0)
    for _ in range(3):
        alone.observe(sol)
    assert alone() > 1.0
    assert penalty.weights(6) == (alone(),)
    assert penalty.weights(4) == (0.5 * alone(),)
    other = Penalty((StepCount(), Warmup(TargetNFE(5.0), steps=4, start=2)))
    other.load_state_dict(penalty.state_dict())
    assert other.weights(6) == penalty.weights(6)


def test_the_weight_stays_inside_its_span_and_comes_back_at_once():
    weight = TargetNFE(20.0, first=0.1, span=100.0, memory=1.0)
    for _ in range(1000):
        weight.observe_count(200.0)
    assert weight() == pytest.approx(10.0)
    for _ in range(100):
        weight.observe_count(2.0)
    assert weight() == pytest.approx(0.001)


def test_several_samples_count_by_their_mean():
    weight = TargetNFE(10.0)
    problem = nde.ODEProblem(lambda t, y: -y, torch.tensor([[1.0], [50.0]], dtype=D), (0.0, 1.0))
    sol = nde.solve(problem, per_sample=True)
    weight.observe(sol)
    assert weight.mean == float(sol.stats.nfe.double().mean())


def trained(target, steps=150, first=1.0):
    """A small model that learns to turn points by an angle that depends on their distance; the calls it then needs."""
    torch.manual_seed(0)
    model_field = nde.models.TimeConditionedMLP(2, hidden=[16]).to(D)
    penalty = Penalty() if target is None else Penalty((StepCount(), TargetNFE(target, first=first)))
    options = dict(rtol=1e-5, atol=1e-5, adjoint=nde.DirectAdjoint())
    model = nde.NeuralODE(model_field, regularizers=penalty.regularizers, **options)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    x = torch.randn(32, 2, dtype=D)
    angle = 3.0 * x.norm(dim=1)
    wanted = torch.stack(
        [x[:, 0] * angle.cos() - x[:, 1] * angle.sin(), x[:, 0] * angle.sin() + x[:, 1] * angle.cos()], 1
    )
    counts = []
    for step in range(steps):
        states, sol = model(x)
        loss = (states - wanted).square().mean() + penalty(sol, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        counts.append(sol.stats.nfe)
    return sum(counts[-30:]) / 30


@pytest.mark.parametrize(
    ("target", "first"),
    [(26, 1.0), pytest.param(26, 0.01, marks=pytest.mark.slow), pytest.param(38, 1.0, marks=pytest.mark.slow)],
)
def test_training_reaches_the_target_whatever_the_first_weight(target, first):
    # A step of Tsit5 is 6 calls: a mean within half a step of the target is on it.
    assert abs(trained(target, first=first) - target) <= 3


def test_without_it_the_same_model_needs_many_more():
    assert trained(None) > 1.5 * 26
