"""Paths of torchsde behind our interface: their law, their direction, and each sample's own times."""

import math

import pytest
import torch
from scipy import stats

import neuralde.solvers as nde
from neuralde.solvers.paths.torchsde import BorrowedPath

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


def test_a_solve_takes_it_and_agrees_with_torchsde():
    class Linear(torch.nn.Module):
        sde_type, noise_type = "ito", "diagonal"

        def f(self, t, y):
            return -y + t

        def g(self, t, y):
            return 0.5 * y

    y0, field = torch.ones(3, 2, dtype=F64), Linear()
    made = torchsde.BrownianInterval(0.0, 1.0, size=(3, 2), dtype=F64, entropy=5)
    theirs = torchsde.sdeint(field, y0, torch.tensor([0.0, 1.0], dtype=F64), bm=made, method="euler", dt=1 / 32)
    problem = nde.SDEProblem(field.f, field.g, y0, (0.0, 1.0))
    ours = nde.solve(problem, nde.EulerMaruyama(), dt=1 / 32, path=made)
    torch.testing.assert_close(ours.y1, theirs[-1], rtol=0, atol=1e-13)
    alone = nde.solve(problem, nde.EulerMaruyama(), dt=1 / 32, path=made, per_sample=True, compact=True)
    torch.testing.assert_close(alone.y1, theirs[-1], rtol=0, atol=1e-13)
    with pytest.raises(nde.InvalidProblemError, match=r"path: got increments of shape \(3, 2\); expected \(4, 2\)"):
        nde.solve(nde.SDEProblem(field.f, field.g, y0.new_ones(4, 2), (0.0, 1.0)), dt=1 / 32, path=made)


def test_some_samples_have_their_rows():
    path, rows = interval((5, 2)), torch.tensor([3, 1])
    some = path.take(rows)
    assert some.shape == (2, 2)
    assert torch.equal(some.increment(0.1, 0.4).h, path.increment(0.1, 0.4).h[rows])
    assert torch.equal(some.take(torch.tensor([1])).increment(0.1, 0.4).w, path.increment(0.1, 0.4).w[[1]])


def on(path, t1=1.0):
    problem = nde.SDEProblem(
        lambda t, y: 0 * y, lambda t, y: torch.ones_like(y), torch.zeros(3, 2, dtype=F64), (0.0, t1), noise="additive"
    )
    return nde.solve(problem, nde.EulerMaruyama(), dt=0.25, path=path)


@pytest.mark.parametrize(
    "make",
    [
        lambda dtype: torchsde.BrownianInterval(0.0, 1.0, size=(3, 2), dtype=dtype),
        lambda dtype: torchsde.BrownianTree(0.0, torch.zeros(3, 2, dtype=dtype), t1=1.0),
        lambda dtype: torchsde.BrownianPath(0.0, torch.zeros(3, 2, dtype=dtype)),
        lambda dtype: torchsde.ReverseBrownian(torchsde.BrownianInterval(-1.0, 0.0, size=(3, 2), dtype=dtype)),
    ],
)
def test_a_path_covers_the_interval_in_the_dtype_of_the_state(make):
    assert on(make(F64)).status == 0
    with pytest.raises(
        nde.InvalidProblemError, match=r"path: got a path from -?0 to 1; expected one that covers tspan"
    ):
        on(make(F64), t1=2.0)
    with pytest.raises(
        nde.InvalidProblemError, match=r"path: got a path of torch.float32; expected dtype=torch.float64"
    ):
        on(make(torch.float32))


def test_ours_gives_its_increments_in_the_dtype_of_the_state():
    ours, wide = (nde.BrownianPath((3, 2), 1, 0.0, 1.0, dtype=dtype) for dtype in (torch.float32, F64))
    assert torch.equal(on(ours).y1, on(wide).y1)
    assert torch.allclose(on(wide).y1, wide(0.0, 1.0), atol=1e-14)
