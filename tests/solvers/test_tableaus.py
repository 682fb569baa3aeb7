"""Tableaus: what they claim is exactly true, what is wrong is refused, and steps converge as fast as they should."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

import neuralde.solvers as nde
from neuralde.solvers.core.rooted_trees import elementary_weights, rooted_trees
from neuralde.solvers.methods.tableau import (
    ButcherTableau,
    Interpolant,
    derive_interpolant,
    max_dense_order,
    max_order,
    stability_radius,
)
from neuralde.solvers.methods.tableau_checks import TableauError
from neuralde.solvers.testing import methods

# name: stages, order, embedded order, dense order, extra stages, fsal, radius, stiffness pair, end slope
FACTS = {
    "Euler": (1, 1, None, 1, 0, False, 2.0, None, None),
    "Midpoint": (2, 2, 1, 2, 0, False, 2.0, None, None),
    "Heun": (2, 2, 1, 2, 0, False, 2.0, None, None),
    "Ralston": (2, 2, 1, 2, 0, False, 2.0, None, None),
    "RK4": (4, 4, None, 3, 0, False, 2.785293563405, (1, 2), None),
    "Bosh3": (4, 3, 2, 3, 0, True, 2.512745326618, None, 3),
    "Tsit5": (7, 5, 4, 4, 0, True, 3.5068, (5, 6), 6),
    "Dopri5": (7, 5, 4, 4, 0, True, 3.3066, (5, 6), 6),
    "Dopri8": (14, 8, 7, 7, 4, True, 5.1666, (12, 13), 13),
    "Vern7": (10, 7, 6, 7, 6, False, 4.6400, (8, 9), 10),
    "Vern9": (16, 9, 8, 9, 10, False, 4.4762, (14, 15), 16),
}
NAMES = list(FACTS)


def get(name: str) -> ButcherTableau:
    return getattr(nde, name)().tableau


def changed(values: tuple, index: int, by: float) -> tuple:
    return tuple(value + by if i == index else value for i, value in enumerate(values))


def test_every_tableau_of_the_package_is_tested_here():
    assert sorted(method.name for method in methods()) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_claims_are_true_and_not_too_modest(name):
    tableau = get(name)
    assert max_order(tableau.a, tableau.b) == tableau.order
    assert max_dense_order(tableau) == tableau.interpolant.order
    if tableau.b_embedded is not None:
        assert max_order(tableau.a, tableau.b_embedded) == tableau.embedded_order


@pytest.mark.parametrize("name", NAMES)
def test_derived_properties(name):
    stages, order, embedded, dense, extra, fsal, radius, pair, end = FACTS[name]
    tableau = get(name)
    assert (tableau.stages, tableau.order, tableau.embedded_order) == (stages, order, embedded)
    assert (tableau.interpolant.order, len(tableau.interpolant.c)) == (dense, extra)
    assert (tableau.fsal, tableau.stiffness_pair, tableau.end_slope) == (fsal, pair, end)
    assert tableau.stability_radius == pytest.approx(radius, abs=1e-4)
    assert (tableau.error_weights is None) == (embedded is None)
    if embedded is not None:
        assert sum(tableau.error_weights) == pytest.approx(0, abs=1e-14)


# OrdinaryDiffEq.jl's alg_stability_size.
@pytest.mark.parametrize(
    ("name", "published"), [("Tsit5", 3.5068), ("Dopri5", 3.3066), ("Vern7", 4.64), ("Vern9", 4.4762)]
)
def test_stability_radius_agrees_with_published_constants(name, published):
    assert get(name).stability_radius == pytest.approx(published, abs=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_stability_radius_is_where_a_step_starts_to_grow(name):
    """Checked on steps of y' = -y, without the stability polynomial."""
    tableau = get(name)

    def growth(x):
        zero = np.zeros(1)
        y, *_ = step(tableau, lambda t, y: -y, zero, zero + 1, zero + x)
        return abs(y[0])

    assert all(growth(x) <= 1 + 1e-9 for x in np.linspace(0, tableau.stability_radius, 200))
    assert growth(tableau.stability_radius - 1e-6) < 1 < growth(tableau.stability_radius + 1e-6)


def test_stability_radius_of_a_stabilised_method():
    """The two-stage Runge-Kutta-Chebyshev method of order 1 touches R = -1 ... 1 without crossing: 2 s**2 = 8."""
    assert stability_radius(((), (1 / 8,)), (0, 1), 1) == pytest.approx(8.0, abs=1e-6)


