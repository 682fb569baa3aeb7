"""Gradients through events by the continuous adjoints: closed forms, and the exact adjoint as tolerances shrink."""

import pytest
import torch
from torch import nn

import neuralde as nde

CONTINUOUS = {"gauss": nde.GaussAdjoint, "interpolating": nde.InterpolatingAdjoint, "backsolve": nde.BacksolveAdjoint}
per_sample = pytest.mark.parametrize("per_sample", [False, True], ids=["joint", "per_sample"])


@pytest.fixture(params=list(CONTINUOUS))
def continuous(request):
    """Every continuous adjoint."""
    return CONTINUOUS[request.param]()


def off(got, wanted):
    """The largest relative error; an input that has no gradient counts as zero."""
    pairs = [(torch.zeros_like(b) if a is None else a, b) for a, b in zip(got, wanted, strict=True) if b is not None]
    assert all(a is None or not a.any() for a, b in zip(got, wanted, strict=True) if b is None)
    return max(((a - b).abs().max() / b.abs().max().clamp(min=1e-3)).item() for a, b in pairs)


@per_sample
def test_a_ball_that_bounces(continuous, per_sample, make):
    """Time and speed at the fourth bounce, and the height a little later."""
    inputs = [make(10.0), make(0.3), make(9.81), make(0.9)]

    def exact(height, speed, g, e, t1=0.0):
        impact = (speed**2 + 2 * g * height).sqrt()
        time = (speed + impact) / g + 2 * impact / g * e * (1 - e**3) / (1 - e)
        after = impact * e**4
        return torch.stack([time, after, after * (t1 - time) - g / 2 * (t1 - time) ** 2])

    t1 = exact(*inputs)[0].item() + 0.3
    fall = lambda t, y, g, e: torch.stack([y[..., 1], -g + 0 * y[..., 1]], dim=-1)  # noqa: E731
    bounce = lambda t, y, g, e: torch.stack([y[..., 0], -e * y[..., 1]], dim=-1)  # noqa: E731
    floor = nde.Event(lambda t, y, *args: y[..., 0], direction="down", terminal=False, apply=bounce)
    y0 = torch.stack(inputs[:2])
    problem = nde.ODEProblem(fall, y0.expand(2, 2) if per_sample else y0, (0.0, t1), tuple(inputs[2:]))
    sol = nde.solve(problem, events=floor, per_sample=per_sample, adjoint=continuous, rtol=1e-6, atol=1e-6)
    lane = (lambda x: x[0]) if per_sample else (lambda x: x)
    assert len(sol.events) == 4
    got = torch.stack([lane(sol.events.ts[-1]), lane(sol.events.after[-1])[1], lane(sol.y1)[0]])
    for a, b in zip(got, exact(*inputs, t1), strict=True):
        grads = torch.autograd.grad(a, inputs, retain_graph=True)
        assert off(grads, torch.autograd.grad(b, inputs, retain_graph=True)) < 1e-9


@per_sample
def test_a_terminal_event(continuous, per_sample, make):
    """Decay from a at rate k falls to c at log(a / c) / k, where the second component is b exp(-t)."""
    a, b, k, c, t1 = make(2.0), make(3.0), make(1.3), make(0.5), make(5.0)
    y0 = torch.stack([a, b])
    field = lambda t, y, k: torch.stack([-k * y[..., 0], -y[..., 1]], dim=-1)  # noqa: E731
    problem = nde.ODEProblem(field, y0.expand(2, 2) if per_sample else y0, (0.0, t1), (k,))
    event = nde.Event(lambda t, y, k: y[..., 0] - c)
    sol = nde.solve(problem, events=event, adjoint=continuous, per_sample=per_sample, rtol=1e-10, atol=1e-10)
    time, y1 = (sol.event_time[1], sol.y1[1]) if per_sample else (sol.event_time, sol.y1)
    exact = (a / c).log() / k
    for got, wanted in ((time, exact), (y1[1], b * (-exact).exp()), (y1[0], c)):
        grads = torch.autograd.grad(got, (a, b, k, c, t1), retain_graph=True, allow_unused=True)
        exacts = torch.autograd.grad(wanted, (a, b, k, c), retain_graph=True, allow_unused=True)
        for grad, one in zip(grads, (*exacts, None), strict=True):
            assert abs((0.0 if grad is None else grad) - (0.0 if one is None else one)) < 5e-8


class Everything:
    """A forced oscillator with a net in its field, kicked at a level that moves, changed at a live time, and ended."""

    def __init__(self, make, per_sample):
        torch.manual_seed(3)
        self.net = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 2))
        self.level, self.kick, self.top = make(0.2), make(0.6), make(3.6 if per_sample else 2.0)
        self.y0 = make([1.0, 0.3], [0.2, -0.4], [0.5, 0.5]) if per_sample else make(1.0, 0.3)
        self.per_sample, self.arg = per_sample, make(1.5)
        self.times, self.ts = make(0.0, 4.0), make(0.5, 1.0, 2.5, 3.9)
        self.dose = make([1.7])
        self.tensors = [self.y0, self.arg, self.level, self.kick, self.top, self.dose, self.times, self.ts]
        self.tensors += list(self.net.parameters())

    def field(self, t, y, w):
        turn = torch.stack([y[..., 1], -w * y[..., 0]], dim=-1)
        return turn + 0.3 * self.net(y) + 0.2 * torch.sin(3 * t)

    def events(self):
        crosses = nde.Event(
            lambda t, y, w: y[..., 0] - self.level * torch.cos(0.1 * t.reshape(y.shape[:-1])),
            terminal=False,
            apply=lambda t, y, w: y + self.kick * (1 + 0.1 * t),
        )
        written = nde.Event(lambda t, y, w: y[..., 1] - 0.3, terminal=False)
        dosed = nde.ScheduledEvent(self.dose, lambda t, y, w: 0.9 * y + 0.1 * w)
        return [crosses, written, dosed, nde.Event(lambda t, y, w: t.reshape(y.shape[:-1]) + y[..., 1] - self.top)]

    def gradients(self, adjoint, tol):
        problem = nde.ODEProblem(self.field, self.y0, (self.times[0], self.times[1]), (self.arg,))
        cost = nde.RunningCost(lambda t, y, w: y.square().sum(-1) * w)
        sol = nde.solve(
            problem,
            nde.Dopri5(),
            events=self.events(),
            saveat=self.ts,
            per_sample=self.per_sample,
            adjoint=adjoint,
            regularizers=[cost],
            rtol=tol,
            atol=tol,
        )
        loss = sol.events.ts.nan_to_num().square().sum() + (sol.events.after - 2 * sol.events.ys).nan_to_num().sum()
        loss = loss + sol.ys.nan_to_num().square().sum() + sol.y1.sum() + sol.regularization[0].sum()
        return sol, torch.autograd.grad(loss, self.tensors, allow_unused=True)


