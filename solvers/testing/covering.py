"""A few rows of a product of choices that contain every choice, or every pair: what a quick test takes of all combinations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from itertools import combinations


def covering(rows: Sequence[Sequence[Hashable]], strength: int) -> list[int]:
    """Which rows to take so that whatever ``strength`` columns hold together in some row, they hold in one that is taken.

    With strength 1 every value of every column is there, with 2 every pair of values of two columns. Greedy: each row
    taken has the most that is not covered yet; of those that have as much, the one whose values were taken least, then the
    first. The same rows give the same answer.

    Args:
        rows: the combinations, all of one length.
        strength: 1 or 2 or more; rows that are shorter are all taken.

    Returns:
        The numbers of the rows, ascending.

    Example:
        >>> rows = [(method, adjoint, lanes) for method in "abc" for adjoint in "xyz" for lanes in (0, 1)]
        >>> [len(covering(rows, strength)) for strength in (1, 2, 3)]
        [3, 10, 18]
        >>> [rows[i] for i in covering(rows, 1)]
        [('a', 'x', 0), ('b', 'y', 1), ('c', 'z', 0)]
    """
    missing = [set(combinations(enumerate(row), min(strength, len(row)))) for row in rows]
    taken: list[int] = []
    uses: Counter[tuple[int, Hashable]] = Counter()
    while True:
        best = max(
            range(len(rows)),
            key=lambda i: (len(missing[i]), -sum(uses[value] for value in enumerate(rows[i])), -i),
            default=None,
        )
        if best is None or not missing[best]:
            return sorted(taken)
        taken.append(best)
        uses.update(enumerate(rows[best]))
        found = set(missing[best])
        for left in missing:
            left -= found
