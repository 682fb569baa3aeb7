"""Gradients of rows at the times of events, of tables of doses, and of functions with many values; all against closed forms."""

import pytest
import torch

import neuralde as nde
from neuralde.solvers.testing.ordinary import number

D = torch.float64
pytestmark = pytest.mark.usefixtures("on_device")
per_sample = pytest.mark.parametrize("per_sample", [False, True], ids=["joint", "per_sample"])
sides = pytest.mark.parametrize("side", ["left", "right"])
ADJOINTS = {
    "direct": nde.DirectAdjoint,
    "discrete": nde.DiscreteAdjoint,
    "gauss": nde.GaussAdjoint,
    "interpolating": nde.InterpolatingAdjoint,
    "backsolve": nde.BacksolveAdjoint,
    "forward": nde.ForwardSensitivity,
}
adjoints = pytest.mark.parametrize("adjoint", [pytest.param(kind, id=name) for name, kind in ADJOINTS.items()])
CLOSE = {"rtol": 1e-10, "atol": 1e-10}
TIMES = (0.1, 0.3, 0.7)


def field(t, y, k, *rest):
    return -k * y


def lanes(per_sample, *values):
    values = number(*values)
    return values.expand(2, len(values)).clone() if per_sample else values


@adjoints
@sides
@per_sample
def test_rows_at_doses(adjoint, side, per_sample):
    """y' = -k y with a table of doses: every row, by k, the doses and y0."""
    k, sizes = number(0.7)[0].requires_grad_(), number(1.0, 2.0, 0.5).requires_grad_()
    y0 = lanes(per_sample, 2.0).requires_grad_()
    ts = torch.linspace(0.0, 1.0, 11)
    event = nde.ScheduledEvent(
        TIMES,
        lambda t, y, k, sizes, index: y + (sizes[index].unsqueeze(-1) if per_sample else sizes[index]),
        indexed=True,
    )
    sol = nde.solve(
        nde.ODEProblem(field, y0, (0.0, 1.0), (k, sizes)),
        events=event,
        saveat=ts,
        saveat_side=side,
        adjoint=adjoint(),
        per_sample=per_sample,
        **CLOSE,
    )
    start = y0.mean()
    exact = []
    for row in range(11):
        value = start * torch.exp(-k * row / 10)
        for size, time in zip(sizes, TIMES, strict=True):
            if round(10 * time) < row or (round(10 * time) == row and side == "right"):
                value = value + size * torch.exp(-k * (row / 10 - time))
        exact.append(value)
    weights = torch.linspace(1.0, -2.0, 11, dtype=D)
    rows = sol.ys.reshape(11, -1).mean(1)
    torch.testing.assert_close(rows, torch.stack(exact), rtol=0, atol=1e-9)
    got = torch.autograd.grad((weights * rows).sum(), (k, sizes, y0))
    want = torch.autograd.grad((weights * torch.stack(exact)).sum(), (k, sizes, y0))
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-7)


