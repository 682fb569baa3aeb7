r"""The signature of a block of increments, and its derivative: the kernel that the rest of this room repeats.

For a piecewise linear path with increments :math:`x_1, \dots, x_T` let :math:`S(t)` be the signature before step ``t`` and
:math:`R(t)` that of what comes after it. A word of :math:`k = p + q` letters is split behind its p-th letter, which falls
into exactly one step. By Chen's identity

.. math:: S_k = \sum_t \sum_{i < p} \sum_{j \le q} \frac{1}{(k - i - j)!} \,
          S_i(t) \otimes x_t^{\otimes (k - i - j)} \otimes R_j(t),

which is a matrix product over time of :math:`S_i(t) \otimes x_t^{\otimes (p - i)}` and
:math:`x_t^{\otimes (q - j)} \otimes R_j(t)`. So only tensors of half the depth exist for every step, and the rest of the
work is done by matrix products. All tensors have the time last, ``(batch, letters, time)``.
"""

from __future__ import annotations

from math import factorial

import torch
from torch import Tensor

Levels = list[Tensor]


def halves(depth: int) -> tuple[int, int]:
    """How many letters lie before the split, and how many behind it in the longest words."""
    return (depth + 1) // 2, depth // 2


def before(m: Tensor, x: Tensor) -> Tensor:
    """The words of ``m`` with one letter of ``x`` appended, at every time."""
    return (m.unsqueeze(2) * x.unsqueeze(1)).flatten(1, 2)


def behind(x: Tensor, m: Tensor) -> Tensor:
    """The words of ``m`` with one letter of ``x`` in front, at every time."""
    return (x.unsqueeze(2) * m.unsqueeze(1)).flatten(1, 2)


