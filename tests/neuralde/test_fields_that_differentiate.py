"""Fields that differentiate: the gradient is that of a field with the derivative written out, however and wherever."""

import re

import numpy as np
import pytest
import torch
from torch.autograd import forward_ad
from torch.utils import _pytree as pytree

import neuralde as nde

D = torch.float64
W = torch.tensor([[0.6, -0.4], [0.3, 0.8]], dtype=D)
B = torch.tensor([0.2, -0.5], dtype=D)
X0 = torch.tensor([[0.5, -0.3], [1.0, 0.2], [-0.7, 0.4]], dtype=D)
NOISE = torch.tensor([[1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]], dtype=D)


def energy(x, W):
    return torch.tanh(x @ W).sum()


def slope_of_energy(x, W):
    return (1.0 - torch.tanh(x @ W).square()) @ W.T


# Fields of a potential: the state is a pytree with one leaf, or a tensor.


def guarded(t, x, W):
    with torch.enable_grad():
        x = x if x.requires_grad else x.detach().requires_grad_()
        return torch.autograd.grad(energy(x, W), x, create_graph=True)[0]


def flagged(t, x, W):
    with torch.enable_grad():
        t.requires_grad_(True)
        x.requires_grad_(True)
        return torch.autograd.grad(energy(x, W) + 0.0 * t.sum(), x, create_graph=True)[0]


def bare(t, x, W):
    return torch.autograd.grad(energy(x, W), x, create_graph=True)[0]


def of_func(t, x, W):
    return torch.func.grad(energy)(x, W)


def of_samples(t, x, W):
    return torch.vmap(torch.func.grad(energy), in_dims=(0, None))(x, W)


def of_jvp(t, x, W):
    columns = [
        torch.func.jvp(lambda x: torch.tanh(x @ W).sum(-1), (x,), (e.expand_as(x),))[1] for e in torch.eye(2, dtype=D)
    ]
    return torch.stack(columns, -1)


def of_jacrev(t, x, W):
    return torch.vmap(torch.func.jacrev(lambda x: torch.tanh(x @ W).sum()))(x)


POTENTIALS = [guarded, flagged, bare, of_func, of_samples, of_jvp, of_jacrev]


def in_a_tree(f):
    return lambda t, state, *args: {"x": f(t, state["x"], *args)}


def written_out(t, x, W):
    return slope_of_energy(x, W)


# Continuous normalizing flows: the state is a pair.


def layer(t, z, W):
    return torch.tanh(z @ W + torch.sin(t) * B)


def flow_written_out(t, state, W):
    z, _ = state
    out = layer(t, z, W)
    # d out_j / d z_i = (1 - out_j^2) W_ij
    return out, -((1.0 - out.square()) * W.diagonal()).sum(-1, keepdim=True)


def flow_exact(t, state, W):
    z, _ = state
    with torch.enable_grad():
        z.requires_grad_(True)
        t.requires_grad_(True)
        out = layer(t, z, W)
        trace = sum(torch.autograd.grad(out[:, i].sum(), z, create_graph=True)[0][:, i] for i in range(2))
    return out, -trace.unsqueeze(-1)


def flow_bare(t, state, W):
    z, _ = state
    out = layer(t, z, W)
    trace = sum(torch.autograd.grad(out[:, i].sum(), z, create_graph=True)[0][:, i] for i in range(2))
    return out, -trace.unsqueeze(-1)


def flow_func(t, state, W):
    z, _ = state
    jacobian = torch.vmap(torch.func.jacrev(lambda z, t: layer(t, z, W)), in_dims=(0, 0 if t.dim() else None))(z, t)
    return layer(t, z, W), -jacobian.diagonal(dim1=1, dim2=2).sum(-1, keepdim=True)


def sketch_written_out(t, state, W):
    z, _ = state
    out = layer(t, z, W)
    noise = NOISE[: len(z)]
    return out, -(((1.0 - out.square()) * noise) @ W.T * noise).sum(-1, keepdim=True)


def ffjord(t, state, W):
    """The idiom of FFJORD's code, word for word where it matters."""
    z = state[0]
    with torch.set_grad_enabled(True):
        z.requires_grad_(True)
        t.requires_grad_(True)
        out = layer(t, z, W)
        noise = NOISE[: len(z)]
        (e_dzdx,) = torch.autograd.grad(out, z, noise, create_graph=True)
        divergence = (e_dzdx * noise).sum(-1, keepdim=True)
    return out, -divergence


def momenta(q, p, W):
    return (p.square().sum() + torch.cos(q @ W).sum()) * 0.5


