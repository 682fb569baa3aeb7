"""Controlled equations under what solves offer: every adjoint, forward mode, transforms, events, ragged series, graphs."""

import pytest
import torch
import torch._dynamo.testing
from torch import nn

import neuralde as nde

F64, NAN = torch.float64, float("nan")
PATHS = {
    "linear": nde.LinearPath,
    "rectilinear": nde.RectilinearPath,
    "hermite": nde.HermitePath,
    "natural": nde.NaturalCubicPath,
    "windows": lambda ts, xs: nde.LogSignaturePath(ts, xs, 1, 2),
}
TIGHT = dict(rtol=1e-10, atol=1e-10)


class Field(nn.Module):
    """Smooth and bounded, a column for each of two channels."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 6, dtype=F64)

    def forward(self, t, z):
        return torch.tanh(self.linear(z) + 0.3 * torch.sin(t)).unflatten(-1, (3, 2))


def setting(points=7, batch=3):
    torch.manual_seed(0)
    ts = torch.linspace(0.0, 2.0, points, dtype=F64)
    return ts, torch.randn(points, batch, 2, dtype=F64).cumsum(0) / 3, Field(), torch.randn(batch, 3, dtype=F64)


def fixed(**options):
    return dict(solver=nde.RK4(), controller=nde.ConstantStep(), dt=0.1, **options)


def gradients(path, adjoint, solver, field, xs, z0, **options):
    xs = xs.clone().requires_grad_()
    z0 = z0.clone().requires_grad_()
    sol = nde.solve(nde.CDEProblem(field, path(xs), z0), solver, adjoint=adjoint, **options)
    return sol.y1.detach(), torch.autograd.grad(sol.y1.square().sum(), [xs, z0, *field.parameters()])


@pytest.mark.parametrize(
    ("adjoint", "solver"),
    [
        (nde.DiscreteAdjoint(budget=0), nde.Heun()),
        (nde.DiscreteAdjoint(checkpoints=4), nde.Heun()),
        (nde.ReversibleAdjoint(), nde.Reversible(nde.Heun())),
        (nde.ForwardSensitivity(), nde.Heun()),
    ],
    ids=["replayed", "checkpoints", "reversible", "forward"],
)
@pytest.mark.parametrize("kind", ["rectilinear", "hermite", "windows"])
def test_exact_adjoints_give_one_gradient(kind, adjoint, solver):
    """To rounding that of autograd through all steps, in the data too; a step on each side of every knot."""
    ts, xs, field, z0 = setting()
    options = dict(controller=nde.StepTo(torch.linspace(0.0, 2.0, 25, dtype=F64).tolist()))
    make = lambda xs: PATHS[kind](ts, xs)  # noqa: E731
    y1, direct = gradients(make, nde.DirectAdjoint(), solver, field, xs, z0, **options)
    other, found = gradients(make, adjoint, solver, field, xs, z0, **options)
    torch.testing.assert_close(other, y1, rtol=1e-12, atol=1e-12)
    for one, two in zip(found, direct, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("adjoint", [nde.GaussAdjoint(), nde.InterpolatingAdjoint(), nde.BacksolveAdjoint()])
@pytest.mark.parametrize("kind", ["rectilinear", "windows"])
def test_continuous_adjoints_see_each_side_of_a_knot(kind, adjoint):
    ts, xs, field, z0 = setting()
    make = lambda xs: PATHS[kind](ts, xs)  # noqa: E731
    _, exact = gradients(make, None, nde.Vern9(), field, xs, z0, rtol=1e-12, atol=1e-12)
    _, found = gradients(make, adjoint, nde.Vern9(), field, xs, z0, rtol=1e-11, atol=1e-11)
    for one, two in zip(found, exact, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-8)


def test_forward_mode_and_transforms():
    ts, xs, field, z0 = setting(batch=2)
    names = dict(field.named_parameters())

    def end(xs, z0, parameters):
        call = lambda t, z: torch.func.functional_call(field, parameters, (t, z))  # noqa: E731
        return nde.solve(nde.CDEProblem(call, nde.HermitePath(ts, xs), z0), **fixed(adjoint=nde.DirectAdjoint())).y1

    given = (xs, z0, {name: value.detach() for name, value in names.items()})
    tangents = torch.utils._pytree.tree_map(torch.randn_like, given)
    value, moved = torch.func.jvp(end, given, tangents)
    step = 1e-6
    ahead, behind = (
        end(*torch.utils._pytree.tree_map(lambda x, v, s=s: x + s * step * v, given, tangents)) for s in (1, -1)
    )
    torch.testing.assert_close(moved, (ahead - behind) / (2 * step), rtol=1e-7, atol=1e-8)
    pulled = torch.func.vjp(end, *given)[1](torch.ones_like(value))
    pairs = zip(*map(torch.utils._pytree.tree_leaves, (pulled, tangents)), strict=True)
    torch.testing.assert_close(sum((a * b).sum() for a, b in pairs), moved.sum(), rtol=1e-10, atol=1e-10)
    each = torch.func.vmap(lambda x, z: end(x, z, given[2]), in_dims=(1, 0))(xs, z0)
    torch.testing.assert_close(each, value, rtol=1e-12, atol=1e-12)


def test_events_and_their_gradients():
    """Where one component crosses a level, by the data; against differences of the event's time."""
    ts, xs, field, z0 = setting()
    path = nde.LinearPath(ts, xs)
    level = float(nde.solve(nde.CDEProblem(field, path, z0), saveat=[1.1], **TIGHT).ys[0, 0, 0].detach())
    event = nde.Event(lambda t, z: z[0, 0] - level)

    def time(xs):
        problem = nde.CDEProblem(field, nde.LinearPath(ts, xs), z0)
        return nde.solve(problem, nde.Vern9(), rtol=1e-12, atol=1e-12, events=event).event_time

    direction, given = torch.randn_like(xs), xs.clone().requires_grad_()
    found = time(given)
    (gradient,) = torch.autograd.grad(found, given)
    step = 1e-5
    with torch.no_grad():
        by_differences = (time(xs + step * direction) - time(xs - step * direction)) / (2 * step)
    torch.testing.assert_close((gradient * direction).sum(), by_differences, rtol=1e-5, atol=1e-7)
    kick = nde.Event(lambda t, z: z[0, 0] - level, terminal=False, apply=lambda t, z: z + 1.0)
    jumped = nde.solve(nde.CDEProblem(field, path, z0), events=kick, **TIGHT)
    assert len(jumped.events) >= 1
    rest = nde.CDEProblem(field, path, jumped.events.after[-1].detach(), (float(jumped.events.ts[-1].detach()), 2.0))
    torch.testing.assert_close(jumped.y1, nde.solve(rest, **TIGHT).y1, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("kind", ["linear", "hermite"])
def test_ragged_series_with_steps_of_their_own(kind):
    """Padded, listed and packed are one; costs, states and gradients are those of each series alone."""
    ts, xs, field, z0 = setting()
    scale = torch.tensor([1.0, 0.6, 0.3], dtype=F64)
    lengths = (7, 5, 3)
    each = [ts[:n] * s for n, s in zip(lengths, scale, strict=True)]
    values = [xs[:n, b] for b, n in enumerate(lengths)]
    packed = [nn.utils.rnn.pack_sequence(part, enforce_sorted=False) for part in (each, values)]
    regularizers = (nde.regularizers.ErrorEstimate(), nde.regularizers.StiffnessEstimate())
    options = dict(per_sample=True, regularizers=regularizers, **TIGHT)
    problem = nde.CDEProblem(field, PATHS[kind](each, values), z0)
    sol = nde.solve(problem, **options)
    again = nde.solve(nde.CDEProblem(field, PATHS[kind](*packed), z0), **options)
    assert torch.equal(sol.y1, again.y1)
    assert all((cost > 0).all() for cost in sol.regularization)
    for b in range(3):
        alone = nde.solve(nde.CDEProblem(field, PATHS[kind](each[b], values[b]), z0[b]), **TIGHT)
        torch.testing.assert_close(sol.y1[b], alone.y1, rtol=0, atol=1e-7 if kind == "hermite" else 1e-8)
    parameters = list(field.parameters())
    whole = torch.autograd.grad(sol.y1[2].sum(), parameters)
    alone = nde.solve(nde.CDEProblem(field, PATHS[kind](each[2], values[2]), z0[2]), **TIGHT)
    for one, two in zip(whole, torch.autograd.grad(alone.y1.sum(), parameters), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-6)


def test_packed_series_with_shared_times():
    ts, xs, *_ = setting()
    values = [xs[:n, b] for b, n in enumerate((7, 4, 5))]
    packed = nn.utils.rnn.pack_sequence(values, enforce_sorted=False)
    path = nde.LinearPath(ts, packed)
    listed = nde.LinearPath([ts[: len(x)] for x in values], values)
    at = torch.linspace(0.0, 2.0, 9, dtype=F64)
    assert torch.equal(path(at), listed(at))
    own = ts.unsqueeze(-1) * torch.tensor([1.0, 2.0, 3.0], dtype=F64)
    assert nde.LinearPath(own, packed).interval == (0.0, 4.0)


@pytest.mark.parametrize("kind", PATHS)
def test_dense_output_and_trace_at_the_knots(kind):
    """A step ends at each knot of a path that is not smooth; the dense output's slope is the field along the path."""
    ts, xs, field, z0 = setting()
    path = PATHS[kind](ts, xs)
    sol = nde.solve(nde.CDEProblem(field, path, z0), dense=True, trace=True, saveat="steps", **TIGHT)
    knots = path.knots.tolist()
    assert (set(knots) <= {*sol.trace.t.tolist(), 2.0}) is not path.smooth
    matrices = field(torch.tensor(1.1, dtype=F64), sol(1.1))
    by_hand = (matrices @ path.derivative(1.1).unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(sol.derivative(1.1), by_hand, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(sol.ys[-1], sol(2.0), rtol=1e-9, atol=1e-9)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize(("kind", "per_sample"), [("rectilinear", False), ("windows", False), ("natural", True)])
def test_compiled_with_the_path_made_inside(kind, per_sample):
    """Data and times are inputs of the graph: other values need no other graph, and the data have their gradient."""
    ts, xs, field, z0 = setting(points=4)
    options = dict(rtol=1e-3, atol=1e-3, per_sample=per_sample) if per_sample else fixed() | {"dt": 0.5}

    def end(ts, xs, z0):
        return nde.solve(nde.CDEProblem(field, PATHS[kind](ts, xs), z0, (0.0, 2.0)), **options).y1.square().sum()

    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(end, fullgraph=True, backend=counter)
    for shift in (0.0, 0.1):
        moved, data = ts + shift * torch.sin(torch.pi * ts), (xs + shift).detach().requires_grad_()
        value, eager = compiled(moved, data, z0), end(moved, data, z0)
        torch.testing.assert_close(value, eager, rtol=1e-10, atol=1e-10)
        ours, theirs = (torch.autograd.grad(x, data)[0] for x in (value, eager))
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-9)
    assert counter.frame_count == 1
    torch._dynamo.reset()


ZERO = torch.zeros(3, 3, dtype=F64)


@pytest.mark.parametrize(
    ("field", "y0", "words"),
    [
        (lambda t, z: torch.ones(3, 3, 2, dtype=torch.int64), ZERO, "field: got dtype torch.int64"),
        (
            lambda t, z: torch.ones(*z.shape, 2, dtype=F64),
            torch.zeros(5, 3, dtype=F64),
            r"field: got shape \(5, 3, 2\); expected one that fits the series of the path, \(3,\)",
        ),
        (lambda t, z: torch.ones(3, 2, 3, dtype=F64), ZERO, r"field: got shape \(3, 2, 3\); expected the 2 channels"),
    ],
)
def test_fields_that_do_not_fit(field, y0, words):
    ts, xs, *_ = setting()
    with pytest.raises(nde.InvalidProblemError, match=words):
        nde.solve(nde.CDEProblem(field, nde.LinearPath(ts, xs), y0))


TS, XS = setting()[:2]
GONE = XS.clone()
GONE[:, 1, 0] = NAN


@pytest.mark.parametrize("kind", PATHS)
@pytest.mark.parametrize(
    ("ts", "xs", "words"),
    [
        (TS.flip(0), XS, "ts: got 2.0 and then .* strictly increasing"),
        (torch.where(TS == TS[2], TS[1], TS), XS, "ts: got .* strictly increasing"),
        (torch.where(TS == TS[2], NAN, TS), XS, "ts: got a time that is not finite"),
        (TS, GONE, "xs: got no observation in channel 0 of series 1"),
        (TS[:1], XS[:1], r"ts: got shape \(1,\).*at least two"),
        (TS, (9 * XS).long(), "xs: got dtype torch.int64; expected real floating point"),
        (TS, XS > 0, "xs: got dtype torch.bool"),
        (TS, XS.to(torch.complex128), "xs: got dtype torch.complex128"),
        (TS, nn.utils.rnn.pack_sequence([XS[:, 0], XS[:1, 1]]), "fewer than two times"),
        (
            nn.utils.rnn.pack_sequence([TS, TS[:3]]),
            nn.utils.rnn.pack_sequence([XS[:, 0], XS[:4, 1]]),
            r"ts: got packed times .* lengths \[7, 3\]; expected .* \[7, 4\]",
        ),
        (TS[:4], nn.utils.rnn.pack_sequence([XS[:, 0], XS[:4, 1]]), r"ts: got shape \(4,\) with packed xs of 7 times"),
    ],
)
def test_data_that_make_no_path(kind, ts, xs, words):
    with pytest.raises(nde.InvalidProblemError, match=words):
        PATHS[kind](ts, xs)
