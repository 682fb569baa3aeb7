"""Gradients through events: closed forms, and finite differences of the map with the steps between events frozen."""

import math
import threading

import numpy as np
import pytest
import torch
from torch import nn

import neuralde as nde

pytestmark = pytest.mark.usefixtures("on_device")
TIGHT = {"rtol": 1e-10, "atol": 1e-10}
per_sample = pytest.mark.parametrize("per_sample", [False, True], ids=["joint", "per_sample"])


def fall(t, y, g, e):
    return torch.stack([y[..., 1], -g + 0 * y[..., 1]], dim=-1)


def bounce(t, y, g, e):
    return torch.stack([y[..., 0], -e * y[..., 1]], dim=-1)


FLOOR = nde.Event(lambda t, y, *args: y[..., 0], direction="down", terminal=False, apply=bounce)


def ball(inputs, t1, per_sample=False, **options):
    height, speed, g, e = inputs
    y0 = torch.stack([height, speed])
    problem = nde.ODEProblem(fall, y0.expand(2, 2) if per_sample else y0, (0.0, t1), (g, e))
    return nde.solve(problem, events=FLOOR, per_sample=per_sample, **TIGHT | options)


def close(got, wanted, tol, who=""):
    for place, (a, b) in enumerate(zip(got, wanted, strict=True)):
        error = (a - b).abs().max() / b.abs().max().clamp(min=1e-6)
        assert error < tol, f"{who} {place}: {a.tolist()} against {b.tolist()}, off by {error:.1e}"


