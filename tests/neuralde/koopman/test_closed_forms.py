"""Systems whose spectrum is known: what is found, what is predicted, and what residuals uncover."""

import math

import pytest
import torch

import neuralde as nde
from neuralde.koopman import DMD, EDMD, Delay, Fourier, LearnedDictionary, Polynomial, RadialBasis, ResDMD

D = torch.float64
METHODS = ("exact", "tls", "optimized")


def solved(field, y0, end, count, **options):
    ts = torch.linspace(0.0, end, count, dtype=D)
    problem = nde.ODEProblem(field, torch.tensor(y0, dtype=D), (0.0, end))
    return nde.solve(problem, saveat=ts, rtol=1e-11, atol=1e-13, **options)


def close(got, wanted, tolerance):
    got = sorted(got.tolist(), key=lambda z: (round(z.real, 6), z.imag))
    wanted = sorted(map(complex, wanted), key=lambda z: (round(z.real, 6), z.imag))
    assert len(got) == len(wanted)
    assert max(abs(a - b) for a, b in zip(got, wanted, strict=True)) < tolerance


@pytest.mark.parametrize("method", METHODS)
def test_rotation(method):
    sol = solved(lambda t, y: torch.stack([-3 * y[1], 3 * y[0]]), [1.0, 0.5], 4.0, 81)
    model = DMD(method=method).fit(sol)
    close(model.continuous_eigenvalues, [3j, -3j], 1e-8)
    close(model.eigenvalues, [complex(math.cos(0.15), s * math.sin(0.15)) for s in (1, -1)], 1e-9)
    torch.testing.assert_close(model.frequencies.abs(), torch.full((2,), 1.5 / math.pi, dtype=D), rtol=0, atol=1e-8)
    # any times: before, between and after the data's
    ts = torch.tensor([-1.0, 0.0, 0.333, 10.0], dtype=D)
    c, s = torch.cos(3 * ts), torch.sin(3 * ts)
    wanted = torch.stack([c - 0.5 * s, s + 0.5 * c], 1)
    torch.testing.assert_close(model.predict(sol.ys[0], ts), wanted, rtol=0, atol=1e-7)


@pytest.mark.parametrize("method", METHODS)
def test_damped_oscillator(method):
    sol = solved(lambda t, y: torch.stack([y[1], -4 * y[0] - 0.4 * y[1]]), [1.0, 0.0], 6.0, 61)
    model = DMD(method=method).fit(sol)
    omega = math.sqrt(4 - 0.04)
    close(model.continuous_eigenvalues, [complex(-0.2, omega), complex(-0.2, -omega)], 1e-8)
    torch.testing.assert_close(model.growth_rates, torch.full((2,), -0.2, dtype=D), rtol=0, atol=1e-8)
    assert model.residuals.max() < 1e-9
    both = model.predict(sol.ys[:2], sol.ts)
    assert both.shape == (61, 2, 2)
    torch.testing.assert_close(both[:, 0], sol.ys, rtol=0, atol=1e-8)


def test_optimized_at_uneven_times_and_under_noise():
    ts = torch.rand(200, dtype=D).sort().values * 8
    ts[0] = 0.0
    exponents = torch.tensor([-0.1 + 2j, -0.1 - 2j, -0.5 + 5j, -0.5 - 5j])
    modes = torch.randn(2, 6, dtype=torch.complex128).repeat_interleave(2, 0)
    modes[1::2] = modes[1::2].conj()
    clean = ((exponents * ts[:, None]).exp() @ modes).real
    model = DMD(4, "optimized").fit(clean, ts=ts)
    close(model.continuous_eigenvalues, exponents.tolist(), 1e-10)
    with pytest.raises(nde.InvalidProblemError, match="no single step"):
        _ = model.eigenvalues
    noisy = clean + 0.1 * torch.randn_like(clean)
    close(DMD(4, "optimized").fit(noisy, ts=ts).continuous_eigenvalues, exponents.tolist(), 0.05)
    even = 0.04 * torch.arange(200, dtype=D)
    noisy = ((exponents * even[:, None]).exp() @ modes).real + 0.1 * torch.randn(200, 6, dtype=D)
    errors = []
    for method in METHODS:
        got = DMD(4, method).fit(noisy, dt=0.04).continuous_eigenvalues
        errors.append(sum(float((got - one).abs().min()) for one in exponents))
    assert errors[2] < 0.1 * errors[1] < 0.1 * errors[0]  # the bias by noise is in the exact one, less in tls


