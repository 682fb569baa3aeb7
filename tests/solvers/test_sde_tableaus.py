"""Tableaus of stochastic methods: what they claim is proved, measured, and cannot be claimed wrongly."""

import dataclasses
import itertools
import math

import pytest
import torch

import neuralde.solvers as nde
from neuralde.solvers.methods.stochastic import order_conditions as conditions
from neuralde.solvers.methods.stochastic.tableau import StochasticTableau, Weights

F64 = torch.float64
NAMES = ("SRIW1", "SOSRI", "SRA1", "SRA3", "ShARK", "SlowRK", "SPaRK")
PATHS, FINEST, T1 = 500, 10, 1.0


def step(tableau, weights, drift, diffusion, product, t, y, h, w, levy):
    """One step, written from the formula and nothing else."""
    root = math.sqrt(h)
    variables = (w, levy, (w * w - h) / (2 * root), (w**3 - 3 * h * w) / (6 * h))
    f, g = {}, {}
    for i in range(tableau.stages):
        z, time = y, t + tableau.c[i] * h
        for j in range(i):
            if tableau.a[i][j]:
                z = z + h * tableau.a[i][j] * f[j]
            noise = tableau.a_w[i][j] * w + tableau.a_h[i][j] * levy + tableau.a_root[i][j] * root
            if tableau.a_w[i][j] or tableau.a_h[i][j] or tableau.a_root[i][j]:
                z = z + product(g[j], noise)
        if tableau.drift_stages[i]:
            f[i] = drift(time, z)
        if tableau.diffusion_stages[i]:
            g[i] = diffusion(time, z)
    for i in range(tableau.stages):
        if weights.drift and weights.drift[i]:
            y = y + h * weights.drift[i] * f[i]
        rows = (weights.w, weights.h, weights.ww, weights.www)
        noise = [row[i] * x for row, x in zip(rows, variables, strict=True) if row and row[i]]
        if noise:
            y = y + product(g[i], sum(noise))
    return y


def grids(seed, paths=PATHS):
    """W and H of every step, from the finest grid to the coarsest, of the same paths."""
    cells = 2**FINEST
    path = nde.BrownianPath((paths, 2), seed, 0.0, T1, "space-time", dt=T1 / cells, dtype=F64)
    w, h = path.grid(0, cells)
    levels = {cells: (w, h)}
    while len(w) > 1:
        w, h = w[::2] + w[1::2], (h[::2] + h[1::2]) / 2 + (w[::2] - w[1::2]) / 4
        levels[len(w)] = (w, h)
    return levels


def run(tableau, problem, steps, noise, weights=None):
    drift, diffusion, product, y0 = problem
    y, h = y0, T1 / steps
    for k in range(steps):
        y = step(tableau, weights or tableau.solution, drift, diffusion, product, k * h, y, h, noise[0][k], noise[1][k])
    return y


