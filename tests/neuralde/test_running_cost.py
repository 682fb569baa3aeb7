"""RunningCost: orders, closed forms, the augmented state, and gradients under every adjoint."""

import math

import pytest
import torch

import neuralde as nde

ADJOINTS = {
    "direct": (nde.DirectAdjoint(), nde.Tsit5()),
    "discrete": (nde.DiscreteAdjoint(checkpoints=3), nde.Tsit5()),
    "forward": (nde.ForwardSensitivity(), nde.Tsit5()),
    "reversible": (nde.ReversibleAdjoint(), nde.Reversible(nde.Tsit5())),
    "backsolve": (nde.BacksolveAdjoint(), nde.Tsit5()),
    "gauss": (nde.GaussAdjoint(), nde.Tsit5()),
    "interpolating": (nde.InterpolatingAdjoint(), nde.Tsit5()),
}
both = pytest.mark.parametrize("per_sample", [False, True], ids=["joint", "per_sample"])


def leaf(x):
    return torch.tensor(x, dtype=torch.float64, requires_grad=True)


def field(t, y, k):
    return -k * y * torch.cos(3 * t)


def cost(t, y, k):
    return (y.square() * torch.cos(3 * t)).sum(-1)


def exact(y0, k, t0, t1):
    """y = y0 exp(-k (sin 3t - sin 3 t0) / 3), so y^2 cos 3t is the derivative of -y^2 / 2k."""
    end = y0 * torch.exp(-k * (torch.sin(3 * t1) - torch.sin(3 * t0)) / 3)
    return ((y0**2 - end**2) / (2 * k)).sum(-1)


@pytest.mark.parametrize(
    ("solver", "steps"),
    [("Euler", 160), ("Midpoint", 40), ("Bosh3", 40), ("RK4", 40), ("Tsit5", 20), ("Dopri8", 8), ("Vern7", 10)],
)
def test_it_has_the_order_of_the_solution(solver, steps):
    method = getattr(nde, solver)()
    y0, k, times = torch.ones(1, dtype=torch.float64), leaf(2.0).detach(), (0.0, 2.0)
    wanted = exact(y0, k, *map(leaf, times)).item()
    errors = []
    for n in (steps, 2 * steps, 4 * steps):
        sol = nde.solve(
            nde.ODEProblem(field, y0, times, (k,)),
            method,
            dt=2.0 / n,
            controller=nde.ConstantStep(),
            regularizers=[nde.RunningCost(cost)],
        )
        errors.append(abs(sol.regularization[0].item() - wanted))
    assert math.log2(errors[1] / errors[2]) > method.order - 0.35


@both
@pytest.mark.parametrize("name", ADJOINTS)
def test_closed_form(name, per_sample):
    adjoint, solver = ADJOINTS[name]
    inputs = leaf([[1.0, 0.5], [0.7, -1.0], [0.1, 2.0]]), leaf(1.3), leaf(0.2), leaf(1.9)
    weights = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    sol = nde.solve(
        nde.ODEProblem(field, inputs[0], inputs[2:], (inputs[1],)),
        solver,
        adjoint=adjoint,
        per_sample=per_sample,
        regularizers=[nde.RunningCost(cost)],
        rtol=1e-9,
        atol=1e-9,
    )
    (got,) = sol.regularization
    wanted = exact(*inputs)
    assert got.shape == (3,)
    torch.testing.assert_close(got, wanted, rtol=1e-7, atol=1e-8)
    got = torch.autograd.grad((weights * got).sum(), inputs)
    wanted = torch.autograd.grad((weights * wanted).sum(), inputs)
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "per_sample"),
    [
        ("direct", False),
        ("discrete", True),
        ("forward", True),
        ("reversible", False),
        ("backsolve", True),
        ("gauss", False),
        ("interpolating", False),
        ("interpolating", True),
    ],
)
def test_like_the_augmented_state_and_right_by_differences(name, per_sample):
    """A state that the field and the cost are not linear in, a cost with a parameter, and states in the loss as well."""
    adjoint, solver = ADJOINTS[name]
    w, k = leaf(1.5), leaf(0.7)
    y0 = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def field(t, y, c):
        return -k * y * torch.cos(3 * t) + 0.2 * torch.sin(c * y)

    def rate(t, y, c):
        return (w * y.square() * torch.cos(t).reshape(-1, 1) * c).sum(-1)

    def augmented(t, y, c):
        inner = y[..., :3]
        return torch.cat([field(t, inner, c), rate(t, inner, c).unsqueeze(-1)], dim=-1)

    def loss(sol):
        return (sol.regularization[0] * torch.arange(1.0, 4.0)).sum() + 0.1 * sol.ys.sum()

    problem = nde.ODEProblem(field, y0, (0.0, 2.0), (torch.tensor(0.5, dtype=torch.float64),))
    options = {"rtol": 1e-5, "atol": 1e-7, "per_sample": per_sample, "saveat": [0.5, 1.5]}
    regularizers = [nde.RunningCost(rate)]
    extra = {"loss": loss, "regularizers": regularizers, "directions": 1, "show": False}
    result = nde.testing.check_gradients(problem, solver, adjoint, **extra, **options)
    assert result.ok, str(result)
    assert {row.name for row in result.rows} == {"y0", "args[0]", "k", "fn.w", "t0", "t1"}
    right = "right" if adjoint.capabilities.exact else "right to the tolerance"
    assert all(row.verdict.startswith(right) for row in result.rows), str(result)
    with torch.no_grad():
        sol = nde.solve(problem, solver, regularizers=regularizers, **options | {"rtol": 1e-9, "atol": 1e-9})
        bigger = nde.ODEProblem(augmented, torch.cat([y0, torch.zeros(3, 1)], dim=1), (0.0, 2.0), problem.args)
        reference = nde.solve(bigger, rtol=1e-10, atol=1e-10).y1[:, 3]
    torch.testing.assert_close(sol.regularization[0], reference, rtol=1e-7, atol=1e-8)


