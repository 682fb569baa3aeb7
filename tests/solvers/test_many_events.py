"""Functions with many values, applications that know which time or value they are for, and events that see one state."""

import math

import pytest
import torch

import neuralde as nde
from neuralde.solvers.testing.ordinary import TIGHT, decay, number, state

D = torch.float64
pytestmark = pytest.mark.usefixtures("on_device")
per_sample = pytest.mark.parametrize("per_sample", [False, True], ids=["joint", "per_sample"])


def turning(t, y):
    return torch.stack([y[..., 1], -y[..., 0]], -1)


class Counted:
    """A function of state that counts its calls."""

    def __init__(self, fn):
        self.fn, self.calls = fn, 0

    def __call__(self, t, y):
        self.calls += 1
        return self.fn(t, y)


class TestVectors:
    """One function with k values is k events."""

    @per_sample
    @pytest.mark.parametrize("direction", ["any", "up", "down"])
    def test_are_as_many_events(self, per_sample, direction):
        levels = number(-0.9, -0.3, 0.0, 0.2, 0.9, 1.5)
        problem = nde.ODEProblem(turning, state(per_sample, 0.0, 1.0), (0.0, 7.0))
        one = nde.Event(lambda t, y: y[..., :1] - levels, direction=direction, terminal=False)
        many = [
            nde.Event(lambda t, y, level=level: y[..., 0] - level, direction=direction, terminal=False)
            for level in levels
        ]
        a, b = (nde.solve(problem, events=events, per_sample=per_sample, **TIGHT).events for events in (one, many))
        assert torch.equal(a.index, b.index)
        torch.testing.assert_close(a.ts, b.ts, rtol=0, atol=1e-14)
        exact = sorted(
            (t, index)
            for index, level in enumerate(levels.tolist())
            if abs(level) < 1
            for t, up in (
                *((math.asin(level) + 2 * math.pi * k, True) for k in range(3)),
                *((math.pi - math.asin(level) + 2 * math.pi * k, False) for k in range(3)),
            )
            if 0 < t < 7 and direction != ("down" if up else "up")
        )
        assert a.index.reshape(len(a), -1)[:, 0].tolist() == [index for _, index in exact]
        assert (a.ts.reshape(len(a), -1)[:, 0] - number(*(t for t, _ in exact))).abs().max() < 1e-8

    @per_sample
    def test_are_numbered_through(self, per_sample):
        problem = nde.ODEProblem(lambda t, y: torch.ones_like(y), state(per_sample, 0.0), (0.0, 3.0))
        events = [
            nde.Event(lambda t, y: y[..., :1] - number(0.5, 1.5), terminal=False),
            nde.ScheduledEvent([1.0], lambda t, y: y),
            nde.Event(lambda t, y: y[..., 0] - 2.0, terminal=False),
            nde.Event(lambda t, y: y[..., :1] - number(9.0, 2.5, 2.75)),
        ]
        sol = nde.solve(problem, events=events, per_sample=per_sample)
        assert sol.events.index.reshape(5, -1)[:, 0].tolist() == [0, 2, 1, 3, 5]
        assert torch.as_tensor(sol.event_index).reshape(-1)[0] == 5
        assert abs(sol.event_time.reshape(-1)[0].item() - 2.5) < 1e-6

    def test_each_sample_has_its_own(self):
        y0 = number(0.0, 0.4, 0.8).reshape(3, 1)
        problem = nde.ODEProblem(lambda t, y: torch.ones_like(y), y0, (0.0, 1.0))
        event = nde.Event(lambda t, y: y - number(0.5, 1.0, 1.5), terminal=False)
        for compact in (False, True):
            log = nde.solve(problem, events=event, per_sample=True, compact=compact).events
            assert log.index.T.tolist() == [[0, -1], [0, 1], [1, 2]]
            assert (log.ts.T.nan_to_num(0.0) - number(0.5, 0, 0.1, 0.6, 0.2, 0.7).reshape(3, 2)).abs().max() < 1e-6

    def test_one_call_for_all(self):
        """One for all values and points, and no function is called where another one's root is sought."""
        problem = nde.ODEProblem(turning, number(0.0, 1.0), (0.0, 20.0))
        levels = torch.cat([number(0.5), torch.linspace(1.5, 9.0, 127, dtype=D)])
        one, all_of_them = Counted(lambda t, y: y[0] - 0.5), Counted(lambda t, y: y[0] - levels)
        a = nde.solve(problem, events=nde.Event(one, terminal=False), rtol=1e-6)
        b = nde.solve(problem, events=nde.Event(all_of_them, terminal=False), rtol=1e-6)
        assert torch.equal(a.events.ts, b.events.ts)
        assert one.calls == all_of_them.calls
        quiet = [Counted(lambda t, y, level=level: y[0] - level) for level in levels.tolist()]
        c = nde.solve(problem, events=[nde.Event(fn, terminal=False) for fn in quiet], rtol=1e-6)
        assert torch.equal(a.events.ts, c.events.ts)
        # At the start, and for all points of all steps at once.
        assert c.stats.accepted < 128
        assert {fn.calls for fn in quiet[1:]} == {2}
        # Where something is decided by a value: four points of each step, at the start, and at the points all at once.
        looks = [Counted(lambda t, y, k=k: y[0] - k if y[0] < 2 else 1.0 * y[0] - k) for k in levels.tolist()]
        d = nde.solve(problem, events=[nde.Event(fn, terminal=False) for fn in looks], rtol=1e-6)
        torch.testing.assert_close(a.events.ts, d.events.ts, rtol=0, atol=1e-13)
        assert {fn.calls for fn in looks[2:]} == {4 * d.stats.accepted + 1}

    def test_calls_of_a_step_without_events(self):
        problem = nde.ODEProblem(turning, number(0.0, 1.0), (0.0, 20.0))
        for probes in (0, 1, 3):
            fn = Counted(lambda t, y: y[0] - number(2.0, 3.0))
            sol = nde.solve(problem, events=nde.Event(fn, probes=probes), rtol=1e-6)
            assert fn.calls == (probes + 1) * sol.stats.accepted + 3

    @per_sample
    def test_many_in_one_step(self, per_sample):
        """All found in order, however the roots lie in the step."""
        levels = torch.linspace(0.05, 0.95, 19, dtype=D)[torch.randperm(19, generator=torch.Generator().manual_seed(0))]
        problem = nde.ODEProblem(lambda t, y: torch.ones_like(y), state(per_sample, 0.0), (0.0, 1.0))
        event = nde.Event(lambda t, y: (y[..., :1] - levels) ** 3, terminal=False)
        log = nde.solve(problem, events=event, per_sample=per_sample, dt=1.0, **TIGHT).events
        assert (log.ts.reshape(19, -1) - levels.sort().values.unsqueeze(1)).abs().max() < 1e-5
        assert (log.index.reshape(19, -1) == levels.argsort().unsqueeze(1)).all()

    @per_sample
    def test_at_one_time(self, per_sample):
        problem = nde.ODEProblem(lambda t, y: torch.ones_like(y), state(per_sample, 0.0), (0.0, 1.0))
        event = nde.Event(lambda t, y: (y[..., :1] - 0.5) * number(3.0, -1 / 7, 1.0), terminal=False)
        log = nde.solve(problem, events=event, per_sample=per_sample, **TIGHT).events
        assert log.index.reshape(3, -1)[:, 0].tolist() == [0, 1, 2]


