"""The gradient of a recorded step as a captured function: the backward pass without Python."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from neuralde.solvers.core.legendre import basis
from neuralde.solvers.core.scalars import shaped
from neuralde.solvers.drivers.blocks import Blocks, in_tensors
from neuralde.solvers.drivers.captured_block import clock_of, plan_key, set_to
from neuralde.solvers.drivers.cuda_graph import Captured, Layout
from neuralde.solvers.output.saving import Request, SavePlan
from neuralde.solvers.stepping.attempt import Plan

from ..base import Job
from ..shared.carried import Carried
from .replay import Record, State, replay


class CapturedSteps:
    """Pulls cotangents back through one recorded step after another, by a function that was captured once.

    Args:
        job: the detached job that was solved.
        plan: its plan, with the reductions that are differentiated.
        driver: whose graphs they are.
        copies: the tensors that the job was detached to.
        captured: what the field captures.
    """

    def __init__(
        self, job: Job, plan: Plan, driver: Blocks, copies: Sequence[Tensor], captured: Sequence[Tensor]
    ) -> None:
        self.plan, self.save, self.driver = in_tensors(plan, job.y0.device), job.options.save, driver
        self.joint, self.args = plan.host, job.args
        self.copies, self.captured = list(copies), list(captured)
        self.degree: int | None = None

    def fits(self, record: Record) -> bool:
        """Whether the step is one like the others: its outputs are where a fixed function has them."""
        if self.plan.stops.live is not None:
            return False
        moving = any(x is not None for x in (self.plan.live_t0, self.plan.live_t1, self.save.live))
        return record.rows is None and record.fired is None and not (record.request is not None and moving)

    def pull(
        self,
        record: Record,
        before: State,
        carried: Carried,
        state: Sequence[Tensor],
        rest: Sequence[Tensor | None],
        emitted: Tensor | None,
        piece: Tensor | None,
    ) -> tuple[list[Tensor | None], list[Tensor | None], list[Tensor | None]]:
        """The gradients of the state, of what is carried beside it and of the inputs, from the outputs' cotangents.

        Args:
            record: the step.
            before: the state before it.
            carried: what is carried beside it.
            state: the cotangents of the state after it.
            rest: those of what is carried beside it.
            emitted: that of the rows that the step saved.
            piece: that of its polynomial.
        """
        if emitted is not None and record.request is not None:
            first, piece = self._spread(record, before, record.request, emitted, state[0], piece)
            state = [first, *state[1:]]
        given = self._given(record, before, carried, state, rest, piece)
        layout = Layout(given)
        tensors = layout.tensors(given)
        mine = [x.data_ptr() for x in self.captured]
        key = ["gradient of a step", mine, *plan_key(self.plan, layout, tensors)]
        step: _CapturedStep = self.driver.graphs.get(
            key, lambda: _CapturedStep(self.plan, layout, tensors, self.captured)
        )
        grads: dict[str, Any] = step(tensors)
        inputs = dict(zip(map(id, tensors), grads["given"], strict=True))
        own = [None if id(x) not in inputs else inputs[id(x)] for x in self.copies]
        return [inputs[id(x)] for x in before], [inputs[id(x)] for x in carried.tensors], [*own, *grads["captured"]]

    def _given(
        self,
        record: Record,
        before: State,
        carried: Carried,
        state: Sequence[Tensor],
        rest: Sequence[Tensor | None],
        piece: Tensor | None,
    ) -> tuple[Any, ...]:
        """Everything that the function depends on, in one tree."""
        plan, device = self.plan, before[0].device

        def number(x: Any, dtype: torch.dtype) -> Tensor:
            return x if isinstance(x, Tensor) else torch.full((), x, dtype=dtype, device=device)

        ends = number(record.t, torch.float64), number(record.t_end, torch.float64)
        judged = (*ends, None if self.joint else record.accept, number(record.index, torch.int64))
        return before, carried, judged, clock_of(plan), self.args, (tuple(state), tuple(rest), piece)

    def _spread(
        self, record: Record, before: State, request: Request, emitted: Tensor, state: Tensor, piece: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """The cotangent of the rows that a step saved, as that of its end and its polynomial."""
        if request.theta is None:
            at_end = (
                emitted[0] if request.lanes is None else torch.zeros_like(state).index_add(0, request.lanes, emitted)
            )
            return state + at_end, piece
        theta = request.theta
        piece = state.new_zeros((self._degree(record, before), *state.shape)) if piece is None else piece
        if request.lanes is None:
            for place, cotangent in zip(theta, emitted, strict=True):
                if place == 1.0:
                    state = state + cotangent
                else:
                    piece = piece + torch.stack([weight * cotangent for weight in basis(place, len(piece))])
            return state, piece
        assert isinstance(theta, Tensor)
        ends, theta = shaped(theta == 1.0, emitted), shaped(theta, emitted)
        state = state.index_add(0, request.lanes, torch.where(ends, emitted, 0.0))
        inside = torch.where(ends, 0.0, emitted)
        shares = torch.stack([weight.to(inside.dtype) * inside for weight in basis(theta, len(piece))])
        return state, piece.index_add(1, request.lanes, shares)

    def _degree(self, record: Record, before: State) -> int:
        """How many coefficients a polynomial has."""
        if self.degree is None:
            with torch.no_grad():
                plan, plain = replace(self.plan, costs=()), replace(record, request=None)
                again = replay(plan, SavePlan(dense=True), plain, before, Carried())
            assert again.coefficients is not None
            self.degree = len(again.coefficients)
        return self.degree


class _CapturedStep:
    """The gradient of one step from the tensors on which it depends."""

    def __init__(self, plan: Plan, inputs: Layout, tensors: list[Tensor], captured: list[Tensor]) -> None:
        self.outputs: Layout | None = None
        wanted = [x.is_floating_point() or x.is_complex() for x in tensors]

        def function(*tensors: Tensor) -> list[Tensor]:
            leaves = [x.detach().requires_grad_(on) for x, on in zip(tensors, wanted, strict=True)]
            grads = _gradients(plan, inputs.tree(leaves), leaves, captured)
            self.outputs = Layout(grads)
            return self.outputs.tensors(grads)

        self.captured = Captured(function, tensors)

    def __call__(self, tensors: list[Tensor]) -> Any:
        assert self.outputs is not None
        return self.outputs.tree(self.captured(tensors))


def _gradients(plan: Plan, given: tuple[Any, ...], leaves: list[Tensor], captured: list[Tensor]) -> dict[str, Any]:
    """The gradients of a step's outputs, weighted by their cotangents, of every leaf and every captured tensor."""
    before, carried, (t, t_end, accept, index), clock, args, (state, rest, piece) = given
    plan = set_to(plan, clock, args)
    record = Record(t.detach(), t_end.detach(), True if accept is None else accept, index, None, carried, None)
    with torch.enable_grad():
        again = replay(plan, SavePlan(dense=piece is not None), record, before, carried)
    pairs = [*zip(again.state, state, strict=True), (again.coefficients, piece)]
    pairs += zip(again.carried.tensors, rest, strict=True)
    kept = [(x, weight.detach()) for x, weight in pairs if x is not None and weight is not None and x.requires_grad]
    wanted = [x for x in leaves if x.requires_grad] + captured
    got = torch.autograd.grad([x for x, _ in kept], wanted, [weight for _, weight in kept], allow_unused=True)
    grads = iter(got)
    return {"given": [next(grads) if x.requires_grad else None for x in leaves], "captured": list(grads)}