def test_optimized_is_a_least_squares_optimum():
    """No exponents nearby have a smaller residual: the mean square is stationary, and larger on both sides."""
    x = torch.randn(30, 3, dtype=D).cumsum(0)
    model = DMD(2, "optimized").fit(x)
    t = torch.arange(30, dtype=D)[:, None]

    def rest(exponents):
        columns = (exponents * t).exp()
        return (x - columns @ torch.linalg.pinv(columns) @ x.to(columns.dtype)).norm()

    best = rest(model.continuous_eigenvalues)
    for step in (1e-4, -1e-4, 1e-4j, -1e-4j):
        for which in torch.eye(2):
            assert rest(model.continuous_eigenvalues + step * which) > best


def test_eigenfunctions_of_a_nonlinear_system_with_a_closed_span():
    """x' = a x, y' = b (y - x^2): x, x^2 and y are closed, with exponents 0, a, 2a and b (Brunton et al., 2016)."""
    a, b = -0.3, -1.0
    y0 = 2 * torch.rand(50, 2, dtype=D) - 1
    problem = nde.ODEProblem(lambda t, y: torch.stack([a * y[:, 0], b * (y[:, 1] - y[:, 0] ** 2)], 1), y0, (0.0, 2.0))
    sol = nde.solve(problem, saveat=torch.linspace(0, 2, 11, dtype=D), rtol=1e-11, atol=1e-13)
    model = ResDMD(Polynomial(2)).fit(sol)  # several trajectories
    kept = model.verified(1e-8)
    close(model.continuous_eigenvalues[kept], [0.0, a, 2 * a, b], 1e-7)
    predicted = model.predict(y0, sol.ts)
    torch.testing.assert_close(predicted, sol.ys, rtol=0, atol=1e-7)


def duffing(t, y):
    return torch.stack([y[..., 1], y[..., 0] - y[..., 0] ** 3 - 0.5 * y[..., 1]], -1)


def test_duffing_eigenvalues_at_the_focus_are_found_and_verified():
    """At (1, 0) the exponents are (-1/4 ± i sqrt(31)/4): the leading ones, and their sums, are the operator's in the basin."""
    y0 = torch.tensor([1.0, 0.0], dtype=D) + 0.25 * (2 * torch.rand(400, 2, dtype=D) - 1)
    sol = nde.solve(nde.ODEProblem(duffing, y0, (0.0, 0.5)), saveat=torch.tensor([0.0, 0.25, 0.5], dtype=D), rtol=1e-10)
    shifted = sol.ys - torch.tensor([1.0, 0.0], dtype=D)
    model = ResDMD(Polynomial(7)).fit(shifted, dt=0.25)
    held = 0.2 * (2 * torch.rand(200, 2, dtype=D) - 1) + torch.tensor([1.0, 0.0], dtype=D)
    later = nde.solve(nde.ODEProblem(duffing, held, (0.0, 0.25)), rtol=1e-10).y1
    origin = torch.tensor([1.0, 0.0], dtype=D)
    fresh = model.residuals_on(held - origin, later - origin)
    focus = complex(-0.25, math.sqrt(31) / 4)
    for wanted in (0.0, focus, focus.conjugate(), 2 * focus.real):
        nearest = int((model.continuous_eigenvalues - wanted).abs().argmin())
        assert abs(model.continuous_eigenvalues[nearest] - wanted) < 1e-3
        assert fresh[nearest] < 1e-2
    bad = fresh > 0.1  # what the truncation has made up
    assert bool(bad.any())
    assert not bool((bad & model.verified(1e-4)).any())


