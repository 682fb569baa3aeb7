"""Controlled equations: exact solutions, torchcde, everything that a solve of a field can do, refusals."""

from functools import cache
from itertools import product

import pytest
import torch
import torchcde
from torch import nn

import neuralde as nde

F64 = torch.float64
PATHS = {"linear": nde.LinearPath, "hermite": nde.HermitePath, "natural": nde.NaturalCubicPath}


class VectorField(nn.Module):
    """A bounded field of matrices."""

    def __init__(self, dim=4, channels=2):
        super().__init__()
        self.linear, self.channels = nn.Linear(dim, dim * channels, dtype=F64), channels

    def forward(self, t, z):
        return torch.tanh(self.linear(z)).unflatten(-1, (z.shape[-1], self.channels))


def setting(points=9, batch=3):
    torch.manual_seed(0)
    ts = torch.linspace(0.0, 2.0, points, dtype=F64)
    xs = torch.randn(points, batch, 2, dtype=F64).cumsum(0) / 3
    return ts, xs, VectorField(), torch.randn(batch, 4, dtype=F64)


def peer(name, ts, xs):
    values = xs.movedim(0, -2)
    if name == "linear":
        return torchcde.LinearInterpolation(torchcde.linear_interpolation_coeffs(values, ts), ts)
    make = {
        "hermite": torchcde.hermite_cubic_coefficients_with_backward_differences,
        "natural": torchcde.natural_cubic_coeffs,
    }
    return torchcde.CubicSpline(make[name](values, ts), ts)


@cache
def theirs(kind):
    """torchcde's solution and gradients at its tightest, landing on the knots."""
    ts, xs, field, z0 = setting()
    xs, z0 = xs.requires_grad_(), z0.requires_grad_()
    path = peer(kind, ts, xs)
    z1 = torchcde.cdeint(
        path, field, z0, ts[[0, -1]], adjoint=False, atol=1e-13, rtol=1e-13, method="dopri5",
        options=dict(jump_t=path.grid_points),
    )[:, -1]  # fmt: skip
    return z1.detach(), torch.autograd.grad(z1.square().sum(), [xs, z0, *field.parameters()])


ADJOINTS = {
    "default": (None, 1e-9),
    "direct": (nde.DirectAdjoint(), 1e-9),
    "checkpoints": (nde.DiscreteAdjoint(checkpoints=3), 1e-9),
    "gauss": (nde.GaussAdjoint(), 1e-8),
    "interpolating": (nde.InterpolatingAdjoint(), 1e-8),
    "backsolve": (nde.BacksolveAdjoint(), 1e-8),
}


# The adjoints see a field, whatever the path: all of them for one, two of them for the others.
@pytest.mark.parametrize(
    ("kind", "name"), [*(("linear", name) for name in ADJOINTS), *product(("hermite", "natural"), ("default", "gauss"))]
)
def test_torchcde(kind, name):
    z1, gradients = theirs(kind)
    ts, xs, field, z0 = setting()
    xs, z0, (adjoint, atol) = xs.requires_grad_(), z0.requires_grad_(), ADJOINTS[name]
    problem = nde.CDEProblem(field, PATHS[kind](ts, xs), z0)
    control = nde.PIController(step_ts=ts.tolist())  # a smooth path is not landed on by itself
    sol = nde.solve(problem, nde.Vern9(), rtol=1e-12, atol=1e-12, adjoint=adjoint, controller=control)
    torch.testing.assert_close(sol.y1, z1, rtol=0, atol=1e-9)
    ours = torch.autograd.grad(sol.y1.square().sum(), [xs, z0, *field.parameters()])
    for mine, other in zip(ours, gradients, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=atol)


