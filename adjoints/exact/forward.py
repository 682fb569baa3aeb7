"""Derivatives carried along with the solve, one tangent for each number that is differentiated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from neuralde.solvers.core.derivative_order import refuse_once
from neuralde.solvers.core.torch_private import sequence_number
from neuralde.solvers.drivers.integrate import Outcome, Result, integrate
from neuralde.solvers.errors import InvalidProblemError
from neuralde.solvers.events.log import Logged
from neuralde.solvers.stepping.attempt import Carry, Plan, Trial

from ..base import Adjoint, Job
from ..capabilities import Capabilities
from ..shared.call_context import freed_is_named, gradients_of_many, muted
from ..shared.captured_tensors import refuse_unknown
from ..shared.carried import replayable
from ..shared.dependencies import Opening, opened
from ..shared.outputs import Outputs, outputs_of, result_of
from ..shared.single_backward import once
from .kept_graphs import leaf
from .replay import Recorder, first_state, refuse_lost, replay
from .sensitivity_norm import Variational, with_sensitivities

# What torch says of operations whose backward pass cannot be differentiated.
_ONCE = ("create_graph=False", "does not currently support double backward", "once_differentiable")
_ONCE_ONLY = (
    "f: has first derivatives only (it is compiled, say, or uses an autograd.Function marked once_differentiable), "
    "and ForwardSensitivity differentiates its backward pass; expected a field without them, or DiscreteAdjoint()"
)


class ForwardSensitivity(Adjoint, rank=3):
    r"""Exact (discretise-then-optimise); carries the derivative with respect to every input number forward with the solve.

    .. math:: S_{n+1} = \frac{\partial y_{n+1}}{\partial y_n} S_n + \frac{\partial y_{n+1}}{\partial p}, \qquad
              S = \frac{\partial y}{\partial p}

    The gradient is the one that :class:`DirectAdjoint` gives, to rounding. Memory: one state for each number in the
    inputs that require grad (initial state, arguments, captured parameters, times) and each output, and nothing for the
    steps, so any number of outputs and any length of solve are cheap where the inputs are few; the backward pass is a
    single product. Cost: each step once more, and a forward derivative for every number. No double backward; under
    ``torch.func`` it is plain forward or reverse mode through the steps.

    Args:
        in_error_norm: choose steps that are short enough for the sensitivities as well: the error norm is that of state
            and sensitivities together, each in units of its own tolerance. Otherwise, as with every other adjoint, the
            steps fit the state, and the gradient, though exact for these steps, may be far from that of the equation
            where the sensitivities change faster than the state. Costs one more solve, of both together; joint solves.

    Raises:
        InvalidProblemError: ``in_error_norm`` is no bool; in the solve, an SDE, or events together with
            ``in_error_norm``; in the backward pass, a field that has first derivatives only.

    When to take it:
        For few numbers to differentiate by, up to some tens, and long solves or many outputs: fits of rate constants,
        say. For the weights of a network :class:`DiscreteAdjoint`.

    References:
        Hairer, Nørsett, Wanner: Solving Ordinary Differential Equations I, I.14, for the variational equation.
        Hindmarsh, Brown, Grant, Lee, Serban, Shumaker, Woodward: SUNDIALS. ACM Trans. Math. Softw. 31 (2005), for the
        error norm.

    Example:
        >>> import torch, neuralde as nde
        >>> k = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
        >>> problem = nde.ODEProblem(lambda t, y, k: -k * y, torch.ones((), dtype=torch.float64), (0.0, 1.0), (k,))
        >>> sol = nde.solve(problem, adjoint=nde.ForwardSensitivity(), rtol=1e-8, atol=1e-8)
        >>> torch.autograd.grad(sol.y1, k)[0]
        tensor(-0.1353, dtype=torch.float64)
    """

    capabilities = Capabilities(
        exact=True,
        memory="a state per input number and output",
        cost="with the solve: each step again for every input number",
        events=True,
        compiled_field=False,
        forward_mode=True,
    )

    def __init__(self, in_error_norm: bool = False) -> None:
        if not isinstance(in_error_norm, bool):
            raise InvalidProblemError(f"in_error_norm: got {in_error_norm!r}; expected True or False")
        self.in_error_norm = self.own_steps = in_error_norm

    def check(self, job: Job) -> None:
        """Refuse events where the steps are chosen for the tangents too, which have no sides of zero."""
        super().check(job)
        if self.in_error_norm and job.plan.events is not None:
            raise InvalidProblemError(
                "adjoint: ForwardSensitivity(in_error_norm=True) takes no events; expected ForwardSensitivity(), or a solve "
                "without them"
            )

    def solve(self, job: Job) -> Result:
        """Run the job; the outputs are in the graph if anything that they depend on requires grad."""
        opening = opened(job)
        if isinstance(opening, Result):
            return opening
        tangents = _Tangents(opening, job.y0.requires_grad)
        if self.in_error_norm:
            tangents.fit_steps()
        inputs = [job.y0, *opening.inputs, *opening.carried.tensors]
        flat = _Forward.apply(tangents, opening.slope, *inputs)
        outcome, tangents.outcome = tangents.outcome, None
        assert outcome is not None
        outcome = replace(outcome, carry=outcome.carry._replace(nfe=outcome.carry.nfe + tangents.calls))
        return result_of(job, outcome, Outputs.arranged(flat, opening.carried))


class _Tangents(Recorder):
    """A listener that carries the tangents of the state and the reductions over every accepted step.

    The last inputs are what is carried beside the state at the start. Every real number in an input that requires grad
    has a column; a complex one has two.
    """

    def __init__(self, opening: Opening, state_requires_grad: bool) -> None:
        super().__init__(limit=1)
        job = opening.job
        self.job, self.plan, self.save = job, replayable(job.plan), job.options.save
        self.started, self.copies, self.captured = opening.started, opening.copies, opening.captured
        self.own = [*self.copies, *self.captured]
        self.outcome: Outcome | None = None
        self.calls = 0
        live = [state_requires_grad, *[True] * len(self.own), *(x.requires_grad for x in opening.carried.tensors)]
        self.inputs = [x.detach() for x in (job.y0, *self.own, *opening.carried.tensors)]
        self.sizes = [
            (2 if x.is_complex() else 1) * x.numel() if on else 0 for x, on in zip(self.inputs, live, strict=True)
        ]
        first = [self._columns(place) for place in range(len(self.inputs))]
        self.fixed = first[1 : 1 + len(self.own)]
        self.carried = first[1 + len(self.own) :]
        self.touched: set[int] = set()
        self.state = [first[0], *self._of_memory(first[0])]
        self.emitted: list[Tensor] = []
        self.pieces: list[Tensor] = []
        self.logged: list[list[Tensor]] = [[] for _ in Logged._fields] if job.plan.events is not None else []

    def fit_steps(self) -> None:
        """Take steps that are short enough for the tangents."""
        # The ends of the interval are not in the field: they move the solution in the first and the last step only.
        field = Variational(self.job.plan.field, self.own, self.fixed, _push)
        self.job, self.calls = with_sensitivities(self.job, self.state[0], field)
        self.plan = replayable(self.job.plan)

    def _of_memory(self, tangents: Tensor) -> list[Tensor]:
        """The tangents of the method's first memory."""
        y = self.job.y0.detach().requires_grad_()
        with torch.enable_grad():
            since = sequence_number()
            _, *memory = first_state(self.plan, y)
            refuse_unknown(memory, [y, *self.copies], self.captured, since)
        moved, touched = _push(memory, [y, *self.own], [tangents, *self.fixed]) if memory else ([], set())
        self.touched |= {place for place in touched if place}
        return [x for x in moved if x is not None]

    def _columns(self, place: int) -> Tensor:
        """The tangents of one input: the identity in its own columns, zero in all others."""
        x = self.inputs[place]
        out = x.new_zeros((sum(self.sizes), x.numel()))
        begin, size = sum(self.sizes[:place]), self.sizes[place]
        identity = torch.eye(x.numel(), dtype=x.dtype, device=x.device)
        if size:
            out[begin : begin + size] = torch.cat([identity, 1j * identity]) if x.is_complex() else identity
        return out.reshape(-1, *x.shape)

    def __call__(self, plan: Plan, carry: Carry, trial: Trial) -> None:
        """Carry the tangents over an accepted step."""
        if not trial.moved:
            return
        super().__call__(plan, carry, trial)
        record = self.records.pop()
        self.states.clear()
        before = tuple(leaf(x) for x in (carry.y, *carry.memory))
        carried = record.carried.map(leaf)
        leaves = carried.tensors
        with torch.enable_grad():
            since = sequence_number()
            again = replay(self.plan, self.save, record, before, carried)
            refuse_lost(again, [*before, *leaves, *self.copies], self.captured, since)
        rows = record.rows
        happened: Sequence[Tensor | None] = again.logged or [None] * len(self.logged)
        outputs = [*again.state, again.emitted, again.coefficients, *happened, *again.carried.tensors]
        wanted, ahead = [*before, *self.own, *leaves], len(before)
        tangents = [*(_lanes(x, rows) for x in self.state), *self.fixed, *(_lanes(x, rows) for x in self.carried)]
        moved, touched = _push(outputs, wanted, tangents)
        self.touched |= {place - ahead + 1 for place in touched if place >= ahead}
        self.state = [_put(old, rows, new) for old, new in zip(self.state, moved, strict=False)]
        emitted, piece, *happened = moved[ahead : ahead + 2 + len(self.logged)]
        if emitted is not None:
            self.emitted.append(emitted)
        if piece is not None:
            full = piece.new_zeros((*piece.shape[:2], *self.state[0].shape[1:]))
            self.pieces.append((piece if rows is None else full.index_copy(2, rows, piece)).unsqueeze(1))
        for whole, part in zip(self.logged, happened, strict=True):
            if part is not None:
                whole.append(part)
        rest = moved[ahead + 2 + len(self.logged) :]
        self.carried = [_put(old, rows, new) for old, new in zip(self.carried, rest, strict=True)]

    def gradients(self, cotangents: Sequence[Tensor | None]) -> list[Tensor | None]:
        """The gradient of every input, from the cotangents of the function's outputs."""
        emitted, pieces, *logged = (
            torch.cat(parts, dim=1) if parts else None for parts in (self.emitted, self.pieces, *self.logged)
        )
        columns = self.state[0].real.new_zeros(sum(self.sizes), dtype=torch.float64)
        for tangent, cotangent in zip(
            [self.state[0], emitted, pieces, *logged, *self.carried], cotangents, strict=True
        ):
            if tangent is not None and cotangent is not None and tangent.numel():
                along = tangent.reshape(len(columns), -1) @ cotangent.reshape(-1).conj().to(tangent.dtype)
                columns = columns + along.real
        out: list[Tensor | None] = []
        for place, (x, size, part) in enumerate(zip(self.inputs, self.sizes, columns.split(self.sizes), strict=True)):
            if not size or (0 < place <= len(self.own) and place not in self.touched):
                out.append(None)
            elif x.is_complex():
                out.append(torch.complex(*part.reshape(2, -1)).reshape(x.shape).to(x.dtype))
            else:
                out.append(part.reshape(x.shape).to(x.dtype))
        return out


