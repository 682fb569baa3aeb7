"""Linear controlled equations by a scan: against adaptive solves, products in sequence, finite differences; refusals."""

from itertools import pairwise

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import neuralde as nde
from neuralde.solvers.linear.exponential import exponential, relative_exponential
from neuralde.solvers.linear.scan import recurrence

F64, C128 = torch.float64, torch.complex128
PATHS = {"linear": nde.LinearPath, "rectilinear": nde.RectilinearPath, "hermite": nde.HermitePath}


def series(points=17, shape=(2, 3), missing=0.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ts = (torch.rand(points, dtype=F64, generator=generator) + 0.1).cumsum(0)
    xs = torch.randn(points, *shape, dtype=F64, generator=generator).cumsum(0) / 4
    gone = torch.rand(xs.shape, generator=generator) < missing
    gone[0] = gone[-1] = False
    return ts, torch.where(gone, float("nan"), xs)


def linear(kind="block", offset=True, channels=3, seed=1):
    """Matrices and offsets of a state of size 4."""
    generator = torch.Generator().manual_seed(seed)
    dtype = C128 if kind == "complex" else F64
    shape = {"block": (2, 2, 2), "dense": (1, 4, 4)}.get(kind, (4,))
    a = torch.randn(channels, *shape, dtype=dtype, generator=generator) / 2
    return a, torch.randn(channels, 4, dtype=dtype, generator=generator) if offset else None


def field_of(a, b):
    """The same equation as a field of matrices."""
    if a.dim() == 4:
        a = torch.stack([torch.block_diag(*blocks) for blocks in a])
    else:
        a = torch.diag_embed(a)
    return lambda t, z: torch.einsum("cij,...j->...ic", a, z) + (0.0 if b is None else b.mT)


@pytest.mark.parametrize("offset", [True, False])
@pytest.mark.parametrize("kind", ["diagonal", "complex", "block", "dense"])
@pytest.mark.parametrize("name", ["linear", "rectilinear"])
def test_the_solution_is_that_of_the_problem(name, kind, offset, device):
    ts, xs = series(9, missing=0.2)
    a, b = (None if x is None else x.to(device) for x in linear(kind, offset))
    path, y0 = PATHS[name](ts, xs.to(device)), torch.ones(2, 4, dtype=a.dtype, device=device)
    saveat = torch.cat([ts[:3], torch.linspace(float(ts[3]), float(ts[-1]), 8, dtype=F64)])
    exact = nde.solve(nde.CDEProblem(field_of(a, b), path, y0), nde.Vern9(), rtol=1e-12, atol=1e-13, saveat=saveat)
    sol = nde.solve_linear_cde(a, path, y0, offsets=b, saveat=saveat)
    torch.testing.assert_close(sol.ys, exact.ys, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(sol.y1, exact.y1, rtol=1e-10, atol=1e-10)
    whole = nde.solve_linear_cde(a, path, y0, offsets=b, saveat="steps")
    assert whole.ts.tolist() == path.knots.tolist()
    torch.testing.assert_close(nde.solve_linear_cde(a, path, y0, offsets=b, saveat=ts).ys[-1], whole.ys[-1])
    assert (sol.stats.nfe, sol.stats.steps, sol.status) == (0, len(path.knots) - 1, nde.Status.SUCCESS)


def test_cubic_pieces_have_order_four():
    """The distance to a tight solve of the same path falls by 16 when the knots are twice as many."""
    a, b = linear("dense")
    errors = []
    for points in (17, 33, 65):
        ts = torch.linspace(0.0, 2.0, points, dtype=F64)
        xs = torch.stack([torch.sin(3 * ts), torch.cos(2 * ts), ts], -1)
        path = nde.NaturalCubicPath(ts, xs)
        problem = nde.CDEProblem(field_of(a, b), path, torch.ones(4, dtype=F64))
        exact = nde.solve(
            problem, nde.Vern9(), rtol=1e-13, atol=1e-13, controller=nde.PIController(step_ts=ts.tolist())
        )
        errors.append(float((nde.solve_linear_cde(a, path, problem.y0, offsets=b).y1 - exact.y1).norm()))
    slopes = torch.tensor(errors).log2().diff().neg()
    assert ((slopes > 3.7) & (slopes < 4.5)).all(), (errors, slopes)


def test_diagonal_matrices_see_where_a_path_ends():
    ts, xs = series()
    a, _ = linear("complex", offset=False)
    path = nde.NaturalCubicPath(ts, xs)
    moved = (path(float(ts[-1])) - path(float(ts[0]))).to(C128) @ a
    sol = nde.solve_linear_cde(a, path, torch.ones(4, dtype=C128))
    torch.testing.assert_close(sol.y1, moved.exp(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("basis", ["lyndon", "brackets", "words"])
def test_log_ode_steps_are_those_of_the_brackets(basis):
    """Against the exponential of the field's Lie brackets by hand, and of growing order in the window."""
    ts = torch.linspace(0.0, 1.0, 33, dtype=F64)
    xs = torch.stack([torch.sin(5 * ts), torch.cos(7 * ts), ts**2], -1)
    a, b = linear("dense")
    y0 = torch.ones(4, dtype=F64)
    exact = nde.solve_linear_cde(a, nde.LinearPath(ts, xs), y0, offsets=b).y1
    errors = {}
    for depth in (1, 2, 3):
        paths = [nde.LogSignaturePath(ts, xs, depth, window, basis=basis) for window in (8, 4)]
        errors[depth] = [float((nde.solve_linear_cde(a, p, y0, offsets=b).y1 - exact).norm()) for p in paths]
    orders = {depth: float(torch.tensor(e).log2().diff().neg()) for depth, e in errors.items()}
    assert orders[1] > 1.5, errors
    assert orders[2] > 2.5, errors
    assert orders[3] > 3.5, errors
    # Inside a window the state is that of the path, whose derivative is constant there.
    path = nde.LogSignaturePath(ts, xs[:, :2], 2, 32)
    two = a[:2, 0]
    brackets = torch.stack([*two, two[1] @ two[0] - two[0] @ two[1]])
    middle = nde.solve_linear_cde(a[:2], path, y0, saveat=[0.5]).ys[0]
    by_hand = torch.linalg.matrix_exp(torch.einsum("n,nij->ij", 0.5 * path.derivative(0.1), brackets)) @ y0
    torch.testing.assert_close(middle, by_hand, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 4, 3)])
@pytest.mark.parametrize("kind", ["diagonal", "block"])
def test_every_batch_shape(kind, shape):
    ts, xs = series(6, shape)
    a, b = linear(kind)
    y0 = torch.randn(*shape[:-1], 4, dtype=F64)
    sol = nde.solve_linear_cde(a, nde.LinearPath(ts, xs), y0, offsets=b, saveat=ts)
    assert sol.ys.shape == (6, *y0.shape)
    alone = nde.LinearPath(ts, xs.reshape(6, -1, 3)[:, -1])
    torch.testing.assert_close(
        sol.y1.reshape(-1, 4)[-1], nde.solve_linear_cde(a, alone, y0.reshape(-1, 4)[-1], offsets=b).y1
    )
    many = nde.solve_linear_cde(a, alone, torch.ones(5, 4, dtype=F64), offsets=b)
    assert many.y1.shape == (5, 4)
    assert torch.equal(many.y1, many.y1[:1].expand(5, 4))


@pytest.mark.parametrize("make", [nde.LinearPath, nde.RectilinearPath, lambda t, x: nde.LogSignaturePath(t, x, 2, 3)])
def test_ragged_series_stand_still_at_their_ends(make):
    parts = [series(n, (3,), seed=n) for n in (11, 8, 5)]
    path = make([ts for ts, _ in parts], [xs for _, xs in parts])
    a, b = linear()
    y0 = torch.ones(3, 4, dtype=F64)
    sol = nde.solve_linear_cde(a, path, y0, offsets=b, saveat=path.knots[0].max().reshape(1) + torch.tensor([0.1, 1.0]))
    for b_, (ts, xs) in enumerate(parts):
        alone = make(ts, xs)
        end = nde.solve_linear_cde(a, alone, y0[b_], offsets=b)
        torch.testing.assert_close(sol.y1[b_], end.y1)
        inside = [float(min(max(t, ts[0]), ts[-1])) for t in sol.ts]
        rows = nde.solve_linear_cde(a, alone, y0[b_], offsets=b, saveat=inside)
        torch.testing.assert_close(sol.ys[:, b_], rows.ys)
    own = torch.nn.utils.rnn.pad_sequence([ts for ts, _ in parts], padding_value=float("nan"))
    rows = nde.solve_linear_cde(a, path, y0, offsets=b, saveat=own).ys
    torch.testing.assert_close(rows[-1], sol.y1)


@pytest.mark.parametrize("kind", ["diagonal", "complex", "block"])
def test_gradients_by_finite_differences(kind):
    ts, xs = series(5, (1, 3))
    a, b = linear(kind)
    at = [float(ts[0]) + 0.2, float(ts[-2] + ts[-1]) / 2]

    def states(xs, a, b, y0, ts):
        return nde.solve_linear_cde(a, nde.HermitePath(ts, xs), y0, offsets=b, saveat=at).ys

    inputs = [x.clone().requires_grad_() for x in (xs, a, b, torch.ones(1, 4, dtype=F64), ts)]
    assert torch.autograd.gradcheck(states, inputs)
    if kind == "block":
        assert torch.autograd.gradgradcheck(states, [*inputs[:4], ts])
    assert torch.autograd.gradcheck(states, inputs, check_forward_ad=True, check_backward_ad=False)


@pytest.mark.parametrize("diagonal", [True, False])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 15, 16, 17, 37])
def test_the_recurrence_is_the_product_in_sequence(steps, diagonal):
    torch.manual_seed(steps)
    maps = torch.randn(steps, 2, 3, *(() if diagonal else (3,)), dtype=F64) / 1.5
    shifts, y = torch.randn(steps, 2, 3, dtype=F64), torch.randn(2, 3, dtype=F64)
    states = [y]
    for m, v in zip(maps, shifts, strict=True):
        states.append((m * states[-1] if diagonal else torch.einsum("bij,bj->bi", m, states[-1])) + v)
    torch.testing.assert_close(recurrence(maps, shifts, y), torch.stack(states), rtol=1e-12, atol=1e-12)
    inputs = [x.requires_grad_() for x in (maps, shifts, y)]
    ours = torch.autograd.grad(recurrence(*inputs).square().sum(), inputs)
    states = [y]
    for m, v in zip(maps, shifts, strict=True):
        states.append((m * states[-1] if diagonal else (m @ states[-1].unsqueeze(-1)).squeeze(-1)) + v)
    plain = torch.autograd.grad(torch.stack(states).square().sum(), inputs)
    torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-10)
    over = torch.func.vmap(recurrence)(maps.movedim(1, 0), shifts.movedim(1, 0), y)
    torch.testing.assert_close(over.movedim(0, 1), recurrence(maps, shifts, y))


