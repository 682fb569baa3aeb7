"""Everything that ``import neuralde`` offers."""

import neuralde.adjoints as adjoints
import neuralde.solvers as solvers
from neuralde.adjoints import *  # noqa: F403
from neuralde.adjoints import __all__ as _adjoints
from neuralde.solvers import *  # noqa: F403
from neuralde.solvers import __all__ as _solvers

from . import data, koopman, models, regularizers, testing
from ._version import __version__
from .ensemble import EnsembleSolution, solve_ensemble
from .models import (
    SDEGAN,
    FractionalSDE,
    KoopmanVAE,
    LatentODE,
    LatentSDE,
    LinearNeuralCDE,
    NeuralCDE,
    NeuralODE,
    NeuralRDE,
    NeuralSDE,
)
from .regularizers import RunningCost
from .solving import solve

__all__ = [
    "SDEGAN",
    "EnsembleSolution",
    "FractionalSDE",
    "KoopmanVAE",
    "LatentODE",
    "LatentSDE",
    "LinearNeuralCDE",
    "NeuralCDE",
    "NeuralODE",
    "NeuralRDE",
    "NeuralSDE",
    "RunningCost",
    "__version__",
    "adjoints",
    "data",
    "koopman",
    "models",
    "regularizers",
    "solve",
    "solve_ensemble",
    "solvers",
    "testing",
]
__all__ += [name for name in _adjoints if name != "table"]  # nde.adjoints.table reads better
__all__ += _solvers
