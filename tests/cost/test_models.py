"""What every model costs at its initial weights, pinned."""

import pytest
import torch

import neuralde as nde
from neuralde.regularizers import STEER, ErrorEstimate, Local

D = torch.float64


def field():
    return nde.models.TimeConditionedMLP(4, hidden=[16]).to(D)


def neural_ode(**options):
    model = nde.NeuralODE(field(), rtol=1e-6, atol=1e-6, **options)
    return lambda: model(torch.randn(8, 4, dtype=D))


def neural_sde():
    model = nde.NeuralSDE(field(), lambda t, y: 0.1 * torch.ones_like(y), dt=0.05)
    return lambda: model(torch.randn(8, 4, dtype=D), seed=0)


def neural_cde(path=nde.HermitePath):
    model = nde.NeuralCDE(nde.models.MatrixField(4, 3, hidden=[16]).to(D), torch.nn.Linear(3, 4, dtype=D), path=path)
    xs = torch.randn(12, 8, 3, dtype=D).cumsum(0) / 4
    return lambda: model(torch.linspace(0.0, 1.0, 12, dtype=D), xs)


def neural_rde():
    net = nde.models.MatrixField(4, nde.logsignature_channels(3, 2), hidden=[16]).to(D)
    model = nde.NeuralRDE(net, torch.nn.Linear(3, 4, dtype=D), depth=2, window=4)
    xs = torch.randn(13, 8, 3, dtype=D).cumsum(0) / 4
    return lambda: model(torch.linspace(0.0, 1.0, 13, dtype=D), xs)


def latent_sde():
    net = field()
    model = nde.LatentSDE(net, lambda t, z: -z, lambda t, z: 0.5 * torch.ones_like(z), dt=0.05)
    return lambda: model(torch.randn(8, 4, dtype=D), seed=0)


def fractional_sde():
    model = nde.FractionalSDE(field(), lambda t, y: 0.1 * torch.ones_like(y), 0.3, dt=0.05)
    return lambda: model(torch.randn(8, 4, dtype=D), seed=0)


def fractional_latent_sde():
    net = field()
    control = lambda t, x, filters: net(t, x) + filters.sum(-1)  # noqa: E731
    model = nde.models.FractionalLatentSDE(lambda t, z: -z, lambda t, z: torch.ones_like(z), control, 0.7, dt=0.05)
    return lambda: model(torch.randn(8, 4, dtype=D), seed=0)


def latent_ode():
    model, x = nde.LatentODE(channels=3, latent=4).to(D), torch.randn(8, 10, 3, dtype=D)
    return lambda: model(torch.linspace(0.0, 1.0, 10, dtype=D), x)


def koopman_vae(**options):
    model, x = nde.KoopmanVAE(3, 12, latent=4, hidden=8, irregular=True, **options).to(D), torch.rand(8, 12, 3, dtype=D)
    x[:, ::3] = torch.nan
    return lambda: model.loss(x)


def encoder():
    model, x = nde.models.CDEEncoder(channels=3, latent=4).to(D), torch.randn(8, 10, 3, dtype=D)
    return lambda: model(torch.linspace(0.0, 1.0, 10, dtype=D), x, torch.ones_like(x, dtype=torch.bool))


def sde_gan():
    generator, critic = nde.models.SDEGenerator(1, dt=0.25), nde.models.CDECritic(1)
    return nde.SDEGAN(generator, critic), torch.linspace(0.0, 1.0, 5)


def whole_gan():
    gan, ts = sde_gan()
    return lambda: gan.generator_loss(ts, 8, seed=0)


def generator():
    gan, ts = sde_gan()
    return lambda: gan(ts, 8, seed=0)


def critic():
    gan, ts = sde_gan()
    return lambda: gan.critic(ts, torch.zeros(5, 8, 1))


MODELS = {
    "NeuralODE": neural_ode,
    "NeuralODE, per sample": lambda: neural_ode(per_sample=True),
    "NeuralODE, error estimate": lambda: neural_ode(regularizers=[ErrorEstimate()]),
    "NeuralODE, local": lambda: neural_ode(regularizers=[Local(h="solver")]),
    "NeuralODE, STEER": lambda: neural_ode(regularizers=[STEER(0.25)]),
    "NeuralSDE": neural_sde,
    "NeuralCDE": neural_cde,
    "NeuralCDE, linear": lambda: neural_cde(nde.LinearPath),
    "NeuralRDE": neural_rde,
    "LatentODE": latent_ode,
    "CDEEncoder": encoder,
    "LatentSDE": latent_sde,
    "FractionalSDE": fractional_sde,
    "FractionalLatentSDE": fractional_latent_sde,
    "KoopmanVAE, irregular": koopman_vae,
    "KoopmanVAE, irregular, midpoint": lambda: koopman_vae(
        solver=nde.Midpoint(), dt=1.0, controller=nde.ConstantStep()
    ),
    "SDEGAN": whole_gan,
    "SDEGenerator": generator,
    "CDECritic": critic,
}
# A LinearNeuralCDE has a closed form and no solve: tests/solvers/test_linear_cde.py counts its operations.
PARTS = {
    "LinearNeuralCDE",
    "LinearField",
    "CDEStream",
    "TimeConditionedMLP",
    "LatentField",
    "LatentPath",
    "LatentSeries",
}
PARTS |= {"FractionalLatentPath", "HurstIndex", "MaskedGRU", "MatrixField"}


@pytest.mark.parametrize("name", MODELS)
def test_every_model(solver_cost, name):
    torch.manual_seed(0)
    solver_cost.check(name, MODELS[name]())


def test_no_model_is_forgotten():
    pinned = {name.split(",")[0] for name in MODELS}
    assert set(nde.models.__all__) - PARTS == pinned, "put a new model into MODELS, or a new part into PARTS"
