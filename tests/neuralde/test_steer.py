"""STEER with every kind of end time, and with save times."""

import pytest
import torch

import neuralde as nde

STEER = nde.regularizers.STEER
ENDS = {
    "float": 1.0,
    "int": 1,
    "tensor": torch.tensor(1.0),
    "int tensor": torch.tensor(1),
    "int32 tensor": torch.tensor(1, dtype=torch.int32),
    "float64 tensor": torch.tensor(1.0, dtype=torch.float64),
}


def clock(t0=0.0, t1=1.0, shape=(1,)):
    return nde.ODEProblem(lambda t, y: torch.ones_like(y), torch.zeros(shape, dtype=torch.float64), (t0, t1))


@pytest.mark.parametrize("name", ENDS)
def test_every_kind_of_end_is_jittered_alike(name):
    ends = []
    for seed in range(8):
        torch.manual_seed(seed)
        want = 1.0 + 0.25 * (2.0 * torch.rand(()).item() - 1.0)
        torch.manual_seed(seed)
        sol = nde.solve(clock(t1=ENDS[name]), regularizers=[STEER(0.25)])
        assert sol.y1.item() == pytest.approx(want, abs=1e-12)
        ends.append(sol.y1.item())
    assert max(ends) - min(ends) > 0.1


def test_each_sample_with_an_end_of_its_own():
    t1 = torch.tensor([1, 2])
    sol = nde.solve(clock(t1=t1, shape=(2, 1)), per_sample=True, regularizers=[STEER(0.25)])
    jitter = sol.y1.flatten() - t1
    assert jitter[0].item() == pytest.approx(jitter[1].item(), abs=1e-12)
    assert 0 < abs(jitter[0].item()) <= 0.25


def test_a_late_clock_in_float32_does_not_round_the_jitter():
    torch.manual_seed(0)
    t1 = torch.tensor(1e6 + 1, dtype=torch.float32)
    sol = nde.solve(clock(1e6, t1), regularizers=[STEER(0.25)])
    torch.manual_seed(0)
    assert sol.y1.item() == pytest.approx(1.0 + 0.25 * (2.0 * torch.rand(()).item() - 1.0), abs=1e-7)


def test_the_gradient_by_the_end():
    t1 = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    problem = nde.ODEProblem(lambda t, y: y, torch.ones(1, dtype=torch.float64), (0.0, t1))
    sol = nde.solve(problem, regularizers=[STEER(0.25)], rtol=1e-9, atol=1e-9)
    assert torch.autograd.grad(sol.y1.sum(), t1)[0].item() == pytest.approx(sol.y1.item(), rel=1e-6)


@pytest.mark.parametrize("kind", ["list", "ints", "float32", "float64", "tuple", "per sample", "backwards"])
def test_save_times_that_fit_stay_and_the_end_moves(kind):
    times = [0.0, 0.5, 1.0]
    end, options, problem = 1.0, {}, clock()
    saveat = {
        "tuple": tuple(times),
        "ints": [0, 1],
        "float32": torch.tensor(times),
        "float64": torch.tensor(times, dtype=torch.float64),
    }.get(kind, times)
    if kind == "per sample":
        problem, options = clock(shape=(2, 1)), {"per_sample": True}
    elif kind == "backwards":
        problem, saveat, end = clock(1.0, 0.0), [1.0, 0.5, 0.0], 0.0
    for seed in range(8):
        torch.manual_seed(seed)
        moved = end + 0.25 * (2.0 * torch.rand(()).item() - 1.0)
        torch.manual_seed(seed)
        sol = nde.solve(problem, saveat=saveat, regularizers=[STEER(0.25)], **options)
        ts = sol.ts.to(torch.float64).reshape(len(saveat), -1)[:, 0]
        assert torch.allclose(ts[:-1], torch.as_tensor(saveat, dtype=torch.float64)[:-1])
        assert ts[-1].item() == pytest.approx(moved, abs=1e-6)
        assert torch.allclose(sol.ys.reshape(len(saveat), -1)[:, 0], ts - problem.tspan[0], atol=1e-6)


def test_save_times_that_some_draw_would_not_reach_are_always_refused():
    for saveat in ([0.5, 0.9], torch.linspace(0, 1, 11), [0.5, 1.1], [0.76]):
        for seed in range(8):
            torch.manual_seed(seed)
            with pytest.raises(nde.InvalidProblemError, match=r"^saveat: .*STEER\(b=0.25\).*smaller b"):
                nde.solve(clock(), saveat=saveat, regularizers=[STEER(0.25)])
    for saveat in ("steps", None, [0.75], [0.75, 1.0]):
        nde.solve(clock(), saveat=saveat, regularizers=[STEER(0.25)])
    for saveat in ("no", torch.tensor([True, False]), [[0.1], [0.2]], [-0.5]):
        with pytest.raises(nde.InvalidProblemError, match=r"^saveat: "):
            nde.solve(clock(), saveat=saveat, regularizers=[STEER(0.25)])
    assert nde.solve(clock(), saveat=[0.9, 1.0], regularizers=[STEER(0)]).ts.tolist() == [0.9, 1.0]
