"""Step-size control: the formulas, the limits, times to land on."""

import math

import pytest
import torch

import neuralde.solvers as nde
from neuralde.solvers.testing.ordinary import LIMIT_CYCLE, Recorder, methods

F64 = torch.float64
KINDS = [nde.IController, nde.PIController, nde.PIDController]
kinds = pytest.mark.parametrize("kind", KINDS)


def after(controller, ratios, h=1.0):
    """The verdicts and step sizes of a controller bound to Tsit5 on a sequence of scaled errors."""
    controller = controller.bind(nde.Tsit5())
    state, out = controller.start(h), []
    for ratio in ratios:
        accept, h, state = controller.decide(h, ratio, state)
        out.append((accept, h))
    return out


def test_integral_control_is_its_formula():
    (first, h1), (second, h2) = after(nde.IController(), [0.5, 2.0])
    assert (first, second) == (True, False)
    assert h1 == pytest.approx(0.9 * 0.5 ** (-1 / 5), rel=1e-15)
    assert h2 == pytest.approx(h1 * 0.9 * 2.0 ** (-1 / 5), rel=1e-15)


def test_proportional_integral_control_is_its_formula():
    (_, h1), (_, h2) = after(nde.PIController(), [0.5, 0.25])
    assert h1 == pytest.approx(0.9 * 0.5 ** (-0.95 / 5), rel=1e-14)
    assert h2 / h1 == pytest.approx(0.9 * 0.25 ** (-0.95 / 5) * 0.5 ** (0.1 / 5), rel=1e-14)


def test_pid_control_is_its_formula():
    *_, (_, h2), (_, h3) = after(nde.PIDController(), [0.5, 0.25, 0.125])
    factor = 0.9 * 0.125 ** (-0.64 / 5) * 0.25 ** (0.31 / 5) * 0.5 ** (-0.04 / 5)
    assert h3 / h2 == pytest.approx(factor, rel=1e-14)


def test_methods_may_prefer_constants():
    bound = nde.PIController().bind(nde.Dopri8())
    assert (bound.factor_min, bound.factor_max) == (1 / 3, 6.0)
    assert nde.PIController(beta=(0.1,), factor_max=3.0).bind(nde.Dopri8()).beta == (0.1,)
    assert nde.PIController(beta=(0.1,), factor_max=3.0).bind(nde.Dopri8()).factor_max == 3.0


@kinds
def test_a_rejection_always_shrinks_and_leaves_the_memory(kind):
    controller = kind().bind(nde.Tsit5())
    _, h, state = controller.decide(1.0, 0.3, controller.start(1.0))
    for ratio in (1.0000001, 1.5, 10.0, 1e10, math.inf, math.nan):
        accept, shorter, kept = controller.decide(h, ratio, state)
        assert not accept
        assert 0.2 * h <= shorter <= 0.9 * h
        assert kept == state


@kinds
def test_factors_are_bounded(kind):
    controller = kind(factor_min=0.5, factor_max=2.0)
    steps = [h for _, h in after(controller, [0.5, 1e-20, 0.0, 1e20])]
    assert steps[1] / steps[0] == steps[2] / steps[1] == 2.0
    assert steps[3] / steps[2] == 0.5


@kinds
def test_zero_error_gives_finite_steps(kind):
    assert all(math.isfinite(h) and h > 0 for _, h in after(kind(), [0.0] * 20))


@kinds
def test_numbers_and_tensors_agree(kind):
    ratios = [0.3, 2.0, 0.9, math.nan, 1e-9, 0.0, math.inf, 0.5]
    numbers = after(kind(), ratios)
    controller = kind().bind(nde.Tsit5())
    h = torch.ones(2, dtype=F64)
    state = controller.start(h)
    for ratio, (accept, expected) in zip(ratios, numbers, strict=True):
        verdict, h, state = controller.decide(h, torch.full((2,), ratio, dtype=F64), state)
        assert verdict.tolist() == [accept] * 2
        torch.testing.assert_close(h, torch.full((2,), expected, dtype=F64), rtol=1e-13, atol=0.0)


@kinds
@pytest.mark.parametrize("method", methods(adaptive=True), ids=str)
def test_every_controller_drives_every_method_to_the_tolerance(kind, method):
    tolerance = 1e-5 if method.order > 2 else 1e-4
    sol = nde.solve(LIMIT_CYCLE.problem(), method, rtol=tolerance, atol=tolerance, controller=kind())
    assert (sol.y1 - LIMIT_CYCLE.at(2.0)).abs().max() < 10 * tolerance
    assert sol.stats.rejected <= 0.3 * sol.stats.steps + 2


def times_hit(sol, times):
    return all((sol.ts == time).sum() == 1 for time in times)


STEP_TIMES = [0.1, 1 / 3, 0.7, 0.7 + 1e-9, 1.5]


