"""Networks that hold a differential equation and its solve."""

from .ode import NeuralODE, TimeConditionedMLP

__all__ = ["NeuralODE", "TimeConditionedMLP"]