class TestClosedForms:
    """Problems whose event times are known, with every exact adjoint."""

    @per_sample
    def test_a_ball_that_bounces_fifty_times(self, adjoint, per_sample, make):
        inputs = [make(10.0), make(0.3), make(9.81), make(0.9)]

        def exact(height, speed, g, e):
            """Time and speed at the fiftieth bounce, and the height 0.01 later."""
            impact = (speed**2 + 2 * g * height).sqrt()
            time = (speed + impact) / g + 2 * impact / g * e * (1 - e**49) / (1 - e)
            after = impact * e**50
            later = t1 - time
            return torch.stack([time, after, after * later - g / 2 * later**2])

        t1 = 1e9
        with torch.no_grad():
            t1 = exact(*inputs)[0].item() + 0.01
        sol = ball(inputs, t1, per_sample, adjoint=adjoint)
        assert len(sol.events) == 50
        lane = (lambda x: x[0]) if per_sample else (lambda x: x)
        got = torch.stack([lane(sol.events.ts[-1]), lane(sol.events.after[-1])[1], lane(sol.y1)[0]])
        wanted = exact(*inputs)
        torch.testing.assert_close(got, wanted, rtol=1e-8, atol=1e-10)
        for a, b in zip(got, wanted, strict=True):
            grads = torch.autograd.grad(a, inputs, retain_graph=True)
            close(grads, torch.autograd.grad(b, inputs, retain_graph=True), 1e-8)

    @per_sample
    def test_a_terminal_event(self, adjoint, per_sample, make):
        """Decay from a at rate k falls to c at log(a / c) / k, where the second component is b exp(-t)."""
        a, b, k, c = make(2.0), make(3.0), make(1.3), make(0.5)

        def field(t, y, k):
            return torch.stack([-k * y[..., 0], -y[..., 1]], dim=-1)

        y0 = torch.stack([a, b])
        event = nde.Event(lambda t, y, k: y[..., 0] - c)
        problem = nde.ODEProblem(field, y0.expand(2, 2) if per_sample else y0, (0.0, 5.0), (k,))
        sol = nde.solve(problem, events=event, adjoint=adjoint, per_sample=per_sample, **TIGHT)
        time, y1 = (sol.event_time[1], sol.y1[1]) if per_sample else (sol.event_time, sol.y1)
        exact = (a / c).log() / k
        for got, wanted in ((time, exact), (y1[1], b * (-exact).exp()), (y1[0], c)):
            grads = torch.autograd.grad(got, (a, b, k, c), retain_graph=True, allow_unused=True)
            exacts = torch.autograd.grad(wanted, (a, b, k, c), retain_graph=True, allow_unused=True)
            for grad, one in zip(grads, exacts, strict=True):
                assert abs((0.0 if grad is None else grad) - (0.0 if one is None else one)) < 2e-8

    @per_sample
    def test_doses(self, adjoint, per_sample, make):
        """Linear elimination with boluses: amounts and times of the doses, and the rate."""
        dose, k = make(1.0, 2.0, 0.5), make(0.7)
        times, ts = make(0.5, 1.25, 3.0), make(0.25, 1.0, 2.0, 3.0, 4.0)

        def give(t, y, k):
            now = (t.reshape(-1)[0] - times).abs() < 1e-9
            return y + (dose * now).sum()

        def exact():
            since = ts.unsqueeze(1) - times
            return torch.where(ts.unsqueeze(1) > times, dose * (-k * since).exp(), 0.0).sum(1) + 0.1 * (-k * ts).exp()

        y0 = torch.full((2, 1) if per_sample else (1,), 0.1)
        problem = nde.ODEProblem(lambda t, y, k: -k * y, y0, (0.0, 5.0), (k,))
        events = nde.ScheduledEvent(times, give)
        sol = nde.solve(problem, events=events, saveat=ts, adjoint=adjoint, per_sample=per_sample, **TIGHT)
        got = sol.ys[:, 0, 0] if per_sample else sol.ys[:, 0]
        torch.testing.assert_close(got, exact(), rtol=1e-8, atol=1e-9)
        weights = torch.randn(5)
        grads = torch.autograd.grad((weights * got).sum(), (dose, k, times, ts))
        close(grads, torch.autograd.grad((weights * exact()).sum(), (dose, k, times, ts)), 1e-7)
        logged = sol.events.ts[:, 0] if per_sample else sol.events.ts
        assert torch.equal(logged, times)

    @per_sample
    def test_a_spiking_neuron(self, adjoint, per_sample, make):
        """Leaky integrate and fire: period tau log((I - reset) / (I - threshold))."""
        current, tau, threshold, reset = make(1.5), make(0.8), make(1.0), make(0.2)

        def field(t, v, current, tau):
            return (current - v) / tau

        event = nde.Event(
            lambda t, v, *args: v[..., 0] - threshold, "up", terminal=False, apply=lambda t, v, *args: reset + 0 * v
        )
        y0 = torch.zeros((3, 1) if per_sample else (1,))
        problem = nde.ODEProblem(field, y0, (0.0, 6.0), (current, tau))
        sol = nde.solve(problem, events=event, adjoint=adjoint, per_sample=per_sample, **TIGHT)
        spikes = sol.events.ts[:, 1] if per_sample else sol.events.ts
        first = tau * (current / (current - threshold)).log()
        period = tau * ((current - reset) / (current - threshold)).log()
        exact = first + torch.arange(len(spikes)) * period
        assert len(spikes) == 1 + int((6.0 - first) / period)
        torch.testing.assert_close(spikes, exact, rtol=1e-8, atol=1e-8)
        v1 = sol.y1[1, 0] if per_sample else sol.y1[0]
        last = current + (reset - current) * (-(6.0 - exact[-1]) / tau).exp()
        inputs = (current, tau, threshold, reset)
        for got, wanted in ((spikes.sum(), exact.sum()), (v1, last)):
            grads = torch.autograd.grad(got, inputs, retain_graph=True)
            close(grads, torch.autograd.grad(wanted, inputs, retain_graph=True), 1e-7)

    @pytest.mark.parametrize("ulps", [-1, 0, 1])
    def test_an_event_at_a_save_time_or_beside_it(self, adjoint, ulps, make):
        """SciMLSensitivity issue 1447. The row is the solution before the event or after it, and so is its gradient."""
        a, k, c, s = make(2.0), make(1.3), make(0.5), make(3.0)
        event = nde.Event(lambda t, y, *args: y[0] - c, terminal=False, apply=lambda t, y, *args: s * y)
        solve = lambda **options: nde.solve(  # noqa: E731
            nde.ODEProblem(lambda t, y, k: -k * y, a.reshape(1), (0.0, 1.85), (k,)), events=event, **TIGHT, **options
        )
        time = solve().events.ts.item()
        ts = float(np.nextafter(time, math.copysign(math.inf, ulps))) if ulps else time
        sol = solve(saveat=[0.1, ts, 1.8], adjoint=adjoint)
        exact = (s if ulps > 0 else 1.0) * a * (-k * ts).exp()
        torch.testing.assert_close(sol.ys[1, 0], exact, rtol=1e-8, atol=0)
        grads = torch.autograd.grad(sol.ys[1, 0], (a, k, c, s), allow_unused=True)
        exacts = torch.autograd.grad(exact, (a, k, c, s), allow_unused=True)
        for grad, one in zip(grads, exacts, strict=True):
            assert abs((0.0 if grad is None else grad) - (0.0 if one is None else one)) < 1e-7

    def test_backwards_in_time(self, adjoint, make):
        inputs = [make(10.0), make(-0.3), make(9.81), make(1 / 0.9)]

        def solve(height, speed, g, e):
            problem = nde.ODEProblem(fall, torch.stack([height, speed]), (0.0, -5.0), (g, e))
            return nde.solve(problem, events=FLOOR, adjoint=adjoint, **TIGHT)

        def exact(height, speed, g, e):
            impact = (speed**2 + 2 * g * height).sqrt()
            return -((impact - speed) / g + 2 * impact / g * e)

        sol = solve(*inputs)
        torch.testing.assert_close(sol.events.ts[1], exact(*inputs), rtol=1e-10, atol=0)
        close(torch.autograd.grad(sol.events.ts[1], inputs), torch.autograd.grad(exact(*inputs), inputs), 1e-8)


