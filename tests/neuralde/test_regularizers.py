"""The integral regularizers: against integrals that we did not write, exact gradients, every kind of solve, and cost."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

import neuralde as nde
from neuralde.regularizers import (
    ErrorEstimate,
    JacobianFrobenius,
    KineticEnergy,
    Local,
    StepCount,
    StiffnessEstimate,
    TaylorDerivative,
)
from neuralde.solvers.testing.ordinary import LIMIT_CYCLE, methods

D = torch.float64
KINDS = {
    "kinetic": KineticEnergy,
    "taylor": TaylorDerivative,
    "taylor 2, one point": lambda: TaylorDerivative(2, points=1, norm="sum"),
    "jacobian": JacobianFrobenius,
    "step count": StepCount,
    "error, max norm": lambda: ErrorEstimate(norm="max"),
    "error, raw max norm": lambda: ErrorEstimate(norm="max", scaled=False, reduction="max"),
}
CALLING = {"taylor": 2 * 3, "taylor 2, one point": 2, "jacobian": 2}
"""Calls of the field at each accepted step."""


def field(t, y, w):
    return torch.sin(w * t) * torch.tanh(y @ _MATRIX) - 0.4 * y


_MATRIX = torch.tensor([[0.3, -1.1], [0.9, 0.5]], dtype=D)


def solve(regularizer, y0=None, w=1.7, tspan=(0.0, 2.0), **options):
    y0 = torch.tensor([[0.8, -0.3], [0.1, 1.2], [-0.5, 0.4]], dtype=D) if y0 is None else y0
    options = {"rtol": 1e-6, "atol": 1e-6, **options}
    return nde.solve(nde.ODEProblem(field, y0, tspan, (w,)), regularizers=[regularizer], **options)


def reference(order):
    """The integral of the squared K-th derivative of the limit cycle's closed form, by autograd and Gauss's quadrature."""
    nodes, weights = (torch.as_tensor(x, dtype=D) for x in np.polynomial.legendre.leggauss(60))
    t0, t1 = LIMIT_CYCLE.tspan
    ts = (t0 + (t1 - t0) * (1 + nodes) / 2).requires_grad_()
    total = torch.zeros_like(ts)
    for component in LIMIT_CYCLE.at(ts).unbind(-1):
        for _ in range(order):
            (component,) = torch.autograd.grad(component.sum(), ts, create_graph=True)
        total = total + component.square()
    return float(((t1 - t0) / 2 * weights * total).sum().detach())


@pytest.mark.parametrize(
    ("regularizer", "order"),
    [
        (KineticEnergy(norm="sum"), 1),
        (TaylorDerivative(1, norm="sum"), 1),
        (TaylorDerivative(2, norm="sum"), 2),
        (TaylorDerivative(3, norm="sum"), 3),
        (TaylorDerivative(4, norm="sum", points=3), 4),
    ],
    ids=["kinetic", "first", "second", "third", "fourth"],
)
def test_the_integral_is_that_of_the_exact_solution(regularizer, order):
    sol = nde.solve(LIMIT_CYCLE.problem(), nde.Vern7(), rtol=1e-9, atol=1e-9, regularizers=[regularizer])
    wanted = reference(order)
    assert abs(sol.regularization[0].item() - wanted) < 1e-6 * wanted


def test_kinetic_energy_is_the_augmented_state_to_rounding_and_has_the_methods_order():
    def augmented(t, state):
        slope = LIMIT_CYCLE.f(t, state[:2])
        return torch.cat([slope, slope.square().sum().reshape(1)])

    steps = nde.StepTo(ts=torch.linspace(0.0, 2.0, 12, dtype=D)[1:-1].tolist())
    start = torch.cat([LIMIT_CYCLE.y0(), torch.zeros(1, dtype=D)])
    exact = reference(1)
    for method in methods():
        options = dict(solver=method, controller=steps, dt=None)
        sol = nde.solve(LIMIT_CYCLE.problem(), regularizers=[KineticEnergy(norm="sum")], **options)
        whole = nde.solve(nde.ODEProblem(augmented, start, (0.0, 2.0)), **options)
        torch.testing.assert_close(sol.regularization[0], whole.y1[2], rtol=1e-12, atol=1e-13)
        errors = []
        for count in (20, 40):
            sol = nde.solve(
                LIMIT_CYCLE.problem(),
                method,
                dt=2.0 / count,
                controller=nde.ConstantStep(),
                regularizers=[KineticEnergy(norm="sum")],
            )
            errors.append(abs(sol.regularization[0].item() - exact))
        if errors[1] > 1e-11:
            assert math.log2(errors[0] / errors[1]) > method.order - 0.35, method


def test_scipy_agrees_on_a_field_without_closed_form():
    sol = solve(KineticEnergy(norm="sum"), rtol=1e-10, atol=1e-10)

    def augmented(t, state):
        slope = field(torch.tensor(t, dtype=D), torch.tensor(state[:6]).reshape(3, 2), 1.7).reshape(-1)
        return [*slope.tolist(), float(slope.square().sum())]

    start = [0.8, -0.3, 0.1, 1.2, -0.5, 0.4, 0.0]
    wanted = solve_ivp(augmented, (0.0, 2.0), start, method="DOP853", rtol=1e-11, atol=1e-11).y[-1, -1]
    assert sol.regularization[0].item() == pytest.approx(wanted, rel=1e-8)


def test_the_frobenius_norm_is_estimated_without_bias_with_one_noise_for_each_solve():
    matrix = torch.tensor([[0.3, -1.1, 0.2], [0.9, 0.5, 0.0], [0.4, 0.1, -0.7]], dtype=D)
    y0 = torch.ones(4096, 3, dtype=D)
    problem = nde.ODEProblem(lambda t, y: y @ matrix.T, y0, (0.0, 2.0))
    value = nde.solve(problem, per_sample=True, regularizers=[JacobianFrobenius(norm="sum")]).regularization[0]
    exact = 2.0 * float(matrix.square().sum())
    # Every sample has the value of one of the noise's eight signs, whatever its number of steps.
    signs = torch.tensor([[a, b, c] for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)], dtype=D)
    possible = 2.0 * (signs @ matrix.T).square().sum(1)
    assert ((value.unsqueeze(1) - possible).abs().min(dim=1).values < 1e-9).all()
    error = float(value.std()) / math.sqrt(len(y0))
    assert error > 0
    assert abs(float(value.mean()) - exact) < 4 * error
    torch.manual_seed(3)
    first = nde.solve(problem, regularizers=[JacobianFrobenius()]).regularization[0]
    second = nde.solve(problem, regularizers=[JacobianFrobenius()]).regularization[0]
    torch.manual_seed(3)
    assert torch.equal(first, nde.solve(problem, regularizers=[JacobianFrobenius()]).regularization[0])
    assert not torch.equal(first, second)
    assert first.item() * 3 == pytest.approx(exact, rel=0.05)  # the mean over entries, of 4096 draws


def test_step_count_counts_steps_and_scales_with_the_tolerance_as_they_do():
    field = nde.ODEProblem(lambda t, y: torch.cos(3 * t) * torch.sin(y), torch.ones(3, dtype=D), (0.0, 20.0))
    for solver, tol in ((nde.Tsit5(), 1e-5), (nde.Tsit5(), 1e-8), (nde.Bosh3(), 1e-5), (nde.Vern7(), 1e-8)):
        sol = nde.solve(field, solver, rtol=tol, atol=tol, regularizers=[StepCount()])
        assert 0.75 < sol.regularization[0].item() / sol.stats.accepted < 1.1
    # On steps that are given the count still says how many the controller would take.
    free = nde.solve(field, rtol=1e-6, atol=1e-6).stats.accepted
    fixed = nde.solve(
        field, dt=0.05, controller=nde.ConstantStep(), rtol=1e-6, atol=1e-6, regularizers=[StepCount(floor=1e-12)]
    )
    assert fixed.stats.accepted == 400
    assert fixed.regularization[0].item() == pytest.approx(free, rel=0.25)


def test_step_count_of_a_path_scales_with_the_tolerance_as_its_steps_do():
    """An SDE's local error falls with the power 3/2 of the step, so ten times the accuracy takes 10 ** (2 / 3) the steps."""
    problem = nde.SDEProblem(lambda t, y: torch.cos(t) * y, lambda t, y: 0.3 * y, torch.ones(8, 1, dtype=D), (0.0, 1.0))
    coarse, fine = (
        nde.solve(
            problem,
            nde.SOSRI(),
            dt=0.05,
            controller=nde.ConstantStep(),
            rtol=0.0,
            atol=tol,
            seed=1,
            regularizers=[StepCount(floor=1e-12)],
        ).regularization[0]
        for tol in (1e-3, 1e-4)
    )
    assert (fine / coarse).item() == pytest.approx(10 ** (2 / 3), rel=1e-9)


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_against_finite_differences_of_the_frozen_steps(kind, per_sample):
    y0 = torch.tensor([[0.8, -0.3], [0.1, 1.2]], dtype=D, requires_grad=True)
    w = torch.tensor(1.7, dtype=D, requires_grad=True)
    steps = nde.StepTo(ts=[0.2, 0.5, 0.9])

    def value(y0, w, **options):
        torch.manual_seed(0)
        options = dict(controller=steps, dt=None, tspan=(0.0, 1.2), per_sample=per_sample, **options)
        return solve(KINDS[kind](), y0, w, **options).regularization[0].sum()

    direction = torch.tensor([[0.3, -0.8], [0.5, 0.7]], dtype=D)
    h, weights = 1e-3, {1: 3 / 4, 2: -3 / 20, 3: 1 / 60}
    with torch.no_grad():
        wanted = sum(
            sign * weight * value(y0 + sign * k * h * direction, w + sign * k * h) / h
            for k, weight in weights.items()
            for sign in (1, -1)
        )
    for adjoint in (nde.DirectAdjoint(), nde.DiscreteAdjoint(), nde.ForwardSensitivity()):
        got = torch.autograd.grad(value(y0, w, adjoint=adjoint), (y0, w))
        torch.testing.assert_close((got[0] * direction).sum() + got[1], wanted, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_local_takes_it_under_continuous_adjoints(kind):
    w = torch.tensor(1.7, dtype=D, requires_grad=True)
    grads = []
    for adjoint in (nde.BacksolveAdjoint(), nde.GaussAdjoint(), nde.DiscreteAdjoint()):
        torch.manual_seed(0)
        with (
            pytest.raises(nde.InvalidProblemError, match="wrap the regularizer in Local")
            if adjoint.name[0] != "D"
            else torch.no_grad()
        ):
            solve(KINDS[kind](), w=w, adjoint=adjoint)
        torch.manual_seed(0)
        sol = solve(Local(KINDS[kind](), h="solver"), w=w, adjoint=adjoint)
        grads.append(torch.autograd.grad(sol.regularization[0], w)[0])
    # One step in the graph from one and the same point, whoever differentiates the rest.
    assert grads[0].abs() > 0
    for grad in grads[1:]:
        torch.testing.assert_close(grad, grads[0], rtol=1e-9, atol=1e-15)


IN_A_GRAPH = {
    "kinetic": [KineticEnergy()],
    "taylor": [TaylorDerivative(2, points=1)],
    "jacobian": [JacobianFrobenius(points=1)],
    "estimates": [StepCount(), ErrorEstimate(norm="max"), StiffnessEstimate()],
}
IN_A_GRAPH["all"] = [regularizer for each in list(IN_A_GRAPH.values()) for regularizer in each]


@pytest.mark.parametrize(
    ("which", "per_sample"),
    [
        ("jacobian", False),
        pytest.param("all", False, marks=pytest.mark.slow),
        # One graph each: the time to compile grows with what is in the loop's body, forward, backward and for each lane.
        *(pytest.param(which, True, marks=pytest.mark.slow) for which in IN_A_GRAPH if which != "all"),
    ],
)
def test_in_a_graph_they_are_what_they_are_eagerly_and_so_are_their_gradients(which, per_sample):
    torch.manual_seed(0)
    y0 = torch.tensor([[0.8, -0.3], [0.1, 1.2]], dtype=D)
    w = torch.tensor(1.7, dtype=D, requires_grad=True)

    def run(y0, w):
        problem = nde.ODEProblem(field, y0, (0.0, 1.0), (w,))
        sol = nde.solve(problem, rtol=1e-4, atol=1e-4, regularizers=IN_A_GRAPH[which], per_sample=per_sample)
        return sol.regularization, sol.stats.nfe

    torch._dynamo.reset()
    torch.manual_seed(0)
    eager, calls = run(y0, w)
    torch.manual_seed(0)
    graph, graph_calls = torch.compile(run, fullgraph=True, backend="aot_eager")(y0, w)
    assert torch.equal(torch.as_tensor(calls), graph_calls)
    for a, b in zip(eager, graph, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-7, atol=1e-12)
        (wanted,) = torch.autograd.grad(a.sum(), w, retain_graph=True)
        (got,) = torch.autograd.grad(b.sum(), w, retain_graph=True)
        torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-12)
    torch._dynamo.reset()


