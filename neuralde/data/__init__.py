"""Series from files and arrays, in the form that control paths take. Nothing is downloaded."""

from .arrays import from_arrays, read_npz
from .errors import DataError
from .series import SeriesSet
from .ts_file import read_ts

__all__ = ["DataError", "SeriesSet", "from_arrays", "read_npz", "read_ts"]
