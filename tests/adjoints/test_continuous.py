"""The continuous adjoints against the exact gradient at a tolerance near rounding, for every input and kind of solve."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import neuralde as nde

KINDS = {
    "backsolve": nde.BacksolveAdjoint,
    "interpolating": nde.InterpolatingAdjoint,
    "gauss": nde.GaussAdjoint,
}
BEST = {"solver": nde.Vern9(), "adjoint": nde.DirectAdjoint(), "rtol": 1e-12, "atol": 1e-12}


@pytest.fixture(params=list(KINDS))
def adjoint(request):
    return KINDS[request.param]()


class Case:
    """A problem with every input live."""

    def __init__(self, dtype=torch.float64, per_sample=False, backward=False):
        made = torch.Generator().manual_seed(2)
        self.weight = (0.8 * torch.randn(2, 2, generator=made, dtype=dtype)).requires_grad_()
        self.bias = torch.randn(2, generator=made).requires_grad_()
        self.unused = torch.ones(2, requires_grad=True)
        self.y0 = torch.randn(3, 2, generator=made, dtype=dtype).requires_grad_()
        self.rate = torch.tensor(1.3).requires_grad_()
        ends = [torch.tensor([0.1, 0.2, 0.0]) if per_sample else torch.tensor(0.1), torch.tensor(1.5)]
        self.t0, self.t1 = (t.requires_grad_() for t in (reversed(ends) if backward else ends))
        ts = torch.tensor([0.3, 0.9, 1.4])
        self.ts = (ts.flip(0) if backward else ts).requires_grad_()
        self.per_sample = per_sample
        self.inputs = [self.y0, self.rate, self.weight, self.bias, self.unused, self.t0, self.t1, self.ts]

    def loss(self, saved=True, **options):
        def field(t, y, rate):
            return torch.tanh(y @ self.weight + self.bias) * torch.cos(rate * t) - 0.2 * y * y * t

        problem = nde.ODEProblem(field, self.y0, (self.t0, self.t1), (self.rate,))
        sol = nde.solve(problem, **({"saveat": self.ts if saved else None, "per_sample": self.per_sample} | options))
        rows = torch.sin(torch.arange(sol.ys.numel(), dtype=torch.float64)).reshape(sol.ys.shape)
        return (sol.ys * rows).real.sum() + sol.y1.abs().square().sum()

    def grads(self, **options):
        got = torch.autograd.grad(self.loss(**options), self.inputs, allow_unused=True)
        return [torch.zeros_like(x) if g is None else g for g, x in zip(got, self.inputs, strict=True)]


def worst(got, want):
    return max(((a - b).abs().max() / b.abs().max().clamp(min=0.1)).item() for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize("saved", [True, False])
@pytest.mark.parametrize("kind", ["joint", "complex", "backward", "per_sample", "compact"])
def test_every_input(adjoint, kind, saved):
    dtype = torch.complex128 if kind == "complex" else torch.float64
    samples = kind in ("per_sample", "compact")
    case = Case(dtype, samples, kind == "backward")
    options = {"saved": saved, "compact": kind == "compact"}
    want = case.grads(**(options | BEST))
    got = case.grads(adjoint=adjoint, rtol=1e-9, atol=1e-9, **options)
    assert worst(got, want) < 1e-6


@pytest.mark.parametrize(
    ("solver", "options", "tolerance"),
    [
        (nde.RK4(), {"dt": 0.05}, 1e-4),
        (nde.Bosh3(), {"rtol": 1e-6, "atol": 1e-6}, 1e-4),
        (nde.Vern7(), {"rtol": 1e-9, "atol": 1e-9}, 1e-7),
    ],
)
def test_other_methods(adjoint, solver, options, tolerance):
    case = Case()
    assert worst(case.grads(solver=solver, adjoint=adjoint, **options), case.grads(**BEST)) < tolerance


@pytest.mark.parametrize("name", ["interpolating", "gauss"])
def test_converges_with_the_tolerance(name):
    case = Case()
    want = case.grads(**BEST)
    tolerances = (1e-4, 1e-6, 1e-8, 1e-10)
    errors = [worst(case.grads(adjoint=KINDS[name](), rtol=tol, atol=tol), want) for tol in tolerances]
    assert np.polyfit(np.log(tolerances), np.log(errors), 1)[0] > 0.75, errors


def test_the_backward_solve_has_tolerances_of_its_own(adjoint):
    kind, case = type(adjoint), Case()
    want = case.grads(**BEST)
    options = {"solver": nde.Dopri8(), "rtol": 1e-10, "atol": 1e-10}
    loose = worst(case.grads(adjoint=kind(solver=nde.Bosh3(), rtol=1e-2, atol=1e-2), **options), want)
    tight = worst(case.grads(adjoint=kind(solver=nde.Vern7(), rtol=1e-10, atol=1e-10), **options), want)
    assert tight < 1e-7
    assert loose > 1e-5


def test_a_stable_field_is_not_reconstructed():
    """``y' = 20 (sin t - y^3)`` backwards blows up: the reconstructed state is lost, the dense output is not."""
    k = torch.tensor(20.0, requires_grad=True)
    y0 = torch.ones(1, requires_grad=True)

    def error(adjoint):
        problem = nde.ODEProblem(lambda t, y, k: k * (torch.sin(t) - y**3), y0, (0.0, 2.0), (k,))
        best = torch.autograd.grad(nde.solve(problem, **BEST).y1.sum(), k)[0]
        try:
            got = torch.autograd.grad(nde.solve(problem, adjoint=adjoint, rtol=1e-6, atol=1e-8).y1.sum(), k)[0]
        except nde.SolveError:
            return float("inf")  # refused is right too
        return (abs(got - best) / abs(best)).item()

    assert error(nde.GaussAdjoint()) < 1e-3
    assert error(nde.InterpolatingAdjoint()) < 1e-3
    assert error(nde.BacksolveAdjoint()) > 1e-2


