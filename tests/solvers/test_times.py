"""Intervals: forward, backward, empty, tiny, far from zero, as numbers and as tensors; the end is met exactly."""

import math
from fractions import Fraction

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st

import neuralde as nde
from neuralde.solvers.testing.ordinary import LIMIT_CYCLE, Recorder, methods

F64 = torch.float64


@pytest.mark.parametrize("method", methods(), ids=str)
def test_backward_undoes_forward(method):
    y0 = LIMIT_CYCLE.y0()
    forward = nde.solve(nde.ODEProblem(LIMIT_CYCLE.f, y0, (0.0, 2.0)), method, dt=0.002, controller=nde.ConstantStep())
    back = nde.solve(
        nde.ODEProblem(LIMIT_CYCLE.f, forward.y1, (2.0, 0.0)), method, dt=0.002, controller=nde.ConstantStep()
    )
    assert (back.y1 - y0).abs().max() < 30 * 0.002**method.order + 1e-13


@pytest.mark.parametrize("method", methods(), ids=str)
def test_backward_mirrors_forward(method):
    """y' = f(t, y) from 0 to -T is y' = -f(-t, y) from 0 to T, step for step."""
    y0 = LIMIT_CYCLE.y0()
    options = {"dt": 0.1, "rtol": 1e-5, "atol": 1e-6, "saveat": "steps", "trace": True}
    back = nde.solve(nde.ODEProblem(LIMIT_CYCLE.f, y0, (0.0, -1.7)), method, **options)
    mirrored = nde.solve(nde.ODEProblem(lambda t, y: -LIMIT_CYCLE.f(-t, y), y0, (0.0, 1.7)), method, **options)
    assert torch.equal(back.ts, -mirrored.ts)
    assert torch.equal(back.ys, mirrored.ys)
    assert torch.equal(back.trace.dt, -mirrored.trace.dt)
    assert (back.trace.dt < 0).all()


@pytest.mark.parametrize(
    "tspan",
    [
        (0, 2),
        (torch.tensor(0.0), torch.tensor(2.0)),
        (torch.tensor(0), 2.0),
        [0.0, torch.tensor(2.0, dtype=F64)],
        (np.float64(0.0), np.float64(2.0)),
    ],
    ids=["ints", "tensors", "int tensor", "list", "numpy"],
)
def test_times_may_be_numbers_or_tensors(tspan):
    sol = nde.solve(nde.ODEProblem(LIMIT_CYCLE.f, LIMIT_CYCLE.y0(), tspan))
    expected = nde.solve(LIMIT_CYCLE.problem())
    assert torch.equal(sol.y1, expected.y1)
    assert sol.stats == expected.stats
    assert sol.ts.tolist() == [2.0]


@pytest.mark.parametrize("method", methods(), ids=str)
@pytest.mark.parametrize("per_sample", [False, True])
def test_an_empty_interval_takes_no_step(method, per_sample):
    y0 = torch.randn(3, 2)
    problem = nde.ODEProblem(lambda t, y: -y, y0, (1.5, 1.5))
    options = {"dt": 0.1, "per_sample": per_sample}
    for saveat, rows in ((None, 1), ([1.5], 1), ([1.5, 1.5], 2), ("steps", 1)):
        sol = nde.solve(problem, method, saveat=saveat, **options)
        assert torch.equal(sol.y1, y0)
        assert torch.equal(sol.ys, y0.expand(rows, 3, 2))
        assert (torch.as_tensor(sol.stats.steps) == 0).all()
        assert (torch.as_tensor(sol.status) == 0).all()
    assert nde.solve(problem, method, trace=True, **options).trace.t.shape[0] == 0


@pytest.mark.parametrize("per_sample", [False, True])
def test_dense_output_of_an_empty_interval_is_the_state(per_sample):
    y0 = torch.randn(3, 2)
    sol = nde.solve(nde.ODEProblem(lambda t, y: -y, y0, (1.5, 1.5)), dense=True, per_sample=per_sample)
    assert torch.equal(sol(1.5), y0)


