"""Rosenbrock methods: tableaus that prove themselves, orders, stiff problems, Jacobians, counts."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import neuralde as nde
from neuralde.solvers.testing.ordinary import COMPLEX, LIMIT_CYCLE, SINE, Recorder, observed_order
from neuralde.solvers.testing.stiff import HIRES, ROBERTSON, VAN_DER_POL_1E3, prothero_robinson

METHODS = [nde.Rosenbrock23(), nde.Rodas4(), nde.Rodas5P()]
FIXED = nde.ConstantStep()


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_tableaus_are_l_stable_and_refuse_to_be_wrong(method):
    tableau = method.tableau
    assert tableau.a_stable
    assert tableau.at_infinity == 0.0
    assert tableau.stability_radius == math.inf
    row = tableau.a[-1]
    wrong = (*tableau.a[:-1], (row[0] + 1e-6, *row[1:]))
    with pytest.raises(nde.TableauError, match="claimed order"):
        replace(tableau, a=wrong)
    with pytest.raises(nde.TableauError, match="m: claimed order"):
        replace(tableau, order=tableau.order + 1)
    with pytest.raises(nde.TableauError, match="dense: claimed order"):
        replace(tableau, dense_order=tableau.dense_order + 1)
    with pytest.raises(nde.TableauError, match="rows of lengths"):
        replace(tableau, c=tableau.c[1:])
    with pytest.raises(nde.TableauError, match="expected"):
        replace(tableau, m_embedded=tableau.m_embedded[1:])


def test_the_stability_function_is_that_of_a_step():
    """One step on y' = z y, against the rational function that the tableau is judged by."""
    from neuralde.solvers.methods.stability import amplification

    for method in METHODS:
        tableau = method.tableau
        c = np.zeros((tableau.stages, tableau.stages))
        a = np.zeros_like(c)
        for i in range(tableau.stages):
            c[i, :i], a[i, :i] = tableau.c[i], tableau.a[i]
        gammas = np.linalg.inv(np.eye(tableau.stages) / tableau.gamma - c)
        for z in (-0.7, -30.0, -1e4):
            step = method.step(lambda t, y, z=z: z * y, 0.0, 1.0, torch.ones(1))
            want = amplification(a @ gammas + gammas, np.array(tableau.m) @ gammas, np.array([z]))
            assert math.isclose(step.y.item(), want[0], rel_tol=1e-9, abs_tol=1e-12)


@pytest.mark.parametrize("reference", [SINE, LIMIT_CYCLE, COMPLEX], ids=repr)
@pytest.mark.parametrize("method", METHODS, ids=repr)
@pytest.mark.parametrize("backward", [False, True])
def test_the_order_of_the_solution(method, reference, backward):
    problem, (t0, t1) = reference.problem(backward), reference.tspan
    errors, steps = [], [2.0**-k for k in range(3, 8)]
    for part in steps:
        y1 = nde.solve(problem, method, dt=abs(t1 - t0) * part, controller=FIXED).y1
        errors.append((y1 - reference.at(t0 if backward else t1)).norm().item())
    assert observed_order(steps, errors, finest=3) > method.order - 0.2


@pytest.mark.parametrize("reference", [SINE, LIMIT_CYCLE, COMPLEX], ids=repr)
@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_the_order_of_the_error_estimate_and_of_the_dense_output(method, reference):
    """Of one step from the exact solution, at a relative time that does not change."""
    sizes, errors, between, start = [], [], [], reference.tspan[0] + 0.2
    steps = [0.05 * 2.0**-k for k in range(4)]
    for h in steps:
        step = method.step(lambda t, y: reference.f(torch.as_tensor(t), y), start, start + h, reference.at(start))
        sizes.append(step.error.norm().item())
        errors.append((step.y - reference.at(start + h)).norm().item())
        between.append((step.at(1 / 3) - reference.at(start + h / 3)).norm().item())
    assert abs(observed_order(steps, sizes, floor=1e-15) - method.error_order) < 0.4
    assert observed_order(steps, errors, floor=1e-15) > method.order + 0.6
    assert observed_order(steps, between, floor=1e-15) > method.dense_order + 0.6


# Slopes of the global error at steps that are long beside the rate, and the largest error at steps of 0.2.
REDUCED = {"Rosenbrock23": (1.9, 3e-3), "Rodas4": (0.85, 4e-9), "Rodas5P": (2.9, 6e-11)}


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_the_order_that_is_left_where_the_field_is_stiff(method):
    """Prothero and Robinson's problem: what docs/solvers.md says of order reduction."""
    f, exact = prothero_robinson(1e6)
    steps, errors = [0.2, 0.1, 0.05, 0.025], []
    for h in steps:
        sol = nde.solve(nde.ODEProblem(f, torch.zeros(1), (0.0, 2.0)), method, dt=h, controller=FIXED)
        errors.append((sol.y1 - exact(torch.tensor(2.0))).abs().item())
    least, largest = REDUCED[method.name]
    assert observed_order(steps, errors, floor=1e-15) > least
    assert errors[0] < largest


