"""What is saved: the end, given times, every step; edges, duplicates, refusals."""

import math

import numpy as np
import pytest
import torch

import neuralde.solvers as nde
from neuralde.solvers.testing.ordinary import LIMIT_CYCLE, methods

F64 = torch.float64
T0, T1 = LIMIT_CYCLE.tspan
TIGHT = {"rtol": 1e-9, "atol": 1e-10}


def solve(saveat, **options):
    return nde.solve(LIMIT_CYCLE.problem(), saveat=saveat, **{**TIGHT, **options})


def test_none_saves_the_end():
    sol = solve(None)
    assert sol.ts.tolist() == [T1]
    assert torch.equal(sol.ys, sol.y1.unsqueeze(0))


@pytest.mark.parametrize(
    "times",
    [
        [0.0, 0.5, 1.0, 2.0],
        (0.0, 0.5, 2.0),
        [0, 1, 2],
        np.linspace(0.0, 2.0, 5),
        torch.linspace(0.0, 2.0, 7),
        torch.linspace(0.0, 2.0, 7, dtype=F64),
        torch.arange(3),
        [1.0],
        [0.0],
        [2.0],
        range(3),
    ],
    ids=["list", "tuple", "ints", "numpy", "float32", "float64", "int tensor", "one", "start", "end", "range"],
)
def test_times_of_any_kind(times):
    sol = solve(times)
    expected = torch.as_tensor(list(times), dtype=F64)
    assert torch.equal(sol.ts.to(F64), expected)
    torch.testing.assert_close(sol.ys, LIMIT_CYCLE.at(expected), rtol=1e-7, atol=1e-7)


def test_ts_shows_a_tensor_as_it_was_given():
    times = torch.linspace(0.0, 2.0, 7)
    assert solve(times).ts.dtype == torch.float32
    assert torch.equal(solve(times).ts, times)


def test_both_ends_are_the_states_there():
    sol = solve([T0, T1])
    assert torch.equal(sol.ys[0], LIMIT_CYCLE.y0())
    assert torch.equal(sol.ys[-1], sol.y1)


def test_times_on_steps_give_the_steps():
    steps = solve("steps")
    again = solve(steps.ts)
    assert torch.equal(again.ys, steps.ys)


@pytest.mark.parametrize("method", methods(), ids=str)
def test_save_times_do_not_change_the_steps(method):
    plain = solve(None, solver=method, dt=0.05, trace=True, rtol=1e-4, atol=1e-5)
    busy = solve(torch.linspace(0.0, 2.0, 100), solver=method, dt=0.05, trace=True, rtol=1e-4, atol=1e-5)
    assert torch.equal(plain.y1, busy.y1)
    assert torch.equal(plain.trace.dt, busy.trace.dt)


def test_duplicates_are_saved_each():
    sol = solve([0.0, 0.0, 0.7, 0.7, 0.7, 2.0, 2.0])
    assert sol.ys.shape == (7, 2)
    assert torch.equal(sol.ys[0], sol.ys[1])
    assert torch.equal(sol.ys[2], sol.ys[3])
    assert torch.equal(sol.ys[3], sol.ys[4])
    assert torch.equal(sol.ys[5], sol.y1)
    assert torch.equal(sol.ys[6], sol.y1)


