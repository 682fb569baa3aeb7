"""A convolutional neural ODE on CIFAR-10, and the reader of its archive."""

from __future__ import annotations

import io
import math
import pickle
import tarfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neuralde.adjoints import Adjoint
from neuralde.solvers import Tsit5

from ....data import DataError
from ....models import NeuralODE
from . import classify
from .data import Images
from .images import SMOKE, Classification

ARCHIVE = "cifar-10-python.tar.gz"
HELP = f"the folder with {ARCHIVE}, which CIFAR-10's authors publish at cs.toronto.edu/~kriz/cifar.html"
MEAN = (0.4914, 0.4822, 0.4465)
DEVIATION = (0.2470, 0.2435, 0.2616)
"""Of the training images' colours."""
STAND_IN = "These are random numbers, not CIFAR-10 (no --data): a run of the machinery, not a reproduction."


@dataclass(frozen=True)
class Config:
    """What a run depends on, beside its data and its arm."""

    experiment: str = "local-cifar"
    epochs: int = 20
    batch_size: int = 32
    learning_rate: float = 3e-3
    last_learning_rate: float = 1e-4
    """The rate falls to this along half a cosine."""
    hidden: int = 64
    """The field's channels between its convolutions."""
    tolerance: float = 1e-4
    train_size: int | None = None
    test_size: int | None = None
    device: str = "cpu"


class ConvField(nn.Module):
    """Three 3x3 convolutions without bias that see the time as a further channel; GELU and batch norm after the first two."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        sizes = [channels, hidden, hidden, channels]
        self.layers = nn.ModuleList(nn.Conv2d(a + 1, b, 3, padding=1, bias=False) for a, b in pairwise(sizes))
        self.norms = nn.ModuleList(nn.BatchNorm2d(hidden) for _ in range(2))

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        """The derivative of ``(B, channels, H, W)`` at a time."""
        time = t.expand(len(z), 1, *z.shape[2:])
        for layer, norm in zip(self.layers[:2], self.norms, strict=True):
            z = norm(nn.functional.gelu(layer(torch.cat([z, time], 1))))
        out: Tensor = self.layers[2](torch.cat([z, time], 1))
        return out


class ConvClassifier(nn.Module):
    """Five channels computed from the three colours join them, a neural ODE on all eight, then a linear layer."""

    def __init__(self, config: Config, terms: Any, adjoint: Adjoint | None = None) -> None:
        super().__init__()
        self.lift = nn.Conv2d(3, 5, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.node = NeuralODE(
            ConvField(8, config.hidden),
            solver=Tsit5(),
            rtol=config.tolerance,
            atol=config.tolerance,
            adjoint=adjoint,
            regularizers=[term.make() for term in terms],
        )
        self.squeeze = nn.Conv2d(8, 1, 3, padding=1)
        self.head = nn.Linear(32 * 32, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The logits of ``(B, 3, 32, 32)``, and the regularizers' values."""
        states, solution = self.node(self.norm(torch.cat([x, self.lift(x)], 1)))
        return self.head(nn.functional.gelu(self.squeeze(states)).flatten(1)), solution.regularization


class Run(classify.Run):
    """One arm with one seed, on :class:`Images` of shape ``(N, 3, 32, 32)``."""

    drop_last = True

    def build(self) -> nn.Module:
        """A classifier with fresh parameters."""
        return ConvClassifier(self.config, self.terms or (), self.adjoint).to(self.data.train_x)

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(model.parameters(), lr=self.config.learning_rate)

    def rate(self, step: int, steps: int) -> float:
        """Half a cosine."""
        first, last = self.config.learning_rate, self.config.last_learning_rate
        return float(last + 0.5 * (first - last) * (1.0 + math.cos(math.pi * step / steps)))


class Cifar(Classification):
    """CIFAR-10, standardised by the training images' colours, in single precision."""

    data_help = HELP

    def __init__(self) -> None:
        super().__init__(Run)

    def data(self, folder: Path | None, config: Any, scale: str) -> tuple[Images, list[str]]:
        """CIFAR-10, or at smoke scale without a folder random numbers."""
        if folder is None and scale != "smoke":
            raise DataError(f"--data: got none; expected {HELP}")
        warnings = [SMOKE] if scale == "smoke" else []
        if folder is None:
            images, warnings = _noise(config), [STAND_IN, *warnings]
        else:
            images = cifar(folder).head(config.train_size, config.test_size)
        return _standardised(images).to(torch.device(config.device)), warnings


def _noise(config: Any) -> Images:
    generator = torch.Generator().manual_seed(0)
    parts = []
    for count in (config.train_size or 32, config.test_size or 16):
        parts += [
            torch.randint(256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8),
            torch.randint(10, (count,), generator=generator),
        ]
    return Images(*parts)


def _standardised(images: Images) -> Images:
    mean, deviation = (torch.tensor(numbers).view(3, 1, 1) for numbers in (MEAN, DEVIATION))
    train, test = ((part.float() / 255.0 - mean) / deviation for part in (images.train_x, images.test_x))
    return Images(train, images.train_y, test, images.test_y)


def cifar(folder: Path) -> Images:
    """CIFAR-10 as bytes ``(N, 3, 32, 32)`` from its archive, of which no code is run."""
    path = folder / ARCHIVE
    if not path.is_file():
        raise DataError(f"{path}: not found; expected {HELP}")
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    found: dict[str, tuple[Tensor, Tensor]] = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = member.name.rsplit("/", 1)[-1]
                file = archive.extractfile(member) if name in names else None
                if file is not None:
                    found[name] = _batch(file.read(), f"{path}:{member.name}")
    except tarfile.TarError as error:
        raise DataError(f"{path}: cannot be read as an archive: {error}") from error
    missing = [name for name in names if name not in found]
    if missing:
        raise DataError(f"{path}: has no {', '.join(missing)}; expected {', '.join(names)}")
    x, y = zip(*(found[name] for name in names), strict=True)
    return Images(torch.cat(x[:5]), torch.cat(y[:5]), x[5], y[5])


class _ArraysOnly(pickle.Unpickler):
    """Loads what CIFAR-10's files consist of, and calls nothing else."""

    allowed = {(module, "_reconstruct") for module in ("numpy.core.multiarray", "numpy._core.multiarray")} | {
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("_codecs", "encode"),
    }

    def find_class(self, module: str, name: str) -> Any:
        """Refuse any name that an array does not need."""
        if (module, name) not in self.allowed:
            raise pickle.UnpicklingError(f"{module}.{name} is not part of an array")
        return super().find_class(module, name)


def _batch(raw: bytes, source: str) -> tuple[Tensor, Tensor]:
    """One file's images and labels."""
    try:
        content = _ArraysOnly(io.BytesIO(raw), encoding="bytes").load()
        x, y = np.asarray(content[b"data"]), np.asarray(content[b"labels"], dtype=np.int64)
    except (pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{source}: not one of CIFAR-10's batches: {error!r}") from error
    if x.dtype != np.uint8 or x.shape != (len(y), 3072):
        raise DataError(f"{source}: got {x.dtype} {x.shape} for {len(y)} labels; expected uint8 ({len(y)}, 3072)")
    return torch.from_numpy(x.copy()).view(-1, 3, 32, 32), torch.from_numpy(y)
