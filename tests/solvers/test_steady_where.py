"""Where a search for a steady state ends: where the flow goes, whatever the unit of time, with the totals of the start."""

import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import torch

import neuralde as nde

FLOAT = torch.float64
TIGHT = {"rtol": 1e-10, "atol": 1e-10}
SCALES = [1e-8, 1e-4, 1.0, 1e3, 1e8]
METHODS = {
    "dynamic": nde.DynamicSS(),
    "dopri8": nde.DynamicSS(nde.Dopri8()),
    "polished": nde.DynamicSS(polish=nde.Newton()),
    "polished, krylov": nde.DynamicSS(polish=nde.Newton(linear="gmres")),
    "polished, anderson": nde.DynamicSS(polish=nde.Anderson()),
    "newton": nde.Newton(),
    "krylov": nde.Newton(linear="gmres"),
    "anderson": nde.Anderson(),
}
FLOWS = [name for name in METHODS if name not in ("newton", "krylov", "anderson")]


def vector(*values, dtype=FLOAT):
    return torch.tensor(values, dtype=dtype)


def toggle(t, y):
    return torch.stack([5 / (1 + y[..., 1] ** 2) - y[..., 0], 5 / (1 + y[..., 0] ** 2) - y[..., 1]], dim=-1)


def exchange(t, y):  # A <-> B, the sum is conserved
    flow = 0.1 * y[..., 0] - 0.3 * y[..., 1]
    return torch.stack([-flow, flow], dim=-1)


def binding(t, y):  # A + B <-> C; A + C and B + C are conserved
    flow = 2.0 * y[..., 0] * y[..., 1] - 0.5 * y[..., 2]
    return torch.stack([-flow, -flow, flow], dim=-1)


def bound(a, b, c):
    """The C of the equilibrium: 2 (A - C) (B - C) = C / 2 for the totals A and B."""
    a, b = a + c, b + c
    return ((a + b + 0.25) - np.sqrt((a + b + 0.25) ** 2 - 4 * a * b)) / 2


def enzyme(t, y):  # S + E <-> ES -> P + E -> (P decays to S): E and S + ES + P are conserved
    s, e, es, p = y.unbind(-1)
    on, off, cat, back = 3.0 * s * e, 1.0 * es, 0.7 * es, 0.2 * p
    return torch.stack([off - on + back, off + cat - on, on - off - cat, cat - back], dim=-1)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("tol", [1e-3, 1e-9])
def test_the_unit_of_time_changes_neither_the_state_nor_the_verdict(name, tol):
    fields = {
        "relaxation": (lambda t, y: 2.0 - y, vector(1.0), vector(2.0)),
        "bistable": (toggle, vector(4.0, 0.5), vector((5 + 21**0.5) / 2, (5 - 21**0.5) / 2)),
        "exchange": (exchange, vector(4.0, 0.0), vector(3.0, 1.0)),
        "from zero": (lambda t, y: torch.stack([1.0 - y[0], y[0] - 0.5 * y[1]]), vector(0.0, 0.0), vector(1.0, 2.0)),
    }
    for label, (field, y0, want) in fields.items():
        sols = []
        for scale in SCALES:
            problem = nde.SteadyStateProblem(lambda t, y, field=field, scale=scale: scale * field(t, y), y0)
            sol = nde.solve(problem, METHODS[name], rtol=tol, atol=tol)
            assert torch.allclose(sol.y1, want, rtol=10 * tol, atol=10 * tol), (label, scale)
            assert not sol.unstable
            sols.append(sol)
        counts = [sol.stats.nfe for sol in sols]
        assert max(counts) <= 1.1 * min(counts) + 2, (label, counts)


@pytest.mark.parametrize("name", METHODS)
def test_what_has_no_equilibrium_has_none_in_any_unit(name):
    for scale in SCALES:
        problem = nde.SteadyStateProblem(lambda t, y, scale=scale: scale * torch.ones_like(y), vector(1.0, 2.0))
        sol = nde.solve(problem, METHODS[name], throw=False, max_steps=300)
        assert sol.status > nde.Status.EVENT