# ---------------------------------------------------------------- rooted trees


def test_rooted_trees_are_counted_right():
    trees = rooted_trees(9)
    assert [trees.start[n + 1] - trees.start[n] for n in range(1, 10)] == [1, 1, 2, 4, 9, 20, 48, 115, 286]
    assert len({trees.name(i) for i in range(trees.order.size)}) == trees.order.size == 486
    with pytest.raises(ValueError, match="at least 1"):
        rooted_trees(0)


def test_densities_of_bushy_and_tall_trees():
    """A root with n - 1 leaves has density n, a path of n nodes n factorial."""
    trees = rooted_trees(7)
    for n in range(2, 8):
        densities = trees.density[trees.start[n] : trees.start[n + 1]]
        assert (densities.min(), densities.max()) == (n, np.prod(np.arange(1.0, n + 1)))


def test_elementary_weights_of_order_four_by_hand():
    a, c = np.array([[0, 0, 0], [0.5, 0, 0], [-1, 2, 0]]), np.array([0, 0.5, 1])
    by_hand = {"[t,t,t]": c**3, "[t,[t]]": c * (a @ c), "[[t,t]]": a @ c**2, "[[[t]]]": a @ a @ c}
    trees, phi = rooted_trees(4), elementary_weights(a, 4)
    for i in range(4, 8):
        np.testing.assert_allclose(phi[i], by_hand[trees.name(i)])


# ---------------------------------------------------------------- refusals

TSITOURAS_EMBEDDED_ROW_AS_STEP = {"b": nde.Tsit5().tableau.b_embedded, "b_embedded": nde.Tsit5().tableau.b}


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        # Nodes shifted by one place: not to be seen on an autonomous problem.
        ("RK4", {"c": (0, 0, 1 / 2, 1 / 2)}, r"^c: stage 1 has node 0.0, expected its row sum of a, 0.5$"),
        ("Tsit5", {"c": changed(nde.Tsit5().tableau.c, 3, 1e-9)}, r"^c: stage 3 has node 0\.90000"),
        ("Tsit5", {"c": changed(nde.Tsit5().tableau.c, 0, 1e-9)}, r"^c: stage 0 has node 1e-09, expected .* 0"),
        # The solution of order 4 propagated under the name of order 5.
        (
            "Tsit5",
            TSITOURAS_EMBEDDED_ROW_AS_STEP,
            r"^b: claimed order 5, but the weights have order 4: tree \[t,t,t,t\]",
        ),
        (
            "Tsit5",
            {"embedded_order": 5},
            r"^b_embedded: claimed order 5, but the weights have order 4: tree \[t,t,t,t\]",
        ),
        # The sign that the paper prints for the last embedded weight.
        (
            "Tsit5",
            {"b_embedded": (*nde.Tsit5().tableau.b_embedded[:-1], -1 / 66)},
            r"^b_embedded: claimed order 4, but the weights have order 0: tree t .* gives 0\.9696.*, expected 1/1$",
        ),
        ("RK4", {"order": 5}, r"^b: claimed order 5, but the weights have order 4: tree .* \(order 5\) gives .* 1/"),
        ("Dopri8", {"b": changed(changed(nde.Dopri8().tableau.b, 5, 1e-9), 6, -1e-9)}, r"^b: .* order 1: tree \[t\]"),
        # Two entries of a row exchanged: the row sum stays, the order does not.
        (
            "Bosh3",
            {"a": ((), (1 / 2,), (3 / 4, 0), nde.Bosh3().tableau.a[3])},
            r"^b: claimed order 3, but the weights have order 2: tree \[\[t\]\] \(order 3\) gives 0.0, expected 1/6$",
        ),
        ("Bosh3", {"b_embedded": nde.Bosh3().tableau.b}, r"^b_embedded: equals b"),
        ("Bosh3", {"embedded_order": None}, r"^b_embedded and embedded_order: give both or neither$"),
        ("Bosh3", {"embedded_order": 0}, r"^b_embedded: order must be an integer of at least 1, got 0$"),
        ("Bosh3", {"order": 2.5}, r"^b: order must be an integer"),
        ("Bosh3", {"b": nde.Bosh3().tableau.b[:-1]}, r"^a: has 4 entries, expected 3, as many as b$"),
        ("Bosh3", {"c": (0, 1 / 2)}, r"^c: has 2 entries, expected 4, as many as b$"),
        ("Bosh3", {"b_embedded": (1,)}, r"^b_embedded: has 1 entries, expected 4, as many as b$"),
        (
            "Bosh3",
            {"a": ((), (1 / 2,), (0, 3 / 4, 0), nde.Bosh3().tableau.a[3])},
            r"^a: row 2 has 3 entries, expected 2 ",
        ),
        ("Bosh3", {"b": (2 / 9, 1 / 3, float("nan"), 0)}, r"^b: .* not finite$"),
        ("Euler", {"a": (), "b": (), "c": ()}, r"^b: empty, expected one weight per stage$"),
    ],
)
def test_broken_tableaus_are_refused(name, change, message):
    with pytest.raises(TableauError, match=message):
        replace(get(name), **change)


