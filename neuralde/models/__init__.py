"""Networks that hold a differential equation and its solve."""

from .latent_sde import LatentPath, LatentSDE
from .ode import NeuralODE, TimeConditionedMLP
from .sde import NeuralSDE

__all__ = ["LatentPath", "LatentSDE", "NeuralODE", "NeuralSDE", "TimeConditionedMLP"]