def oscillator(t, y, k, weight):
    return torch.stack([y[..., 1], -k * y[..., 0].sin() - 0.1 * y[..., 1] * t.reshape(t.shape[:1])], -1) @ weight


def kicks(level, kick, per_sample=False):
    return [
        nde.Event(
            lambda t, y, *args: y[..., 0] - level + 0.05 * t.reshape(t.shape[:1]).sin(),
            "down",
            terminal=False,
            apply=lambda t, y, k, weight: torch.stack([y[..., 0], kick * k - 0.8 * y[..., 1]], -1),
        ),
        nde.Event(lambda t, y, *args: y[..., 1] + 0.5 * y[..., 0] - 0.1, terminal=False),
    ]


class TestFrozenSteps:
    """An exact adjoint differentiates this map: events where they happen, all other step ends constant."""

    def inputs(self, make, lanes):
        torch.manual_seed(3)
        y0 = torch.tensor([1.2, 0.1]) if not lanes else torch.tensor([[1.2, 0.1], [0.8, -0.4], [1.5, 0.3]])
        return {
            "y0": y0.requires_grad_(),
            "k": make(2.0),
            "weight": (torch.eye(2) + 0.1 * torch.randn(2, 2)).requires_grad_(),
            "level": make(0.4),
            "kick": make(0.2),
            "t0": make(0.1),
            "t1": make(3.0),
            "ts": make(0.3, 2.7),
            "times": make(1.7).detach().reshape(1).requires_grad_(),
        }

    def run(self, x, lanes, method=None, **options):
        y0 = x["y0"]
        problem = nde.ODEProblem(oscillator, y0, (x["t0"], x["t1"]), (x["k"], x["weight"]))
        dose = nde.ScheduledEvent(x["times"], lambda t, y, *args: y + x["kick"] * (2 + t))
        options = {"rtol": 1e-4, "atol": 1e-4, "saveat": x["ts"], "per_sample": lanes} | options
        return nde.solve(problem, method, events=[*kicks(x["level"], x["kick"]), dose], **options)

    def read(self, sol):
        weights = torch.randn(1000, generator=torch.Generator().manual_seed(5))
        probe = torch.tensor([0.5, 2.0])
        parts = [sol.ys, sol.y1, sol.events.ts, sol.events.ys, sol.events.after]
        if sol.dense is not None:
            parts += [sol(probe), sol.derivative(probe)]
        parts += list(sol.regularization)
        flat = torch.cat([part.reshape(-1) for part in parts])
        return (flat.nan_to_num(0.0) * weights[: len(flat)]).sum()

    @pytest.mark.covering(1)
    @pytest.mark.parametrize("method", [nde.Tsit5(), nde.Vern7(), nde.RK4()], ids=str)
    @pytest.mark.parametrize("dense", [False, True])
    def test_joint(self, method, dense, make, adjoints, frozen):
        options = {"method": method, "dense": dense}
        if not method.adaptive:
            options["dt"] = 0.13
        self.check(make, adjoints, frozen, lanes=False, **options)

    def test_with_regularizers(self, make, adjoints, frozen):
        """The quotient of two stages, of which the largest counts; step lengths would be constants."""
        self.check(make, adjoints, frozen, lanes=False, regularizers=[nde.regularizers.StiffnessEstimate()])

    @staticmethod
    def mesh(sol, lane=None):
        """The step ends that are no events."""
        ts, events = (sol.ts, sol.events.ts) if lane is None else (sol.ts[:, lane], sol.events.ts[:, lane])
        ts = ts[~ts.isnan()][1:-1]
        return ts[~torch.isin(ts, events)].tolist()

    def check(self, make, adjoints, frozen, lanes, **options):
        x = self.inputs(make, lanes)
        with torch.no_grad():
            steps = self.run(x, lanes, **options | {"saveat": "steps"})
        assert len(steps.events) >= 3
        mesh = self.mesh(steps)
        assert len(mesh) >= 2
        replay = options | {"controller": nde.StepTo(ts=mesh), "dt": None}
        wanted = frozen.differences(lambda: self.read(self.run(x, lanes, **replay)), list(x.values()), 1e-4)
        for name, adjoint in adjoints.items():
            value = self.read(self.run(x, lanes, adjoint=adjoint, **options))
            torch.testing.assert_close(value, self.read(self.run(x, lanes, **replay)), rtol=1e-9, atol=1e-11)
            grads = torch.autograd.grad(value, list(x.values()))
            frozen.assert_derivative(grads, list(x.values()), wanted, 1e-6, name)

    @pytest.mark.parametrize("compact", [False, True])
    def test_per_sample_is_the_sum_of_joint_solves(self, compact, make, adjoints):
        """Each lane's gradient is the one it has alone, which the tests above prove."""
        x = self.inputs(make, lanes=True)
        values = list(x.values())

        def alone(lane, adjoint):
            row = x | {"y0": x["y0"][lane : lane + 1]}
            return self.run(row, True, adjoint=adjoint, dense=True)

        weights = torch.randn(100, generator=torch.Generator().manual_seed(5))

        def read(sol, lane):
            parts = [sol.ys[:, lane], sol.y1[lane], sol(torch.tensor([0.5, 2.0]))[:, lane]]
            parts += [sol.events.ts[:, lane], sol.events.ys[:, lane], sol.events.after[:, lane]]
            flat = torch.cat([part[~part.isnan()].reshape(-1) for part in parts])
            return (flat * weights[: len(flat)]).sum()

        joint = [read(alone(lane, nde.DirectAdjoint()), 0) for lane in range(3)]
        wanted = torch.autograd.grad(sum(joint), values)
        for name, adjoint in adjoints.items():
            sol = self.run(x, True, adjoint=adjoint, dense=True, compact=compact)
            assert len(sol.events) >= 3
            value = sum(read(sol, lane) for lane in range(3))
            torch.testing.assert_close(value, sum(joint), rtol=1e-11, atol=0)
            close(torch.autograd.grad(value, values), wanted, 1e-10, name)

    def test_one_lane_alone_is_a_joint_solve(self, make):
        x = self.inputs(make, lanes=False)
        values = list(x.values())
        joint = self.run(x, False)
        lane = self.run(x | {"y0": x["y0"].unsqueeze(0)}, True)
        torch.testing.assert_close(lane.ys[:, 0], joint.ys, rtol=1e-10, atol=1e-12)
        grads = [
            torch.autograd.grad(ys.sum() + ts.sum(), values)
            for ys, ts in ((joint.ys, joint.events.ts), (lane.ys, lane.events.ts))
        ]
        close(*grads, 1e-9)