@pytest.mark.parametrize("name", ["Tsit5", "Dopri5", "Dopri8", "Vern7", "Vern9"])
@pytest.mark.parametrize("part", ["a", "b", "b_embedded", "weights", "extra a"])
def test_one_digit_changed_anywhere_is_refused(name, part):
    """Up to twelve entries of each part, each in turn moved in its seventh digit; exact zeros by 1e-7."""
    tableau = get(name)
    dense = tableau.interpolant
    table = {"a": tableau.a, "b": (tableau.b,), "b_embedded": (tableau.b_embedded,)}
    table |= {"weights": dense.weights, "extra a": dense.a}
    generator = np.random.default_rng(0)
    entries = [(i, j) for i, row in enumerate(table[part]) for j in range(len(row))]
    for k in generator.permutation(len(entries))[:12]:
        i, j = entries[k]
        rows = list(table[part])
        rows[i] = changed(rows[i], j, 1e-7 * (abs(rows[i][j]) or 1))
        if part in ("weights", "extra a"):
            change = {"interpolant": replace(dense, **{"weights" if part == "weights" else "a": tuple(rows)})}
        else:
            change = {part: tuple(rows) if part == "a" else rows[0]}
        with pytest.raises(TableauError):
            replace(tableau, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"order": 5}, r"^interpolant.weights: rows of length \[4\], expected one length of at least 5$"),
        ({"order": 0}, r"^interpolant.order: must be an integer of at least 1, got 0$"),
        (
            {"weights": nde.Tsit5().tableau.interpolant.weights[:-1]},
            r"^interpolant.weights: has 6 rows, expected 7, one per",
        ),
        (
            {"weights": nde.Dopri5().tableau.interpolant.weights},
            r"^interpolant.weights: row 0 sums to 0.0911.*expected 0.0964",
        ),
        ({"a": ((0,) * 7,)}, r"^interpolant.a: has 1 rows, expected 0, as many as its c$"),
        ({"a": ((1,),), "c": (1,)}, r"^interpolant.a: row 0 has 1 entries, expected 7 "),
        (
            {"a": ((0.5,) + (0,) * 6,), "c": (1,)},
            r"^interpolant.c: stage 7 has node 1.0, expected its row sum of a, 0.5$",
        ),
    ],
)
def test_broken_interpolants_are_refused(change, message):
    tableau = nde.Tsit5().tableau
    with pytest.raises(TableauError, match=message):
        replace(tableau, interpolant=replace(tableau.interpolant, **change))


def test_dense_output_that_is_right_at_both_ends_only_is_refused():
    """A straight line between the steps' ends."""
    line = Interpolant(order=2, weights=((1 / 2, 0), (1 / 2, 0)))
    message = r"^interpolant.weights: claimed order 2, but they have order 1: tree \[t\] .* gives 0.5 times theta\*\*1"
    with pytest.raises(TableauError, match=message + ", expected 0.0$"):
        replace(nde.Heun().tableau, interpolant=line)


# ---------------------------------------------------------------- derived dense output


