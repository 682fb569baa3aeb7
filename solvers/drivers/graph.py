"""The loop as one graph: the only place that knows about compilation.

Under ``torch.compile`` the same ``attempt`` and ``settle`` run inside a loop operator with tensors for clocks and
buffers of fixed size for what is saved. The operator is private in torch, so it is called in one function here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ..errors import InvalidProblemError
from ..stepping.attempt import Carry, Plan
from ..stepping.hand_over import map_cache
from .eager import start
from .flat import FlatSolve, refuse_growing, row_buffer
from .integrate import Options, Outcome


def compiling() -> bool:
    """Whether ``torch.compile`` is tracing this call."""
    return torch.compiler.is_compiling()


def integrate_in_graph(plan: Plan, y0: Tensor, options: Options) -> tuple[Outcome, Tensor | None]:
    """Solve inside a graph; gives the outcome and the states at the save times, differentiable by autograd."""
    refuse_growing(options, "compiled")
    carry = start(plan, y0, options.dt)
    carry, anchor = _anchored_by(plan, carry, y0)
    carry = carry._replace(
        y=carry.y + anchor,
        memory=tuple(_anchored(x, anchor) for x in carry.memory),
        cache=map_cache(partial(_anchored, anchor=anchor), carry.cache),
        costs=tuple(tuple(_anchored(x, anchor) for x in state) for state in carry.costs),
    )
    ys = None if options.save.times is None else row_buffer(plan, options.save, y0) + anchor
    solve = FlatSolve(plan, options, carry, ys)
    if (
        not plan.method.differentiable_in_loops
        and torch.is_grad_enabled()
        and any(x.requires_grad for x in solve.first)
    ):
        raise InvalidProblemError(
            f"solver: {plan.method.name} has the field's Jacobian in its steps, which torch's loops cannot differentiate, in a "
            "compiled solve with gradients; expected an eager solve, or torch.no_grad()"
        )
    out = _loop(solve.going, solve.body, solve.first)
    return Outcome(solve.carry(out), None, None, None), solve.ys(out)


def _loop(
    going: Callable[..., Tensor], body: Callable[..., tuple[Tensor, ...]], carry: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    from torch._higher_order_ops.while_loop import while_loop

    from .inductor import keep_saved_tensors, reverse_mode_inside
    from .loop_inputs import take_from_outside

    def loop_body(*flat: Tensor) -> tuple[Tensor, ...]:
        take_from_outside()
        return body(*flat)

    keep_saved_tensors()
    out: tuple[Tensor, ...] = while_loop(going, loop_body, carry)
    if torch.is_grad_enabled() and any(x.requires_grad for x in carry) and reverse_mode_inside():
        raise InvalidProblemError(
            "f: takes a derivative by reverse mode (torch.func.grad, vjp, jacrev) in a compiled solve with gradients, which "
            "torch's loops get wrong; expected forward mode (torch.func.jvp, jacfwd), the derivative written out, or an "
            "eager solve, whose field may be compiled"
        )
    return out


def _anchored_by(plan: Plan, carry: Carry, y0: Tensor) -> tuple[Carry, Tensor]:
    """The anchor of a solve; where no slope is carried yet, one call of the field at the start tells what it depends on."""
    if isinstance(carry.cache, Tensor):
        return carry, _anchor(y0, carry.cache)
    chained = plan.method.chains and not plan.stops.breaks
    if not chained and not torch.is_grad_enabled():
        return carry, _anchor(y0)
    reached = plan.field.probe(plan.t0, y0)
    carry = carry._replace(nfe=carry.nfe + 1)
    if chained:
        carry = carry._replace(cache=plan.method.known(tuple(reached), y0, plan.per_sample))  # type: ignore[arg-type]
    return carry, _anchor(y0, *reached)


def _anchor(*tensors: Tensor) -> Tensor:
    """A zero that depends on the state and on everything the field depends on.

    The loop operator differentiates a carry between iterations only if it requires grad from the start; a buffer of
    plain zeros would lose its gradient without a word.
    """
    first, *parts = [torch.where(torch.isfinite(x), 0.0 * x, 0.0).sum() for x in tensors]
    for part in parts:
        first = first + part
    return first


def _anchored(x: Tensor, anchor: Tensor) -> Tensor:
    if not x.is_floating_point() and not x.is_complex():
        return x
    return x + (anchor if x.is_complex() else anchor.real).to(x.dtype)
