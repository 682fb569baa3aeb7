"""Times that are the same but for rounding: doses at the ends of the interval, save times at doses; torchcde's paths."""

import math

import pytest
import torch

import neuralde as nde
from neuralde.solvers.testing.ordinary import TIGHT, Recorder, decay, number, state

D = torch.float64
pytestmark = pytest.mark.usefixtures("on_device")
per_sample = pytest.mark.parametrize("per_sample", [False, True], ids=["joint", "per_sample"])
sides = pytest.mark.parametrize("side", ["left", "right"])
DOSES = [0.1 * k for k in range(1, 10)]


def dose(t, y):
    return y + 1.0


def count(tspan, ts, per_sample=False):
    """How many doses a solve of y' = 0 applies."""
    problem = nde.ODEProblem(lambda t, y: 0 * y, state(per_sample, 0.0), tspan)
    return nde.solve(problem, events=nde.ScheduledEvent(ts, dose), per_sample=per_sample).y1.reshape(-1).tolist()


def decayed(k, side):
    """y' = -y from 2, with a dose of 1 at 0.1, ..., 0.9: the state at 0.1 k."""
    given = [j for j in range(1, 10) if j < k or (j == k and side == "right")]
    return 2 * math.exp(-0.1 * k) + sum(math.exp(-0.1 * (k - j)) for j in given)


class TestEnds:
    """What is scheduled for t0 is part of the initial state, what is scheduled for t1 of the next solve."""

    @per_sample
    @pytest.mark.parametrize("kind", [float, torch.tensor, number], ids=["float", "float32", "float64"])
    @pytest.mark.parametrize("given", [list, torch.tensor, number], ids=["list", "float32", "float64"])
    @pytest.mark.parametrize("end", [1.0, 0.1, 2.3, 0.7])
    def test_two_halves_give_each_dose_once(self, end, kind, given, per_sample):
        ts = given([end]) if given is not number else number(end)
        end = kind(end) if kind is not number else number(end)[0]
        first, second = count((0.0, end), ts, per_sample), count((end, 2 * end), ts, per_sample)
        assert set(first) == {0.0}
        assert set(second) == {1.0}

    def test_backwards(self):
        assert count((0.3, 0.1), [0.1, 0.3]) == [1.0]
        assert count((torch.tensor(0.3), torch.tensor(0.1)), [0.1, 0.3]) == [1.0]

    def test_each_samples_own_ends(self):
        """Samples whose ends are float32, near a shared time and far from it."""
        ends = torch.tensor([0.3, 0.5])
        problem = nde.ODEProblem(lambda t, y: 0 * y, torch.zeros(2, 1, dtype=D), (0.0, ends))
        sol = nde.solve(problem, events=nde.ScheduledEvent([0.1, 0.3], dose), per_sample=True)
        assert sol.y1.reshape(-1).tolist() == [1.0, 2.0]

    def test_times_that_only_resemble_the_end_are_their_own(self):
        assert count((0.0, 0.1), [0.1 - 1e-9]) == [1.0]
        assert count((0.0, 1.0), [1e-12, 1e-6]) == [2.0]

    def test_gradients_of_times_that_were_moved(self):
        """A dose at a float32 time that another event has in float64 moves with its own tensor."""
        ts = torch.tensor([0.3], requires_grad=True)
        events = [nde.ScheduledEvent([0.3], lambda t, y: 2 * y), nde.ScheduledEvent(ts, dose)]
        sol = nde.solve(nde.ODEProblem(decay, number(1.0), (0.0, 1.0)), events=events, **TIGHT)
        assert len(set(sol.events.ts.tolist())) == 1
        assert abs(sol.y1.item() - (2 * math.exp(-1.0) + math.exp(-0.7))) < 1e-8
        got = torch.autograd.grad(sol.y1.sum(), ts)[0].item()
        assert abs(got - math.exp(-0.7)) < 1e-6


