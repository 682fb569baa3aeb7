"""One call of a user's function: what it is given, what it may do to that, and what its failures are called."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils import _pytree as pytree

from ..core.packing import Packing
from ..core.scalars import Scalar, as_time, transformed
from ..core.torch_private import transforms_active
from ..errors import InvalidProblemError
from .hints import refuse_arguments
from .severed_gradients import Cuts

Packed = TypeVar("Packed", Tensor, list[Tensor])

_UNRECORDED = ("does not require grad and does not have a grad_fn", "differentiated Tensors does not require grad")
# What torch says (any of the first), and what that means in a user's function.
_KNOWN = (
    (
        ("numpy() on Tensor that requires grad", "tensor to numpy", "numpy() on tensor", ".numpy() is not supported"),
        "turns a tensor into a NumPy array, which autograd cannot follow; expected torch's own functions (torch.sin rather "
        "than numpy.sin or SciPy's), or, where no gradient is wanted, a solve under torch.no_grad()",
    ),
    (
        ("is being used in an in-place operation", "is being modified inplace", "Inplace update to inference tensor"),
        "changed in-place a tensor that it was given, or one that requires grad; expected a new tensor, -y rather than "
        "y.neg_()",
    ),
    (
        ("attempting to call Tensor.requires_grad_()",),
        "calls requires_grad_() inside a torch.func transform (vmap, grad, jvp, ...), where torch does not allow it; "
        "expected torch.func.grad, vjp, jvp or jacrev inside it",
    ),
    (
        ("only change requires_grad flags of leaf variables",),
        "switches off requires_grad of a tensor that it was given and that others depend on; expected it to be left, since "
        "no flag that is set inside a call outlives it",
    ),
    (
        ("Nested forward mode AD is not supported",),
        "takes a derivative in forward mode (torch.func.jvp) in a solve that torch.autograd.forward_ad differentiates, and "
        "the two do not nest; expected torch.func.jvp around the solve",
    ),
    (
        _UNRECORDED,
        "differentiates what autograd did not record; expected torch.func.grad, vjp or jacrev inside it, which work in "
        "every mode, or torch.autograd.grad under torch.enable_grad() of something that depends on t, y or a tensor that "
        "requires grad",
    ),
)


class Caller:
    """Calls the functions of a user, for a whole solve.

    What a function does to its arguments ends with the call: ``requires_grad_()`` sets no flag outside, and a change of
    the state in place is refused. Under ``no_grad`` nothing that it gets or gives leads to a graph. A function that calls
    ``torch.autograd.grad`` where nothing is recorded, because the solve itself needs no record, is called in grad mode
    from then on, on arguments that require grad.

    Args:
        cuts: what looks for values that autograd cannot follow; None: nothing does.
    """

    def __init__(self, cuts: Cuts | None = None) -> None:
        self.cuts, self.recording = cuts, False

    def __call__(
        self,
        f: Callable[..., Any],
        name: str,
        pack: Callable[[Any, str], Packed],
        packing: Packing,
        t: Scalar,
        y: Tensor,
        args: tuple[Any, ...],
        writes: bool = False,
    ) -> Packed:
        """``pack(f(t, y, *args), name)`` at a packed state; a function that ``writes`` gets a copy of it."""
        time = as_time(t, y)
        if torch.compiler.is_compiling():
            return pack(f(time, _state(packing, y, writes), *args), name)
        recorded, transforms = torch.is_grad_enabled(), transforms_active()
        forward = forward_ad._current_level >= 0
        out = None
        flag = y.requires_grad
        calm = not flag or (recorded and (self.cuts is None or self.cuts.clear(name)))
        if calm and not (transforms or forward or self.recording or isinstance(t, Tensor)):
            # What `_once` does, as far as most calls of a solve need it: nothing else refers to the time.
            version = None if y.is_inference() else y._version
            try:
                out = f(time, y if packing.single and not writes else _state(packing, y, writes), *args)
            except (RuntimeError, TypeError) as error:
                _release(name, (flag, False, version or 0, 0), 0.0, time, y)
                self._failed(f, name, args, error, last=False)
            else:
                out = pack(out, name)
                if y.requires_grad is not flag or (version is not None and y._version != version):
                    _release(name, (flag, False, version or 0, 0), 0.0, time, y)
                return out if recorded else _without_graph(out)
        if y.requires_grad or time.requires_grad:
            if not recorded:
                time, y = _without_graph(time), _without_graph(y)
        elif recorded and time is t and not (transforms or forward):
            time = time.detach()  # graphs must not find the clock's own tensor
        given, cuts = (
            (f, name, pack, packing, args, writes),
            self.cuts if recorded and not (transforms or forward) else None,
        )
        # detach() forgets the derivative of forward mode, so a field must not find that its state needs one.
        if transforms or not (self.recording or forward):
            out = self._once(given, t, time, y, cuts if y.requires_grad else None, last=transforms)
        if out is None:
            with torch.inference_mode(False), torch.enable_grad():
                time, y = _leaf(time), _leaf(y)
                out = self._once(given, time, time, y, cuts, last=True)
                assert out is not None
        return out if recorded else _without_graph(out)

    def many(
        self,
        fs: Sequence[Callable[..., Any]],
        name: str,
        packing: Packing,
        times: Tensor,
        ys: Tensor,
        args: tuple[Any, ...],
    ) -> list[list[Any]] | None:
        """What functions give at several times and states, with one look at the arguments for all of them.

        Returns:
            A list for each time; or None, if the calls have to be made one by one: something is recorded or transformed, or
            a function failed, of which a call of its own tells more.
        """
        if not self._unrecorded(times, ys):
            return None
        before = _marks(times, times, ys)
        try:
            out = [
                [f(time, state, *args) for f in fs]
                for time, state in zip(times.unbind(), map(packing.unpack, ys.unbind()), strict=True)
            ]
        except (RuntimeError, TypeError):
            out = None
        if _marks(times, times, ys) != before:
            _release(name, before, times, times, ys)
        return out

    def at_once(self, table: Callable[[Tensor, Tensor], Tensor], name: str, times: Tensor, ys: Tensor) -> Tensor | None:
        """What a table of functions is at several times and states, by one call under ``torch.func.vmap``.

        Returns:
            The tables, the points first; or None, if the calls have to be made point by point: as for :meth:`many`, or
            because the functions look at values, draw random numbers, or use what has no rule for batches.
        """
        if not self._unrecorded(times, ys):
            return None
        before, out = _marks(times, times, ys), None
        try:
            out = torch.func.vmap(table)(times, ys)
        except Exception:  # whatever it is, a call of its own tells
            out = None
        if _marks(times, times, ys) != before:
            _release(name, before, times, times, ys)
        return out

    def _unrecorded(self, times: Tensor, ys: Tensor) -> bool:
        if torch.is_grad_enabled() or self.recording or torch.compiler.is_compiling() or transformed():
            return False
        return not any(x.requires_grad or x.is_inference() for x in (times, ys))

    def _once(
        self, given: tuple[Any, ...], clock: Scalar, time: Tensor, y: Tensor, cuts: Cuts | None, last: bool
    ) -> Any:
        """One call in the mode that is on, checked; None where autograd should have recorded, unless it is the last try."""
        f, name, pack, packing, args, writes = given
        before = _marks(clock, time, y)
        since = 0 if cuts is None else cuts.begin(name)
        try:
            value = f(time, _state(packing, y, writes), *args)
        except (RuntimeError, TypeError) as error:
            _release(name, before, clock, time, y)
            return self._failed(f, name, args, error, last)
        if cuts is not None:
            value = cuts(name, lambda y: f(time, packing.unpack(y), *args), y, value, since)
        out = pack(value, name)
        if _marks(clock, time, y) != before:
            _release(name, before, clock, time, y)
        return out

    def _failed(self, f: Callable[..., Any], name: str, args: tuple[Any, ...], error: Exception, last: bool) -> None:
        """Say what is the matter with a call that has just failed, unless it is to be made again with a record."""
        if not last and _said(error, _UNRECORDED):
            self.recording = True
            return
        refuse_arguments(f, name, 2 + len(args), error)
        explain(name, error)
        raise error


def _without_graph(out: Packed) -> Packed:
    """The same without the graph that leads to it, where nothing is recorded.

    A view that is made under ``no_grad`` of a tensor that requires grad says that it requires grad as well, and nothing
    that is computed from it leads back to it; and a function may have recorded for itself.
    """
    if isinstance(out, list):
        return [_without_graph(x) for x in out]
    if not out.requires_grad:
        return out
    return out.clone() if transformed() else out.detach()  # a copy keeps the derivative of forward mode


def _state(packing: Packing, y: Tensor, writes: bool) -> Any:
    state = packing.unpack(y)
    return pytree.tree_map(torch.clone, state) if writes else state


def _leaf(x: Tensor) -> Tensor:
    """The tensor, or a leaf with its values where it leads to no graph."""
    if x.is_inference():
        x = x.clone()
    return x if x.requires_grad else x.view_as(x).requires_grad_()


def _marks(clock: Scalar, time: Tensor, y: Tensor) -> tuple[Any, ...]:
    """What a call may change of its arguments: their flags, and how often they were written."""
    written = 0 if y.is_inference() else y._version
    moved = clock._version if isinstance(clock, Tensor) and not clock.is_inference() else 0
    return y.requires_grad, time.requires_grad, written, moved


def _release(name: str, before: tuple[Any, ...], clock: Scalar, time: Tensor, y: Tensor) -> None:
    """Put the flags back that a call has changed, and refuse what it has written."""
    flag, timed, *versions = before
    _, _, *now = _marks(clock, time, y)
    if now[0] != versions[0]:
        raise InvalidProblemError(f"{name}: changed the state in-place; expected a new tensor, -y rather than y.neg_()")
    if now[1] != versions[1]:
        raise InvalidProblemError(f"{name}: changed the time in-place; expected a new tensor, t + 1 rather than t += 1")
    if transforms_active():
        return
    for x, was in ((y, flag), (time, timed)):
        if x.requires_grad is not was:
            x.requires_grad_(was)


def explain(name: str, error: Exception) -> None:
    """Raise an error that says what is the matter with a user's function, where torch's words for it are known."""
    for marks, meaning in _KNOWN:
        if _said(error, marks):
            raise InvalidProblemError(f"{name}: {meaning}") from error


def _said(error: Exception, marks: Sequence[str]) -> bool:
    text = str(error)
    return any(mark in text for mark in marks)
