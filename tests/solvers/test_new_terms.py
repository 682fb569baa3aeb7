"""A new kind of equation is one term and one entry: a control-driven one, written here, has all that a field has."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import neuralde as nde
from neuralde.solvers.core.scalars import as_time
from neuralde.solvers.front.kind import Kind
from neuralde.solvers.front.kinds import KINDS
from neuralde.solvers.front.solve import solve
from neuralde.solvers.problems import Problem
from neuralde.solvers.terms.base import Term
from neuralde.solvers.terms.ordinary import Field
from neuralde.solvers.terms.stochastic import pack_columns

D = torch.float64
KNOTS = (0.0, 0.3, 0.7, 1.2, 1.5)
FINE = {"rtol": 1e-10, "atol": 1e-12}


@dataclass(frozen=True, eq=False)
class ControlledProblem(Problem):
    """y' = F(t, y) dX/dt, with X the polygon through ``values`` at ``knots``."""

    title = "a ControlledProblem"
    parts = ("F",)
    F: Callable[..., Any]
    knots: tuple[float, ...]
    y0: Any
    tspan: tuple[Any, Any]
    args: tuple[Any, ...]
    """The values of the polygon, ``(K, c)``, and what else F receives."""


@dataclass(frozen=True)
class Corners:
    """What says where the slope jumps."""

    knots: tuple[float, ...]


class Controlled(Term):
    """The term: everything that differs from a field along time is in this class."""

    title = "a ControlledProblem"
    name = "F"

    def __init__(self, field: Field, knots: tuple[float, ...]) -> None:
        self.field, self.packing, self.args, self.knots = field, field.packing, field.args, knots
        self.inner = field.rebind(field.args[1:])

    def __call__(self, t, y):
        values, inner = self.args[0], self.inner
        matrix = inner.value(inner.f, "F", lambda g, what: pack_columns(self.packing, g, values.shape[1]), t, y)
        knots = torch.tensor(self.knots, dtype=D, device=y.device)
        time = as_time(t, y).detach().to(D)
        place = (torch.searchsorted(knots, time.reshape(-1).contiguous(), right=True) - 1).clamp(0, len(knots) - 2)
        slope = (values.diff(dim=0) / knots.diff().unsqueeze(-1))[place]
        return (matrix @ (slope if self.packing.per_sample else slope[0]).to(y.dtype).unsqueeze(-1)).squeeze(-1)

    @property
    def functions(self):
        return (self.field.f,)

    @property
    def controls(self):
        return (Corners(self.knots),)

    def rebind(self, args):
        return Controlled(self.field.rebind(args), self.knots)


class ControlledKind(Kind):
    """What builds the term."""

    def method(self, problem, solver):
        return nde.Tsit5() if solver is None else solver

    def term(self, problem, packing, y0, method, controller, ends, options):
        return Controlled(Field(problem.F, packing, problem.args), problem.knots), method


class Unheard(Controlled):
    """A term of a family that no method and no adjoint knows."""

    family = "split"


class UnheardKind(ControlledKind):
    def term(self, problem, packing, y0, method, controller, ends, options):
        return Unheard(Field(problem.F, packing, problem.args), problem.knots), method


class UnheardProblem(ControlledProblem):
    title = "an UnheardProblem"


@pytest.fixture(autouse=True)
def entered(monkeypatch):
    monkeypatch.setitem(KINDS, ControlledProblem, ControlledKind())
    monkeypatch.setitem(KINDS, UnheardProblem, UnheardKind())


def matrices(A: Tensor) -> Callable[..., Tensor]:
    """F of a linear equation: its columns are ``A[j] y``."""
    return lambda t, y, A: torch.einsum("cij,...j->...ic", A, y)


def inputs(requires_grad=False):
    made = torch.Generator().manual_seed(3)
    A = torch.randn(2, 3, 3, generator=made, dtype=D)
    values = torch.randn(len(KNOTS), 2, generator=made, dtype=D)
    y0 = torch.randn(3, generator=made, dtype=D)
    return [x.requires_grad_(requires_grad) for x in (A, values, y0)]