class TestSides:
    """Rows, and the dense output, at the times of doses."""

    @per_sample
    @sides
    @pytest.mark.parametrize("dtype", [torch.float32, D])
    def test_all_rows_are_on_one_side(self, side, dtype, per_sample):
        ts = torch.linspace(0.0, 1.0, 11, dtype=dtype)
        problem = nde.ODEProblem(decay, state(per_sample, 2.0), (0.0, 1.0))
        sol = nde.solve(
            problem,
            events=nde.ScheduledEvent(DOSES, dose),
            saveat=ts,
            saveat_side=side,
            dense=True,
            per_sample=per_sample,
            **TIGHT,
        )
        exact = number(*(decayed(k, side) for k in range(11))).unsqueeze(1)
        assert torch.equal(sol.ts, ts)
        assert (sol.ys.reshape(11, -1) - exact).abs().max() < 1e-8
        assert (sol(ts).reshape(11, -1) - exact).abs().max() < 1e-8
        slopes = sol.derivative(ts).reshape(11, -1)
        assert (slopes + exact).abs().max() < 1e-5

    def test_left_is_the_default(self):
        problem = nde.ODEProblem(decay, number(2.0), (0.0, 1.0))
        sol = nde.solve(problem, events=nde.ScheduledEvent(DOSES, dose), saveat=torch.linspace(0, 1, 11), **TIGHT)
        assert abs(sol.ys[3].item() - decayed(3, "left")) < 1e-8

    @sides
    @pytest.mark.parametrize("compact", [False, True])
    def test_each_samples_own_doses_and_save_times(self, side, compact):
        """To the last bit the sample alone."""
        doses = number(0.3, 0.7, 0.5, math.nan, 0.1, 0.3).reshape(2, 3)
        ts = torch.tensor([[0.3, 0.5, 0.1], [0.7, 0.6, 0.3], [0.8, 0.7, 1.0]])
        ends = number(0.8, 0.9, 1.0)

        def solve(rows):
            problem = nde.ODEProblem(decay, number(2.0).expand(3, 1)[rows].clone(), (0.0, ends[rows]))
            event = nde.ScheduledEvent(doses[:, rows], dose)
            options = dict(saveat=ts[:, rows], saveat_side=side, per_sample=True, compact=compact)
            return nde.solve(problem, events=event, **options, **TIGHT).ys[..., 0]

        got = solve([0, 1, 2])
        assert torch.equal(got, torch.cat([solve([lane]) for lane in range(3)], dim=1))
        for lane in range(3):
            for row in range(3):
                t = round(ts[row, lane].item(), 3)
                given = [x for x in doses[:, lane].tolist() if x < t or (x == t and side == "right")]
                t = t if t in doses[:, lane].tolist() else min(ts[row, lane].item(), ends[lane].item())
                exact = 2 * math.exp(-t) + sum(math.exp(x - t) for x in given)
                assert abs(got[row, lane].item() - exact) < 1e-8

    @per_sample
    @sides
    def test_every_step(self, side, per_sample):
        problem = nde.ODEProblem(decay, state(per_sample, 2.0), (0.0, 1.0))
        event = nde.ScheduledEvent(DOSES, dose)
        sol = nde.solve(problem, events=event, saveat="steps", saveat_side=side, per_sample=per_sample, **TIGHT)
        ts = sol.ts if per_sample else sol.ts.unsqueeze(1)
        for k in range(1, 10):
            row = int((ts[:, 0] - 0.1 * k).abs().argmin())
            assert abs(sol.ys[row].reshape(-1)[0].item() - decayed(k, side)) < 1e-8

    @sides
    def test_where_the_solve_ends(self, side):
        """What ends a solve at a save time leaves no row out."""
        problem = nde.ODEProblem(decay, number(2.0), (0.0, 1.0))
        events = [nde.ScheduledEvent([0.5], dose), nde.Event(lambda t, y: t - 0.5)]
        sol = nde.solve(problem, events=events, saveat=[0.25, 0.5, 0.75], saveat_side=side, **TIGHT)
        assert abs(sol.ys[1].item() - 2 * math.exp(-0.5)) < 1e-8
        assert sol.ys[2].isnan()

    @sides
    def test_several_rows_of_one_time(self, side):
        problem = nde.ODEProblem(decay, number(2.0), (0.0, 1.0))
        ts = [0.3, 0.3, 0.3 + 1e-16, 0.30000001]
        sol = nde.solve(problem, events=nde.ScheduledEvent([0.3], dose), saveat=ts, saveat_side=side, **TIGHT)
        before = 2 * math.exp(-0.3)
        exact = number(*[before + (side == "right")] * 3, before + 1)
        assert (sol.ys[:, 0] - exact).abs().max() < 1e-7

    def test_bad_input(self):
        with pytest.raises(nde.InvalidProblemError, match=r'saveat_side: got .middle.; expected "left" or'):
            nde.solve(nde.ODEProblem(decay, number(1.0), (0.0, 1.0)), saveat_side="middle")


class Path:
    """What a path of torchcde offers: linear between its ``grid_points``."""

    def __init__(self, values, grid_points):
        self.values, self.grid_points = values, grid_points

    def derivative(self, t):
        slopes = self.values.diff(dim=-1) / self.grid_points.diff()
        index = (torch.bucketize(t.to(D), self.grid_points[1:-1].to(D), right=True)).clamp(0, slopes.shape[-1] - 1)
        return slopes[..., index]


class TestPaths:
    """Paths in ``args`` whose slope jumps."""

    def test_grid_points_are_landed_on(self):
        grid = torch.linspace(0.0, 1.0, 21, dtype=D)
        path = Path(torch.sin(40 * grid), grid)
        field = Recorder(lambda t, y, path: path.derivative(t) - y)
        sol = nde.solve(nde.ODEProblem(field, number(0.0), (0.0, 1.0), (path,)), saveat="steps", rtol=1e-6, atol=1e-6)
        assert torch.isin(grid, sol.ts).all()
        assert sol.stats.rejected <= 1
        assert sol.stats.nfe < 300
        slopes = path.values.diff() / grid.diff()
        exact = sum(
            s * (math.exp(b - 1) - math.exp(a - 1))
            for s, a, b in zip(slopes.tolist(), grid[:-1].tolist(), grid[1:].tolist(), strict=True)
        )
        assert abs(sol.y1.item() - exact) < 1e-5

    def test_of_grid_points(self):
        path = Path(None, "none")
        with pytest.raises(nde.InvalidProblemError, match=r"Path.grid_points = 'none'"):
            nde.solve(nde.ODEProblem(lambda t, y, path: -y, number(1.0), (0.0, 1.0), (path,)))

    def test_a_path_that_answers_for_every_sample_at_every_time(self):
        """With per_sample torchcde's paths return (B, B, 1, c); the message says what to do."""
        values = torch.zeros(3, 21, dtype=D)
        path = Path(values, torch.linspace(0.0, 1.0, 21, dtype=D))
        problem = nde.ODEProblem(
            lambda t, y, path: path.derivative(t) - y, torch.zeros(3, 1, dtype=D), (0.0, 1.0), (path,)
        )
        with pytest.raises(nde.InvalidProblemError, match=r"shape \(3, 3, 1\); .* take the diagonal"):
            nde.solve(problem, per_sample=True)
        right = nde.ODEProblem(
            lambda t, y, path: path.derivative(t).diagonal(dim1=0, dim2=1).movedim(-1, 0) - y,
            problem.y0,
            (0.0, 1.0),
            (path,),
        )
        assert torch.equal(nde.solve(right, per_sample=True).y1, torch.zeros(3, 1, dtype=D))
