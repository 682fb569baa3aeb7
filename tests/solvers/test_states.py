"""What may be solved: states of every shape, dtype and structure, and what the field receives."""

from collections import OrderedDict, namedtuple

import numpy as np
import pytest
import torch
from torch.utils import _pytree as pytree

import neuralde.solvers as nde
from neuralde.solvers.testing.ordinary import Recorder, methods

Pair = namedtuple("Pair", ["position", "velocity"])
DTYPES = [torch.float32, torch.float64, torch.complex64, torch.complex128]
TOLERANCE = {torch.float32: 2e-6, torch.complex64: 2e-6, torch.float64: 1e-9, torch.complex128: 1e-9}


def decay(t, y):
    return pytree.tree_map(lambda leaf: -leaf, y)


def tight(dtype):
    return {"rtol": 1e-6, "atol": 1e-7} if dtype in (torch.float32, torch.complex64) else {"rtol": 1e-10, "atol": 1e-11}


@pytest.mark.parametrize("shape", [(), (1,), (5,), (2, 3), (2, 1, 3, 2), (0,), (0, 3), (3, 0)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_shapes_and_dtypes(shape, dtype):
    y0 = torch.randn(shape, dtype=dtype)
    times = torch.tensor([0.0, 0.3, 1.0])
    sol = nde.solve(nde.ODEProblem(decay, y0, (0.0, 1.0)), saveat=times, dense=True, **tight(dtype))
    assert sol.ys.shape == (3, *shape)
    assert sol.ys.dtype == sol.y1.dtype == dtype
    assert sol.y1.shape == shape
    assert sol(0.5).shape == shape
    assert sol(0.5).dtype == dtype
    assert torch.equal(sol.ys[0], y0)
    assert torch.equal(sol.ys[-1], sol.y1)
    exact = y0 * torch.exp(-times.to(y0.dtype)).reshape(3, *[1] * len(shape))
    torch.testing.assert_close(sol.ys, exact, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("method", methods(), ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_method_keeps_the_dtype(method, dtype):
    y0 = torch.ones(2, dtype=dtype)
    sol = nde.solve(nde.ODEProblem(decay, y0, (0.0, 1.0)), method, dt=0.05, saveat=[0.51, 1.0], dense=True)
    assert sol.ys.dtype == sol.y1.dtype == sol(0.2).dtype == sol.derivative(0.2).dtype == dtype
    error = abs(sol.y1 - np.exp(-1.0)).max()
    assert error < (0.02 if method.order == 1 else 5e-3)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("per_sample", [False, True])
def test_the_field_sees_time_in_the_real_dtype_of_the_state(dtype, per_sample):
    field = Recorder(decay)
    y0 = torch.ones(3, 2, 2, dtype=dtype)
    nde.solve(nde.ODEProblem(field, y0, (0.0, 1.0)), per_sample=per_sample, saveat=[0.5])
    real = torch.float32 if dtype in (torch.float32, torch.complex64) else torch.float64
    assert {time.dtype for time in field.times} == {real}
    assert {tuple(time.shape) for time in field.times} == {(3, 1, 1) if per_sample else ()}


def test_a_real_field_drives_a_complex_state_only_where_it_says_so():
    y0 = torch.tensor([1.0 + 1.0j], dtype=torch.complex128)
    sol = nde.solve(nde.ODEProblem(lambda t, y: y.real, y0, (0.0, 1.0)), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(sol.y1, torch.tensor([np.e + 1.0j], dtype=torch.complex128), rtol=1e-7, atol=1e-7)


def test_complex_rotation():
    y0 = torch.tensor(1.0 + 0.0j, dtype=torch.complex128)
    sol = nde.solve(nde.ODEProblem(lambda t, y: 1j * y, y0, (0.0, 10.0)), nde.Dopri8(), rtol=1e-11, atol=1e-11)
    assert abs(sol.y1 - np.exp(10j)) < 1e-8


STRUCTURES = {
    "tuple": (torch.ones(2), torch.full((3, 1), 2.0)),
    "list": [torch.ones(2), torch.full((), 2.0)],
    "dict": {"b": torch.ones(2), "a": torch.full((2, 2), 2.0)},
    "ordered dict": OrderedDict(z=torch.ones(2), a=torch.zeros(1)),
    "named tuple": Pair(torch.ones(2), torch.full((2,), 3.0)),
    "nested": {"x": (torch.ones(1), [torch.ones(2, 2)]), "y": Pair(torch.ones(()), torch.ones(0))},
    "single in a tuple": (torch.ones(2, 2),),
    "mixed floats": (torch.ones(2, dtype=torch.float32), torch.ones(3, dtype=torch.float64)),
    "real and complex": {"r": torch.ones(2, dtype=torch.float32), "c": torch.ones(1, dtype=torch.complex64)},
}


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("saveat", [None, [0.0, 0.4, 1.0], "steps"], ids=str)
def test_structures_come_back_as_they_went_in(name, saveat):
    y0 = STRUCTURES[name]
    field = Recorder(decay, keep_states=True)
    sol = nde.solve(nde.ODEProblem(field, y0, (0.0, 1.0)), rtol=1e-6, atol=1e-7, saveat=saveat, dense=True)
    spec = pytree.tree_structure(y0)
    for state in (sol.ys, sol.y1, sol(0.3), sol.derivative(0.3), field.states[0], field.states[-1]):
        assert pytree.tree_structure(state) == spec
        assert type(state) is type(y0)
    rows = len(sol.ts)
    for leaf, saved, last in zip(*map(pytree.tree_leaves, (y0, sol.ys, sol.y1)), strict=True):
        assert saved.shape == (rows, *leaf.shape)
        assert saved.dtype == last.dtype == leaf.dtype
        assert torch.equal(saved[-1], last)
        torch.testing.assert_close(last, leaf * float(np.exp(-1.0)), rtol=1e-5, atol=1e-6)


def test_a_structure_gives_what_the_concatenated_state_gives():
    parts = (torch.tensor([1.0, 2.0], dtype=torch.float64), torch.tensor([[3.0]], dtype=torch.float64))
    split = nde.solve(nde.ODEProblem(lambda t, y: (-y[0] * t, y[1] - y[0].sum()), parts, (0.0, 1.0)))
    flat = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)

    def joined(t, y):
        return torch.cat([-y[:2] * t, y[2:] - y[:2].sum()])

    whole = nde.solve(nde.ODEProblem(joined, flat, (0.0, 1.0)))
    assert torch.equal(torch.cat([split.y1[0], split.y1[1].reshape(-1)]), whole.y1)
    assert split.stats == whole.stats


def test_a_dict_from_the_field_may_be_in_any_order():
    y0 = {"a": torch.ones(1), "b": torch.ones(2)}
    sol = nde.solve(nde.ODEProblem(lambda t, y: {"b": -2 * y["b"], "a": -y["a"]}, y0, (0.0, 1.0)), rtol=1e-6)
    torch.testing.assert_close(sol.y1["a"], torch.exp(-torch.ones(1)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(sol.y1["b"], torch.exp(-2 * torch.ones(2)), rtol=1e-4, atol=1e-5)


def test_args_are_unpacked():
    y0 = torch.ones(2, dtype=torch.float64)
    seen = []

    def f(t, y, rate, options):
        seen.append(options["name"])
        return -rate * y

    sol = nde.solve(nde.ODEProblem(f, y0, (0.0, 1.0), args=(torch.tensor(2.0), {"name": "x"})), rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(sol.y1, torch.exp(-2 * y0), rtol=1e-6, atol=1e-7)
    assert set(seen) == {"x"}


def test_a_field_may_return_its_state_itself():
    y0 = torch.ones(2, dtype=torch.float64)
    for method in methods():
        sol = nde.solve(nde.ODEProblem(lambda t, y: y, y0, (0.0, 1.0)), method, dt=0.01, saveat="steps")
        assert abs(sol.y1 - np.e).max() < 0.02
        assert torch.equal(y0, torch.ones(2, dtype=torch.float64))


def test_the_initial_state_is_not_changed_and_not_aliased():
    y0 = torch.ones(2, dtype=torch.float64)
    sol = nde.solve(nde.ODEProblem(lambda t, y: -y, y0, (0.0, 1.0)), saveat=[0.0, 1.0])
    sol.ys[0] = 5.0
    assert torch.equal(y0, torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize("grad", [False, True])
def test_a_field_that_changes_its_state_in_place_is_refused(grad):
    def f(t, y):
        y.mul_(-1.0)
        return y

    problem = nde.ODEProblem(f, torch.ones(2, dtype=torch.float64), (0.0, 1.0))
    with torch.set_grad_enabled(grad), pytest.raises((nde.InvalidProblemError, RuntimeError), match=r"in.place"):
        nde.solve(problem)


def test_solves_run_in_inference_mode_and_under_no_grad():
    problem = nde.ODEProblem(lambda t, y: -y, torch.ones(2), (0.0, 1.0))
    expected = nde.solve(problem).y1
    with torch.inference_mode():
        assert torch.equal(nde.solve(problem).y1, expected)
    with torch.no_grad():
        assert torch.equal(nde.solve(problem).y1, expected)


def test_a_solve_repeats_to_the_last_bit():
    problem = nde.ODEProblem(lambda t, y: torch.sin(t) - y**3, torch.randn(7), (0.0, 3.0))
    first, second = (nde.solve(problem, saveat="steps", trace=True) for _ in range(2))
    assert torch.equal(first.ys, second.ys)
    assert torch.equal(first.trace.error, second.trace.error)
