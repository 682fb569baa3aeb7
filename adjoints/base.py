"""What an adjoint is: a way to run a solve so that gradients can flow back through it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor
from torch.utils import _pytree as pytree

from neuralde.solvers.core.scalars import transformed
from neuralde.solvers.drivers.integrate import Options, Result
from neuralde.solvers.errors import InvalidProblemError
from neuralde.solvers.stepping.attempt import Plan
from neuralde.solvers.stepping.quadrature import PathIntegral

from .capabilities import Capabilities, register, who_has


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """A solve to run: the plan and options with the live tensors in them, and the user's own functions and arguments."""

    plan: Plan
    y0: Tensor
    options: Options
    f: tuple[Callable[..., Any], ...]
    args: tuple[Any, ...]

    @property
    def arguments(self) -> list[Tensor]:
        """The tensors among ``args`` that require grad."""
        return [leaf for leaf in pytree.tree_leaves(self.args) if isinstance(leaf, Tensor) and leaf.requires_grad]

    @property
    def tensors(self) -> list[Tensor]:
        """Every tensor among ``args`` and the times in the graph."""
        ends = (self.plan.live_t0, self.plan.live_t1, self.options.save.live, self.plan.stops.live)
        return [leaf for leaf in (*pytree.tree_leaves(self.args), *ends, *self._schedules) if isinstance(leaf, Tensor)]

    @property
    def _schedules(self) -> list[Tensor | None]:
        return [] if self.plan.events is None else self.plan.events.live

    @property
    def callables(self) -> tuple[Any, ...]:
        """Everything that may hold tensors on which the solve depends."""
        events = [] if self.plan.events is None else self.plan.events.callables
        return (self.f, self.args, *events, *(cost for cost in self.plan.costs if cost.differentiable))

    def detached(self) -> tuple[Job, list[Tensor]]:
        """The same job on copies of its tensors that are leaves of a graph of their own, and the copies."""
        return self.copied(lambda tensor: tensor.detach().requires_grad_())

    def copied(self, one: Callable[[Tensor], Tensor]) -> tuple[Job, list[Tensor]]:
        """The same job on copies of its tensors, each made by ``one``, and the copies.

        The copies are, in order: ``t0``, ``t1``, the save times, the times to land on and those of scheduled events where
        they require grad, then :attr:`arguments`.
        """
        copies: list[Tensor] = []

        def copy(tensor: Tensor | None) -> Tensor | None:
            if tensor is None:
                return None
            copies.append(one(tensor))
            return copies[-1]

        plan, save = self.plan, self.options.save
        live_t0, live_t1 = copy(plan.live_t0), copy(plan.live_t1)
        save, stops = replace(save, live=copy(save.live)), plan.stops.bind(copy(plan.stops.live))
        schedules = [copy(ts) for ts in self._schedules]
        swap = {id(leaf): copy(leaf) for leaf in dict.fromkeys(self.arguments)}
        args = pytree.tree_map(lambda leaf: swap.get(id(leaf), leaf), self.args)
        field = plan.field.rebind(args)
        events = None if plan.events is None else plan.events.bind(args, schedules)
        plan = replace(plan, field=field, live_t0=live_t0, live_t1=live_t1, stops=stops, events=events)
        return replace(self, plan=plan, options=replace(self.options, save=save), args=args), copies

    @property
    def live(self) -> list[Tensor]:
        """The tensors that :meth:`detached` copies, in the same order."""
        plan = self.plan
        ends = [plan.live_t0, plan.live_t1, self.options.save.live, plan.stops.live, *self._schedules]
        return [tensor for tensor in ends if tensor is not None] + list(dict.fromkeys(self.arguments))