class TestIndexed:
    """``apply`` learns which it is."""

    @per_sample
    def test_of_given_times(self, per_sample):
        """In the order of ``ts``, not of time; a time given twice happens twice."""
        sizes, seen = number(5.0, 1.0, 3.0, 7.0), []

        def apply(t, y, scale, index):
            seen.append(index)
            return y + scale * (sizes[index].unsqueeze(-1) if per_sample else sizes[index])

        problem = nde.ODEProblem(lambda t, y, scale: -y, state(per_sample, 0.0), (0.0, 1.0), (2.0,))
        event = nde.ScheduledEvent([0.75, 0.25, 0.0, 0.75], apply, indexed=True)
        sol = nde.solve(problem, events=event, per_sample=per_sample, **TIGHT)
        exact = 2 * (3 * math.exp(-1) + math.exp(-0.75) + 12 * math.exp(-0.25))
        assert (sol.y1 - exact).abs().max() < 1e-7
        if per_sample:
            assert all(index.dtype == torch.int64 and index.shape == (2,) for index in seen)
        else:
            assert seen == [2, 1, 0, 3]
            assert {type(index) for index in seen} == {int}

    @pytest.mark.parametrize("compact", [False, True])
    def test_of_each_samples_times(self, compact):
        ts = number(0.2, 0.7, math.nan, 0.2, 0.4, 0.2).reshape(3, 2)
        sizes = number(1.0, 10.0, 100.0)
        event = nde.ScheduledEvent(ts, lambda t, y, index: y + sizes[index].unsqueeze(-1), indexed=True)
        problem = nde.ODEProblem(lambda t, y: 0 * y, torch.zeros(2, 1, dtype=D), (0.0, number(0.5, 1.0)))
        sol = nde.solve(problem, events=event, per_sample=True, compact=compact, saveat=number(0.3, 0.4).expand(2, 2).T)
        assert sol.y1.reshape(-1).tolist() == [101.0, 111.0]
        assert sol.ys[:, 1].reshape(-1).tolist() == [110.0, 110.0]

    @per_sample
    def test_of_the_values_of_a_function(self, per_sample):
        gains = number(10.0, 20.0)
        event = nde.Event(
            lambda t, y: y[..., :1] - number(0.25, 0.75),
            terminal=False,
            apply=lambda t, y, index: torch.stack([y[..., 0], y[..., 1] + gains[index]], -1),
            indexed=True,
        )
        problem = nde.ODEProblem(
            lambda t, y: torch.ones_like(y) * number(1.0, 0.0), state(per_sample, 0.0, 0.0), (0.0, 1.0)
        )
        sol = nde.solve(problem, events=event, per_sample=per_sample, saveat=[0.5, 1.0])
        assert sol.ys[..., 1].reshape(2, -1)[:, 0].tolist() == [10.0, 30.0]


