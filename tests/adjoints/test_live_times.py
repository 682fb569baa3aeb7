"""Gradients of times, wherever a user can give them: against finite differences and exact solutions in float64."""

import math

import numpy as np
import pytest
import torch

import neuralde as nde

D = torch.float64
EXACT = {
    "direct": nde.DirectAdjoint(),
    "discrete": nde.DiscreteAdjoint(),
    "checkpointed": nde.DiscreteAdjoint(checkpoints=3),
    "forward": nde.ForwardSensitivity(),
}
CONTINUOUS = {
    "gauss": nde.GaussAdjoint(),
    "interpolating": nde.InterpolatingAdjoint(),
    "backsolve": nde.BacksolveAdjoint(),
}
ADJOINTS = [pytest.param(adjoint, id=name) for name, adjoint in (EXACT | CONTINUOUS).items()]
K = 0.2


class Dose:
    """An input that switches on at one time and off at another, and knows it."""

    def __init__(self, times, knots=None):
        self.times = times
        self.knots = times if knots is None else knots

    def __call__(self, t):
        first, last = self.times[0], self.times[1]
        return 1.0 + 2.0 * ((t >= first) & (t < last))


def field(t, y, u):
    return u(t) - K * y * y


def switching(give, adjoint=None, *, tspan=(0.0, 4.0), batch=None, dtype=D, controls=False, **options):
    """The solution of a switched field whose times ``give`` makes from two numbers."""
    y0 = torch.tensor([0.1, 0.4], dtype=D) if batch is None else torch.tensor([[0.1], [0.4], [1.0]], dtype=D)

    def solve(a, b):
        times = give(a, b)
        plain = [a.item(), b.item()]
        u = Dose(plain, times) if controls else Dose(plain, [])
        controller = None if controls else nde.PIController(jump_ts=times)
        problem = nde.ODEProblem(field, y0, tspan, args=(u,))
        return nde.solve(
            problem,
            controller=controller,
            adjoint=adjoint,
            per_sample=batch is not None,
            **({"solver": nde.Vern7(), "rtol": 1e-9, "atol": 1e-9} | options),
        )

    return solve


def differences(value, a, b, h=1e-4):
    """Central differences of fourth order."""
    with torch.no_grad():
        for i in range(2):
            at = {
                k: value(*[x.detach() + (k * h if i == j else 0.0) for j, x in enumerate((a, b))])
                for k in (-2, -1, 1, 2)
            }
            yield (8 * (at[1] - at[-1]) - (at[2] - at[-2])) / (12 * h)


def checked(solve, value, tolerance=1e-6, key=None, known={}):  # noqa: B006
    """The gradient against differences, which are the same for every adjoint: those of one ``key`` are taken once."""
    a, b = (torch.tensor(x, dtype=D, requires_grad=True) for x in (1.3, 2.6))
    got = torch.autograd.grad(value(solve(a, b)), (a, b))
    wanted = known.get(key)
    if wanted is None:
        wanted = torch.stack(list(differences(lambda *x: value(solve(*x)), a, b)))
        known |= {} if key is None else {key: wanted}
    assert (wanted.abs() > 1e-3).all()
    torch.testing.assert_close(torch.stack(got), wanted, rtol=tolerance, atol=tolerance)


GIVEN = {
    "stacked": lambda a, b: torch.stack([a, b]),
    "list": lambda a, b: [a, b],
    "tuple": lambda a, b: (b, a),
    "nested": lambda a, b: [[a], [b]],
    "mixed": lambda a, b: [0.7, b, a, torch.tensor(3.1)],
    "outside": lambda a, b: [a, b, a - 9, b + 9],
    "numpy beside": lambda a, b: [np.float32(0.5), a, 3, b],
}


def end(sol):
    return sol.y1.sum()


@pytest.mark.covering(2)
@pytest.mark.parametrize("adjoint", ADJOINTS)
@pytest.mark.parametrize("batch", [None, 3], ids=["joint", "per_sample"])
@pytest.mark.parametrize("controls", [False, True], ids=["jump_ts", "knots"])
def test_times_of_jumps(controls, batch, adjoint):
    checked(switching(GIVEN["list"], adjoint, batch=batch, controls=controls), end, key=("end", batch))