@pytest.mark.parametrize("problem", [ROBERTSON, HIRES, VAN_DER_POL_1E3], ids=repr)
@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_stiff_problems_to_their_tolerance(method, problem):
    tolerance = 1e-3 if method.order == 2 else 1e-5
    sol = nde.solve(problem.problem(), method, rtol=tolerance, atol=tolerance * problem.small)
    assert problem.error(sol.y1) < 100 * tolerance
    assert sol.stats.jacobians == sol.stats.accepted
    assert sol.stats.factorizations == sol.stats.steps
    assert sol.stats.linear_solves == sol.stats.steps * method.tableau.stages
    assert sol.stats.newton_iterations == sol.stats.newton_failures == 0


def test_samples_step_alone():
    y0 = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.0, 0.5], [0.9, 1e-5, 0.1]])
    options = {"rtol": 1e-6, "atol": 1e-10}
    problem = nde.ODEProblem(ROBERTSON.f, y0, (0.0, 1e4))
    for method in METHODS[1:]:
        both = nde.solve(problem, method, per_sample=True, **options)
        for row in range(3):
            alone = nde.solve(nde.ODEProblem(ROBERTSON.f, y0[row], (0.0, 1e4)), method, **options)
            assert torch.allclose(both.y1[row], alone.y1, rtol=1e-9, atol=1e-14)
            for name in ("steps", "accepted", "jacobians", "factorizations", "linear_solves"):
                assert int(getattr(both.stats, name)[row]) == getattr(alone.stats, name), name
        few = nde.solve(problem, method, per_sample=True, compact=True, **options)
        assert torch.allclose(few.y1, both.y1, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("per_sample", [False, True])
def test_blocks_give_the_eager_solution(per_sample):
    y0 = torch.tensor([[1.0, 0.5], [0.2, -0.4]])
    problem = nde.ODEProblem(lambda t, y: torch.sin(3 * y) - t * y, y0, (0.0, 2.0))
    options = {"rtol": 1e-4, "atol": 1e-6, "saveat": [0.3, 2.0], "per_sample": per_sample}
    for method in METHODS:
        want = nde.solve(problem, method, **options)
        got = nde.solve(problem, method, driver=nde.Blocks(size=4), **options)
        assert torch.allclose(got.ys, want.ys, atol=1e-12)
        assert torch.equal(torch.as_tensor(got.stats.jacobians), torch.as_tensor(want.stats.jacobians))


def linear(t, y):
    t = t.squeeze(-1) if t.dim() else t
    return torch.stack([-100.0 * y[..., 0] + t * y[..., 1], y[..., 0] - y[..., 1]], -1)


def test_a_given_jacobian_is_used_and_checked():
    calls = []

    def jac(t, y):
        calls.append(float(t))
        one = torch.ones_like(t)
        return torch.stack([torch.stack([-100.0 * one, t]), torch.stack([one, -one])])

    y0 = torch.tensor([1.0, 2.0])
    want = nde.solve(nde.ODEProblem(linear, y0, (0.0, 1.0)), nde.Rodas5P(), rtol=1e-6)
    got = nde.solve(nde.ODEProblem(linear, y0, (0.0, 1.0), jac=jac), nde.Rodas5P(), rtol=1e-6)
    assert torch.allclose(got.y1, want.y1, rtol=1e-12)
    assert len(calls) == got.stats.jacobians == want.stats.jacobians
    for wrong, message in (
        (lambda t, y: torch.eye(3), r"jac: got \(3, 3\); expected a tensor of shape \(2, 2\)"),
        (lambda t, y: None, "jac: got NoneType"),
    ):
        with pytest.raises(nde.InvalidProblemError, match=message):
            nde.solve(nde.ODEProblem(linear, y0, (0.0, 1.0), jac=wrong), nde.Rodas5P())
    with pytest.raises(nde.InvalidProblemError, match="jac: got Tensor; expected a callable"):
        nde.ODEProblem(linear, y0, (0.0, 1.0), jac=torch.eye(2))
    with pytest.raises(nde.InvalidProblemError, match=r"jac: got \(2, 2\); expected a tensor of shape \(3, 2, 2\)"):
        nde.solve(
            nde.ODEProblem(linear, y0.expand(3, 2).clone(), (0.0, 1.0), jac=lambda t, y: torch.eye(2)),
            nde.Rodas5P(),
            per_sample=True,
        )


def test_jacobians_of_any_state():
    """Chunks, pytrees, matrices, complex numbers, empty states, constant fields and float32 all give a solution."""
    exact = math.exp(-0.5)
    for y0, f in (
        ({"a": torch.ones(2), "b": torch.ones(1, 2)}, lambda t, y: {"a": -t * y["a"], "b": -t * y["b"]}),
        (torch.ones(2, 3), lambda t, y: -t * y),
        (torch.ones(2, dtype=torch.complex128), lambda t, y: -t * y),
        (torch.ones(2, dtype=torch.float32), lambda t, y: -t * y),
        (torch.tensor(1.0), lambda t, y: -t * y),
    ):
        sol = nde.solve(nde.ODEProblem(f, y0, (0.0, 1.0)), nde.Rodas5P(linear_solver=nde.DenseLU(chunk=2)), rtol=1e-5)
        for leaf in torch.utils._pytree.tree_leaves(sol.y1):
            assert (leaf - exact).abs().max() < 1e-4
    samples = torch.tensor([[1.0 + 0j, 2.0], [1j, 0.5]])
    sol = nde.solve(nde.ODEProblem(lambda t, y: -t * y, samples, (0.0, 1.0)), nde.Rodas4(), rtol=1e-5, per_sample=True)
    assert torch.allclose(sol.y1, samples * exact, rtol=1e-4)
    sol = nde.solve(nde.ODEProblem(lambda t, y: torch.ones_like(y), torch.zeros(2), (0.0, 1.0)), nde.Rodas4())
    assert torch.allclose(sol.y1, torch.ones(2))
    sol = nde.solve(nde.ODEProblem(lambda t, y: y, torch.zeros(0), (0.0, 1.0)), nde.Rodas4())
    assert sol.y1.shape == (0,)


def test_counts_are_those_of_the_calls():
    field = Recorder(lambda t, y: -(y**3) * t)
    for method in METHODS:
        field.times.clear()
        sol = nde.solve(nde.ODEProblem(field, torch.ones(2), (0.0, 3.0)), method, rtol=1e-3, atol=1e-3, dt=3.0)
        assert len(field.times) == sol.stats.nfe + sol.stats.jacobians
        assert sol.stats.rejected > 0


def test_events_dense_output_trace_and_stiffness():
    f, _ = prothero_robinson(1e3)
    problem = nde.ODEProblem(f, torch.zeros(1), (0.0, 3.0))
    event = nde.Event(lambda t, y: y[0] - 0.5, direction="down")
    for method in METHODS[1:]:
        sol = nde.solve(problem, method, rtol=1e-7, atol=1e-9, events=event, dense=True, trace=True)
        assert sol.status is nde.Status.EVENT
        assert abs(float(sol.event_time) - 5 * math.pi / 6) < 1e-4
        assert abs(float(sol(torch.tensor(1.0))[0]) - math.sin(1.0)) < 1e-4
        assert sol.trace.stiffness.isfinite().all()
    with pytest.raises(nde.InvalidProblemError, match="stiffness estimate"):
        nde.solve(problem, nde.Rosenbrock23(), regularizers=[nde.regularizers.StiffnessEstimate()])


def test_a_field_that_leaves_its_domain_is_tried_again_shorter():
    problem = nde.ODEProblem(lambda t, y: -torch.sqrt(y), torch.ones(1), (0.0, 1.9))
    for method in METHODS:
        sol = nde.solve(problem, method, rtol=1e-5, atol=1e-8, dt=1.9)
        assert sol.stats.rejected > 0
        assert abs(sol.y1.item() - 0.05**2) < 1e-4


def test_what_cannot_be_differentiated_or_solved_says_so():
    def opaque(t, y):
        return torch.as_tensor((-y.detach()).numpy())

    with pytest.raises(nde.InvalidProblemError, match="f: changes with the state"):
        nde.solve(nde.ODEProblem(opaque, torch.ones(1), (0.0, 1.0)), nde.Rodas5P())
    given = nde.ODEProblem(opaque, torch.ones(1), (0.0, 1.0), jac=lambda t, y: -torch.eye(1))
    assert abs(nde.solve(given, nde.Rodas5P()).y1.item() - math.exp(-1.0)) < 1e-4
    with pytest.raises(nde.InvalidProblemError, match="linear_solver: got str"):
        nde.Rodas5P(linear_solver="dense")
    with pytest.raises(nde.InvalidProblemError, match="chunk: got 0"):
        nde.DenseLU(chunk=0)
    with pytest.raises(nde.InvalidProblemError, match="tableau: got Tsit5"):
        nde.Rosenbrock(nde.Tsit5())
    nowhere = nde.ODEProblem(lambda t, y: y * torch.nan, torch.ones(1), (0.0, 0.5))
    assert nde.solve(nowhere, nde.Rodas5P(), throw=False).status is nde.Status.NON_FINITE