def _lanes(x: Tensor, rows: Tensor | None) -> Tensor:
    return x if rows is None else x[:, rows]


def _put(old: Tensor, rows: Tensor | None, new: Tensor | None) -> Tensor:
    new = torch.zeros_like(_lanes(old, rows)) if new is None else new
    return new if rows is None else old.index_copy(1, rows, new)


def _push(
    outputs: Sequence[Tensor | None], inputs: Sequence[Tensor], tangents: Sequence[Tensor]
) -> tuple[list[Tensor | None], set[int]]:
    """The outputs' tangents, one for each column of the inputs' tangents; and which inputs the outputs depend on.

    A forward derivative as the derivative of a backward one, which is linear in the cotangent: so it reaches captured
    tensors where they are, and needs no forward formulas of the operations in the field.
    """
    live = [x for x in outputs if x is not None and x.requires_grad]
    moved: list[Tensor | None] = [None if x is None else x.new_zeros((len(tangents[0]), *x.shape)) for x in outputs]
    if not live:
        return moved, set()
    cotangents = [torch.zeros_like(x).requires_grad_() for x in live]
    usable = [place for place, x in enumerate(inputs) if x.requires_grad]
    with freed_is_named(), _differentiated_twice():
        with torch.enable_grad():
            pulled = torch.autograd.grad(
                live, [inputs[place] for place in usable], cotangents, create_graph=True, allow_unused=True
            )
        used = {place: g for place, g in zip(usable, pulled, strict=True) if g is not None}
        pairs = [(g, tangents[place]) for place, g in used.items() if g.requires_grad]
        if not pairs:
            return moved, set(used)
        refuse_once([g for g, _ in pairs], inputs, _ONCE_ONLY)
        got = iter(gradients_of_many([g for g, _ in pairs], cotangents, [v for _, v in pairs]))
    for place, x in enumerate(outputs):
        if x is not None and x.requires_grad:
            new = next(got)
            moved[place] = moved[place] if new is None else new.detach()
    return moved, set(used)


@contextmanager
def _differentiated_twice() -> Iterator[None]:
    """Say of a field whose backward pass cannot be differentiated what is the matter."""
    try:
        yield
    except RuntimeError as error:
        if not any(mark in str(error) for mark in _ONCE):
            raise
        raise InvalidProblemError(_ONCE_ONLY) from error


class _Forward(torch.autograd.Function):
    """A solve whose backward pass is a product with the tangents that it carried."""

    @staticmethod
    def forward(ctx: Any, tangents: _Tangents, slope: Tensor, y0: Tensor, *inputs: Tensor) -> tuple[Any, ...]:
        ctx.save_for_backward(y0, *inputs)
        job = tangents.job
        with muted(tangents.captured):
            outcome = integrate(job.plan, y0.detach(), job.options, slope, tangents, tangents.started)
        tangents.attach(None)
        tangents.outcome, ctx.tangents = outcome, tangents
        ctx.set_materialize_grads(False)
        return outputs_of(job.plan, outcome, y0).flat

    @staticmethod
    @once("ForwardSensitivity")
    def backward(ctx: Any, *cotangents: Tensor | None) -> Any:
        return None, None, *ctx.tangents.gradients(cotangents)