def test_rotation_of_the_circle_has_the_spectrum_of_its_angle():
    """A measure-preserving map: eigenvalues are the powers of exp(i theta), and their residuals vanish."""
    theta = math.sqrt(2.0)
    x = 2 * math.pi * torch.arange(300, dtype=D)[:, None] / 300
    model = ResDMD(Fourier(5)).fit(x, (x + theta) % (2 * math.pi))
    wanted = [complex(math.cos(k * theta), math.sin(k * theta)) for k in range(-5, 6)]
    close(model.eigenvalues, wanted, 1e-11)
    assert model.residuals.max() < 1e-11
    points = torch.tensor([wanted[6], 1.5 + 0j, 0.2 + 0j], dtype=torch.complex128)
    distance = torch.tensor([0.0, 0.5, 0.8], dtype=D)  # of a unitary operator's spectrum, the circle, from them
    res = model.pseudospectrum(points)
    assert res[0] < 1e-11
    assert bool((res[1:] >= distance[1:] - 1e-11).all())
    phases = model.pseudoeigenfunction(wanted[6], x)
    torch.testing.assert_close(phases.abs(), torch.ones(300, dtype=D), rtol=0, atol=1e-10)


def test_spurious_eigenvalues_of_the_cat_map_are_found_by_their_residuals():
    """The cat map is mixing: constants alone are eigenfunctions, and EDMD's other eigenvalues (0) are of no function."""
    side = torch.arange(40, dtype=D) / 40
    x = torch.cartesian_prod(side, side)
    y = (x @ torch.tensor([[2.0, 1.0], [1.0, 1.0]], dtype=D)) % 1.0
    model = ResDMD(Fourier(2, period=1.0)).fit(x, y)
    kept = model.verified(1e-6)
    close(model.eigenvalues[kept], [1.0], 1e-12)
    assert model.residuals[~kept].min() > 0.5
    # the pseudospectrum that the dictionary certifies, by the formula itself with G, A and L
    z = torch.tensor([0.3 + 0.4j, 1.0 + 0j, 2.0j], dtype=torch.complex128)
    psi_x, psi_y = (Fourier(2, 1.0)(one) for one in (x, y))
    gram, cross, image = psi_x.mH @ psi_x, psi_x.mH @ psi_y, psi_y.mH @ psi_y
    for one, got in zip(z, model.pseudospectrum(z), strict=True):
        form = image - one * cross.mH - one.conj() * cross + one.abs() ** 2 * gram
        half = torch.linalg.cholesky(gram)
        inner = torch.linalg.solve_triangular(half, form, upper=False)
        inner = torch.linalg.solve_triangular(half.mH, inner, upper=True, left=False)
        least = torch.linalg.eigvalsh(inner)[0].clamp(min=0).sqrt()
        torch.testing.assert_close(got, least, rtol=0, atol=1e-6)


def test_quadrature_weights_stand_for_the_measure():
    """Nodes crowded at 0 with their weights give the residuals of even nodes, and without weights those of another measure."""

    def least(x, weights=None):
        y = (1.25 * x + 0.1 * torch.sin(6 * x)) % 1.0
        return ResDMD(Polynomial(3)).fit(x, y, weights=weights).pseudospectrum(torch.tensor([0.3 + 0.1j, 1.2, -0.5]))

    nodes = (torch.arange(20000, dtype=D)[:, None] + 0.5) / 20000
    even = least(nodes)
    torch.testing.assert_close(least(nodes**2, 2 * nodes[:, 0]), even, rtol=0, atol=1e-3)
    assert (least(nodes**2) - even).abs().max() > 0.02


def test_delays_make_a_state_of_one_channel():
    t = torch.arange(200, dtype=D)[:, None]
    x = torch.cos(0.3 * t) + 0.5 * torch.sin(0.71 * t + 0.2)
    model = EDMD(Delay(6), rank=4).fit(x)
    close(model.continuous_eigenvalues, [0.3j, -0.3j, 0.71j, -0.71j], 1e-9)
    torch.testing.assert_close(model.predict(x[:6], torch.arange(100)), x[5:105], rtol=0, atol=1e-7)
    several = EDMD(Delay(6), rank=4).fit(torch.stack([x, 2 * x], 1))
    assert several.predict(x[:6].expand(3, 6, 1), [1.0, 2.0]).shape == (2, 3, 1)
    close(several.continuous_eigenvalues, [0.3j, -0.3j, 0.71j, -0.71j], 1e-9)


