"""Discontinuous fields: landed on exactly, seen from the right side, integrated to full accuracy."""

import math

import pytest
import torch

import neuralde.solvers as nde
from neuralde.solvers.testing.ordinary import Recorder, methods

F64 = torch.float64
JUMPS = (0.35, 0.8, 1.1)
controllers = pytest.mark.parametrize("kind", [nde.IController, nde.PIController, nde.PIDController])


def switching(t, y):
    """y' = c(t) - y with c = 1, -2, 5, 0 between the jumps; at a jump it has the value of its right side."""
    c = torch.where(t < 0.35, 1.0, torch.where(t < 0.8, -2.0, torch.where(t < 1.1, 5.0, 0.0)))
    return c.to(y.dtype) - y


def exact(t, y=0.0):
    start = 0.0
    for end, c in zip((*JUMPS, math.inf), (1.0, -2.0, 5.0, 0.0), strict=True):
        stop = min(end, t)
        y = c + (y - c) * math.exp(start - stop)
        if t <= end:
            return y
        start = stop
    raise AssertionError


@controllers
@pytest.mark.parametrize("method", methods(adaptive=True), ids=str)
def test_a_discontinuous_field_is_integrated_to_full_accuracy(kind, method):
    tolerance = 1e-9 if method.order > 3 else 1e-5
    problem = nde.ODEProblem(switching, torch.zeros(2, dtype=F64), (0.0, 2.0))
    told = nde.solve(problem, method, rtol=tolerance, atol=tolerance, controller=kind(jump_ts=JUMPS), saveat="steps")
    untold = nde.solve(problem, method, rtol=tolerance, atol=tolerance, controller=kind())
    assert (told.y1 - exact(2.0)).abs().max() < 10 * tolerance
    assert all((told.ts == jump).any() for jump in JUMPS)
    assert told.stats.rejected <= untold.stats.rejected
    if method.order > 3:
        assert told.stats.rejected < 0.5 * untold.stats.rejected
        assert told.stats.nfe < untold.stats.nfe


@pytest.mark.parametrize("method", methods(), ids=str)
def test_the_order_survives_jumps(method):
    """With fixed steps, where nothing corrects an evaluation on the wrong side."""
    problem = nde.ODEProblem(switching, torch.zeros(1, dtype=F64), (0.0, 2.0))
    errors = []
    for dt in (0.05, 0.025):
        sol = nde.solve(problem, method, dt=dt, controller=nde.ConstantStep(jump_ts=JUMPS))
        errors.append(abs(sol.y1.item() - exact(2.0)))
    assert errors[1] < max(2.0 ** (0.4 - method.order) * errors[0], 1e-14)


def sides(times, intervals):
    """Which intervals (closed) each recorded time lies in."""
    return [{i for i, (low, high) in enumerate(intervals) if low <= time <= high} for time in times]


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("method", methods(adaptive=True), ids=str)
@pytest.mark.parametrize("backward", [False, True])
def test_the_field_is_never_asked_at_a_jump_itself(method, dtype, per_sample, backward):
    """Each step stays strictly inside its smooth piece, in the precision in which the field receives the time."""
    field = Recorder(switching)
    tspan = (2.0, 0.0) if backward else (0.0, 2.0)
    problem = nde.ODEProblem(field, torch.zeros(2, 1, dtype=dtype), tspan)
    controller = nde.PIController(jump_ts=JUMPS)
    nde.solve(problem, method, controller=controller, per_sample=per_sample, rtol=1e-4, atol=1e-5, dense=True)
    rounded = torch.tensor(JUMPS, dtype=F64).to(dtype)
    times = torch.cat([time.reshape(-1) for time in field.times])
    assert times.dtype == dtype
    assert not torch.isin(times, rounded).any()


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize(
    ("tspan", "above"),
    [((1.0, 2.0), True), ((0.0, 1.0), False), ((1.0, 0.0), False), ((2.0, 1.0), True)],
    ids=["starts there", "ends there", "starts there, backward", "ends there, backward"],
)
def test_a_jump_at_an_end_is_seen_from_inside(dtype, per_sample, tspan, above):
    field = Recorder(lambda t, y: torch.where(t < 1.0, -1.0, 1.0).to(y.dtype) + 0 * y)
    problem = nde.ODEProblem(field, torch.zeros(2, 1, dtype=dtype), tspan)
    sol = nde.solve(problem, controller=nde.PIController(jump_ts=[1.0]), per_sample=per_sample)
    times = torch.cat([time.reshape(-1) for time in field.times])
    assert ((times > 1.0) if above else (times < 1.0)).all()
    torch.testing.assert_close(sol.y1, torch.full_like(sol.y1, (1.0 if above else -1.0) * (tspan[1] - tspan[0])))
    assert (torch.as_tensor(sol.stats.rejected) == 0).all()


