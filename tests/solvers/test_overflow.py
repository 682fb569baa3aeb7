"""A state that overflows is never a success, whoever drives the steps, and says so without creeping up to the limit."""

import pytest
import torch

import neuralde as nde

DRIVES = {
    "joint": {},
    "per sample": {"per_sample": True},
    "blocks": {"driver": nde.Blocks(size=4)},
    "blocks per sample": {"driver": nde.Blocks(size=4), "per_sample": True},
    "constant": {"controller": nde.ConstantStep(), "dt": 0.1},
    "constant per sample": {"controller": nde.ConstantStep(), "dt": 0.1, "per_sample": True},
    "dopri8": {"solver": nde.Dopri8()},
    "integral control": {"controller": nde.IController()},
}
LARGE = {torch.float32: 3e38, torch.float64: 1.5e308, torch.complex64: 3e38, torch.complex128: 1.5e308}


CASES = [(drive, torch.float32) for drive in DRIVES] + [
    (one, kind) for one in ("joint", "per sample") for kind in LARGE
]


@pytest.mark.parametrize(("drive", "dtype"), CASES)
def test_a_field_that_never_looks_at_the_state(drive, dtype):
    large = LARGE[dtype]
    y0 = torch.tensor([[large, 1.0]], dtype=torch.float64).to(dtype)
    rate = torch.tensor([[large / 3, 0.0]], dtype=torch.float64).to(dtype)
    problem = nde.ODEProblem(lambda t, y: rate + 0.0 * t, y0, (0.0, 1.0))
    sol = nde.solve(problem, saveat=[0.05, 0.5, 1.0], throw=False, **DRIVES[drive])
    assert int(sol.status) == nde.Status.NON_FINITE
    assert bool(sol.y1.isfinite().all())
    assert bool(sol.ys[2].real.isnan().any())
    assert int(sol.stats.steps) < 500
    with pytest.raises(nde.NonFiniteError):
        nde.solve(problem, **DRIVES[drive])


def test_one_sample_of_many():
    y0 = torch.tensor([[3.35e38], [1.0], [-3.35e38]])
    sol = nde.solve(nde.ODEProblem(lambda t, y: y.sign() * 1e37, y0, (0.0, 1.0)), per_sample=True, throw=False)
    assert sol.status.tolist() == [nde.Status.NON_FINITE, nde.Status.SUCCESS, nde.Status.NON_FINITE]
    assert sol.y1[1].item() == pytest.approx(1e37, rel=1e-5)


def test_what_stays_below_the_limit_is_a_success():
    problem = nde.ODEProblem(lambda t, y: torch.full_like(y, 3e37), torch.tensor([3e38]), (0.0, 1.0))
    sol = nde.solve(problem)
    assert sol.y1.item() == pytest.approx(3.3e38, rel=1e-5)


def test_growth_without_end_in_every_precision():
    for dtype in (torch.float32, torch.float64):
        problem = nde.ODEProblem(lambda t, y: y, torch.ones(1, dtype=dtype), (0.0, 1e4))
        assert nde.solve(problem, throw=False).status is nde.Status.NON_FINITE


def test_compiled():
    torch._dynamo.reset()

    @torch.compile(fullgraph=True, backend="eager")
    def status(y0):
        return nde.solve(nde.ODEProblem(lambda t, y: torch.full_like(y, 1e38), y0, (0.0, 1.0))).status

    assert int(status(torch.tensor([3e38]))) == nde.Status.NON_FINITE
    assert int(status(torch.tensor([1e38]))) == nde.Status.SUCCESS
    torch._dynamo.reset()


@pytest.mark.parametrize("adjoint", [nde.GaussAdjoint(), nde.BacksolveAdjoint(), nde.InterpolatingAdjoint()])
def test_a_cotangent_that_overflows_is_said(adjoint):
    k = torch.tensor(100.0, requires_grad=True)  # exp(100) is beyond float32, and so is the gradient by y0
    y0 = torch.full((1,), 1e-30, requires_grad=True)
    problem = nde.ODEProblem(lambda t, y, k: k * y, y0, (0.0, 1.0), args=(k,))
    sol = nde.solve(problem, rtol=1e-4, atol=1e-36, adjoint=adjoint, max_steps=500)  # the solve takes 145
    with pytest.raises(nde.SolveError):
        sol.y1.sum().backward()


def test_a_search_for_a_steady_state_of_what_grows():
    problem = nde.SteadyStateProblem(lambda t, y: torch.full_like(y, 1e38), torch.tensor([3e38]))
    assert nde.solve(problem, rtol=0.0, throw=False).status is nde.Status.NON_FINITE
