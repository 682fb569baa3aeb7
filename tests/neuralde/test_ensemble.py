"""Ensembles: their moments and quantiles against the exact law, each path alone, and the same bits however split."""

import math
import subprocess
import sys

import pytest
import torch
from scipy import stats

import neuralde as nde
from neuralde import ensemble as module

F64 = torch.float64
NAMES = ("mean", "variance", "edges")


def ornstein(**options):
    """dy = -y dt + dW from 0: y(t) is normal with variance (1 - exp(-2 t)) / 2."""
    return nde.SDEProblem(
        lambda t, y: -y, lambda t, y: torch.ones_like(y), torch.zeros(2, dtype=F64), (0.0, 1.0), **options
    )


def run(paths, first=0, **options):
    options = dict(batch=256, dt=1 / 64, seed=5, saveat=[0.5, 1.0]) | options
    return nde.solve_ensemble(ornstein(), nde.EulerMaruyama(), paths=paths, first=first, **options)


def same(one, other):
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in NAMES) and torch.equal(
        one.quantile(torch.linspace(0, 1, 9, dtype=F64)), other.quantile(torch.linspace(0, 1, 9, dtype=F64))
    )


def test_moments_and_quantiles_have_their_law():
    paths, solved = 8000, run(8000)
    std = (0.5 * (1 - torch.exp(-2 * solved.ts))).sqrt().unsqueeze(-1)
    assert ((solved.mean / std).abs() < 4.5 / math.sqrt(paths)).all()
    assert ((solved.variance / std**2 - 1).abs() < 4.5 * math.sqrt(2 / paths) + 1 / 64).all()
    for q in (0.01, 0.25, 0.5, 0.9, 0.999):
        found = stats.norm.cdf((solved.quantile(q) / std).numpy())
        assert abs(found - q).max() < 4.5 * math.sqrt(q * (1 - q) / paths) + 1e-3 + 1 / 256 * q * (1 - q)