class TestSees:
    """Events of one time that act on the state before all of them."""

    @per_sample
    @pytest.mark.parametrize("scheduled", [False, True])
    @pytest.mark.parametrize(("sees", "after"), [("latest", [2.0, 2.0]), ("before", [2.0, 1.0])])
    def test_a_swap(self, per_sample, scheduled, sees, after):
        """One sets the first component to the second, the other the second to the first."""

        def event(apply):
            if scheduled:
                return nde.ScheduledEvent([0.5], apply, sees=sees)
            return nde.Event(lambda t, y: (t - 0.5).reshape(y.shape[:-1]), terminal=False, apply=apply, sees=sees)

        events = [event(lambda t, y: y[..., [1, 1]]), event(lambda t, y: y[..., [0, 0]])]
        problem = nde.ODEProblem(lambda t, y: 0 * y, state(per_sample, 1.0, 2.0), (0.0, 1.0))
        sol = nde.solve(problem, events=events, per_sample=per_sample)
        assert (sol.y1 == number(*after)).all()

    def test_what_is_not_changed_stays_as_others_left_it(self):
        """Each assigns its own component; of two assignments of one component the later in the list counts."""
        events = [
            nde.ScheduledEvent([0.5], lambda t, y: torch.stack([y[0] + 1, y[1], y[2]]), sees="before"),
            nde.ScheduledEvent([0.5], lambda t, y: torch.stack([y[0] + 2, y[1] + y[0], y[2]]), sees="before"),
            nde.ScheduledEvent([0.5], lambda t, y: torch.stack([y[0], y[1], 10 * y[0]])),
        ]
        problem = nde.ODEProblem(lambda t, y: 0 * y, number(1.0, 2.0, 3.0), (0.0, 1.0))
        assert nde.solve(problem, events=events).y1.tolist() == [3.0, 3.0, 30.0]

    def test_at_the_start(self):
        events = [
            nde.ScheduledEvent([0.0], lambda t, y: y[[1, 1]], sees="before"),
            nde.ScheduledEvent([0.0], lambda t, y: y[[0, 0]], sees="before"),
        ]
        problem = nde.ODEProblem(lambda t, y: 0 * y, number(1.0, 2.0), (0.0, 1.0))
        assert nde.solve(problem, events=events).y1.tolist() == [2.0, 1.0]

    def test_gradients_where_an_assignment_changes_nothing(self):
        """a = 3 b where both are 0: the derivative is that of the assignment, not of what was there."""
        y0 = number(0.0, 0.0).requires_grad_()
        event = nde.ScheduledEvent([0.5], lambda t, y: torch.stack([3 * y[1], y[1]]), sees="before")
        y1 = nde.solve(nde.ODEProblem(lambda t, y: 0 * y, y0, (0.0, 1.0)), events=event).y1
        assert torch.autograd.grad(y1[0], y0)[0].tolist() == [0.0, 3.0]

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (
                lambda: nde.ScheduledEvent([1.0], decay, sees="first"),
                'sees: got .first.; expected "latest" or "before"',
            ),
            (lambda: nde.ScheduledEvent([1.0], decay, indexed=1), "indexed: got 1; expected True or False"),
            (lambda: nde.Event(decay, sees=None), "sees: got None"),
        ],
    )
    def test_bad_input(self, make, message):
        with pytest.raises(nde.InvalidProblemError, match=message):
            make()


