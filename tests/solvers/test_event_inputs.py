"""Scheduled events and the knots of controls; what is refused."""

import math

import pytest
import torch

import neuralde.solvers as nde
from neuralde.solvers.testing.ordinary import TIGHT, Recorder, decay, number, state

D = torch.float64
pytestmark = pytest.mark.usefixtures("on_device")
per_sample = pytest.mark.parametrize("per_sample", [False, True], ids=["joint", "per_sample"])


class TestScheduled:
    """Changes at known times, and controls that know theirs."""

    @per_sample
    @pytest.mark.parametrize("backward", [False, True])
    def test_doses(self, per_sample, backward):
        """At the start it is part of the initial state, at the end it belongs to what follows; others do not happen."""
        sign = -1.0 if backward else 1.0
        times = [sign * t for t in (2.0, 0.0, 1.0, 3.0, -1.0, 7.0)]
        dose = nde.ScheduledEvent(times, lambda t, y: y + 1.0)
        problem = nde.ODEProblem(lambda t, y: -sign * y, state(per_sample, 0.0), (0.0, sign * 3.0))
        ts = sign * number(0.0, 1.0, 1.5, 3.0)
        sol = nde.solve(problem, events=dose, saveat=ts, per_sample=per_sample, dense=True, **TIGHT)
        assert (torch.as_tensor(sol.status) == nde.Status.SUCCESS).all()
        assert sol.events.ts.reshape(3, -1)[:, 0].tolist() == [0.0, sign * 1.0, sign * 2.0]
        one = math.exp(-1)
        values = number(1.0, one, (1 + one) * math.exp(-0.5), ((1 + one) * one + 1) * one)
        assert (sol.ys[..., 0].reshape(4, -1) - values.unsqueeze(1)).abs().max() < 1e-8
        assert (sol(ts)[..., 0].reshape(4, -1) - values.unsqueeze(1)).abs().max() < 1e-8
        assert (sol.y1 - values[-1]).abs().max() < 1e-8

    @pytest.mark.parametrize("compact", [False, True])
    def test_each_sample_has_times_of_its_own(self, compact):
        """To the last bit the sample alone: the others' times are no times of its steps."""
        ts = number(0.5, math.nan, 1.7, 1.5, 0.25, 0.0).reshape(2, 3)

        def solve(ts, count):
            dose = nde.ScheduledEvent(ts, lambda t, y: y + 0.7 * (1 + 0.1 * t))
            problem = nde.ODEProblem(
                lambda t, y: -y * (1 + 0.3 * torch.sin(t)), number(1.0, 2.0).expand(count, 2), (0.0, 2.0)
            )
            return nde.solve(
                problem, events=dose, per_sample=True, compact=compact, saveat=[0.0, 1.0, 2.0], trace=True, **TIGHT
            )

        together = solve(ts, 3)
        for sample in range(3):
            own = ts[:, sample][~ts[:, sample].isnan()]
            alone = solve(own, 1)
            assert torch.equal(together.ys[:, sample], alone.ys[:, 0])
            assert together.stats.steps[sample] == alone.stats.steps[0]
            seen = together.events.ts[:, sample]
            assert torch.equal(seen[~seen.isnan()], own.sort().values)

    def test_times_of_each_sample_need_as_many(self):
        problem = nde.ODEProblem(decay, number(1.0, 2.0).reshape(2, 1), (0.0, 1.0))
        with pytest.raises(nde.InvalidProblemError, match=r"ts: got times of shape \(1, 3\); .* \(T, 2\)"):
            nde.solve(problem, events=nde.ScheduledEvent([[0.1, 0.2, 0.3]], decay), per_sample=True)

    def test_with_an_event_at_the_same_time(self):
        problem = nde.ODEProblem(lambda t, y: torch.ones_like(y), number(0.0), (0.0, 1.0))
        events = [nde.ScheduledEvent([0.5], lambda t, y: 2 * y), nde.Event(lambda t, y: t - 0.5)]
        sol = nde.solve(problem, events=events)
        assert sol.status == nde.Status.EVENT
        assert abs(sol.event_time.item() - 0.5) < 1e-15
        assert sol.event_index == 1

    def test_the_solve_lands_on_the_knots_of_a_control(self):
        """A field that jumps at the control's knots, which the user did not repeat."""

        class Steps:
            knots = number(0.35, 0.8, 1.1)

            def __call__(self, t):
                return (t >= self.knots).sum().to(D)

        field = Recorder(lambda t, y, control: control(t) - y)
        problem = nde.ODEProblem(field, number(0.0), (0.0, 2.0), (Steps(),))
        sol = nde.solve(problem, saveat="steps", **TIGHT)
        assert torch.isin(Steps.knots, sol.ts).all()
        assert not torch.isin(torch.stack(field.times), Steps.knots).any()
        exact = sum(1 - math.exp(knot - 2.0) for knot in Steps.knots.tolist())
        assert abs(sol.y1.item() - exact) < 1e-7


