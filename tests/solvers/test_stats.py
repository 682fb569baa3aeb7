"""The counts are true: every call of the field, every attempt; and nothing is computed that nobody asked for."""

import itertools

import pytest
import torch

import neuralde as nde
from neuralde.solvers.testing.ordinary import LIMIT_CYCLE, Recorder, methods

F64 = torch.float64
METHODS = methods()


def hard(t, y):
    """A field whose first steps and whose middle are rejected a few times."""
    return -(1.0 + 60.0 * torch.exp(-60.0 * (t - 0.5) ** 2)) * y + torch.sin(3 * t)


def counted(f=hard, tspan=(0.0, 1.0), y0=None, **options):
    field = Recorder(f)
    y0 = torch.ones(2, dtype=F64) if y0 is None else y0
    sol = nde.solve(nde.ODEProblem(field, y0, tspan), **options)
    return sol, field


MODES = {
    "end": {},
    "times": {"saveat": [0.0, 0.1, 0.1, 0.45, 1.0]},
    "times at the end": {"saveat": [1.0]},
    "steps": {"saveat": "steps"},
    "dense": {"dense": True},
    "trace": {"trace": True},
    "all": {"dense": True, "saveat": [0.33, 0.8], "trace": True},
}


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fixed", [False, True], ids=["adaptive", "fixed"])
@pytest.mark.parametrize("given", [False, True], ids=["no dt", "dt"])
def test_nfe_counts_every_call(method, mode, fixed, given):
    if (fixed or not method.adaptive) and not given:
        with pytest.raises(nde.InvalidProblemError, match="dt"):
            counted(solver=method, controller=nde.ConstantStep())
        return
    options = dict(MODES[mode], solver=method, rtol=1e-3, atol=1e-4)
    options |= {"dt": 0.05} if given else {}
    options |= {"controller": nde.ConstantStep()} if fixed else {}
    sol, field = counted(**options)
    assert sol.stats.nfe == field.calls
    assert sol.stats.steps == sol.stats.accepted + sol.stats.rejected
    if not fixed and method.adaptive:
        assert sol.stats.rejected > 0


@pytest.mark.parametrize("adjoint", [nde.DirectAdjoint(), nde.DiscreteAdjoint()], ids=["direct", "discrete"])
@pytest.mark.parametrize("y0_grad", [False, True])
def test_nfe_of_the_forward_pass_is_the_same_under_every_exact_adjoint(adjoint, y0_grad):
    field = Recorder(hard)
    y0 = torch.ones(2, dtype=F64, requires_grad=y0_grad)
    sol = nde.solve(nde.ODEProblem(field, y0, (0.0, 1.0)), adjoint=adjoint, saveat=[0.5, 1.0])
    assert sol.stats.nfe == field.calls
    assert sol.stats == counted(saveat=[0.5, 1.0])[0].stats


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_fixed_steps_cost_their_stages_and_no_more(method):
    sol, field = counted(solver=method, dt=0.125, controller=nde.ConstantStep())
    stages = method.tableau.stages - (
        1 if method.fsal else 0
    )  # the last stage of an FSAL method is the next one's first
    assert sol.stats.steps == sol.stats.accepted == 8
    assert field.calls == 8 * stages


@pytest.mark.parametrize("method", methods(adaptive=True), ids=str)
def test_adaptive_steps_cost_their_stages(method):
    """Two calls for the first step size, of which the first is the first stage; FSAL and rejections reuse a stage."""
    sol, field = counted(solver=method, rtol=1e-4, atol=1e-5)
    steps, rejected, stages = sol.stats.steps, sol.stats.rejected, method.tableau.stages
    assert rejected > 0
    reused = steps if method.fsal else 1 + rejected
    assert field.calls == 2 + stages * steps - reused


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_extra_stages_are_paid_where_they_are_used(method):
    """Methods whose dense output needs more stages evaluate them only in steps that hold a save time."""
    options = {"solver": method, "dt": 0.125, "controller": nde.ConstantStep()}
    plain = counted(**options)[0].stats.nfe
    extra = len(method.tableau.interpolant.weights) - method.tableau.stages
    # the end slope, an FSAL method's last stage or else a shared extra one, is the next step's first stage
    carried = method.tableau.end_slope is not None and method.tableau.end_slope >= method.tableau.stages
    once = counted(saveat=[0.3, 0.31], **options)[0].stats.nfe
    assert once == plain + extra - (1 if carried else 0)
    assert counted(saveat=[1.0], **options)[0].stats.nfe == plain
    assert counted(saveat=[0.125, 0.25, 0.5], **options)[0].stats.nfe == plain
    assert counted(saveat="steps", **options)[0].stats.nfe == plain
    dense = counted(dense=True, **options)[0].stats.nfe
    assert dense == plain + 8 * extra - (7 if carried else 0) + (1 if method.fsal else 0)


