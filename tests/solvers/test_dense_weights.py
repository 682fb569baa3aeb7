"""The dense output of Vern7 and Dopri8 is our own: here it is computed again, from its nodes and linear conditions."""

import numpy as np
import pytest

import neuralde.solvers as nde
from neuralde.solvers.core.rooted_trees import elementary_weights, rooted_trees
from neuralde.solvers.methods.tableau import max_dense_order


def square(rows):
    return np.array([[*row, *[0.0] * (len(rows) - len(row))] for row in rows])


def independent(a, columns, order):
    """The order conditions on the given stages without repetitions: matrix, and right-hand sides per power of theta."""
    trees = rooted_trees(order)
    phi = elementary_weights(a, order)[:, columns]
    values = (trees.order[:, None] == np.arange(1, order + 1)) / trees.density[:, None]
    size = np.linalg.norm(phi, axis=1, keepdims=True)
    left, singular, right = np.linalg.svd(phi / size, full_matrices=False)
    keep = singular > 1e-9 * singular[0]
    return right[keep], (left.T[keep] @ (values / size)) / singular[keep, None]


def smallest_row(a, columns, order, node):
    """The smallest weights on the given stages whose state at the node is right up to the given order."""
    matrix, values = independent(a, columns, order)
    row = np.zeros(len(a))
    row[columns] = matrix.T @ (values @ node ** np.arange(1, order + 1))
    return row


def extended(a, row):
    return np.block([[a, np.zeros((len(a), 1))], [row[None], np.zeros((1, 1))]])


def dense_conditions(a, b, columns, order, end):
    """Order conditions, w(1) = b and the slopes at both ends, for weights of degree ``order``, power by power."""
    matrix, values = independent(a, columns, order)
    one, powers = np.eye(len(columns)), np.arange(1.0, order + 1)
    rows = [np.kron(np.eye(order), matrix)] + [np.kron(p, one) for p in (np.ones(order), powers == 1, powers)]
    stages = np.eye(len(a))
    step = np.concatenate([b, np.zeros(len(a) - len(b))])
    ends = np.concatenate([step[columns], stages[0, columns], stages[end, columns]])
    return np.vstack(rows), np.concatenate([values.T.ravel(), ends])


def test_dopri8_dense_output_is_the_smallest_of_order_seven():
    tableau = nde.Dopri8().tableau
    dense = tableau.interpolant
    a = square(tableau.a)
    for order, node, published in zip((5, 6, 6, 6), dense.c, dense.a, strict=False):
        row = smallest_row(a, [0, *range(5, len(a))], order, node)
        np.testing.assert_allclose(row, published, atol=1e-11)
        a = extended(a, row)
    columns = [0, *range(5, 14), 15, 16, 17]
    matrix, values = dense_conditions(a, tableau.b, columns, 7, tableau.end_slope)
    found = np.linalg.lstsq(matrix, values, rcond=1e-11)[0].reshape(7, len(columns)).T
    np.testing.assert_allclose(matrix @ found.T.ravel(), values, atol=1e-9)
    published = np.array(dense.weights)
    np.testing.assert_allclose(found, published[columns], atol=1e-7)
    assert not published[[1, 2, 3, 4, 14]].any()


def test_dopri8_without_extra_stages_has_dense_output_of_order_five():
    """Why there are extra stages: order 6 is out of reach of the stages."""
    a = square(nde.Dopri8().tableau.a)
    misses = {}
    for order in (5, 6):
        trees = rooted_trees(order)
        row = smallest_row(a, list(range(14)), order, 0.3)
        misses[order] = np.abs(elementary_weights(a, order) @ row - 0.3**trees.order / trees.density).max()
    assert misses[5] < 1e-14
    assert misses[6] > 1e-8


def second_extra_row(node):
    """Vern7: all conditions of order 5 and the quadrature of order 6 fix the row; what is left over of the last one."""
    tableau = nde.Vern7().tableau
    a = square((*tableau.a, tableau.b))
    trees = rooted_trees(6)
    phi = elementary_weights(a, 6)
    columns = [0, *range(3, 9), 10]
    conditions = [*range(trees.start[6]), trees.start[6]]  # the first tree of order 6 is the bush: quadrature
    names = [trees.name(i) for i in range(trees.order.size)]
    assert names[trees.start[6]] == "[t,t,t,t,t]"
    matrix = phi[np.ix_(conditions, columns)]
    values = node ** trees.order[conditions] / trees.density[conditions]
    row = np.zeros(11)
    row[columns] = np.linalg.lstsq(matrix, values, rcond=None)[0]
    np.testing.assert_allclose(matrix @ row[columns], values, atol=1e-14)
    left_over = names.index("[t,[t,t,t]]")
    return row, phi[left_over] @ row - node**6 / trees.density[left_over]


def test_vern7_second_extra_node_is_a_root_and_not_the_rounded_one():
    node = nde.Vern7().tableau.interpolant.c[1]
    row, miss = second_extra_row(node)
    assert abs(miss) < 1e-15
    assert abs(second_extra_row(0.29)[1]) == pytest.approx(1.7772e-6, rel=1e-3)
    assert second_extra_row(node - 1e-6)[1] < 0 < second_extra_row(node + 1e-6)[1]
    np.testing.assert_allclose(row, nde.Vern7().tableau.interpolant.a[1], atol=1e-12)


def test_vern7_remaining_extra_rows_follow_from_their_nodes():
    """Row three: order 5, quadrature of order 6 and [t,[t,t,t]]; rows four to six: everything of order 6."""
    tableau = nde.Vern7().tableau
    dense = tableau.interpolant
    a = square((*tableau.a, *dense.a[:2]))
    trees = rooted_trees(6)
    names = [trees.name(i) for i in range(trees.order.size)]
    wanted = [*range(trees.start[6]), names.index("[t,t,t,t,t]"), names.index("[t,[t,t,t]]")]
    columns = [0, *range(3, 9), 10, 11]
    values = dense.c[2] ** trees.order[wanted] / trees.density[wanted]
    row = np.zeros(len(a))
    row[columns] = np.linalg.lstsq(elementary_weights(a, 6)[np.ix_(wanted, columns)], values, rcond=None)[0]
    np.testing.assert_allclose(row, dense.a[2], atol=1e-11)
    a = square((*tableau.a, *dense.a[:3]))
    for node, published in zip(dense.c[3:], dense.a[3:], strict=False):
        row = smallest_row(a, [0, *range(3, 9), 10, 11, 12], 6, node)
        np.testing.assert_allclose(row, published[: len(a)], atol=1e-10)
        assert not any(published[len(a) :])


def test_vern7_weights_are_the_only_ones_of_order_seven():
    tableau = nde.Vern7().tableau
    a = square((*tableau.a, *tableau.interpolant.a))
    columns = [0, *range(3, 9), *range(10, 16)]
    matrix, values = dense_conditions(a, tableau.b, columns, 7, tableau.end_slope)
    found, _, rank, _ = np.linalg.lstsq(matrix, values, rcond=1e-11)
    assert rank == matrix.shape[1]
    np.testing.assert_allclose(
        found.reshape(7, len(columns)).T, np.array(tableau.interpolant.weights)[columns], atol=1e-6
    )
    assert max_dense_order(tableau) == 7
