"""What the search for captured tensors finds, and what it leaves alone: code as users write it, against plain autograd."""

import dataclasses
import functools
import gc
import sys
import types
import weakref
from collections import deque

import numpy as np
import pytest
import torch

import neuralde as nde

D = torch.float64
ADJOINTS = [nde.DiscreteAdjoint(budget=0), nde.GaussAdjoint(), nde.BacksolveAdjoint(), nde.ForwardSensitivity()]
ADJOINTS = [pytest.param(adjoint, id=adjoint.name) for adjoint in ADJOINTS]


def number(x=0.7):
    return torch.tensor(x, dtype=D, requires_grad=True)


W = number(0.3)
mean = number(0.3) * 2  # a name that fields use as a method


def solved(field, adjoint, y0=None, per_sample=False):
    y0 = torch.tensor([[1.0], [0.5]], dtype=D) if y0 is None else y0
    # Late uses leave no trace in the solution, so the step control has to be told of them.
    controller = nde.PIController(jump_ts=[0.37])
    problem = nde.ODEProblem(field, y0, (0.0, 1.0))
    return nde.solve(problem, adjoint=adjoint, controller=controller, rtol=1e-8, atol=1e-8, per_sample=per_sample)


def agrees(field, inputs, adjoint, per_sample=False):
    """The gradients of what autograd records, which sees everything."""
    wanted = torch.autograd.grad(solved(field, nde.DirectAdjoint(), per_sample=per_sample).y1.sum(), inputs)
    got = torch.autograd.grad(solved(field, adjoint, per_sample=per_sample).y1.sum(), inputs)
    exact = adjoint.capabilities.exact
    assert all((g != 0).all() for g in wanted)
    torch.testing.assert_close(got, wanted, rtol=1e-12 if exact else 1e-6, atol=0.0)


def late(use):
    """A field that uses something in the second half only, where no first call can see it."""
    return lambda t, y: use(y) if (t > 0.37).all() else -0.5 * y


class Slotted:
    __slots__ = ("__secret",)

    def __init__(self, k):
        self.__secret = k

    def __call__(self, y):
        return self.__secret * y


@dataclasses.dataclass
class Data:
    k: torch.Tensor

    def __call__(self, y):
        return self.k * y


class Lazy:
    def __init__(self, k):
        self._k = k

    @property
    def scale(self):
        return 2 * self._k

    @functools.cached_property
    def names(self):
        return {"k": self._k}

    def __call__(self, y):
        return self.scale * y


class OfClass:
    k = None

    @staticmethod
    def of(y):
        return OfClass.k * y

    @classmethod
    def through(cls, y):
        return cls.k * y

    bound = functools.partialmethod(lambda self, c, y: c * self.k * y, 2.0)