@pytest.mark.parametrize("controls", [False, True], ids=["jump_ts", "knots"])
@pytest.mark.parametrize("given", list(GIVEN))
def test_however_they_are_given(given, controls):
    checked(switching(GIVEN[given], controls=controls), end, key=("end", None))


@pytest.mark.covering(1)
@pytest.mark.parametrize("adjoint", ADJOINTS)
@pytest.mark.parametrize("batch", [None, 3], ids=["joint", "per_sample"])
def test_backwards_in_time_and_at_save_times(batch, adjoint):
    solve = switching(GIVEN["list"], adjoint, batch=batch, tspan=(4.0, 0.0), saveat=[3.0, 2.0, 1.0], atol=1e-10)
    checked(solve, lambda sol: (sol.ys[0] + 2 * sol.ys[1] - sol.ys[2]).sum(), key=("back", batch))
    solve = switching(GIVEN["list"], adjoint, batch=batch, saveat=torch.linspace(0, 4, 9, dtype=D))
    checked(solve, lambda sol: (sol.ys * sol.ys).sum(), key=("rows", batch))


@pytest.mark.covering(1)
@pytest.mark.parametrize("adjoint", ADJOINTS)
@pytest.mark.parametrize("batch", [None, 3], ids=["joint", "per_sample"])
def test_with_events_and_a_running_cost(batch, adjoint):
    def lost(t, y, u):
        return (y * y).sum(-1) if batch else (y * y).sum()

    events = [
        nde.ScheduledEvent([0.8, 2.0], lambda t, y, u: y + 0.5),
        nde.Event(
            lambda t, y, u: y.reshape(-1, y.shape[-1])[:, 0].reshape(y.shape[:-1]) - 1.7,
            terminal=False,
            apply=lambda t, y, u: y + 0.3,
        ),
    ]
    solve = switching(
        GIVEN["list"], adjoint, batch=batch, events=events, regularizers=[nde.regularizers.RunningCost(lost)]
    )
    checked(solve, lambda sol: sol.y1.sum() + sol.regularization[0].sum(), key=("events", batch))


def test_dense_output_and_every_step():
    at = torch.tensor([0.5, 1.31, 1.9, 2.59, 3.0], dtype=D)
    for adjoint in EXACT.values():
        checked(switching(GIVEN["list"], adjoint, dense=True), lambda sol: (sol(at) ** 2).sum(), 1e-4)


def test_in_blocks_and_compact_and_reversible_solves():
    for name in ("direct", "discrete"):
        checked(switching(GIVEN["list"], EXACT[name], driver=nde.Blocks(size=3)), end, key=("end", None))
        checked(switching(GIVEN["list"], EXACT[name], batch=3, compact=True), end, key=("end", 3))
    pair = {"solver": nde.Reversible(nde.Tsit5())}
    checked(switching(GIVEN["list"], nde.ReversibleAdjoint(), **pair), end, 1e-5)


def test_second_derivatives():
    a, b = (torch.tensor(x, dtype=D, requires_grad=True) for x in (1.3, 2.6))
    rows = {}
    for name in ("direct", "discrete"):
        first = torch.autograd.grad(end(switching(GIVEN["list"], EXACT[name])(a, b)), (a, b), create_graph=True)
        rows[name] = torch.stack([torch.stack(torch.autograd.grad(g, (a, b), retain_graph=True)) for g in first])

    def slope(i):
        def value(x, z):
            with torch.enable_grad():
                x, z = (v.detach().requires_grad_() for v in (x, z))
                return torch.autograd.grad(end(switching(GIVEN["list"])(x, z)), (x, z))[i]

        return value

    wanted = torch.stack([torch.stack(list(differences(slope(i), a, b, 1e-3))) for i in range(2)])
    for got in rows.values():
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("controls", [False, True], ids=["jump_ts", "knots"])
def test_under_transforms(controls):
    a, b = torch.tensor(1.3, dtype=D), torch.tensor(2.6, dtype=D)
    # A transform's numbers are read by the host only where the library reads them: the input's own switch is fixed.
    u = Dose([1.3, 2.6], [])

    def value(a, b):
        owner = Dose([1.3, 2.6], [a, b]) if controls else u
        controller = None if controls else nde.PIController(jump_ts=[a, b])
        problem = nde.ODEProblem(field, torch.tensor([0.1, 0.4], dtype=D), (0.0, 4.0), args=(owner,))
        return nde.solve(problem, controller=controller, rtol=1e-9, atol=1e-9).y1.sum()

    wanted = torch.stack(list(differences(lambda *x: end(switching(GIVEN["list"])(*x)), a, b)))
    got = torch.stack(torch.func.grad(value, argnums=(0, 1))(a, b))
    torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-6)
    forward = torch.func.jvp(value, (a, b), (torch.ones_like(a), torch.zeros_like(b)))[1]
    torch.testing.assert_close(forward, wanted[0], rtol=1e-6, atol=1e-6)
    with pytest.raises(nde.InvalidProblemError, match="value for each lane"):
        torch.func.vmap(lambda a: value(a, b))(torch.stack([a, a + 0.1]))


