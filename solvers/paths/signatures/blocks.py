r"""The signature of a block of increments, and its derivative: the kernel that the rest of this room repeats.

For a piecewise linear path with increments :math:`x_1, \dots, x_T` let :math:`S(t)` be the signature up to the end of step
``t``, and :math:`R(t)` that of what comes after it. Where the part v of the step is still to come, they are
:math:`S(t) \otimes e^{-v x_t}` and :math:`e^{v x_t} \otimes R(t)`. A word of :math:`i + p` letters is an integral over the
time of its letter behind the first i,

.. math:: S_{i+p} = \sum_t \int_0^1 \bigl(S(t) \otimes e^{-v x_t}\bigr)_i \otimes x_t \otimes
          \bigl(e^{v x_t} \otimes R(t)\bigr)_{p-1} \, dv,

of a polynomial in v of degree :math:`i + p - 1`, for which Gauss's rule with p nodes is exact. At each node the sum over the
steps is a matrix product. So only tensors of half the depth exist for every step. All tensors have the time last,
``(batch, letters, time)``.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from . import gauss

Levels = list[Tensor]
Gradients = list[Tensor | None]


def halves(depth: int) -> tuple[int, int]:
    """How many letters the factor with ``R`` has, and how many the longest with ``S``."""
    return (depth + 1) // 2, depth // 2


class Block:
    """The signature of one block, with what its derivative needs.

    Args:
        x: increments ``(batch, channels, time)``, at least one.
        depth: the longest words.
    """

    def __init__(self, x: Tensor, depth: int) -> None:
        self.x, self.channels = x, x.shape[1]
        self.p, self.q = halves(depth)
        total = x.cumsum(-1)
        self.before: Levels = [total][: self.q]
        self.behind: Levels = [total[..., -1:] - total][: self.p - 1]
        self.steps_before = [self._step_before(k) for k in range(2, self.q + 1)]
        self.steps_behind = [self._step_behind(k) for k in range(2, self.p)]

    def _step_before(self, k: int) -> Powers:
        """Add the level ``k`` of ``S``, a running sum; returns what grows in a step."""
        step = Powers(self.before, self.x, -1.0, k)
        self.before.append(step.times_x().cumsum(-1))
        return step

    def _step_behind(self, k: int) -> Powers:
        """Add the level ``k`` of ``R``; returns what falls off in a step."""
        step = Powers(self.behind, self.x, 1.0, k, in_front=True)
        total = step.times_x().cumsum(-1)
        self.behind.append(total[..., -1:] - total)
        return step

    def nodes(self) -> Iterator[Node]:
        """The nodes of Gauss's rule, made one after the other: what one needs stays in the cache and is not kept."""
        return (Node(self, v, weight) for v, weight in _rule(self.p))

    def levels(self) -> Levels:
        """The signature; the derivative does not need it."""
        levels = [total[..., -1] for total in self.before]
        middle: Tensor | None = None
        longer: Tensor | None = None
        for node in self.nodes():
            if self.p > self.q:
                middle = _plus(middle, node.right.sum(-1), node.weight)
            if self.q:
                longer = _plus(longer, torch.bmm(node.left, node.right.mT), node.weight)
        if middle is not None:
            levels.append(middle)
        if longer is not None:
            levels += [level.flatten(1) for level in self.split(longer)]
        return levels

    def split(self, left: Tensor) -> Levels:
        """The left factors of each length."""
        return list(left.split([self.channels**k for k in range(1, self.q + 1)], 1))

    def vjp(self, grads: Levels) -> Tensor:
        """The gradient with respect to the increments, of ``sum(grads * levels)``."""
        before: Gradients = [None] * self.q
        behind: Gradients = [None] * (self.p - 1)
        middle = grads[self.p - 1].unsqueeze(-1) if self.p > self.q else None
        words = self.channels**self.p
        longer = torch.cat([g.reshape(len(g), -1, words) for g in grads[self.p :]], 1) if self.q else None
        of_x: Tensor | None = None
        for node in self.nodes():
            of_x = _plus(of_x, node.vjp(longer, middle, before, behind))
        for k in range(self.p - 1, 1, -1):
            of_x = _plus(of_x, self.steps_behind[k - 2].vjp_times_x(_sum_before(behind[k - 1]), behind))
        for k in range(self.q, 1, -1):
            grad = _sum_from(before[k - 1], grads[k - 1])
            of_x = _plus(of_x, self.steps_before[k - 2].vjp_times_x(grad, before))
        if self.q == 0:
            assert of_x is not None
            return of_x.expand_as(self.x)
        first, end = before[0], grads[0]
        if self.p > 1:
            # Both are made of one running sum.
            assert first is not None
            assert behind[0] is not None
            first, end = first - behind[0], end + behind[0].sum(-1)
        return _plus(of_x, _sum_from(first, end))


