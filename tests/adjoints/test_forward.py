"""Forward sensitivities equal direct differentiation, for every kind of solve and input."""

import pytest
import torch

import neuralde as nde
from neuralde.regularizers import ErrorEstimate, Local, StiffnessEstimate


def grads(adjoint, dtype=torch.float64, **options):
    made = torch.Generator().manual_seed(1)
    y0 = torch.randn(3, 2, generator=made, dtype=dtype).requires_grad_()
    w = torch.randn(2, 2, generator=made, dtype=dtype).requires_grad_()
    k = torch.tensor([1.0, 5.0, 25.0]).unsqueeze(-1).requires_grad_() if "compact" not in options else None
    rate = torch.tensor(0.7, requires_grad=True)
    t0, t1 = torch.tensor(0.0, requires_grad=True), torch.tensor([0.3, 0.8, 2.0], requires_grad=True)
    t1 = t1 if options.get("per_sample") else t1[1].detach().requires_grad_()

    def field(t, y, rate):
        return torch.tanh(y @ w) * torch.cos(rate * t) - (1.0 if k is None else k) * y * y.abs()

    problem = nde.ODEProblem(field, y0, (t0, t1), (rate,))
    sol = nde.solve(problem, adjoint=adjoint, rtol=1e-4, atol=1e-4, **options)
    loss = (torch.where(sol.ys.isnan(), 0.0, sol.ys).abs() ** 2).sum() + (
        sol.y1 * (2.0 if dtype.is_floating_point else 2.0 - 1j)
    ).real.sum()
    if options.get("dense"):
        loss = loss + sol(0.2).real.sum() + sol.derivative(0.15).real.square().sum()
    loss = loss + sum(x.sum() for x in sol.regularization)
    inputs = [y0, w, rate, t0, t1] + ([] if k is None else [k])
    return torch.autograd.grad(loss, inputs)


CASES = {
    "joint": {},
    "complex": {"dtype": torch.complex128},
    "dense": {"dense": True, "saveat": "steps"},
    "per-sample": {"per_sample": True, "dense": True},
    "compact": {"per_sample": True, "compact": True, "dense": True, "saveat": torch.tensor([0.0, 0.1, 0.3])},
    "costs": {"regularizers": [ErrorEstimate(), StiffnessEstimate(), Local(flow_through_state=True)]},
    "compact costs": {"per_sample": True, "compact": True, "regularizers": [ErrorEstimate("max")]},
}


@pytest.mark.parametrize("case", CASES)
def test_equals_direct(case):
    torch.manual_seed(5)
    got = grads(nde.ForwardSensitivity(), **CASES[case])
    torch.manual_seed(5)
    torch.testing.assert_close(got, grads(nde.DirectAdjoint(), **CASES[case]), rtol=1e-10, atol=1e-11)


def test_nothing_is_kept_for_the_steps_and_the_backward_pass_calls_no_field():
    k = torch.tensor(1.3, requires_grad=True)
    calls = []

    def field(t, y, k):
        calls.append(1)
        return torch.cos(k * t) * y

    problem = nde.ODEProblem(field, torch.ones(5), (0.0, 20.0), (k,))
    ts = torch.linspace(0.0, 20.0, 11)
    sol = nde.solve(problem, adjoint=nde.ForwardSensitivity(), rtol=1e-10, atol=1e-10, saveat=ts)
    before = len(calls)
    jacobian = torch.stack([torch.autograd.grad(y, k, retain_graph=True)[0] for y in sol.ys[:, 0]])
    assert len(calls) == before
    x = k * ts
    exact = torch.exp(torch.sin(x) / k) * (ts * torch.cos(x) / k - torch.sin(x) / k**2)
    assert torch.allclose(jacobian, exact, atol=1e-7)


def test_a_tensor_that_turns_up_later_is_refused():
    hidden = iter([torch.ones(1, requires_grad=True)] * 1000)
    problem = nde.ODEProblem(
        lambda t, y: next(hidden) * y if t > 0.3 else y, torch.ones(1, requires_grad=True), (0.0, 1.0)
    )
    with pytest.raises(nde.InvalidProblemError, match="later in the solve"):
        nde.solve(problem, adjoint=nde.ForwardSensitivity(), rtol=1e-6)


NESTED = {
    "direct": (nde.DirectAdjoint, None),
    "discrete": (nde.DiscreteAdjoint, None),
    "forward": (nde.ForwardSensitivity, "ForwardSensitivity gives first derivatives only"),
    "gauss": (nde.GaussAdjoint, "GaussAdjoint gives first derivatives only"),
    "backsolve": (nde.BacksolveAdjoint, "BacksolveAdjoint gives first derivatives only"),
}


