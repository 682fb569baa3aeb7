"""Control paths: against SciPy and torchcde, missing values, ragged series, sides, causality, gradients, refusals."""

from itertools import pairwise

import numpy as np
import pytest
import torch
import torchcde
from scipy.interpolate import CubicSpline

import neuralde as nde

F64, NAN = torch.float64, float("nan")
PATHS = {"linear": nde.LinearPath, "hermite": nde.HermitePath, "natural": nde.NaturalCubicPath}


def series(points=20, shape=(3, 2), missing=0.0, seed=0, ends=False):
    """Irregular times, and values of which some are missing."""
    generator = torch.Generator().manual_seed(seed)
    ts = (torch.rand(points, dtype=F64, generator=generator) + 0.1).cumsum(0)
    xs = torch.randn(points, *shape, dtype=F64, generator=generator)
    gone = torch.rand(xs.shape, generator=generator) < missing
    if ends:
        gone[0] = gone[-1] = False
    return ts, torch.where(gone, NAN, xs)


def queries(ts, count=41):
    return torch.linspace(float(ts[0]), float(ts[-1]), count, dtype=F64)


def peer(name, ts, xs):
    """torchcde's path, which has the time in the dimension before the channels."""
    values = xs.movedim(0, -2)
    if name == "linear":
        return torchcde.LinearInterpolation(torchcde.linear_interpolation_coeffs(values, ts), ts)
    make = {
        "hermite": torchcde.hermite_cubic_coefficients_with_backward_differences,
        "natural": torchcde.natural_cubic_coeffs,
    }[name]
    return torchcde.CubicSpline(make(values, ts), ts)


@pytest.mark.parametrize("missing", [0.0, 0.4])
@pytest.mark.parametrize("name", PATHS)
def test_torchcde(name, missing, device):
    ts, xs = series(missing=missing)
    ours, other, at = PATHS[name](ts.to(device), xs.to(device)), peer(name, ts, xs), queries(ts)
    torch.testing.assert_close(ours(at.to(device)).cpu(), other.evaluate(at).movedim(-2, 0), rtol=0, atol=1e-12)
    torch.testing.assert_close(
        ours.derivative(at.to(device)).cpu(), other.derivative(at).movedim(-2, 0), rtol=0, atol=1e-11
    )


@pytest.mark.parametrize("name", ["linear", "natural"])
def test_scipy_through_what_was_observed(name):
    ts, xs = series(30, (4,), missing=0.5, seed=3, ends=True)
    at = queries(ts)
    values, slopes = PATHS[name](ts, xs)(at).numpy(), PATHS[name](ts, xs).derivative(at).numpy()
    for channel in range(4):
        seen = ~xs[:, channel].isnan()
        x, y = ts[seen].numpy(), xs[seen, channel].numpy()
        if name == "linear":
            np.testing.assert_allclose(values[:, channel], np.interp(at, x, y), rtol=0, atol=1e-13)
        else:
            spline = CubicSpline(x, y, bc_type="natural")
            np.testing.assert_allclose(values[:, channel], spline(at), rtol=0, atol=1e-12)
            np.testing.assert_allclose(slopes[:, channel], spline(at, 1), rtol=0, atol=1e-11)


@pytest.mark.parametrize("shape", [(2,), (3, 2), (3, 4, 2)])
@pytest.mark.parametrize("name", PATHS)
def test_shapes_and_ways_to_ask(name, shape):
    ts, xs = series(9, shape, missing=0.2)
    path, at = PATHS[name](ts, xs), queries(ts, 7)
    many = path(at), path.derivative(at)
    assert many[0].shape == many[1].shape == (7, *shape)
    for i, t in enumerate(at):
        for asked in (t, float(t), t.numpy()[()]):
            torch.testing.assert_close(path(asked), many[0][i], rtol=1e-13, atol=1e-13)
            torch.testing.assert_close(path.derivative(asked), many[1][i], rtol=1e-13, atol=1e-13)
    if len(shape) > 1:
        own = at[1:4].reshape(3, *[1] * (len(shape) - 1))
        expected = torch.stack([many[0][1 + i][i] for i in range(3)])
        torch.testing.assert_close(path(own), expected, rtol=1e-13, atol=1e-13)
    assert path.interval == (float(ts[0]), float(ts[-1]))
    assert path.channels == shape[-1]


