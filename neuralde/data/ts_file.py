"""The ``.ts`` files of the UCR and UEA archives and of the Monash regression archive."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from .errors import DataError
from .series import SeriesSet, coded, padded

_NONE: tuple[str, ...] = ()
FLAGS = ("timestamps", "missing", "univariate", "equallength", "targetlabel")
NUMBERS = ("dimension", "dimensions", "serieslength")
_BRACKETED = re.compile(r"\(([^()]*)\)")
_SECOND = np.timedelta64(1, "us")


@dataclass(frozen=True)
class _Header:
    """What stands above ``@data``; None where nothing is said."""

    name: str = ""
    flags: dict[str, bool] | None = None
    numbers: dict[str, int] | None = None
    classes: tuple[str, ...] | None = None
    labelled: bool = False

    def says(self, name: str) -> bool | None:
        """A flag."""
        return (self.flags or {}).get(name)

    def number(self, *names: str) -> int | None:
        """A number, by any of its names."""
        return next(((self.numbers or {})[name] for name in names if name in (self.numbers or {})), None)


@dataclass
class _Series:
    """One line: a time and a value for each observation of each channel."""

    times: list[np.ndarray]
    values: list[np.ndarray]
    start: float | None
    label: str


class _Line:
    """A line of the file, to say where something is wrong."""

    def __init__(self, path: Path, number: int) -> None:
        self.path, self.number = path, number

    def wrong(self, what: str) -> DataError:
        return DataError(f"{self.path}, line {self.number}: {what}")


def read_ts(path: str | Path, *, check: bool = True) -> SeriesSet:
    r"""The series of a ``.ts`` file, with their times.

    Each line below ``@data`` is a series: channels with a colon between them, the class or the target behind the last colon. A
    channel is a list of values, or with ``@timeStamps true`` of pairs ``(time, value)``, whose times are numbers or ISO
    dates. Each channel may then have its own times: the series has all of them, and NaN where a channel has none.

    Args:
        path: the file.
        check: refuse values that contradict the header: lengths, channels, missing values. Without, what is there is
            taken. A label that the header does not name is always refused.

    Returns:
        A :class:`SeriesSet` of float64 values. ``?`` and ``NaN`` are NaN. ``classes`` are in the order of the header, or
        sorted where it names none.

    Units:
        Times as written; of dates seconds since the first one of the series, with ``starts``; else 0, 1, 2, …

    Raises:
        DataError: the file cannot be found or read; the line, what it has and what is expected are named.

    When to take it:
        For data sets of the archives. aeon 1.6.0 reads these files as well, but drops the times, and of values written
        as ``(time, value)`` the signs.

    References:
        Bagnall et al.: The UEA multivariate time series classification archive. 2018, with its file format, which
        aeon and sktime document. Tan, Bergmeir, Petitjean, Webb: Time series extrinsic regression. 2021.

    Example:
        >>> import pathlib, tempfile, neuralde as nde
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "walks.ts"
        >>> header = "@timeStamps true\n@univariate false\n@dimensions 2\n@classLabel true slow fast\n@data\n"
        >>> _ = path.write_text(header + "(0,-1.5),(0.5,?),(2,3):(0.5,4):fast\n(1,0),(2,1):(1,7),(3,8):slow\n")
        >>> series = nde.data.read_ts(path)
        >>> series.ts.T
        tensor([[0.0000, 0.5000, 2.0000],
                [1.0000, 2.0000, 3.0000]], dtype=torch.float64)
        >>> series.xs[:, 0].T, [series.classes[k] for k in series.labels]
        (tensor([[-1.5000,     nan,  3.0000],
                [    nan,  4.0000,     nan]], dtype=torch.float64), ['fast', 'slow'])
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: not found; expected a .ts file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text: {error}") from error
    lines = _numbered(path, text)
    header = _header(path, lines)
    series: list[_Series] = []
    for line, content in lines:
        one = _series(line, content, header)
        if check:
            _agrees(line, one, header)
        if series and len(one.values) != len(series[0].values):
            raise line.wrong(
                f"got {len(one.values)} channels; expected {len(series[0].values)}, as in the first series"
            )
        if series and (one.start is None) != (series[0].start is None):
            raise line.wrong("got numbers and dates as time stamps; expected one kind in a file")
        series.append(one)
        if check and header.says("equallength") and _length(one) != _length(series[0]):
            raise line.wrong(
                f"got a series of {_length(one)}; expected {_length(series[0])} as in the first, since @equalLength is true"
            )
    if not series:
        raise DataError(f"{path}: has no series below @data; expected one on each line")
    return _together(path, series, header)


