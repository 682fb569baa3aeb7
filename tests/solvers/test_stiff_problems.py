"""The stiff test set: its references are found again by SciPy's Radau, which shares no code with them or with this library."""

import pytest
import torch

from neuralde.solvers.testing.stiff import STIFF


@pytest.mark.parametrize("problem", STIFF, ids=repr)
def test_the_reference_is_found_by_radau(problem):
    """At 1e-8; ``agrees`` was measured at 1e-13, which takes minutes."""
    integrate = pytest.importorskip("scipy.integrate")

    def f(t, y):
        return problem.f(torch.tensor(t, dtype=torch.float64), torch.from_numpy(y)).numpy()

    def jac(t, y):
        at = torch.tensor(t, dtype=torch.float64)
        return torch.func.jacfwd(lambda y: problem.f(at, y))(torch.from_numpy(y)).numpy()

    tolerance = 1e-7
    found = integrate.solve_ivp(
        f, problem.tspan, problem.y0, "Radau", rtol=tolerance, atol=tolerance * problem.small, jac=jac
    )
    assert found.status == 0
    assert problem.error(torch.from_numpy(found.y[:, -1])) < 300 * tolerance


@pytest.mark.parametrize("problem", STIFF, ids=repr)
def test_fields_take_batches(problem):
    y = torch.tensor(problem.y0, dtype=torch.float64)
    many = torch.stack([y, 1.1 * y + 1e-3, 0.7 * y])
    t = torch.tensor(0.3, dtype=torch.float64)
    assert torch.allclose(problem.f(t, many)[1], problem.f(t, many[1]), rtol=1e-14)
    assert problem.problem().y0.shape == y.shape