@pytest.mark.parametrize("dtype", [torch.float32, F64, torch.complex64, C128])
@pytest.mark.parametrize("scale", [0.0, 1e-3, 0.5, 3.0, 20.0])
def test_exponentials(scale, dtype):
    torch.manual_seed(0)
    a = scale * torch.randn(7, 5, 5, dtype=dtype) / 5
    exact = torch.linalg.matrix_exp(a.to(C128 if dtype.is_complex else F64)).to(dtype)
    tol = 2e-5 if dtype in (torch.float32, torch.complex64) else 1e-13
    torch.testing.assert_close(exponential(a), exact, rtol=tol, atol=tol * float(exact.abs().max()))
    x = scale * torch.tensor([-1.0, -0.3, 0.0, 1e-9, 0.49, 0.51, 1.0], dtype=dtype)
    wide = x.to(C128)
    expected = torch.where(x == 0, 1.0, torch.expm1(wide) / torch.where(x == 0, 1.0, wide))
    close = expected if dtype.is_complex else expected.real
    torch.testing.assert_close(relative_exponential(x), close.to(dtype), rtol=30 * tol, atol=tol)


class Count(TorchDispatchMode):
    calls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls += 1
        return func(*args, **(kwargs or {}))


def test_the_rounds_grow_as_the_square_root():
    """Four times the steps take about twice the operations, forward and backward, and one more halving changes little."""
    a, b = linear()
    counts = []
    for points in (65, 257, 1025):
        ts, xs = series(points, (1, 3))
        xs = (xs / points**0.5).requires_grad_()
        with Count() as count:
            nde.solve_linear_cde(a, nde.LinearPath(ts, xs), torch.ones(1, 4, dtype=F64), offsets=b).y1.sum().backward()
        counts.append(count.calls)
    for few, many in pairwise(counts):
        assert many < 2.2 * few, counts


