"""GMRES against dense solves, and the Jacobian's products against differences and the matrix itself."""

import pytest
import torch

from neuralde.solvers.linear.jacobian import Dense, Linearized, MatrixFree, linear_solver
from neuralde.solvers.linear.krylov import gmres

FLOAT = torch.float64


def systems(lanes, n, device, seed=0, shift=1.5):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(lanes, n, n, dtype=FLOAT, generator=generator) / n**0.5 + shift * torch.eye(n, dtype=FLOAT)
    return a.to(device), torch.randn(lanes, n, dtype=FLOAT, generator=generator).to(device)


def product(a):
    return lambda v: torch.einsum("bij,bj->bi", a, v)


@pytest.mark.parametrize("n", [1, 2, 30, 150])
@pytest.mark.parametrize("restart", [5, 40])
def test_gmres_solves_what_a_factorization_solves(n, restart, device):
    a, b = systems(3, n, device, shift=2.5)
    found = gmres(product(a), b, rtol=1e-10, restart=restart)
    assert bool((found.residual <= 1e-10 * torch.linalg.vector_norm(b, dim=1)).all())
    want = torch.linalg.solve(a, b)
    assert torch.allclose(found.x, want, rtol=0.0, atol=1e-8 * want.abs().max().item())


def test_gmres_ends_within_n_products_whatever_the_matrix(device):
    a, b = systems(4, 20, device, shift=0.0)  # indefinite, not normal: only the whole space will do
    found = gmres(product(a), b, rtol=1e-8)
    assert bool((found.products <= 21).all())
    assert torch.allclose(found.x, torch.linalg.solve(a, b), rtol=1e-5)


def test_a_lane_that_is_done_or_zero_does_not_move(device):
    a, b = systems(3, 25, device, shift=3.0)
    a[0] = torch.eye(25, dtype=FLOAT)  # done after one product
    b[1] = 0.0
    found = gmres(product(a), b, rtol=1e-12, restart=4)
    assert torch.equal(found.x[1], torch.zeros(25, dtype=FLOAT, device=a.device))
    assert found.products[1] == 0
    assert found.products[0] < found.products[2]
    assert torch.allclose(found.x[0], b[0], rtol=1e-14)


def test_an_inconsistent_system_says_what_is_left(device):
    a, b = systems(2, 10, device)
    a[0, 3] = a[0, 4]  # singular, and b is not in its range
    found = gmres(product(a), b, rtol=1e-10)
    best = torch.linalg.vector_norm(b[0] - a[0] @ (torch.linalg.pinv(a[0]) @ b[0]))
    assert best > 0.01
    assert found.residual[0] >= 0.999 * best
    assert found.residual[1] <= 1e-10 * torch.linalg.vector_norm(b[1])
    assert bool(found.x.isfinite().all())


def test_the_limit_on_products_holds(device):
    a, b = systems(1, 200, device, shift=0.0)
    found = gmres(product(a), b, rtol=1e-12, restart=10, max_products=30)
    assert int(found.products) <= 33
    assert found.residual > 0.0


def field(x):
    return torch.stack([x[:, 0] * x[:, 1].sin(), x[:, 1] ** 2 + x[:, 2], x[:, 0] + 0.0 * x[:, 2]], dim=1)


def test_products_are_those_of_the_jacobian(device):
    x = torch.tensor([[0.3, 1.2, -2.0], [1.0, 0.1, 0.5]], dtype=FLOAT, device=device)
    at = Linearized(field, x)
    s, c, zero, one = x[:, 1].sin(), x[:, 0] * x[:, 1].cos(), torch.zeros_like(x[:, 0]), torch.ones_like(x[:, 0])
    want = torch.stack([s, c, zero, zero, 2 * x[:, 1], one, one, zero, zero], dim=1).reshape(2, 3, 3)
    v = torch.randn_like(x)
    assert torch.allclose(at.dense(), want, rtol=1e-14)
    assert torch.allclose(at.product(v), product(want)(v), rtol=1e-13)
    assert torch.allclose(at.transposed(v), product(want.mT)(v), rtol=1e-13)
    h = 1e-6
    slope = (field(x + h * v) - field(x - h * v)) / (2 * h)
    assert torch.allclose(at.product(v), slope, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("f", [torch.ones_like, lambda x: 2.0 * x])
def test_constant_and_linear_fields_have_products_too(f, device):
    x = torch.randn(2, 3, dtype=FLOAT, device=device)
    slope = 0.0 if f is torch.ones_like else 2.0
    at = Linearized(f, x)
    assert torch.equal(at.product(x), slope * x)
    assert torch.equal(at.transposed(x), slope * x)
    assert torch.equal(at.dense(), slope * torch.eye(3, dtype=FLOAT, device=device).expand(2, 3, 3))


@pytest.mark.parametrize("kind", [Dense, MatrixFree])
@pytest.mark.parametrize("transposed", [False, True])
def test_both_solvers_solve_with_the_jacobian_and_its_transpose(kind, transposed, device):
    a, b = systems(3, 12, device, shift=2.0)
    solver = kind(Linearized(product(a), torch.zeros_like(b)))
    x, left = solver.solve(b, transposed=transposed)
    assert torch.allclose(x, torch.linalg.solve(a.mT if transposed else a, b), rtol=1e-7)
    assert bool((left <= 1e-9).all())
    assert bool((solver.products > 0).all())


def test_a_singular_row_does_not_disturb_the_others(device):
    a, b = systems(2, 4, device, shift=2.0)
    a[0] = 0.0
    solver = Dense(Linearized(product(a), torch.zeros_like(b)))
    x, left = solver.solve(b)
    assert not left[0] <= 1e-3
    assert torch.allclose(x[1], torch.linalg.solve(a[1], b[1]), rtol=1e-12)
    assert torch.isinf(solver.condition[0])
    assert torch.allclose(solver.condition[1], torch.linalg.cond(a[1]), rtol=1e-9)


def test_the_choice_is_by_size(device):
    def small(n):
        return linear_solver(Linearized(lambda x: -x, torch.zeros(1, n, dtype=FLOAT, device=device)), "auto")

    assert isinstance(small(128), Dense)
    assert isinstance(small(129), MatrixFree)
