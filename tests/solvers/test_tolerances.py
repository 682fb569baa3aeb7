"""Tolerances for each entry of the state, and what counts as a number."""

import warnings
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

import neuralde as nde
from neuralde.solvers.checks import as_number

D = torch.float64
ATOL = [1e-8, 1e-13, 1e-7]


def robertson(t, y):
    a, b, c = y.unbind(-1)
    slow, fast = 1e4 * b * c - 0.04 * a, 3e7 * b**2
    return torch.stack([slow, -slow - fast, fast], -1)


def problem(y0=(1.0, 0.0, 0.0), t1=0.3, **extra):
    return nde.ODEProblem(robertson, torch.tensor(y0, dtype=D), (0.0, t1), **extra)


@pytest.fixture(scope="module")
def right():
    def field(t, y):
        return robertson(t, torch.from_numpy(y)).numpy()

    found = solve_ivp(field, (0.0, 0.3), [1.0, 0.0, 0.0], rtol=1e-10, atol=[1e-14, 1e-18, 1e-14], method="Radau")
    return torch.from_numpy(found.y[:, -1])


FORMS = {
    "list": ATOL,
    "tuple": tuple(ATOL),
    "tensor": torch.tensor(ATOL, dtype=D),
    "array": np.array(ATOL),
    "fractions": [Fraction(1, 10**8), Fraction(1, 10**13), np.float32(1e-7)],
}


@pytest.mark.parametrize("form", FORMS)
def test_each_entry_meets_its_own_tolerance_as_in_scipy(form, right):
    sol = nde.solve(problem(), rtol=1e-5, atol=FORMS[form])
    error = ((sol.y1 - right) / (torch.tensor(ATOL, dtype=D) + 1e-5 * right.abs())).abs()
    assert error.max() < 5.0
    loose = nde.solve(problem(), rtol=1e-5, atol=1e-6)  # the small entry is far below a tolerance that fits the others
    assert ((loose.y1 - right) / right).abs()[1] > 10 * ((sol.y1 - right) / right).abs()[1]


def test_one_number_is_the_same_as_one_for_each_entry():
    sol = nde.solve(problem(), rtol=1e-5, atol=1e-8)
    for atol, rtol in (([1e-8] * 3, 1e-5), (1e-8, [1e-5] * 3), (torch.full((3,), 1e-8, dtype=D), np.full(3, 1e-5))):
        other = nde.solve(problem(), rtol=rtol, atol=atol)
        assert other.stats == sol.stats
        assert torch.allclose(other.y1, sol.y1, rtol=1e-13, atol=0.0)


def test_a_pytree_like_the_state_mixes_numbers_and_arrays():
    def field(t, state):
        slope = robertson(t, torch.cat([state["slow"], state["fast"]]))
        return {"slow": slope[:1], "fast": slope[1:]}

    y0 = {"slow": torch.ones(1, dtype=D), "fast": torch.zeros(2, dtype=D)}
    sol = nde.solve(nde.ODEProblem(field, y0, (0.0, 0.3)), rtol=1e-5, atol={"fast": ATOL[1:], "slow": 1e-8})
    one = nde.solve(problem(), rtol=1e-5, atol=ATOL)
    assert sol.stats == one.stats
    assert torch.equal(torch.cat([sol.y1["slow"], sol.y1["fast"]]), one.y1)


UNITS = torch.tensor([1.0, 1e-9, 1e6], dtype=D)


def in_units(t, y):
    """A smooth problem whose entries are in units of their own."""
    x = y / UNITS
    return UNITS * torch.stack([x[..., 1], -x[..., 0], x[..., 0] * x[..., 1]], -1)


def in_ones(t, y):
    return torch.stack([y[..., 1], -y[..., 0], y[..., 0] * y[..., 1]], -1)


