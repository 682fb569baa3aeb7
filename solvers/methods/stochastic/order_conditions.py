r"""Order conditions of stochastic Runge-Kutta methods, computed from trees instead of listed.

Both the solution of :math:`dy = f\,dt + g\,dW` and one step of a method expand in elementary differentials such as
:math:`g'(f)` and :math:`f''(g, g)`, one for each rooted tree whose nodes are drift or diffusion. The solution's
coefficient of a tree is an iterated integral: the root integrates, against ``dt`` or ``dW``, the product of what its
children integrate to. A product of such integrals is a sum of single ones by the shuffle product (Stratonovich) or the
quasi-shuffle product (Ito). The method's coefficient is a polynomial in W and H.

A drift node weighs 1, a diffusion node 1/2. A method whose coefficients equal the solution's for all trees of weight up
to ``p``, and in the mean for those of weight ``p + 1/2``, has strong order ``p`` (Milstein's theorem).

References:
    Burrage, Burrage: Order conditions of stochastic Runge-Kutta methods by B-series. SIAM J. Numer. Anal. 38 (2000).
    Debrabant, Kvaerno: B-series analysis of stochastic Runge-Kutta methods. SIAM J. Numer. Anal. 47 (2008).
    Milstein, Tretyakov: Stochastic Numerics for Mathematical Physics, theorem 1.1 (2004).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from itertools import combinations_with_replacement
from math import factorial
from typing import Any, NamedTuple

import numpy as np

DRIFT, NOISE = 0, 1
HIGHEST = 1.5
"""The highest strong order that W and H allow."""
_TOLERANCE = 1e-12
_Word = tuple[int, ...]
_Sum = dict[_Word, float]
Polynomial = dict[tuple[int, int], Any]
"""Powers of W and H, with ``h = 1``, to their coefficient: a number, or one for each stage."""


class Tree(NamedTuple):
    """A node, drift or diffusion, with its subtrees; written as the elementary differential that it stands for."""

    node: int
    children: tuple[Tree, ...] = ()

    @property
    def halves(self) -> int:
        """Twice the weight."""
        return 2 - self.node + sum(child.halves for child in self.children)

    @property
    def additive(self) -> bool:
        """Whether the differential is there if g depends on the time alone: below g hang only leaves, each a dt."""
        allowed = (child == Tree(DRIFT) if self.node == NOISE else child.additive for child in self.children)
        return all(allowed)

    def __str__(self) -> str:
        inner = ", ".join(str(child) for child in self.children)
        return "fg"[self.node] + "'" * len(self.children) + (f"({inner})" if inner else "")


@cache
def trees(halves: int) -> tuple[Tree, ...]:
    """Every tree of twice the weight ``halves``."""
    return tuple(
        sorted(Tree(node, children) for node in (DRIFT, NOISE) for children in _forests(halves - 2 + node))
        if halves > 0
        else ()
    )


def _forests(halves: int) -> Iterator[tuple[Tree, ...]]:
    """Every multiset of trees with this total."""
    if halves < 0:
        return
    for parts in _partitions(halves, halves):
        groups: list[tuple[tuple[Tree, ...], ...]] = [()]
        for size in sorted(set(parts)):
            chosen = combinations_with_replacement(trees(size), parts.count(size))
            more = tuple(chosen)
            groups = [(*group, one) for group in groups for one in more]
        for group in groups:
            yield tuple(sorted(tree for part in group for tree in part))


def _partitions(total: int, largest: int) -> Iterator[tuple[int, ...]]:
    if not total:
        yield ()
    for first in range(min(total, largest), 0, -1):
        for rest in _partitions(total - first, first):
            yield (first, *rest)


@cache
def _product(left: _Word, right: _Word, ito: bool) -> tuple[tuple[_Word, float], ...]:
    """The product of two iterated integrals as a sum; the last letter integrates last."""
    if not left or not right:
        return ((left + right, 1.0),)
    parts = [(_product(left[:-1], right, ito), left[-1]), (_product(left, right[:-1], ito), right[-1])]
    if ito and left[-1] == right[-1] == NOISE:
        parts.append((_product(left[:-1], right[:-1], ito), DRIFT))
    total: dict[_Word, float] = defaultdict(float)
    for terms, letter in parts:
        for word, factor in terms:
            longer = (*word, letter)
            total[longer] += factor
    return tuple(total.items())


@cache
def _solution(tree: Tree, ito: bool) -> tuple[tuple[_Word, float], ...]:
    """The solution's coefficient as a sum of iterated integrals."""
    total: _Sum = {(): 1.0}
    for child in tree.children:
        more: dict[_Word, float] = defaultdict(float)
        for left, a in total.items():
            for right, b in _solution(child, ito):
                for word, factor in _product(left, right, ito):
                    more[word] += a * b * factor
        total = more
    return tuple(((*word, tree.node), factor) for word, factor in total.items())


def _pathwise(word: _Word, ito: bool) -> Polynomial:
    """An iterated integral of weight at most 3/2 over ``h = 1`` as a polynomial in W and H."""
    known: dict[_Word, Polynomial] = {
        (0,): {(0, 0): 1.0},
        (1,): {(1, 0): 1.0},
        (1, 1): {(2, 0): 1 / 2},
        (1, 1, 1): {(3, 0): 1 / 6},
        (1, 0): {(1, 0): 1 / 2, (0, 1): 1.0},
        (0, 1): {(1, 0): 1 / 2, (0, 1): -1.0},
    }
    value = dict(known[word])
    if ito and word == (1, 1):
        value[0, 0] = -1 / 2
    if ito and word == (1, 1, 1):
        value[1, 0] = -1 / 2
    return value


