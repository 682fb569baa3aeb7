"""How many torch operations a stochastic step takes beside the user's functions, compared with a loop written by hand."""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import neuralde.solvers as nde


class Count(TorchDispatchMode):
    """Counts what reaches the dispatcher."""

    def __init__(self):
        super().__init__()
        self.seen = Counter()

    def __torch_dispatch__(self, f, types, args=(), kwargs=None):
        self.seen[str(f)] += 1
        return f(*args, **(kwargs or {}))


def per_step(run):
    """Operations in 512 steps beyond those in 256, for each step: what is done once for a solve cancels."""
    counts = []
    for steps in (256, 512):
        with torch.no_grad(), Count() as count:
            run(steps)
        counts.append(count.seen)
    return {name: (n - counts[0][name]) / 256 for name, n in counts[1].items() if n != counts[0][name]}


def by_hand(y, steps):
    h = 1.0 / steps
    for k in range(steps):
        t = torch.tensor(k * h)
        y = y + (t - y) * h + torch.sin(y) * (torch.randn_like(y) * h**0.5)
    return y


def solved(method, calculus):
    def run(steps):
        y0 = torch.linspace(-1.0, 1.0, 64).reshape(16, 4)
        problem = nde.SDEProblem(lambda t, y: t - y, lambda t, y: torch.sin(y), y0, (0.0, 1.0), calculus=calculus)
        nde.solve(problem, method, dt=1.0 / steps, controller=nde.ConstantStep(), seed=0)

    return run


def test_a_step_of_euler_takes_no_more_operations_than_a_loop_by_hand():
    ours, hand = per_step(solved(nde.EulerMaruyama(), "ito")), per_step(lambda n: by_hand(torch.ones(16, 4), n))
    assert sum(ours.values()) <= sum(hand.values())
    assert ours["aten._local_scalar_dense.default"] == 1  # the verdict: whether the state is finite


# Drift: 1, diffusion: 1. The rest is the method's arithmetic, the time's tensor, the verdict and a share of the noise.
@pytest.mark.parametrize(
    ("method", "calculus", "most"),
    [
        (nde.EulerMaruyama(), "ito", 9),
        (nde.ItoMilstein(), "ito", 17),
        (nde.EulerHeun(), "stratonovich", 16),
        (nde.ReversibleHeun(), "stratonovich", 25),
        (nde.SRIW1(), "ito", 64),
    ],
    ids=lambda x: getattr(x, "name", ""),
)
def test_operations_of_a_step(method, calculus, most):
    assert sum(per_step(solved(method, calculus)).values()) <= most