@pytest.mark.parametrize("name", PATHS)
def test_exact_and_lands_on_knots(name, device):
    """y' = y X' has the solution exp(X(t) - X(0)), and its integral does not care how X gets there."""
    ts, xs, *_ = setting()
    path = PATHS[name](ts.to(device), xs[:, 0, :1].to(device))
    problem = nde.CDEProblem(lambda t, y: y.unsqueeze(-1), path, torch.ones(1, dtype=F64, device=device))
    saveat = torch.linspace(0.0, 2.0, 7, dtype=F64)
    sol = nde.solve(problem, rtol=1e-10, atol=1e-12, saveat=saveat, trace=True)
    expected = torch.exp(path(saveat.to(device)) - path(0.0))
    torch.testing.assert_close(sol.ys, expected, rtol=1e-8, atol=0)
    landed = set(ts.tolist()) <= {*sol.trace.t.tolist(), 2.0}
    assert landed is not path.smooth
    assert problem.tspan == (0.0, 2.0)


@pytest.mark.parametrize(("method", "order"), [(nde.Heun(), 2), (nde.Bosh3(), 3), (nde.RK4(), 4)])
def test_order_on_a_time_dependent_field(method, order):
    """Steps of fractions of an interval, across the knots of a linear path; the reference is a tight solve."""
    ts, xs, field, z0 = setting(points=5)
    path = nde.LinearPath(ts, xs)
    problem = nde.CDEProblem(lambda t, z: (1 + torch.sin(3 * t)) * field(t, z), path, z0)
    with torch.no_grad():
        exact = nde.solve(problem, nde.Vern9(), rtol=1e-13, atol=1e-13).y1
        errors = []
        for parts in (8, 16, 32):
            sol = nde.solve(problem, method, controller=nde.ConstantStep(), dt=0.5 / parts)
            errors.append(float((sol.y1 - exact).norm()))
    slopes = torch.tensor(errors).log2().diff().neg()
    assert (slopes > order - 0.2).all(), slopes
    assert (slopes < order + 0.6).all(), slopes