def hamiltonian(t, state, W):
    q, p = state
    with torch.enable_grad():
        q, p = (x if x.requires_grad else x.detach().requires_grad_() for x in (q, p))
        dq, dp = torch.autograd.grad(momenta(q, p, W).sum(), (q, p), create_graph=True)
    return dp, -dq


def hamiltonian_bare(t, state, W):
    dq, dp = torch.autograd.grad(momenta(*state, W), state, create_graph=True)
    return dp, -dq


def hamiltonian_written_out(t, state, W):
    q, p = state
    return p, 0.5 * torch.sin(q @ W) @ W.T


PAIR = (X0, torch.zeros(3, 1, dtype=D))
PHASE = (X0, X0.flip(0))
CASES = {f.__name__: (f, written_out, X0) for f in POTENTIALS}
CASES |= {f.__name__ + " in a tree": (in_a_tree(f), in_a_tree(written_out), {"x": X0}) for f in POTENTIALS}
CASES |= {f.__name__: (f, flow_written_out, PAIR) for f in (flow_exact, flow_bare, flow_func)}
CASES |= {"ffjord": (ffjord, sketch_written_out, PAIR)}
CASES |= {f.__name__: (f, hamiltonian_written_out, PHASE) for f in (hamiltonian, hamiltonian_bare)}


# Where and how they are solved.


def first(state):
    return pytree.tree_leaves(state)[0]


def crossing(per_sample):
    if per_sample:
        return nde.Event(lambda t, state, W: first(state)[:, 0] - 0.8, terminal=False)
    return nde.Event(lambda t, state, W: first(state).sum() - 1.4, terminal=False)


def effort(per_sample):
    return nde.RunningCost(lambda t, state, W: first(state).square().sum(-1 if per_sample else (0, 1)))


PLACES = {
    "joint": {},
    "per sample": {"per_sample": True},
    "compact": {"per_sample": True, "compact": True},
    "blocks": {"driver": nde.Blocks(size=3)},
    "blocks per sample": {"driver": nde.Blocks(size=3), "per_sample": True},
    "event": {"events": crossing},
    "event per sample": {"events": crossing, "per_sample": True},
    "dense": {"dense": True},
    "dense per sample": {"dense": True, "per_sample": True},
    "save times": {"saveat": [0.2, 0.5]},
    "running cost": {"regularizers": effort},
    "running cost per sample": {"regularizers": effort, "per_sample": True},
}
ADJOINTS = {
    "direct": nde.DirectAdjoint(),
    "discrete": nde.DiscreteAdjoint(),
    "checkpoints": nde.DiscreteAdjoint(checkpoints=3),
    "reversible": nde.ReversibleAdjoint(),
    "backsolve": nde.BacksolveAdjoint(),
    "interpolating": nde.InterpolatingAdjoint(),
    "gauss": nde.GaussAdjoint(),
    "forward": nde.ForwardSensitivity(),
}


def solved(field, y0, w, adjoint=None, **options):
    per_sample = options.get("per_sample", False)
    for name in ("events", "regularizers"):
        if name in options:
            one = options[name](per_sample)
            options[name] = one if name == "events" else [one]
    solver = nde.Reversible(nde.Tsit5()) if isinstance(adjoint, nde.ReversibleAdjoint) else None
    problem = nde.ODEProblem(field, y0, (0.0, 0.5), args=(w,))
    return nde.solve(problem, solver, adjoint=adjoint, rtol=1e-4, atol=1e-6, **options)


def weighed(tree):
    leaves = pytree.tree_leaves(tree)
    return sum((x * torch.arange(1.0, x.numel() + 1, dtype=D).reshape(x.shape)).sum() for x in leaves)


def leaves_of(y0):
    return pytree.tree_map(lambda x: x.clone().requires_grad_(), y0)


def gradients(field, y0, adjoint, **options):
    y0, w = leaves_of(y0), W.clone().requires_grad_()
    sol = solved(field, y0, w, adjoint, **options)
    loss = weighed(sol.ys) + sum(value.sum() for value in sol.regularization)
    if options.get("dense"):
        loss = loss + weighed(sol(torch.full((3,), 0.3, dtype=D) if options.get("per_sample") else 0.3))
    wanted = [*pytree.tree_leaves(y0), w]
    got = torch.autograd.grad(loss, wanted, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for g, x in zip(got, wanted, strict=True)]


