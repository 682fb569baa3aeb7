"""Models with fractional noise: their law, the exact posterior of bridges, and the Hurst index that is learned."""

import math

import pytest
import torch
from scipy import stats

import neuralde as nde

D = torch.float64
ONES = lambda t, x: torch.ones_like(x)  # noqa: E731
STILL = lambda t, x: torch.zeros_like(x)  # noqa: E731


class Bridge:
    """The control that is optimal where x is the noise itself and is observed with errors at some times.

    It is how the mean of the observations to come, given the state, moves with W, times what they miss of it. Of type II
    the evidence lower bound is then the evidence.
    """

    def __init__(self, noise, times, values, deviation):
        self.noise, self.times, self.values, self.deviation = noise, times, values, deviation
        self.weights = noise.weights.detach()

    def __call__(self, t, x, filters):
        ahead = (self.times - t.to(D)).reshape(-1)
        left = ahead > 1e-9
        if not bool(left.any()):
            return torch.zeros_like(x)
        ahead = ahead[left].unsqueeze(-1)
        faded = torch.exp(-self.noise.rates * ahead) * self.weights
        mean = x.unsqueeze(-1) + (filters @ (faded - self.weights).T)
        missing = (self.values[left].movedim(0, -1) - mean).unsqueeze(-1)
        pull = torch.cholesky_solve(faded.sum(-1, keepdim=True), self.factor(ahead))
        return (missing.squeeze(-1) @ pull).squeeze(-1)

    def factor(self, ahead):
        both = self.noise.rates.unsqueeze(-1) + self.noise.rates
        first = torch.minimum(ahead, ahead.T)[..., None, None]
        gap = (ahead - ahead.T).abs().unsqueeze(-1)
        late = torch.exp(-self.noise.rates * gap) * self.weights
        each = -torch.expm1(-both * first) / both
        covariance = torch.einsum("j,abjk,abk->ab", self.weights, each, late)
        return torch.linalg.cholesky(covariance + self.deviation**2 * torch.eye(len(ahead), dtype=D))

    def log_likelihood(self, states):
        """Of the values given the states at the times, ``(T, B, d)``; a number for each sample."""
        return torch.distributions.Normal(states, self.deviation).log_prob(self.values).sum((0, 2))


def evidence(noise, times, values, deviation):
    """Of values ``(T, B, d)``, by the covariance of the noise; summed over d."""
    covariance = noise.covariance(times.unsqueeze(-1), times) + deviation**2 * torch.eye(len(times), dtype=D)
    law = torch.distributions.MultivariateNormal(torch.zeros(len(times), dtype=D), covariance)
    return law.log_prob(values.movedim(0, -1)).sum(-1)


@pytest.mark.parametrize("hurst", [0.3, 0.5, 0.75])
def test_the_bound_of_the_optimal_control_is_the_evidence(hurst):
    """And the posterior's variance the analytic one: fractional bridges."""
    noise = nde.FractionalNoise(hurst, "II", terms=6)
    times, values = torch.tensor([1.0], dtype=D), torch.tensor([[0.8, -0.4]], dtype=D).expand(1, 3000, 2)
    control = Bridge(noise, times, values[:, :1], 0.2)
    ts = torch.tensor([0.25, 0.5, 0.75, 1.0], dtype=D)
    steps = (
        torch.cat([torch.linspace(0.0, 1.0, 65, dtype=D), 1.0 - 0.5 ** torch.arange(5, 20, 0.2, dtype=D)]).sort().values
    )
    model = nde.models.FractionalLatentSDE(
        STILL,
        ONES,
        control,
        hurst,
        kind="II",
        rates=noise.rates,
        noise="additive",
        solver=nde.ExponentialEuler(),
        controller=nde.StepTo(steps.tolist()),
        saveat=ts,
    )
    with torch.no_grad():
        path = model(torch.zeros(3000, 2, dtype=D), seed=1)
    each = control.log_likelihood(path.states[-1:]) - path.kl[-1]
    want = evidence(noise, times, values, 0.2)[0].item()
    assert abs(each.mean().item() - want) < 4 * each.std().item() / math.sqrt(3000) + 0.01
    assert model.elbo(path, control.log_likelihood(path.states[-1:])).item() == pytest.approx(each.mean().item())
    across = noise.covariance(ts, 1.0)
    known = noise.variance(1.0) + 0.04
    variance, mean = noise.variance(ts) - across.square() / known, across / known
    found = path.states.var(1)
    assert ((found / variance.unsqueeze(-1) - 1).abs() < 5 * math.sqrt(2 / 3000) + 0.02).all()
    assert ((path.states.mean(1) - mean.unsqueeze(-1) * values[0, 0]).abs() < 0.06).all()