def holders(k):
    """One function of the state for each way to hold a tensor."""

    def decorated(f):
        @functools.wraps(f)
        def wrapper(*args):
            return f(*args)

        return wrapper

    @decorated
    def wrapped(y):
        return k * y

    @torch.enable_grad()
    def in_context(y):
        return k * y

    @functools.singledispatch
    def dispatched(y):
        return None

    @dispatched.register
    def _(y: torch.Tensor):
        return k * y

    namespace = {"k": k}
    exec("def executed(y): return k * y\ndef calls(y): return executed(y)", namespace)
    module = types.ModuleType("constants_of_a_user")
    module.k, module.inner = k, types.ModuleType("constants_of_a_user.inner")
    module.inner.k = k
    sys.modules["constants_of_a_user"], sys.modules["constants_of_a_user.inner"] = module, module.inner
    space = {"consts": module}
    exec("def chained(y): return consts.inner.k * y\ndef renamed(y):\n    c = consts\n    return c.k * y", space)

    def imports(y):
        import constants_of_a_user as c

        return c.k * y

    def imports_from(y):
        from constants_of_a_user.inner import k as other

        return other * y

    def generator():
        kept = k
        while True:
            yield kept

    living, lazy = generator(), Lazy(k)
    next(living)
    OfClass.k = k
    own = type("Own", (), {"k": k, "__call__": lambda self, y: self.k * y})
    module_dict, weak = torch.nn.ParameterDict({"k": k}), weakref.WeakSet([k])
    reference, multiply = weakref.ref(k), k.mul
    table = weakref.WeakValueDictionary(k=k)
    normal = torch.distributions.Normal(k, 1.0)
    nested = [[*range(5), {"deep": (deque([k]),)}]]
    array = np.empty(2, dtype=object)
    array[:] = [[k], None]
    return {
        "comprehension": lambda y: torch.stack([c * y for c in [k]]).sum(0),
        "inner function": lambda y: (lambda: (lambda: k * y)())(),
        "default": lambda y, c=k: c * y,
        "keyword default": lambda y, *, c=k: c * y,
        "wraps": wrapped,
        "context": in_context,
        "dispatch": dispatched,
        "exec": namespace["executed"],
        "helper of exec": namespace["calls"],
        "module attribute": space["chained"],
        "module renamed": space["renamed"],
        "import inside": imports,
        "import from inside": imports_from,
        "generator": lambda y: living.gi_frame.f_locals["kept"] * y,
        "slots": Slotted(k),
        "dataclass": Data(k),
        "property": Lazy(k),
        "cached property": lambda y: lazy.names["k"] * y,
        "static method": lambda y: OfClass.of(y),
        "class method": OfClass.through,
        "class attribute": lambda y: OfClass.k * y,
        "partial method": OfClass().bound,
        "class made by type": own(),
        "partial": functools.partial(lambda c, y: c * y, k),
        "lru_cache": functools.lru_cache(lambda y: k * y),
        "built-in method": lambda y: multiply(y),
        "parameter dict": lambda y: module_dict["k"] * y,
        "weak set": lambda y: next(iter(weak)) * y,
        "weak reference": lambda y: reference() * y,
        "weak dict": lambda y: table["k"] * y,
        "distribution": lambda y: normal.loc * y,
        "nested": lambda y: nested[0][5]["deep"][0][0] * y,
        "numpy array of objects": lambda y: array[0][0] * y,
        "mapping proxy": lambda y, held=types.MappingProxyType({"k": k}): held["k"] * y,
        "bound method of torch.vmap": torch.vmap(lambda y: k * y),
    }


@pytest.mark.parametrize("kind", list(holders(number())))
def test_every_way_to_hold_a_tensor_is_seen_even_where_the_first_call_does_not_use_it(kind):
    k = torch.nn.Parameter(torch.tensor(0.7, dtype=D))
    agrees(late(holders(k)[kind]), [k], nde.DiscreteAdjoint(budget=0))


@pytest.mark.parametrize("adjoint", ADJOINTS)
@pytest.mark.parametrize("kind", ["comprehension", "module attribute", "import inside", "class attribute", "lru_cache"])
def test_by_every_adjoint(kind, adjoint):
    k = torch.nn.Parameter(torch.tensor(0.7, dtype=D))
    agrees(late(holders(k)[kind]), [k], adjoint)


class Wrapped(torch.nn.Module):
    def __init__(self, wrap):
        super().__init__()
        torch.manual_seed(0)
        self.net = wrap(torch.nn.Linear(1, 1, dtype=D))

    def forward(self, y):
        return self.net(y)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("adjoint", ADJOINTS)
@pytest.mark.parametrize("old", [False, True], ids=["parametrization", "hook"])
def test_normalized_weights(old, adjoint):
    norm = torch.nn.utils.weight_norm if old else torch.nn.utils.parametrizations.weight_norm
    net = Wrapped(norm)
    agrees(
        late(net),
        [net.net.bias, *([net.net.weight_g] if old else [net.net.parametrizations.weight.original0])],
        adjoint,
    )
    agrees(lambda t, y: net(y), list(net.parameters())[:2], adjoint)


@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_names_of_methods_and_attributes_are_no_globals(adjoint):
    net = torch.nn.Linear(1, 1, dtype=D)
    agrees(
        lambda t, y: net(y - y.mean() / 2) + y.W if hasattr(y, "W") else net(y - y.mean() / 2), [net.weight], adjoint
    )


