"""Low-precision matrix products are noticed before their rounding drives the step size."""

import warnings

import pytest
import torch

import neuralde.solvers as nde


def problem(seed=0):
    torch.manual_seed(seed)
    net = torch.nn.Sequential(torch.nn.Linear(4, 64), torch.nn.Tanh(), torch.nn.Linear(64, 4)).requires_grad_(False)
    return nde.ODEProblem(lambda t, y: net(y).float(), torch.randn(8, 4), (0.0, 10.0))


def test_autocast_noise_is_measured_and_bounds_the_steps():
    tol = 1e-5
    plain = nde.solve(problem(), rtol=tol, atol=tol).stats
    with torch.autocast("cpu", torch.bfloat16):
        with pytest.warns(nde.PrecisionWarning, match=r"autocast to torch.bfloat16.*steps stay below about") as caught:
            sol = nde.solve(problem(), rtol=tol, atol=tol, trace=True)
    predicted = float(str(caught[0].message).partition("steps stay below about ")[2].partition(",")[0])
    taken = sol.trace.dt[sol.trace.accepted].median().item()
    assert sol.stats.nfe > 5 * plain.nfe
    assert predicted / 3 < taken < 3 * predicted


def test_loose_tolerances_and_exact_products_say_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with torch.autocast("cpu", torch.bfloat16):
            nde.solve(problem(), rtol=1e-1, atol=1e-1)
        nde.solve(problem(), rtol=1e-5, atol=1e-5)


def test_the_probes_are_counted():
    calls = [0]

    def field(t, y):
        calls[0] += 1
        return -y

    with torch.autocast("cpu", torch.bfloat16):
        sol = nde.solve(nde.ODEProblem(field, torch.ones(3), (0.0, 1.0)))
    assert sol.stats.nfe == calls[0]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_tf32_noise_is_measured():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.Tanh(), torch.nn.Linear(256, 64)).cuda()
    y0 = torch.randn(128, 64, device="cuda")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with torch.no_grad(), pytest.warns(nde.PrecisionWarning, match="float32 matrix products of high precision"):
            nde.solve(nde.ODEProblem(lambda t, y: net(y), y0, (0.0, 10.0)), rtol=1e-6, atol=1e-6, throw=False)
    finally:
        torch.set_float32_matmul_precision(before)
