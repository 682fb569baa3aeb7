"""Checkpoints: the optimal split, the budget, how often steps are taken again, and the gradient."""

import functools
import math

import pytest
import torch

import neuralde as nde
from neuralde.adjoints.exact import sweep
from neuralde.adjoints.exact.checkpoints import first_checkpoint


@functools.cache
def optimum(length, slots):
    """The fewest steps taken again to reverse ``length`` from a kept start, by trying every split."""
    if length <= 1:
        return 0
    if slots == 0:
        return length * (length - 1) // 2
    return min(k + optimum(length - k, slots - 1) + optimum(k, slots) for k in range(1, length))


@functools.cache
def ours(length, slots):
    if length <= 1:
        return 0
    if slots == 0:
        return length * (length - 1) // 2
    k = first_checkpoint(length, slots)
    return k + ours(length - k, slots - 1) + ours(k, slots)


def test_the_split_is_optimal():
    assert all(ours(length, slots) == optimum(length, slots) for length in range(1, 90) for slots in range(7))


def count(steps, checkpoints, monkeypatch):
    """How many steps a backward pass advances, how many states are ever kept, and the gradient."""
    taken, most = [], [0]
    advance, state_at = sweep.advance, sweep.Sweep.state_at

    def counted(*args):
        taken.append(1)
        return advance(*args)

    def watched(self, index):
        y = state_at(self, index)
        most[0] = max(most[0], len(self.run_data.recorder.states) + len(self.extra))
        return y

    with monkeypatch.context() as patch:
        patch.setattr(sweep, "advance", counted)
        patch.setattr(sweep.Sweep, "state_at", watched)
        y0 = torch.tensor([0.3, 1.0], requires_grad=True)
        problem = nde.ODEProblem(lambda t, y: torch.sin(y), y0, (0.0, 1.0))
        adjoint = nde.DiscreteAdjoint(checkpoints=checkpoints)
        sol = nde.solve(problem, nde.Euler(), dt=1.0 / steps, adjoint=adjoint)
        assert abs(sol.stats.accepted - steps) <= 1
        (grad,) = torch.autograd.grad(sol.y1.sum(), y0)
    return len(taken), most[0], grad


@pytest.mark.parametrize("steps", [30, 100, 333])
@pytest.mark.parametrize("checkpoints", [1, 2, 3, 5, 10, 40])
def test_within_the_budget_and_never_far_from_the_optimum(steps, checkpoints, monkeypatch):
    taken, most, grad = count(steps, checkpoints, monkeypatch)
    none, _, want = count(steps, None, monkeypatch)
    assert none == 0
    assert most <= checkpoints
    assert torch.equal(grad, want)
    # Against revolve's own count, which knows the number of steps before and keeps its states while it takes them.
    assert taken <= ours(steps + 1, checkpoints - 1) + steps


def test_with_the_root_of_the_steps_the_cost_is_linear(monkeypatch):
    for steps in (64, 256, 600):
        taken, _, _ = count(steps, math.isqrt(steps), monkeypatch)
        assert taken <= 2.5 * steps  # measured: 1.7 to 2.1


def test_with_a_fixed_budget_there_is_no_quadratic_growth(monkeypatch):
    few, many = (count(steps, 8, monkeypatch)[0] / steps for steps in (100, 800))
    assert many <= 2.0 * few  # evenly spread states alone: 8 times


def test_a_second_backward_pass_is_the_same():
    y0 = torch.tensor([0.3, 1.0], requires_grad=True)
    problem = nde.ODEProblem(lambda t, y: torch.sin(y), y0, (0.0, 1.0))
    y1 = nde.solve(problem, nde.Euler(), dt=0.01, adjoint=nde.DiscreteAdjoint(checkpoints=5)).y1.sum()
    first, second = (torch.autograd.grad(y1, y0, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)