@pytest.mark.parametrize(
    "dictionary", [RadialBasis(60), RadialBasis(60, kernel="thinplate")], ids=["gaussian", "thin plate"]
)
def test_radial_functions_predict_a_pendulum(dictionary):
    y0 = 2 * torch.rand(300, 2, dtype=D) - 1
    pendulum = nde.ODEProblem(lambda t, y: torch.stack([y[:, 1], -torch.sin(y[:, 0])], 1), y0, (0.0, 0.3))
    sol = nde.solve(pendulum, saveat=torch.linspace(0, 0.3, 4, dtype=D), rtol=1e-9)
    model = EDMD(dictionary).fit(sol.ys[:, :200], dt=0.1)
    error = (model.predict(y0[200:], sol.ts) - sol.ys[:, 200:]).square().mean().sqrt()
    linear = (DMD().fit(sol.ys[:, :200], dt=0.1).predict(y0[200:], sol.ts) - sol.ys[:, 200:]).square().mean().sqrt()
    assert error < 0.15 * linear


def test_a_learned_dictionary_finds_the_invariant_span():
    """x^2 is what the state lacks; the residuals of pairs that training has not seen fall."""
    x = 2 * torch.rand(400, 2, dtype=D) - 1
    y = torch.stack([0.9 * x[:, 0], 0.5 * x[:, 1] + 0.3 * x[:, 0] ** 2], 1)
    held, later = x[300:], y[300:]
    plain = DMD().fit(x[:300], y[:300])
    model = EDMD(LearnedDictionary(2, 1, steps=1500).to(D)).fit(x[:300], y[:300])
    assert model.residuals_on(held, later).max() < 0.05 * plain.residuals_on(held, later).max()
    close(model.eigenvalues, [1.0, 0.9, 0.81, 0.5], 5e-3)


def test_control_is_told_from_the_state():
    a, b = torch.tensor([[0.9, -0.1], [0.2, 0.8]], dtype=D), torch.tensor([[0.5, 1.0]], dtype=D)
    u, x = torch.randn(60, 3, 1, dtype=D), [torch.randn(3, 2, dtype=D)]
    for n in range(60):
        x.append(x[-1] @ a + u[n] @ b)
    series = torch.stack(x)
    for model in (DMD(), EDMD(Polynomial(1))):
        model.fit(series, control=u, dt=0.5)
        got = model.predict(series[0], 0.5 * torch.arange(61), control=u)
        torch.testing.assert_close(got, series, rtol=0, atol=1e-10)
    close(DMD().fit(series, control=u).eigenvalues, torch.linalg.eigvals(a).tolist(), 1e-12)
    one = DMD().fit(series[:, 0], control=u[:, 0])
    torch.testing.assert_close(one.predict(series[0, 0], [60.0], control=u[:, 0])[0], series[-1, 0], rtol=0, atol=1e-10)


def test_an_eigenvalue_of_zero_ends_its_mode():
    x = torch.randn(50, 2, dtype=D)
    model = DMD().fit(x, x * torch.tensor([0.5, 0.0], dtype=D))
    got = model.predict(torch.ones(2, dtype=D), [0.0, 1.0, 2.0])
    wanted = torch.tensor([[1.0, 1.0], [0.5, 0.0], [0.25, 0.0]], dtype=D)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", [torch.float32, torch.complex64, torch.complex128])
def test_other_kinds_of_numbers(device, kind):
    turn = torch.tensor([[0.6, 0.8], [-0.8, 0.6]], dtype=kind, device=device)
    x = torch.randn(40, 2, dtype=kind, device=device)
    model = DMD().fit(x, x @ turn)
    close(model.eigenvalues.cpu(), [0.6 + 0.8j, 0.6 - 0.8j], 1e-5)
    assert model.predict(x[0], [1.0]).dtype == kind
