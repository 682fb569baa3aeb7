"""Gradients against finite differences of the frozen-step map, for every solver and adjoint.

The map: accepted step boundaries inside the interval are constants; y0, arguments, parameters, both ends of the interval
and the save times are its inputs. ``StepTo`` on the accepted times evaluates it.
"""

import functools

import numpy as np
import pytest
import torch

import neuralde as nde
from neuralde.regularizers import ErrorEstimate, StiffnessEstimate

D = torch.float64
ADAPTIVE = ["Heun", "Midpoint", "Ralston", "Bosh3", "Tsit5", "Dopri5", "Dopri8", "Vern7", "Vern9"]
FIXED = ["Euler", "RK4"]
EXACT = {
    "direct": lambda: nde.DirectAdjoint(),
    "discrete": lambda: nde.DiscreteAdjoint(),
    "checkpointed": lambda: nde.DiscreteAdjoint(checkpoints=3),
    "forward": lambda: nde.ForwardSensitivity(),
}


def inputs():
    torch.manual_seed(1)
    y0 = torch.randn(3, 2, dtype=D)
    weight = 0.7 * torch.randn(2, 2, dtype=D)
    return [
        y0,
        weight,
        torch.tensor(1.3, dtype=D),
        torch.tensor(0.2, dtype=D),
        torch.tensor(1.7, dtype=D),
        torch.tensor([0.2, 0.6, 1.1, 1.7], dtype=D),
    ]


def solve(values, solver, saved=True, **options):
    y0, weight, rate, t0, t1, ts = values

    def field(t, y, k):
        return torch.tanh(y @ weight) * torch.cos(k * t) - 0.2 * y * y * t

    problem = nde.ODEProblem(field, y0, (t0, t1), (rate,))
    options.setdefault("saveat", ts if saved else None)
    return nde.solve(problem, solver, **options)


def frozen(values, solver):
    """Options that evaluate the map of the accepted steps."""
    y0, weight, rate, t0, t1, _ = values
    field = lambda t, y, k: torch.tanh(y @ weight) * torch.cos(k * t) - 0.2 * y * y * t  # noqa: E731
    options = {"rtol": 1e-4, "atol": 1e-4} if solver.adaptive else {"dt": 0.25}
    sol = nde.solve(nde.ODEProblem(field, y0, (t0, t1), (rate,)), solver, saveat="steps", **options)
    return {"controller": nde.StepTo(ts=sol.ts[1:-1].tolist())}


def loss(sol):
    return (
        sol.ys * torch.sin(torch.arange(sol.ys.numel(), dtype=D)).reshape(sol.ys.shape)
    ).sum() + sol.y1.square().sum()


def numeric(function, values, eps=1e-4):
    """Central differences of order 4."""
    grads = []
    for index, value in enumerate(values):
        grad = torch.zeros_like(value).reshape(-1)
        for place in range(value.numel()):
            total = 0.0
            for shift, weight in ((1, 8), (-1, -8), (2, -1), (-2, 1)):
                moved = [v.clone() for v in values]
                moved[index].reshape(-1)[place] += shift * eps
                total += weight * function(moved).item()
            grad[place] = total / (12 * eps)
        grads.append(grad.reshape(value.shape))
    return grads


def check(got, want, tolerance=1e-6):
    for index, (a, b) in enumerate(zip(got, want, strict=True)):
        a = torch.zeros_like(b) if a is None else a
        assert (a - b).norm() <= tolerance * max(1.0, b.norm().item()), (index, a, b)


@pytest.mark.parametrize("name", ADAPTIVE + FIXED)
def test_every_solver_and_exact_adjoint(name):
    solver, values = getattr(nde, name)(), inputs()
    mesh = frozen(values, solver)
    inner = [*values[:5], values[5].clone()]
    inner[5][0], inner[5][-1] = 0.25, 1.65  # the outermost save times can move both ways
    with torch.no_grad():
        want = numeric(lambda v: loss(solve(v, solver, **mesh)), inner)
    for adjoint in EXACT.values():
        live = [v.clone().requires_grad_() for v in inner]
        options = {"dt": 0.25} if not solver.adaptive else {"rtol": 1e-4, "atol": 1e-4}
        sol = solve(live, solver, adjoint=adjoint(), **options)
        check(torch.autograd.grad(loss(sol), live), want)


