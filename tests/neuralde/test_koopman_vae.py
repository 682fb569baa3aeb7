"""KoopmanVAE: its size is the paper's, its terms are what they are called, its spectrum obeys, and gaps are gaps."""

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

import neuralde as nde
from neuralde.models.latent_dynamics import Draw, SequencePrior, Spectrum, divergence, fitted, linear_misfit

FIXED = dict(solver=nde.Midpoint(), dt=1.0, controller=nde.ConstantStep(), adjoint=nde.DirectAdjoint())


def waves(count, length=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    phase = 2 * math.pi * torch.rand(count, 1, 1, generator=generator)
    times = torch.arange(float(length))[:, None]
    return 0.5 + 0.4 * torch.sin(2 * math.pi / 8 * times + phase + torch.tensor([0.0, 1.0]))


def small(**options):
    torch.manual_seed(0)
    return nde.KoopmanVAE(2, 12, latent=4, hidden=12, **options)


def trained(model, steps=250, gaps=0.0, rate=1e-2):
    optimizer = torch.optim.Adam(model.parameters(), rate)
    for step in range(steps):
        x = waves(32, seed=step)
        x[torch.rand(32, 12) < gaps] = math.nan
        optimizer.zero_grad()
        model.loss(x).backward()
        optimizer.step()
    return model


@pytest.mark.parametrize(
    ("channels", "regular", "irregular"), [(5, 42109, 32929), (6, 42270, 33410), (28, 45812, 43992), (14, 43558, 37258)]
)
def test_parameters_are_as_many_as_in_the_published_models(channels, regular, irregular):
    """Of sines, stocks, energy and MuJoCo."""
    for gaps, wanted in ((False, regular), (True, irregular)):
        assert sum(x.numel() for x in nde.KoopmanVAE(channels, 24, irregular=gaps).parameters()) == wanted


def test_divergence_is_that_of_torch():
    values = [torch.randn(5, 7, 3, dtype=torch.float64) for _ in range(4)]
    got = divergence(values[0], values[1], Draw(values[0], values[2], values[3]))
    normals = [Normal(values[i], (0.5 * values[i + 1]).exp()) for i in (0, 2)]
    torch.testing.assert_close(got, kl_divergence(*normals).sum((1, 2)))


def test_prior_draws_have_the_moments_that_it_says():
    prior = SequencePrior(2, 4)
    draw = prior(4000, 3)
    scaled = (draw.z - draw.mean) * (-0.5 * draw.logvar).exp()
    assert scaled.mean((0, 1)).abs().max() < 4 / 12000**0.5
    assert (scaled.std((0, 1)) - 1).abs().max() < 4 / 24000**0.5
    # autoregressive: a later mean depends on an earlier draw
    assert draw.mean[:, 0].std(0).max() < 1e-6 < draw.mean[:, 1].std(0).min()


def test_a_linear_sequence_has_no_misfit_and_its_operator_is_found():
    turn = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))[0] * 0.9
    rows = [torch.randn(50, 4, dtype=torch.float64)]
    for _ in range(7):
        rows.append(rows[-1] @ turn)
    z = torch.stack(rows, 1)
    operator, covariance = fitted(z, 0.0)
    torch.testing.assert_close(operator, turn, rtol=0, atol=1e-12)
    assert covariance.abs().max() < 1e-20
    assert linear_misfit(z, operator, 5) < 1e-20
    assert linear_misfit(torch.randn(50, 8, 4), torch.zeros(4, 4), 1) == pytest.approx(1.0, rel=0.05)


