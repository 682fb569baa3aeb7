"""A solve in blocks of attempts is the eager solve, with one host sync for each block."""

import math

import pytest
import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

import neuralde as nde
from neuralde.regularizers import ErrorEstimate, StiffnessEstimate
from neuralde.solvers.core.packing import Packing
from neuralde.solvers.drivers.block import block, packed
from neuralde.solvers.drivers.blocks import in_tensors
from neuralde.solvers.drivers.eager import start
from neuralde.solvers.front.options import SolveOptions
from neuralde.solvers.front.plan import prepare_plan
from neuralde.testing.counting import host_syncs

D = torch.float64
SIZE = 4


class Counted:
    """A non-autonomous field that counts its calls."""

    def __init__(self):
        self.calls = 0

    def __call__(self, t, y, k):
        self.calls += 1
        return torch.sin(3.0 * t) * torch.cos(k * y) - 0.3 * y


def problem(field=None, t1=2.0, requires_grad=True):
    y0 = torch.randn(4, 3, dtype=D, generator=torch.Generator().manual_seed(1)).requires_grad_(requires_grad)
    rate = torch.tensor(1.3, dtype=D, requires_grad=requires_grad)
    return nde.ODEProblem(field or Counted(), y0, (0.1, t1), (rate,)), [y0, rate]


def counts(sol):
    return [torch.as_tensor(getattr(sol.stats, name)).tolist() for name in ("steps", "accepted", "rejected", "nfe")]


def same(a, b, tolerance=1e-11):
    return torch.allclose(a, b, rtol=tolerance, atol=1e-13, equal_nan=True)


KINDS = {
    "end": {},
    "times": {"saveat": [0.1, 0.3, 0.30001, 1.2, 2.0]},
    "steps": {"saveat": "steps"},
    "dense": {"dense": True},
    "jumps": {"controller": nde.PIController(step_ts=[0.7], jump_ts=[1.1])},
    "constant": {"controller": nde.ConstantStep(), "dt": 0.17, "solver": nde.RK4()},
    "vern7": {"solver": nde.Vern7(), "saveat": [0.5, 2.0]},
    "reversible": {"solver": nde.Reversible(nde.Tsit5()), "saveat": [0.5, 2.0]},
    "backwards": {"dt": 0.1},
}


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_eager_loop(kind, per_sample):
    options = dict(rtol=1e-6, atol=1e-6, per_sample=per_sample, regularizers=[ErrorEstimate()]) | KINDS[kind]
    if kind in ("constant", "reversible"):
        options["regularizers"] = []
    found = []
    for driver in (None, nde.Blocks(size=SIZE), nde.Blocks(size=1)):
        described, wrt = problem(t1=-1.0 if kind == "backwards" else 2.0)
        with torch.no_grad():
            sol = nde.solve(described, driver=driver, **options)
        # Every call of the field is in the statistics.
        assert described.f.calls == int(torch.as_tensor(sol.stats.nfe).max()) + sol.stats.masked
        loss = nde.solve(described, driver=driver, **options)
        outputs = [loss.ys.nan_to_num(0.0).square().sum() + sum(x.sum() for x in loss.regularization)]
        if kind == "dense":
            outputs.append(loss(torch.tensor([0.4, 1.7], dtype=D)).square().sum())
        grads = [torch.autograd.grad(x, wrt, retain_graph=True) for x in outputs]
        found.append((sol, [x for pair in grads for x in pair]))
    (eager, wanted), *blocks = found
    assert eager.stats.accepted.sum() > SIZE if per_sample else eager.stats.accepted > SIZE
    for sol, grads in blocks:
        assert torch.equal(torch.as_tensor(sol.status), torch.as_tensor(eager.status))
        assert counts(sol)[:3] == counts(eager)[:3]
        if per_sample or kind not in ("jumps", "constant", "vern7", "reversible"):
            assert counts(sol)[3] == counts(eager)[3]
        for a, b in zip(
            [sol.ts, sol.ys, sol.y1, *sol.regularization],
            [eager.ts, eager.ys, eager.y1, *eager.regularization],
            strict=True,
        ):
            assert a.shape == b.shape
            # Where a step ends, and the estimates, are made of differences of nearly equal numbers.
            assert same(a, b, 1e-6 if a.dim() <= 1 or kind == "steps" else 1e-10)
        for a, b in zip(grads, wanted, strict=True):
            assert (a - b).norm() <= 1e-8 * b.norm()
    assert blocks[1][0].stats.masked == 0


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize(
    "adjoint",
    [
        nde.DirectAdjoint(),
        nde.DiscreteAdjoint(checkpoints=3),
        nde.BacksolveAdjoint(),
        nde.GaussAdjoint(),
        nde.ForwardSensitivity(),
    ],
    ids=repr,
)
def test_every_adjoint_follows(adjoint, per_sample):
    found = []
    for driver in (None, nde.Blocks(size=SIZE)):
        described, wrt = problem()
        sol = nde.solve(
            described, rtol=1e-6, atol=1e-6, saveat=[0.5, 2.0], adjoint=adjoint, per_sample=per_sample, driver=driver
        )
        found.append(torch.autograd.grad(sol.ys.square().sum(), wrt))
    for a, b in zip(*found, strict=True):
        assert (a - b).norm() <= 1e-9 * b.norm()