def _numbered(path: Path, text: str) -> Iterator[tuple[_Line, str]]:
    """The lines that hold something, without comments."""
    for number, raw in enumerate(text.splitlines(), start=1):
        content = raw.strip()
        if content and content[0] not in "#%":
            yield _Line(path, number), content


def _header(path: Path, lines: Iterator[tuple[_Line, str]]) -> _Header:
    """Everything down to ``@data``."""
    name = ""
    flags: dict[str, bool] = {}
    numbers: dict[str, int] = {}
    classes: tuple[str, ...] | None = None
    labelled = False
    for line, content in lines:
        if content[0] != "@":
            raise line.wrong(f"got {content[:40]!r} above @data; expected @ and a name, or a comment with #")
        key, *words = content[1:].split()
        key = key.lower()
        if key == "data":
            if words:
                raise line.wrong(f"got {' '.join(words)[:40]!r} behind @data; expected the series on the lines below")
            if labelled and flags.get("targetlabel"):
                raise line.wrong("got both @classLabel true and @targetLabel true above; expected one of them")
            return _Header(name, flags, numbers, classes, labelled)
        if key == "problemname":
            name = " ".join(words)
        elif key == "classlabel":
            labelled = _flag(line, key, words[:1])
            classes = tuple(words[1:]) or None
        elif key in FLAGS:
            flags[key] = _flag(line, key, words)
        elif key in NUMBERS:
            if len(words) != 1 or not words[0].isdecimal() or not int(words[0]):
                raise line.wrong(f"@{key}: got {' '.join(words) or 'nothing'}; expected a positive whole number")
            numbers[key] = int(words[0])
    raise DataError(f"{path}: has no @data; expected it between the header and the series")


def _flag(line: _Line, key: str, words: list[str]) -> bool:
    if len(words) != 1 or words[0].lower() not in ("true", "false"):
        raise line.wrong(f"@{key}: got {' '.join(words) or 'nothing'}; expected true or false")
    return words[0].lower() == "true"


def _series(line: _Line, content: str, header: _Header) -> _Series:
    """The channels and the label of a line."""
    labelled = header.labelled or bool(header.says("targetlabel"))
    if header.says("timestamps"):
        # The colons in dates are not those between channels.
        parts = _BRACKETED.sub(lambda m: m.group().replace(":", "\0"), content).split(":")
        read: Callable[[_Line, int, str], tuple[np.ndarray, np.ndarray]] = _stamped
    else:
        parts, read = content.split(":"), _plain
    label = parts.pop().strip() if labelled else ""
    if labelled and (not parts or not label or "(" in label):
        raise line.wrong("got no label behind the last channel; expected one, since the header says that there is")
    pairs = [read(line, place, part) for place, part in enumerate(parts)]
    times, values = [t for t, _ in pairs], [x for _, x in pairs]
    if not header.says("timestamps") and len({len(x) for x in values}) > 1:
        raise line.wrong(
            f"got channels of {', '.join(str(len(x)) for x in values)} values; expected one length, where there are no time stamps"
        )
    if not any(len(x) for x in values):
        raise line.wrong("got a series without a value; expected at least one")
    if len({t.dtype.kind for t in times if len(t)}) > 1:
        raise line.wrong("got numbers and dates as time stamps; expected one kind in a file")
    filled = next(t for t in times if len(t))
    if filled.dtype.kind != "M":
        return _Series(times, values, None, label)
    first = min(t[0] for t in times if len(t))
    seconds = [(t.astype("datetime64[us]") - first) / (1_000_000 * _SECOND) for t in times]
    return _Series(seconds, values, float((first - np.datetime64(0, "us")) / (1_000_000 * _SECOND)), label)


def _plain(line: _Line, place: int, text: str) -> tuple[np.ndarray, np.ndarray]:
    """A channel without time stamps."""
    values = _numbers(line, place, text.split(",") if text.strip() else [])
    return np.arange(float(len(values))), values