@pytest.mark.parametrize("toward", [-math.inf, math.inf])
@pytest.mark.parametrize("end", [0, 1])
def test_one_rounding_error_around_an_end_is_forgiven(toward, end):
    tspan = (0.1, 1.7)
    time = math.nextafter(tspan[end], toward)
    problem = nde.ODEProblem(LIMIT_CYCLE.f, LIMIT_CYCLE.y0(), tspan)
    sol = nde.solve(problem, saveat=[time], **TIGHT)
    expected = problem.y0 if end == 0 else sol.y1
    torch.testing.assert_close(sol.ys[0], expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("t1", [0.1, 0.3, 1.7, 1e8 + 0.1])
def test_times_rounded_to_float32_are_forgiven(t1):
    """A user's linspace is float32; its last entry is beside a float64 end."""
    times = torch.tensor([t1], dtype=torch.float32)
    problem = nde.ODEProblem(lambda t, y: -y, torch.ones(1), (t1 - 0.05, t1))
    sol = nde.solve(problem, saveat=times)
    torch.testing.assert_close(sol.ys[0], sol.y1 if times.double() >= t1 - 0.05 else problem.y0, rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("t1", [0.1, 0.3, 1.7])
def test_dense_output_forgives_float32_times_too(t1, per_sample):
    problem = nde.ODEProblem(lambda t, y: -5 * y, torch.ones(2, 1, dtype=F64), (0.0, t1))
    sol = nde.solve(problem, dense=True, per_sample=per_sample, rtol=1e-8, atol=1e-9)
    above = torch.nextafter(torch.tensor(t1), torch.tensor(9.0))
    torch.testing.assert_close(sol(above), sol.y1, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(sol(-1e-8 * t1), problem.y0, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "times",
    [[-0.1], [2.1], [0.0, 3.0], [1.0, 0.5], [0.0, math.nan], [math.inf], [], [[0.0, 1.0]], 0.5, "all", "step", [True]],
    ids=str,
)
def test_wrong_times_are_refused(times):
    with pytest.raises(nde.InvalidProblemError, match="saveat"):
        solve(times)


@pytest.mark.parametrize("times", [[0.5, 1.0], [-0.1], [2.0, 0.0, 1.0]], ids=str)
def test_backward_times_decrease(times):
    problem = LIMIT_CYCLE.problem(backward=True)
    with pytest.raises(nde.InvalidProblemError, match="saveat"):
        nde.solve(problem, saveat=times)
    sol = nde.solve(problem, saveat=[2.0, 1.5, 1.5, 0.0], **TIGHT)
    torch.testing.assert_close(sol.ys, LIMIT_CYCLE.at(sol.ts), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", methods(), ids=str)
@pytest.mark.parametrize("backward", [False, True])
def test_steps_saves_the_start_and_every_accepted_step(method, backward):
    sol = nde.solve(LIMIT_CYCLE.problem(backward), method, dt=0.05, saveat="steps", trace=True)
    assert len(sol.ts) == sol.stats.accepted + 1
    accepted = sol.trace.accepted
    assert torch.equal(sol.ts[:-1], sol.trace.t[accepted])
    assert torch.equal(sol.ts.diff(), sol.trace.dt[accepted])
    assert torch.equal(sol.ys[-1], sol.y1)


def test_dense_output_refuses_times_outside():
    sol = solve(None, dense=True)
    for time in (-0.1, 2.1, math.nan, torch.tensor([0.5, 2.5])):
        with pytest.raises(nde.InvalidProblemError, match="t: got a time outside"):
            sol(time)


def test_dense_output_must_be_asked_for():
    with pytest.raises(nde.InvalidProblemError, match="dense"):
        solve(None)(0.5)
    with pytest.raises(nde.InvalidProblemError, match="dense"):
        solve(None).derivative(0.5)


def test_dense_output_at_the_ends():
    for backward in (False, True):
        problem = LIMIT_CYCLE.problem(backward)
        sol = nde.solve(problem, dense=True, saveat="steps")
        assert torch.equal(sol(problem.tspan[0]), problem.y0)
        torch.testing.assert_close(sol(problem.tspan[1]), sol.y1, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("method", [nde.Vern7(), nde.Dopri8(), nde.Vern9()], ids=str)
def test_save_times_of_high_orders_keep_float32_precision(method):
    """Their weights reach 1e4 and cancel, which must not happen in the precision of the state."""
    times = torch.linspace(0.0, 2.0, 77, dtype=F64)
    options = {"solver": method, "dt": 0.05, "controller": nde.ConstantStep(), "saveat": times}
    double = nde.solve(LIMIT_CYCLE.problem(), **options)
    single = nde.solve(nde.ODEProblem(LIMIT_CYCLE.f, LIMIT_CYCLE.y0().float(), LIMIT_CYCLE.tspan), **options)
    torch.testing.assert_close(single.ys.double(), double.ys, rtol=0.0, atol=2e-6)


@pytest.mark.parametrize("method", [nde.Vern7(), nde.Dopri8(), nde.Vern9()], ids=str)
@pytest.mark.parametrize("per_sample", [False, True])
def test_dense_output_of_high_orders_keeps_float32_precision(method, per_sample):
    times = torch.linspace(0.0, 2.0, 77, dtype=F64)
    options = {"solver": method, "dt": 0.05, "controller": nde.ConstantStep()}
    double = nde.solve(LIMIT_CYCLE.problem(), saveat=times, **options)

    def field(t, y):
        return LIMIT_CYCLE.f(t.reshape(-1), y)

    problem = nde.ODEProblem(field, LIMIT_CYCLE.y0().float().unsqueeze(0), LIMIT_CYCLE.tspan)
    single = nde.solve(problem, dense=True, per_sample=per_sample, **options)
    torch.testing.assert_close(single(times)[:, 0].double(), double.ys, rtol=0.0, atol=2e-6)
