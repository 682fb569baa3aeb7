"""Gradients of implicit methods: by the implicit function, under every adjoint that takes them."""

import pytest
import torch

import neuralde as nde
from neuralde.regularizers import ErrorEstimate
from neuralde.solvers.testing.implicit import BDF2, ImplicitEuler

METHODS = [ImplicitEuler(), BDF2(), nde.Rosenbrock23(), nde.Rodas5P()]
EXACT = {
    "discrete": nde.DiscreteAdjoint(),
    "no budget": nde.DiscreteAdjoint(budget=0),
    "small budget": nde.DiscreteAdjoint(budget=30_000),
    "checkpoints": nde.DiscreteAdjoint(checkpoints=3),
    "forward": nde.ForwardSensitivity(),
}
MESH = [0.1, 0.23, 0.31, 0.45, 0.6, 0.77, 0.9]
HIT = nde.Event(
    lambda t, y, k: y[..., 0] - 0.6, terminal=False, direction="down", apply=lambda t, y, k: y + 0.2 * k * y.flip(-1)
)
END = nde.Event(lambda t, y, k: y[..., 0] - 0.6 * k / 1.7, direction="down")
CASES = {
    "rows": {"saveat": [0.2, 0.5, 1.0]},
    "dense": {"dense": True},
    "events": {"events": HIT},
    "terminal": {"events": END},
    "jumps": {"controller": nde.StepTo(MESH, jump_ts=[0.35])},
    "regularizer": {"regularizers": [ErrorEstimate(scaled=False, dt_power=0)]},
}


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def field(t, y, k):
    clock = t.reshape(-1) if t.dim() > 1 else t
    return torch.stack(
        [-k * y[..., 0] * torch.cos(clock) ** 2 - 0.3 * y.prod(-1), k * y[..., 0] - 1.3 * y[..., 1] ** 2], -1
    )


def inputs():
    return [torch.tensor([1.0, 0.5]), torch.tensor(1.7), torch.tensor(0.0)]


def loss(method, given, per_sample=False, **options):
    y0, k, t0 = given
    y0 = y0 * torch.tensor([[1.0], [0.9]]) if per_sample else y0
    options = {"rtol": 1e-11, "atol": 1e-12, "controller": nde.StepTo(MESH), "per_sample": per_sample} | options
    sol = nde.solve(nde.ODEProblem(field, y0, (t0, 1.0), (k,)), method, **options)
    out = sol.ys.nan_to_num().square().sum() + sol.y1.square().sum()
    if options.get("dense"):
        out = out + sol(torch.tensor([0.17, 0.7])).square().sum()
    if sol.events is not None:
        assert len(sol.events) > 0
        out = out + sol.events.ts.nan_to_num().sum()
    return out + 10 * sum(value.sum() for value in sol.regularization)


def gradient(method, **options):
    live = [x.requires_grad_() for x in inputs()]
    return torch.cat([x.reshape(-1) for x in torch.autograd.grad(loss(method, live, **options), live)])


