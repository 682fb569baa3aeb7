"""Signatures: identities of the algebra, values of other packages, gradients, memory, transforms, refusals."""

import json
from itertools import combinations, product

import numpy as np
import pytest
import torch

import neuralde as nde
from neuralde.solvers.paths.signatures import signature as module
from neuralde.solvers.paths.signatures import tensor_algebra as algebra
from neuralde.solvers.paths.signatures.lie import hall_brackets, lyndon_words

F64 = torch.float64


def path(points, *shape, seed=0, device="cpu"):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(points, *shape, dtype=F64, generator=generator).cumsum(0) / points**0.5).to(device)


@pytest.fixture(params=["one block", "many blocks"])
def blocks(request, monkeypatch):
    """The same path in one block, and in blocks of 128 steps and groups of one path."""
    if request.param == "many blocks":
        monkeypatch.setattr(module, "ENTRIES", {"cpu": 1, "cuda": 1})
    return 300 if request.param == "many blocks" else 20


# Of the path (0, 0), (1, 0.5), (1.5, -1), (0.25, 2): iisignature 0.24 (signature, Lyndon basis), esig 1.0.0 (Hall basis) and
# signax 0.2.1 (coefficients of Lyndon words).
POINTS = [[0.0, 0.0], [1.0, 0.5], [1.5, -1.0], [0.25, 2.0]]
IISIGNATURE = [0.25, 2.0, 0.03125, 1.0, -0.5, 2.0, 0.002604166666666685, 0.23958333333333348, -0.22916666666666674,
               0.979166666666667, 0.05208333333333326, 0.04166666666666674, -0.5208333333333335, 1.3333333333333335]  # fmt: skip
PEERS = {
    "lyndon": [0.25, 2.0, 0.75, 0.125, 0.0625, -0.00585937499999998, -0.02343749999999996, -0.0859375,
               -0.009944661458333353, -0.03548177083333337, 0.009114583333333329, -0.056705729166666725,
               -0.009374999999999998, -0.022135416666666685],
    "brackets": [0.25, 2.0, 0.75, 0.125, -0.0625, -0.00585937499999999, 0.02343749999999993, -0.0859375,
                 -0.009944661458333316, 0.03548177083333325, -0.05670572916666666, 0.02213541666666665,
                 0.026367187499999924, -0.04733072916666669],
    "words": [0.25, 2.0, 0.75, 0.125, 0.0625, -0.005859375, -0.0234375, -0.0859375, -0.009944661458333443,
              -0.03548177083333311, 0.08007812500000007, -0.05670572916666683, 0.16074218749999997, -0.02213541666666738],
}  # fmt: skip


def test_values_of_other_packages(device):
    xs = torch.tensor(POINTS, dtype=F64, device=device)
    torch.testing.assert_close(nde.signature(xs, 3).cpu(), torch.tensor(IISIGNATURE, dtype=F64), rtol=0, atol=1e-14)
    for basis, values in PEERS.items():
        got = nde.logsignature(xs, 5, basis).cpu()
        torch.testing.assert_close(got, torch.tensor(values, dtype=F64), rtol=0, atol=2e-14)


def test_labels_of_iisignature_and_esig():
    assert (
        nde.logsignature_keys(2, 5)[5:]
        == (
            "[1,[1,[1,2]]] [1,[[1,2],2]] [[[1,2],2],2] [1,[1,[1,[1,2]]]] [1,[1,[[1,2],2]]] [[1,[1,2]],[1,2]] "
            "[1,[[[1,2],2],2]] [[1,2],[[1,2],2]] [[[[1,2],2],2],2]"
        ).split()
    )
    assert (
        nde.logsignature_keys(2, 5, "brackets")
        == (
            "1 2 [1,2] [1,[1,2]] [2,[1,2]] [1,[1,[1,2]]] [2,[1,[1,2]]] [2,[2,[1,2]]] [1,[1,[1,[1,2]]]] [2,[1,[1,[1,2]]]] "
            "[2,[2,[1,[1,2]]]] [2,[2,[2,[1,2]]]] [[1,2],[1,[1,2]]] [[1,2],[2,[1,2]]]"
        ).split()
    )
    assert nde.logsignature_keys(11, 2, "words")[10:13] == ["11", "1,2", "1,3"]


def test_sizes_by_counting_words():
    for channels, depth in product((1, 2, 3, 5), (1, 2, 3, 4, 5)):
        words = lyndon_words(channels, depth)
        rotations_above = [w for w in words if all(w < w[i:] + w[:i] for i in range(1, len(w)))]
        assert rotations_above == words == sorted(set(words), key=lambda w: (len(w), w))
        assert nde.logsignature_channels(channels, depth) == len(words) == len(hall_brackets(channels, depth))
        assert nde.signature_channels(channels, depth) == sum(channels**k for k in range(1, depth + 1))
    table = {2: (2, 3, 5, 8), 4: (4, 10, 30, 90), 10: (10, 55, 385)}  # the log-ODE paper's
    for channels, sizes in table.items():
        assert tuple(nde.logsignature_channels(channels, n + 1) for n in range(len(sizes))) == sizes


