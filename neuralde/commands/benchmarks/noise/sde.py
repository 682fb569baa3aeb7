"""What a stochastic solve costs, eager and compiled, against torchsde, a loop by hand, and with fractional noise."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from neuralde.solvers import (
    SRIW1,
    ConstantStep,
    EulerHeun,
    EulerMaruyama,
    ExponentialEuler,
    ExponentialHeun,
    FractionalNoise,
    ItoMilstein,
    Method,
    ReversibleHeun,
    SDEProblem,
    SemilinearSDEProblem,
)

from ....solving import solve
from ...reporting import Row, text_table
from .. import peers
from ..measuring import Run, Settings, alternate, mlp, verdict
from ..targets import (
    FILTERED_AT_MOST,
    SDE_AGAINST_LOOP_AT_MOST,
    SDE_AGAINST_TORCHSDE,
    SDE_COMPILED_AGAINST_TORCHSDE,
)


@dataclass(frozen=True)
class _Pair:
    """A method and its name in torchsde."""

    method: Callable[[], Method]
    peer: str
    calculus: str
    options: tuple[tuple[str, Any], ...] = ()
    compiled: bool = True


PAIRS = {
    "EulerMaruyama": _Pair(EulerMaruyama, "euler", "ito"),
    "ItoMilstein": _Pair(ItoMilstein, "milstein", "ito", (("grad_free", True),)),
    "SRIW1": _Pair(SRIW1, "srk", "ito"),
    "EulerHeun": _Pair(EulerHeun, "euler_heun", "stratonovich", compiled=False),
    "ReversibleHeun": _Pair(ReversibleHeun, "reversible_heun", "stratonovich"),
}


class _Field(nn.Module):
    """A network drifts; each component has a noise that depends on it. Named as torchsde asks for."""

    noise_type = "diagonal"

    def __init__(self, dim: int, calculus: str, device: str) -> None:
        super().__init__()
        self.sde_type, self.net = calculus, mlp(dim, 32, device)

    def f(self, t: Tensor, y: Tensor) -> Tensor:
        """The drift."""
        drift: Tensor = self.net(y)
        return drift

    def g(self, t: Tensor, y: Tensor) -> Tensor:
        """The diffusion."""
        return 0.2 + 0.1 * torch.sin(y)


TRAINED = "EulerMaruyama"
"""The method whose backward pass is timed too."""


def run(settings: Settings) -> Row:
    """Every pair over the same steps, eager and compiled, and Euler's method by hand."""
    batch, dim, steps = (4, 2, 4) if settings.quick else (64, 4, 100)
    y0 = torch.linspace(-1.0, 1.0, batch * dim, device=settings.device).reshape(batch, dim)
    torchsde = peers.installed("torchsde")
    runs: dict[str, Run] = {}
    seconds: dict[str, float] = {}

    def add(name: str, field: _Field, solution: Callable[[], Tensor], trained: bool, graph: bool = False) -> None:
        for kind in ("", " training") if trained else ("",):
            runs[name + kind] = torch.no_grad()(solution) if not kind else _trained(field, solution)
            if graph:
                start = time.perf_counter()
                runs[name + kind]()
                seconds[name + kind] = time.perf_counter() - start

    for name, pair in PAIRS.items():
        field = _Field(dim, pair.calculus, settings.device)
        ours = _ours(field, pair, y0, steps)
        trained = name == TRAINED
        add(name, field, ours, trained)
        if pair.compiled:
            graph = torch.compile(ours, fullgraph=True, backend="eager" if settings.quick else "inductor")
            add(f"{name} compiled", field, graph, trained, graph=True)
        if torchsde is not None:
            add(f"torchsde {pair.peer}", field, _theirs(torchsde, field, pair, y0, steps), trained)
    runs["loop by hand"] = _loop(_Field(dim, "ito", settings.device), y0, steps)
    taken = alternate(runs, settings)
    rows = [
        dict(solve=name, us=1e3 * each["ms"] / steps, compile_s=seconds.get(name)) | each
        for name, each in taken.items()
    ]
    filtered = _filtered(settings)
    return {
        "batch": batch,
        "dim": dim,
        "steps": steps,
        "rows": rows,
        "comparisons": _comparisons(taken) + filtered,
    }


FILTERED: dict[str, tuple[Callable[[], Method], Callable[[], Method], str]] = {
    "Euler, additive noise": (ExponentialEuler, EulerMaruyama, "additive"),
    "Heun, diagonal noise": (ExponentialHeun, EulerHeun, "diagonal"),
}
TERMS = 8


