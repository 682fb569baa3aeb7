"""What a term is: one kind of right-hand side, with the facts and operations that a solve asks of it."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..core.packing import Packing
from ..core.scalars import Scalar, as_time
from .first_step import initial_step


class Term(ABC):
    r"""The right-hand side of one kind of equation, for packed states; calling it gives the slope :math:`dy/dt`.

    Nothing that steps, saves or differentiates asks what class a term has: it asks for the facts below, which are
    constants of the class, and calls the operations. A new kind of equation is one subclass, in one file, and an entry
    in :mod:`neuralde.solvers.front.kinds` that makes it from a problem. The operations have answers that are right for
    a field along time, :math:`y' = f(t, y)`; a term overrides those for which its own are others.

    Example:
        >>> import torch
        >>> from neuralde.solvers.terms.base import Term
        >>> class Decay(Term):
        ...     def __call__(self, t, y):
        ...         return -y
        >>> Decay().smooth, Decay().one_sided(0.0, 1.0)(2.0, torch.ones(1))
        (True, tensor([-1.]))
    """

    family: str = "ODE"
    """What methods (:attr:`Method.takes`) and adjoints (:attr:`Capabilities.terms`) take it for."""
    random: bool = False
    """Whether noise is drawn for it while it is solved."""
    smooth: bool = True
    """Whether the solution has a slope: then errors, times, events and quadratures are those of a smooth curve."""
    chains: bool = True
    """Whether its value where a step ends is what the next step starts with."""
    captures: bool = False
    """Whether a device can replay its calls: they depend on time, state, :attr:`args` and captured tensors alone."""
    affine: bool = False
    """Whether it is an affine function of the state: its Jacobian is then exact from differences."""
    title: str = "an ODEProblem"
    """What messages call the problem behind it."""
    name: str = "f"
    """What messages call the function whose value it is."""
    packing: Packing
    """How the state is laid out."""
    args: tuple[Any, ...] = ()
    """What the user's functions receive beside time and state."""
    looks: int = 0
    """How often a second function was called before the solve, to see its shape."""
    noise: Any = None
    """Where the increments of a random term come from, with ``seed`` and ``path``."""

    @abstractmethod
    def __call__(self, t: Scalar, y: Tensor) -> Tensor:
        """The slope at ``(t, y)``: what a step starts with, and what regularizers and densities may read."""

    @property
    def functions(self) -> tuple[Callable[..., Any], ...]:
        """The user's functions, in the order in which :meth:`probe` calls them."""
        return ()

    @property
    def controls(self) -> tuple[Any, ...]:
        """What may say, by an attribute ``jumps``, ``knots`` or ``grid_points``, at which times the slope jumps."""
        return (*self.functions, *pytree.tree_leaves(self.args))

    def probe(self, t: Scalar, y: Tensor) -> list[Tensor]:
        """Everything that the user's functions return at one point, the slope first."""
        return [self(t, y)]

    def jacobian(self, t: Scalar, y: Tensor) -> Tensor | None:
        """The Jacobian of the slope with respect to the flattened state, where the problem gives it; None: it does not."""
        del t, y
        return None

    def on(self, t0: Scalar, t1: Scalar) -> Callable[[Scalar, Tensor], Tensor]:
        """The field that a step from ``t0`` to ``t1`` sees: this one, unless what drives it makes another on each interval."""
        del t0, t1
        return self

    def rebind(self, args: tuple[Any, ...]) -> Term:
        """The same term with other arguments."""
        bound = copy.copy(self)
        bound.args = args
        return bound

    def take(self, rows: Tensor) -> Term:
        """The term of some of the samples."""
        del rows
        return self

    def one_sided(self, low: Scalar, high: Scalar) -> Term:
        """The term seen from inside an interval whose ends are discontinuities."""
        return OneSided(self, low, high)

    def first_step(
        self,
        t: Scalar,
        y: Tensor,
        slope: Tensor,
        direction: Scalar,
        longest: Scalar,
        order: float,
        norm: Callable[[Tensor], Scalar],
    ) -> Scalar:
        """A step size to begin with, for one more call; the arguments are those of :func:`initial_step`."""
        return initial_step(self, t, y, slope, direction, longest, order, norm)

    def along(self) -> Any:
        """What evaluates a step between its ends where the solution follows a path there; None: the step's polynomial."""
        return None

    def bridges(self, times: Tensor) -> Callable[..., Tensor] | None:
        """The same for a graph: what the path does at all the times, as a function of a step; None: the polynomial."""
        del times
        return None

    def second_calls(self, method: Any, counts: Any) -> Any:
        """How often a solve by ``method`` has called a second function; ``counts`` is the carry behind its last step."""
        del method, counts
        return 0


class OneSided(Term):
    """A term seen from inside an interval: times are clamped between two bounds.

    At a discontinuity the step that ends there must see the slope's left limit and the step that starts there its
    right limit, in the precision in which the function receives the time.
    """

    def __init__(self, term: Callable[[Scalar, Tensor], Tensor], low: Scalar, high: Scalar) -> None:
        self.term, self.low, self.high = term, low, high
        self.affine = getattr(term, "affine", False)

    def __call__(self, t: Scalar, y: Tensor) -> Tensor:
        """The slope at the nearest time inside the bounds."""
        return self.term(clamped(t, y, self.low, self.high), y)

    def jacobian(self, t: Scalar, y: Tensor) -> Tensor | None:
        """The Jacobian at that time."""
        given = getattr(self.term, "jacobian", None)
        return None if given is None else given(clamped(t, y, self.low, self.high), y)


def clamped(t: Scalar, y: Tensor, low: Scalar, high: Scalar) -> Tensor:
    """The nearest time inside the bounds, in the precision in which the field receives it."""
    time, low, high = (torch.as_tensor(as_time(x, y)) for x in (t, low, high))
    inside = torch.minimum(torch.maximum(time, low), high)
    # The bounds are often the time itself, where the gradient of a minimum would be split between the two.
    return time + (inside - time).detach()
