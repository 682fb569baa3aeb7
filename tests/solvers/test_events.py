"""Events: found to the last bits, in the right order, per sample, and followed by the right state."""

import math

import numpy as np
import pytest
import torch

import neuralde as nde
from neuralde.solvers.events.bracketing import find_root
from neuralde.solvers.testing.ordinary import TIGHT, Recorder, decay, methods, number, state

D = torch.float64
pytestmark = pytest.mark.usefixtures("on_device")
per_sample = pytest.mark.parametrize("per_sample", [False, True], ids=["joint", "per_sample"])


def fall(t, y, g=9.81):
    return torch.stack([y[..., 1], -g + 0 * y[..., 1]], dim=-1)


def bounce(t, y, e=0.9):
    return torch.stack([y[..., 0], -e * y[..., 1]], dim=-1)


def floor(**options):
    return nde.Event(lambda t, y, *args: y[..., 0], direction="down", terminal=False, **options)


def bounces(count, height=10.0, speed=0.0, g=9.81, e=0.9):
    """The times of the first bounces in closed form, and the speeds just after them."""
    impact = math.sqrt(speed**2 + 2 * g * height)
    times, t = [], (speed + impact) / g
    for k in range(1, count + 1):
        times.append(t)
        t += 2 * e**k * impact / g
    return number(*times), number(*[impact * e**k for k in range(1, count + 1)])


@per_sample
@pytest.mark.parametrize("drag", [False, True])
def test_a_terminal_event_ends_the_solve_at_its_root(per_sample, drag):
    """Decay from 1 reaches 0.3 at ln(1 / 0.3); with a term in t the level moves."""
    level = (
        (lambda t: 0.3 + 0.1 * t.reshape(-1)[0] if not per_sample else 0.3 + 0.1 * t[:, 0]) if drag else lambda t: 0.3
    )
    problem = nde.ODEProblem(decay, state(per_sample, 1.0), (0.0, 3.0))
    event = nde.Event(lambda t, y: y[..., 0] - level(t))
    sol = nde.solve(problem, events=event, per_sample=per_sample, saveat=number(0.5, 1.0, 2.0, 3.0), **TIGHT)
    if drag:
        root = find_root(lambda x: (-x).exp() - 0.3 - 0.1 * x, *(number(x) for x in (0.0, 3.0, 0.7, -0.5, 1e-16)))
    else:
        root = number(math.log(1 / 0.3))
    assert (torch.as_tensor(sol.status) == nde.Status.EVENT).all()
    assert (sol.event_time - root).abs().max() < 1e-9
    assert (torch.as_tensor(sol.event_index) == 0).all()
    time = sol.event_time[0] if per_sample else sol.event_time
    assert (sol.y1[..., 0] - 0.3 - (0.1 * time if drag else 0.0)).abs().max() < 4e-16
    reached = sol.ts <= time
    torch.testing.assert_close(sol.ys[reached][..., :1].reshape(int(reached.sum()), -1)[:, 0], (-sol.ts[reached]).exp())
    assert sol.ys[~reached].isnan().all()


@pytest.mark.parametrize("method", methods(), ids=str)
def test_every_method_finds_the_root_of_its_own_solution(method):
    """The function is zero at the end of the retaken step, to rounding, whatever the order of the dense output."""
    options = {"rtol": 1e-3, "atol": 1e-3} if method.adaptive else {"dt": 0.1}
    problem = nde.ODEProblem(lambda t, y: torch.stack([y[1], -y[0] - 0.1 * t * y[1]]), number(1.0, 0.0), (0.0, 20.0))
    event = nde.Event(lambda t, y: y[0] * y[1] + 0.1, terminal=False)
    sol = nde.solve(problem, method, events=event, **options)
    assert len(sol.events) >= 4
    assert (sol.events.ys[:, 0] * sol.events.ys[:, 1] + 0.1).abs().max() < 4e-15
    assert (sol.events.ts.diff() > 1e-3).all()


