"""SDE-GANs: the critic against closed forms, exact gradients, clipping, and a training on an Ornstein-Uhlenbeck process."""

import math

import pytest
import torch

import neuralde as nde
from neuralde.models import CDECritic, SDEGenerator

TIMES = 8
RATE, LEVEL, SIGMA = 2.0, 1.0, 0.6


def process(paths, seed):
    """Exact samples of ``dx = RATE (LEVEL - x) dt + SIGMA dW`` from a normal start, ``(TIMES, paths, 1)``."""
    made = torch.Generator().manual_seed(seed)
    decay = math.exp(-RATE / (TIMES - 1))
    spread = SIGMA * math.sqrt((1 - decay**2) / (2 * RATE))
    x = [0.3 * torch.randn(paths, 1, generator=made)]
    for _ in range(TIMES - 1):
        x.append(LEVEL + (x[-1] - LEVEL) * decay + spread * torch.randn(paths, 1, generator=made))
    return torch.stack(x)


def gaps(generator, ts):
    """How far means, deviations and the deviations of increments are from the data's, over the times."""
    with torch.no_grad():
        made, data = generator(ts, 2000, seed=99), process(2000, 77)
    looks = (lambda y: y.mean(1), lambda y: y.std(1), lambda y: y.diff(dim=0).std(1))
    return [(look(made) - look(data)).square().mean().sqrt().item() for look in looks]


def test_training_brings_the_moments_to_the_data():
    torch.manual_seed(0)
    ts = torch.linspace(0.0, 1.0, TIMES)
    gan = nde.SDEGAN(SDEGenerator(1, 8, 16, noises=2, dt=1 / (TIMES - 1)), CDECritic(1, 8, 16)).clip_()
    rule = torch.optim.swa_utils.get_ema_multi_avg_fn(0.93)
    averaged = torch.optim.swa_utils.AveragedModel(gan.generator, multi_avg_fn=rule)
    down, up = (torch.optim.Adam(part.parameters(), 0.01, betas=(0.0, 0.9)) for part in (gan.generator, gan.critic))
    before = gaps(gan.generator, ts)
    for turn in range(60):
        for index in range(2):
            up.zero_grad()
            gan.critic_loss(ts, process(256, 1000 + 10 * turn + index), seed=5000 + 10 * turn + index).backward()
            up.step()
            gan.clip_()
        down.zero_grad()
        gan.generator_loss(ts, 256, seed=5005 + 10 * turn).backward()
        down.step()
        averaged.update_parameters(gan.generator)
    after = gaps(averaged.module, ts)
    print(before, after)
    assert after[0] < 0.15 * before[0]
    assert after[1] < 0.75 * before[1]
    assert after[2] < 0.4 * before[2]


def test_a_linear_critic_is_its_closed_form():
    """With ``f = 0`` and ``dH = H dY`` along straight pieces: the midpoint rule's ``1 + d + d^2 / 2`` for each."""

    class Still(torch.nn.Module):
        def forward(self, t, h):
            return torch.zeros_like(h)

    class Same(torch.nn.Module):
        def forward(self, t, h):
            return h.unsqueeze(-1)

    critic = CDECritic(1, hidden=1, width=2).double()
    critic.drift, critic.pull = Still(), Same()
    ts = torch.tensor([0.0, 0.2, 0.7, 1.0], dtype=torch.float64)
    ys = torch.tensor([0.1, -0.2, 0.5, 0.3], dtype=torch.float64).reshape(4, 1, 1)
    d = ys.reshape(-1).diff()
    start = critic.begin(ts[0], ys[0])
    wanted = (start * (1 + d + d**2 / 2).prod()) @ critic.readout.weight.T
    assert critic(ts, ys).item() == pytest.approx(wanted.item(), rel=1e-12)


def test_gradients_of_both_losses_are_exact():
    """Against differences, and of the generator against plain autograd through all steps."""
    torch.set_default_dtype(torch.float64)
    try:
        torch.manual_seed(1)
        ts = torch.tensor([0.0, 0.25, 0.75, 1.0])
        make, judge = SDEGenerator(2, 4, 6, dt=0.125), CDECritic(2, 4, 6)
        gan = nde.SDEGAN(make, judge)
        weights = list(make.parameters())
        found = torch.autograd.grad(gan.generator_loss(ts, 5, seed=3), weights)
        make.adjoint = nde.DirectAdjoint()
        judge.adjoint = nde.DirectAdjoint()
        for one, other in zip(found, torch.autograd.grad(gan.generator_loss(ts, 5, seed=3), weights), strict=True):
            assert torch.allclose(one, other, rtol=1e-9, atol=1e-11)
        data = torch.randn(4, 5, 2).requires_grad_()
        assert torch.autograd.gradcheck(lambda y: gan.critic_loss(ts, y, seed=4), (data,))
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_clipped_critic_is_lipschitz_and_the_critics_loss_leaves_the_generator_alone():
    torch.manual_seed(0)
    critic = CDECritic(3)
    for weight in critic.parameters():
        weight.data *= 30.0
    gan = nde.SDEGAN(SDEGenerator(3, dt=0.5), critic).clip_()
    for field in (critic.begin, critic.drift, critic.pull):
        for layer in (field.first, field.last):
            assert (layer.weight.abs().sum(1) <= 1.0 + 1e-6).all()
    t, h, g = torch.tensor(0.3), torch.randn(1000, 16), torch.randn(1000, 16)
    moved = (critic.drift(t, h) - critic.drift(t, g)).abs().amax(1)
    assert (moved <= (h - g).abs().amax(1) * (1 + 1e-5)).all()
    gan.critic_loss(torch.tensor([0.0, 1.0]), torch.zeros(2, 4, 3), seed=0).backward()
    assert all(x.grad is None for x in gan.generator.parameters())
    assert all(x.grad is not None for x in critic.parameters())


def test_seeds_repeat_and_another_critic_fits():
    class Mean(torch.nn.Module):
        def forward(self, ts, ys):
            return ys.mean((0, 2))

    gan, ts = nde.SDEGAN(SDEGenerator(2, dt=0.25), Mean()).clip_(), torch.linspace(0.0, 1.0, 3)
    assert torch.equal(gan(ts, 4, seed=1), gan(ts, 4, seed=1))
    assert not torch.equal(gan(ts, 4, seed=1), gan(ts, 4, seed=2))
    assert gan.generator_loss(ts, 4, seed=1).item() == pytest.approx(-gan(ts, 4, seed=1).mean().item(), rel=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SDEGenerator(0, dt=0.1), "channels: got 0; expected a positive int"),
        (lambda: CDECritic(2, hidden=1.5), "hidden: got 1.5; expected a positive int"),
        (lambda: nde.SDEGAN(len, CDECritic(2)), "generator: got builtin_function_or_method; expected a module"),
        (lambda: SDEGenerator(2, dt=0.1)(torch.tensor([1.0, 0.0]), 3), r"ts: got shape \(2,\); expected at least two"),
        (lambda: CDECritic(2)(torch.tensor([0.0, 1.0]), torch.zeros(2, 3)), r"ys: got \(2, 3\); expected \(2, B, 2\)"),
    ],
)
def test_wrong_arguments_are_refused(call, message):
    with pytest.raises(nde.InvalidProblemError, match=message):
        call()