def test_the_gradient_keeps_maps_and_states():
    """What autograd holds is linear in the steps, some ten times the maps."""
    a, _ = linear("dense", offset=False)
    ts, xs = series(400, (1, 3))
    xs, kept = (xs / 20).requires_grad_(), []
    path = nde.LinearPath(ts, xs)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        nde.solve_linear_cde(a, path, torch.ones(1, 4, dtype=F64))
    assert sum(kept) < 20 * 399 * 16, sum(kept) / (399 * 16)


@pytest.mark.parametrize("kind", ["diagonal", "block"])
def test_compiled(kind):
    ts, xs = series(9)
    a, b = linear(kind)
    a.requires_grad_()

    def end(xs, y0):
        return nde.solve_linear_cde(a, nde.LinearPath(ts, xs), y0, offsets=b, saveat=ts[1::2]).ys.square().sum()

    y0 = torch.ones(2, 4, dtype=F64)
    compiled, value = torch.compile(end, fullgraph=True, backend="aot_eager")(xs, y0), end(xs, y0)
    torch.testing.assert_close(compiled, value, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(torch.autograd.grad(compiled, a), torch.autograd.grad(value, a), rtol=1e-10, atol=1e-10)


def test_float32_stays_float32():
    ts, xs = series(50, (2, 3))
    a, b = linear()
    exact = nde.solve_linear_cde(a, nde.LinearPath(ts, xs), torch.ones(2, 4, dtype=F64), offsets=b).y1
    y1 = nde.solve_linear_cde(a.float(), nde.LinearPath(ts, xs.float()), torch.ones(2, 4), offsets=b.float()).y1
    assert y1.dtype == torch.float32
    torch.testing.assert_close(y1.double(), exact, rtol=1e-4, atol=1e-4 * float(exact.abs().max()))


TS, XS = series(5)
PATH = nde.LinearPath(TS, XS)
A, B = linear()
Y0 = torch.ones(2, 4, dtype=F64)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: nde.solve_linear_cde(A, XS, Y0), "path: got Tensor"),
        (lambda: nde.solve_linear_cde(A[:2], PATH, Y0), r"matrices: got shape \(2, 2, 2, 2\); expected .* c = 3"),
        (lambda: nde.solve_linear_cde(A[:, 0], PATH, Y0), r"matrices: got shape \(3, 2, 2\)"),
        (lambda: nde.solve_linear_cde(A[..., :1], PATH, Y0), r"matrices: got shape \(3, 2, 2, 1\)"),
        (lambda: nde.solve_linear_cde(None, PATH, Y0), "matrices: got NoneType"),
        (lambda: nde.solve_linear_cde(A.int(), PATH, Y0), "matrices: got dtype torch.int32"),
        (lambda: nde.solve_linear_cde(A, PATH, Y0[:, :3]), r"y0: got shape \(2, 3\); expected a tensor \(..., 4\)"),
        (lambda: nde.solve_linear_cde(A, PATH, Y0.repeat(2, 1)[:3]), r"y0: got shape \(3, 4\); expected a shape"),
        (lambda: nde.solve_linear_cde(A, PATH, Y0, offsets=B.T), r"offsets: got shape \(4, 3\)"),
        (lambda: nde.solve_linear_cde(A, PATH, Y0, saveat="all"), "saveat: got 'all'"),
        (
            lambda: nde.solve_linear_cde(A, PATH, Y0, saveat=[99.0]),
            "saveat: got times from 99 to 99; expected times within",
        ),
        (lambda: nde.solve_linear_cde(A, PATH, Y0, saveat=torch.ones(2, 3)), r"saveat: got times of shape \(2, 3\)"),
        (lambda: nde.solve_linear_cde(A, PATH, Y0, saveat=TS.clone().requires_grad_()), "saveat: requires grad"),
    ],
)
def test_refusals(call, words):
    with pytest.raises(nde.InvalidProblemError, match=words):
        call()


def test_an_overflow_is_a_failure_that_keeps_what_there_is():
    with pytest.raises(nde.NonFiniteError, match="overflowed") as error:
        nde.solve_linear_cde(1e4 * A, PATH, Y0)
    assert error.value.solution.stats.steps == 4
    assert nde.solve_linear_cde(1e4 * A, PATH, Y0, throw=False).status == nde.Status.NON_FINITE


def test_more_states_than_series():
    """Several initial states along each series, of which each has its own times."""
    parts = [series(n, (3,), seed=n) for n in (7, 5)]
    path = nde.LinearPath([ts for ts, _ in parts], [xs for _, xs in parts])
    a, b = linear()
    y0 = torch.randn(4, 2, 4, dtype=F64)
    saveat = [1.0, 1.7]
    sol = nde.solve_linear_cde(a, path, y0, offsets=b, saveat=saveat)
    assert sol.ys.shape == (2, 4, 2, 4)
    for i in range(4):
        alone = nde.solve_linear_cde(a, path, y0[i], offsets=b, saveat=saveat)
        torch.testing.assert_close(sol.ys[:, i], alone.ys)
