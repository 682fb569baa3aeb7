"""The gradient of a steady state: against closed forms, SciPy's roots, finite differences and unrolled iterations."""

import gc
import weakref

import numpy as np
import pytest
import scipy.optimize
import torch

import neuralde as nde
from neuralde.adjoints.capabilities import every_adjoint

TIGHT = {"rtol": 1e-11, "atol": 1e-11}
ADJOINTS = {"dense": nde.ImplicitAdjoint("dense"), "gmres": nde.ImplicitAdjoint("gmres")}
METHODS = {"dynamic": nde.DynamicSS(), "newton": nde.Newton(), "anderson": nde.Anderson(beta=0.3)}


@pytest.fixture(params=list(ADJOINTS))
def implicit(request):
    """Both ways to solve the linear system."""
    return ADJOINTS[request.param]


@pytest.fixture(params=list(METHODS))
def method(request):
    """The ways to find the state."""
    return METHODS[request.param]


def logistic(t, y, k):
    return y * (k - y)


def test_the_gradient_in_closed_form(implicit, method, make):
    k = make(2.0, 3.5)
    sol = nde.solve(nde.SteadyStateProblem(logistic, k.detach() * 0.8, args=(k,)), method, adjoint=implicit, **TIGHT)
    (got,) = torch.autograd.grad((sol.y1**3).sum(), k)
    assert torch.allclose(got, 3 * k**2, rtol=1e-9)
    (again,) = torch.autograd.grad(nde.solve(nde.SteadyStateProblem(logistic, k * 0.8, args=(k,)), **TIGHT).ys.sum(), k)
    assert torch.allclose(again, torch.ones(2), rtol=1e-9)  # y0 = 0.8 k adds nothing


def test_the_gradient_is_that_of_scipy_root(implicit, method):
    rng = np.random.default_rng(1)
    weights, shift, read = rng.normal(size=(5, 5)) / 3, rng.normal(size=5), rng.normal(size=5)

    def loss(shift, scale):
        found = scipy.optimize.root(lambda x: np.tanh(scale * weights @ x + shift) - x, np.zeros(5), tol=1e-14)
        return read @ found.x

    h, unit = 1e-4, np.eye(5)
    wanted = [(loss(shift + h * e, 1.0) - loss(shift - h * e, 1.0)) / (2 * h) for e in unit]
    also = (loss(shift, 1.0 + h) - loss(shift, 1.0 - h)) / (2 * h)
    w, b = torch.from_numpy(weights), torch.from_numpy(shift).requires_grad_()
    scale = torch.tensor(1.0, requires_grad=True)
    problem = nde.SteadyStateProblem(lambda t, y, b: torch.tanh(scale * w @ y + b) - y, torch.zeros(5), args=(b,))
    sol = nde.solve(problem, method, adjoint=implicit, **TIGHT)  # scale is captured, b is an argument
    got = torch.autograd.grad(torch.from_numpy(read) @ sol.y1, [b, scale])
    assert np.allclose(got[0].numpy(), wanted, rtol=1e-6, atol=1e-8)
    assert got[1].item() == pytest.approx(also, rel=1e-6)


def test_gradcheck_and_gradgradcheck(implicit):
    def end(a, b):
        def field(t, y, a):
            return torch.stack([a[0] + b * y[1] ** 2 - y[0], a[1] * torch.sin(y[0]) - 2 * y[1]])

        problem = nde.SteadyStateProblem(field, torch.zeros(2), args=(a,))
        return nde.solve(problem, nde.Newton(), adjoint=implicit, rtol=0.0, atol=1e-13).y1

    inputs = (torch.tensor([0.7, 0.4], requires_grad=True), torch.tensor(0.3, requires_grad=True))
    assert torch.autograd.gradcheck(end, inputs)
    assert torch.autograd.gradgradcheck(end, inputs)


def test_second_derivatives_in_closed_form_and_third_ones_are_refused(implicit, make):
    c = make(2.0)
    problem = nde.SteadyStateProblem(lambda t, y, c: c - y**2, torch.ones(()), args=(c,))
    y = nde.solve(problem, nde.Newton(), adjoint=implicit, **TIGHT).y1
    (first,) = torch.autograd.grad(y, c, create_graph=True)
    (second,) = torch.autograd.grad(first, c, create_graph=True)
    assert first.item() == pytest.approx(0.5 * 2.0**-0.5, rel=1e-9)
    assert second.item() == pytest.approx(-0.25 * 2.0**-1.5, rel=1e-9)
    with pytest.raises(nde.InvalidProblemError, match="ImplicitAdjoint gives first and second derivatives"):
        torch.autograd.grad(second, c)