def test_derived_dense_output_is_the_known_one():
    theta = np.linspace(0, 1, 7)

    def polynomials(name):
        weights = np.array(get(name).interpolant.weights)
        return (weights[:, :, None] * theta ** np.arange(1, weights.shape[1] + 1)[:, None]).sum(1)

    np.testing.assert_allclose(polynomials("Heun"), [theta - theta**2 / 2, theta**2 / 2], atol=1e-15)
    np.testing.assert_allclose(polynomials("Midpoint"), [theta - theta**2, theta**2], atol=1e-15)
    middle = theta**2 - 2 / 3 * theta**3
    rk4 = [theta - 3 / 2 * theta**2 + 2 / 3 * theta**3, middle, middle, -(theta**2) / 2 + 2 / 3 * theta**3]
    np.testing.assert_allclose(polynomials("RK4"), rk4, atol=1e-15)
    # The cubic Hermite polynomial: y0 + (3 theta**2 - 2 theta**3) (y1 - y0) + slopes.
    hermite = np.outer(nde.Bosh3().tableau.b, 3 * theta**2 - 2 * theta**3)
    hermite[0] += theta * (1 - theta) ** 2
    hermite[3] += theta**2 * (theta - 1)
    np.testing.assert_allclose(polynomials("Bosh3"), hermite, atol=1e-15)


@pytest.mark.parametrize("name", ["Tsit5", "Dopri5", "Dopri8", "Vern7", "Vern9"])
def test_a_tableau_without_dense_output_gets_one_of_order_three_or_more(name):
    tableau = replace(get(name), interpolant=None)
    assert tableau.interpolant.order >= 3
    assert len(tableau.interpolant.c) <= 1
    assert max_dense_order(tableau) == tableau.interpolant.order


def test_an_extra_stage_is_taken_only_for_order_three():
    # Heun's method of order 3: the second weight is zero, so that the stages alone give order 2.
    heun3 = ButcherTableau(a=((), (1 / 3,), (0, 2 / 3)), b=(1 / 4, 0, 3 / 4), c=(0, 1 / 3, 2 / 3), order=3)
    assert (heun3.interpolant.order, heun3.interpolant.c, heun3.end_slope) == (3, (1.0,), 3)
    assert derive_interpolant(heun3.a, heun3.b, heun3.c, 2).c == ()


@pytest.mark.parametrize("name", ["Bosh3", "Tsit5", "Dopri5", "Dopri8", "Vern7", "Vern9"])
def test_dense_output_has_a_continuous_slope(name):
    tableau = get(name)
    weights = np.array(tableau.interpolant.weights)
    start, end = np.eye(len(weights))[[0, tableau.end_slope]]
    np.testing.assert_allclose(weights[:, 0], start, atol=1e-14)
    np.testing.assert_allclose(weights @ np.arange(1, weights.shape[1] + 1), end, atol=1e-15 * np.abs(weights).sum())


# What `Interpolant` says about rounding, relative to h |f|.
ROUNDING = {"Tsit5": 2e-14, "Dopri5": 3e-15, "Dopri8": 2e-13, "Vern7": 6e-13, "Vern9": 4e-12}


@pytest.mark.parametrize("name", NAMES)
def test_dense_output_rounds_as_documented(name):
    """With all stages equal to one, y is a straight line: what is left is rounding."""
    theta = np.linspace(0, 1, 101)
    error = np.abs(dense_weights(get(name), theta).sum(axis=0) - theta).max()
    assert error < ROUNDING.get(name, 1e-15)


# ---------------------------------------------------------------- coefficients as others have them


@pytest.mark.parametrize(("name", "scipy_name"), [("Bosh3", "RK23"), ("Dopri5", "RK45")])
def test_coefficients_agree_with_scipy(name, scipy_name):
    import scipy.integrate

    method, tableau = getattr(scipy.integrate, scipy_name), get(name)
    stages = method.n_stages
    square = np.array([[*row, *[0] * (stages - len(row))] for row in tableau.a[:stages]])
    np.testing.assert_allclose(square[:, : method.A.shape[1]], method.A, rtol=1e-15)
    np.testing.assert_allclose(tableau.b[:stages], method.B, rtol=1e-15)
    np.testing.assert_allclose(tableau.c[:stages], method.C, rtol=1e-15)
    np.testing.assert_allclose(tableau.interpolant.weights, method.P, rtol=1e-13, atol=1e-14)
    # scipy has the embedded solution minus the step; DOPRI5's embedded weights are Shampine's, at 2/3 of the distance.
    share = {"Bosh3": 1, "Dopri5": 2 / 3}[name]
    np.testing.assert_allclose(np.negative(tableau.error_weights), share * method.E, rtol=1e-13, atol=1e-17)


