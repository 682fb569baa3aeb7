"""The layer of linear controlled equations: its field, its states, that it learns, what it refuses."""

from functools import partial

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


def model(block=4, **options):
    torch.manual_seed(1)
    kinds = {name: options.pop(name) for name in ("complex", "offset") if name in options}
    field = nde.models.LinearField(8, 3, block, **kinds).double()
    return nde.LinearNeuralCDE(field, nn.Linear(3, 8, dtype=F64), **options)


@pytest.mark.parametrize("offset", [True, False])
@pytest.mark.parametrize("block", [1, 2, 8, "complex"])
def test_the_states_are_those_of_a_neural_cde_with_the_same_field(block, offset):
    ts, xs = data()
    layer = model(1, complex=True, offset=offset) if block == "complex" else model(block, offset=offset)
    layer.saveat = "observations"
    initial = layer.initial
    if block == "complex":
        initial = lambda x: layer.initial(x).to(torch.complex128)  # noqa: E731
    slow = nde.NeuralCDE(
        layer.field, initial, path=nde.LinearPath, solver=nde.Vern9(), rtol=1e-11, atol=1e-12, saveat="observations"
    )
    states, sol = layer(ts, xs)
    torch.testing.assert_close(states, slow(ts, xs)[0], rtol=1e-9, atol=1e-9)
    assert torch.equal(sol.ts, ts)
    assert (layer.stats.steps, layer.stats.nfe) == (11, 0)
    states.abs().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in layer.parameters())
    assert not any(p.is_complex() for p in layer.parameters())


def test_windows_are_steps():
    ts, xs = data(33)
    layer = model(path=partial(nde.LogSignaturePath, depth=2, window=8))
    states, sol = layer(ts, xs)
    assert sol.stats.steps == 4
    fine = model()(ts, xs)[0]
    rough = model(path=partial(nde.LogSignaturePath, depth=1, window=8))(ts, xs)[0]
    assert (states - fine).norm() < 0.5 * (rough - fine).norm()
    torch.testing.assert_close(layer.initial(xs[0]), model().initial(xs[0]))


def test_ragged_packed_series_and_per_series_times():
    parts = [data(n, 1, seed=n) for n in (9, 6, 4)]
    each, values = [ts for ts, _ in parts], [xs[:, 0] for _, xs in parts]
    layer = model(saveat="observations")
    listed = layer(each, values)[0]
    packed = layer(*(nn.utils.rnn.pack_sequence(x, enforce_sorted=False) for x in (each, values)))[0]
    assert torch.equal(listed, packed)
    for i, (ts, xs) in enumerate(zip(each, values, strict=True)):
        alone = layer(ts, xs)[0]
        torch.testing.assert_close(listed[: len(ts), i], alone)
        torch.testing.assert_close(listed[len(ts) :, i], alone[-1:].expand(9 - len(ts), 8))


def test_it_learns_the_signed_area():
    """No function of where a path ends: the order of what happens has to be in the state."""
    ts, xs = data(9, 64, seed=3)
    area = nde.logsignature(xs[..., 1:], 2)[:, -1]

    def trained(layer):
        head = nn.Linear(8, 1, dtype=F64)
        optimizer = torch.optim.Adam([*layer.parameters(), *head.parameters()], lr=2e-2)
        for _ in range(60):
            loss = (head(layer(ts, xs)[0]).squeeze(-1) - area).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return float(loss.detach() / area.var())

    assert trained(model(4)) < 0.1
    assert trained(model(1, offset=False)) > 0.3


def test_compiled():
    ts, xs = data()
    layer = model()
    compiled = torch.compile(lambda xs: layer(ts, xs)[0], fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(xs), layer(ts, xs)[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: nde.models.LinearField(8, 3, 3), "block: got 3 with dim = 8; expected a divisor"),
        (lambda: nde.models.LinearField(8, 3, 2, complex=True), "complex: got True with block = 2"),
        (lambda: nde.models.LinearField(0, 3), "dim: got 0"),
        (lambda: nde.LinearNeuralCDE(nn.Linear(3, 8), nn.Linear(3, 8)), "field: got Linear; expected a LinearField"),
        (lambda: nde.LinearNeuralCDE(nde.models.LinearField(8, 3), 3), "initial: got int"),
        (lambda: model()(data()[0], torch.cat([data()[1]] * 2, -1)), "mat1 and mat2|matrices: got shape"),
        (lambda: model(saveat="all")(*data()), "saveat: got 'all'"),
    ],
)
def test_refusals(make, words):
    with pytest.raises((nde.InvalidProblemError, RuntimeError), match=words):
        make()
