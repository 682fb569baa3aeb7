"""Exact fractional Brownian paths: their law, number by number and in samples, and what a path is a function of."""

import itertools
import subprocess
import sys

import mpmath
import numpy as np
import pytest
import torch
from scipy import stats
from scipy.linalg import solve_toeplitz

import neuralde.solvers as nde
from neuralde.solvers.paths.fractional import cholesky, circulant, volterra
from neuralde.solvers.paths.fractional.covariance import covariance, crossed_covariance, noise_autocovariance

F64 = torch.float64
HURSTS = (0.05, 0.2, 0.3, 0.5, 0.7, 0.8, 0.95, 0.99)
WAYS = (("I", "circulant"), ("I", "cholesky"), ("II", "convolution"), ("II", "cholesky"))
ALPHA = 1e-4
ways = pytest.mark.parametrize(("kind", "method"), WAYS)
hursts = pytest.mark.parametrize("hurst", HURSTS)


def path(shape=(4,), seed=3, t0=0.0, t1=2.0, hurst=0.3, kind="I", **options):
    return nde.FractionalBrownianPath(shape, seed, t0, t1, hurst, kind, dtype=F64, **options)


def grid(n, t1=2.0):
    return torch.linspace(0.0, t1, n + 1, dtype=F64)


@pytest.fixture
def unit_normals(monkeypatch):
    """Entry e has the e-th unit vector in place of its normals, so that samples are the columns of the exact square root.

    Returns how many entries there must be: as many as normals are taken.
    """

    def install(most):
        def normals(keys, count, stream=0):
            found = torch.zeros(len(keys), count, dtype=F64)
            numbers = keys - stream * count
            inside = (numbers >= 0) & (numbers < count)
            found[inside.nonzero()[:, 0], numbers[inside]] = 1.0
            return found

        for module in (circulant, volterra, cholesky):
            monkeypatch.setattr(module, "normals", normals)
        return most

    return install


def numbered(one):
    """A path whose entries' keys are 0, 1, 2, ..."""
    one._keys = torch.arange(one._keys.numel()).reshape(one.shape)
    return one


def mp_covariance(s, t, hurst, kind):
    s, t, h = *sorted((mpmath.mpf(s), mpmath.mpf(t))), mpmath.mpf(hurst)
    if kind == "I":
        return (s ** (2 * h) + t ** (2 * h) - (t - s) ** (2 * h)) / 2
    # The integral itself, with u = s (1 - v**(1 / alpha)) so that the integrand is smooth at the end.
    alpha = h + mpmath.mpf(1) / 2
    return (
        2
        * h
        * s**alpha
        / alpha
        * mpmath.quad(lambda v: (t - s + s * v ** (1 / alpha)) ** (alpha - 1), [0, 1e-6, 1e-3, 1])
    )


@pytest.mark.parametrize("kind", ["I", "II"])
@pytest.mark.parametrize("hurst", [0.05, 0.3, 0.499999, 0.5, 0.7, 0.99])
def test_the_covariance_is_the_integral(hurst, kind):
    with mpmath.workdps(30):
        for s, t in ((0.3, 1.0), (0.5, 1.0), (0.9, 1.0), (1.9, 1.3)):
            got = covariance(*torch.tensor([s, t], dtype=F64), torch.tensor(hurst, dtype=F64), kind)
            assert got.item() == pytest.approx(float(mp_covariance(s, t, hurst, kind)), rel=1e-13)


def test_the_covariance_of_type_two_at_times_close_together():
    with mpmath.workdps(40):
        for hurst, gap in itertools.product((0.01, 0.3, 0.5, 0.9, 0.999), (0.0, 1e-12, 1e-6, 0.49, 0.51)):
            s = mpmath.mpf(1.0 - gap)
            a = mpmath.mpf(hurst) + mpmath.mpf(1) / 2
            expected = 2 * mpmath.mpf(hurst) * s**a / a * mpmath.hyp2f1(1 - a, 1, 1 + a, s)
            got = covariance(*torch.tensor([1.0 - gap, 1.0], dtype=F64), torch.tensor(hurst, dtype=F64), "II")
            assert got.item() == pytest.approx(float(expected), rel=3e-14)