def test_a_gradient_penalty_reaches_everything(implicit):
    net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    x = torch.randn(3, requires_grad=True)

    def iterate(unrolled):
        def field(t, z, x):
            return 0.3 * net(z) + x - z

        if unrolled:
            z = torch.zeros(3)
            for _ in range(60):
                z = z + field(0.0, z, x)
        else:
            problem = nde.SteadyStateProblem(field, torch.zeros(3), args=(x,))
            z = nde.solve(problem, nde.Anderson(), adjoint=implicit, rtol=1e-13, atol=1e-13).y1
        (slope,) = torch.autograd.grad(z.square().sum(), x, create_graph=True)
        return torch.autograd.grad(z.sum() + slope.square().sum(), [x, *net.parameters()])

    for got, want in zip(iterate(False), iterate(True), strict=True):
        assert torch.allclose(got, want, rtol=1e-8, atol=1e-10)


def deep_equilibrium(n):
    """The field of a deep-equilibrium layer that is a contraction."""
    cell = torch.nn.Linear(n, n)
    with torch.no_grad():
        cell.weight.mul_(0.8 / torch.linalg.matrix_norm(cell.weight, 2))
    return cell, lambda t, z, x: torch.tanh(cell(z) + x) - z


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("n", [6, 150])
def test_a_deep_equilibrium_layer_has_the_gradient_of_its_unrolled_iteration(per_sample, n):
    cell, field = deep_equilibrium(n)
    x = torch.randn(4, n, requires_grad=True)
    alive = weakref.WeakSet()

    class Kept:
        def __init__(self, tensor):
            self.tensor = tensor.detach()  # an output would hold its own graph
            alive.add(self)

    watch = torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor)
    problem = nde.SteadyStateProblem(field, torch.zeros(4, n), args=(x,))
    with watch:
        sol = nde.solve(problem, nde.Anderson(), per_sample=per_sample, rtol=1e-12, atol=1e-12)
    gc.collect()
    kept = len(alive)
    got = torch.autograd.grad(sol.y1.square().sum(), [x, *cell.parameters()])
    z = torch.zeros(4, n)
    for _ in range(200):
        z = z + field(0.0, z, x)
    want = torch.autograd.grad(z.square().sum(), [x, *cell.parameters()])
    for a, b in zip(got, want, strict=True):
        assert torch.allclose(a, b, rtol=1e-7, atol=1e-9)
    # Nothing of the search is kept: the graph of one call of the field at the most.
    assert kept <= 12


def test_large_systems_form_no_matrix(implicit):
    if implicit.linear == "dense":
        implicit = nde.ImplicitAdjoint()  # the choice by size
    n, peak = 3000, 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal peak
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                peak = max(peak, out.numel())
            return out

    a = torch.tensor(0.4, requires_grad=True)
    problem = nde.SteadyStateProblem(lambda t, y, a: a * torch.sin(y.roll(1)) + 1.0 - y, torch.zeros(n), args=(a,))
    with Watch():
        y = nde.solve(problem, nde.Newton(), adjoint=implicit, rtol=1e-10, atol=1e-10).y1
        (got,) = torch.autograd.grad(y.sum(), a)
    # All components are equal: y = a sin(y) + 1, dy = sin(y) / (1 - a cos(y)) da.
    want = n * torch.sin(y[0]) / (1.0 - a * torch.cos(y[0]))
    assert got.item() == pytest.approx(want.item(), rel=1e-9)
    assert peak < n * 64


def test_complex_states_and_arguments(implicit, frozen):
    c = torch.tensor([1.0 + 0.5j, -0.3j], requires_grad=True)

    def end():
        def field(t, y, c):
            return c - y + 0.2 * y.conj() ** 2  # not holomorphic

        problem = nde.SteadyStateProblem(field, torch.zeros(2, dtype=torch.complex128), args=(c,))
        return nde.solve(problem, nde.Newton(), adjoint=implicit, rtol=0.0, atol=1e-13).y1.abs().square().sum()

    grads = torch.autograd.grad(end(), [c])
    frozen.assert_derivative(grads, [c], frozen.differences(lambda: end(), [c]), tol=1e-8)