def _filtered(settings: Settings) -> list[Row]:
    """1,000 paths of 1,000 steps with fractional noise (H = 0.3), 8 filters, against the same equation with white noise."""
    paths, steps = (4, 4) if settings.quick else (1000, 1000)
    x = torch.ones(paths, 1, dtype=torch.float64, device=settings.device)
    noise, rows = FractionalNoise(0.3, "II", terms=TERMS), []
    state, span = (x, x.new_zeros((*x.shape, TERMS))), (0.0, 1.0)
    for name, (filtered, white, kind) in FILTERED.items():
        drift, g = (lambda t, y: -_x(y)), _spread(kind)
        problems = {
            "fractional": SemilinearSDEProblem(drift, g, noise.rates, noise.weights, state, span, noise=kind),
            "white": SDEProblem(drift, g, x, span, noise=kind, calculus="stratonovich"),
        }
        methods = {"fractional": filtered(), "white": white()}
        runs: dict[str, Run] = {
            who: torch.no_grad()(partial(_fixed, problem, methods[who], steps)) for who, problem in problems.items()
        }
        # Work of one processor: its own time, which other work on the machine disturbs less.
        taken = alternate(runs, settings, time.perf_counter if settings.cuda else time.process_time)
        ratio = taken["fractional"]["low"] / taken["white"]["low"]
        what = f"{name}: fractional, {TERMS} filters / white"
        row = dict(what=what, ratio=ratio, target=FILTERED_AT_MOST)
        rows.append(row | dict(verdict=verdict(ratio, FILTERED_AT_MOST, at_most=True)))
    return rows


def _x(y: Any) -> Tensor:
    x: Tensor = y if isinstance(y, Tensor) else y[0]
    return x


def _spread(kind: str) -> Callable[[Tensor, Any], Tensor]:
    return lambda t, y: torch.full_like(_x(y), 0.5) if kind == "additive" else 0.5 * _x(y)


def _fixed(problem: Any, method: Method, steps: int) -> Any:
    return solve(problem, method, dt=1.0 / steps, controller=ConstantStep(), seed=0).y1


def _ours(field: _Field, pair: _Pair, y0: Tensor, steps: int) -> Callable[[], Tensor]:
    def whole() -> Tensor:
        problem = SDEProblem(field.f, field.g, y0, (0.0, 1.0), calculus=pair.calculus)
        end: Tensor = solve(problem, pair.method(), dt=1.0 / steps, controller=ConstantStep(), seed=0).y1
        return end

    return whole


def _theirs(torchsde: Any, field: _Field, pair: _Pair, y0: Tensor, steps: int) -> Callable[[], Tensor]:
    span = torch.tensor([0.0, 1.0], device=y0.device)
    options = dict(pair.options)
    return lambda: torchsde.sdeint(field, y0, span, method=pair.peer, dt=1.0 / steps, options=options)[-1]


def _trained(field: _Field, solution: Callable[[], Tensor]) -> Run:
    """A solve followed by the backward pass to the parameters."""

    def step() -> Tensor:
        field.zero_grad()
        y1 = solution()
        y1.square().sum().backward()
        return y1.detach()

    return step


def _loop(field: _Field, y0: Tensor, steps: int) -> Run:
    @torch.no_grad()
    def by_hand() -> Tensor:
        y, h = y0, 1.0 / steps
        for k in range(steps):
            t = torch.tensor(k * h, device=y.device)
            y = y + field.f(t, y) * h + field.g(t, y) * (torch.randn_like(y) * h**0.5)
        return y

    return by_hand


def _comparisons(taken: dict[str, Row]) -> list[Row]:
    """Ratios: the peer's time divided by the library's; the library's divided by the loop's."""
    pairs = []
    for name, pair in PAIRS.items():
        for kind in ("", " training"):
            peer = f"torchsde {pair.peer}{kind}"
            pairs.append((f"{name}{kind}", peer, SDE_AGAINST_TORCHSDE, False))
            pairs.append((f"{name} compiled{kind}", peer, SDE_COMPILED_AGAINST_TORCHSDE, False))
    pairs.append(("EulerMaruyama", "loop by hand", SDE_AGAINST_LOOP_AT_MOST, True))
    rows = []
    for mine, other, target, at_most in pairs:
        if mine in taken and other in taken:
            ratio = taken[other]["ms"] / taken[mine]["ms"]
            ratio = 1.0 / ratio if at_most else ratio
            name = f"{mine} / {other}" if at_most else f"{other} / {mine}"
            rows.append(dict(what=name, ratio=ratio, target=target, verdict=verdict(ratio, target, at_most)))
    return rows


def show(result: Row) -> str:
    """Times, and ratios beside their targets."""
    columns = [("solve", "solve", ""), ("ms", "ms", ".2f"), ("min", "low", ".2f"), ("max", "high", ".2f")]
    columns += [("µs/step", "us", ".1f"), ("first call s", "compile_s", ".1f")]
    ratios = [("ratio of times", "what", ""), ("ratio", "ratio", ".2f"), ("target", "target", ".1f")]
    ratios += [("verdict", "verdict", "")]
    size = f"state ({result['batch']}, {result['dim']}), diagonal noise, {result['steps']} steps"
    return f"{size}\n{text_table(result['rows'], columns)}\n\n{text_table(result['comparisons'], ratios)}"


def draw(result: Row, figure: Any) -> None:
    """Bars of time, on a logarithmic axis."""
    figure.set_size_inches(9, 6)
    axis = figure.subplots()
    names = [row["solve"] for row in result["rows"]]
    colors = ["0.65" if name.startswith(("torchsde", "loop")) else "C0" for name in names]
    axis.barh(names, [row["ms"] for row in result["rows"]], color=colors)
    axis.set(xlabel="ms (median)", xscale="log")
    axis.invert_yaxis()