def test_fifty_bounces_against_the_closed_form():
    times, speeds = bounces(50)
    problem = nde.ODEProblem(fall, number(10.0, 0.0), (0.0, times[-1].item() + 0.01))
    sol = nde.solve(problem, events=floor(apply=bounce), **TIGHT)
    assert sol.status == nde.Status.SUCCESS
    assert len(sol.events) == 50
    assert (sol.events.ts - times).abs().max() < 1e-11
    assert sol.events.ys[:, 0].abs().max() < 1e-12
    assert (sol.events.ys[:, 1] + speeds / 0.9).abs().max() < 1e-11
    assert (sol.events.after[:, 1] - speeds).abs().max() < 1e-11
    assert (sol.events.index == 0).all()


def test_a_bouncing_ball_at_save_times_and_in_the_dense_output():
    times, speeds = bounces(3)
    ts = torch.linspace(0.0, times[2].item() - 1e-9, 30, dtype=D)  # at the bounce the last bit decides the side
    problem = nde.ODEProblem(fall, number(10.0, 0.0), (0.0, times[2].item() + 0.1))
    sol = nde.solve(problem, events=floor(apply=bounce), saveat=ts, dense=True, **TIGHT)
    start, v = number(0.0, *times[:2]), number(0.0, *speeds[:2])
    piece = torch.searchsorted(times[:2].contiguous(), ts)
    s = ts - start[piece]
    height = torch.where(piece == 0, 10.0, 0.0) + v[piece] * s - 9.81 / 2 * s**2
    torch.testing.assert_close(sol.ys[:, 0], height, rtol=0, atol=1e-10)
    torch.testing.assert_close(sol(ts)[:, 0], height, rtol=0, atol=1e-10)
    torch.testing.assert_close(sol.derivative(ts)[:, 0], v[piece] - 9.81 * s, rtol=0, atol=1e-9)


def test_backwards_in_time_the_direction_is_that_of_the_solve():
    """sin, from t = 1 to -7: as time goes back it falls through zero at 0 and -2 pi and rises through it at -pi."""
    problem = nde.ODEProblem(lambda t, y: torch.cos(t) + 0 * y, number(0.0), (1.0, -7.0))
    start = math.sin(1.0)
    crossing = {"down": [0.0, -2 * math.pi], "up": [-math.pi], "any": [0.0, -math.pi, -2 * math.pi]}
    for direction, times in crossing.items():
        event = nde.Event(lambda t, y: y[0] + start, direction=direction, terminal=False)
        sol = nde.solve(problem, events=event, **TIGHT)
        torch.testing.assert_close(sol.events.ts, number(*times), rtol=0, atol=1e-8)


@pytest.mark.parametrize(("direction", "times"), [("up", (3.0,)), ("down", (1.0,)), ("any", (1.0, 3.0))])
@per_sample
def test_directions(direction, times, per_sample):
    """cos(pi t / 2) falls through zero at 1 and rises through it at 3."""
    problem = nde.ODEProblem(
        lambda t, y: -math.pi / 2 * torch.sin(math.pi / 2 * t) + 0 * y, state(per_sample, 1.0), (0.0, 4.0)
    )
    sol = nde.solve(
        problem, events=nde.Event(lambda t, y: y[..., 0], direction, terminal=False), per_sample=per_sample, **TIGHT
    )
    expected = number(*times)
    assert sol.events.ts.shape[0] == len(times)
    assert (sol.events.ts.reshape(len(times), -1) - expected.unsqueeze(1)).abs().max() < 1e-8