@pytest.mark.parametrize("name", ["bosh3", "dopri5", "dopri8"])
def test_coefficients_agree_with_torchdiffeq(name):
    solvers = pytest.importorskip("torchdiffeq._impl.odeint").SOLVERS
    theirs, ours = solvers[name].tableau, get(name.capitalize())
    np.testing.assert_allclose(ours.c[1:], theirs.alpha.numpy(), rtol=1e-15)
    for row, their_row in zip(ours.a[1:], theirs.beta, strict=False):
        np.testing.assert_allclose(row, their_row.numpy(), rtol=1e-15)
    np.testing.assert_allclose(ours.b, theirs.c_sol.numpy(), rtol=1e-15)
    np.testing.assert_allclose(ours.error_weights, theirs.c_error.numpy(), rtol=1e-13, atol=1e-17)


# ---------------------------------------------------------------- measured convergence


def step(tableau, f, t, y, h):
    """One step for every start in the arrays ``t`` and ``h``: the new y, the error estimate and all stages."""
    stages = []
    dense = tableau.interpolant
    for row, c in zip(tableau.a + dense.a, tableau.c + dense.c, strict=False):
        stages.append(f(t + c * h, y + h * sum((w * k for w, k in zip(row, stages, strict=False)), np.zeros_like(y))))
    change = sum(w * k for w, k in zip(tableau.b, stages, strict=False))
    error = sum(w * k for w, k in zip(tableau.error_weights or (0,), stages, strict=False))
    return y + h * change, h * error, np.array(stages)


def dense_weights(tableau, theta):
    weights = np.array(tableau.interpolant.weights)
    value = np.zeros((len(weights), *theta.shape))
    for column in weights.T[::-1]:
        value = (value + column[:, None]) * theta
    return value


def field(t, y):
    """Nonlinear, non-autonomous, coupled; its solution is (exp(sin t**2), exp(cos t**2))."""
    return 2 * t * np.array([y[0] * np.log(y[1]), -y[1] * np.log(y[0])])


def solution(t):
    return np.exp([np.sin(t**2), np.cos(t**2)])


THETA = np.array([0.2, 0.45, 0.8])
# The largest step, halved in eight parts: small enough for the leading term, large enough to stay above rounding.
LARGEST = {1: 0.01, 2: 0.02, 3: 0.04, 4: 0.05, 5: 0.08, 7: 0.16, 8: 0.2, 9: 0.25}


@cache
def local_errors(name):
    """Step sizes, and the errors of step, estimate and dense output, as norms over twelve starts."""
    tableau = get(name)
    sizes = LARGEST[tableau.order] * 0.5 ** (np.arange(8) / 7)
    t = np.linspace(0.3, 1.4, 12)
    found = []
    for h in sizes:
        y1, estimate, stages = step(tableau, field, t, solution(t), h * np.ones_like(t))
        inside = solution(t)[None] + h * np.einsum("nq,ndt->qdt", dense_weights(tableau, THETA), stages)
        truth = np.array([solution(t + theta * h) for theta in THETA])
        norms = [np.sqrt(((value) ** 2).sum()) for value in (y1 - solution(t + h), estimate, *(inside - truth))]
        found.append(norms)
    return sizes, np.array(found).T


def slope(sizes, errors):
    clean = errors > 5e-14  # above what rounding adds
    assert clean.sum() >= 4, f"only rounding left: {errors}"
    return np.polyfit(np.log(sizes[clean]), np.log(errors[clean]), 1)[0]


@pytest.mark.parametrize("name", NAMES)
def test_measured_order_of_a_step(name):
    sizes, errors = local_errors(name)
    assert slope(sizes, errors[0]) >= get(name).order + 1 - 0.15


@pytest.mark.parametrize("name", [name for name in NAMES if FACTS[name][2] is not None])
def test_measured_order_of_the_error_estimate(name):
    sizes, errors = local_errors(name)
    assert slope(sizes, errors[1]) >= get(name).embedded_order + 1 - 0.15


@pytest.mark.parametrize("name", NAMES)
def test_measured_order_of_dense_output(name):
    sizes, errors = local_errors(name)
    for theta, inside in zip(THETA, errors[2:], strict=False):
        measured = slope(sizes, inside)
        assert measured >= get(name).interpolant.order + 1 - 0.15, f"theta = {theta}: {measured}"
