"""The notebooks run, in a short version; run as a program, this file runs them in full and keeps their outputs.

A runner of our own, because all that it needs is to execute cells in one namespace and to catch text and pictures.
"""

import base64
import contextlib
import io
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.optimize import least_squares

import neuralde as nde

FOLDER = Path(__file__).resolve().parents[2] / "tutorials"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
MEASURING = {
    "ErrorEstimate",
    "StepCount",
    "StiffnessEstimate",
    "Local",
    "KineticEnergy",
    "JacobianFrobenius",
    "TaylorDerivative",
    "STEER",
}


def execute(path: Path) -> tuple[dict, dict]:
    """Run a notebook: the notebook with its outputs, and the namespace it leaves."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    notebook, space = json.loads(path.read_text(encoding="utf-8")), {"__name__": "notebook"}
    plt.close("all")
    shown: list[dict] = []
    before = plt.show
    plt.show = lambda *args, **kwargs: shown.extend(_pictures(plt))
    try:
        count = 0
        for cell in notebook["cells"]:
            if cell["cell_type"] != "code":
                continue
            count += 1
            shown.clear()
            text = io.StringIO()
            with contextlib.redirect_stdout(text):
                exec(compile("".join(cell["source"]), f"{path.name}[{count}]", "exec"), space)
            cell["execution_count"] = count
            cell["outputs"] = _text(text.getvalue()) + list(shown)
    finally:
        plt.show = before
        plt.close("all")
    return notebook, space


def _text(text: str) -> list[dict]:
    return [{"name": "stdout", "output_type": "stream", "text": text.splitlines(keepends=True)}] if text else []


def _pictures(plt: Any) -> list[dict]:
    found = []
    for number in plt.get_fignums():
        buffer = io.BytesIO()
        plt.figure(number).savefig(buffer, format="png", dpi=80, metadata={"Software": None})
        data = {"image/png": base64.b64encode(buffer.getvalue()).decode()}
        found.append({"data": data, "metadata": {}, "output_type": "display_data"})
        plt.close(number)
    return found


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch):
    """The short version, and torch's settings put back."""
    monkeypatch.setenv("NEURALDE_QUICK", "1")
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    yield
    torch.set_default_dtype(dtype)
    torch.set_num_threads(threads)


def test_there_are_notebooks_to_run():
    assert NOTEBOOKS, "tutorials/ has no notebook"


def test_a_first_solve():
    notebook, space = execute(FOLDER / "01_first_solve.ipynb")
    assert space["sol"].status == 0
    torch.testing.assert_close(space["slope"], space["difference"], rtol=1e-4, atol=0)
    assert space["lost"].status == nde.Status.STEP_UNDERFLOW
    assert space["lost"].ys[-1].isnan().all()
    # The fit is the one that SciPy finds for the same residuals, after the few iterations of the short version nearly.
    assert space["after"] < 0.15 < space["before"]
    wanted = least_squares_of_scipy(space["pelts"].log().numpy(), space["years"].numpy())
    with torch.no_grad():
        best = space["predicted"](torch.from_numpy(wanted.x), space["years"]) - space["pelts"].log()
    assert best.square().mean().item() == pytest.approx(2 * wanted.cost / best.numel(), rel=1e-4)
    assert space["after"] > 0.999 * best.square().mean().item()
    assert space["losses"][-1] < 0.5 * space["losses"][0]
    assert space["same"]
    pictures = [out for cell in notebook["cells"] for out in cell.get("outputs", []) if "data" in out]
    assert len(pictures) == 3


def least_squares_of_scipy(logs, years):
    """The same fit without this library."""

    def rest(p):
        alpha, beta, gamma, delta = np.exp(p[:4])
        path = solve_ivp(
            lambda t, u: [alpha - beta * np.exp(u[1]), delta * np.exp(u[0]) - gamma],
            (0.0, 20.0),
            p[4:],
            t_eval=years,
            rtol=1e-8,
            atol=1e-8,
        )
        return (path.y.T - logs).ravel()

    return least_squares(rest, np.log([0.5, 0.02, 1.0, 0.02, 30.0, 4.0]))


def test_the_fit_that_is_kept_is_the_best_one():
    cells = json.loads((FOLDER / "01_first_solve.ipynb").read_text(encoding="utf-8"))["cells"]
    text = "".join("".join(out.get("text", [])) for cell in cells for out in cell.get("outputs", []))
    shown = [float(text.split(name)[1].split()[0]) for name in ("alpha", "beta", "gamma", "delta")]
    source = next("".join(cell["source"]) for cell in cells if "hares = [" in "".join(cell["source"]))
    space = {"torch": torch}
    exec(source[: source.index("def lotka_volterra")], space)
    wanted = least_squares_of_scipy(space["pelts"].double().log().numpy(), space["years"].double().numpy())
    np.testing.assert_allclose(shown, np.exp(wanted.x[:4]), rtol=0.01)


