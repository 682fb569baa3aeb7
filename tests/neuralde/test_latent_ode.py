"""The latent ODE: its size, its encoder, its path, its bound, its gradients, and what it refuses."""

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch.distributions import Normal, kl_divergence

import neuralde as nde
from neuralde.models import LatentField, MaskedGRU
from neuralde.models.latent_ode import jittered


def series(samples=5, times=7, channels=3):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(samples, times, channels, dtype=torch.float64, generator=generator)
    mask = torch.rand(x.shape, generator=generator) < 0.6
    mask[0, 3] = False
    return torch.linspace(0.0, 1.0, times, dtype=torch.float64) ** 1.5, x, mask


def small(**options):
    torch.manual_seed(0)
    return nde.LatentODE(channels=3, latent=4, rtol=1e-9, atol=1e-9, **options).double()


def test_the_papers_sizes():
    def parameters(model):
        return sum(p.numel() for p in model.parameters())

    assert parameters(nde.LatentODE(37)) == 45_467
    assert parameters(nde.LatentODE(37, field=LatentField(20, hidden=40))) == 43_827


def test_the_encoder_is_the_recurrence_written_down():
    ts, x, mask = series()
    torch.manual_seed(0)
    encoder = MaskedGRU(3, 4, state=6, hidden=5, bounded=True, start_std=1.0).double()

    def layers(network, v, last):
        first, second = network[0], network[2]
        inner = np.tanh(first.weight.detach().numpy() @ v + first.bias.detach().numpy())
        return last(second.weight.detach().numpy() @ inner + second.bias.detach().numpy())

    def sigmoid(v):
        return 1 / (1 + np.exp(-v))

    mean, logvar = encoder(ts, x, mask)
    for b in range(len(x)):
        m, s = np.zeros(6), np.ones(6)
        for i in range(len(ts) - 1, -1, -1):
            if not mask[b, i].any():
                continue
            seen = mask[b, i].numpy().astype(float)
            gap = (ts[i + 1] - ts[i]).item() if i + 1 < len(ts) else 0.0
            v = np.concatenate([np.where(seen > 0, x[b, i].numpy(), 0.0), seen, [gap]])
            u = layers(encoder.update, np.concatenate([m, s, v]), sigmoid)
            r = layers(encoder.reset, np.concatenate([m, s, v]), sigmoid)
            c = layers(encoder.candidate, np.concatenate([r * m, r * s, v]), np.tanh)
            m, s = (1 - u) * c[:6] + u * m, (1 - u) * c[6:] + u * s
        out = layers(encoder.head, np.concatenate([m, s]), lambda v: v)
        np.testing.assert_allclose(mean[b].detach().numpy(), out[:4], rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(logvar[b].detach().numpy(), out[4:], rtol=1e-12, atol=1e-14)


def test_what_was_not_observed_is_never_read():
    ts, x, mask = series()
    model = small().eval()
    out = model(ts, x, mask)
    other = torch.where(mask, x, float("nan"))
    for again, given in ((model(ts, other), None), (model(ts, other, mask), mask)):
        assert torch.equal(out.prediction, again.prediction)
        assert torch.equal(model.log_likelihood(out, x, mask), model.log_likelihood(again, other, given))
        assert torch.equal(model.squared_error(out, x, mask), model.squared_error(again, other, given))


def test_the_path_is_the_fields_and_decoded():
    ts, x, mask = series()
    model = small().eval()
    later = torch.tensor([0.1, 0.5, 1.7], dtype=torch.float64)
    out = model(ts, x, mask, predict=later)
    assert torch.equal(model(ts, x, mask).prediction[:, 0], model.decoder(out.mean))

    def field(t, z):
        return model.node.field(torch.tensor(t), torch.from_numpy(z)).detach().numpy()

    for b in range(len(x)):
        start = out.mean[b].detach().numpy()
        exact = solve_ivp(field, (0.0, 1.7), start, t_eval=later.numpy(), rtol=1e-11, atol=1e-12, method="DOP853")
        expected = model.decoder(torch.from_numpy(exact.y.T.copy()))
        torch.testing.assert_close(out.prediction[b], expected, rtol=0, atol=1e-7)
    assert model.stats.nfe == out.solution.stats.nfe > 0


def test_the_bound_is_that_of_torch_distributions():
    ts, x, mask = series()
    model = small(std=0.3)
    out = model(ts, x, mask)
    each = Normal(out.prediction, 0.3).log_prob(x)
    torch.testing.assert_close(model.log_likelihood(out, x, mask), (each * mask).sum((1, 2)))
    posterior = Normal(out.mean, (0.5 * out.logvar).exp())
    torch.testing.assert_close(model.kl(out), kl_divergence(posterior, Normal(0.0, 1.0)).sum(-1))
    errors = [(out.prediction[b] - x[b])[mask[b]].square().mean() for b in range(len(x))]
    torch.testing.assert_close(model.squared_error(out, x, mask), torch.stack(errors))


def test_starts_are_drawn_in_training_and_the_mean_in_evaluation():
    ts, x, mask = series()
    model = small()
    torch.manual_seed(3)
    drawn = model(ts, x.repeat(400, 1, 1), mask.repeat(400, 1, 1)).states[0].view(400, len(x), 4)
    out = model.eval()(ts, x, mask)
    assert torch.equal(out.states[0], out.mean)
    std = (0.5 * out.logvar).exp()
    assert ((drawn.mean(0) - out.mean).abs() < 4.5 * std / 20).all()
    assert ((drawn.std(0) / std - 1).abs() < 0.2).all()


def test_gradients_of_the_bound_with_a_regularizer_are_finite_differences():
    ts, x, mask = series(samples=2, times=4)
    model = small(regularizers=[nde.regularizers.KineticEnergy()], std=0.5)
    chosen = [model.encoder.update[0].weight, model.node.field.layers[1].weight, model.decoder.bias]

    def loss():
        torch.manual_seed(5)
        out = model(ts, x, mask)
        return -(model.log_likelihood(out, x, mask) - model.kl(out)).mean() + out.solution.regularization[0]

    gradients = torch.autograd.grad(loss(), chosen)
    for parameter, gradient in zip(chosen, gradients, strict=True):
        direction = torch.ones_like(parameter) / parameter.numel() ** 0.5
        with torch.no_grad():
            values = []
            for step in (1e-5, -1e-5):
                parameter += step * direction
                values.append(loss().item())
                parameter -= step * direction
        assert (values[0] - values[1]) / 2e-5 == pytest.approx((gradient * direction).sum().item(), rel=1e-5, abs=1e-7)


def test_save_times_are_jittered_in_training_only():
    ts, x, mask = series()
    torch.manual_seed(0)
    moved = torch.stack([jittered(ts, 1.0) for _ in range(500)])
    assert (moved[:, 0] == ts[0]).all()
    assert (moved.diff(dim=1) > 0).all()
    assert (moved <= ts[-1]).all()
    # Even between uneven times the jitter is that of the smaller gap, and covers it.
    gaps = torch.minimum(ts.diff()[:-1], ts.diff()[1:])
    spread = (moved[:, 1:-1] - ts[1:-1]) / gaps
    assert (spread.abs() <= 0.5).all()
    assert (spread.amax(0) > 0.45).all()
    assert (spread.amin(0) < -0.45).all()
    model = small(steer=1.0)
    first, second = (model(ts, x, mask).solution.ts for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(model.eval()(ts, x, mask).solution.ts, ts)


@pytest.mark.parametrize("adjoint", [nde.InterpolatingAdjoint(), nde.BacksolveAdjoint()])
def test_other_adjoints_and_local_regularization(adjoint):
    ts, x, mask = series()
    torch.manual_seed(0)
    model = small(adjoint=adjoint, regularizers=[nde.regularizers.Local()])
    torch.manual_seed(4)
    out = model(ts, x, mask)
    loss = -model.log_likelihood(out, x, mask).mean()
    loss.backward(retain_graph=True)
    own = [p.grad.clone() for p in model.parameters()]
    out.solution.regularization[0].backward()
    plain = small()
    torch.manual_seed(4)
    expected = -plain.log_likelihood(plain(ts, x, mask), x, mask).mean()
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    for mine, parameter in zip(own, plain.parameters(), strict=True):
        torch.testing.assert_close(mine, parameter.grad, rtol=1e-4, atol=1e-4 * parameter.grad.abs().max().item())


def test_what_does_not_fit_is_refused_by_name():
    ts, x, mask = series()
    model = small()
    cases = [
        ("ts: got torch.float64", (ts.view(1, -1), x, mask)),
        ("ts: got times that do not increase", (ts.flip(0), x, mask)),
        ("x: got torch.float64 .5, 7, 2.", (ts, x[..., :2], mask)),
        ("mask: got", (ts, x, mask[:2])),
        ("x: got numbers that are not finite", (ts, torch.full_like(x, float("nan")), torch.ones_like(mask))),
        ("predict: got", (ts, x, mask, 0.5)),
    ]
    for text, arguments in cases:
        with pytest.raises(nde.InvalidProblemError, match=text):
            model(*arguments)
    for options in ({"std": 0.0}, {"steer": 2.0}, {"latent": 0}, {"per_sample": True}):
        with pytest.raises(nde.InvalidProblemError, match=next(iter(options))):
            nde.LatentODE(**{"channels": 3, **options})
    wrong = nde.LatentODE(3, 4, encoder=lambda ts, x, mask: (x[:, 0], x[:, 0])).double()
    with pytest.raises(nde.InvalidProblemError, match="encoder: got a mean of shape"):
        wrong(ts, x, mask)
    out = model(ts, x, mask)
    with pytest.raises(nde.InvalidProblemError, match="x: got shape"):
        model.log_likelihood(out, x[:, :3])


def test_an_encoder_that_is_a_neural_cde():
    """It sees what is missing and when, never what the mask hides; a channel without observations counts as zero."""
    torch.manual_seed(0)
    encoder = nde.models.CDEEncoder(3, 4, state=8, hidden=[8], rtol=1e-6, atol=1e-6).double()
    model = nde.LatentODE(3, 4, encoder=encoder).double().eval()
    ts = torch.tensor([0.0, 0.1, 0.5, 0.6, 1.0], dtype=torch.float64)
    x = torch.randn(2, 5, 3, dtype=torch.float64)
    mask = torch.rand(2, 5, 3) < 0.6
    mask[0, :, 1] = False
    out = model(ts, x, mask)
    assert torch.equal(model(ts, torch.where(mask, x, 7.0), mask).mean, out.mean)
    assert torch.equal(model(ts, torch.where(mask, x, float("nan"))).mean, out.mean)
    moved = torch.tensor([0.0, 0.3, 0.5, 0.6, 1.0], dtype=torch.float64)
    for other in (model(moved, x, mask), model(ts, x, mask | (torch.arange(5) == 2).reshape(1, 5, 1))):
        assert (other.mean - out.mean).abs().max() > 1e-4
    bound = (model.log_likelihood(out, x, mask) - model.kl(out)).mean()
    bound.backward()
    assert all(p.grad is not None and p.grad.any() for p in encoder.parameters())
