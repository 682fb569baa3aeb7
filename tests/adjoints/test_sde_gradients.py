"""Gradients of stochastic solves along their frozen path: exact, by every adjoint that takes them."""

import pytest
import torch

import neuralde as nde

FIXED = nde.ConstantStep()
TS = [0.0, 0.3, 1.0]
METHODS = [
    (nde.EulerMaruyama(), "ito", "diagonal"),
    (nde.EulerMaruyama(), "ito", "general"),
    (nde.ItoMilstein(), "ito", "diagonal"),
    (nde.ItoMilstein(), "ito", "commutative"),
    (nde.EulerHeun(), "stratonovich", "general"),
    (nde.Heun(), "stratonovich", "general"),
    (nde.StratonovichMilstein(), "stratonovich", "scalar"),
    (nde.SOSRI(), "ito", "diagonal"),
    (nde.SRIW1(), "ito", "scalar"),
    (nde.SlowRK(), "stratonovich", "commutative"),
    (nde.SPaRK(), "stratonovich", "general"),
    (nde.ReversibleHeun(), "stratonovich", "general"),
    (nde.ReversibleHeun(), "stratonovich", "diagonal"),
]


class Model(torch.nn.Module):
    """Drift and diffusion with parameters of their own and one that they share."""

    def __init__(self, columns):
        super().__init__()
        generator = torch.Generator().manual_seed(0)

        def weight(*shape):
            return torch.nn.Parameter(0.5 * torch.randn(shape, dtype=torch.float64, generator=generator))

        self.a, self.b, self.shared, self.columns = weight(2, 2), weight(2, columns or 1), weight(2), columns

    def drift(self, t, y, k):
        return torch.tanh(y @ self.a + self.shared * t) * k

    def diffusion(self, t, y, k):
        del k
        g = 0.3 * torch.sin(y + self.shared) + 0.1 * t
        return g if self.columns is None else g.unsqueeze(-1) * self.b


def setup(calculus, noise):
    model = Model({"diagonal": None, "scalar": 1}.get(noise, 3))
    y0 = torch.linspace(-1.0, 1.0, 6, dtype=torch.float64).reshape(3, 2).requires_grad_()
    k = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    problem = nde.SDEProblem(model.drift, model.diffusion, y0, (0.0, 1.0), (k,), noise, calculus)
    return problem, [y0, k, *model.parameters()]


def loss(sol):
    return (sol.ys**2).sum() + sol.y1.sin().sum()


@pytest.mark.parametrize(("method", "calculus", "noise"), METHODS, ids=lambda x: getattr(x, "name", x))
def test_direct_and_discrete_agree_with_differences_along_the_frozen_path(method, calculus, noise):
    problem, inputs = setup(calculus, noise)

    def value(adjoint):
        return loss(nde.solve(problem, method, dt=0.2, seed=3, saveat=TS, controller=FIXED, adjoint=adjoint))

    direct = torch.autograd.grad(value(nde.DirectAdjoint()), inputs, allow_unused=True)
    for adjoint in (nde.DiscreteAdjoint(), nde.DiscreteAdjoint(checkpoints=2)):
        discrete = torch.autograd.grad(value(adjoint), inputs, allow_unused=True)
        for one, other in zip(direct, discrete, strict=True):
            assert (one is None) == (other is None)
            assert one is None or torch.allclose(one, other, rtol=1e-11, atol=1e-12)
    for x, grad in zip(inputs, direct, strict=True):
        if grad is None:
            continue
        generator = torch.Generator().manual_seed(1)
        along = torch.randn(x.shape, dtype=x.dtype, generator=generator)
        values = []
        for sign in (1.0, -1.0):
            with torch.no_grad():
                x += sign * 1e-6 * along
                values.append(value(None).item())
                x -= sign * 1e-6 * along
        assert (grad * along).sum().item() == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("noise", ["diagonal", "commutative"])
