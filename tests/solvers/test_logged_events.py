"""Events that only log: found on the dense output, in many steps at once, and of no effect on the solve."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

import neuralde as nde
from neuralde.solvers.testing.ordinary import TIGHT, number, state

D = torch.float64
pytestmark = pytest.mark.usefixtures("on_device")
per_sample = pytest.mark.parametrize("per_sample", [False, True], ids=["joint", "per_sample"])
LEVELS = (-0.9, -0.3, 0.2, 0.9)


def turning(t, y):
    return torch.stack([y[..., 1], -y[..., 0]], -1)


def wavering(t, y):
    """Not autonomous."""
    return torch.stack([y[..., 1] * (1 + 0.3 * torch.cos(t).reshape(y.shape[:-1])), -y[..., 0]], -1)


def levels(*at, **options):
    return [nde.Event(lambda t, y, k=k: y[..., 0] - k, terminal=False, **options) for k in at or LEVELS]


class TestTheSolve:
    """What does not change."""

    @per_sample
    @pytest.mark.parametrize("graph", [False, True])
    @pytest.mark.parametrize("solver", [nde.Tsit5(), nde.RK4(), nde.Dopri8(), nde.Vern7()], ids=lambda s: s.name)
    def test_is_the_one_without_them(self, solver, graph, per_sample):
        problem = nde.ODEProblem(wavering, state(per_sample, 0.0, 1.0).requires_grad_(graph), (0.0, 20.0))
        options = {"solver": solver, "per_sample": per_sample, "rtol": 1e-5, "atol": 1e-5, "dense": True}
        options |= {"dt": 0.1} if solver.name == "RK4" else {}
        alone, sol = (nde.solve(problem, events=events, **options) for events in (None, levels()))
        assert len(sol.events) > 10
        assert torch.equal(sol.y1, alone.y1)
        assert torch.equal(torch.as_tensor(sol.stats.steps), torch.as_tensor(alone.stats.steps))
        assert torch.equal(torch.as_tensor(sol.stats.nfe), torch.as_tensor(alone.stats.nfe))

    @pytest.mark.parametrize("graph", [False, True])
    def test_counts_the_calls_that_they_make(self, graph):
        """None, where a step begins with the field; one for the side of zero at the start where it does not."""
        for solver, more in ((nde.Tsit5(), 0), (nde.Reversible(nde.Tsit5()), None)):
            calls = []

            def counted(t, y, calls=calls):
                calls.append(None)
                return turning(t, y)

            y0 = number(0.0, 1.0).requires_grad_(graph)
            problem, options = nde.ODEProblem(counted, y0, (0.0, 9.0)), {"adjoint": nde.DirectAdjoint()}
            alone = nde.solve(problem, solver, **options).stats.nfe
            calls.clear()
            sol = nde.solve(problem, solver, events=levels(0.0), **options)
            assert len(sol.events) == 2
            assert len(calls) == sol.stats.nfe
            if more is not None:
                assert sol.stats.nfe == alone + more

    def test_has_no_row_more(self):
        problem = nde.ODEProblem(turning, number(0.0, 1.0), (0.0, 6.0))
        alone, sol = (nde.solve(problem, events=events, saveat="steps") for events in (None, levels()))
        assert torch.equal(sol.ts, alone.ts)
        assert torch.equal(sol.ys, alone.ys)


class TestTimes:
    """When they are."""

    @pytest.mark.parametrize(
        ("solver", "order"),
        [(nde.Heun(), 2), (nde.Bosh3(), 3), (nde.RK4(), 4), (nde.Tsit5(), 5), (nde.Dopri5(), 5)],
        ids=lambda x: getattr(x, "name", x),
    )
    def test_have_the_order_of_the_method(self, solver, order):
        """The dense output's error over one step is no larger than what the steps have added up."""
        exact = solve_ivp(
            lambda t, y: [y[1] * (1 + 0.3 * np.cos(t)), -y[0]],
            (0.0, 4.0),
            [0.0, 1.0],
            method="DOP853",
            rtol=1e-13,
            atol=1e-13,
            events=[lambda t, y, k=k: y[0] - k for k in LEVELS],
        )
        exact = number(*sorted(t for ts in exact.t_events for t in ts))
        errors = []
        steps = (9, 11, 13, 17, 19, 23, 29, 31, 37, 43, 47, 53, 61)
        for count in steps:
            options = {"dt": 4.0 / count, "controller": nde.ConstantStep(), "events": levels()}
            log = nde.solve(nde.ODEProblem(wavering, number(0.0, 1.0), (0.0, 4.0)), solver, **options).events
            assert len(log) == len(exact)
            errors.append((log.ts - exact).abs().max().item())
        slope = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
        assert slope > order - 0.4

    @per_sample
    @pytest.mark.parametrize("direction", [1.0, -1.0])
    @pytest.mark.parametrize("graph", [False, True])
    def test_all_in_few_steps(self, direction, graph, per_sample):
        """Many in a step and several of one function, forwards and backwards; the states there too."""
        y0 = state(per_sample, 0.0, 1.0).requires_grad_(graph)
        problem = nde.ODEProblem(turning, y0, (0.0, 7.0 * direction))
        log = nde.solve(problem, nde.Dopri8(), events=levels(), per_sample=per_sample, **TIGHT).events
        roots = [
            (t, index)
            for index, level in enumerate(LEVELS)
            for k in range(-2, 3)
            for t in (math.asin(level) + 2 * math.pi * k, math.pi - math.asin(level) + 2 * math.pi * k)
            if 0 < t * direction < 7
        ]
        roots.sort(key=lambda root: root[0] * direction)
        assert log.index.reshape(len(log), -1)[:, 0].tolist() == [index for _, index in roots]
        exact = number(*(t for t, _ in roots))
        assert (log.ts.reshape(len(log), -1)[:, 0] - exact).abs().max() < 1e-8
        before = log.ys.reshape(len(log), -1, 2)[:, 0]
        assert (before - torch.stack([exact.sin(), exact.cos()], -1)).abs().max() < 1e-8
        assert torch.equal(log.ys.nan_to_num(), log.after.nan_to_num())

    @pytest.mark.parametrize("compact", [False, True])
    @pytest.mark.parametrize("graph", [False, True])
    def test_each_sample_has_its_own(self, compact, graph):
        y0 = number(0.0, 1.0, 0.5, 1.0, 0.0, -1.0).reshape(3, 2).requires_grad_(graph)
        problem = nde.ODEProblem(turning, y0, (0.0, number(9.0, 2.0, 5.0)))
        log = nde.solve(problem, events=levels(), per_sample=True, compact=compact).events
        for lane, t1 in enumerate((9.0, 2.0, 5.0)):
            alone = nde.ODEProblem(turning, y0[lane : lane + 1], (0.0, t1))
            own = nde.solve(alone, events=levels(), per_sample=True).events
            count = len(own)
            assert log.index[:count, lane].tolist() == own.index[:, 0].tolist()
            assert (log.index[count:, lane] == -1).all()
            torch.testing.assert_close(log.ts[:count, lane], own.ts[:, 0], rtol=0, atol=1e-12)

    @per_sample
    def test_twice_in_one_step(self, per_sample):
        problem = nde.ODEProblem(lambda t, y: 1 - 2 * t + 0 * y, state(per_sample, 0.0), (0.0, 1.0))
        options = {"dt": 1.0, "controller": nde.ConstantStep(), "per_sample": per_sample}
        for direction, wanted in (("any", [0.2, 0.8]), ("up", [0.2]), ("down", [0.8])):
            log = nde.solve(problem, events=levels(0.16, direction=direction), **options).events
            torch.testing.assert_close(
                log.ts.reshape(len(log), -1)[:, 0], number(*wanted), rtol=0, atol=1e-14, msg=direction
            )

    @per_sample
    @pytest.mark.parametrize("graph", [False, True])
    def test_that_are_a_point_at_which_it_is_looked(self, graph, per_sample):
        """Zero at an end of a step, at a probe, at the start, at the end of the solve; each once."""
        y0 = state(per_sample, 0.0).requires_grad_(graph)
        problem = nde.ODEProblem(lambda t, y: torch.ones_like(y), y0, (0.0, 1.0))
        at = (0.0, 0.25, 0.3125, 0.5, 1.0)
        options = {"dt": 0.25, "controller": nde.ConstantStep(), "per_sample": per_sample}
        log = nde.solve(problem, nde.Euler(), events=levels(*at), **options).events
        assert log.index.reshape(len(log), -1)[:, 0].tolist() == [1, 2, 3, 4]
        assert log.ts.reshape(len(log), -1)[:, 0].tolist() == list(at[1:])

    def test_that_begin_at_zero(self):
        """A function that is zero at the start, and again before the first point at which it is looked."""
        problem = nde.ODEProblem(lambda t, y: 1 - 20 * t + 0 * y, number(0.0), (0.0, 1.0))
        options = {"dt": 1.0, "controller": nde.ConstantStep()}
        log = nde.solve(problem, events=levels(0.0), **options).events
        torch.testing.assert_close(log.ts, number(0.1), rtol=0, atol=1e-13)

    def test_of_functions_that_are_nan_for_a_while(self):
        event = nde.Event(lambda t, y: torch.where((t > 1) & (t < 4), torch.nan, y[0]), terminal=False)
        log = nde.solve(nde.ODEProblem(turning, number(0.0, 1.0), (0.0, 7.0)), events=event, **TIGHT).events
        assert abs(log.ts[-1].item() - 2 * math.pi) < 1e-8


