"""The contract of solve(): accuracy, forms of input and output, counts, failures, samples, bad input."""

import math
from collections import namedtuple

import pytest
import torch

import neuralde as nde

D = torch.float64
ALL = ["Euler", "Midpoint", "Heun", "Ralston", "RK4", "Bosh3", "Tsit5", "Dopri5", "Dopri8", "Vern7", "Vern9"]
ADAPTIVE = [name for name in ALL if name not in ("Euler", "RK4")]


def field(t, y):
    """Nonlinear, non-autonomous, two coupled components: y = (exp(sin t), 1 + 2 cos t) solves it."""
    a, b = y[..., 0], y[..., 1]
    s, c = torch.sin(t), torch.cos(t)
    g = b - 1 - 2 * c
    return torch.stack([a * c + g * a, -2 * s + torch.sin(g) + a * a * torch.exp(-2 * s) - 1], dim=-1)


def exact(t):
    return torch.stack([torch.exp(torch.sin(t)), 1 + 2 * torch.cos(t)], dim=-1)


def problem(t1=2.0, t0=0.0, f=field):
    return nde.ODEProblem(f, exact(torch.tensor(t0, dtype=D)), (t0, t1))


def counted(f=field):
    calls = [0]

    def g(t, y, *args):
        calls[0] += 1
        return f(t, y, *args)

    return g, calls


@pytest.mark.parametrize("name", ADAPTIVE)
def test_error_follows_the_tolerance(name):
    solver = getattr(nde, name)()
    loose, tight = (1e-4, 1e-6) if solver.order <= 3 else (1e-6, 1e-9)
    errors = []
    for tolerance in (loose, tight):
        sol = nde.solve(problem(1.0), solver, rtol=tolerance, atol=tolerance, max_steps=100_000)
        errors.append((sol.y1 - exact(torch.tensor(1.0, dtype=D))).norm().item())
        assert errors[-1] < 100 * tolerance
    assert errors[1] < errors[0]


@pytest.mark.parametrize(
    "options", [{}, {"dense": True}, {"saveat": [0.3, 0.31, 1.7]}, {"saveat": "steps", "trace": True}, {"dt": 0.5}]
)
@pytest.mark.parametrize("name", ALL)
def test_nfe_is_the_number_of_calls(name, options):
    solver = getattr(nde, name)()
    if not solver.adaptive:
        options = {"dt": 0.1, **options}
    f, calls = counted()
    sol = nde.solve(problem(f=f), solver, **options)
    assert sol.stats.nfe == calls[0]
    assert sol.stats.steps == sol.stats.accepted + sol.stats.rejected


def test_fsal_and_rejections_cost_no_extra_calls():
    f, calls = counted()
    sol = nde.solve(problem(f=f), nde.Tsit5(), rtol=1e-6, dt=1.5)
    assert sol.stats.rejected > 0
    assert calls[0] == 1 + 6 * sol.stats.steps
    f, calls = counted()
    sol = nde.solve(problem(f=f), nde.Vern7(), rtol=1e-8, dt=1.5)
    assert sol.stats.rejected > 0
    assert calls[0] == 10 * sol.stats.steps - sol.stats.rejected


@pytest.mark.parametrize("dtype", [torch.float32, D, torch.complex64, torch.complex128])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4), (0,), (0, 3)])
def test_shapes_and_dtypes(dtype, shape):
    seen = set()

    def f(t, y):
        seen.add((t.dtype, t.dim(), t.device))
        return -y

    y0 = torch.ones(shape, dtype=dtype)
    sol = nde.solve(nde.ODEProblem(f, y0, (0.0, 1.0)), saveat=[0.0, 0.5, 1.0], rtol=1e-5)
    assert sol.ys.shape == (3, *shape)
    assert sol.ys.dtype == dtype
    assert torch.allclose(sol.y1, y0 * math.exp(-1), rtol=1e-4)
    assert seen == {(torch.float64 if dtype in (D, torch.complex128) else torch.float32, 0, y0.device)}


def test_complex_rotation():
    sol = nde.solve(
        nde.ODEProblem(lambda t, y: 1j * t * y, torch.ones(2, dtype=torch.complex128), (0.0, 2.0)), rtol=1e-9, atol=1e-9
    )
    assert torch.allclose(sol.y1, torch.full((2,), 2j, dtype=torch.complex128).exp(), atol=1e-7)


