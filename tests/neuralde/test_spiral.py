"""The spiral SDE: its data, its optimizer, its training, its table, and what an interruption keeps."""

import dataclasses
import math

import pytest
import torch

from neuralde.commands import cli
from neuralde.commands.experiments.adabelief import AdaBelief
from neuralde.commands.experiments.papers import TABLES
from neuralde.commands.experiments.tasks import spiral

SMALL = ["--epochs", "2", "--batch-size", "8", "--hidden", "4", "--seeds", "1", "--quiet"]
TINY = spiral.Config(epochs=2, iterations=6, batch_size=16, simulated=300, hidden=8)


@pytest.fixture
def quick(monkeypatch):
    """Few iterations, few paths of the true process."""
    truth, usual = spiral.truth, spiral.Run.samples
    monkeypatch.setattr(spiral, "truth", lambda config: truth(dataclasses.replace(config, simulated=100)))
    monkeypatch.setattr(spiral.Run, "samples", lambda self: min(usual(self), 3 * self.config.batch_size))


def test_the_data_agree_with_the_papers():
    """Mean and variance start at (2, 0) and 0; the drift turns the mean before noise has spread it."""
    ts, mean, variance = spiral.truth(spiral.Config(simulated=500, times=5))
    assert torch.equal(mean[0], torch.tensor([2.0, 0.0], dtype=torch.float64))
    assert torch.equal(variance[0], torch.zeros(2, dtype=torch.float64))
    assert ts.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert mean[1, 1] < -0.5
    assert (variance[1:] > 1e-3).all()


def test_adabelief_under_a_constant_gradient_is_its_closed_form():
    """m_n = g (1 - b1**n), so that g - m_n = g b1**n and the sum of the squares is geometric."""
    rate, (first, second), eps, slope = 0.01, (0.9, 0.999), 1e-8, 3.0
    x = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
    optimizer, wanted = AdaBelief([x], lr=rate), 1.0
    for n in range(1, 8):
        optimizer.zero_grad()
        (slope * x.sum()).backward()
        optimizer.step()
        rest = sum(second ** (n - k) * ((1 - second) * slope**2 * first ** (2 * k) + eps) for k in range(1, n + 1))
        wanted -= rate * slope / (math.sqrt(rest / (1 - second**n)) + eps)
        assert x.item() == pytest.approx(wanted, rel=1e-12)
    again = AdaBelief([x], lr=rate)
    again.load_state_dict(optimizer.state_dict())
    assert again.state[x]["step"] == 7


def test_every_arm_trains_and_finished_epochs_are_kept(tmp_path, capsys, monkeypatch, numbers, quick):
    command = ["train", "spiral-sde", "--arms", *spiral.ARMS, "--out", str(tmp_path), *SMALL]
    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    assert all(arm in printed for arm in spiral.ARMS)
    assert "error against vanilla: field evaluations x" in printed
    assert ", loss x" in printed
    first = numbers(tmp_path)
    assert len(first) == 3
    assert all(result["nfe"] > 0 and len(result["history"]["loss"]) == 2 for result in first)

    def forbidden(*_):
        raise AssertionError

    monkeypatch.setattr(spiral.Run, "task", forbidden)
    assert cli.main([*command, "--resume"]) == 0
    assert numbers(tmp_path) == first


@pytest.mark.parametrize("per_sample", [False, True])
def test_training_lowers_the_loss_and_repeats(tmp_path, per_sample):
    config = dataclasses.replace(TINY, per_sample=per_sample)
    data = spiral.truth(config)
    one, other = (
        spiral.Run("error", 0, config, data, tmp_path / f"{i}.pt").train(False, lambda line: None) for i in range(2)
    )
    assert one["history"]["loss"] == other["history"]["loss"]
    assert one["nfe"] == other["nfe"]
    assert one["history"]["loss"][-1] < one["history"]["loss"][0]


def test_unknown_arms_are_refused(capsys):
    assert cli.main(["train", "spiral-sde", "--arms", "steer"]) == 2
    assert "expected some of vanilla, error, stiffness" in capsys.readouterr().err


def test_the_table_is_the_papers_and_runs(tmp_path):
    table = TABLES["regnde-spiral-sde"]
    config = table.scales["paper"]
    assert (config.epochs * config.iterations, config.batch_size, config.times, config.tolerance) == (250, 100, 30, 0.3)
    assert sum(p.numel() for p in spiral.Spiral(config.hidden).parameters()) == 258
    assert table.seeds["paper"] == (1, 5, 35)
    assert cli.main(["reproduce", "regnde-spiral-sde", "--scale", "smoke", "--quiet", "--out", str(tmp_path)]) == 0
    text = (tmp_path / "table.md").read_text()
    (row,) = (line for line in text.splitlines() if line.startswith("| ERNSDE") and "x" in line)
    # The paper's ratios: loss 0.0227 / 0.0217, NFE 502 / 528.67.
    assert [cell.strip() for cell in row.split("|")[3::2]][:2] == ["x1.05", "x0.95"]
    assert "No number means anything" in text
    assert (tmp_path / "results.png").exists()