class TestBeyondFirstOrder:
    """DirectAdjoint goes through autograd: double backward and forward mode."""

    def exact(self, a, k, c):
        return (a / c).log() / k

    def run(self, a, k, c, **options):
        problem = nde.ODEProblem(lambda t, y, k, c: -k * y, a.reshape(1), (0.0, 5.0), (k, c))
        event = nde.Event(lambda t, y, k, c: y[0] ** 2 - c**2)
        return nde.solve(problem, events=event, adjoint=nde.DirectAdjoint(), **TIGHT, **options)

    @per_sample
    def test_second_derivatives(self, per_sample, make):
        inputs = (make(2.0), make(1.3), make(0.5))

        def number(a, k, c):
            problem = nde.ODEProblem(lambda t, y, k, c: -k * y, a.reshape(1, 1), (0.0, 5.0), (k, c))
            event = nde.Event(lambda t, y, k, c: y[:, 0] ** 2 - c**2)
            return nde.solve(problem, events=event, per_sample=True, adjoint=nde.DirectAdjoint(), **TIGHT).event_time[0]

        got = (number if per_sample else lambda *x: self.run(*x).event_time)(*inputs)
        second = [
            torch.stack(
                [
                    torch.stack(torch.autograd.grad(g, inputs, retain_graph=True))
                    for g in torch.autograd.grad(value, inputs, create_graph=True)
                ]
            )
            for value in (got, self.exact(*inputs))
        ]
        close([second[0]], [second[1]], 1e-6)

    @per_sample
    def test_a_third_derivative_is_refused(self, per_sample, make):
        """Where autograd is not told beforehand that there will be one, even if the loss is linear in the time."""
        a, k, c = make(2.0), make(1.3), make(0.5)
        y0 = torch.stack([a, 2 * a]).reshape(2, 1) if per_sample else a.reshape(1)
        problem = nde.ODEProblem(lambda t, y, k, c: -k * y, y0, (0.0, 5.0), (k, c))
        event = nde.Event(lambda t, y, k, c: y[..., 0] ** 2 - c**2)
        sol = nde.solve(problem, events=event, per_sample=per_sample, adjoint=nde.DirectAdjoint(), **TIGHT)
        for value in (sol.event_time.sum(), sol.events.ts.sum(), sol.y1.sum()):
            for x in (a, k, c):
                (first,) = torch.autograd.grad(value, x, create_graph=True)
                (second,) = torch.autograd.grad(first, x, create_graph=True)
                assert second.isfinite()
                with pytest.raises(nde.InvalidProblemError, match="derivative of order 3"):
                    torch.autograd.grad(second, x)

    @pytest.mark.parametrize(
        "ways", [("grad", "grad", "grad"), ("jacfwd", "grad", "jacfwd"), ("grad",) * 4], ids="-".join
    )
    def test_higher_derivatives_by_transforms(self, ways):
        """With respect to k, of log(a / c) / k; the field is not linear in k, so that every order is at work."""

        def number(k):
            problem = nde.ODEProblem(lambda t, y: -(k**2) * y, torch.tensor([2.0]), (0.0, 5.0))
            event = nde.Event(lambda t, y: y[0] ** 2 - 0.25)
            controller = nde.StepTo(ts=[0.1 * j for j in range(1, 50)])
            return nde.solve(problem, nde.Vern9(), events=event, controller=controller).event_time

        got, wanted = number, lambda k: math.log(4.0) / k**2
        for way in ways:
            got, wanted = getattr(torch.func, way)(got), getattr(torch.func, way)(wanted)
        k = torch.tensor(1.1)
        torch.testing.assert_close(got(k), wanted(k), rtol=1e-8, atol=0.0)

    def test_forward_mode(self, make):
        inputs = tuple(torch.tensor(x) for x in (2.0, 1.3, 0.5))
        tangents = tuple(torch.tensor(x) for x in (0.3, -0.2, 1.0))
        _, got = torch.func.jvp(lambda *x: self.run(*x).event_time, inputs, tangents)
        _, wanted = torch.func.jvp(self.exact, inputs, tangents)
        assert abs(got - wanted) < 1e-8
        _, got = torch.func.jvp(lambda *x: self.run(*x, saveat=[0.1, 0.2]).ys[1, 0], inputs, tangents)
        _, wanted = torch.func.jvp(lambda a, k, c: a * (-0.2 * k).exp(), inputs, tangents)
        assert abs(got - wanted) < 1e-8


