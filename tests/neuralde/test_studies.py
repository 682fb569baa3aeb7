"""Studies: rough Bergomi against references of other making, Hurst indices of realized volatility from a file, the command."""

import json
import math

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats

from neuralde.commands import cli
from neuralde.commands.experiments.studies import hurst, rough_bergomi
from neuralde.commands.experiments.studies.rough_bergomi import Model

F64 = torch.float64


def reference_prices(model, maturity, strikes, paths, steps):
    """Calls by plain Monte Carlo in NumPy: SciPy's integrals for the joint covariance, its Cholesky factor, both motions drawn."""
    h, times = model.hurst, maturity * np.arange(1, steps + 1) / steps
    matrix = np.zeros((2 * steps, 2 * steps))
    for i, t in enumerate(times):
        for j, s in enumerate(times[: i + 1]):
            a = h + 0.5
            own = 2 * h * s**a * t ** (a - 1) / a * special.hyp2f1(1 - a, 1, 1 + a, s / t) if s < t else t ** (2 * h)
            matrix[i, j] = matrix[j, i] = own
            crossed = [math.sqrt(2 * h) / a * (x**a - (x - min(x, y)) ** a) for x, y in ((t, s), (s, t))]
            matrix[i, steps + j], matrix[j, steps + i] = crossed
            matrix[steps + j, i], matrix[steps + i, j] = crossed
            matrix[steps + i, steps + j] = matrix[steps + j, steps + i] = s
    rng = np.random.default_rng(5)
    both = rng.standard_normal((paths, 2 * steps)) @ np.linalg.cholesky(matrix).T
    process = np.concatenate([np.zeros((paths, 1)), both[:, : steps - 1]], 1)
    motion = np.diff(both[:, steps:], axis=1, prepend=0.0)
    before = np.concatenate([[0.0], times[:-1]])
    variance = model.xi * np.exp(model.eta * process - 0.5 * model.eta**2 * before ** (2 * h))
    step = maturity / steps
    other = math.sqrt(step) * rng.standard_normal((paths, steps))
    driving = model.rho * motion + math.sqrt(1 - model.rho**2) * other
    spot = np.exp((np.sqrt(variance) * driving).sum(1) - 0.5 * variance.sum(1) * step)
    payoffs = np.maximum(spot[:, None] - np.exp(strikes), 0.0)
    return payoffs.mean(0), payoffs.std(0) / math.sqrt(paths)


def test_rough_bergomi_prices_against_plain_monte_carlo_of_other_making():
    model, maturity, strikes = Model(), 0.5, np.array([-0.2, 0.0, 0.1])
    expected, error = reference_prices(model, maturity, strikes, 60_000, 24)
    found = rough_bergomi.smile(model, maturity, torch.from_numpy(strikes), 20_000, 24)
    z = (found.prices.numpy() - expected) / np.hypot(error, found.errors.numpy())
    assert 2 * stats.norm.sf(abs(z).max()) * len(z) > 1e-3
    one_path = 20_000**0.5 * found.errors.numpy(), 60_000**0.5 * error
    assert (one_path[0] < one_path[1]).all(), "conditioning and controls are there to reduce the variance"


@pytest.mark.parametrize("hurst_index", [0.07, 0.3])
def test_the_skew_for_a_small_volatility_of_variance(hurst_index):
    """The first order in eta, which Bergomi and Guyon give as an integral of the kernel."""
    model = Model(hurst_index, eta=0.1)
    for maturity in (0.1, 1.0):
        # Between spot and forward variance: an integral over s < u of the kernel sqrt(2H) (u - s)**(H - 1/2).
        kernel = maturity ** (hurst_index + 1.5) * integrate.quad(lambda x: (1 - x) * x ** (hurst_index - 0.5), 0, 1)[0]
        expected = model.rho * model.eta * math.sqrt(2 * hurst_index) * kernel / (2 * maturity**2)
        assert rough_bergomi.first_order_skew(model, maturity) == pytest.approx(expected, rel=1e-6)
        found, error = rough_bergomi.skew(model, maturity, 20_000, 60)
        assert error < 0.03 * abs(expected)
        # The grid of 60 steps makes the kernel coarse: its error is of size 60**-(H + 1/2).
        assert found == pytest.approx(expected, abs=4 * error + 0.04 * abs(expected))