@pytest.mark.parametrize("spectrum", ["unit", "stable", (8.0,)])
def test_penalties_vanish_where_they_should_and_have_finite_gradients(spectrum):
    one = Spectrum(spectrum, 4)
    angle = 2 * math.pi / 8
    turn = torch.tensor([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    good = torch.block_diag(turn, torch.eye(2))
    assert one.penalty(good) < 1e-12
    for operator in (good, 2 * torch.eye(4), torch.zeros(4, 4), torch.ones(4, 4), torch.diag(torch.ones(3), 1)):
        leaf = operator.clone().requires_grad_()  # repeated eigenvalues, and a defective one
        one.penalty(leaf).backward()
        assert leaf.grad.isfinite().all()
    assert one.penalty(2 * torch.eye(4)) > 0.5


def test_a_chosen_period_is_reached():
    free, periodic = (trained(small(**wish), 100) for wish in ({}, {"spectrum": (8.0,), "spectrum_weight": 30.0}))
    wanted = complex(math.cos(math.pi / 4), math.sin(math.pi / 4))
    assert (periodic.eigenvalues - wanted).abs().min() < 0.2 < 0.4 < (free.eigenvalues - wanted).abs().min()


@pytest.mark.slow
def test_chosen_moduli_are_reached():
    assert (trained(small()).eigenvalues.abs() - 1).abs().max() > 0.5, "without a wish most eigenvalues are near 0"
    unit = trained(small(spectrum="unit", spectrum_weight=30.0))
    assert (unit.eigenvalues.abs() - 1).abs().max() < 0.3
    stable = trained(small(spectrum="stable", spectrum_weight=30.0))
    assert stable.eigenvalues.abs().max() < 1.02


@pytest.mark.slow
def test_forecasts_by_the_operator_are_better_than_to_stand_still():
    model = trained(small(fit_posterior=True, linear_weight=3.0), 400)
    x = waves(64, length=16, seed=1000)
    error = (model.forecast(x[:, :12], 4) - x[:, 12:]).square().mean().sqrt()
    assert error < 0.7 * (x[:, 11:12] - x[:, 12:]).square().mean().sqrt()


def test_training_rebuilds_the_windows_and_fills_gaps():
    model = trained(small(irregular=True, **FIXED), steps=150, gaps=0.3)
    x = waves(64, seed=1000)
    holes = torch.rand(64, 12) < 0.3
    seen = x.clone()
    seen[holes] = math.nan
    filled = model.impute(seen)
    torch.testing.assert_close(filled[~holes], x[~holes], rtol=0, atol=0)
    error = (filled - x)[holes].square().mean().sqrt()
    assert error < 0.5 * (0.5 - x)[holes].square().mean().sqrt()
    assert model.training
    assert model.stats.nfe == 22


def test_gaps_are_never_read():
    model = small(irregular=True, **FIXED)
    x = waves(8)
    x[:, 3] = math.nan
    x[0] = math.nan  # of one window nothing is left
    x[1, :, 0] = math.nan  # of one a channel
    losses = model.losses(x)
    total = sum(losses.values())
    total.backward()
    assert total.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert model.sample(3).isfinite().all()
    assert model.forecast(x, 4).isfinite().all()


def test_nothing_is_nan_when_the_prior_collapses():
    model = small(spectrum="unit")
    for x in model.prior.parameters():
        torch.nn.init.zeros_(x)
    torch.nn.init.constant_(model.prior.logvar.bias, -80.0)  # all sequences are one point, zero
    model.weights["kl_weight"] = 0.0  # whose divergence would be infinite
    loss = model.losses(waves(16))
    (loss["linear"] + loss["spectrum"] + loss["reconstruction"]).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_the_operator_moves_samples_and_forecasts():
    """With an operator and a covariance set by hand, latent sequences follow them."""
    model = small()
    model.loss(waves(16))
    model.kept_operator.copy_(0.5 * torch.eye(4))
    model.kept_covariance.copy_(torch.diag(torch.tensor([0.04, 0.0, 0.0, 0.0])))
    z = torch.ones(5000, 4)
    moved = model._moved(z, 2, None)
    torch.testing.assert_close(
        moved[:, :, 1:], torch.tensor([0.5, 0.25])[:, None].expand(5000, 2, 3), rtol=0, atol=1e-6
    )
    assert (moved[:, 0, 0].std() - 0.2).abs() < 0.01
    assert (moved[:, 1, 0].var() - 0.04 * 1.25).abs() < 0.005
    x = waves(6)
    assert model.sample(7, by="operator", seed=1).shape == (7, 12, 2)
    assert torch.equal(model.sample(7, by="operator", seed=1), model.sample(7, by="operator", seed=1))
    bands = model.forecast(x, 30, samples=4, seed=0)
    assert bands.shape == (4, 6, 30, 2)
    assert bands.std(0).max() > 0
    assert model.forecast(x, 30).shape == (6, 30, 2)
    # the first step of a forecast does not depend on how many follow
    torch.testing.assert_close(model.forecast(x, 1), model.forecast(x, 1))
    assert "kept_operator" in model.state_dict()


def test_regularizers_of_the_irregular_encoder_reach_the_loss():
    model = nde.KoopmanVAE(2, 12, latent=4, hidden=8, irregular=True, regularizers=[nde.regularizers.ErrorEstimate()])
    x = waves(8)
    x[:, ::4] = math.nan
    loss = model.loss(x) + 10.0 * model.solution.regularization[0]
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert small().solution is None


REFUSED = {
    "windows of one step": ("length", lambda: nde.KoopmanVAE(2, 1)),
    "no channels": ("channels", lambda: nde.KoopmanVAE(0, 12)),
    "latent of half": ("latent", lambda: nde.KoopmanVAE(2, 12, latent=0.5)),
    "rollout as long as the window": ("rollout", lambda: nde.KoopmanVAE(2, 12, rollout=12)),
    "unknown spectrum": ("spectrum", lambda: small(spectrum="circle")),
    "a period of two": ("spectrum", lambda: small(spectrum=(2.0,))),
    "more periods than pairs": ("spectrum", lambda: small(spectrum=(5.0, 6.0, 7.0))),
    "no periods": ("spectrum", lambda: small(spectrum=())),
    "negative weight": ("linear_weight", lambda: small(linear_weight=-1.0)),
    "options without a solve": ("dt", lambda: small(dt=1.0)),
    "nan in a regular model": ("x", lambda: small().loss(torch.full((3, 12, 2), math.nan))),
    "infinite in an irregular one": ("x", lambda: small(irregular=True).loss(torch.full((3, 12, 2), math.inf))),
    "windows of another length": ("x", lambda: small().loss(torch.zeros(3, 11, 2))),
    "no windows": ("x", lambda: small().loss(torch.zeros(0, 12, 2))),
    "windows of integers": ("x", lambda: small().loss(torch.zeros(3, 12, 2, dtype=torch.int64))),
    "operator before training": ("operator", lambda: small().operator),
    "unknown way of sampling": ("by", lambda: small().sample(3, by="posterior")),
    "no samples": ("n", lambda: small().sample(0)),
    "no steps": ("steps", lambda: small().forecast(torch.zeros(3, 12, 2), 0)),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_named(case):
    name, call = REFUSED[case]
    with pytest.raises(nde.InvalidProblemError, match=rf"^{name}: "):
        call()