def test_a_float32_time_keeps_its_graph():
    for dtype in (torch.float32, D):
        a, b = (torch.tensor(x, dtype=dtype, requires_grad=True) for x in (1.25, 2.5))
        y1 = end(switching(GIVEN["list"])(a, b))
        got = torch.autograd.grad(y1, (a, b))
        assert got[0].dtype is dtype
        wanted = list(differences(lambda *x: end(switching(GIVEN["list"])(*x)), a.double(), b.double()))
        torch.testing.assert_close(torch.stack(got).double(), torch.stack(wanted), rtol=1e-6, atol=1e-6)


def test_jumps_at_the_ends_and_outside_have_no_part():
    tau = torch.tensor([-1.0, 0.0, 4.0, 9.0], dtype=D, requires_grad=True)
    for adjoint in (*EXACT.values(), *CONTINUOUS.values()):
        problem = nde.ODEProblem(lambda t, y: -y, torch.ones(2, dtype=D, requires_grad=True), (0.0, 4.0))
        sol = nde.solve(problem, controller=nde.PIController(jump_ts=tau), adjoint=adjoint)
        (got,) = torch.autograd.grad(sol.y1.sum(), tau, allow_unused=True)
        assert got is None or not got.any()


def test_the_mesh_of_a_fixed_step_method():
    """The numerical solution depends on where its steps end, and that is differentiated exactly."""

    def value(a, b):
        problem = nde.ODEProblem(lambda t, y: -y * y * torch.cos(t), torch.ones(1, dtype=D), (0.0, 4.0))
        return nde.solve(problem, nde.RK4(), controller=nde.StepTo(ts=[a, 2.0, b])).y1.sum()

    a, b = (torch.tensor(x, dtype=D, requires_grad=True) for x in (1.3, 2.6))
    got = torch.autograd.grad(value(a, b), (a, b))
    torch.testing.assert_close(torch.stack(got), torch.stack(list(differences(value, a, b))), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_save_times_and_scheduled_times_in_a_list(adjoint):
    tau = torch.tensor(1.3, dtype=D, requires_grad=True)

    def grad(**options):
        problem = nde.ODEProblem(lambda t, y: 1 + torch.cos(t) - K * y, torch.zeros(1, dtype=D), (0.0, 4.0))
        sol = nde.solve(problem, rtol=1e-9, atol=1e-9, adjoint=adjoint, **options)
        return torch.autograd.grad((sol.ys * torch.arange(1.0, len(sol.ys) + 1).reshape(-1, 1)).sum(), tau)[0]

    def add(t, y):
        return y + 1.0

    for kind in (list, tuple):
        assert grad(saveat=kind([tau, 2 * tau])) == grad(saveat=torch.stack([tau, 2 * tau]))
        event, stacked = (nde.ScheduledEvent(f([tau, 2 * tau]), add) for f in (kind, torch.stack))
        assert grad(events=event) == grad(events=stacked)
    slope = (
        1
        + math.cos(1.3)
        - K
        * nde.solve(
            nde.ODEProblem(lambda t, y: 1 + torch.cos(t) - K * y, torch.zeros(1, dtype=D), (0.0, 1.3)),
            rtol=1e-10,
            atol=1e-10,
        ).y1.item()
    )
    torch.testing.assert_close(grad(saveat=[0.5, tau, 3]), torch.tensor(2 * slope, dtype=D), rtol=1e-6, atol=0.0)


def test_times_of_each_sample_in_nested_lists():
    tau = torch.tensor([0.5, 0.9], dtype=D, requires_grad=True)
    problem = nde.ODEProblem(lambda t, y: -y, torch.ones(2, 1, dtype=D), (0.0, 2.0))

    def grads(given):
        sol = nde.solve(problem, saveat=given, per_sample=True, rtol=1e-8, atol=1e-8)
        doses = nde.ScheduledEvent(given, lambda t, y: y + 1.0)
        dosed = nde.solve(problem, events=doses, per_sample=True, rtol=1e-8, atol=1e-8)
        return torch.autograd.grad(sol.ys.square().sum() + dosed.y1.square().sum(), tau)[0]

    wanted = grads(torch.stack([tau, tau + 0.2]))
    assert (wanted.abs() > 0.1).all()
    torch.testing.assert_close(grads([[tau[0], tau[1]], [tau[0] + 0.2, tau[1] + 0.2]]), wanted, rtol=0.0, atol=0.0)


def test_the_dense_output_at_a_list_of_times():
    tau = torch.tensor(0.5, dtype=D, requires_grad=True)
    problem = nde.ODEProblem(lambda t, y: -y, torch.ones((), dtype=D, requires_grad=True), (0.0, 1.0))
    sol = nde.solve(problem, dense=True, rtol=1e-9, atol=1e-9)
    for given in ([tau, 0.7], [[tau], [0.7]]):
        (got,) = torch.autograd.grad(sol(given).sum(), tau, retain_graph=True)
        torch.testing.assert_close(got, -torch.exp(-tau.detach()), rtol=1e-5, atol=0.0)


@pytest.mark.parametrize(
    "given", [[1, 3], np.array([1, 3]), np.array([1.0, 3.0], dtype=np.float32), range(1, 4, 2), torch.tensor([1, 3])]
)
def test_numbers_of_other_kinds(given):
    problem = nde.ODEProblem(lambda t, y: -y, torch.ones(1, dtype=D), (0, 4))
    ts = nde.solve(problem, controller=nde.PIController(step_ts=given, jump_ts=given), saveat="steps").ts
    assert torch.isin(torch.tensor([1.0, 3.0], dtype=D), ts).all()
    assert nde.solve(problem, nde.RK4(), controller=nde.StepTo(ts=given)).stats.accepted == 3
    assert len(nde.solve(problem, saveat=given).ys) == 2
    assert len(nde.solve(problem, events=nde.ScheduledEvent(given, lambda t, y: y)).events) == 2


def test_what_has_no_derivative_is_refused_with_the_remedy():
    live = torch.tensor(0.1, dtype=D, requires_grad=True)
    problem = nde.ODEProblem(lambda t, y: -y, torch.ones(1, dtype=D), (0.0, 1.0))
    sde = nde.SDEProblem(lambda t, y: -y, lambda t, y: 0.1 * y, torch.ones(1, 1, dtype=D), (0.0, 1.0))
    for name, call in {
        "dt": lambda: nde.solve(problem, nde.Euler(), dt=live),
        "dtmin": lambda: nde.PIController(dtmin=live),
        "dtmax": lambda: nde.PIController(dtmax=live),
        "jump_ts, step_ts": lambda: nde.solve(
            sde, nde.EulerMaruyama(), dt=0.1, controller=nde.ConstantStep(jump_ts=[live]), seed=1
        ),
        "saveat": lambda: nde.solve(sde, nde.EulerMaruyama(), dt=0.1, saveat=[live, 0.5], seed=1),
    }.items():
        with pytest.raises(nde.InvalidProblemError, match=rf"{name}.*: .*requires? grad"):
            call()
    adjoint = nde.DirectAdjoint(through_steps=True)
    with pytest.raises(nde.InvalidProblemError, match=r"jump_ts.*through_steps=True.*detach\(\)"):
        nde.solve(problem, controller=nde.PIController(jump_ts=[live]), adjoint=adjoint)
    with torch.no_grad():
        nde.solve(problem, nde.Euler(), dt=live, controller=nde.ConstantStep(jump_ts=[live]))
    nde.solve(problem, nde.Euler(), dt=live.detach())
