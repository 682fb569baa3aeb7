"""The Markov approximation of fractional noise: its weights, their error, and their derivative in the Hurst index."""

import math

import mpmath
import numpy as np
import pytest
import torch
from scipy import integrate, optimize

import neuralde as nde
from neuralde.solvers.paths.fractional.incomplete_gamma import ramp, scaled_upper_gamma
from neuralde.solvers.paths.fractional.weights import energy, gram, projection, unit_variance

D = torch.float64
GRID = 20.0 ** torch.linspace(-1, 1, 5, dtype=D)
HURST = (0.1, 0.3, 0.5, 0.7, 0.9)
types = pytest.mark.parametrize("kind", ["I", "II"])


def tensor(x):
    return torch.tensor(x, dtype=D)


def overlap(h, rate, kind):
    """The integral over [0, 1] of E B(t) (Y(t) - Y(0)), by quadrature of the integrands, which are one on [0, t] in both types."""
    power = h - 0.5
    recent = integrate.quad(lambda u: (1 - u) * math.exp(-rate * u), 0, 1, weight="alg", wvar=(power, 0))[0]
    if kind == "II":
        return recent / math.gamma(h + 0.5)

    def past(t):
        """The kernel on (-oo, 0), t s above the time before 0, against that of the process."""

        def each(s):
            return ((1 + s) ** power - s**power) * math.exp(-rate * t * s)

        shifted = integrate.quad(lambda s: (1 + s) ** power * math.exp(-rate * t * s), 0, 1)[0]
        singular = integrate.quad(lambda s: math.exp(-rate * t * s), 0, 1, weight="alg", wvar=(power, 0))[0]
        far = integrate.quad(each, 1, math.inf, epsabs=1e-13)
        return t ** (power + 1) * (shifted - singular + far[0]) * math.expm1(-rate * t)

    return (recent + integrate.quad(past, 0, 1)[0]) / math.gamma(h + 0.5)


@pytest.mark.parametrize("rate", [0.05, 0.7, 2.9, 3.1, 25.0])
@pytest.mark.parametrize("hurst", [0.2, 0.7])
@types
def test_the_overlap_with_fractional_motion_is_that_of_the_integrals(kind, hurst, rate):
    got = projection(tensor(hurst), tensor([rate]), kind).item()
    assert got == pytest.approx(overlap(hurst, rate, kind), rel=1e-7)


@pytest.mark.parametrize("hurst", [0.05, 0.5, 0.93])
def test_no_rate_is_too_small_or_too_large(hurst):
    """The closed forms, in 60 digits, of which float64 keeps none for small rates and overflows for large ones."""
    rates = 10.0 ** torch.linspace(-12, 12, 13, dtype=D)
    rates = torch.cat([rates, tensor([2.999999, 3.000001, 29.99999, 30.00001])])
    second, first = (projection(tensor(hurst), rates, kind) for kind in ("II", "I"))
    with mpmath.workdps(60):
        a = mpmath.mpf(hurst) + mpmath.mpf(1) / 2
        for k, x in enumerate(mpmath.mpf(rate) for rate in rates.tolist()):
            lower = [mpmath.gammainc(a + i, 0, x, regularized=True) for i in (0, 1)]
            want = x**-a * lower[0] - a * x ** (-a - 1) * lower[1]
            assert second[k].item() == pytest.approx(float(want), rel=1e-12)
            upper = mpmath.exp(x) * mpmath.gammainc(a, x, regularized=True) if x < 1e4 else None
            if upper is None:  # the asymptotic series, at its smallest terms
                terms = [mpmath.rf(1 - a, n) * (-1) ** n / x**n for n in range(20)]
                upper = x ** (a - 1) / mpmath.gamma(a) * mpmath.fsum(terms)
            want = 2 * x**-a - 1 / (x * mpmath.gamma(a + 1)) + (mpmath.exp(-x) - upper) * x ** (-a - 1)
            assert first[k].item() == pytest.approx(float(want), rel=1e-10, abs=1e-14 * float(1 / x))