def _mean_of_word(word: _Word, ito: bool) -> float:
    """The expectation of an iterated integral over ``h = 1``: the coefficient of the word in exp(dt + dW dW / 2)."""
    if ito:
        return 0.0 if NOISE in word else 1.0 / factorial(len(word))
    pairs, letters, factor = 0, list(word), 1.0
    while letters:
        if letters[0] == NOISE:
            if letters[1:2] != [NOISE]:
                return 0.0
            letters, factor = letters[2:], factor / 2
        else:
            letters = letters[1:]
        pairs += 1
    return factor / factorial(pairs)


def _mean(value: Polynomial) -> float:
    """The expectation with W and H independent, of variance 1 and 1/12."""

    def moment(power: int) -> float:
        return 0.0 if power % 2 else factorial(power) / (2 ** (power // 2) * factorial(power // 2))

    return sum(factor * moment(w) * moment(h) / 12 ** (h / 2) for (w, h), factor in value.items())


class Matrices(NamedTuple):
    """The weights of the stages: times, drift on drift, and those of W, H and sqrt(h) on diffusion."""

    c: np.ndarray
    a: np.ndarray
    w: np.ndarray
    h: np.ndarray
    root: np.ndarray


class Rows(NamedTuple):
    """The weights of a step: of h on drift; of W, H, I_11 / sqrt(h) and I_111 / h on diffusion."""

    drift: np.ndarray
    w: np.ndarray
    h: np.ndarray
    ww: np.ndarray
    www: np.ndarray


def _times(left: Polynomial, right: Polynomial) -> Polynomial:
    value: Polynomial = {}
    for (w, h), a in left.items():
        for (v, k), b in right.items():
            value[w + v, h + k] = value.get((w + v, h + k), 0.0) + a * b
    return value


def _sums(parts: list[tuple[Polynomial, np.ndarray]], stages: Polynomial) -> Polynomial:
    """The stages' polynomials summed with weights that are themselves polynomials."""
    value: Polynomial = {}
    for factor, matrix in parts:
        for power, each in _times(factor, {key: matrix @ row for key, row in stages.items()}).items():
            value[power] = value.get(power, 0.0) + each
    return value


def _stages(tree: Tree, m: Matrices) -> Polynomial:
    """The coefficients of the derivative of a tree's root at the stages: the product of its children's."""
    value: Polynomial = {(0, 0): np.ones(len(m.c))}
    for child in tree.children:
        if child == Tree(DRIFT):
            value = _times(value, {(0, 0): m.c})  # a derivative in time or along f: the same by the row sums
        elif child.node == DRIFT:
            value = _times(value, _sums([({(0, 0): 1.0}, m.a)], _stages(child, m)))
        else:
            parts: list[tuple[Polynomial, np.ndarray]] = [
                ({(1, 0): 1.0}, m.w),
                ({(0, 1): 1.0}, m.h),
                ({(0, 0): 1.0}, m.root),
            ]
            value = _times(value, _sums(parts, _stages(child, m)))
    return value


def _method(tree: Tree, m: Matrices, rows: Rows) -> Polynomial:
    """The method's coefficient of a tree."""
    stages = _stages(tree, m)
    if tree.node == DRIFT:
        return _sums([({(0, 0): 1.0}, rows.drift)], stages)
    parts: list[tuple[Polynomial, np.ndarray]] = [
        ({(1, 0): 1.0}, rows.w),
        ({(0, 1): 1.0}, rows.h),
        ({(2, 0): 1 / 2, (0, 0): -1 / 2}, rows.ww),
        ({(3, 0): 1 / 6, (1, 0): -1 / 2}, rows.www),
    ]
    return _sums(parts, stages)


def strong_order(m: Matrices, rows: Rows, ito: bool, additive: bool) -> tuple[float, str]:
    """The strong order for one noise, at most 3/2, and which tree limits it.

    Args:
        m: the weights of the stages.
        rows: the weights of the step.
        ito: whether the equation is Ito's, otherwise Stratonovich's.
        additive: count only the trees that are there if the diffusion depends on the time alone.
    """
    order, reason = 0.0, ""
    while order < HIGHEST:
        halves = round(2 * order) + 1
        for tree in trees(halves) + trees(halves + 1):
            if additive and not tree.additive:
                continue
            reason = _fault(tree, m, rows, ito, exact=tree.halves == halves)
            if reason:
                return order, reason
        order += 0.5
    return order, ""


def _fault(tree: Tree, m: Matrices, rows: Rows, ito: bool, exact: bool) -> str:
    """What is wrong with a tree: in every power of W and H, or in the mean."""
    mine = _method(tree, m, rows)
    if not exact:
        mean = sum(factor * _mean_of_word(word, ito) for word, factor in _solution(tree, ito))
        if abs(_mean(mine) - mean) <= _TOLERANCE * (1.0 + abs(mean)):
            return ""
        return f"{tree} has the mean {_mean(mine) + 0.0:.12g}, expected {mean:.12g}"
    theirs: Polynomial = {}
    for word, factor in _solution(tree, ito):
        for power, value in _pathwise(word, ito).items():
            theirs[power] = theirs.get(power, 0.0) + factor * value
    for w, h in sorted({*mine, *theirs}):
        ours, other = mine.get((w, h), 0.0), theirs.get((w, h), 0.0)
        if abs(ours - other) > _TOLERANCE * (1.0 + abs(other)):
            return f"{tree} has {ours + 0.0:.12g} at W^{w} H^{h}, expected {other:.12g}"
    return ""
