"""The map that the exact adjoints differentiate, "these steps, on this problem", and its finite differences."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from neuralde.adjoints import Adjoint, DirectAdjoint
from neuralde.adjoints.base import Job
from neuralde.adjoints.exact.direct import again, recorded
from neuralde.adjoints.exact.replay import Recorder
from neuralde.adjoints.shared.captured_tensors import held_tensors
from neuralde.adjoints.shared.tensor_names import names_of
from neuralde.solvers import ODEProblem, SDEProblem, Solution, StepTo
from neuralde.solvers.core.scalars import Scalar, real_dtype
from neuralde.solvers.drivers.integrate import Outcome, Result
from neuralde.solvers.events.event_set import Arrive, Events
from neuralde.solvers.events.functions import gradient
from neuralde.solvers.stepping.attempt import Plan, start_costs
from neuralde.solvers.stepping.given_times import as_list

from ..solving import solve

# Steps by which the root of an event's function follows inputs that move by a thousandth.
_NEWTON = 5

Loss = Callable[[Solution], Tensor]


class Input(NamedTuple):
    """Something that the solution depends on."""

    name: str
    tensor: Tensor


class Subject:
    """A problem on tensors of its own, which may be moved, and how it is solved.

    Args:
        problem: the user's problem.
        options: what ``solve`` is asked for.
        loss: a number from the solution.
        seed: of torch's generator before every solve, for regularizers that draw random numbers.
        adjoint: whose steps they are.
    """

    def __init__(
        self, problem: ODEProblem | SDEProblem, options: dict[str, Any], loss: Loss, seed: int, adjoint: Adjoint
    ) -> None:
        self.options, self.loss, self.seed = options, loss, seed
        copies: dict[int, Tensor] = {}
        self.inputs: list[Input] = []
        y0 = self._copied("y0", problem.y0, copies)
        args = self._copied("args", problem.args, copies)
        self.problem, ends = replace(problem, y0=y0, args=args), {}
        if problem.smooth:  # a solution of an SDE has no derivative in time
            for name, t in zip(("t0", "t1"), problem.tspan, strict=True):
                ends[name] = torch.as_tensor(t, dtype=torch.float64).detach().clone().requires_grad_()
            self.problem = replace(self.problem, tspan=(ends["t0"], ends["t1"]))
        roots = [*problem.functions.items(), ("args", args)]
        events = options.get("events")
        for place, event in enumerate(events if isinstance(events, (list, tuple)) else [events]):
            roots += [(f"events[{place}]", getattr(event, name, None)) for name in ("fn", "apply", "ts")]
        roots += [(f"regularizers[{place}]", cost) for place, cost in enumerate(options.get("regularizers", ()))]
        known = {id(one.tensor) for one in self.inputs}
        held = [x for x in held_tensors(tuple(root for _, root in roots)) if id(x) not in known]
        self.inputs += [Input(*pair) for pair in zip(names_of(roots, held), held, strict=True)]
        self.inputs += [Input(*end) for end in ends.items()]
        self.ends = (1.0, 1.0)
        self.frozen = self._freeze(adjoint)
        self.baseline = self.value()

    def _copied(self, label: str, tree: Any, copies: dict[int, Tensor]) -> Any:
        leaves, spec = pytree.tree_flatten_with_path(tree)
        out = []
        for path, leaf in leaves:
            if isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex()):
                if id(leaf) not in copies:
                    copies[id(leaf)] = leaf.detach().clone().requires_grad_()
                    self.inputs.append(Input(label + pytree.keystr(path), copies[id(leaf)]))
                leaf = copies[id(leaf)]
            out.append(leaf)
        return pytree.tree_unflatten(out, spec)

    def run(self, **extra: Any) -> Solution:
        """The solution, with other options beside the user's."""
        devices = [self.inputs[0].tensor.device] if self.inputs[0].tensor.is_cuda else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(self.seed)
            solution: Solution = solve(self.problem, **self.options | extra)
        return solution

    def gradients(self, **extra: Any) -> tuple[Tensor, list[Tensor]]:
        """The loss and its gradient with respect to every input."""
        value = self.loss(self.run(**extra))
        inputs = [one.tensor for one in self.inputs]
        found = torch.autograd.grad(value, inputs, allow_unused=True) if value.requires_grad else [None] * len(inputs)
        return value.detach(), [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)]

    def value(self) -> float:
        """The loss on the frozen steps, from the inputs as they are now."""
        return self.loss(self.run(**self.frozen)).detach().to(torch.float64).item()

    def varies(self) -> bool:
        """Whether the same solve gives another value with another seed; regularizers may draw random numbers."""
        if self.options.get("regularizers"):
            return False
        self.seed += 1
        again = self.value()
        self.seed -= 1
        return again != self.baseline and not abs(again - self.baseline) <= 1e3 * self.eps * abs(self.baseline)

    def _freeze(self, adjoint: Adjoint) -> dict[str, Any]:
        """The options that keep the steps where they are.

        A joint solve steps to the times of the steps again, and finds its events anew. A per-sample solve takes the
        recorded steps again, where every sample has its own, up to wherever the recorded events have moved.
        """
        with nullcontext() if adjoint.own_steps else torch.no_grad():
            sol = self.run(saveat="steps", dense=False, adjoint=adjoint if adjoint.own_steps else None)
        if sol.path is not None:  # of one path from here on: that of a seed depends on dt
            self.options = {name: value for name, value in self.options.items() if name != "seed"} | {"path": sol.path}
        lengths = sol.ts.diff(dim=0).abs().nan_to_num(torch.inf)
        if self.options.get("per_sample"):
            self.ends = (lengths.min().item(),) * 2
            return {"adjoint": _Again(), "compact": False}
        self.ends = (lengths[0].item(), lengths[-1].item())
        controller = self.options.get("controller")
        jumps = () if controller is None else controller.jump_ts
        skipped = {*as_list(jumps), *sol.ts[[0, -1]].tolist()}
        if sol.events is not None:
            skipped |= set(sol.events.ts.tolist())
        mesh = [t for t in sol.ts.tolist() if t not in skipped]
        return {"controller": StepTo(ts=mesh, jump_ts=jumps), "dt": None, "adjoint": DirectAdjoint()}

    def difference(self, x: Tensor, direction: Tensor, h: float) -> tuple[float, float]:
        r"""The derivative of the loss as ``x`` moves along a direction, and how far it may be off.

        .. math:: \\frac{8 (L(h) - L(-h)) - (L(2h) - L(-2h))}{12 h} = L'(0) + O(h^4)

        with the finer of two steps, and their difference.
        """
        before, move, at = x.detach().clone(), direction.to(x.dtype), {}
        data = x.data  # a write to it is no change in place that autograd would object to
        try:
            for k in (1, -1, 2, -2, 4, -4):
                data.copy_(before + (k * h / 2) * move)
                at[k] = self.value()
        finally:
            data.copy_(before)
        coarse, fine = ((8 * (at[k] - at[-k]) - (at[2 * k] - at[-2 * k])) / (12 * k * h / 2) for k in (2, 1))
        return fine, abs(fine - coarse)

    @property
    def accuracy(self) -> tuple[str, ...]:
        """The options by which the solve becomes more accurate: tolerances, or the step of an SDE."""
        fixed = self.problem.random and self.options.get("dt") is not None
        return ("dt",) if fixed else ("rtol", "atol")

    @property
    def eps(self) -> float:
        """The rounding of the state."""
        return float(torch.finfo(real_dtype(self.inputs[0].tensor)).eps)

    def step_for(self, one: Input) -> float:
        """A difference step: where truncation of fourth order and rounding are of one size; times stay in their step."""
        size = one.tensor.detach().abs().max().item() or 1.0
        longest = {"t0": self.ends[0] / 8, "t1": self.ends[1] / 8}.get(one.name, float("inf"))
        return min(self.eps**0.2 * size, longest)


