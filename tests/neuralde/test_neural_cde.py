"""Neural CDEs and RDEs: what they compute, that they learn, what they refuse."""

import pytest
import torch
from torch import nn

import neuralde as nde

F64 = torch.float64


def data(points=12, batch=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ts = torch.linspace(0.0, 1.0, points, dtype=F64)
    xs = torch.randn(points, batch, 2, dtype=F64, generator=generator).cumsum(0) / points**0.5
    return ts, torch.cat([ts[:, None, None].expand(points, batch, 1), xs], -1)


def model(kind=nde.NeuralCDE, channels=3, **options):
    torch.manual_seed(1)
    field = nde.models.MatrixField(6, channels, hidden=[16]).double()
    return kind(field, nn.Linear(3, 6, dtype=F64), **options)


@pytest.mark.parametrize("path", [nde.HermitePath, nde.LinearPath, nde.RectilinearPath, nde.NaturalCubicPath])
def test_the_state_is_that_of_the_problem(path):
    ts, xs = data()
    layer = model(path=path, rtol=1e-8, atol=1e-8)
    states, sol = layer(ts, xs)
    control = path(ts, xs)
    expected = nde.solve(nde.CDEProblem(layer.field, control, layer.initial(control(0.0))), rtol=1e-8, atol=1e-8)
    assert torch.equal(states, expected.y1)
    assert layer.stats.nfe == sol.stats.nfe == expected.stats.nfe


def test_each_window_is_a_step_of_the_log_signature():
    """With a field that is linear in nothing but its own constant matrix, the state moves by matrix times log-signature."""
    ts, xs = data(33)
    channels = nde.logsignature_channels(3, 2)
    matrix = torch.randn(6, channels, dtype=F64)
    layer = nde.NeuralRDE(lambda t, z: matrix.expand(4, 6, channels), nn.Linear(3, 6, dtype=F64), depth=2, window=8)
    moved = sum(nde.logsignature(xs[i : i + 9], 2) for i in range(0, 32, 8)) @ matrix.T
    torch.testing.assert_close(layer(ts, xs)[0], layer.initial(xs[0]) + moved)


def test_saved_states_regularizers_and_evaluation():
    ts, xs = data()
    layer = model(saveat=ts[::3], regularizers=[nde.regularizers.ErrorEstimate()], per_sample=True)
    states, sol = layer(ts, xs)
    assert states.shape == (4, 4, 6)
    assert sol.regularization[0].shape == (4,)
    (states.square().mean() + sol.regularization[0].mean()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())
    assert layer.eval()(ts, xs)[1].regularization == ()


@pytest.mark.parametrize("kind", ["cde", "rde"])
def test_it_learns_the_signed_area(kind):
    """The area between a path and its chord is no function of its ends; a state that the path drives can hold it."""
    ts, xs = data(9, 64, seed=3)
    area = nde.logsignature(xs[..., 1:], 2)[:, -1]
    fixed = dict(solver=nde.RK4(), controller=nde.ConstantStep(), dt=0.125)
    rough = dict(depth=2, window=4, **fixed)
    layer = model(**fixed) if kind == "cde" else model(nde.NeuralRDE, nde.logsignature_channels(3, 2), **rough)
    head = nn.Linear(6, 1, dtype=F64)
    optimizer = torch.optim.Adam([*layer.parameters(), *head.parameters()], lr=2e-2)
    for _ in range(60):
        loss = (head(layer(ts, xs)[0]).squeeze(-1) - area).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.15 * area.var(), (float(loss), float(area.var()))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: nde.NeuralCDE(None, nn.Linear(3, 6)), "field: got NoneType"),
        (lambda: nde.NeuralCDE(lambda t, z: z, 3), "initial: got int"),
        (
            lambda: nde.NeuralCDE(lambda t, z: z, nn.Linear(3, 6), path=nde.HermitePath(*data())),
            "path: got HermitePath",
        ),
        (lambda: nde.NeuralRDE(lambda t, z: z, nn.Linear(3, 6), 2, 4, path=nde.LinearPath), "path: got one"),
        (lambda: nde.NeuralRDE(lambda t, z: z, nn.Linear(3, 6, dtype=F64), 2, 40)(*data()), "window: got 40"),
        (lambda: nde.NeuralRDE(lambda t, z: z, nn.Linear(3, 6), 0, 4), "depth: got 0; expected a positive int"),
        (lambda: nde.NeuralRDE(lambda t, z: z, nn.Linear(3, 6), 2, 0), "window: got 0; expected a positive int"),
        (lambda: nde.NeuralRDE(lambda t, z: z, nn.Linear(3, 6), 1.5, 4), "depth: got 1.5"),
    ],
)
def test_refusals(make, words):
    with pytest.raises(nde.InvalidProblemError, match=words):
        make()
