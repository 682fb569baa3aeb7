"""Failure never loses work: typed errors, the saved prefix bitwise, NaN behind it, and exceptions pass through."""

import math

import pytest
import torch

import neuralde.solvers as nde
from neuralde.solvers.testing.ordinary import Recorder, methods

F64 = torch.float64
TIMES = torch.linspace(0.0, 2.0, 21, dtype=F64)
BREAK = 1.234


def healthy(t, y):
    return torch.cos(3 * t) - y


def breaking(kind, at=BREAK, part=slice(None)):
    """The healthy field until ``at``, from there NaN or infinity in some components."""
    bad = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[kind]

    def f(t, y):
        slope = healthy(t, y)
        broken = slope.clone()
        broken[..., part] = bad
        return torch.where(t >= at, broken, slope)

    return f


def solve(f, y0=None, tspan=(0.0, 2.0), **options):
    y0 = torch.tensor([0.5, -1.0, 2.0], dtype=F64) if y0 is None else y0
    return nde.solve(nde.ODEProblem(f, y0, tspan), **{"rtol": 1e-6, "atol": 1e-7, "saveat": TIMES, **options})


@pytest.mark.parametrize("method", methods(), ids=str)
@pytest.mark.parametrize("kind", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("part", [slice(None), slice(1, 2)], ids=["all", "one component"])
def test_what_was_saved_before_a_failure_is_kept(method, kind, part):
    """Up to its last step the failing solve is the healthy one, bit for bit."""
    options = {"solver": method, "dt": 0.03, "controller": nde.ConstantStep(), "trace": True}
    whole = solve(healthy, **options)
    with pytest.raises(nde.NonFiniteError) as caught:
        solve(breaking(kind, part=part), **options)
    part = caught.value.solution
    assert part.status == nde.Status.NON_FINITE
    reached = part.ys.isfinite().all(dim=1)
    count = int(reached.sum())
    assert count in {int((TIMES <= BREAK).sum()), int((TIMES <= BREAK - 0.03).sum())}
    assert reached[:count].all()
    assert part.ys[count:].isnan().all()
    assert torch.equal(part.ys[:count], whole.ys[:count])
    assert part.y1.isfinite().all()
    assert torch.equal(part.trace.t[:-1], whole.trace.t[: len(part.trace.t) - 1])


@pytest.mark.parametrize("method", methods(adaptive=True), ids=str)
@pytest.mark.parametrize("throw", [False, True])
def test_an_adaptive_solve_goes_up_to_the_failure(method, throw):
    tolerance = {"rtol": 1e-6, "atol": 1e-7} if method.order > 2 else {"rtol": 1e-4, "atol": 1e-4}
    whole = solve(healthy, solver=method, dt=0.01, trace=True, **tolerance)
    if throw:
        with pytest.raises(nde.NonFiniteError) as caught:
            solve(breaking("nan"), solver=method, dt=0.01, trace=True, **tolerance)
        part = caught.value.solution
    else:
        part = solve(breaking("nan"), solver=method, dt=0.01, trace=True, throw=False, **tolerance)
    assert part.status == nde.Status.NON_FINITE
    common = min(len(whole.trace.t), len(part.trace.t))
    same = int((whole.trace.t[:common] == part.trace.t[:common]).cumprod(0).sum())
    assert same > 3
    prefix = TIMES <= part.trace.t[same - 1]
    assert prefix.sum() > 2
    assert torch.equal(part.ys[prefix], whole.ys[prefix])
    assert part.ys[TIMES <= BREAK - 1e-3].isfinite().all()
    assert part.ys[TIMES > BREAK].isnan().all()
    assert part.stats.steps < 4 * whole.stats.steps + 100


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("start", ["state", "field"])
@pytest.mark.parametrize("dt", [None, 0.1])
def test_nan_at_the_start_ends_at_once(per_sample, start, dt):
    y0 = torch.tensor([[math.nan, 1.0]] if start == "state" else [[1.0, 1.0]], dtype=F64)
    field = Recorder(healthy if start == "state" else breaking("nan", at=-1.0))
    sol = solve(field, y0, per_sample=per_sample, dt=dt, throw=False)
    assert (torch.as_tensor(sol.status) == nde.Status.NON_FINITE).all()
    assert torch.cat([time.reshape(-1) for time in field.times]).isfinite().all()
    assert torch.equal(sol.ys[0].isnan(), y0.isnan())
    assert sol.ys[1:].isnan().all()
    assert field.calls < 1000


def test_blow_up():
    """y' = y^2 from 1 explodes at t = 1."""
    with pytest.raises(nde.StepSizeError, match=r"t = (0\.99999|1\.00000)") as caught:
        solve(lambda t, y: y * y, torch.ones(1, dtype=F64))
    sol = caught.value.solution
    before = TIMES < 0.99
    torch.testing.assert_close(sol.ys[before, 0], 1.0 / (1.0 - TIMES[before]), rtol=1e-3, atol=0.0)
    assert sol.ys[TIMES > 1.0].isnan().all()
    assert sol.stats.steps < 1000


def test_overflow_with_fixed_steps():
    sol = solve(lambda t, y: y * y, torch.ones(1), solver=nde.RK4(), dt=0.01, throw=False)
    assert sol.status == nde.Status.NON_FINITE
    assert sol.ys[TIMES < 0.95].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
@pytest.mark.parametrize("per_sample", [False, True])
def test_large_finite_states_are_no_failure(dtype, per_sample):
    """Their squares overflow float32, they do not."""
    y0 = torch.full((2, 1), 1e25, dtype=dtype)
    for options in ({"solver": nde.RK4(), "dt": 0.1}, {}):
        sol = solve(lambda t, y: -y, y0, per_sample=per_sample, saveat=None, **options)
        torch.testing.assert_close(sol.y1, y0 * math.exp(-2.0), rtol=1e-4, atol=0.0)


@pytest.mark.parametrize("per_sample", [False, True])
def test_max_steps_reached_and_exactly_enough(per_sample):
    y0 = torch.ones(2, 3, dtype=F64)
    needed = int(torch.as_tensor(solve(healthy, y0, per_sample=per_sample).stats.steps).max())
    whole = solve(healthy, y0, per_sample=per_sample, max_steps=needed)
    assert (torch.as_tensor(whole.status) == nde.Status.SUCCESS).all()
    with pytest.raises(nde.MaxStepsError, match="max_steps") as caught:
        solve(healthy, y0, per_sample=per_sample, max_steps=needed - 1)
    part = caught.value.solution
    reached = part.ys.isfinite().flatten(1).all(dim=1)
    assert 0 < reached.sum() < len(TIMES)
    assert torch.equal(part.ys[reached], whole.ys[reached])
    assert (torch.as_tensor(part.stats.steps) == needed - 1).all()


@pytest.mark.parametrize(
    ("saveat", "rows"), [(None, 1), ("steps", None), ([2.0], 1), ([0.0, 2.0], 2)], ids=["end", "steps", "t1", "both"]
)
@pytest.mark.parametrize("per_sample", [False, True])
def test_every_kind_of_saving_survives(saveat, rows, per_sample):
    y0 = torch.tensor([[0.5, -1.0]], dtype=F64)
    sol = solve(breaking("nan"), y0, saveat=saveat, per_sample=per_sample, throw=False, dense=True)
    if saveat == "steps":
        assert len(sol.ts) == int(sol.stats.accepted) + 1
        assert sol.ys.isfinite().all()
        assert torch.equal(sol.ys[-1], sol.y1)
    else:
        assert sol.ys.shape == (rows, 1, 2)
        assert sol.ys[-1].isnan().all()
    assert sol.y1.isfinite().all()
    assert sol(1.0).isfinite().all()
    assert sol(1.9).isnan().all()
    assert sol.derivative(1.9).isnan().all()


def test_structures_survive():
    def f(t, y):
        return {"x": -y["x"], "z": torch.where(t > 1.0, math.nan, 0.0).to(torch.float32) - y["z"]}

    y0 = {"x": torch.ones(2, dtype=F64), "z": torch.ones(())}
    sol = solve(f, y0, throw=False)
    assert sol.status == nde.Status.NON_FINITE
    assert sol.ys["x"][:9].isfinite().all()
    assert sol.ys["x"][11:].isnan().all()
    assert sol.ys["z"].dtype == torch.float32


class Broken(Exception):
    pass


@pytest.mark.parametrize("error", [Broken, KeyboardInterrupt, ZeroDivisionError, StopIteration, torch.OutOfMemoryError])
@pytest.mark.parametrize("call", [1, 2, 3, 9, 30])
@pytest.mark.parametrize("per_sample", [False, True])
def test_what_the_field_raises_passes_through_untouched(error, call, per_sample):
    raised = error("from the field")

    def f(t, y):
        if field.calls == call:
            raise raised
        return healthy(t, y)

    field = Recorder(f)
    with pytest.raises(error) as caught:
        solve(field, torch.ones(2, 3, dtype=F64), per_sample=per_sample, throw=False)
    assert caught.value is raised
    assert caught.value.__cause__ is None
    assert field.calls == call


def test_errors_say_what_where_and_what_helps():
    for f, kind, words in (
        (breaking("nan"), nde.NonFiniteError, "NaN or infinity"),
        (lambda t, y: y * y + 1.0, nde.StepSizeError, "step size"),
    ):
        with pytest.raises(kind, match=words) as caught:
            solve(f)
        text = str(caught.value)
        assert "t = " in text
        assert "field calls" in text
        assert ".solution" in text
        assert isinstance(caught.value, nde.SolveError)
        assert isinstance(caught.value, nde.NeuralDEError)
        assert isinstance(caught.value, RuntimeError)


def test_samples_that_failed_are_named():
    y0 = torch.tensor([[0.1], [2.0], [0.2], [3.0]], dtype=F64)
    with pytest.raises(nde.StepSizeError, match=r"2 of 4 samples \[1, 3\]"):
        solve(lambda t, y: y * y, y0, per_sample=True)


@pytest.mark.parametrize("t1", [1.0, -1.0])
def test_a_singularity_in_time_ends_the_solve(t1):
    sol = solve(
        lambda t, y: torch.sign(t) * y / (0.5 - abs(t)), torch.ones(1, dtype=F64), (0.0, t1), saveat=None, throw=False
    )
    assert sol.status in (nde.Status.STEP_UNDERFLOW, nde.Status.NON_FINITE)
    assert sol.stats.steps < 2000


def test_atol_zero_with_a_component_that_stays_zero():
    y0 = torch.tensor([0.0, 1.0], dtype=F64)
    sol = solve(lambda t, y: -y, y0, atol=0.0, saveat=None)
    torch.testing.assert_close(sol.y1, y0 * math.exp(-2.0), rtol=1e-4, atol=0.0)
    lanes = solve(lambda t, y: -y, y0.unsqueeze(1), atol=0.0, saveat=None, per_sample=True)
    torch.testing.assert_close(lanes.y1[:, 0], y0 * math.exp(-2.0), rtol=1e-4, atol=0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_large_states_whose_sum_overflows_are_finite(dtype):
    y0 = torch.full((8,), 3e38, dtype=dtype)
    sol = nde.solve(nde.ODEProblem(lambda t, y: 0.0 * y, y0, (0.0, 1.0)), nde.Euler(), dt=0.5)
    assert not y0.sum().isfinite()
    assert sol.status == nde.Status.SUCCESS
    assert torch.equal(sol.y1, y0)