class _Again(DirectAdjoint):
    """Records the steps of its first solve, and takes the same steps in every later one."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: tuple[Plan, Recorder, Outcome] | None = None

    def solve(self, job: Job) -> Result:
        """The recorded steps, from the job's own tensors."""
        started = start_costs(job.plan, job.y0)
        if self.kept is None:
            self.kept = (job.plan, *recorded(job, started))
        plan, recorder, outcome = self.kept
        events = None if job.plan.events is None or plan.events is None else _Moving(job.plan.events, plan.events)
        plan = replace(job.plan, t0=plan.t0, t1=plan.t1, direction=plan.direction, events=events)
        return again(replace(job, plan=plan), started, recorder, outcome)


class _Moving(Events):
    """Events whose times are found again near those of recorded ones, when the inputs have moved.

    Args:
        events: those of the solve at hand.
        recorded: those of the solve whose steps are taken again.
    """

    def __init__(self, events: Events, recorded: Events) -> None:
        vars(self).update(vars(events))
        self.times = recorded.times

    def root_time(self, index: int, arrive: Arrive, t: Scalar, end: Tensor, y: Tensor) -> Tensor:
        """Newton's iteration; the last steps carry the derivative."""
        for _ in range(_NEWTON):
            rate = gradient(lambda end: self.value(index, end, arrive(_constant(t), end, y.detach())).sum(), end)[0]
            end = end - self.value(index, end, arrive(t, end, y)) / rate
        return end


def _constant(t: Scalar) -> Scalar:
    return t.detach() if isinstance(t, Tensor) else t