class TestParameters:
    """Parameters of the functions are found wherever they are, or refused."""

    @per_sample
    def test_modules(self, adjoint, per_sample):
        torch.manual_seed(0)
        level, change, rate = nn.Linear(2, 1), nn.Linear(2, 2), nn.Linear(2, 2)
        parameters = [*level.parameters(), *change.parameters(), *rate.parameters()]
        y0 = torch.tensor([1.0, -0.5])

        def solve(**options):
            event = nde.Event(
                lambda t, y: level(y)[..., 0] - 0.3 * torch.sin(3 * t.reshape(t.shape[:1])),
                terminal=False,
                apply=lambda t, y: y + 0.1 * torch.tanh(change(y)),
            )
            problem = nde.ODEProblem(
                lambda t, y: torch.tanh(rate(y)), y0.expand(2, 2) if per_sample else y0, (0.0, 4.0)
            )
            return nde.solve(problem, events=event, per_sample=per_sample, rtol=1e-9, atol=1e-9, **options)

        read = lambda sol: sol.y1.square().sum() + sol.events.ts.sum()  # noqa: E731
        sol = solve(adjoint=adjoint)
        assert len(sol.events) >= 2
        grads = torch.autograd.grad(read(sol), parameters)
        for parameter, grad in zip(parameters, grads, strict=True):
            direction = torch.randn_like(parameter)
            with torch.no_grad():
                values = []
                for step in (1e-5, -1e-5):
                    parameter.add_(step * direction)
                    values.append(read(solve()))
                    parameter.sub_(step * direction)
            along = (values[0] - values[1]) / 2e-5
            assert abs((grad * direction).sum() - along) < 1e-5 * max(1.0, abs(along))

    def test_backward_writes_into_grad(self, make):
        """.backward(), not autograd.grad, with the default adjoint."""
        a, c = make(2.0), make(0.5)
        sol = nde.solve(
            nde.ODEProblem(lambda t, y: -y, a.reshape(1), (0.0, 5.0)), events=nde.Event(lambda t, y: y[0] - c), **TIGHT
        )
        sol.event_time.backward()
        close([a.grad, c.grad], [1 / a.detach(), -1 / c.detach()], 1e-8)

    @pytest.mark.parametrize("place", ["fn", "apply"])
    def test_what_nobody_can_find_is_refused(self, make, place):
        """A tensor that appears only when it is used, and that was computed before the solve."""
        hidden = 2 * make(0.25)

        threading.current_thread().secret = hidden
        functions = {"fn": lambda t, y: y[0] - 0.5, "apply": lambda t, y: y + 1}
        functions[place] = {
            "fn": lambda t, y: y[0] - threading.current_thread().secret,
            "apply": lambda t, y: y + threading.current_thread().secret,
        }[place]
        problem = nde.ODEProblem(lambda t, y: -y, make(1.0).reshape(1), (0.0, 1.0))
        sol = nde.solve(problem, events=nde.Event(terminal=False, **functions), **TIGHT)
        assert len(sol.events) == 1
        with pytest.raises(nde.InvalidProblemError, match="DirectAdjoint"):
            sol.y1.sum().backward()

    def test_a_function_without_slope_has_no_gradient(self, make):
        event = nde.Event(lambda t, y: torch.where(y[0] > 0.5, 1.0, -1.0))
        problem = nde.ODEProblem(lambda t, y: -y, make(1.0).reshape(1), (0.0, 2.0))
        sol = nde.solve(problem, events=event)
        assert sol.status == nde.Status.EVENT
        with pytest.raises(nde.InvalidProblemError, match="fn: its value does not change"):
            sol.event_time.backward()

    def test_changed_inputs_are_noticed(self, make):
        times = make(0.5)
        dose = nde.ScheduledEvent(times.reshape(1), lambda t, y: y + 1)
        sol = nde.solve(nde.ODEProblem(lambda t, y: -y, make(1.0).reshape(1), (0.0, 2.0)), events=dose)
        with torch.no_grad():
            dose.ts.add_(0.1)
        with pytest.raises(RuntimeError, match="changed in place"):
            sol.y1.sum().backward()


