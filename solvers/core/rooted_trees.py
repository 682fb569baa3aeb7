"""Rooted trees and elementary weights: what "a Runge-Kutta method has order p" means, as numbers.

The Taylor series of the exact flow and of one Runge-Kutta step are both sums over rooted trees. They agree up to
``h**p`` exactly when, for every tree ``t`` with at most ``p`` nodes, ``sum_i b_i Phi_i(t) = 1 / gamma(t)``, where
``Phi_i(t)`` is the elementary weight of stage ``i`` (it depends on the matrix ``a`` only) and ``gamma(t)`` the density.

Every tree with more than one node is a smaller tree with one branch grafted onto its root. With ``t`` made of ``trunk``
and ``branch``, ``Phi(t) = Phi(trunk) * (a @ Phi(branch))``: one product of matrices for all trees of one order.

Source: Hairer, Norsett, Wanner, "Solving Ordinary Differential Equations I", section II.2; Butcher, "Numerical Methods
for Ordinary Differential Equations", chapter 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

__all__ = ["RootedTrees", "elementary_weights", "rooted_trees"]


@dataclass(frozen=True, eq=False)
class RootedTrees:
    """All rooted trees with at most ``max_order`` nodes, ordered by the number of nodes.

    Tree ``i`` is tree ``trunk[i]`` with a copy of tree ``branch[i]`` grafted onto its root; tree 0, the single node,
    has neither, and both entries are -1. ``order[i]`` is its number of nodes and ``density[i]`` its ``gamma``. The
    trees with ``n`` nodes are those from ``start[n]`` up to ``start[n + 1]``.
    """

    trunk: np.ndarray
    branch: np.ndarray
    order: np.ndarray
    density: np.ndarray
    start: tuple[int, ...]

    @property
    def max_order(self) -> int:
        """The largest number of nodes held."""
        return len(self.start) - 2

    def name(self, i: int) -> str:
        """Tree ``i`` in brackets: ``t`` is the single node, ``[t,[t]]`` a root with a leaf and a branch of two nodes.

        >>> trees = rooted_trees(4)
        >>> [trees.name(i) for i in range(8)]
        ['t', '[t]', '[t,t]', '[[t]]', '[t,t,t]', '[t,[t]]', '[[t,t]]', '[[[t]]]']
        """
        children = []
        while i > 0:
            children.append(self.name(int(self.branch[i])))
            i = int(self.trunk[i])
        return f"[{','.join(reversed(children))}]" if children else "t"


@cache
def rooted_trees(max_order: int) -> RootedTrees:
    """All rooted trees with at most ``max_order`` nodes; made once and kept.

    >>> [rooted_trees(p).order.size for p in range(1, 10)]
    [1, 2, 4, 8, 17, 37, 85, 200, 486]
    >>> rooted_trees(3).density.tolist()
    [1.0, 2.0, 3.0, 6.0]
    """
    if max_order < 1:
        raise ValueError(f"rooted_trees: max_order must be at least 1, got {max_order}")
    if max_order == 1:
        single = np.array([-1])
        return RootedTrees(single, single, np.array([1]), np.array([1.0]), (0, 0, 1))
    small = rooted_trees(max_order - 1)
    start, last_branch = small.start, small.branch
    trunk: list[int] = []
    branch: list[int] = []
    for nodes in range(1, max_order):  # of the branch
        for i in range(start[max_order - nodes], start[max_order - nodes + 1]):
            # Branches are grafted in ascending order only, so that each tree is made once.
            first = max(start[nodes], int(last_branch[i]))
            branch.extend(range(first, start[nodes + 1]))
            trunk.extend([i] * max(0, start[nodes + 1] - first))
    # gamma(t) = |t| * product of the branches' gammas, and gamma(trunk) / |trunk| is that product without the last one.
    density = max_order * small.density[trunk] / small.order[trunk] * small.density[branch]
    return RootedTrees(
        trunk=np.concatenate([small.trunk, trunk]),
        branch=np.concatenate([small.branch, branch]),
        order=np.concatenate([small.order, np.full(len(trunk), max_order)]),
        density=np.concatenate([small.density, density]),
        start=(*start, start[-1] + len(trunk)),
    )


def elementary_weights(a: np.ndarray, max_order: int) -> np.ndarray:
    """The elementary weights ``Phi_i(t)`` of every tree up to ``max_order``: one row per tree, one column per stage.

    ``a`` is the square matrix of the method, zeros included; it may have object entries (exact fractions).

    >>> elementary_weights(np.array([[0.0, 0.0], [0.5, 0.0]]), 2).tolist()  # rows: t, [t]; columns: the two stages
    [[1.0, 1.0], [0.0, 0.5]]
    """
    trees = rooted_trees(max_order)
    phi = np.ones((trees.order.size, a.shape[0]), dtype=a.dtype)
    grafted = np.empty_like(phi)  # row t: a @ Phi(t), the factor that t contributes as a branch
    for nodes in range(1, max_order + 1):
        rows = slice(trees.start[nodes], trees.start[nodes + 1])
        if nodes > 1:
            phi[rows] = phi[trees.trunk[rows]] * grafted[trees.branch[rows]]
        grafted[rows] = phi[rows] @ a.T
    return phi
