"""Every cell of docs/composability.md: right, against eager autograd through every step, or refused by name."""

import copy
import functools
import io
import pickle
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import neuralde as nde
from neuralde.adjoints.composability import WAYS, columns

ROOT = Path(__file__).resolve().parents[2]
KINDS = columns()
func = torch.func
CHECKS = {}
# The tests of these cells are files of their own.
ELSEWHERE = {
    "`torch.compile` of the solve": "tests/adjoints/test_capabilities.py",
    "`functional_call` of a whole model": "tests/adjoints/test_setting.py",
    "`DistributedDataParallel`": "tests/neuralde/test_distributed.py",
}
BY_NAME = {way.name: way for way in WAYS}


def checks(name):
    assert name in BY_NAME, name

    def decorate(function):
        CHECKS[name] = function
        return function

    return decorate


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Field(nn.Module):
    """Two layers that share a weight, one that is frozen, and one that nobody uses."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.frozen, self.unused = (nn.Linear(2, 2, dtype=torch.float64) for _ in range(4))
        self.b.weight = self.a.weight
        self.frozen.requires_grad_(False)

    def forward(self, t, y, k=1.0):
        return k * self.b(torch.tanh(self.a(y))) + torch.cos(t) * self.frozen(y)


class Case:
    """One adjoint, joint or per sample, on one small problem whose steps do not depend on the transform."""

    def __init__(self, kind, per_sample, driver=None):
        self.kind, self.per_sample, self.driver, self.field = kind, per_sample, driver, Field()
        self.y0, self.k = torch.tensor([[0.5, -0.3], [1.0, 0.2]]), torch.tensor(1.3)
        reversible = kind is not None and kind.capabilities.solvers == "reversible"
        self.solver = nde.Reversible(nde.Tsit5()) if reversible else nde.Tsit5()
        self.adjoint = None if kind is None else kind()

    def reference(self):
        """The same case, to be differentiated by autograd through every step."""
        other = copy.copy(self)
        other.kind, other.adjoint, other.driver = nde.DirectAdjoint, nde.DirectAdjoint(), None
        return other

    def end(self, y0=None, k=None, field=None):
        problem = nde.ODEProblem(
            self.field if field is None else field,
            self.y0 if y0 is None else y0,
            (0.0, 0.5),
            (self.k if k is None else k,),
        )
        options = dict(adjoint=self.adjoint, per_sample=self.per_sample, driver=self.driver, rtol=1e-6, atol=1e-6)
        return nde.solve(problem, self.solver, saveat=[0.2, 0.5], **options).ys.sum(0)

    def with_parameters(self, parameters, y0=None):
        return self.end(y0, field=lambda t, y, k: func.functional_call(self.field, parameters, (t, y, k)))

    @property
    def parameters(self):
        return {name: x.detach().clone() for name, x in self.field.named_parameters()}

    def loss(self, **options):
        return self.end(**options).square().sum()

    def grads(self, **options):
        """The gradients of the parameters that require grad; None where autograd gives none."""
        return torch.autograd.grad(
            self.loss(**options), [x for x in self.field.parameters() if x.requires_grad], allow_unused=True
        )

    def jacobian(self, run=None):
        run = self.reference().end if run is None else run
        return torch.autograd.functional.jacobian(run, self.y0)

    def close(self, got, want, loose=False):
        """Equal to rounding for exact adjoints on the same steps, else to the tolerance of the solve."""
        exact = self.kind is None or self.kind.capabilities.exact
        bound = 1e-9 if exact and not loose else 2e-5
        got, want = ([x] if isinstance(x, torch.Tensor) else list(x) for x in (got, want))
        for a, b in zip(got, want, strict=True):
            assert (a is None) == (b is None)
            assert a is None or (a - b).abs().max() <= bound * b.abs().max(), (a, b)


@checks("`torch.func.vmap` over `y0`")
def over_states(case):
    many = torch.stack([case.y0, -case.y0, 0.5 * case.y0])
    case.close(func.vmap(case.end)(many), torch.stack([case.reference().end(y) for y in many]), loose=True)


@checks("`torch.func.vmap` over `args`")
def over_arguments(case):
    many = torch.tensor([0.5, 1.0, 2.0])
    got = func.vmap(lambda k: case.end(k=k))(many)
    case.close(got, torch.stack([case.reference().end(k=k) for k in many]), loose=True)


@checks("`torch.func.vmap` over parameters (`functional_call`)")
def over_parameters(case):
    many = {name: torch.stack([x, 1.5 * x]) for name, x in case.parameters.items()}
    got = func.vmap(case.with_parameters)(many)
    want = [case.reference().with_parameters({name: x[i] for name, x in many.items()}) for i in range(2)]
    case.close(got, torch.stack(want), loose=True)


@checks("`torch.func.jvp`, `torch.autograd.forward_ad`")
def forward_mode(case):
    tangent = torch.tensor([[1.0, -2.0], [0.5, 0.3]])
    want = torch.tensordot(case.jacobian(), tangent, dims=2)
    case.close(func.jvp(case.end, (case.y0,), (tangent,))[1], want)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(case.y0, tangent)
        case.close(torch.autograd.forward_ad.unpack_dual(case.end(dual)).tangent, want)


@checks("`torch.func.grad` over parameters")
def functional_gradient(case):
    got = func.grad(lambda p: case.with_parameters(p).square().sum())(case.parameters)
    want = case.reference().grads()
    used = {name: x for name, x in case.field.named_parameters() if x.requires_grad}
    case.close(
        [got[name] for name in used],
        [torch.zeros_like(x) if g is None else g for x, g in zip(used.values(), want, strict=True)],
    )


@checks("`torch.func.jacrev`")
def reverse_jacobian(case):
    case.close(func.jacrev(case.end)(case.y0), case.jacobian())


@checks("`torch.func.jacfwd`")
def forward_jacobian(case):
    case.close(func.jacfwd(case.end)(case.y0), case.jacobian())


@checks("`torch.func.hessian`")
def hessian(case):
    want = torch.autograd.functional.hessian(lambda y: case.reference().loss(y0=y), case.y0)
    case.close(func.hessian(lambda y: case.loss(y0=y))(case.y0), want)


@checks("`vmap` of `jacrev`")
def jacobians_of_lanes(case):
    many = torch.stack([case.y0, 0.5 * case.y0])
    want = [torch.autograd.functional.jacobian(case.reference().end, y) for y in many]
    case.close(func.vmap(func.jacrev(case.end))(many), torch.stack(want), loose=True)


@checks("`torch.func.vmap` over a backward pass")
def lanes_of_a_backward_pass(case):
    y0 = case.y0.clone().requires_grad_()
    out, basis = case.end(y0), torch.eye(4).reshape(4, 2, 2)
    got = func.vmap(lambda v: torch.autograd.grad(out, y0, v, retain_graph=True)[0])(basis)
    case.close(got.reshape(2, 2, 2, 2), case.jacobian())


@checks("`is_grads_batched`, `jacobian(vectorize=True)`")
def batched_gradients(case):
    got = torch.autograd.functional.jacobian(case.end, case.y0, vectorize=True)
    case.close(got, case.jacobian())


@checks("double backward (`create_graph=True`)")
def double_backward(case):
    def penalty(one):
        y0 = one.y0.clone().requires_grad_()
        (grad,) = torch.autograd.grad(one.loss(y0=y0), y0, create_graph=True)
        wanted = [y0, one.field.a.weight, one.field.b.bias]
        return torch.autograd.grad(grad.square().sum() + one.loss(y0=y0), wanted)

    case.close(penalty(case), penalty(case.reference()))


@checks("`torch.func` inside the field")
def transforms_inside(case):
    def field(t, y, k):
        return func.jvp(lambda z: case.field(t, z, k), (y,), (torch.sin(y),))[1]

    case.close(case.grads(field=field), case.reference().grads(field=field))


@checks("`no_grad`, `inference_mode`")
def without_gradients(case):
    want = case.reference().end().detach()
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            got, inner = case.end(), torch.ones(2, 2)
        assert not got.requires_grad
        case.close(got, want)
    # A tensor from inference mode can start a solve under no_grad; with gradients it is refused where torch would fail.
    with torch.inference_mode():
        inner = case.y0.clone()
    with torch.no_grad():
        case.close(case.end(inner), want)
    if case.kind not in (nde.DirectAdjoint, nde.ReversibleAdjoint):
        with pytest.raises(nde.InvalidProblemError, match=r"y0: got a tensor .* expected its clone"):
            case.end(inner)


@functools.cache
def compiled_field():
    torch._dynamo.reset()
    field = Field()
    return field, torch.compile(field, backend="aot_eager", dynamic=False)


@checks("a compiled field in an eager solve")
def field_compiled(case):
    case.field, compiled = compiled_field()
    with warnings.catch_warnings():
        # Dynamo asks an input inside a graph for its gradient, and hides torch's warning; as an error it cannot hide it.
        warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor")
        got = case.grads(field=compiled)
    case.close(got, case.reference().grads())


@checks("`torch.utils.checkpoint`")
def checkpointed(case):
    want = case.reference().grads()
    for reentrant in (False, True):
        case.field.zero_grad()
        y0 = case.y0.clone().requires_grad_()
        checkpoint(lambda y: case.loss(y0=y), y0, use_reentrant=reentrant).backward()
        case.close([x.grad for x in case.field.parameters() if x.requires_grad], want)


@checks("hooks, `retain_grad`, anomaly mode")
def hooks(case):
    weight = case.field.a.weight
    want = [2.0 * case.reference().grads()[0], *case.reference().grads()[1:]]
    handle = weight.register_hook(lambda g: 2.0 * g)
    with torch.autograd.set_detect_anomaly(True):
        case.close(case.grads(), want)
    handle.remove()

    def retained(one):
        made = torch.tensor(0.8).requires_grad_() * 1.5
        made.retain_grad()
        one.loss(field=lambda t, y, k: made * one.field(t, y, k)).backward()
        return made.grad

    case.close(retained(case), retained(case.reference()))


def model_of(case):
    return nde.NeuralODE(
        case.field,
        (0.0, 0.5),
        solver=case.solver,
        adjoint=case.adjoint,
        per_sample=case.per_sample,
        driver=case.driver,
        rtol=1e-6,
    )


def trained(model, y0):
    model.zero_grad()
    model(y0)[0].square().sum().backward()
    return [x.grad for x in model.parameters() if x.requires_grad]


@checks("`copy.deepcopy` of a model")
def deepcopy(case):
    model = model_of(case)
    want = trained(model, case.y0)
    case.close(trained(copy.deepcopy(model), case.y0), want)


@checks("`state_dict`, pickle")
def pickled(case):
    model, file = model_of(case), io.BytesIO()
    want = trained(model, case.y0)
    case.close(trained(pickle.loads(pickle.dumps(model)), case.y0), want)
    torch.save(model.state_dict(), file)
    file.seek(0)
    case.field = Field()
    other = model_of(case)
    for x in other.parameters():
        x.data.zero_()
    other.load_state_dict(torch.load(file, weights_only=True))
    case.close(trained(other, case.y0), want)


@checks("shared, unused and frozen parameters")
def parameters_of_every_kind(case):
    case.field.zero_grad()
    case.loss().backward()
    for name, x in case.field.named_parameters():
        assert (x.grad is None) == name.startswith(("frozen", "unused")), name
    case.close([x.grad for x in case.field.parameters() if x.requires_grad], case.reference().grads())


@checks("`driver=nde.Blocks()`")
def in_blocks(case):
    case.driver = nde.Blocks(size=3)
    case.close(case.grads(), case.reference().grads())


@checks("autocast to bfloat16")
def autocast(case):
    """Everything but the state's own sums in bfloat16, forward and backward; the reference casts in the same places."""

    def gradient(one):
        torch.manual_seed(0)
        net, y0 = nn.Linear(3, 3), torch.randn(4, 3)
        net, y0 = net.float(), y0.float()
        problem = nde.ODEProblem(lambda t, y: torch.tanh(net(y)).float(), y0, (0.0, 1.0))
        options = dict(dt=0.25, controller=nde.ConstantStep(), per_sample=one.per_sample, driver=one.driver)
        base = nde.Midpoint()
        solver = nde.Reversible(base) if isinstance(one.solver, nde.Reversible) else base
        with torch.autocast("cpu", torch.bfloat16):
            sol = nde.solve(problem, solver, adjoint=one.adjoint, **options)
        return torch.autograd.grad(sol.y1.square().sum(), net.weight)[0]

    got, want = gradient(case), gradient(case.reference())
    assert (got - want).norm() <= 3e-2 * want.norm()