def differences(method, h=1e-4, **options):
    """Of fourth order."""
    out = []
    for place, x in enumerate(inputs()):
        for entry in range(x.numel()):
            ends = {}
            for turn in (1, -1, 2, -2):
                given = inputs()
                given[place].view(-1)[entry] += turn * h
                with torch.no_grad():
                    ends[turn] = loss(method, given, **options)
            out.append((8 * (ends[1] - ends[-1]) - (ends[2] - ends[-2])) / (12 * h))
    return torch.stack(out)


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_exact_adjoints_agree_with_each_other_and_with_differences(method, case, per_sample):
    options = CASES[case] | {"per_sample": per_sample}
    want = gradient(method, adjoint=nde.DirectAdjoint(), **options)
    assert torch.allclose(want, differences(method, **options), rtol=1e-6, atol=1e-6)
    for name, adjoint in EXACT.items():
        assert torch.allclose(gradient(method, adjoint=adjoint, **options), want, rtol=1e-9, atol=1e-9), name
    if case not in ("events", "terminal"):
        got = gradient(method, adjoint=nde.DiscreteAdjoint(), driver=nde.Blocks(size=3), **options)
        assert torch.allclose(got, want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("adjoint", [nde.GaussAdjoint, nde.InterpolatingAdjoint])
@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_continuous_adjoints_take_the_same_method_backwards(method, adjoint):
    """Their gradient converges to that of the equation, with steps that shrink."""
    exact = gradient(nde.Tsit5(), controller=nde.PIController(), saveat=[0.5, 1.0], adjoint=nde.DirectAdjoint())
    gaps = []
    for h in (0.04, 0.02):
        options = {"controller": nde.ConstantStep(), "dt": h, "saveat": [0.5, 1.0], "rtol": 1e-8, "atol": 1e-8}
        gaps.append((gradient(method, adjoint=adjoint(), **options) - exact).norm())
    assert gaps[1] < 0.05 * exact.norm()
    assert gaps[0] / gaps[1] > 2 ** min(method.order, method.dense_order) - 0.4


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("event", [HIT, END], ids=["goes on", "ends"])
@pytest.mark.parametrize("adjoint", [nde.GaussAdjoint, nde.InterpolatingAdjoint])
@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_continuous_adjoints_go_through_events_on_coarse_steps(method, adjoint, event, per_sample):
    """With the order of the method: a dense output of low order, and a memory that starts again behind each event."""
    options = {"events": event, "per_sample": per_sample}
    exact = gradient(nde.Vern7(), controller=nde.PIController(), adjoint=nde.DirectAdjoint(), **options)
    gaps = []
    for h in (0.05, 0.0125):
        steps = {"controller": nde.ConstantStep(), "dt": h, "rtol": 1e-8, "atol": 1e-8}
        gaps.append((gradient(method, adjoint=adjoint(), **options, **steps) - exact).norm())
    assert gaps[0] < 0.05 * exact.norm()
    assert gaps[0] / gaps[1] > 4 ** (method.order - 0.4)


def test_a_second_derivative_is_refused_or_right():
    k = torch.tensor(1.7, requires_grad=True)

    def solve(method, k):
        problem = nde.ODEProblem(lambda t, y, k: -k * y**2, torch.ones(1), (0.0, 1.0), (k,))
        return nde.solve(problem, method, controller=nde.StepTo(MESH), rtol=1e-12, atol=1e-13).y1.sum()

    (first,) = torch.autograd.grad(solve(ImplicitEuler(), k), k, create_graph=True)
    with pytest.raises(nde.InvalidProblemError, match="have first derivatives"):
        torch.autograd.grad(first, k)
    (first,) = torch.autograd.grad(solve(ImplicitEuler(2), k), k, create_graph=True)
    (second,) = torch.autograd.grad(first, k, create_graph=True)
    h = 1e-3
    ends = [
        torch.autograd.grad(solve(ImplicitEuler(), x), x)[0]
        for x in ((k.detach() + s * h).requires_grad_() for s in (1, -1))
    ]
    assert torch.allclose(second, (ends[0] - ends[1]) / (2 * h), rtol=1e-5)


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_a_compiled_solve_has_the_same_gradient(method):
    y0, k = torch.tensor([1.0, 0.5], requires_grad=True), torch.tensor(1.7, requires_grad=True)

    def solve(y0, k):
        problem = nde.ODEProblem(field, y0, (0.0, 1.0), (k,))
        return nde.solve(problem, method, rtol=1e-3, atol=1e-6, saveat=torch.tensor([0.5, 1.0])).ys

    want = solve(y0, k)
    compiled = torch.compile(solve, fullgraph=True, backend="aot_eager")
    if not method.differentiable_in_loops:
        with pytest.raises(Exception, match="which torch's loops cannot differentiate"):
            compiled(y0, k)
        with torch.no_grad():
            assert torch.allclose(compiled(y0, k), want, atol=1e-9)
        return
    got = compiled(y0, k)
    assert torch.allclose(got, want, atol=1e-6)
    pair = [torch.autograd.grad(x.square().sum(), [y0, k]) for x in (got, want)]
    assert all(torch.allclose(a, b, rtol=1e-4) for a, b in zip(*pair, strict=True))