def test_backwards_and_empty_intervals():
    y0 = torch.tensor([1.0, 0.5], dtype=torch.float64)

    def integral(t0, t1):
        problem = nde.ODEProblem(field, y0, (t0, t1), (1.3,))
        return nde.solve(problem, regularizers=[nde.RunningCost(cost)], rtol=1e-8, atol=1e-8).regularization[0]

    wanted = exact(y0, *map(leaf, (1.3, 2.0, 0.5)))
    assert abs(integral(2.0, 0.5) - wanted) < 1e-7
    assert integral(1.0, 1.0) == 0


@both
def test_through_events(per_sample):
    """Fall from height h with a bounce: the path's length, and its derivative with respect to everything."""
    h, e = leaf(1.0), leaf(0.8)
    bounce = nde.Event(
        lambda t, y, e: y[..., 0],
        "down",
        terminal=False,
        apply=lambda t, y, e: torch.stack([y[..., 0], -e * y[..., 1]], dim=-1),
    )

    def fall(t, y, e):
        return torch.stack([y[..., 1], -10.0 + 0 * y[..., 1]], dim=-1)

    y0 = torch.stack([h, 0 * h])
    problem = nde.ODEProblem(fall, y0.expand(2, 2) if per_sample else y0, (0.0, 0.6), (e,))
    energy = nde.RunningCost(lambda t, y, e: y[..., 1] ** 2)
    sol = nde.solve(problem, events=bounce, regularizers=[energy], per_sample=per_sample, rtol=1e-9, atol=1e-9)
    t = torch.sqrt(h / 5.0)
    up = e * 10.0 * t
    wanted = 100.0 * t**3 / 3 + (up**3 - (up - 10.0 * (0.6 - t)) ** 3) / 30.0
    (got,) = sol.regularization
    got = got[1] if per_sample else got
    torch.testing.assert_close(got, wanted, rtol=1e-8, atol=0.0)
    for a, b in zip(torch.autograd.grad(got, (h, e)), torch.autograd.grad(wanted, (h, e)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=0.0)


def test_trees_compact_and_second_derivatives():
    k = leaf([0.5, 1.0, 4.0])
    y0 = {"x": torch.ones(3, 1, dtype=torch.float64), "k": k.unsqueeze(1)}
    problem = nde.ODEProblem(
        lambda t, y: {"x": -y["k"] * y["x"], "k": 0 * y["k"]}, y0, (0.0, torch.tensor([1.0, 0.5, 2.0]))
    )
    area = nde.RunningCost(lambda t, y: y["x"])
    options = {"per_sample": True, "rtol": 1e-9, "atol": 1e-9, "regularizers": [area]}
    wanted = (1 - torch.exp(-k * problem.tspan[1])) / k
    (first,) = torch.autograd.grad(wanted.sum(), k, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), k)
    for compact in (False, True):
        (got,) = nde.solve(problem, adjoint=nde.DirectAdjoint(), compact=compact, **options).regularization
        torch.testing.assert_close(got, wanted, rtol=1e-7, atol=0.0)
        (slope,) = torch.autograd.grad(got.sum(), k, create_graph=True)
        torch.testing.assert_close(slope, first, rtol=1e-6, atol=0.0)
        torch.testing.assert_close(torch.autograd.grad(slope.sum(), k)[0], second, rtol=1e-5, atol=0.0)


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (3, "fn: got int"),
        (lambda t, y: 1.0, "fn: got float"),
        (lambda t, y: y, r"fn: got shape \(3, 2\)"),
        (lambda t, y: (y > 0).sum(), "fn: got a torch.int64 tensor"),
        (lambda t, y: y.mul_(2.0).sum(), "fn: changed the state in-place"),
    ],
)
def test_bad_input(fn, message):
    problem = nde.ODEProblem(lambda t, y: -y, torch.ones(3, 2), (0.0, 1.0))
    with pytest.raises(nde.InvalidProblemError, match=message):
        nde.solve(problem, regularizers=[nde.RunningCost(fn)], adjoint=nde.DirectAdjoint())
    if callable(fn):
        with pytest.raises(nde.InvalidProblemError, match="fn: "):
            nde.solve(problem, regularizers=[nde.RunningCost(lambda t, y: y.sum())], per_sample=True)


@pytest.mark.slow
def test_compiled():
    k = leaf(1.3)
    y0 = torch.tensor([1.0, 0.5], dtype=torch.float64)

    def loss(k):
        problem = nde.ODEProblem(field, y0, (0.0, 2.0), (k,))
        return nde.solve(problem, regularizers=[nde.RunningCost(cost)], rtol=1e-6, atol=1e-8).regularization[0]

    got = torch.compile(loss, fullgraph=True)(k)
    torch.testing.assert_close(got, loss(k), rtol=1e-9, atol=0.0)
    torch.testing.assert_close(*(torch.autograd.grad(x, k)[0] for x in (got, loss(k))), rtol=1e-9, atol=0.0)