def test_the_divergence_is_summed_over_dimensions():
    control = lambda t, x, filters: torch.full_like(x, 0.6)  # noqa: E731
    for dim in (1, 4):
        model = nde.models.FractionalLatentSDE(STILL, ONES, control, 0.7, dt=0.25, saveat=[0.5, 1.0])
        kl = model(torch.zeros(3, dim, dtype=D), seed=0).kl
        assert torch.allclose(kl, torch.tensor([[0.5], [1.0]], dtype=D) * dim * 0.18, rtol=1e-12)


@pytest.mark.parametrize(("hurst", "kind"), [(0.2, "I"), (0.75, "I"), (0.3, "II")])
def test_a_fractional_process_that_reverts_has_its_covariance(hurst, kind):
    """x = B - theta int exp(-theta (t - s)) B ds, whose covariance is that of B under trapezoids."""
    theta, paths = 1.5, 4000
    ts = torch.tensor([0.5, 1.0], dtype=D)
    model = nde.FractionalSDE(lambda t, x: -theta * x, ONES, hurst, kind=kind, dt=1 / 64, saveat=ts)
    with torch.no_grad():
        x = model(torch.zeros(paths, 1, dtype=D), seed=3)[0].squeeze(-1)
    noise, n = model.fractional_noise(), 400
    grid = torch.linspace(0.0, 1.0, n + 1, dtype=D)
    rows = []
    for t in ts:
        inside = grid <= t + 1e-9
        weight = torch.where(inside, -theta * torch.exp(-theta * (t - grid)) / n, 0.0)
        weight[0] *= 0.5
        weight[inside.sum() - 1] *= 0.5
        weight[inside.sum() - 1] += 1.0
        rows.append(weight)
    map_ = torch.stack(rows)
    want = map_ @ noise.covariance(grid.unsqueeze(-1), grid) @ map_.T
    error = torch.sqrt((want.diagonal().unsqueeze(-1) * want.diagonal() + want.square()) / paths)
    assert ((x @ x.T / paths - want).abs() < 4 * error + 0.01 * want.abs()).all()
    assert stats.kstest((x[1] / want[1, 1].sqrt()).numpy(), "norm").pvalue > 1e-3


