"""The gradient of an equilibrium that keeps totals of its start: closed forms, and finite differences of the flow."""

import pytest
import torch

import neuralde as nde

TIGHT = {"rtol": 1e-12, "atol": 1e-12}
METHODS = {"dynamic": nde.DynamicSS(), "polished": nde.DynamicSS(polish=nde.Newton()), "newton": nde.Newton()}


def exchange(t, y, k):  # y* = (k1, k0) (y0 + y1) / (k0 + k1)
    flow = k[..., 0] * y[..., 0] - k[..., 1] * y[..., 1]
    return torch.stack([-flow, flow], dim=-1)


def binding(t, y, k):  # A + B <-> C
    flow = k[0] * y[..., 0] * y[..., 1] - k[1] * y[..., 2]
    return torch.stack([-flow, -flow, flow], dim=-1)


@pytest.mark.parametrize("name", METHODS)
def test_the_gradient_in_closed_form(name, make):
    k, y0 = make(0.1, 0.3), make(4.0, 0.5)
    sol = nde.solve(nde.SteadyStateProblem(exchange, y0, args=(k,)), METHODS[name], **TIGHT)
    got = torch.autograd.grad(sol.y1[0] ** 2, [k, y0])
    want = torch.autograd.grad((k[1] / k.sum() * y0.sum()) ** 2, [k, y0])
    for a, b in zip(got, want, strict=True):
        assert torch.allclose(a, b, rtol=1e-8)


@pytest.mark.parametrize("name", METHODS)
def test_finite_differences_of_two_totals(name):
    def end(k, y0):
        return nde.solve(nde.SteadyStateProblem(binding, y0, args=(k,)), METHODS[name], **TIGHT).y1

    inputs = torch.tensor([2.0, 0.5], requires_grad=True), torch.tensor([1.0, 2.0, 0.3], requires_grad=True)
    assert torch.autograd.gradcheck(end, inputs, atol=1e-6)


def test_second_derivatives():
    def end(k, y0):
        return nde.solve(nde.SteadyStateProblem(binding, y0, args=(k,)), nde.Newton(), **TIGHT).y1

    inputs = torch.tensor([2.0, 0.5], requires_grad=True), torch.tensor([1.0, 2.0, 0.3], requires_grad=True)
    assert torch.autograd.gradgradcheck(end, inputs, atol=1e-6)


def test_each_sample_has_its_own_totals(make):
    k, y0 = make([0.1, 0.3], [2.0, 1.0]), make([4.0, 0.0], [1.0, 0.5])
    sol = nde.solve(nde.SteadyStateProblem(exchange, y0, args=(k,)), per_sample=True, **TIGHT)
    got = torch.autograd.grad(sol.y1[:, 0].square().sum(), [k, y0])
    want = torch.autograd.grad((k[:, 1] / k.sum(1) * y0.sum(1)).square().sum(), [k, y0])
    for a, b in zip(got, want, strict=True):
        assert torch.allclose(a, b, rtol=1e-8)


def test_a_sample_with_a_total_beside_one_without(make):
    leak, y0 = make([0.0], [0.5]), make([3.0, 1.0], [3.0, 1.0])

    def field(t, y, leak):  # the second sample forgets its start
        flow = 0.1 * y[:, 0] - 0.3 * y[:, 1]
        return torch.stack([-flow, flow], dim=-1) + leak * (1.0 - y)

    problem = nde.SteadyStateProblem(field, y0, args=(leak.detach(),))
    sol = nde.solve(problem, per_sample=True, **TIGHT)
    (got,) = torch.autograd.grad(sol.y1[:, 0].sum(), y0)
    assert torch.allclose(got, torch.tensor([[0.75, 0.75], [0.0, 0.0]]), rtol=1e-8, atol=1e-10)
    # By the leak, the total of the first is lost however small it is: no gradient.
    sol = nde.solve(nde.SteadyStateProblem(field, y0, args=(leak,)), per_sample=True, **TIGHT)
    with pytest.raises(nde.ConvergenceError, match=r"samples \[0\] \(a total that the field conserves depends"):
        torch.autograd.grad(sol.y1[:, 0].sum(), leak)


def test_totals_that_parameters_move_are_refused(make):
    a = make(2.0)  # y0 + a y1 is conserved: y* depends on a by that too

    def field(t, y, a):
        flow = 0.1 * y[0] - 0.3 * y[1]
        return torch.stack([-a * flow, flow])

    for start in ((4.0, 0.5), (3.0, 1.0)):
        sol = nde.solve(nde.SteadyStateProblem(field, torch.tensor(start), args=(a,)), **TIGHT)
        with pytest.raises(nde.ConvergenceError, match="depends on its parameters"):
            torch.autograd.grad(sol.y1[0], a)


def test_complex_states(frozen):
    c = torch.tensor(0.7 + 0.2j, requires_grad=True)
    y0 = torch.tensor([1.0 + 2.0j, 0.5j], requires_grad=True)

    def end():
        def field(t, y, c):
            flow = c * y[0] - 2.0 * y[1]
            return torch.stack([-flow, flow])

        problem = nde.SteadyStateProblem(field, y0, args=(c,))
        return nde.solve(problem, nde.Newton(), **TIGHT).y1[0].abs().square()

    grads = torch.autograd.grad(end(), [c, y0])
    frozen.assert_derivative(grads, [c, y0], frozen.differences(end, [c, y0]), tol=1e-7)


def test_float32(make):
    k = torch.tensor([0.1, 0.3], dtype=torch.float32, requires_grad=True)
    y0 = torch.tensor([4.0, 0.5], dtype=torch.float32, requires_grad=True)
    sol = nde.solve(nde.SteadyStateProblem(exchange, y0, args=(k,)), rtol=1e-5, atol=1e-5)
    got = torch.autograd.grad(sol.y1[0], [k, y0])
    want = torch.autograd.grad(k[1] / k.sum() * y0.sum(), [k, y0])
    for a, b in zip(got, want, strict=True):
        assert torch.allclose(a, b, rtol=1e-3)


def test_a_bifurcation_is_refused(make):
    a = make(0.0)
    problem = nde.SteadyStateProblem(lambda t, y, a: a - y**2, torch.tensor([0.5]), args=(a,))
    sol = nde.solve(problem, rtol=0.0, atol=1e-4)
    with pytest.raises(nde.ConvergenceError):
        torch.autograd.grad(sol.y1.sum(), a)


def test_by_gmres_it_is_refused_with_the_remedy(make):
    k, y0 = make(0.1, 0.3), make(4.0, 0.5)
    problem = nde.SteadyStateProblem(exchange, y0, args=(k,))
    sol = nde.solve(problem, adjoint=nde.ImplicitAdjoint("gmres"), **TIGHT)
    with pytest.raises(nde.ConvergenceError, match=r'ImplicitAdjoint\("dense"\)'):
        torch.autograd.grad(sol.y1[0], k)


def test_where_the_path_decides_there_is_no_gradient(make):
    b = make(0.5)

    def epidemic(t, y, b):
        s, i, _ = y
        return torch.stack([-b * s * i, b * s * i - 0.2 * i, 0.2 * i])

    for tol in (1e-3, 1e-8):
        for how in METHODS.values():
            problem = nde.SteadyStateProblem(epidemic, torch.tensor([0.99, 0.01, 0.0]), args=(b,))
            sol = nde.solve(problem, how, rtol=tol, atol=tol)
            with pytest.raises(nde.ConvergenceError, match="not isolated"):
                torch.autograd.grad(sol.y1[0], b)
