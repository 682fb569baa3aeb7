"""Scores of data whose score is known, what they are reproducible in, and pictures."""

import math

import numpy as np
import pytest
import torch

import neuralde as nde
from neuralde.koopman import scores


def waves(count, seed, phase=2 * math.pi):
    generator = torch.Generator().manual_seed(seed)
    start = phase * torch.rand(count, 1, 2, generator=generator)
    return 0.5 + 0.4 * torch.sin(torch.arange(10.0)[:, None] * 0.6 + start)


def test_of_alike_sets_the_score_is_that_of_chance_and_of_different_ones_a_half():
    real = waves(300, 0)
    alike = scores.discriminative(real, waves(300, 1), repeats=2, steps=60)
    other = scores.discriminative(real, waves(300, 1, phase=0.5), repeats=1, steps=300, hidden=8)
    floor = scores.discriminative_floor(real, repeats=2, steps=60)
    # 120 held-out windows: chance alone gives 1/2 |N(0, 1)| / sqrt(120), 0.036 in the mean and above 0.12 in one of 100
    assert alike.mean < 0.12
    assert floor.mean < 0.15
    assert other.mean > 0.3
    assert alike.std == pytest.approx(np.std(alike.values, ddof=1))
    assert alike.mean == pytest.approx(np.mean(alike.values))


def test_scores_follow_from_the_seed_and_not_from_what_was_drawn_before():
    real, made = waves(60, 0), waves(60, 1)
    first = scores.discriminative(real, made, repeats=2, steps=10, seed=3)
    torch.rand(7)
    state = torch.get_rng_state()
    assert scores.discriminative(real, made, repeats=2, steps=10, seed=3) == first
    assert torch.equal(torch.get_rng_state(), state)
    assert scores.discriminative(real, made, repeats=1, steps=10, seed=4).values[0] == first.values[1]
    with torch.no_grad():
        assert scores.predictive(real, made, repeats=1, steps=5).values


def test_what_is_learnt_from_made_windows_is_worth_what_they_are_worth():
    """The last channel is the first a step before: windows in which it is noise teach nothing but its median."""
    real = waves(300, 0)
    real = torch.cat([real[:, 1:, :1], real[:, :-1, :1]], -1)
    noise = real.clone()
    noise[:, :, 1] = torch.rand(300, 9)
    good = scores.predictive(real, real, repeats=1, steps=600, hidden=8)
    bad = scores.predictive(real, noise, repeats=1, steps=600, hidden=8)
    assert good.mean < 0.12
    assert bad.mean > 0.2


def test_principal_plane_against_numpy():
    real, made = waves(50, 0).double(), waves(40, 1).double()
    got = scores.principal_plane(real, made)
    flat = real.mean(-1).numpy()
    values, vectors = np.linalg.eigh(np.cov(flat.T))
    for axis in (0, 1):
        wanted = (flat - flat.mean(0)) @ vectors[:, -1 - axis]
        np.testing.assert_allclose(np.abs(got[0][:, axis].numpy()), np.abs(wanted), atol=1e-8)
    assert got[1].shape == (40, 2)
    del values


def test_the_picture_has_its_parts():
    from matplotlib.figure import Figure

    figure = Figure()
    scores.draw(figure, waves(60, 0), waves(60, 1))
    titles = [axis.get_title() for axis in figure.axes]
    assert titles[0] == "principal components"
    assert titles[-1] == "values"


def test_windows_undo_their_scaling_and_keep_gaps():
    series = torch.randn(30, 3).cumsum(0)
    series[4, 1] = math.nan
    series[:, 2] = 5.0
    cut = nde.koopman.windows(series, 6, stride=3)
    assert cut.x.shape == (9, 6, 3)
    assert cut.x[:, :, 0].amin() == 0
    assert cut.x[:, :, 0].amax() == 1
    assert bool((cut.x[..., 2] == 0).all())  # a constant channel, without NaN
    torch.testing.assert_close(cut.original(cut.x)[2], series[6:12])
    assert bool(cut.x[0, 4, 1].isnan())
    assert int(cut.x.isnan().sum()) == 2  # the windows from 0 and from 3
    nothing = nde.koopman.windows(torch.full((5, 1), math.nan), 2)
    assert bool(nothing.x.isnan().all())
    assert bool(nothing.width.isfinite().all())