@per_sample
def test_everything_at_once_converges_to_the_exact_adjoint(continuous, per_sample, make):
    """Events of four kinds, a running cost, and every input: the distance shrinks with the tolerance."""
    case = Everything(make, per_sample)
    sol, wanted = case.gradients(nde.DiscreteAdjoint(), 1e-8)
    assert len(sol.events) >= 4
    ended = torch.as_tensor(sol.status) == int(nde.Status.EVENT)
    assert ended.tolist() == ([False, True, False] if per_sample else True)
    coarse, fine = (off(case.gradients(continuous, tol)[1], wanted) for tol in (1e-4, 1e-6))
    assert fine < coarse / 20
    assert fine < 1e-4


@per_sample
@pytest.mark.parametrize("ulps", [-1, 0, 1])
def test_an_event_on_a_save_time_or_beside_it(continuous, ulps, per_sample, make):
    """The row is the solution before the event or after it, and so is its gradient."""
    a, k, c, s = make(2.0), make(1.3), make(0.5), make(3.0)
    event = nde.Event(lambda t, y, *args: y[..., 0] - c, terminal=False, apply=lambda t, y, *args: s * y)

    def rows(adjoint, ts=None):
        y0 = a.expand(2, 1) if per_sample else a.reshape(1)
        problem = nde.ODEProblem(lambda t, y, k: -k * y, y0, (0.0, 1.85), (k,))
        options = dict(events=event, per_sample=per_sample, rtol=1e-9, atol=1e-9, adjoint=adjoint)
        return nde.solve(problem, saveat=ts, **options)

    with torch.no_grad():
        time = rows(None).events.ts.flatten()[0]
    ts = torch.nextafter(time, time + ulps).reshape(1)
    got, wanted = (
        torch.autograd.grad(rows(one, ts).ys.sum(), (a, k, c, s), allow_unused=True)
        for one in (continuous, nde.DiscreteAdjoint())
    )
    assert off(got, wanted) < 1e-6


@per_sample
def test_an_event_on_a_discontinuity_of_the_field(continuous, per_sample, make):
    """Two jumps at one time: the field's, which the controller knows, and the state's."""
    a, d = make(1.0), make(0.7)
    y0 = a.expand(2, 1) if per_sample else a.reshape(1)
    problem = nde.ODEProblem(lambda t, y: torch.where(t < 1.0, -y, -3 * y), y0, (0.0, 2.0))
    dose = nde.ScheduledEvent([1.0], lambda t, y: y + d)
    options = dict(controller=nde.PIController(jump_ts=[1.0]), per_sample=per_sample, rtol=1e-9, atol=1e-9)
    sol = nde.solve(problem, events=dose, adjoint=continuous, **options)
    grads = torch.autograd.grad(sol.y1.reshape(-1)[0], (a, d))
    assert off(grads, (torch.tensor(-4.0).exp(), torch.tensor(-3.0).exp())) < 1e-7


def test_backwards_in_time_in_complex_numbers(continuous, make):
    a, w = make(1.0), make(2.0)
    kick = nde.Event(lambda t, y, w: y[0].real - 0.3, terminal=False, apply=lambda t, y, w: y * (1 + 0.5j * w))

    def gradients(adjoint):
        y0 = torch.complex(a, 0.5 * a).reshape(1)
        sol = nde.solve(
            nde.ODEProblem(lambda t, y, w: (1j * w - 0.2 * t) * y, y0, (2.0, 0.0), (w,)),
            events=kick,
            adjoint=adjoint,
            rtol=1e-9,
            atol=1e-9,
        )
        return torch.autograd.grad(sol.y1.real.sum() + 2 * sol.y1.imag.sum() + sol.events.ts.sum(), (a, w))

    assert off(gradients(continuous), gradients(nde.DiscreteAdjoint())) < 1e-6


def test_a_compact_solve(continuous, make):
    """Samples whose events ended them leave the forward solve; the backward one still knows them."""
    y0, k = make([1.0], [2.0], [0.6]), make(0.5)
    event = nde.Event(lambda t, y, k: y[..., 0] - 0.5)

    def gradients(adjoint):
        problem = nde.ODEProblem(lambda t, y, k: -k * y - 0.1 * torch.sin(9 * t), y0, (0.0, 8.0), (k,))
        options = dict(events=event, per_sample=True, compact=True, rtol=1e-9, atol=1e-9)
        return torch.autograd.grad(nde.solve(problem, adjoint=adjoint, **options).event_time.square().sum(), (y0, k))

    assert off(gradients(continuous), gradients(nde.DiscreteAdjoint())) < 1e-6