@pytest.mark.parametrize(
    "options", [{}, {"compact": True}, {"driver": nde.Blocks(size=4)}], ids=["", "compact", "blocks"]
)
@pytest.mark.parametrize("shape", ["entries", "samples"])
def test_per_sample_each_sample_steps_as_alone(options, shape):
    y0 = UNITS * torch.tensor([[1.0], [0.5], [0.1]], dtype=D)
    ends = torch.tensor([3.0, 1.0, 2.0], dtype=D)
    rows = 1e-8 * UNITS * torch.tensor([[1.0], [10.0], [0.1]], dtype=D)
    rows = rows if shape == "samples" else (1e-8 * UNITS).expand(3, 3)
    atol = rows if shape == "samples" else 1e-8 * UNITS
    sol = nde.solve(nde.ODEProblem(in_units, y0, (0.0, ends)), rtol=1e-6, atol=atol, per_sample=True, **options)
    for row in range(3):
        alone = nde.solve(nde.ODEProblem(in_units, y0[row], (0.0, ends[row].item())), rtol=1e-6, atol=rows[row])
        assert torch.allclose(sol.y1[row], alone.y1, rtol=1e-11, atol=0.0)
        assert sol.stats.accepted[row] == alone.stats.accepted


@pytest.mark.parametrize("solver", [nde.Tsit5(), nde.Dopri8(), nde.Reversible(nde.Tsit5(), 0.9)])
@pytest.mark.parametrize("controller", [None, nde.StepTo([0.5, 1.0])])
def test_the_units_of_an_entry_do_not_change_the_steps(solver, controller):
    options = {"rtol": 1e-6, "controller": controller, "regularizers": [nde.regularizers.ErrorEstimate()]}
    sol = nde.solve(nde.ODEProblem(in_units, UNITS.clone(), (0.0, 2.0)), solver, atol=1e-8 * UNITS, **options)
    plain = nde.solve(nde.ODEProblem(in_ones, torch.ones(3, dtype=D), (0.0, 2.0)), solver, atol=1e-8, **options)
    assert sol.stats == plain.stats
    assert torch.allclose(sol.y1 / UNITS, plain.y1, rtol=1e-11, atol=0.0)


ADJOINTS = {
    "discrete": nde.DiscreteAdjoint(),
    "direct": nde.DirectAdjoint(),
    "forward": nde.ForwardSensitivity(),
    "in norm": nde.ForwardSensitivity(in_error_norm=True),
    "gauss": nde.GaussAdjoint(),
    "interpolating": nde.InterpolatingAdjoint(),
    "backsolve": nde.BacksolveAdjoint(),
    "gauss with its own": nde.GaussAdjoint(rtol=1e-10, atol=[1e-12, 1e-21, 1e-6]),
}


@pytest.mark.parametrize("name", ADJOINTS)
@pytest.mark.parametrize("per_sample", [False, True])
def test_gradients_do_not_depend_on_the_units_either(name, per_sample):
    if per_sample and name == "in norm":
        pytest.skip("a joint solve")

    def gradient(f, units, atol, how):
        y0 = units * torch.linspace(0.5, 1.0, 6, dtype=D).reshape(2, 3)
        y0 = (y0 if per_sample else y0[0]).clone().requires_grad_()
        k = torch.tensor(1.1, dtype=D, requires_grad=True)
        problem = nde.ODEProblem(lambda t, y, k: k * f(t, y), y0, (0.0, 2.0), (k,))
        sol = nde.solve(problem, rtol=1e-8, atol=atol, adjoint=how, per_sample=per_sample)
        g_y, g_k = torch.autograd.grad((sol.y1 / units).square().sum(), (y0, k))
        return g_y * units, g_k

    gots = gradient(in_units, UNITS, 1e-10 * UNITS, ADJOINTS[name])
    wants = gradient(in_ones, torch.ones(3, dtype=D), 1e-10, nde.DiscreteAdjoint())
    for got, want in zip(gots, wants, strict=True):
        assert torch.allclose(got, want, rtol=1e-6, atol=1e-6 * want.abs().max().item())


@pytest.mark.parametrize("kind", [nde.GaussAdjoint, nde.InterpolatingAdjoint, nde.BacksolveAdjoint])
def test_the_backward_solve_of_one_number_for_each_entry_is_that_of_one_number(kind):
    calls = [0]

    def field(t, y):
        calls[0] += 1
        return in_ones(t, y)

    def run(atol, rtol):
        calls[0] = 0
        y0 = torch.ones(3, dtype=D, requires_grad=True)
        sol = nde.solve(nde.ODEProblem(field, y0, (0.0, 2.0)), rtol=rtol, atol=atol, adjoint=kind())
        return torch.autograd.grad(sol.y1[2], y0)[0], calls[0]

    (one, count), (each, other) = run(1e-8, 1e-6), run([1e-8] * 3, [1e-6] * 3)
    assert count == other
    assert torch.allclose(one, each, rtol=1e-11)


