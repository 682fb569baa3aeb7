"""The solver's cost as a term of the training loss."""

from .base import Regularizer, StepReduction
from .estimates import ErrorEstimate, StiffnessEstimate
from .integrals import JacobianFrobenius, KineticEnergy, TaylorDerivative
from .local import Local
from .penalty import Penalty
from .running import RunningCost
from .schedules import Constant, Cosine, Exponential, Schedule, TargetNFE, Warmup
from .steer import STEER
from .step_count import StepCount

__all__ = [
    "STEER",
    "Constant",
    "Cosine",
    "ErrorEstimate",
    "Exponential",
    "JacobianFrobenius",
    "KineticEnergy",
    "Local",
    "Penalty",
    "Regularizer",
    "RunningCost",
    "Schedule",
    "StepCount",
    "StepReduction",
    "StiffnessEstimate",
    "TargetNFE",
    "TaylorDerivative",
    "Warmup",
]