class TestLanes:
    """Lanes that fail or have no event leave the others' gradients alone."""

    def test_a_lane_whose_function_is_nan(self, adjoint, make):
        """sqrt of a negative number: NaN in lane 1 at all times, in the value and in its gradient."""
        y0 = torch.tensor([[2.0], [-1.0], [3.0]], requires_grad=True)
        c = make(0.5)
        event = nde.Event(lambda t, y: y[:, 0].sqrt() - c, terminal=False, apply=lambda t, y: y.sqrt() + c)
        problem = nde.ODEProblem(lambda t, y: -y, y0, (0.0, 4.0))
        sol = nde.solve(problem, events=event, per_sample=True, adjoint=adjoint, **TIGHT)
        assert sol.events.ts[:, 1].isnan().all()
        times = sol.events.ts[0]
        grads = torch.autograd.grad(times[0] + times[2], (y0, c))
        exact = (y0[0, 0] / c**2).log() + (y0[2, 0] / c**2).log()
        close(grads, torch.autograd.grad(exact, (y0, c)), 1e-8)

    def test_a_lane_that_fails(self, adjoint, make):
        y0 = torch.tensor([[2.0], [5.0]], requires_grad=True)
        k = make(1.0)
        problem = nde.ODEProblem(lambda t, y, k: torch.where(y > 4, k * y**3, -k * y), y0, (0.0, 3.0), (k,))
        event = nde.Event(lambda t, y, k: y[:, 0] - 0.5, terminal=False, apply=lambda t, y, k: y + k)
        sol = nde.solve(problem, events=event, per_sample=True, adjoint=adjoint, throw=False, **TIGHT)
        assert sol.status[0] == nde.Status.SUCCESS
        assert sol.status[1] > nde.Status.EVENT
        grads = torch.autograd.grad(sol.events.ts[0, 0], (y0, k))
        close(grads, torch.autograd.grad((y0[0, 0] / 0.5).log() / k, (y0, k)), 1e-8)


