"""Whole solves of a tanh network field against torchdiffeq, torchode and Diffrax."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from neuralde.adjoints import Adjoint, BacksolveAdjoint, DirectAdjoint, DiscreteAdjoint
from neuralde.solvers import ODEProblem

from ...solving import solve
from ...testing.counting import host_syncs, peak_bytes
from ..reporting import Row, text_table
from . import peers
from .measuring import Run, Settings, alternate, mlp, verdict
from .targets import SPEED

SIZES = {"small": (20, 2, 50), "middle": (128, 64, 64), "large": (512, 64, 128)}
QUICK = {"small": (4, 2, 8)}
TOLERANCE = 1e-6
BACKWARD = "forward+backward"


class Workload:
    """One size: the network, the initial state and the end to compare with."""

    def __init__(self, size: str, shape: tuple[int, int, int], settings: Settings) -> None:
        batch, dim, hidden = shape
        self.size, self.settings = size, settings
        self.t1 = 1.0 if settings.quick else 10.0
        self.net = mlp(dim, hidden, settings.device)
        self.y0 = torch.randn(batch, dim).to(settings.device)
        tight = mlp(dim, hidden, settings.device).double()
        with torch.no_grad():
            problem = ODEProblem(lambda t, y: tight(y), self.y0.double(), (0.0, self.t1))
            self.exact = solve(problem, rtol=1e-12, atol=1e-12).y1
        self.calls = 0

    def field(self, t: Tensor, y: Tensor) -> Tensor:
        """The field that is timed."""
        return self.net(y)

    def counted(self, t: Tensor, y: Tensor) -> Tensor:
        """The field with its calls counted."""
        self.calls += 1
        return self.net(y)

    def error(self, y1: Tensor) -> float:
        """The largest difference from the end at a tight tolerance in float64."""
        return (y1.detach().double() - self.exact).abs().max().item()

    def trained(self, run: Callable[[], Tensor]) -> Run:
        """A run followed by the backward pass to the parameters."""

        def step() -> Tensor:
            self.net.zero_grad()
            y1 = run()
            y1.square().sum().backward()
            return y1.detach()

        return step


def run(settings: Settings) -> Row:
    """Every contender at every size, and the ratios that have a target."""
    modules = {name: peers.installed(name) for name in peers.PEERS}
    rows: list[Row] = []
    for size, shape in (QUICK if settings.quick else SIZES).items():
        torch.compiler.reset()
        rows += _size(Workload(size, shape, settings), modules)
    return {"tolerance": TOLERANCE, "rows": rows, "comparisons": comparisons(rows)}


def _size(work: Workload, modules: dict[str, Any]) -> list[Row]:
    runs: dict[str, Run] = {}
    rows: dict[str, Row] = {}

    def add(library: str, what: str, mode: str, timed: Run, note: Row) -> None:
        name = f"{library} {what} {mode}"
        runs[name] = timed
        rows[name] = dict(size=work.size, library=library, what=what, mode=mode) | note

    _add_ours(work, add)
    if modules["torchdiffeq"] is not None:
        _add_torchdiffeq(work, modules["torchdiffeq"], add)
    if modules["torchode"] is not None:
        _add_torchode(work, modules["torchode"], add)
    if modules["diffrax"] is not None and not work.settings.cuda:
        _add_diffrax(work, modules["diffrax"], add)
    calls = next((row["calls"] for row in rows.values() if row["library"] == "torchdiffeq"), 50)
    times, y0 = torch.zeros((), device=work.y0.device), work.y0

    @torch.no_grad()
    def alone() -> None:
        for _ in range(calls):
            work.field(times, y0)

    add("the field alone", "forward", "eager", alone, dict(calls=calls))
    for name, taken in alternate(runs, work.settings).items():
        rows[name] |= taken
    return list(rows.values())


def _observed(work: Workload, timed: Run, counted: Run) -> Row:
    """Everything about an eager contender but its time."""
    work.calls = 0
    y1 = counted()
    return dict(
        error=work.error(y1),
        calls=work.calls,
        syncs=host_syncs(timed),
        peak_mb=peak_bytes(timed, work.settings.device) / 1e6,
    )


def _add_ours(work: Workload, add: Callable[..., None]) -> None:
    def ours(field: Any, adjoint: Adjoint | None, per_sample: bool = False) -> Any:
        problem = ODEProblem(field, work.y0, (0.0, work.t1))
        return lambda: solve(problem, rtol=TOLERANCE, atol=TOLERANCE, adjoint=adjoint, per_sample=per_sample)

    def end(run: Callable[[], Any]) -> Callable[[], Tensor]:
        return lambda: run().y1

    for per_sample in (False, True):
        name = "neuralde per-sample" if per_sample else "neuralde"
        sol = ours(work.field, None, per_sample)()
        steps = int(torch.as_tensor(sol.stats.steps).max())
        quiet, counted = (torch.no_grad()(end(ours(f, None, per_sample))) for f in (work.field, work.counted))
        add(name, "forward", "eager", quiet, _observed(work, quiet, counted) | dict(steps=steps))
        for adjoint in (DiscreteAdjoint(), DirectAdjoint(), *(() if per_sample else (BacksolveAdjoint(),))):
            kind = adjoint.name.removesuffix("Adjoint").lower()
            timed, seen = (work.trained(end(ours(f, adjoint, per_sample))) for f in (work.field, work.counted))
            note = _observed(work, timed, seen) | dict(steps=steps)
            add(f"{name} {kind}", BACKWARD, "eager", timed, note)
        for what in ("forward",) if work.settings.quick else ("forward", BACKWARD):
            compiled, seconds = _compiled(work, what, per_sample)
            note = dict(error=work.error(compiled()), calls=int(torch.as_tensor(sol.stats.nfe).max()), steps=steps)
            add(name, what, "compiled", compiled, note | dict(compile_s=seconds))


def _compiled(work: Workload, what: str, per_sample: bool) -> tuple[Run, float]:
    """A compiled contender after its first call, and how long that took."""

    def whole(y0: Tensor) -> Tensor:
        problem = ODEProblem(work.field, y0, (0.0, work.t1))
        return solve(problem, rtol=TOLERANCE, atol=TOLERANCE, per_sample=per_sample).y1

    graph = torch.compile(whole, fullgraph=True, backend="eager" if work.settings.quick else "inductor")
    run = torch.no_grad()(lambda: graph(work.y0)) if what == "forward" else work.trained(lambda: graph(work.y0))
    start = time.perf_counter()
    run()
    work.settings.synchronize()
    return run, time.perf_counter() - start


def _add_torchdiffeq(work: Workload, module: Any, add: Callable[..., None]) -> None:
    def theirs(field: Any, net: nn.Module | None = None) -> Callable[[], Tensor]:
        return peers.torchdiffeq_solver(module, field, work.y0, work.t1, TOLERANCE, net)

    quiet, counted = (torch.no_grad()(theirs(f)) for f in (work.field, work.counted))
    note = _observed(work, quiet, counted)
    # Two calls choose the first step, six make each attempt; the last slope of one is the first of the next.
    note["steps"] = (note["calls"] - 2) // 6
    add("torchdiffeq", "forward", "eager", quiet, note)
    for name, net in (("torchdiffeq", None), ("torchdiffeq adjoint", work.net)):
        timed, seen = (work.trained(theirs(f, net)) for f in (work.field, work.counted))
        add(name, BACKWARD, "eager", timed, _observed(work, timed, seen) | dict(steps=note["steps"]))


def _add_torchode(work: Workload, module: Any, add: Callable[..., None]) -> None:
    def end(field: Any) -> Callable[[], Tensor]:
        run = peers.torchode_solver(module, field, work.y0, work.t1, TOLERANCE)
        return lambda: run().ys[:, -1]

    with torch.no_grad():
        sol = peers.torchode_solver(module, work.field, work.y0, work.t1, TOLERANCE)()
    steps = int(sol.stats["n_steps"].max())
    quiet, counted = (torch.no_grad()(end(f)) for f in (work.field, work.counted))
    add("torchode", "forward", "eager", quiet, _observed(work, quiet, counted) | dict(steps=steps))
    timed, seen = (work.trained(end(f)) for f in (work.field, work.counted))
    add("torchode", BACKWARD, "eager", timed, _observed(work, timed, seen) | dict(steps=steps))


def _add_diffrax(work: Workload, module: Any, add: Callable[..., None]) -> None:
    forward, gradient = peers.diffrax_solvers(module, work.net, work.y0, work.t1, TOLERANCE)
    start = time.perf_counter()
    y1, stats = forward()
    first = time.perf_counter() - start
    # It does not count calls: six make each attempt of Tsit5, two come before the first.
    steps = int(stats["num_steps"])
    note = dict(error=work.error(torch.tensor(y1.tolist())), steps=steps, calls=6 * steps + 2)
    add("diffrax", "forward", "jit", forward, note | dict(compile_s=first))
    start = time.perf_counter()
    gradient()
    add("diffrax", BACKWARD, "jit", gradient, note | dict(calls=None, compile_s=time.perf_counter() - start))


def comparisons(rows: list[Row]) -> list[Row]:
    """The ratios that are asked for, a peer's time divided by the library's, joint steps; and what the field alone would allow."""
    found = []
    for (what, ours, mode, peer), targets in SPEED.items():
        for size in dict.fromkeys(row["size"] for row in rows):
            here = {(row["library"], row["mode"]): row for row in rows if (row["size"], row["what"]) == (size, what)}
            mine = here.get((ours, mode))
            other = next((row for (library, _), row in here.items() if library == peer), None)
            if mine is not None and other is not None:
                ratio, target = other["ms"] / mine["ms"], targets.get(size)
                row = dict(size=size, what=what, ours=ours, mode=mode, peer=peer, ratio=ratio, target=target)
                alone = here.get(("the field alone", mode))
                if alone is not None:
                    # With a solver that costs nothing, what is left is our calls of the field.
                    row["at_best"] = other["ms"] / (alone["ms"] * mine["calls"] / alone["calls"])
                found.append(row | dict(verdict=verdict(ratio, target)))
    return found


def show(result: Row) -> str:
    """Both tables."""
    columns = [("size", "size", ""), ("library", "library", ""), ("what", "what", ""), ("mode", "mode", "")]
    columns += [("ms", "ms", ".2f"), ("min", "low", ".2f"), ("max", "high", ".2f"), ("error", "error", ".1e")]
    columns += [
        ("calls", "calls", "d"),
        ("steps", "steps", "d"),
        ("syncs", "syncs", "d"),
        ("peak MB", "peak_mb", ".2f"),
    ]
    columns += [("first call s", "compile_s", ".1f")]
    ratios = [
        ("size", "size", ""),
        ("what", "what", ""),
        ("ours", "ours", ""),
        ("mode", "mode", ""),
        ("against", "peer", ""),
    ]
    ratios += [
        ("ratio", "ratio", ".2f"),
        ("at best", "at_best", ".2f"),
        ("target", "target", ".2f"),
        ("verdict", "verdict", ""),
    ]
    return f"{text_table(result['rows'], columns)}\n\n{text_table(result['comparisons'], ratios)}"


def draw(result: Row, figure: Any) -> None:
    """Bars of milliseconds, a panel for each size and each thing computed."""
    sizes = list(dict.fromkeys(row["size"] for row in result["rows"]))
    figure.set_size_inches(6.5 * len(sizes), 9)
    for index, what in enumerate(("forward", BACKWARD)):
        for column, size in enumerate(sizes):
            rows = [row for row in result["rows"] if (row["size"], row["what"]) == (size, what)]
            rows.sort(key=lambda row: -row["ms"])
            axis = figure.add_subplot(2, len(sizes), index * len(sizes) + column + 1)
            names = [f"{row['library']}, {row['mode']}" for row in rows]
            colors = ["C0" if row["library"].startswith("neuralde") else "0.65" for row in rows]
            spread = [[row["ms"] - row["low"] for row in rows], [row["high"] - row["ms"] for row in rows]]
            axis.barh(names, [row["ms"] for row in rows], xerr=spread, color=colors, capsize=2)
            for place, row in enumerate(rows):
                axis.annotate(f"{row['ms']:.1f}", (row["high"], place), (4, 0), textcoords="offset points", va="center")
            axis.margins(x=0.15)
            axis.set(title=f"{what}, {size}", xlabel="ms, median, least and most")
            axis.grid(alpha=0.3, axis="x")
