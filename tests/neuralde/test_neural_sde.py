"""NeuralSDE learns a drift and a diffusion, repeats its samples, and refuses what it cannot use."""

import pytest
import torch
from torch import nn

import neuralde as nde


class Ornstein(nn.Module):
    def __init__(self):
        super().__init__()
        self.rate, self.log_scale = nn.Parameter(torch.tensor(0.1)), nn.Parameter(torch.tensor(-2.0))

    def drift(self, t, y):
        return -self.rate * y

    def diffusion(self, t, y):
        return self.log_scale.exp().expand(y.shape)


@pytest.mark.parametrize(
    ("solver", "adjoint"),
    [(nde.EulerMaruyama(), None), (nde.ReversibleHeun(), nde.ReversibleAdjoint())],
    ids=["discrete", "reversible"],
)
def test_it_learns_the_mean_and_the_variance_of_a_process(solver, adjoint):
    torch.manual_seed(0)
    process = Ornstein()
    model = nde.NeuralSDE(process.drift, process.diffusion, noise="additive", solver=solver, dt=0.1, adjoint=adjoint)
    optimizer = torch.optim.Adam(process.parameters(), lr=0.1)
    mean, variance = 2.0 * torch.exp(torch.tensor(-1.0)), 0.5 * (1.0 - torch.exp(torch.tensor(-2.0))) * 0.25
    losses = []
    for _ in range(80):
        states, _ = model(torch.full((256, 1), 2.0))
        loss = (states.mean() - mean) ** 2 + (states.var() - variance) ** 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.02 * losses[0]
    assert process.rate.item() == pytest.approx(1.0, abs=0.1)
    assert process.log_scale.exp().item() == pytest.approx(0.5, abs=0.1)


def test_save_times_regularizers_and_statistics():
    model = nde.NeuralSDE(
        lambda t, y: -y, lambda t, y: 0.2 * y, saveat=[0.5, 1.0], regularizers=[nde.regularizers.ErrorEstimate()]
    )
    states, sol = model(torch.ones(4, 2), seed=1)
    assert states.shape == (2, 4, 2)
    assert sol.regularization[0] > 0
    assert model.stats.steps == sol.stats.steps
    again, plain = model.eval()(torch.ones(4, 2), path=sol.path)
    assert torch.equal(states, again)
    assert plain.regularization == ()


def test_what_is_not_callable_is_refused():
    with pytest.raises(nde.InvalidProblemError, match="diffusion: got float"):
        nde.NeuralSDE(lambda t, y: -y, 0.1)