@pytest.mark.parametrize("gap", [1e-9, 2.0**-53])
@pytest.mark.parametrize("per_sample", [False, True])
def test_a_float32_step_shorter_than_the_resolution_stays_on_its_side(gap, per_sample):
    """From just before a jump to the jump there is no float32 time; the field must still see the left side."""
    field = Recorder(lambda t, y: torch.where(t < 1.0, -1.0, 1.0).to(y.dtype) + 0 * y)
    problem = nde.ODEProblem(field, torch.zeros(1, 1), (1.0 - gap, 2.0))
    sol = nde.solve(problem, nde.Tsit5(), dt=1e-3, controller=nde.ConstantStep(jump_ts=[1.0]), per_sample=per_sample)
    times = torch.cat([time.reshape(-1) for time in field.times])
    assert (times != 1.0).all()
    left = int((times < 1.0).sum())  # the stages of the first step, and its end slope where a lane needs it
    assert left in (6, 7)
    assert (times[left:] > 1.0).all()
    torch.testing.assert_close(sol.y1, torch.ones(1, 1), rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("per_sample", [False, True])
def test_save_times_on_jumps_are_the_states_there(per_sample):
    problem = nde.ODEProblem(switching, torch.zeros(2, 1, dtype=F64), (0.0, 2.0))
    times = torch.tensor([0.0, 0.35, 0.35, 0.8, 0.9, 1.1, 2.0], dtype=F64)
    controller = nde.PIController(jump_ts=JUMPS)
    options = {"controller": controller, "per_sample": per_sample, "rtol": 1e-9, "atol": 1e-10}
    sol = nde.solve(problem, saveat=times, dense=True, **options)
    expected = torch.tensor([exact(time) for time in times.tolist()], dtype=F64)
    torch.testing.assert_close(sol.ys[:, 0, 0], expected, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(sol(times)[:, 0, 0], expected, rtol=1e-8, atol=1e-8)


def test_jumps_of_each_sample_on_its_own_clock():
    """Lanes cross the same jumps at different attempts, in different directions."""
    y0 = torch.zeros(3, 1, dtype=F64)
    starts = torch.tensor([0.0, 0.5, 2.0], dtype=F64)
    ends = torch.tensor([2.0, 1.5, 0.0], dtype=F64)
    options = {"controller": nde.PIController(jump_ts=JUMPS), "per_sample": True, "rtol": 1e-9, "atol": 1e-10}
    sol = nde.solve(nde.ODEProblem(switching, y0, (starts, ends)), **options)
    for lane in range(3):
        alone = nde.ODEProblem(switching, y0[lane : lane + 1], (starts[lane].item(), ends[lane].item()))
        assert torch.equal(nde.solve(alone, **options).y1, sol.y1[lane : lane + 1])
    assert abs(sol.y1[0].item() - exact(2.0)) < 1e-8


def test_jumps_outside_the_interval_cost_nothing():
    problem = nde.ODEProblem(lambda t, y: -y, torch.ones(2), (0.0, 1.0))
    plain = nde.solve(problem)
    far = nde.solve(problem, controller=nde.PIController(jump_ts=[-3.0, 5.0]))
    assert torch.equal(plain.y1, far.y1)
    assert plain.stats == far.stats


def test_a_jump_in_float32_at_a_large_time():
    """Diffrax tests this one: the jump is at the end, where float32 is coarse."""
    field = Recorder(lambda t, y: torch.where(t < 1e3, 1.0, -1.0).to(y.dtype) + 0 * y)
    problem = nde.ODEProblem(field, torch.zeros(1), (1e3 - 1.0, 1e3 + 1.0))
    sol = nde.solve(problem, controller=nde.PIController(jump_ts=[1e3]))
    assert abs(sol.y1.item()) < 1e-3
    assert all(time != 1e3 for time in field.times)