def test_the_autocovariance_of_far_increments():
    """The plain formula loses all digits there: 70,000**1.98 is 4e9."""
    with mpmath.workdps(40):
        for hurst in (0.01, 0.3, 0.9, 0.999):
            got = noise_autocovariance(70_001, torch.tensor(hurst, dtype=F64))
            for k in (0, 1, 2, 16, 17, 1000, 70_000):
                powers = [abs(mpmath.mpf(k + i)) ** (2 * mpmath.mpf(hurst)) for i in (-1, 0, 1)]
                expected = float((powers[0] - 2 * powers[1] + powers[2]) / 2)
                assert got[k].item() == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("n", [1, 2, 16, 1024, 65_536])
@pytest.mark.parametrize("hurst", [0.001, 0.05, 0.3, 0.5, 0.8, 0.99, 0.999])
def test_the_embedding_has_no_negative_eigenvalue(hurst, n):
    row = noise_autocovariance(n + 1, torch.tensor(hurst, dtype=F64))
    eigenvalues = torch.fft.rfft(torch.cat([row, row[1:-1].flip(0)])).real
    assert eigenvalues.min() > 0


def test_lengths_that_an_ffts_likes():
    for n in (1, 2, 7, 11, 97, 1000, 1025, 65_537):
        found = circulant.fast_length(n)
        plain = next(m for m in range(n, 2 * n + 2) if not _rest(m))
        assert found == plain


def _rest(m):
    for prime in (2, 3, 5):
        while m % prime == 0:
            m //= prime
    return m - 1


@ways
@hursts
def test_the_square_root_of_the_covariance_is_exact(hurst, kind, method, unit_normals):
    """All normals are put through the sampler one by one: the outer product of what they give is the covariance."""
    n = 12
    most = {"circulant": 2 * n + 2, "convolution": (volterra.DEGREES + 1) * n, "cholesky": n}[method]
    one = numbered(path((unit_normals(most),), hurst=hurst, kind=kind, method=method))
    ts = grid(n)[1:]
    assert one.method(ts) == method
    x = one.sample(ts)
    expected = one.covariance(ts.unsqueeze(1), ts)
    assert (x @ x.T - expected).abs().max() < 3e-13 * expected.max()


