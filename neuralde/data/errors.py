"""What data that cannot be read raise."""

from __future__ import annotations

from neuralde.solvers import NeuralDEError


class DataError(NeuralDEError, ValueError):
    """Data cannot be read. The message names the file and line or the array, what is there and what is expected.

    Raised by:
        The readers of ``neuralde.data``, and commands without the data that they need.

    Example:
        >>> import neuralde as nde
        >>> nde.data.from_arrays([[[0.0, 1.0]], [[2.0]]], labels=["a"])
        Traceback (most recent call last):
        ...
        neuralde.data.errors.DataError: labels: got 1 for 2 series; expected one for each
    """