def slope(errors):
    """By least squares, of the logarithm of the error over that of the step."""
    x = torch.tensor([-math.log(steps) for steps in errors], dtype=F64)
    y = torch.tensor([math.log(error) for error in errors.values()], dtype=F64)
    return (((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()).item()


def order(tableau, problem, reference, levels, steps=(32, 64, 128, 256), weights=None):
    return slope(
        {n: (run(tableau, problem, n, levels[n], weights) - reference).square().mean().sqrt().item() for n in steps}
    )


NOISE = torch.tensor([0.5, 0.4], dtype=F64)
START = torch.tensor([0.2, 0.4], dtype=F64)
TURN = torch.tensor([[0.8, -0.6], [0.6, 0.8]], dtype=F64)


def reducible(calculus, rotated):
    """X = sinh(Z) with dZ_1 = Z_2 dt + (1 + t) s_1 dW_1, dZ_2 = cos(t) dt + s_2 dW_2; turned, the noise is not diagonal."""
    turn = TURN if rotated else torch.eye(2, dtype=F64)

    def scale(t):
        return NOISE * torch.tensor([1.0 + t, 1.0], dtype=F64)

    def drift(t, y):
        x = y @ turn
        root = (1 + x * x).sqrt()
        own = torch.stack([torch.asinh(x[..., 1]), torch.full_like(x[..., 1], math.cos(t))], -1)
        correction = 0.5 * x * scale(t) ** 2 if calculus == "ito" else 0.0
        return (root * own + correction) @ turn.T

    def diffusion(t, y):
        x = y @ turn
        each = (1 + x * x).sqrt() * scale(t)
        return turn @ torch.diag_embed(each) if rotated else each

    def product(g, noise):
        return (g @ noise.unsqueeze(-1)).squeeze(-1) if rotated else g * noise

    return drift, diffusion, product, (torch.sinh(START) @ turn.T).expand(PATHS, 2)


def exact(levels, rotated):
    w, h = (x[0] for x in levels[1])
    second = START[1] + math.sin(T1) + NOISE[1] * w[:, 1]
    first = START[0] + START[1] * T1 + 1 - math.cos(T1) + NOISE[1] * T1 * (w[:, 1] / 2 + h[:, 1])
    first = first + NOISE[0] * ((1 + T1) * w[:, 0] - T1 * (w[:, 0] / 2 + h[:, 0]))
    return torch.sinh(torch.stack([first, second], -1)) @ (TURN.T if rotated else torch.eye(2, dtype=F64))


def additive():
    """A drift without closed solution and two noises that mix and change with time."""

    def drift(t, y):
        x, v = y.unbind(-1)
        return torch.stack([v, torch.sin(2 * x) - v + math.cos(3 * t)], -1)

    def diffusion(t, y):
        del y
        return torch.tensor([[0.6 + t, 0.3], [0.2, 1.0 - 0.5 * t]], dtype=F64)

    return drift, diffusion, lambda g, noise: noise @ g.T, torch.tensor([1.0, 0.0], dtype=F64).expand(PATHS, 2)


@pytest.mark.parametrize("name", ["SRIW1", "SOSRI"])
def test_order_for_diagonal_noise_of_ito(name):
    levels, tableau = grids(3), getattr(nde, name)().tableau
    problem, reference = reducible("ito", False), exact(levels, False)
    assert order(tableau, problem, reference, levels) == pytest.approx(tableau.orders["diagonal"], abs=0.15)
    assert order(tableau, problem, reference, levels, weights=tableau.embedded) == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("name", ["SlowRK", "SPaRK"])
def test_order_for_commutative_noise_of_stratonovich(name):
    levels, tableau = grids(4), getattr(nde, name)().tableau
    problem, reference = reducible("stratonovich", True), exact(levels, True)
    assert order(tableau, problem, reference, levels) == pytest.approx(tableau.orders["commutative"], abs=0.15)
    assert order(tableau, problem, reference, levels, weights=tableau.embedded) == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("name", ["SRA1", "SRA3", "ShARK", "SlowRK", "SPaRK"])
def test_order_for_additive_noise(name):
    levels, tableau, problem = grids(5), getattr(nde, name)().tableau, additive()
    other = nde.SRA1().tableau if name == "SRA3" else nde.SRA3().tableau
    reference = run(other, problem, 2**FINEST, levels[2**FINEST])
    assert order(tableau, problem, reference, levels, (16, 32, 64, 128)) == pytest.approx(1.5, abs=0.15)
    rows = tableau.embedded
    assert order(tableau, problem, reference, levels, (16, 32, 64, 128), rows) == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("name", ["SlowRK", "SPaRK"])
def test_order_for_noise_that_does_not_commute(name):
    """Areas of Levy that W and H do not tell bound the order by 1/2."""

    def drift(t, y):
        return 0.3 * torch.sin(y + t)

    def diffusion(t, y):
        x, v = y.unbind(-1)
        zero = torch.zeros_like(x)
        return torch.stack([torch.stack([1 + zero, 0.2 * v], -1), torch.stack([zero, x + math.sin(t)], -1)], -2)

    tableau, levels = getattr(nde, name)().tableau, grids(6)
    problem = (drift, diffusion, lambda g, noise: (g @ noise.unsqueeze(-1)).squeeze(-1), START.expand(PATHS, 2))
    reference = run(tableau, problem, 2**FINEST, levels[2**FINEST])
    assert order(tableau, problem, reference, levels, (4, 8, 16, 32)) == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize("name", NAMES)
def test_claims_are_the_true_orders(name):
    tableau = getattr(nde, name)().tableau
    m, rows = tableau._matrices(), tableau._rows(tableau.solution)
    for noise in set(tableau.orders) - {"general"}:
        found, _ = conditions.strong_order(m, rows, tableau.calculus == "ito", noise == "additive")
        assert found == tableau.orders[noise]
    embedded, _ = conditions.strong_order(
        m, tableau._rows(tableau.embedded), tableau.calculus == "ito", "additive" in tableau.orders
    )
    assert embedded == tableau.embedded_order
    assert tableau.levy_area == "space-time"


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_digit_is_found(name):
    """Every coefficient matters to a condition, so that each alone may not change."""
    tableau = getattr(nde, name)().tableau
    fields = {f.name: getattr(tableau, f.name) for f in dataclasses.fields(tableau) if f.init}
    changes = []
    for part, i in itertools.product(("a", "a_w", "a_h", "a_root"), range(tableau.stages)):
        for j in range(i):
            if getattr(tableau, part)[i][j]:
                rows = [list(row) for row in getattr(tableau, part)]
                rows[i][j] += 1e-6
                changes.append({part: rows})
    for part, row in vars(tableau.solution).items():
        for i, value in enumerate(row):
            if value:
                other = (*row[:i], value + 1e-6, *row[i + 1 :])
                changes.append({"solution": dataclasses.replace(tableau.solution, **{part: other})})
    assert len(changes) > 5
    for change in changes:
        with pytest.raises(nde.TableauError, match=tableau.name):
            StochasticTableau(**(fields | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(c=(0, 0.4)), "c of stage 1 is 0.4, expected its row sum 1"),
        (dict(a=((),)), r"the rows of a have \[0\] entries, expected 0 to 1"),
        (dict(a_h=((), (1, 2))), r"the rows of a_h have \[0, 2\] entries"),
        (dict(solution=Weights((1.0,))), "solution.drift has 1 entries, expected 2 or none"),
        (dict(calculus="itô"), "calculus is 'itô', expected"),
        (dict(orders={"gaussian": 1.0}), r"orders are for \['gaussian'\], expected some of"),
        (dict(orders={}), r"orders are for \[\]"),
        (dict(calculus="any"), 'calculus "any" is for additive noise'),
        (dict(embedded=Weights((1, 0), (1, 0))), "give embedded and embedded_order both"),
        (dict(embedded=Weights((0.5, 0.5), (0.5, 0.5)), embedded_order=1.0), "embedded equals the solution"),
        (
            dict(embedded=Weights((1, 0), (1, 0)), embedded_order=1.0),
            "embedded, for scalar noise the order is 0, claimed",
        ),
        (dict(orders={"scalar": 1.5}), r"the order is 1, claimed 1.5; f'\(g\) has 0 at W\^0 H\^1, expected 1"),
        (dict(calculus="ito"), "the order is 0, claimed 1"),
    ],
)
def test_a_tableau_that_contradicts_itself_is_refused(change, message):
    both = Weights((0.5, 0.5), (0.5, 0.5))
    heun = dict(name="Heun", calculus="stratonovich", orders={"scalar": 1.0, "general": 0.5}, c=(0, 1), a=((), (1,)))
    heun |= dict(a_w=((), (1,)), solution=both)
    assert StochasticTableau(**heun).levy_area == "none"
    with pytest.raises(nde.TableauError, match=message):
        StochasticTableau(**(heun | change))


def test_iterated_integrals_agree_with_simulation():
    """The means behind the conditions, against sums over a fine path."""
    steps, paths = 400, 3000
    dw = nde.BrownianPath((paths,), 9, 0.0, 1.0, dt=1.0 / steps, dtype=F64).grid(0, steps).w
    for tree in conditions.trees(4):
        for ito in (True, False):
            mean = sum(a * conditions._mean_of_word(word, ito) for word, a in conditions._solution(tree, ito))
            value = integral(tree, dw, ito)[-1]
            assert value.mean().item() == pytest.approx(mean, abs=4.5 * value.std().item() / math.sqrt(paths) + 5e-3)


def integral(tree, dw, ito):
    product = torch.ones((len(dw) + 1, dw.shape[1]), dtype=F64)
    for child in tree.children:
        product = product * integral(child, dw, ito)
    if tree.node == conditions.DRIFT:
        each = (product[:-1] + product[1:]) / (2 * len(dw))
    else:
        each = (product[:-1] if ito else (product[:-1] + product[1:]) / 2) * dw
    return torch.cat([torch.zeros_like(product[:1]), each.cumsum(0)])
