"""Graphs kept within a budget: the same gradient whatever the budget, no call of the field where all fit, bounded memory."""

import pytest
import torch
from torch import nn

import neuralde as nde
from neuralde.testing.counting import peak_bytes

D = torch.float64
BUDGETS = {"all": None, "some": 6_000, "few": 3_000, "none": 0}


class Net(nn.Module):
    """A field with parameters that counts its calls."""

    def __init__(self, dim=2, hidden=4):
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Sequential(nn.Linear(dim, hidden), nn.Tanh(), nn.Linear(hidden, dim)).to(D)
        self.calls = 0

    def forward(self, t, y, k):
        self.calls += 1
        return self.net(y) * torch.cos(3.0 * t) - k * y


def bounce(t, y, k):
    return y + 0.5 * k


CASES = {
    "joint": dict(),
    "save times": dict(saveat=torch.linspace(0.0, 2.0, 7, dtype=D)),
    "every step": dict(saveat="steps"),
    "dense": dict(dense=True),
    "fixed steps": dict(solver=nde.RK4(), dt=0.1),
    "no FSAL": dict(solver=nde.Vern7()),
    "per sample": dict(per_sample=True),
    "per sample, save times": dict(per_sample=True, saveat=torch.linspace(0.0, 2.0, 5, dtype=D)),
    "compact": dict(per_sample=True, compact=True, saveat=torch.linspace(0.0, 2.0, 5, dtype=D)),
    "regularized": dict(regularizers=(nde.regularizers.ErrorEstimate(), nde.regularizers.StiffnessEstimate())),
    "regularized per sample": dict(per_sample=True, regularizers=(nde.regularizers.ErrorEstimate(),)),
    "scheduled": dict(events=nde.ScheduledEvent([0.5, 0.8, 1.7], bounce)),
    "scheduled per sample": dict(per_sample=True, events=nde.ScheduledEvent([0.5, 1.3], bounce)),
    "jumps": dict(controller=nde.PIController(jump_ts=[0.7])),
}


def solved(adjoint, **options):
    """Every output's gradients, and the number of calls of the field in the solve and in its backward pass."""
    options = dict(rtol=1e-5, atol=1e-5) | options
    field = Net()
    y0 = torch.tensor([[1.0, -0.5], [0.3, 2.0], [-3.0, 8.0]], dtype=D, requires_grad=True)
    k, t0 = (torch.tensor(x, dtype=D, requires_grad=True) for x in (0.4, 0.0))
    problem = nde.ODEProblem(field, y0, (t0, 2.0), args=(k,))
    sol = nde.solve(problem, adjoint=adjoint, **options)
    loss = sol.y1.square().sum() + sol.ys.nan_to_num().sin().sum() + sum(r.sum() for r in sol.regularization)
    if options.get("dense"):
        loss = loss + sol(torch.tensor([0.3, 1.1], dtype=D)).sum()
    forward, inputs = field.calls, [y0, k, t0, *field.parameters()]
    grads = torch.autograd.grad(loss, inputs, allow_unused=True)
    return (
        [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, grads, strict=True)],
        forward,
        field.calls - forward,
    )


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("case", CASES)
def test_the_gradient_does_not_depend_on_the_budget(case, budget):
    wanted, _, _ = solved(nde.DirectAdjoint(), **CASES[case])
    got, _, _ = solved(nde.DiscreteAdjoint(budget=BUDGETS[budget]), **CASES[case])
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("case", ["joint", "save times", "dense", "fixed steps", "per sample", "regularized", "jumps"])
def test_where_all_graphs_fit_the_backward_pass_calls_nothing(case):
    _, forward, backward = solved(nde.DiscreteAdjoint(), **CASES[case])
    _, without, again = solved(nde.DiscreteAdjoint(budget=0), **CASES[case])
    assert backward == 0
    # The start of the interval requires grad, so the first call is made once more in its graph where slopes are carried.
    assert without <= forward <= without + 1
    assert again > 0.5 * without


def test_a_smaller_budget_takes_more_steps_again():
    calls = [solved(nde.DiscreteAdjoint(budget=budget))[2] for budget in (10**9, 6_000, 3_000, 0)]
    assert calls == sorted(calls)
    assert calls[0] == 0 < calls[1] < calls[2] <= calls[3]