def test_jump_times(adjoint):
    k = torch.tensor(0.8, requires_grad=True)
    problem = nde.ODEProblem(lambda t, y, k: torch.where(t < 0.5, k, 2 * k) * y, torch.ones(()), (0.0, 1.0), (k,))
    controller = nde.PIController(jump_ts=[0.5])
    sol = nde.solve(problem, adjoint=adjoint, rtol=1e-9, atol=1e-9, controller=controller)
    got = torch.autograd.grad(sol.y1, k)[0]
    assert abs(got - 1.5 * torch.exp(torch.tensor(1.2))) < 1e-6


def test_a_failed_backward_solve_raises(adjoint):
    y0 = torch.ones(2, requires_grad=True)
    calls = {"backward": False}

    def field(t, y):
        return y / (0.0 if calls["backward"] else 1.0)

    y1 = nde.solve(nde.ODEProblem(field, y0, (0.0, 1.0)), adjoint=adjoint).y1
    calls["backward"] = True
    with pytest.raises(nde.SolveError, match=f"the backward solve of {adjoint.name}"):
        y1.sum().backward()


@pytest.mark.parametrize("per_sample", [False, True], ids=["joint", "per_sample"])
def test_the_units_of_the_loss_do_not_matter(adjoint, per_sample):
    """A cotangent far below the absolute tolerance is integrated as one of size 1 is."""
    case, calls = Case(per_sample=per_sample), []
    for scale in (1.0, 1e-6):
        loss = scale * case.loss(rtol=1e-5, atol=1e-3, adjoint=adjoint)
        calls.append(torch.autograd.grad(loss, case.inputs, allow_unused=True))
    pairs = [(a, b) for a, b in zip(*calls, strict=True) if a is not None]
    assert len(pairs) >= 6
    for whole, small in pairs:
        torch.testing.assert_close(1e6 * small, whole, rtol=1e-9, atol=1e-12)


def test_the_backward_solve_goes_on_with_its_step(adjoint):
    """Cotangents enter at every save time; from each on, one call and one step of six, and no search for a first step but at
    the end."""
    calls = 0

    def field(t, y):
        nonlocal calls
        calls += 1
        return -y

    y0 = torch.ones(3, dtype=torch.float64, requires_grad=True)
    problem = nde.ODEProblem(field, y0, (0.0, 1.0))
    sol = nde.solve(problem, nde.Tsit5(), saveat=torch.linspace(0.0, 1.0, 41), rtol=1e-3, atol=1e-3, adjoint=adjoint)
    calls = 0
    sol.ys.sum().backward()
    assert calls == 40 * 7 + 1
