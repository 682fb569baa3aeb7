"""The reference that the gradients are held against: finite differences of the map with the steps frozen.

An exact adjoint promises the derivative of "these steps, on this problem": the accepted step boundaries are constants,
but for the two ends of the interval, which are inputs. So the steps are read off once, and perturbed inputs are then
evaluated on that fixed mesh, without gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import neuralde as nde
from neuralde.solvers.testing import methods

ADJOINTS = {
    "direct": nde.DirectAdjoint(),
    "discrete": nde.DiscreteAdjoint(),
    "checkpointed": nde.DiscreteAdjoint(checkpoints=3),
}
KUTTA3 = nde.ButcherTableau(
    a=((), (1 / 2,), (-1, 2)), b=(1 / 6, 2 / 3, 1 / 6), c=(0, 1 / 2, 1), order=3, b_embedded=(0, 1, 0), embedded_order=2
)
SOLVERS = {method.name: method for method in methods()} | {"Kutta3": nde.RungeKutta(KUTTA3, "Kutta3")}


@pytest.fixture(params=list(ADJOINTS))
def adjoint(request: pytest.FixtureRequest) -> nde.Adjoint:
    """Every exact adjoint."""
    return ADJOINTS[request.param]


@pytest.fixture
def adjoints() -> dict[str, nde.Adjoint]:
    """All exact adjoints by name."""
    return ADJOINTS


@pytest.fixture(params=list(SOLVERS))
def solver(request: pytest.FixtureRequest) -> nde.Method:
    """Every method, and one that a user wrote as a tableau."""
    return SOLVERS[request.param]


@pytest.fixture(autouse=True)
def double() -> Any:
    """Everything here is float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def leaf(*values: Any, dtype: torch.dtype = torch.float64) -> Tensor:
    """A tensor that requires grad; one number makes it 0-d."""
    return torch.tensor(values[0] if len(values) == 1 else values, dtype=dtype).requires_grad_()


def central(value: Callable[[], Tensor], x: Tensor, direction: Tensor, h: float = 1e-3) -> Tensor:
    """The derivative of ``value()`` as ``x`` moves along ``direction``: sixth-order central differences."""
    weights, total = {1: 3 / 4, 2: -3 / 20, 3: 1 / 60}, torch.zeros(())
    before = x.detach().clone()
    with torch.no_grad():
        for k, weight in weights.items():
            for sign in (1, -1):
                x.copy_(before + sign * k * h * direction)
                total = total + sign * weight * value()
        x.copy_(before)
    return total / h


def directions(x: Tensor) -> list[Tensor]:
    """Each coordinate of a small tensor, else a random direction."""
    if x.numel() <= 2 and not x.is_complex():
        return [row.reshape(x.shape) for row in torch.eye(x.numel(), dtype=x.dtype)]
    return [torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(7))]


def differences(value: Callable[[], Tensor], inputs: Sequence[Tensor], h: float = 1e-3) -> list[Tensor]:
    """The derivatives of ``value()`` along the directions of every input."""
    return [torch.stack([central(value, x, d, h) for d in directions(x)]) for x in inputs]


def assert_derivative(
    grads: Sequence[Tensor | None], inputs: Sequence[Tensor], wanted: Sequence[Tensor], tol: float = 1e-6, who: str = ""
) -> None:
    """Compare gradients with differences, relative to the largest of the same input."""
    for place, (grad, x, along) in enumerate(zip(grads, inputs, wanted, strict=True)):
        got = torch.zeros_like(along)
        if grad is not None:
            got = torch.stack([(grad.conj() * d).real.sum() for d in directions(x)])
        error = (got - along).abs().max() / along.abs().max().clamp(min=1e-3)
        assert error <= tol, f"{who} input {place}: {got.tolist()} against {along.tolist()}, off by {error:.1e}"


class Frozen:
    """The frozen-step check, as a fixture for all modules.

    ``run(**extra)`` solves the problem from the live tensors, with further arguments for ``solve``, and returns the
    solution; ``read`` makes a number of it.
    """

    leaf = staticmethod(leaf)
    differences = staticmethod(differences)
    assert_derivative = staticmethod(assert_derivative)

    @staticmethod
    def mesh(run: Callable[..., nde.Solution], sample: int | None = None) -> list[float]:
        """The accepted step boundaries inside the interval."""
        with torch.no_grad():
            ts = run(saveat="steps").ts
        ts = ts if sample is None else ts[:, sample]
        return ts[~ts.isnan()].tolist()[1:-1]

    def __call__(
        self,
        run: Callable[..., nde.Solution],
        read: Callable[[nde.Solution], Tensor],
        inputs: Sequence[Tensor],
        tol: float = 1e-6,
        jump_ts: Sequence[float] = (),
        least: int = 3,
        h: float = 1e-3,
        adjoints: dict[str, nde.Adjoint] = ADJOINTS,
    ) -> None:
        """Compare the gradients of the solve as it is with differences of the solve on its own frozen mesh."""
        mesh = self.mesh(run)
        assert len(mesh) + 1 >= least, "too few steps to prove anything"
        fixed = nde.StepTo(ts=[t for t in mesh if t not in jump_ts], jump_ts=jump_ts)
        wanted = differences(lambda: read(run(controller=fixed, dt=None)), inputs, h)
        for name, adjoint in adjoints.items():
            value = read(run(adjoint=adjoint))
            grads = torch.autograd.grad(value, inputs, allow_unused=True)
            torch.testing.assert_close(read(run(controller=fixed, dt=None)), value, rtol=1e-9, atol=1e-12)
            assert_derivative(grads, inputs, wanted, tol, name)


@pytest.fixture
def frozen() -> Frozen:
    """The frozen-step check."""
    return Frozen()


@pytest.fixture
def make() -> Callable[..., Tensor]:
    """Make a leaf."""
    return leaf