@pytest.mark.parametrize("depth", range(1, 8))
def test_a_straight_line_is_an_exponential(depth):
    xs = torch.tensor([[1.0, -2.0, 0.5], [1.5, 0.0, -1.0]], dtype=F64)
    level, expected = torch.ones(1, dtype=F64), []
    for k in range(1, depth + 1):
        level = torch.outer(level, xs[1] - xs[0]).flatten() / k
        expected.append(level)
    torch.testing.assert_close(nde.signature(xs, depth), torch.cat(expected), rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("depth", range(1, 7))
def test_chen_inverse_and_prefixes(depth, blocks, device):
    xs = path(blocks, 2, 3, device=device) if depth < 6 else path(blocks, 1, 2, device=device)
    cut = blocks // 3
    whole, sizes = nde.signature(xs, depth), (xs.shape[-1], depth)
    head, tail = nde.signature(xs[: cut + 1], depth), nde.signature(xs[cut:], depth)
    torch.testing.assert_close(nde.signature_multiply(head, tail, *sizes), whole, rtol=1e-12, atol=1e-12)
    inverse = nde.signature_inverse(whole, *sizes)
    torch.testing.assert_close(inverse, nde.signature(xs.flip(0), depth), rtol=1e-12, atol=1e-12)
    nothing = nde.signature_multiply(whole, inverse, *sizes)
    torch.testing.assert_close(nothing, torch.zeros_like(whole), rtol=0, atol=1e-11)
    stream = nde.signature(xs, depth, stream=True)
    assert stream.shape == (blocks, *whole.shape)
    assert not stream[0].any()
    torch.testing.assert_close(stream[-1], whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(stream[cut], head, rtol=1e-12, atol=1e-12)
    assert nde.signature(xs[:1], depth).shape == whole.shape


def test_shuffles():
    """The product of two coordinates is the sum over all ways to shuffle their words."""
    channels, depth = 3, 6
    levels = algebra.split(nde.signature(path(15, channels), depth), channels, depth)

    def coordinate(word):
        return levels[len(word) - 1].reshape((channels,) * len(word))[word]

    for a, b in (((0,), (1,)), ((0, 1), (2,)), ((0, 1), (1, 2)), ((2, 0, 1), (1, 0)), ((0, 0, 1), (2, 1, 2))):
        total = 0.0
        for places in combinations(range(len(a) + len(b)), len(a)):
            first, second = iter(a), iter(b)
            total += coordinate(tuple(next(first) if i in places else next(second) for i in range(len(a) + len(b))))
        torch.testing.assert_close(total, coordinate(a) * coordinate(b), rtol=1e-12, atol=1e-13)


def test_reparametrisation_and_log_and_exp():
    xs = path(9, 2)
    fine = torch.cat([torch.lerp(xs[i], xs[i + 1], torch.linspace(0, 1, 5 + i, dtype=F64)[:, None]) for i in range(8)])
    for depth in (1, 2, 5):
        torch.testing.assert_close(nde.signature(fine, depth), nde.signature(xs, depth), rtol=1e-12, atol=1e-13)
        levels = algebra.split(nde.signature(xs, depth), 2, depth)
        for again, level in zip(algebra.exp(algebra.log(levels)), levels, strict=True):
            torch.testing.assert_close(again, level, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("basis", ["lyndon", "brackets"])
def test_brackets_expand_to_the_logarithm(basis):
    """The coordinates times the brackets, written out as words with NumPy's outer products, are the tensor logarithm."""
    xs, depth = path(12, 3), 4
    log = algebra.log(algebra.split(nde.signature(xs, depth), 3, depth))
    total = [np.zeros((3,) * k) for k in range(1, depth + 1)]
    for key, value in zip(nde.logsignature_keys(3, depth, basis), nde.logsignature(xs, depth, basis), strict=True):
        bracket = expand(json.loads(key))  # a label is a nested list of ints
        total[bracket.ndim - 1] += bracket * value.item()
    for level, expected in zip(total, log, strict=True):
        np.testing.assert_allclose(level.reshape(-1), expected.numpy(), rtol=0, atol=1e-13)


def expand(bracket):
    if isinstance(bracket, int):
        return np.eye(3)[bracket - 1]
    a, b = map(expand, bracket)
    return np.multiply.outer(a, b) - np.multiply.outer(b, a)


@pytest.mark.parametrize("depth", range(1, 7))
def test_gradient_is_that_of_the_prefixes(depth, blocks, device):
    """The stream goes another way, by running sums that autograd differentiates."""
    xs = path(blocks, 2, 2, device=device).requires_grad_()
    weights = torch.randn(2, nde.signature_channels(2, depth), dtype=F64).to(device)
    ours = torch.autograd.grad((nde.signature(xs, depth) * weights).sum(), xs)[0]
    other = torch.autograd.grad((nde.signature(xs, depth, stream=True)[-1] * weights).sum(), xs)[0]
    torch.testing.assert_close(ours, other, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("basis", ["lyndon", "words", "brackets"])
def test_finite_differences(basis, stream):
    xs = path(4, 2, 2).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda v: nde.logsignature(v, 3, basis, stream=stream), xs, check_forward_ad=True, check_batched_grad=True
    )
    assert torch.autograd.gradgradcheck(lambda v: nde.logsignature(v, 3, basis, stream=stream), xs)


def test_transforms():
    xs = path(5, 3, 2)

    def loss(v):
        return nde.signature(v, 3).square().sum()

    reference = torch.autograd.grad(loss(xs.requires_grad_()), xs)[0]
    xs = xs.detach()
    torch.testing.assert_close(torch.func.grad(loss)(xs), reference)
    lanes = torch.func.vmap(torch.func.grad(loss), in_dims=1, out_dims=1)(xs)
    torch.testing.assert_close(lanes, reference)
    hessian = torch.func.hessian(loss)(xs)
    torch.testing.assert_close(hessian, torch.autograd.functional.hessian(loss, xs))


# dynamo itself instantiates any autograd.Function that it traces
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiled_in_one_graph():
    xs = path(150, 2, 3).requires_grad_()
    for basis, stream in (("lyndon", False), ("words", True)):
        compiled = torch.compile(
            lambda v, basis=basis, stream=stream: nde.logsignature(v, 3, basis, stream=stream).square().sum(),
            fullgraph=True,
            backend="aot_eager",
        )
        ours = torch.autograd.grad(compiled(xs), xs)[0]
        eager = torch.autograd.grad(nde.logsignature(xs, 3, basis, stream=stream).square().sum(), xs)[0]
        torch.testing.assert_close(ours, eager)


def test_the_backward_pass_keeps_the_path_only():
    """Bytes that autograd holds from the call to the backward pass do not depend on the length, beyond the path's own."""
    held = []
    for points in (200, 2000):
        xs, sizes = path(points, 4, 3).requires_grad_(), []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, sizes=sizes: sizes.append(x.numel()) or x, lambda x: x):
            nde.signature(xs, 4)
        held.append(sum(sizes) - (points - 1) * 4 * 3)
    assert held[0] == held[1] == 4 * nde.signature_channels(3, 4)


def test_depth_eight_in_eight_channels():
    xs = path(3, 8)
    s = nde.signature(xs, 8)
    assert s.shape == (nde.signature_channels(8, 8),) == (19173960,)
    first, second = (xs.diff(dim=0)[i] for i in (0, 1))
    word = torch.zeros((), dtype=F64)
    factorials = [1.0]
    for n in range(1, 9):
        factorials.append(factorials[-1] * n)
    for cut in range(9):  # the first `cut` letters on the first line, the rest on the second
        letters = [0, 3, 7, 7, 1, 2, 5, 0]
        head = torch.stack([first[i] for i in letters[:cut]]).prod() if cut else 1.0
        tail = torch.stack([second[i] for i in letters[cut:]]).prod() if cut < 8 else 1.0
        word = word + head * tail / factorials[cut] / factorials[8 - cut]
    place = 0
    for letter in letters:
        place = place * 8 + letter
    torch.testing.assert_close(s[nde.signature_channels(8, 7) + place], word, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: nde.signature([[0.0]], 2), "xs: got list"),
        (lambda: nde.signature(torch.zeros(3, 2, dtype=torch.int64), 2), "xs: got dtype torch.int64"),
        (lambda: nde.signature(torch.zeros(3, 2, dtype=torch.complex64), 2), "xs: got dtype torch.complex64"),
        (lambda: nde.signature(torch.zeros(3), 2), r"xs: got shape \(3,\)"),
        (lambda: nde.signature(torch.zeros(0, 2), 2), r"xs: got shape \(0, 2\)"),
        (lambda: nde.signature(torch.zeros(3, 2), 0), "depth: got 0"),
        (lambda: nde.signature(torch.zeros(3, 2), True), "depth: got True"),
        (lambda: nde.logsignature(torch.zeros(3, 2), 2.0), "depth: got 2.0"),
        (lambda: nde.logsignature(torch.zeros(3, 2), 2, "hall"), "basis: got 'hall'"),
        (lambda: nde.logsignature(torch.zeros(3, 8), 8), "basis: got 'lyndon' with 2447592 brackets"),
        (lambda: nde.logsignature_channels(0, 2), "channels: got 0"),
        (lambda: nde.signature_inverse(torch.zeros(5), 2, 2), r"s: got shape \(5,\); expected a signature \(..., 6\)"),
        (lambda: nde.signature_multiply(torch.zeros(6), torch.zeros(7), 2, 2), "b: got"),
    ],
)
def test_refusals(call, words):
    with pytest.raises(nde.InvalidProblemError, match=words):
        call()