def test_gradients_and_events():
    notebook, space = execute(FOLDER / "02_gradients_and_events.ipynb")
    assert space["gradient_error"] < 1e-9
    # The fit: within three standard deviations of the truth, a misfit like the noise.
    g, e = ((space["p"] - torch.tensor([9.81, 0.83], dtype=torch.float64)) / space["deviation"]).abs().tolist()
    assert max(g, e) < 3.0
    assert 0.0045 < space["history"][-1][-1] < 0.0055
    assert space["deviation"][0] < 0.02
    # The comparison: exact ones agree to rounding, all of them improve with the tolerance.
    assert max(space["own"].values()) < 1e-12
    for name, sizes in space["errors"].items():
        assert sizes[-1] < 0.5 * sizes[0], name
    memory = space["memory"]
    assert memory["Discrete, 8 checkpoints"] < memory["Discrete, states only"] < memory["Direct"]
    pictures = [out for cell in notebook["cells"] for out in cell.get("outputs", []) if "data" in out]
    assert len(pictures) == 5


def test_sdes():
    notebook, space = execute(FOLDER / "03_sdes.ipynb")
    for name, order in (("EulerMaruyama", 0.5), ("ItoMilstein", 1.0), ("SRIW1", 1.5)):
        assert abs(space["orders"][name] - order) < 0.25, name
    assert abs(space["mean"] - math.exp(space["rate"])) < 4 * space["error_of_mean"]
    steps = space["ts"].diff()
    assert steps[(space["ts"][1:] > 0.45) & (space["ts"][1:] < 0.6)].median() < 0.5 * steps.max()
    # Where Euler and Maruyama's method is lost, the stabilised one stays near the fine solution.
    assert (space["followed"]["SROCK"] - space["followed"]["EulerMaruyama"]).abs().max() < 0.05
    assert not space["lost"].y1.abs().max() < 1e6
    assert space["loss"].isfinite()
    pictures = [out for cell in notebook["cells"] for out in cell.get("outputs", []) if "data" in out]
    assert len(pictures) == 5


def test_solver_cost():
    notebook, space = execute(FOLDER / "04_solver_cost.ipynb")
    # On the easy problem the error holds the steps, on the stiff one the border of stability.
    assert space["used"]["easy"].median() < 0.3
    assert 0.9 < space["used"]["stiff"].median() < 1.1
    # Every regularizer trains, and the plain model, which trains longest, has become dearer.
    assert {name.partition(",")[0].partition("(")[0] for name in space["results"]} == {"none", *MEASURING}
    for name, runs in space["results"].items():
        assert all(run["accuracy"] > 0.4 and run["nfe"] > 0 for run in runs), name
    plain = space["plain"]
    assert plain["counts"][-1] > plain["counts"][0]
    # The pinned counts catch it.
    assert "solver cost of 'prediction' rose" in space["failure"]
    pictures = [out for cell in notebook["cells"] for out in cell.get("outputs", []) if "data" in out]
    assert len(pictures) == 3


def test_controlled_equations():
    notebook, space = execute(FOLDER / "06_cde.ipynb")
    # A path goes through what was seen of each channel.
    for path in space["paths"].values():
        there = ~space["seen"].isnan()
        torch.testing.assert_close(path(space["seen_at"])[there], space["seen"][there])
    assert space["losses"][-1] < space["losses"][0]
    # A window of log-ODE steps: more of its brackets, less error; both far fewer calls than along the knots.
    errors, used = space["errors"], space["used"]
    for window in (8, 16, 32):
        assert errors[3, window] < 0.5 * errors[2, window] < 0.5 * errors[1, window]
    assert used[3, 16] < 0.2 * space["exact"].stats.nfe
    pictures = [out for cell in notebook["cells"] for out in cell.get("outputs", []) if "data" in out]
    assert len(pictures) == 4


def test_fractional():
    notebook, space = execute(FOLDER / "07_fractional.ipynb")
    assert space["errors"]["II", 12][3] < 1e-3 < space["errors"]["I", 5][0]
    assert max(space["differences"].values()) < 1e-8
    for hurst, (bound, evidence) in space["bounds"].items():
        assert abs(bound - evidence) < 0.3, hurst  # of 400 paths
        found, known = space["spreads"][hurst]
        assert ((found[1:] / known[1:] - 1).abs() < 0.2).all()
    assert all(abs(learned - hurst) < 0.06 for hurst, learned in space["learned"].items())
    pictures = [out for cell in notebook["cells"] for out in cell.get("outputs", []) if "data" in out]
    assert len(pictures) == 2


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_the_kept_outputs_are_those_of_this_code(path):
    """Every code cell was run, in order, and what a cell prints fits what it says (no stale or failed output)."""
    cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        kinds = [out["output_type"] for out in cell["outputs"]]
        source = "".join(cell["source"])
        assert "error" not in kinds
        assert ("plt.show()" in source) == ("display_data" in kinds)


if __name__ == "__main__":
    os.environ.pop("NEURALDE_QUICK", None)
    for name in sys.argv[1:] or map(str, NOTEBOOKS):
        done, _ = execute(Path(name))
        Path(name).write_text(json.dumps(done, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
