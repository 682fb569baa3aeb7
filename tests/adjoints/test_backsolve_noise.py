"""The continuous adjoint of stochastic equations: its distance from the exact gradient shrinks with dt."""

import math

import pytest
import torch

import neuralde as nde

F64 = torch.float64
FIXED = nde.ConstantStep()
COUNTS = (8, 16, 32, 64)
TS = [0.0, 0.5, 1.0]
CASES = {
    "diagonal": ("stratonovich", nde.Heun(), 1.0),
    "scalar": ("stratonovich", nde.EulerHeun(), 1.0),
    "additive": ("stratonovich", nde.Heun(), 1.0),
    "general": ("stratonovich", nde.Heun(), 1.0),  # both solves follow the same lines, whatever the path does between
    "ito diagonal": ("ito", nde.ItoMilstein(), 1.0),
    "ito scalar": ("ito", nde.SRIW1(), 1.0),
    "ito additive": ("ito", nde.EulerMaruyama(), 1.0),
    "ito general": ("ito", nde.EulerMaruyama(), 0.5),
}


class Model(torch.nn.Module):
    """Non-autonomous; drift and diffusion share a parameter, and columns do not commute."""

    def __init__(self, noise):
        super().__init__()
        made = torch.Generator().manual_seed(0)
        self.noise = noise
        self.a = torch.nn.Parameter(0.8 * torch.randn(2, 2, dtype=F64, generator=made))
        self.b = torch.nn.Parameter(0.8 * torch.randn(2, 2, dtype=F64, generator=made))
        self.unused = torch.nn.Parameter(torch.ones(2, dtype=F64))

    def drift(self, t, y, k):
        return k * torch.tanh(y @ self.a + torch.cos(2.0 * t)) - 0.3 * y

    def diffusion(self, t, y, k):
        if self.noise == "additive":
            return ((0.5 + t) * self.b * k).expand(*y.shape, 2)
        if self.noise == "diagonal":
            return 0.6 * torch.sin(y + self.a[0] * k) + 0.2 * t
        if self.noise == "scalar":
            return (0.6 * torch.sin(y @ self.b * k) + 0.2 * t).unsqueeze(-1)
        columns = [torch.sin(y @ self.b * k) + 0.2 * t, torch.cos(y.flip(-1) + self.a[0])]
        return 0.6 * torch.stack(columns, -1)


def setup(noise, calculus, tspan=(0.0, 1.0), samples=50):
    model = Model(noise)
    made = torch.Generator().manual_seed(1)
    y0 = torch.randn(samples, 2, dtype=F64, generator=made).requires_grad_()
    k = torch.tensor(0.7, dtype=F64, requires_grad=True)
    problem = nde.SDEProblem(model.drift, model.diffusion, y0, tspan, (k,), noise, calculus)
    return problem, [y0, k, model.a, model.b, model.unused]


def brownian(noise, samples=50, dt=1 / 64):
    columns = {"scalar": (1,)}.get(noise, (2,))
    return nde.BrownianPath((samples, *columns), 5, 0.0, 1.0, "space-time", dt=dt, dtype=F64)


def gradients(problem, inputs, solver, adjoint, saveat=TS, **options):
    sol = nde.solve(problem, solver, saveat=saveat, adjoint=adjoint, **options)
    loss = sol.ys.square().sum() + sol.y1.sin().sum() + sum(cost.sum() for cost in sol.regularization)
    found = torch.autograd.grad(loss, inputs, allow_unused=True)
    assert found[-1] is None or not found[-1].any()
    return [g for g in found if g is not None]


