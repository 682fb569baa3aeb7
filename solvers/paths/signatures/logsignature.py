"""Logarithms of signatures, in three bases of the free Lie algebra."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from ...errors import InvalidProblemError
from . import lie
from .lie import BASES, brackets_of, lyndon_count, lyndon_words, written
from .signature import check_depth, check_series, signature
from .tensor_algebra import channels_of, invert, join, log, multiply, split


def _check_channels(channels: object) -> int:
    if isinstance(channels, bool) or not isinstance(channels, int) or channels < 1:
        raise InvalidProblemError(f"channels: got {channels!r}; expected an int of at least 1")
    return channels


def _check_basis(basis: object) -> str:
    if basis not in BASES:
        raise InvalidProblemError(f"basis: got {basis!r}; expected one of {', '.join(map(repr, BASES))}")
    return str(basis)


def _check_flat(s: object, channels: int, depth: int, name: str) -> Tensor:
    """A flat signature of the right length, refused by name."""
    width = channels_of(channels, depth)
    if not isinstance(s, Tensor) or s.dim() < 1 or s.shape[-1] != width:
        got = f"shape {tuple(s.shape)}" if isinstance(s, Tensor) else type(s).__name__
        raise InvalidProblemError(
            f"{name}: got {got}; expected a signature (..., {width}) of {channels} channels to depth {depth}"
        )
    return s


def logsignature(xs: Tensor, depth: int, basis: str = "lyndon", *, stream: bool = False) -> Tensor:
    r"""The logarithm of the signature of the piecewise linear path through ``xs``, without redundant coordinates.

    .. math:: \log S = \sum_{n \ge 1} \frac{(-1)^{n+1}}{n} (S - 1)^{\otimes n}
              = \sum_b \lambda_b \, b, \qquad b \text{ brackets of letters}

    ===========  ==================================================================================================
    ``basis``    coordinates
    ===========  ==================================================================================================
    "lyndon"     of the standard brackets of Lyndon words, as iisignature's default
    "words"      the coefficients of the Lyndon words themselves; the fastest, as signax's and Signatory's "words"
    "brackets"   of the Hall basis [1,2], [1,[1,2]], [2,[1,2]], ..., as esig's
    ===========  ==================================================================================================

    The three agree to depth 2. From depth 3 their signs and mixtures differ: esig's [2,[1,2]] is minus the Lyndon bracket
    [[1,2],2]. :func:`logsignature_keys` gives the labels.

    Args:
        xs: the points of the path.
        depth: the longest brackets.
        basis: the coordinates.
        stream: whether the logarithm for every prefix is returned.

    Shapes:
        ``xs`` is ``(T, ..., c)``, time first; the result is ``(..., n)`` with n = ``logsignature_channels(c, depth)``, with
        ``stream`` ``(T, ..., n)``, whose first row is zero.

    Units:
        Coordinates of brackets of k letters have the unit of ``xs`` to the power k.

    Returns:
        The coordinates, a tensor of the dtype of ``xs``.

    Raises:
        InvalidProblemError: as :func:`signature`; or ``basis`` is none of the three, or has more than 50,000 brackets.

    When to take it:
        As the control of a log-ODE step over a window of a series, or as a short summary of it. Its first level is the
        increment over the window, its second the signed areas.

    References:
        Reizenstein, Graham: The iisignature library. ACM Trans. Math. Softw. 46, 2020; Reutenauer: Free Lie algebras, 1993,
        chapters 4 and 5; Morrill et al.: Neural rough differential equations for long time series. ICML 2021 (use).

    Example:
        >>> import torch, neuralde as nde
        >>> nde.logsignature(torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 2.0]]), depth=2)
        tensor([1., 2., 1.])
    """
    channels, depth, basis = check_series(xs).shape[-1], check_depth(depth), _check_basis(basis)
    if basis != "words":
        _tables().from_words(channels, depth, basis)  # refused before the work
    return _coordinates(signature(xs, depth, stream=stream), channels, depth, basis)


def _tables() -> ModuleType:
    """Where tables of words are made: outside a graph that is being traced."""
    if torch.compiler.is_compiling():
        from . import constants  # it imports the compiler, which is at work already

        return constants
    return lie


def _coordinates(flat: Tensor, channels: int, depth: int, basis: str) -> Tensor:
    """The logarithm of a flat signature in a basis."""
    tables = _tables()
    words = join(log(split(flat, channels, depth)))[..., tables.word_indices(channels, depth).to(flat.device)]
    if basis == "words":
        return words
    rows, columns, values = (x.to(flat.device) for x in tables.from_words(channels, depth, basis))
    return words.new_zeros(words.shape).index_add(-1, rows, words[..., columns] * values)


def signature_channels(channels: int, depth: int) -> int:
    r"""How many coordinates a signature has: :math:`c + c^2 + \dots + c^{\text{depth}}`.

    Args:
        channels: of the path.
        depth: the longest words.

    Returns:
        The number of words.

    Raises:
        InvalidProblemError: an argument is no positive int.

    When to take it:
        For the size of a layer that reads a :func:`signature`.

    Example:
        >>> import neuralde as nde
        >>> nde.signature_channels(3, 4)
        120
    """
    return channels_of(_check_channels(channels), check_depth(depth))


def logsignature_channels(channels: int, depth: int) -> int:
    r"""How many coordinates a log-signature has, by Witt's formula.

    .. math:: \beta(c, n) = \sum_{k \le n} \frac{1}{k} \sum_{d | k} \mu(k / d) \, c^d

    Args:
        channels: of the path.
        depth: the longest brackets.

    Returns:
        The number of Lyndon words, the same in every basis.

    Raises:
        InvalidProblemError: an argument is no positive int.

    When to take it:
        For the size of a layer that reads a :func:`logsignature`.

    Example:
        >>> import neuralde as nde
        >>> [nde.logsignature_channels(3, n) for n in (1, 2, 3, 4)]
        [3, 6, 14, 32]
    """
    channels, depth = _check_channels(channels), check_depth(depth)
    return sum(lyndon_count(channels, k) for k in range(1, depth + 1))


def logsignature_keys(channels: int, depth: int, basis: str = "lyndon") -> list[str]:
    """The label of each coordinate of a log-signature, with letters from 1.

    Args:
        channels: of the path.
        depth: the longest brackets.
        basis: as for :func:`logsignature`.

    Returns:
        Words such as ``"112"`` (with commas beyond nine channels) or brackets such as ``"[1,[1,2]]"``.

    Raises:
        InvalidProblemError: an argument is none of what :func:`logsignature` takes.

    When to take it:
        To see which coordinate is which, or to compare with another library.

    Example:
        >>> import neuralde as nde
        >>> nde.logsignature_keys(2, 3), nde.logsignature_keys(2, 3, "brackets")[-1]
        (['1', '2', '[1,2]', '[1,[1,2]]', '[[1,2],2]'], '[2,[1,2]]')
    """
    channels, depth, basis = _check_channels(channels), check_depth(depth), _check_basis(basis)
    if basis == "words":
        comma = "," if channels > 9 else ""
        return [comma.join(str(letter + 1) for letter in word) for word in lyndon_words(channels, depth)]
    return [written(bracket) for bracket in brackets_of(channels, depth, basis)]


def signature_multiply(a: Tensor, b: Tensor, channels: int, depth: int) -> Tensor:
    r"""Chen's product :math:`a \otimes b`: the signature of one path and then another.

    Args:
        a: the signature of the first path.
        b: that of the second; leading dimensions broadcast.
        channels: of both paths.
        depth: of both signatures.

    Returns:
        The signature of both, flat as they are.

    Raises:
        InvalidProblemError: an argument has not the length of such a signature.

    When to take it:
        To go on from a signature when new points arrive, or to have those of many windows from those of their parts.

    Example:
        >>> import torch, neuralde as nde
        >>> xs = torch.rand(9, 2, dtype=torch.float64)
        >>> parts = nde.signature(xs[:5], 3), nde.signature(xs[4:], 3)
        >>> torch.allclose(nde.signature_multiply(*parts, channels=2, depth=3), nde.signature(xs, 3))
        True
    """
    sizes = _check_channels(channels), check_depth(depth)
    a, b = _check_flat(a, *sizes, "a"), _check_flat(b, *sizes, "b")
    return join(multiply(split(a, *sizes), split(b, *sizes)))


def signature_inverse(s: Tensor, channels: int, depth: int) -> Tensor:
    """The inverse of a signature: that of the path run backwards.

    Args:
        s: a signature.
        channels: of the path.
        depth: of the signature.

    Returns:
        What :func:`signature_multiply` takes to zero with ``s``, flat as it is.

    Raises:
        InvalidProblemError: ``s`` has not the length of such a signature.

    When to take it:
        To take a part off: the signature of a window is the inverse of that of its beginning times that of its end.

    Example:
        >>> import torch, neuralde as nde
        >>> xs = torch.rand(9, 2, dtype=torch.float64)
        >>> torch.allclose(nde.signature_inverse(nde.signature(xs, 3), 2, 3), nde.signature(xs.flip(0), 3))
        True
    """
    sizes = _check_channels(channels), check_depth(depth)
    return join(invert(split(_check_flat(s, *sizes, "s"), *sizes), channels))


def signature_to_logsignature(s: Tensor, channels: int, depth: int, basis: str = "lyndon") -> Tensor:
    """The logarithm of a signature that is there already, as :func:`logsignature` gives it.

    Args:
        s: a signature.
        channels: of the path.
        depth: of the signature.
        basis: as for :func:`logsignature`.

    Returns:
        The coordinates ``(..., logsignature_channels(channels, depth))``.

    Raises:
        InvalidProblemError: ``s`` has not the length of such a signature, or ``basis`` is none of the three.

    When to take it:
        After :func:`signature_multiply`, where both forms are needed.

    Example:
        >>> import torch, neuralde as nde
        >>> xs = torch.rand(9, 2, dtype=torch.float64)
        >>> s = nde.signature(xs, 3)
        >>> torch.allclose(nde.signature_to_logsignature(s, 2, 3), nde.logsignature(xs, 3))
        True
    """
    sizes = _check_channels(channels), check_depth(depth)
    return _coordinates(_check_flat(s, *sizes, "s"), *sizes, _check_basis(basis))