def _stamped(line: _Line, place: int, text: str) -> tuple[np.ndarray, np.ndarray]:
    """A channel of pairs (time, value)."""
    pairs = [pair.replace("\0", ":").split(",") for pair in _BRACKETED.findall(text)]
    between = re.sub(r"\s", "", _BRACKETED.sub("", text))
    wrong = next((pair for pair in pairs if len(pair) != 2), None)
    if wrong is not None or between != "," * max(len(pairs) - 1, 0):
        shown = f"({','.join(wrong)})" if wrong else text.strip().replace("\0", ":")[:60]
        raise line.wrong(
            f"channel {place}: got {shown!r}; expected (time,value),(time,value),…, since @timeStamps is true"
        )
    times = _stamps(line, place, [time.strip() for time, _ in pairs])
    if (times[1:] <= times[:-1]).any():
        at = int((times[1:] <= times[:-1]).argmax())
        raise line.wrong(
            f"channel {place}: got time {pairs[at + 1][0].strip()} behind {pairs[at][0].strip()}; expected increasing times"
        )
    return times, _numbers(line, place, [value for _, value in pairs])


def _stamps(line: _Line, place: int, texts: list[str]) -> np.ndarray:
    """Times as float64, or dates to the microsecond."""
    try:
        times = np.array(texts, dtype=np.float64)
    except ValueError:
        try:
            times = np.array(texts, dtype="datetime64[us]")
        except ValueError as error:
            raise line.wrong(
                f"channel {place}: time stamps: {error}; expected numbers, or dates such as 2007-01-01 00:00:00"
            ) from None
    if not (np.isfinite(times) if times.dtype.kind == "f" else ~np.isnat(times)).all():
        raise line.wrong(f"channel {place}: got a time stamp that is not finite; expected finite ones")
    return times


def _numbers(line: _Line, place: int, texts: list[str]) -> np.ndarray:
    """Values, NaN for those missing."""
    known = ["nan" if text.strip() == "?" else text for text in texts]
    try:
        return np.array(known, dtype=np.float64)
    except ValueError as error:
        raise line.wrong(f"channel {place}: {error}; expected numbers, ? where one is missing") from None


def _length(series: _Series) -> int:
    """How many times a series has, those of all channels."""
    return len(series.times[0]) if len(series.times) == 1 else len(np.unique(np.concatenate(series.times)))


def _agrees(line: _Line, series: _Series, header: _Header) -> None:
    """Refuse what contradicts the header."""
    channels, dimension = len(series.values), header.number("dimensions", "dimension")
    if header.says("univariate") and channels != 1:
        raise line.wrong(f"got {channels} channels; expected 1, since @univariate is true")
    if dimension is not None and channels != dimension:
        raise line.wrong(f"got {channels} channels; expected the {dimension} of @dimensions")
    length, longest = _length(series), header.number("serieslength")
    if longest is not None and header.says("equallength") is not False and length != longest:
        raise line.wrong(f"got a series of {length}; expected the {longest} of @seriesLength")
    if header.says("missing") is False and any(np.isnan(x).any() for x in series.values):
        raise line.wrong("got a missing value; expected none, since @missing is false")


def _together(path: Path, series: list[_Series], header: _Header) -> SeriesSet:
    """All series in one layout."""
    times, values = zip(*(_merged(one) for one in series), strict=True)
    texts = [one.label for one in series]
    labels, classes = None, _NONE
    if header.says("targetlabel"):
        try:
            labels = torch.from_numpy(np.array(texts, dtype=np.float64))
        except ValueError as error:
            raise DataError(f"{path}: @targetLabel: {error}; expected a number behind each series") from None
    elif header.labelled:
        try:
            labels, classes = coded(texts, header.classes)
        except DataError as error:
            raise DataError(f"{path}: @classLabel: {error}") from None
    dated = series[0].start is not None
    starts = torch.tensor([one.start for one in series], dtype=torch.float64) if dated else None
    name = header.name or path.stem
    return padded(times, values, labels, classes=classes, name=name, starts=starts)


def _merged(series: _Series) -> tuple[np.ndarray, np.ndarray]:
    """One series at the times of all its channels, ``(T,)`` and ``(T, c)``."""
    first = series.times[0]
    if all(t is first or np.array_equal(t, first) for t in series.times):
        return first, np.stack(series.values, -1)
    times = np.unique(np.concatenate(series.times))
    values = np.full((len(times), len(series.values)), np.nan)
    for channel, (t, x) in enumerate(zip(series.times, series.values, strict=True)):
        values[np.searchsorted(times, t), channel] = x
    return times, values