def check_gradients(place, adjoint, case):
    field, plain, y0 = CASES[case]
    try:
        want = gradients(plain, y0, ADJOINTS[adjoint], **PLACES[place])
    except nde.NeuralDEError as refused:  # the combination itself, whatever the field
        with pytest.raises(type(refused), match=re.escape(str(refused))):
            gradients(field, y0, ADJOINTS[adjoint], **PLACES[place])
        return
    got = gradients(field, y0, ADJOINTS[adjoint], **PLACES[place])
    for a, b in zip(got, want, strict=True):
        assert (a - b).abs().max() <= 1e-8 * max(b.abs().max(), 1e-3)


# The noise of this one belongs to the rows of the whole batch.
EVERYTHING = [
    (place, adjoint, case)
    for place in PLACES
    for adjoint in ADJOINTS
    for case in CASES
    if (place, case) != ("compact", "ffjord")
]


@pytest.mark.parametrize(("place", "adjoint", "case"), EVERYTHING[::13], ids=str)
def test_the_gradient_is_that_of_the_derivative_written_out(place, adjoint, case):
    check_gradients(place, adjoint, case)


@pytest.mark.slow
@pytest.mark.parametrize(("place", "adjoint"), [(place, adjoint) for place in PLACES for adjoint in ADJOINTS], ids=str)
def test_everywhere(place, adjoint):
    for case in CASES:
        if (place, adjoint, case) in EVERYTHING:
            check_gradients(place, adjoint, case)


@pytest.mark.parametrize("case", ["flagged", "guarded in a tree", "ffjord", "hamiltonian_bare"])
def test_differences(case):
    field, _, y0 = CASES[case]
    w, h = W.clone().requires_grad_(), 1e-6
    step = dict(dt=0.125, controller=nde.ConstantStep())

    def loss(w):
        problem = nde.ODEProblem(field, y0, (0.0, 0.5), args=(w,))
        return weighed(nde.solve(problem, nde.RK4(), **step).y1)

    (got,) = torch.autograd.grad(loss(w), w)
    for place in range(4):
        move = torch.zeros(4, dtype=D)
        move[place] = h
        move = move.reshape(2, 2)
        with torch.no_grad():
            want = (loss(W + move) - loss(W - move)).item() / (2 * h)
        assert got.reshape(-1)[place].item() == pytest.approx(want, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("adjoint", ["direct", "discrete", "reversible"])
@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("case", ["flagged", "bare in a tree", "ffjord", "hamiltonian", "of_func"])
def test_double_backward(case, adjoint, per_sample):
    field, plain, y0 = CASES[case]

    def second(f):
        state, w = leaves_of(y0), W.clone().requires_grad_()
        wanted = [w, first(state)]
        sol = solved(f, state, w, ADJOINTS[adjoint], per_sample=per_sample)
        grads = torch.autograd.grad(weighed(sol.y1), wanted, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in grads), wanted)

    for a, b in zip(second(field), second(plain), strict=True):
        assert (a - b).abs().max() <= 1e-8 * b.abs().max()


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("case", ["guarded", "flagged in a tree", "bare", "ffjord", "hamiltonian", "of_func"])
def test_forward_mode(case, per_sample):
    field, plain, y0 = CASES[case]

    def tangent(f):
        with forward_ad.dual_level():
            state = pytree.tree_map(lambda x: forward_ad.make_dual(x.clone(), x.cos()), y0)
            sol = solved(f, state, forward_ad.make_dual(W, W.sin()), per_sample=per_sample)
            return forward_ad.unpack_dual(weighed(sol.y1)).tangent

    assert tangent(field).item() == pytest.approx(tangent(plain).item(), rel=1e-9)


@pytest.mark.parametrize("case", ["of_func", "of_jvp in a tree", "flow_func"])
def test_function_transforms(case):
    field, plain, y0 = CASES[case]
    for transform in (torch.func.grad, torch.func.jacfwd):
        got, want = (transform(lambda w, f=f: weighed(solved(f, y0, w).y1))(W) for f in (field, plain))
        torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-10)
    many = torch.stack([W, 0.9 * W])
    got, want = (torch.vmap(lambda w, f=f: weighed(solved(f, y0, w).y1))(many) for f in (field, plain))
    torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("case", ["flagged", "guarded", "bare", "ffjord", "hamiltonian"])
@pytest.mark.parametrize("per_sample", [False, True])
def test_what_transforms_do_not_allow_is_refused_with_the_remedy(case, per_sample):
    field, _, y0 = CASES[case]
    with pytest.raises(nde.InvalidProblemError, match=r"f: .*expected torch.func.grad"):
        torch.func.grad(lambda w: weighed(solved(field, y0, w, per_sample=per_sample).y1))(W)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("case", CASES)