def test_gradients_by_finite_differences():
    ts, xs, field, z0 = setting(points=4, batch=2)

    def end(xs, z0, scale):
        problem = nde.CDEProblem(lambda t, z, k: k * field(t, z), nde.HermitePath(ts, xs), z0, (0.1, 1.85), (scale,))
        return nde.solve(problem, nde.RK4(), controller=nde.ConstantStep(), dt=0.25).y1

    inputs = [x.clone().requires_grad_() for x in (xs, z0, torch.tensor(0.7, dtype=F64))]
    assert torch.autograd.gradcheck(end, inputs)

    def tight(t0, t1):
        problem = nde.CDEProblem(field, nde.LinearPath(ts, xs), z0, (t0, t1))
        return nde.solve(problem, nde.Vern9(), rtol=1e-13, atol=1e-13).y1

    ends = [torch.tensor(x, dtype=F64, requires_grad=True) for x in (0.1, 1.85)]
    assert torch.autograd.gradcheck(tight, ends, eps=1e-4, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", PATHS)
def test_each_sample_its_own_steps_and_times(name):
    ts, xs, field, z0 = setting()
    path = PATHS[name](ts, xs)
    # A tolerance of 1e-10 leaves 3e-8 where the path is smooth and its second derivative jumps between the ends of steps.
    atol = 1e-7 if path.smooth else 1e-9
    joint = nde.solve(nde.CDEProblem(field, path, z0), rtol=1e-10, atol=1e-10)
    own = nde.solve(nde.CDEProblem(field, path, z0), rtol=1e-10, atol=1e-10, per_sample=True)
    torch.testing.assert_close(own.y1, joint.y1, rtol=0, atol=atol)
    ends = torch.tensor([0.7, 1.1, 2.0], dtype=F64)
    own = nde.solve(nde.CDEProblem(field, path, z0, (0.0, ends)), rtol=1e-10, atol=1e-10, per_sample=True)
    for b, end in enumerate(ends.tolist()):
        alone = nde.solve(nde.CDEProblem(field, PATHS[name](ts, xs[:, b]), z0[b], (0.0, end)), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(own.y1[b], alone.y1, rtol=0, atol=atol)


def test_ragged_series_freeze_at_their_ends():
    ts, xs, field, z0 = setting()
    own = ts.unsqueeze(-1).repeat(1, 3) * torch.tensor([1.0, 0.5, 0.25], dtype=F64)
    sol = nde.solve(nde.CDEProblem(field, nde.LinearPath(own, xs), z0), rtol=1e-10, atol=1e-10)
    for b in range(3):
        alone = nde.solve(nde.CDEProblem(field, nde.LinearPath(own[:, b], xs[:, b]), z0[b]), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(sol.y1[b], alone.y1, rtol=0, atol=1e-8)


def test_events_dense_output_regularizers_pytrees_and_blocks():
    ts, xs, field, z0 = setting()
    path = nde.HermitePath(ts, xs)
    problem = nde.CDEProblem(field, path, z0)
    level = float(nde.solve(problem, rtol=1e-10, atol=1e-10, saveat=[0.9]).ys[0, 0, 0].detach())
    regularizers = (nde.regularizers.ErrorEstimate(), nde.regularizers.StiffnessEstimate())
    sol = nde.solve(problem, rtol=1e-10, atol=1e-10, dense=True, regularizers=regularizers)
    assert all(value > 0 for value in sol.regularization)
    assert abs(float(sol(0.9)[0, 0].detach()) - level) < 1e-7
    gradients = torch.autograd.grad(sum(sol.regularization), list(field.parameters()))
    assert all(g.isfinite().all() and g.any() for g in gradients)
    event = nde.Event(lambda t, z: z[0, 0] - level)
    stopped = nde.solve(problem, rtol=1e-10, atol=1e-10, events=event)
    assert stopped.status == nde.Status.EVENT
    assert abs(float(sol(stopped.event_time.detach())[0, 0].detach()) - level) < 1e-7
    tree = nde.CDEProblem(lambda t, y: {"z": field(t, y["z"])}, path, {"z": z0})
    torch.testing.assert_close(nde.solve(tree, rtol=1e-10, atol=1e-10).y1["z"], sol.y1, rtol=0, atol=1e-7)
    blocks = nde.solve(problem, rtol=1e-10, atol=1e-10, driver=nde.Blocks())
    torch.testing.assert_close(blocks.y1, sol.y1, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("linear", dict(rtol=1e-6, atol=1e-6)),
        ("natural", dict(solver=nde.RK4(), controller=nde.ConstantStep(), dt=0.5)),
    ],
)
def test_compiled(name, options):
    ts, xs, field, z0 = setting(points=5)
    path = PATHS[name](ts, xs)

    def loss(z0):
        return nde.solve(nde.CDEProblem(field, path, z0, (0.0, 2.0)), **options).y1.square().sum()

    compiled, parameters = torch.compile(loss, fullgraph=True, backend="aot_eager"), list(field.parameters())
    value = compiled(z0)
    torch.testing.assert_close(value, loss(z0), rtol=1e-12, atol=1e-12)
    eager = torch.autograd.grad(loss(z0), parameters)
    for mine, other in zip(torch.autograd.grad(value, parameters), eager, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-10)


def test_paths_of_torchcde():
    ts, xs, field, z0 = setting()
    for name in PATHS:
        ours = nde.solve(nde.CDEProblem(field, PATHS[name](ts, xs), z0), rtol=1e-10, atol=1e-10)
        other = nde.solve(nde.CDEProblem(field, peer(name, ts, xs), z0), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(ours.y1, other.y1, rtol=0, atol=1e-7)


def test_log_ode_steps_converge_to_the_solution():
    """For the linear field F(z) = A_i z the log-ODE's field is that of brackets; depth 2 is of higher order than depth 1."""
    torch.manual_seed(2)
    ts = torch.linspace(0.0, 1.0, 65, dtype=F64)
    xs = torch.stack([torch.sin(5 * ts), torch.cos(7 * ts)], -1)
    a = torch.randn(2, 3, 3, dtype=F64) / 2
    z0 = torch.ones(3, dtype=F64)
    brackets = {1: a, 2: torch.cat([a, (a[1] @ a[0] - a[0] @ a[1]).unsqueeze(0)])}

    def end(path, matrices):
        return nde.solve(
            nde.CDEProblem(lambda t, z: (matrices @ z).T, path, z0), nde.Vern7(), rtol=1e-11, atol=1e-11
        ).y1

    exact = end(nde.LinearPath(ts, xs), a)
    errors = {
        depth: [float((end(nde.LogSignaturePath(ts, xs, depth, w), brackets[depth]) - exact).norm()) for w in (8, 4, 2)]
        for depth in (1, 2)
    }
    orders = {depth: torch.tensor(e).log2().diff().neg() for depth, e in errors.items()}
    assert ((orders[1] - 2).abs() < 0.5).all(), errors
    assert (orders[2] > orders[1] + 0.5).all(), errors
    assert errors[2][-1] < errors[1][-1] / 10


PATH = nde.HermitePath([0.0, 1.0, 2.0], torch.zeros(3, 2, dtype=F64))
Z0 = torch.zeros(4, dtype=F64)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: nde.CDEProblem(None, PATH, Z0), "field: got NoneType"),
        (lambda: nde.CDEProblem(lambda t, z: z, torch.zeros(3, 2), Z0), "path: got Tensor; expected a control path"),
        (
            lambda: nde.CDEProblem(lambda t, z: z, PATH, Z0, (0.0, 2.5)),
            "tspan: got 2.5; expected times that the path covers",
        ),
        (lambda: nde.CDEProblem(lambda t, z: z, PATH, Z0, (-1.0, 2.0)), "tspan: got -1.0"),
        (lambda: nde.CDEProblem(lambda t, z: z, PATH, Z0, args=3), "args: got int"),
        (lambda: nde.CDEProblem(lambda z, t: z, PATH, Z0), r"field: got a function of \(z, t"),
    ],
)
def test_refused_when_it_is_made(make, words):
    with pytest.raises(nde.InvalidProblemError, match=words):
        make()


