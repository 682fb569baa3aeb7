"""Linear controlled equations, whose steps have closed forms and are combined by a scan."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..core.status import Status
from ..core.times import read_times
from ..errors import InvalidProblemError
from ..linear.exponential import flow
from ..linear.scan import act, compose, recurrence
from ..output.solution import Solution, Stats
from ..paths.control.base import ControlPath
from ..paths.control.rough import LogSignaturePath
from ..paths.control.steps import brackets_along, letters_of, part_steps, whole_steps
from ..paths.signatures.lie import Bracket, from_words

Map = tuple[Tensor, "Tensor | None"]
"""An affine map of all blocks: matrices ``(n, k, k)`` or diagonals ``(d,)``, and a shift ``(n, k)`` or ``(d,)``."""


def solve_linear_cde(
    matrices: Tensor,
    path: ControlPath,
    y0: Tensor,
    *,
    offsets: Tensor | None = None,
    saveat: Any = None,
    throw: bool = True,
) -> Solution:
    r"""Solve a linear controlled equation in closed form, all steps at once.

    .. math:: dy = \sum_{i=1}^c (A_i y + b_i) \, dX^i, \qquad
              y(t_{j+1}) = \exp\Bigl( \sum_\beta \lambda_\beta(X_{[t_j, t_{j+1}]}) \, A_\beta \Bigr) \, y(t_j), \qquad
              A_{[\alpha, \beta]} = A_\beta A_\alpha - A_\alpha A_\beta

    written for :math:`b = 0`; else with 1 as one more component of y. The steps are the pieces of the path, of which
    :math:`\lambda` are the log-signatures. Along straight pieces, of :class:`LinearPath` and :class:`RectilinearPath`, these are
    the increments and the solution is exact to rounding. Along a :class:`LogSignaturePath` they are the path's own, and the
    steps those of the log-ODE method with the Lie brackets of the field. Along cubic pieces brackets of two are
    taken and the solution is of order 4 in the distance of the knots; exact with diagonal matrices without offsets. The steps
    are combined by a scan, in rounds that are fewer than twice the square root of their number.

    Args:
        matrices: A: diagonals ``(c, d)``, which may be complex; or blocks ``(c, n, k, k)`` on the diagonal, with ``n k = d``;
            dense matrices are ``n = 1``.
        path: the control, of c channels (a log-signature path: of c channels of data).
        y0: the initial state, ``(..., d)``; it broadcasts against the path's series ``(...)``.
        offsets: b, ``(c, d)``; None: zero.
        saveat: None: the end only; times, ``(T,)`` or ``(T, B)``, each within the path's interval, NaN: the series' end;
            "steps": all knots.
        throw: raise where the state is not finite; else the solution's ``status`` tells.

    Returns:
        A :class:`Solution`. Its ``stats`` count pieces as steps and no calls of a field. Differentiable in everything but
        ``saveat``, any number of times; for the gradient the steps' maps are kept, ``steps × series × d × k`` numbers some ten
        times (``d`` some ten times with diagonals), and the states.

    Raises:
        InvalidProblemError: shapes do not fit; ``path`` is no path of the library; times outside its interval.
        SolveError: the state overflowed.

    When to take it:
        For long series: no step waits for an adaptive controller, and there are no field calls. ``CDEProblem`` for fields
        that are not linear. :class:`neuralde.LinearNeuralCDE` is the layer.

    References:
        Walker, Yang, Muca Cirone, Salvi, Lyons: Structured linear CDEs: maximally expressive and parallel-in-time sequence
        models. NeurIPS 2025. Muca Cirone, Orvieto, Walker, Salvi, Lyons: Theoretical foundations of deep selective
        state-space models. NeurIPS 2024.

    Example:
        >>> import torch, neuralde as nde
        >>> path = nde.LinearPath([0.0, 0.5, 2.0], torch.tensor([[0.0], [1.0], [3.0]], dtype=torch.float64))
        >>> turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64).reshape(1, 1, 2, 2)
        >>> nde.solve_linear_cde(turn, path, torch.tensor([1.0, 0.0], dtype=torch.float64)).y1  # cos 3, sin 3
        tensor([-0.9900,  0.1411], dtype=torch.float64)
    """
    y0, generators = _checked(matrices, offsets, path, y0)
    diagonal = matrices.dim() == 2
    blocks = matrices.shape[1:-1]
    steps = whole_steps(path)
    batch = torch.broadcast_shapes(y0.shape[:-1], steps.shape[1:-1])
    y0 = y0.expand(*batch, y0.shape[-1])
    y = y0 if diagonal else y0.unflatten(-1, blocks)
    maps, shifts = _flows(steps, len(batch), generators, diagonal)
    states = recurrence(_wide(maps, y, diagonal), shifts.expand(len(shifts), *y.shape), y)
    ts, ys = _saved(path, states, generators, diagonal, saveat)
    flat = states if diagonal else states.flatten(-2)
    return _solution(path, ts, ys if diagonal else ys.flatten(-2), flat, throw)


def _flows(steps: Tensor, series: int, generators: Map, diagonal: bool) -> tuple[Tensor, Tensor]:
    """Maps and shifts of log-signatures, for states with so many dimensions of series."""
    matrices, offsets = generators
    coordinates = steps.reshape(len(steps), *[1] * (series + 2 - steps.dim()), *steps.shape[1:]).to(matrices.dtype)

    def along(of: Tensor) -> Tensor:
        return (coordinates @ of.flatten(1)).unflatten(-1, of.shape[1:])

    if offsets is None and diagonal:
        maps = along(matrices).exp()
        return maps, maps.new_zeros(()).expand_as(maps)
    return flow(along(matrices), None if offsets is None else along(offsets))


def _wide(maps: Tensor, y: Tensor, diagonal: bool) -> Tensor:
    """Maps for all series of the state."""
    return maps.expand(len(maps), *y.shape, *(() if diagonal else maps.shape[-1:]))


def _saved(
    path: ControlPath, states: Tensor, generators: Map, diagonal: bool, saveat: Any
) -> tuple[Tensor | None, Tensor]:
    """The times to show and the states there; no times where the end is meant."""
    if saveat is None:
        return None, states[-1:]
    if isinstance(saveat, str):
        if saveat != "steps":
            raise InvalidProblemError(f'saveat: got {saveat!r}; expected None, times, or "steps"')
        return path.knots.detach(), states
    read = read_times(saveat, "saveat", 'None, times, or "steps"')
    times = read.numbers.to(path.knots.device)
    own = path.knots.dim() == 2
    series = path.pieces.shape[2:-1]
    fits = times.dim() == 1 or (times.dim() == 2 and bool(series) and times.shape[1] == series[0])
    if not fits or not len(times):
        raise InvalidProblemError(
            f"saveat: got times of shape {tuple(times.shape)}; expected (T,), or (T, B) for the first dimension of the "
            f"path's series {tuple(series)}"
        )
    if read.live is not None:
        raise InvalidProblemError("saveat: requires grad; expected constant times, .detach()")
    ends = path.knots.detach()[-1] if path.last is None else path.knots.detach().gather(0, path.last[None])[0]
    times = torch.where(times.isnan(), (ends if times.dim() == 2 or not own else ends.max()), times)
    first, end = path.knots.detach()[0].min(), ends.max()
    if not torch.compiler.is_compiling() and not bool(((times >= first) & (times <= end)).all()):
        raise InvalidProblemError(
            f"saveat: got times from {times.min().item():.9g} to {times.max().item():.9g}; expected times within the path's "
            f"interval [{first.item()!r}, {end.item()!r}]"
        )
    index, part, coordinates = part_steps(path, times)
    rank = states.dim() - (2 if diagonal else 3)
    at = 1 + rank - len(series)  # the dimension of the path's first series, where the state has more than these
    here = index + (part >= 1).to(index.dtype)
    moves = torch.compiler.is_compiling() or path.knots.requires_grad  # then a time on a knot does not move with it
    if not moves and bool(((part <= 0) | (part >= 1)).all()):
        return read.shown.double(), _taken(states, here, at)
    before = _taken(states, index, at)
    maps, shifts = _flows(coordinates, rank, generators, diagonal)
    between = act(_wide(maps, before[0], diagonal), before) + shifts
    return read.shown.double(), between


def _taken(states: Tensor, index: Tensor, series: int) -> Tensor:
    """States ``(T, ...)`` with these numbers, of all series or of each its own along the dimension ``series``."""
    if index.dim() == 1:
        return states.index_select(0, index)
    each = torch.arange(index.shape[1], device=index.device).expand(index.shape)
    return states.movedim(series, 1)[index, each].movedim(1, series)


def _solution(path: ControlPath, ts: Tensor | None, ys: Tensor, states: Tensor, throw: bool) -> Solution:
    steps, y1 = len(states) - 1, states[-1]
    end: Any = path.interval[1]
    finite = states.isfinite().all()
    status: Any = torch.where(finite, int(Status.SUCCESS), int(Status.NON_FINITE))
    if not torch.compiler.is_compiling():
        status = Status(int(status))
    ts = torch.as_tensor(end, dtype=torch.float64, device=ys.device).reshape(1) if ts is None else ts
    solution = Solution(ts, ys, y1, Stats(0, steps, steps, 0), status, _end=end, _advice=_ADVICE)
    if throw and not torch.compiler.is_compiling():
        solution.raise_on_failure()
    return solution


_ADVICE = "The state overflowed, or matrices or y0 are not finite: take smaller matrices, or scale the control."


def _checked(matrices: Any, offsets: Any, path: Any, y0: Any) -> tuple[Tensor, Map]:
    """The initial state and the field's map for each coordinate of the path, in one dtype."""
    if not isinstance(path, ControlPath):
        raise InvalidProblemError(
            f"path: got {type(path).__name__}; expected a control path, such as LinearPath(ts, xs)"
        )
    if (
        not isinstance(matrices, Tensor)
        or matrices.dim() not in (2, 4)
        or matrices.shape[0] != letters_of(path)
        or (matrices.dim() == 4 and matrices.shape[-1] != matrices.shape[-2])
    ):
        raise InvalidProblemError(
            f"matrices: got {_shape(matrices)}; expected diagonals (c, d) or blocks (c, n, k, k) for the c = "
            f"{letters_of(path)} channels of the path"
        )
    d = matrices.shape[1:-1].numel() if matrices.dim() == 4 else matrices.shape[1]
    if not isinstance(y0, Tensor) or not y0.dim() or y0.shape[-1] != d:
        raise InvalidProblemError(f"y0: got {_shape(y0)}; expected a tensor (..., {d})")
    if offsets is not None and (not isinstance(offsets, Tensor) or offsets.shape != (len(matrices), d)):
        raise InvalidProblemError(f"offsets: got {_shape(offsets)}; expected None or a tensor {(len(matrices), d)}")
    series = path.pieces.shape[2:-1]
    try:
        torch.broadcast_shapes(y0.shape[:-1], series)
    except RuntimeError:
        raise InvalidProblemError(
            f"y0: got {_shape(y0)}; expected a shape (..., {d}) that fits the path's series {tuple(series)}"
        ) from None
    for name, value in (("matrices", matrices), ("y0", y0), ("offsets", offsets)):
        if value is not None and not (value.is_floating_point() or value.is_complex()):
            raise InvalidProblemError(f"{name}: got dtype {value.dtype}; expected real or complex floating point")
    kind = torch.promote_types(matrices.dtype, y0.dtype)
    kind = kind if offsets is None else torch.promote_types(kind, offsets.dtype)
    shift = (
        None
        if offsets is None
        else offsets.to(kind).reshape(matrices.shape[:-1] if matrices.dim() == 4 else offsets.shape)
    )
    return y0.to(kind), _generators((matrices.to(kind), shift), path)