def test_an_empty_interval_does_not_call_the_field():
    field = Recorder(lambda t, y: -y)
    sol = nde.solve(nde.ODEProblem(field, torch.ones(2), (1.0, 1.0)), adjoint=nde.DirectAdjoint())
    assert sol.stats.nfe == field.calls == 0


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
@pytest.mark.parametrize("span", [1e-9, 1e-30, 1e9])
def test_spans_of_any_size(dtype, span):
    y0 = torch.ones(2, dtype=dtype)
    sol = nde.solve(nde.ODEProblem(lambda t, y: -y / span, y0, (0.0, span)), rtol=1e-5, atol=1e-6, saveat="steps")
    torch.testing.assert_close(sol.y1, y0 * math.exp(-1.0), rtol=1e-4, atol=1e-5)
    assert sol.ts[-1].item() == span
    assert sol.stats.steps < 50


@pytest.mark.parametrize("offset", [1e6, -1e6, 1e8])
def test_offsets_do_not_harm_a_float32_state(offset):
    """The clock is kept in float64; float32 resolves 1e8 in steps of 8 only."""
    y0 = torch.ones(2)
    times = torch.linspace(offset, offset + 1.0, 5, dtype=F64)
    sol = nde.solve(nde.ODEProblem(lambda t, y: -y, y0, (offset, offset + 1.0)), rtol=1e-5, atol=1e-6, saveat=times)
    exact = torch.exp(-(times - offset)).float().unsqueeze(-1).expand(5, 2)
    torch.testing.assert_close(sol.ys, exact, rtol=1e-4, atol=1e-5)
    assert sol.stats.steps < 50


@pytest.mark.parametrize("offset", [1e6, 1e8])
def test_offsets_do_not_harm_a_float64_clock(offset):
    y0 = torch.ones(1, dtype=F64)

    def f(t, y):
        return torch.cos(t - offset).expand(1)

    sol = nde.solve(nde.ODEProblem(f, y0, (offset, offset + 2.0)), rtol=1e-8, atol=1e-8)
    assert abs(sol.y1.item() - 1.0 - math.sin(2.0)) < 1e-6


def test_two_neighbouring_numbers_are_an_interval():
    t0 = 1e8
    t1 = math.nextafter(t0, math.inf)
    sol = nde.solve(nde.ODEProblem(lambda t, y: -y, torch.ones(1, dtype=F64), (t0, t1)), saveat="steps")
    assert sol.ts.tolist() == [t0, t1]
    torch.testing.assert_close(sol.y1, torch.ones(1, dtype=F64) * math.exp(t0 - t1), rtol=1e-14, atol=0.0)


finite = st.floats(-1e3, 1e3, allow_nan=False)


@hypothesis.settings(max_examples=60)
@hypothesis.given(t0=finite, t1=finite, dt=st.floats(1e-3, 10.0), fixed=st.booleans(), log_tol=st.floats(-9, -2))
def test_a_solve_ends_exactly_at_its_end(t0, t1, dt, fixed, log_tol):
    dt = max(dt, abs(t1 - t0) / 200)
    field = Recorder(lambda t, y: torch.cos(t) - 0.1 * y)
    problem = nde.ODEProblem(field, torch.zeros(1, dtype=F64), (t0, t1))
    controller = nde.ConstantStep() if fixed else None
    sol = nde.solve(problem, dt=dt, controller=controller, rtol=10**log_tol, atol=10**log_tol, saveat="steps")
    assert sol.ts[0].item() == t0
    assert sol.ts[-1].item() == t1
    assert ((sol.ts.diff() > 0) if t1 > t0 else (sol.ts.diff() < 0)).all()
    low, high = sorted((t0, t1))
    assert all(low <= time.item() <= high for time in field.times)
    if fixed:
        lengths = sol.ts.diff().abs()
        assert len(lengths) in {math.ceil(abs(t1 - t0) / dt * (1 - 2e-6)), math.ceil(abs(t1 - t0) / dt)}
        assert (lengths <= dt * (1 + 2e-6) + 1e-12).all()


