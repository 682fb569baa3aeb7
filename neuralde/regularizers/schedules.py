"""Weights of regularizers that change while a model trains."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch

from neuralde.solvers import InvalidProblemError, Solution
from neuralde.solvers.checks import number


class Schedule(ABC):
    """A weight as a function of time, ``schedule(step) -> float``; what counts as a step, an epoch say, is free; the first is 0.

    When to take it:
        To write a schedule that is none of the library's: a call gives the weight, :meth:`observe` sees each solution.

    Example:
        >>> import neuralde as nde
        >>> class Halves(nde.regularizers.Schedule):
        ...     def __call__(self, step):
        ...         return 0.5**step
        >>> Halves()(3)
        0.125
    """

    @abstractmethod
    def __call__(self, step: float) -> float:
        """The weight at a step."""

    def observe(self, solution: Solution, step: float = 0) -> None:
        """Take in a training step's solution; :class:`Penalty` calls this. A weight that does not learn ignores it."""
        del solution, step

    def state_dict(self) -> dict[str, float | None]:
        """What a checkpoint must keep: nothing, for a weight that follows from the step."""
        return {}

    def load_state_dict(self, state: dict[str, float | None]) -> None:
        """Go on from a checkpoint."""
        del state


class Constant(Schedule):
    r"""The same weight at every step, :math:`\lambda(n) = \lambda_0`.

    Args:
        weight: the weight.

    Units:
        Those of the loss per those of the regularizer.

    Raises:
        InvalidProblemError: ``weight`` is no number, or below 0.

    When to take it:
        Written as a plain number in :class:`Penalty`; by its name where other code expects a schedule.

    Example:
        >>> Constant(0.1)(7)
        0.1
    """

    def __init__(self, weight: float) -> None:
        self.weight = _number(weight, "weight", 0.0)

    def __call__(self, step: float) -> float:
        """The weight."""
        return self.weight


class _Ramp(Schedule):
    """From one weight to another over so many steps, then constant."""

    def __init__(self, first: float, last: float, steps: float) -> None:
        self.first, self.last = _number(first, "first", self.least), _number(last, "last", self.least)
        self.steps = _number(steps, "steps", math.ulp(0.0))

    least = 0.0

    def _part(self, step: float) -> float:
        return min(max(step / self.steps, 0.0), 1.0)


class Exponential(_Ramp):
    r"""From ``first`` to ``last`` by the same factor at every step, :math:`\lambda_0 (\lambda_1 / \lambda_0)^{n / N}`.

    The schedule of Pal et al. (2021, by epoch, 100 to 10) and (2023, by step, 2.5 to 1).

    Args:
        first: the weight at step 0, positive.
        last: the weight from step ``steps`` on, positive.
        steps: how many steps (or epochs) it takes.

    Units:
        Weights in those of the loss per those of the regularizer; ``steps`` in what the call counts.

    Raises:
        InvalidProblemError: a weight is no positive number, or ``steps`` is none.

    When to take it:
        To begin strictly and let go, or the other way, over orders of magnitude; the papers' schedule. :class:`Cosine`
        where one end is 0; :class:`TargetNFE` where no weight is known.

    Example:
        >>> schedule = Exponential(100.0, 1.0, steps=10)
        >>> [round(schedule(step), 6) for step in (0, 5, 10, 99)]
        [100.0, 10.0, 1.0, 1.0]
    """

    least = math.ulp(0.0)

    def __call__(self, step: float) -> float:
        """The weight at a step."""
        return self.first * (self.last / self.first) ** self._part(step)


class Cosine(_Ramp):
    r"""From ``first`` to ``last`` along half a cosine, flat at both ends (Loshchilov, Hutter, SGDR, 2017).

    .. math:: \lambda(n) = \lambda_1 + \tfrac12 (\lambda_0 - \lambda_1) \bigl(1 + \cos(\pi \min(n / N, 1))\bigr)

    Args:
        first: the weight at step 0.
        last: the weight from step ``steps`` on.
        steps: how many steps (or epochs) it takes.

    Units:
        Weights in those of the loss per those of the regularizer; ``steps`` in what the call counts.

    Raises:
        InvalidProblemError: a weight is no number or below 0, or ``steps`` is not positive.

    When to take it:
        Where a weight ends at 0, or begins there: :class:`Exponential` cannot. :class:`Warmup` begins any other
        schedule.

    Example:
        >>> schedule = Cosine(2.0, 0.0, steps=10)
        >>> [round(schedule(step), 6) for step in (0, 5, 10, 99)]
        [2.0, 1.0, 0.0, 0.0]
    """

    def __call__(self, step: float) -> float:
        """The weight at a step."""
        return self.last + (self.first - self.last) * 0.5 * (1.0 + math.cos(math.pi * self._part(step)))