def test_the_skew_falls_as_a_power_of_the_maturity():
    model = Model()
    times = np.array([1 / 52, 1 / 12, 0.25])
    skews = np.array([rough_bergomi.skew(model, t, 8000, 80) for t in times])
    exponent = np.polyfit(np.log(times), np.log(-skews[:, 0]), 1)[0]
    error = (skews[:, 1] / -skews[:, 0]).max() * 2 / np.log(times[-1] / times[0])
    # Higher orders in eta T**H flatten it less than the error of the fit at short maturities.
    assert exponent == pytest.approx(model.hurst - 0.5, abs=3 * error + 0.03)


def test_implied_volatilities_invert_the_formula():
    strikes = torch.tensor([-0.5, 0.0, 0.3], dtype=F64)
    volatilities = torch.tensor([0.5, 0.2, 0.15], dtype=F64)
    prices = rough_bergomi.call(torch.ones(3, dtype=F64), strikes, volatilities * 2.0**0.5)
    assert torch.allclose(rough_bergomi.implied(prices, strikes, 2.0), volatilities, rtol=1e-10)
    # The integral itself.
    law = stats.norm(-0.5 * 0.2**2 * 2.0, 0.2 * 2.0**0.5)
    expected = integrate.quad(lambda x: max(math.exp(x) - 1.0, 0.0) * law.pdf(x), 0.0, 5.0)[0]
    assert prices[1].item() == pytest.approx(expected, rel=1e-8)


def write(folder, days=900):
    """A file as the library's, of exact log volatilities of known index, with holes."""
    x = hurst._simulated(2, days)
    variances = np.stack([np.exp(2.0 * (series.numpy() - 5.0)) for series in x.values()], 1)
    variances[3, 0], variances[7:9, 1] = np.nan, 0.0
    np.savez(folder / hurst.FILE, symbols=np.array([".ONE", ".TWO"]), rv=variances)
    return x


def test_realized_volatility_is_read_and_estimated(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(hurst.STUDY.scales, "cpu", dict(series=None, simulated=3, resamples=10))
    series = write(tmp_path)
    data = hurst._read(tmp_path)
    assert [len(x) for x in data.values()] == [899, 898]
    kept = torch.cat([series["simulated 0"][:3], series["simulated 0"][4:]])
    assert torch.allclose(data[".ONE"], kept - 5.0)
    out = tmp_path / "out"
    assert cli.main(["reproduce", "hurst-realized-vol", "--data", str(tmp_path), "--out", str(out)]) == 0
    numbers = json.loads((out / "results.json").read_text())
    table = (out / "table.md").read_text()
    assert table in capsys.readouterr().out
    assert [row["index"] for row in numbers["rows"]] == [".ONE", ".TWO"]
    for row in numbers["rows"]:
        found = row["whittle"]
        assert found["low"] < found["hurst"] < found["high"]
        assert found["hurst"] == pytest.approx(hurst.SIMULATED, abs=4 * found["error"])
        assert f"{found['hurst']:.4f} ± {found['error']:.4f}" in table
    assert [row["estimator"] for row in numbers["known"]] == list(hurst.ESTIMATORS)
    assert (out / "results.png").read_bytes().startswith(b"\x89PNG")
    assert numbers["versions"]["torch"] == torch.__version__


@pytest.mark.parametrize("name", ["hurst-realized-vol", "rough-bergomi"])
def test_a_smoke_run_says_that_it_is_one(name, tmp_path):
    assert cli.main(["reproduce", name, "--scale", "smoke", "--out", str(tmp_path)]) == 0
    assert "No number means anything" in (tmp_path / "table.md").read_text()
    assert (tmp_path / "results.png").exists()


def test_what_a_study_does_not_take(tmp_path, capsys):
    assert cli.main(["reproduce", "rough-bergomi", "--arms", "vanilla"]) == 2
    assert "--arms: rough-bergomi trains nothing" in capsys.readouterr().err
    assert cli.main(["reproduce", "hurst-realized-vol"]) == 2
    assert "--data: hurst-realized-vol needs" in capsys.readouterr().err
    assert cli.main(["reproduce", "hurst-realized-vol", "--data", str(tmp_path), "--out", str(tmp_path)]) == 2
    assert hurst.FILE in capsys.readouterr().err
    assert cli.main(["reproduce", "--list"]) == 0
    assert "rough-bergomi" in capsys.readouterr().out