@pytest.mark.parametrize("controller", [nde.IController, nde.PIController, nde.PIDController, nde.ConstantStep])
@pytest.mark.parametrize("backward", [False, True])
def test_step_times_are_hit_exactly(controller, backward):
    times = [*STEP_TIMES, -5.0, 7.0, 0.0, 2.0, 0.1]
    problem = LIMIT_CYCLE.problem(backward)
    sol = nde.solve(problem, controller=controller(step_ts=times), dt=0.3, saveat="steps")
    assert times_hit(sol, STEP_TIMES)
    assert (sol.ts.min(), sol.ts.max()) == (0.0, 2.0)


@pytest.mark.parametrize("compact", [False, True])
def test_step_times_are_hit_by_every_sample(compact):
    y0 = LIMIT_CYCLE.y0().expand(3, 2) * torch.tensor([[1.0], [0.5], [0.1]])
    ends = torch.tensor([2.0, 1.2, -1.0])

    def f(t, y):
        return LIMIT_CYCLE.f(t.squeeze(-1), y)

    controller = nde.PIController(step_ts=[*STEP_TIMES, -0.25])
    problem = nde.ODEProblem(f, y0, (0.0, ends))
    sol = nde.solve(problem, controller=controller, saveat="steps", per_sample=True, compact=compact)
    for lane, expected in enumerate((STEP_TIMES, STEP_TIMES[:-1], [-0.25])):
        assert all((sol.ts[:, lane] == time).sum() == 1 for time in expected)
    assert (sol.ts[:, 1].nan_to_num() <= ends[1]).all()


def test_step_to_takes_exactly_the_given_steps():
    for method in methods():
        times = torch.tensor([1.0, 0.25, 0.5, 3.0, -1.0], dtype=F64)
        sol = nde.solve(LIMIT_CYCLE.problem(), method, controller=nde.StepTo(ts=times), saveat="steps")
        assert sol.ts.tolist() == [0.0, 0.25, 0.5, 1.0, 2.0]
        back = nde.solve(LIMIT_CYCLE.problem(True), method, controller=nde.StepTo(ts=times), saveat="steps")
        assert back.ts.tolist() == [2.0, 1.0, 0.5, 0.25, 0.0]


def test_step_to_with_a_step_takes_no_longer_one():
    sol = nde.solve(LIMIT_CYCLE.problem(), dt=0.3, controller=nde.StepTo(ts=[0.4]), saveat="steps")
    torch.testing.assert_close(sol.ts, torch.tensor([0.0, 0.3, 0.4, 0.7, 1.0, 1.3, 1.6, 1.9, 2.0], dtype=F64))


def test_step_to_nothing_is_one_step():
    assert nde.solve(LIMIT_CYCLE.problem(), controller=nde.StepTo(ts=[])).stats.steps == 1


@pytest.mark.parametrize("controller", [*KINDS, nde.ConstantStep])
@pytest.mark.parametrize("dt", [None, 0.5, 0.001])
def test_no_step_is_longer_than_dtmax(controller, dt):
    if dt is None and controller is nde.ConstantStep:
        return
    sol = nde.solve(LIMIT_CYCLE.problem(), controller=controller(dtmax=0.03), dt=dt, trace=True)
    assert (sol.trace.dt <= 0.03 * (1 + 1e-12)).all()
    assert sol.stats.steps >= 2.0 / 0.03


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("backward", [False, True])
def test_what_is_left_a_little_longer_than_dtmax_takes_two_steps(per_sample, backward):
    """0.1 + 5e-8 is left before a stop, which is within the slack that otherwise prevents slivers."""
    times = [0.0, 0.3 + 5e-8, 0.7]
    if backward:
        times = [-t for t in times]
    problem = nde.ODEProblem(lambda t, y: -y, torch.ones(1, 1, dtype=F64), (times[0], times[2]))
    controller = nde.ConstantStep(step_ts=[times[1]], dtmax=0.1)
    sol = nde.solve(problem, nde.RK4(), controller=controller, dt=0.1, trace=True, per_sample=per_sample)
    lengths = sol.trace.dt.abs().flatten()
    assert (lengths <= 0.1 * (1 + 1e-12)).all()
    halves = [0.05 + 2.5e-8] * 2
    expected = torch.tensor([0.1, 0.1, *halves, *[0.1] * 3, 0.1 - 5e-8], dtype=F64)
    torch.testing.assert_close(lengths, expected, rtol=1e-12, atol=1e-14)


def test_steps_of_dtmax_that_fit_are_not_halved_by_rounding():
    problem = nde.ODEProblem(lambda t, y: -y, torch.ones(1, dtype=F64), (0.0, 1.0))
    for dtmax in (0.1, 0.05, 1 / 3):
        sol = nde.solve(problem, nde.RK4(), controller=nde.ConstantStep(dtmax=dtmax), dt=1.0)
        assert sol.stats.steps == round(1 / dtmax)


def bumpy(t, y):
    return -y * (1.0 + 50.0 * torch.exp(-100.0 * (t - 0.5) ** 2))


