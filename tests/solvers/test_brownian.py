"""Brownian paths: their law, and that they are a function of seed, sample, component and time and of nothing else."""

import itertools
import math
import random
import subprocess
import sys

import pytest
import torch
from scipy import special, stats

import neuralde.solvers as nde
from neuralde.solvers.paths.brownian.random import GOLDEN, mix, normal, normal_table

F64 = torch.float64
AREAS = ("none", "space-time")
CUTS = (0.0, 0.13, 0.3, 0.3 + 1e-5, 0.52, 0.9, 1.0)
PATHS = 12_000
ALPHA = 1e-4

areas = pytest.mark.parametrize("area", AREAS)
cells = pytest.mark.parametrize("dt", [None, 0.1], ids=["tree", "cells"])


def path(shape=(PATHS,), seed=11, area="space-time", t0=0.0, t1=1.0, **options):
    return nde.BrownianPath(shape, seed, t0, t1, area, dtype=F64, **options)


def pieces(brownian, cuts=CUTS):
    return [brownian.increment(s, t) for s, t in itertools.pairwise(cuts)]


def normals(rows):
    """Every row as it should be standard normal, with Bonferroni's correction."""
    return [stats.kstest(row.numpy(), "norm").pvalue * len(rows) for row in rows]


def correlation(x, y):
    return (x * y).mean().item() * math.sqrt(len(x))


def test_normals_are_the_quantiles_of_their_bits():
    bits = torch.cat([mix(torch.arange(50_000) * GOLDEN), torch.arange(2000) << 12, -(torch.arange(2000) << 12) - 1])
    u = ((bits >> 12) & ((1 << 52) - 1)).to(F64).add(0.5) * 2.0**-53
    exact = torch.from_numpy(special.ndtri(u.numpy())) * torch.where((bits & 1) == 1, -1.0, 1.0)
    assert (normal(bits, normal_table(bits.device)) - exact).abs().max() < 1e-8


@areas
@cells
def test_increments_have_their_law(area, dt):
    increments = pieces(path(area=area, dt=dt))
    lengths = [t - s for s, t in itertools.pairwise(CUTS)]
    rows = [x.w / math.sqrt(h) for x, h in zip(increments, lengths, strict=True)]
    if area == "space-time":
        rows += [x.h / math.sqrt(h / 12) for x, h in zip(increments, lengths, strict=True)]
    assert min(normals(rows)) > ALPHA
    # Uncorrelated pairs, and jointly normal ones: sums and differences have the law of sums too.
    pairs = [(i, j) for i in range(len(rows)) for j in range(i)]
    assert max(abs(correlation(rows[i], rows[j])) for i, j in pairs) < stats.norm.isf(ALPHA / len(pairs))
    assert min(normals([(rows[i] + rows[j]) / math.sqrt(2) for i, j in pairs])) > ALPHA


@areas
def test_components_samples_seeds_and_levels_are_independent(area):
    brownian = path((20_000, 2), seed=5, area=area)
    w = brownian(0.0, 1.0)
    rows = [w[:, 0], w[:, 1], path((20_000, 2), seed=6, area=area)(0.0, 1.0)[:, 0]]
    rows += [
        w[:, 0].roll(1),
        brownian(0.0, 0.5)[:, 0] * 2 - w[:, 0],
        (brownian(0.0, 0.25) * 2 - brownian(0.0, 0.5))[:, 0],
    ]
    rows[-1] = rows[-1] * math.sqrt(2)
    pairs = [(rows[i], rows[j]) for i in range(6) for j in range(i)]
    assert max(abs(correlation(x, y)) for x, y in pairs) < stats.norm.isf(ALPHA / 15)
    if area == "none":  # with areas a half is not independent of the whole's area
        assert min(normals(rows)) > ALPHA


@cells
def test_a_split_has_the_conditional_law_of_foster(dt):
    """Given W and H of an interval, those of its two parts: means and noises by the formulas for a cut anywhere."""
    s, cut, t = 0.12, 0.31, 0.67
    brownian = path(dt=dt)
    whole, left, right = (brownian.increment(*ends) for ends in ((s, t), (s, cut), (cut, t)))
    h, x, y = t - s, cut - s, t - cut
    v = 0.5 * math.sqrt(x * y / (x**3 + y**3))
    a, b, c = v * x * x / h, v * y * y / h, v / math.sqrt(3)
    q = 2 * (a * x + b * y) / h
    first = (left.w - x / h * whole.w - 6 * x * y / h**2 * whole.h) / q
    second = (left.h - (x / h) ** 2 * whole.h + a * first) / (c * y)
    torch.testing.assert_close(right.w, y / h * whole.w - 6 * x * y / h**2 * whole.h - q * first)
    torch.testing.assert_close(right.h, (y / h) ** 2 * whole.h - b * first - c * x * second)
    rows = [first, second, whole.w / math.sqrt(h), whole.h / math.sqrt(h / 12)]
    assert min(normals(rows)) > ALPHA
    assert max(abs(correlation(rows[i], rows[j])) for i in range(4) for j in range(i)) < stats.norm.isf(ALPHA / 6)