class TestBeside:
    """Events that only log beside those that change the state or end the solve."""

    @per_sample
    @pytest.mark.parametrize("start", [0.0, 1e6])
    @pytest.mark.parametrize("graph", [False, True])
    def test_the_same_function(self, graph, start, per_sample):
        """Each reset is logged twice, at one time, however coarse the clock is."""
        reset = nde.Event(lambda t, y: y[..., 0] - 1.0, terminal=False, apply=lambda t, y: 0 * y)
        log_only = nde.Event(lambda t, y: 3 * (y[..., 0] - 1.0), terminal=False)
        y0 = state(per_sample, 0.0).requires_grad_(graph)
        problem = nde.ODEProblem(lambda t, y: 1 + 0.5 * torch.cos(t) + 0 * y, y0, (start, start + 9.5))
        for events, order in (([log_only, reset], [0, 1]), ([reset, log_only], [0, 1])):
            log = nde.solve(problem, events=events, per_sample=per_sample, rtol=1e-6, atol=1e-6).events
            index = log.index.reshape(len(log), -1)[:, 0].tolist()
            assert len(index) >= 16
            assert index == order * (len(index) // 2)
            ts = log.ts.reshape(len(log), -1)[:, 0]
            assert torch.equal(ts[::2], ts[1::2])

    @per_sample
    def test_only_up_to_the_end(self, per_sample):
        problem = nde.ODEProblem(turning, state(per_sample, 0.0, 1.0), (0.0, 7.0))
        end = nde.Event(lambda t, y: y[..., 0] - 0.8)
        sol = nde.solve(problem, events=[*levels(0.5, 0.9), end], per_sample=per_sample, **TIGHT)
        assert sol.events.index.reshape(len(sol.events), -1)[:, 0].tolist() == [0, 2]
        exact = number(math.asin(0.5), math.asin(0.8))
        assert (sol.events.ts.reshape(2, -1)[:, 0] - exact).abs().max() < 1e-9

    def test_behind_a_scheduled_change(self):
        """The jump over a level is no crossing, in either direction."""
        jump = nde.ScheduledEvent([1.0, 2.0], lambda t, y: y + 1.0)
        problem = nde.ODEProblem(lambda t, y: -torch.ones_like(y), number(1.5), (0.0, 3.0))
        sol = nde.solve(problem, events=[*levels(1.0), jump])
        assert sol.events.index.tolist() == [0, 1, 0, 1, 0]
        torch.testing.assert_close(sol.events.ts, number(0.5, 1.0, 1.5, 2.0, 2.5), rtol=0, atol=1e-12)


class TestGradients:
    """Of the times, the states there, and all else."""

    @per_sample
    @pytest.mark.parametrize("mixed", [False, True])
    @pytest.mark.parametrize(
        "adjoint",
        [
            nde.DirectAdjoint(),
            nde.DiscreteAdjoint(),
            nde.DiscreteAdjoint(checkpoints=2),
            nde.ForwardSensitivity(),
            nde.GaussAdjoint(rtol=1e-11, atol=1e-11),
            nde.InterpolatingAdjoint(rtol=1e-11, atol=1e-11),
            nde.BacksolveAdjoint(rtol=1e-11, atol=1e-11),
        ],
        ids=lambda a: type(a).__name__,
    )
    def test_of_times_that_are_known(self, adjoint, mixed, per_sample):
        """a sin(w t) reaches c at asin(c / a) / w, with velocity sqrt(a^2 - c^2) w."""
        a, w, c = (number(x).reshape(()).requires_grad_() for x in (1.3, 0.7, 0.4))

        def field(t, y, w):
            return torch.stack([w * y[..., 1], -w * y[..., 0]], -1)

        y0 = torch.stack([0 * a, a])
        problem = nde.ODEProblem(field, y0.expand(2, 2) if per_sample else y0, (0.0, 6.0), (w,))
        events = [nde.Event(lambda t, y, w: y[..., 0] - c, terminal=False)]
        if mixed:
            double = nde.Event(lambda t, y, w: y[..., 0] + 0.2 * c, terminal=False, apply=lambda t, y, w: y)
            events.append(double)
        options = {"per_sample": per_sample, "rtol": 1e-11, "atol": 1e-11}
        sol = nde.solve(problem, nde.Dopri8(), events=events, adjoint=adjoint, **options)
        lane = (lambda x: x[:, 1]) if per_sample else (lambda x: x)
        first, second = lane(sol.events.ts)[:2]
        speed = lane(sol.events.ys)[1, 1]
        exact = torch.asin(c / a) / w, (math.pi - torch.asin(c / a)) / w, -((a**2 - c**2).sqrt())
        for got, wanted in zip((first, second, speed), exact, strict=True):
            assert abs(got - wanted) < 1e-8
            grads = torch.autograd.grad(got, (a, w, c), retain_graph=True, allow_unused=True)
            exacts = torch.autograd.grad(wanted, (a, w, c), retain_graph=True, allow_unused=True)
            for grad, one in zip(grads, exacts, strict=True):
                assert abs((0.0 if grad is None else grad) - (0.0 if one is None else one)) < 1e-7

    @per_sample
    @pytest.mark.parametrize("adjoint", [nde.DirectAdjoint(), nde.DiscreteAdjoint(), nde.ForwardSensitivity()], ids=str)
    def test_are_those_of_the_numerical_solution(self, adjoint, per_sample):
        """Coarse steps of a fixed size; central differences of the solve itself."""
        p = number(0.4, 1.1, 0.8).requires_grad_()

        def loss(p, adjoint=None):
            y0 = torch.stack([0 * p[0], p[1]])
            problem = nde.ODEProblem(
                lambda t, y, w: wavering(t, y) * w, y0.expand(2, 2) if per_sample else y0, (0.0, 5.0), (p[2],)
            )
            event = nde.Event(lambda t, y, w: y[..., 0] ** 3 - p[0] ** 3, terminal=False)
            options = {"dt": 0.5, "controller": nde.ConstantStep(), "per_sample": per_sample}
            sol = nde.solve(problem, nde.Bosh3(), events=event, adjoint=adjoint, **options)
            assert len(sol.events) == 2
            return sol.events.ts.sum() + (sol.events.after * number(1.0, -2.0)).sum()

        got = torch.autograd.grad(loss(p, adjoint), p)[0]
        for place in range(3):
            move = torch.zeros(3, dtype=D, device=p.device)
            move[place] = 1e-4
            with torch.no_grad():
                a, b, c, d = (loss(p + k * move).item() for k in (1, -1, 2, -2))
            assert abs(got[place].item() - (8 * (a - b) - (c - d)) / 12e-4) < 1e-8 * max(1.0, abs(got[place].item()))


class TestCalls:
    """Of the functions: all points at once where ``vmap`` follows them, else each of them."""

    @staticmethod
    def counted(fn):
        calls = []

        def count(t, y):
            calls.append(None)
            return fn(t, y)

        return count, calls

    @pytest.mark.parametrize("many", [False, True])
    def test_of_a_function_that_looks_at_values(self, many):
        """Gives the same, for one call at each point."""

        def looking(t, y):
            return y[0] - 0.5 if y[1] > -2.0 else y[0]

        fn, calls = self.counted(looking)
        other, others = self.counted(lambda t, y: y[0] - 0.5)
        problem = nde.ODEProblem(turning, number(0.0, 1.0), (0.0, 20.0))
        events = [[nde.Event(f, terminal=False), *(levels() if many else ())] for f in (fn, other)]
        a, b = (nde.solve(problem, events=one, rtol=1e-6) for one in events)
        assert a.events.index.tolist() == b.events.index.tolist()
        torch.testing.assert_close(a.events.ts, b.events.ts, rtol=0, atol=1e-13)
        assert len(calls) >= 4 * a.stats.accepted
        assert len(others) < 40

    def test_random_numbers_are_drawn_for_each_point(self):
        seen = []

        def noisy(t, y):
            seen.append(torch.rand(()).item())
            return y[0] - 0.5 + 0.1 * (seen[-1] - 0.5)

        sol = nde.solve(nde.ODEProblem(turning, number(0.0, 1.0), (0.0, 6.0)), events=nde.Event(noisy, terminal=False))
        assert len(sol.events) == 2
        assert len(set(seen)) == len(seen) >= 4 * sol.stats.accepted
