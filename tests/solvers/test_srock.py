"""The stabilised method: its weak order, its stability, and a stiff problem that Euler's method does not survive."""

import itertools
import math

import numpy as np
import pytest
import torch

import neuralde as nde
from neuralde.solvers.paths.brownian.path import Increment

F64 = torch.float64


class TwoPoint:
    """Every path of ``steps`` increments of plus or minus the root of their length, which have the moments of order 1."""

    def __init__(self, steps):
        signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=steps)), dtype=F64)
        self.w, self.steps, self.shape, self.levy_area = signs / math.sqrt(steps), steps, (len(signs), 1), "none"

    def increment(self, s, t):
        return Increment(self.w[:, round(s * self.steps)].unsqueeze(-1), None)


@pytest.mark.parametrize("moment", [1, 2])
def test_weak_order_1_without_sampling(moment):
    """``dy = (cos 3t - 1) y dt + 0.8 y dW``: moments over all paths against the closed form."""
    integral = math.sin(3.0) / 3.0 - 1.0
    exact, errors, counts = math.exp(moment * integral + (0.32 * 2 if moment == 2 else 0.0)), [], (7, 14)
    for steps in counts:
        path = TwoPoint(steps)
        y0 = torch.ones(path.shape, dtype=F64)
        problem = nde.SDEProblem(lambda t, y: (torch.cos(3.0 * t) - 1.0) * y, lambda t, y: 0.8 * y, y0, (0.0, 1.0))
        sol = nde.solve(problem, nde.SROCK(stages=4), path=path, dt=1.0 / steps, controller=nde.ConstantStep())
        errors.append(abs((sol.y1**moment).mean().item() - exact))
    print(errors)
    assert -np.polyfit(np.log(counts), np.log(errors), 1)[0] == pytest.approx(1.0, abs=0.15), errors


@pytest.mark.parametrize("stages", [2, 5, 20])
def test_the_stages_are_chebyshevs_polynomial(stages):
    """On ``y' = z y / h`` a step multiplies by ``T_s(w0 + w1 z) / T_s(w0)``, which scipy knows; at most 1 on the interval."""
    from scipy.special import eval_chebyt

    solver = nde.SROCK(stages)
    z = torch.linspace(-solver.stability_radius, 0.0, 101, dtype=F64).reshape(-1, 1)
    problem = nde.SDEProblem(lambda t, y: z * y, lambda t, y: 0.0 * y, torch.ones_like(z), (0.0, 1.0))
    factor = nde.solve(problem, solver, dt=1.0, seed=0).y1
    w0 = 1.0 + 1.0 / stages**2
    w1 = (1.0 + w0) / solver.stability_radius
    wanted = eval_chebyt(stages, w0 + w1 * z.numpy()) / eval_chebyt(stages, w0)
    assert np.allclose(factor.numpy(), wanted, rtol=1e-9, atol=1e-11)
    assert factor.abs().max() <= 1.0 + 1e-9
    damped = z.reshape(-1) < -2.0 * 2.0 / w1 / stages**2  # away from slow components
    assert factor.reshape(-1)[damped].abs().max() < 0.5


def test_a_stiff_drift_that_eulers_method_does_not_survive():
    """A fast component that follows ``sin t``, a slow one that it drives; the same path with short steps is the measure."""

    def drift(t, y):
        slow, fast = y.unbind(-1)
        return torch.stack([fast - slow, -1000.0 * (fast - torch.sin(t))], -1)

    y0 = torch.zeros(50, 2, dtype=F64)
    problem = nde.SDEProblem(drift, lambda t, y: 0.2 * torch.cos(y), y0, (0.0, 1.0))
    path = nde.BrownianPath((50, 2), 3, 0.0, 1.0, dt=1 / 3200, dtype=F64)
    options = {"path": path, "controller": nde.ConstantStep()}
    fine = nde.solve(problem, nde.EulerMaruyama(), dt=1 / 3200, **options)
    sol = nde.solve(problem, nde.SROCK(stages=6), dt=1 / 50, **options)
    error = (sol.y1 - fine.y1)[:, 0].square().mean().sqrt()
    assert error < 0.02
    assert 300 <= sol.stats.nfe <= 301
    assert sol.y1[:, 1].abs().max() < 1.2
    coarse = nde.solve(problem, nde.EulerMaruyama(), dt=1 / 50, throw=False, **options)
    assert not (coarse.y1.abs().max() < 1e6)


def test_gradients_are_exact_and_differentiable_again():
    k = torch.tensor(30.0, dtype=F64, requires_grad=True)

    def loss(k, adjoint=None):
        problem = nde.SDEProblem(
            lambda t, y, k: -k * (y - torch.cos(t)),
            lambda t, y, k: 0.3 * y,
            torch.ones(3, 1, dtype=F64),
            (0.0, 1.0),
            (k,),
        )
        return nde.solve(problem, nde.SROCK(4), dt=0.25, seed=2, adjoint=adjoint).y1.square().sum()

    assert torch.autograd.gradcheck(loss, (k,))
    assert torch.autograd.gradgradcheck(loss, (k,))
    direct = torch.autograd.grad(loss(k, nde.DirectAdjoint()), k)[0]
    assert torch.allclose(torch.autograd.grad(loss(k), k)[0], direct, rtol=1e-11)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nde.SROCK(1), "stages: got 1; expected an int of at least 2"),
        (lambda: nde.SROCK(True), "stages: got True"),
        (lambda: nde.SROCK(4, 0.0), "damping: got 0.0; expected a positive number"),
        (lambda: nde.SROCK(4, math.nan), "damping: got nan"),
    ],
)
def test_wrong_arguments_are_refused(call, message):
    with pytest.raises(nde.InvalidProblemError, match=message):
        call()