@pytest.mark.covering(1)
@pytest.mark.parametrize("tol", [1e-3, 1e-6])
@pytest.mark.parametrize("name", METHODS)
def test_a_slow_mode_behind_a_fast_one_is_seen(name, tol):
    rates = vector(1000.0, 1.0)
    coupled = torch.tensor([[1.0, 0.4], [0.0, 1.0]], dtype=FLOAT)
    inverse = torch.linalg.inv(coupled)
    for scale in (1e-6, 1.0):
        problem = nde.SteadyStateProblem(
            lambda t, y, scale=scale: scale * (coupled @ (rates * (inverse @ (2.0 - y)))), vector(1.0, 1.0)
        )
        sol = nde.solve(problem, METHODS[name], rtol=tol, atol=tol)
        assert torch.allclose(sol.y1, vector(2.0, 2.0), rtol=0.0, atol=5 * tol)


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("name", FLOWS)
def test_a_flow_that_passes_a_saddle_passes_it(name, per_sample):
    starts = [(1.6, 1.5), (1.5, 1.6), (1.52, 1.515), (0.1, 0.11), (6.0, 5.9), (1.501, 1.5)]
    high, low = (5 + 21**0.5) / 2, (5 - 21**0.5) / 2
    want = vector(*[(high, low) if a > b else (low, high) for a, b in starts])
    for scale, tol in ((0.1, 1e-10), (1.0, 1e-3), (50.0, 1e-6)):
        field = lambda t, y, scale=scale: scale * toggle(t, y)  # noqa: E731
        options = {"rtol": tol, "atol": tol}
        if per_sample:
            sol = nde.solve(nde.SteadyStateProblem(field, vector(*starts)), METHODS[name], per_sample=True, **options)
            got = sol.y1
            assert not bool(sol.unstable.any())
        else:
            got = torch.stack(
                [nde.solve(nde.SteadyStateProblem(field, vector(*y0)), METHODS[name], **options).y1 for y0 in starts]
            )
        assert torch.allclose(got, want, rtol=0.0, atol=20 * tol)


def test_the_flow_of_scipy_is_the_judge():
    def field(y, xp):
        x, z, w = y[0], y[1], y[2]
        return xp.stack([x - x**3 + 0.3 * z, -2.0 * z + 0.1 * w * x, 0.5 - w - 0.2 * x])

    rng = np.random.default_rng(3)
    for _ in range(6):
        y0 = rng.normal(size=3)
        y0[0] *= 0.05  # close to the unstable plane
        want = scipy.integrate.solve_ivp(lambda t, y: field(y, np), (0, 200), y0, rtol=1e-11, atol=1e-12).y[:, -1]
        problem = nde.SteadyStateProblem(lambda t, y: field(y, torch), torch.from_numpy(y0))
        for name in FLOWS:
            assert np.allclose(nde.solve(problem, METHODS[name], **TIGHT).y1.numpy(), want, atol=1e-7), name


