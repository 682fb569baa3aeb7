"""Every stochastic method has the strong order that it claims, for every kind of noise that it takes."""

import pytest
import torch

import neuralde.solvers as nde
from neuralde.solvers.testing import stochastic as testing

COUNTS = (16, 32, 64, 128)
ITO = [nde.EulerMaruyama(), nde.ItoMilstein(), nde.SRIW1(), nde.SOSRI(), nde.SRA1(), nde.SRA3(), nde.ShARK()]
ITO += [nde.SROCK(), nde.PL1WM()]
STRATONOVICH = [
    nde.EulerHeun(),
    nde.Heun(),
    nde.Midpoint(),
    nde.RK4(),
    nde.StratonovichMilstein(),
    nde.ReversibleHeun(),
    nde.SlowRK(),
    nde.SPaRK(),
]


def reference(noise: str, calculus: str, claim: float) -> testing.Reference:
    if noise == "general":
        return testing.noncommutative(400, calculus)
    # Over short times noise outweighs drift, so that terms of order 3/2 are seen beside those of order 2.
    short = claim > 1.0 and noise != "additive"
    return testing.logistic(200, noise, calculus, span=0.125 if short else 1.0)


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

    # With additive noise only short steps show it.
    counts = (256, 512) if claim > 1.0 and noise == "additive" else COUNTS
    with torch.no_grad():
        order, errors = testing.strong_order(solve, reference(noise, calculus, claim), counts)
    print(method, noise, order, errors)
    assert abs(order - claim) < 0.15, errors