def worst(one, other):
    return max(((a - b).norm() / b.norm()).item() for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("case", CASES)
def test_the_distance_from_the_exact_gradient_has_the_order_of_the_noise(case):
    """Pathwise, for the initial states; the parameters' sum over all paths must come along."""
    calculus, solver, claim = CASES[case]
    noise = case.split()[-1]
    problem, inputs = setup(noise, calculus, samples=200)
    path, errors, shares = brownian(noise, 200), [], []
    for n in COUNTS:
        options = {"path": path, "dt": 1.0 / n, "controller": FIXED}
        exact = gradients(problem, inputs, solver, nde.DiscreteAdjoint(), **options)
        found = gradients(problem, inputs, solver, nde.BacksolveAdjoint(), **options)
        errors.append(worst(found[:1], exact[:1]))
        shares.append(worst(found[1:], exact[1:]))
    x = torch.tensor([[math.log(1.0 / n), 1.0] for n in COUNTS], dtype=F64)
    slope = torch.linalg.lstsq(x, torch.tensor(errors, dtype=F64).log().unsqueeze(-1)).solution[0, 0].item()
    print(case, slope, errors, shares)
    assert slope > claim - 0.15, errors
    assert shares[-1] < 0.05
    assert shares[-1] < 0.7 * shares[0]


@pytest.mark.parametrize("calculus", ["ito", "stratonovich"])
@pytest.mark.parametrize("noise", ["diagonal", "scalar"])
def test_geometric_brownian_motion(calculus, noise):
    """``y1 = y0 exp((a - b^2 / 2) t + b W)``, without the second term in Stratonovich's sense."""
    a, b = (torch.tensor(x, dtype=F64, requires_grad=True) for x in (0.4, 0.7))
    y0 = torch.tensor([[1.0], [0.5], [2.0]], dtype=F64, requires_grad=True)
    path = nde.BrownianPath((3, 1), 5, 0.0, 1.0, dt=1 / 1024, dtype=F64)

    def diffusion(t, y, a, b):
        return b * y if noise == "diagonal" else (b * y).unsqueeze(-1)

    problem = nde.SDEProblem(lambda t, y, a, b: a * y, diffusion, y0, (0.0, 1.0), (a, b), noise, calculus)
    solver = nde.ItoMilstein() if calculus == "ito" else nde.Midpoint()
    sol = nde.solve(problem, solver, path=path, dt=1 / 256, controller=FIXED, adjoint=nde.BacksolveAdjoint())
    w = path(0.0, 1.0)
    exact = y0 * torch.exp((a - 0.5 * b**2 if calculus == "ito" else a) + b * w)
    found = torch.autograd.grad(sol.y1.sum(), [y0, a, b])
    wanted = torch.autograd.grad(exact.sum(), [y0, a, b])
    assert worst(found, wanted) < 0.01


@pytest.mark.parametrize("calculus", ["ito", "stratonovich"])
def test_adapted_steps(calculus):
    problem, inputs = setup("diagonal", calculus, samples=4)
    solver = nde.SOSRI() if calculus == "ito" else nde.SPaRK()
    options = {"seed": 3, "rtol": 3e-3, "atol": 3e-3, "saveat": [1.0]}
    exact = gradients(problem, inputs, solver, nde.DiscreteAdjoint(), **options)
    found = gradients(problem, inputs, solver, nde.BacksolveAdjoint(), **options)
    print(worst(found, exact))
    assert worst(found, exact) < 0.03


@pytest.mark.parametrize("backward", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize("calculus", ["ito", "stratonovich"])
def test_samples_with_clocks_of_their_own_running_costs_and_both_directions(calculus, backward):
    ends = [torch.tensor([0.0, 0.1, 0.25], dtype=F64), torch.tensor(1.0, dtype=F64)]
    problem, inputs = setup("diagonal", calculus, tuple(reversed(ends)) if backward else tuple(ends), samples=3)
    solver = nde.ItoMilstein() if calculus == "ito" else nde.Heun()
    options = {"path": brownian("diagonal", 3), "controller": FIXED, "per_sample": True}
    options["saveat"] = [0.75, 0.5] if backward else [0.5, 0.75]
    options["regularizers"] = [nde.RunningCost(lambda t, y, k: k * (t * y * y).sum(-1))]
    errors = []
    for dt in (1 / 16, 1 / 64):
        exact = gradients(problem, inputs, solver, nde.DiscreteAdjoint(), dt=dt, **options)
        found = gradients(problem, inputs, solver, nde.BacksolveAdjoint(), dt=dt, **options)
        off, whole = (
            torch.cat([x.reshape(-1) for x in parts]).norm().item()
            for parts in ([a - b for a, b in zip(found, exact, strict=True)], exact)
        )
        errors.append(off / whole)
    print(errors)
    assert errors[1] < 0.02
    assert errors[1] < errors[0] / 2


def test_drift_and_noise_that_jump():
    y0 = torch.ones(4, 1, dtype=F64)
    k = torch.tensor(0.8, dtype=F64, requires_grad=True)

    def twice_late(t, k):
        return torch.where(t < 0.4, k, 2 * k)

    problem = nde.SDEProblem(
        lambda t, y: twice_late(t, k) * y,
        lambda t, y: 0.3 * twice_late(t, k) * y,
        y0,
        (0.0, 1.0),
        (),
        "diagonal",
        "stratonovich",
    )
    path = nde.BrownianPath((4, 1), 2, 0.0, 1.0, dtype=F64)
    options = {"path": path, "dt": 1 / 64, "controller": nde.ConstantStep(jump_ts=[0.4])}
    sol = nde.solve(problem, nde.Heun(), adjoint=nde.BacksolveAdjoint(), **options)
    found = torch.autograd.grad(sol.y1.sum(), k)[0]
    before, after = path(0.0, 0.4), path(0.4, 1.0)
    rate = 0.4 + 0.3 * before + 2 * (0.6 + 0.3 * after)
    assert found.item() == pytest.approx((rate * torch.exp(k * rate)).sum().item(), rel=2e-3)


def test_the_calls_of_a_backward_pass_do_not_depend_on_the_parameters_and_nothing_is_kept():
    calls = []
    k = torch.tensor(0.5, dtype=F64, requires_grad=True)

    def drift(t, y):
        calls.append(torch.is_grad_enabled())
        return -k * y

    problem = nde.SDEProblem(
        drift, lambda t, y: 0.1 * y, torch.ones(2, dtype=F64), (0.0, 1.0), (), "diagonal", "stratonovich"
    )
    sol = nde.solve(problem, nde.Heun(), dt=0.05, seed=0, controller=FIXED, adjoint=nde.BacksolveAdjoint())
    forward = len(calls)
    assert not any(calls[2:])
    sol.y1.sum().backward()
    assert len(calls) - forward == 20 * 3  # two stages, and one look at the parameters


@pytest.mark.parametrize("noise", ["diagonal", "scalar"])
def test_a_diffusion_that_mixes_what_noises_move_is_refused_or_right(noise):
    """In Ito's sense its correction is not the derivative along the diffusion; in Stratonovich's there is none."""
    y0 = torch.linspace(-1.0, 1.0, 6, dtype=F64).reshape(3, 2).requires_grad_()

    def diffusion(t, y):
        g = 0.3 * torch.cos(y.flip(-1) if noise == "diagonal" else y - y.mean(0))
        return g if noise == "diagonal" else g.unsqueeze(-1)

    def solved(calculus):
        problem = nde.SDEProblem(lambda t, y: -y, diffusion, y0, (0.0, 1.0), (), noise, calculus)
        solver = nde.EulerMaruyama() if calculus == "ito" else nde.Heun()
        options = {"dt": 1 / 128, "seed": 0, "controller": FIXED}
        sums = [
            nde.solve(problem, solver, adjoint=adjoint, **options).y1.square().sum()
            for adjoint in (nde.BacksolveAdjoint(), nde.DiscreteAdjoint())
        ]
        return [torch.autograd.grad(x, y0)[0] for x in sums]

    with pytest.raises(nde.InvalidProblemError, match=r"diffusion: a.* depends on other entries .* DiscreteAdjoint"):
        solved("ito")
    assert worst(*([x] for x in solved("stratonovich"))) < 0.02


def test_what_it_does_not_do_is_refused_by_name():
    problem, inputs = setup("diagonal", "ito", samples=3)
    with pytest.raises(
        nde.InvalidProblemError, match=r"solver: got .*Milstein.* expected a Runge-Kutta method of order 2"
    ):
        nde.solve(problem, nde.ItoMilstein(), dt=0.1, seed=0, adjoint=nde.BacksolveAdjoint(solver=nde.ItoMilstein()))
    with pytest.raises(nde.InvalidProblemError, match="order 1 does not see the noise twice"):
        nde.solve(problem, nde.ItoMilstein(), dt=0.1, seed=0, adjoint=nde.BacksolveAdjoint(solver=nde.Euler()))
    with pytest.raises(nde.InvalidProblemError, match=r"controller: .* steps cannot be adapted"):
        nde.solve(problem, nde.SOSRI(), rtol=1e-2, seed=0, adjoint=nde.BacksolveAdjoint(solver=nde.RK4()))
    with pytest.raises(nde.InvalidProblemError, match="GaussAdjoint does not differentiate an SDEProblem"):
        nde.solve(problem, nde.SOSRI(), rtol=1e-2, seed=0, adjoint=nde.GaussAdjoint())
    sol = nde.solve(problem, nde.ItoMilstein(), dt=0.1, seed=0, controller=FIXED, adjoint=nde.BacksolveAdjoint())
    (first,) = torch.autograd.grad(sol.y1.sum(), inputs[0], create_graph=True)
    with pytest.raises(nde.InvalidProblemError, match="BacksolveAdjoint gives first derivatives only"):
        torch.autograd.grad(first.square().sum(), inputs[0])


def test_the_backward_solve_begins_with_the_last_step_of_the_forward_one():
    """Looking for a first step would call the drift beside the end, at a distance of a thousandth of that step."""
    times = []

    def drift(t, y):
        times.append(float(t))
        return -y

    y0 = torch.ones(4, 2, dtype=torch.float64, requires_grad=True)
    problem = nde.SDEProblem(drift, lambda t, y: 0.3 * y, y0, (0.0, 1.0), calculus="stratonovich")
    sol = nde.solve(problem, nde.Heun(), rtol=1e-3, atol=1e-3, seed=1, adjoint=nde.BacksolveAdjoint(), trace=True)
    last = sol.trace.dt[sol.trace.accepted][-1].item()
    times.clear()
    sol.y1.sum().backward()
    assert times[0] == 1.0
    assert last / 2 < 1.0 - times[1] < 2 * last
    assert len(times) <= 148