def test_compiled_solves_take_them(graphs_only):
    y0, atol = UNITS.clone(), 1e-8 * UNITS
    want = nde.solve(nde.ODEProblem(in_units, y0, (0.0, 2.0)), rtol=1e-6, atol=atol)
    options = {"rtol": np.float64(1e-6), "atol": atol.tolist(), "compile": True}
    got = nde.NeuralODE(in_units, (0.0, np.float64(2.0)), **options)(y0)[1]
    assert got.stats.steps == want.stats.steps
    assert torch.allclose(got.y1, want.y1, rtol=1e-9)


def test_an_sde_takes_them():
    y0 = torch.tensor([1.0, 1e-6], dtype=D)
    sde = nde.SDEProblem(lambda t, y: -y, lambda t, y: 0.3 * y, y0, (0.0, 1.0))
    scaled = nde.solve(sde, rtol=1e-3, atol=[1e-4, 1e-10], seed=3)
    alike = nde.SDEProblem(lambda t, y: -y, lambda t, y: 0.3 * y, torch.ones(2, dtype=D), (0.0, 1.0))
    same = nde.solve(alike, rtol=1e-3, atol=1e-4, seed=3)  # the same numbers in other units
    assert scaled.stats.steps == same.stats.steps
    assert torch.allclose(
        scaled.y1 / y0, same.y1, rtol=1e-4
    )  # a path is rough: rounding of a time is no rounding of it


@pytest.mark.parametrize(
    ("atol", "message"),
    [
        ([1e-6, 1e-6], r"atol: got \[1e-06, 1e-06\]; .*broadcasts against the shape of y0, \(3,\)"),
        ([1e-6, -1.0, 1e-6], "expected finite numbers, 0 or positive"),
        (torch.tensor([1.0, float("nan"), 1.0]), "expected finite numbers, 0 or positive"),
        ({"a": 1e-6}, "atol: got {'a': 1e-06}"),
        (torch.ones(3, dtype=torch.bool), "expected real numbers"),
        (torch.ones(3, requires_grad=True), "requires grad"),
        (torch.tensor(1e-6, requires_grad=True), "requires grad"),
        (True, "atol: got True; expected a number"),
        (None, "atol: got None; expected a number"),
        ("1e-6", "atol: got '1e-6'; expected a number"),
        (Decimal("1e-6"), "atol: got Decimal"),
        (1j, "atol: got 1j"),
        (10**400, "atol: got 1000"),
    ],
)
def test_other_things_are_refused_by_name(atol, message):
    with pytest.raises(nde.InvalidProblemError, match=message):
        nde.solve(problem(), atol=atol)


def test_an_entry_without_any_tolerance_is_refused():
    with pytest.raises(nde.InvalidProblemError, match="got 0 for both of an entry"):
        nde.solve(problem(), rtol=0.0, atol=[1e-6, 0.0, 1e-6])
    assert nde.solve(problem(), rtol=1e-4, atol=[1e-6, 0.0, 1e-6], max_steps=100, throw=False).stats.steps


NUMBERS = [
    np.float32(0.5),
    np.float64(0.5),
    Fraction(1, 2),
    np.array(0.5),
    torch.tensor(0.5),
    torch.tensor(0.5, dtype=D),
]


@pytest.mark.parametrize("half", NUMBERS, ids=lambda x: f"{type(x).__name__}-{getattr(x, 'dtype', '')}")
def test_every_real_is_a_number_everywhere(half):
    plain = nde.ODEProblem(lambda t, y: -y, torch.ones(2, dtype=D), (0.0, 0.5))
    given = nde.ODEProblem(lambda t, y: -y, torch.ones(2, dtype=D), (0 * half, half))
    controller = {"dtmin": 0.0, "dtmax": 0.5, "safety": 0.5}
    want = nde.solve(plain, rtol=0.5, atol=0.5, dt=0.5, controller=nde.IController(**controller))
    got = nde.solve(
        given, rtol=half, atol=half, dt=half, controller=nde.IController(dtmin=0 * half, dtmax=half, safety=half)
    )
    assert torch.equal(got.y1, want.y1)
    assert nde.IController(dtmin=0 * half, dtmax=half, safety=half) == nde.IController(**controller)
    assert nde.regularizers.STEER(half).b == 0.5
    assert nde.regularizers.Constant(half).weight == 0.5
    assert nde.Reversible(nde.Tsit5(), half).coupling == 0.5
    assert nde.DynamicSS(t_max=half, path_rtol=half).t_max == 0.5
    assert nde.SteadyStateProblem(lambda t, y: -y, torch.ones(1), t=half).t == 0.5
    assert nde.GaussAdjoint(rtol=half).rtol == half