class Trained(torch.nn.Module):
    """Keeps what training loops keep: counts, losses, outputs, histories."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = torch.nn.Linear(1, 1, dtype=D)
        self.calls, self.loss, self.last, self.history = 0.0, 0.0, None, []

    def forward(self, t, y):
        self.calls = self.calls + 1
        self.last = self.net(y)
        return self.last


@pytest.mark.parametrize("per_sample", [False, True], ids=["joint", "per_sample"])
@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_results_of_former_solves_are_no_inputs(adjoint, per_sample):
    field = Trained()
    for _ in range(3):
        field.loss = solved(field, adjoint, per_sample=per_sample).y1.square().mean()
        field.history.append(field.loss)
        field.loss.backward()  # the graph of each is used up
    agrees(field, list(field.net.parameters()), adjoint, per_sample)


def test_results_of_former_solves_do_not_keep_one_another_alive():
    field, alive = Trained(), []
    for _ in range(3):
        field.loss = solved(field, None).y1.square().mean()
        alive.append(weakref.ref(field.loss))
    gc.collect()
    assert [one() is None for one in alive] == [True, True, False]


@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_a_tensor_computed_before_is_an_input_where_it_is_used(adjoint):
    """A cached weight beside the parameters from which it was computed."""

    class Cached(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.k, self.other = (
                torch.nn.Parameter(torch.tensor(0.7, dtype=D)),
                torch.nn.Parameter(torch.tensor(0.2, dtype=D)),
            )
            self.square = self.k * self.k

        def forward(self, t, y):
            return -self.square * y

    field = Cached()
    wanted = torch.autograd.grad(solved(field, nde.DirectAdjoint()).y1.sum(), field.k, retain_graph=True)
    got = torch.autograd.grad(solved(field, adjoint).y1.sum(), field.k)
    torch.testing.assert_close(got, wanted, rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_a_weight_that_only_the_first_call_computes(adjoint):
    class Hyper(torch.nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.net, self.weight, self.calls = torch.nn.Linear(1, 1, dtype=D), None, 0

        def forward(self, t, y):
            self.calls += 1
            if self.weight is None:
                self.weight = self.net(torch.ones(1, 1, dtype=D))
            return y @ self.weight

    def grads(adjoint):
        field = Hyper()
        return torch.autograd.grad(solved(field, adjoint).y1.sum(), list(field.net.parameters()))

    torch.testing.assert_close(grads(adjoint), grads(nde.DirectAdjoint()), rtol=1e-6, atol=0.0)


def test_what_the_field_keeps_of_each_call_costs_no_call():
    field, calls = Trained(), []
    field.register_forward_hook(lambda *_: calls.append(1))
    assert solved(field, None).stats.nfe == len(calls)


@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_one_of_several_outputs_of_an_operation(adjoint):
    whole = torch.tensor([0.7, 0.4], dtype=D, requires_grad=True)
    first, second = whole.unbind()
    held = [first, second]
    agrees(lambda t, y: -held[0] * y, [first], adjoint)
    agrees(lambda t, y: -held[1] * y if (t > 0.37).all() else -held[0] * y, [first, second], adjoint)


@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_both_of_a_tensor_and_one_computed_from_it_are_refused_by_name(adjoint):
    rate = number()
    square = rate * rate
    with pytest.raises(nde.InvalidProblemError, match=r"captures both a tensor and another .*'rate'.*'square'"):
        solved(lambda t, y: -square * rate * y, adjoint)


@pytest.mark.parametrize("adjoint", ADJOINTS)
@pytest.mark.parametrize("first", ["rate", "square"])
def test_the_other_one_in_a_middle_step_is_refused_by_name(first, adjoint):
    rate = number()
    square = rate * rate
    factors = {"rate": rate, "square": square}
    before, then = first, "square" if first == "rate" else "rate"

    def field(t, y):
        return -(factors[then] if ((t > 0.4) & (t < 0.6)).all() else factors[before]) * y

    controller = nde.StepTo(ts=[0.2, 0.4, 0.6, 0.8], jump_ts=[0.4, 0.6])
    problem = nde.ODEProblem(field, torch.ones(1, dtype=D, requires_grad=True), (0.0, 1.0))
    with pytest.raises(nde.InvalidProblemError, match=f"factors\\['{then}'\\].*later in the solve"):
        nde.solve(problem, adjoint=adjoint, controller=controller, dt=0.2).y1.sum().backward()


@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_a_hidden_tensor_in_a_middle_step_is_refused(adjoint):
    hidden = iter([number()] * 10_000)

    def field(t, y):
        return -(next(hidden) if ((t > 0.4) & (t < 0.6)).all() else 1.0) * y

    controller = nde.StepTo(ts=[0.2, 0.4, 0.6, 0.8], jump_ts=[0.4, 0.6])
    problem = nde.ODEProblem(field, torch.ones(1, dtype=D, requires_grad=True), (0.0, 1.0))
    with pytest.raises(nde.InvalidProblemError, match=r"uses a tensor of shape .* later in the solve"):
        nde.solve(problem, adjoint=adjoint, controller=controller, dt=0.2).y1.sum().backward()


def test_unused_results_of_other_computations_are_left_alone():
    """A notebook's names: what an earlier cell computed is read by a branch that is never taken."""
    namespace = {"net": torch.nn.Linear(1, 1, dtype=D)}
    exec("def field(t, y):\n    if (t > 5).all():\n        return loss * y\n    return net(y)", namespace)
    field, net = namespace["field"], namespace["net"]
    for _ in range(2):
        namespace["loss"] = solved(field, None).y1.mean()
        namespace["loss"].backward()
    agrees(field, list(net.parameters()), nde.DiscreteAdjoint(budget=0))