@pytest.mark.parametrize("compact", [None, False, True])
@pytest.mark.parametrize("what", ["rows", "dense", "steps", "costs"])
def test_discrete_equals_direct(what, compact):
    options = {} if compact is None else {"per_sample": True, "compact": compact}
    if what == "steps":
        options["saveat"] = "steps"
    options["dense"] = what == "dense"
    if what == "costs":
        options["regularizers"] = [
            ErrorEstimate(),
            ErrorEstimate("sum", 0, scaled=False),
            StiffnessEstimate(),
            StiffnessEstimate("mean", 1),
        ]
    results = []
    for adjoint in EXACT.values():
        live = [v.clone().requires_grad_() for v in inputs()]
        sol = solve(live, nde.Tsit5(), adjoint=adjoint(), rtol=1e-4, atol=1e-4, **options)
        if what == "steps":
            value = sol.ys.nan_to_num().square().sum()
        elif what == "dense":
            value = sol(torch.tensor([0.3, 1.2], dtype=D)).square().sum() + sol.derivative(0.9).square().sum()
        elif what == "costs":
            value = sum(x.sum() for x in sol.regularization)
        else:
            value = loss(sol)
        results.append(
            [
                torch.zeros_like(v) if g is None else g
                for g, v in zip(torch.autograd.grad(value, live, allow_unused=True), live, strict=True)
            ]
        )
    for other in results[1:]:
        check(other, results[0], 1e-11)


@pytest.mark.parametrize(
    "cost",
    [
        ErrorEstimate(),
        ErrorEstimate("sum", 2),
        ErrorEstimate("max", 0, scaled=False),
        StiffnessEstimate(),
        StiffnessEstimate("mean", 1, normalized=False),
    ],
)
@pytest.mark.parametrize("adjoint", EXACT)
def test_regularizers_against_finite_differences_of_the_frozen_map(cost, adjoint):
    values, solver = inputs(), nde.Tsit5()
    mesh = frozen(values, solver)

    def number(v, **options):
        return solve(v, solver, False, regularizers=[cost], rtol=1e-4, atol=1e-4, **options).regularization[0]

    live = [v.clone().requires_grad_() for v in values[:3]] + values[3:]
    adaptive = number(live, adjoint=EXACT[adjoint]())
    with torch.no_grad():
        assert torch.allclose(adaptive, number(values, **mesh), rtol=1e-9)
        want = numeric(lambda v: number([*v, *values[3:]], **mesh), values[:3])
    got = torch.autograd.grad(adaptive, live[:3])
    for a, b in zip(got, want, strict=True):
        assert (a - b).norm() <= 1e-6 * b.norm() + 1e-9


def test_backsolve_converges_with_the_tolerance():
    def grads(adjoint, tolerance, solver):
        live = [v.clone().requires_grad_() for v in inputs()]
        sol = solve(live, solver, adjoint=adjoint, rtol=tolerance, atol=tolerance)
        return torch.autograd.grad(loss(sol), live)

    best = grads(nde.DirectAdjoint(), 1e-13, nde.Vern9())
    tolerances = (1e-4, 1e-6, 1e-8, 1e-10)
    errors, exact = [], []
    for tolerance in tolerances:
        for adjoint, found in ((nde.BacksolveAdjoint(), errors), (nde.DirectAdjoint(), exact)):
            got = grads(adjoint, tolerance, nde.Tsit5())
            found.append(max((a - b).norm().item() for a, b in zip(got, best, strict=True)))
    slope = np.polyfit(np.log(tolerances), np.log(errors), 1)[0]
    assert slope > 0.75, errors
    # Against the continuous gradient the derivative of the numerical solution has an error of that size too.
    assert all(a < 10 * max(b, tolerance) for a, b, tolerance in zip(errors, exact, tolerances, strict=True)), (
        errors,
        exact,
    )