class TestWhere:
    """An event at the ends of the interval, on save times, never."""

    @property
    def problem(self):
        return nde.ODEProblem(lambda t, y: torch.ones_like(y), number(0.0), (0.0, 1.0))

    @pytest.mark.parametrize("direction", ["any", "up", "down"])
    def test_at_the_start_it_does_not_fire(self, direction):
        sol = nde.solve(self.problem, events=nde.Event(lambda t, y: y[0], direction))
        assert sol.status == nde.Status.SUCCESS
        assert len(sol.events) == 0
        assert sol.event_time is None
        assert sol.event_index is None

    def test_zero_to_rounding_at_the_start_does_not_fire(self):
        """0.3 - 3 * 0.1 is -5.6e-17 and on its way up."""
        problem = nde.ODEProblem(lambda t, y: torch.ones_like(y), number(0.3), (0.0, 1.0))
        sol = nde.solve(problem, events=nde.Event(lambda t, y: y[0] - 3 * 0.1))
        assert sol.status == nde.Status.SUCCESS

    def test_zero_at_the_start_fires_when_it_comes_back(self):
        """A ball thrown up from the floor lands, though its flight is a small part of the first step."""
        problem = nde.ODEProblem(fall, number(0.0, 0.01), (0.0, 100.0))
        sol = nde.solve(problem, events=nde.Event(lambda t, y: y[0], "down"), dt=50.0)
        assert abs(sol.event_time.item() - 0.02 / 9.81) < 1e-15

    def test_zero_at_the_start_backwards(self):
        problem = nde.ODEProblem(fall, number(0.0, -0.01), (0.0, -100.0))
        sol = nde.solve(problem, events=nde.Event(lambda t, y: y[0], "down"), dt=50.0)
        assert abs(sol.event_time.item() + 0.02 / 9.81) < 1e-15

    @pytest.mark.parametrize("terminal", [True, False])
    def test_at_the_end_it_fires(self, terminal):
        sol = nde.solve(self.problem, events=nde.Event(lambda t, y: t - 1.0, terminal=terminal))
        assert sol.status == (nde.Status.EVENT if terminal else nde.Status.SUCCESS)
        assert sol.events.ts.tolist() == [1.0]
        assert sol.ys.isfinite().all()

    @pytest.mark.parametrize("ulps", [-1, 0, 1])
    @per_sample
    def test_on_a_save_time_and_beside_it(self, ulps, per_sample):
        """Up to the event the row is the solution before it; one unit of rounding later it is the one after."""
        event = nde.Event(
            lambda t, y: (t - 0.5).reshape(-1) if per_sample else t - 0.5, terminal=False, apply=lambda t, y: y + 10.0
        )
        problem = nde.ODEProblem(lambda t, y: torch.ones_like(y), state(per_sample, 0.0), (0.0, 1.0))
        when = nde.solve(problem, events=event, per_sample=per_sample).events.ts.reshape(-1)[0].item()
        assert abs(when - 0.5) < 4e-16
        middle = float(np.nextafter(when, math.copysign(math.inf, ulps))) if ulps else when
        ts = number(0.25, middle, 0.75)
        sol = nde.solve(problem, events=event, saveat=ts, per_sample=per_sample)
        assert (sol.events.ts == when).all()
        expected = ts + 10.0 * (ts > when)
        assert (sol.ys[..., 0].reshape(3, -1) - expected.unsqueeze(1)).abs().max() < 1e-14
        assert (sol.y1 - 11.0).abs().max() < 1e-14

    def test_a_terminal_event_on_a_save_time_saves_it(self):
        sol = nde.solve(self.problem, events=nde.Event(lambda t, y: t - 0.5), saveat=number(0.25, 0.5, 0.75))
        torch.testing.assert_close(sol.ys[:2, 0], number(0.25, 0.5))
        assert sol.ys[2].isnan().all()

    @per_sample
    def test_never(self, per_sample):
        problem = nde.ODEProblem(decay, state(per_sample, 1.0), (0.0, 3.0))
        sol = nde.solve(problem, events=nde.Event(lambda t, y: y[..., 0] + 1.0), per_sample=per_sample)
        assert (torch.as_tensor(sol.status) == nde.Status.SUCCESS).all()
        assert len(sol.events) == 0
        if per_sample:
            assert sol.event_time.isnan().all()
            assert sol.event_index.tolist() == [-1, -1]
            assert sol.events.ys.shape == (0, 2, 1)

    def test_nan_never_fires(self):
        sol = nde.solve(self.problem, events=nde.Event(lambda t, y: (y[0] - 0.5) * math.nan))
        assert sol.status == nde.Status.SUCCESS

    def test_an_empty_interval_has_no_events(self):
        problem = nde.ODEProblem(decay, number(1.0), (1.0, 1.0))
        sol = nde.solve(problem, events=[nde.Event(lambda t, y: y[0]), nde.ScheduledEvent([1.0], lambda t, y: 2 * y)])
        assert sol.status == nde.Status.SUCCESS
        assert sol.y1.item() == 1.0

    def test_the_row_of_a_solve_that_ended_early_is_nan(self):
        sol = nde.solve(self.problem, events=nde.Event(lambda t, y: t - 0.5))
        assert sol.ys.isnan().all()
        torch.testing.assert_close(sol.y1, number(0.5))


