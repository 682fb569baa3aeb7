"""What solves cost, shown while a model trains."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

from neuralde.solvers import InvalidProblemError
from neuralde.solvers.checks import integer

from .record import CostRecorder


class CostLogger:
    """Sums the cost of the solves between two calls of :meth:`step` and hands it to a function.

    Args:
        log: receives a dictionary of numbers and the step's number, from 0: ``solver/solves``, ``solver/nfe``,
            ``solver/steps``, ``solver/accepted``, ``solver/rejected`` (sums) and ``solver/max_error``,
            ``solver/max_stiffness``, ``solver/steps_per_time`` (maxima), where the method has them.
        every: hand over at every so many steps; the numbers are then those of all steps since.
        prefix: what stands before the names.

    Raises:
        InvalidProblemError: ``log`` is not callable, or ``every`` no positive int.

    When to take it:
        To plot the solver's cost beside the loss, with any training loop; :func:`lightning_callback` does it for
        Lightning.

    Example:
        >>> import torch, neuralde as nde
        >>> model = nde.NeuralODE(nde.models.TimeConditionedMLP(2, hidden=[8]))
        >>> seen = []
        >>> with nde.testing.CostLogger(lambda metrics, step: seen.append(metrics)) as logger:
        ...     for _ in range(3):
        ...         states, sol = model(torch.zeros(4, 2))
        ...         logger.step()
        >>> len(seen), seen[-1]["solver/nfe"] == model.stats.nfe
        (3, True)
    """

    def __init__(self, log: Callable[[dict[str, float], int], Any], *, every: int = 1, prefix: str = "solver/") -> None:
        if not callable(log):
            raise InvalidProblemError(
                f"log: got {type(log).__name__}; expected a function of a dictionary and a number"
            )
        self.log, self.every, self.prefix = log, integer(every, "every"), prefix
        self.recorder, self.steps = CostRecorder(), 0

    def __enter__(self) -> CostLogger:
        self.recorder.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.recorder.__exit__(kind, error, trace)

    def step(self) -> None:
        """A training step is over."""
        self.steps += 1
        if self.steps % self.every == 0:
            self.log(self.take(), self.steps - 1)

    def take(self) -> dict[str, float]:
        """The numbers since they were last taken, and begin anew."""
        metrics = {self.prefix + name: value for name, value in self.recorder.metrics.items()}
        self.recorder.solves.clear()
        return metrics


def lightning_callback(*, prefix: str = "solver/", progress_bar: bool = False) -> Any:
    """A callback for Lightning's ``Trainer`` that logs what the solves of every training and validation batch cost.

    Args:
        prefix: what stands before the names, those of :class:`CostLogger`; in validation ``val_`` before that.
        progress_bar: show the field calls in the progress bar.

    Returns:
        A ``lightning.pytorch.Callback``.

    Raises:
        InvalidProblemError: Lightning is not installed.

    Usage: ``Trainer(callbacks=[neuralde.testing.lightning_callback()])``.

    When to take it:
        With Lightning; :class:`CostLogger` with any other loop.

    Example:
        >>> import neuralde as nde
        >>> try:
        ...     callbacks = [nde.testing.lightning_callback(progress_bar=True)]  # for Trainer(callbacks=...)
        ... except nde.InvalidProblemError:
        ...     callbacks = []  # Lightning is not installed
    """
    try:
        from lightning.pytorch import Callback
    except ImportError:
        raise InvalidProblemError(
            "lightning_callback: Lightning is not installed; expected `pip install lightning`, or CostLogger, which "
            "needs nothing"
        ) from None

    class SolverCostCallback(Callback):
        """Logs the counts of each batch."""

        def __init__(self) -> None:
            super().__init__()
            self.recorder = CostRecorder()

        def _begin(self) -> None:
            self.recorder = CostRecorder()
            self.recorder.__enter__()

        def _end(self, module: Any, stage: str) -> None:
            self.recorder.__exit__()
            for name, value in self.recorder.metrics.items():
                module.log(f"{stage}{prefix}{name}", value, prog_bar=progress_bar and name == "nfe")

        def on_train_batch_start(self, trainer: Any, pl_module: Any, *rest: Any, **more: Any) -> None:
            """A batch begins."""
            self._begin()

        def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: Any, **more: Any) -> None:
            """A batch is over."""
            self._end(pl_module, "")

        def on_validation_batch_start(self, trainer: Any, pl_module: Any, *rest: Any, **more: Any) -> None:
            """A batch begins."""
            self._begin()

        def on_validation_batch_end(self, trainer: Any, pl_module: Any, *rest: Any, **more: Any) -> None:
            """A batch is over."""
            self._end(pl_module, "val_")

        def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
            """Stop listening: the batch will not end."""
            self.recorder.__exit__()

    return SolverCostCallback()
