"""Neural ODE layers."""

import copy
import gc

import pytest
import torch

import neuralde as nde
from neuralde.models import TimeConditionedMLP


def model(**options):
    torch.manual_seed(0)
    return nde.NeuralODE(TimeConditionedMLP(3, [8], bounded=True), **options)


def test_states_are_the_solution():
    layer, x = model(rtol=1e-8, atol=1e-8).double(), torch.randn(5, 3, dtype=torch.float64)
    states, sol = layer(x)
    plain = nde.solve(nde.ODEProblem(layer.field, x, (0.0, 1.0)), rtol=1e-8, atol=1e-8)
    assert torch.equal(states, plain.y1)
    assert layer.stats == sol.stats == plain.stats


def test_regularizers_only_in_training():
    layer = model(regularizers=[nde.regularizers.ErrorEstimate()])
    x = torch.randn(5, 3)
    assert len(layer(x)[1].regularization) == 1
    assert layer.eval()(x)[1].regularization == ()


def test_gradients_reach_every_parameter_through_states_and_cost():
    layer = model(regularizers=[nde.regularizers.ErrorEstimate()])
    states, sol = layer(torch.randn(5, 3))
    (states.sum() + sol.regularization[0]).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in layer.parameters())


def test_augment_appends_zeros():
    field = TimeConditionedMLP(5, [8])
    states, _ = nde.NeuralODE(field, augment=2, saveat=[0.0, 1.0])(torch.ones(4, 3))
    assert states.shape == (2, 4, 5)
    assert torch.equal(states[0], torch.cat([torch.ones(4, 3), torch.zeros(4, 2)], dim=1))


def test_per_sample_time_reaches_the_field():
    layer = model(per_sample=True)
    states, sol = layer(torch.randn(6, 3))
    assert states.shape == (6, 3)
    assert sol.stats.nfe.shape == (6,)


def test_copies_and_state_dicts():
    layer, x = model(), torch.randn(2, 3)
    other = model()
    with torch.no_grad():
        for p in other.parameters():
            p.add_(1.0)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(layer(x)[0], other(x)[0])
    assert torch.equal(layer(x)[0], copy.deepcopy(layer)(x)[0])


@pytest.mark.parametrize(
    "adjoint",
    [
        nde.DirectAdjoint(),
        nde.DiscreteAdjoint(),
        nde.BacksolveAdjoint(),
        nde.GaussAdjoint(),
        nde.InterpolatingAdjoint(),
        nde.ForwardSensitivity(),
    ],
    ids=lambda adjoint: adjoint.name,
)
def test_training_steps_leave_no_tensor_behind(adjoint):
    layer, x = model(adjoint=adjoint), torch.randn(4, 3)

    def live():
        return sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())

    def step():
        layer(x)[0].sum().backward()
        layer.zero_grad()

    for _ in range(3):
        step()
    gc.collect()
    gc.disable()
    try:
        before = live()
        for _ in range(20):
            step()
        assert live() <= before + 2
    finally:
        gc.enable()


@pytest.mark.parametrize(("arguments", "name"), [({"augment": -1}, "augment"), ({"augment": 1.5}, "augment")])
def test_wrong_arguments_are_named(arguments, name):
    with pytest.raises(nde.InvalidProblemError, match=name):
        model(**arguments)


def test_field_must_be_callable():
    with pytest.raises(nde.InvalidProblemError, match="field"):
        nde.NeuralODE(3)