def test_gradients_of_adaptive_solves_agree(per_sample, noise):
    problem, inputs = setup("stratonovich", noise)
    grads = []
    for adjoint in (nde.DirectAdjoint(), nde.DiscreteAdjoint()):
        sol = nde.solve(
            problem, nde.EulerHeun(), rtol=1e-2, atol=1e-3, seed=3, saveat=TS, adjoint=adjoint, per_sample=per_sample
        )
        grads.append(torch.autograd.grad(loss(sol), inputs, allow_unused=True))
    for one, other in zip(*grads, strict=True):
        assert one is None or torch.allclose(one, other, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("noise", ["diagonal", "scalar", "commutative", "general"])
def test_reversible_adjoint_is_exact_and_keeps_no_states(noise, per_sample):
    problem, inputs = setup("stratonovich", noise)
    options = {"dt": 0.02, "seed": 3, "saveat": TS, "controller": FIXED, "per_sample": per_sample}
    grads = []
    for adjoint in (nde.DirectAdjoint(), nde.ReversibleAdjoint()):
        sol = nde.solve(problem, nde.ReversibleHeun(), adjoint=adjoint, **options)
        grads.append(torch.autograd.grad(loss(sol), inputs, allow_unused=True))
    for one, other in zip(*grads, strict=True):
        assert one is None or torch.allclose(one, other, rtol=1e-9, atol=1e-10)


def test_reversible_adjoint_adapts_its_steps():
    problem, inputs = setup("stratonovich", "diagonal")
    grads = []
    for adjoint in (nde.DirectAdjoint(), nde.ReversibleAdjoint()):
        sol = nde.solve(problem, nde.ReversibleHeun(), rtol=1e-2, seed=3, saveat=TS, adjoint=adjoint)
        grads.append(torch.autograd.grad(loss(sol), inputs, allow_unused=True))
    assert sol.stats.steps > 10
    for one, other in zip(*grads, strict=True):
        assert one is None or torch.allclose(one, other, rtol=1e-9, atol=1e-10)


def test_second_derivatives_and_forward_mode_by_direct():
    problem, (y0, *_) = setup("stratonovich", "general")

    def end(y):
        changed = nde.SDEProblem(
            problem.drift, problem.diffusion, y, problem.tspan, problem.args, problem.noise, problem.calculus
        )
        return (
            nde.solve(changed, nde.Heun(), dt=0.25, seed=3, adjoint=nde.DirectAdjoint(), controller=FIXED)
            .y1.square()
            .sum()
        )

    assert torch.autograd.gradgradcheck(end, (y0.detach().requires_grad_(),))
    tangent = torch.ones_like(y0)
    _, pushed = torch.func.jvp(end, (y0.detach(),), (tangent,))
    assert torch.allclose(pushed, torch.autograd.grad(end(y0), y0)[0].sum())


def test_regularizers_are_differentiated_and_repeat():
    problem, inputs = setup("ito", "diagonal")
    regularizers = [nde.regularizers.ErrorEstimate(), nde.regularizers.Local(nde.regularizers.ErrorEstimate())]
    grads = []
    for adjoint in (nde.DirectAdjoint(), nde.DiscreteAdjoint()):
        torch.manual_seed(0)
        sol = nde.solve(
            problem, nde.ItoMilstein(), rtol=1e-2, atol=1e-2, seed=3, adjoint=adjoint, regularizers=regularizers
        )
        assert all(value > 0 for value in sol.regularization)
        grads.append(torch.autograd.grad(sum(sol.regularization), inputs, allow_unused=True))
    for one, other in zip(*grads, strict=True):
        assert one is None or torch.allclose(one, other, rtol=1e-9, atol=1e-12)


def test_a_tensor_that_only_the_diffusion_holds_is_found():
    scale = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    y0 = torch.ones(3, 1, dtype=torch.float64)
    problem = nde.SDEProblem(lambda t, y: -y, lambda t, y: scale * y, y0, (0.0, 1.0))
    sol = nde.solve(problem, nde.EulerMaruyama(), dt=0.1, seed=1)
    assert torch.autograd.grad(sol.y1.sum(), scale)[0] != 0
