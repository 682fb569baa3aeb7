"""The ways of training that the experiments compare."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ...regularizers import STEER, ErrorEstimate, Exponential, Local, Regularizer, StiffnessEstimate


@dataclass(frozen=True)
class Term:
    """A regularizer and its weight, annealed exponentially from ``first`` to ``last`` over the epochs."""

    make: Callable[[], Regularizer]
    first: float
    last: float

    def weight(self, epoch: int, epochs: int) -> float:
        """The weight during an epoch (counted from 0), as in Pal et al. (2021)."""
        return Exponential(self.first, self.last, epochs)(epoch) if self.first else 0.0


_ERROR = Term(ErrorEstimate, 10.0, 1.0)
_STEER = Term(lambda: STEER(b=0.25), 0.0, 0.0)

ARMS: dict[str, tuple[Term, ...]] = {
    "vanilla": (),
    "error": (_ERROR,),
    "stiffness": (Term(StiffnessEstimate, 0.1, 0.1),),
    "local-unbiased": (Term(lambda: Local(h="solver", sampling="unbiased"), 10.0, 1.0),),
    "local-biased": (Term(lambda: Local(h="solver", sampling="biased"), 10.0, 1.0),),
    "steer": (_STEER,),
    "steer+error": (_STEER, _ERROR),
}