def _generators(letters: Map, path: ControlPath) -> Map:
    """The maps of all coordinates of a path, from those of its letters."""
    known: dict[Bracket, Map] = {}
    diagonal = letters[0].dim() == 2

    def of(bracket: Bracket) -> Map:
        if bracket not in known:
            if isinstance(bracket, int):
                known[bracket] = letters[0][bracket], None if letters[1] is None else letters[1][bracket]
            else:
                known[bracket] = _bracket(of(bracket[0]), of(bracket[1]), diagonal)
        return known[bracket]

    found = [of(bracket) for bracket in brackets_along(path)]
    parts = [torch.stack([m for m, _ in found])]
    if letters[1] is not None:
        parts.append(torch.stack([b for _, b in found if b is not None]))
    if isinstance(path, LogSignaturePath) and path.basis == "words" and path.depth > 2:
        rows, columns, values = from_words(path.letters, path.depth, "lyndon")
        change = torch.zeros(len(found), len(found), dtype=torch.float64)
        change[columns, rows] = values.double()
        parts = [torch.tensordot(change.to(part), part, 1) for part in parts]
    return parts[0], parts[1] if len(parts) > 1 else None


def _bracket(a: Map, b: Map, diagonal: bool) -> Map:
    """The map of a bracket: as maps are applied in the opposite order, b after a less a after b."""
    matrix = compose(b[0], a[0], diagonal) - compose(a[0], b[0], diagonal)
    if a[1] is None or b[1] is None:
        return matrix, None
    return matrix, act(b[0], a[1]) - act(a[0], b[1])


def _shape(value: Any) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
