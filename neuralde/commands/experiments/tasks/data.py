"""The images that the experiments learn."""

from __future__ import annotations

import gzip
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ....data import DataError
from ...extras import needed

MNIST_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


@dataclass(frozen=True, eq=False)
class Images:
    """Flattened images ``(N, pixels)`` in [0, 1] and their labels, for training and held out."""

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor

    def head(self, train_size: int | None, test_size: int | None) -> Images:
        """The first so many of each part."""
        return Images(
            self.train_x[:train_size], self.train_y[:train_size], self.test_x[:test_size], self.test_y[:test_size]
        )

    def to(self, device: torch.device) -> Images:
        """The same on a device."""
        return Images(*(part.to(device) for part in (self.train_x, self.train_y, self.test_x, self.test_y)))


def digits(dtype: torch.dtype) -> Images:
    """The 1,797 8x8 digits that scikit-learn bundles, one fifth of each class held out, always the same."""
    data = needed("sklearn.datasets", "train").load_digits()
    parts = needed("sklearn.model_selection", "train").train_test_split(
        data.data / 16.0, data.target, test_size=0.2, random_state=0, stratify=data.target
    )
    train_x, test_x, train_y, test_y = (torch.as_tensor(np.ascontiguousarray(part)) for part in parts)
    return Images(train_x.to(dtype), train_y, test_x.to(dtype), test_y)


def mnist(folder: Path, dtype: torch.dtype, train_size: int | None, test_size: int | None) -> Images:
    """MNIST from its four idx files, gzipped or not; the first ``train_size`` and ``test_size`` images."""
    found = [next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None) for name in MNIST_FILES]
    missing = [name for name, path in zip(MNIST_FILES, found, strict=True) if path is None]
    if missing:
        raise DataError(
            f"{folder}: {', '.join(missing)} not found (with or without .gz). MNIST's four files are published by its "
            "authors, and mirrored with torchvision and many others as train-images-idx3-ubyte.gz, "
            "train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz and t10k-labels-idx1-ubyte.gz; "
            "put them into one folder and pass it as --data"
        )
    arrays = [torch.as_tensor(read_idx(path)) for path in found if path is not None]
    part = Images(*arrays).head(train_size, test_size)
    return Images(
        part.train_x.flatten(1).to(dtype) / 255.0,
        part.train_y.long(),
        part.test_x.flatten(1).to(dtype) / 255.0,
        part.test_y.long(),
    )


def read_idx(path: Path) -> np.ndarray:
    """An array of unsigned bytes from an idx file (big-endian header: two zeros, type, dimensions, sizes)."""
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] != 8:
        raise DataError(f"{path}: not an idx file of unsigned bytes")
    shape = struct.unpack(f">{raw[3]}I", raw[4 : 4 + 4 * raw[3]])
    values = np.frombuffer(raw, dtype=np.uint8, offset=4 + 4 * raw[3])
    if values.size != int(np.prod(shape)):
        raise DataError(f"{path}: holds {values.size} bytes, but its header says {shape}")
    return values.reshape(shape).copy()