def test_the_special_functions():
    for a, x in ((0.6, 3.0), (1.4, 7.0), (2.2, 300.0), (0.9, 1e5)):
        with mpmath.workdps(40):
            want = mpmath.exp(x) * mpmath.gammainc(mpmath.mpf(a), x, regularized=True)
        assert scaled_upper_gamma(tensor(a), tensor(x)).item() == pytest.approx(float(want), rel=1e-13)
    for x in (0.0, 1e-9, 0.4999, 0.5001, 3.0, 1e3, 1e300):
        with mpmath.workdps(40):
            z = mpmath.mpf(x)
            want = (mpmath.expm1(-z) + z) / z**2 if x else mpmath.mpf(1) / 2
        assert ramp(tensor(x)).item() == pytest.approx(float(want), rel=1e-14)


@types
def test_how_the_processes_overlap(kind):
    """The integral over [0, 1] of E (Y_i(t) - Y_i(0)) (Y_j(t) - Y_j(0)) in 40 digits, and the integrated variance of the motion."""
    rates = [1e-4, 0.3, 7.0, 900.0]
    got = gram(tensor(rates), kind)
    for i, x in enumerate(rates):
        for j, y in enumerate(rates):
            with mpmath.workdps(40):
                x, y = mpmath.mpf(x), mpmath.mpf(y)
                both = x + y
                if kind == "II":
                    want = (1 + mpmath.expm1(-both) / both) / both
                else:
                    want = (2 + mpmath.expm1(-x) / x + mpmath.expm1(-y) / y) / both
                assert got[i, j].item() == pytest.approx(float(want), rel=1e-14)
    for hurst in HURST:
        c = energy(tensor(hurst), kind) * (2 * hurst + 1)
        if kind == "I":
            known = 1 / (math.gamma(2 * hurst + 1) * math.sin(math.pi * hurst))
        else:
            known = 1 / (2 * hurst * math.gamma(hurst + 0.5) ** 2)
        assert c.item() == pytest.approx(known, rel=1e-13)


@pytest.mark.parametrize(
    ("kind", "rates", "errors"),
    [
        ("I", GRID, (0.554, 0.129, 0.113, 0.313, 0.714)),
        ("II", GRID, (0.479, 0.088, 0.000, 0.012, 0.008)),
        ("I", torch.logspace(-4, 3, 8, dtype=D), (0.378, 0.042, 0.005, 0.054, 0.396)),
        ("II", 100.0 ** torch.linspace(-1, 1, 5, dtype=D), (0.418, 0.057, 0.000, 0.004, 0.003)),
    ],
)
def test_the_errors_of_given_rates(kind, rates, errors):
    for hurst, error in zip(HURST, errors, strict=True):
        assert nde.FractionalNoise(hurst, kind, rates).error.item() == pytest.approx(error, abs=6e-4)


@pytest.mark.parametrize(
    ("kind", "terms", "errors"),
    [
        ("I", 8, (0.1223, 0.0204, 0.0028, 0.0260, 0.1482)),
        ("I", 12, (0.0685, 0.0079, 0.0011, 0.0102, 0.0820)),
        ("II", 8, (0.0930, 0.0067, 0.0001, 0.0005, 0.0003)),
        ("II", 12, (0.0525, 0.0020, 0.0000, 0.0001, 0.0001)),
    ],
)
def test_the_errors_of_the_default_rates(kind, terms, errors):
    for hurst, error in zip(HURST, errors, strict=True):
        assert nde.FractionalNoise(hurst, kind, terms=terms).error.item() == pytest.approx(error, abs=6e-4)
    good = (0.2, 0.25, 0.35, 0.6, 0.75) if kind == "I" else (0.16, 0.25, 0.35, 0.6, 0.85, 0.98)
    assert all(nde.FractionalNoise(hurst, kind, terms=12).error < 0.02 for hurst in good)


@pytest.mark.parametrize(("kind", "hurst", "terms"), [("I", 0.15, 5), ("I", 0.85, 10), ("II", 0.2, 8)])
def test_no_geometric_range_is_much_better_than_the_default(kind, hurst, terms):
    def error(ends):
        low, high = ends
        if not -14 < low < high < 18:
            return 1.0
        try:
            return nde.FractionalNoise(hurst, kind, torch.logspace(low, high, terms, dtype=D)).error.item()
        except nde.InvalidProblemError:
            return 1.0

    noise = nde.FractionalNoise(hurst, kind, terms=terms)
    start = noise.rates.log10()[[0, -1]].tolist()
    best = optimize.minimize(error, start, method="Nelder-Mead", options={"maxiter": 25}).fun
    assert best <= noise.error.item() <= 1.12 * best


