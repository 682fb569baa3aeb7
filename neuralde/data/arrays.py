"""Series from arrays, and from the files of arrays in which data sets are often passed on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import DataError
from .series import SeriesSet, coded, padded


def from_arrays(
    xs: Any,
    labels: Any = None,
    *,
    ts: Any = None,
    lengths: Any = None,
    classes: Sequence[str] | None = None,
    name: str = "",
) -> SeriesSet:
    """Series from arrays with the channels first, as archives and other packages keep them.

    Args:
        xs: ``(N, c, T)``, NaN where nothing was observed; or a list of N arrays ``(c, T_i)``.
        labels: one for each series: floating-point numbers are targets of a regression, all else is a class.
        ts: increasing times ``(T,)`` of all, or a list of N arrays ``(T_i,)``; 0, 1, 2, … without.
        lengths: how many of the T times each series has, ``(N,)``, where ``xs`` is one padded array.
        classes: the names of the classes in the order of their numbers; the sorted labels without.
        name: of the problem.

    Raises:
        DataError: shapes, lengths, times or labels do not fit; the message names them.

    When to take it:
        For data that are in memory: numpy's and torch's, or what aeon, sktime or tslearn have read.

    Example:
        >>> import numpy as np, neuralde as nde
        >>> series = nde.data.from_arrays(np.random.rand(10, 3, 20), labels=np.arange(10) % 2)
        >>> len(series), series.channels, series.classes
        (10, 3, ('0', '1'))
    """
    values = _cut([_array(x, f"xs[{i}]", 2) for i, x in enumerate(xs)], xs, lengths)
    channels = values[0].shape[0]
    for place, x in enumerate(values):
        if x.shape[0] != channels or not x.shape[1]:
            raise DataError(
                f"xs[{place}]: got shape {x.shape}; expected ({channels}, T) with at least one time, as the first"
            )
    times = _times(ts, values)
    codes, names = (None, ()) if labels is None else _coded(labels, classes, len(values))
    return padded(times, [x.T for x in values], codes, classes=names, name=name)


def _array(value: Any, name: str, dims: int) -> np.ndarray:
    try:
        array = np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name}: got what is no array of numbers ({error}); expected one") from None
    if array.ndim != dims:
        raise DataError(f"{name}: got shape {array.shape}; expected {dims} dimension{'s' if dims > 1 else ''}")
    return array


def _cut(values: list[np.ndarray], xs: Any, lengths: Any) -> list[np.ndarray]:
    """Padded series without what is behind their ends."""
    if not values:
        raise DataError("xs: got no series; expected at least one")
    if lengths is None:
        return values
    if isinstance(xs, (list, tuple)):
        raise DataError("lengths: got some with a list of series; expected None, since each array has its own")
    counts = _array(lengths, "lengths", 1)
    longest = values[0].shape[1]
    if counts.shape != (len(values),) or ((counts < 1) | (counts > longest) | (counts % 1 != 0)).any():
        raise DataError(
            f"lengths: got {counts.tolist()[:5]}, shape {counts.shape}; expected {len(values)} whole numbers from 1 to {longest}"
        )
    return [x[:, : int(count)] for x, count in zip(values, counts, strict=True)]


def _times(ts: Any, values: list[np.ndarray]) -> list[np.ndarray]:
    lengths = [x.shape[1] for x in values]
    if ts is None:
        return [np.arange(float(length)) for length in lengths]
    own = isinstance(ts, (list, tuple)) and len(ts) > 0 and np.ndim(ts[0]) == 1
    if own and len(ts) != len(values):
        raise DataError(f"ts: got {len(ts)} for {len(values)} series; expected one for each")
    if own:
        times = [_array(t, f"ts[{i}]", 1) for i, t in enumerate(ts)]
    else:
        common = _array(ts, "ts", 1)
        times = [common[:length] for length in lengths]
    for place, (t, length) in enumerate(zip(times, lengths, strict=True)):
        if len(t) != length or not np.isfinite(t).all() or (np.diff(t) <= 0).any():
            which = f"ts[{place}]" if own else "ts"
            raise DataError(
                f"{which}: got {len(t)} times for series {place} of {length}; expected as many, finite and increasing"
            )
    return times


def _coded(labels: Any, classes: Sequence[str] | None, count: int) -> tuple[Tensor, tuple[str, ...]]:
    """Targets as they are, classes by their places."""
    array = np.asarray(labels.detach().cpu() if isinstance(labels, Tensor) else labels)
    if array.shape != (count,):
        raise DataError(
            f"labels: got {array.shape[0] if array.ndim == 1 else array.shape} for {count} series; expected one for each"
        )
    if array.dtype.kind == "f":
        return torch.as_tensor(array, dtype=torch.float64), ()
    if classes is not None and array.dtype.kind in "iu":
        if ((array < 0) | (array >= len(classes))).any():
            raise DataError(
                f"labels: got {array.min()} to {array.max()}; expected the places of {len(classes)} classes"
            )
        return torch.as_tensor(array, dtype=torch.int64), tuple(map(str, classes))
    if classes is None and array.dtype.kind in "iub":
        # Sorted as numbers: "10" is no neighbour of "1".
        classes = [str(value) for value in np.unique(array)]
    return coded([str(label) for label in array], classes)


def read_npz(path: str | Path) -> dict[str, SeriesSet]:
    """Training and held-out series from an ``.npz`` of plain arrays.

    Args:
        path: a file with, for ``train`` and ``test``, ``X_train`` ``(N, c, T)``, ``y_train`` and, if padded, ``len_train``;
            or with all series end to end: ``X`` ``(rows, c)``, ``ptr`` ``(N + 1,)`` where each begins, ``y``, ``classes`` (a
            string with a letter for each, or an array) and ``n_train``, how many of them are for training.

    Returns:
        The sets by the names ``"train"`` and ``"test"``, with the same classes.

    Raises:
        DataError: no such file, no such arrays, or they do not fit each other.

    When to take it:
        For data sets that were passed on as arrays. Objects are not unpickled.

    Example:
        >>> import numpy as np, tempfile, pathlib, neuralde as nde
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "walks.npz"
        >>> x, y = np.random.rand(6, 2, 9), np.array(["a", "b"] * 3)
        >>> np.savez(path, X_train=x, y_train=y, X_test=x[:2], y_test=y[:2])
        >>> sets = nde.data.read_npz(path)
        >>> len(sets["train"]), len(sets["test"]), sets["test"].classes, sets["train"].name
        (6, 2, ('a', 'b'), 'walks')
    """
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except FileNotFoundError:
        raise DataError(f"{path}: not found; expected an .npz of arrays") from None
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: cannot be read as an .npz of plain arrays: {error}") from error
    try:
        if "ptr" in arrays:
            return _end_to_end(arrays, path.stem)
        return _split(arrays, path.stem)
    except KeyError as missing:
        raise DataError(
            f"{path}: has no {missing.args[0]}, only {', '.join(arrays)}; expected X_train, y_train, X_test, y_test, or X, ptr, y, "
            "classes, n_train"
        ) from None
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _split(arrays: Mapping[str, np.ndarray], name: str) -> dict[str, SeriesSet]:
    """Two padded arrays; the classes are those of both."""
    parts = {part: (arrays[f"X_{part}"], arrays[f"y_{part}"], arrays.get(f"len_{part}")) for part in ("train", "test")}
    labels = np.concatenate([y for _, y, _ in parts.values()])
    classes = None if labels.dtype.kind == "f" else [str(value) for value in np.unique(labels)]
    return {
        part: from_arrays(x, y if classes is None else y.astype(str), lengths=n, classes=classes, name=name)
        for part, (x, y, n) in parts.items()
    }


def _end_to_end(arrays: Mapping[str, np.ndarray], name: str) -> dict[str, SeriesSet]:
    """One array with all series behind each other."""
    rows, ptr, y, count = (arrays[key] for key in ("X", "ptr", "y", "n_train"))
    classes = list(arrays["classes"].item()) if arrays["classes"].ndim == 0 else [str(c) for c in arrays["classes"]]
    if rows.ndim != 2 or ptr.ndim != 1 or ptr[0] != 0 or ptr[-1] != len(rows) or (np.diff(ptr) < 1).any():
        raise DataError(
            f"ptr: got {ptr[:3]}…{ptr[-1:]} for X of shape {rows.shape}; expected increasing places from 0 to its rows"
        )
    whole = from_arrays([rows[a:b].T for a, b in pairwise(ptr)], y, classes=classes, name=name)
    if not 0 < int(count) < len(whole):
        raise DataError(f"n_train: got {int(count)}; expected at least 1 and fewer than the {len(whole)} series")
    return {"train": whole[: int(count)], "test": whole[int(count) :]}
