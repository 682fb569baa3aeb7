"""Ornstein-Uhlenbeck paths: their joint law at any rates, and that they are a function of seed, sample and time alone."""

import itertools
import math
import random

import numpy as np
import pytest
import torch
from scipy import stats

import neuralde as nde
from neuralde.solvers.paths.filtered.transforms import expansion, transforms

D = torch.float64
RATES = torch.tensor([0.0, 0.3, 5.0, 200.0, 1e4], dtype=D)
CUTS = (0.0, 0.13, 0.3, 0.3 + 1e-4, 0.52, 0.9, 1.0)
PATHS = 8_000
ALPHA = 1e-4

cells = pytest.mark.parametrize("dt", [None, 0.1], ids=["tree", "cells"])


def path(shape=(PATHS,), seed=11, **options):
    return nde.OrnsteinUhlenbeckPath(shape, RATES, seed, 0.0, 1.0, dtype=D, **options)


def covariance(rates, length):
    both = rates[:, None] + rates
    return np.where(both > 0, -np.expm1(-both * length) / np.where(both > 0, both, 1.0), length)


def whitened(x, length):
    """Integrals as independent standard normals: with Cholesky's factor of their covariance, as far as it has one."""
    matrix = covariance(RATES.numpy(), length)
    values, vectors = np.linalg.eigh(matrix / np.sqrt(np.outer(matrix.diagonal(), matrix.diagonal())))
    seen = values > 1e-9
    return (x.numpy() / np.sqrt(matrix.diagonal())) @ vectors[:, seen] / np.sqrt(values[seen])


@cells
def test_increments_have_their_joint_law(dt):
    made = path(dt=dt)
    blocks = [whitened(made(s, t), t - s) for s, t in itertools.pairwise(CUTS)]
    columns = np.concatenate(blocks, axis=1).T
    pairs = [
        (columns[i] + sign * columns[j]) / math.sqrt(2)
        for i in range(len(columns))
        for j in range(i)
        for sign in (1, -1)
    ]
    worst = min(stats.kstest(row, "norm").pvalue for row in [*columns, *pairs])
    assert worst * (len(columns) + len(pairs)) > ALPHA
    sample = columns @ columns.T / PATHS - np.eye(len(columns))
    assert np.abs(sample).max() * math.sqrt(PATHS) < 6.0


@pytest.mark.parametrize(
    "rates", [(0.007, 0.5, 30.0, 4e4), tuple(np.geomspace(1e-12, 5, 12)), tuple(np.geomspace(0.2, 1e12, 12))]
)
def test_the_tree_is_exact(rates):
    """The covariance of what the normals make, at every level and at times of few and of many levels, without sampling."""
    gamma, depth = np.array(rates), 24
    made = transforms(rates, 1.0, depth)

    def wrong(rows, length):
        want = covariance(gamma, length)
        return np.abs((rows - want) / np.sqrt(np.outer(want.diagonal(), want.diagonal()))).max()

    for level, factor in enumerate(made.factors):
        assert wrong(factor @ factor.T, 2.0**-level) < 1e-13
    for position in (1, 3, 2**23, 2**23 + 1, 12_345_677, 2**24 - 1):
        weights = expansion(made, gamma, 1.0, depth, position).weights
        assert wrong(weights.T @ weights, position * 2.0**-depth) < 1e-13
    for rows, fresh in zip(made.down, made.fresh, strict=True):
        assert np.abs(rows @ rows.T - np.eye(len(rows))).max() < 1e-13
        assert np.abs(fresh @ fresh - fresh).max() < 1e-13
        assert np.abs(rows @ fresh).max() < 1e-13


@cells
def test_increments_add_up(dt):
    made = path((50, 2), dt=dt)
    total = made(CUTS[0], CUTS[1])
    for s, t in itertools.pairwise(CUTS[1:]):
        total = torch.exp(-RATES * (t - s)) * total + made(s, t)
    # Where the decay is 1e4, times are rounded to 2e-10 and 6e-9 of the path.
    assert torch.allclose(total, made(0.0, 1.0), rtol=0.0, atol=2e-8)


@cells
def test_the_order_of_queries_does_not_matter(dt):
    made = path((20, 2), dt=dt)
    known = {pair: made(*pair) for pair in itertools.combinations(CUTS, 2)}
    other = path((20, 2), dt=dt)
    pairs = [*known] * 2
    random.Random(0).shuffle(pairs)
    assert all(torch.equal(other(*pair), known[pair]) for pair in pairs)


@cells
def test_samples_are_the_same_alone_and_on_their_own_clocks(dt):
    made = path((9, 3), dt=dt)
    s = torch.linspace(0.0, 0.6, 9, dtype=D)
    t = s + torch.linspace(0.0, 0.4, 9, dtype=D)
    every = made(s, t)
    for k in range(9):
        alone = made.sample(k)(s[k].item(), t[k].item())
        assert torch.allclose(alone, every[k], rtol=0.0, atol=1e-13)
        again = nde.OrnsteinUhlenbeckPath((1, 3), RATES, 11, 0.0, 1.0, dt=dt, samples=[k], dtype=D)
        assert torch.allclose(again(s[k].item(), t[k].item())[0], every[k], rtol=0.0, atol=1e-13)
    assert torch.equal(made.take(torch.tensor([4, 1]))(0.2, 0.7), made(0.2, 0.7)[[4, 1]])


def test_cells_are_what_queries_of_them_give():
    made = path((6,), dt=0.1)
    block = made.grid(2, 5).w
    for k in range(5):
        assert torch.allclose(block[k], made(0.1 * (k + 2), 0.1 * (k + 3)), rtol=0.0, atol=1e-14)
        assert torch.allclose(block[k], made.in_cells(torch.tensor(k + 2)).w, rtol=0.0, atol=1e-14)


def test_seeds_and_precisions():
    one, other = path((4,)), path((4,), seed=12)
    assert not torch.allclose(one(0.0, 1.0), other(0.0, 1.0), atol=1e-2)
    single = nde.OrnsteinUhlenbeckPath((4,), RATES, 11, 0.0, 1.0, dtype=torch.float32)
    assert torch.equal(single(0.2, 0.9), one(0.2, 0.9).float())
    assert one.rounded(torch.float32)(0.2, 0.9).dtype == torch.float32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: nde.OrnsteinUhlenbeckPath((2,), [1.0, 0.5], 0, 0.0, 1.0),
            r"rates: got \[1.0, 0.5\]; expected .* increasing",
        ),
        (
            lambda: nde.OrnsteinUhlenbeckPath((2,), [-1.0], 0, 0.0, 1.0),
            r"rates: got \[-1.0\]; expected .* 0 or positive",
        ),
        (
            lambda: nde.OrnsteinUhlenbeckPath((2,), torch.arange(65.0), 0, 0.0, 1.0),
            "rates: got 65 of them; expected at most 64",
        ),
        (lambda: nde.OrnsteinUhlenbeckPath((2,), [1.0], 0, 1.0, 0.0), "t0, t1: got 1.0 and 0.0; expected t0 < t1"),
        (lambda: path((2,))(0.5, 0.2), r"s, t: got \[0.5\] and \[0.2\]; expected s <= t"),
        (lambda: path((2,))(0.5, 1.2), "t: got a time outside of the path"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(nde.InvalidProblemError, match=message):
        call()
