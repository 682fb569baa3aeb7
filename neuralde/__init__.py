"""neuralde: differential equations in PyTorch that know what they cost."""

from importlib.util import find_spec as _find_spec

if _find_spec("neuralde.solvers") is None:
    raise ImportError("this is neuralde's source tree, not an installed neuralde: run `make dev` or `pip install -e .`")

from ._version import __version__

__all__ = ["__version__"]