def problem(A, values, y0, t1: Any = 1.5, kind=ControlledProblem, t0: Any = 0.0):
    return kind(matrices(A), KNOTS, y0, (t0, t1), (values, A))


def exact(A: Tensor, values: Tensor, y0: Tensor, t: Any) -> Tensor:
    """A product of matrix exponentials: on each piece of the polygon the equation is autonomous and linear."""
    y = y0
    for place in range(len(KNOTS) - 1):
        low, high = KNOTS[place], KNOTS[place + 1]
        if float(torch.as_tensor(t).detach()) <= low:
            break
        end = t if float(torch.as_tensor(t).detach()) < high else high
        generator = torch.einsum("c,cij->ij", (values[place + 1] - values[place]) / (high - low), A)
        y = torch.linalg.matrix_exp(generator * (end - low)) @ y
    return y


@pytest.mark.parametrize("method", [None, nde.Dopri8(), nde.Bosh3(), nde.Reversible(nde.Tsit5())], ids=repr)
def test_adaptive_steps_land_on_the_knots(method):
    A, values, y0 = inputs()
    tolerances = {"rtol": 1e-7, "atol": 1e-9} if isinstance(method, nde.Bosh3) else FINE
    sol = solve(problem(A, values, y0), method, saveat="steps", **tolerances)
    assert set(KNOTS) <= set(sol.ts.tolist())
    wanted = torch.stack([exact(A, values, y0, t) for t in sol.ts.tolist()])
    assert torch.allclose(sol.ys, wanted, rtol=0.0, atol=1e3 * tolerances["rtol"])


def test_fixed_steps_have_the_order_of_the_method():
    A, values, y0 = inputs()
    errors = []
    for dt in (0.05, 0.025):
        sol = solve(problem(A, values, y0), nde.RK4(), dt=dt)
        errors.append((sol.y1 - exact(A, values, y0, 1.5)).norm().item())
    assert math.log2(errors[0] / errors[1]) > 3.7


def test_slopes_are_used_again():
    """A first-same-as-last method calls it six times a step, and once more at the start and behind each inner knot."""
    sol = solve(problem(*inputs()), rtol=1e-6, atol=1e-8)
    assert sol.stats.nfe == 6 * sol.stats.steps + 2 + (len(KNOTS) - 2)


def test_save_times_and_dense_output():
    A, values, y0 = inputs()
    ts = torch.linspace(0.0, 1.5, 16, dtype=D)
    wanted = torch.stack([exact(A, values, y0, t) for t in ts.tolist()])
    sol = solve(problem(A, values, y0), saveat=ts, dense=True, **FINE)
    assert torch.allclose(sol.ys, wanted, rtol=0.0, atol=1e-6)
    assert torch.allclose(sol(ts), wanted, rtol=0.0, atol=1e-6)
    generator = torch.einsum("c,cij->ij", (values[1] - values[0]) / 0.3, A)
    assert torch.allclose(sol.derivative(0.2), generator @ exact(A, values, y0, 0.2), rtol=0.0, atol=1e-4)


def test_events():
    A, values, y0 = inputs()
    sought = 0.9
    level = exact(A, values, y0, sought)[0].item()
    rate = (exact(A, values, y0, sought + 1e-6)[0] - level) / 1e-6
    event = nde.Event(lambda t, y, *args: y[0] - level, terminal=False)
    sol = solve(problem(A, values, y0), events=event, **FINE)
    assert rate.abs() > 0.1
    assert (sol.events.ts - sought).abs().min() < 1e-8


