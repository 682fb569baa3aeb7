"""Solves at loose tolerances whose step carries the state far away, and that report success: how many there are.

Every lane is a problem with random parameters, whose solutions stay where they are or go to an attractor, with
tolerances of its own: one batch holds all of them, driven by the functions that every driver calls.
"""

import math
from functools import lru_cache

import pytest
import torch

import neuralde.solvers as nde
from neuralde.solvers.core.norms import judged_error, scaled_error
from neuralde.solvers.stepping import attempt as attempts
from neuralde.solvers.stepping.attempt import RUNNING, Plan, attempt, begin, settle
from neuralde.solvers.stepping.stops import Stops
from neuralde.solvers.terms.base import Term

D = torch.float64
METHODS = [nde.Heun(), nde.Bosh3(), nde.Tsit5(), nde.Dopri5(), nde.Dopri8(), nde.Vern7(), nde.Vern9()]
TOLERANCES = [
    (0.5, 0.5),
    (0.3, 0.3),
    (0.1, 0.1),
    (0.1, 1e-3),
    (0.03, 1e-3),
    (0.01, 1.0),
    (0.01, 1e-4),
    (1e-3, 1e-3),
    (1e-3, 1e-6),
]
END = 10.0


# Fields of rows (n, 4) with parameters (n, 33). Smaller systems stand in a row as often as they fit, which leaves the norm
# of the error as it is.


def twice(a, b):
    return torch.stack([a, b, a, b], dim=1)


def cubic(y, p):
    return p[:, :1] * y * (1 - (y / p[:, 1:2]) ** 2)


def logistic(y, p):
    return p[:, :1] * y * (1 - y / p[:, 1:2])


def oscillator(y, p):
    return twice(y[:, 1], -(p[:, 0] ** 2) * y[:, 0] - 2 * p[:, 1] * p[:, 0] * y[:, 1])


def van_der_pol(y, p):
    return twice(y[:, 1], p[:, 0] * (1 - y[:, 0] ** 2) * y[:, 1] - y[:, 0])


def predators(y, p):
    return twice(y[:, 0] * (p[:, 0] - p[:, 1] * y[:, 1]), y[:, 1] * (p[:, 2] * y[:, 0] - p[:, 3]))


def spiral(y, p):
    a, b = y[:, 0] ** 3, y[:, 1] ** 3
    return twice(-p[:, 0] * a + 2 * b, -2 * a - p[:, 0] * b)


def lorenz(y, p):
    x, y, z = y[:, 0], y[:, 1], y[:, 2]
    return torch.stack([10 * (y - x), x * (p[:, 0] - z) - y, x * y - 8 / 3 * z, 10 * (y - x)], dim=1) / 2


def network(y, p):
    inner, outer = p[:, 1:17].reshape(-1, 4, 4), p[:, 17:].reshape(-1, 4, 4)
    return (outer @ torch.tanh(inner @ y.unsqueeze(-1))).squeeze(-1) - p[:, :1] * y


FIELDS = [cubic, logistic, oscillator, van_der_pol, predators, spiral, lorenz, network]


def population(count, generator):
    """``count`` problems of every family: initial states and parameters."""

    def uniform(low, high):
        return low + (high - low) * torch.rand(count, 1, generator=generator, dtype=D)

    def spread(low, high):
        return torch.exp(uniform(math.log(low), math.log(high)))

    def normal(columns):
        return torch.randn(count, columns, generator=generator, dtype=D)

    def pair(low, high):
        return torch.cat([uniform(low, high), uniform(low, high)], dim=1).repeat(1, 2)

    x = uniform(-15, 15)
    size, room = spread(0.1, 10), spread(0.1, 100)
    drawn = [
        ((size * uniform(-2, 2)).expand(-1, 4), [spread(0.3, 3), size]),
        ((room * uniform(0.01, 2)).expand(-1, 4), [spread(0.3, 3), room]),
        (pair(-2, 2), [spread(0.5, 5), spread(0.03, 2)]),
        (pair(-2, 2), [spread(0.1, 5)]),
        (pair(0.2, 3), [spread(0.5, 2) for _ in range(4)]),
        (pair(-2, 2), [spread(0.02, 0.3)]),
        (torch.cat([x, uniform(-15, 15), uniform(0, 40), x], dim=1), [uniform(0.5, 35)]),
        (normal(4), [spread(0.3, 3), normal(16), 0.7 * normal(16)]),
    ]
    rows = [torch.cat(p, dim=1) for _, p in drawn]
    parameters = torch.cat([torch.nn.functional.pad(p, (0, 33 - p.shape[1])) for p in rows])
    return torch.cat([y for y, _ in drawn]), parameters, torch.arange(len(FIELDS)).repeat_interleave(count)


