"""neuralde: differential equations in PyTorch that know what they cost."""

from neuralde._version import __version__

__all__ = ["__version__"]