def test_every_sample_has_its_own_clock():
    A, values, y0 = inputs()
    starts = torch.stack([y0, 2 * y0, -y0])
    ends = torch.tensor([0.5, 1.5, 1.0], dtype=D)
    sol = solve(problem(A, values, starts, ends), per_sample=True, **FINE)
    wanted = torch.stack([exact(A, values, y, t) for y, t in zip(starts, ends.tolist(), strict=True)])
    assert torch.allclose(sol.y1, wanted, rtol=0.0, atol=1e-7)


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize(
    "adjoint",
    [
        nde.DirectAdjoint(),
        nde.DiscreteAdjoint(),
        nde.DiscreteAdjoint(budget=0),
        nde.ForwardSensitivity(),
        nde.GaussAdjoint(),
    ],
    ids=["direct", "kept", "discrete", "forward", "gauss"],
)
def test_gradients(adjoint, per_sample):
    """Of the control's values, the matrices, the state and both times, against those of the exact solution."""

    def gradients(of):
        A, values, y0 = inputs(requires_grad=True)
        t0, t1 = (torch.tensor(t, dtype=D, requires_grad=True) for t in (0.1, 1.4))
        y1 = of(A, values, y0, t0, t1)
        return torch.autograd.grad((y1 * torch.arange(1.0, 4.0, dtype=D)).sum(), (A, values, y0, t0, t1))

    def numerical(A, values, y0, t0, t1):
        state = y0.unsqueeze(0) if per_sample else y0
        return nde.solve(problem(A, values, state, t1, t0=t0), adjoint=adjoint, per_sample=per_sample, **FINE).y1

    def known(A, values, y0, t0, t1):
        generator = torch.einsum("c,cij->ij", (values[1] - values[0]) / 0.3, A)
        return exact(A, values, torch.linalg.matrix_exp(-generator * t0) @ y0, t1)

    for got, wanted in zip(gradients(numerical), gradients(known), strict=True):
        assert torch.allclose(got, wanted, rtol=1e-6, atol=1e-7)


def test_blocks_and_regularizers_take_it():
    A, values, y0 = inputs()
    one, other = (
        nde.solve(problem(A, values, y0), driver=driver, regularizers=[nde.regularizers.ErrorEstimate()])
        for driver in (None, nde.Blocks(size=4))
    )
    assert torch.allclose(one.y1, other.y1, rtol=1e-12, atol=0.0)
    assert one.regularization[0] > 0
    assert torch.allclose(one.regularization[0], other.regularization[0], rtol=1e-9)


def test_what_does_not_fit_is_refused_by_name():
    with pytest.raises(nde.InvalidProblemError, match=r"seed: got 1 with a ControlledProblem, which has no noise"):
        solve(problem(*inputs()), seed=1)
    with pytest.raises(nde.InvalidProblemError, match="solver: EulerHeun does not step a ControlledProblem"):
        solve(problem(*inputs()), nde.EulerHeun(), dt=0.1)
    with pytest.raises(nde.InvalidProblemError, match="Tsit5 does not step a ControlledProblem"):
        solve(problem(*inputs(), kind=UnheardProblem))
    with pytest.raises(nde.InvalidProblemError, match="problem: got int; expected an ODEProblem"):
        solve(3)


def test_an_adjoint_that_does_not_know_a_family_refuses_it(monkeypatch):
    monkeypatch.setattr(nde.Tsit5, "takes", ("ODE", "split"))
    A, values, y0 = inputs(requires_grad=True)
    assert torch.allclose(
        solve(problem(A, values, y0, kind=UnheardProblem), **FINE).y1, exact(A, values, y0, 1.5), atol=1e-7
    )
    with pytest.raises(nde.InvalidProblemError, match="DiscreteAdjoint does not differentiate a ControlledProblem"):
        nde.solve(problem(A, values, y0, kind=UnheardProblem))


def test_a_compiled_solve_takes_it():
    A, values, y0 = inputs()
    compiled = torch.compile(lambda y0: nde.solve(problem(A, values, y0), rtol=1e-8, atol=1e-10).y1, fullgraph=True)
    assert torch.allclose(compiled(y0), exact(A, values, y0, 1.5), rtol=0.0, atol=1e-5)
