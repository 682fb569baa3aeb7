"""The first step of a stochastic solve: as long as the tolerance allows, seldom longer, and safe where nothing is known."""

import pytest
import torch

import neuralde.solvers as nde

F64 = torch.float64
ONE = torch.ones(20, 1, dtype=F64)
PROBLEMS = {
    "geometric": (lambda t, y: 0.5 * y, lambda t, y: 0.5 * y, ONE, "diagonal"),
    "square root": (lambda t, y: 2.0 * (0.5 - y), lambda t, y: 0.3 * (y.abs() + 1e-6).sqrt(), ONE, "diagonal"),
    "from zero": (lambda t, y: 1.0 - y, lambda t, y: 0.5 * y, 0.0 * ONE, "diagonal"),
    "forced": (lambda t, y: torch.cos(10.0 * t) * y, lambda t, y: 0.3 * torch.sin(5.0 * t) * y, ONE, "diagonal"),
    "layer": (lambda t, y: -100.0 * (y - 1.0), lambda t, y: 0.1 * y, 3.0 * ONE, "diagonal"),
    "additive": (lambda t, y: 2.0 * (1.0 - y), lambda t, y: 0.3 + 0.0 * y, ONE, "additive"),
    "no noise": (lambda t, y: -y, lambda t, y: 0.0 * y, ONE, "diagonal"),
}


def solved(name, tolerance, seed):
    drift, diffusion, y0, noise = PROBLEMS[name]
    problem = nde.SDEProblem(drift, diffusion, y0, (0.0, 1.0), noise=noise)
    return nde.solve(problem, rtol=tolerance, atol=tolerance, seed=seed, trace=True)


@pytest.mark.parametrize("tolerance", [0.1, 0.01, 1e-3])
@pytest.mark.parametrize("name", PROBLEMS)
def test_the_first_step_is_neither_refused_nor_one_of_many_that_only_grow(name, tolerance):
    for seed in range(5):
        trace = solved(name, tolerance, seed).trace
        assert trace.accepted[0]
        assert trace.dt[0] > 0.4 * trace.dt[:3].max()


def test_a_start_whose_neighbour_is_outside_the_domain_takes_hairers_step():
    """Noise may move the state by a tolerance, 0.1, and the drift is NaN 0.01 further on."""
    y0 = torch.full((4, 1), 0.01, dtype=F64)
    problem = nde.SDEProblem(lambda t, y: (0.02 - y).sqrt(), lambda t, y: 0.3 + 0.0 * y, y0, (0.0, 0.1))
    sol = nde.solve(problem, nde.SOSRI(), rtol=0.1, atol=0.1, seed=1, trace=True, max_steps=1, throw=False)
    unit = (0.1 + 0.1 * 0.01) / 3.0  # the state is smaller than the tolerance, so a third of that is the unit
    assert sol.trace.dt[0].item() == pytest.approx((0.01 * unit / 0.3) ** (2.0 / 3.0), rel=1e-12)


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("size", [0.0, 1e-200, 1e30, 1e200])
def test_sizes_without_measure_make_no_error_of_their_own(size, per_sample):
    """Nothing moves at all; what would move overflows when squared; both."""
    y0 = torch.ones(3, 1, dtype=F64)
    problem = nde.SDEProblem(lambda t, y: size * y, lambda t, y: size * torch.cos(y), y0, (0.0, 1.0))
    sol = nde.solve(problem, nde.SOSRI(), rtol=1e-2, seed=1, per_sample=per_sample, max_steps=20, throw=False)
    if size < 1.0:
        assert int(torch.as_tensor(sol.stats.steps).max()) == 1
    else:
        assert bool((torch.as_tensor(sol.status) != 0).all())


def test_lanes_have_the_first_steps_that_they_have_alone():
    y0 = torch.tensor([[0.1], [1.0], [30.0]], dtype=F64)

    def solve(start):
        problem = nde.SDEProblem(lambda t, y: -y * y, lambda t, y: 0.2 * y, start, (0.0, 1.0))
        return nde.solve(problem, nde.SOSRI(), rtol=1e-3, seed=1, per_sample=True, trace=True)

    together = solve(y0).trace.dt[0]
    alone = torch.stack([solve(y0[i : i + 1]).trace.dt[0] for i in range(3)])
    assert torch.allclose(together.flatten(), alone.flatten(), rtol=1e-12)
    assert together.flatten()[2] < together.flatten()[0]