class Warmup(Schedule):
    r"""Another schedule, multiplied by a line from 0 to 1 over the first steps: the model learns its task first.

    .. math:: \lambda(n) = \lambda_{\text{schedule}}(n) \, \min\bigl(\max((n - n_0) / N, 0), 1\bigr)

    Args:
        schedule: the schedule (or a number). One that learns, a :class:`TargetNFE`, learns from ``start`` on.
        steps: how many steps (or epochs) the line takes.
        start: how many steps to wait before it begins, with weight 0.

    Units:
        ``steps`` and ``start`` in what the call counts.

    Raises:
        InvalidProblemError: ``steps`` is not positive, ``start`` below 0, or ``schedule`` no schedule and no weight.

    When to take it:
        Where a penalty from the first step on keeps the model from learning its task: a trivial field is the cheapest
        one.

    Example:
        >>> schedule = Warmup(Constant(8.0), steps=4, start=2)
        >>> [schedule(step) for step in (0, 2, 3, 6, 7)]
        [0.0, 0.0, 2.0, 8.0, 8.0]
    """

    def __init__(self, schedule: Schedule | float, steps: float, start: float = 0) -> None:
        self.schedule = as_schedule(schedule)
        self.steps, self.start = _number(steps, "steps", math.ulp(0.0)), _number(start, "start", 0.0)

    def __call__(self, step: float) -> float:
        """The weight at a step."""
        return self.schedule(step) * min(max((step - self.start) / self.steps, 0.0), 1.0)

    def observe(self, solution: Solution, step: float = 0) -> None:
        """Show the schedule a solution, once it has begun: what came before was nothing that it could have changed."""
        if step >= self.start:
            self.schedule.observe(solution, step)

    def state_dict(self) -> dict[str, float | None]:
        """What the schedule must keep."""
        return self.schedule.state_dict()

    def load_state_dict(self, state: dict[str, float | None]) -> None:
        """Go on from a checkpoint."""
        self.schedule.load_state_dict(state)


class TargetNFE(Schedule):
    r"""A weight that finds itself: it rises while solves cost more than a target, and falls while they cost less.

    .. math:: \log \lambda_n = \log \lambda_0 + k_I \sum_{m \le n} e_m + k_P e_n, \qquad
              e = \log(\overline{\text{nfe}} / \text{target})

    a proportional-integral controller of the logarithm of the weight, on a running mean of the counts. No weight
    has to be guessed, whose scale depends on the tolerance, the batch and the reduction: the target is in the units of
    what is wanted. Below the target nothing is paid for what is not needed. Use it through :class:`Penalty`, which shows it
    every solution; its value does not depend on ``step``.

    Args:
        target: the count to reach, 26 calls of the field say.
        first: the weight to begin with, positive.
        count: what is counted: ``"nfe"``, ``"steps"`` or ``"accepted"``; of several samples the mean. ``nfe`` contains
            the regularizer's own calls: with those that make some (``Local``, ``TaylorDerivative``,
            ``JacobianFrobenius``) count steps.
        integral: :math:`k_I`, how fast the weight adapts, for each training step.
        proportional: :math:`k_P`, which damps.
        memory: of how many training steps the running mean is.
        span: the weight stays within this factor of ``first``, either way.

    Units:
        ``target`` in calls of the field or steps; ``integral`` per training step; the weight in those of ``first``.

    Raises:
        InvalidProblemError: ``count`` is none of the three, or a number is outside its range.

    When to take it:
        Where a budget is known and no weight: another tolerance, batch or regularizer then needs no new search.
        :class:`Exponential` and :class:`Cosine` repeat a published schedule.

    Example:
        >>> import neuralde as nde
        >>> weight = nde.regularizers.TargetNFE(20, first=1.0)
        >>> for _ in range(50):
        ...     weight.observe_count(40)
        >>> dear = weight(0)
        >>> for _ in range(100):
        ...     weight.observe_count(10)
        >>> dear > 1.0 > weight(0)
        True
    """

    def __init__(
        self,
        target: float,
        *,
        first: float = 1.0,
        count: str = "nfe",
        integral: float = 0.2,
        proportional: float = 2.0,
        memory: float = 10.0,
        span: float = 1e4,
    ) -> None:
        if count not in ("nfe", "steps", "accepted"):
            raise InvalidProblemError(f'count: got {count!r}; expected "nfe", "steps" or "accepted"')
        self.target, self.first = _number(target, "target", 1.0), _number(first, "first", math.ulp(0.0))
        self.count, self.memory = count, _number(memory, "memory", 1.0)
        self.integral, self.proportional = (
            _number(integral, "integral", 0.0),
            _number(proportional, "proportional", 0.0),
        )
        self.limit = math.log(_number(span, "span", 1.0))
        self.mean: float | None = None
        self.sum = 0.0

    @property
    def error(self) -> float:
        """The logarithm of the running mean over the target; 0 before the first observation."""
        return 0.0 if self.mean is None else math.log(max(self.mean, 1e-9) / self.target)

    def __call__(self, step: float = 0) -> float:
        """The weight now."""
        exponent = self.sum + self.proportional * self.error
        return self.first * math.exp(min(max(exponent, -self.limit), self.limit))

    def observe(self, solution: Solution, step: float = 0) -> None:
        """Take in a training step's solution."""
        del step
        self.observe_count(float(torch.as_tensor(getattr(solution.stats, self.count)).double().mean()))

    def observe_count(self, count: float) -> None:
        """Take in a count."""
        self.mean = count if self.mean is None else self.mean + (count - self.mean) / self.memory
        # A sum that ran away while the weight stood at its limit would take as long to come back.
        self.sum = min(max(self.sum + self.integral * self.error, -self.limit), self.limit)

    def state_dict(self) -> dict[str, float | None]:
        """What a checkpoint must keep."""
        return {"mean": self.mean, "sum": self.sum}

    def load_state_dict(self, state: dict[str, float | None]) -> None:
        """Go on from a checkpoint."""
        total = state["sum"]
        assert total is not None
        self.mean, self.sum = state["mean"], total


def as_schedule(weight: Any) -> Schedule:
    """A schedule as it is, or one for a number."""
    return weight if isinstance(weight, Schedule) else Constant(weight)


def _number(value: Any, name: str, least: float) -> float:
    limit = "positive" if 0.0 < least < 1e-300 else f"{least:g} or more"
    return number(value, name, f"a number, {limit}", least=least)