@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_the_used_up_loss_of_another_model_is_left_alone(adjoint):
    net, other = torch.nn.Linear(1, 1, dtype=D), torch.nn.Linear(1, 1, dtype=D)
    loss = other(torch.ones(2, 1, dtype=D)).square().exp().mean()
    loss.backward()
    agrees(lambda t, y: loss * y if (t > 5).all() else net(y), list(net.parameters()), adjoint)


def test_a_global_that_the_call_rebinds_and_a_cell_without_a_value():
    namespace = {"k": number(), "last": None, "count": 0}
    exec("def field(t, y):\n    global last, count\n    count, last = count + 1, k * y\n    return last", namespace)
    for _ in range(2):
        agrees(namespace["field"], [namespace["k"]], nde.DiscreteAdjoint(budget=0))

    def outer():
        def field(t, y):
            return k * y if (t < 2).all() else empty * y

        k = number()
        return field, k
        empty = 1.0

    field, k = outer()
    agrees(field, [k], nde.DiscreteAdjoint(budget=0))


def test_an_object_that_holds_itself():
    k = number()

    class Knot:
        def __init__(self):
            self.me, self.all, self.k = self, [self], k

        def __call__(self, t, y):
            return self.me.all[0].k * y

    agrees(Knot(), [k], nde.DiscreteAdjoint(budget=0))


class Hyper(torch.nn.Module):
    """Computes its weight in the first call and keeps it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net, self.weight = torch.nn.Linear(1, 1, dtype=D), None

    def forward(self, t, y):
        if self.weight is None:
            self.weight = self.net(torch.ones(1, 1, dtype=D))
        return y @ self.weight


class Computed(torch.nn.Module):
    """Holds a tensor that was computed from its parameter before the solve."""

    def __init__(self):
        super().__init__()
        self.k = torch.nn.Parameter(torch.tensor(0.7, dtype=D))
        self.square = self.k * self.k

    def forward(self, t, y):
        return -self.square * y


BEHIND = {
    "held": lambda: Wrapped(torch.nn.utils.parametrizations.weight_norm),
    "last output": Trained,
    "first call": Hyper,
    "computed before": Computed,
}


@pytest.mark.parametrize("kind", BEHIND)
def test_the_steps_behind_the_budget_depend_on_the_same_tensors(kind):
    """The first steps are in the caller's graph; what the others depend on is searched for where they begin."""

    def grads(adjoint):
        field, calls = BEHIND[kind](), []
        field.register_forward_hook(lambda *_: calls.append(1))
        f = (lambda t, y: field(y)) if kind == "held" else field
        y1, inputs = solved(f, adjoint).y1, list(field.parameters())
        forward = len(calls)
        found = torch.autograd.grad(y1.sum(), inputs, create_graph=True, allow_unused=True)
        again = torch.autograd.grad(sum(x.square().sum() for x in found if x is not None), inputs, allow_unused=True)
        return len(calls) - forward, [x for x in (*found, *again) if x is not None]

    wanted, taken = grads(nde.DirectAdjoint())[1], set()
    for budget in (0, 200, 400, 800, 1600, 3200, 6400, None):
        count, got = grads(nde.DiscreteAdjoint(budget=budget))
        taken.add(count)
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-12)
    assert len(taken) > 3
    assert 0 in taken