@kinds
@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("dt", [None, 1e-4])
def test_no_step_is_shorter_than_dtmin(kind, per_sample, dt):
    problem = nde.ODEProblem(bumpy, torch.ones(2, 1, dtype=F64), (0.0, 1.0))
    options = {"rtol": 1e-8, "atol": 1e-8, "throw": False, "trace": True, "per_sample": per_sample, "dt": dt}
    sol = nde.solve(problem, controller=kind(dtmin=0.02), **options)
    assert (torch.as_tensor(sol.status) == nde.Status.STEP_UNDERFLOW).all()
    taken = sol.trace.dt[sol.trace.t + sol.trace.dt < 1.0]
    assert (taken[taken != 0] >= 0.02 * (1 - 1e-9)).all()
    fine = nde.solve(problem, controller=kind(dtmin=1e-5), **options)
    assert (torch.as_tensor(fine.status) == nde.Status.SUCCESS).all()
    taken = fine.trace.dt[fine.trace.t + fine.trace.dt < 1.0]
    assert (taken[taken != 0] >= 1e-5 * (1 - 1e-9)).all()


def test_dtmin_raises_its_error():
    problem = nde.ODEProblem(bumpy, torch.ones(2, dtype=F64), (0.0, 1.0))
    with pytest.raises(nde.StepSizeError, match="t = 0"):
        nde.solve(problem, rtol=1e-8, atol=1e-8, controller=nde.PIController(dtmin=0.02))


def test_a_given_first_step_is_taken():
    for dt in (0.01, torch.tensor(0.01, dtype=F64), 1):
        sol = nde.solve(LIMIT_CYCLE.problem(), dt=dt, trace=True)
        assert sol.trace.dt[0] == min(float(dt), 2.0)


@pytest.mark.parametrize("scale", [1e-2, 1.0, 1e2, 1e6])
@pytest.mark.parametrize("method", methods(adaptive=True), ids=str)
def test_the_first_step_is_sensible(method, scale):
    """Not rejected more than a few times, and not so short that the first growth cannot catch up."""
    y0 = torch.tensor([1.0, 2.0], dtype=F64)
    problem = nde.ODEProblem(lambda t, y: -y * scale, y0, (0.0, 5.0 / scale))
    sol = nde.solve(problem, method, rtol=1e-4, atol=1e-6, trace=True)
    steps = sol.trace.dt[sol.trace.accepted]
    assert sol.stats.rejected <= 4
    assert steps[0] > 1e-4 * steps.median()


def test_the_first_step_survives_a_zero_state_and_a_zero_field():
    for y0, f in ((0.0, lambda t, y: torch.cos(t) + 0 * y), (1.0, lambda t, y: 0 * y), (0.0, lambda t, y: 0 * y)):
        field = Recorder(f)
        problem = nde.ODEProblem(field, torch.full((2,), y0, dtype=F64), (0.0, 3.0))
        sol = nde.solve(problem, rtol=1e-6, atol=1e-6)
        expected = y0 + (math.sin(3.0) if field.f(torch.tensor(0.0), torch.zeros(1)).item() else 0.0)
        torch.testing.assert_close(sol.y1, torch.full((2,), expected, dtype=F64), rtol=1e-5, atol=1e-5)
        assert sol.stats.steps < 30


@pytest.mark.parametrize("per_sample", [False, True])
def test_a_trial_step_outside_the_fields_domain_is_survived(per_sample):
    """The heuristic's trial step drives the second component negative, where the field is NaN."""

    def f(t, y):
        return torch.stack([-0.1 * y[..., 0], -torch.sqrt(y[..., 1])], dim=-1)

    y0 = torch.tensor([[1000.0, 1e-6]], dtype=F64)
    problem = nde.ODEProblem(f, y0, (0.0, 1e-4))
    sol = nde.solve(problem, rtol=1e-3, atol=1e-9, per_sample=per_sample)
    exact = torch.tensor([[1000.0 * math.exp(-1e-5), (1e-3 - 0.5e-4) ** 2]], dtype=F64)
    torch.testing.assert_close(sol.y1, exact, rtol=1e-3, atol=1e-9)


def test_jumps_and_limits_are_checked():
    for options in (
        {"step_ts": [math.nan]},
        {"step_ts": "soon"},
        {"jump_ts": [math.inf]},
        {"jump_ts": 0.5},
        {"dtmin": -1.0},
        {"dtmin": math.nan},
        {"dtmax": 0.0},
        {"dtmax": math.nan},
        {"dtmax": "long"},
        {"dtmin": 0.2, "dtmax": 0.1},
        {"safety": 0.0},
        {"safety": 1.5},
        {"factor_min": 2.0},
        {"factor_max": 0.5},
        {"factor_max": math.inf},
        {"beta": ()},
        {"beta": "x"},
        {"beta": (math.nan,)},
        {"beta": (-0.1,)},
    ):
        with pytest.raises(nde.InvalidProblemError, match=next(iter(options)).replace("dtmin", "dtm")):
            nde.PIController(**options)
    for ts in ("x", 0.5, [math.nan], None):
        with pytest.raises(nde.InvalidProblemError, match="ts"):
            nde.StepTo(ts=ts)