def test_times_are_differentiable():
    found = []
    for driver in (None, nde.Blocks(size=SIZE)):
        for per_sample in (False, True):
            t0, t1 = (torch.tensor(t, dtype=D, requires_grad=True) for t in (0.1, 2.0))
            ts = torch.tensor([0.1, 0.5, 2.0], dtype=D, requires_grad=True)
            described, wrt = problem()
            moving = nde.ODEProblem(described.f, described.y0, (t0, t1), described.args)
            sol = nde.solve(moving, rtol=1e-6, atol=1e-6, saveat=ts, per_sample=per_sample, driver=driver)
            found.append(torch.autograd.grad(sol.ys.square().sum(), [*wrt, t0, ts]))
    for a, b in ((found[0], found[2]), (found[1], found[3])):
        for x, y in zip(a, b, strict=True):
            assert (x - y).norm() <= 1e-8 * (1e-3 + y.norm())


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("saveat", [None, [0.5, 0.9, 2.0], "steps"])
def test_one_host_sync_per_block(saveat, gradient, per_sample):
    """Tolerances set the number of steps; what remains when blocks are subtracted is the same for all of them."""
    rest = []
    for tolerance in (1e-3, 1e-5, 1e-8):
        described, wrt = problem(requires_grad=gradient)
        sol = []

        def run(described=described, wrt=wrt, sol=sol, tolerance=tolerance):
            sol.append(
                nde.solve(
                    described,
                    rtol=tolerance,
                    atol=tolerance,
                    saveat=saveat,
                    per_sample=per_sample,
                    driver=nde.Blocks(size=SIZE),
                )
            )
            if gradient:
                torch.autograd.grad(sol[0].y1.square().sum(), wrt)

        syncs = host_syncs(run)
        blocks = math.ceil(int(torch.as_tensor(sol[0].stats.steps).max()) / SIZE)
        rest.append(syncs - blocks)
    assert blocks > 5
    assert rest[0] == rest[1] == rest[2] <= 9


FAILURES = {
    "underflow": (lambda t, y: y * y, {}, nde.StepSizeError),
    "nan": (lambda t, y: y / (t < 0.5), {}, nde.NonFiniteError),
    "steps": (lambda t, y: torch.cos(t) * y, {"max_steps": 5, "rtol": 1e-10}, nde.MaxStepsError),
}


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("failing", FAILURES)
def test_failures_are_the_same(failing, per_sample):
    field, options, kind = FAILURES[failing]
    y0 = torch.tensor([[1.0], [0.1]], dtype=D)
    options = dict(saveat=[0.2, 0.4, 1.5, 2.0], per_sample=per_sample) | options
    caught = []
    for driver in (None, nde.Blocks(size=SIZE)):
        with pytest.raises(kind) as error:
            nde.solve(nde.ODEProblem(field, y0, (0.0, 2.0)), driver=driver, **options)
        caught.append(error.value.solution)
    eager, blocks = caught
    assert torch.equal(torch.as_tensor(eager.status), torch.as_tensor(blocks.status))
    # Which step first meets the discontinuity, or is the last before a pole that time cannot resolve, is a matter of the
    # last digit: host and device round the step sizes' powers differently.
    lasts = failing == "underflow" and all(
        bool(((a - b).abs() <= 2).all())
        for a, b in zip(*(map(torch.as_tensor, counts(one)[1:3]) for one in (eager, blocks)), strict=True)
    )
    assert failing == "nan" or lasts or counts(eager)[:3] == counts(blocks)[:3]
    assert torch.equal(eager.ys.isnan(), blocks.ys.isnan())
    assert same(eager.ys, blocks.ys, 1e-9)

    def run():
        nde.solve(nde.ODEProblem(field, y0, (0.0, 2.0)), driver=nde.Blocks(size=SIZE), throw=False, **options)

    assert host_syncs(run) <= math.ceil(int(torch.as_tensor(blocks.stats.steps).max()) / SIZE) + 9


def test_a_failed_lane_and_masked_attempts_leave_the_gradients_alone():
    for per_sample in (False, True):
        for adjoint in (nde.DirectAdjoint(), nde.DiscreteAdjoint()):
            k = torch.tensor(1.0, dtype=D, requires_grad=True)
            # Leaves its domain at a fixed end: masked attempts sit where the slope is infinite, and give 0 * inf.
            y0 = torch.tensor([[1.0], [-1.0]] if per_sample else [[1.0]], dtype=D)
            described = nde.ODEProblem(lambda t, y, k: -k * torch.sqrt(y), y0, (0.0, 1.9), (k,))
            sol = nde.solve(
                described,
                rtol=1e-6,
                atol=1e-9,
                per_sample=per_sample,
                adjoint=adjoint,
                throw=False,
                driver=nde.Blocks(size=8),
            )
            (grad,) = torch.autograd.grad(sol.y1[0].sum(), k)
            assert abs(grad.item() + (1.0 - 1.9 / 2) * 1.9) < 1e-4  # y = (1 - k t / 2)^2


