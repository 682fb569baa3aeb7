r"""What an event does to the cotangent of a continuous adjoint.

At the event's time :math:`t^*`, where :math:`g(t^*, y^-) = 0`, the solution goes on from :math:`y^+ = h(t^*, y^-)`. A
variation :math:`\delta y^-` of the state at that time moves the time, and the state behind it, by

.. math:: dt^* = -\frac{g_y\, \delta y^- + g_\theta\, \delta\theta}{g_t + g_y f^-}, \qquad
          \delta y^+ = h_y\, (\delta y^- + f^- dt^*) + h_t\, dt^* + h_\theta\, \delta\theta - f^+ dt^*

with the field :math:`f^\mp` on both sides, and the cotangent in front of the event is the transpose of this map: autograd
takes it from a graph of one call of ``fn`` and of ``apply``.

References:
    Corner, Sandu, Sandu: Adjoint Sensitivity Analysis of Hybrid Multibody Dynamical Systems. Multibody System Dynamics 49
    (2020). Chen, Amos, Nickel: Learning Neural Event Functions for Ordinary Differential Equations. ICLR 2021.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from neuralde.solvers.core.scalars import Scalar, any_true, as_clock, choose, negate, spread
from neuralde.solvers.core.torch_private import sequence_number
from neuralde.solvers.events.crossings import fired_at
from neuralde.solvers.events.event_set import Fired
from neuralde.solvers.events.log import Log
from neuralde.solvers.stepping.attempt import Plan

from ..shared.captured_tensors import refuse_unknown
from .integrands import Integrands


@dataclass(frozen=True, eq=False)
class Moment:
    """The latest events of the lanes that have any ahead of the backward solve."""

    fired: Fired
    t: Scalar
    """Their time; where a lane has none, the time at which it stands."""
    before: Tensor
    after: Tensor
    entries: int | Tensor
    """Which entry of the log each lane's is."""

    def share(self, cotangent: Tensor | None) -> Tensor | None:
        """The lanes' part of the cotangent of what was logged, zero where a lane has no event."""
        if cotangent is None or isinstance(self.entries, int):
            return None if cotangent is None else cotangent[self.entries]
        own = cotangent[self.entries]
        return choose(self.fired.mask, own, torch.zeros_like(own))