@hypothesis.settings(max_examples=60)
@hypothesis.given(count=st.integers(1, 400), t0=finite, span=st.floats(0.1, 1e3), sign=st.sampled_from([-1.0, 1.0]))
def test_a_step_that_divides_the_interval_leaves_no_sliver(count, t0, span, sign):
    t1 = t0 + sign * span
    problem = nde.ODEProblem(lambda t, y: 0 * y, torch.zeros(1, dtype=F64), (t0, t1))
    sol = nde.solve(problem, nde.Euler(), dt=abs(t1 - t0) / count)
    assert sol.stats.accepted == count


@hypothesis.settings(max_examples=40)
@hypothesis.given(
    t0=finite, span=st.floats(0.01, 20.0), backward=st.booleans(), picks=st.lists(st.floats(0, 1), max_size=9)
)
def test_save_times_are_honoured_wherever_they_lie(t0, span, backward, picks):
    t1 = t0 - span if backward else t0 + span
    fractions = torch.tensor(sorted([*picks, *picks[:2], 0.0, 1.0]), dtype=F64)
    times = torch.where(fractions == 1.0, t1, t0 + fractions * (t1 - t0))
    problem = nde.ODEProblem(lambda t, y: -0.1 * y, torch.ones(2, dtype=F64), (t0, t1))
    sol = nde.solve(problem, saveat=times, rtol=1e-9, atol=1e-9)
    exact = torch.exp(-0.1 * (times - t0)).unsqueeze(-1).expand(-1, 2)
    torch.testing.assert_close(sol.ys, exact, rtol=1e-7, atol=1e-7)
    assert torch.equal(sol.ts, times)


@hypothesis.settings(max_examples=25)
@hypothesis.given(factor=st.integers(-20, 20), method=st.sampled_from(methods(adaptive=True)))
def test_scaling_time_by_a_power_of_two_changes_nothing(factor, method):
    scale = 2.0**factor
    y0 = torch.tensor([0.9, 0.1], dtype=F64)
    options = {"rtol": 1e-5, "atol": 1e-6, "dt": 0.05, "saveat": "steps"}
    plain = nde.solve(nde.ODEProblem(LIMIT_CYCLE.f, y0, (0.0, 2.0)), method, **options)
    options["dt"] *= scale
    scaled_problem = nde.ODEProblem(lambda t, y: LIMIT_CYCLE.f(t / scale, y) / scale, y0, (0.0, 2.0 * scale))
    scaled = nde.solve(scaled_problem, method, **options)
    assert torch.equal(scaled.ys, plain.ys)
    assert torch.equal(scaled.ts, plain.ts * scale)


@pytest.mark.parametrize(
    "times", [[Fraction(1, 4), 0.5], (np.float32(0.25), Fraction(1, 2)), [torch.tensor(0.25), Fraction(1, 2)]]
)
def test_times_in_a_list_are_whatever_stands_for_a_number(times):
    problem = nde.ODEProblem(lambda t, y: -y, torch.ones(2, dtype=F64), (0, 1))
    sol = nde.solve(problem, saveat=times, dense=True, rtol=1e-9, atol=1e-9)
    wanted = torch.exp(-torch.tensor([0.25, 0.5], dtype=F64))
    torch.testing.assert_close(sol.ys[:, 0], wanted)
    torch.testing.assert_close(sol(times)[:, 0], wanted)
    added = (
        nde.solve(problem, events=nde.ScheduledEvent(times, lambda t, y: y + 1.0), rtol=1e-9, atol=1e-9).y1[0].item()
    )
    assert added == pytest.approx(math.exp(-1.0) + math.exp(-0.75) + math.exp(-0.5))
    assert nde.solve(problem, nde.RK4(), controller=nde.StepTo(times)).stats.steps == 3


def test_times_in_a_list_that_are_no_numbers_are_refused():
    problem = nde.ODEProblem(lambda t, y: -y, torch.ones(2), (0, 1))
    for times in ([Fraction(1, 2), None], ["a"], [[Fraction(1, 4)], [0.2, 0.3]]):
        with pytest.raises(nde.InvalidProblemError, match="saveat: got"):
            nde.solve(problem, saveat=times)
