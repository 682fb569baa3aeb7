"""Streams: the states are those of the whole series, whatever arrives when; kept, moved, refused."""

import io
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import nn

import neuralde as nde

F64, NAN = torch.float64, float("nan")
RECTILINEAR = partial(nde.RectilinearPath, time=0, initial=-1.0)
WINDOWS = partial(nde.LogSignaturePath, depth=2, window=3)
FIXED = dict(solver=nde.RK4(), controller=nde.ConstantStep(), dt=0.03)


def data(points=12, batch=3, missing=0.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ts = (torch.rand(points, dtype=F64, generator=generator) + 0.3).cumsum(0) / points
    xs = torch.randn(points, batch, 2, dtype=F64, generator=generator).cumsum(0) / points**0.5
    gone = torch.rand(xs.shape, generator=generator) < missing
    xs = torch.where(gone, NAN, xs)
    return ts, torch.cat([ts[:, None, None].expand(points, batch, 1), xs], -1)


class Smooth(nn.Module):
    """A field without kinks, at which adaptive solves would differ by more than their tolerance."""

    def __init__(self, channels):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 8 * channels), nn.Tanh())

    def forward(self, t, z):
        return self.net(z).unflatten(-1, (8, -1))


def model(kind, path, channels=3, **options):
    torch.manual_seed(1)
    initial = nn.Linear(3, 8, dtype=F64)
    if kind == "linear":
        return nde.LinearNeuralCDE(nde.models.LinearField(8, 3, 4).double(), initial, path=path)
    return nde.NeuralCDE(Smooth(channels).double(), initial, path=path, **options)


def streamed(layer, ts, xs, cuts):
    """The states at all observations but the first, fed in parts."""
    stream = layer.stream(ts[0], xs[0])
    return torch.cat([stream(ts[a:b], xs[a:b]) for a, b in pairwise(cuts)]), stream


@pytest.mark.parametrize("cuts", [(1, 2, 3, 7, 12), tuple(range(1, 13))])
@pytest.mark.parametrize("missing", [0.0, 0.4])
@pytest.mark.parametrize("kind", ["fixed", "linear"])
def test_the_states_are_those_of_the_whole_series(kind, missing, cuts, device):
    ts, xs = data(missing=missing)
    paths = [RECTILINEAR] if missing else [RECTILINEAR, nde.LinearPath]
    for path in paths:
        layer = model(kind, path, **(FIXED if kind == "fixed" else {})).to(device)
        layer.saveat = "observations"
        whole = layer(ts.to(device), xs.to(device))[0]
        parts, stream = streamed(layer, ts.to(device), xs.to(device), cuts)
        torch.testing.assert_close(parts, whole[1:], rtol=1e-12, atol=1e-12)
        assert torch.equal(stream.state, parts[-1])
        assert float(stream.time) == float(ts[-1])


