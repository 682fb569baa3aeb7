"""One call of a user's function: what it is given, what it may do to that, and what its failures are called."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils import _pytree as pytree

from .cut import Cuts
from .errors import InvalidProblemError
from .hints import called
from .scalars import Scalar, as_time, transformed
from .state import Packing

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
        pack: Callable[[Any], Packed],
        packing: Packing,
        t: Scalar,
        y: Tensor,
        args: tuple[Any, ...],
        writes: bool = False,
    ) -> Packed:
        """``pack(f(t, y, *args))`` at a packed state; a function that ``writes`` gets a copy of it."""
        time = as_time(t, y)
        if torch.compiler.is_compiling():
            return pack(f(time, _state(packing, y, writes), *args))
        recorded, watched = torch.is_grad_enabled(), not torch._C._are_functorch_transforms_active()
        time, y = _safe(t, time, y, recorded)

        def run(time: Tensor, y: Tensor) -> Any:
            return called(f, name, time, _state(packing, y, writes), *args)

        # detach() forgets the derivative of forward mode, so a field must not find that its state needs one.
        if not (watched and (self.recording or forward_ad._current_level >= 0)):
            try:
                cuts = self.cuts if recorded and y.requires_grad and not transformed() else None
                out = self._once(run, name, pack, t, time, y, cuts)
            except RuntimeError as error:
                if not watched or not _said(error, _UNRECORDED):
                    raise
                self.recording = True
            else:
                return out if recorded else _without_graph(out)
        with torch.inference_mode(False), torch.enable_grad():
            time, y = _leaf(time), _leaf(y)
            out = self._once(
                run, name, pack, time, time, y, self.cuts if recorded and not transformed() else None, again=True
            )
        return out if recorded else _without_graph(out)

    def _once(
        self,
        run: Callable[[Tensor, Tensor], Any],
        name: str,
        pack: Callable[[Any], Packed],
        clock: Scalar,
        time: Tensor,
        y: Tensor,
        cuts: Cuts | None,
        again: bool = False,
    ) -> Packed:
        """One call, checked, in the mode that is on."""
        given = _Given(clock, time, y)
        since = cuts.begin(name) if cuts is not None else 0
        try:
            value = run(time, y)
        except (RuntimeError, TypeError) as error:
            given.release(name)
            if again or torch._C._are_functorch_transforms_active() or not _said(error, _UNRECORDED):
                explain(name, error)
            raise
        if cuts is not None:
            value = cuts(name, partial(run, time), y, value, since)
        out = pack(value)
        given.release(name)
        return out


def _without_graph(out: Packed) -> Packed:
    """What was computed, where nothing is recorded: the function may have recorded for itself."""
    if isinstance(out, list):
        return [_without_graph(x) for x in out]
    if not out.requires_grad:
        return out
    return out.clone() if transformed() else out.detach()  # a copy keeps the derivative of forward mode


def _state(packing: Packing, y: Tensor, writes: bool) -> Any:
    state = packing.unpack(y)
    return pytree.tree_map(torch.clone, state) if writes else state


def _safe(t: Scalar, time: Tensor, y: Tensor, recorded: bool) -> tuple[Tensor, Tensor]:
    """Time and state whose flags may be set, and that lead to no graph where none is recorded.

    A view that is made under ``no_grad`` of a tensor that requires grad says that it requires grad as well, and nothing
    that is computed from it leads back to it.
    """
    if not recorded and (y.requires_grad or time.requires_grad):
        # A copy keeps the derivative of forward mode.
        return (time.clone(), y.clone()) if transformed() else (time.detach(), y.detach())
    if time is t and not time.requires_grad and not transformed():
        time = time.detach()  # the clock's own tensor keeps its flag
    return time, y


def _leaf(x: Tensor) -> Tensor:
    """The tensor, or a leaf with its values where it leads to no graph."""
    if x.is_inference():
        x = x.clone()
    return x if x.requires_grad else x.view_as(x).requires_grad_()


class _Given:
    """The arguments of one call, as they were before it."""

    __slots__ = ("clock", "state", "versions", "watched")

    def __init__(self, t: Scalar, time: Tensor, y: Tensor) -> None:
        self.clock = t if isinstance(t, Tensor) else time
        self.state = y
        self.watched = y.requires_grad
        self.versions = None if y.is_inference() else (y._version, _version(self.clock))

    def release(self, name: str) -> None:
        """Put the flag back that the call has changed, and refuse what it has written."""
        if self.versions is not None and self.state._version != self.versions[0]:
            raise InvalidProblemError(
                f"{name}: changed the state in-place; expected a new tensor, -y rather than y.neg_()"
            )
        if self.versions is not None and _version(self.clock) != self.versions[1]:
            raise InvalidProblemError(
                f"{name}: changed the time in-place; expected a new tensor, t + 1 rather than t += 1"
            )
        if self.state.requires_grad is not self.watched and not transformed():
            self.state.requires_grad_(self.watched)


def _version(x: Tensor) -> int:
    return 0 if x.is_inference() else x._version


def explain(name: str, error: Exception) -> None:
    """Raise an error that says what is the matter with a user's function, where torch's words for it are known."""
    for marks, meaning in _KNOWN:
        if _said(error, marks):
            raise InvalidProblemError(f"{name}: {meaning}") from error


def _said(error: Exception, marks: Sequence[str]) -> bool:
    text = str(error)
    return any(mark in text for mark in marks)