def test_the_horizon_scales_everything():
    """B(c t) has the law of c^H B(t), and so has the approximation."""
    for kind in ("I", "II"):
        one, five = (nde.FractionalNoise(0.3, kind, horizon=horizon) for horizon in (1.0, 5.0))
        assert torch.allclose(five.rates, one.rates / 5)
        assert five.error.item() == pytest.approx(one.error.item(), rel=1e-6)
        assert five.covariance(1.0, 4.0).item() == pytest.approx(5**0.6 * one.covariance(0.2, 0.8).item(), rel=1e-6)


@types
@pytest.mark.parametrize("hurst", [0.15, 0.5, 0.7])
def test_weights_are_differentiable_in_the_hurst_index(kind, hurst):
    index = tensor(hurst).requires_grad_()
    noise = nde.FractionalNoise(index, kind, GRID)

    def difference(of):
        """By differences of the fourth order."""
        step = 1e-3
        values = [of(nde.FractionalNoise(hurst + k * step, kind, GRID)) for k in (-2, -1, 1, 2)]
        return (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step)

    slopes = torch.stack([torch.autograd.grad(noise.weights[k], index)[0] for k in range(5)])
    assert torch.allclose(
        slopes, difference(lambda other: other.weights), rtol=1e-6, atol=1e-6 * slopes.abs().max().item()
    )
    (slope,) = torch.autograd.grad(noise.variance(0.7), index)
    assert slope.item() == pytest.approx(difference(lambda other: other.variance(0.7)).item(), rel=1e-6)


@types
def test_covariances_are_those_of_the_processes(kind):
    """By the integrals over the past and over [0, s], and that of the motion itself within the error."""
    noise = nde.FractionalNoise(0.3, kind, GRID)
    weights, rates = noise.weights.tolist(), noise.rates.tolist()
    s, t = 0.4, 0.9

    def response(time, u):
        return mpmath.fsum(w * mpmath.exp(-g * (time - u)) for w, g in zip(weights, rates, strict=True))

    want = mpmath.quad(lambda u: response(s, u) * response(t, u), [0, s / 2, s])
    if kind == "I":
        want += mpmath.quad(
            lambda u: (response(s, -u) - response(0, -u)) * (response(t, -u) - response(0, -u)),
            [0, 0.1, 1, 10, 100, 1000],
        )
    assert noise.covariance(s, t).item() == pytest.approx(float(want), rel=1e-9)
    assert noise.covariance(t, s).item() == noise.covariance(s, t).item()
    ts = tensor([0.0, 0.25, 1.0])
    assert torch.allclose(noise.covariance(ts.unsqueeze(-1), ts).diagonal(), noise.variance(ts), atol=1e-14)
    fine = nde.FractionalNoise(0.3, kind, terms=12)
    assert fine.variance(1.0).item() == pytest.approx(unit_variance(tensor(0.3), kind).item(), rel=0.01)


def test_half_is_brownian_motion():
    noise = nde.FractionalNoise(0.5, "II", rates=[0.0])
    assert noise.weights.tolist() == pytest.approx([1.0], abs=1e-14)
    assert noise.covariance(0.4, 3.0).item() == pytest.approx(0.4)
    assert noise.error.item() < 1e-7
    grid = nde.FractionalNoise(0.5, "II", GRID)
    assert grid.weights.sum().item() == pytest.approx(1.00001, abs=1e-5)
    assert grid.error < 1e-4