def test_hermite_steps_that_divide_the_intervals_and_linear_ones():
    _, xs = data()
    ts = torch.arange(12, dtype=F64) / 8
    layer = model("fixed", nde.HermitePath, **(FIXED | {"dt": 1 / 16}))
    layer.saveat = "observations"
    parts, _ = streamed(layer, ts, xs, (1, 2, 6, 12))
    torch.testing.assert_close(parts, layer(ts, xs)[0][1:], rtol=1e-12, atol=1e-12)
    quick = model("linear", nde.HermitePath)
    quick.saveat = "observations"
    parts, _ = streamed(quick, ts, xs, (1, 2, 6, 12))
    torch.testing.assert_close(parts, quick(ts, xs)[0][1:], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("path", [RECTILINEAR, nde.LinearPath, nde.HermitePath])
def test_adaptive_steps_agree_to_the_tolerance(path):
    ts, xs = data()
    layer = model("adaptive", path, rtol=1e-9, atol=1e-9, saveat="observations")
    parts, _ = streamed(layer, ts, xs, (1, 2, 3, 7, 12))
    # The whole series' steps go over the knots of a Hermite path, where its second derivative jumps.
    assert (parts - layer(ts, xs)[0][1:]).abs().max() < (2e-6 if path is nde.HermitePath else 1e-9)


@pytest.mark.parametrize("kind", ["fixed", "linear"])
def test_windows(kind):
    """A row for each window that is complete, and ``finish`` for the rest."""
    ts, xs = data(12)
    channels = nde.logsignature_channels(3, 2)
    layer = model(kind, WINDOWS, channels, **(FIXED if kind == "fixed" else {}))
    ends = WINDOWS(ts, xs).knots
    layer.saveat = ends.tolist()
    whole = layer(ts, xs)[0][1:]
    stream = layer.stream(float(ts[0]), xs[0])
    rows = [stream(ts[a:b], xs[a:b]) for a, b in ((1, 2), (2, 3), (3, 9), (9, 12))]
    assert [len(x) for x in rows] == [0, 0, 2, 1]
    assert float(stream.time) == float(ends[-2])
    rows.append(stream.finish())
    torch.testing.assert_close(torch.cat(rows), whole, rtol=1e-12, atol=1e-12)
    assert len(stream.finish()) == 0
    with pytest.raises(nde.InvalidProblemError, match="NaN in a stream of a LogSignaturePath"):
        stream(ts[-1] + 1, xs[-1] * NAN)
    with pytest.raises(nde.InvalidProblemError, match="times that do not increase"):
        stream(ts[-1], xs[-1])


@pytest.mark.parametrize("path", [RECTILINEAR, nde.LinearPath, nde.HermitePath])
@pytest.mark.parametrize("kind", ["adaptive", "linear"])
def test_each_series_has_its_own_times(kind, path):
    """Rows at different times, and for some series none."""
    ts, xs = data(8)
    scale = torch.tensor([1.0, 0.5, 2.0], dtype=F64)
    own = ts.unsqueeze(-1) * scale
    xs = torch.cat([own.unsqueeze(-1), xs[..., 1:]], -1)
    layer = model(kind, path, **({} if kind == "linear" else dict(rtol=1e-9, atol=1e-9)))
    stream = layer.stream(own[0], xs[0])
    stream(own[1:3], xs[1:3])
    if path is not nde.HermitePath:
        late = own[3].clone()
        late[1] = NAN
        before = stream.state
        stream(late, xs[3])
        assert torch.equal(stream.state[1], before[1])
        assert stream.time[1] == own[2, 1]
        rest = torch.full_like(own[3], NAN)
        rest[1] = own[3, 1]
        stream(rest, xs[3])
        stream(rest * NAN, xs[3])
    else:
        with pytest.raises(nde.InvalidProblemError, match="NaN in a stream of a HermitePath"):
            stream(own[3] * torch.tensor([1.0, NAN, 1.0], dtype=F64), xs[3])
        stream(own[3], xs[3])
    last = stream(own[4:], xs[4:])[-1]
    for b in range(3):
        alone = layer(own[:, b], xs[:, b])[0]
        atol = 3e-6 if path is nde.HermitePath else 1e-8
        torch.testing.assert_close(last[b], alone, rtol=0, atol=atol)


def test_kept_moved_and_gone_on_with(device):
    ts, xs = data(missing=0.3)
    layer = model("linear", RECTILINEAR)
    stream = layer.stream(ts[0], xs[0])
    stream(ts[1:5], xs[1:5])
    buffer = io.BytesIO()
    torch.save(stream.detach().state_dict(), buffer)
    buffer.seek(0)
    again = layer.to(device).resume(torch.load(buffer, weights_only=True)).to(device)
    layer_rows = again(ts[5:].to(device), xs[5:].to(device))
    layer.to("cpu")
    torch.testing.assert_close(layer_rows.cpu(), stream(ts[5:], xs[5:]))


def test_gradients_flow_through_a_stream_until_it_is_detached():
    ts, xs = data(6)
    layer, seen = model("linear", nde.LinearPath), xs.clone().requires_grad_()
    whole = torch.autograd.grad(layer(ts, seen)[0].square().sum(), seen)[0]
    stream = layer.stream(ts[0], seen[0])
    stream(ts[1:3], seen[1:3])
    last = stream(ts[3:], seen[3:])[-1]
    torch.testing.assert_close(torch.autograd.grad(last.square().sum(), seen)[0], whole, rtol=1e-10, atol=1e-12)
    stream = layer.stream(ts[0], seen[0])
    stream(ts[1:3], seen[1:3])
    stream.detach()
    cut = torch.autograd.grad(stream(ts[3:], seen[3:])[-1].square().sum(), seen)[0]
    assert not cut[:3].any()
    assert cut[3:].any()


def test_a_state_that_is_a_pytree():
    ts, xs = data(6)
    torch.manual_seed(0)
    net = nde.models.MatrixField(8, 3, hidden=[8]).double()
    layer = nde.NeuralCDE(
        lambda t, y: {"z": net(t, y["z"])}, lambda x: {"z": x.repeat(1, 3)[:, :8]}, path=nde.LinearPath, **FIXED
    )
    stream = layer.stream(ts[0], xs[0])
    rows = stream(ts[1:], xs[1:])
    torch.testing.assert_close(rows["z"][-1], layer(ts, xs)[0]["z"], rtol=1e-12, atol=1e-12)
    assert set(stream.state_dict()) == {"ts", "xs", "state"}


TS, XS = data(6)


def fed(path, ts=TS[1:3], xs=XS[1:3]):
    return model("linear", path).stream(TS[0], XS[0])(ts, xs)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: fed(nde.NaturalCubicPath), "path: got NaturalCubicPath, which depends on later observations"),
        (lambda: fed(nde.LinearPath, xs=XS[1:3] * NAN), "xs: got NaN in a stream of a LinearPath"),
        (
            lambda: model("linear", nde.HermitePath).stream(TS[0], XS[0] * NAN),
            "xs: got NaN in a stream of a HermitePath",
        ),
        (lambda: fed(nde.LinearPath, ts=TS[:2]), r"ts: got .* at position 1; expected strictly increasing"),
        (lambda: fed(nde.LinearPath, ts=TS[1:4]), r"ts: got shape \(3,\) for xs of shape \(2, 3, 3\)"),
        (lambda: fed(nde.LinearPath, xs=XS[1:3, :2]), r"xs: got shape \(2, 2, 3\)"),
        (lambda: fed(nde.LinearPath, xs=3), "xs: got int"),
        (lambda: model("linear", nde.LinearPath).stream(TS[0], 3.0), "x0: got float"),
        (lambda: model("linear", nde.LinearPath).stream(NAN, XS[0]), "t0: got nan"),
        (lambda: model("linear", nde.LinearPath).resume({"ts": TS}), r"kept: got \['ts'\]; expected the state_dict"),
        (
            lambda: model("x", nde.LinearPath, events=nde.Event(lambda t, y: y.sum())).stream(TS[0], XS[0]),
            "events: got some",
        ),
    ],
)
def test_refusals(call, words):
    with pytest.raises(nde.InvalidProblemError, match=words):
        call()


def test_a_call_that_is_refused_changes_nothing():
    stream = model("linear", nde.LinearPath).stream(TS[0], XS[0])
    before = stream.state_dict()
    for ts, xs in ((TS[:2], XS[:2]), (TS[1:3], XS[1:3] * NAN)):
        with pytest.raises(nde.InvalidProblemError):
            stream(ts, xs)
    assert all(stream.state_dict()[name] is before[name] for name in before)