@pytest.mark.parametrize("two", [np.int64(2), np.uint8(2), np.array(2), torch.tensor(2)])
def test_every_integral_is_an_int(two):
    assert nde.Blocks(size=two).size == 2
    assert nde.DiscreteAdjoint(checkpoints=two).checkpoints == 2
    assert nde.Event(lambda t, y: y, probes=two).probes == 2
    assert nde.SROCK(stages=two).stages == 2
    path = nde.BrownianPath((1,), two, 0.0, 1.0)
    assert torch.equal(path(0.0, 0.5), nde.BrownianPath((1,), 2, 0.0, 1.0)(0.0, 0.5))
    assert nde.solve(problem(), max_steps=two, throw=False).stats.steps == 2
    sde = nde.SDEProblem(lambda t, y: -y, lambda t, y: y, torch.ones(1), (0.0, 0.1))
    assert nde.solve(sde, nde.EulerMaruyama(), dt=0.1, seed=two).seed == 2


@pytest.mark.parametrize("make", [
    lambda x: nde.Blocks(size=x),
    lambda x: nde.PIController(dtmin=x),
    lambda x: nde.PIController(safety=x),
    lambda x: nde.PIController(beta=(x,)),
    lambda x: nde.DiscreteAdjoint(checkpoints=x),
    lambda x: nde.solve(nde.ODEProblem(lambda t, y: y, torch.ones(1), (0.0, x))),
    lambda x: nde.solve(problem(), dt=x),
    lambda x: nde.solve(problem(), max_steps=x),
    lambda x: nde.BrownianPath((1,), x, 0.0, 1.0),
])  # fmt: skip
@pytest.mark.parametrize("value", [True, np.True_, torch.tensor(True), "1", torch.ones(2), 1j, Decimal(1)])
def test_what_is_no_number_is_none_anywhere(make, value):
    with pytest.raises(nde.InvalidProblemError, match=r": got .*expected"):
        make(value)


def test_a_number_is_python_s():
    for value in (*NUMBERS, np.int64(3), torch.tensor(3), np.float16(2.0)):
        assert type(as_number(value)) in (int, float)
    assert as_number(np.array([1.0])) is None
    assert as_number(float("nan")) != as_number(float("nan"))


def caught(y0, f=lambda t, y: -y, **options):
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        sol = nde.solve(nde.ODEProblem(f, y0, (0.0, 1.0)), **options)
    assert all(warning.filename == __file__ for warning in heard)
    return [str(warning.message) for warning in heard], sol


@pytest.mark.parametrize("options", [{}, {"per_sample": True}, {"dt": 0.1}])
def test_a_state_far_below_its_tolerance_is_named(options):
    y0 = torch.full((2, 2), 1e-12, dtype=D)
    heard, sol = caught(y0, **options)
    assert len(heard) == 1
    assert heard[0].startswith("atol is 1e+06 times the largest entry of y0")
    assert "give an atol well below" in heard[0]
    heard, fine = caught(y0, atol=1e-18, **options)
    assert not heard
    assert caught(y0, f=lambda t, y: 20 * y)[0]  # it grows, from an error as large as itself
    assert torch.as_tensor(sol.stats.nfe > sol.stats.steps).all()
    assert torch.allclose(fine.y1, y0 * torch.exp(torch.tensor(-1.0, dtype=D)), rtol=1e-3)


@pytest.mark.parametrize(
    ("y0", "f", "atol"),
    [
        ([0.0, 0.0], lambda t, y: 0.0 * y, 1e-6),
        ([0.0, 0.0], lambda t, y: 1.0 - y, 1e-6),
        ([1e-9, 1e-9], lambda t, y: 1.0 - y, 1e-6),
        ([1.0, 1e-12], lambda t, y: -y, 1e-6),
        ([1e-12, 1e-12], lambda t, y: -y, [1e-15, 1e-15]),
        ([1e-6, 1e-6], lambda t, y: -y, 1e-6),
    ],
)
def test_no_false_alarm(y0, f, atol):
    assert caught(torch.tensor(y0, dtype=D), f, atol=atol)[0] == []