def test_pytree_states_and_arguments(implicit, frozen, make):
    a, b = make(0.5, 1.0), make(0.7)

    def end():
        def field(t, y, p):
            return {"u": p["a"] - y["u"] * (1.0 + y["v"] ** 2), "v": p["b"][0] * y["u"].sum() - 2.0 * y["v"]}

        problem = nde.SteadyStateProblem(field, {"v": torch.zeros(()), "u": torch.zeros(2)}, args=({"a": a, "b": [b]},))
        y = nde.solve(problem, nde.Newton(), adjoint=implicit, rtol=0.0, atol=1e-13).y1
        return y["u"].square().sum() + 3.0 * y["v"]

    grads = torch.autograd.grad(end(), [a, b])
    frozen.assert_derivative(grads, [a, b], frozen.differences(end, [a, b]), tol=1e-8)


def test_y0_has_gradient_zero(implicit, make):
    y0, k = make(0.5, 2.0), make(1.0)
    sol = nde.solve(nde.SteadyStateProblem(logistic, y0, args=(k,)), adjoint=implicit, **TIGHT)
    got = torch.autograd.grad(sol.y1.sum(), [y0, k])
    assert torch.equal(got[0], torch.zeros(2))
    alone = nde.solve(nde.SteadyStateProblem(lambda t, y: 1.0 - y, y0), adjoint=implicit, **TIGHT)
    assert torch.equal(torch.autograd.grad(alone.y1.sum(), y0)[0], torch.zeros(2))


def test_an_unstable_equilibrium_has_its_gradient_too(implicit, make):
    k = make(0.3)
    problem = nde.SteadyStateProblem(lambda t, y, k: (y - k) * (1.0 - y**2), torch.full((1,), 0.25), args=(k,))
    sol = nde.solve(problem, nde.Newton(), adjoint=implicit, **TIGHT)
    assert torch.allclose(torch.autograd.grad(sol.y1.sum(), k)[0], torch.tensor(1.0), rtol=1e-9)


def test_each_sample_has_its_own_system(make):
    k = make([1.0], [2.0], [3.0])
    for adjoint in ADJOINTS.values():
        sol = nde.solve(
            nde.SteadyStateProblem(logistic, torch.full((3, 1), 0.7), args=(k,)),
            per_sample=True,
            adjoint=adjoint,
            **TIGHT,
        )
        weights = torch.tensor([[1.0], [0.0], [-2.0]])
        assert torch.allclose(torch.autograd.grad((weights * sol.y1).sum(), k)[0], weights, rtol=1e-9)


def test_failed_samples_are_refused_only_where_they_count(implicit, make):
    k, c = make([1.0], [1.0]), make(1.0)

    def field(t, y, k):
        return c * y * (k - y)  # blows up below zero

    problem = nde.SteadyStateProblem(field, torch.tensor([[0.5], [-1.0]]), args=(k,))
    sol = nde.solve(problem, per_sample=True, throw=False, adjoint=implicit, **TIGHT)
    assert sol.status[1] > nde.Status.EVENT
    got = torch.autograd.grad(sol.y1[0].sum(), [k, c], retain_graph=True)
    assert torch.allclose(got[0], torch.tensor([[1.0], [0.0]]), atol=1e-9)
    assert torch.allclose(got[1], torch.zeros(()), atol=1e-8)
    (first,) = torch.autograd.grad(sol.y1[0].square().sum(), k, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), k, retain_graph=True)
    assert torch.allclose(second, torch.tensor([[2.0], [0.0]]), atol=1e-8)
    with pytest.raises(nde.ConvergenceError, match=r"no steady state was found in samples \[1\] \(STEP_UNDERFLOW\)"):
        torch.autograd.grad(sol.y1.sum(), k)


def test_no_gradient_of_a_search_that_failed(implicit, make):
    k = make(1.0)
    problem = nde.SteadyStateProblem(lambda t, y, k: k + y**2, torch.zeros(()), args=(k,))
    sol = nde.solve(problem, nde.Newton(), adjoint=implicit, throw=False)
    with pytest.raises(nde.ConvergenceError, match=r"NOT_CONVERGED\), so it has no gradient"):
        sol.y1.backward()


def test_a_conserved_quantity_is_named(make):
    a = make(0.5)

    def field(t, y, a):  # y0 + y1 stays: a line of equilibria
        flow = a * y[0] - y[1]
        return torch.stack([-flow, flow])

    problem = nde.SteadyStateProblem(field, torch.tensor([1.0, 0.0]), args=(a,))
    sol = nde.solve(problem, nde.DynamicSS(), **TIGHT)
    assert sol.y1[0].item() == pytest.approx(1.0 / 1.5, rel=1e-8)
    for create in (False, True):  # with the matrix the total is held: y0 = 1 / (1 + a)
        (got,) = torch.autograd.grad(sol.y1[0], a, create_graph=create, retain_graph=True)
        assert got.item() == pytest.approx(-(1.5**-2), rel=1e-7)
    free = nde.solve(problem, nde.DynamicSS(), adjoint=nde.ImplicitAdjoint("gmres"), **TIGHT)
    with pytest.raises(nde.ConvergenceError, match="singular, or too nearly so"):
        torch.autograd.grad(free.y1[0], a)