def test_double_backward_and_forward_mode_through_direct():
    y0 = torch.randn(2, dtype=D, generator=torch.Generator().manual_seed(0))

    def out(y):
        problem = nde.ODEProblem(lambda t, y: torch.sin(y) * torch.cos(t), y, (0.0, 1.0))
        return nde.solve(problem, controller=nde.StepTo(ts=[0.2, 0.5, 0.7]), adjoint=nde.DirectAdjoint()).y1.sum()

    hessian = torch.autograd.functional.hessian(out, y0)
    y = y0.clone().requires_grad_()
    gradient = lambda v: torch.autograd.functional.jacobian(out, v)  # noqa: E731
    numeric_hessian = torch.stack([(gradient(y0 + e) - gradient(y0 - e)) / 2e-5 for e in 1e-5 * torch.eye(2, dtype=D)])
    assert torch.allclose(hessian, numeric_hessian, atol=1e-8)
    tangent = torch.tensor([0.3, -1.0], dtype=D)
    _, forward = torch.func.jvp(out, (y0,), (tangent,))
    assert torch.allclose(forward, torch.autograd.grad(out(y), y)[0] @ tangent, rtol=1e-12)


def test_through_steps_is_the_derivative_of_the_adaptive_map():
    def out(y, adjoint=None):
        problem = nde.ODEProblem(lambda t, y: torch.sin(3 * y) * torch.cos(t), y, (0.0, 2.0))
        # The heuristic first step is not differentiated, so it is given.
        return nde.solve(problem, nde.Bosh3(), rtol=1e-3, atol=1e-3, dt=0.05, adjoint=adjoint).y1.sum()

    y0 = torch.tensor([0.4, 0.9], dtype=D)
    live = y0.clone().requires_grad_()
    through = torch.autograd.grad(out(live, nde.DirectAdjoint(through_steps=True)), live)[0]
    fixed = torch.autograd.grad(out(live, nde.DirectAdjoint()), live)[0]
    with torch.no_grad():
        want = numeric(lambda v: out(v[0]), [y0], eps=1e-6)[0]
    assert (through - want).norm() < 1e-6 * want.norm()
    assert (fixed - want).norm() > 1e-3 * want.norm()


@pytest.mark.parametrize(
    "kind", ["module", "list", "dict", "closure", "default", "partial", "method", "global", "late"]
)
@pytest.mark.parametrize("adjoint", [nde.DiscreteAdjoint(), nde.BacksolveAdjoint()], ids=["discrete", "backsolve"])
def test_captured_parameters_are_found(kind, adjoint):
    global GLOBAL
    w = torch.tensor(0.7, dtype=D, requires_grad=True)
    GLOBAL = w

    class Holder:
        def __init__(self):
            self.inner = {"deep": [w]}

        def field(self, t, y):
            return self.inner["deep"][0] * y

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(w.detach().clone())

        def forward(self, t, y):
            return self.w * y

    net = Net()
    fields = {
        "module": net,
        "list": (lambda nets: lambda t, y: nets[0](t, y))([net]),
        "dict": (lambda held: lambda t, y: held["w"] * y)({"w": w}),
        "closure": lambda t, y: w * y,
        "default": lambda t, y, k=w: k * y,
        "partial": functools.partial(lambda k, t, y: k * y, w),
        "method": Holder().field,
        "global": lambda t, y: GLOBAL * y,
        "late": lambda t, y: w * y if t > 0.3 else 0.7 * y,
    }
    # The switch leaves no trace in the solution, so the step control has to be told of it.
    controller = nde.PIController(jump_ts=[0.3]) if kind == "late" else None
    problem = nde.ODEProblem(fields[kind], torch.ones((), dtype=D), (0.0, 1.0))
    sol = nde.solve(problem, rtol=1e-9, atol=1e-9, adjoint=adjoint, controller=controller)
    target = net.w if kind in ("module", "list") else w
    (got,) = torch.autograd.grad(sol.y1, target)
    want = (0.7 if kind == "late" else 1.0) * torch.e**0.7
    assert abs(got.item() - want) < 1e-6


