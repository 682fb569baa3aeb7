"""The solver's cost as a term of the training loss."""

from .base import Regularizer, StepReduction
from .estimates import ErrorEstimate, StiffnessEstimate
from .local import Local
from .running import RunningCost
from .steer import STEER

__all__ = ["STEER", "ErrorEstimate", "Local", "Regularizer", "RunningCost", "StepReduction", "StiffnessEstimate"]
