"""nde.testing.check_gradients: right gradients pass, broken fields and broken adjoints are flagged, and by name."""

import dataclasses

import pytest
import torch
from torch import nn

import neuralde as nde

check = nde.testing.check_gradients
EXACT = {
    "direct": (nde.DirectAdjoint(), nde.Tsit5()),
    "discrete": (nde.DiscreteAdjoint(checkpoints=3), nde.Tsit5()),
    "forward": (nde.ForwardSensitivity(), nde.Bosh3()),
    "reversible": (nde.ReversibleAdjoint(), nde.Reversible(nde.Tsit5())),
}
CONTINUOUS = [nde.BacksolveAdjoint(), nde.GaussAdjoint(), nde.InterpolatingAdjoint()]


class Net(nn.Module):
    def __init__(self, dtype=torch.float64):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.weight = nn.Parameter(torch.randn(2, 2, generator=generator, dtype=dtype))
        self.bias = nn.Parameter(torch.randn(2, generator=generator, dtype=dtype))

    def forward(self, t, y, *args):
        return torch.tanh(y @ self.weight + self.bias * torch.sin(3 * t)) - 0.2 * y


def problem(field=None, dtype=torch.float64):
    y0 = torch.tensor([[0.5, -0.3], [1.0, 0.2]], dtype=dtype)
    return nde.ODEProblem(Net(dtype) if field is None else field, y0, (0.0, 2.0))


def verdicts(result):
    return {row.name: row.verdict for row in result.rows}


@pytest.mark.parametrize("per_sample", [False, True], ids=["joint", "per_sample"])
@pytest.mark.parametrize("name", EXACT)
def test_exact_adjoints_pass(name, per_sample, capsys):
    adjoint, solver = EXACT[name]
    result = check(problem(), solver, adjoint, rtol=1e-4, atol=1e-4, per_sample=per_sample, saveat=[0.3, 1.1])
    assert result.ok
    assert verdicts(result) == dict.fromkeys(("y0", "weight", "bias", "t0", "t1"), "right")
    assert all(row.relative < 1e-6 for row in result.rows)
    assert capsys.readouterr().out.count("right") == 5


@pytest.mark.parametrize("adjoint", CONTINUOUS, ids=lambda adjoint: adjoint.name)
def test_continuous_adjoints_are_told_from_wrong_ones(adjoint):
    result = check(problem(), adjoint=adjoint, rtol=1e-5, atol=1e-7, show=False)
    assert result.ok
    assert set(verdicts(result).values()) == {"right to the tolerance"}
    assert max(row.direct for row in result.rows) > 1e-9


class Off(nde.DiscreteAdjoint):
    """A hundredth of a percent too much."""

    def solve(self, job):
        result = super().solve(job)
        return dataclasses.replace(result, y1=result.y1 * 1.0001 - 0.0001 * result.y1.detach())


class OffContinuous(nde.GaussAdjoint):
    def solve(self, job):
        result = super().solve(job)
        return dataclasses.replace(result, y1=result.y1 * 1.3 - 0.3 * result.y1.detach())


def test_a_broken_adjoint_is_flagged():
    result = check(problem(), adjoint=Off(), show=False)
    assert not result.ok
    assert set(verdicts(result).values()) == {"wrong"}
    result = check(problem(), adjoint=OffContinuous(), rtol=1e-5, atol=1e-7, show=False)
    assert set(verdicts(result).values()) == {"wrong: does not converge"}


def test_a_field_that_hides_something_is_flagged():
    net = Net()
    result = check(problem(lambda t, y: net(t, y) + 0.1 * net.bias.detach() ** 2), show=False)
    assert {name for name, verdict in verdicts(result).items() if verdict != "right"} == {"net.bias"}
    assert result.wrong[0].verdict.startswith("wrong, as DirectAdjoint is")
    assert "net.bias" in str(result)


def test_a_buffer_written_in_place_is_flagged_or_refused():
    buffer = torch.zeros(2, 2, dtype=torch.float64)

    def field(t, y):
        buffer.copy_(0.5 * y.detach())
        return torch.sin(y) - buffer

    assert not check(problem(field), show=False).ok


def test_a_random_field_is_refused():
    result = check(problem(lambda t, y: nn.functional.dropout(y, 0.5)), nde.RK4(), dt=0.25, show=False)
    assert not result.ok
    assert "other values each time" in str(result)


def test_float32_complex_and_trees():
    result = check(problem(dtype=torch.float32), rtol=1e-3, show=False)
    assert set(verdicts(result).values()) == {"right"}
    assert max(row.relative for row in result.rows) < 1e-2
    wave = nde.ODEProblem(
        lambda t, y, w: 1j * w * torch.cos(t) * y, torch.tensor([1.0 + 0.5j, 0.3 - 1j] * 4), (0.0, 1.0)
    )
    wave = dataclasses.replace(wave, y0=wave.y0.to(torch.complex128), args=(torch.tensor(2.0, dtype=torch.float64),))
    assert set(verdicts(check(wave, show=False)).values()) == {"right"}
    y0 = {"x": torch.ones(2, dtype=torch.float64), "v": torch.zeros(2, dtype=torch.float64)}
    spring = nde.ODEProblem(lambda t, y, k: {"x": y["v"], "v": -k["k"] * y["x"]}, y0, (0.0, 1.0), ({"k": y0["x"] + 1},))
    assert set(verdicts(check(spring, show=False))) == {"y0['x']", "y0['v']", "args[0]['k']", "t0", "t1"}
    assert check(spring, show=False).ok