def test_what_cannot_be_compiled_says_so():
    with pytest.raises(Exception, match=r"TaylorDerivative\(3\) cannot be compiled"):
        torch.compile(solve, fullgraph=True, backend="eager")(TaylorDerivative(3))
    torch._dynamo.reset()


@pytest.mark.parametrize("kind", KINDS)
def test_what_it_costs_is_counted_and_as_documented(kind):
    calls = [0]

    def counted(t, y, w):
        calls[0] += 1
        return field(t, y, w)

    y0 = torch.tensor([[0.8, -0.3], [0.1, 1.2]], dtype=D)
    problem = nde.ODEProblem(counted, y0, (0.0, 2.0), (1.7,))
    plain = nde.solve(problem, rtol=1e-6, atol=1e-6).stats
    assert calls == [plain.nfe]
    calls[0] = 0
    stats = nde.solve(problem, rtol=1e-6, atol=1e-6, regularizers=[KINDS[kind]()]).stats
    assert calls == [stats.nfe]
    assert stats.accepted == plain.accepted
    assert stats.nfe - plain.nfe == CALLING.get(kind, 0) * stats.accepted


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_alone_has_the_number_that_it_has_in_a_batch(kind):
    if kind == "jacobian":
        pytest.skip("the noise of a sample depends on the batch that it is drawn in")
    y0 = torch.tensor([[0.8, -0.3], [0.1, 1.2]], dtype=D)
    both = solve(KINDS[kind](), y0, per_sample=True).regularization[0]
    for row in range(2):
        alone = solve(KINDS[kind](), y0[row : row + 1], per_sample=True).regularization[0]
        torch.testing.assert_close(alone, both[row : row + 1], rtol=1e-9, atol=1e-12)
        compact = solve(KINDS[kind](), y0, per_sample=True, compact=True).regularization[0]
        torch.testing.assert_close(compact, both, rtol=1e-9, atol=1e-12)