def test_a_curved_continuum_is_told_from_an_equilibrium(implicit, make):
    a = make(2.0)
    problem = nde.SteadyStateProblem(lambda t, y, a: (a - (y**2).sum()) * y, torch.tensor([1.0, 2.0]), args=(a,))
    sol = nde.solve(problem, nde.DynamicSS(), adjoint=implicit, rtol=1e-6, atol=1e-6)
    with pytest.raises(nde.ConvergenceError, match="not isolated"):
        torch.autograd.grad(sol.y1[0], a, retain_graph=True)
    # The radius is well defined, and so is its gradient.
    assert torch.autograd.grad((sol.y1**2).sum(), a)[0].item() == pytest.approx(1.0, rel=1e-4)


def test_a_tolerance_too_loose_for_a_gradient_is_refused_and_can_be_overruled(implicit, make):
    a = make(1e-4)  # close to the fold of a - y**2 the gradient 1 / (2 y) changes as fast as y
    problem = nde.SteadyStateProblem(lambda t, y, a: a - y**2, torch.tensor(0.1), args=(a,))
    loose = {"rtol": 0.0, "atol": 4e-3}
    with pytest.raises(nde.ConvergenceError, match="more than a tenth"):
        nde.solve(problem, nde.DynamicSS(), adjoint=implicit, **loose).y1.backward()
    unchecked = nde.ImplicitAdjoint(implicit.linear, check=False)
    sol = nde.solve(problem, nde.DynamicSS(), adjoint=unchecked, **loose)
    assert torch.autograd.grad(sol.y1, a)[0].item() == pytest.approx(0.5 / sol.y1.item(), rel=1e-6)
    tight = nde.solve(problem, nde.DynamicSS(), adjoint=implicit, rtol=0.0, atol=1e-10)
    assert torch.autograd.grad(tight.y1, a)[0].item() == pytest.approx(50.0, rel=1e-4)


def test_samples_that_depend_on_each_other_are_refused(make):
    k = make([1.0], [2.0])
    problem = nde.SteadyStateProblem(lambda t, y, k: k - y + 0.3 * y.mean(), torch.zeros(2, 1), args=(k,))
    sol = nde.solve(problem, per_sample=True, **TIGHT)
    with pytest.raises(nde.ConvergenceError, match="samples of a per_sample solve depend on each other"):
        torch.autograd.grad(sol.y1[0].sum(), k)


def test_a_gmres_that_gives_up_is_refused(make):
    k = make(*[1.0] * 30)
    rates = torch.logspace(0, 6, 30)
    problem = nde.SteadyStateProblem(lambda t, y, k: rates * (k - y), k.detach(), args=(k,))
    sol = nde.solve(problem, nde.Newton(), adjoint=nde.ImplicitAdjoint("gmres", max_products=5))
    with pytest.raises(nde.ConvergenceError, match="is solved to"):
        torch.autograd.grad(sol.y1.sum(), k)


def test_changes_between_the_solve_and_the_backward_pass_are_refused(implicit, make):
    k, w = make(1.0, 2.0), torch.nn.Parameter(torch.ones(2))

    def end():
        problem = nde.SteadyStateProblem(lambda t, y, k: k - w * y, torch.zeros(2), args=(k,))
        return nde.solve(problem, nde.Newton(), adjoint=implicit, **TIGHT).y1.sum()

    for tensor in (k, w):
        value = end()
        with torch.no_grad():
            tensor.add_(0.5)
        with pytest.raises(RuntimeError, match=r"changed in place|modified by an inplace operation"):
            value.backward()


def test_a_random_field_is_refused(implicit):
    w = torch.nn.Parameter(torch.ones(()))
    noise = iter(range(1000))

    def field(t, y):
        return w * (1.0 - y) if next(noise) < 3 else w * (2.0 - y)

    y = nde.solve(nde.SteadyStateProblem(field, torch.ones(4)), adjoint=implicit).y1
    with pytest.raises(RuntimeError, match="gave other values in the backward pass"):
        y.sum().backward()