def test_events_and_regularizers():
    level = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)
    event = nde.Event(lambda t, y: y[..., 0] - level, terminal=False, apply=lambda t, y: 2 * y)
    decay = nde.ODEProblem(lambda t, y: -y, torch.tensor([1.0, 2.0], dtype=torch.float64), (0.0, 1.5))

    def loss(sol):
        return sol.y1.sum() + sol.events.ts.sum() + sol.regularization[0]

    regularizers = [nde.regularizers.StiffnessEstimate(reduction="sum")]
    result = check(decay, events=event, loss=loss, regularizers=regularizers, show=False)
    assert verdicts(result) == dict.fromkeys(("y0", "level", "t0", "t1"), "right")


def case_of_events():
    level = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)
    dose = torch.tensor([[0.2, 0.9]], dtype=torch.float64, requires_grad=True)
    events = [
        nde.Event(lambda t, y, k: y[..., 0] - level, terminal=False, apply=lambda t, y, k: (1.8 - 0.1 * t) * y),
        nde.ScheduledEvent(dose, lambda t, y, k: y + k * y.square()),
        nde.Event(lambda t, y, k: t.reshape(y.shape[:-1]) + 0.2 * y[..., 0] - 1.5),
    ]
    y0, k = torch.tensor([[1.0], [1.5]], dtype=torch.float64), torch.tensor(0.4, dtype=torch.float64)
    return nde.ODEProblem(lambda t, y, k: -y * (1 + k * torch.sin(5 * t)), y0, (0.0, 1.5), (k,)), events


def of_events(sol):
    return sol.y1.square().sum() + sol.events.ts.nan_to_num().sum() + 2 * sol.events.ys.nan_to_num().sum()


def test_events_of_each_sample():
    """Their times move with the inputs, sample by sample, while the steps between them stay."""
    decay, events = case_of_events()
    result = check(decay, events=events, per_sample=True, rtol=1e-4, loss=of_events, show=False)
    assert verdicts(result) == dict.fromkeys(("y0", "args[0]", "events[1]", "level", "t0", "t1"), "right")
    assert all(row.relative < 1e-8 for row in result.rows)


def test_a_wrong_gradient_through_the_events_of_samples_is_flagged():
    decay, _ = case_of_events()
    level = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)
    hides = nde.Event(lambda t, y, k: y[..., 0] - level.detach(), terminal=False)
    result = check(decay, events=hides, per_sample=True, loss=lambda sol: sol.events.ts.nansum(), show=False)
    assert [row.name for row in result.wrong] == ["level"]


def test_nothing_is_changed_and_what_cannot_move_is_said():
    net = Net()
    before = [(p.clone(), p._version) for p in net.parameters()]
    state = torch.get_rng_state()
    result = check(problem(net), saveat=[0.0, 1.0, 2.0], show=False)
    for p, (value, version) in zip(net.parameters(), before, strict=True):
        assert torch.equal(p, value)
        assert p._version == version
        assert p.grad is None
    assert torch.equal(torch.get_rng_state(), state)
    assert verdicts(result)["weight"] == "right"
    assert verdicts(result)["t1"].startswith("not checked: saveat")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"directions": 0}, "directions: got 0"),
        ({"adjoint": "direct"}, "adjoint: got str"),
        ({"throw": False}, "throw: got False"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(nde.InvalidProblemError, match=message):
        check(problem(), **options)


def noisy(scale, calculus="ito", hidden=False):
    y0 = torch.tensor([[0.5, -0.3], [1.0, 0.2]], dtype=torch.float64)
    g = lambda t, y, a: (a.detach() if hidden else a) * torch.cos(y) + 0.1 * t  # noqa: E731
    return nde.SDEProblem(Net(), g, y0, (0.0, 1.0), args=(scale,), calculus=calculus)


@pytest.mark.parametrize(
    ("solver", "options"),
    [
        (nde.EulerMaruyama(), dict(dt=0.15)),
        (nde.SOSRI(), dict(rtol=1e-2, atol=1e-2, per_sample=True)),
        (nde.SOSRI(), dict(rtol=1e-2, atol=1e-2, path=nde.BrownianPath((2, 2), 1, 0.0, 1.0, "space-time", tol=1e-6))),
    ],
)
def test_gradients_of_an_sde_along_one_path(solver, options):
    scale = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    result = check(noisy(scale), solver, seed=3, show=False, **options)
    assert verdicts(result) == dict.fromkeys(("y0", "args[0]", "weight", "bias"), "right")
    hidden = check(noisy(scale, hidden=True), solver, seed=3, show=False, **options)
    assert [row.name for row in hidden.wrong] == ["args[0]"]


def test_continuous_gradients_of_an_sde_come_nearer_with_the_step():
    scale = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    options = dict(dt=0.1, controller=nde.ConstantStep(), show=False)
    result = check(noisy(scale, "stratonovich"), nde.Midpoint(), nde.BacksolveAdjoint(), **options)
    assert set(verdicts(result).values()) == {"right to the step size"}
    with pytest.raises(nde.InvalidProblemError, match="expected an ODEProblem, CDEProblem or SDEProblem"):
        check(nde.SteadyStateProblem(lambda t, y: -y, torch.ones(2)))


def test_drift_and_diffusion_of_one_class_have_names_of_their_own():
    twice = nde.SDEProblem(Net(), Net(), torch.ones(1, 2, dtype=torch.float64), (0.0, 0.2))
    names = [row.name for row in check(twice, nde.EulerMaruyama(), dt=0.1, show=False).rows]
    assert sorted(names) == ["diffusion.bias", "diffusion.weight", "drift.bias", "drift.weight", "y0"]
