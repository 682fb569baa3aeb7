"""PhysioNet's challenge of 2012: 48 hours of intensive care in irregular measurements, as series on an hourly grid."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ....data import DataError

DESCRIPTORS = ("Age", "Gender", "Height", "ICUType")
CHANNELS = (
    *("Weight", "Albumin", "ALP", "ALT", "AST", "Bilirubin", "BUN", "Cholesterol", "Creatinine", "DiasABP", "FiO2"),
    *("GCS", "Glucose", "HCO3", "HCT", "HR", "K", "Lactate", "Mg", "MAP", "MechVent", "Na", "NIDiasABP", "NIMAP"),
    *("NISysABP", "PaCO2", "PaO2", "pH", "Platelets", "RespRate", "SaO2", "SysABP", "Temp", "TroponinI", "TroponinT"),
    *("Urine", "WBC"),
)
"""What is measured again and again; the general descriptors, which are not, are left out."""
HOURS = 48
SETS = ("set-a", "set-b")
HELP = (
    "the folder with PhysioNet 2012's records: set-a and set-b as folders of text files or as .tar.gz, as PhysioNet publishes "
    "them (physionet.org/content/challenge-2012), or packed into one .npz"
)


class Records(NamedTuple):
    """Measurements in one list.

    Attributes:
        patients: how many there are.
        patient: whose each measurement is, counted from 0.
        minute: when, since admission.
        channel: its place in :data:`CHANNELS`.
        value: in the records' units.
    """

    patients: int
    patient: np.ndarray
    minute: np.ndarray
    channel: np.ndarray
    value: np.ndarray


@dataclass(frozen=True, eq=False)
class Series:
    """Series on one grid, for training and held out.

    ``ts`` are the times ``(T,)`` in units of the 48 hours; ``*_x`` the data ``(N, T, 37)``, scaled so that the training
    part's values fill [0, 1] in every channel; ``*_mask`` where something was measured.
    """

    ts: Tensor
    train_x: Tensor
    train_mask: Tensor
    test_x: Tensor
    test_mask: Tensor

    def to(self, device: torch.device) -> Series:
        """The same on a device."""
        parts = (self.ts, self.train_x, self.train_mask, self.test_x, self.test_mask)
        return Series(*(part.to(device) for part in parts))


def physionet(
    folder: Path,
    dtype: torch.dtype,
    train_size: int | None = None,
    test_size: int | None = None,
    split_seed: int = 0,
) -> Series:
    """The records of a folder: gridded, split 80 to 20 at random, scaled by the training part; the first of each part."""
    ts, data, mask = gridded(read(folder))
    order = np.random.default_rng(split_seed).permutation(len(data))
    train, test = order[: (4 * len(order)) // 5], order[(4 * len(order)) // 5 :]
    low, scale = _range(data[train], mask[train])
    data = np.where(mask, (data - low) / scale, 0.0)
    parts = [data[train][:train_size], mask[train][:train_size], data[test][:test_size], mask[test][:test_size]]
    train_x, train_mask, test_x, test_mask = (torch.as_tensor(part) for part in parts)
    return Series(torch.as_tensor(ts).to(dtype), train_x.to(dtype), train_mask, test_x.to(dtype), test_mask)


def gridded(records: Records) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times ``(49,)`` in units of 48 hours, data ``(N, 49, 37)`` and mask: the mean of what falls to each full hour.

    Patients of whom nothing was measured are left out.
    """
    hour = np.minimum((records.minute.astype(np.int64) + 30) // 60, HOURS)
    shape = (records.patients, HOURS + 1, len(CHANNELS))
    place = np.ravel_multi_index((records.patient, hour, records.channel), shape)
    count = np.bincount(place, minlength=int(np.prod(shape))).reshape(shape)
    total = np.bincount(place, weights=records.value, minlength=int(np.prod(shape))).reshape(shape)
    mask = count > 0
    some = mask.any(axis=(1, 2))
    return np.arange(HOURS + 1) / HOURS, (total / np.maximum(count, 1))[some], mask[some]


def _range(data: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each channel's least value and range; 0 and 1 where it has none."""
    low = np.where(mask, data, np.inf).min(axis=(0, 1))
    high = np.where(mask, data, -np.inf).max(axis=(0, 1))
    low, high = np.where(np.isfinite(low), low, 0.0), np.where(np.isfinite(high), high, 0.0)
    return low, np.where(high > low, high - low, 1.0)


def read(folder: Path) -> Records:
    """Every measurement in a folder, from text records or from packed ones (see :func:`unpacked`)."""
    if not folder.is_dir():
        raise DataError(f"{folder}: not a folder; expected {HELP}")
    packed = sorted(folder.glob("*.npz"))
    parts = [unpacked(path) for path in packed] or [parsed(_texts(folder))]
    patients = np.cumsum([0, *(part.patients for part in parts)])
    if not patients[-1]:
        raise DataError(f"{folder}: no records found (no {', '.join(SETS)} and no .npz); expected {HELP}")
    columns = zip(*(part[1:] for part in parts), strict=True)
    patient, minute, channel, value = columns
    whose = np.concatenate([numbers + before for numbers, before in zip(patient, patients, strict=False)])
    return Records(int(patients[-1]), whose, *(np.concatenate(column) for column in (minute, channel, value)))


def unpacked(path: Path) -> Records:
    """Measurements from an ``.npz`` with ``params``, names, and for each set ``a`` or ``b`` the columns of its records.

    ``a_param`` (places in ``params``), ``a_time_min`` (minutes) and ``a_value`` are the sets' rows in order, and the i-th
    record's rows are those from ``a_ptr[i]`` to ``a_ptr[i + 1]``.
    """
    with np.load(path, allow_pickle=False) as file:
        sets = [name.removesuffix("_ptr") for name in file.files if name.endswith("_ptr")]
        needed = ["params", *(f"{s}_{column}" for s in sets for column in ("ptr", "param", "time_min", "value"))]
        missing = [name for name in needed if name not in file.files] + ([] if sets else ["a_ptr"])
        if missing:
            raise DataError(f"{path}: has no {', '.join(missing)}; expected {', '.join(needed)}")
        lengths = [np.diff(file[f"{s}_ptr"].astype(np.int64)) for s in sets]
        length = np.concatenate(lengths)
        names = [str(name) for name in file["params"]]
        param, minute, value = (
            np.concatenate([file[f"{s}_{column}"] for s in sets]) for column in ("param", "time_min", "value")
        )
    if not len(param) == len(minute) == len(value) == length.sum() or (len(param) and param.max() >= len(names)):
        raise DataError(f"{path}: columns of {len(param)}, {len(minute)} and {len(value)} rows for {length.sum()}")
    return _measured(len(length), np.repeat(np.arange(len(length)), length), minute, param, value, names, str(path))


def parsed(texts: Iterator[tuple[str, str]]) -> Records:
    """Measurements from text records, each with its name: lines ``HH:MM,Parameter,Value`` below a heading."""
    names = ["", "RecordID", *DESCRIPTORS, *CHANNELS]
    place = {name: index for index, name in enumerate(names)}
    rows: list[tuple[int, int, int, float]] = []
    patients = 0
    for source, text in texts:
        lines = text.split()
        if not lines or lines[0] != "Time,Parameter,Value":
            raise DataError(
                f"{source}: begins with {lines[:1]}; expected Time,Parameter,Value, as PhysioNet 2012's records"
            )
        for number, line in enumerate(lines[1:], start=2):
            try:
                time, name, value = line.split(",")
                hours, minutes = time.split(":")
                rows.append((patients, 60 * int(hours) + int(minutes), place[name], float(value)))
            except (ValueError, KeyError):
                raise DataError(
                    f"{source}, line {number}: got {line!r}; expected HH:MM,Parameter,Value with one of {', '.join(names[2:])}"
                ) from None
        patients += 1
    columns = np.array(rows, dtype=np.float64).reshape(-1, 4).T
    patient, minute, param = (column.astype(np.int64) for column in columns[:3])
    return _measured(patients, patient, minute, param, columns[3], names, "records")


def _measured(
    patients: int,
    patient: np.ndarray,
    minute: np.ndarray,
    param: np.ndarray,
    value: np.ndarray,
    names: list[str],
    source: str,
) -> Records:
    """Only the channels, by their own places, and without the weights of -1, which say unknown."""
    missing = [name for name in CHANNELS if name not in names]
    if missing:
        raise DataError(f"{source}: no parameter {', '.join(missing)}; expected all of {', '.join(CHANNELS)}")
    places = np.array([CHANNELS.index(name) if name in CHANNELS else -1 for name in names])
    channel = places[param]
    kept = (channel >= 0) & ~((channel == CHANNELS.index("Weight")) & (value < 0)) & np.isfinite(value)
    return Records(patients, patient[kept], minute[kept], channel[kept], value[kept].astype(np.float64))


def _texts(folder: Path) -> Iterator[tuple[str, str]]:
    """Every text record below a folder, in the order of its sets and names."""
    for name in SETS:
        if (folder / name).is_dir():
            for path in sorted((folder / name).glob("*.txt")):
                yield str(path), path.read_text(encoding="ascii", errors="replace")
        elif (folder / f"{name}.tar.gz").is_file():
            yield from _archived(folder / f"{name}.tar.gz")
        else:
            found = sorted(p.name for p in folder.iterdir())[:8]
            raise DataError(f"{folder}: {name} not found, only {', '.join(found) or 'nothing'}; expected {HELP}")


def _archived(path: Path) -> Iterator[tuple[str, str]]:
    """The text records of an archive, which is not unpacked onto the disk."""
    try:
        with tarfile.open(path) as archive:
            members = [member for member in archive.getmembers() if member.isfile() and member.name.endswith(".txt")]
            for member in sorted(members, key=lambda member: member.name):
                file = archive.extractfile(member)
                assert file is not None
                with io.TextIOWrapper(file, encoding="ascii", errors="replace") as text:
                    yield f"{path}:{member.name}", text.read()
    except tarfile.TarError as error:
        raise DataError(f"{path}: cannot be read as an archive: {error}") from error