class Block:
    """The signature of one block, with what its derivative needs.

    Args:
        x: increments ``(batch, channels, time)``, at least one.
        depth: the longest words.
    """

    def __init__(self, x: Tensor, depth: int) -> None:
        self.x, self.depth = x, depth
        self.p, self.q = halves(depth)
        self.powers = [x]
        for _ in range(1, self.p):
            self.powers.append(before(self.powers[-1], x))
        self.levels: Levels = []
        self._words_before()
        self._words_behind()

    def _words_before(self) -> None:
        """``left[k][i]``, the words S_i x^(k-i), and the signature up to the split."""
        self.states: list[Tensor] = []
        self.left: list[Levels] = []
        for k in range(1, self.p + 1):
            row = [self.powers[k - 1]]
            row += [before(self.left[-1][i] if i < k - 1 else self.states[i - 1], self.x) for i in range(1, k)]
            self.left.append(row)
            step = _weighted(row)
            if k == self.p:
                self.levels.append(step.sum(-1))
            else:
                total = step.cumsum(-1)
                self.levels.append(total[..., -1])
                self.states.append(total - step)

    def _words_behind(self) -> None:
        """``right[k][j]``, the words x^(k-j) R_j, and the signature beyond the split."""
        self.rests: list[Tensor] = []
        self.right: list[Levels] = []
        self.joined: list[Levels] = []
        for k in range(1, self.q + 1):
            row = [self.powers[k - 1]]
            row += [behind(self.x, self.right[-1][j] if j < k - 1 else self.rests[j - 1]) for j in range(1, k)]
            self.right.append(row)
            total = _weighted(row).cumsum(-1)
            self.rests.append(total[..., -1:] - total)
            self.joined.append([self._join(k, i) for i in range(self.p)])
            products = [torch.bmm(self.left[-1][i], v.mT) for i, v in enumerate(self.joined[-1])]
            level = products[-1]
            for i, product in enumerate(products[:-1]):
                level = torch.add(level, product, alpha=1 / factorial(self.p - i))
            self.levels.append(level.flatten(1))

    def _join(self, k: int, i: int) -> Tensor:
        """What multiplies ``left[p][i]`` in level p + k, times (p - i)!."""
        v = self.rests[k - 1]
        for j, m in enumerate(self.right[k - 1]):
            v = torch.add(v, m, alpha=self._ratio(k, i, j))
        return v

    def _ratio(self, k: int, i: int, j: int) -> float:
        n = self.p - i
        return factorial(n) / factorial(n + k - j)

    def vjp(self, grads: Levels) -> Tensor:
        """The gradient with respect to the increments, of ``sum(grads * levels)``."""
        self._grad: Tensor | None = None
        self._powers: list[Tensor | None] = [None] * self.p
        last = self._vjp_behind(grads[self.p :])
        self._vjp_before(grads[: self.p], last)
        for k in range(self.p - 1, 0, -1):
            inner, outer = _split(self._powers[k], self.powers[k - 1], self.x)
            self._grad = _sum(self._grad, outer)
            self._powers[k - 1] = _sum(self._powers[k - 1], inner)
        assert self._powers[0] is not None
        return _sum(self._grad, self._powers[0])

    def _vjp_behind(self, grads: Levels) -> list[Tensor | None]:
        """Through the words behind the split; returns the gradients of ``left[p]``."""
        last: list[Tensor | None] = [None] * self.p
        rests: list[Tensor | None] = [None] * self.q
        below: list[Tensor | None] = [None] * self.q
        for k in range(self.q, 0, -1):
            rows, below = below[:k], [None] * (k - 1)
            matrix = grads[k - 1].reshape(self.x.shape[0], self.left[-1][0].shape[1], -1)
            rest = rests[k - 1]
            for i in range(self.p):
                scaled = matrix / factorial(self.p - i) if self.p - i > 1 else matrix
                last[i] = _sum(last[i], torch.bmm(scaled, self.joined[k - 1][i]))
                v = torch.bmm(scaled.mT, self.left[-1][i])
                rest = v if rest is None else rest + v
                rows = [_sum(row, v, self._ratio(k, i, j)) for j, row in enumerate(rows)]
            assert rest is not None
            step = rest.cumsum(-1) - rest
            for j in range(k):
                row = _sum(rows[j], step, 1 / factorial(k - j))
                if j == 0:
                    self._powers[k - 1] = _sum(self._powers[k - 1], row)
                    continue
                m = self.right[k - 2][j] if j < k - 1 else self.rests[j - 1]
                outer, inner = _split(row, self.x, m)
                self._grad = _sum(self._grad, outer)
                if j < k - 1:
                    below[j] = inner
                else:
                    rests[j - 1] = _sum(rests[j - 1], inner)
        return last

    def _vjp_before(self, grads: Levels, rows: list[Tensor | None]) -> None:
        """Through the words before the split, given the gradients of ``left[p]``."""
        states: list[Tensor | None] = [None] * self.p
        for k in range(self.p, 0, -1):
            below: list[Tensor | None] = [None] * (k - 1)
            step = grads[k - 1].unsqueeze(-1)
            state = states[k - 1]
            if state is not None:
                total = state.cumsum(-1)
                step = (step + total[..., -1:]) - total
            for i in range(k):
                row = rows[i]
                weight = 1 / factorial(k - i)
                row = (
                    torch.mul(step, weight).expand_as(self.left[k - 1][i])
                    if row is None
                    else torch.add(row, step, alpha=weight)
                )
                if i == 0:
                    self._powers[k - 1] = _sum(self._powers[k - 1], row)
                    continue
                inner, outer = _split(row, self.left[k - 2][i] if i < k - 1 else self.states[i - 1], self.x)
                self._grad = _sum(self._grad, outer)
                if i < k - 1:
                    below[i] = inner
                else:
                    states[i - 1] = _sum(states[i - 1], inner)
            rows = below


def _weighted(row: Levels) -> Tensor:
    """The step of a stream: the sum of a row with the weights 1 / (k - i)!."""
    k = len(row)
    total = row[-1]
    for i, m in enumerate(row[:-1]):
        total = torch.add(total, m, alpha=1 / factorial(k - i))
    return total


def _sum(a: Tensor | None, b: Tensor, alpha: float = 1.0) -> Tensor:
    if a is None:
        return b if alpha == 1.0 else b * alpha
    return torch.add(a, b, alpha=alpha)


def _split(grad: Tensor | None, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of ``a`` and ``b`` in their product at every time."""
    assert grad is not None
    # Reshaped: the vmap of batched gradients (``is_grads_batched``) knows no unflatten.
    grad = grad.reshape(grad.shape[0], a.shape[1], b.shape[1], grad.shape[2])
    return (grad * b.unsqueeze(1)).sum(2), (grad * a.unsqueeze(2)).sum(1)