def test_states_of_every_kind():
    tree = {"a": torch.ones(2, dtype=D), "b": torch.full((3,), 0.5 + 0.1j, dtype=torch.complex128)}
    problem = nde.ODEProblem(lambda t, y: {"a": -y["a"], "b": 1j * y["b"]}, tree, (1.0, 0.0))
    options = dict(rtol=1e-9, atol=1e-9)
    kinetic, taylor = KineticEnergy(norm="sum"), TaylorDerivative(3, norm="sum")
    sol = nde.solve(problem, regularizers=[kinetic, taylor], **options)
    # y' = -y from t = 1 to 0 grows from 1 to e; the rotation keeps its modulus, and so do both third derivatives.
    wanted = 2 * (math.e**2 - 1) / 2 + 3 * 0.26
    assert [value.item() for value in sol.regularization] == pytest.approx([wanted, wanted], rel=1e-6)
    reversible = nde.solve(
        LIMIT_CYCLE.problem(), nde.Reversible(nde.Tsit5()), regularizers=[taylor, kinetic], **options
    )
    plain = nde.solve(LIMIT_CYCLE.problem(), regularizers=[taylor, kinetic], **options)
    for a, b in zip(reversible.regularization, plain.regularization, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=0.0)


def noisy(regularizer):
    problem = nde.SDEProblem(lambda t, y: -y, lambda t, y: 0.1 * y, torch.ones(2, dtype=D), (0.0, 1.0))
    return nde.solve(problem, dt=0.1, seed=0, regularizers=[regularizer])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: noisy(KineticEnergy()), r"KineticEnergy with .*, but a path driven by noise has no time derivative"),
        (lambda: noisy(JacobianFrobenius()), r"JacobianFrobenius with .*, but a path driven by noise"),
        (lambda: TaylorDerivative(0), r"order: got 0"),
        (lambda: TaylorDerivative(2.0), r"order: got 2\.0"),
        (lambda: TaylorDerivative(points=0), r"points: got 0"),
        (lambda: KineticEnergy(norm="max"), r"norm: got 'max'"),
        (lambda: JacobianFrobenius(norm=2), r"norm: got 2"),
        (lambda: JacobianFrobenius(reduction="median"), r"reduction: got 'median'"),
        (lambda: ErrorEstimate(norm="L1"), r"norm: got 'L1'"),
        (lambda: solve(StepCount(), solver=nde.Euler(), dt=0.1), r"Euler has no error estimate"),
        (lambda: solve(StiffnessEstimate(), solver=nde.Bosh3()), r"Bosh3 has no stiffness estimate"),
    ],
)
def test_wrong_arguments_are_named(make, message):
    with pytest.raises(nde.InvalidProblemError, match=message):
        make()
