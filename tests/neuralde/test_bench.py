"""The benchmarks run, count rightly and write what they say; no test looks at a time."""

import json

import numpy as np
import pytest
import torch

from neuralde.commands import bench, cli
from neuralde.commands.benchmarks import measuring
from neuralde.commands.benchmarks.detest import PROBLEMS, ours
from neuralde.commands.benchmarks.detest.exact import EXACT
from neuralde.solvers import Vern9
from neuralde.testing import counting


@pytest.mark.parametrize("name", PROBLEMS)
def test_references_agree_with_a_tight_solve(name):
    y, _ = ours(Vern9())(PROBLEMS[name], 1e-13)
    assert PROBLEMS[name].error(y) < 5e-11
    assert np.allclose(PROBLEMS[name].reference(0.0) if name in EXACT else PROBLEMS[name].start, PROBLEMS[name].start)


def run(name, tmp_path, capsys):
    assert cli.main(["bench", name, "--quick", "--out", str(tmp_path)]) == 0
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    result = json.loads((tmp_path / f"{name}.json").read_text())
    assert result["quick"]
    assert result["machine"]["threads"]
    assert result["versions"]["torch"]
    return result, capsys.readouterr().out


@pytest.mark.filterwarnings("ignore")  # of the peers
def test_speed(tmp_path, capsys):
    result, printed = run("speed", tmp_path, capsys)
    rows = {(row["library"], row["what"], row["mode"]): row for row in result["rows"]}
    mine = rows["neuralde", "forward", "eager"]
    assert mine["error"] < 1e-4
    assert mine["calls"] > mine["steps"] > 0
    assert rows["neuralde", "forward", "compiled"]["error"] < 1e-4
    assert {row["peer"] for row in result["comparisons"]} >= {"torchdiffeq", "torchdiffeq adjoint"}
    assert any(row.get("at_best", 0) > 0 for row in result["comparisons"]), "the bound that the field alone sets"
    assert "target" in printed
    assert "MET" not in printed.upper(), "too small to be judged"


def test_workprecision(tmp_path, capsys):
    result, _ = run("workprecision", tmp_path, capsys)
    ratios = {(row["method"], row["peer"]): row["calls"] for row in result["comparisons"]}
    # The same method at equal error: only step-size control differs.
    assert 0.5 < ratios["Dopri5", "SciPy RK45"] < 2.0


@pytest.mark.filterwarnings("ignore")
def test_persample(tmp_path, capsys):
    result, _ = run("persample", tmp_path, capsys)
    rows = {row["solve"]: row["field_rows"] for row in result["rows"]}
    assert rows["neuralde per_sample, compact"] < rows["neuralde per_sample"]


@pytest.mark.filterwarnings("ignore")  # of torchsde
def test_sde(tmp_path, capsys):
    result, printed = run("sde", tmp_path, capsys)
    rows = {row["solve"]: row["ms"] for row in result["rows"]}
    assert {"EulerMaruyama", "SRIW1 compiled", "EulerMaruyama compiled training", "loop by hand"} <= rows.keys()
    assert "EulerMaruyama / loop by hand" in printed


def test_memory(tmp_path, capsys):
    result, _ = run("memory", tmp_path, capsys)
    peak = {(row["adjoint"], row["axis"], row["steps"]): row["bytes"] for row in result["rows"]}
    assert peak["DirectAdjoint", "steps", 16] > 3 * peak["DirectAdjoint", "steps", 4]
    assert peak["DiscreteAdjoint, budget=0", "steps", 16] < peak["DirectAdjoint", "steps", 16] / 2
    assert peak["DiscreteAdjoint", "steps", 16] < 1.1 * peak["DirectAdjoint", "steps", 16]
    assert all(row["after"] == row["before"] for row in result["leaks"])