@pytest.mark.parametrize("inner", NESTED)
def test_a_solve_inside_the_field_is_differentiated_or_refused(inner):
    k = torch.tensor(0.7, requires_grad=True)

    def gradient(outer, inner):
        def field(t, y):
            return nde.solve(nde.ODEProblem(lambda s, z: -k * z, y, (0.0, 0.5)), rtol=1e-6, adjoint=inner).y1

        problem = nde.ODEProblem(field, torch.ones(2), (0.0, 0.5))
        return torch.autograd.grad(nde.solve(problem, rtol=1e-6, adjoint=outer).y1.sum(), k)[0]

    adjoint, refusal = NESTED[inner]
    if refusal is None:
        expected = gradient(nde.DirectAdjoint(), nde.DirectAdjoint())
        assert torch.allclose(gradient(nde.ForwardSensitivity(), adjoint()), expected, rtol=1e-10)
    else:
        with pytest.raises(nde.InvalidProblemError, match=refusal):
            gradient(nde.ForwardSensitivity(), adjoint())


def test_the_forward_derivative_of_a_backward_one_is_refused():
    def end(y0):
        return nde.solve(nde.ODEProblem(lambda t, y: -y, y0, (0.0, 1.0)), adjoint=nde.GaussAdjoint()).y1

    with pytest.raises(nde.InvalidProblemError, match="first derivatives only"):
        torch.autograd.functional.jvp(end, torch.ones(2), torch.ones(2))


class TestInErrorNorm:
    """Steps for the sensitivities: where the state stands still and its derivative does not."""

    @staticmethod
    def problem(y0):
        return nde.ODEProblem(lambda t, y: 5 * torch.cos(10 * t) * torch.sin(y), y0, (0.0, 2.0))

    def gradient(self, adjoint, tol, solver=None):
        y0 = torch.zeros(1, requires_grad=True)
        sol = nde.solve(self.problem(y0), solver, adjoint=adjoint, rtol=tol, atol=tol)
        return torch.autograd.grad(sol.y1, y0)[0].item(), sol.stats

    @pytest.mark.parametrize("solver", [nde.Tsit5(), nde.Reversible(nde.Bosh3())], ids=["tsit5", "reversible"])
    def test_the_gradient_follows_the_tolerance(self, solver):
        """dy1/dy0 = exp(sin(20) / 2) at y0 = 0, which no step of any size misses."""
        wanted = torch.exp(torch.tensor(20.0).sin() / 2).item()
        for tol in (1e-3, 1e-5, 1e-7):
            off = abs(self.gradient(nde.ForwardSensitivity(in_error_norm=True), tol, solver)[0] - wanted)
            assert off < 100 * tol
            assert abs(self.gradient(nde.ForwardSensitivity(), tol, solver)[0] - wanted) > 1.0

    def test_it_is_the_gradient_of_its_own_steps(self):
        w = torch.tensor([0.3, 0.7], requires_grad=True)
        problem = nde.ODEProblem(
            lambda t, y, k: torch.sin(w * y + k * t), torch.ones(2), (0.0, 2.0), (torch.tensor(2.0),)
        )
        result = nde.testing.check_gradients(
            problem, adjoint=nde.ForwardSensitivity(in_error_norm=True), saveat=[0.4, 1.5], show=False
        )
        assert {row.verdict for row in result.rows} == {"right"}
        assert len(result.rows) == 5

    def test_its_calls_are_counted(self):
        calls = []

        def field(t, y):
            calls.append(1)
            return -y * torch.cos(t)

        y0 = torch.ones(1, requires_grad=True)
        sol = nde.solve(nde.ODEProblem(field, y0, (0.0, 2.0)), adjoint=nde.ForwardSensitivity(in_error_norm=True))
        plain = nde.solve(nde.ODEProblem(field, y0, (0.0, 2.0)))
        assert sol.stats.nfe >= plain.stats.nfe + 6 * sol.stats.accepted  # the solve of both, and the steps again
        fixed = {"dt": 0.25, "controller": nde.ConstantStep()}
        same = nde.solve(self.problem(y0), adjoint=nde.ForwardSensitivity(in_error_norm=True), **fixed)
        assert same.stats.nfe == nde.solve(self.problem(y0), **fixed).stats.nfe

    def test_bad_input(self):
        with pytest.raises(nde.InvalidProblemError, match="in_error_norm: got 1"):
            nde.ForwardSensitivity(in_error_norm=1)
        y0 = torch.ones(2, 1, requires_grad=True)
        with pytest.raises(nde.InvalidProblemError, match="with per_sample=True"):
            nde.solve(self.problem(y0), adjoint=nde.ForwardSensitivity(in_error_norm=True), per_sample=True)