def test_every_way_is_tested():
    assert set(CHECKS) | set(ELSEWHERE) == set(BY_NAME)
    assert not set(CHECKS) & set(ELSEWHERE)
    if (ROOT / "docs").exists():
        assert all((ROOT / file).exists() for file in ELSEWHERE.values())


def test_the_page_contains_the_table():
    page = ROOT / "docs" / "composability.md"
    if not page.exists():
        pytest.skip("needs the source tree")
    table = nde.adjoints.composability()
    assert table in page.read_text(encoding="utf-8"), "docs/composability.md: paste nde.adjoints.composability()"


@pytest.mark.parametrize("per_sample", [False, True], ids=["joint", "per_sample"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "default" if kind is None else kind.__name__)
@pytest.mark.parametrize("name", CHECKS)
def test_right_or_refused(name, kind, per_sample):
    case = Case(kind, per_sample)
    if BY_NAME[name].works(kind):
        CHECKS[name](case)
    else:
        with pytest.raises(nde.InvalidProblemError, match=r"(?s)(Adjoint|Sensitivity).*; expected "):
            CHECKS[name](case)


@pytest.mark.parametrize("per_sample", [False, True], ids=["joint", "per_sample"])
@pytest.mark.parametrize("name", CHECKS)
def test_right_or_refused_in_blocks(name, per_sample):
    case = Case(None, per_sample, nde.Blocks(size=3))
    if BY_NAME[name].blocks:
        CHECKS[name](case)
    else:
        with pytest.raises(nde.InvalidProblemError, match=r"driver: got Blocks.*; expected None"):
            CHECKS[name](case)