def test_a_seed_repeats_a_sample_and_samples_do_not_depend_on_the_batch():
    model = nde.FractionalSDE(lambda t, x: -x, lambda t, x: 0.3 * x, 0.7, dt=0.1)
    x = torch.ones(6, 2, dtype=D)
    one, again, other = (model(x, seed=seed)[0] for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.allclose(one, other)
    assert torch.allclose(model(x[:3], seed=1)[0], one[:3], atol=1e-12)
    drawn, sol = model(x)
    assert torch.equal(model(x, seed=sol.seed)[0], drawn)


@pytest.mark.parametrize("adjoint", [None, nde.DirectAdjoint(), nde.DiscreteAdjoint(budget=0)], ids=repr)
@pytest.mark.parametrize("kind", ["I", "II"])
def test_gradients_reach_the_hurst_index(adjoint, kind):
    def loss(hurst):
        model = nde.models.FractionalLatentSDE(
            lambda t, x: -x,
            lambda t, x: 0.5 + 0.1 * x,
            lambda t, x, filters: 0.3 * x + 0.1 * filters.sum(-1),
            hurst,
            kind=kind,
            rates=[0.1, 1.0, 30.0],
            dt=0.1,
            adjoint=adjoint,
        )
        path = model(torch.ones(8, 2, dtype=D), seed=5)
        return (path.states.square().sum(-1) + path.kl).mean()

    index = torch.nn.Parameter(torch.tensor(0.4, dtype=D))
    (grad,) = torch.autograd.grad(loss(index), index)
    with torch.no_grad():
        difference = (loss(torch.tensor(0.4 + 1e-6, dtype=D)) - loss(torch.tensor(0.4 - 1e-6, dtype=D))).item() / 2e-6
    assert grad.item() == pytest.approx(difference, rel=1e-5)


def test_rates_stay_where_they_are_while_the_index_is_learned():
    hurst = nde.models.HurstIndex(0.3)
    model = nde.FractionalSDE(STILL, ONES, hurst, kind="II", dt=0.25)
    before = model.fractional_noise()
    with torch.no_grad():
        hurst.free.add_(1.0)
    after = model.fractional_noise()
    assert torch.equal(before.rates, after.rates)
    assert not torch.allclose(before.weights, after.weights)
    assert [name for name, _ in model.named_parameters()] == ["hurst.free"]
    for index in (0.2, 0.3, 0.5, 0.7, 0.8):
        assert nde.FractionalNoise(index, "II", model.rates).error < 0.03


def test_an_index_that_varies_along_time():
    model = nde.FractionalSDE(STILL, ONES, lambda t: 0.3 + 0.4 * t, kind="II", dt=0.125, saveat=[0.5, 1.0])
    with torch.no_grad():
        x = model(torch.zeros(4000, 1, dtype=D), seed=0)[0].squeeze(-1)
    ts = torch.tensor([0.5, 1.0], dtype=D)
    want = model.fractional_noise().covariance(ts.unsqueeze(-1), ts)
    error = torch.sqrt((want.diagonal().unsqueeze(-1) * want.diagonal() + want.square()) / 4000)
    assert ((x @ x.T / 4000 - want).abs() / error).max() < 5.0
    with pytest.raises(nde.InvalidProblemError, match='kind: got "I" with a Hurst index that varies'):
        nde.FractionalSDE(STILL, ONES, lambda t: 0.3)


def test_regularizers_shorten_what_they_are_told_to():
    """In training mode the estimates are in the solution, with a gradient."""
    rate = torch.nn.Parameter(torch.tensor(2.0, dtype=D))
    estimates = [nde.regularizers.ErrorEstimate(), nde.regularizers.StiffnessEstimate()]
    model = nde.FractionalSDE(
        lambda t, x, k: -k * x, lambda t, x, k: 0.2 * x, 0.4, rtol=1e-2, atol=1e-2, regularizers=estimates
    )
    _, sol = model(torch.ones(4, 1, dtype=D), args=(rate,), seed=0)
    error, stiffness = sol.regularization
    assert torch.autograd.grad(error, rate, retain_graph=True)[0].abs() > 0
    assert stiffness.item() == pytest.approx(1.0)
    assert torch.autograd.grad(stiffness, rate)[0].item() == pytest.approx(0.5)
    assert model.eval()(torch.ones(4, 1, dtype=D), args=(rate,), seed=0)[1].regularization == ()


def observed(hurst, seed, paths, times, kind):
    """Exact paths, not of the approximation, at the times."""
    made = nde.FractionalBrownianPath((paths, 1), seed, 0.0, 1.0, hurst, kind, unit_variance=False, dtype=D)
    return made.sample(times)


def recovered(hurst, seed, kind, paths=128, observations=64, terms=10):
    """The index of observed paths by gradient ascent on their likelihood under the approximation, from 1/2."""
    times = torch.linspace(0.0, 1.0, observations + 1, dtype=D)[1:]
    values = observed(hurst, seed, paths, times, kind)
    index = nde.models.HurstIndex(0.5)
    optimizer = torch.optim.LBFGS(index.parameters(), lr=1.0, max_iter=20, line_search_fn="strong_wolfe")
    rates = nde.FractionalSDE(STILL, ONES, index, kind=kind, terms=terms).rates

    def loss():
        optimizer.zero_grad()
        value = -evidence(nde.FractionalNoise(index(), kind, rates), times, values, 1e-3).mean() / observations
        value.backward()
        return value

    optimizer.step(loss)
    return index().item()


@pytest.mark.parametrize("hurst", [0.3, 0.7])
def test_the_hurst_index_is_recovered_from_exact_paths(hurst):
    assert abs(recovered(hurst, 0, "II") - hurst) < 0.03


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("hurst", [0.2, 0.3, 0.5, 0.7, 0.8])
@pytest.mark.parametrize("kind", ["I", "II"])
def test_every_hurst_index_is_recovered(hurst, seed, kind):
    """Measured: see docs/fractional.md."""
    assert abs(recovered(hurst, seed, kind) - hurst) < 0.03


def test_the_hurst_index_is_learned_by_the_evidence_lower_bound():
    """Observations with errors, the optimal control, and steps that become short towards each observation."""
    count, deviation, true = 6, 0.1, 0.3
    times = torch.linspace(0.0, 1.0, count + 1, dtype=D)[1:]
    values = observed(true, 1, 256, times, "II")
    values = values + deviation * torch.randn(values.shape, dtype=D)
    steps = torch.cat([t - (0.5 ** torch.arange(1, 13, dtype=D)) / count for t in times] + [times]).sort().values
    index = nde.models.HurstIndex(0.5)
    optimizer = torch.optim.LBFGS(index.parameters(), lr=1.0, max_iter=5, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        model = nde.models.FractionalLatentSDE(
            STILL,
            ONES,
            lambda t, x, filters: control(t, x, filters),
            index,
            kind="II",
            noise="additive",
            solver=nde.ExponentialEuler(),
            controller=nde.StepTo(steps.tolist()),
            saveat=times,
        )
        control = Bridge(model.fractional_noise(), times, values, deviation)
        path = model(torch.zeros(256, 1, dtype=D), seed=0)
        bound = model.elbo(path, control.log_likelihood(path.states))
        (-bound).backward()
        return -bound.detach()

    optimizer.step(loss)
    most = recovered_with_errors(values, times, deviation)
    assert abs(index().item() - most) < 0.03
    assert abs(index().item() - true) < 0.06


def recovered_with_errors(values, times, deviation):
    """The index of greatest evidence, on a grid."""
    grid = torch.linspace(0.1, 0.9, 81, dtype=D)
    found = [evidence(nde.FractionalNoise(h, "II", terms=10), times, values, deviation).mean() for h in grid.tolist()]
    return grid[torch.stack(found).argmax()].item()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nde.FractionalSDE(1, ONES), "drift: got int; expected a module or callable"),
        (lambda: nde.FractionalSDE(STILL, ONES, 1.0), r"hurst: got 1.0; expected a number in \(0, 1\)"),
        (lambda: nde.FractionalSDE(STILL, ONES, kind="III"), "kind: got 'III'; expected"),
        (lambda: nde.FractionalSDE(STILL, ONES, rates=[2.0, 1.0]), r"rates: got \[2.0, 1.0\]; expected"),
        (lambda: nde.FractionalSDE(STILL, ONES, horizon=0.0), "horizon: got 0.0; expected a positive"),
        (lambda: nde.FractionalSDE(STILL, ONES, dt=0.1)(3.0), "x: got 3.0; expected a floating-point tensor"),
        (lambda: nde.models.FractionalLatentSDE(STILL, ONES, None), "control: got NoneType; expected a module"),
        (
            lambda: nde.models.FractionalLatentSDE(STILL, ONES, ONES)(torch.zeros(3)),
            r"x0: got .* of shape \(3,\); expected",
        ),
        (lambda: nde.models.HurstIndex(0.0), "start: got 0.0; expected a Hurst index in"),
    ],
)
def test_bad_arguments_are_refused_by_name(call, message):
    with pytest.raises(nde.InvalidProblemError, match=message):
        call()