def test_progress():
    pytest.importorskip("tqdm")
    for per_sample in (False, True):
        nde.solve(problem()[0], progress=True, driver=nde.Blocks(), per_sample=per_sample)


def test_trace_and_empty_intervals():
    described, _ = problem()
    eager, blocks = (
        nde.solve(described, trace=True, driver=driver, rtol=1e-6) for driver in (None, nde.Blocks(size=3))
    )
    for name in ("t", "dt", "error", "stiffness", "accepted"):
        assert torch.allclose(getattr(eager.trace, name).double(), getattr(blocks.trace, name).double(), rtol=1e-6)
    for per_sample in (False, True):
        empty = nde.ODEProblem(described.f, described.y0, (1.0, 1.0), described.args)
        sol = nde.solve(empty, driver=nde.Blocks(), per_sample=per_sample)
        assert torch.equal(sol.y1, described.y0)


def test_stiffness_and_complex_states():
    y0 = torch.tensor([1.0 + 0.5j, -0.2j], dtype=torch.complex128)
    described = nde.ODEProblem(lambda t, y: 1j * torch.cos(t) * y, y0, (0.0, 3.0))
    found = [
        nde.solve(described, rtol=1e-6, driver=driver, regularizers=[StiffnessEstimate()])
        for driver in (None, nde.Blocks())
    ]
    assert same(found[0].y1, found[1].y1)
    assert same(found[0].regularization[0], found[1].regularization[0], 1e-6)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"events": nde.Event(lambda t, y, *args: y[0, 0])}, "events"),
        ({"compact": True, "per_sample": True}, "compact"),
        ({"adjoint": nde.DirectAdjoint(through_steps=True)}, "through_steps"),
    ],
)
def test_what_cannot_run_in_blocks_is_refused(options, what):
    with pytest.raises(nde.InvalidProblemError, match=rf"driver: got Blocks.* with {what}"):
        nde.solve(problem()[0], driver=nde.Blocks(), **options)


def test_bad_arguments_and_transforms_are_refused():
    for size in (0, 1.5, True, None):
        with pytest.raises(nde.InvalidProblemError, match="size: got"):
            nde.Blocks(size=size)
    with pytest.raises(nde.InvalidProblemError, match="driver: got"):
        nde.solve(problem()[0], driver=8)

    def end(y0):
        return nde.solve(nde.ODEProblem(lambda t, y: -y, y0, (0.0, 1.0)), driver=nde.Blocks()).y1

    x = torch.ones(2, dtype=D)
    with pytest.raises(nde.InvalidProblemError, match=r"torch\.func"):
        torch.func.jvp(end, (x,), (x,))
    with pytest.raises(Exception, match="driver"):
        torch.compile(end, fullgraph=True, backend="eager")(x)


class OnDevice(TorchDispatchMode):
    """Refuses operators on tensors of another device than the state's, which on a GPU are copies from the host."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in pytree.tree_leaves((args, kwargs, out)):
            assert not isinstance(x, torch.Tensor) or x.is_meta, f"{func} on {x.device}"
        return out


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("method", [nde.Tsit5(), nde.RK4(), nde.Reversible(nde.Heun())], ids=repr)
def test_a_block_stays_on_the_device(method, per_sample):
    """On tensors without values nothing can be read, and every tensor of the block is where the state is."""
    y0, weight = torch.empty(4, 3, device="meta"), torch.empty(3, 3, device="meta")
    described = nde.ODEProblem(lambda t, y: (y @ weight) * torch.cos(t), y0, (0.0, 1.0))
    stops = dict(step_ts=[0.3], jump_ts=[0.5])
    controller = nde.PIController(dtmin=1e-5, **stops) if method.adaptive else nde.ConstantStep(**stops)
    costs = (ErrorEstimate(), StiffnessEstimate()) if isinstance(method, nde.Tsit5) else ()
    packing = Packing(y0, per_sample)
    options = SolveOptions(controller=controller, max_steps=100, per_sample=per_sample, regularizers=costs)
    plan = in_tensors(prepare_plan(described, packing, y0, method, options), y0.device)
    carry = start(plan, y0, None if method.adaptive else 0.1)
    with torch.no_grad(), OnDevice():
        attempts, after, _ = block(plan, carry, 3, lambda step: step.polynomial())
        numbers = packed(attempts, after, numbers=True)
    assert numbers.shape == (2 * 4 + 10 * 4 * (4 if per_sample else 1),)
