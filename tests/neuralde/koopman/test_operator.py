"""fit_operator: against NumPy, its gradients by differences, and what remains finite where nothing is determined."""

import numpy as np
import pytest
import torch

import neuralde as nde
from neuralde.koopman.least_squares import leading_svd

D = torch.float64


@pytest.mark.parametrize("ridge", [0.0, 0.3])
@pytest.mark.parametrize("dtype", [D, torch.complex128])
def test_agrees_with_numpy(device, ridge, dtype):
    z0, z1 = (torch.randn(3, 30, 4, dtype=dtype, device=device) for _ in range(2))
    got = nde.koopman.fit_operator(z0, z1, ridge)
    for i in range(3):
        a, b = (z[i].cpu().numpy() for z in (z0, z1))
        a = np.vstack([a, np.sqrt(ridge) * np.eye(4)])
        wanted = np.linalg.lstsq(a, np.vstack([b, np.zeros((4, 4))]), rcond=None)[0]
        np.testing.assert_allclose(got[i].cpu().numpy(), wanted, rtol=0, atol=1e-13)


@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_gradients_by_differences(ridge):
    z0, z1 = (torch.randn(7, 3, dtype=D, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda a, b: nde.koopman.fit_operator(a, b, ridge), (z0, z1))
    assert torch.autograd.gradgradcheck(lambda a, b: nde.koopman.fit_operator(a, b, ridge), (z0, z1))


def test_gradient_along_a_change_that_keeps_the_deficient_rank():
    """Of three coordinates two are the same: the pseudo-inverse is smooth along such clouds."""
    lift = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]], dtype=D)
    z, z1 = torch.randn(9, 2, dtype=D, requires_grad=True), torch.randn(9, 3, dtype=D)
    assert torch.autograd.gradcheck(lambda x: nde.koopman.fit_operator(x @ lift, z1), (z,))


def collapsed(kind):
    z = torch.randn(20, 4)
    return {
        "zero": torch.zeros(20, 4),
        "one point": z[:1].expand(20, 4),
        "a line": z[:, :1] * torch.ones(4),
        "tiny": 1e-30 * z,
        "smallest": 1e-42 * z,
        "large": 1e17 * z,
        "repeated eigenvalues": z,
        "fewer points than coordinates": z[:2],
    }[kind].clone()


@pytest.mark.parametrize("ridge", [0.0, 1e-6, 1.0])
@pytest.mark.parametrize(
    "kind",
    [
        "zero",
        "one point",
        "a line",
        "tiny",
        "smallest",
        "large",
        "repeated eigenvalues",
        "fewer points than coordinates",
    ],
)
def test_gradients_are_finite_where_the_operator_is_not_determined(kind, ridge):
    z0 = collapsed(kind).requires_grad_()
    z1 = z0.detach().clone().requires_grad_()  # the identity, all of whose eigenvalues are the same
    operator = nde.koopman.fit_operator(z0, z1, ridge)
    operator.square().sum().backward()
    assert operator.isfinite().all()
    assert z0.grad.isfinite().all()
    assert z1.grad.isfinite().all()
    if kind == "repeated eigenvalues" and ridge < 1:
        torch.testing.assert_close(operator.detach(), torch.eye(4), rtol=0, atol=1e-5)
    if kind == "a line" and not ridge:  # the projection on it, of least norm
        torch.testing.assert_close(operator.detach(), torch.full((4, 4), 0.25), rtol=0, atol=1e-5)


def test_under_torch_func():
    z0, z1 = torch.randn(5, 9, 3, dtype=D), torch.randn(5, 9, 3, dtype=D)
    lanes = torch.func.vmap(lambda a, b: nde.koopman.least_squares.least_squares(a, b))(z0, z1)
    torch.testing.assert_close(lanes, nde.koopman.fit_operator(z0, z1))


def slowly(rows, columns, decay):
    q, p = (torch.linalg.qr(torch.randn(n, min(rows, columns), dtype=D))[0] for n in (rows, columns))
    return q * decay ** torch.arange(min(rows, columns), dtype=D) @ p.mT


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.999, 1.0])
@pytest.mark.parametrize("shape", [(400, 150), (150, 400)])
def test_leading_vectors_are_those_of_the_whole_decomposition(shape, decay):
    x = slowly(*shape, decay)
    u, s, v = leading_svd(x, 5)
    wanted = torch.linalg.svdvals(x)[:5]
    torch.testing.assert_close(s, wanted, rtol=0, atol=1e-13)
    torch.testing.assert_close(x @ v, u * s, rtol=0, atol=1e-12)
    torch.testing.assert_close(x.mT @ u, v * s, rtol=0, atol=1e-12)
    torch.testing.assert_close(u.mT @ u, torch.eye(5, dtype=D), rtol=0, atol=1e-12)


def test_rounding_is_no_rank():
    x = torch.randn(90, 3, dtype=D) @ torch.randn(3, 30, dtype=D)
    assert [len(leading_svd(x, rank)[1]) for rank in (None, 2, 5)] == [3, 2, 3]
    assert len(leading_svd(torch.zeros(5, 3))[1]) == 0