class Adjoint(ABC):
    """How a solve is differentiated: pass an instance of a subclass as ``solve(..., adjoint=)``.

    There are two families. *Discretise-then-optimise* differentiates the steps that were taken: the gradient is that of
    the numerical solution, exact to rounding (``capabilities.exact``). *Optimise-then-discretise* solves the adjoint
    equation of the continuous problem with a method of its own: the gradient converges with the tolerance.

    A subclass says in ``capabilities`` what it can do and implements :meth:`solve`; that is all. It is then refused what it
    cannot do, by name, stands in ``neuralde.adjoints.table()``, and messages recommend it where it can what another
    cannot. ``class Mine(Adjoint, rank=20)`` stands behind those of a smaller rank; the library's have 0 to 7, and 10 is
    usual.

    When to take it:
        To add a way to differentiate; of those that there are, ``neuralde.adjoints.table()`` says what each can do.

    Example:
        >>> import neuralde as nde
        >>> [kind.capabilities.exact for kind in (nde.DirectAdjoint, nde.DiscreteAdjoint, nde.BacksolveAdjoint)]
        [True, True, False]
    """

    capabilities: ClassVar[Capabilities]
    """What it can do; the only thing that :meth:`check` reads."""
    through_steps: bool = False
    """Whether this instance differentiates step sizes as well."""
    follows_calls: ClassVar[bool] = False
    """Whether autograd itself records the field's calls in the solve, in one graph."""
    own_steps: bool = False
    """Whether this instance may take other steps than the solve without a gradient."""

    def __init_subclass__(cls, *, rank: int = 10, **more: Any) -> None:
        super().__init_subclass__(**more)
        if "capabilities" in vars(cls):  # one that inherits them is a variant of another
            if not isinstance(cls.capabilities, Capabilities):
                raise InvalidProblemError(
                    f"capabilities: {cls.__name__} has {cls.capabilities!r}; expected Capabilities(...)"
                )
            register(cls, rank)

    @property
    def name(self) -> str:
        """The name that messages use."""
        return type(self).__name__

    def __repr__(self) -> str:
        return f"{self.name}()"

    def check(self, job: Job) -> None:
        """Refuse what this adjoint cannot differentiate, by name."""
        if not hasattr(self, "capabilities"):
            raise InvalidProblemError(
                f"adjoint: {self.name} does not say what it can do; expected capabilities in its class"
            )
        can, save = self.capabilities, job.options.save
        costs = [cost for cost in job.plan.costs if cost.differentiable]
        term = job.plan.field
        if term.family not in can.terms:
            raise InvalidProblemError(
                f"adjoint: {self.name} does not differentiate {term.title}; expected {who_has(terms=term.family)}"
            )
        if not can.forward_mode and transformed():
            raise InvalidProblemError(
                f"adjoint: {self.name} knows the backward pass only, not torch.func or forward-mode differentiation; "
                f"expected None or {who_has(forward_mode=True)}"
            )
        unseen = [cost for cost in costs if not (can.running_costs and isinstance(cost, PathIntegral))]
        if not can.regularizers and unseen:
            names = ", ".join(type(cost).__name__ for cost in unseen)
            raise InvalidProblemError(
                f"regularizers: got {names} with {self.name}, which cannot give its gradient because it does not see the "
                f"steps; expected {who_has(regularizers=True)}, or wrap the regularizer in Local(...)"
            )
        if not can.events and job.plan.events is not None:
            raise InvalidProblemError(
                f"adjoint: {self.name} gives no gradient through events; expected {who_has(events=True)}"
            )
        if not can.dense and save.dense:
            raise InvalidProblemError(
                f"adjoint: {self.name} gives no gradient through dense=True; expected save times, or {who_has(dense=True)}"
            )
        if "steps" not in can.saves and save.every:
            raise InvalidProblemError(
                f'adjoint: {self.name} gives no gradient through saveat="steps"; expected save times, or '
                f"{who_has(saves='steps')}"
            )
        if can.solvers == "reversible" and not job.plan.method.reversible:
            raise InvalidProblemError(
                f"solver: got {job.plan.method!r} with {self.name}; expected Reversible(...), or {who_has(solvers='any')}"
            )
        if not can.per_sample and job.plan.per_sample:
            raise InvalidProblemError(
                f"adjoint: {self.name} differentiates joint solves only; with per_sample expected {who_has(per_sample=True)}"
            )

    @abstractmethod
    def solve(self, job: Job) -> Result:
        """Run the job, with gradients."""