class TestRefused:
    """What cannot be differentiated says so."""

    problem = nde.ODEProblem(lambda t, y: -y, torch.ones(1), (0.0, 1.0))
    event = nde.Event(lambda t, y: y[0] - 0.5)

    def test_through_steps(self):
        with pytest.raises(nde.InvalidProblemError, match="through_steps"):
            nde.solve(self.problem, events=self.event, adjoint=nde.DirectAdjoint(through_steps=True))

    def test_a_dose_at_the_start_whose_time_moves(self, make):
        dose = nde.ScheduledEvent(make(0.0, 0.5), lambda t, y: y + 1)
        with pytest.raises(nde.InvalidProblemError, match="ts: got the start of the interval"):
            nde.solve(self.problem, events=dose)


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize(
    "adjoint",
    [nde.DirectAdjoint(), nde.DiscreteAdjoint(), nde.DiscreteAdjoint(checkpoints=2)],
    ids=["direct", "all", "some"],
)
def test_each_samples_own_schedule(adjoint, compact):
    """y' = -k y and doses d at a sample's own times: everything in closed form."""
    ts = torch.tensor([[0.5, math.nan, 1.7], [1.5, 0.25, 0.9]]).requires_grad_()
    k, d = torch.tensor(1.3).requires_grad_(), torch.tensor(0.7).requires_grad_()
    problem = nde.ODEProblem(lambda t, y, k, d: -k * y, torch.ones(3, 1), (0.0, 2.0), (k, d))
    dose = nde.ScheduledEvent(ts, lambda t, y, k, d: y + d)
    sol = nde.solve(
        problem, events=dose, per_sample=True, compact=compact, adjoint=adjoint, saveat=[1.0, 2.0], rtol=1e-9, atol=1e-9
    )
    at = torch.tensor([1.0, 2.0]).reshape(2, 1, 1)
    given = ~ts.isnan() & (ts <= at)
    times = torch.where(given, ts, at)
    exact = (-k * at[:, :, 0]).exp() + torch.where(given, d * (-k * (at - times)).exp(), 0.0).sum(1)
    assert (sol.ys[..., 0] - exact).abs().max() < 1e-8
    wanted = torch.autograd.grad(exact.square().sum(), (ts, k, d))
    got = torch.autograd.grad(sol.ys.square().sum(), (ts, k, d))
    for a, b in zip(got, wanted, strict=True):
        assert (torch.nan_to_num(a) - torch.nan_to_num(b)).abs().max() < 1e-7


