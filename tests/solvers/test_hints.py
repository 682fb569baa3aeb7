"""What a user most likely meant, in the message; stiffness in failures; a status by its name."""

import functools
import json
import pickle

import numpy as np
import pytest
import torch

import neuralde.solvers as nde
from neuralde.solvers.stepping.stiffness import stiff_advice

D = torch.float64
Y0 = torch.ones(3)


class Method:
    def field(self, y):
        return -y

    def __call__(self, y):
        return -y


@pytest.mark.parametrize(
    "f",
    [
        lambda y: -y,
        torch.nn.Linear(3, 3),
        Method().field,
        Method(),
        functools.partial(lambda k, y: -k * y, 2.0),
    ],
    ids=["lambda", "module", "method", "object", "partial"],
)
def test_a_field_without_time_is_told_what_is_expected(f):
    with pytest.raises(
        nde.InvalidProblemError, match=r"^f: got a function of .*expected f\(t, y, \*args\).*lambda t, y: f\(y\)"
    ):
        nde.solve(nde.ODEProblem(f, Y0, (0.0, 1.0)))


def test_args_that_do_not_fit_are_counted():
    with pytest.raises(nde.InvalidProblemError, match=r"f: got a function of \(t, y\).* a state and 1 in args"):
        nde.solve(nde.ODEProblem(lambda t, y: -y, Y0, (0.0, 1.0), args=(2.0,)))
    with pytest.raises(nde.InvalidProblemError, match=r"diffusion: got a function of \(y\)"):
        nde.solve(nde.SDEProblem(lambda t, y: -y, lambda y: y, Y0, (0.0, 1.0)))


def test_a_type_error_inside_a_field_stays_what_it_is():
    def inner(a):
        return a

    with pytest.raises(TypeError, match="inner") as caught:
        nde.solve(nde.ODEProblem(lambda t, y: inner(t, y), Y0, (0.0, 1.0)))
    assert not isinstance(caught.value, nde.NeuralDEError)


class Swapped(torch.nn.Module):
    def forward(self, y, t):
        return -y


class SwappedMethod:
    def field(self, x, time):
        return -x


@pytest.mark.parametrize("f", [lambda y, t: -y, lambda x, t, k: -x, Swapped(), SwappedMethod().field])
def test_swapped_parameters_are_named(f):
    for make in (nde.ODEProblem, lambda f, y0, _: nde.SteadyStateProblem(f, y0)):
        with pytest.raises(
            nde.InvalidProblemError, match=r"f: got a function of \((y|x), (t|time), \.\.\.\); expected f\(t, y"
        ):
            make(f, Y0, (0.0, 1.0))


@pytest.mark.parametrize("f", [lambda t, y: -y, lambda s, y: -y, lambda a, b: -b, lambda *a: -a[1], lambda t, t1: -t1])
def test_other_names_are_nobody_s_business(f):
    assert nde.solve(nde.ODEProblem(f, Y0, (0.0, 1.0))).status is nde.Status.SUCCESS


@pytest.mark.parametrize(
    "ts", [torch.linspace(0, 1, 11), np.linspace(0, 1, 11), [0.0, 0.5, 1.0], torch.tensor([0.0, 1.0])]
)
def test_save_times_in_the_place_of_the_interval(ts):
    with pytest.raises(nde.InvalidProblemError, match=r"tspan: got .*expected a pair \(t0, t1\); .*saveat=ts"):
        nde.ODEProblem(lambda t, y: -y, Y0, ts)


def test_step_to_takes_its_times_by_position():
    problem = nde.ODEProblem(lambda t, y: -y, Y0, (0.0, 1.0))
    sols = [nde.solve(problem, nde.RK4(), controller=c) for c in (nde.StepTo([0.1, 0.5]), nde.StepTo(ts=[0.1, 0.5]))]
    assert torch.equal(sols[0].y1, sols[1].y1)
    assert sols[0].stats.accepted == 3