def test_a_bridge_has_the_conditional_moments():
    brownian = path(area="none")
    s, t, u = 0.2, 0.37, 0.9
    rest = brownian(s, t) - (t - s) / (u - s) * brownian(s, u)
    std = math.sqrt((u - t) * (t - s) / (u - s))
    assert min(normals([rest / std, brownian(s, u) / math.sqrt(u - s)])) > ALPHA
    assert abs(correlation(rest / std, brownian(s, u) / math.sqrt(u - s))) < stats.norm.isf(ALPHA)


@areas
def test_the_smallest_intervals_have_the_exact_law(area):
    """A coarse tree, so that nearly all of the time is inside a smallest interval."""
    brownian = path(area=area, tol=0.25)
    cuts = (0.0, 0.1, 0.3, 0.6, 1.0)  # one cut in each quarter
    rows = [x.w / math.sqrt(b - a) for x, a, b in zip(pieces(brownian, cuts), cuts[:-1], cuts[1:], strict=True)]
    if area == "space-time":
        rows += [
            x.h / math.sqrt((b - a) / 12) for x, a, b in zip(pieces(brownian, cuts), cuts[:-1], cuts[1:], strict=True)
        ]
    assert min(normals(rows)) > ALPHA
    pairs = [(i, j) for i in range(len(rows)) for j in range(i)]
    assert max(abs(correlation(rows[i], rows[j])) for i, j in pairs) < stats.norm.isf(ALPHA / len(pairs))


@areas
@cells
def test_increments_add_up_and_areas_follow_chen(area, dt):
    brownian = path((50,), area=area, dt=dt)
    total, length = None, 0.0
    for step, (s, t) in zip(pieces(brownian), itertools.pairwise(CUTS), strict=True):
        more = t - s
        if total is None:
            total, length = step, more
            continue
        w, h = total.w + step.w, None
        if area == "space-time":
            h = (length * total.h + more * step.h + 0.5 * (more * total.w - length * step.w)) / (length + more)
        total, length = type(step)(w, h), length + more
    whole = brownian.increment(0.0, 1.0)
    torch.testing.assert_close(total.w, whole.w, rtol=0, atol=1e-12)
    if area == "space-time":
        torch.testing.assert_close(total.h, whole.h, rtol=0, atol=1e-12)
        w, u = brownian(0.2, 0.7, return_U=True)
        torch.testing.assert_close(u, 0.5 * (w / 2 + brownian.increment(0.2, 0.7).h))


@areas
@cells
def test_order_batch_direction_and_layout_do_not_matter(area, dt):
    brownian = path((6, 3), area=area, dt=dt)
    queries = [tuple(sorted((random.random(), random.random()))) for _ in range(12)]
    first = [brownian.increment(*query) for query in queries]
    again = path((6, 3), area=area, dt=dt)
    for index in random.sample(range(12), 12):
        s, t = queries[index]
        other = again.increment(s, t)
        assert torch.equal(other.w, first[index].w)
        assert torch.equal(again(t, s), -other.w)
        assert torch.equal(path((40, 3), area=area, dt=dt)(s, t)[:6], other.w)
        assert torch.equal(again.sample(4)(s, t), other.w[4])
        assert torch.equal(again.take(torch.tensor([5, 1]))(s, t), other.w[[5, 1]])
        assert torch.equal(path((2, 3), area=area, dt=dt, samples=[3, 5])(s, t), other.w[[3, 5]])
        if area == "space-time":
            assert torch.equal(other.h, first[index].h)
            assert torch.equal(again.increment(t, s).h, other.h)
            assert torch.equal(again.sample(4).increment(s, t).h, other.h[4])
    s, t = (torch.tensor([query[end] for query in queries[:6]], dtype=F64) for end in (0, 1))
    lanes = brownian.increment(s, t)
    for row in range(6):
        assert torch.equal(lanes.w[row], first[row].w[row])
        assert area == "none" or torch.equal(lanes.h[row], first[row].h[row])