class Jumps:
    """The events of a solve, last first, and the cotangent's jump at each of them.

    Args:
        plan: the forward plan, on the copies of the inputs.
        log: what happened.
        like: the initial state.
    """

    def __init__(self, plan: Plan, log: Log, like: Tensor) -> None:
        self.plan, self.flat = plan, log.flat(like)
        self.hits, self.primary, samples = log.found()
        self.left: int | Tensor = len(self.flat.times)
        if samples is not None:
            turns = torch.nn.functional.one_hot(samples, len(like)).cumsum(0)
            turn = turns.gather(1, samples.unsqueeze(1)).squeeze(1) - 1
            self.left = turns[-1] if len(turns) else samples.new_zeros(len(like))
            count = int(self.left.max()) if len(like) else 0
            place = torch.arange(len(samples), device=samples.device)
            self.table = samples.new_zeros((count, len(like))).index_put((turn, samples), place)

    def again(self) -> Jumps:
        """The same, with all events ahead."""
        return copy.copy(self)

    @property
    def times(self) -> tuple[float, ...]:
        """Where the path of the solution may jump."""
        return tuple(self.flat.times.tolist())

    def latest(self, t: Scalar, y: Tensor, t_end: Scalar, behind: bool = False) -> Moment | None:
        """The last events not passed yet, no earlier in the solve than ``t_end``, and pass them; ``y`` is the state at ``t``.

        With ``behind`` those at ``t_end`` itself are left, if the solve went on behind them.
        """
        if isinstance(self.left, int):
            entry = self.left - 1
            if entry < 0 or (self.flat.times[entry].item() - t_end) * self.plan.direction < 0:
                return None
            fired = fired_at(self.plan, self.hits[entry], self.primary[entry])
            if behind and bool(self._goes_on(entry, fired, t_end)):
                return None
            self.left = entry
            return Moment(fired, self.flat.times[entry].item(), self.flat.before[entry], self.flat.after[entry], entry)
        if not len(self.table):
            return None
        entries = self.table.gather(0, (self.left - 1).clamp(min=0).unsqueeze(0)).squeeze(0)
        mask = (self.left > 0) & ((self.flat.times[entries] - t_end) * self.plan.direction >= 0)
        if behind:
            every = fired_at(self.plan, self.hits[entries], self.primary[entries])
            mask = mask & ~self._goes_on(entries, every, t_end)
        if not bool(mask.any()):
            return None
        self.left = self.left - mask.to(torch.int64)
        fired = fired_at(self.plan, self.hits[entries] & mask.unsqueeze(-1), self.primary[entries])
        times = torch.where(mask, self.flat.times[entries], t)
        before, after = (choose(mask, x[entries], y) for x in (self.flat.before, self.flat.after))
        return Moment(fired, times, before, after, entries)

    def _goes_on(self, entry: int | Tensor, fired: Fired, t_end: Scalar) -> Tensor:
        """Whether the events are at ``t_end``, and the solve went on behind them."""
        return (self.flat.times[entry] == t_end) & (t_end != self.plan.t1) & negate(fired.ends)

    def pull(
        self,
        moment: Moment,
        a: Tensor,
        cotangents: Sequence[Tensor | None],
        integrands: Integrands,
        inputs: Sequence[Tensor],
        captured: list[Tensor],
    ) -> tuple[Tensor, list[Tensor | None]]:
        """The cotangent in front of the events, and the gradients of ``inputs``, from the one behind them.

        Args:
            moment: the events.
            a: the cotangent of the state behind them.
            cotangents: those of the logged times and states.
            integrands: the running costs, which end in front of an event and start again behind it.
            inputs: what ``fn`` and ``apply`` may depend on, beside the state.
            captured: those of the inputs that were found, not passed.
        """
        g_t, g_before, g_after = map(moment.share, cotangents)
        with torch.no_grad():
            g_t = self._along(moment, a, g_t, integrands)
        with torch.enable_grad():
            y = moment.before.detach().requires_grad_()
            since = sequence_number()
            live, before, after = self._moved(moment, y)
        refuse_unknown([after, live], [y, *inputs], captured, since, "fn or apply")
        a = a if g_after is None else a + g_after
        pairs = [(after, a), (before, g_before), (live, g_t)]
        pairs = [(x, g) for x, g in pairs if x.requires_grad and g is not None]
        outputs, given = [x for x, _ in pairs], [g for _, g in pairs]
        got = torch.autograd.grad(outputs, [y, *inputs], given, allow_unused=True)
        return torch.zeros_like(y) if got[0] is None else got[0], list(got[1:])

    def _moved(self, moment: Moment, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The events' time and the states on both sides, as functions of the state in front of them at a fixed time."""
        events, plan = self.plan.events, self.plan
        assert events is not None

        def arrive(t: Scalar, end: Tensor, y: Tensor) -> Tensor:
            with torch.no_grad():
                slope = plan.stops.one_sided(plan.field, plan.t0, t, y)(t, y)
            return y + spread(end - t, y) * slope

        now = torch.as_tensor(moment.t, dtype=torch.float64, device=y.device)
        live = as_clock(events.live_time(moment.fired, arrive, moment.t, now, y))
        before = arrive(moment.t, live, y)
        return live, before, events.change(moment.fired, live, before) if any_true(moment.fired.changed) else before

    def _along(self, moment: Moment, a: Tensor, g_t: Tensor | None, integrands: Integrands) -> Tensor:
        """How the loss changes with the events' time, while the states on both sides of them do not."""
        plan, t = self.plan, moment.t
        slope = plan.stops.one_sided(plan.field, t, plan.t1, moment.after)(t, moment.after)
        product = (a.conj() * slope).real.to(torch.float64)
        behind = product.reshape(len(a), -1).sum(1) if plan.per_sample else product.sum()
        none = torch.zeros_like(behind)
        behind, front = (integrands.at_end(t, *side) for side in ((moment.after, behind), (moment.before, none)))
        rest = choose(negate(moment.fired.ends), behind, none)
        along = choose(moment.fired.mask, front - rest, none)
        return along if g_t is None else along + g_t