def test_computed_captured_tensors_are_found_or_refused():
    w = torch.tensor(0.5, dtype=D, requires_grad=True)
    double = w * 2

    def grad_of(field, budget):
        problem, adjoint = (
            nde.ODEProblem(field, torch.ones((), dtype=D), (0.0, 1.0)),
            nde.DiscreteAdjoint(budget=budget),
        )
        return torch.autograd.grad(nde.solve(problem, rtol=1e-9, adjoint=adjoint).y1, w, retain_graph=True)[0]

    hidden = iter([double] * 1000)
    for budget in (None, 0):
        assert abs(grad_of(lambda t, y: double * y, budget).item() - 2 * torch.e) < 1e-5
    # In the caller's graph nothing has to be found.
    assert abs(grad_of(lambda t, y: next(hidden) * y, None).item() - 2 * torch.e) < 1e-5
    assert abs(grad_of(lambda t, y: double * y + w * y, None).item() - 3 * torch.e**1.5) < 1e-5
    with pytest.raises(nde.InvalidProblemError, match="captures both"):
        grad_of(lambda t, y: double * y + w * y, 0)
    with pytest.raises(nde.InvalidProblemError, match="cannot reach"):
        grad_of(lambda t, y: next(hidden) * y, 0)


@pytest.mark.parametrize("budget", [None, 0])
def test_parameters_changed_before_backward_are_noticed(budget):
    w = torch.tensor(0.5, dtype=D, requires_grad=True)
    problem = nde.ODEProblem(lambda t, y: w * y, torch.ones((), dtype=D), (0.0, 1.0))
    y1 = nde.solve(problem, adjoint=nde.DiscreteAdjoint(budget=budget)).y1
    with torch.no_grad():
        w.add_(1.0)
    with pytest.raises(RuntimeError, match="changed in place" if budget == 0 else "modified by an inplace operation"):
        y1.backward()


def test_a_failing_sample_does_not_touch_the_parameters_gradient():
    def grads(y0, bad):
        w = torch.tensor(0.5, dtype=D, requires_grad=True)

        def field(t, y):
            return w * y / torch.where((y > 50) & (t > 0.5), 0.0, 1.0)

        for adjoint in (nde.DirectAdjoint(), nde.DiscreteAdjoint()):
            sol = nde.solve(nde.ODEProblem(field, y0, (0.0, 1.0)), per_sample=True, throw=False, adjoint=adjoint)
            assert (sol.status[bad] != 0).all()
            keep = sol.status == 0
            yield torch.autograd.grad(sol.ys[0][keep].sum(), w)[0]

    healthy = torch.tensor([[1.0], [2.0]], dtype=D)
    with_bad = torch.tensor([[1.0], [100.0], [2.0]], dtype=D)
    for a, b in zip(grads(healthy, []), grads(with_bad, [1]), strict=True):
        assert torch.isfinite(b)
        assert abs(a - b) < 1e-14


def test_costs_with_a_continuous_adjoint_are_refused_unless_local():
    w = torch.tensor(0.5, dtype=D, requires_grad=True)
    problem = nde.ODEProblem(lambda t, y: w * y, torch.ones(2, dtype=D), (0.0, 1.0))
    with pytest.raises(nde.InvalidProblemError, match="ErrorEstimate with BacksolveAdjoint"):
        nde.solve(problem, adjoint=nde.BacksolveAdjoint(), regularizers=[ErrorEstimate()])
    sol = nde.solve(problem, adjoint=nde.BacksolveAdjoint(), regularizers=[nde.regularizers.Local()])
    assert torch.autograd.grad(sol.regularization[0], w)[0] != 0
    for name in ("Euler", "RK4"):
        with pytest.raises(nde.InvalidProblemError, match="no error estimate"):
            nde.solve(problem, getattr(nde, name)(), dt=0.1, regularizers=[ErrorEstimate()])
    with pytest.raises(nde.InvalidProblemError, match="no stiffness estimate"):
        nde.solve(problem, nde.Bosh3(), regularizers=[StiffnessEstimate()])
