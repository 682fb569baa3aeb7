"""The latent SDE of walking: its data, its rules of comparison, its training and its resumption."""

import dataclasses
import json

import pytest
import torch
from scipy.io import savemat

from neuralde.commands import cli, train
from neuralde.commands.experiments.tasks import mocap

SMALL = ["--epochs", "2", "--batch-size", "4", "--hidden", "8", "--seeds", "1", "--quiet"]
TINY = mocap.Config(epochs=1, iterations=6, batch_size=16, window=12, hidden=16, paths=4)


def walks(frames=40):
    """Two channels that go round, and a third that follows them, from random phases."""
    made = torch.Generator().manual_seed(0)
    phase = 6.3 * torch.rand(8, 1, generator=made) + 0.2 * torch.arange(frames)
    x = torch.stack([phase.sin(), phase.cos(), 2.0 * phase.sin() + 1.0], -1)
    return x[:5], x[5:6], x[6:]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mocap35.mat"
    savemat(path, {name: part.double().numpy() for name, part in zip(("Xtr", "Xval", "Xtest"), walks(), strict=True)})
    return path


def test_channels_have_mean_0_and_variance_1_and_errors_are_in_the_units_of_the_file(file):
    data = mocap.read(file)
    assert torch.allclose(data.train.mean((0, 1)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(data.train.std((0, 1)), torch.ones(3), atol=1e-5)
    rules = mocap.baselines(data, 3)
    known, _, test = walks()
    assert rules["training mean"] == pytest.approx((test[:, 3:] - known.mean((0, 1))).square().mean().item(), rel=1e-4)
    assert rules["last frame"] == pytest.approx((test[:, 3:] - test[:, 2:3]).square().mean().item(), rel=1e-4)
    assert rules["linear autoregression"] < 0.1 * rules["training mean"]  # circles are linear in two frames


def test_training_repeats_and_learns(tmp_path):
    data = mocap.standardized(*walks())
    config = dataclasses.replace(TINY, epochs=2)
    one, other = (
        mocap.Run("sde", 0, config, data, tmp_path / f"{i}.pt").train(False, lambda line: None) for i in range(2)
    )
    assert one["history"]["loss"] == other["history"]["loss"]
    assert one["history"]["loss"][1] < one["history"]["loss"][0]
    assert one["mse"] <= one["path_mse"]
    assert one["kl"] > 0


def test_without_noise_the_predictions_differ_by_their_start_only():
    model = mocap.Walker(3, TINY, noisy=False)
    seen = torch.zeros(2, 3, 3)
    frames, kl, apart = model(seen, 10, seed=1)
    assert frames.shape == (10, 2, 3)
    assert not kl.any()
    assert apart.shape == (2,)
    assert torch.equal(frames, model(seen, 10, seed=1)[0])
    assert not torch.equal(frames, model(seen, 10, seed=2)[0])


def test_the_command_trains_resumes_and_writes(tmp_path, file, capsys, monkeypatch):
    usual = train.EXPERIMENTS["latent-sde"]
    tiny = dataclasses.replace(usual, config=dataclasses.replace(TINY, iterations=2))
    monkeypatch.setitem(train.EXPERIMENTS, "latent-sde", tiny)
    command = ["train", "latent-sde", "--data", str(file), "--out", str(tmp_path / "out"), *SMALL]
    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    assert all(text in printed for text in ("sde", "ode", "test MSE", "linear autoregression"))
    first = json.loads((tmp_path / "out" / "results.json").read_text())

    def forbidden(*_):
        raise AssertionError

    monkeypatch.setattr(mocap.Run, "task", forbidden)
    assert cli.main([*command, "--resume"]) == 0
    again = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [result["mse"] for result in again["results"]] == [result["mse"] for result in first["results"]]


def test_data_that_are_not_there_are_asked_for_by_name(tmp_path, capsys):
    for options in ([], ["--data", str(tmp_path / "none.mat")]):
        assert cli.main(["train", "latent-sde", *options, "--quiet"]) == 2
        assert "--data: got" in capsys.readouterr().err
    (tmp_path / "bad.mat").write_text("nothing")
    assert cli.main(["train", "latent-sde", "--data", str(tmp_path / "bad.mat"), "--quiet"]) == 2
    assert "cannot be read" in capsys.readouterr().err