@pytest.mark.slow
def test_adjoints(tmp_path, capsys):
    result, printed = run("adjoints", tmp_path, capsys)
    rows = {(row["problem"], row["adjoint"], row["tol"]): row for row in result["rows"]}
    few = {name: rows["Lotka-Volterra", name, 1e-5] for _, name, _ in rows if ("Lotka-Volterra", name, 1e-5) in rows}
    assert len(few) == 9
    assert few["DirectAdjoint"]["backward"] == 0 < few["DiscreteAdjoint"]["backward"]
    assert few["DirectAdjoint"]["bytes"] > 2 * few["DiscreteAdjoint"]["bytes"]
    # The exact adjoints give one gradient, and all converge with the tolerance.
    assert few["DirectAdjoint"]["error"] == pytest.approx(few["ForwardSensitivity"]["error"], rel=1e-6)
    assert all(row["error"] < rows["Lotka-Volterra", name, 1e-3]["error"] / 5 for name, row in few.items())
    # Steps that fit the state alone are no help where the state stands still.
    still = {name: rows["equilibrium", name, 1e-5]["error"] for name in few}
    assert still["DiscreteAdjoint"] > 0.5
    assert still["ForwardSensitivity(in_error_norm=True)"] < 1e-3
    assert "gradient's error" in printed


@pytest.mark.parametrize("name", ["scaling", "overhead"])
def test_costs(name, tmp_path, capsys):
    result, _ = run(name, tmp_path, capsys)
    assert all(row["us"] > 0 for row in result["rows"])


def test_events(tmp_path, capsys):
    result, printed = run("events", tmp_path, capsys)
    rows = {(row["kind"], row["solve"]): row for row in result["rows"]}
    for solve in ("one function", "many functions"):
        assert rows["none fires", solve]["events"] == rows["none fires", solve]["scipy_events"] == 0
        assert rows["four fire", solve]["events"] == rows["four fire", solve]["scipy_events"] > 0
        assert rows["four fire", solve]["ratio"] > 0
    assert "SciPy" in printed


@pytest.mark.filterwarnings("ignore")  # of the peers
def test_fractional(tmp_path, capsys):
    result, printed = run("fractional", tmp_path, capsys)
    rows = {(row["library"], row["hurst"]): row for row in result["rows"]}
    for hurst in (0.3, 0.8):
        for dtype in ("float32", "float64"):
            row = rows[f"neuralde {dtype}", hurst]
            assert row["ratio"] == 1.0
            assert row["variance"] == pytest.approx(1.0, abs=0.3)
    assert "variance" in printed


@pytest.mark.filterwarnings("ignore")
def test_cuda_benchmark(tmp_path, capsys):
    """On the CPU what it measures is measured all the same; the command says that it needs a GPU."""
    from neuralde.commands.benchmarks import cuda

    result = cuda.measured(measuring.Settings(quick=True))
    rows = {(row["solve"], row["what"]): row for row in result["rows"]}
    for what in ("forward", "forward+backward"):
        assert rows["blocks", what]["syncs"] < rows["eager loop", what]["syncs"] < rows["torchdiffeq", what]["syncs"]
        assert all(row["error"] < 1e-4 for row in rows.values())
    assert "GPU waits" in cuda.show(result)
    if not torch.cuda.is_available():
        assert cli.main(["bench", "cuda", "--quick", "--out", str(tmp_path)]) == 0
        assert "skipped: torch finds no CUDA device" in capsys.readouterr().out


def test_host_syncs_and_peaks_are_counted():
    x = torch.ones(1000)
    assert counting.host_syncs(lambda: [x.sum().item(), bool(x[0] > 0), x.tolist(), x + 1]) == 3
    assert counting.peak_bytes(lambda: x.add(1.0).add(1.0)) == 8000
    assert counting.peak_bytes(lambda: [x.add(1.0) for _ in range(5)]) == 20000
    assert counting.peak_bytes(lambda: x.view(10, 100)) == 0


def test_options(capsys, tmp_path, monkeypatch):
    assert cli.main(["bench", "--list"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in bench.BENCHMARKS)
    assert cli.main(["bench", "nothing"]) == 2
    assert "nothing" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    assert str(bench.default_out()) == "runs/bench"


def test_koopman(tmp_path, capsys):
    result, printed = run("koopman", tmp_path, capsys)
    assert next(row["library"] for row in result["rows"]) == "neuralde"
    assert "MET" not in printed.upper(), "too small to be judged"


@pytest.mark.filterwarnings("ignore")  # of torchcde
def test_long_series(tmp_path, capsys):
    result, printed = run("long_series", tmp_path, capsys)
    assert {row["solve"]: row["steps"] for row in result["rows"]} == {
        "neuralde, each observation": 32,
        "torchcde, each observation": 32,
        "neuralde, log-ODE, windows of 16": 4,
    }
    assert result["difference"] < 1e-5, "the same equation, steps and order"
    assert "per 1,000" in printed