@adjoints
@sides
@per_sample
def test_times_of_doses_and_rows(adjoint, side, per_sample):
    """One-sided derivatives by the time of a dose and by the time of a row, where the two meet."""
    te = number(0.5).requires_grad_()
    ts = number(0.25, 0.5, 0.75).requires_grad_()
    problem = nde.ODEProblem(field, lanes(per_sample, 2.0), (0.0, 1.0), (0.7,))
    event = nde.ScheduledEvent(te, lambda t, y, k: y + 3.0)
    options = dict(events=event, saveat=ts, saveat_side=side, per_sample=per_sample, **CLOSE)
    rows = nde.solve(problem, adjoint=adjoint(), **options).ys.reshape(3, -1).mean(1)
    decays = torch.exp(number(*(-0.7 * t for t in (0.25, 0.5, 0.75)))) * 2
    behind = number(0.0, float(side == "right"), 1.0)
    dose = 3 * torch.exp(-0.7 * (ts.detach() - 0.5)) * behind
    torch.testing.assert_close(rows, decays + dose, rtol=0, atol=1e-8)
    weights = number(1.0, -2.0, 0.5)
    by_event, by_rows = torch.autograd.grad((weights * rows).sum(), (te, ts))
    torch.testing.assert_close(by_event, (weights * 0.7 * dose).sum().reshape(1), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(by_rows, -0.7 * weights * (decays + dose), rtol=1e-6, atol=1e-6)


@adjoints
@per_sample
def test_values_of_one_function(adjoint, per_sample):
    """y' = -k y is at a level l at log(y0 / l) / k; each crossing multiplies the second component by its own gain."""
    k, levels = number(0.9)[0].requires_grad_(), number(1.2, 1.6, 0.9).requires_grad_()
    gains, y0 = number(2.0, 3.0, 5.0).requires_grad_(), lanes(per_sample, 2.0, 1.0).requires_grad_()

    def gain(t, y, k, levels, gains, index):
        return torch.stack([y[..., 0], y[..., 1] * gains[index] + t.reshape(y.shape[:-1])], -1)

    event = nde.Event(lambda t, y, k, levels, gains: y[..., :1] - levels, terminal=False, apply=gain, indexed=True)
    problem = nde.ODEProblem(field, y0, (0.0, 1.0), (k, levels, gains))
    sol = nde.solve(problem, events=event, adjoint=adjoint(), per_sample=per_sample, **CLOSE)
    start = y0.reshape(-1, 2).mean(0)
    times = torch.log(start[0] / levels) / k
    value, now = start[1], 0.0
    for index in (1, 0, 2):
        value = value * torch.exp(-k * (times[index] - now)) * gains[index] + times[index]
        now = times[index]
    value = value * torch.exp(-k * (1.0 - now))
    found = sol.events.ts.reshape(3, -1).mean(1)
    assert sol.events.index.reshape(3, -1)[:, 0].tolist() == [1, 0, 2]
    torch.testing.assert_close(found, times[[1, 0, 2]], rtol=0, atol=1e-9)
    loss = sol.y1.reshape(-1, 2)[:, 1].mean() + (found * number(1.0, -2.0, 0.5)).sum()
    want = value + (times[[1, 0, 2]] * number(1.0, -2.0, 0.5)).sum()
    inputs = (k, levels, gains, y0)
    for one, other in zip(torch.autograd.grad(loss, inputs), torch.autograd.grad(want, inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


@adjoints
@per_sample
def test_events_that_see_the_state_before(adjoint, per_sample):
    """A swap at 0.4, with a factor of its own in each direction."""
    k, factors = number(0.9)[0].requires_grad_(), number(2.0, 3.0).requires_grad_()
    y0 = lanes(per_sample, 1.0, 4.0).requires_grad_()
    events = [
        nde.ScheduledEvent([0.4], lambda t, y, k, c: torch.stack([c[0] * y[..., 1], y[..., 1]], -1), sees="before"),
        nde.ScheduledEvent([0.4], lambda t, y, k, c: torch.stack([y[..., 0], c[1] * y[..., 0]], -1), sees="before"),
    ]
    problem = nde.ODEProblem(field, y0, (0.0, 1.0), (k, factors))
    y1 = nde.solve(problem, events=events, adjoint=adjoint(), per_sample=per_sample, **CLOSE).y1
    want = factors * y0.flip(-1) * torch.exp(-k)
    torch.testing.assert_close(y1, want, rtol=1e-8, atol=0)
    weights = number(1.0, -0.3)
    inputs = (k, factors, y0)
    got = torch.autograd.grad((weights * y1).sum(), inputs)
    for one, other in zip(got, torch.autograd.grad((weights * want).sum(), inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-7)


@pytest.mark.slow
@per_sample
def test_against_finite_differences(per_sample):
    """The library's own check, on frozen steps, with times that move and a function with two values."""
    times, sizes = number(0.3, 0.6).requires_grad_(), number(1.0, 0.5).requires_grad_()
    y0 = lanes(per_sample, 2.0).requires_grad_()

    def give(t, y, sizes, index):
        return y + t * (sizes[index].unsqueeze(-1) if per_sample else sizes[index])

    events = [
        nde.ScheduledEvent(times, give, indexed=True),
        nde.Event(lambda t, y, sizes: y - number(1.4, 1.8), apply=give, indexed=True, terminal=False, direction="down"),
    ]
    problem = nde.ODEProblem(lambda t, y, sizes: -y * (1 + 0.1 * y), y0, (0.0, 1.0), (sizes,))
    report = nde.testing.check_gradients(
        problem,
        adjoint=nde.DiscreteAdjoint(),
        events=events,
        saveat=[0.2, 0.5, 1.0],
        per_sample=per_sample,
        rtol=1e-5,
        atol=1e-5,
    )
    assert report.ok, report
