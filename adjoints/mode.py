"""The autocast mode of a solve, for its backward pass, which torch runs under another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Mode:
    """The autocast mode of the moment, to be entered again: a field that is called again must round as it did.

    Args:
        kind: the device type.

    >>> with torch.autocast("cpu", torch.bfloat16):
    ...     mode = Mode("cpu")
    >>> with mode.again():
    ...     torch.is_autocast_enabled("cpu")
    True
    """

    def __init__(self, kind: str) -> None:
        self.kind, self.enabled, self.dtype = kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)

    @contextmanager
    def again(self) -> Iterator[None]:
        """Enter it, where it is not the mode of the moment."""
        if torch.is_autocast_enabled(self.kind) == self.enabled and (
            not self.enabled or torch.get_autocast_dtype(self.kind) == self.dtype
        ):
            yield
            return
        with torch.autocast(self.kind, dtype=self.dtype, enabled=self.enabled):
            yield
