"""neuralde: differential equations in PyTorch that know what they cost."""

from importlib.util import find_spec as _find_spec

if _find_spec("neuralde.solvers") is None:
    raise ImportError("this is neuralde's source tree, not an installed neuralde: run `make dev` or `pip install -e .`")

import neuralde.adjoints as adjoints
import neuralde.solvers as solvers
from neuralde.adjoints import *  # noqa: F403
from neuralde.adjoints import __all__ as _adjoints
from neuralde.solvers import *  # noqa: F403
from neuralde.solvers import __all__ as _solvers

from . import models, regularizers
from ._version import __version__
from .models import NeuralODE
from .solve import solve

__all__ = ["NeuralODE", "__version__", "adjoints", "models", "regularizers", "solve", "solvers"]
__all__ += [name for name in _adjoints if name not in ("check", "table")]  # nde.adjoints.table reads better
__all__ += _solvers