def test_pytrees():
    Pair = namedtuple("Pair", "u v")
    y0 = {
        "a": torch.ones(2, 3),
        "b": [torch.ones((), dtype=D), Pair(torch.zeros(4), torch.ones(2, dtype=torch.complex64))],
    }

    def f(t, y):
        assert y["b"][1].u.shape == (4,)
        return {"a": -y["a"], "b": [y["b"][0] * torch.cos(t), Pair(torch.ones(4), 1j * y["b"][1].v)]}

    sol = nde.solve(nde.ODEProblem(f, y0, (0.0, 1.0)), saveat=[0.5, 1.0], rtol=1e-6, dense=True)
    assert sol.ys["a"].shape == (2, 2, 3)
    assert sol.y1["b"][0].dtype == D
    assert torch.allclose(sol.y1["b"][0], torch.tensor(math.exp(math.sin(1)), dtype=D), atol=1e-5)
    assert torch.allclose(sol.y1["b"][1].v, torch.full((2,), 1j).exp(), atol=1e-5)
    assert torch.allclose(sol(1.0)["b"][1].u, torch.ones(4), atol=1e-6)


def test_backwards_and_tensor_ends():
    t0, t1 = torch.tensor(2.0, dtype=D), torch.tensor(0.5)
    sol = nde.solve(
        nde.ODEProblem(field, exact(t0), (t0, t1)), rtol=1e-9, atol=1e-9, saveat=[2.0, 1.3, 0.5], dense=True
    )
    want = exact(torch.tensor([2.0, 1.3, 0.5], dtype=D))
    assert torch.allclose(sol.ys, want, atol=1e-6)
    assert torch.allclose(sol(torch.tensor([1.9, 0.7], dtype=D)), exact(torch.tensor([1.9, 0.7], dtype=D)), atol=1e-6)


def test_empty_interval():
    sol = nde.solve(nde.ODEProblem(field, torch.ones(2), (1.0, 1.0)), saveat=[1.0, 1.0])
    assert torch.equal(sol.ys, torch.ones(2, 2))
    assert sol.stats.steps == 0


@pytest.mark.parametrize(("offset", "span"), [(0.0, 1e-9), (1e6, 1.0), (1e8, 1.0), (-1e6, 1e-3)])
def test_time_keeps_its_precision_with_float32_states(offset, span):
    y0 = torch.ones(1)
    sol = nde.solve(nde.ODEProblem(lambda t, y: y / span, y0, (offset, offset + span)), rtol=1e-5)
    assert abs(sol.y1.item() - math.e) < 1e-3


@pytest.mark.parametrize("seed", range(20))
def test_ends_exactly_at_the_end_and_saves_at_the_edges(seed):
    torch.manual_seed(seed)
    t0, span, dt = (
        torch.rand(3, dtype=D) * torch.tensor([4.0, 2.0, 0.7], dtype=D) - torch.tensor([2.0, 0, 0], dtype=D)
    ).tolist()
    t1, seen = t0 + span, []

    def f(t, y):
        seen.append(t.item())
        return -y

    ts = torch.linspace(t0, t1, 4, dtype=torch.float32)  # float32 rounding moves the outermost times
    for options in ({}, {"controller": nde.ConstantStep(), "dt": dt}):
        sol = nde.solve(
            nde.ODEProblem(f, torch.ones(1, dtype=D), (t0, t1)), saveat=ts, rtol=10 ** -(seed % 8 + 2.0), **options
        )
        assert sol.ys.isfinite().all()
    assert max(seen) == t1
    steps = nde.solve(nde.ODEProblem(f, torch.ones(1, dtype=D), (t0, t1)), saveat="steps").ts
    assert (steps[0].item(), steps[-1].item()) == (t0, t1)


def test_trace_and_steps():
    sol = nde.solve(problem(), rtol=1e-6, dt=1.5, trace=True, saveat="steps")
    trace = sol.trace
    assert len(trace.t) == sol.stats.steps
    assert trace.accepted.sum() == sol.stats.accepted
    assert torch.equal(trace.accepted, trace.error <= 1)
    assert torch.equal((trace.t + trace.dt)[trace.accepted], sol.ts[1:])
    assert not trace.error.requires_grad