def robertson(t, y):
    a, b, c = y.unbind(-1)
    slow, fast = 1e4 * b * c - 0.04 * a, 3e7 * b**2
    return torch.stack([slow, -slow - fast, fast], -1)


def prothero(t, y):
    return -1e4 * (y - torch.cos(t))


STIFF = [(robertson, [1.0, 0.0, 0.0], 1e4), (prothero, [2.0], 1e4)]


@pytest.mark.parametrize("solver", [nde.Tsit5(), nde.Dopri8()])
@pytest.mark.parametrize(("f", "y0", "t1"), STIFF, ids=["robertson", "prothero"])
def test_a_stiff_failure_says_so(f, y0, t1, solver):
    problem = nde.ODEProblem(f, torch.tensor(y0, dtype=D), (0.0, t1))
    with pytest.raises(nde.MaxStepsError, match=r"The field is stiff there.*implicit method") as caught:
        nde.solve(problem, solver, max_steps=600)
    with pytest.raises(nde.MaxStepsError, match="stiff there"):
        nde.solve(problem, solver, max_steps=600, throw=False).raise_on_failure()
    assert caught.value.solution.stats.steps == 600  # the look ahead is not counted


def test_a_stiff_sample_among_others_says_so():
    y0 = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]], dtype=D)
    for driver in (None, nde.Blocks()):
        with pytest.raises(nde.MaxStepsError, match=r"1 of 2 samples \[0\].*The field is stiff there"):
            nde.solve(nde.ODEProblem(robertson, y0, (0.0, 1e4)), per_sample=True, max_steps=600, driver=driver)


@pytest.mark.parametrize("rtol", [1e-2, 1e-4, 1e-8])
@pytest.mark.parametrize("solver", [nde.Tsit5(), nde.Dopri5(), nde.Dopri8(), nde.Vern7(), nde.Bosh3()])
def test_a_long_oscillation_is_not_called_stiff(solver, rtol):
    problem = nde.ODEProblem(lambda t, y: torch.stack([y[1], -y[0]]), torch.tensor([1.0, 0.0], dtype=D), (0.0, 1e6))
    with pytest.raises(nde.MaxStepsError) as caught:
        nde.solve(problem, solver, rtol=rtol, atol=1e-3 * rtol, max_steps=60)
    assert "The field is stiff" not in str(caught.value)


def test_a_singularity_is_not_called_stiff():
    problem = nde.ODEProblem(lambda t, y: y * y, torch.ones(1, dtype=D), (0.0, 2.0))
    for options in ({}, {"max_steps": 30}, {"max_steps": 30, "solver": nde.Dopri8(), "rtol": 1e-2}):
        with pytest.raises(nde.SolveError) as caught:
            nde.solve(problem, **options)
        assert "The field is stiff" not in str(caught.value)


def test_a_solve_that_succeeds_is_not_looked_at(monkeypatch):
    monkeypatch.setattr("neuralde.solvers.front.assemble.stiff_advice", lambda *_: pytest.fail("looked"))
    assert callable(stiff_advice)
    nde.solve(nde.ODEProblem(lambda t, y: -y, Y0, (0.0, 1.0)))
    nde.solve(nde.ODEProblem(lambda t, y: -y, Y0, (0.0, 1.0)), per_sample=True)


def test_a_status_is_an_int_that_prints_its_name(capsys):
    status = nde.solve(nde.ODEProblem(lambda t, y: -y, Y0, (0.0, 1.0))).status
    print(status)
    assert capsys.readouterr().out == "SUCCESS\n"
    assert f"{status} {status:>8} {status:d} {nde.Status.MAX_STEPS:03d}" == "SUCCESS  SUCCESS 0 002"
    assert "%s" % status == str(status) == "SUCCESS"  # noqa: UP031
    assert repr(status) == "<Status.SUCCESS: 0>"
    assert status == 0
    assert not status
    assert json.dumps(status) == "0"
    assert pickle.loads(pickle.dumps(status)) is nde.Status.SUCCESS