class Node:
    """The factors of the integrand at a node of Gauss's rule.

    Args:
        block: what it is a node of.
        v: the part of the step that is still to come.
        weight: the weight of the node.
    """

    def __init__(self, block: Block, v: float, weight: float) -> None:
        self.block, self.weight = block, weight
        x, p, q = block.x, block.p, block.q
        self.behind = Powers(block.behind, x, v, p - 1, in_front=True) if p > 1 else None
        self.right = x if self.behind is None else self.behind.times_x()
        self.before = [Powers(block.before[:k], x, -v, k) for k in range(1, q + 1)]
        self.left = torch.cat([powers.levels[-1] for powers in self.before], 1) if q else x[:, :0]

    def vjp(self, longer: Tensor | None, middle: Tensor | None, before: Gradients, behind: Gradients) -> Tensor:
        """The gradient of the increments; those of ``S`` and ``R`` are added to ``before`` and ``behind``."""
        right = None if middle is None else middle * self.weight
        if longer is not None:
            longer = longer * self.weight
            right = _plus(right, torch.bmm(longer.mT, self.left))
        assert right is not None
        of_x = right if self.behind is None else self.behind.vjp_times_x(right, behind)
        del right  # before as much is needed again
        if longer is not None:
            for powers, grad in zip(self.before, self.block.split(torch.bmm(longer, self.right)), strict=True):
                of_x = of_x + powers.vjp(grad, before)
        return of_x


class Powers:
    r"""The levels 1 to n of states times the powers of a step that lift them to k letters, by Horner's rule.

    .. math:: h_i = S_i + \frac{v}{k - i + 1} h_{i-1} \otimes x

    Of k levels it is the level k of :math:`S \otimes e^{v x}`; of k - 1 levels, :math:`h_{k-1} \otimes x` is what this level
    gains, divided by v.

    Args:
        states: the levels 1 to n of ``S``, or of ``R``.
        x: the increments.
        v: which part of the step.
        k: the letters, n or n + 1.
        in_front: whether the step comes first, as before ``R``.
    """

    def __init__(self, states: Levels, x: Tensor, v: float, k: int, in_front: bool = False) -> None:
        self.x, self.in_front = x, in_front
        self.factors = [v / (k - i) for i in range(len(states))]
        self.levels = [torch.add(states[0], x, alpha=self.factors[0])]
        for state, factor in zip(states[1:], self.factors[1:], strict=True):
            a, b = self._ordered(self.levels[-1])
            square = state.reshape(len(x), a.shape[1], b.shape[1], -1)
            self.levels.append(torch.addcmul(square, a.unsqueeze(2), b.unsqueeze(1), value=factor).flatten(1, 2))

    def _ordered(self, words: Tensor) -> tuple[Tensor, Tensor]:
        """Words and the step, in the order of their letters."""
        return (self.x, words) if self.in_front else (words, self.x)

    def times_x(self) -> Tensor:
        """The last level with one more letter of the step."""
        a, b = self._ordered(self.levels[-1])
        return (a.unsqueeze(2) * b.unsqueeze(1)).flatten(1, 2)

    def vjp_times_x(self, grad: Tensor, states: Gradients) -> Tensor:
        """As :meth:`vjp`, for a gradient of :meth:`times_x`."""
        of_x, words = self._vjp_product(grad, self.levels[-1])
        return of_x + self.vjp(words, states)

    def vjp(self, grad: Tensor, states: Gradients) -> Tensor:
        """The gradient of the increments for one of the last level; those of the states are added to ``states``."""
        of_x: Tensor | None = None
        scale = 1.0
        for i in range(len(self.levels) - 1, 0, -1):
            states[i] = _plus(states[i], grad, scale)
            scale *= self.factors[i]
            of_letter, grad = self._vjp_product(grad, self.levels[i - 1])
            of_x = _plus(of_x, of_letter, scale)
        states[0] = _plus(states[0], grad, scale)
        return _plus(of_x, grad, scale * self.factors[0])

    def _vjp_product(self, grad: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        """The gradients of the step and of the words in their product."""
        a, b = self._ordered(words)
        # Reshaped: the vmap of batched gradients (``is_grads_batched``) knows no unflatten.
        square = grad.reshape(grad.shape[0], a.shape[1], b.shape[1], grad.shape[2])
        of_a, of_b = (square * b.unsqueeze(1)).sum(2), (square * a.unsqueeze(2)).sum(1)
        return (of_a, of_b) if self.in_front else (of_b, of_a)


def _rule(nodes: int) -> list[tuple[float, float]]:
    if torch.compiler.is_compiling():
        from . import constants  # it imports the compiler, which is at work already

        return constants.gauss_rule(nodes)
    return gauss.gauss_rule(nodes)


def _plus(a: Tensor | None, b: Tensor, alpha: float = 1.0) -> Tensor:
    if a is None:
        return b if alpha == 1.0 else b * alpha
    return torch.add(a, b, alpha=alpha)


def _sum_before(grad: Tensor | None) -> Tensor:
    """The gradient of what ``R`` loses in each step: ``R`` before it does not have it."""
    assert grad is not None
    return grad.cumsum(-1) - grad


def _sum_from(grad: Tensor | None, end: Tensor) -> Tensor:
    """The gradient of what ``S`` gains in each step, with ``end`` for its last value once more."""
    assert grad is not None
    total = grad.cumsum(-1)
    return (grad - total) + (total[..., -1:] + end.unsqueeze(-1))
