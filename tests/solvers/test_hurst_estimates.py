"""Estimates of the Hurst index: unbiased on exact paths of known index, with standard errors that cover it."""

import numpy as np
import pytest
import torch
from scipy import optimize
from scipy.linalg import solve_toeplitz, toeplitz

import neuralde.solvers as nde
from neuralde.solvers.paths.fractional.covariance import noise_autocovariance

F64 = torch.float64
HURSTS = (0.05, 0.12, 0.3, 0.5, 0.7, 0.9)
SERIES = 150


def paths(hurst, n=1000, series=SERIES, seed=1):
    ts = torch.arange(n + 1, dtype=F64)
    return nde.FractionalBrownianPath((series,), seed, 0.0, float(n), hurst, dtype=F64).sample(ts)


def check(found, hurst, coverage):
    """Mean, spread and coverage over independent series, each within four deviations of what it should be."""
    spread = found.hurst.std().item()
    assert abs(found.hurst.mean().item() - hurst) < 4 * spread / SERIES**0.5 + 1e-3
    assert spread == pytest.approx(found.standard_error.mean().item(), rel=4 / (2 * SERIES) ** 0.5)
    low, high = found.interval(0.95)
    covered = ((low < hurst) & (hurst < high)).double().mean().item()
    assert covered > coverage - 4 * (coverage * (1 - coverage) / SERIES) ** 0.5


@pytest.mark.parametrize("hurst", HURSTS)
def test_whittle_is_unbiased_and_knows_its_error(hurst):
    # Very rough series need more observations for the normal law.
    found = nde.estimate_hurst(paths(hurst, 3000 if hurst < 0.1 else 1000))
    check(found, hurst, 0.95)
    assert found.scale.mean().item() == pytest.approx(1.0, abs=0.03)
    assert torch.equal(found.noise, torch.zeros(SERIES, dtype=F64))


@pytest.mark.parametrize("hurst", [0.05, 0.12, 0.3, 0.5])
def test_structure_functions_are_unbiased_for_rough_paths(hurst):
    check(nde.estimate_hurst(paths(hurst, 2000), "structure", lags=range(1, 16)), hurst, 0.9)


def test_the_bootstrap_is_too_sure_where_memory_is_long():
    """What the documentation says of it: above 3/4, blocks are not nearly independent."""
    found = nde.estimate_hurst(paths(0.9, 2000), "structure", lags=range(1, 16))
    assert found.standard_error.mean() < 0.8 * found.hurst.std()


@pytest.mark.slow
@pytest.mark.parametrize("hurst", HURSTS)
def test_whittle_on_long_series(hurst):
    check(nde.estimate_hurst(paths(hurst, 5600)), hurst, 0.95)


def test_errors_of_observations():
    """They bias a plain estimate downwards; with noise=True both are found."""
    hurst, tau = 0.3, 0.7
    x = paths(hurst, 2500)
    observed = x + tau * torch.randn(x.shape, dtype=F64, generator=torch.Generator().manual_seed(0))
    plain, found = nde.estimate_hurst(observed), nde.estimate_hurst(observed, noise=True)
    assert plain.hurst.mean() < hurst - 0.08
    check(found, hurst, 0.95)
    assert found.noise.mean().item() == pytest.approx(tau, abs=0.05)
    assert found.scale.mean().item() == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("hurst", [0.1, 0.7])
def test_whittle_is_close_to_the_exact_likelihood(hurst):
    """SciPy's maximum of the Gaussian likelihood of the same increments, by its Toeplitz solver."""
    x = paths(hurst, 500, 1)
    y = x.diff(dim=0)[:, 0].numpy()

    def deviance(h):
        row = noise_autocovariance(500, torch.tensor(h, dtype=F64)).numpy()
        return 500 * np.log(y @ solve_toeplitz(row, y) / 500) + np.linalg.slogdet(toeplitz(row))[1]

    exact = optimize.minimize_scalar(deviance, bounds=(0.01, 0.99), method="bounded").x
    found = nde.estimate_hurst(x)
    # Both are efficient, so they differ by much less than they err.
    assert abs(found.hurst.item() - exact) < 0.5 * found.standard_error.item()


def test_structure_functions_are_the_regression():
    """Of q = 2 alone, half the slope of log variances that NumPy fits."""
    x = paths(0.3, 400, 1)
    lags = np.arange(1, 21)
    y = x[:, 0].numpy()
    logs = [np.log(np.mean((y[lag:] - y[:-lag]) ** 2)) for lag in lags]
    found = nde.estimate_hurst(x, "structure", lags=lags.tolist(), moments=[2.0])
    assert found.hurst.item() == pytest.approx(np.polyfit(np.log(lags), logs, 1)[0] / 2, rel=1e-10)
    assert found.scale.item() == pytest.approx(np.exp(np.polyfit(np.log(lags), logs, 1)[1] / 2), rel=1e-10)


def test_shapes_scales_and_seeds(device):
    x = paths(0.3, 300, 6).reshape(301, 2, 3).to(device)
    for method in ("whittle", "structure"):
        found = nde.estimate_hurst(x, method)
        assert found.hurst.shape == found.standard_error.shape == (2, 3)
        again = nde.estimate_hurst(5.0 * x + 3.0, method)
        assert torch.allclose(again.hurst, found.hurst, atol=1e-6)
        assert torch.allclose(again.scale, 5.0 * found.scale, rtol=1e-5)
        assert nde.estimate_hurst(x[:, 0, 0].float(), method).hurst.item() == pytest.approx(
            found.hurst[0, 0].item(), abs=1e-5
        )
    structure = [nde.estimate_hurst(x[:, 0], "structure", seed=seed).standard_error for seed in (0, 0, 1)]
    assert torch.equal(structure[0], structure[1])
    assert not torch.equal(structure[0], structure[2])


X = torch.randn(200, dtype=F64, generator=torch.Generator().manual_seed(0)).cumsum(0)
REFUSED = {
    "no tensor": ("x", lambda: nde.estimate_hurst([1.0, 2.0])),
    "ints": ("x", lambda: nde.estimate_hurst(torch.arange(100))),
    "short": ("x", lambda: nde.estimate_hurst(X[:7])),
    "no series": ("x", lambda: nde.estimate_hurst(torch.zeros(100, 0))),
    "NaN": ("x", lambda: nde.estimate_hurst(torch.cat([X, X.new_tensor([torch.nan])]))),
    "constant": ("x", lambda: nde.estimate_hurst(torch.ones(100))),
    "method": ("method", lambda: nde.estimate_hurst(X, "rs")),
    "noise": ("noise", lambda: nde.estimate_hurst(X, "structure", noise=True)),
    "one lag": ("lags", lambda: nde.estimate_hurst(X, "structure", lags=[1])),
    "lags that fall": ("lags", lambda: nde.estimate_hurst(X, "structure", lags=[2, 1])),
    "long lags": ("lags", lambda: nde.estimate_hurst(X, "structure", lags=[1, 100])),
    "moments": ("moments", lambda: nde.estimate_hurst(X, "structure", moments=[])),
    "negative moments": ("moments", lambda: nde.estimate_hurst(X, "structure", moments=[-1.0])),
    "block": ("block", lambda: nde.estimate_hurst(X, "structure", block=150)),
    "resamples": ("resamples", lambda: nde.estimate_hurst(X, "structure", resamples=1)),
    "level": ("level", lambda: nde.estimate_hurst(X).interval(1.0)),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_by_name(case):
    words, call = REFUSED[case]
    with pytest.raises(nde.InvalidProblemError, match=f"^{words}: "):
        call()