def test_a_trace_costs_no_calls():
    assert counted(trace=True)[0].stats == counted()[0].stats


@pytest.mark.parametrize(("method", "per_sample"), list(itertools.product(METHODS, [False, True])), ids=str)
def test_trace_tells_every_attempt(method, per_sample):
    y0 = torch.ones(3, 2, dtype=F64)
    sol, _ = counted(y0=y0, solver=method, dt=0.05, trace=True, per_sample=per_sample)
    trace, stats = sol.trace, sol.stats
    attempts = int(torch.as_tensor(stats.steps).max())
    for name in ("t", "dt", "error", "stiffness", "accepted"):
        column = getattr(trace, name)
        assert column.shape == ((attempts, 3) if per_sample else (attempts,))
        assert not column.requires_grad
        assert column.dtype == (torch.bool if name == "accepted" else F64)
    assert torch.equal(trace.accepted.sum(0), torch.as_tensor(stats.accepted))
    if method.adaptive:
        assert torch.equal(trace.accepted, trace.error <= 1.0)
    else:
        assert trace.error.isnan().all()
    assert trace.stiffness.isnan().all() if not method.has_stiffness else (trace.stiffness >= 0).all()
    # an accepted attempt is followed from its end, a rejected one from its start with a shorter step
    ends = torch.where(trace.accepted, trace.t + trace.dt, trace.t)
    torch.testing.assert_close(trace.t[1:], ends[:-1], rtol=1e-14, atol=1e-15)
    assert (trace.dt[1:].abs() < trace.dt[:-1].abs())[~trace.accepted[:-1]].all()


def test_stiffness_in_the_trace_is_the_rate_of_a_linear_field():
    sol, _ = counted(f=lambda t, y: -40.0 * y, trace=True)
    torch.testing.assert_close(sol.trace.stiffness, torch.full_like(sol.trace.stiffness, 40.0), rtol=1e-6, atol=0.0)


def test_the_error_in_the_trace_is_the_scaled_norm_of_the_true_estimate():
    method, dt, y0 = nde.Heun(), 0.1, torch.tensor([1.0, 3.0], dtype=F64)
    problem = nde.ODEProblem(lambda t, y: -y * t, y0, (0.5, 0.6))
    sol = nde.solve(problem, method, dt=dt, rtol=0.01, atol=0.02, trace=True)
    first = -y0 * 0.5
    euler = y0 + dt * first
    second = -euler * 0.6
    heun = y0 + dt * (first + second) / 2
    scaled = (heun - euler) / (0.02 + 0.01 * torch.maximum(y0, heun))
    torch.testing.assert_close(sol.trace.error[0], scaled.square().mean().sqrt(), rtol=1e-12, atol=0.0)


def test_stats_are_ints_or_one_tensor_entry_per_sample():
    joint = nde.solve(LIMIT_CYCLE.problem()).stats
    assert all(type(getattr(joint, name)) is int for name in ("nfe", "steps", "accepted", "rejected"))
    lanes, _ = counted(y0=torch.ones(3, 2, dtype=F64), per_sample=True)
    for name in ("nfe", "steps", "accepted", "rejected"):
        value = getattr(lanes.stats, name)
        assert value.shape == (3,)
        assert value.dtype == torch.int64


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_nfe_of_every_sample_counts_the_calls_while_it_ran(method, mode):
    """Equal samples run together to the end, so each has seen every call."""
    y0 = torch.ones(4, 2, dtype=F64)
    sol, field = counted(y0=y0, solver=method, dt=0.05, per_sample=True, **MODES[mode])
    assert sol.stats.nfe.tolist() == [field.calls] * 4