class TestProbes:
    """The points of a step, which are called with one look at the arguments of all."""

    def test_calls_of_a_located_event(self):
        """Beside the probes 12 for each: what is known at the ends of a bracket is not asked again."""
        problem = nde.ODEProblem(turning, number(0.0, 1.0), (0.0, 20.0))
        fn = Counted(lambda t, y: y[0] - number(-0.5, 0.3, 2.0))
        sol = nde.solve(problem, events=nde.Event(fn, terminal=False), rtol=1e-6)
        assert len(sol.events) == 13
        assert fn.calls <= 4 * sol.stats.accepted + 3 + 13 * len(sol.events)

    @per_sample
    @pytest.mark.parametrize("solver", [nde.Tsit5(), nde.Bosh3(), nde.Dopri8(), nde.Vern7()], ids=lambda s: s.name)
    @pytest.mark.parametrize("dtype", [torch.float32, D, torch.complex64, torch.complex128], ids=str)
    def test_states_between_are_those_of_the_dense_output(self, solver, dtype, per_sample):
        y0 = torch.tensor([[0.0, 1.0], [1.0, 0.5]], dtype=dtype)
        t0, t1 = (number(0.0, 1.0), number(0.5, 1.25)) if per_sample else (0.0, 0.5)
        step = solver.step(lambda t, y: turning(t, y), t0, t1, y0)
        thetas = (0.25, 0.5, 0.9)
        states = step.at_each(thetas)
        assert states.dtype == dtype
        each = [step.at(torch.full((2,), theta, dtype=D) if per_sample else theta) for theta in thetas]
        torch.testing.assert_close(states, torch.stack(each), rtol=0, atol=20 * torch.finfo(dtype).eps)

    @pytest.mark.parametrize("many", [False, True])
    @pytest.mark.parametrize(
        ("write", "message"),
        [(lambda t, y: y.mul_(2), "the state in-place"), (lambda t, y: t.add_(1), "the time in-place")],
    )
    def test_what_is_written_is_refused(self, write, message, many):
        """Also in the middle of a solve, where one look is for all."""
        calls = 0

        def fn(t, y):
            nonlocal calls
            calls += 1
            if calls > 5:
                write(t, y)
            return y.sum() + number(2.0, 3.0)

        events = [nde.Event(fn), *([nde.Event(lambda t, y: y[0] + 9)] if many else [])]
        with torch.no_grad(), pytest.raises(nde.InvalidProblemError, match=message):
            nde.solve(nde.ODEProblem(turning, number(0.0, 1.0), (0.0, 20.0)), events=events)

    def test_an_error_in_the_middle_is_the_functions_own(self):
        def fn(t, y):
            if t > 3.0:
                raise RuntimeError("the end of the table")
            return y[0] - 2.0

        with pytest.raises(RuntimeError, match="the end of the table"):
            nde.solve(nde.ODEProblem(turning, number(0.0, 1.0), (0.0, 20.0)), events=nde.Event(fn))

    @pytest.mark.parametrize(
        ("late", "message"),
        [
            (lambda g: g.to(torch.int64), "got a torch.int64 tensor"),
            (lambda g: g.tolist(), "got list"),
            (lambda g: torch.cat([g, g]), r"got shape \(4,\).*2 of them as before"),
        ],
    )
    def test_what_is_given_is_looked_at_every_time(self, late, message):
        event = nde.Event(lambda t, y: late(y - 2.0) if t > 3.0 else y - 2.0)
        with pytest.raises(nde.InvalidProblemError, match=message):
            nde.solve(nde.ODEProblem(turning, number(0.0, 1.0), (0.0, 20.0)), events=event)

    def test_functions_that_differentiate(self):
        """d/dt of what they see, under ``no_grad``; flags set inside a call do not outlive it."""

        def fn(t, y):
            with torch.enable_grad():
                t.requires_grad_(True)
                return torch.autograd.grad((t - 1.0) ** 2, t)[0]

        y0 = number(0.0, 1.0)
        with torch.no_grad():
            sol = nde.solve(nde.ODEProblem(turning, y0, (0.0, 4.0)), events=[nde.Event(fn, terminal=False)])
        assert abs(sol.events.ts.item() - 1.0) < 1e-12
        assert not y0.requires_grad
        assert not sol.y1.requires_grad

    def test_mixed_precisions_and_subclasses(self):
        """Values of several dtypes, a Parameter among them, are compared in float64."""
        level = torch.nn.Parameter(torch.tensor(0.5))
        events = [
            nde.Event(lambda t, y: y[0].float() - 0.25, terminal=False),
            nde.Event(lambda t, y: (y[0] - level).double(), terminal=False),
            nde.Event(lambda t, y: torch.nn.Parameter(y[0] - 0.75), terminal=False),
        ]
        with torch.no_grad():
            log = nde.solve(nde.ODEProblem(turning, number(0.0, 1.0), (0.0, 1.2)), events=events, **TIGHT).events
        assert log.index.tolist() == [0, 1, 2]
        assert (log.ts - number(0.25, 0.5, 0.75).asin()).abs().max() < 1e-6
