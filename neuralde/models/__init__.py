"""Networks that hold a differential equation and its solve."""

from .cde import MatrixField, NeuralCDE, NeuralRDE
from .encoders import MaskedGRU
from .latent_ode import LatentField, LatentODE, LatentSeries
from .latent_sde import LatentPath, LatentSDE
from .ode import NeuralODE, TimeConditionedMLP
from .sde import NeuralSDE
from .sde_gan import SDEGAN, CDECritic, SDEGenerator

__all__ = [
    "SDEGAN",
    "CDECritic",
    "LatentField",
    "LatentODE",
    "LatentPath",
    "LatentSDE",
    "LatentSeries",
    "MaskedGRU",
    "MatrixField",
    "NeuralCDE",
    "NeuralODE",
    "NeuralRDE",
    "NeuralSDE",
    "SDEGenerator",
    "TimeConditionedMLP",
]
