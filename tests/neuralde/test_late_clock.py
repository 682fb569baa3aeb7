"""A clock that reads a large number changes nothing: float32 is for states, times are float64 everywhere."""

import pytest
import torch

import neuralde as nde

OFFSETS = [0.0, 86_400.0, 1e6 + 0.1]


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("gap", [0.3, 0.01, 1e-3])
def test_events_of_float32_states_keep_their_times_apart(offset, gap, per_sample):
    y0 = torch.zeros(2, 1, dtype=torch.float32) if per_sample else torch.zeros(1, dtype=torch.float32)
    events = [nde.Event(lambda t, y, at=at: y[..., 0] - at, terminal=False) for at in (1.0, 1.0 + gap)]
    problem = nde.ODEProblem(lambda t, y: torch.ones_like(y), y0, (offset, offset + 3.0))
    log = nde.solve(problem, events=events, per_sample=per_sample).events
    got = log.ts.reshape(2, -1)[:, 0] - offset
    assert got[0].item() == pytest.approx(1.0, abs=1e-6)
    assert got[1].item() == pytest.approx(1.0 + gap, abs=1e-6)
    assert log.ts.dtype == torch.float64


@pytest.mark.parametrize("sampling", ["unbiased", "biased"])
@pytest.mark.parametrize("h", ["initial", "solver"])
@pytest.mark.parametrize("driver", [None, nde.Blocks(size=4)])
def test_local_measures_the_same_step_whatever_the_clock_reads(sampling, h, driver):
    def measured(offset, per_sample):
        y0 = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
        field = lambda t, y: torch.stack([y[..., 1], -25 * y[..., 0]], -1)  # noqa: E731
        local = nde.regularizers.Local(sampling=sampling, h=h)
        values = []
        for seed in range(3):
            torch.manual_seed(seed)
            problem = nde.ODEProblem(field, y0, (offset, offset + 1.0))
            sol = nde.solve(problem, rtol=1e-6, atol=1e-6, per_sample=per_sample, regularizers=[local], driver=driver)
            values.append(sol.regularization[0].reshape(()))
        return torch.stack(values)

    want = measured(0.0, False)
    for offset in (0.0, 1e6):
        for per_sample in (False, True):
            assert torch.allclose(measured(offset, per_sample), want, rtol=1e-5)


def test_a_scheduled_event_at_an_end_that_float32_rounds_is_not_applied_there():
    for t1 in (1.0, 0.1, 2.3):
        problem = nde.ODEProblem(lambda t, y: 0 * y, torch.zeros(1, dtype=torch.float64), (0.0, t1))
        dose = nde.ScheduledEvent([t1], lambda t, y: y + 1)
        assert nde.solve(problem, events=dose).y1.item() == 0.0


@pytest.mark.parametrize("adjoint", [nde.DiscreteAdjoint(), nde.GaussAdjoint(), nde.BacksolveAdjoint()])
def test_a_gradient_does_not_depend_on_the_clock(adjoint):
    grads = []
    for offset in (0.0, 1e6):
        k = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
        problem = nde.ODEProblem(
            lambda t, y, k: -k * y, torch.ones(1, dtype=torch.float64), (offset, offset + 1.0), (k,)
        )
        hit = nde.Event(lambda t, y, k: y[0] - 0.5, terminal=True)
        sol = nde.solve(problem, events=hit, rtol=1e-9, atol=1e-9, adjoint=adjoint)
        grads.append(torch.autograd.grad(sol.event_time, k)[0].item())
    assert grads[1] == pytest.approx(grads[0], rel=1e-5)


def test_costs_are_recorded_at_any_time():
    problem = nde.ODEProblem(lambda t, y: -y, torch.ones(1), (1e6 + 0.25, 1e6 + 0.75))
    with nde.testing.CostRecorder() as cost:
        sol = nde.solve(problem)
    assert cost.solves[0].steps_per_time == pytest.approx(sol.stats.accepted / 0.5)


def test_save_times_of_a_compiled_model_are_not_rounded(monkeypatch):
    from neuralde.models import compiled

    seen = []

    def stop(*args):
        seen.append(args[5])
        raise InterruptedError

    monkeypatch.setattr(compiled, "_graph_of", lambda model: stop)
    model = nde.NeuralODE(torch.nn.Identity(), (0.0, 1.0), compile=True, saveat=[0.1, 0.7])
    with pytest.raises(InterruptedError):
        model(torch.ones(1))
    assert seen[0].tolist() == [0.1, 0.7]
