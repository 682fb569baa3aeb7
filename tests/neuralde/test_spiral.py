"""The spiral SDE: its data, its training, and what an interruption keeps."""

import dataclasses
import json

import torch

from neuralde import cli
from neuralde.experiments import spiral

SMALL = ["--epochs", "3", "--batch-size", "8", "--hidden", "4", "--seeds", "2", "--quiet"]


def test_the_data_agree_with_the_papers():
    """Mean and variance start at (2, 0) and 0; the drift turns the mean before noise has spread it."""
    ts, mean, variance = spiral.truth(spiral.Config(simulated=500, times=5))
    assert torch.equal(mean[0], torch.tensor([2.0, 0.0], dtype=torch.float64))
    assert torch.equal(variance[0], torch.zeros(2, dtype=torch.float64))
    assert ts.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert mean[1, 1] < -0.5
    assert (variance[1:] > 1e-3).all()


def test_every_arm_trains_and_finished_runs_are_kept(tmp_path, capsys, monkeypatch):
    truth = spiral.truth
    monkeypatch.setattr(spiral, "truth", lambda config: truth(dataclasses.replace(config, simulated=100)))
    command = ["train", "spiral-sde", "--arms", *spiral.ARMS, "--out", str(tmp_path), *SMALL]
    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    assert all(arm in printed for arm in spiral.ARMS)
    assert "error against vanilla: loss x" in printed
    first = json.loads((tmp_path / "results.json").read_text())
    assert len(first["results"]) == 6
    assert all(result["nfe"] > 0 and len(result["history"]["loss"]) == 3 for result in first["results"])

    def forbidden(self, tick):
        raise AssertionError

    monkeypatch.setattr(spiral.Run, "train", forbidden)
    assert cli.main([*command, "--resume"]) == 0
    assert json.loads((tmp_path / "results.json").read_text()) == first


def test_training_lowers_the_loss_and_repeats():
    config = spiral.Config(iterations=12, trajectories=16, simulated=300, hidden=8)
    data = spiral.truth(config)
    one, other = (spiral.Run("error", 0, config, data).train(lambda line: None) for _ in range(2))
    assert one["history"] == other["history"]
    assert one["history"]["loss"][-1] < one["history"]["loss"][0]


def test_unknown_arms_are_refused(capsys):
    assert cli.main(["train", "spiral-sde", "--arms", "steer"]) == 2
    assert "expected some of vanilla, error, stiffness" in capsys.readouterr().err