def test_stiffness_is_the_decay_rate():
    sol = nde.solve(
        nde.ODEProblem(lambda t, y: -80 * (y - torch.cos(t)), torch.zeros(1, dtype=D), (0.0, 1.0)), trace=True
    )
    assert torch.allclose(sol.trace.stiffness, torch.full_like(sol.trace.stiffness, 80.0), rtol=1e-6)


def jumping(t, y):
    return torch.where(t < 0.4, 1.0, -2.0) * torch.ones_like(y)


@pytest.mark.parametrize("dtype", [torch.float32, D])
@pytest.mark.parametrize("per_sample", [False, True])
def test_jumps_are_seen_from_the_right_side(dtype, per_sample):
    y0 = torch.zeros(2, dtype=dtype)
    options = dict(controller=nde.PIController(jump_ts=[0.4]), saveat=[0.4, 1.0], per_sample=per_sample)
    sol = nde.solve(nde.ODEProblem(jumping, y0, (0.0, 1.0)), rtol=1e-6, **options)
    assert torch.allclose(sol.ys[:, 0], torch.tensor([0.4, -0.8], dtype=dtype), atol=1e-6)
    assert torch.as_tensor(sol.stats.rejected).sum() == 0
    without = nde.solve(nde.ODEProblem(jumping, y0, (0.0, 1.0)), rtol=1e-6)
    assert without.stats.rejected > 0


@pytest.mark.parametrize("controller", [nde.IController, nde.PIController, nde.PIDController])
def test_controllers_land_and_keep_their_limits(controller):
    sol = nde.solve(problem(), controller=controller(step_ts=[0.7, 5.0, 1.1], dtmax=0.11), saveat="steps", rtol=1e-6)
    assert {0.7, 1.1} <= set(sol.ts.tolist())
    assert sol.ts.diff().max() <= 0.11 + 1e-6
    with pytest.raises(nde.StepSizeError):
        nde.solve(problem(), controller=controller(dtmin=0.5), rtol=1e-9, atol=1e-9)


def test_step_to_and_user_tableau():
    sol = nde.solve(problem(), nde.Tsit5(), controller=nde.StepTo(ts=[0.5, 0.9]), saveat="steps")
    assert sol.ts.tolist() == [0.0, 0.5, 0.9, 2.0]
    kutta = nde.ButcherTableau(
        a=((), (0.5,), (-1.0, 2.0)),
        b=(1 / 6, 2 / 3, 1 / 6),
        c=(0.0, 0.5, 1.0),
        order=3,
        b_embedded=(0.0, 1.0, 0.0),
        embedded_order=2,
    )
    sol = nde.solve(problem(), nde.RungeKutta(kutta, "Kutta3"), rtol=1e-6, atol=1e-6, dense=True, per_sample=False)
    assert (sol(1.0) - exact(torch.tensor(1.0, dtype=D))).norm() < 1e-4


FAILURES = [
    (lambda t, y: y**2, nde.StepSizeError, {}),
    (lambda t, y: y / (t < 0.7), nde.NonFiniteError, {}),
    (lambda t, y: y + torch.where(t > 0.7, torch.nan, 0.0), nde.NonFiniteError, {"solver": nde.RK4(), "dt": 0.01}),
    (lambda t, y: -y, nde.MaxStepsError, {"max_steps": 7, "controller": nde.PIController(dtmax=0.1)}),
]


@pytest.mark.parametrize(("f", "error", "options"), FAILURES)
def test_failures_keep_what_was_computed(f, error, options):
    ts = [0.0, 0.2, 0.6, 1.8, 2.0]
    whole = nde.ODEProblem(f, torch.ones(2, dtype=D), (0.0, 2.0))
    with pytest.raises(error) as caught:
        nde.solve(whole, saveat=ts, **options)
    sol = caught.value.solution
    assert sol.ys[:3].isfinite().all()
    assert sol.ys[3:].isnan().all()
    quiet = nde.solve(whole, saveat=ts, throw=False, **options)
    assert torch.equal(quiet.ys[:3], sol.ys[:3])
    assert quiet.status == sol.status != nde.Status.SUCCESS
    assert nde.solve(whole, throw=False, **options).ys.isnan().all()
    assert quiet.y1.isfinite().all()


def test_what_the_field_raises_comes_through():
    def f(t, y):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        nde.solve(problem(f=f))


def rates(t, y):
    return -y * y[..., 1:] * torch.cos(t) * torch.tensor([1.0, 0.0], dtype=D)