@pytest.mark.parametrize(
    ("field", "words"),
    [
        (lambda t, z: torch.zeros(4, 3, dtype=F64), r"field: got shape \(4, 3\); expected the 2 channels"),
        (lambda t, z: torch.zeros(5, 2, dtype=F64), "field: got"),
        (lambda t, z: 1.0, "field: got float"),
    ],
)
def test_refused_when_it_is_called(field, words):
    with pytest.raises(nde.InvalidProblemError, match=words):
        nde.solve(nde.CDEProblem(field, PATH, Z0))


def test_what_a_cde_has_no_use_for():
    problem = nde.CDEProblem(lambda t, z: torch.zeros(4, 2, dtype=F64), PATH, Z0)
    with pytest.raises(nde.InvalidProblemError, match="seed: got 3 with a CDEProblem, which has no noise"):
        nde.solve(problem, seed=3)
    with pytest.raises(nde.InvalidProblemError, match="with a CDEProblem; expected a method for it"):
        nde.solve(problem, nde.SRIW1())


@pytest.mark.parametrize("name", PATHS)
def test_no_series_is_stepped_over(name):
    """A series much shorter than the others is between the stages of a long step, unless solves land where it begins."""
    ts = torch.tensor([[0.0, 5.0, 9.7], [4.0, 5.01, 9.8], [10.0, 5.03, 9.9]], dtype=F64)
    xs = torch.tensor([0.0, 1.0, 3.0], dtype=F64).reshape(3, 1, 1).expand(3, 3, 1)
    problem = nde.CDEProblem(
        lambda t, y: torch.ones_like(y).unsqueeze(-1), PATHS[name](ts, xs), torch.zeros(3, 1, dtype=F64)
    )
    y1 = nde.solve(problem, rtol=1e-8, atol=1e-8).y1
    torch.testing.assert_close(y1, torch.full((3, 1), 3.0, dtype=F64), rtol=1e-6, atol=0)
