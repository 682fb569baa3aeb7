"""Whether the numbers are exact enough for the tolerance: warnings before rounding noise drives the step size."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ..core.scalars import as_clock, transformed
from ..core.tolerances import Tolerance, for_each_entry
from ..core.vmap import shared
from ..errors import PrecisionWarning
from ..stepping.attempt import Plan


def _of_the_caller() -> int:
    """How far above a function that warns the first call from outside the library is, which the warning is shown at."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "neuralde":
        level, frame = level + 1, frame.f_back
    return level


def check_tolerances(rtol: Tolerance, atol: Tolerance, y0: Tensor) -> None:
    """Warn of a tolerance that the state's dtype cannot resolve at its initial size; of those of entries, of any."""
    eps = torch.finfo(y0.dtype).eps
    if torch.compiler.is_compiling() or not y0.numel() or not (for_each_entry(rtol) or rtol < 4 * eps):
        return
    if for_each_entry(rtol) or for_each_entry(atol):
        sizes = y0.detach().abs()
        lost = sizes[rtol * sizes + atol < 4 * eps * sizes]
        size = lost.max().item() if lost.numel() else 0.0
        given = "some entries of rtol and atol"
    else:
        size = shared(y0.detach().abs().max()).item()
        size = size if rtol * size + atol < 4 * eps * size else 0.0
        given = f"rtol={rtol:g} and atol={atol:g}"
    if size:
        warnings.warn(
            f"{given} are below the rounding of {y0.dtype} states of size {size:.3g}: the error "
            "estimate measures noise; use float64 or larger tolerances",
            PrecisionWarning,
            stacklevel=_of_the_caller(),
        )


def check_size(plan: Plan, y0: Tensor) -> int:
    r"""Warn of a state that is far smaller than its absolute tolerance and stays so; the field calls it took.

    Any answer of the tolerance's size then passes for right. A state counts as small if every entry of it is less than a
    tenth of its tolerance and not all are zero; the field is called, once and only then, to see whether it moves the
    state out of that within the interval: a source does, and makes what was there at the start of no account. The check
    waits for the device, so solves in blocks go without it.
    """
    small = not torch.compiler.is_compiling() and not transformed() and plan.controller.adaptive and plan.field.smooth
    state = y0.detach()
    if not small or not state.numel():
        return 0
    atol = plan.atol
    size = (state.abs() / atol).max().item() if for_each_entry(atol) else state.abs().max().item() / max(atol, 1e-300)
    if not 0.0 < size < 0.1:
        return 0
    span = as_clock(plan.t1 - plan.t0).abs().max().item()
    with torch.no_grad():
        reach = (plan.field(plan.t0, state).abs() / atol).max().item() * span
    if not reach >= 0.1:
        warnings.warn(
            f"atol is {1.0 / size:.3g} times the largest entry of y0, which the field moves by less than that at its start: "
            "errors as large as the state are accepted, and steps mean nothing; give an atol well below the size of the "
            "state (one for each entry, if their units differ), or rescale the state",
            PrecisionWarning,
            stacklevel=_of_the_caller(),
        )
    return 1


def check_products(plan: Plan, y0: Tensor) -> int:
    r"""Warn where low-precision matrix products (autocast, TF32) would drive the step size; the field calls it took.

    Their rounding puts a floor under the error estimate: noise :math:`\delta` of the field, in units of the tolerance,
    looks like an error of :math:`h \delta \|e\|`, with :math:`e` the method's error weights, whatever the solution
    does. The noise is measured: the field at the start, as it is and with exact products. Where no such mode is on
    nothing is computed.
    """
    if torch.compiler.is_compiling() or transformed():
        return 0
    mode = _low_precision(y0)
    weights = getattr(getattr(plan.method, "tableau", None), "error_weights", None)
    if mode is None or weights is None or not plan.controller.adaptive or not y0.numel():
        return 0
    with torch.no_grad():
        rounded = plan.field(plan.t0, y0)
        with _exact_products(y0.device.type):
            exact = plan.field(plan.t0, y0)
        noise = torch.as_tensor(plan.norm_at(y0)(rounded - exact))
    looks_like = noise.max().item() * math.hypot(*weights)
    span = as_clock(plan.t1 - plan.t0).abs().max().item()
    # The weights sum to zero, so what the stages' roundings share cancels: measured with bfloat16, steps ended where this
    # number was 1.3 and 2.5 (tolerances 1e-4 and 1e-5).
    if looks_like * span > 2.0:
        warnings.warn(
            f"{mode}: rounding of the field at the start looks like an error of {looks_like:.3g} tolerances per unit of "
            f"time, so that steps stay below about {2.0 / looks_like:.3g}, however smooth the solution; loosen rtol and "
            'atol, or compute the field exactly (torch.set_float32_matmul_precision("highest"), autocast off around it)',
            PrecisionWarning,
            stacklevel=_of_the_caller(),
        )
    return 2


def _low_precision(y0: Tensor) -> str | None:
    """What makes matrix products less exact than the state, if anything does."""
    kind = y0.device.type
    if torch.is_autocast_enabled(kind):
        return f"autocast to {torch.get_autocast_dtype(kind)}"
    if y0.dtype in (torch.float32, torch.complex64) and torch.get_float32_matmul_precision() != "highest":
        return f"float32 matrix products of {torch.get_float32_matmul_precision()} precision"
    return None


@contextmanager
def _exact_products(kind: str) -> Iterator[None]:
    """Matrix products in the state's own precision."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(kind, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