@pytest.mark.parametrize("budget", [20_000, 200_000])
def test_memory_stays_within_the_budget(budget):
    """Measured beside states only; what the harness counts is allocated bytes, the last step's graph included."""
    field = Net(8, 16)
    y0 = torch.ones(32, 8, dtype=D, requires_grad=True)

    def run(budget):
        problem = nde.ODEProblem(field, y0, (0.0, 6.0), args=(0.1,))
        nde.solve(problem, rtol=1e-7, atol=1e-7, adjoint=nde.DiscreteAdjoint(budget=budget)).y1.sum().backward()

    states_only, within = peak_bytes(lambda: run(0)), peak_bytes(lambda: run(budget))
    assert within <= states_only + budget
    assert peak_bytes(lambda: run(10**9)) > states_only + budget


@pytest.mark.parametrize("budget", [None, 1_500])
def test_a_second_backward_pass_gives_the_same(budget):
    field, y0 = Net(), torch.ones(3, 2, dtype=D, requires_grad=True)
    sol = nde.solve(nde.ODEProblem(field, y0, (0.0, 2.0), args=(0.3,)), adjoint=nde.DiscreteAdjoint(budget=budget))
    first = torch.autograd.grad(sol.y1.sum(), [y0, *field.parameters()], retain_graph=True)
    before = field.calls
    second = torch.autograd.grad(sol.y1.sum(), [y0, *field.parameters()])
    assert (field.calls == before) == (budget is None)
    assert all(
        torch.equal(a, b) for a, b in zip(first, second, strict=True)
    )  # to the bit, as torch.autograd.gradcheck asks


@pytest.mark.parametrize("again", [False, True])
def test_a_random_field_is_differentiated_as_it_was_called(again):
    def run(adjoint):
        torch.manual_seed(3)
        y0 = torch.ones(3, dtype=D, requires_grad=True)
        noise = torch.rand(1000, dtype=D)
        at = iter(noise)
        problem = nde.ODEProblem(lambda t, y: -y * next(at), y0, (0.0, 1.0))
        y1 = nde.solve(problem, nde.Midpoint(), dt=0.1, controller=nde.ConstantStep(), adjoint=adjoint).y1
        return y1.detach(), torch.autograd.grad(y1.sum(), y0, create_graph=again)[0]

    y1, gradient = run(nde.DiscreteAdjoint())
    torch.testing.assert_close(gradient, y1, rtol=1e-12, atol=0)  # linear in y0 = 1


