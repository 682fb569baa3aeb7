"""Paths of torchsde behind our interface: their law, their direction, and each sample's own times."""

import math

import pytest
import torch
from scipy import stats

import neuralde as nde
from neuralde.solvers.sde.borrowed import BorrowedPath

torchsde = pytest.importorskip("torchsde")
F64 = torch.float64


def interval(size=(4000, 1), area="space-time", **options):
    made = torchsde.BrownianInterval(0.0, 1.0, size=size, dtype=F64, entropy=5, levy_area_approximation=area, **options)
    return BorrowedPath(made)


def test_w_and_h_have_the_law_of_ours():
    path, (s, t) = interval(), (0.2, 0.7)
    w, h = (x[:, 0] for x in path.increment(s, t))
    for row, variance in ((w, t - s), (h, (t - s) / 12)):
        assert stats.kstest((row / math.sqrt(variance)).numpy(), "norm").pvalue > 1e-4
    assert abs((w * h).mean().item()) * math.sqrt(len(w)) < 4 * math.sqrt((t - s) ** 2 / 12)


@pytest.mark.parametrize("area", ["space-time", "davie", "foster"])
def test_parts_make_the_whole_after_the_solve(area):
    """Chen's relation, in our convention, for a subdivision queried after the whole."""
    path = interval((5, 2), area)
    whole, left, right = (path.increment(*ends) for ends in ((0.0, 0.9), (0.0, 0.3), (0.3, 0.9)))
    x, y = 0.3, 0.6
    torch.testing.assert_close(left.w + right.w, whole.w)
    h = (x * left.h + y * right.h + 0.5 * (y * left.w - x * right.w)) / (x + y)
    torch.testing.assert_close(h, whole.h)


def test_backwards_w_changes_its_sign_and_h_does_not():
    """By the definition of H on the path run backwards, from its values on a grid."""
    path, steps = interval((3, 1)), 400
    knots = torch.linspace(0.0, 0.8, steps + 1, dtype=F64).tolist()
    values = torch.stack([path.increment(0.0, t).w for t in knots])
    back = values.flip(0) - values[-1]
    line = torch.linspace(0.0, 1.0, steps + 1, dtype=F64)[:, None, None]
    h = torch.trapezoid(back - line * back[-1], dx=1.0 / steps, dim=0)
    w, area = path.increment(0.8, 0.0)
    torch.testing.assert_close(w, back[-1])
    torch.testing.assert_close(area, h, rtol=0, atol=0.02)


def test_each_sample_may_have_its_own_interval():
    path = interval((3, 2))
    s, t = torch.tensor([0.1, 0.2, 0.1], dtype=F64), torch.tensor([0.5, 0.4, 0.5], dtype=F64)
    rows = path.increment(s, t)
    for row in range(3):
        alone = path.increment(s[row].item(), t[row].item())
        assert torch.equal(rows.w[row], alone.w[row])
        assert torch.equal(rows.h[row], alone.h[row])
    assert interval((3, 2), "none").increment(s, 0.9).h is None


def test_an_object_that_is_no_path_is_refused():
    with pytest.raises(
        nde.InvalidProblemError, match="path: got int; expected a BrownianPath, a Brownian motion of torchsde"
    ):
        BorrowedPath(3)