def batch():
    return torch.tensor([[1.0, 1.0], [2.0, 30.0], [0.5, 3.0], [1.0, 0.0]], dtype=D)


@pytest.mark.parametrize("compact", [False, True])
def test_samples_are_independent_to_the_last_bit(compact):
    options = dict(rtol=1e-6, per_sample=True, saveat=[0.0, 0.7, 1.9, 2.0], dense=True, trace=True)
    together = nde.solve(nde.ODEProblem(rates, batch(), (0.0, 2.0)), compact=compact, **options)
    for index, y0 in enumerate(batch()):
        alone = nde.solve(nde.ODEProblem(rates, y0[None], (0.0, 2.0)), **options)
        assert torch.equal(alone.ys[:, 0], together.ys[:, index])
        assert alone.stats.nfe[0] == together.stats.nfe[index]
        assert torch.equal(alone(1.3)[0], together(1.3)[index])
    order = torch.tensor([2, 0, 3, 1])
    shuffled = nde.solve(nde.ODEProblem(rates, batch()[order], (0.0, 2.0)), compact=compact, **options)
    assert torch.equal(shuffled.ys, together.ys[:, order])


def test_compact_evaluates_the_sum_of_what_samples_need():
    rows = [0]

    def f(t, y):
        rows[0] += len(y)
        return rates(t, y)

    sol = nde.solve(nde.ODEProblem(f, batch(), (0.0, 2.0)), per_sample=True, compact=True, rtol=1e-7)
    assert rows[0] == sol.stats.nfe.sum()
    assert rows[0] < 0.7 * 4 * sol.stats.nfe.max()


@pytest.mark.parametrize("compact", [False, True])
def test_a_failing_sample_changes_nothing_for_the_others(compact):
    def f(t, y):
        return torch.where((y > 50) & (t > 0.5), torch.nan, -y)

    y0 = torch.tensor([[1.0], [1e3], [2.0]], dtype=D)
    options = dict(per_sample=True, compact=compact, throw=False, saveat=[0.2, 1.0])
    sol = nde.solve(nde.ODEProblem(f, y0, (0.0, 1.0)), **options)
    assert sol.status.tolist() == [0, int(nde.Status.NON_FINITE), 0]
    healthy = nde.solve(nde.ODEProblem(f, y0[[0, 2]], (0.0, 1.0)), **options)
    assert torch.equal(sol.ys[:, [0, 2]], healthy.ys)
    assert sol.ys[0, 1].isfinite().all()
    assert sol.ys[1, 1].isnan().all()
    with pytest.raises(nde.NonFiniteError, match=r"1 of 3 samples \[1\]"):
        nde.solve(nde.ODEProblem(f, y0, (0.0, 1.0)), per_sample=True)


def test_samples_with_their_own_times():
    t0, t1 = torch.tensor([0.0, 2.0, 1.0]), torch.tensor([1.0, 0.5, 1.0])
    y0 = exact(t0.to(D))
    ts = torch.tensor([[0.1, 1.9, 1.0], [0.9, 0.6, 1.0]], dtype=D)

    def f(t, y):
        assert t.shape == (3, 1)
        return field(t[:, 0], y)

    sol = nde.solve(nde.ODEProblem(f, y0, (t0, t1)), per_sample=True, saveat=ts, rtol=1e-9, atol=1e-9)
    assert sol.ts.shape == (2, 3)
    assert torch.allclose(sol.ys, exact(ts), atol=1e-6)
    steps = nde.solve(nde.ODEProblem(f, y0, (t0, t1)), per_sample=True, saveat="steps")
    assert torch.equal((~steps.ts.isnan()).sum(0) - 1, steps.stats.accepted)


def test_joint_solves_agree_with_scipy_and_torchdiffeq():
    import numpy as np
    import torchdiffeq
    from scipy.integrate import solve_ivp

    def numpy_field(t, y):
        return field(torch.tensor(t, dtype=D), torch.as_tensor(y)).numpy()

    ts = [0.0, 0.8, 2.0]
    y0 = exact(torch.tensor(0.0, dtype=D))
    reference = solve_ivp(numpy_field, (0.0, 2.0), y0.numpy(), "DOP853", ts, rtol=1e-12, atol=1e-12).y.T
    for name in ("Tsit5", "Dopri8", "Vern9"):
        ys = nde.solve(problem(), getattr(nde, name)(), saveat=ts, rtol=1e-10, atol=1e-10).ys
        assert np.abs(ys.numpy() - reference).max() < 2e-8
    theirs = torchdiffeq.odeint(field, y0, torch.tensor(ts, dtype=D), rtol=1e-8, atol=1e-8, method="dopri5")
    assert (nde.solve(problem(), nde.Dopri5(), saveat=ts, rtol=1e-8, atol=1e-8).ys - theirs).abs().max() < 1e-6


