"""The training command: every arm, interruption, checkpoints, data."""

import gzip
import pickle
import struct
import subprocess
import sys

import numpy as np
import pytest
import torch

from neuralde.commands import cli
from neuralde.commands.experiments.arms import ARMS
from neuralde.commands.experiments.tasks import classify
from neuralde.commands.experiments.tasks.data import digits, mnist, read_idx
from neuralde.data import DataError

SMALL = ["--epochs", "2", "--batch-size", "512", "--hidden", "8", "--tolerance", "1e-3", "--seeds", "1", "--quiet"]


def test_every_arm_runs_and_writes(tmp_path, capsys, numbers):
    assert cli.main(["train", "digits", "--out", str(tmp_path), "--arms", *ARMS, *SMALL]) == 0
    printed = capsys.readouterr().out
    assert all(arm in printed for arm in ARMS)
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")
    assert [result["arm"] for result in numbers(tmp_path)] == list(ARMS)


@pytest.mark.parametrize("arm", ["local-biased", "steer+error"])
def test_interrupted_and_resumed_equals_uninterrupted(tmp_path, monkeypatch, arm, numbers):
    command = ["train", "digits", "--arms", arm, *SMALL, "--epochs", "3"]
    assert cli.main([*command, "--out", str(tmp_path / "whole")]) == 0
    calls, forward = [0], classify.Classifier.forward

    def interrupted(self, x):
        calls[0] += 1
        if calls[0] == 8:  # in the middle of the second epoch
            raise KeyboardInterrupt
        return forward(self, x)

    with monkeypatch.context() as patch:
        patch.setattr(classify.Classifier, "forward", interrupted)
        assert cli.main([*command, "--out", str(tmp_path / "parts")]) == 130
    assert cli.main([*command, "--out", str(tmp_path / "parts"), "--resume"]) == 0
    assert numbers(tmp_path / "whole") == numbers(tmp_path / "parts")


class Canary:
    def __reduce__(self):
        return (open, ("canary", "w"))


def test_crafted_checkpoint_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "vanilla-0.pt").write_bytes(pickle.dumps(Canary()))
    assert cli.main(["train", "digits", "--arms", "vanilla", "--out", str(tmp_path), "--resume", *SMALL]) == 2
    assert "cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "canary").exists()


def test_checkpoint_of_other_options_is_refused(tmp_path, capsys):
    command = ["train", "digits", "--arms", "vanilla", "--out", str(tmp_path), *SMALL]
    assert cli.main(command) == 0
    assert cli.main([*command, "--hidden", "9", "--resume"]) == 2
    assert "options it was started with" in capsys.readouterr().err


def test_held_out_images_are_not_in_the_training_set():
    data = digits(torch.float64)
    assert len(data.train_x) + len(data.test_x) == 1797
    assert torch.bincount(data.test_y, minlength=10).min() >= 34
    distances = torch.cdist(data.test_x, data.train_x)
    assert (distances.min(dim=1).values == 0).sum() == 0


def idx(path, array, packed):
    raw = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(raw) if packed else raw)


@pytest.mark.parametrize("packed", [True, False])
def test_mnist_files_are_read_and_trained_on(tmp_path, packed):
    rng = np.random.default_rng(0)
    suffix = ".gz" if packed else ""
    for part, count in (("train", 60), ("t10k", 20)):
        idx(tmp_path / f"{part}-images-idx3-ubyte{suffix}", rng.integers(0, 256, (count, 28, 28)), packed)
        idx(tmp_path / f"{part}-labels-idx1-ubyte{suffix}", rng.integers(0, 10, (count,)), packed)
    data = mnist(tmp_path, torch.float64, 50, None)
    assert data.train_x.shape == (50, 784)
    assert data.test_x.shape == (20, 784)
    assert 0.9 < data.train_x.max() <= 1.0
    command = ["train", "mnist", "--data", str(tmp_path), "--out", str(tmp_path / "out"), "--arms", "error", *SMALL]
    assert cli.main(command) == 0