def test_unused_and_frozen_parameters(implicit):
    used, frozen, unused = (torch.nn.Parameter(torch.ones(2)) for _ in range(3))
    frozen.requires_grad_(False)
    problem = nde.SteadyStateProblem(lambda t, y, *_: used * frozen - y, torch.zeros(2), args=(unused,))
    y = nde.solve(problem, adjoint=implicit, **TIGHT).y1
    got = torch.autograd.grad(y.sum(), [used, unused], allow_unused=True)
    assert torch.allclose(got[0], torch.ones(2))
    assert got[1] is None
    nothing = nde.SteadyStateProblem(lambda t, y: frozen - y, torch.zeros(2))
    assert not nde.solve(nothing, adjoint=implicit).y1.requires_grad


def test_function_transforms_and_compilation_are_refused():
    def end(k):
        return nde.solve(nde.SteadyStateProblem(logistic, torch.ones(2), args=(k,))).y1

    with pytest.raises(nde.InvalidProblemError, match=r"transformed by torch\.func"):
        torch.func.jvp(end, (torch.ones(2),), (torch.ones(2),))
    torch._dynamo.reset()
    with pytest.raises(Exception, match="cannot be compiled"):
        torch.compile(end, fullgraph=True, backend="eager")(torch.ones(2))
    torch._dynamo.reset()


def test_nothing_is_left_behind():
    w = torch.nn.Parameter(torch.full((4,), 2.0))
    gc.collect()
    gc.disable()
    try:
        sol = nde.solve(nde.SteadyStateProblem(lambda t, y: w - y, torch.zeros(4)))
        (first,) = torch.autograd.grad(sol.y1.square().sum(), w, create_graph=True)
        torch.autograd.grad(first.sum(), w)
        alive = weakref.ref(sol.y1)
        del sol, first
        assert alive() is None
    finally:
        gc.enable()


def test_float32_converges_and_is_differentiated(implicit):
    k = torch.tensor([1.0, 2.0], dtype=torch.float32, requires_grad=True)
    problem = nde.SteadyStateProblem(logistic, torch.ones(2, dtype=torch.float32), args=(k,))
    sol = nde.solve(problem, adjoint=implicit, rtol=1e-5, atol=1e-6)
    (got,) = torch.autograd.grad(sol.y1.sum(), k)
    assert got.dtype == torch.float32
    assert torch.allclose(got, torch.ones(2, dtype=torch.float32), atol=1e-3)


def test_the_table_has_it_for_steady_states_only():
    assert nde.ImplicitAdjoint in every_adjoint()
    assert nde.ImplicitAdjoint.capabilities.terms == ("steady state",)


def test_every_way_to_the_same_tensor_counts_once(implicit, make):
    w = make(1.5)
    derived = 2.0 * w**2  # an argument computed from what the field also captures: y* = sqrt(2 w)
    problem = nde.SteadyStateProblem(lambda t, y, a: a - w * y**2, torch.ones(()), args=(derived,))
    y = nde.solve(problem, nde.Newton(), adjoint=implicit, **TIGHT).y1
    (first,) = torch.autograd.grad(y, w, create_graph=True)
    assert first.item() == pytest.approx(3.0**-0.5, rel=1e-9)
    assert torch.autograd.grad(first, w)[0].item() == pytest.approx(-(3.0**-1.5), rel=1e-9)
    k = make(2.0)  # twice an argument, and captured: y* = k**3
    problem = nde.SteadyStateProblem(lambda t, y, a, b: a * b * k - y, torch.ones(()), args=(k, k))
    y = nde.solve(problem, nde.Newton(), adjoint=implicit, **TIGHT).y1
    (first,) = torch.autograd.grad(y, k, create_graph=True)
    assert first.item() == pytest.approx(12.0, rel=1e-9)
    assert torch.autograd.grad(first, k)[0].item() == pytest.approx(12.0, rel=1e-9)
    v = 2.0 * w
    with pytest.raises(nde.InvalidProblemError, match="captures both a tensor and another one computed from it"):
        nde.solve(nde.SteadyStateProblem(lambda t, y: v - w * y, torch.ones(())), adjoint=implicit)


@pytest.mark.parametrize("how", [nde.DynamicSS(), nde.Newton(), nde.Newton(linear="gmres"), nde.Anderson()])
def test_empty_states_and_batches(how, make):
    k = make(1.0)
    for shape, per_sample in (((0, 3), True), ((2, 0), True), ((0,), False)):
        problem = nde.SteadyStateProblem(lambda t, y: k - y, torch.zeros(shape))
        sol = nde.solve(problem, how, per_sample=per_sample)
        assert sol.y1.shape == shape
        assert torch.autograd.grad(sol.y1.sum(), k)[0].item() == 0.0