def test_they_are_those_of_the_paths():
    """Against the same paths solved and kept."""
    solved = run(1500)
    path = nde.BrownianPath((1500, 2), 5, 0.0, 1.0, dt=1 / 64, dtype=F64)
    problem = nde.SDEProblem(ornstein().drift, ornstein().diffusion, torch.zeros(1500, 2, dtype=F64), (0.0, 1.0))
    ys = nde.solve(problem, nde.EulerMaruyama(), dt=1 / 64, path=path, saveat=[0.5, 1.0]).ys
    torch.testing.assert_close(solved.mean, ys.mean(1), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(solved.variance, ys.var(1), rtol=1e-12, atol=1e-14)
    for q in (0.1, 0.5, 0.97):
        rank = (ys <= solved.quantile(q).unsqueeze(1)).double().mean(1)
        assert (rank - q).abs().max() < 1.5 / module.BINS
    assert torch.equal(solved.quantile(0.0), ys.amin(1))
    assert torch.equal(solved.quantile(1.0), ys.amax(1))


def test_a_path_is_the_same_alone():
    alone = run(1, first=700, edges=run(300).edges)
    path = nde.BrownianPath((1, 2), 5, 0.0, 1.0, dt=1 / 64, samples=[700], dtype=F64)
    problem = nde.SDEProblem(ornstein().drift, ornstein().diffusion, torch.zeros(1, 2, dtype=F64), (0.0, 1.0))
    sol = nde.solve(problem, nde.EulerMaruyama(), dt=1 / 64, path=path, saveat=[0.5, 1.0])
    assert torch.equal(alone.mean, sol.ys[:, 0])


def test_parts_make_the_bits_of_the_whole():
    whole = run(1400)
    parts = run(376, 1024).merge(run(1024, edges=whole.edges))
    assert same(parts, whole)
    assert same(run(1400), whole)


def test_another_process_makes_the_same_bits():
    code = (
        "import torch, neuralde as nde\n"
        "p = nde.SDEProblem(lambda t, y: -y, lambda t, y: torch.ones_like(y), torch.zeros(2, dtype=torch.float64), (0., 1.))\n"
        "e = nde.solve_ensemble(p, nde.EulerMaruyama(), paths=100, first=256, batch=256, dt=1/64, seed=5, saveat=[.5, 1.])\n"
        "print(torch.stack([e.mean, e.variance]).view(torch.int64).tolist())"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    mine = run(100, 256)
    assert str(torch.stack([mine.mean, mine.variance]).view(torch.int64).tolist()) == out.strip()


def test_general_noise_starts_and_gradients():
    mix = torch.tensor([[1.0, 0.5, 0.0], [0.0, 0.3, 0.8]], dtype=F64)
    rate = torch.tensor(1.0, dtype=F64, requires_grad=True)
    problem = nde.SDEProblem(
        lambda t, y, k: -k * y,
        lambda t, y, k: mix.expand(len(y), 2, 3),
        torch.zeros(2, dtype=F64),
        (0.0, 1.0),
        args=(rate,),
        noise="additive",
    )
    starts = lambda numbers: torch.stack([numbers / 300.0, torch.ones_like(numbers)], -1).to(F64)  # noqa: E731
    solved = nde.solve_ensemble(problem, nde.EulerMaruyama(), paths=300, batch=100, dt=1 / 32, seed=2, starts=starts)
    covariance = mix @ mix.T * 0.5 * (1 - math.exp(-2))
    assert (solved.mean[0, 1] - math.exp(-1)).abs() < 4.5 * solved.standard_error[0, 1] + 0.02
    assert (solved.variance[0, 1] / covariance[1, 1] - 1).abs() < 4.5 * math.sqrt(2 / 300) + 0.05
    (slope,) = torch.autograd.grad(solved.mean[0, 0], rate)
    ahead, behind = (
        nde.solve_ensemble(
            nde.SDEProblem(problem.drift, problem.diffusion, problem.y0, (0.0, 1.0), (rate.detach() + e,), "additive"),
            nde.EulerMaruyama(),
            paths=300,
            batch=100,
            dt=1 / 32,
            seed=2,
            starts=starts,
        ).mean[0, 0]
        for e in (1e-5, -1e-5)
    )
    assert slope.item() == pytest.approx(((ahead - behind) / 2e-5).item(), rel=1e-7)


def test_a_path_that_fails_is_left_out_and_named():
    def drift(t, y):
        return torch.where(y > 2.9, torch.nan, -y)

    problem = nde.SDEProblem(drift, lambda t, y: 0.1 * torch.ones_like(y), torch.zeros(1, dtype=F64), (0.0, 1.0))
    starts = lambda numbers: torch.where(numbers == 7, 3.0, 0.0).unsqueeze(-1).to(F64)  # noqa: E731
    solved = nde.solve_ensemble(problem, nde.EulerMaruyama(), paths=20, dt=0.1, seed=1, starts=starts)
    assert (solved.failed, solved.count) == ((7,), 19)
    assert solved.mean.isfinite().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(paths=0), "paths: got 0; expected a positive int"),
        (dict(batch=2.5), "batch: got 2.5; expected a positive int"),
        (dict(first=-1), "first: got -1; expected an int, 0 or positive"),
        (dict(saveat=0.5), r"saveat: got shape \(\); expected times"),
        (dict(per_sample=True), "per_sample: got True; an ensemble sets it"),
        (dict(starts=lambda numbers: torch.zeros(3)), r"starts: got \(3,\) for 10 paths; expected \(10, 2\)"),
    ],
)
def test_wrong_arguments_are_refused(change, message):
    with pytest.raises(nde.InvalidProblemError, match=message):
        run(**(dict(paths=10) | change))


def test_parts_that_do_not_fit_are_refused():
    one = run(20)
    for other, message in (
        (run(20, edges=one.edges), "got paths 0 to 19 twice"),
        (run(20, 20, seed=6, edges=one.edges), "got paths of seed 6; expected seed 5"),
        (run(20, 20), "got other edges"),
        (run(20, 20, saveat=[0.25, 1.0], edges=one.edges), "got other ts"),
    ):
        with pytest.raises(nde.InvalidProblemError, match=message):
            one.merge(other)
    with pytest.raises(nde.InvalidProblemError, match=r"q: got 1\.5; expected fractions"):
        one.quantile(1.5)
    wrong = nde.SDEProblem(lambda t, y: -y, lambda t, y: y, torch.zeros(3, 2), (0.0, 1.0))
    with pytest.raises(
        nde.InvalidProblemError, match=r"problem: got a state \(3, 2\); expected an SDEProblem whose y0"
    ):
        nde.solve_ensemble(wrong, paths=3)
