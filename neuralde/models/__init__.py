"""Networks that hold a differential equation and its solve."""

from .cde import MatrixField, NeuralCDE, NeuralRDE
from .encoders import CDEEncoder, MaskedGRU
from .fractional import FractionalSDE, HurstIndex
from .fractional_latent import FractionalLatentPath, FractionalLatentSDE
from .koopman_vae import KoopmanVAE
from .latent_ode import LatentField, LatentODE, LatentSeries
from .latent_sde import LatentPath, LatentSDE
from .linear_cde import LinearField, LinearNeuralCDE
from .ode import NeuralODE, TimeConditionedMLP
from .sde import NeuralSDE
from .sde_gan import SDEGAN, CDECritic, SDEGenerator
from .streaming import CDEStream

__all__ = [
    "SDEGAN",
    "CDECritic",
    "CDEEncoder",
    "CDEStream",
    "FractionalLatentPath",
    "FractionalLatentSDE",
    "FractionalSDE",
    "HurstIndex",
    "KoopmanVAE",
    "LatentField",
    "LatentODE",
    "LatentPath",
    "LatentSDE",
    "LatentSeries",
    "LinearField",
    "LinearNeuralCDE",
    "MaskedGRU",
    "MatrixField",
    "NeuralCDE",
    "NeuralODE",
    "NeuralRDE",
    "NeuralSDE",
    "SDEGenerator",
    "TimeConditionedMLP",
]