def test_missing_and_broken_data_say_so(tmp_path, capsys):
    assert cli.main(["train", "mnist", "--data", str(tmp_path)]) == 2
    assert "t10k-labels-idx1-ubyte" in capsys.readouterr().err
    assert cli.main(["train", "mnist"]) == 2
    assert "--data" in capsys.readouterr().err
    (tmp_path / "x").write_bytes(b"\0\0\x08\x01\0\0\0\x05abc")
    with pytest.raises(DataError, match="holds 3 bytes"):
        read_idx(tmp_path / "x")


def test_an_earlier_run_is_not_overwritten(tmp_path, capsys):
    command = ["train", "digits", "--arms", "vanilla", "--out", str(tmp_path), *SMALL]
    assert cli.main(command) == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    capsys.readouterr()
    assert cli.main(command) == 2
    assert "holds an earlier run; expected --resume" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before
    assert cli.main([*command, "--resume"]) == 0
    (tmp_path / "checkpoints" / "vanilla-0.pt").unlink()
    (tmp_path / "results.json").unlink()
    assert cli.main([*command, "--out", str(tmp_path / "results.png")]) == 2  # no folder


def test_without_a_terminal_each_epoch_is_a_line(tmp_path, capsys):
    command = ["train", "digits", "--arms", "vanilla", "--out", str(tmp_path), *SMALL]
    assert cli.main([part for part in command if part != "--quiet"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("] ")[0] for line in lines] == ["[1/2", "[2/2"]
    assert all(line.split("] ")[1].startswith("vanilla/0: accuracy ") and line.isprintable() for line in lines)
    assert cli.main([*command, "--resume"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("given", "wanted"), [([], 1), (["--threads", "2"], 2)])
def test_threads_are_set_for_the_run_alone(tmp_path, monkeypatch, given, wanted):
    seen, before, forward = set(), torch.get_num_threads(), classify.Classifier.forward

    def watched(self, x):
        seen.add(torch.get_num_threads())
        return forward(self, x)

    monkeypatch.setattr(classify.Classifier, "forward", watched)
    assert cli.main(["train", "digits", "--arms", "vanilla", "--out", str(tmp_path), *SMALL, *given]) == 0
    assert seen == {wanted}
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("command", [["train", "digits"], ["reproduce", "regnde-mnist-ode"], ["bench", "overhead"]])
@pytest.mark.parametrize("device", ["cuda:99", "gpu", "meta"])
def test_a_missing_device_is_one_line(command, device, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([*command, "--device", device])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"argument --device: got '{device}'; expected cpu, or a CUDA device" in error


@pytest.mark.parametrize(
    "command", [["nothing"], ["train", "x"], ["reproduce", "x"], ["train", "digits", "--seeds", "no"]]
)
def test_unknown_names_are_one_line(command, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(command)
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_an_interruption_anywhere_ends_without_a_traceback(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("neuralde.commands.bench.default_out", interrupted)
    assert cli.main(["bench", "overhead", "--quick"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_wrong_arms_are_named(capsys):
    assert cli.main(["train", "digits", "--arms", "magic"]) == 2
    assert "magic" in capsys.readouterr().err
    assert cli.main(["train", "--list"]) == 0
    assert "digits" in capsys.readouterr().out


def test_the_package_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "neuralde", "--version"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("neuralde ")


@pytest.mark.parametrize(
    ("command", "package", "extra"),
    [
        (["train", "digits"], "sklearn", "train"),
        (["train", "latent-sde", "--data", "setup.cfg"], "scipy", "train"),
        (["bench", "events", "--quick"], "scipy", "bench"),
    ],
)
def test_a_missing_package_is_named_with_the_extra_that_brings_it(
    command, package, extra, tmp_path, monkeypatch, capsys
):
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / "setup.cfg").touch()
    monkeypatch.chdir(tmp_path)
    assert cli.main([*command, "--out", str(tmp_path / "out")]) == 2
    assert f"{package}: not installed; expected pip install 'neuralde[{extra}]'" in capsys.readouterr().err