def test_an_event_in_a_rejected_step_waits_for_an_accepted_one():
    """The first step is far too long; the functions are asked about accepted steps only."""
    seen = []

    def level(t, y):
        seen.append(float(t.detach()))
        return y[0] - 0.5

    problem = nde.ODEProblem(lambda t, y: -50 * (y - torch.cos(t)), number(0.0), (0.0, 1.0))
    sol = nde.solve(problem, events=nde.Event(level), dt=1.0, trace=True, rtol=1e-8, atol=1e-8)
    assert sol.stats.rejected > 0
    assert not sol.trace.accepted[0]
    exact = lambda t: 2500 / 2501 * (math.cos(t) + math.sin(t) / 50 - math.exp(-50 * t))  # noqa: E731
    assert abs(exact(sol.event_time.item()) - 0.5) < 1e-7
    assert max(seen) < 0.1


class TestSeveral:
    """Several events, at different times, at one time, in one step."""

    def test_the_earliest_in_a_step_wins(self):
        problem = nde.ODEProblem(lambda t, y: torch.ones_like(y), number(0.0), (0.0, 1.0))
        events = [nde.Event(lambda t, y, k=k: y[0] - k) for k in (0.7, 0.4, 0.6)]
        sol = nde.solve(problem, events=events, dt=1.0, controller=nde.ConstantStep())
        assert sol.event_index == 1
        assert abs(sol.event_time.item() - 0.4) < 1e-15
        assert sol.stats.steps == 1

    def test_all_in_a_step_happen_in_order(self):
        problem = nde.ODEProblem(lambda t, y: torch.ones_like(y), number(0.0), (0.0, 1.0))
        events = [nde.Event(lambda t, y, k=k: y[0] - k, terminal=k == 0.9) for k in (0.7, 0.4, 0.9, 0.6)]
        sol = nde.solve(problem, events=events, dt=1.0, controller=nde.ConstantStep())
        assert sol.events.index.tolist() == [1, 3, 0, 2]
        torch.testing.assert_close(sol.events.ts, number(0.4, 0.6, 0.7, 0.9), rtol=0, atol=1e-15)
        assert sol.event_index == 2

    @per_sample
    def test_at_one_time_they_happen_together_in_the_order_of_the_list(self, per_sample):
        problem = nde.ODEProblem(decay, state(per_sample, 1.0), (0.0, 1.0))
        events = [
            nde.Event(lambda t, y: 3 * (y[..., 0] - 0.5), terminal=False, apply=lambda t, y: y + 1.0),
            nde.Event(lambda t, y: (0.5 - y[..., 0]) / 7, terminal=False, apply=lambda t, y: 2 * y),
            nde.Event(lambda t, y: y[..., 0] - 0.5, terminal=False),
        ]
        sol = nde.solve(problem, events=events, per_sample=per_sample, **TIGHT)
        assert sol.events.index.reshape(3, -1)[:, 0].tolist() == [0, 1, 2]
        assert (sol.events.ts - math.log(2)).abs().max() < 1e-9
        assert (sol.events.after - 3.0).abs().max() < 1e-12
        torch.testing.assert_close(sol.y1, torch.full_like(sol.y1, 6 * math.exp(-1)), rtol=1e-8, atol=0)

    def test_a_terminal_one_among_them_ends_the_solve_unchanged(self):
        problem = nde.ODEProblem(decay, number(1.0), (0.0, 1.0))
        events = [
            nde.Event(lambda t, y: y[0] - 0.5, terminal=False, apply=lambda t, y: y + 1.0),
            nde.Event(lambda t, y: 2 * y[0] - 1.0),
        ]
        sol = nde.solve(problem, events=events, **TIGHT)
        assert sol.status == nde.Status.EVENT
        assert sol.event_index == 1
        assert sol.events.index.tolist() == [0, 1]
        torch.testing.assert_close(sol.y1, number(0.5))

    def test_a_change_of_the_state_is_no_crossing(self):
        """The reset jumps over the level of the second event, which fires on the way up only."""
        problem = nde.ODEProblem(lambda t, y: torch.ones_like(y), number(0.0), (0.0, 2.5))
        events = [
            nde.Event(lambda t, y: y[0] - 1.0, terminal=False, apply=lambda t, y: 0 * y),
            nde.Event(lambda t, y: y[0] - 0.25, terminal=False),
        ]
        sol = nde.solve(problem, events=events)
        assert sol.events.index.tolist() == [1, 0, 1, 0, 1]
        torch.testing.assert_close(sol.events.ts, number(0.25, 1.0, 1.25, 2.0, 2.25))

    def test_two_crossings_between_probes_need_more_probes_or_shorter_steps(self):
        """The stated limit, and both ways around it: the level is passed for 0.02 of a step of 1."""
        problem = nde.ODEProblem(lambda t, y: 1 - 2 * t + 0 * y, number(0.0), (0.0, 1.0))
        level = lambda t, y: y[0] - (0.25 - 0.0001)  # noqa: E731
        # at probes 1/4, 1/2, 3/4 the middle one sees it; without probes, or with two, nobody does
        found = {
            probes: len(nde.solve(problem, events=nde.Event(level, terminal=False, probes=probes), dt=1.0).events)
            for probes in (0, 2, 3)
        }
        assert found[0] in (0, 2)  # an adaptive step may end inside
        once = nde.solve(
            problem, events=nde.Event(level, terminal=False, probes=0), dt=1.0, controller=nde.ConstantStep()
        )
        assert len(once.events) == 0
        probed = nde.solve(
            problem, events=nde.Event(level, terminal=False, probes=3), dt=1.0, controller=nde.ConstantStep()
        )
        torch.testing.assert_close(probed.events.ts, number(0.49, 0.51), rtol=0, atol=1e-12)
        shorter = nde.solve(
            problem, events=nde.Event(level, terminal=False, probes=0), controller=nde.PIController(dtmax=0.01)
        )
        torch.testing.assert_close(shorter.events.ts, number(0.49, 0.51), rtol=0, atol=1e-12)


