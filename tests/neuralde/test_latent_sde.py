"""Latent SDEs: the divergence of two Ornstein-Uhlenbeck processes, its gradient, and a fit."""

import math

import pytest
import torch
from scipy import integrate

import neuralde as nde

F64 = torch.float64
SIGMA, PRIOR, START, DT = 0.7, 0.5, 1.2, 1 / 64


class OrnsteinUhlenbeck(torch.nn.Module):
    """Drift ``rate (level - z)``."""

    def __init__(self, rate, level):
        super().__init__()
        self.rate = torch.nn.Parameter(torch.tensor(rate, dtype=F64))
        self.level = torch.nn.Parameter(torch.tensor(level, dtype=F64))

    def forward(self, t, z):
        return self.rate * (self.level - z)


def divergence(rate, level, t1=1.0):
    """Of ``dz = rate (level - z) dt + SIGMA dW`` from ``dz = -PRIOR z dt + SIGMA dW``, both from START, by quadrature."""

    def integrand(t):
        mean = level + (START - level) * math.exp(-rate * t)
        variance = SIGMA**2 * (1 - math.exp(-2 * rate * t)) / (2 * rate)
        slope = PRIOR - rate  # u = (slope z + rate level) / SIGMA
        return 0.5 * ((slope * mean + rate * level) ** 2 + slope**2 * variance) / SIGMA**2

    return integrate.quad(integrand, 0.0, t1)[0]


def model(rate=2.0, level=-0.5, **options):
    options = dict(dt=DT) | options
    return nde.LatentSDE(
        OrnsteinUhlenbeck(rate, level), OrnsteinUhlenbeck(PRIOR, 0.0), lambda t, z: torch.full_like(z, SIGMA), **options
    )


@pytest.mark.parametrize("calculus", ["ito", "stratonovich"])
def test_the_divergence_of_two_ornstein_uhlenbeck_processes(calculus):
    paths = 20_000
    latent = model(calculus=calculus, saveat=[0.5, 1.0])
    with torch.no_grad():
        states, kl, solution = latent(torch.full((paths, 1), START, dtype=F64), seed=4)
    assert states.shape == (2, paths, 1)
    for row, t1 in zip(kl, (0.5, 1.0), strict=True):
        exact = divergence(2.0, -0.5, t1)
        assert row.mean().item() == pytest.approx(exact, abs=4.5 * row.std().item() / math.sqrt(paths) + 2 * DT * exact)
    assert torch.equal(solution.ys[..., -1], kl)
    assert latent.stats.steps == 64


def test_its_gradient():
    """Of the mean over many paths, against the closed form; and against differences on the same paths."""
    latent, z0 = model(), torch.full((20_000, 1), START, dtype=F64)
    kl = latent(z0, seed=4).kl
    found = torch.autograd.grad(kl.mean(), [latent.posterior.rate, latent.posterior.level])
    step = 1e-5
    exact = [
        (divergence(2.0 + step, -0.5) - divergence(2.0 - step, -0.5)) / (2 * step),
        (divergence(2.0, -0.5 + step) - divergence(2.0, -0.5 - step)) / (2 * step),
    ]
    for mine, theirs in zip(found, exact, strict=True):
        assert mine.item() == pytest.approx(theirs, rel=0.05)
    with torch.no_grad():
        ahead, behind = (model(2.0 + e)(z0, seed=4).kl.mean() for e in (step, -step))
    assert found[0].item() == pytest.approx(((ahead - behind) / (2 * step)).item(), rel=1e-6)


def test_equal_drifts_have_no_divergence_and_the_prior_is_sampled():
    latent = model(PRIOR, 0.0)
    z0 = torch.full((5, 2), START, dtype=F64)
    path = latent(z0, seed=1)
    assert torch.equal(path.kl, torch.zeros(5, dtype=F64))
    prior = latent.sample_prior(torch.full((20_000, 1), START, dtype=F64), seed=2).y1
    assert prior.mean().item() == pytest.approx(START * math.exp(-PRIOR), abs=0.02)
    assert prior.var().item() == pytest.approx(SIGMA**2 * (1 - math.exp(-2 * PRIOR)) / (2 * PRIOR), rel=0.05)


def test_a_fit_finds_the_posterior_mean():
    """One observation x of z(1) with noise s: the best linear drift is pulled to it, and the bound nears log p(x)."""
    x, s = torch.tensor(1.0, dtype=F64), 0.3

    class Pull(torch.nn.Module):
        """Brownian motion drawn to ``to``: with ``late`` = 1 + s^2 it is the exact posterior."""

        def __init__(self):
            super().__init__()
            self.target = torch.nn.Parameter(torch.tensor(0.0, dtype=F64))
            self.late = torch.nn.Parameter(torch.tensor(2.0, dtype=F64))

        def forward(self, t, z):
            return (self.target - z) / (self.late - t)

    pull = Pull()

    def bound(paths, dt, seed):
        latent = nde.LatentSDE(
            pull, lambda t, z: torch.zeros_like(z), lambda t, z: torch.ones_like(z), dt=dt, adjoint=nde.DirectAdjoint()
        )
        states, kl, _ = latent(torch.zeros(paths, 1, dtype=F64), seed=seed)
        likelihood = -0.5 * ((x - states) / s) ** 2 - math.log(s * math.sqrt(2 * math.pi))
        return (likelihood.squeeze(-1) - kl).mean()

    optimizer = torch.optim.Adam(pull.parameters(), lr=0.1)
    for index in range(70):
        optimizer.zero_grad()
        (-bound(256, 1 / 16, index)).backward()
        optimizer.step()
    evidence = -0.5 * x**2 / (1 + s**2) - 0.5 * math.log(2 * math.pi * (1 + s**2))
    assert pull.target.item() == pytest.approx(1.0, abs=0.1)
    with torch.no_grad():
        assert bound(4000, 1 / 128, 1000).item() == pytest.approx(evidence.item(), abs=0.06)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nde.LatentSDE(1, len, len), "posterior: got int; expected a module"),
        (
            lambda: model()(torch.zeros(3, dtype=torch.int64)),
            r"z0: got torch.int64 of shape \(3,\); expected a floating",
        ),
        (lambda: model()([1.0]), "z0: got list; expected"),
        (
            lambda: nde.LatentSDE(lambda t, z: z[..., :1], lambda t, z: z, torch.add, dt=0.1)(torch.ones(3, 2)),
            r"posterior: got shape \(3, 1\); expected \(3, 2\)|diffusion",
        ),
    ],
)
def test_wrong_arguments_are_refused(call, message):
    with pytest.raises(nde.InvalidProblemError, match=message):
        call()


def test_a_diffusion_that_vanishes_gives_a_large_number_and_no_nan():
    latent = nde.LatentSDE(lambda t, z: z + 1, lambda t, z: z, lambda t, z: torch.zeros_like(z), dt=0.5)
    assert latent(torch.zeros(2, 1, dtype=F64), seed=0).kl == pytest.approx(0.5 * 1e14)