@pytest.mark.parametrize("hurst", [0.05, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("method", ["convolution", "cholesky"])
def test_type_two_and_its_driving_motion_have_their_joint_covariance(hurst, method, unit_normals):
    n = 9
    most = (volterra.DEGREES + 1) * n if method == "convolution" else 2 * n
    one = numbered(path((unit_normals(most),), hurst=hurst, kind="II", method=method))
    ts = grid(n)[1:]
    x, w = one.sample_with_brownian(ts)
    assert torch.allclose(w @ w.T, torch.minimum(ts.unsqueeze(1), ts), atol=1e-13)
    h = torch.tensor(hurst, dtype=F64)
    assert torch.allclose(x @ w.T, crossed_covariance(ts.unsqueeze(1), ts, h), atol=3e-13)
    assert torch.allclose(x @ x.T, one.covariance(ts.unsqueeze(1), ts), atol=3e-13)
    # Beside the integral itself.
    with mpmath.workdps(20):
        s, t, a = mpmath.mpf(ts[2].item()), mpmath.mpf(ts[6].item()), mpmath.mpf(hurst) + mpmath.mpf(1) / 2
        integral = mpmath.sqrt(2 * mpmath.mpf(hurst)) * mpmath.quad(lambda u: (t - u) ** (a - 1), [0, s])
    assert (x @ w.T)[6, 2].item() == pytest.approx(float(integral), rel=1e-11)


def test_the_motion_beside_leaves_the_values_alone():
    for method, ts in (("convolution", grid(30)), ("cholesky", grid(30)[1:] ** 2 / 2)):
        x, w = path(kind="II").sample_with_brownian(ts)
        assert path(kind="II").method(ts) == method
        assert torch.allclose(x, path(kind="II").sample(ts), atol=1e-13)
        assert w.shape == x.shape
    assert w[-1].std() > 0


@ways
@pytest.mark.parametrize("hurst", [0.05, 0.5, 0.9])
def test_a_bridge_has_the_conditional_covariance(hurst, kind, method, unit_normals):
    n = 8
    most = {"circulant": 2 * n + 2, "convolution": (volterra.DEGREES + 1) * n, "cholesky": n}[method]
    ts, at = grid(n)[1:], torch.tensor([2, 7])
    one = path((unit_normals(most),), hurst=hurst, kind=kind, method=method)
    bridge = numbered(one.bridge(ts[at], torch.zeros(2, 1, dtype=F64)))
    x = bridge.sample(ts)
    k = one.covariance(ts.unsqueeze(1), ts)
    expected = k - k[:, at] @ torch.linalg.solve(k[at][:, at], k[at])
    assert torch.allclose(x @ x.T, expected, atol=1e-12)
    # Given values come back, and move the others by the conditional mean.
    values = torch.tensor([[0.4], [-1.3]], dtype=F64)
    moved = numbered(one.bridge(ts[at], values)).sample(ts)
    assert torch.equal(moved[at], values.expand(2, most))
    assert torch.allclose(moved - x, (k[:, at] @ torch.linalg.solve(k[at][:, at], values)).expand_as(x), atol=1e-12)


def test_a_bridge_given_in_parts_is_one_bridge(unit_normals):
    n = 8
    ts, values = grid(n)[1:], torch.tensor([0.3, -0.2, 1.0], dtype=F64).unsqueeze(1)
    one = path((unit_normals(n),), method="cholesky")
    whole = numbered(one.bridge(ts[[1, 4, 6]], values)).sample(ts)
    parts = numbered(one.bridge(ts[[4]], values[[1]]).bridge(ts[[1, 6]], values[[0, 2]])).sample(ts)
    assert torch.allclose(whole, parts, atol=1e-13)


def test_refining_a_path_gives_the_law_of_the_fine_grid():
    ts = grid(8, 1.0)
    for kind in ("I", "II"):
        one = path((60_000,), kind=kind, hurst=0.2, t1=1.0)
        coarse = one.sample(ts[::4])
        fine = one.bridge(ts[4::4], coarse[1:]).sample(ts)
        assert torch.equal(fine[::4], coarse)
        _check_covariance(fine[1:], one.covariance(ts[1:].unsqueeze(1), ts[1:]))


def _check_covariance(x, expected):
    """No entry of a sample covariance is further from the true one than its deviation allows."""
    deviation = ((expected**2 + expected.diagonal().outer(expected.diagonal())) / x.shape[1]).sqrt()
    z = ((x @ x.T / x.shape[1] - expected) / deviation).abs().max().item()
    assert 2 * stats.norm.sf(z) * expected.numel() > ALPHA


def check_law(n, hurst, kind, paths=4000):
    """Values, increments of many lengths and second differences are normal with the true variance; increments correlate."""
    one = path((paths,), seed=n, hurst=hurst, kind=kind)
    ts = grid(n)
    x = one.sample(ts)
    v = one.covariance
    rows = [(x[i], v(ts[i], ts[i])) for i in (1, n // 2, n)]
    for i, lag in ((0, 1), (n // 2, 1), (n // 3, max(n // 8, 1)), (n - 1, 1), (0, n // 2)):
        a, b = ts[i], ts[i + lag]
        rows.append((x[i + lag] - x[i], v(b, b) - 2 * v(a, b) + v(a, a)))
    a, b, c = ts[n - 2], ts[n - 1], ts[n]
    second = v(a, a) + 4 * v(b, b) + v(c, c) - 4 * v(a, b) - 4 * v(b, c) + 2 * v(a, c)
    rows.append((x[n] - 2 * x[n - 1] + x[n - 2], second))
    found = [stats.kstest((row / variance.sqrt()).numpy(), "norm").pvalue * len(rows) for row, variance in rows]
    assert min(found) > ALPHA
    at = torch.tensor([1, 2, n // 4, n // 2, n - 1, n])
    _check_covariance(x[at], v(ts[at].unsqueeze(1), ts[at]))


@hursts
@pytest.mark.parametrize("kind", ["I", "II"])
def test_samples_have_their_law(hurst, kind):
    check_law(16, hurst, kind)


@pytest.mark.parametrize("hurst", [0.05, 0.5, 0.99])
def test_long_samples_have_their_law(hurst):
    check_law(1024, hurst, "I", 2000)
    check_law(128, hurst, "II", 1000)


@pytest.mark.slow
@hursts
def test_samples_of_65536_points_have_their_law(hurst):
    check_law(4096, hurst, "I", 2000)
    check_law(65_536, hurst, "I", 500)
    check_law(1024, hurst, "II", 1000)
    check_law(65_536, hurst, "II", 60)


@pytest.mark.parametrize("hurst", [0.05, 0.3, 0.9])
def test_whitened_paths_are_white(hurst):
    """One long path, decorrelated by a Toeplitz solver that is SciPy's: every number is a standard normal."""
    n = 1000
    x = path((3,), hurst=hurst, t1=float(n)).sample(grid(n, float(n)))
    noise = x.diff(dim=0).numpy()
    row = noise_autocovariance(n, torch.tensor(hurst, dtype=F64)).numpy()
    # The quadratic form of n normals has a chi-squared law.
    form = np.einsum("tk,tk->k", noise, solve_toeplitz(row, noise))
    assert all(1e-3 < stats.chi2(n).cdf(value) < 1 - 1e-3 for value in form)


def test_scales():
    """With unit_variance=False the process is 1 / Gamma(H + 1/2) times the integral."""
    for hurst in (0.1, 0.5, 0.8):
        with mpmath.workdps(20):
            h = mpmath.mpf(hurst)
            one = 1 / (mpmath.gamma(2 * h + 1) * mpmath.sin(mpmath.pi * h))
            two = 1 / (2 * h * mpmath.gamma(h + mpmath.mpf(1) / 2) ** 2)
        for kind, variance in (("I", one), ("II", two)):
            plain, scaled = (path(kind=kind, hurst=hurst, unit_variance=unit) for unit in (True, False))
            assert plain.variance(1.0).item() == pytest.approx(1.0, rel=1e-14)
            assert scaled.variance(1.0).item() == pytest.approx(float(variance), rel=1e-12)
            ratio = float(variance) ** 0.5
            assert torch.allclose(scaled.sample(grid(9)), ratio * plain.sample(grid(9)), rtol=1e-12)


def test_half_is_brownian_motion():
    x = path((50_000,), hurst=0.5).sample(grid(4))
    for kind in ("I", "II"):
        steps = path((20_000,), hurst=0.5, kind=kind).sample(grid(4)).diff(dim=0) / 0.5**0.5
        assert min(stats.kstest(row.numpy(), "norm").pvalue for row in steps) > ALPHA
    both = path(kind="II", hurst=0.5).sample_with_brownian(grid(4))
    assert torch.allclose(*both, atol=1e-14)
    assert (x[1] * (x[2] - x[1])).mean().abs() < 4 * 0.5 / 50_000**0.5


@ways
def test_a_path_is_a_function_of_seed_sample_and_grid(kind, method, device):
    def one(shape, dtype=F64, **options):
        options = dict(device=device, method=method, kind=kind) | options
        return path(shape, **options).sample(grid(20).to(dtype))

    whole = one((6, 3))
    assert torch.equal(whole, one((6, 3)))
    assert whole.shape == (21, 6, 3)
    assert torch.equal(whole[0], torch.zeros_like(whole[0]))
    # To rounding: an FFT and a matrix product of another size round otherwise.
    alone = torch.cat([one((1, 3), samples=[i]) for i in range(6)], 1)
    assert torch.allclose(whole, alone, atol=1e-13)
    assert torch.allclose(whole, one((6, 3), device="cpu").to(device), atol=1e-12)
    taken = path((6, 3), method=method, kind=kind, device=device).take(torch.tensor([4, 1], device=device))
    assert torch.allclose(taken.sample(grid(20)), whole[:, [4, 1]], atol=1e-13)
    assert not torch.allclose(whole, one((6, 3), seed=4), atol=0.1)
    single = one((6, 3), dtype=torch.float32)
    assert torch.allclose(single, whole, atol=1e-6)


def test_another_process_gets_the_same_path():
    code = (
        "import torch, neuralde.solvers as nde; "
        "p = nde.FractionalBrownianPath((4,), 3, 0.0, 2.0, 0.3, dtype=torch.float64); "
        "print(p.sample(torch.linspace(0.0, 2.0, 6, dtype=torch.float64))[-1].tolist())"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    here = path().sample(grid(5))[-1].tolist()
    assert [float(x) for x in printed.strip("[]\n").split(",")] == pytest.approx(here, abs=1e-13)


def test_a_path_is_independent_of_brownian_motion_with_its_seed_and_of_its_bridge():
    n = 40_000
    x = path((n,), hurst=0.5, t1=1.0).sample([1.0])[0]
    w = nde.BrownianPath((n,), 3, 0.0, 1.0, dtype=F64)(0.0, 1.0)
    b = path((n,), hurst=0.5, t1=1.0).bridge([1.0], torch.zeros(1, n)).sample([0.5, 1.0])[0]
    assert abs((x * w).mean().item()) < 4 / n**0.5
    assert abs((x * b).mean().item()) < 4 * 0.5 / n**0.5
    assert b.var().item() == pytest.approx(0.25, rel=0.04)


def test_components_are_correlated_as_asked():
    matrix = torch.tensor([[1.0, 0.7, 0.0], [0.7, 1.0, -0.4], [0.0, -0.4, 1.0]], dtype=F64)
    for kind in ("I", "II"):
        one = path((30_000, 3), kind=kind, hurst=0.2, t1=1.0, correlation=matrix)
        x = one.sample(grid(4, 1.0))
        for s, t in ((1, 1), (2, 4)):
            covariance = one.covariance(s / 4, t / 4).item()
            got = torch.einsum("bi,bj->ij", x[s], x[t]) / 30_000
            assert (got - covariance * matrix).abs().max() < 5 * 1.0 / 30_000**0.5
        assert torch.allclose(one.take(torch.arange(5)).sample(grid(4, 1.0)), x[:, :5], atol=1e-14)
    two = path((30_000, 3), kind="II", hurst=0.2, t1=1.0, correlation=matrix)
    _, w = two.sample_with_brownian(grid(4, 1.0))
    assert (torch.einsum("bi,bj->ij", w[-1], w[-1]) / 30_000 - matrix).abs().max() < 5 / 30_000**0.5
    # A bridge keeps it, and gives what was given.
    given = torch.randn(1, 30_000, 3, dtype=F64)
    pinned = two.bridge([1.0], given).sample(grid(4, 1.0))
    assert torch.equal(pinned[-1], given[0])
    k = [two.covariance(a, b).item() for a, b in ((0.5, 0.5), (0.5, 1.0), (1.0, 1.0))]
    rest = pinned[2] - k[1] / k[2] * given[0]
    got = torch.einsum("bi,bj->ij", rest, rest) / 30_000
    assert (got - (k[0] - k[1] ** 2 / k[2]) * matrix).abs().max() < 5 * 0.5 / 30_000**0.5


def test_methods_are_said_and_never_switched():
    uniform, odd = grid(10), torch.tensor([0.1, 0.5, 0.6], dtype=F64)
    assert [path(kind=kind).method(uniform) for kind in ("I", "II")] == ["circulant", "convolution"]
    assert [path(kind=kind).method(odd) for kind in ("I", "II")] == ["cholesky"] * 2
    assert path(method="cholesky").method(uniform) == "cholesky"
    assert path().method(uniform[1:]) == path().method(uniform[4:]) == path().method([0.7]) == "circulant"
    assert path().method(grid(10).float()) == "circulant"
    assert path(t1=1e4).method(grid(60_000, 1e4).float()) == "circulant"
    with pytest.raises(nde.InvalidProblemError, match=r"at position 1 is .* off the uniform grid"):
        path(method="circulant").sample(odd)
    with pytest.raises(nde.InvalidProblemError, match="steps before the first time"):
        path(method="circulant").sample(uniform[:-1] + 0.05)
    with pytest.raises(nde.InvalidProblemError, match=r"matrix of 0\.7 GiB"):
        path().sample(torch.linspace(0.0, 1.0, 10_000, dtype=F64) ** 2)
    # A bridge is sampled on the union.
    bridge = path().bridge([2.0], torch.zeros(1))
    assert (bridge.method(uniform), bridge.method(uniform[:5])) == ("circulant", "cholesky")
    assert path().bridge([0.33], torch.zeros(1)).method(uniform) == "cholesky"


def test_times_that_are_not_asked_for_change_nothing():
    """A grid that begins some steps after t0 is the end of the one from t0 on."""
    for kind in ("I", "II"):
        whole = path(kind=kind).sample(grid(10))
        assert torch.allclose(path(kind=kind).sample(grid(10)[1:]), whole[1:], atol=1e-13)
        assert torch.allclose(path(kind=kind).sample(grid(10)[4:]), whole[4:], atol=1e-13)


def test_a_path_answers_on_one_grid():
    one = path()
    first = one.sample(grid(8))
    assert torch.equal(one.sample(grid(8)), first)
    with pytest.raises(nde.InvalidProblemError, match=r"contradict.*bridge"):
        one.sample(grid(4))
    with pytest.raises(nde.InvalidProblemError, match="contradict"):
        one.take(torch.tensor([0])).sample(grid(4))
    # By Cholesky a value depends on earlier times only.
    ts = torch.tensor([0.1, 0.5, 0.6, 1.7], dtype=F64)
    for kind in ("I", "II"):
        other = path(kind=kind)
        some = other.sample(ts[:2])
        assert torch.allclose(other.sample(ts)[:2], some, atol=1e-14)
        assert torch.allclose(other.sample(ts[:3])[:2], some, atol=1e-14)
        with pytest.raises(nde.InvalidProblemError, match="contradict"):
            other.sample(ts[1:])


@ways
def test_samples_are_differentiable_in_the_hurst_index(kind, method):
    def total(hurst, unit=False):
        one = path((2, 2), hurst=hurst, kind=kind, method=method, unit_variance=unit)
        x = one.sample(grid(6))
        return (x * torch.arange(x.numel()).reshape(x.shape).cos()).sum()

    for value in (0.2, 0.5, 0.85):
        hurst = torch.tensor(value, dtype=F64, requires_grad=True)
        (got,) = torch.autograd.grad(total(hurst), hurst)
        step = 1e-5
        expected = (total(value + step) - total(value - step)) / (2 * step)
        assert got.item() == pytest.approx(expected.item(), rel=1e-6, abs=1e-8)


def test_bridges_are_differentiable_in_what_is_given():
    values = torch.tensor([[0.3, 1.0], [-0.7, 0.2]], dtype=F64, requires_grad=True)
    hurst = torch.tensor(0.3, dtype=F64, requires_grad=True)

    def moved(values, hurst):
        return path((2,), hurst=hurst).bridge([0.5, 1.5], values).sample(grid(4))

    assert torch.autograd.gradcheck(moved, (values, hurst))


def test_dtypes_and_shapes():
    ts = grid(5)
    for shape in ((), (0,), (3,), (2, 3, 4)):
        x = nde.FractionalBrownianPath(shape, 1, 0.0, 2.0, 0.3, dtype=torch.float32).sample(ts)
        assert x.shape == (6, *shape)
        assert x.dtype == torch.float32
    assert nde.FractionalBrownianPath((3,), 1, 0.0, 2.0, 0.3).sample(ts).dtype == torch.get_default_dtype()
    double = path((3,)).sample(ts)
    single = nde.FractionalBrownianPath((3,), 3, 0.0, 2.0, 0.3, dtype=torch.float32).sample(ts)
    assert torch.equal(double.float(), single)
    assert torch.allclose(path(t0=5.0, t1=7.0).sample(ts + 5.0), path().sample(ts), atol=1e-12)
    assert "hurst=0.3, kind='I'" in repr(path())


REFUSED = {
    "hurst 0": ("hurst", lambda: path(hurst=0.0)),
    "hurst 1": ("hurst", lambda: path(hurst=1.0)),
    "hurst 2": ("hurst", lambda: path(hurst=torch.tensor(2.0))),
    "hurst NaN": ("hurst", lambda: path(hurst=float("nan"))),
    "hurst for each sample": ("hurst", lambda: path(hurst=torch.tensor([0.3, 0.4]))),
    "hurst a word": ("hurst", lambda: path(hurst="rough")),
    "horizon 0": ("t1", lambda: path(t1=0.0)),
    "backwards": ("t1", lambda: path(t1=-1.0)),
    "endless": ("t1", lambda: path(t1=float("inf"))),
    "kind": ("kind", lambda: path(kind="III")),
    "method": ("method", lambda: path(method="hosking")),
    "method of the other kind": ("method", lambda: path(kind="II", method="circulant")),
    "method of the first kind": ("method", lambda: path(kind="I", method="convolution")),
    "dtype": ("dtype", lambda: nde.FractionalBrownianPath((1,), 0, 0.0, 1.0, 0.3, dtype=torch.float16)),
    "shape": ("shape", lambda: path(3)),
    "correlation's shape": ("correlation", lambda: path((2, 3), correlation=torch.eye(2))),
    "correlation of nothing": ("correlation", lambda: path((), correlation=torch.eye(1))),
    "correlation": ("correlation", lambda: path((2,), correlation=torch.tensor([[1.0, 2.0], [2.0, 1.0]]))),
    "correlation's diagonal": ("correlation", lambda: path((2,), correlation=2 * torch.eye(2))),
    "unsorted": (r"ts: got 1.0 and then 0.5 at position 1", lambda: path().sample([1.0, 0.5])),
    "equal": ("ts", lambda: path().sample([0.5, 0.5])),
    "NaN": ("ts", lambda: path().sample([0.5, float("nan")])),
    "one number": ("ts", lambda: path().sample(0.5)),
    "no dimension": ("ts", lambda: path().sample(torch.tensor(0.5))),
    "none": ("ts", lambda: path().sample([])),
    "only the start": ("ts", lambda: path().sample([0.0])),
    "before the start": ("ts", lambda: path().sample([-0.5, 0.5])),
    "behind the end": ("ts", lambda: path().sample([0.5, 2.5])),
    "a matrix": ("ts", lambda: path().sample(torch.rand(2, 2))),
    "live times": ("ts", lambda: path().sample(torch.tensor([0.5, 1.0], requires_grad=True))),
    "times that float64 hardly tells apart": (
        r"ts: got 40 times, the closest 2\.2",
        lambda: path(hurst=0.99).sample(1.0 + 2.0**-52 * torch.arange(40, dtype=F64)),
    ),
    "values at the start": ("ts", lambda: path().bridge([0.0, 1.0], torch.zeros(2, 4))),
    "values twice": ("given already", lambda: path().bridge([1.0], torch.zeros(1)).bridge([1.0], torch.zeros(1))),
    "values' shape": ("values", lambda: path().bridge([1.0], torch.zeros(2, 4))),
    "values NaN": ("values", lambda: path().bridge([1.0], torch.full((1, 4), torch.nan))),
    "motion of type I": ("sample_with_brownian", lambda: path().sample_with_brownian(grid(4))),
    "motion of a bridge": (
        "sample_with_brownian",
        lambda: path(kind="II").bridge([1.0], torch.zeros(1)).sample_with_brownian(grid(4)),
    ),
    "a live Hurst index and the motion": (
        "hurst",
        lambda: path(kind="II", hurst=torch.tensor(0.3, requires_grad=True)).sample_with_brownian([0.1, 1.0]),
    ),
    "covariance before the start": ("s, t", lambda: path().covariance(-1.0, 1.0)),
    "a component of correlated ones": (
        "rows",
        lambda: path((2,), correlation=torch.eye(2)).take(torch.tensor(0)),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_by_name(case):
    words, call = REFUSED[case]
    with pytest.raises(nde.InvalidProblemError, match=words):
        call()