def test_an_index_may_vary_along_time():
    varying = nde.FractionalNoise(lambda t: 0.3 + 0.4 * t, "II", GRID)
    ts = tensor([0.25, 1.0])
    for row, (t, hurst) in zip(varying.weights_at(ts), ((0.25, 0.4), (1.0, 0.7)), strict=True):
        assert torch.allclose(row, nde.FractionalNoise(hurst, "II", GRID).weights, rtol=1e-8)
        assert varying.variance(t).item() == pytest.approx(nde.FractionalNoise(hurst, "II", GRID).variance(t).item())
    early, late = (nde.FractionalNoise(hurst, "II", GRID).weights for hurst in (0.4, 0.7))
    decay = torch.exp(-GRID * 0.75)
    both = GRID.unsqueeze(-1) + GRID
    want = early @ ((1 - torch.exp(-both * 0.25)) / both * decay) @ late
    assert varying.covariance(0.25, 1.0).item() == pytest.approx(want.item(), rel=1e-9)
    several = nde.FractionalNoise(tensor([0.4, 0.7]), "II", GRID)
    assert torch.allclose(several.weights, torch.stack([early, late]))
    with pytest.raises(nde.InvalidProblemError, match=r"hurst: got a function of time.*expected weights_at"):
        _ = varying.weights


def test_the_condition_is_reported():
    noise = nde.FractionalNoise(0.3, "II", GRID)
    scale = np.sqrt(np.diag(gram(GRID, "II").numpy()))
    assert noise.condition == pytest.approx(np.linalg.cond(gram(GRID, "II").numpy() / np.outer(scale, scale)), rel=1e-3)
    assert nde.FractionalNoise(0.7, "II", terms=12).condition < 1e12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hurst": 0.0}, r"hurst: got 0.0; expected a number in \(0, 1\)"),
        ({"hurst": 1}, r"hurst: got 1; expected a number in \(0, 1\)"),
        ({"hurst": -0.3}, r"hurst: got -0.3; expected"),
        ({"hurst": tensor([0.3, 1.0])}, r"hurst: got \[0.3, 1.0\]; expected"),
        ({"hurst": math.nan}, r"hurst: got nan; expected"),
        ({"hurst": True}, r"hurst: got True; expected"),
        ({"hurst": torch.tensor(1)}, r"hurst: got .*; expected"),
        ({"kind": "III"}, r'kind: got \'III\'; expected "I" or "II"'),
        ({"rates": [1.0, 0.5]}, r"rates: got \[1.0, 0.5\]; expected .* positive and increasing"),
        ({"rates": [1.0, 1.0]}, r"rates: got \[1.0, 1.0\]; expected"),
        ({"rates": [-1.0, 1.0]}, r"rates: got \[-1.0, 1.0\]; expected"),
        ({"rates": [0.0, 1.0]}, r"rates: got \[0.0, 1.0\]; expected .* positive and"),
        ({"rates": [1.0, math.inf]}, r"rates: got \[1.0, inf\]; expected"),
        ({"rates": []}, r"rates: got \[\]; expected"),
        ({"rates": [[1.0]]}, r"rates: got \[\[1.0\]\]; expected"),
        ({"rates": "fast"}, r"rates: got 'fast'; expected"),
        ({"horizon": 0}, r"horizon: got 0; expected a positive, finite number"),
        ({"horizon": -1.0}, r"horizon: got -1.0; expected a positive"),
        ({"terms": 0}, r"terms: got 0; expected a positive int"),
        ({"terms": 2.5}, r"terms: got 2.5; expected"),
        ({"hurst": 0.7, "kind": "II", "terms": 40}, r"terms: got 40 processes that float64 cannot .* at most 2\d over"),
        (
            {"hurst": 0.7, "kind": "II", "rates": 20.0 ** torch.linspace(-1, 1, 12)},
            r"rates: got 12 processes that float64 cannot tell apart on \[0, 1\] .*; expected at most 7 over",
        ),
    ],
)
def test_bad_arguments_are_refused_by_name(arguments, message):
    with pytest.raises(nde.InvalidProblemError, match=message):
        nde.FractionalNoise(**{"hurst": 0.3, **arguments})


def test_bad_times_are_refused():
    noise = nde.FractionalNoise(0.3)
    with pytest.raises(nde.InvalidProblemError, match=r"t: got -1.0 with a time below 0"):
        noise.variance(-1.0)
    with pytest.raises(nde.InvalidProblemError, match=r"hurst\(t\): got .*; expected a number in"):
        nde.FractionalNoise(lambda t: 2.0 * t).variance(1.0)