def peaks(method, y0, parameters, family, rtol, atol, max_steps=400):
    """The largest entry of every lane at any accepted step, whether it arrived, and its calls of the field."""
    lanes = torch.arange(len(y0))
    peak, arrived = y0.abs().amax(dim=1), torch.zeros(len(y0), dtype=torch.bool)
    calls = torch.zeros(len(y0), dtype=torch.int64)

    def plan_of(lanes):
        counts, rows = torch.bincount(family[lanes], minlength=len(FIELDS)).tolist(), parameters[lanes]

        class Families(Term):
            def __call__(self, t, y):
                parts = zip(FIELDS, y.split(counts), rows.split(counts), strict=True)
                return torch.cat([f(part, p) for f, part, p in parts])

        zero = torch.zeros(len(lanes), dtype=D)
        controller = nde.PIController().bind(method)
        ends = {"t0": zero, "t1": zero + END, "direction": zero + 1.0}
        tolerances = {"rtol": rtol[lanes].unsqueeze(1), "atol": atol[lanes].unsqueeze(1)}
        stops = Stops((), ())
        return Plan(
            field=Families(), method=method, controller=controller, stops=stops, max_steps=max_steps, per_sample=True,
            **ends, **tolerances,
        )  # fmt: skip

    plan = plan_of(lanes)
    slope = plan.field(plan.t0, y0)
    h = plan.field.first_step(plan.t0, y0, slope, plan.direction, plan.t1, method.error_order, plan.norm_at(y0))
    carry = begin(plan, y0, slope if method.fsal else None, h, 2)
    for number in range(1, max_steps + 1):
        trial = attempt(plan, carry)
        carry = settle(plan, carry, trial)
        peak[lanes] = torch.maximum(peak[lanes], torch.where(trial.accept, carry.y.abs().amax(dim=1), 0.0))
        if number % 10 and number < max_steps:
            continue
        going = carry.status == RUNNING
        arrived[lanes], calls[lanes] = carry.status == int(nde.Status.SUCCESS), carry.nfe
        if not bool(going.any()):
            break
        lanes = lanes[going]
        carry = carry._replace(
            control=tuple(x[going] for x in carry.control),
            cache=None if carry.cache is None else carry.cache[going],
            **{
                name: getattr(carry, name)[going]
                for name in ("t", "h", "y", "status", "steps", "accepted", "nfe", "asked", "looked")
            },
        )
        plan = plan_of(lanes)
    return peak, arrived, calls


@lru_cache
def drawn(count, seed):
    """The problems, and the largest entry of each one's solution."""
    with torch.no_grad():
        y0, parameters, family = population(count, torch.Generator().manual_seed(seed))
        ones = torch.ones(len(y0), dtype=D)
        largest, arrived, _ = peaks(nde.Vern7(), y0, parameters, family, 1e-6 * ones, 1e-8 * ones, 2000)
    assert arrived.all()
    return y0, parameters, family, largest


def runaways(count, seed=0, methods=METHODS):
    """Of ``count`` problems of each family, with every method and tolerance: which solves succeed far outside.

    Far outside is ten times the largest entry of a tight solve, and ten times atol. Gives, for each method, flags
    ``(tolerances, problems)``, those of the solves that arrived, and all calls of the field.
    """
    y0, parameters, family, largest = drawn(count, seed)
    with torch.no_grad():
        times = len(TOLERANCES)
        lanes = torch.arange(len(y0)).repeat_interleave(times)
        rtol, atol = torch.tensor(TOLERANCES, dtype=D).repeat(len(y0), 1).unbind(1)
        found = {}
        for method in methods:
            peak, arrived, calls = peaks(method, y0[lanes], parameters[lanes], family[lanes], rtol, atol)
            far = arrived & (peak > 10 * (largest[lanes] + atol))
            found[method.name] = far.reshape(-1, times).T, arrived.reshape(-1, times).T, calls.reshape(-1, times).T
        return found


def test_fewer_solves_run_away_than_with_errors_judged_by_the_new_state(monkeypatch):
    """And at no more calls, because what runs away has to come back."""
    methods = [nde.Tsit5(), nde.Dopri5()]
    now = runaways(4, seed=2, methods=methods)
    with monkeypatch.context() as patched:
        patched.setattr(attempts, "judged_error", lambda *ends: scaled_error(*ends[:5]))
        before = runaways(4, seed=2, methods=methods)

    def total(found, place):
        return sum(int(flags[place].sum()) for flags in found.values())

    assert total(before, 0) >= 4
    assert total(now, 0) <= total(before, 0) // 2
    assert total(now, 2) <= total(before, 2)


@pytest.mark.slow
def test_of_three_hundred_thousand_solves_few_run_away():
    """Nearly all of those that do have tolerances of 0.3 and more."""
    found = runaways(600, seed=7)
    far = sum(flags for flags, _, _ in found.values()).sum(dim=1)
    solves = sum(flags.numel() for flags, _, _ in found.values())
    print(dict(zip(TOLERANCES, far.tolist(), strict=True)), "of", solves)
    assert solves == 302_400
    assert int(far.sum()) < 0.006 * solves


@pytest.mark.parametrize("per_sample", [False, True])
def test_growth_in_a_step_does_not_loosen_its_tolerance(per_sample):
    y0 = torch.tensor([[1.0, -2.0], [0.0, 0.0]], dtype=D)
    y1 = torch.tensor([[3.0, -1.0], [7.0, 0.5]], dtype=D)
    error = torch.ones_like(y0)
    sizes = 1 / judged_error(error, y0, y1, 1.0, 0.0, per_sample).clamp(min=1e-300)
    still = [7.0, 0.5] if per_sample else [2.0, 0.5]  # a lane that starts at 0 has no size of its own yet
    torch.testing.assert_close(sizes, torch.tensor([[2.0, 2.0], still], dtype=D))


def test_a_solve_from_zero_without_absolute_tolerance_still_starts():
    problem = nde.ODEProblem(lambda t, y: 1.0 + 0.1 * y, torch.zeros(1, dtype=D), (0.0, 1.0))
    sol = nde.solve(problem, rtol=1e-6, atol=0.0)
    assert abs(sol.y1.item() - 10 * math.expm1(0.1)) < 1e-6
