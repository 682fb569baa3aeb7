"""The loop by itself, with stub methods and scripted controllers: exact counts and times, no numerics."""

import math

import pytest
import torch

import neuralde.solvers as nde
from neuralde.solvers.testing.ordinary import ScriptedController, StubMethod

STILL = nde.ODEProblem(lambda t, y: 0.0 * y, torch.zeros(2, dtype=torch.float64), (0.0, 1.0))
# With atol=1 and rtol=0 the scaled error is the error.
UNIT = {"rtol": 0.0, "atol": 1.0}


def run(method, controller, problem=STILL, dt=0.25, **options):
    return nde.solve(problem, method, dt=dt, controller=controller, **{**UNIT, **options})


def test_constant_acceptance_takes_equal_steps():
    method, controller = StubMethod(), ScriptedController()
    sol = run(method, controller)
    assert method.taken == [(0.0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0)]
    assert (sol.stats.steps, sol.stats.accepted, sol.stats.rejected) == (4, 4, 0)
    assert sol.status == nde.Status.SUCCESS


def test_a_rejected_step_is_tried_again_from_its_start():
    method = StubMethod()
    sol = run(method, ScriptedController(verdicts=(True, False, False, True), factors=(1.0, 0.5, 0.5, 1.0)))
    assert method.taken[:4] == [(0.0, 0.25), (0.25, 0.5), (0.25, 0.375), (0.25, 0.3125)]
    assert sol.stats.rejected == 2
    assert sol.trace is None


def test_a_first_step_may_be_rejected():
    method = StubMethod()
    sol = run(method, ScriptedController(verdicts=(False, False, True), factors=(0.5, 0.5, 1.0)), saveat="steps")
    assert method.taken[:3] == [(0.0, 0.25), (0.0, 0.125), (0.0, 0.0625)]
    assert sol.ts[:2].tolist() == [0.0, 0.0625]


def test_a_last_step_may_be_rejected():
    method = StubMethod()
    sol = run(method, ScriptedController(verdicts=(True, True, True, False, True), factors=(1.0, 1.0, 1.0, 0.5, 1.0)))
    assert method.taken[3:] == [(0.75, 1.0), (0.75, 0.875), (0.875, 1.0)]
    assert (sol.stats.accepted, sol.stats.rejected) == (5, 1)


def test_a_step_longer_than_the_interval_is_one_step():
    method = StubMethod()
    run(method, ScriptedController(), dt=1e9)
    assert method.taken == [(0.0, 1.0)]


def test_the_last_step_is_shortened():
    method = StubMethod()
    run(method, ScriptedController(), dt=0.75)
    assert method.taken == [(0.0, 0.75), (0.75, 1.0)]


def test_a_sliver_before_the_end_is_taken_with_the_step():
    method = StubMethod()
    run(method, ScriptedController(), dt=1.0 - 1e-9)
    assert method.taken == [(0.0, 1.0)]


def test_growing_steps():
    method = StubMethod()
    run(method, ScriptedController(factors=(2.0,)), dt=0.0625)
    assert method.taken == [(0.0, 0.0625), (0.0625, 0.1875), (0.1875, 0.4375), (0.4375, 0.9375), (0.9375, 1.0)]


def test_backward_steps_mirror():
    method = StubMethod()
    run(method, ScriptedController(), nde.ODEProblem(STILL.f, STILL.y0, (1.0, 0.0)))
    assert method.taken == [(1.0, 0.75), (0.75, 0.5), (0.5, 0.25), (0.25, 0.0)]


def test_a_controller_sees_numbers_only():
    controller = ScriptedController()
    run(StubMethod(errors=(0.5, 0.25, 0.125, 2.0)), controller)
    assert controller.seen == [(0.25, 0.5), (0.25, 0.25), (0.25, 0.125), (0.25, 2.0)]
    assert all(type(number) is float for seen in controller.seen for number in seen)


def test_the_step_before_a_stop_is_remembered():
    """A step shortened to land on a given time says nothing against the step size."""
    method = StubMethod()
    run(method, ScriptedController(step_ts=(0.3,)))
    taken = [end for _, end in method.taken]
    assert taken == [0.25, 0.3, 0.55, 0.8, 1.0]


def test_steps_to_every_given_time_once():
    method = StubMethod()
    run(method, ScriptedController(step_ts=(0.25, 0.5, 0.5, 2.0, -1.0, 0.0, 1.0)))
    assert [end for _, end in method.taken] == [0.25, 0.5, 0.75, 1.0]


def test_max_steps_counts_attempts():
    verdicts = ScriptedController(verdicts=(True, False, True))
    assert run(StubMethod(), verdicts, max_steps=5).stats.steps == 5
    failed = run(StubMethod(), verdicts, max_steps=4, throw=False)
    assert failed.status == nde.Status.MAX_STEPS
    assert (failed.stats.steps, failed.stats.accepted) == (4, 3)


@pytest.mark.parametrize("error", [math.nan, math.inf])
def test_a_step_that_stays_non_finite_ends_the_solve(error):
    sol = run(StubMethod(errors=(0.0, error)), nde.IController(), throw=False)
    assert sol.status == nde.Status.NON_FINITE
    assert sol.stats.accepted == 1


def test_an_error_that_never_falls_ends_the_solve():
    sol = run(StubMethod(errors=(0.0, 7.0)), nde.IController(), throw=False)
    assert sol.status == nde.Status.STEP_UNDERFLOW
    assert sol.stats.accepted == 1
    assert sol.stats.steps < 100


def test_one_bad_attempt_is_survived():
    sol = run(StubMethod(errors=(math.nan, math.inf, 1e30, 0.5)), nde.PIController())
    assert sol.status == nde.Status.SUCCESS
    assert sol.stats.rejected == 3


def test_a_step_below_the_resolution_of_time_ends_the_solve():
    method = StubMethod()
    sol = run(method, nde.ConstantStep(), nde.ODEProblem(STILL.f, STILL.y0, (1e8, 1e8 + 1.0)), dt=1e-9, throw=False)
    assert sol.status == nde.Status.STEP_UNDERFLOW
    assert sol.stats.steps == 1


def test_error_of_exactly_one_is_accepted():
    assert run(StubMethod(errors=(1.0,)), nde.IController()).stats.rejected == 0
    assert run(StubMethod(errors=(math.nextafter(1.0, 2.0), 0.0)), nde.IController()).stats.rejected == 1


@pytest.mark.parametrize("compact", [False, True])
def test_lanes_step_by_themselves(compact):
    method = StubMethod()
    y0 = torch.zeros(3, 1, dtype=torch.float64)
    problem = nde.ODEProblem(STILL.f, y0, (torch.tensor([0.0, 1.0, 5.0]), torch.tensor([1.0, 0.5, 5.0])))
    sol = run(method, nde.ConstantStep(), problem, per_sample=True, compact=compact)
    assert sol.stats.accepted.tolist() == [4, 2, 0]
    assert sol.status.tolist() == [0, 0, 0]
    assert len(method.taken) == 4
    assert method.taken[0][1].tolist() == ([0.25, 0.75] if compact else [0.25, 0.75, 5.0])
    assert method.taken[-1][1].tolist() == ([1.0] if compact else [1.0, 0.5, 5.0])
