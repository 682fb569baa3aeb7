"""Every stochastic method has the strong order that it claims, for every kind of noise that it takes."""

import pytest
import torch

import neuralde as nde
from neuralde.solvers.sde import testing

COUNTS = (16, 32, 64, 128)
ITO = [nde.EulerMaruyama(), nde.ItoMilstein()]
STRATONOVICH = [
    nde.EulerHeun(),
    nde.Heun(),
    nde.Midpoint(),
    nde.RK4(),
    nde.StratonovichMilstein(),
    nde.ReversibleHeun(),
]


def reference(noise: str, calculus: str) -> testing.Reference:
    if noise == "additive":
        return testing.additive(200, calculus)
    if noise == "general":
        return testing.noncommutative(400, calculus)
    return testing.logistic(200, noise, calculus)


def claims():
    for calculus, methods in (("ito", ITO), ("stratonovich", STRATONOVICH)):
        for method in methods:
            noises = getattr(method, "orders", nde.EulerHeun.orders)
            for noise, order in noises.items():
                yield pytest.param(method, calculus, noise, order, id=f"{method.name}-{noise}")


@pytest.mark.parametrize(("method", "calculus", "noise", "claim"), list(claims()))
def test_strong_order(method, calculus, noise, claim):
    def solve(problem, dt, path):
        return nde.solve(problem, method, dt=dt, path=path, controller=nde.ConstantStep(), rtol=1e-6).y1

    with torch.no_grad():
        order, errors = testing.strong_order(solve, reference(noise, calculus), COUNTS)
    print(method, noise, order, errors)
    assert abs(order - claim) < 0.15, errors
