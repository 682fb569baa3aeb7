"""A field as independent systems of real numbers, a row for each, and its Jacobians in time and state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..core.derivative_order import leads_outside
from ..core.scalars import Scalar, as_clock, spread, transformed
from ..core.torch_private import sequence_number
from ..errors import InvalidProblemError
from .jacobian import affine_jacobian

Rows = Callable[[Tensor], Tensor]
# The distance of a one-sided difference in time, in units of the step; its error is of the order of its square.
_BESIDE = 6e-6
# How far the state is moved to see whether a field is constant, in units of its size plus 1.
_MOVE = 1e-3
_ONCE_ONLY = (
    "f: uses an autograd.Function marked once_differentiable, and the gradient of a step with a Jacobian in it differentiates "
    "its backward pass; expected a field without one, or a method that only solves its equations with the Jacobian, such as "
    "Kvaerno5()"
)


class Systems:
    r"""The field :math:`f(t, y)` on rows ``(B, n)``: one for the whole state, or with ``per_sample`` one for each sample.

    A complex state is a row of twice as many real numbers.

    Args:
        field: the right-hand side.
        like: a state, for its shape.
        per_sample: whether each sample is a system of its own.
        chunk: how many columns of a Jacobian are computed at once; None: all.

    Example:
        >>> import torch
        >>> y = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
        >>> Systems(lambda t, y: t * y.flip(-1), y, True).jacobian(2.0, y)[0]
        tensor([[[0., 2.],
                 [2., 0.]],
        <BLANKLINE>
                [[0., 2.],
                 [2., 0.]]])
    """

    def __init__(self, field: Any, like: Tensor, per_sample: bool, chunk: int | None = None) -> None:
        self.field, self.shape, self.complex, self.chunk = field, like.shape, like.is_complex(), chunk
        self.lanes = like.shape[0] if per_sample else 1
        self.per_sample = per_sample

    def rows(self, x: Tensor) -> Tensor:
        """A state as rows of real numbers."""
        x = torch.view_as_real(x) if self.complex else x
        return x.reshape(self.lanes, -1) if x.numel() else x.reshape(self.lanes, 0)

    def state(self, rows: Tensor) -> Tensor:
        """Rows as a state."""
        if self.complex:
            return torch.view_as_complex(rows.reshape(*self.shape, 2))
        return rows.reshape(self.shape)

    def at(self, t: Scalar) -> Rows:
        """The field at a time, on rows."""
        return lambda x: self.rows(self.field(t, self.state(x)))

    def jacobian(self, t: Scalar, y: Tensor, length: Scalar | None = None) -> tuple[Tensor, Tensor | None]:
        r"""The Jacobians ``(B, n, n)`` at a time and state, and with ``length`` the slope in time ``(B, n)``.

        Both are of one call of the field and one batched backward pass, for all rows at once, and in the graph if it is
        recorded; in a compiled graph and inside function transforms by ``torch.func``. A Jacobian that the problem gives is
        taken instead.

        Args:
            t: the time.
            y: the state.
            length: how long the step is, the unit of time; None: no slope in time is wanted.
        """
        given = getattr(self.field, "jacobian", None)
        matrix = None if given is None else given(t, y)
        in_time = length is not None
        if matrix is not None:
            slope = self._by(t, y, state=False, in_time=True)[1] if in_time else None
            return self._checked(matrix, y), slope
        if getattr(self.field, "affine", False):
            # The field of a backward solve takes derivatives itself, which cannot be differentiated once more.
            matrix = affine_jacobian(self.at(t), self.rows(y))
            return matrix, self._difference_in_time(t, y, length) if in_time else None
        found, slope = self._by(t, y, state=True, in_time=in_time)
        assert found is not None
        return found, slope

    def _by(self, t: Scalar, y: Tensor, state: bool, in_time: bool) -> tuple[Tensor | None, Tensor | None]:
        clock = as_clock(t, y.device)
        try:
            if torch.compiler.is_compiling() or transformed():
                return self._forward(clock, y, state, in_time)
            return self._backward(clock, y, state, in_time)
        except RuntimeError as error:
            raise InvalidProblemError(
                f"f: it cannot be differentiated for a Jacobian, which an implicit method needs ({error}); expected "
                "operations that torch differentiates, or jac= on the problem"
            ) from error

    def _backward(self, t: Tensor, y: Tensor, state: bool, in_time: bool) -> tuple[Tensor | None, Tensor | None]:
        """Rows of the Jacobian, by pullbacks of unit vectors."""
        graph = torch.is_grad_enabled()
        with torch.inference_mode(False), torch.enable_grad():
            # Of their own, so that nothing is counted that the state or the time depends on.
            x, clock = (_view(z, graph) for z in (self.rows(y), t))
            since = sequence_number()
            out = self.rows(self.field(clock, self.state(x)))
            graph = graph and leads_outside(out, since, (x, clock), _ONCE_ONLY)
            wanted = [z for z, asked in ((x, state), (clock, in_time)) if asked]
            n = x.shape[1]
            if not out.requires_grad or not n:
                if n and state:
                    self._refuse_severed(clock, x, out)
                return x.new_zeros(self.lanes, n, n), torch.zeros_like(x)
            units = torch.eye(n, dtype=x.dtype, device=x.device).unsqueeze(1).expand(n, self.lanes, n)
            pieces = [
                torch.autograd.grad(
                    out, wanted, part, retain_graph=True, create_graph=graph, allow_unused=True, is_grads_batched=True
                )
                for part in units.split(self.chunk or n)
            ]
            joined = [None if parts[0] is None else torch.cat(parts) for parts in zip(*pieces, strict=True)]
            rows = joined[0] if state else None
            matrix = x.new_zeros(self.lanes, n, n) if rows is None else rows.transpose(0, 1)
            slope = None if not in_time or joined[-1] is None else joined[-1].to(x.dtype).reshape(n, -1).T
            return matrix, torch.zeros_like(x) if slope is None else slope

    def _refuse_severed(self, t: Tensor, x: Tensor, out: Tensor) -> None:
        """Refuse a field of which autograd says that it is constant, and which is not."""
        with torch.no_grad():
            moved = self.rows(self.field(t.detach(), self.state(x.detach() * (1.0 + _MOVE) + _MOVE)))
            if bool((moved != out).any()) and bool((moved.isfinite() & out.isfinite()).all()):
                raise InvalidProblemError(
                    "f: changes with the state though autograd sees no connection, and an implicit method needs its "
                    "Jacobian; expected torch operations all the way, or jac= on the problem"
                )

    def _forward(self, t: Tensor, y: Tensor, state: bool, in_time: bool) -> tuple[Tensor | None, Tensor | None]:
        """Columns of the Jacobian, by pushing unit vectors forward: the way that torch's loops can differentiate."""
        x = self.rows(y)
        matrix = slope = None
        if state:
            f = self.at(t)
            units = torch.eye(x.shape[1], dtype=x.dtype, device=x.device).unsqueeze(1).expand(-1, *x.shape)
            push = torch.func.vmap(lambda v: torch.func.jvp(f, (x,), (v,))[1], chunk_size=self.chunk)
            matrix = push(units).permute(1, 2, 0)
        if in_time:
            moved = torch.func.jvp(lambda time: self.rows(self.field(time, y)), (t,), (torch.ones_like(t),))
            slope = moved[1]
        return matrix, slope

    def _difference_in_time(self, t: Scalar, y: Tensor, length: Scalar) -> Tensor:
        """The same by a difference of second order, within the step."""
        constant = length.detach() if isinstance(length, Tensor) else length
        beside = _BESIDE * constant
        rise = 4.0 * self.field(t + beside, y) - 3.0 * self.field(t, y) - self.field(t + 2.0 * beside, y)
        # A lane that stands still has no distance to divide by.
        run = torch.where(beside == 0.0, 1.0, 2.0 * beside) if isinstance(beside, Tensor) else 2.0 * beside
        return self.rows(rise / spread(run, y))

    def _checked(self, matrix: Any, y: Tensor) -> Tensor:
        """A given Jacobian, as one for each row."""
        n = y.numel() // self.lanes if self.lanes else 0
        wanted = [(self.lanes, n, n)] if self.per_sample else [(n, n), (1, n, n)]
        shape = tuple(matrix.shape) if isinstance(matrix, Tensor) else type(matrix).__name__
        if shape not in wanted:
            expected = f"{wanted[0]}" + (", one for each sample" if self.per_sample else " of the flattened state")
            raise InvalidProblemError(f"jac: got {shape}; expected a tensor of shape {expected}")
        if self.complex:
            raise InvalidProblemError("jac: got one with a complex state; expected None, the real form is computed")
        return matrix.to(dtype=y.dtype, device=y.device).reshape(self.lanes, n, n)


def _view(x: Tensor, graph: bool) -> Tensor:
    """The tensor as one of its own, in the graph if that is recorded."""
    if graph and x.requires_grad:
        return x.view_as(x)
    return x.detach().clone().requires_grad_()