def ode(**changes):
    return nde.ODEProblem(**{"f": lambda t, y: -y, "y0": torch.ones(3), "tspan": (0.0, 1.0), **changes})


BAD_PROBLEMS = [
    ("f", {"f": 3}),
    ("f", {"f": None}),
    ("y0", {"y0": 1.0}),
    ("y0", {"y0": [1.0]}),
    ("y0", {"y0": ()}),
    ("y0", {"y0": None}),
    ("y0", {"y0": torch.ones(3, dtype=torch.int64)}),
    ("y0", {"y0": torch.ones(3, dtype=torch.bool)}),
    ("y0", {"y0": torch.ones(3, dtype=torch.float16)}),
    ("y0", {"y0": torch.ones(3, dtype=torch.bfloat16)}),
    ("y0", {"y0": (torch.ones(3), "x")}),
    ("args", {"args": [1.0]}),
    ("args", {"args": torch.ones(1)}),
    ("args", {"args": 2.0}),
    ("tspan", {"tspan": 1.0}),
    ("tspan", {"tspan": (0.0,)}),
    ("tspan", {"tspan": (0.0, 1.0, 2.0)}),
    ("tspan", {"tspan": (0.0, math.nan)}),
    ("tspan", {"tspan": (0.0, math.inf)}),
    ("tspan", {"tspan": (-math.inf, 0.0)}),
    ("tspan", {"tspan": ("0", 1.0)}),
    ("tspan", {"tspan": (None, 1.0)}),
    ("tspan", {"tspan": (True, 2.0)}),
    ("tspan", {"tspan": (0.0, 1j)}),
    ("tspan", {"tspan": (0.0, torch.tensor(math.nan))}),
    ("tspan", {"tspan": (0.0, torch.ones(2, 2))}),
    ("tspan", {"tspan": (0.0, torch.tensor(1j))}),
    ("tspan", {"tspan": torch.tensor([0.0, 1.0])}),
]
BAD_OPTIONS = [
    ("problem", {"problem": 3}),
    ("solver", {"solver": nde.Tsit5}),
    ("solver", {"solver": "tsit5"}),
    ("rtol", {"rtol": -1.0}),
    ("rtol", {"rtol": math.nan}),
    ("rtol", {"rtol": math.inf}),
    ("rtol", {"rtol": "x"}),
    ("rtol", {"rtol": None}),
    ("rtol", {"rtol": True}),
    ("atol", {"atol": -1.0}),
    ("atol", {"atol": math.nan}),
    ("atol", {"atol": math.inf}),
    ("atol", {"atol": [1.0, 1.0]}),
    ("dt", {"dt": 0.0}),
    ("dt", {"dt": -0.1}),
    ("dt", {"dt": math.nan}),
    ("dt", {"dt": math.inf}),
    ("dt", {"dt": "x"}),
    ("dt", {"dt": True}),
    ("dt", {"solver": nde.RK4()}),
    ("saveat", {"saveat": "x"}),
    ("saveat", {"saveat": []}),
    ("saveat", {"saveat": [0.5, 0.2]}),
    ("saveat", {"saveat": [2.0]}),
    ("saveat", {"saveat": [-0.1, 0.5]}),
    ("saveat", {"saveat": [math.nan]}),
    ("saveat", {"saveat": [[0.5]]}),
    ("saveat", {"saveat": 0.5}),
    ("saveat", {"saveat": torch.tensor([True])}),
    ("saveat", {"saveat": [1j]}),
    ("saveat", {"saveat": torch.zeros(2, 5), "per_sample": True}),
    ("saveat", {"saveat": object()}),
    ("controller", {"controller": nde.PIController}),
    ("controller", {"controller": "PI"}),
    ("controller", {"controller": nde.PIController(), "solver": nde.Euler(), "dt": 0.1}),
    ("adjoint", {"adjoint": nde.DirectAdjoint}),
    ("adjoint", {"adjoint": "direct"}),
    ("regularizers", {"regularizers": [nde.regularizers.ErrorEstimate]}),
    ("regularizers", {"regularizers": ["error"]}),
    ("compact", {"compact": True}),
    ("max_steps", {"max_steps": 0}),
    ("max_steps", {"max_steps": 2.5}),
    ("max_steps", {"max_steps": None}),
    ("max_steps", {"max_steps": True}),
    ("tspan", {"problem": ode(tspan=(0.0, torch.ones(3)))}),
    ("tspan", {"problem": ode(tspan=(0.0, torch.ones(2))), "per_sample": True}),
    ("y0", {"problem": ode(y0=torch.tensor(1.0)), "per_sample": True}),
    ("y0", {"problem": ode(y0=(torch.ones(2), torch.ones(3)), f=lambda t, y: y), "per_sample": True}),
    ("f", {"problem": ode(f=lambda t, y: None)}),
    ("f", {"problem": ode(f=lambda t, y: 1.0)}),
    ("f", {"problem": ode(f=lambda t, y: y[:2])}),
    ("f", {"problem": ode(f=lambda t, y: y.sum())}),
    ("f", {"problem": ode(f=lambda t, y: y[None])}),
    ("f", {"problem": ode(f=lambda t, y: y.double())}),
    ("f", {"problem": ode(f=lambda t, y: 1j * y)}),
    ("f", {"problem": ode(f=lambda t, y: (y,))}),
    ("f", {"problem": ode(y0=(torch.ones(2), torch.ones(1)), f=lambda t, y: list(y))}),
    ("f", {"problem": ode(y0={"a": torch.ones(2)}, f=lambda t, y: {"b": y["a"]})}),
    ("f", {"problem": ode(y0=(torch.ones(2),), f=lambda t, y: y[0])}),
    ("f", {"problem": ode(f=lambda t, y: t)}),
]
BAD_PARTS = [
    ("jump_ts", lambda: nde.PIController(jump_ts=[math.nan])),
    ("step_ts", lambda: nde.PIController(step_ts="x")),
    ("dtmin", lambda: nde.PIController(dtmin=-1.0)),
    ("dtmax", lambda: nde.PIController(dtmax=0.0)),
    ("dtmax", lambda: nde.PIController(dtmin=1.0, dtmax=0.5)),
    ("safety", lambda: nde.PIController(safety=-1.0)),
    ("factor_max", lambda: nde.IController(factor_max=math.nan)),
    ("checkpoints", lambda: nde.DiscreteAdjoint(checkpoints=0)),
    ("checkpoints", lambda: nde.DiscreteAdjoint(checkpoints=1.5)),
    ("rtol", lambda: nde.BacksolveAdjoint(rtol=-1)),
    ("solver", lambda: nde.BacksolveAdjoint(solver="x")),
    ("reduction", lambda: nde.regularizers.ErrorEstimate("median")),
    ("sampling", lambda: nde.regularizers.Local(sampling="x")),
    ("h", lambda: nde.regularizers.Local(h="x")),
    ("b", lambda: nde.regularizers.STEER(b=-1)),
    ("tableau", lambda: nde.RungeKutta("x")),
    ("b", lambda: nde.solve(ode(), regularizers=[nde.regularizers.STEER(b=1.0)])),
    ("dense", lambda: nde.solve(ode())(0.5)),
    ("t", lambda: nde.solve(ode(), dense=True)(1.5)),
]


@pytest.mark.parametrize(("name", "changes"), BAD_PROBLEMS)
def test_bad_problems_are_refused_by_name(name, changes):
    with pytest.raises(nde.InvalidProblemError, match=rf"^{name}: got .*expected"):
        ode(**changes)


@pytest.mark.parametrize(("name", "changes"), BAD_OPTIONS)
def test_bad_options_are_refused_by_name(name, changes):
    with pytest.raises(nde.InvalidProblemError, match=rf"^{name}: got .*expected"):
        nde.solve(**{"problem": ode(), **changes})


@pytest.mark.parametrize(("name", "make"), BAD_PARTS)
def test_bad_parts_are_refused_by_name(name, make):
    with pytest.raises(nde.InvalidProblemError, match=rf"^{name}: got .*expected"):
        make()


def test_unknown_keywords_are_errors():
    with pytest.raises(TypeError, match="tol"):
        nde.solve(ode(), tol=1e-3)
