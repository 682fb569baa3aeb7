"""Where to put checkpoints when steps are taken again backwards (Griewank, Walther, ACM TOMS 26, 2000: revolve)."""

from __future__ import annotations

from math import comb


def first_checkpoint(length: int, slots: int) -> int:
    r"""After how many steps to put the first of ``slots`` checkpoints, to reverse ``length`` steps most cheaply.

    The state before the first of the steps is kept already. With :math:`c` states and every step taken at most
    :math:`t` times, :math:`\binom{c + t}{c}` steps can be reversed; the two parts that the checkpoint makes must each
    be within these limits for one repetition, or one state, less.

    >>> first_checkpoint(20, 2), first_checkpoint(2, 1)
    (10, 1)
    """
    states, times = slots + 1, 1
    while comb(states + times, states) < length:
        times += 1
    fewest = length - comb(states - 1 + times, states - 1)
    least = comb(states + times - 2, states) if times > 1 else 1
    most = length - (comb(states + times - 2, states - 1) if times > 1 else 1)
    return max(1, fewest, min(least, most))
