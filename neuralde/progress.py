"""A progress bar for one solve."""

from __future__ import annotations

import torch

from neuralde.solvers import InvalidProblemError
from neuralde.solvers.core.scalars import as_clock
from neuralde.solvers.stepping.attempt import Carry, Plan, Trial


class ProgressBar:
    """Shows how far the slowest lane has come; a listener of the loop (needs tqdm)."""

    def __init__(self) -> None:
        try:
            from tqdm.auto import tqdm
        except ImportError:
            raise InvalidProblemError(
                "progress: got True without tqdm; expected `pip install tqdm`, or False"
            ) from None
        self.bar = tqdm(total=1.0, bar_format="{l_bar}{bar}| {elapsed}{postfix}")

    def __call__(self, plan: Plan, carry: Carry, trial: Trial) -> None:
        """Move the bar."""
        done = as_clock((carry.t - plan.t0) / (plan.t1 - plan.t0)).nan_to_num(1.0)
        self.bar.n = float(done.min())
        self.bar.set_postfix(steps=int(torch.as_tensor(carry.steps).max()) + 1, refresh=False)
        self.bar.update(0.0)

    def close(self, done: bool) -> None:
        """Leave the bar on the screen."""
        self.bar.n = 1.0 if done else self.bar.n
        self.bar.refresh()
        self.bar.close()