class TestPerSample:
    """Every sample has its own events."""

    y0 = number(1.0, 2.0, 0.2, 4.0).unsqueeze(1)

    def run(self, rows=slice(None), **options):
        problem = nde.ODEProblem(lambda t, y: -y * (1 + 0.2 * torch.sin(5 * t)), self.y0[rows], (0.0, 2.0))
        return nde.solve(problem, per_sample=True, **{"rtol": 1e-7, "atol": 1e-7} | options)

    @pytest.mark.parametrize("compact", [False, True])
    def test_terminal_in_some_lanes_only(self, compact):
        event = nde.Event(lambda t, y: y[:, 0] - 0.5)
        sol = self.run(events=event, saveat=torch.linspace(0, 2, 9, dtype=D), compact=compact, dense=True)
        assert sol.status.tolist() == [1, 1, 0, 0]
        assert sol.event_index.tolist() == [0, 0, -1, -1]
        assert sol.event_time.isnan().tolist() == [False, False, True, True]
        assert (sol.y1[:2] - 0.5).abs().max() < 1e-15
        for lane in range(4):
            alive = ~(sol.ts > sol.event_time[lane])
            assert sol.ys[alive, lane].isfinite().all()
            assert sol.ys[~alive, lane].isnan().all()
            torch.testing.assert_close(sol(sol.ts)[alive, lane], sol.ys[alive, lane], rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("compact", [False, True])
    @pytest.mark.parametrize("terminal", [False, True])
    def test_in_a_batch_as_alone(self, compact, terminal):
        """To the last bit, with different numbers of events, at different times."""
        events = [
            nde.Event(lambda t, y: y[:, 0] - 0.4, "down", terminal=False, apply=lambda t, y: 1.3 * y + 0.1),
            nde.Event(lambda t, y: y[:, 0] * torch.exp(t.reshape(-1)) - 3.0, terminal=terminal),
            nde.ScheduledEvent([0.5, 1.5], lambda t, y: y + 0.25 * t),
        ]
        options = {"events": events, "saveat": torch.linspace(0, 2, 7, dtype=D), "trace": True}
        many = self.run(compact=compact, **options)
        for lane in range(4):
            one = self.run(slice(lane, lane + 1), **options)
            for got, wanted in ((many.ys[:, lane], one.ys[:, 0]), (many.y1[lane], one.y1[0])):
                assert torch.equal(got.nan_to_num(9.0), wanted.nan_to_num(9.0))
            count = len(one.events)
            assert count >= 2
            assert torch.equal(many.events.ts[:count, lane], one.events.ts[:, 0])
            assert torch.equal(many.events.index[:count, lane], one.events.index[:, 0])
            assert torch.equal(many.events.ys[:count, lane], one.events.ys[:, 0])
            assert (many.events.index[count:, lane] == -1).all()
            assert many.stats.nfe[lane] == one.stats.nfe[0]
            assert many.stats.steps[lane] == one.stats.steps[0]
            assert many.status[lane] == one.status[0]

    def test_a_failing_sample_disturbs_nobody(self):
        def field(t, y):
            return torch.where(y > 3.0, y**3, -y)

        event = nde.Event(lambda t, y: y[:, 0] - 0.5, terminal=False, apply=lambda t, y: y + 1.0)
        solve = lambda y0: nde.solve(  # noqa: E731
            nde.ODEProblem(field, y0, (0.0, 2.0)), events=event, per_sample=True, throw=False
        )
        many, alone = solve(self.y0), solve(self.y0[:1])
        assert many.status.tolist()[3] > nde.Status.EVENT
        assert torch.equal(many.events.ts[: len(alone.events), 0], alone.events.ts[:, 0])
        assert torch.equal(many.y1[0], alone.y1[0])

    def test_joint_and_per_sample_agree(self):
        event = nde.Event(lambda t, y: y[..., 0] - 0.4, "down", terminal=False, apply=lambda t, y: y + 1.0)
        lanes = self.run(events=event)
        for lane in range(4):
            problem = nde.ODEProblem(lambda t, y: -y * (1 + 0.2 * torch.sin(5 * t)), self.y0[lane], (0.0, 2.0))
            sol = nde.solve(problem, events=event, rtol=1e-7, atol=1e-7)
            torch.testing.assert_close(lanes.y1[lane], sol.y1, rtol=1e-12, atol=1e-12)


class TestCounts:
    """Nothing is paid for without events, and every call is counted with them."""

    def test_without_events_nothing_changes(self, monkeypatch):
        for name in ("cut", "follow", "observe"):
            monkeypatch.setattr(f"neuralde.solvers.drivers.eager.{name}", None)
        sol = nde.solve(nde.ODEProblem(decay, number(1.0), (0.0, 1.0)))
        assert sol.events is None
        empty = nde.solve(nde.ODEProblem(decay, number(1.0), (0.0, 1.0)), events=[])
        assert empty.stats == sol.stats

    @pytest.mark.parametrize("method", [nde.Bosh3(), nde.Tsit5(), nde.Dopri8(), nde.Vern7()], ids=str)
    @pytest.mark.parametrize("kind", ["terminal", "logged", "applied", "scheduled"])
    @per_sample
    def test_nfe_counts_every_call(self, method, kind, per_sample):
        field = Recorder(fall)
        y0 = number(10.0, 0.0)
        event = {
            "terminal": nde.Event(lambda t, y: y[..., 0]),
            "logged": nde.Event(lambda t, y: y[..., 0], terminal=False),
            "applied": floor(apply=bounce),
            "scheduled": nde.ScheduledEvent([0.0, 1.0, 2.0], bounce),
        }[kind]
        problem = nde.ODEProblem(field, y0.unsqueeze(0) if per_sample else y0, (0.0, 4.0))
        sol = nde.solve(problem, method, events=event, per_sample=per_sample, rtol=1e-4, atol=1e-4)
        assert len(sol.events) >= 1
        assert torch.as_tensor(sol.stats.nfe).item() == len(field.times)

    def test_the_slope_is_new_after_a_change(self):
        """y' = -y, and at the event the sign flips: with the old slope the next step would start in the wrong direction."""
        problem = nde.ODEProblem(decay, number(1.0), (0.0, 2.0))
        event = nde.Event(lambda t, y: y[0] - 0.5, terminal=False, apply=lambda t, y: -4 * y)
        sol = nde.solve(problem, events=event, **TIGHT)
        torch.testing.assert_close(sol.y1, number(-4 * math.exp(-2)), rtol=1e-8, atol=0)


class TestLoops:
    """Event follows event without end, or at one time."""

    def test_zeno_ends_with_a_status(self):
        problem = nde.ODEProblem(fall, number(1.0, 0.0), (0.0, 10.0))
        sol = nde.solve(problem, events=floor(apply=lambda t, y: bounce(t, y, 0.5)), max_steps=500, throw=False)
        limit = math.sqrt(2 / 9.81) * (1 + 2 * 0.5 / (1 - 0.5))
        assert sol.status in (nde.Status.STEP_UNDERFLOW, nde.Status.MAX_STEPS)
        assert abs(sol.events.ts[-1].item() - limit) < 1e-6
        assert sol.y1[0] > -1e-9

    def test_max_steps_bounds_the_number_of_events(self):
        problem = nde.ODEProblem(lambda t, y: torch.ones_like(y), number(0.0), (0.0, 1.0))
        event = nde.Event(lambda t, y: y[0] - 1e-4, terminal=False, apply=lambda t, y: 0 * y)
        with pytest.raises(nde.MaxStepsError) as error:
            nde.solve(problem, events=event, max_steps=100)
        assert len(error.value.solution.events) > 90

    def test_an_event_that_leaves_its_zero_in_place_fires_once(self):
        problem = nde.ODEProblem(decay, number(1.0, 5.0), (0.0, 2.0))
        event = nde.Event(lambda t, y: y[0] - 0.5, terminal=False, apply=lambda t, y: y * number(1.0, 2.0))
        sol = nde.solve(problem, events=event)
        assert len(sol.events) == 1

    def test_a_function_that_jumps_is_found_to_the_last_bit(self):
        problem = nde.ODEProblem(lambda t, y: torch.ones_like(y), number(0.0), (0.0, 1.0))
        event = nde.Event(lambda t, y: torch.where(t > 0.3, 1.0, -1.0), terminal=False)
        sol = nde.solve(problem, events=event)
        assert len(sol.events) == 1
        assert abs(sol.events.ts.item() - 0.3) < 1e-15

    def test_a_touch_is_at_most_one_event(self):
        problem = nde.ODEProblem(lambda t, y: torch.ones_like(y), number(0.0), (0.0, 1.0))
        sol = nde.solve(problem, events=nde.Event(lambda t, y: (t - 0.5) ** 2, terminal=False), dt=0.5, rtol=1e-3)
        assert len(sol.events) <= 1
        assert sol.status == nde.Status.SUCCESS


class TestStates:
    """Pytrees, complex and float32 states, 0-d states, arguments."""

    @per_sample
    def test_pytrees(self, per_sample):
        y0 = {"x": state(per_sample, 10.0), "v": state(per_sample, 0.0)}
        problem = nde.ODEProblem(lambda t, y: {"x": y["v"], "v": -9.81 + 0 * y["v"]}, y0, (0.0, 3.0))
        event = nde.Event(
            lambda t, y: y["x"][..., 0], "down", terminal=False, apply=lambda t, y: {"v": -0.9 * y["v"], "x": y["x"]}
        )
        sol = nde.solve(problem, events=event, per_sample=per_sample)
        times, speeds = bounces(1)
        assert (sol.events.ts - times).abs().max() < 1e-13
        assert (sol.events.after["v"] - speeds).abs().max() < 1e-12
        assert sol.events.ys["x"].shape == (1, *y0["x"].shape)

    def test_complex(self):
        """exp(i t) has real part 0 at pi / 2."""
        problem = nde.ODEProblem(lambda t, y: 1j * y, torch.ones(1, dtype=torch.complex128), (0.0, 2.0))
        sol = nde.solve(problem, events=nde.Event(lambda t, y: y[0].real), **TIGHT)
        assert abs(sol.event_time.item() - math.pi / 2) < 1e-8

    def test_complex_starting_at_zero(self):
        problem = nde.ODEProblem(lambda t, y: 1j * y, torch.ones(1, dtype=torch.complex128), (0.0, 4.0))
        sol = nde.solve(problem, events=nde.Event(lambda t, y: y[0].imag), **TIGHT)
        assert abs(sol.event_time.item() - math.pi) < 1e-8

    def test_a_number(self):
        problem = nde.ODEProblem(decay, torch.tensor(1.0, dtype=D), (0.0, 2.0))
        assert abs(nde.solve(problem, events=nde.Event(lambda t, y: y - 0.5), **TIGHT).event_time - math.log(2)) < 1e-9

    def test_arguments_reach_both_functions(self):
        event = nde.Event(lambda t, y, a, b: y[0] - a, terminal=False, apply=lambda t, y, a, b: y + b)
        problem = nde.ODEProblem(lambda t, y, a, b: -y, number(1.0), (0.0, 1.0), args=(0.5, 2.0))
        sol = nde.solve(problem, events=event, **TIGHT)
        torch.testing.assert_close(sol.events.after, number(2.5).unsqueeze(0))

    def test_float32(self):
        problem = nde.ODEProblem(fall, torch.tensor([10.0, 0.0]), (0.0, 9.0))
        sol = nde.solve(problem, events=floor(apply=bounce), rtol=1e-5, atol=1e-5)
        times, _ = bounces(4)
        assert sol.events.ts.dtype == D
        assert len(sol.events) == 4
        assert (sol.events.ts - times).abs().max() < 5e-5

    def test_apply_may_write_into_its_state(self):
        def flip(t, y):
            y[1] *= -0.9
            return y

        _, speeds = bounces(2)
        sol = nde.solve(nde.ODEProblem(fall, number(10.0, 0.0), (0.0, 5.0)), events=floor(apply=flip))
        assert (sol.events.after[:, 1] - speeds).abs().max() < 1e-12
        assert (sol.events.ys[:, 1] + speeds / 0.9).abs().max() < 1e-12

    def test_a_neural_ode_passes_them_on(self):
        model = nde.NeuralODE(decay, (0.0, 3.0), events=nde.Event(lambda t, y: y.sum() - 1.0))
        _, sol = model(number(1.0, 1.0))
        assert sol.status == nde.Status.EVENT

    def test_everything_else_is_kept(self):
        """Trace, statistics, every step and regularizers see the step as it was cut."""
        sol = nde.solve(
            nde.ODEProblem(fall, number(10.0, 0.0), (0.0, 3.0)),
            events=floor(apply=bounce),
            saveat="steps",
            trace=True,
            dense=True,
            regularizers=[nde.regularizers.ErrorEstimate()],
        )
        time = sol.events.ts[0]
        assert (sol.ts == time).sum() == 1
        ends = (sol.trace.t + sol.trace.dt)[sol.trace.accepted]
        torch.testing.assert_close(ends, sol.ts[1:])
        assert sol.regularization[0].isfinite()