def test_without_gradients(case, mode):
    field, plain, y0 = CASES[case]
    state, w = leaves_of(y0), W.clone().requires_grad_()
    with mode():
        got, want = (solved(f, state, w, per_sample=True).y1 for f in (field, plain))
        assert not first(got).requires_grad
        assert torch.allclose(weighed(got), weighed(want), rtol=1e-9)


def test_flags_do_not_leave_the_call():
    y0, times = X0.clone(), []

    def field(t, x, W):
        times.append(t)
        return flagged(t, x, W)

    w = W.clone().requires_grad_()
    for options in ({}, {"adjoint": nde.DirectAdjoint()}, {"per_sample": True}):
        solved(field, y0, w, **options).y1.sum().backward()
        assert not y0.requires_grad
        assert y0.grad is None
    assert times


def test_a_flow_learns_as_by_differences():
    torch.manual_seed(0)
    w = (0.1 * W).requires_grad_()
    optimizer, losses = torch.optim.SGD([w], lr=0.1), []
    for _ in range(3):
        z, change = solved(ffjord, PAIR, w).y1
        loss = (0.5 * z.square().sum(1) - change[:, 0]).mean()
        optimizer.zero_grad()
        loss.backward()
        with torch.no_grad():

            def at(w):
                z, change = nde.solve(nde.ODEProblem(ffjord, PAIR, (0.0, 0.5), args=(w,)), rtol=1e-10, atol=1e-12).y1
                return (0.5 * z.square().sum(1) - change[:, 0]).mean().item()

            move = 1e-5 * torch.ones_like(w)
            want = (at(w + move) - at(w - move)) / 2e-5
        assert w.grad.sum().item() == pytest.approx(want, rel=1e-3)
        optimizer.step()
        losses.append(loss.item())
    assert losses[2] < losses[1] < losses[0]


def test_steady_states():
    def field(t, x, W):
        with torch.enable_grad():
            x.requires_grad_(True)
            return -torch.autograd.grad(
                (x - torch.tanh(W)).square().sum() + 0.1 * x.square().sum(), x, create_graph=True
            )[0]

    for f in (field, lambda t, x, W: -2.0 * (x - torch.tanh(W)) - 0.2 * x):
        w = W.clone().requires_grad_()
        sol = nde.solve(nde.SteadyStateProblem(f, torch.zeros(2, 2, dtype=D), args=(w,)), rtol=1e-9, atol=1e-9)
        (got,) = torch.autograd.grad(sol.y1.sum(), w)
        torch.testing.assert_close(got, (1.0 - torch.tanh(W).square()) / 1.1, rtol=1e-6, atol=1e-9)


# What would lose a gradient.


def detached(t, x, W):
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        return torch.autograd.grad(energy(x, W), x, create_graph=True)[0]


def without_graph(t, x, W):
    with torch.enable_grad():
        x = x if x.requires_grad else x.detach().requires_grad_()
        return torch.autograd.grad(energy(x, W), x)[0]


def by_numpy(t, x, W):
    return torch.from_numpy(np.sin(x.detach().numpy()))


@pytest.mark.parametrize("adjoint", ADJOINTS)
@pytest.mark.parametrize("field", [detached, without_graph])
def test_a_value_that_autograd_cannot_follow_is_refused_when_its_gradient_is_asked_for(field, adjoint):
    with pytest.raises(nde.InvalidProblemError, match=r"autograd does not see how.*create_graph=True"):
        gradients(field, X0, ADJOINTS[adjoint])
    with torch.no_grad():
        assert solved(field, X0, W).y1.isfinite().all()
    assert solved(field, X0, W.clone().requires_grad_()).y1.isfinite().all()  # a sampler in grad mode


@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_what_is_detached_in_plain_sight_is_a_constant(adjoint):
    """As under DirectAdjoint, and as everywhere in torch; ``nde.testing.check_gradients`` finds it."""

    def field(t, x, W):
        return by_numpy(t, x, W) - 0.5 * (x @ W)

    x, W_ = X0.clone().requires_grad_(), W.clone().requires_grad_()
    sol = solved(field, x, W_, ADJOINTS[adjoint])
    got = torch.autograd.grad(sol.y1.sum(), (x, W_))
    direct = solved(field, x, W_, nde.DirectAdjoint())
    want = torch.autograd.grad(direct.y1.sum(), (x, W_))
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("adjoint", sorted(set(ADJOINTS) - {"forward"}))
def test_a_part_that_is_only_watched_costs_nothing(adjoint):
    def field(t, state, W):
        slope = torch.tanh(state["x"] @ W)
        return {"x": slope, "seen": slope.square().detach()}

    def plain(t, x, W):
        return torch.tanh(x @ W)

    w, v = (W.clone().requires_grad_() for _ in range(2))
    sol = solved(field, leaves_of({"x": X0, "seen": X0}), w, ADJOINTS[adjoint])
    want = solved(plain, X0.clone().requires_grad_(), v, ADJOINTS[adjoint])
    got, want = (torch.autograd.grad(weighed(y), x)[0] for y, x in ((sol.y1["x"], w), (want.y1, v)))
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4)  # other steps
    sol = solved(field, leaves_of({"x": X0, "seen": X0}), w, ADJOINTS[adjoint])
    with pytest.raises(nde.InvalidProblemError, match="autograd does not see how"):
        sol.y1["seen"].sum().backward()