@areas
def test_a_grid_has_the_bits_of_its_intervals(area):
    brownian = path((3, 2), area=area, dt=0.01)
    grid = brownian.grid(0, 100)
    time = 0.0
    for k in range(100):
        each = brownian.increment(time, time + 0.01)
        time += 0.01  # as a solver's clock does
        assert torch.equal(each.w, grid.w[k])
        assert area == "none" or torch.equal(each.h, grid.h[k])
    assert torch.equal(brownian.grid(37, 2).w, grid.w[37:39])
    torch.testing.assert_close(brownian(0.0, 1.0), grid.w.sum(0), rtol=0, atol=1e-13)


@areas
@cells
def test_what_is_remembered_changes_no_bit(area, dt):
    """Steps as a solver takes them, with rejections, for all samples at once and for each alone."""
    draw, kept = random.Random(8), path((5, 3), area=area, dt=dt)
    time, step = torch.zeros(5, dtype=F64), torch.full((5,), 0.07, dtype=F64)
    for index in range(25):
        joint = index % 5 == 4
        s, t = (time[0].item(), (time + step)[0].item()) if joint else (time, (time + step).clamp(max=1.0))
        mine, fresh = (brownian.increment(s, t) for brownian in (kept, path((5, 3), area=area, dt=dt)))
        assert torch.equal(mine.w, fresh.w)
        assert area == "none" or torch.equal(mine.h, fresh.h)
        accepted = torch.tensor([draw.random() < 0.6 for _ in range(5)])
        time = torch.where(accepted, (time + step).clamp(max=0.9), time)
        step = step * torch.where(accepted, 1.1, 0.4)


def test_the_next_step_draws_only_what_is_new(monkeypatch):
    drawn = []
    counted = lambda bits, table: (drawn.append(bits.numel()), normal(bits, table))[1]  # noqa: E731
    monkeypatch.setattr("neuralde.solvers.paths.brownian.expansion.normal", counted)
    brownian = path((1,), area="none")
    for s, t in ((0.3, 0.301), (0.301, 0.302), (0.301, 0.3015), (0.301, 0.3015)):
        drawn.append(0)
        brownian.increment(s, t)
    first, second, rejected, again = (sum(part) for part in split(drawn))
    assert second <= 18 < 26 < first < 52  # 26 levels: those below the interval that both ends share, once
    assert rejected <= 18
    assert again == 0


def split(counts):
    """The parts between zeros."""
    starts = [index for index, count in enumerate(counts) if not count] + [len(counts)]
    return [counts[a:b] for a, b in itertools.pairwise(starts)]


def test_a_million_cells():
    brownian = path((2,), area="none", t1=1000.0, dt=1e-3)
    halves = brownian(0.0, 400.0) + brownian(400.0, 1000.0)
    torch.testing.assert_close(brownian(0.0, 1000.0), halves, rtol=0, atol=1e-9)


