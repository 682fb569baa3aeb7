r"""Bases of the free Lie algebra, in which the logarithm of a signature has no redundant coordinates.

An element is known from the coefficients of its Lyndon words. A basis of brackets has a bracket for each Lyndon word of
the same letters, and the coefficients with respect to it follow by an integer matrix for each multiset of letters. The
matrix has an integer inverse, because both bases span the same lattice; this is checked when it is made.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ...errors import InvalidProblemError

Word = tuple[int, ...]
Bracket = int | tuple["Bracket", "Bracket"]
BASES = ("lyndon", "words", "brackets")
LARGEST = 50_000
"""Brackets beyond which their table is refused: it is made word by word, and this many take half a minute."""


def lyndon_words(channels: int, depth: int) -> list[Word]:
    """All Lyndon words of 1 to ``depth`` letters, by length and then lexicographic (Duval's algorithm).

    Example:
        >>> from neuralde.solvers.paths.signatures.lie import lyndon_words
        >>> lyndon_words(2, 3)
        [(0,), (1,), (0, 1), (0, 0, 1), (0, 1, 1)]
    """
    words: list[Word] = []
    word = [-1]
    while word:
        word[-1] += 1
        words.append(tuple(word))
        period = len(word)
        while len(word) < depth:
            word.append(word[-period])
        while word and word[-1] == channels - 1:
            word.pop()
    return sorted(words, key=lambda w: (len(w), w))


def lyndon_count(channels: int, length: int) -> int:
    """How many Lyndon words of a length there are: Witt's formula, the sum over divisors solved for its last term."""
    counts: dict[int, int] = {}
    for n in range(1, length + 1):
        counts[n] = (channels**n - sum(d * counts[d] for d in range(1, n) if n % d == 0)) // n
    return counts[length]


def standard_bracket(word: Word) -> Bracket:
    """The bracket of a Lyndon word: of its longest proper Lyndon suffix and of what stands before it.

    Example:
        >>> from neuralde.solvers.paths.signatures.lie import standard_bracket
        >>> standard_bracket((0, 0, 1)), standard_bracket((0, 1, 1))
        ((0, (0, 1)), ((0, 1), 1))
    """
    if len(word) == 1:
        return word[0]
    cut = next(i for i in range(1, len(word)) if all(word[i:] < word[j:] for j in range(i + 1, len(word))))
    return standard_bracket(word[:cut]), standard_bracket(word[cut:])


def hall_brackets(channels: int, depth: int) -> list[Bracket]:
    """The Hall basis in which a bracket [a, b] has a before b, and b is a letter or [c, d] with c not behind a.

    Example:
        >>> from neuralde.solvers.paths.signatures.lie import hall_brackets
        >>> hall_brackets(2, 3)
        [0, 1, (0, 1), (0, (0, 1)), (1, (0, 1))]
    """
    found: list[Bracket] = list(range(channels))
    parents: list[tuple[int, int] | None] = [None] * channels
    first_of = [0, 0, channels]  # where the brackets of each length begin
    for length in range(2, depth + 1):
        for left in range(1, length // 2 + 1):
            for i in range(first_of[left], first_of[left + 1]):
                for j in range(max(i + 1, first_of[length - left]), first_of[length - left + 1]):
                    parent = parents[j]
                    if parent is None or parent[0] <= i:
                        found.append((found[i], found[j]))
                        parents.append((i, j))
        first_of.append(len(found))
    return found


def letters(bracket: Bracket) -> Iterator[int]:
    """The letters of a bracket, in the order in which they are written."""
    if isinstance(bracket, int):
        yield bracket
    else:
        for part in bracket:
            yield from letters(part)


def written(bracket: Bracket) -> str:
    """A bracket as it is written, with letters from 1."""
    return str(bracket + 1) if isinstance(bracket, int) else "[" + ",".join(map(written, bracket)) + "]"


def _expanded(bracket: Bracket, known: dict[Bracket, dict[Word, int]]) -> dict[Word, int]:
    """The words of a bracket with their coefficients, [a, b] = ab - ba."""
    if bracket in known:
        return known[bracket]
    words: dict[Word, int] = defaultdict(int)
    if isinstance(bracket, int):
        words[(bracket,)] = 1
    else:
        a, b = (_expanded(part, known) for part in bracket)
        for u, x in a.items():
            for v, y in b.items():
                words[u + v] += x * y
                words[v + u] -= x * y
    known[bracket] = words
    return words


def brackets_of(channels: int, depth: int, basis: str) -> list[Bracket]:
    """The brackets of a basis, in its order."""
    if basis == "brackets":
        return hall_brackets(channels, depth)
    return [standard_bracket(word) for word in lyndon_words(channels, depth)]


@lru_cache(maxsize=32)
def word_indices(channels: int, depth: int) -> Tensor:
    """Where the Lyndon words stand in a flat element of the tensor algebra."""
    first = [0]
    for k in range(1, depth):
        first.append(first[-1] + channels**k)
    places = []
    for word in lyndon_words(channels, depth):
        place = 0
        for letter in word:
            place = place * channels + letter
        places.append(first[len(word) - 1] + place)
    return torch.tensor(places, dtype=torch.int64)


@lru_cache(maxsize=32)
def from_words(channels: int, depth: int, basis: str) -> tuple[Tensor, Tensor, Tensor]:
    """The matrix from coefficients of Lyndon words to those of brackets: rows, columns and values."""
    count = sum(lyndon_count(channels, k) for k in range(1, depth + 1))
    if count > LARGEST:
        raise InvalidProblemError(
            f"basis: got {basis!r} with {count} brackets ({channels} channels, depth {depth}); expected at most "
            f"{LARGEST} brackets, or basis='words'"
        )
    words = lyndon_words(channels, depth)
    columns: dict[Word, list[int]] = defaultdict(list)
    rows: dict[Word, list[int]] = defaultdict(list)
    found = brackets_of(channels, depth, basis)
    for i, word in enumerate(words):
        columns[tuple(sorted(word))].append(i)
    for i, bracket in enumerate(found):
        rows[tuple(sorted(letters(bracket)))].append(i)
    known: dict[Bracket, dict[Word, int]] = {}
    entries: list[tuple[int, int, int]] = []
    for multiset, places in columns.items():
        mine = rows[multiset]
        expansions = [_expanded(found[i], known) for i in mine]
        matrix = np.array([[words_of.get(words[j], 0) for words_of in expansions] for j in places], dtype=np.float64)
        inverse = np.rint(np.linalg.inv(matrix))
        assert np.array_equal(inverse @ matrix, np.eye(len(mine))), f"no basis: the brackets of {multiset}"
        for a, b in zip(*np.nonzero(inverse), strict=True):
            entries.append((mine[a], places[b], int(inverse[a, b])))
    table = torch.tensor(entries, dtype=torch.int64)
    return table[:, 0], table[:, 1], table[:, 2]