CONSERVED = {
    "exchange": (exchange, [(4.0, 0.0), (0.5, 0.5)], lambda y: ((y[0] + y[1]) * 0.75, (y[0] + y[1]) * 0.25)),
    "binding": (
        binding,
        [(1.0, 2.0, 0.0), (0.3, 0.3, 1.0)],
        lambda y: (y[0] + y[2] - bound(*y), y[1] + y[2] - bound(*y), bound(*y)),
    ),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("case", CONSERVED)
@pytest.mark.parametrize("name", METHODS)
def test_totals_are_those_of_the_start(name, case, dtype):
    field, starts, exact = CONSERVED[case]
    tol = 1e-9 if dtype == FLOAT else 1e-5
    want = vector(*[exact(y0) for y0 in starts], dtype=dtype)
    y0 = vector(*starts, dtype=dtype)
    lanes = nde.solve(nde.SteadyStateProblem(field, y0), METHODS[name], per_sample=True, rtol=tol, atol=tol)
    assert torch.allclose(lanes.y1, want, rtol=0.0, atol=20 * tol)
    for index in range(len(starts)):
        sol = nde.solve(nde.SteadyStateProblem(field, y0[index]), METHODS[name], rtol=tol, atol=tol)
        assert torch.allclose(sol.y1, want[index], rtol=0.0, atol=20 * tol)
        if name in ("dynamic", "newton", "polished"):
            assert sol.singular
            assert bool(lanes.singular.all())
        assert not sol.unstable


@pytest.mark.parametrize("name", METHODS)
def test_an_enzyme_with_two_totals(name):
    y0 = vector(2.0, 0.5, 0.1, 0.3)
    sol = nde.solve(nde.SteadyStateProblem(enzyme, y0), METHODS[name], **TIGHT)
    path = scipy.integrate.solve_ivp(
        lambda t, y: enzyme(t, torch.from_numpy(y)).numpy(), (0, 500), y0.numpy(), rtol=1e-11, atol=1e-13
    )
    assert np.allclose(sol.y1.numpy(), path.y[:, -1], rtol=0.0, atol=1e-8)
    totals = torch.tensor([[0.0, 1.0, 1.0, 0.0], [1.0, 0.0, 1.0, 1.0]], dtype=FLOAT)
    assert torch.allclose(totals @ sol.y1, totals @ y0, rtol=0.0, atol=1e-9)


def test_totals_of_fast_and_slow_reactions():
    rates = vector(1e6, 1e6, 1.0, 3.0)

    def field(t, y):
        fast, slow = rates[0] * y[0] - rates[1] * y[1], rates[2] * y[2] - rates[3] * y[3]
        return torch.stack([-fast, fast, -slow, slow])

    sol = nde.solve(nde.SteadyStateProblem(field, vector(1.0, 3.0, 4.0, 0.0)), nde.Newton(), **TIGHT)
    assert torch.allclose(sol.y1, vector(2.0, 2.0, 3.0, 1.0), rtol=0.0, atol=1e-9)
    assert sol.singular


def test_a_total_in_a_rotated_basis():
    turn, _ = torch.linalg.qr(torch.randn(5, 5, dtype=FLOAT))
    inner = torch.diag(vector(-1.0, -2.0, -0.5, 0.0, 0.0))
    inner[0, 3] = 0.7
    matrix, y0 = turn @ inner @ turn.T, torch.randn(5, dtype=FLOAT)
    want = torch.linalg.matrix_exp(200.0 * matrix) @ y0
    for name in METHODS:
        sol = nde.solve(nde.SteadyStateProblem(lambda t, y: matrix @ y, y0), METHODS[name], rtol=0.0, atol=1e-10)
        assert torch.allclose(sol.y1, want, rtol=0.0, atol=1e-8), name


def test_complex_states_with_a_total():
    def field(t, y):
        flow = (1.0 + 0.5j) * y[0] - 2.0 * y[1]
        return torch.stack([-flow, flow])

    y0 = torch.tensor([1.0 + 2.0j, 0.5j], dtype=torch.complex128)
    ratio = (1.0 + 0.5j) / 2.0
    want = torch.stack([y0.sum() / (1.0 + ratio), y0.sum() * ratio / (1.0 + ratio)])
    for name in METHODS:
        sol = nde.solve(nde.SteadyStateProblem(field, y0), METHODS[name], **TIGHT)
        assert torch.allclose(sol.y1, want, rtol=0.0, atol=1e-8), name


def test_newton_says_what_it_found():
    unstable = nde.solve(nde.SteadyStateProblem(toggle, vector(1.6, 1.5)), nde.Newton(), **TIGHT)
    assert unstable.y1.tolist() == pytest.approx([1.5159802276928205] * 2)
    assert unstable.unstable is True
    assert unstable.singular is False
    lanes = nde.solve(
        nde.SteadyStateProblem(toggle, vector((1.6, 1.5), (4.0, 0.3))), nde.Newton(), per_sample=True, **TIGHT
    )
    assert lanes.unstable.tolist() == [True, False]
    ode = nde.solve(nde.ODEProblem(lambda t, y: -y, vector(1.0), (0.0, 1.0)))
    assert ode.unstable is None
    assert ode.singular is None


def test_a_singular_jacobian_is_said_where_a_search_fails():
    def field(t, y):  # the sum grows without end, so that no state is steady
        flow = y[0] - y[1]
        return torch.stack([0.5 - flow, 0.5 + flow])

    problem = nde.SteadyStateProblem(field, vector(1.0, 0.0))
    with pytest.raises(nde.ConvergenceError, match="the Jacobian there is singular"):
        nde.solve(problem, nde.Newton(), **TIGHT)


def test_a_field_without_derivatives_is_believed():
    calls = 0

    def field(t, y):
        nonlocal calls
        calls += 1
        return torch.from_numpy(1e-4 * (2.0 - y.detach().numpy()))

    with torch.no_grad():
        sol = nde.solve(nde.SteadyStateProblem(field, vector(1.0)), nde.DynamicSS(), **TIGHT)
    assert sol.y1.item() == pytest.approx(2.0, abs=1e-9)
    assert sol.stats.nfe == calls


@pytest.mark.parametrize("kind", [nde.DynamicSS, nde.Anderson])
def test_unchecked_searches_form_no_jacobian(kind):
    problem = nde.SteadyStateProblem(lambda t, y: torch.cos(y) - y, vector(0.0, 1.0))
    options = {} if kind is nde.DynamicSS else {"beta": 1.0}
    checked, plain = (nde.solve(problem, kind(check=check, **options), **TIGHT) for check in (True, False))
    assert plain.stats.products == 0
    assert checked.stats.products > 0
    assert torch.allclose(plain.y1, checked.y1, rtol=0.0, atol=1e-9)


def test_a_large_system_is_judged_without_a_matrix():
    n = 300
    rates = torch.logspace(-2, 0, n, dtype=FLOAT)
    problem = nde.SteadyStateProblem(lambda t, y: rates * (1.0 - y), torch.zeros(n, dtype=FLOAT))
    sol = nde.solve(problem, nde.DynamicSS(), rtol=1e-6, atol=1e-6)
    assert (sol.y1 - 1.0).square().mean().sqrt() <= 4e-6
    assert 0 < sol.stats.products < 2 * n


def epidemic(t, y):  # every state without infected is an equilibrium: which one, the path decides
    s, i, _ = y.unbind(-1)
    return torch.stack([-0.5 * s * i, 0.5 * s * i - 0.2 * i, 0.2 * i], dim=-1)


@pytest.mark.parametrize("tol", [1e-3, 1e-8])
@pytest.mark.parametrize("name", ["dynamic", "polished"])
def test_on_a_continuum_the_flow_decides(name, tol):
    y0 = vector(0.99, 0.01, 0.0)
    final = scipy.optimize.brentq(lambda s: np.log(s / 0.99) - 2.5 * (s - 1.0), 1e-6, 0.3)  # the final size
    # The errors of the path are not forgotten here, so that they have to be small.
    how = nde.DynamicSS(polish=METHODS[name].polish, path_rtol=min(1e-3, 10 * tol))
    for scale in (1e-6, 1.0, 1e6):
        problem = nde.SteadyStateProblem(lambda t, y, scale=scale: scale * epidemic(t, y), y0)
        sol = nde.solve(problem, how, rtol=tol, atol=tol)
        assert torch.allclose(sol.y1, vector(final, 0.0, 1.0 - final), rtol=0.0, atol=4 * tol)
        assert sol.singular


@pytest.mark.parametrize("name", METHODS)
def test_a_start_at_rest_but_for_rounding(name):
    # 0.1 * 3 - 0.3 is 5.6e-17
    sol = nde.solve(nde.SteadyStateProblem(exchange, vector(3.0, 1.0)), METHODS[name], **TIGHT)
    assert torch.allclose(sol.y1, vector(3.0, 1.0), rtol=0.0, atol=1e-12)
    both = nde.solve(
        nde.SteadyStateProblem(exchange, vector((3.0, 1.0), (4.0, 0.0))), METHODS[name], per_sample=True, **TIGHT
    )
    assert torch.allclose(both.y1, vector((3.0, 1.0), (3.0, 1.0)), rtol=0.0, atol=1e-8)


def test_a_large_system_with_a_total():
    n = 200  # a diffusion with a source that moves the state about, on a ring: the sum is conserved

    def field(t, y):
        return 0.5 * (y.roll(1) - 2.0 * y + y.roll(-1)) + 0.3 * (torch.tanh(y.roll(1)) - torch.tanh(y))

    y0 = torch.linspace(0.0, 1.0, n, dtype=FLOAT)
    for how in (nde.Newton(), nde.Newton(linear="dense")):
        sol = nde.solve(nde.SteadyStateProblem(field, y0), how, rtol=1e-9, atol=1e-9)
        assert torch.allclose(sol.y1, torch.full((n,), 0.5, dtype=FLOAT), rtol=0.0, atol=1e-6)
