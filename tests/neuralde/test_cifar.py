"""CIFAR-10: the archive's reader, and the convolutional model."""

import io
import pickle
import tarfile

import numpy as np
import pytest
import torch

from neuralde.commands.experiments.tasks.cifar import ARCHIVE, Cifar, Config, ConvClassifier, ConvField, cifar
from neuralde.data import DataError

NAMES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]


def archived(folder, batches):
    with tarfile.open(folder / ARCHIVE, "w:gz") as archive:
        for name, raw in batches.items():
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(raw)
            archive.addfile(info, io.BytesIO(raw))


def batch(seed):
    rng = np.random.default_rng(seed)
    return {b"data": rng.integers(0, 256, (4, 3072), dtype=np.uint8), b"labels": [seed, 1, 2, 3], b"batch_label": b"x"}


def test_the_archive_is_read_in_order(tmp_path):
    archived(tmp_path, {name: pickle.dumps(batch(seed), protocol=2) for seed, name in enumerate(NAMES)})
    images = cifar(tmp_path)
    assert images.train_x.shape == (20, 3, 32, 32)
    assert images.train_y[::4].tolist() == [0, 1, 2, 3, 4]
    assert images.test_y[0] == 5
    # Row by row, the red plane first.
    assert torch.equal(images.test_x[0].flatten(), torch.from_numpy(batch(5)[b"data"][0]))
    data, warnings = Cifar().data(tmp_path, Config(train_size=7), "paper")
    assert data.train_x.shape == (7, 3, 32, 32)
    assert warnings == []
    red = (images.train_x[0, 0, 0, 0].item() / 255 - 0.4914) / 0.2470
    assert data.train_x[0, 0, 0, 0].item() == pytest.approx(red, rel=1e-5)


class Canary:
    def __reduce__(self):
        return (open, ("canary", "w"))


def test_no_code_of_the_archive_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    archived(tmp_path, {"data_batch_1": pickle.dumps(Canary())})
    with pytest.raises(DataError, match=r"data_batch_1: not one of CIFAR-10's batches.*not part of an array"):
        cifar(tmp_path)
    assert not (tmp_path / "canary").exists()


def test_missing_and_broken_archives_say_so(tmp_path):
    with pytest.raises(DataError, match=r"cifar-10-python.tar.gz: not found; expected .*CIFAR-10's authors publish"):
        cifar(tmp_path)
    with pytest.raises(DataError, match="--data: got none"):
        Cifar().data(None, Config(), "cpu")
    archived(tmp_path, {"test_batch": pickle.dumps(batch(0))})
    with pytest.raises(DataError, match="has no data_batch_1"):
        cifar(tmp_path)
    archived(tmp_path, {"test_batch": pickle.dumps({b"data": np.zeros((2, 3)), b"labels": [1, 2]})})
    with pytest.raises(DataError, match="expected uint8"):
        cifar(tmp_path)
    (tmp_path / ARCHIVE).write_bytes(b"no archive")
    with pytest.raises(DataError, match="cannot be read as an archive"):
        cifar(tmp_path)


def test_the_papers_sizes():
    field = ConvField(8, 64)
    assert [tuple(layer.weight.shape[:2]) for layer in field.layers] == [(64, 9), (64, 65), (8, 65)]
    model = ConvClassifier(Config(), ())
    assert model.head.in_features == 1024
    field.eval()
    z = torch.randn(2, 8, 32, 32)
    early, late = field(torch.tensor(0.0), z), field(torch.tensor(1.0), z)
    assert early.shape == z.shape
    assert not torch.equal(early, late)