def test_another_process_gives_the_same_bits():
    code = (
        "import torch, neuralde as nde; "
        "p = nde.BrownianPath((2, 2), 123456789, 0.0, 3.0, 'space-time', dtype=torch.float64); "
        "x = p.increment(0.1, 2.7); print(torch.stack([x.w, x.h]).view(torch.int64).tolist())"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    mine = nde.BrownianPath((2, 2), 123456789, 0.0, 3.0, "space-time", dtype=F64).increment(0.1, 2.7)
    assert str(torch.stack(list(mine)).view(torch.int64).tolist()) == out.strip()


def test_the_bits_are_pinned():
    """A path is part of a result: another version must not silently give another one."""
    x = nde.BrownianPath((2,), 0, 0.0, 1.0, "space-time", dtype=F64).increment(0.25, 0.75)
    expected = [[-0.08145239261677617, -0.49892999055808485], [-0.3656650253215898, -0.16579825830725242]]
    assert torch.stack(list(x)).tolist() == expected


def test_bounds_may_differ_between_samples():
    t0, t1 = torch.tensor([0.0, -1.0], dtype=F64), torch.tensor([1.0, 2.0], dtype=F64)
    both = path((2, 3), t0=t0, t1=t1)
    s, t = torch.tensor([0.5, 0.5], dtype=F64), torch.tensor([0.7, 0.9], dtype=F64)
    assert torch.equal(both(s, t)[1], both.sample(1)(0.5, 0.9))
    assert torch.equal(both(s, t)[1:], path((1, 3), t0=-1.0, t1=2.0, samples=[1])(0.5, 0.9))


def test_dtype_device_and_no_gradient(device):
    brownian = nde.BrownianPath((4,), 1, 0.0, 1.0, dtype=torch.float32, device=device)
    time = torch.tensor(0.5, device=device, requires_grad=True)
    w = brownian(0.0, time)
    assert (w.dtype, w.device.type, w.requires_grad) == (torch.float32, device.type, False)
    on_host = nde.BrownianPath((4,), 1, 0.0, 1.0, dtype=torch.float32)
    assert torch.equal(w.cpu(), on_host(0.0, 0.5))


# The compiler's own kernels once, for the hash and all that is drawn from it; of the other query the graph.
@pytest.mark.parametrize(("area", "backend"), [("space-time", "inductor"), ("none", "aot_eager")])
def test_compiled_queries(area, backend):
    @torch.compile(fullgraph=True, backend=backend)
    def query(seed, s, t):
        return nde.BrownianPath((5, 3), seed, 0.0, 1.0, area, dtype=F64).increment(s, t)

    s, t = torch.tensor(0.1, dtype=F64), torch.tensor(0.35, dtype=F64)
    for compiled, eager in zip(query(torch.tensor(11), s, t), path((5, 3), area=area).increment(s, t), strict=True):
        torch.testing.assert_close(compiled, eager, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(shape=3), "shape: got 3"),
        (dict(seed=1.5), "seed: got 1.5; expected an int"),
        (dict(seed=torch.zeros(2, dtype=torch.int64)), "seed: got a torch.int64 tensor of shape"),
        (dict(t1=0.0), "t0, t1: got 0.0 for both"),
        (dict(t1=float("nan")), "t1: got nan"),
        (dict(levy_area="full"), 'levy_area: got \'full\'; expected "none" or "space-time"'),
        (dict(dt=0.0), "dt: got 0.0; expected a positive"),
        (dict(tol=-1.0), "tol: got -1.0; expected a positive"),
        (dict(dtype=torch.float16), "dtype: got torch.float16"),
        (dict(samples=[1]), r"samples: got shape \(1,\) for a path of shape \(2, 3\)"),
    ],
)
def test_wrong_arguments_are_refused(change, message):
    with pytest.raises(nde.InvalidProblemError, match=message):
        nde.BrownianPath(**(dict(shape=(2, 3), seed=1, t0=0.0, t1=1.0) | change))


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (lambda p: p(0.0, 1.1), "t: got a time outside of the path"),
        (lambda p: p(0.0, float("nan")), "t: got a time outside of the path"),
        (lambda p: p(torch.zeros(3), 1.0), r"t: got a time of shape \(3,\)"),
        (lambda p: p(0.0, 1.0, return_U=True), "return_U: got True"),
        (lambda p: p(0.0, 1.0, return_A=True), "return_A: got True"),
    ],
)
def test_wrong_queries_are_refused(query, message):
    with pytest.raises(nde.InvalidProblemError, match=message):
        query(nde.BrownianPath((2, 3), 1, 0.0, 1.0))


def test_torchsde_takes_our_paths():
    torchsde = pytest.importorskip("torchsde")

    class Linear(torch.nn.Module):
        sde_type, noise_type = "ito", "diagonal"

        def f(self, t, y):
            return -y

        def g(self, t, y):
            return 0.5 * y

    y0, ts = torch.ones(3, 2, dtype=F64), torch.linspace(0.0, 1.0, 5, dtype=F64)
    for method, area in (("euler", "none"), ("srk", "space-time")):
        brownian = path((3, 2), area=area, dt=0.05)
        ys = torchsde.sdeint(Linear(), y0, ts, bm=brownian, method=method, dt=0.05)
        exact = torch.exp((-1 - 0.125) * ts[:, None, None] + 0.5 * torch.stack([brownian(0.0, t) for t in ts]))
        assert (ys - exact).abs().max() < (0.2 if method == "euler" else 0.01)


@pytest.mark.parametrize("area", ["none", "space-time"])
@pytest.mark.parametrize("shape", [(1, 20), (20, 1), (5, 3), (2, 20), (4, 2, 3)])
def test_values_do_not_depend_on_the_blocks_that_they_are_computed_in(monkeypatch, shape, area):
    """Few entries, whose blocks are cut small, with one time for all and one for each sample, remembered and not."""
    own = torch.linspace(0.1, 0.5, shape[0], dtype=torch.float64)
    queries = [(0.0, 0.3), (0.3, 0.31), (0.31, 0.9), (own, own + 0.1), (own + 0.1, own + 0.4), (0.2, 0.25)]

    def increments():
        path = nde.BrownianPath(shape, 3, 0.0, 1.0, area, dtype=torch.float64)
        return [path.increment(s, t) for s, t in queries]

    whole = increments()
    monkeypatch.setattr("neuralde.solvers.paths.brownian.expansion._KEYS", 6)
    for one, other in zip(whole, increments(), strict=True):
        assert torch.equal(one.w, other.w)
        assert one.h is None or torch.equal(one.h, other.h)