@pytest.mark.parametrize("make", [*PATHS.values(), nde.RectilinearPath, lambda t, x: nde.LogSignaturePath(t, x, 2, 4)])
def test_series_of_different_lengths(make):
    lengths = (14, 9, 3)
    parts = [series(n, (2,), missing=0.2, seed=n, ends=True) for n in lengths]
    # The log-signature's windows count from the start, so a whole series of its own is cut alike.
    padded = torch.full((14, 3), NAN, dtype=F64), torch.full((14, 3, 2), NAN, dtype=F64)
    for b, (ts, xs) in enumerate(parts):
        padded[0][: len(ts), b], padded[1][: len(ts), b] = ts, xs
    if not isinstance(make, type):
        parts[2] = None  # shorter than a window
    together, packed = make(*padded), make([ts for ts, _ in series_of(padded)], [xs for _, xs in series_of(padded)])
    begin, end = together.interval
    for fraction in (0.3, 0.6, 0.95):
        t = begin + fraction * (end - begin)
        torch.testing.assert_close(together(t), packed(t), rtol=0, atol=0)
        for b, part in enumerate(parts):
            if part is None:
                continue
            alone = make(*part)
            first, last = alone.interval
            inside = min(max(t, first), last)
            torch.testing.assert_close(together(t)[b], alone(inside), rtol=1e-12, atol=1e-12)
            slope = alone.derivative(t) if first <= t < last else torch.zeros_like(together.derivative(t)[b])
            torch.testing.assert_close(together.derivative(t)[b], slope, rtol=1e-12, atol=1e-12)


def series_of(padded):
    for b in range(padded[0].shape[1]):
        known = ~padded[0][:, b].isnan()
        yield padded[0][known, b], padded[1][known, b]


@pytest.mark.parametrize("name", PATHS)
def test_gradients_by_values_and_times(name):
    ts, xs = series(7, (2, 2), missing=0.3, seed=5)
    at = torch.tensor([0.3, 0.55, 0.9], dtype=F64) * float(ts[-1])
    seen = ~xs.isnan()

    def ask(ts, known, at):
        path = PATHS[name](ts, torch.full_like(xs, NAN).masked_scatter(seen, known))
        return path(at), path.derivative(at), path(at[0]), path.derivative(at[1])

    inputs = (ts.clone().requires_grad_(), xs[seen].requires_grad_(), at.clone().requires_grad_())
    assert torch.autograd.gradcheck(ask, inputs)
    assert torch.autograd.gradgradcheck(ask, inputs)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_sides_of_a_knot(dtype):
    ts = torch.tensor([0.0, 0.1, 0.3, 0.7], dtype=F64)
    path = nde.LinearPath(ts, torch.tensor([[0.0], [1.0], [0.0], [2.0]], dtype=dtype))
    slopes = path.derivative(queries(ts, 2)[:1] + torch.tensor([0.05, 0.2, 0.5], dtype=F64))
    for i in (1, 2):
        knot = ts[i].to(dtype)
        below, above = torch.nextafter(knot, knot - 1), torch.nextafter(knot, knot + 1)
        for asked in (lambda t: t, lambda t: t.reshape(1)):
            side = [path.derivative(asked(t)).reshape(1) for t in (below, knot, above)]
            torch.testing.assert_close(torch.stack(side), slopes[[i - 1, i, i]], rtol=0, atol=0)


def test_nothing_later_moves_a_causal_path():
    ts, xs = series(12, (3,), missing=0.4, seed=1)
    changed = xs.clone()
    changed[8:] += 5.0
    for make, until in ((nde.RectilinearPath, 7), (lambda t, x: nde.HermitePath(t, x.nan_to_num()), 7)):
        before, after = make(ts, xs), make(ts, changed)
        at = torch.cat([queries(ts[: until + 1]), ts[: until + 1]])
        assert torch.equal(before(at), after(at))
        assert not torch.equal(before(ts[8]), after(ts[8]))
    whole = nde.NaturalCubicPath(ts, xs.nan_to_num())(ts[3] - 0.01)
    assert not torch.equal(whole, nde.NaturalCubicPath(ts, changed.nan_to_num())(ts[3] - 0.01))


def test_rectilinear_moves_the_time_first():
    ts, xs = series(5, (2,))
    xs = torch.cat([ts.unsqueeze(-1), xs], -1)
    xs[2, 1] = NAN
    path = nde.RectilinearPath(ts, xs, time=0)
    middle = (ts[:-1] + ts[1:]) / 2
    filled = xs.clone()
    filled[2, 1] = xs[1, 1]
    torch.testing.assert_close(path(ts), filled)
    torch.testing.assert_close(path(middle), torch.cat([ts[1:, None], filled[:-1, 1:]], -1))
    start = torch.tensor([[0.0, NAN], [1.0, 2.0]], dtype=F64)
    assert nde.RectilinearPath([0.0, 1.0], start, initial=-3.0)(0.0).tolist() == [0.0, -3.0]


