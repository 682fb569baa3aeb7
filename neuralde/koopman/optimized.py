"""Exponentials fitted to a trajectory by variable projection."""

from __future__ import annotations

import torch
from torch import Tensor

from neuralde.solvers import InvalidProblemError

from .least_squares import leading_svd, least_squares

LARGEST = 30.0
ITERATIONS = 200
"""The largest number of steps; from a good start there are ten or twenty."""


def fit_exponentials(x: Tensor, times: Tensor, rank: int | None) -> tuple[Tensor, Tensor, Tensor]:
    r"""Exponents and modes of :math:`\min \sum_i \|x(t_i) - \sum_j e^{\omega_j t_i} v_j\|^2`, and the relative error.

    The modes follow from the exponents by linear least squares. A Levenberg-Marquardt step solves for the exponents what is left
    (Kaufman's approximation, which for a model holomorphic in both is the Gauss-Newton step of the joint problem). With one column
    of the exponentials for each exponent its matrices are products of small ones, whatever the size of the state.

    Shapes:
        ``x`` is ``(T, d)``, ``times`` ``(T,)``; the results ``(r,)``, ``(r, d)`` and 0-d.
    """
    u, s, v = leading_svd(x, rank)
    if len(s) >= len(x):
        raise InvalidProblemError(f"rank: got {len(s)} exponentials for {len(x)} snapshots; expected fewer")
    if not len(s):
        raise InvalidProblemError("X: is zero; expected data that are not")
    length = float(times[-1])
    grid = (times / length).to(x.real.dtype).to(x.device)[:, None]
    # In an orthonormal basis of its rows the data are as good and not wider than long.
    basis = v if rank is None else (leading_svd(x)[2] if x.shape[1] > x.shape[0] else None)
    data = x if basis is None else x @ basis
    data = data.to(torch.complex128 if data.real.dtype == torch.float64 else torch.complex64)
    ends = [_minimize(start.to(data.dtype), grid, data) for start in _starts(u * s, grid)]
    exponents = min(ends, key=lambda end: float(_linearized(end, grid, data)[0]))
    columns = _columns(exponents, grid)
    modes = least_squares(columns, data)
    error = (columns @ modes - data).norm() / data.norm()
    if basis is not None:
        modes = modes @ basis.mH.to(modes.dtype)
    return exponents / length, modes, error


def _columns(exponents: Tensor, grid: Tensor) -> Tensor:
    return (exponents * grid).exp()


def _starts(coordinates: Tensor, grid: Tensor) -> list[Tensor]:
    r"""Where to begin, in units of the whole length.

    From :math:`x(t) = c + \int_0^t x\, A`, which noise disturbs least, from :math:`x' = x A` by the trapezoidal rule, and
    where times are even from the operator between snapshots, which has no error of its own.
    """
    steps = grid.diff(dim=0)
    areas = 0.5 * (coordinates[1:] + coordinates[:-1]) * steps
    sums = torch.cat([torch.zeros_like(areas[:1]), areas.cumsum(0)])
    centred = (z - z.mean(0) for z in (sums, coordinates))
    operators = [least_squares(next(centred), next(centred)), least_squares(areas, coordinates.diff(dim=0))]
    starts = [torch.linalg.eigvals(operator) for operator in operators]
    if bool(((steps - steps.mean()).abs() <= 1e-3 * steps.mean()).all()):
        values = torch.linalg.eigvals(least_squares(coordinates[:-1], coordinates[1:]))
        starts.append(torch.complex(values.abs().clamp(min=1e-8).log(), values.angle()) / steps.mean())
    # a start that grows or decays over the length by more than this has no meaning, and overflows
    return [torch.complex(start.real.clamp(-LARGEST, LARGEST), start.imag) for start in starts]


def _minimize(exponents: Tensor, grid: Tensor, data: Tensor) -> Tensor:
    """Levenberg-Marquardt as long as the residual falls, then plain Gauss-Newton as long as its steps shrink.

    The second part is needed because near the optimum the residual is flat to rounding while exponents still have half of
    their digits to gain.
    """
    damping = 1e-3
    rest, normal, slope = _linearized(exponents, grid, data)
    for _ in range(ITERATIONS):
        trial = exponents + _step(normal, slope, damping)
        tried = _linearized(trial, grid, data)
        if bool(tried[0] < rest):
            exponents, (rest, normal, slope) = trial, tried
            damping = max(damping / 5.0, 1e-15)
        else:
            damping *= 4.0
            if damping > 1e8:
                break
    shortest = torch.inf
    for _ in range(ITERATIONS):
        step = _step(normal, slope, 0.0)
        length = float(step.norm() / exponents.norm().clamp(min=1.0))
        if not length < min(shortest, 1e-4):
            break
        exponents, shortest = exponents + step, length
        rest, normal, slope = _linearized(exponents, grid, data)
    return exponents


def _step(normal: Tensor, slope: Tensor, damping: float) -> Tensor:
    diagonal = normal.diagonal().real.clamp(min=torch.finfo(normal.real.dtype).tiny)
    step: Tensor = torch.linalg.lstsq(
        normal + torch.diag(damping * diagonal).to(normal.dtype), slope[:, None]
    ).solution[:, 0]
    return step


def _linearized(exponents: Tensor, grid: Tensor, data: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The squared residual, the matrix of the normal equations and their right-hand side."""
    columns = _columns(exponents, grid)
    if not bool(columns.isfinite().all()):
        return torch.full((), torch.inf, dtype=grid.dtype), columns, exponents
    q, r = torch.linalg.qr(columns)
    amplitudes = torch.linalg.pinv(r) @ (q.mH @ data)
    rest = data - columns @ amplitudes
    moved = grid * columns
    moved = moved - q @ (q.mH @ moved)
    normal = (moved.mH @ moved) * (amplitudes.conj() @ amplitudes.mT)
    slope = ((moved.mH @ rest) * amplitudes.conj()).sum(1)
    return rest.abs().square().sum(), normal, slope
