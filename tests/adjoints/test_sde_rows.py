"""Gradients of rows inside the steps of an SDE, along the frozen path, by every adjoint that takes them."""

import pytest
import torch

import neuralde as nde

D = torch.float64
TS = [0.07, 0.13, 0.35, 0.36, 0.9]
METHODS = [
    (nde.EulerMaruyama(), "ito", "general"),
    (nde.ItoMilstein(), "ito", "diagonal"),
    (nde.ItoMilstein(), "ito", "commutative"),
    (nde.SOSRI(), "ito", "diagonal"),
    (nde.ShARK(), "ito", "additive"),
    (nde.SlowRK(), "stratonovich", "commutative"),
    (nde.Heun(), "stratonovich", "general"),
    (nde.ReversibleHeun(), "stratonovich", "diagonal"),
    (nde.SROCK(), "ito", "general"),
    (nde.PL1WM(), "ito", "diagonal"),
]


def setup(calculus, noise):
    generator = torch.Generator().manual_seed(0)
    a = (0.5 * torch.randn(2, 2, dtype=D, generator=generator)).requires_grad_()
    b = torch.tensor([0.4, -0.3], dtype=D, requires_grad=True)

    def diffusion(t, y):
        if noise == "additive":
            return (b * (1.0 + t)).expand(y.shape)
        g = 0.3 * torch.sin(y + b)
        return g if noise == "diagonal" else torch.stack([g, 0.5 * g], -1)

    y0 = torch.linspace(-1.0, 1.0, 6, dtype=D).reshape(3, 2).requires_grad_()
    problem = nde.SDEProblem(lambda t, y: torch.tanh(y @ a), diffusion, y0, (0.0, 1.0), (), noise, calculus)
    return problem, [y0, a, b]


def loss(sol):
    return (sol.ys**2).sum() + sol.y1.sin().sum() + (0.0 if sol.dense is None else sol(0.44).square().sum())


def differences(value, inputs):
    """The derivative along one random direction of each input."""
    out = []
    for x in inputs:
        along = torch.randn(x.shape, dtype=D, generator=torch.Generator().manual_seed(1))
        values = []
        for sign in (1.0, -1.0):
            with torch.no_grad():
                x += sign * 1e-5 * along
                values.append(value().item())
                x -= sign * 1e-5 * along
        out.append((along, (values[0] - values[1]) / 2e-5))
    return out


@pytest.mark.parametrize("lanes", [{}, {"per_sample": True}, {"per_sample": True, "compact": True}], ids=str)
@pytest.mark.parametrize(("method", "calculus", "noise"), METHODS, ids=lambda x: getattr(x, "name", x))
def test_exact_adjoints_agree_with_differences(method, calculus, noise, lanes):
    problem, inputs = setup(calculus, noise)
    adjoints = [nde.DirectAdjoint(), nde.DiscreteAdjoint(), nde.DiscreteAdjoint(checkpoints=2)]
    adjoints += [nde.ReversibleAdjoint()] if method.reversible else []
    options = dict(dt=0.2, seed=3, saveat=TS, controller=nde.ConstantStep(), dense=True, **lanes)
    wanted = differences(lambda: loss(nde.solve(problem, method, **options)), inputs)
    for adjoint in adjoints:
        grads = torch.autograd.grad(loss(nde.solve(problem, method, adjoint=adjoint, **options)), inputs)
        for grad, (along, want) in zip(grads, wanted, strict=True):
            assert (grad * along).sum().item() == pytest.approx(want, rel=1e-6, abs=1e-8), adjoint.name


@pytest.mark.parametrize("noise", ["diagonal", "additive"])
def test_backsolve_comes_nearer_with_the_step(noise):
    problem, inputs = setup("stratonovich", noise)
    path = nde.BrownianPath((3, 2), 3, 0.0, 1.0, "space-time", dtype=D)

    def value(dt, adjoint=None):
        return loss(
            nde.solve(problem, nde.Heun(), dt=dt, path=path, saveat=TS, controller=nde.ConstantStep(), adjoint=adjoint)
        )

    exact = torch.autograd.grad(value(0.001), inputs)
    gaps = []
    for dt in (0.04, 0.005):
        grads = torch.autograd.grad(value(dt, nde.BacksolveAdjoint()), inputs)
        gaps.append(max(((one - other).norm() / other.norm()).item() for one, other in zip(grads, exact, strict=True)))
    assert gaps[1] < 0.4 * gaps[0]
    assert gaps[1] < 0.02


def test_second_derivatives_of_rows():
    problem, (y0, *_) = setup("ito", "diagonal")

    def rows(y):
        changed = nde.SDEProblem(problem.drift, problem.diffusion, y, (0.0, 1.0))
        return (
            nde.solve(changed, nde.SOSRI(), dt=0.5, seed=3, saveat=[0.3], controller=nde.ConstantStep())
            .ys.square()
            .sum()
        )

    assert torch.autograd.gradgradcheck(rows, (y0.detach().requires_grad_(),))