@pytest.mark.parametrize("basis", ["lyndon", "words"])
def test_log_signature_windows(basis):
    ts, xs = series(12, (2, 3), missing=0.2, ends=True)
    path = nde.LogSignaturePath(ts, xs, 3, 4, basis=basis)
    filled = nde.LinearPath(ts, xs)(ts)
    bounds = (0, 4, 8, 11)
    assert path.knots.tolist() == ts[list(bounds)].tolist()
    for low, high in pairwise(bounds):
        expected = nde.logsignature(filled[low : high + 1], 3, basis) / (ts[high] - ts[low])
        torch.testing.assert_close(path.derivative((ts[low] + ts[high]) / 2), expected, rtol=1e-12, atol=1e-12)
    coarse = nde.LinearPath(ts[[0, 4, 8, 11]], filled[[0, 4, 8, 11]])
    at = queries(ts)
    torch.testing.assert_close(nde.LogSignaturePath(ts, xs, 1, 4).derivative(at), coarse.derivative(at))


def test_a_question_costs_the_same_for_any_length():
    """What autograd keeps of a query is a piece, not the path."""
    for points in (10, 1000):
        ts, xs = series(points, (4, 2))
        path, sizes = nde.NaturalCubicPath(ts, xs.requires_grad_()), []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, sizes=sizes: sizes.append(x.numel()) or x, lambda x: x):
            path.derivative(ts[3])
        assert sum(sizes) <= 4 * 4 * 2


XS = torch.zeros(3, 2)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: nde.LinearPath([0, 1, 1], XS), "ts: got 1.0 and then 1.0 at position 2"),
        (lambda: nde.LinearPath([0, 2, 1], XS), "ts: got 2.0 and then 1.0 at position 2"),
        (lambda: nde.LinearPath([0, NAN, 1], XS), "ts: got a time that is not finite"),
        (lambda: nde.LinearPath([0, 1], XS), r"ts: got shape \(2,\) with xs of shape \(3, 2\)"),
        (lambda: nde.LinearPath([0], XS[:1]), r"ts: got shape \(1,\)"),
        (lambda: nde.LinearPath(torch.zeros(3, 2), XS), r"ts: got shape \(3, 2\)"),
        (lambda: nde.LinearPath([0, 1, 2], XS.long()), "xs: got dtype torch.int64"),
        (lambda: nde.LinearPath([0, 1, 2], XS.numpy()), "xs: got ndarray"),
        (lambda: nde.LinearPath([0, 1, 2], XS[:, 0]), r"xs: got shape \(3,\)"),
        (lambda: nde.LinearPath([0, 1, 2], XS / 0 * XS + float("inf")), "xs: got"),
        (
            lambda: nde.LinearPath([0, 1, 2], torch.stack([XS[0], XS[0] / 0], -1).expand(3, 2, 2)),
            "channel 1 of series 0",
        ),
        (lambda: nde.LinearPath([[0, 1]], [XS]), r"xs\[0\]: got shape \(3, 2\) with \(2,\) times"),
        (lambda: nde.LinearPath([0, 1], [XS, XS]), "ts"),
        (lambda: nde.LinearPath(torch.tensor([[0.0, NAN], [1.0, 1.0]]), torch.zeros(2, 2, 1)), "NaN before the end"),
        (
            lambda: nde.LinearPath([0, 1, 2], XS)(2.5),
            r"t: got 2.5; expected a time in the path's interval \[0.0, 2.0\]",
        ),
        (lambda: nde.LinearPath([0, 1, 2], XS).derivative(torch.tensor([0.0, -1.0])), "t: got -1.0"),
        (lambda: nde.LinearPath([0, 1, 2], XS)("now"), "t: got 'now'"),
        (lambda: nde.LinearPath([0, 1, 2], XS)(torch.zeros(2, 1)), r"t: got shape \(2, 1\)"),
        (lambda: nde.RectilinearPath([0, 1, 2], XS, time=2), "time: got 2"),
        (lambda: nde.RectilinearPath([0, 1, 2], XS, initial=NAN), "initial: got nan"),
        (lambda: nde.LogSignaturePath([0, 1, 2], XS, 0, 1), "depth: got 0"),
        (lambda: nde.LogSignaturePath([0, 1, 2], XS, 2, 3), "window: got 3"),
        (lambda: nde.LogSignaturePath([0, 1, 2], XS, 2, 1.0), "window: got 1.0"),
    ],
)
def test_refusals(call, words):
    with pytest.raises(nde.InvalidProblemError, match=words):
        call()