@pytest.mark.parametrize("adjoint", ["discrete", "gauss", "backsolve", "forward"])
def test_a_freed_graph(adjoint):
    def field(t, x, W):
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_()
            out = torch.tanh(x @ W)
            torch.autograd.grad(out.sum(), x)
        return out

    with pytest.raises(nde.InvalidProblemError, match=r"f: frees the graph.*expected create_graph=True"):
        gradients(field, X0, ADJOINTS[adjoint])


# What a field may not give or do.


@pytest.mark.parametrize(
    ("field", "says"),
    [
        (lambda t, s, W: {"a": s["a"] > 0, "b": s["b"]}, r"f: got booleans \(torch.bool\); expected numbers"),
        (
            lambda t, s, W: {"a": s["a"].to_sparse(), "b": s["b"]},
            "f: got a torch.sparse_coo tensor; expected a dense one",
        ),
        (lambda t, s, W: {"a": s["a"].mul_(2.0), "b": s["b"]}, "f: changed .*in-place.*expected a new tensor"),
        (
            lambda t, s, W: {"a": torch.from_numpy(np.sin(s["a"].numpy())), "b": s["b"]},
            "f: turns a tensor into a NumPy",
        ),
    ],
)
@pytest.mark.parametrize("adjoint", ["direct", "discrete", "gauss", "forward"])
def test_what_a_field_may_not_do(field, says, adjoint):
    with pytest.raises(nde.InvalidProblemError, match=says):
        solved(field, leaves_of({"a": X0, "b": X0}), W.clone().requires_grad_(), ADJOINTS[adjoint])


@pytest.mark.parametrize("field", [lambda t, y: y > 0, lambda t, y: (-y).to_sparse(), lambda t, y: y.neg_()])
def test_what_a_field_may_not_do_without_gradients(field):
    with torch.no_grad(), pytest.raises(nde.InvalidProblemError, match=r"^f: "):
        nde.solve(nde.ODEProblem(field, X0.clone(), (0.0, 1.0)))


def test_states_that_are_no_arrays():
    for y0 in (X0.to_sparse(), {"a": X0.to_sparse()}, torch.nested.nested_tensor([X0, X0[:1]], layout=torch.jagged)):
        with pytest.raises(nde.InvalidProblemError, match=r"y0: got a .* tensor; expected a dense one"):
            nde.ODEProblem(lambda t, y: -y, y0, (0.0, 1.0))


def test_an_event_may_write_into_any_part_of_its_state():
    def apply(t, state, W):
        state["a"].mul_(0.5)
        return state

    def again(t, state, W):
        return {"a": 0.5 * state["a"], "b": state["b"]}

    found = []
    for change in (apply, again):
        w, state = W.clone().requires_grad_(), leaves_of({"a": X0, "b": X0})
        problem = nde.ODEProblem(lambda t, s, W: {"a": s["b"] @ W, "b": -s["a"]}, state, (0.0, 1.0), args=(w,))
        sol = nde.solve(problem, events=nde.ScheduledEvent([0.5], apply=change))
        found.append(torch.autograd.grad(weighed(sol.y1), w)[0])
    assert torch.equal(*found)


@pytest.mark.parametrize(("case", "works"), [pytest.param("of_jvp", True, marks=pytest.mark.slow), ("of_func", False)])
def test_compiled(case, works):
    field, plain, y0 = CASES[case]

    def run(state, w):
        return weighed(nde.solve(nde.ODEProblem(field, state, (0.0, 0.5), args=(w,))).y1)

    compiled = torch.compile(run, backend="eager", fullgraph=True)
    w, v = (W.clone().requires_grad_() for _ in range(2))
    if works:
        (got,) = torch.autograd.grad(compiled(y0, w), w)
        (want,) = torch.autograd.grad(weighed(nde.solve(nde.ODEProblem(plain, y0, (0.0, 0.5), args=(v,))).y1), v)
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-10)
    else:
        with pytest.raises(Exception, match=r"reverse mode .* in a compiled solve"):
            compiled(y0, w)