class TestBadInput:
    """Each mistake is named."""

    @property
    def problem(self):
        return nde.ODEProblem(decay, number(1.0, 2.0), (0.0, 3.0))

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: nde.Event(3), "fn: got int"),
            (
                lambda: nde.Event(decay, direction="sideways"),
                'direction: got .sideways.; expected "any", "up" or "down"',
            ),
            (lambda: nde.Event(decay, direction=1), "direction: got 1"),
            (lambda: nde.Event(decay, terminal=None), "terminal: got None"),
            (lambda: nde.Event(decay, terminal=False, apply=3), "apply: got int"),
            (lambda: nde.Event(decay, apply=decay), "apply: got one with terminal=True"),
            (lambda: nde.Event(decay, probes=-1), "probes: got -1"),
            (lambda: nde.Event(decay, probes=True), "probes: got True"),
            (lambda: nde.ScheduledEvent([1.0], None), "apply: got NoneType"),
            (lambda: nde.ScheduledEvent("noon", decay), "ts: got"),
            (lambda: nde.ScheduledEvent([[[1.0]]], decay), "ts: got torch.float64 of shape"),
            (lambda: nde.ScheduledEvent([[math.inf, 1.0]], decay), "ts: got .*; expected finite"),
            (lambda: nde.ScheduledEvent([math.nan], decay), "ts: got .nan.; expected finite"),
        ],
    )
    def test_of_a_description(self, make, message):
        with pytest.raises(nde.InvalidProblemError, match=message):
            make()

    @pytest.mark.parametrize(
        ("events", "message"),
        [
            (decay, "events: got function"),
            ([decay], "events: got function"),
            (nde.Event, "events: got type"),
            (
                nde.ScheduledEvent([[1.0, 2.0]], decay),
                r"ts: got times of shape \(1, 2\); expected \(T,\); per_sample takes",
            ),
            (nde.Event(lambda t, y: y.expand(3, 2)), r"fn: got shape \(3, 2\); expected one real number"),
            (nde.Event(lambda t, y: y[:0]), r"fn: got shape \(0,\); expected one real number"),
            (nde.Event(lambda t, y: y[: 2 if t == 0 else 1]), r"fn: got shape \(1,\); .* 2 of them as before"),
            (nde.Event(lambda t, y: 1.0), "fn: got float 1.0"),
            (nde.Event(lambda t, y: None), "fn: got NoneType"),
            (nde.Event(lambda t, y: y[0] > 0.5), "fn: got a torch.bool tensor"),
            (nde.Event(lambda t, y: y.mul_(2)[0]), "fn: changed the state in-place"),
            (nde.Event(lambda t, y: y[0] - 0.5, terminal=False, apply=lambda t, y: y[:1]), r"apply: got shape \(1,\)"),
            (nde.Event(lambda t, y: y[0] - 0.5, terminal=False, apply=lambda t, y: None), "apply: got NoneType"),
            (
                nde.Event(lambda t, y: y[0] - 0.5, terminal=False, apply=lambda t, y: y.to(torch.complex128)),
                "apply: got torch.complex128",
            ),
        ],
    )
    def test_of_a_solve(self, events, message):
        with pytest.raises(nde.InvalidProblemError, match=message):
            nde.solve(self.problem, events=events)

    def test_of_a_per_sample_solve(self):
        with pytest.raises(
            nde.InvalidProblemError, match=r"fn: got shape .*; expected a real number for each of 2 samples"
        ):
            nde.solve(self.problem, events=nde.Event(lambda t, y: y.sum() - 1), per_sample=True)

    def test_of_knots(self):
        class Control:
            knots = "none"

        problem = nde.ODEProblem(lambda t, y, control: -y, number(1.0), (0.0, 1.0), (Control(),))
        with pytest.raises(nde.InvalidProblemError, match="knots = 'none'"):
            nde.solve(problem)

    def test_compiled(self):
        solve = torch.compile(
            lambda y: nde.solve(nde.ODEProblem(decay, y, (0.0, 1.0)), events=event).y1, fullgraph=True
        )
        event = nde.Event(lambda t, y: y[0] - 0.5)
        with pytest.raises(Exception, match="events cannot be compiled"):
            solve(number(1.0))


@pytest.mark.parametrize(
    "kind",
    [
        lambda f: nde.Event(lambda t, y: y[0] - 0.5, terminal=False, apply=f, indexed=True),
        lambda f: nde.ScheduledEvent([0.5], f, indexed=True),
    ],
)
def test_a_function_that_cannot_learn_its_index_is_refused(kind):
    with pytest.raises(nde.InvalidProblemError, match="apply: got a function without a parameter index"):
        kind(lambda t, y: y)
    for fine in (lambda t, y, index: y, lambda t, y, *args, index: y, lambda t, y, **more: y):
        kind(fine)
