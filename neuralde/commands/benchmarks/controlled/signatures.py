"""Signatures of a batch of paths, forward and backward, beside pySigLib's and signax's under jit."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from neuralde.solvers import signature

from ...reporting import Row, text_table
from ..measuring import Run, Settings, alternate, verdict
from ..peers import installed
from ..targets import SIGNATURES

DEPTH = 4
WORK = ("forward", "forward+backward")


def run(settings: Settings) -> Row:
    """64 paths of 1,000 points in 4 channels, to depth 4, float32; the backward pass is of the sum of squares."""
    paths, points = (2, 20) if settings.quick else (64, 1000)
    generator = torch.Generator().manual_seed(0)
    xs = (torch.randn(points, paths, 4, generator=generator).cumsum(0) / 30).to(settings.device)
    runs: dict[tuple[str, str], Run] = dict(_ours(xs))
    result = signature(xs, DEPTH)
    differences = {}
    for name, make in (("signax", _signax), ("pysiglib", _pysiglib)):
        peer = installed(name)
        if peer is not None:
            made, differences[name] = make(peer, xs, result)
            runs |= {(name, work): timed for work, timed in made.items()}
    # Work of one processor: its own time, which other work on the machine disturbs less.
    clock = time.perf_counter if settings.cuda else time.process_time
    taken = alternate({" / ".join(key): timed for key, timed in runs.items()}, settings, clock)
    rows = []
    for name, work in runs:
        mine, theirs = (taken[f"{who} / {work}"]["low"] for who in ("neuralde", name))
        row = dict(work=work, library=name, ms=theirs, ratio=theirs / mine, difference=differences.get(name, 0.0))
        target = SIGNATURES.get(name) if work == "forward+backward" else None
        rows.append(row | dict(target=target, verdict=verdict(row["ratio"], target)))
    return {"paths": paths, "points": points, "channels": 4, "depth": DEPTH, "rows": rows}


def _ours(xs: Tensor) -> dict[tuple[str, str], Run]:
    def both() -> Tensor:
        leaf = xs.detach().requires_grad_()
        return torch.autograd.grad(signature(leaf, DEPTH).square().sum(), leaf)[0]

    forward: Callable[[], Tensor] = torch.no_grad()(lambda: signature(xs, DEPTH))
    return {("neuralde", WORK[0]): forward, ("neuralde", WORK[1]): both}


def _signax(signax: Any, xs: Tensor, ours: Tensor) -> tuple[dict[str, Run], float]:
    """Under jit; the gradient by ``jax.value_and_grad``."""
    jax: Any = importlib.import_module("jax")
    paths = jax.numpy.asarray(xs.movedim(0, 1).cpu().numpy())
    forward = jax.jit(lambda p: signax.signature(p, DEPTH))
    both = jax.jit(jax.value_and_grad(lambda p: (signax.signature(p, DEPTH) ** 2).sum()))
    difference = abs(ours.cpu().numpy() - jax.device_get(forward(paths))).max()
    return {
        WORK[0]: lambda: jax.block_until_ready(forward(paths)),
        WORK[1]: lambda: jax.block_until_ready(both(paths)),
    }, float(difference)


def _pysiglib(pysiglib: Any, xs: Tensor, ours: Tensor) -> tuple[dict[str, Run], float]:
    """With one job; the gradient by its own function."""
    paths = xs.movedim(0, 1).contiguous().cpu()

    def forward() -> Any:
        return pysiglib.sig(paths, DEPTH, n_jobs=1)

    def both() -> Any:
        result = forward()
        return pysiglib.sig_backprop(paths, result, 2 * result, DEPTH, n_jobs=1)

    return {WORK[0]: forward, WORK[1]: both}, float((ours.cpu() - forward()).abs().max())


def show(result: Row) -> str:
    """The table: the least time of each, and its ratio to the library's."""
    columns = [("work", "work", ""), ("library", "library", ""), ("ms", "ms", ".2f"), ("ratio", "ratio", ".2f")]
    columns += [("difference", "difference", ".1e"), ("at least", "target", ".1f"), ("verdict", "verdict", "")]
    return text_table(result["rows"], columns)


def draw(result: Row, figure: Any) -> None:
    """Bars: the time of each."""
    figure.set_size_inches(8, 3)
    axis = figure.subplots()
    axis.barh([f"{row['work']}: {row['library']}" for row in result["rows"]], [row["ms"] for row in result["rows"]])
    axis.set(xlabel="ms", title=f"{result['paths']} paths, {result['points']} points, depth {result['depth']}")