@pytest.mark.parametrize("apart", [True, False])
@pytest.mark.parametrize("per_sample", [False, True])
def test_a_loss_of_what_the_field_kept_of_its_calls_leaves_the_gradient_alone(per_sample, apart):
    """A joint solve is in the caller's graph, as far as the budget reaches: there ``retain_graph`` keeps it, as elsewhere."""

    class Watched(Net):
        def forward(self, t, y, k):
            slope = super().forward(t, y, k)
            self.last = slope.square().sum()
            return slope

    def gradient(field, watch):
        y0 = torch.tensor([[1.0, -0.5], [0.3, 2.0]], dtype=D)
        loss = nde.solve(nde.ODEProblem(field, y0, (0.0, 2.0), args=(0.4,)), per_sample=per_sample).y1.sum()
        if watch and apart:
            (0.0 * field.last).backward(retain_graph=not per_sample)
        elif watch:
            loss = loss + 0.0 * field.last
        loss.backward()
        return [p.grad for p in field.parameters()]

    for a, b in zip(gradient(Watched(), True), gradient(Net(), False), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("budget", [None, 0])
def test_a_step_of_the_optimizer_in_between_is_refused(budget):
    field, y0 = Net(), torch.ones(3, 2, dtype=D, requires_grad=True)
    sol = nde.solve(nde.ODEProblem(field, y0, (0.0, 1.0), args=(0.3,)), adjoint=nde.DiscreteAdjoint(budget=budget))
    with torch.no_grad():
        field.net[0].weight.add_(0.1)
    with pytest.raises(RuntimeError, match=r"changed in place" if budget == 0 else r"modified by an inplace operation"):
        sol.y1.sum().backward()


def test_a_lane_that_fails_leaves_the_others_gradients_alone():
    """sqrt has an infinite slope at zero, where one lane fails; the others' gradients come from steps taken again."""
    rate = torch.tensor([1.0], dtype=D, requires_grad=True)

    def field(t, y, rate):
        return -rate * torch.sqrt(y)

    def run(rows):
        y0 = torch.tensor([[1.0], [-1.0], [4.0]], dtype=D)[rows]
        sol = nde.solve(nde.ODEProblem(field, y0, (0.0, 1.0), args=(rate,)), per_sample=True, throw=False)
        healthy = torch.tensor(rows) != 1
        return torch.autograd.grad(sol.y1[healthy].sum(), rate)[0]

    torch.testing.assert_close(run([0, 1, 2]), run([0, 2]), rtol=1e-12, atol=0)


@pytest.mark.parametrize("value", [-1, 1.5, "64 MB", True])
def test_a_wrong_budget(value):
    with pytest.raises(nde.InvalidProblemError, match="budget"):
        nde.DiscreteAdjoint(budget=value)


@pytest.mark.parametrize("budget", [None, 6_000, 0])
def test_a_field_may_differentiate_with_torch_func(budget):
    """Inside hooks on saved tensors, which would tell the size of a graph, torch.func refuses to work."""

    def field(t, y, k):
        return torch.func.grad(lambda y: torch.cos(k * y).sum())(y)

    def plain(t, y, k):
        return -k * torch.sin(k * y)

    found = []
    for f, adjoint in ((field, nde.DiscreteAdjoint(budget=budget)), (plain, nde.DirectAdjoint())):
        y0, k = torch.ones(3, 2, dtype=D, requires_grad=True), torch.tensor(1.3, dtype=D, requires_grad=True)
        sol = nde.solve(nde.ODEProblem(f, y0, (0.0, 2.0), args=(k,)), adjoint=adjoint, rtol=1e-6, atol=1e-6)
        found.append(torch.autograd.grad(sol.y1.square().sum(), [y0, k]))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("method", [nde.SPaRK(), nde.ReversibleHeun()], ids=repr)
def test_steps_of_an_sde_behind_the_budget(method):
    """Methods with and without a memory, which goes from the last step in the caller's graph to the first behind it."""

    def gradient(adjoint, again):
        y0, k = torch.ones(3, 2, dtype=D, requires_grad=True), torch.tensor(0.7, dtype=D, requires_grad=True)
        calls = []

        def drift(t, y, k):
            calls.append(1)
            return -k * y + torch.sin(t)

        problem = nde.SDEProblem(drift, lambda t, y, k: 0.3 * k * y, y0, (0.0, 1.0), (k,), calculus="stratonovich")
        sol = nde.solve(problem, method, dt=0.05, seed=3, adjoint=adjoint, saveat=[0.25, 0.6, 1.0])
        forward, nfe = len(calls), sol.stats.nfe
        found = torch.autograd.grad(sol.ys.square().sum(), [y0, k], create_graph=again)
        if again:
            found = torch.autograd.grad(sum(x.square().sum() for x in found), [y0, k])
        return found, len(calls) - forward, forward - nfe

    taken = set()
    for again in (False, True):
        wanted, _, uncounted = gradient(nde.DirectAdjoint(), again)
        for budget in (None, 12_000, 6_000, 3_000, 0):
            got, count, beside = gradient(nde.DiscreteAdjoint(budget=budget), again)
            taken.add(count)
            assert beside == uncounted
            torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-12)
    assert 0 in taken
    assert len(taken) > 3


@pytest.mark.parametrize("retain", [False, True])
def test_a_deep_graph_is_freed_without_using_up_the_stack(retain):
    """torch 2.13 frees a graph that Python has walked with one call inside another for each node."""
    weight = torch.full((4, 4), 0.1, requires_grad=True)

    def field(t, y):
        for _ in range(8):
            y = torch.tanh(y @ weight) * 0.9
        return y

    problem = nde.ODEProblem(field, torch.ones(1, 4), (0.0, 1.0))
    y1 = nde.solve(problem, nde.Euler(), controller=nde.ConstantStep(), dt=1 / 3000).y1
    (gradient,) = torch.autograd.grad(y1.sum(), weight, retain_graph=retain)
    del y1
    assert gradient.isfinite().all()