@pytest.mark.parametrize(("per_sample", "compact"), [(False, False), (True, False), (True, True)])
def test_tangents_pass_events(per_sample, compact):
    """ForwardSensitivity through bounces and kicks, every output, against autograd through every step."""

    def gradients(adjoint):
        y0 = torch.tensor([[1.0, 0.0], [0.5, 0.3]]).requires_grad_()
        numbers = [torch.tensor(x).requires_grad_() for x in (9.81, 0.8, [0.31, 0.9], 1.5)]
        g, e, kicks, t1 = numbers

        def field(t, y, g, e):
            return torch.stack([y[..., 1], -g - 0.1 * torch.cos(t).reshape(-1) * y[..., 0]], dim=-1)

        def height(t, y, g, e):
            return y[..., 0] if per_sample else y[0, 0]

        events = [
            nde.Event(height, "down", terminal=False, apply=bounce),
            nde.ScheduledEvent(kicks, lambda t, y, g, e: y * (1 + 0.1 * e)),
        ]
        sol = nde.solve(
            nde.ODEProblem(field, y0, (0.0, t1), (g, e)),
            events=events,
            adjoint=adjoint,
            per_sample=per_sample,
            compact=compact,
            saveat=[0.2, 0.8, 1.4],
            dense=True,
            regularizers=[nde.regularizers.ErrorEstimate()],
            rtol=1e-5,
            atol=1e-5,
        )
        before, after = (torch.nan_to_num(x) for x in (sol.events.ys, sol.events.after))
        value = sol.ys.square().sum() + sol.y1.sum() + sol(0.77).sum() + 1e3 * sol.regularization[0].sum()
        value = value + torch.nansum(sol.events.ts**2) + before.cos().sum() + after.sum()
        return torch.autograd.grad(value, (y0, *numbers))

    close(gradients(nde.ForwardSensitivity()), gradients(nde.DirectAdjoint()), 1e-8)


def test_tangents_in_the_error_norm_take_no_events():
    problem = nde.ODEProblem(lambda t, y: -y, torch.ones(1).requires_grad_(), (0.0, 1.0))
    with pytest.raises(nde.InvalidProblemError, match=r"in_error_norm=True\)? ?.*takes no events"):
        nde.solve(
            problem, adjoint=nde.ForwardSensitivity(in_error_norm=True), events=nde.Event(lambda t, y: y[0] - 0.5)
        )
